/* q8_0's kernels for AVX-512. */
#define LANES 16u

#include <immintrin.h>

#include "q8_0.h"

typedef __m512 vec;

#define vec_load(p)      _mm512_loadu_ps(p)
#define vec_store(p, x)  _mm512_storeu_ps(p, x)
#define vec_set1(x)      _mm512_set1_ps(x)
#define vec_add(a, b)    _mm512_add_ps(a, b)
#define vec_mul(a, b)    _mm512_mul_ps(a, b)
#define vec_fma(a, b, c) _mm512_fmadd_ps(a, b, c)

static inline vec vec_load_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

static inline vec vec_scale(uint16_t scale)
{
    return _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(scale)));
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

/* |x| limited, NaN as 0. */
static inline vec limited(vec x)
{
    const vec limit = _mm512_set1_ps(Q8_0_LIMIT);
    x = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x);
    return _mm512_max_ps(_mm512_min_ps(x, limit), _mm512_sub_ps(_mm512_setzero_ps(), limit));
}

static inline __m128i quantized(vec x, vec inverse)
{
    const vec most = _mm512_set1_ps(127.0f), least = _mm512_set1_ps(-127.0f);
    const vec q = _mm512_max_ps(_mm512_min_ps(_mm512_mul_ps(x, inverse), most), least);
    return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(q));
}

static inline void encode_block(struct q8_0_block *block, const float *src)
{
    const vec a = limited(vec_load(src)), b = limited(vec_load(src + 16));
    block->scale = q8_0_scale(_mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b))));
    const vec inverse = _mm512_set1_ps(q8_0_inverse(block->scale));
    _mm_storeu_si128((__m128i *)(void *)block->q, quantized(a, inverse));
    _mm_storeu_si128((__m128i *)(void *)(block->q + 16), quantized(b, inverse));
}

#include "q8_0-simd.h"

const struct sharpi_kv_cpu kv_q8_0_avx512 = Q8_0_KERNELS;
