/* Peak loops with AVX-512: vpdpbusd, and FMA. */
#include <immintrin.h>

#include "measure.h"

/* The sums must live in registers whatever the optimisation level. */
#define UNROLL _Pragma("GCC unroll 16")

enum { CHAINS = 12 };

static uint32_t int8_avx512(uint32_t rounds)
{
    __m512i sum[CHAINS], total = _mm512_setzero_si512();
    const __m512i w = _mm512_set1_epi8(3);
    UNROLL for (int j = 0; j < CHAINS; j++) sum[j] = _mm512_set1_epi32(j);
    for (uint32_t i = 0; i < rounds; i++) {
        UNROLL for (int j = 0; j < CHAINS; j++) sum[j] = _mm512_dpbusd_epi32(sum[j], w, w);
    }
    UNROLL for (int j = 0; j < CHAINS; j++) total = _mm512_add_epi32(total, sum[j]);
    return (uint32_t)_mm512_reduce_add_epi32(total);
}

static uint32_t f32_avx512(uint32_t rounds)
{
    __m512 sum[CHAINS], total = _mm512_setzero_ps();
    const __m512 w = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
    UNROLL for (int j = 0; j < CHAINS; j++) sum[j] = _mm512_set1_ps((float)j);
    for (uint32_t i = 0; i < rounds; i++) {
        UNROLL for (int j = 0; j < CHAINS; j++) sum[j] = _mm512_fmadd_ps(sum[j], w, one);
    }
    UNROLL for (int j = 0; j < CHAINS; j++) total = _mm512_add_ps(total, sum[j]);
    return (uint32_t)_mm512_reduce_add_ps(total);
}

const struct measure_loops measure_loops_avx512 = {int8_avx512, f32_avx512, CHAINS * 128, CHAINS * 32};
