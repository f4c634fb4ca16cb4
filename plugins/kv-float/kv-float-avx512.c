/* Kernels of the float formats for AVX-512. */
#define LANES 16u

#include <immintrin.h>

typedef __m512 vec;

#define vec_load(p)      _mm512_loadu_ps(p)
#define vec_store(p, x)  _mm512_storeu_ps(p, x)
#define vec_set1(x)      _mm512_set1_ps(x)
#define vec_add(a, b)    _mm512_add_ps(a, b)
#define vec_fma(a, b, c) _mm512_fmadd_ps(a, b, c)

static inline vec vec_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}

static inline vec vec_load_bf16(const void *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}

static inline void vec_store_f16(void *p, vec x)
{
    _mm256_storeu_si256(p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline void vec_store_bf16(void *p, vec x)
{
    const __m512i bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    _mm256_storeu_si256(
        p, _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(sum, 16), is_nan, quiet)));
}

static inline __m256 halves_added(__m512 x)
{
    return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
}

/* out[0..3] = the sums of a, b, c and d */
static inline void vec_sum4(float *out, vec a, vec b, vec c, vec d)
{
    const __m256 ab = _mm256_hadd_ps(halves_added(a), halves_added(b));
    const __m256 s = _mm256_hadd_ps(ab, _mm256_hadd_ps(halves_added(c), halves_added(d)));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

#include "kv-float-simd.h"

FLOAT_KERNELS(f32, avx512, KIND_F32)
FLOAT_KERNELS(f16, avx512, KIND_F16)
FLOAT_KERNELS(bf16, avx512, KIND_BF16)
