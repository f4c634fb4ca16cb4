/* What kv-pages.c (the pool) and kv-seq.c (the tables) share.
 *
 * Invariant: the counts of a class always equal what its pages' references say.
 */
#ifndef SHARPI_CORE_KV_PAGES_INTERNAL_H
#define SHARPI_CORE_KV_PAGES_INTERNAL_H

#include "kv-pages.h"

struct page {
    uint32_t seqs;   /* table entries that name it */
    uint32_t cached; /* 1: held by the cache */
    uint32_t recount;
};

struct page_class {
    struct sharpi_kv_class shape;
    uint32_t n_entries;  /* of a table: ring / SHARPI_KV_PAGE */
    struct page *pages;  /* [shape.n_pages] */
    int32_t *free_pages; /* stack */
    uint32_t n_free;
    uint32_t limit; /* pages that may be in use */
    uint32_t active, shared, cached, held;
};

struct sharpi_kv_pages {
    uint32_t n_classes, max_seqs;
    struct page_class *classes;
    struct sharpi_kv_seq **seqs; /* [max_seqs] by slot */
    struct sharpi_kv_hooks hooks;
    uint64_t copies;
    uint32_t broken; /* releases of pages that nobody held */
};

struct sharpi_kv_seq {
    struct sharpi_kv_pages *pages;
    uint32_t slot;
    uint32_t length;
    uint32_t written; /* one past the highest position ever stored since it was empty */
    struct seq_class {
        int32_t *table;     /* [n_entries] */
        uint32_t held_from; /* positions below are overwritten, or were never there */
    } * classes;
};

/* A page that nobody holds; reclaims if need be. -1: none. The caller adds the reference at once. */
int32_t pool_take(struct sharpi_kv_pages *pages, uint32_t c, int32_t even_kept);
void pool_add_seq(struct sharpi_kv_pages *pages, uint32_t c, int32_t page);
void pool_drop_seq(struct sharpi_kv_pages *pages, uint32_t c, int32_t page);

#endif
