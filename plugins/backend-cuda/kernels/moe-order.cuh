/* The order of a mixture's logits. */
#ifndef SHARPI_BACKEND_CUDA_MOE_ORDER_CUH
#define SHARPI_BACKEND_CUDA_MOE_ORDER_CUH

#include <stdint.h>

/* Order of floats as unsigned integers; a NaN is below everything. */
static __device__ __forceinline__ uint32_t order_key(float x)
{
    uint32_t bits = __float_as_uint(x);
    if (x != x)
        return 0;
    if (x == 0.0f)
        return 0x80000000u; /* -0 is 0 */
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

#endif
