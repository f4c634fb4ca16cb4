/* q8_0's kernels in terms of a vector type; included once by the file of each ISA, which defines LANES,
 * `vec`, vec_load, vec_store, vec_set1, vec_add, vec_mul, vec_fma (a * b + c), vec_load_i8 (LANES int8 to
 * floats), vec_sum4 (four horizontal sums), encode_block and the name of its table.
 *
 * A head that does not consist of whole blocks takes the C path.
 */
#include "q8_0.h"

#define KERNEL_INLINE  static inline __attribute__((always_inline))
#define VECS_PER_BLOCK (Q8_0_ELEMS / LANES)

static void simd_append(void *row, const float *src, uint64_t n)
{
    struct q8_0_block *blocks = row;
    for (uint64_t i = 0; i < n / Q8_0_ELEMS; i++)
        encode_block(&blocks[i], src + i * Q8_0_ELEMS);
}

KERNEL_INLINE const struct q8_0_block *row_at(const void *rows, uint64_t row_stride, uint32_t r)
{
    return (const struct q8_0_block *)((const char *)rows + r * row_stride);
}

static void simd_load(float *dst, uint64_t dst_stride, const void *rows, uint64_t row_stride, uint64_t first,
                      uint64_t count, uint32_t n_rows)
{
    if (first % Q8_0_ELEMS || count % Q8_0_ELEMS) {
        kv_q8_0_c.load(dst, dst_stride, rows, row_stride, first, count, n_rows);
        return;
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        const struct q8_0_block *block = row_at(rows, row_stride, r) + first / Q8_0_ELEMS;
        for (uint64_t i = 0; i < count; i += Q8_0_ELEMS, block++) {
            const vec scale = vec_scale(block->scale);
#pragma GCC unroll 4
            for (uint32_t v = 0; v < VECS_PER_BLOCK; v++)
                vec_store(dst + r * dst_stride + i + v * LANES,
                          vec_mul(vec_load_i8(block->q + v * LANES), scale));
        }
    }
}

/* Scores of n_rows rows with n_heads heads; their product, 4, is the number of sums held in registers. */
KERNEL_INLINE void score_tile(float *scores, uint64_t score_stride, const float *q, uint64_t q_stride,
                              uint32_t n_heads, const struct q8_0_block *rows, uint64_t row_stride,
                              uint64_t n_blocks, uint32_t n_rows)
{
    vec sum[4];
    float total[4];
#pragma GCC unroll 4
    for (uint32_t k = 0; k < 4; k++)
        sum[k] = vec_set1(0.0f);
    for (uint64_t b = 0; b < n_blocks; b++)
#pragma GCC unroll 4
        for (uint32_t r = 0; r < n_rows; r++) {
            const struct q8_0_block *block = row_at(rows, row_stride, r) + b;
            const vec scale = vec_scale(block->scale);
            vec x[VECS_PER_BLOCK];
#pragma GCC unroll 4
            for (uint32_t v = 0; v < VECS_PER_BLOCK; v++)
                x[v] = vec_load_i8(block->q + v * LANES);
#pragma GCC unroll 4
            for (uint32_t h = 0; h < n_heads; h++) {
                const float *part = q + h * q_stride + b * Q8_0_ELEMS;
                vec dot = vec_mul(x[0], vec_load(part));
#pragma GCC unroll 4
                for (uint32_t v = 1; v < VECS_PER_BLOCK; v++)
                    dot = vec_fma(x[v], vec_load(part + v * LANES), dot);
                sum[r * n_heads + h] = vec_fma(dot, scale, sum[r * n_heads + h]);
            }
        }
    vec_sum4(total, sum[0], sum[1], sum[2], sum[3]);
#pragma GCC unroll 4
    for (uint32_t k = 0; k < n_heads * n_rows; k++)
        scores[k % n_heads * score_stride + k / n_heads] = total[k];
}

/* All rows with n_heads heads (4, 2 or 1), tile_rows at a time. */
KERNEL_INLINE void score_heads(float *scores, uint64_t score_stride, const float *q, uint64_t q_stride,
                               uint32_t n_heads, const void *rows, uint64_t row_stride, uint64_t n_blocks,
                               uint32_t n_rows, uint32_t tile_rows)
{
    uint32_t r = 0;
    for (; r + tile_rows <= n_rows; r += tile_rows)
        score_tile(scores + r, score_stride, q, q_stride, n_heads, row_at(rows, row_stride, r), row_stride,
                   n_blocks, tile_rows);
    for (; r < n_rows; r++)
        score_tile(scores + r, score_stride, q, q_stride, n_heads, row_at(rows, row_stride, r), row_stride,
                   n_blocks, 1);
}

static void simd_score(float *scores, uint64_t score_stride, const float *q, uint64_t q_stride, uint32_t n_q,
                       const void *rows, uint64_t row_stride, uint64_t first, uint64_t count, uint32_t n_rows)
{
    const uint64_t n_blocks = count / Q8_0_ELEMS;
    const void *part = (const struct q8_0_block *)rows + first / Q8_0_ELEMS;
    uint32_t h = 0;

    if (first % Q8_0_ELEMS || count % Q8_0_ELEMS) {
        kv_q8_0_c.score(scores, score_stride, q, q_stride, n_q, rows, row_stride, first, count, n_rows);
        return;
    }
    for (; h + 4 <= n_q; h += 4)
        score_heads(scores + h * score_stride, score_stride, q + h * q_stride, q_stride, 4, part, row_stride,
                    n_blocks, n_rows, 1);
    for (; h + 2 <= n_q; h += 2)
        score_heads(scores + h * score_stride, score_stride, q + h * q_stride, q_stride, 2, part, row_stride,
                    n_blocks, n_rows, 2);
    if (h < n_q)
        score_heads(scores + h * score_stride, score_stride, q + h * q_stride, q_stride, 1, part, row_stride,
                    n_blocks, n_rows, 4);
}

/* acc += p x of n_rows rows for n_heads heads (4, 2 or 1) and two vectors of block b, held in registers. */
KERNEL_INLINE void accumulate_tile(float *acc, uint64_t acc_stride, const float *p, uint64_t p_stride,
                                   uint32_t n_heads, const void *rows, uint64_t row_stride, uint64_t b,
                                   uint32_t offset, uint32_t n_rows)
{
    vec sum[8];
    acc += b * Q8_0_ELEMS + offset;
#pragma GCC unroll 8
    for (uint32_t k = 0; k < 2 * n_heads; k++)
        sum[k] = vec_load(acc + k / 2 * acc_stride + k % 2 * LANES);
    for (uint32_t r = 0; r < n_rows; r++) {
        const struct q8_0_block *block = row_at(rows, row_stride, r) + b;
        const vec scale = vec_scale(block->scale);
        const vec x0 = vec_load_i8(block->q + offset), x1 = vec_load_i8(block->q + offset + LANES);
#pragma GCC unroll 4
        for (uint32_t h = 0; h < n_heads; h++) {
            const vec weight = vec_mul(scale, vec_set1(p[h * p_stride + r]));
            sum[2 * h] = vec_fma(x0, weight, sum[2 * h]);
            sum[2 * h + 1] = vec_fma(x1, weight, sum[2 * h + 1]);
        }
    }
#pragma GCC unroll 8
    for (uint32_t k = 0; k < 2 * n_heads; k++)
        vec_store(acc + k / 2 * acc_stride + k % 2 * LANES, sum[k]);
}

KERNEL_INLINE void accumulate_rows(float *acc, uint64_t acc_stride, const float *p, uint64_t p_stride,
                                   uint32_t n_heads, const void *rows, uint64_t row_stride, uint64_t n_blocks,
                                   uint32_t n_rows)
{
    for (uint64_t b = 0; b < n_blocks; b++)
        for (uint32_t offset = 0; offset < Q8_0_ELEMS; offset += 2 * LANES)
            accumulate_tile(acc, acc_stride, p, p_stride, n_heads, rows, row_stride, b, offset, n_rows);
}

/* Rows few enough that their part of a column stays in L1. */
KERNEL_INLINE void accumulate_heads(float *acc, uint64_t acc_stride, const float *p, uint64_t p_stride,
                                    uint32_t n_q, const void *rows, uint64_t row_stride, uint64_t n_blocks,
                                    uint32_t n_rows)
{
    for (; n_q >= 4; n_q -= 4, acc += 4 * acc_stride, p += 4 * p_stride)
        accumulate_rows(acc, acc_stride, p, p_stride, 4, rows, row_stride, n_blocks, n_rows);
    for (; n_q >= 2; n_q -= 2, acc += 2 * acc_stride, p += 2 * p_stride)
        accumulate_rows(acc, acc_stride, p, p_stride, 2, rows, row_stride, n_blocks, n_rows);
    if (n_q)
        accumulate_rows(acc, acc_stride, p, p_stride, 1, rows, row_stride, n_blocks, n_rows);
}

static void simd_accumulate(float *acc, uint64_t acc_stride, const float *p, uint64_t p_stride, uint32_t n_q,
                            const void *rows, uint64_t row_stride, uint64_t first, uint64_t count,
                            uint32_t n_rows)
{
    const uint64_t n_blocks = count / Q8_0_ELEMS;
    const void *part = (const struct q8_0_block *)rows + first / Q8_0_ELEMS;

    if (first % Q8_0_ELEMS || count % Q8_0_ELEMS) {
        kv_q8_0_c.accumulate(acc, acc_stride, p, p_stride, n_q, rows, row_stride, first, count, n_rows);
        return;
    }
    for (uint32_t r = 0; r < n_rows; r += 8)
        accumulate_heads(acc, acc_stride, p + r, p_stride, n_q, row_at(part, row_stride, r), row_stride,
                         n_blocks, n_rows - r < 8 ? n_rows - r : 8);
}

#define Q8_0_KERNELS                                                                                         \
    {                                                                                                        \
        .size = (uint32_t)sizeof(struct sharpi_kv_cpu), .append = simd_append, .load = simd_load,            \
        .score = simd_score, .accumulate = simd_accumulate                                                   \
    }
