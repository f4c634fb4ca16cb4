/* The kernels of attention-kernels.h in terms of a vector type; included once by the file of each ISA.
 *
 * The including file defines LANES (divides ATTENTION_ALIGN), TILE_ROWS and TILE_VECS (the register tile of a
 * product; TILE_VECS is 2), `vec` and the operations vec_load, vec_store, vec_set1, vec_add, vec_sub,
 * vec_mul, vec_div, vec_fma (a * b + c), vec_max, vec_min, vec_round (to nearest even), vec_exp2i (2^n of an
 * integral n in [-126, 127]), vec_abs, vec_copysign(magnitude, sign), vec_select_less(a, b, x, y) (a < b ? x
 * : y), vec_sum, vec_greatest, and transpose_tile.
 */
#include <math.h>
#include <string.h>

#include "attention-kernels.h"

#define KERNEL_INLINE static inline __attribute__((always_inline))

/* e^x within 1.5 ulp for x in [-87.3, 88]; 0 below, the value at 88 above. x = n ln 2 + r, |r| <= ln 2 / 2,
 * and e^r = 1 + r + r^2 p(r), p a Chebyshev fit with a relative error of 6.5e-8 (of a term that is at most
 * 0.06). */
KERNEL_INLINE vec vec_exp(vec x)
{
    const vec low = vec_set1(-87.3f);
    vec clamped = vec_min(vec_max(x, low), vec_set1(88.0f));
    vec n = vec_round(vec_mul(clamped, vec_set1(1.44269504f)));
    /* ln 2 in two parts, the first short enough for n times it to be exact */
    vec r = vec_fma(n, vec_set1(-0.693145752f), clamped);
    r = vec_fma(n, vec_set1(-1.42860677e-6f), r);
    vec p = vec_fma(vec_set1(1.392617612e-3f), r, vec_set1(8.363173075e-3f));
    p = vec_fma(p, r, vec_set1(4.166655466e-2f));
    p = vec_fma(p, r, vec_set1(1.666657703e-1f));
    p = vec_fma(p, r, vec_set1(0.5f));
    p = vec_fma(vec_mul(r, r), p, r);
    vec scale = vec_exp2i(n);
    return vec_select_less(x, low, vec_set1(0.0f), vec_fma(scale, p, scale));
}

/* tanh with a relative error of some 2e-7: an odd polynomial (Chebyshev fit) near 0, where 1 - 2 / (e^2x + 1)
 * would cancel. */
KERNEL_INLINE vec vec_tanh(vec x)
{
    const vec one = vec_set1(1.0f);
    vec z = vec_mul(x, x);
    vec p = vec_fma(vec_set1(-6.096714166e-3f), z, vec_set1(2.0997179e-2f));
    p = vec_fma(p, z, vec_set1(-5.385090958e-2f));
    p = vec_fma(p, z, vec_set1(1.333276974e-1f));
    p = vec_fma(p, z, vec_set1(-3.333332894e-1f));
    p = vec_fma(vec_mul(p, z), x, x);
    vec a = vec_abs(x);
    vec e = vec_exp(vec_add(a, a));
    vec q = vec_sub(one, vec_div(vec_set1(2.0f), vec_add(e, one)));
    return vec_select_less(a, vec_set1(0.625f), p, vec_copysign(q, x));
}

/* rows x (vecs * LANES) of c over all of k, in registers. */
KERNEL_INLINE void product_tile(float *c, uint64_t c_stride, const float *a, uint64_t a_stride,
                                const float *b, uint64_t b_stride, uint32_t rows, uint32_t vecs, uint32_t k,
                                uint32_t add)
{
    vec sum[TILE_ROWS][TILE_VECS];
#pragma GCC unroll 16
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t v = 0; v < vecs; v++)
            sum[r][v] = add ? vec_load(c + r * c_stride + v * LANES) : vec_set1(0.0f);
    for (uint32_t i = 0; i < k; i++) {
        vec col[TILE_VECS];
#pragma GCC unroll 2
        for (uint32_t v = 0; v < vecs; v++)
            col[v] = vec_load(b + i * b_stride + v * LANES);
#pragma GCC unroll 16
        for (uint32_t r = 0; r < rows; r++) {
            vec x = vec_set1(a[r * a_stride + i]);
#pragma GCC unroll 2
            for (uint32_t v = 0; v < vecs; v++)
                sum[r][v] = vec_fma(x, col[v], sum[r][v]);
        }
    }
#pragma GCC unroll 16
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t v = 0; v < vecs; v++)
            vec_store(c + r * c_stride + v * LANES, sum[r][v]);
}

/* All rows of a panel of `vecs` vectors' width: full tiles, then what is left in tiles of 4, 2 and 1. */
KERNEL_INLINE void product_panel(float *c, uint64_t c_stride, const float *a, uint64_t a_stride,
                                 const float *b, uint64_t b_stride, uint32_t m, uint32_t vecs, uint32_t k,
                                 uint32_t add)
{
    uint32_t r = 0;
    for (; r + TILE_ROWS <= m; r += TILE_ROWS)
        product_tile(c + r * c_stride, c_stride, a + r * a_stride, a_stride, b, b_stride, TILE_ROWS, vecs, k,
                     add);
    for (; r + 4 <= m; r += 4)
        product_tile(c + r * c_stride, c_stride, a + r * a_stride, a_stride, b, b_stride, 4, vecs, k, add);
    for (; r + 2 <= m; r += 2)
        product_tile(c + r * c_stride, c_stride, a + r * a_stride, a_stride, b, b_stride, 2, vecs, k, add);
    if (r < m)
        product_tile(c + r * c_stride, c_stride, a + r * a_stride, a_stride, b, b_stride, 1, vecs, k, add);
}

static void product(float *c, uint64_t c_stride, const float *a, uint64_t a_stride, const float *b,
                    uint64_t b_stride, uint32_t m, uint32_t n, uint32_t k, uint32_t add)
{
    const uint32_t width = TILE_VECS * LANES;
    uint32_t j = 0;
    for (; j + width <= n; j += width)
        product_panel(c + j, c_stride, a, a_stride, b + j, b_stride, m, TILE_VECS, k, add);
    for (; j < n; j += LANES)
        product_panel(c + j, c_stride, a, a_stride, b + j, b_stride, m, 1, k, add);
}

static void transpose(float *dst, uint64_t dst_stride, const float *src, uint64_t src_stride, uint32_t n_rows,
                      uint32_t n_cols)
{
    for (uint32_t i = 0; i < n_cols; i += TRANSPOSE_TILE)
        for (uint32_t r = 0; r < n_rows; r += TRANSPOSE_TILE)
            transpose_tile(dst + i * dst_stride + r, dst_stride, src + r * src_stride + i, src_stride);
}

static void scale_row(float *dst, const float *src, float scale, uint32_t n)
{
    const vec factor = vec_set1(scale);
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vec_store(dst + i, vec_mul(vec_load(src + i), factor));
    for (; i < n; i++)
        dst[i] = src[i] * scale;
}

static void add_scaled_row(float *dst, const float *src, float scale, uint32_t n)
{
    const vec factor = vec_set1(scale);
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vec_store(dst + i, vec_fma(vec_load(src + i), factor, vec_load(dst + i)));
    for (; i < n; i++)
        dst[i] += src[i] * scale;
}

static void exp_row(float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += LANES)
        vec_store(x + i, vec_exp(vec_load(x + i)));
}

static void softcap_row(float *s, uint32_t n, float cap)
{
    const vec factor = vec_set1(cap);
    for (uint32_t i = 0; i < n; i += LANES)
        vec_store(s + i, vec_mul(vec_tanh(vec_div(vec_load(s + i), factor)), factor));
}

static void softmax_row(float *s, uint32_t n, uint32_t first, uint32_t end, float softcap,
                        struct attention_row *row, float *acc, uint32_t acc_width)
{
    const float old_max = row->max;
    vec greatest, max, sum = vec_set1(0.0f);

    if (softcap != 0.0f)
        softcap_row(s, n, softcap);
    for (uint32_t i = 0; i < first; i++)
        s[i] = -INFINITY;
    for (uint32_t i = end; i < n; i++)
        s[i] = -INFINITY;
    greatest = vec_set1(old_max);
    for (uint32_t i = 0; i < n; i += LANES)
        greatest = vec_max(vec_load(s + i), greatest);
    row->max = vec_greatest(greatest);
    if (row->max > old_max) {
        /* e^-inf = 0 before the first page, when acc is 0 too */
        const float shrink = expf(old_max - row->max);
        row->sum *= shrink;
        scale_row(acc, acc, shrink, acc_width);
    }
    max = vec_set1(row->max);
    for (uint32_t i = 0; i < n; i += LANES) {
        vec p = vec_exp(vec_sub(vec_load(s + i), max));
        vec_store(s + i, p);
        sum = vec_add(sum, p);
    }
    row->sum += vec_sum(sum);
}
