/* Tables of page numbers, rings, and copies before shared pages are written: see kv-pages.h.
 *
 * Slot i of a ring's table holds the newest logical page (position / SHARPI_KV_PAGE) that is i modulo the table's length. Its
 * upper rows may still be those of the page one round earlier; held_from says down to which position all is intact.
 */
#include "kv-pages-internal.h"

#include <stdlib.h>
#include <string.h>

int32_t sharpi_kv_seq_create(struct sharpi_kv_pages *pages, struct sharpi_kv_seq **out,
                             struct sharpi_error *err)
{
    struct sharpi_kv_seq *seq;
    uint32_t slot, c, i;
    for (slot = 0; slot < pages->max_seqs && pages->seqs[slot]; slot++)
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
    seq->classes = calloc(pages->n_classes, sizeof *seq->classes);
    for (c = 0; seq->classes && c < pages->n_classes; c++) {
        uint32_t n = pages->classes[c].n_entries;
        int32_t *table = seq->classes[c].table = malloc(n * sizeof *table);
        if (!table)
            break;
        for (i = 0; i < n; i++)
            table[i] = -1;
    }
    if (!seq->classes || c < pages->n_classes) {
        sharpi_kv_seq_destroy(seq);
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a sequence's page tables");
    }
    pages->seqs[slot] = seq;
    *out = seq;
    return SHARPI_OK;
}

static void give_back(struct sharpi_kv_seq *seq, uint32_t c, uint32_t entry)
{
    int32_t *page = &seq->classes[c].table[entry];
    if (*page >= 0)
        pool_drop_seq(seq->pages, c, *page);
    *page = -1;
}

void sharpi_kv_seq_destroy(struct sharpi_kv_seq *seq)
{
    uint32_t c, i;
    if (!seq)
        return;
    for (c = 0; seq->classes && c < seq->pages->n_classes && seq->classes[c].table; c++) {
        for (i = 0; i < seq->pages->classes[c].n_entries; i++)
            give_back(seq, c, i);
        free(seq->classes[c].table);
    }
    free(seq->classes);
    if (seq->pages->seqs[seq->slot] == seq)
        seq->pages->seqs[seq->slot] = NULL;
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
    return seq->classes[class_index].table;
}

uint32_t sharpi_kv_seq_held(const struct sharpi_kv_seq *seq, uint32_t class_index)
{
    uint32_t i, n = 0;
    for (i = 0; i < seq->pages->classes[class_index].n_entries; i++)
        n += seq->classes[class_index].table[i] >= 0;
    return n;
}

/* ---- Extending */

static uint32_t held_by_others(const struct page_class *class, int32_t page)
{
    return class->pages[page].seqs > 1 || class->pages[page].cached;
}

/* Logical pages [*first, *end) that positions [length, length + n) lie in. A step never covers a table entry twice, but for its
 * first one, which is its own by then. */
static void pages_of_step(const struct sharpi_kv_seq *seq, const struct page_class *class, uint32_t n,
                          uint32_t *first, uint32_t *end)
{
    uint64_t to = (uint64_t)seq->length + n;
    *first = seq->length / SHARPI_KV_PAGE;
    *end = (uint32_t)((to + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE);
    if (*end - *first > class->n_entries)
        *end = *first + class->n_entries;
}

uint32_t sharpi_kv_seq_need(const struct sharpi_kv_seq *seq, uint32_t n, uint32_t class_index)
{
    const struct page_class *class = &seq->pages->classes[class_index];
    uint32_t page, end, need = 0;
    for (pages_of_step(seq, class, n, &page, &end); page < end; page++) {
        int32_t entry = seq->classes[class_index].table[page % class->n_entries];
        need += entry < 0 || class->pages[entry].seqs > 1;
    }
    return need;
}

/* Whether a step from `length` on still looks at rows that are in this logical page's slot now. */
static uint32_t has_rows_in_use(const struct sharpi_kv_seq *seq, const struct page_class *class,
                                uint32_t page)
{
    uint32_t last; /* position in the slot before */
    if (page == seq->length / SHARPI_KV_PAGE && seq->length % SHARPI_KV_PAGE)
        return 1;
    if (!class->shape.window || page < class->n_entries)
        return 0;
    last = (page - class->n_entries) * SHARPI_KV_PAGE + SHARPI_KV_PAGE - 1;
    return last + class->shape.window > seq->length;
}

/* Whether the cache lets go of a page that only it and the sequence hold. */
static int32_t is_let_go(struct sharpi_kv_pages *pages, uint32_t c, int32_t page, int32_t even_kept)
{
    const struct page_class *class = &pages->classes[c];
    return page >= 0 && pages->hooks.disown && class->pages[page].seqs == 1 &&
           pages->hooks.disown(pages->hooks.user, c, page, even_kept) && !held_by_others(class, page);
}

/* Makes sure that nobody else holds the page that is going to be written. */
static int32_t own_page(struct sharpi_kv_seq *seq, uint32_t c, uint32_t page, struct sharpi_error *err)
{
    struct sharpi_kv_pages *pages = seq->pages;
    struct page_class *class = &pages->classes[c];
    struct seq_class *mine = &seq->classes[c];
    int32_t *entry = &mine->table[page % class->n_entries], fresh = -1, status, even_kept;
    if (*entry >= 0 && !held_by_others(class, *entry))
        return SHARPI_OK;
    for (even_kept = 0; fresh < 0 && even_kept < 2; even_kept++) {
        fresh = pool_take(pages, c, even_kept);
        if (fresh < 0 && is_let_go(pages, c, *entry, even_kept))
            return SHARPI_OK;
    }
    if (fresh < 0)
        return sharpi_fail(err, SHARPI_EFULL, "no KV page is free for window %u", class->shape.window);
    pool_add_seq(pages, c, fresh);
    if (*entry >= 0 && has_rows_in_use(seq, class, page)) {
        status = pages->hooks.copy ? pages->hooks.copy(pages->hooks.user, c, *entry, fresh, err)
                                   : sharpi_fail(err, SHARPI_EBUG, "a shared KV page cannot be copied");
        if (status) {
            pool_drop_seq(pages, c, fresh);
            return status;
        }
        pages->copies++;
    } else if (*entry >= 0 && page >= class->n_entries) {
        uint32_t lost = (page - class->n_entries + 1) * SHARPI_KV_PAGE;
        mine->held_from = lost > mine->held_from ? lost : mine->held_from;
    }
    if (*entry >= 0)
        pool_drop_seq(pages, c, *entry);
    *entry = fresh;
    return SHARPI_OK;
}

static int32_t check_extend(const struct sharpi_kv_seq *seq, uint32_t c, uint32_t n, struct sharpi_error *err)
{
    const struct page_class *class = &seq->pages->classes[c];
    const struct sharpi_kv_class *shape = &class->shape;
    const uint32_t to = seq->length + n, free = sharpi_kv_pages_free(seq->pages, c);
    const uint32_t there = free + (seq->pages->hooks.reclaim ? class->cached : 0);
    uint32_t need;
    if (!shape->window && to > shape->ring)
        return sharpi_fail(err, SHARPI_EFULL,
                           "%u positions do not fit the context of %u; load with a larger context", to,
                           shape->ring);
    if (shape->window && to > shape->ring && shape->window + n - 1 > shape->ring)
        return sharpi_fail(err, SHARPI_EBUG,
                           "a step of %u tokens does not fit a ring of %u positions for window %u", n,
                           shape->ring, shape->window);
    need = sharpi_kv_seq_need(seq, n, c);
    if (need > there)
        return sharpi_fail(err, SHARPI_EFULL, "%u KV pages are needed and %u are free", need, there);
    return SHARPI_OK;
}

int32_t sharpi_kv_seq_extend(struct sharpi_kv_seq *seq, uint32_t n, struct sharpi_error *err)
{
    const uint32_t to = seq->length + n;
    uint32_t c, page, end;
    int32_t status;
    for (c = 0; c < seq->pages->n_classes; c++) {
        if ((status = check_extend(seq, c, n, err)))
            return status;
    }
    for (c = 0; c < seq->pages->n_classes; c++) {
        const struct page_class *class = &seq->pages->classes[c];
        for (pages_of_step(seq, class, n, &page, &end); page < end; page++) {
            if ((status = own_page(seq, c, page, err)))
                return status; /* pages beyond the length are kept for the next try */
        }
    }
    for (c = 0; c < seq->pages->n_classes; c++) {
        uint32_t ring = seq->pages->classes[c].shape.ring;
        if (to > ring && to - ring > seq->classes[c].held_from)
            seq->classes[c].held_from = to - ring;
    }
    seq->length = to;
    if (to > seq->written)
        seq->written = to;
    return SHARPI_OK;
}

/* ---- Going back */

/* Whether every class still holds the positions that a token at `length` looks at. */
static int32_t window_is_held(const struct sharpi_kv_seq *seq, uint32_t length, uint32_t *window)
{
    uint32_t c;
    for (c = 0; c < seq->pages->n_classes; c++) {
        const struct sharpi_kv_class *shape = &seq->pages->classes[c].shape;
        uint32_t lowest = shape->window && length >= shape->window ? length - shape->window + 1 : 0;
        if (length > 0 && lowest < seq->classes[c].held_from && lowest < length) {
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
        uint32_t keep = (uint32_t)(((uint64_t)length + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE);
        if (length == 0)
            seq->classes[c].held_from = 0;
        else if (seq->written > class->shape.ring)
            continue; /* a wrapped ring is held whole */
        for (i = keep; i < class->n_entries; i++)
            give_back(seq, c, i);
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

/* ---- Sharing */

int32_t sharpi_kv_seq_page(const struct sharpi_kv_seq *seq, uint32_t class_index, uint32_t index)
{
    const struct page_class *class = &seq->pages->classes[class_index];
    const struct seq_class *mine = &seq->classes[class_index];
    uint64_t first = (uint64_t)index * SHARPI_KV_PAGE;
    if (first >= seq->length || first < mine->held_from)
        return -1;
    return mine->table[index % class->n_entries];
}

void sharpi_kv_seq_share(struct sharpi_kv_seq *seq, uint32_t class_index, uint32_t index, int32_t page)
{
    uint32_t entry = index % seq->pages->classes[class_index].n_entries;
    pool_add_seq(seq->pages, class_index, page); /* first: it might be the same page */
    give_back(seq, class_index, entry);
    seq->classes[class_index].table[entry] = page;
}

int32_t sharpi_kv_seq_fork(struct sharpi_kv_seq *seq, uint32_t length, struct sharpi_error *err)
{
    uint32_t c, page;
    for (c = 0; c < seq->pages->n_classes; c++) {
        const struct page_class *class = &seq->pages->classes[c];
        uint32_t first = sharpi_kv_first_page(&class->shape, length);
        uint32_t end = (length + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE;
        for (page = first; page < end; page++) {
            if (end - first > class->n_entries || seq->classes[c].table[page % class->n_entries] < 0) {
                cut(seq, 0);
                return sharpi_fail(err, SHARPI_EBUG, "a fork at %u lacks page %u of window %u", length, page,
                                   class->shape.window);
            }
        }
        seq->classes[c].held_from = first * SHARPI_KV_PAGE;
    }
    seq->length = seq->written = length;
    return SHARPI_OK;
}
