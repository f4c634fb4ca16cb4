/* AVX-512 products of the types with super-blocks of 256 columns: Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS.
 *
 * As in matmul-avx512-32.c, but the int32 sum of a sub-block is multiplied with its integer scale as float, into a sum
 * over the super-block that is scaled once. That sum stays below 2^24, so is exact, for all but the largest codes. Per
 * token and 32 columns of 16 rows: 8 multiplications of bytes and 2 (sub-blocks of 16: 4) operations for scales.
 */
#include "matmul-avx512.h"

struct traits_k {
    codes_fn codes;
    uint32_t block_bytes; /* codes of 32 columns in the packed layout */
    uint32_t sub_size;    /* 16 or 32 columns */
    int has_min;
    int32_t offset; /* value = code - offset */
    enum scale_layout scales;
};

/* What a slab needs beside its codes. Lanes are rows. */
struct slab_k {
    __m512 scale[16];                 /* per sub-block */
    __m512i min[8];                   /* int16 pairs: the mins of two sub-blocks */
    __m512 sum[MATMUL_TOKENS];        /* over sub-blocks: scale * sum of code * activation */
    int32_t start[MATMUL_TOKENS][16]; /* per sub-block: -offset * sum of activations */
};

/* Byte i of each 32-bit lane as float. */
INLINE __m512 scale_to_ps(__m512i bytes, uint32_t i, int is_signed)
{
    if (is_signed)
        bytes = _mm512_srai_epi32(_mm512_slli_epi32(bytes, 24 - 8 * i), 24);
    else
        bytes = _mm512_and_si512(_mm512_srli_epi32(bytes, 8 * i), _mm512_set1_epi32(255));
    return _mm512_cvtepi32_ps(bytes);
}

/* Bytes i and i + 1 of each 32-bit lane as an int16 pair; unsigned. */
INLINE __m512i pair_of_bytes(__m512i bytes, uint32_t i)
{
    const int a = (int)i, b = a + 1, z = -128;
    __m128i order = _mm_set_epi8(z, b + 12, z, a + 12, z, b + 8, z, a + 8, z, b + 4, z, a + 4, z, b, z, a);
    return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(order));
}

/* Four sub-blocks 4q .. 4q + 3. */
INLINE void spread_scales(struct slab_k *s, uint32_t q, __m512i scales, __m512i mins, int is_signed,
                          int has_min)
{
    UNROLL for (uint32_t i = 0; i < 4; i++) s->scale[4 * q + i] = scale_to_ps(scales, i, is_signed);
    if (!has_min)
        return;
    s->min[2 * q] = pair_of_bytes(mins, 0);
    s->min[2 * q + 1] = pair_of_bytes(mins, 2);
}

INLINE void load_scales(struct traits_k q, struct slab_k *s, const uint8_t *p)
{
    const __m512i m6 = _mm512_set1_epi8(0x3f), m4 = _mm512_set1_epi8(0x0f), m2 = _mm512_set1_epi8(0x30);
    if (q.scales == SCALES_6BIT) {
        __m512i a = load_512(p), b = load_512(p + 64), c = load_512(p + 128);
        __m512i scale_top = _mm512_and_si512(_mm512_srli_epi32(a, 2), m2);
        __m512i min_top = _mm512_and_si512(_mm512_srli_epi32(b, 2), m2);
        __m512i c_high = _mm512_and_si512(_mm512_srli_epi32(c, 4), m4);
        spread_scales(s, 0, _mm512_and_si512(a, m6), _mm512_and_si512(b, m6), 0, 1);
        spread_scales(s, 1, _mm512_or_si512(_mm512_and_si512(c, m4), scale_top),
                      _mm512_or_si512(c_high, min_top), 0, 1);
        return;
    }
    UNROLL for (uint32_t i = 0; i < 64 / q.sub_size; i++)
    {
        __m512i v = load_512(p + 64 * i);
        if (q.scales == SCALES_4BIT)
            spread_scales(s, i, _mm512_and_si512(v, m4), _mm512_and_si512(_mm512_srli_epi32(v, 4), m4), 0, 1);
        else
            spread_scales(s, i, v, v, 1, 0);
    }
}

INLINE void begin_tokens(struct traits_k q, const struct slab_in *in, struct slab_k *s)
{
    for (uint32_t t = 0; t < in->n_tokens; t++) {
        const uint8_t *x = in->x[t];
        s->sum[t] = _mm512_setzero_ps();
        if (!q.offset)
            continue;
        if (q.sub_size == 16) {
            __m256i sums = _mm256_loadu_si256((const __m256i *)(act_sums_by_16(x, in->n_in) + in->k / 16));
            _mm512_storeu_si512(
                s->start[t], _mm512_mullo_epi32(_mm512_cvtepi16_epi32(sums), _mm512_set1_epi32(-q.offset)));
        } else {
            __m128i sums = _mm_loadu_si128((const __m128i *)(act_sums_by_32(x, in->n_in) + in->k / 32));
            _mm256_storeu_si256(
                (__m256i *)(void *)s->start[t],
                _mm256_mullo_epi32(_mm256_cvtepi16_epi32(sums), _mm256_set1_epi32(-q.offset)));
        }
    }
}

/* Columns 64 i .. 64 i + 63 of the slab, for all tokens. */
INLINE void multiply_columns(struct traits_k q, const struct slab_in *in, const uint8_t *codes, uint32_t i,
                             struct slab_k *s)
{
    const uint32_t n_subs = 64 / q.sub_size, per_sub = q.sub_size / 4;
    __m512i w[16];
    __m512 scale[4];
    codes += 2 * i * q.block_bytes;
    UNROLL for (uint32_t j = 0; j < 16; j++) w[j] = q.codes(codes + (j >> 3) * q.block_bytes, j & 7);
    UNROLL for (uint32_t k = 0; k < 4; k++) if (k < n_subs) scale[k] = s->scale[n_subs * i + k];
    for (uint32_t t = 0; t < in->n_tokens; t++) {
        const uint8_t *x = in->x[t] + in->k + 64 * i;
        OPAQUE(x);
        __m512 total = s->sum[t];
        UNROLL for (uint32_t k = 0; k < 4; k++) if (k < n_subs)
        {
            __m512i start =
                q.offset ? _mm512_set1_epi32(s->start[t][n_subs * i + k]) : _mm512_setzero_si512();
            __m512i sum = sum_codes(start, w + k * per_sub, x + k * q.sub_size, per_sub);
            total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale[k], total);
        }
        s->sum[t] = total;
    }
}

/* acc += d * xd * sum, and what the mins take away. */
INLINE void end_tokens(struct traits_k q, const struct slab_in *in, const struct slab_k *s)
{
    __m512 d = f16_to_ps(in->w), dmin = q.has_min ? f16_to_ps(in->w + 32) : d;
    for (uint32_t t = 0; t < in->n_tokens; t++) {
        const uint8_t *x = in->x[t];
        const int16_t *sums = q.sub_size == 16 ? act_sums_by_16(x, in->n_in) : act_sums_by_32(x, in->n_in);
        __m512 xd = _mm512_set1_ps(act_scales(x, in->n_in)[in->k / 256]);
        __m512 total = _mm512_loadu_ps(in->acc + 16 * t);
        total = _mm512_fmadd_ps(_mm512_mul_ps(d, xd), s->sum[t], total);
        if (q.has_min) {
            __m512i min_sum = _mm512_setzero_si512();
            sums += in->k / q.sub_size;
            UNROLL for (uint32_t i = 0; i < 8; i++) if (i < 128 / q.sub_size) min_sum =
                _mm512_dpwssd_epi32(min_sum, s->min[i], broadcast_4_bytes(sums + 2 * i));
            total = _mm512_fnmadd_ps(_mm512_mul_ps(dmin, xd), _mm512_cvtepi32_ps(min_sum), total);
        }
        _mm512_storeu_ps(in->acc + 16 * t, total);
    }
}

INLINE void slab_k(struct traits_k q, const struct slab_in *in)
{
    struct slab_k s;
    uint32_t scale_bytes = q.scales == SCALES_6BIT ? 192 : 4096 / q.sub_size;
    const uint8_t *scales = in->w + (q.has_min ? 64 : 32), *codes = scales + scale_bytes;
    load_scales(q, &s, scales);
    begin_tokens(q, in, &s);
    for (uint32_t i = 0; i < 4; i++)
        multiply_columns(q, in, codes, i, &s);
    end_tokens(q, in, &s);
}

#define KERNEL_K(type, ...)                                                                                  \
    static void type##_slab(const struct slab_in *in)                                                        \
    {                                                                                                        \
        slab_k((struct traits_k){__VA_ARGS__}, in);                                                          \
    }                                                                                                        \
    const struct avx512_variant avx512_##type = {type##_slab};

/* codes, block_bytes, sub_size, has_min, offset, scales */
KERNEL_K(q2_k, codes_2bit, 128, 16, 1, 0, SCALES_4BIT)
KERNEL_K(q3_k, codes_3bit, 192, 16, 0, 4, SCALES_S8)
KERNEL_K(q4_k, codes_4bit, 256, 32, 1, 0, SCALES_6BIT)
KERNEL_K(q5_k, codes_5bit, 320, 32, 1, 0, SCALES_6BIT)
KERNEL_K(q6_k, codes_6bit, 384, 16, 0, 32, SCALES_S8)
KERNEL_K(iq4_xs, codes_iq4, 256, 32, 0, 128, SCALES_S8)
