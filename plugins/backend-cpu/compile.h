/* What the CPU's part of compiling shares; the stages themselves are in ../backend-common. */
#ifndef SHARPI_BACKEND_CPU_COMPILE_H
#define SHARPI_BACKEND_CPU_COMPILE_H

#include "program.h"

static inline struct sharpi_program *program_of(struct flow *flow)
{
    return (struct sharpi_program *)(void *)flow; /* its first member */
}

/* ---- compile-weights.c: traits.weight, and the layout of weight memory */

int32_t weight_add(struct flow *flow, const struct sharpi_tensor *tensor, int32_t *out, uint32_t *formats,
                   struct sharpi_error *err);
int32_t weights_lay_out(struct sharpi_program *program, struct sharpi_error *err);

/* ---- compile-moe.c: traits.moe */

int32_t lower_moe(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err);

#endif
