/* Row kernels for AVX2: ops-simd.h with 8 floats in a register. */
#define LANES   8
#define ROW_OPS row_ops_avx2
#include "ops-simd.h"
