/* Activations into the int8 formats with AVX2: the same codes, scales and sums as act-quantize.c, bit for bit. */
#include "matmul-avx2.h"

/* max of |x|; a NaN in x stays (max takes its second operand if either is NaN, so the new value comes second
 * and a NaN already held is put back). */
INLINE __m256 max_abs(__m256 amax, __m256 x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 a = _mm256_andnot_ps(sign, x), larger = _mm256_max_ps(amax, a);
    return _mm256_blendv_ps(larger, amax, _mm256_cmp_ps(amax, amax, _CMP_UNORD_Q));
}

INLINE float max_lanes(__m256 v)
{
    float lanes[8], amax;
    _mm256_storeu_ps(lanes, v);
    amax = lanes[0];
    for (uint32_t i = 1; i < 8; i++)
        amax = amax != amax || lanes[i] <= amax ? amax : lanes[i];
    return amax;
}

INLINE __m256i codes_of_8(const float *src, __m256 inverse)
{
    const __m256 magic = _mm256_set1_ps(12582912.0f);
    __m256i v = _mm256_castps_si256(_mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(src), inverse), magic));
    return _mm256_srai_epi32(_mm256_slli_epi32(v, 24), 24);
}

/* Codes of 32 elements. */
INLINE __m256i codes_of_32(const float *src, float inverse)
{
    __m256 s = _mm256_set1_ps(inverse);
    __m256i low = _mm256_packs_epi32(codes_of_8(src, s), codes_of_8(src + 8, s));
    __m256i high = _mm256_packs_epi32(codes_of_8(src + 16, s), codes_of_8(src + 24, s));
    /* packing works in halves of 128 bits: put groups of four back in order */
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high),
                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* Sums of the 16 codes in each half. */
INLINE void sums_of_16(__m256i codes, int32_t sums[2])
{
    __m256i v = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), codes), _mm256_set1_epi16(1));
    v = _mm256_add_epi32(v, _mm256_shuffle_epi32(v, 0x4e));
    v = _mm256_add_epi32(v, _mm256_shuffle_epi32(v, 0xb1));
    sums[0] = _mm256_extract_epi32(v, 0);
    sums[1] = _mm256_extract_epi32(v, 4);
}

INLINE float amax_of(const float *src, uint32_t n)
{
    __m256 amax = _mm256_setzero_ps();
    for (uint32_t i = 0; i < n; i += 8)
        amax = max_abs(amax, _mm256_loadu_ps(src + i));
    return max_lanes(amax);
}

void act_quantize_q8_32_avx2(void *dst, const float *src, uint64_t n)
{
    float *d = (float *)act_scales(dst, n);
    int32_t *act_sums = (int32_t *)act_sums32(dst, n);
    for (uint64_t b = 0; b < n / 32; b++) {
        float amax = amax_of(src + 32 * b, 32);
        __m256i codes = _mm256_setzero_si256();
        int32_t sums[2];
        if (!(amax < 1e-30f))
            codes = codes_of_32(src + 32 * b, 127.0f / amax);
        d[b] = amax < 1e-30f ? 0 : amax / 127.0f;
        _mm256_storeu_si256((__m256i *)((uint8_t *)dst + 32 * b), codes);
        sums_of_16(codes, sums);
        act_sums[b] = sums[0] + sums[1];
    }
}

void act_quantize_q8_256_avx2(void *dst, const float *src, uint64_t n)
{
    float *d = (float *)act_scales(dst, n);
    int16_t *by_16 = (int16_t *)act_sums_by_16(dst, n), *by_32 = (int16_t *)act_sums_by_32(dst, n);
    for (uint64_t b = 0; b < n / 256; b++) {
        float amax = amax_of(src + 256 * b, 256), inverse = amax < 1e-30f ? 0 : 127.0f / amax;
        d[b] = amax < 1e-30f ? 0 : amax / 127.0f;
        for (uint64_t i = 8 * b; i < 8 * b + 8; i++) {
            __m256i codes = codes_of_32(src + 32 * i, inverse);
            int32_t sums[2];
            _mm256_storeu_si256((__m256i *)((uint8_t *)dst + 32 * i), codes);
            sums_of_16(codes, sums);
            by_16[2 * i] = (int16_t)sums[0];
            by_16[2 * i + 1] = (int16_t)sums[1];
            by_32[i] = (int16_t)(sums[0] + sums[1]);
        }
    }
}
