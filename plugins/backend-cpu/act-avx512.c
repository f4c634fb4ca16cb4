/* Activations into the int8 formats with AVX-512: the same codes, scales and sums as act-quantize.c, bit for bit. */
#include "matmul-avx512.h"

/* max of |x|; if any of x is a NaN, so is the result. */
INLINE float amax_of(const float *src, uint32_t n)
{
    __m512 amax = _mm512_setzero_ps();
    __mmask16 nan = 0;
    UNROLL for (uint32_t i = 0; i < n; i += 16)
    {
        __m512 v = _mm512_loadu_ps(src + i);
        nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        amax = _mm512_max_ps(amax, _mm512_abs_ps(v));
    }
    return nan ? __builtin_nanf("") : _mm512_reduce_max_ps(amax);
}

/* Codes of 16 elements: x * inverse rounded to nearest even, its low byte. */
INLINE __m128i codes_of_16(const float *src, __m512 inverse)
{
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    __m512 shifted = _mm512_add_ps(_mm512_mul_ps(_mm512_loadu_ps(src), inverse), magic);
    return _mm512_cvtepi32_epi8(_mm512_castps_si512(shifted));
}

INLINE int32_t sum_of_16(__m128i codes)
{
    __m128i v = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), codes);
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1));
    return _mm_cvtsi128_si32(v);
}

/* Writes 16 codes, returns their sum. */
INLINE int32_t put_codes(uint8_t *dst, const float *src, __m512 inverse)
{
    __m128i codes = codes_of_16(src, inverse);
    _mm_storeu_si128((__m128i *)(void *)dst, codes);
    return sum_of_16(codes);
}

void act_quantize_q8_32_avx512(void *dst, const float *src, uint64_t n)
{
    float *d = (float *)act_scales(dst, n);
    int32_t *act_sums = (int32_t *)act_sums32(dst, n);
    for (uint64_t b = 0; b < n / 32; b++) {
        uint8_t *codes = (uint8_t *)dst + 32 * b;
        float amax = amax_of(src + 32 * b, 32);
        if (amax < 1e-30f) {
            memset(codes, 0, 32);
            d[b] = 0;
            act_sums[b] = 0;
            continue;
        }
        __m512 inverse = _mm512_set1_ps(127.0f / amax);
        d[b] = amax / 127.0f;
        act_sums[b] =
            put_codes(codes, src + 32 * b, inverse) + put_codes(codes + 16, src + 32 * b + 16, inverse);
    }
}

void act_quantize_q8_256_avx512(void *dst, const float *src, uint64_t n)
{
    float *d = (float *)act_scales(dst, n);
    int16_t *by_16 = (int16_t *)act_sums_by_16(dst, n), *by_32 = (int16_t *)act_sums_by_32(dst, n);
    for (uint64_t b = 0; b < n / 256; b++) {
        float amax = amax_of(src + 256 * b, 256);
        __m512 inverse = _mm512_set1_ps(amax < 1e-30f ? 0 : 127.0f / amax);
        d[b] = amax < 1e-30f ? 0 : amax / 127.0f;
        for (uint64_t i = 16 * b; i < 16 * b + 16; i++)
            by_16[i] = (int16_t)put_codes((uint8_t *)dst + 16 * i, src + 16 * i, inverse);
        for (uint64_t i = 8 * b; i < 8 * b + 8; i++)
            by_32[i] = (int16_t)(by_16[2 * i] + by_16[2 * i + 1]);
    }
}
