/* What the files of attention share: how a step's work is cut, and where each thread's scratch lies.
 *
 * A block is the work of one thread at a time: some tokens of one sequence, some KV heads with their query
 * heads (or one with some of them), some pages. Its rows are (KV head, token, query head), in this order.
 * Blocks that see all their pages write `out`; blocks that were split over page ranges write a partial
 * (maximum, sum, unnormalised output per row) and are merged after the barrier.
 */
#ifndef SHARPI_BACKEND_CPU_ATTENTION_INTERNAL_H
#define SHARPI_BACKEND_CPU_ATTENTION_INTERNAL_H

#include "attention-kernels.h"
#include "attention.h"

/* Sizes that follow from a plan's geometry alone. */
struct attention_shape {
    uint32_t head_dim, width; /* width: head_dim rounded up to ATTENTION_ALIGN */
    uint32_t
        v_stride; /* floats between V rows of a tile: odd in cache lines, so that columns spread over sets */
    uint32_t heads_per_block; /* query heads of a block: a KV head's group or an even part of it */
    uint32_t parts_per_group;
    uint32_t tokens_per_block;
    uint32_t max_rows;
    uint32_t max_partials;   /* blocks that may be split off, all together */
    uint64_t partial_floats; /* of one partial */
    uint64_t thread_floats;  /* of one thread's scratch */
};

void attention_shape_init(struct attention_shape *shape, const struct attention_plan *plan);

#define ATTENTION_K_STRIDE                                                                                   \
    (SHARPI_KV_PAGE + ATTENTION_ALIGN) /* floats between rows of the transposed K tile */

/* One thread's scratch. */
struct attention_scratch {
    float *q;                   /* [max_rows, width], scaled */
    float *acc;                 /* [max_rows, width] */
    float *s;                   /* [max_rows, SHARPI_KV_PAGE] scores, then weights */
    float *tile;                /* K transposed [width, ATTENTION_K_STRIDE] or V [SHARPI_KV_PAGE, v_stride] */
    float *raw;                 /* [ATTENTION_ALIGN, width]: K rows before they are transposed */
    float *row;                 /* a whole decoded row, for formats without kernels */
    struct attention_row *rows; /* [max_rows] */
};

void attention_scratch_at(struct attention_scratch *scratch, const struct attention_shape *shape,
                          void *memory, uint32_t ith);

struct attention_partial {
    struct attention_row *rows; /* [max_rows] */
    float *acc;                 /* [max_rows, width] */
};

struct attention_partial attention_partial_at(const struct attention_shape *shape, void *memory,
                                              uint32_t max_threads, uint64_t index);

struct attention_block {
    const int32_t *pages; /* the sequence's table */
    uint32_t token, n_tokens;
    uint32_t kv_head, n_kv_heads;
    uint32_t first_in_group, n_heads; /* query heads of each of these KV heads */
    uint64_t position;                /* of the first token */
    uint64_t low, end;                /* positions that some row sees: [low, end) */
    uint64_t page, end_page; /* of those, the pages (position / SHARPI_KV_PAGE) that are this block's */
    uint32_t is_partial;
    struct attention_partial partial;
};

struct attention_place {
    uint32_t token, head;
};

void attention_attend(const struct attention_job *job, const struct attention_shape *shape,
                      const struct attention_scratch *scratch, const struct attention_block *block);

/* Divides the block's row r by its sum, sinks included, and writes it to its place in `out`. */
void attention_store_row(const struct attention_job *job, const struct attention_block *block, uint32_t r,
                         const struct attention_row *row, const float *acc);

/* Where position p's row begins in a K or V buffer. */
static inline uint64_t attention_row_offset(const struct attention_plan *plan, const int32_t *pages,
                                            uint64_t p)
{
    const uint64_t slot = p % plan->kv.ring;
    const uint64_t page = (uint64_t)(uint32_t)pages[slot / SHARPI_KV_PAGE];
    return (page * SHARPI_KV_PAGE + slot % SHARPI_KV_PAGE) * plan->row_bytes;
}

#endif
