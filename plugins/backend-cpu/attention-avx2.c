/* Attention's dense kernels for AVX2 and FMA: register tiles of 6 rows x 16 columns. */
#define LANES          8u
#define TILE_ROWS      6u
#define TILE_VECS      2u
#define TRANSPOSE_TILE 8u

#include <immintrin.h>

#include "attention-avx2.h"

typedef __m256 vec;

#define vec_load(p)                 _mm256_loadu_ps(p)
#define vec_store(p, x)             _mm256_storeu_ps(p, x)
#define vec_set1(x)                 _mm256_set1_ps(x)
#define vec_add(a, b)               _mm256_add_ps(a, b)
#define vec_sub(a, b)               _mm256_sub_ps(a, b)
#define vec_mul(a, b)               _mm256_mul_ps(a, b)
#define vec_div(a, b)               _mm256_div_ps(a, b)
#define vec_fma(a, b, c)            _mm256_fmadd_ps(a, b, c)
#define vec_max(a, b)               _mm256_max_ps(a, b) /* b if either is NaN, as in attention-c.c */
#define vec_min(a, b)               _mm256_min_ps(a, b)
#define vec_round(x)                _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define vec_abs(x)                  _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x)
#define vec_copysign(m, s)          _mm256_or_ps(vec_abs(m), _mm256_and_ps(_mm256_set1_ps(-0.0f), s))
#define vec_select_less(a, b, x, y) _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ))
#define transpose_tile              transpose_8x8

static inline vec vec_exp2i(vec n)
{
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}

static inline float vec_sum(vec x)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline float vec_greatest(vec x)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

#include "attention-simd.h"

const struct attention_kernels attention_kernels_avx2 = {
    .product = product,
    .transpose = transpose,
    .softmax_row = softmax_row,
    .scale_row = scale_row,
    .add_scaled_row = add_scaled_row,
    .exp_row = exp_row,
};
