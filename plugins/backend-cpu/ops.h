/* Row kernels: everything a forward pass does to one row of f32 besides matrix products and attention.
 *
 * ops-c.c is the reference (libm, double sums); ops-simd.h is the text of the vector versions, compiled once per ISA.
 * All outputs may be the same memory as an input of the same op, never partly overlap one. Any n, any alignment.
 */
#ifndef SHARPI_BACKEND_CPU_OPS_H
#define SHARPI_BACKEND_CPU_OPS_H

#include <stdint.h>

#include "isa.h"

struct row_ops {
    /* y = x / sqrt(mean(x^2) + eps) * w, w NULL: without. */
    void (*rms_norm)(float *y, const float *x, const float *w, uint32_t n, float eps);
    /* One head of n_rot dims: pairs (2j, 2j+1) or, `neox`, (j, j + n_rot/2), turned by cos[j], sin[j]. */
    void (*rope)(float *y, const float *x, const float *cos, const float *sin, uint32_t n_rot, uint32_t neox);
    /* y = act(x), act(gate) * up; `activation` is enum sharpi_activation. Relative error within 1e-6 of libm's. */
    void (*activate)(float *y, const float *x, uint32_t n, int32_t activation);
    void (*glu)(float *y, const float *gate, const float *up, uint32_t n, int32_t activation);
    void (*add)(float *y, const float *a, const float *b, uint32_t n);
    void (*mul)(float *y, const float *a, const float *b, uint32_t n);
    void (*scale)(float *y, const float *x, float factor, uint32_t n);
    /* y = cap * tanh(x / cap) */
    void (*softcap)(float *y, const float *x, float cap, uint32_t n);
    /* y += x * factor */
    void (*add_scaled)(float *y, const float *x, float factor, uint32_t n);
};

extern const struct row_ops row_ops_c;
extern const struct row_ops row_ops_avx2;
extern const struct row_ops row_ops_avx512;

/* The best of what was built, at most `isa`. */
const struct row_ops *row_ops_for(enum cpu_isa isa);

#endif
