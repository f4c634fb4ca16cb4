/* What the processor can do at best: the floors that benchmarks compare with. */
#ifndef SHARPI_BACKEND_CPU_MEASURE_H
#define SHARPI_BACKEND_CPU_MEASURE_H

#include "device.h"

/* Loops of independent multiply-adds in registers, no memory. Each returns a value that depends on all of them, and
 * does `rounds` times the operations (a multiply-accumulate counts two) that the ops_ members say. */
struct measure_loops {
    uint32_t (*int8)(uint32_t rounds); /* the products that the quantized kernels use */
    uint32_t (*f32)(uint32_t rounds);
    uint32_t ops_int8, ops_f32;
};

extern const struct measure_loops measure_loops_c;
extern const struct measure_loops measure_loops_avx2;
extern const struct measure_loops measure_loops_avx512;

/* sharpi_backend.measure */
int32_t cpu_measure(struct sharpi_device *device, struct sharpi_rates *rates, struct sharpi_error *err);

#endif
