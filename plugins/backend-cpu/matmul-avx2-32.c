/* AVX2 products of the types with a scale per 32 columns: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4.
 *
 * A register holds 4 columns of 8 rows; the token's 4 activations are broadcast. Unsigned codes of up to 5 bits let several
 * int16 sums of pairs be added before they are widened (`depth` column groups: depth * 2 * code * 127 < 32768). Per token
 * and 32 columns of 16 rows: 16 multiplications of bytes, 16 / depth widenings, 2 scalings.
 */
#include "matmul-avx2.h"

struct traits_32 {
    codes_fn codes;
    uint32_t block_bytes; /* codes of 32 columns in the packed layout */
    uint32_t depth;
    int is_signed;
    int32_t offset; /* of unsigned codes: value = code - offset */
    int has_min, is_e8m0;
};

INLINE __m256 load_d(const uint8_t *d, uint64_t b, uint32_t half, int is_e8m0)
{
    if (!is_e8m0)
        return f16_to_ps(d + 32 * b + 16 * half);
    /* 2^(e - 128): the exponent field of e - 1, or one of two subnormals */
    __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(d + 16 * b + 8 * half)));
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, is_small));
}

/* By 8, 12 or 16. */
INLINE __m256i times(__m256i v, int32_t factor)
{
    __m256i eight = _mm256_slli_epi32(v, 3);
    if (factor == 8)
        return eight;
    return factor == 16 ? _mm256_slli_epi32(v, 4) : _mm256_add_epi32(eight, _mm256_slli_epi32(v, 2));
}

/* sums[t][half] = sum over the block's 32 columns of code * activation. */
INLINE void sum_block(struct traits_32 q, uint32_t n_tokens, const uint8_t *codes, const uint8_t *const x[],
                      uint64_t k, __m256i sums[][2])
{
    const __m256i ones = _mm256_set1_epi16(1);
    UNROLL for (uint32_t first = 0; first < 8; first += q.depth)
    {
        __m256i pairs[TILE_TOKENS][2];
        UNROLL for (uint32_t j = first; j < first + q.depth; j++)
        {
            __m256i w0 = q.codes(codes, j, 0), w1 = q.codes(codes, j, 1);
            UNROLL for (uint32_t t = 0; t < n_tokens; t++)
            {
                __m256i v = broadcast_4_bytes(x[t] + k + 4 * j);
                __m256i p0 = multiply_pairs(w0, v, q.is_signed), p1 = multiply_pairs(w1, v, q.is_signed);
                pairs[t][0] = j == first ? p0 : _mm256_add_epi16(pairs[t][0], p0);
                pairs[t][1] = j == first ? p1 : _mm256_add_epi16(pairs[t][1], p1);
                PIN(pairs[t][0]);
                PIN(pairs[t][1]);
            }
        }
        UNROLL for (uint32_t t = 0; t < n_tokens; t++) UNROLL for (uint32_t h = 0; h < 2; h++)
        {
            __m256i wide = _mm256_madd_epi16(pairs[t][h], ones);
            sums[t][h] = first == 0 ? wide : _mm256_add_epi32(sums[t][h], wide);
        }
    }
}

INLINE void slab_32(struct traits_32 q, uint32_t n_tokens, const uint8_t *header, const uint8_t *codes,
                    const struct slab_in *in, float *acc)
{
    const uint8_t *x[TILE_TOKENS];
    const float *d[TILE_TOKENS];
    const int32_t *act_sums[TILE_TOKENS];
    __m256 total[TILE_TOKENS][2];
    UNROLL for (uint32_t t = 0; t < n_tokens; t++)
    {
        x[t] = in->x[t] + in->k;
        d[t] = act_scales(in->x[t], in->n_in) + in->k / 32;
        act_sums[t] = act_sums32(in->x[t], in->n_in) + in->k / 32;
        UNROLL for (uint32_t h = 0; h < 2; h++) total[t][h] = _mm256_loadu_ps(acc + 16 * t + 8 * h);
    }
    for (uint64_t b = 0; b < in->nb; b++, codes += q.block_bytes) {
        __m256i sums[TILE_TOKENS][2];
        sum_block(q, n_tokens, codes, x, 32 * b, sums);
        __m256 wd[2], wmin[2];
        UNROLL for (uint32_t h = 0; h < 2; h++)
        {
            wd[h] = load_d(header, b, h, q.is_e8m0);
            wmin[h] = q.has_min ? f16_to_ps(header + 32 * (in->nb + b) + 16 * h) : wd[h];
        }
        UNROLL for (uint32_t t = 0; t < n_tokens; t++)
        {
            __m256 xd = _mm256_broadcast_ss(d[t] + b), min_factor = xd;
            __m256i x_sum = broadcast_4_bytes(act_sums[t] + b);
            if (q.has_min)
                min_factor = _mm256_mul_ps(xd, _mm256_cvtepi32_ps(x_sum));
            UNROLL for (uint32_t h = 0; h < 2; h++)
            {
                __m256i sum = sums[t][h];
                if (q.offset) /* sum (code - offset) * x = sum code * x - offset * sum x */
                    sum = _mm256_sub_epi32(sum, times(x_sum, q.offset));
                total[t][h] = _mm256_fmadd_ps(_mm256_mul_ps(wd[h], xd), _mm256_cvtepi32_ps(sum), total[t][h]);
                if (q.has_min)
                    total[t][h] = _mm256_fnmadd_ps(wmin[h], min_factor, total[t][h]);
            }
        }
    }
    UNROLL for (uint32_t t = 0; t < n_tokens; t++) UNROLL for (uint32_t h = 0; h < 2; h++)
        _mm256_storeu_ps(acc + 16 * t + 8 * h, total[t][h]);
}

#define KERNEL_32(type, ...) KERNEL(slab_32, struct traits_32, type, __VA_ARGS__)

/* load, bytes, depth, is_signed, offset, has_min, is_e8m0 */
KERNEL_32(q4_0, codes_4bit, 256, 8, 0, 8, 0, 0)
KERNEL_32(q4_1, codes_4bit, 256, 8, 0, 0, 1, 0)
KERNEL_32(q5_0, codes_5bit, 320, 4, 0, 16, 0, 0)
KERNEL_32(q5_1, codes_5bit, 320, 4, 0, 0, 1, 0)
KERNEL_32(mxfp4, codes_fp4, 256, 4, 0, 12, 0, 1)
KERNEL_32(iq4_nl, codes_iq4, 256, 1, 1, 0, 0, 0)

SLABS(slab_32, struct traits_32, q8_0, direct, codes_8bit, 512, 1, 1, 0, 0, 0)
const struct avx2_variant avx2_q8_0 = {
    .direct = {q8_0_direct1, q8_0_direct2, q8_0_direct3, q8_0_direct4},
    .n_direct = MATMUL_TOKENS,
};
