/* AVX-512 products of f32, f16 and bf16 weights with f32 activations, from the file's layout.
 *
 * A few tokens: rows are streamed four at a time; each lane sums every sixteenth column, and lanes are added at the end.
 * More tokens: 16 rows x 16 columns are converted and transposed into registers, so that lanes are rows, and all tokens
 * pass by them; every activation is broadcast. Either way FMAs of f32: splitting activations in two bf16 halves would take as
 * many VDPBF16PS as there are FMAs here.
 */
#include "matmul-avx512.h"

#define TILE_ROWS  4
#define FEW_TOKENS 6 /* 4 x 6 sums of 16 lanes, activations and a weight fill the registers */

typedef __m512 (*load_fn)(const uint8_t *row, uint64_t i, __mmask16 valid); /* columns i .. i + 15 */

INLINE __m512 load_f32(const uint8_t *row, uint64_t i, __mmask16 valid)
{
    return _mm512_maskz_loadu_ps(valid, row + 4 * i);
}

INLINE __m512 load_f16(const uint8_t *row, uint64_t i, __mmask16 valid)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(valid, row + 2 * i));
}

INLINE __m512 load_bf16(const uint8_t *row, uint64_t i, __mmask16 valid)
{
    __m512i v = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, row + 2 * i));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

INLINE __mmask16 first_columns(uint64_t n)
{
    return n < 16 ? (__mmask16)((1u << n) - 1) : 0xffff;
}

/* ---- Few tokens ---- */

/* sum[row][token] += columns i .. i + 15. */
INLINE void add_products(load_fn load, uint32_t n_tokens, const uint8_t *const w[], const uint8_t *const x[],
                         uint64_t i, __mmask16 valid, __m512 sum[][FEW_TOKENS])
{
    __m512 v[FEW_TOKENS];
    UNROLL for (uint32_t t = 0; t < n_tokens; t++) v[t] = load_f32(x[t], i, valid);
    UNROLL for (uint32_t r = 0; r < TILE_ROWS; r++)
    {
        __m512 a = load(w[r], i, valid);
        UNROLL for (uint32_t t = 0; t < n_tokens; t++) sum[r][t] = _mm512_fmadd_ps(a, v[t], sum[r][t]);
    }
}

/* Rows `row` .. + 3, of which those beyond the group's last stand for it and go to waste. */
INLINE void few_tokens_tile(load_fn load, uint32_t n_tokens, const struct matmul_call *c, uint32_t row)
{
    const uint8_t *w[TILE_ROWS];
    __m512 sum[TILE_ROWS][FEW_TOKENS];
    uint64_t i = 0;
    UNROLL for (uint32_t r = 0; r < TILE_ROWS; r++)
    {
        w[r] = c->w + (row + r < c->n_rows ? row + r : c->n_rows - 1) * c->row_bytes;
        UNROLL for (uint32_t t = 0; t < n_tokens; t++) sum[r][t] = _mm512_setzero_ps();
    }
    for (; i + 16 <= c->n_in; i += 16)
        add_products(load, n_tokens, w, c->x, i, 0xffff, sum);
    if (i < c->n_in)
        add_products(load, n_tokens, w, c->x, i, first_columns(c->n_in - i), sum);
    UNROLL for (uint32_t r = 0; r < TILE_ROWS; r++) UNROLL for (uint32_t t = 0; t < n_tokens; t++)
        c->acc[t * MATMUL_GROUP + row + r] += _mm512_reduce_add_ps(sum[r][t]);
}

INLINE void few_tokens(load_fn load, const struct matmul_call *c)
{
    for (uint32_t row = 0; row < c->n_rows; row += TILE_ROWS)
        switch (c->n_tokens) {
        case 1:
            few_tokens_tile(load, 1, c, row);
            break;
        case 2:
            few_tokens_tile(load, 2, c, row);
            break;
        case 3:
            few_tokens_tile(load, 3, c, row);
            break;
        case 4:
            few_tokens_tile(load, 4, c, row);
            break;
        case 5:
            few_tokens_tile(load, 5, c, row);
            break;
        default:
            few_tokens_tile(load, 6, c, row);
        }
}

/* ---- Many tokens ---- */

/* v[i] lane j becomes v[j] lane i. */
INLINE void transpose(__m512 v[16])
{
    __m512 a[16];
    UNROLL for (uint32_t i = 0; i < 16; i += 2) /* pairs of rows */
    {
        a[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
    UNROLL for (uint32_t i = 0; i < 16;
                i += 4) /* v[i + c] holds, of rows i .. i + 3, the columns 4q + c in quarter q */
    {
        __m512d p0 = _mm512_castps_pd(a[i]), p1 = _mm512_castps_pd(a[i + 1]), p2 = _mm512_castps_pd(a[i + 2]),
                p3 = _mm512_castps_pd(a[i + 3]);
        v[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(p0, p2));
        v[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(p0, p2));
        v[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(p1, p3));
        v[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(p1, p3));
    }
    UNROLL for (uint32_t c = 0; c < 4; c++) /* quarters of eight rows */
    {
        a[c] = _mm512_shuffle_f32x4(v[c], v[c + 4], 0x88);
        a[c + 4] = _mm512_shuffle_f32x4(v[c], v[c + 4], 0xdd);
        a[c + 8] = _mm512_shuffle_f32x4(v[c + 8], v[c + 12], 0x88);
        a[c + 12] = _mm512_shuffle_f32x4(v[c + 8], v[c + 12], 0xdd);
    }
    UNROLL for (uint32_t c = 0; c < 4; c++)
    {
        v[c] = _mm512_shuffle_f32x4(a[c], a[c + 8], 0x88);
        v[c + 8] = _mm512_shuffle_f32x4(a[c], a[c + 8], 0xdd);
        v[c + 4] = _mm512_shuffle_f32x4(a[c + 4], a[c + 12], 0x88);
        v[c + 12] = _mm512_shuffle_f32x4(a[c + 4], a[c + 12], 0xdd);
    }
}

/* Adds columns of one token; x points to sixteen of them. Their products are summed apart, for fewer roundings of the
 * long sum. */
INLINE void add_columns(const __m512 w[16], const float *x, float *acc)
{
    __m512 sum = _mm512_mul_ps(w[0], _mm512_set1_ps(x[0]));
    UNROLL for (uint32_t i = 1; i < 16; i++) sum = _mm512_fmadd_ps(w[i], _mm512_set1_ps(x[i]), sum);
    _mm512_storeu_ps(acc, _mm512_add_ps(_mm512_loadu_ps(acc), sum));
}

INLINE void load_columns(load_fn load, const struct matmul_call *c, uint64_t k, __mmask16 valid, __m512 w[16])
{
    UNROLL for (uint32_t r = 0; r < 16; r++)
    {
        uint32_t row = r < c->n_rows ? r : c->n_rows - 1;
        w[r] = load(c->w + row * c->row_bytes, k, valid);
    }
    transpose(w);
}

INLINE void many_tokens(load_fn load, const struct matmul_call *c)
{
    __m512 w[16];
    uint64_t k = 0;
    for (; k + 16 <= c->n_in; k += 16) {
        load_columns(load, c, k, 0xffff, w);
        for (uint32_t t = 0; t < c->n_tokens; t++)
            add_columns(w, (const float *)(const void *)c->x[t] + k, c->acc + t * MATMUL_GROUP);
    }
    if (k == c->n_in)
        return;
    __mmask16 valid = first_columns(c->n_in - k);
    load_columns(load, c, k, valid, w);
    for (uint32_t t = 0; t < c->n_tokens; t++) {
        float x[16];
        _mm512_storeu_ps(x, load_f32(c->x[t], k, valid));
        add_columns(w, x, c->acc + t * MATMUL_GROUP);
    }
}

/* ---- By type. Always whole rows: float matrices are never cut into slabs. ---- */

#define FLOAT_TYPE(type)                                                                                     \
    static void few_##type(const struct matmul_call *c)                                                      \
    {                                                                                                        \
        few_tokens(load_##type, c);                                                                          \
    }                                                                                                        \
    static void many_##type(const struct matmul_call *c)                                                     \
    {                                                                                                        \
        many_tokens(load_##type, c);                                                                         \
    }
FLOAT_TYPE(f32)
FLOAT_TYPE(f16)
FLOAT_TYPE(bf16)

void avx512_multiply_float(const struct matmul_kernel *kernel, const struct matmul_call *call)
{
    int few = call->n_tokens <= FEW_TOKENS;
    if (kernel->type == SHARPI_TYPE_F32)
        (few ? few_f32 : many_f32)(call);
    else if (kernel->type == SHARPI_TYPE_F16)
        (few ? few_f16 : many_f16)(call);
    else
        (few ? few_bf16 : many_bf16)(call);
}
