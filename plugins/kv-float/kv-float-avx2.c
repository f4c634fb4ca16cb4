/* Kernels of the float formats for AVX2, FMA and F16C. */
#define LANES 8u

#include <immintrin.h>

typedef __m256 vec;

#define vec_load(p)      _mm256_loadu_ps(p)
#define vec_store(p, x)  _mm256_storeu_ps(p, x)
#define vec_set1(x)      _mm256_set1_ps(x)
#define vec_add(a, b)    _mm256_add_ps(a, b)
#define vec_fma(a, b, c) _mm256_fmadd_ps(a, b, c)

static inline vec vec_load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}

static inline vec vec_load_bf16(const void *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}

static inline void vec_store_f16(void *p, vec x)
{
    _mm_storeu_si128(p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline void vec_store_bf16(void *p, vec x)
{
    const __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    const __m256i half = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, is_nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half), 0x08);
    _mm_storeu_si128(p, _mm256_castsi256_si128(packed));
}

/* out[0..3] = the sums of a, b, c and d */
static inline void vec_sum4(float *out, vec a, vec b, vec c, vec d)
{
    const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

#include "kv-float-simd.h"

FLOAT_KERNELS(f32, avx2, KIND_F32)
FLOAT_KERNELS(f16, avx2, KIND_F16)
FLOAT_KERNELS(bf16, avx2, KIND_BF16)
