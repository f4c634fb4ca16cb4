/* One row of n elements of a weight type to f32; n is a whole number of blocks. Scalar, on the host (../backend-cpu/dequant.c). */
#ifndef SHARPI_BACKEND_COMMON_DEQUANT_H
#define SHARPI_BACKEND_COMMON_DEQUANT_H

#include <stdint.h>

void dequant_row(int32_t type, const void *src, float *dst, uint64_t n);

#endif
