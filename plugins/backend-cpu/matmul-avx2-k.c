/* AVX2 products of the types with super-blocks of 256 columns: Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS.
 *
 * As in matmul-avx2-32.c, but widening an int16 sum multiplies it with its sub-block's integer scale, so that a whole
 * super-block is summed in int32 and scaled once. What the mins (or the codes' offset) contribute comes from the sums of
 * activations per sub-block: two sub-blocks per multiplication.
 */
#include "matmul-avx2.h"

struct traits_k {
    codes_fn codes;
    uint32_t block_bytes; /* codes of 32 columns in the packed layout */
    uint32_t depth;       /* column groups whose int16 sums may be added */
    int is_signed;
    uint32_t sub_size; /* 16 or 32 columns */
    int has_min;       /* else codes are off by `1 << offset_shift`, or by nothing if that is 0 */
    uint32_t offset_shift;
    enum scale_layout scales;
};

/* A slab's scales, made ready. Lanes are rows; int16 pairs in 32-bit lanes. */
struct k_scales {
    __m256i scale[16][2]; /* (s, s) per sub-block */
    __m256i factor[8][2]; /* per two sub-blocks: what their activation sums are multiplied with */
};

/* Byte i of each 32-bit lane as an int16 pair (i, i). */
INLINE __m256i pair_same(__m256i bytes, uint32_t i, int is_signed)
{
    const int c = (int)i, z = -128;
    __m128i order =
        is_signed ? _mm_set_epi8(c + 12, z, c + 12, z, c + 8, z, c + 8, z, c + 4, z, c + 4, z, c, z, c, z)
                  : _mm_set_epi8(z, c + 12, z, c + 12, z, c + 8, z, c + 8, z, c + 4, z, c + 4, z, c, z, c);
    __m256i v = _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(order));
    return is_signed ? _mm256_srai_epi16(v, 8) : v;
}

/* Bytes i and i + 1 of each 32-bit lane as an int16 pair. */
INLINE __m256i pair_next(__m256i bytes, uint32_t i, int is_signed)
{
    const int c = (int)i, e = c + 1, z = -128;
    __m128i order =
        is_signed ? _mm_set_epi8(e + 12, z, c + 12, z, e + 8, z, c + 8, z, e + 4, z, c + 4, z, e, z, c, z)
                  : _mm_set_epi8(z, e + 12, z, c + 12, z, e + 8, z, c + 8, z, e + 4, z, c + 4, z, e, z, c);
    __m256i v = _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(order));
    return is_signed ? _mm256_srai_epi16(v, 8) : v;
}

/* Four sub-blocks' scale bytes (and factor bytes) into place: sub-blocks 4q .. 4q + 3. */
INLINE void spread_scales(struct k_scales *out, __m256i scales, __m256i factors, uint32_t q, uint32_t half,
                          int is_signed, int has_factors)
{
    UNROLL for (uint32_t i = 0; i < 4; i++) out->scale[4 * q + i][half] = pair_same(scales, i, is_signed);
    if (!has_factors)
        return;
    UNROLL for (uint32_t i = 0; i < 2; i++) out->factor[2 * q + i][half] =
        pair_next(factors, 2 * i, is_signed);
}

INLINE void load_scales(struct traits_k q, struct k_scales *out, const uint8_t *p)
{
    UNROLL for (uint32_t h = 0; h < 2; h++)
    {
        if (q.scales == SCALES_6BIT) {
            const __m256i m6 = _mm256_set1_epi8(0x3f), m4 = _mm256_set1_epi8(0x0f),
                          m2 = _mm256_set1_epi8(0x30);
            __m256i a = load_256(p + 32 * h), b = load_256(p + 64 + 32 * h), c = load_256(p + 128 + 32 * h);
            __m256i scale_top = _mm256_and_si256(_mm256_srli_epi32(a, 2), m2);
            __m256i min_top = _mm256_and_si256(_mm256_srli_epi32(b, 2), m2);
            __m256i c_high = _mm256_and_si256(_mm256_srli_epi32(c, 4), m4);
            spread_scales(out, _mm256_and_si256(a, m6), _mm256_and_si256(b, m6), 0, h, 0, 1);
            spread_scales(out, _mm256_or_si256(_mm256_and_si256(c, m4), scale_top),
                          _mm256_or_si256(c_high, min_top), 1, h, 0, 1);
        } else {
            const uint32_t n_loads = q.sub_size == 16 ? 4 : 2;
            UNROLL for (uint32_t i = 0; i < n_loads; i++)
            {
                const __m256i m4 = _mm256_set1_epi8(0x0f);
                __m256i v = load_256(p + 64 * i + 32 * h);
                if (q.scales == SCALES_4BIT)
                    spread_scales(out, _mm256_and_si256(v, m4), _mm256_and_si256(_mm256_srli_epi16(v, 4), m4),
                                  i, h, 0, 1);
                else
                    spread_scales(out, v, v, i, h, 1, q.offset_shift != 0);
            }
        }
    }
}

/* The column groups first .. first + depth - 1 of a block, whose int16 sums may be added: sums += scale * their sum. Deep runs
 * keep a token's int16 sums while the codes pass; shallow ones keep the codes while the tokens pass. Either way some of the
 * values stay in registers, and the others are touched rarely. */
INLINE void sum_deep(struct traits_k q, uint32_t n_tokens, const uint8_t *codes, uint32_t first,
                     const uint8_t *const x[], uint64_t k, const __m256i scale[2], __m256i sums[][2])
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
    UNROLL for (uint32_t t = 0; t < n_tokens; t++) UNROLL for (uint32_t h = 0; h < 2; h++) sums[t][h] =
        _mm256_add_epi32(sums[t][h], _mm256_madd_epi16(pairs[t][h], scale[h]));
}

INLINE void sum_shallow(struct traits_k q, uint32_t n_tokens, const uint8_t *codes, uint32_t first,
                        const uint8_t *const x[], uint64_t k, const __m256i scale[2], __m256i sums[][2])
{
    __m256i w[2][2];
    UNROLL for (uint32_t i = 0; i < q.depth; i++) UNROLL for (uint32_t h = 0; h < 2; h++) w[i][h] =
        q.codes(codes, first + i, h);
    UNROLL for (uint32_t t = 0; t < n_tokens; t++)
    {
        const uint8_t *p = x[t] + k + 4 * first;
        UNROLL for (uint32_t h = 0; h < 2; h++)
        {
            __m256i pairs = multiply_pairs(w[0][h], broadcast_4_bytes(p), q.is_signed);
            if (q.depth == 2)
                pairs =
                    _mm256_add_epi16(pairs, multiply_pairs(w[1][h], broadcast_4_bytes(p + 4), q.is_signed));
            sums[t][h] = _mm256_add_epi32(sums[t][h], _mm256_madd_epi16(pairs, scale[h]));
            PIN(sums[t][h]);
        }
    }
}

/* sums[t][half] += scale * sum of code * activation over one block of 32 columns; *scale is the first sub-block's. */
INLINE void sum_block(struct traits_k q, uint32_t n_tokens, const uint8_t *codes, const uint8_t *const x[],
                      uint64_t k, const __m256i (*scale)[2], __m256i sums[][2])
{
    UNROLL for (uint32_t first = 0; first < 8; first += q.depth)
    {
        const __m256i *s = scale[4 * first / q.sub_size];
        if (q.depth > 2)
            sum_deep(q, n_tokens, codes, first, x, k, s, sums);
        else
            sum_shallow(q, n_tokens, codes, first, x, k, s, sums);
    }
}

/* sum over sub-blocks of factor * sum of activations, for one token. */
INLINE __m256i sum_factors(struct traits_k q, const struct slab_in *in, const uint8_t *x,
                           const struct k_scales *s, uint32_t half)
{
    uint32_t n_subs = 256 / q.sub_size;
    const int16_t *sums = q.sub_size == 16 ? act_sums_by_16(x, in->n_in) : act_sums_by_32(x, in->n_in);
    __m256i total = _mm256_setzero_si256();
    sums += in->k / q.sub_size;
    UNROLL for (uint32_t i = 0; i < n_subs / 2; i++) total =
        _mm256_add_epi32(total, _mm256_madd_epi16(s->factor[i][half], broadcast_4_bytes(sums + 2 * i)));
    return total;
}

INLINE void slab_k(struct traits_k q, uint32_t n_tokens, const uint8_t *header, const uint8_t *codes,
                   const struct slab_in *in, float *acc)
{
    struct k_scales s;
    const uint8_t *x[TILE_TOKENS];
    __m256i sums[TILE_TOKENS][2];
    load_scales(q, &s, header + (q.has_min ? 64 : 32));
    UNROLL for (uint32_t t = 0; t < n_tokens; t++)
    {
        x[t] = in->x[t] + in->k;
        UNROLL for (uint32_t h = 0; h < 2; h++)
        {
            sums[t][h] = _mm256_setzero_si256();
            if (q.offset_shift)
                sums[t][h] = _mm256_sub_epi32(
                    sums[t][h], _mm256_slli_epi32(sum_factors(q, in, in->x[t], &s, h), (int)q.offset_shift));
        }
    }
    for (uint32_t b = 0; b < 8; b++, codes += q.block_bytes)
        sum_block(q, n_tokens, codes, x, 32 * b, &s.scale[b * (32 / q.sub_size)], sums);
    UNROLL for (uint32_t h = 0; h < 2; h++)
    {
        __m256 wd = f16_to_ps(header + 16 * h), wmin = q.has_min ? f16_to_ps(header + 32 + 16 * h) : wd;
        UNROLL for (uint32_t t = 0; t < n_tokens; t++)
        {
            __m256 xd = _mm256_broadcast_ss(act_scales(in->x[t], in->n_in) + in->k / 256);
            __m256 total = _mm256_loadu_ps(acc + 16 * t + 8 * h);
            total = _mm256_fmadd_ps(_mm256_mul_ps(wd, xd), _mm256_cvtepi32_ps(sums[t][h]), total);
            if (q.has_min) {
                __m256 min_sum = _mm256_cvtepi32_ps(sum_factors(q, in, in->x[t], &s, h));
                total = _mm256_fnmadd_ps(_mm256_mul_ps(wmin, xd), min_sum, total);
            }
            _mm256_storeu_ps(acc + 16 * t + 8 * h, total);
        }
    }
}

#define KERNEL_K(type, ...) KERNEL(slab_k, struct traits_k, type, __VA_ARGS__)

/* load, bytes, depth, is_signed, sub_size, has_min, offset_shift, scales */
KERNEL_K(q2_k, codes_2bit, 128, 4, 0, 16, 1, 0, SCALES_4BIT)
KERNEL_K(q3_k, codes_3bit, 192, 4, 0, 16, 0, 2, SCALES_S8)
KERNEL_K(q4_k, codes_4bit, 256, 8, 0, 32, 1, 0, SCALES_6BIT)
KERNEL_K(q5_k, codes_5bit, 320, 4, 0, 32, 1, 0, SCALES_6BIT)
KERNEL_K(q6_k, codes_6bit, 384, 2, 0, 16, 0, 5, SCALES_S8)
KERNEL_K(iq4_xs, codes_iq4, 256, 1, 1, 32, 0, 0, SCALES_S8)
