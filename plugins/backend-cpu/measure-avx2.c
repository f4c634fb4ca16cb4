/* Peak loops with AVX2: vpmaddubsw + vpmaddwd + vpaddd, and FMA. */
#include <immintrin.h>

#include "measure.h"

/* The sums must live in registers whatever the optimisation level. */
#define UNROLL _Pragma("GCC unroll 16")

enum { CHAINS = 10 }; /* enough independent sums to hide the latency */

static uint32_t int8_avx2(uint32_t rounds)
{
    __m256i sum[CHAINS], total = _mm256_setzero_si256();
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i w = _mm256_set1_epi8(3);
    UNROLL for (int j = 0; j < CHAINS; j++) sum[j] = _mm256_set1_epi32(j);
    for (uint32_t i = 0; i < rounds; i++) {
        UNROLL for (int j = 0; j < CHAINS; j++)
        {
            __asm__ volatile("" : "+x"(w)); /* or the product would be computed once */
            sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(_mm256_maddubs_epi16(w, w), ones));
        }
    }
    UNROLL for (int j = 0; j < CHAINS; j++) total = _mm256_add_epi32(total, sum[j]);
    return (uint32_t)_mm256_extract_epi32(total, 0);
}

static uint32_t f32_avx2(uint32_t rounds)
{
    __m256 sum[CHAINS], total = _mm256_setzero_ps();
    const __m256 w = _mm256_set1_ps(0.5f), one = _mm256_set1_ps(1.0f);
    UNROLL for (int j = 0; j < CHAINS; j++) sum[j] = _mm256_set1_ps((float)j);
    for (uint32_t i = 0; i < rounds; i++) {
        UNROLL for (int j = 0; j < CHAINS; j++) sum[j] = _mm256_fmadd_ps(sum[j], w, one);
    }
    UNROLL for (int j = 0; j < CHAINS; j++) total = _mm256_add_ps(total, sum[j]);
    return (uint32_t)_mm256_cvtss_f32(total);
}

const struct measure_loops measure_loops_avx2 = {int8_avx2, f32_avx2, CHAINS * 64, CHAINS * 16};
