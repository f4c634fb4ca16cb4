/* AVX2 products of f32, f16 and bf16 weights with f32 activations, from the file's layout: streaming four rows at a time
 * is as fast as memory, and packing would only copy. Each lane sums every eighth column; lanes are added at the end.
 */
#include "matmul-avx2.h"

#define TILE_ROWS 4

typedef __m256 (*load_fn)(const uint8_t *row, uint64_t i); /* columns i .. i + 7 */
typedef float (*load_one_fn)(const uint8_t *row, uint64_t i);

INLINE __m256 load_f32(const uint8_t *row, uint64_t i)
{
    return _mm256_loadu_ps((const float *)(const void *)(row + 4 * i));
}

INLINE __m256 load_f16(const uint8_t *row, uint64_t i)
{
    return f16_to_ps(row + 2 * i);
}

INLINE __m256 load_bf16(const uint8_t *row, uint64_t i)
{
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(row + 2 * i)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}

INLINE float load_one_f32(const uint8_t *row, uint64_t i)
{
    float f;
    memcpy(&f, row + 4 * i, sizeof f);
    return f;
}

INLINE float load_one_f16(const uint8_t *row, uint64_t i)
{
    uint16_t bits;
    memcpy(&bits, row + 2 * i, sizeof bits);
    return _cvtsh_ss(bits);
}

INLINE float load_one_bf16(const uint8_t *row, uint64_t i)
{
    uint16_t bits;
    memcpy(&bits, row + 2 * i, sizeof bits);
    return bf16_to_f32(bits);
}

INLINE float sum_lanes(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* n_rows x n_tokens products; `chains` independent sums hide the latency of an FMA when the tile is small. */
INLINE void tile(load_fn load, load_one_fn load_one, uint32_t n_rows, uint32_t n_tokens, uint32_t chains,
                 const struct matmul_call *c, uint32_t row, uint32_t token)
{
    const uint8_t *w[TILE_ROWS];
    const float *x[3];
    __m256 sum[TILE_ROWS][3][2];
    uint64_t i = 0;
    UNROLL for (uint32_t r = 0; r < n_rows; r++)
    {
        w[r] = c->w + (row + r) * c->row_bytes;
        UNROLL for (uint32_t t = 0; t < n_tokens; t++) UNROLL for (uint32_t u = 0; u < chains; u++)
            sum[r][t][u] = _mm256_setzero_ps();
    }
    UNROLL for (uint32_t t = 0; t < n_tokens; t++) x[t] = (const float *)(const void *)c->x[token + t];
    for (; i + 8 * chains <= c->n_in; i += 8 * chains) {
        UNROLL for (uint32_t u = 0; u < chains; u++)
        {
            __m256 v[3];
            UNROLL for (uint32_t t = 0; t < n_tokens; t++) v[t] = _mm256_loadu_ps(x[t] + i + 8 * u);
            UNROLL for (uint32_t r = 0; r < n_rows; r++)
            {
                __m256 a = load(w[r], i + 8 * u);
                UNROLL for (uint32_t t = 0; t < n_tokens; t++) sum[r][t][u] =
                    _mm256_fmadd_ps(a, v[t], sum[r][t][u]);
            }
        }
    }
    UNROLL for (uint32_t r = 0; r < n_rows; r++) UNROLL for (uint32_t t = 0; t < n_tokens; t++)
    {
        float total = sum_lanes(chains == 2 ? _mm256_add_ps(sum[r][t][0], sum[r][t][1]) : sum[r][t][0]);
        for (uint64_t k = i; k < c->n_in; k++)
            total += load_one(w[r], k) * x[t][k];
        c->acc[(token + t) * MATMUL_GROUP + row + r] += total;
    }
}

INLINE void rows(load_fn load, load_one_fn load_one, uint32_t n_rows, const struct matmul_call *c,
                 uint32_t row)
{
    uint32_t t = 0;
    for (; t + 3 <= c->n_tokens; t += 3)
        tile(load, load_one, n_rows, 3, 1, c, row, t);
    if (c->n_tokens - t == 2)
        tile(load, load_one, n_rows, 2, 1, c, row, t);
    else if (c->n_tokens - t == 1)
        tile(load, load_one, n_rows, 1, 2, c, row, t);
}

INLINE void group(load_fn load, load_one_fn load_one, const struct matmul_call *c)
{
    uint32_t row = 0;
    for (; row + TILE_ROWS <= c->n_rows; row += TILE_ROWS)
        rows(load, load_one, TILE_ROWS, c, row);
    for (; row < c->n_rows; row++)
        rows(load, load_one, 1, c, row);
}

static void multiply_f32(const struct matmul_call *c)
{
    group(load_f32, load_one_f32, c);
}

static void multiply_f16(const struct matmul_call *c)
{
    group(load_f16, load_one_f16, c);
}

static void multiply_bf16(const struct matmul_call *c)
{
    group(load_bf16, load_one_bf16, c);
}

/* Always whole rows: float matrices are never cut into slabs. */
void avx2_multiply_float(const struct matmul_kernel *kernel, const struct matmul_call *call)
{
    if (kernel->type == SHARPI_TYPE_F32)
        multiply_f32(call);
    else if (kernel->type == SHARPI_TYPE_F16)
        multiply_f16(call);
    else
        multiply_bf16(call);
}
