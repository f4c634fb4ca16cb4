/* Kernels of the float formats in terms of a vector type; included once by the file of each ISA, which
 * defines LANES, `vec` and vec_load, vec_store, vec_set1, vec_fma (a * b + c), vec_add, vec_load_f16,
 * vec_load_bf16, vec_store_f16, vec_store_bf16 and vec_sum4 (four horizontal sums).
 *
 * Each kernel is one inline function over the kind of element, a constant in every caller. Rows are read in
 * the order in which they lie, a few at a time: a walk down one column would hit few cache sets when a row's
 * bytes are a power of two.
 */
#include "half.h"
#include "kv-float.h"

#define KERNEL_INLINE static inline __attribute__((always_inline))

enum { KIND_F32, KIND_F16, KIND_BF16 };

KERNEL_INLINE uint64_t elem_bytes(uint32_t kind)
{
    return kind == KIND_F32 ? 4 : 2;
}

KERNEL_INLINE vec load_vec(uint32_t kind, const char *row, uint64_t i)
{
    const char *p = row + i * elem_bytes(kind);
    return kind == KIND_F32   ? vec_load((const float *)p)
           : kind == KIND_F16 ? vec_load_f16(p)
                              : vec_load_bf16(p);
}

KERNEL_INLINE float load_one(uint32_t kind, const char *row, uint64_t i)
{
    if (kind == KIND_F32)
        return ((const float *)row)[i];
    return kind == KIND_F16 ? f32_of_f16(((const uint16_t *)row)[i])
                            : f32_of_bf16(((const uint16_t *)row)[i]);
}

KERNEL_INLINE void append(uint32_t kind, char *row, const float *src, uint64_t n)
{
    uint64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vec x = vec_load(src + i);
        if (kind == KIND_F32)
            vec_store((float *)row + i, x);
        else if (kind == KIND_F16)
            vec_store_f16(row + 2 * i, x);
        else
            vec_store_bf16(row + 2 * i, x);
    }
    for (; i < n; i++)
        if (kind == KIND_F32)
            ((float *)row)[i] = src[i];
        else
            ((uint16_t *)row)[i] = kind == KIND_F16 ? f16_of_f32(src[i]) : bf16_of_f32(src[i]);
}

KERNEL_INLINE void load(uint32_t kind, float *dst, uint64_t dst_stride, const char *rows, uint64_t row_stride,
                        uint64_t count, uint32_t n_rows)
{
    for (uint32_t r = 0; r < n_rows; r++, rows += row_stride, dst += dst_stride) {
        uint64_t i = 0;
        for (; i + LANES <= count; i += LANES)
            vec_store(dst + i, load_vec(kind, rows, i));
        for (; i < count; i++)
            dst[i] = load_one(kind, rows, i);
    }
}

/* Scores of n_rows rows with n_heads heads; their product, 4 or 8, is the number of sums held in registers.
 */
KERNEL_INLINE void score_tile(uint32_t kind, float *scores, uint64_t score_stride, const float *q,
                              uint64_t q_stride, uint32_t n_heads, const char *rows, uint64_t row_stride,
                              uint64_t count, uint32_t n_rows)
{
    vec sum[8];
    float total[8];
    uint64_t i = 0;
#pragma GCC unroll 8
    for (uint32_t k = 0; k < n_heads * n_rows; k++)
        sum[k] = vec_set1(0.0f);
    for (; i + LANES <= count; i += LANES) {
#pragma GCC unroll 8
        for (uint32_t r = 0; r < n_rows; r++) {
            const vec x = load_vec(kind, rows + r * row_stride, i);
#pragma GCC unroll 8
            for (uint32_t h = 0; h < n_heads; h++)
                sum[r * n_heads + h] = vec_fma(x, vec_load(q + h * q_stride + i), sum[r * n_heads + h]);
        }
    }
#pragma GCC unroll 2
    for (uint32_t k = 0; k < n_heads * n_rows; k += 4)
        vec_sum4(total + k, sum[k], sum[k + 1], sum[k + 2], sum[k + 3]);
    for (; i < count; i++)
        for (uint32_t k = 0; k < n_heads * n_rows; k++)
            total[k] += load_one(kind, rows + k / n_heads * row_stride, i) * q[k % n_heads * q_stride + i];
#pragma GCC unroll 8
    for (uint32_t k = 0; k < n_heads * n_rows; k++)
        scores[k % n_heads * score_stride + k / n_heads] = total[k];
}

/* One row with one head, for what the tiles leave over. */
KERNEL_INLINE float score_one(uint32_t kind, const float *q, const char *row, uint64_t count)
{
    vec a = vec_set1(0.0f), b = a;
    float total[4];
    uint64_t i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES) {
        a = vec_fma(load_vec(kind, row, i), vec_load(q + i), a);
        b = vec_fma(load_vec(kind, row, i + LANES), vec_load(q + i + LANES), b);
    }
    for (; i + LANES <= count; i += LANES)
        a = vec_fma(load_vec(kind, row, i), vec_load(q + i), a);
    vec_sum4(total, vec_add(a, b), a, a, a);
    for (; i < count; i++)
        total[0] += load_one(kind, row, i) * q[i];
    return total[0];
}

/* All rows with n_heads heads (4, 2 or 1), tile_rows at a time. */
KERNEL_INLINE void score_heads(uint32_t kind, float *scores, uint64_t score_stride, const float *q,
                               uint64_t q_stride, uint32_t n_heads, const char *rows, uint64_t row_stride,
                               uint64_t count, uint32_t n_rows, uint32_t tile_rows)
{
    uint32_t r = 0;
    for (; r + tile_rows <= n_rows; r += tile_rows)
        score_tile(kind, scores + r, score_stride, q, q_stride, n_heads, rows + r * row_stride, row_stride,
                   count, tile_rows);
    for (; r < n_rows; r++)
        for (uint32_t h = 0; h < n_heads; h++)
            scores[h * score_stride + r] = score_one(kind, q + h * q_stride, rows + r * row_stride, count);
}

KERNEL_INLINE void score(uint32_t kind, float *scores, uint64_t score_stride, const float *q,
                         uint64_t q_stride, uint32_t n_q, const char *rows, uint64_t row_stride,
                         uint64_t count, uint32_t n_rows)
{
    for (; n_q >= 4; n_q -= 4, scores += 4 * score_stride, q += 4 * q_stride)
        score_heads(kind, scores, score_stride, q, q_stride, 4, rows, row_stride, count, n_rows, 2);
    for (; n_q >= 2; n_q -= 2, scores += 2 * score_stride, q += 2 * q_stride)
        score_heads(kind, scores, score_stride, q, q_stride, 2, rows, row_stride, count, n_rows, 4);
    if (n_q)
        score_heads(kind, scores, score_stride, q, q_stride, 1, rows, row_stride, count, n_rows, 8);
}

/* acc += p x of n_rows rows for n_heads heads x n_vecs vectors, held in registers. */
KERNEL_INLINE void accumulate_tile(uint32_t kind, float *acc, uint64_t acc_stride, const float *p,
                                   uint64_t p_stride, uint32_t n_heads, const char *rows, uint64_t row_stride,
                                   uint32_t n_rows, uint32_t n_vecs)
{
    vec sum[8];
#pragma GCC unroll 8
    for (uint32_t k = 0; k < n_heads * n_vecs; k++)
        sum[k] = vec_load(acc + k / n_vecs * acc_stride + k % n_vecs * LANES);
    for (uint32_t r = 0; r < n_rows; r++) {
        vec x[8];
#pragma GCC unroll 8
        for (uint32_t v = 0; v < n_vecs; v++)
            x[v] = load_vec(kind, rows + r * row_stride, v * LANES);
#pragma GCC unroll 8
        for (uint32_t k = 0; k < n_heads * n_vecs; k++)
            sum[k] = vec_fma(x[k % n_vecs], vec_set1(p[k / n_vecs * p_stride + r]), sum[k]);
    }
#pragma GCC unroll 8
    for (uint32_t k = 0; k < n_heads * n_vecs; k++)
        vec_store(acc + k / n_vecs * acc_stride + k % n_vecs * LANES, sum[k]);
}

/* A few rows (so few that their part of a column stays in L1) with n_heads heads (4, 2 or 1). */
KERNEL_INLINE void accumulate_rows(uint32_t kind, float *acc, uint64_t acc_stride, const float *p,
                                   uint64_t p_stride, uint32_t n_heads, const char *rows, uint64_t row_stride,
                                   uint64_t count, uint32_t n_rows)
{
    const uint32_t n_vecs = 8 / n_heads;
    uint64_t i = 0;
    for (; i + n_vecs * LANES <= count; i += n_vecs * LANES)
        accumulate_tile(kind, acc + i, acc_stride, p, p_stride, n_heads, rows + i * elem_bytes(kind),
                        row_stride, n_rows, n_vecs);
    for (; i + LANES <= count; i += LANES)
        accumulate_tile(kind, acc + i, acc_stride, p, p_stride, n_heads, rows + i * elem_bytes(kind),
                        row_stride, n_rows, 1);
    for (; i < count; i++)
        for (uint32_t h = 0; h < n_heads; h++)
            for (uint32_t r = 0; r < n_rows; r++)
                acc[h * acc_stride + i] += load_one(kind, rows + r * row_stride, i) * p[h * p_stride + r];
}

KERNEL_INLINE void accumulate(uint32_t kind, float *acc, uint64_t acc_stride, const float *p,
                              uint64_t p_stride, uint32_t n_q, const char *rows, uint64_t row_stride,
                              uint64_t count, uint32_t n_rows)
{
    for (uint32_t r = 0; r < n_rows; r += 8, rows += 8 * row_stride) {
        const uint32_t n = n_rows - r < 8 ? n_rows - r : 8;
        uint32_t h = 0;
        for (; h + 4 <= n_q; h += 4)
            accumulate_rows(kind, acc + h * acc_stride, acc_stride, p + h * p_stride + r, p_stride, 4, rows,
                            row_stride, count, n);
        for (; h + 2 <= n_q; h += 2)
            accumulate_rows(kind, acc + h * acc_stride, acc_stride, p + h * p_stride + r, p_stride, 2, rows,
                            row_stride, count, n);
        if (h < n_q)
            accumulate_rows(kind, acc + h * acc_stride, acc_stride, p + h * p_stride + r, p_stride, 1, rows,
                            row_stride, count, n);
    }
}

/* The table `kv_<name>_<isa>` of one kind of element. */
#define FLOAT_KERNELS(name, isa, kind)                                                                       \
    static void name##_append(void *row, const float *src, uint64_t n)                                       \
    {                                                                                                        \
        append(kind, row, src, n);                                                                           \
    }                                                                                                        \
                                                                                                             \
    static void name##_load(float *dst, uint64_t dst_stride, const void *rows, uint64_t row_stride,          \
                            uint64_t first, uint64_t count, uint32_t n_rows)                                 \
    {                                                                                                        \
        load(kind, dst, dst_stride, (const char *)rows + first * elem_bytes(kind), row_stride, count,        \
             n_rows);                                                                                        \
    }                                                                                                        \
                                                                                                             \
    static void name##_score(float *scores, uint64_t score_stride, const float *q, uint64_t q_stride,        \
                             uint32_t n_q, const void *rows, uint64_t row_stride, uint64_t first,            \
                             uint64_t count, uint32_t n_rows)                                                \
    {                                                                                                        \
        score(kind, scores, score_stride, q, q_stride, n_q, (const char *)rows + first * elem_bytes(kind),   \
              row_stride, count, n_rows);                                                                    \
    }                                                                                                        \
                                                                                                             \
    static void name##_accumulate(float *acc, uint64_t acc_stride, const float *p, uint64_t p_stride,        \
                                  uint32_t n_q, const void *rows, uint64_t row_stride, uint64_t first,       \
                                  uint64_t count, uint32_t n_rows)                                           \
    {                                                                                                        \
        accumulate(kind, acc, acc_stride, p, p_stride, n_q, (const char *)rows + first * elem_bytes(kind),   \
                   row_stride, count, n_rows);                                                               \
    }                                                                                                        \
                                                                                                             \
    const struct sharpi_kv_cpu kv_##name##_##isa = {                                                         \
        .size = (uint32_t)sizeof(struct sharpi_kv_cpu),                                                      \
        .append = name##_append,                                                                             \
        .load = name##_load,                                                                                 \
        .score = name##_score,                                                                               \
        .accumulate = name##_accumulate,                                                                     \
    };
