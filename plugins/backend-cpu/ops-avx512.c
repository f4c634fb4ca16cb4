/* Row kernels for AVX-512: ops-simd.h with 16 floats in a register. */
#define LANES   16
#define ROW_OPS row_ops_avx512
#include "ops-simd.h"
