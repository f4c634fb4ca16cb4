/* Attention of the CPU backend: append a batch's K/V rows to the pages, then out = softmax(q k^T) v over the
 * pages.
 *
 * A job describes one attention op of one step: tokens of several sequences, decode and prefill mixed. The
 * executor calls from inside its parallel region, all nth threads with the same job:
 *
 *     attention_append(job, first, count)   disjoint token ranges; not when the op has no k, v of its own
 *     barrier                               the executor's: every row is stored before any query attends
 *     attention_run(job, ith, nth)          calls job->barrier itself, once or not at all
 *     barrier                               the executor's: before anybody reads `out`
 *
 * Invariants: position p is read and written only at slot p % ring of its sequence's page table, and only
 * positions that attention_check found to be held. Nothing is allocated; threads write disjoint rows of
 * `out`. The result depends on nth and on the rest of the batch by f32 rounding only, and on nothing else.
 */
#ifndef SHARPI_BACKEND_CPU_ATTENTION_H
#define SHARPI_BACKEND_CPU_ATTENTION_H

#include <sharpi/plugin/backend.h>

#include "isa.h"

#define ATTENTION_MAX_HEAD_DIM 512u

struct attention_kernels; /* dense products and softmax of one ISA, see attention-kernels.h */

/* What load fixes; the executor keeps one per attention op. */
struct attention_plan {
    const struct attention_kernels *kernels;
    const struct sharpi_kv_cpu
        *format;               /* NULL: the format has no kernels for the CPU, encode and decode are used */
    struct sharpi_kv_layer kv; /* the layer whose cache is read (kv_layer); k and v may be NULL until load */
    const float *sinks;        /* [n_heads] or NULL; set by the caller */
    uint32_t n_heads;
    uint32_t window; /* 0 = all earlier positions */
    uint32_t causal;
    float scale, softcap;
    uint32_t max_threads; /* the scratch's layout is for so many */
    uint64_t row_bytes;   /* of a K or V row */
};

/* Fills *plan and sets *scratch_bytes to what attention_run needs for up to n_threads threads (exact; jobs
 * that run one after the other may share the largest). `kv` is the layer whose cache is read. Needs no
 * storage: set plan->kv.k and .v at load. SHARPI_ENOTSUP, with the reason, for geometries that it cannot do.
 */
int32_t attention_plan_init(struct attention_plan *plan, enum cpu_isa isa,
                            const struct sharpi_attention_attr *attr, const struct sharpi_kv_layer *kv,
                            uint32_t n_threads, uint64_t *scratch_bytes, struct sharpi_error *err);

struct attention_job {
    const struct attention_plan *plan;
    const struct sharpi_batch *batch;
    const float *k, *v; /* [n_tokens, n_kv_heads * head_dim], rows k_stride and v_stride floats apart; NULL
                           without append */
    const float *q;     /* [n_tokens, n_heads * head_dim] */
    float *out;         /* likewise; must not overlap q */
    uint64_t k_stride, v_stride, q_stride, out_stride; /* floats */
    void *scratch;               /* scratch_bytes, 64-byte aligned, shared by all threads */
    uint32_t *next;              /* shared work counter; 0 before the first thread enters (atomic inside) */
    void (*barrier)(void *user); /* returns when all nth threads came; may be NULL when nth is 1 */
    void *barrier_user;
};

/* Whether the batch keeps the promises that append and run rely on: every position that is written or seen
 * lies in a held page with a number below n_pages, and inside the ring (SHARPI_EBUG with the numbers if not).
 * Once per step and op (or per class and window), by one thread, before append. */
int32_t attention_check(const struct attention_plan *plan, const struct sharpi_batch *batch,
                        struct sharpi_error *err);

/* Stores the K and V rows of tokens [first, first + count). */
void attention_append(const struct attention_job *job, uint32_t first, uint32_t count);

/* This thread's share of the batch's attention; nth <= plan->max_threads. */
void attention_run(const struct attention_job *job, uint32_t ith, uint32_t nth);

#endif
