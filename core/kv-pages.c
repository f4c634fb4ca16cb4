/* Classes and the pool of pages with its references: see kv-pages.h. */
#include "kv-pages-internal.h"

#include <stdlib.h>
#include <string.h>

uint32_t sharpi_kv_ring(uint32_t context, uint32_t window, uint32_t headroom)
{
    uint64_t ring = context;
    if (window && (uint64_t)window + headroom < ring)
        ring = (uint64_t)window + headroom;
    ring = (ring + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE * SHARPI_KV_PAGE;
    return (uint32_t)ring;
}

/* A sequence of any length must be able to run alone. */
static uint64_t pages_of_class(uint32_t ring_pages, uint32_t max_seqs, uint32_t pool)
{
    const uint64_t all = (uint64_t)ring_pages * max_seqs;
    const uint64_t wanted = ((uint64_t)pool + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE;
    if (!pool || wanted >= all)
        return all;
    return wanted < ring_pages ? ring_pages : wanted;
}

int32_t sharpi_kv_classes(const struct sharpi_model_desc *desc, uint32_t context, uint32_t headroom,
                          uint32_t max_seqs, uint32_t pool, struct sharpi_kv_class **classes,
                          uint32_t *n_classes, uint32_t *class_of, struct sharpi_error *err)
{
    struct sharpi_kv_class *list = calloc(desc->n_layers, sizeof *list);
    uint32_t layer, c, n = 0;
    if (!list)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for KV classes of %u layers", desc->n_layers);
    for (layer = 0; layer < desc->n_layers; layer++) {
        const struct sharpi_layer_desc *l = &desc->layers[layer];
        if (l->kv_source >= 0) {
            class_of[layer] = class_of[l->kv_source];
            continue;
        }
        for (c = 0; c < n && list[c].window != l->window; c++)
            ;
        if (c == n) {
            uint32_t ring = sharpi_kv_ring(context, l->window, headroom);
            uint64_t n_pages = pages_of_class(ring / SHARPI_KV_PAGE, max_seqs, pool);
            if (n_pages > INT32_MAX) {
                free(list);
                return sharpi_fail(err, SHARPI_EINVAL, "a context of %u for %u sequences is too much",
                                   context, max_seqs);
            }
            list[n++] =
                (struct sharpi_kv_class){.window = l->window, .ring = ring, .n_pages = (uint32_t)n_pages};
        }
        class_of[layer] = c;
    }
    *classes = list;
    *n_classes = n;
    return SHARPI_OK;
}

uint32_t sharpi_kv_first_page(const struct sharpi_kv_class *shape, uint32_t length)
{
    return shape->window && length >= shape->window ? (length - shape->window + 1) / SHARPI_KV_PAGE : 0;
}

/* ---- The pool */

static int32_t init_class(struct page_class *class, const struct sharpi_kv_class *shape)
{
    uint32_t i;
    class->shape = *shape;
    class->n_entries = shape->ring / SHARPI_KV_PAGE;
    class->free_pages = malloc(shape->n_pages * sizeof *class->free_pages);
    class->pages = calloc(shape->n_pages, sizeof *class->pages);
    if (!class->free_pages || !class->pages)
        return -1;
    for (i = 0; i < shape->n_pages; i++) /* page 0 on top */
        class->free_pages[i] = (int32_t)(shape->n_pages - 1 - i);
    class->n_free = class->limit = shape->n_pages;
    return 0;
}

int32_t sharpi_kv_pages_create(const struct sharpi_kv_class *classes, uint32_t n_classes, uint32_t max_seqs,
                               struct sharpi_kv_pages **out, struct sharpi_error *err)
{
    struct sharpi_kv_pages *pages = calloc(1, sizeof *pages);
    uint32_t c;
    if (!pages)
        goto no_memory;
    pages->max_seqs = max_seqs;
    pages->seqs = calloc(max_seqs, sizeof *pages->seqs);
    pages->classes = calloc(n_classes, sizeof *pages->classes);
    if (!pages->seqs || !pages->classes)
        goto no_memory;
    pages->n_classes = n_classes;
    for (c = 0; c < n_classes; c++) {
        if (init_class(&pages->classes[c], &classes[c]))
            goto no_memory;
    }
    *out = pages;
    return SHARPI_OK;
no_memory:
    sharpi_kv_pages_destroy(pages);
    return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the KV page tables");
}

void sharpi_kv_pages_destroy(struct sharpi_kv_pages *pages)
{
    uint32_t c;
    if (!pages)
        return;
    for (c = 0; c < pages->n_classes; c++) {
        free(pages->classes[c].free_pages);
        free(pages->classes[c].pages);
    }
    free(pages->classes);
    free(pages->seqs);
    free(pages);
}

static uint32_t used(const struct page_class *class)
{
    return class->shape.n_pages - class->n_free;
}

uint32_t sharpi_kv_pages_free(const struct sharpi_kv_pages *pages, uint32_t class_index)
{
    const struct page_class *class = &pages->classes[class_index];
    return class->limit > used(class) ? class->limit - used(class) : 0;
}

uint32_t sharpi_kv_pages_n_classes(const struct sharpi_kv_pages *pages)
{
    return pages->n_classes;
}

const struct sharpi_kv_class *sharpi_kv_pages_class(const struct sharpi_kv_pages *pages, uint32_t class_index)
{
    return &pages->classes[class_index].shape;
}

void sharpi_kv_pages_count(const struct sharpi_kv_pages *pages, uint32_t class_index,
                           struct sharpi_kv_counts *counts)
{
    const struct page_class *class = &pages->classes[class_index];
    *counts = (struct sharpi_kv_counts){.n_pages = class->limit,
                                        .free = sharpi_kv_pages_free(pages, class_index),
                                        .active = class->active,
                                        .shared = class->shared,
                                        .cached = class->cached,
                                        .held = class->held};
}

uint32_t sharpi_kv_pages_most(const struct sharpi_kv_pages *pages, uint32_t class_index)
{
    return pages->classes[class_index].limit;
}

void sharpi_kv_pages_limit(struct sharpi_kv_pages *pages, uint32_t n)
{
    uint32_t c;
    for (c = 0; c < pages->n_classes; c++) {
        uint32_t all = pages->classes[c].shape.n_pages;
        pages->classes[c].limit = n && n < all ? n : all;
    }
}

void sharpi_kv_pages_set_hooks(struct sharpi_kv_pages *pages, const struct sharpi_kv_hooks *hooks)
{
    pages->hooks = hooks ? *hooks : (struct sharpi_kv_hooks){.user = NULL};
}

uint64_t sharpi_kv_pages_copies(const struct sharpi_kv_pages *pages)
{
    return pages->copies;
}

/* ---- References */

int32_t pool_take(struct sharpi_kv_pages *pages, uint32_t c, int32_t even_kept)
{
    struct page_class *class = &pages->classes[c];
    while (!sharpi_kv_pages_free(pages, c)) {
        if (!pages->hooks.reclaim || !pages->hooks.reclaim(pages->hooks.user, c, even_kept))
            return -1;
    }
    return class->free_pages[--class->n_free];
}

static void free_if_unheld(struct page_class *class, int32_t page)
{
    if (!class->pages[page].seqs && !class->pages[page].cached)
        class->free_pages[class->n_free++] = page;
}

void pool_add_seq(struct sharpi_kv_pages *pages, uint32_t c, int32_t page)
{
    struct page_class *class = &pages->classes[c];
    struct page *p = &class->pages[page];
    if (p->seqs == 0) {
        class->active++;
        class->cached -= p->cached;
    }
    class->shared += p->seqs == 1;
    p->seqs++;
}

void pool_drop_seq(struct sharpi_kv_pages *pages, uint32_t c, int32_t page)
{
    struct page_class *class = &pages->classes[c];
    struct page *p = &class->pages[page];
    if (p->seqs == 0) { /* a bug of ours: keep the page out of use rather than hand it out twice */
        pages->broken++;
        return;
    }
    p->seqs--;
    class->shared -= p->seqs == 1;
    if (p->seqs == 0) {
        class->active--;
        class->cached += p->cached;
        free_if_unheld(class, page);
    }
}

int32_t sharpi_kv_page_hold(struct sharpi_kv_pages *pages, uint32_t class_index, int32_t page)
{
    struct page_class *class = &pages->classes[class_index];
    struct page *p = &class->pages[page];
    if (p->cached)
        return 0;
    p->cached = 1;
    class->held++;
    class->cached += p->seqs == 0;
    return 1;
}

void sharpi_kv_page_unhold(struct sharpi_kv_pages *pages, uint32_t class_index, int32_t page)
{
    struct page_class *class = &pages->classes[class_index];
    struct page *p = &class->pages[page];
    if (!p->cached) {
        pages->broken++;
        return;
    }
    p->cached = 0;
    class->held--;
    class->cached -= p->seqs == 0;
    free_if_unheld(class, page);
}

int32_t sharpi_kv_page_take(struct sharpi_kv_pages *pages, uint32_t class_index)
{
    int32_t page = pool_take(pages, class_index, 1);
    if (page >= 0)
        sharpi_kv_page_hold(pages, class_index, page);
    return page;
}

uint32_t sharpi_kv_page_seqs(const struct sharpi_kv_pages *pages, uint32_t class_index, int32_t page)
{
    return pages->classes[class_index].pages[page].seqs;
}

/* ---- The accounts */

static void recount(struct sharpi_kv_pages *pages, uint32_t c)
{
    struct page_class *class = &pages->classes[c];
    uint32_t s, i;
    for (i = 0; i < class->shape.n_pages; i++)
        class->pages[i].recount = 0;
    for (s = 0; s < pages->max_seqs; s++) {
        const struct sharpi_kv_seq *seq = pages->seqs[s];
        for (i = 0; seq && i < class->n_entries; i++) {
            if (seq->classes[c].table[i] >= 0)
                class->pages[seq->classes[c].table[i]].recount++;
        }
    }
}

static int32_t check_class(struct sharpi_kv_pages *pages, uint32_t c, struct sharpi_error *err)
{
    struct page_class *class = &pages->classes[c];
    struct sharpi_kv_counts sum = {.free = 0};
    uint32_t i;
    recount(pages, c);
    for (i = 0; i < class->shape.n_pages; i++) {
        const struct page *p = &class->pages[i];
        if (p->seqs != p->recount)
            return sharpi_fail(err, SHARPI_EBUG, "KV page %u of window %u counts %u sequences and %u hold it",
                               i, class->shape.window, p->seqs, p->recount);
        sum.free += !p->seqs && !p->cached;
        sum.active += p->seqs > 0;
        sum.shared += p->seqs > 1;
        sum.cached += !p->seqs && p->cached;
        sum.held += p->cached;
    }
    if (sum.free != class->n_free || sum.active != class->active || sum.shared != class->shared ||
        sum.cached != class->cached || sum.held != class->held)
        return sharpi_fail(
            err, SHARPI_EBUG,
            "KV pages of window %u: %u free, %u active, %u shared, %u cached; the accounts say "
            "%u, %u, %u, %u",
            class->shape.window, sum.free, sum.active, sum.shared, sum.cached, class->n_free, class->active,
            class->shared, class->cached);
    return SHARPI_OK;
}

int32_t sharpi_kv_pages_check(struct sharpi_kv_pages *pages, struct sharpi_error *err)
{
    uint32_t c;
    int32_t status = SHARPI_OK;
    if (pages->broken)
        return sharpi_fail(err, SHARPI_EBUG, "KV pages were released %u times too often", pages->broken);
    for (c = 0; c < pages->n_classes && !status; c++)
        status = check_class(pages, c, err);
    return status;
}
