/* Pages of the KV cache: which page of a class holds which positions of which sequence.
 *
 * A class is a set of layers with the same window; all its layers share page numbers, each has its own storage. A sequence
 * keeps, per class, a table of ring / SHARPI_KV_PAGE page numbers; position p lives at slot p % ring, so without a
 * window ring is the context and the modulo the identity. This is bookkeeping only: no byte of K or V is here.
 *
 * Invariant: a page is free or in exactly one sequence's table. One thread at a time.
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
 * class_of[layer] gets the class (of the source for layers that borrow). *classes is new: free() it. */
int32_t sharpi_kv_classes(const struct sharpi_model_desc *desc, uint32_t context, uint32_t headroom,
                          uint32_t max_seqs, struct sharpi_kv_class **classes, uint32_t *n_classes,
                          uint32_t *class_of, struct sharpi_error *err);

struct sharpi_kv_pages;
struct sharpi_kv_seq;

int32_t sharpi_kv_pages_create(const struct sharpi_kv_class *classes, uint32_t n_classes, uint32_t max_seqs,
                               struct sharpi_kv_pages **out, struct sharpi_error *err);
void sharpi_kv_pages_destroy(struct sharpi_kv_pages *pages); /* all sequences first; NULL is fine */
uint32_t sharpi_kv_pages_free(const struct sharpi_kv_pages *pages, uint32_t class_index);

/* An empty sequence with a slot number of its own below max_seqs. SHARPI_EFULL when all are taken. */
int32_t sharpi_kv_seq_create(struct sharpi_kv_pages *pages, struct sharpi_kv_seq **out,
                             struct sharpi_error *err);
void sharpi_kv_seq_destroy(struct sharpi_kv_seq *seq); /* NULL is fine */

uint32_t sharpi_kv_seq_slot(const struct sharpi_kv_seq *seq);
uint32_t sharpi_kv_seq_length(const struct sharpi_kv_seq *seq); /* positions held, the next one's number */
const int32_t *sharpi_kv_seq_table(const struct sharpi_kv_seq *seq, uint32_t class_index);

/* Takes pages so that positions [length, length + n) have a place, and makes the sequence that much longer. SHARPI_EFULL
 * takes nothing. A ring's step must not exceed its headroom: SHARPI_EBUG. */
int32_t sharpi_kv_seq_extend(struct sharpi_kv_seq *seq, uint32_t n, struct sharpi_error *err);

/* Forgets positions from `length` on and gives back the pages that held only those. SHARPI_ENOTSUP when a ring has already
 * overwritten a position that the token at `length` would look at; then nothing changes. */
int32_t sharpi_kv_seq_truncate(struct sharpi_kv_seq *seq, uint32_t length, struct sharpi_error *err);

/* Undoes the last extend after a step that failed: the tokens were never computed, but rows may have been overwritten.
 * Like truncate, and when a ring's window is lost the sequence becomes empty. Returns the new length. */
uint32_t sharpi_kv_seq_rollback(struct sharpi_kv_seq *seq, uint32_t length);

#endif
