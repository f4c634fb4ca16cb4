/* q8_0's kernels for AVX2, FMA and F16C. */
#define LANES 8u

#include <immintrin.h>

#include "q8_0.h"

typedef __m256 vec;

#define vec_load(p)      _mm256_loadu_ps(p)
#define vec_store(p, x)  _mm256_storeu_ps(p, x)
#define vec_set1(x)      _mm256_set1_ps(x)
#define vec_add(a, b)    _mm256_add_ps(a, b)
#define vec_mul(a, b)    _mm256_mul_ps(a, b)
#define vec_fma(a, b, c) _mm256_fmadd_ps(a, b, c)

static inline vec vec_load_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

static inline vec vec_scale(uint16_t scale)
{
    return _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(scale)));
}

/* out[0..3] = the sums of a, b, c and d */
static inline void vec_sum4(float *out, vec a, vec b, vec c, vec d)
{
    const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

/* |x| limited, NaN as 0. */
static inline vec limited(vec x)
{
    const vec limit = _mm256_set1_ps(Q8_0_LIMIT);
    x = _mm256_and_ps(x, _mm256_cmp_ps(x, x, _CMP_ORD_Q));
    return _mm256_max_ps(_mm256_min_ps(x, limit), _mm256_sub_ps(_mm256_setzero_ps(), limit));
}

static inline float greatest(vec x)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

static inline __m256i quantized(vec x, vec inverse)
{
    const vec most = _mm256_set1_ps(127.0f), least = _mm256_set1_ps(-127.0f);
    return _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(_mm256_mul_ps(x, inverse), most), least));
}

static inline void encode_block(struct q8_0_block *block, const float *src)
{
    const vec sign = _mm256_set1_ps(-0.0f);
    vec x[4], m = _mm256_setzero_ps();
    for (uint32_t v = 0; v < 4; v++) {
        x[v] = limited(vec_load(src + 8 * v));
        m = _mm256_max_ps(m, _mm256_andnot_ps(sign, x[v]));
    }
    block->scale = q8_0_scale(greatest(m));
    const vec inverse = _mm256_set1_ps(q8_0_inverse(block->scale));
    /* the packs work on 128-bit halves: the permutation puts groups of four back in order */
    const __m256i a = _mm256_packs_epi32(quantized(x[0], inverse), quantized(x[1], inverse));
    const __m256i b = _mm256_packs_epi32(quantized(x[2], inverse), quantized(x[3], inverse));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
    _mm256_storeu_si256((__m256i *)(void *)block->q, q);
}

#include "q8_0-simd.h"

const struct sharpi_kv_cpu kv_q8_0_avx2 = Q8_0_KERNELS;
