/* The dense kernels below attention, one table per ISA. attention-simd.h is their text, compiled once per
 * ISA.
 *
 * Tiles are row-major f32. Widths that kernels walk (n of product, n of softmax_row, padded head dims) are
 * multiples of ATTENTION_ALIGN; rows begin 64-byte aligned, and what lies in the padding is never part of a
 * result.
 */
#ifndef SHARPI_BACKEND_CPU_ATTENTION_KERNELS_H
#define SHARPI_BACKEND_CPU_ATTENTION_KERNELS_H

#include <stdint.h>

#define ATTENTION_ALIGN 16u

/* One row of the running softmax. */
struct attention_row {
    float max; /* of all scores so far; -inf before the first */
    float sum; /* of exp(score - max) */
};

struct attention_kernels {
    /* c[m, n] = a[m, k] b[k, n], or += with `add`; n a multiple of ATTENTION_ALIGN. 2 m n k operations. */
    void (*product)(float *c, uint64_t c_stride, const float *a, uint64_t a_stride, const float *b,
                    uint64_t b_stride, uint32_t m, uint32_t n, uint32_t k, uint32_t add);
    /* dst[i * dst_stride + r] = src[r * src_stride + i]; n_rows and n_cols are rounded up to ATTENTION_ALIGN,
     * so both tiles have room for that. */
    void (*transpose)(float *dst, uint64_t dst_stride, const float *src, uint64_t src_stride, uint32_t n_rows,
                      uint32_t n_cols);
    /* One row's scores s[n], of which [first, end) are visible (first < end <= n): replaced by softcap, then
     * by exp(s - max), 0 outside. Brings `row` and acc[acc_width] to the new maximum. softcap 0: none. */
    void (*softmax_row)(float *s, uint32_t n, uint32_t first, uint32_t end, float softcap,
                        struct attention_row *row, float *acc, uint32_t acc_width);
    /* dst[i] = src[i] * scale; dst[i] += src[i] * scale; any n, any alignment. */
    void (*scale_row)(float *dst, const float *src, float scale, uint32_t n);
    void (*add_scaled_row)(float *dst, const float *src, float scale, uint32_t n);
    /* x[i] = exp(x[i]): for tests of its error; n a multiple of ATTENTION_ALIGN. */
    void (*exp_row)(float *x, uint32_t n);
};

extern const struct attention_kernels attention_kernels_c;
extern const struct attention_kernels attention_kernels_avx2;
extern const struct attention_kernels attention_kernels_avx512;

#endif
