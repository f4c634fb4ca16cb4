/* Pages of the KV cache: which page of a class holds which positions of which sequence.
 *
 * A class is a set of layers with the same window; all its layers share page numbers, each has its own storage. A sequence
 * keeps, per class, a table of ring / SHARPI_KV_PAGE page numbers; position p lives at slot p % ring, so without a
 * window ring is the context and the modulo the identity. This is bookkeeping only: no byte of K or V is here.
 *
 * Pages are shared: several sequences' tables and one cache may hold the same page. What others hold is never written: a
 * sequence that gets to such a page takes a new one in its place, copied first if it still looks at old rows.
 *
 * Invariant: a page is free, or counts exactly the table entries that name it plus the cache's hold. One thread at a time.
 */
#ifndef SHARPI_CORE_KV_PAGES_H
#define SHARPI_CORE_KV_PAGES_H

#include <sharpi/plugin/arch.h>
#include <sharpi/plugin/kv.h>

struct sharpi_kv_class {
    uint32_t window; /* 0 = global */
    uint32_t ring;   /* positions, a multiple of SHARPI_KV_PAGE */
    uint32_t n_pages;
};

/* Ring of a layer: min(context, window + headroom), rounded up to pages; without window the context. */
uint32_t sharpi_kv_ring(uint32_t context, uint32_t window, uint32_t headroom);

/* Groups the layers that have storage of their own into classes, one per distinct window, in the order of appearance.
 * class_of[layer] gets the class (of the source for layers that borrow). *classes is new: free() it. Pages are for `pool`
 * positions of all max_seqs sequences together, for one whole ring at least and a ring for each at most; pool = 0: a ring for
 * each. */
int32_t sharpi_kv_classes(const struct sharpi_model_desc *desc, uint32_t context, uint32_t headroom,
                          uint32_t max_seqs, uint32_t pool, struct sharpi_kv_class **classes,
                          uint32_t *n_classes, uint32_t *class_of, struct sharpi_error *err);

struct sharpi_kv_pages;
struct sharpi_kv_seq;

int32_t sharpi_kv_pages_create(const struct sharpi_kv_class *classes, uint32_t n_classes, uint32_t max_seqs,
                               struct sharpi_kv_pages **out, struct sharpi_error *err);
void sharpi_kv_pages_destroy(struct sharpi_kv_pages *pages); /* all sequences first; NULL is fine */
uint32_t sharpi_kv_pages_free(const struct sharpi_kv_pages *pages, uint32_t class_index);
uint32_t sharpi_kv_pages_n_classes(const struct sharpi_kv_pages *pages);
const struct sharpi_kv_class *sharpi_kv_pages_class(const struct sharpi_kv_pages *pages,
                                                    uint32_t class_index);

/* Every page of a class is counted once. */
struct sharpi_kv_counts {
    uint32_t n_pages; /* that may be in use */
    uint32_t free;
    uint32_t active; /* in some sequence's table */
    uint32_t shared; /* of those, in two or more */
    uint32_t cached; /* held by the cache alone */
    uint32_t held;   /* by the cache, alone or not */
};
void sharpi_kv_pages_count(const struct sharpi_kv_pages *pages, uint32_t class_index,
                           struct sharpi_kv_counts *counts);
uint32_t sharpi_kv_pages_most(const struct sharpi_kv_pages *pages,
                              uint32_t class_index); /* n_pages; any thread */
/* At most n pages per class may be in use; 0 = all. */
void sharpi_kv_pages_limit(struct sharpi_kv_pages *pages, uint32_t n);

/* Counts everything anew. SHARPI_EBUG says which page has other references than holders; a page that was once released
 * too often is never used again and found here for ever. */
int32_t sharpi_kv_pages_check(struct sharpi_kv_pages *pages, struct sharpi_error *err);

/* ---- Sharing. Without hooks no page is ever copied or given up, and sequences share nothing. */

struct sharpi_kv_hooks {
    void *user;
    /* Copies a page's K and V of all layers of the class. */
    int32_t (*copy)(void *user, uint32_t class_index, int32_t from, int32_t to, struct sharpi_error *err);
    /* The cache gives up some page that nobody else holds; one that it would like to keep only if `even_kept`. 1: done. */
    int32_t (*reclaim)(void *user, uint32_t class_index, int32_t even_kept);
    /* The cache gives up this page likewise. */
    int32_t (*disown)(void *user, uint32_t class_index, int32_t page, int32_t even_kept);
};
void sharpi_kv_pages_set_hooks(struct sharpi_kv_pages *pages, const struct sharpi_kv_hooks *hooks);
uint64_t sharpi_kv_pages_copies(const struct sharpi_kv_pages *pages); /* since creation */

/* The cache's hold on a page; one per page. 0 if it is held already. */
int32_t sharpi_kv_page_hold(struct sharpi_kv_pages *pages, uint32_t class_index, int32_t page);
void sharpi_kv_page_unhold(struct sharpi_kv_pages *pages, uint32_t class_index, int32_t page);
/* A page for the cache, held by it; reclaims if need be. -1: there is none. */
int32_t sharpi_kv_page_take(struct sharpi_kv_pages *pages, uint32_t class_index);
uint32_t sharpi_kv_page_seqs(const struct sharpi_kv_pages *pages, uint32_t class_index, int32_t page);

/* ---- Sequences */

/* An empty sequence with a slot number of its own below max_seqs. SHARPI_EFULL when all are taken. */
int32_t sharpi_kv_seq_create(struct sharpi_kv_pages *pages, struct sharpi_kv_seq **out,
                             struct sharpi_error *err);
void sharpi_kv_seq_destroy(struct sharpi_kv_seq *seq); /* NULL is fine */

uint32_t sharpi_kv_seq_slot(const struct sharpi_kv_seq *seq);
uint32_t sharpi_kv_seq_length(const struct sharpi_kv_seq *seq); /* positions held, the next one's number */
const int32_t *sharpi_kv_seq_table(const struct sharpi_kv_seq *seq, uint32_t class_index);

uint32_t sharpi_kv_seq_held(const struct sharpi_kv_seq *seq, uint32_t class_index); /* pages */

/* Takes pages so that positions [length, length + n) have a place that nobody else holds, and makes the sequence that much
 * longer. SHARPI_EFULL takes nothing. A ring's step must not exceed its headroom: SHARPI_EBUG. */
int32_t sharpi_kv_seq_extend(struct sharpi_kv_seq *seq, uint32_t n, struct sharpi_error *err);
/* Pages that extend(n) cannot do without, to compare with free + cached. */
uint32_t sharpi_kv_seq_need(const struct sharpi_kv_seq *seq, uint32_t n, uint32_t class_index);

/* Forgets positions from `length` on and gives back the pages that held only those. SHARPI_ENOTSUP when a ring has already
 * overwritten a position that the token at `length` would look at; then nothing changes. */
int32_t sharpi_kv_seq_truncate(struct sharpi_kv_seq *seq, uint32_t length, struct sharpi_error *err);

/* Undoes the last extend after a step that failed: the tokens were never computed, but rows may have been overwritten.
 * Like truncate, and when a ring's window is lost the sequence becomes empty. Returns the new length. */
uint32_t sharpi_kv_seq_rollback(struct sharpi_kv_seq *seq, uint32_t length);

/* First page, in units of SHARPI_KV_PAGE positions, that a token at `length` looks at in this class. */
uint32_t sharpi_kv_first_page(const struct sharpi_kv_class *shape, uint32_t length);
/* The page that holds positions [index * SHARPI_KV_PAGE, ...) as far as the sequence has come, all of them intact; else -1. */
int32_t sharpi_kv_seq_page(const struct sharpi_kv_seq *seq, uint32_t class_index, uint32_t index);
/* Puts a page of the same content there, which somebody else holds, and gives back the sequence's own. */
void sharpi_kv_seq_share(struct sharpi_kv_seq *seq, uint32_t class_index, uint32_t index, int32_t page);
/* Ends a fork: an empty sequence that was given all pages that a token at `length` looks at (sharpi_kv_seq_share) now is that
 * long. SHARPI_EBUG when one is missing; then it is empty. */
int32_t sharpi_kv_seq_fork(struct sharpi_kv_seq *seq, uint32_t length, struct sharpi_error *err);

#endif
