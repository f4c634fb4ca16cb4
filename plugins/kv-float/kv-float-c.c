/* Kernels of the float formats in plain C: the reference for the vector ones. */
#include "half.h"
#include "kv-float.h"

static inline float same(float x)
{
    return x;
}

/* The four kernels of one format from its element type and conversions. */
#define FLOAT_KERNELS_C(name, elem, of_f32, to_f32)                                                          \
    static void name##_append(void *row, const float *src, uint64_t n)                                       \
    {                                                                                                        \
        elem *dst = row;                                                                                     \
        for (uint64_t i = 0; i < n; i++)                                                                     \
            dst[i] = of_f32(src[i]);                                                                         \
    }                                                                                                        \
                                                                                                             \
    static void name##_load(float *dst, uint64_t dst_stride, const void *rows, uint64_t row_stride,          \
                            uint64_t first, uint64_t count, uint32_t n_rows)                                 \
    {                                                                                                        \
        for (uint32_t r = 0; r < n_rows; r++) {                                                              \
            const elem *row = (const elem *)((const char *)rows + r * row_stride) + first;                   \
            for (uint64_t i = 0; i < count; i++)                                                             \
                dst[r * dst_stride + i] = to_f32(row[i]);                                                    \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    static void name##_score(float *scores, uint64_t score_stride, const float *q, uint64_t q_stride,        \
                             uint32_t n_q, const void *rows, uint64_t row_stride, uint64_t first,            \
                             uint64_t count, uint32_t n_rows)                                                \
    {                                                                                                        \
        for (uint32_t r = 0; r < n_rows; r++) {                                                              \
            const elem *row = (const elem *)((const char *)rows + r * row_stride) + first;                   \
            for (uint32_t h = 0; h < n_q; h++) {                                                             \
                float sum[2] = {0.0f, 0.0f};                                                                 \
                for (uint64_t i = 0; i < count; i++)                                                         \
                    sum[i & 1] += q[h * q_stride + i] * to_f32(row[i]);                                      \
                scores[h * score_stride + r] = sum[0] + sum[1];                                              \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    static void name##_accumulate(float *acc, uint64_t acc_stride, const float *p, uint64_t p_stride,        \
                                  uint32_t n_q, const void *rows, uint64_t row_stride, uint64_t first,       \
                                  uint64_t count, uint32_t n_rows)                                           \
    {                                                                                                        \
        for (uint32_t r = 0; r < n_rows; r++) {                                                              \
            const elem *row = (const elem *)((const char *)rows + r * row_stride) + first;                   \
            for (uint32_t h = 0; h < n_q; h++)                                                               \
                for (uint64_t i = 0; i < count; i++)                                                         \
                    acc[h * acc_stride + i] += p[h * p_stride + r] * to_f32(row[i]);                         \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    const struct sharpi_kv_cpu kv_##name##_c = {                                                             \
        .size = (uint32_t)sizeof(struct sharpi_kv_cpu),                                                      \
        .append = name##_append,                                                                             \
        .load = name##_load,                                                                                 \
        .score = name##_score,                                                                               \
        .accumulate = name##_accumulate,                                                                     \
    };

FLOAT_KERNELS_C(f32, float, same, same)
FLOAT_KERNELS_C(f16, uint16_t, f16_of_f32, f32_of_f16)
FLOAT_KERNELS_C(bf16, uint16_t, bf16_of_f32, f32_of_bf16)
