/* Attention's dense kernels without any instruction set of its own: four lanes of the compiler's vectors,
 * which every machine has or the compiler splits. */
#define LANES          4u
#define TILE_ROWS      6u
#define TILE_VECS      2u
#define TRANSPOSE_TILE 4u

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float vec __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(16)));

static inline vec vec_load(const float *p)
{
    vec x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline void vec_store(float *p, vec x)
{
    memcpy(p, &x, sizeof x);
}

static inline vec vec_set1(float x)
{
    return (vec){x, x, x, x};
}

static inline vec vec_add(vec a, vec b)
{
    return a + b;
}

static inline vec vec_sub(vec a, vec b)
{
    return a - b;
}

static inline vec vec_mul(vec a, vec b)
{
    return a * b;
}

static inline vec vec_div(vec a, vec b)
{
    return a / b;
}

static inline vec vec_fma(vec a, vec b, vec c)
{
    return a * b + c;
}

static inline vec vec_blend(ivec mask, vec x, vec y)
{
    return (vec)((mask & (ivec)x) | (~mask & (ivec)y));
}

static inline vec vec_select_less(vec a, vec b, vec x, vec y)
{
    return vec_blend((ivec)(a < b), x, y);
}

static inline vec vec_max(vec a, vec b)
{
    return vec_blend((ivec)(a > b), a, b);
}

static inline vec vec_min(vec a, vec b)
{
    return vec_blend((ivec)(a < b), a, b);
}

/* Adding 1.5 * 2^23 leaves no bits for a fraction; right for |x| < 2^22. */
static inline vec vec_round(vec x)
{
    const vec magic = vec_set1(12582912.0f);
    return (x + magic) - magic;
}

static inline vec vec_exp2i(vec n)
{
    return (vec)((__builtin_convertvector(n, ivec) + 127) << 23);
}

static inline vec vec_abs(vec x)
{
    return (vec)((ivec)x & 0x7fffffff);
}

static inline vec vec_copysign(vec magnitude, vec sign)
{
    return (vec)((ivec)vec_abs(magnitude) | ((ivec)sign & ~0x7fffffff));
}

static inline float vec_sum(vec x)
{
    return (x[0] + x[1]) + (x[2] + x[3]);
}

static inline float vec_greatest(vec x)
{
    return fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
}

static inline void transpose_tile(float *dst, uint64_t dst_stride, const float *src, uint64_t src_stride)
{
    for (uint32_t i = 0; i < TRANSPOSE_TILE; i++)
        for (uint32_t r = 0; r < TRANSPOSE_TILE; r++)
            dst[i * dst_stride + r] = src[r * src_stride + i];
}

#include "attention-simd.h"

const struct attention_kernels attention_kernels_c = {
    .product = product,
    .transpose = transpose,
    .softmax_row = softmax_row,
    .scale_row = scale_row,
    .add_scaled_row = add_scaled_row,
    .exp_row = exp_row,
};
