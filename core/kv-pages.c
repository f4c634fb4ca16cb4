/* Page numbers, tables and rings: see kv-pages.h. */
#include "kv-pages.h"

#include <stdlib.h>
#include <string.h>

struct page_class {
    struct sharpi_kv_class shape;
    int32_t *free_pages; /* stack */
    uint32_t n_free;
};

struct sharpi_kv_pages {
    uint32_t n_classes, max_seqs;
    struct page_class *classes;
    uint8_t *slot_used; /* [max_seqs] */
};

struct sharpi_kv_seq {
    struct sharpi_kv_pages *pages;
    uint32_t slot;
    uint32_t length;
    uint32_t written; /* one past the highest position ever stored: what a ring's slots may hold */
    int32_t **tables; /* [n_classes] of [ring / page] */
};

uint32_t sharpi_kv_ring(uint32_t context, uint32_t window, uint32_t headroom)
{
    uint64_t ring = context;
    if (window && (uint64_t)window + headroom < ring)
        ring = (uint64_t)window + headroom;
    ring = (ring + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE * SHARPI_KV_PAGE;
    return (uint32_t)ring;
}

int32_t sharpi_kv_classes(const struct sharpi_model_desc *desc, uint32_t context, uint32_t headroom,
                          uint32_t max_seqs, struct sharpi_kv_class **classes, uint32_t *n_classes,
                          uint32_t *class_of, struct sharpi_error *err)
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
            uint64_t n_pages = (uint64_t)(ring / SHARPI_KV_PAGE) * max_seqs;
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

int32_t sharpi_kv_pages_create(const struct sharpi_kv_class *classes, uint32_t n_classes, uint32_t max_seqs,
                               struct sharpi_kv_pages **out, struct sharpi_error *err)
{
    struct sharpi_kv_pages *pages = calloc(1, sizeof *pages);
    uint32_t c, i;
    if (!pages)
        goto no_memory;
    pages->max_seqs = max_seqs;
    pages->slot_used = calloc(max_seqs, 1);
    pages->classes = calloc(n_classes, sizeof *pages->classes);
    if (!pages->slot_used || !pages->classes)
        goto no_memory;
    pages->n_classes = n_classes;
    for (c = 0; c < n_classes; c++) {
        struct page_class *class = &pages->classes[c];
        class->shape = classes[c];
        class->free_pages = malloc(classes[c].n_pages * sizeof *class->free_pages);
        if (!class->free_pages)
            goto no_memory;
        for (i = 0; i < classes[c].n_pages; i++) /* page 0 on top */
            class->free_pages[i] = (int32_t)(classes[c].n_pages - 1 - i);
        class->n_free = classes[c].n_pages;
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
    for (c = 0; c < pages->n_classes; c++)
        free(pages->classes[c].free_pages);
    free(pages->classes);
    free(pages->slot_used);
    free(pages);
}

uint32_t sharpi_kv_pages_free(const struct sharpi_kv_pages *pages, uint32_t class_index)
{
    return pages->classes[class_index].n_free;
}

/* ---- Sequences */

int32_t sharpi_kv_seq_create(struct sharpi_kv_pages *pages, struct sharpi_kv_seq **out,
                             struct sharpi_error *err)
{
    struct sharpi_kv_seq *seq;
    uint32_t slot, c, i;
    for (slot = 0; slot < pages->max_seqs && pages->slot_used[slot]; slot++)
        ;
    if (slot == pages->max_seqs)
        return sharpi_fail(err, SHARPI_EFULL,
                           "all %u sequences of the model are in use; free one or load the model "
                           "with more (max_sessions)",
                           pages->max_seqs);
    seq = calloc(1, sizeof *seq);
    if (!seq)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a sequence");
    seq->pages = pages;
    seq->slot = slot;
    pages->slot_used[slot] = 1;
    seq->tables = calloc(pages->n_classes, sizeof *seq->tables);
    for (c = 0; seq->tables && c < pages->n_classes; c++) {
        uint32_t n = pages->classes[c].shape.ring / SHARPI_KV_PAGE;
        seq->tables[c] = malloc(n * sizeof **seq->tables);
        if (!seq->tables[c])
            break;
        for (i = 0; i < n; i++)
            seq->tables[c][i] = -1;
    }
    if (!seq->tables || c < pages->n_classes) {
        sharpi_kv_seq_destroy(seq);
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a sequence's page tables");
    }
    *out = seq;
    return SHARPI_OK;
}

static void give_back(struct page_class *class, int32_t *entry)
{
    if (*entry >= 0)
        class->free_pages[class->n_free++] = *entry;
    *entry = -1;
}

void sharpi_kv_seq_destroy(struct sharpi_kv_seq *seq)
{
    uint32_t c, i;
    if (!seq)
        return;
    for (c = 0; seq->tables && c < seq->pages->n_classes && seq->tables[c]; c++) {
        for (i = 0; i < seq->pages->classes[c].shape.ring / SHARPI_KV_PAGE; i++)
            give_back(&seq->pages->classes[c], &seq->tables[c][i]);
        free(seq->tables[c]);
    }
    free(seq->tables);
    seq->pages->slot_used[seq->slot] = 0;
    free(seq);
}

uint32_t sharpi_kv_seq_slot(const struct sharpi_kv_seq *seq)
{
    return seq->slot;
}

uint32_t sharpi_kv_seq_length(const struct sharpi_kv_seq *seq)
{
    return seq->length;
}

const int32_t *sharpi_kv_seq_table(const struct sharpi_kv_seq *seq, uint32_t class_index)
{
    return seq->tables[class_index];
}

/* Pages of the class that positions [from, to) need and the table does not hold; takes them when `take`. A step never
 * covers a table entry twice, but for its first one, which is held then. */
static uint32_t missing_pages(struct sharpi_kv_seq *seq, uint32_t c, uint32_t from, uint32_t to,
                              uint32_t take)
{
    struct page_class *class = &seq->pages->classes[c];
    uint32_t n_entries = class->shape.ring / SHARPI_KV_PAGE, missing = 0;
    uint64_t first = from / SHARPI_KV_PAGE, page;
    for (page = first; page * SHARPI_KV_PAGE < to && page - first < n_entries; page++) {
        int32_t *entry = &seq->tables[c][page % n_entries];
        if (*entry >= 0)
            continue;
        missing++;
        if (take)
            *entry = class->free_pages[--class->n_free];
    }
    return missing;
}

int32_t sharpi_kv_seq_extend(struct sharpi_kv_seq *seq, uint32_t n, struct sharpi_error *err)
{
    uint32_t to = seq->length + n, c;
    for (c = 0; c < seq->pages->n_classes; c++) {
        struct page_class *class = &seq->pages->classes[c];
        const struct sharpi_kv_class *shape = &class->shape;
        uint32_t missing;
        if (!shape->window && to > shape->ring)
            return sharpi_fail(err, SHARPI_EFULL,
                               "%u positions do not fit the context of %u; load with a larger context", to,
                               shape->ring);
        if (shape->window && to > shape->ring && shape->window + n - 1 > shape->ring)
            return sharpi_fail(err, SHARPI_EBUG,
                               "a step of %u tokens does not fit a ring of %u positions for window %u", n,
                               shape->ring, shape->window);
        missing = missing_pages(seq, c, seq->length, to, 0);
        if (missing > class->n_free)
            return sharpi_fail(err, SHARPI_EFULL, "%u KV pages are needed and %u are free", missing,
                               class->n_free);
    }
    for (c = 0; c < seq->pages->n_classes; c++)
        missing_pages(seq, c, seq->length, to, 1);
    seq->length = to;
    if (to > seq->written)
        seq->written = to;
    return SHARPI_OK;
}

/* Whether every ring still holds the positions that a token at `length` looks at. */
static int32_t window_is_held(const struct sharpi_kv_seq *seq, uint32_t length, uint32_t *window)
{
    uint32_t c;
    for (c = 0; c < seq->pages->n_classes; c++) {
        const struct sharpi_kv_class *shape = &seq->pages->classes[c].shape;
        uint32_t lowest = shape->window && length >= shape->window ? length - shape->window + 1 : 0;
        uint32_t held = seq->written > shape->ring ? seq->written - shape->ring : 0;
        if (length > 0 && lowest < held && lowest < length) {
            *window = shape->window;
            return 0;
        }
    }
    return 1;
}

static void cut(struct sharpi_kv_seq *seq, uint32_t length)
{
    uint32_t c, i;
    for (c = 0; c < seq->pages->n_classes; c++) {
        struct page_class *class = &seq->pages->classes[c];
        uint32_t n_entries = class->shape.ring / SHARPI_KV_PAGE;
        uint32_t keep = (uint32_t)(((uint64_t)length + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE);
        if (length && seq->written > class->shape.ring)
            continue; /* a wrapped ring is held whole */
        for (i = keep; i < n_entries; i++)
            give_back(class, &seq->tables[c][i]);
    }
    seq->length = length;
    if (length == 0)
        seq->written = 0;
}

int32_t sharpi_kv_seq_truncate(struct sharpi_kv_seq *seq, uint32_t length, struct sharpi_error *err)
{
    uint32_t window;
    if (length > seq->length)
        return sharpi_fail(err, SHARPI_EINVAL, "cannot cut a sequence of %u positions to %u", seq->length,
                           length);
    if (!window_is_held(seq, length, &window))
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "cannot go back to position %u: the ring of window %u has been overwritten up to position %u; "
            "start again from 0, or load with a larger headroom",
            length, window, seq->written);
    cut(seq, length);
    return SHARPI_OK;
}

uint32_t sharpi_kv_seq_rollback(struct sharpi_kv_seq *seq, uint32_t length)
{
    uint32_t window;
    cut(seq, window_is_held(seq, length, &window) ? length : 0);
    return seq->length;
}
