/* AVX-512 products of the types with a scale per 32 columns: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4.
 *
 * Per token and 32 columns of 16 rows: 8 multiplications of bytes and 3 operations (with mins 4) to scale and add their sum.
 */
#include "matmul-avx512.h"

struct traits_32 {
    codes_fn codes;
    uint32_t block_bytes; /* codes of 32 columns in the packed layout */
    int32_t offset;       /* value = code - offset */
    int has_min, is_e8m0;
};

/* One token's part in a slab, per 32 columns. */
struct token_32 {
    float d[8];
    union {
        int32_t start[8]; /* -offset * sum of activations: what a sum of codes begins with */
        float d_sum[8];   /* with mins: d * sum of activations */
    };
};

INLINE void prepare_tokens(struct traits_32 q, const struct slab_in *in, struct token_32 *out)
{
    __mmask8 valid = (__mmask8)((1u << in->nb) - 1);
    for (uint32_t t = 0; t < in->n_tokens; t++) {
        __m256 d = _mm256_maskz_loadu_ps(valid, act_scales(in->x[t], in->n_in) + in->k / 32);
        __m256i sums = _mm256_maskz_loadu_epi32(valid, act_sums32(in->x[t], in->n_in) + in->k / 32);
        _mm256_storeu_ps(out[t].d, d);
        if (q.has_min)
            _mm256_storeu_ps(out[t].d_sum, _mm256_mul_ps(d, _mm256_cvtepi32_ps(sums)));
        else
            _mm256_storeu_si256((__m256i *)(void *)out[t].start,
                                _mm256_mullo_epi32(sums, _mm256_set1_epi32(-q.offset)));
    }
}

INLINE __m512 load_d(const uint8_t *d, uint64_t b, int is_e8m0)
{
    if (!is_e8m0)
        return f16_to_ps(d + 32 * b);
    /* 2^(e - 128): the exponent field of e - 1, or one of two subnormals */
    __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(d + 16 * b)));
    __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __m512i subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    __mmask16 is_small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_small, subnormal));
}

/* The slab's blocks b .. b + n - 1 of 32 columns, for all tokens. */
INLINE void multiply_blocks(struct traits_32 q, uint32_t n, const struct slab_in *in, uint64_t b,
                            const struct token_32 *tokens)
{
    const uint8_t *codes = in->w + (q.is_e8m0 ? 16 : q.has_min ? 64 : 32) * in->nb + b * q.block_bytes;
    __m512i w[2][8];
    __m512 wd[2], wmin[2];
    UNROLL for (uint32_t i = 0; i < n; i++)
    {
        UNROLL for (uint32_t j = 0; j < 8; j++) w[i][j] = q.codes(codes + i * q.block_bytes, j);
        wd[i] = load_d(in->w, b + i, q.is_e8m0);
        wmin[i] = q.has_min ? f16_to_ps(in->w + 32 * (in->nb + b + i)) : wd[i];
    }
    for (uint32_t t = 0; t < in->n_tokens; t++) {
        const uint8_t *x = in->x[t] + in->k + 32 * b;
        OPAQUE(x);
        __m512 total = _mm512_loadu_ps(in->acc + 16 * t);
        UNROLL for (uint32_t i = 0; i < n; i++)
        {
            __m512i start = q.offset ? _mm512_set1_epi32(tokens[t].start[b + i]) : _mm512_setzero_si512();
            __m512i sum = sum_codes(start, w[i], x + 32 * i, 8);
            __m512 d = _mm512_mul_ps(wd[i], _mm512_set1_ps(tokens[t].d[b + i]));
            total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), d, total);
            if (q.has_min)
                total = _mm512_fnmadd_ps(wmin[i], _mm512_set1_ps(tokens[t].d_sum[b + i]), total);
        }
        _mm512_storeu_ps(in->acc + 16 * t, total);
    }
}

INLINE void slab_32(struct traits_32 q, const struct slab_in *in)
{
    struct token_32 tokens[MATMUL_TOKENS];
    uint64_t b = 0;
    prepare_tokens(q, in, tokens);
    for (; b + 2 <= in->nb; b += 2)
        multiply_blocks(q, 2, in, b, tokens);
    if (b < in->nb)
        multiply_blocks(q, 1, in, b, tokens);
}

#define KERNEL_32(type, ...)                                                                                 \
    static void type##_slab(const struct slab_in *in)                                                        \
    {                                                                                                        \
        slab_32((struct traits_32){__VA_ARGS__}, in);                                                        \
    }                                                                                                        \
    const struct avx512_variant avx512_##type = {type##_slab};

/* codes, block_bytes, offset, has_min, is_e8m0 */
KERNEL_32(q4_0, codes_4bit, 256, 8, 0, 0)
KERNEL_32(q4_1, codes_4bit, 256, 0, 1, 0)
KERNEL_32(q5_0, codes_5bit, 320, 16, 0, 0)
KERNEL_32(q5_1, codes_5bit, 320, 0, 1, 0)
KERNEL_32(q8_0, codes_8bit, 512, 128, 0, 0)
KERNEL_32(iq4_nl, codes_iq4, 256, 128, 0, 0)
KERNEL_32(mxfp4, codes_fp4, 256, 12, 0, 1)
