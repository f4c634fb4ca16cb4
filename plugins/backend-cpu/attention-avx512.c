/* Attention's dense kernels for AVX-512: register tiles of 12 rows x 32 columns. */
#define LANES          16u
#define TILE_ROWS      12u
#define TILE_VECS      2u
#define TRANSPOSE_TILE 8u

#include <immintrin.h>

#include "attention-avx2.h"

typedef __m512 vec;

#define vec_load(p)                 _mm512_loadu_ps(p)
#define vec_store(p, x)             _mm512_storeu_ps(p, x)
#define vec_set1(x)                 _mm512_set1_ps(x)
#define vec_add(a, b)               _mm512_add_ps(a, b)
#define vec_sub(a, b)               _mm512_sub_ps(a, b)
#define vec_mul(a, b)               _mm512_mul_ps(a, b)
#define vec_div(a, b)               _mm512_div_ps(a, b)
#define vec_fma(a, b, c)            _mm512_fmadd_ps(a, b, c)
#define vec_max(a, b)               _mm512_max_ps(a, b) /* b if either is NaN, as in attention-c.c */
#define vec_min(a, b)               _mm512_min_ps(a, b)
#define vec_round(x)                _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define vec_abs(x)                  _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x)
#define vec_copysign(m, s)          _mm512_or_ps(vec_abs(m), _mm512_and_ps(_mm512_set1_ps(-0.0f), s))
#define vec_select_less(a, b, x, y) _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x)
#define vec_sum(x)                  _mm512_reduce_add_ps(x)
#define vec_greatest(x)             _mm512_reduce_max_ps(x)
#define transpose_tile              transpose_8x8

static inline vec vec_exp2i(vec n)
{
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}

#include "attention-simd.h"

const struct attention_kernels attention_kernels_avx512 = {
    .product = product,
    .transpose = transpose,
    .softmax_row = softmax_row,
    .scale_row = scale_row,
    .add_scaled_row = add_scaled_row,
    .exp_row = exp_row,
};
