/* q8_0 in plain C: the reference, for any head_dim. */
#include "q8_0.h"

/* |x| limited, NaN as 0. */
static float limited(float x)
{
    if (x != x)
        return 0.0f;
    return x > Q8_0_LIMIT ? Q8_0_LIMIT : x < -Q8_0_LIMIT ? -Q8_0_LIMIT : x;
}

/* To the nearest integer, ties to even, for |x| < 2^22: the sum has no bits left for a fraction. */
static float rounded(float x)
{
    const float magic = 12582912.0f;
    return (x + magic) - magic;
}

static void encode_block(struct q8_0_block *block, const float *src)
{
    float amax = 0.0f, inverse;

    for (uint32_t i = 0; i < Q8_0_ELEMS; i++) {
        const float x = limited(src[i]), magnitude = x < 0.0f ? -x : x;
        amax = magnitude > amax ? magnitude : amax;
    }
    block->scale = q8_0_scale(amax);
    inverse = q8_0_inverse(block->scale);
    for (uint32_t i = 0; i < Q8_0_ELEMS; i++) {
        const float q = rounded(limited(src[i]) * inverse);
        block->q[i] = (int8_t)(q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q);
    }
}

void q8_0_encode_row(void *row, const float *src, uint64_t n)
{
    struct q8_0_block *blocks = row;
    for (uint64_t i = 0; i < n / Q8_0_ELEMS; i++)
        encode_block(&blocks[i], src + i * Q8_0_ELEMS);
}

void q8_0_decode_part(const void *row, uint64_t first, uint64_t count, float *dst)
{
    const struct q8_0_block *blocks = row;
    uint64_t i = 0;

    while (i < count) {
        const struct q8_0_block *block = &blocks[(first + i) / Q8_0_ELEMS];
        const float scale = f32_of_f16(block->scale);
        for (uint64_t j = (first + i) % Q8_0_ELEMS; j < Q8_0_ELEMS && i < count; j++)
            dst[i++] = scale * (float)block->q[j];
    }
}

static void q8_0_load(float *dst, uint64_t dst_stride, const void *rows, uint64_t row_stride, uint64_t first,
                      uint64_t count, uint32_t n_rows)
{
    for (uint32_t r = 0; r < n_rows; r++)
        q8_0_decode_part((const char *)rows + r * row_stride, first, count, dst + r * dst_stride);
}

static void q8_0_score(float *scores, uint64_t score_stride, const float *q, uint64_t q_stride, uint32_t n_q,
                       const void *rows, uint64_t row_stride, uint64_t first, uint64_t count, uint32_t n_rows)
{
    for (uint32_t r = 0; r < n_rows; r++) {
        for (uint32_t h = 0; h < n_q; h++)
            scores[h * score_stride + r] = 0.0f;
        for (uint64_t i = 0; i < count; i += Q8_0_ELEMS) {
            float x[Q8_0_ELEMS];
            const uint32_t n = count - i < Q8_0_ELEMS ? (uint32_t)(count - i) : Q8_0_ELEMS;
            q8_0_decode_part((const char *)rows + r * row_stride, first + i, n, x);
            for (uint32_t h = 0; h < n_q; h++) {
                float sum = 0.0f;
                for (uint32_t j = 0; j < n; j++)
                    sum += q[h * q_stride + i + j] * x[j];
                scores[h * score_stride + r] += sum;
            }
        }
    }
}

static void q8_0_accumulate(float *acc, uint64_t acc_stride, const float *p, uint64_t p_stride, uint32_t n_q,
                            const void *rows, uint64_t row_stride, uint64_t first, uint64_t count,
                            uint32_t n_rows)
{
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint64_t i = 0; i < count; i += Q8_0_ELEMS) {
            float x[Q8_0_ELEMS];
            const uint32_t n = count - i < Q8_0_ELEMS ? (uint32_t)(count - i) : Q8_0_ELEMS;
            q8_0_decode_part((const char *)rows + r * row_stride, first + i, n, x);
            for (uint32_t h = 0; h < n_q; h++)
                for (uint32_t j = 0; j < n; j++)
                    acc[h * acc_stride + i + j] += p[h * p_stride + r] * x[j];
        }
}

const struct sharpi_kv_cpu kv_q8_0_c = {
    .size = (uint32_t)sizeof(struct sharpi_kv_cpu),
    .append = q8_0_encode_row,
    .load = q8_0_load,
    .score = q8_0_score,
    .accumulate = q8_0_accumulate,
};
