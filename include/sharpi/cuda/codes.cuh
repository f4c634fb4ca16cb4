/* Activations as 8-bit codes: what a block of 32 values is divided by, and what becomes of them. */
#ifndef SHARPI_CUDA_CODES_CUH
#define SHARPI_CUDA_CODES_CUH

#include <stdint.h>

namespace sharpi
{

/* Of a block of 32 values {amax / 127, 127 / amax}; zeros for next to nothing. Both are rounded as divisions are, by a step of Newton's and
 * a correction each (Markstein), without the branches for special cases that a division has. */
static __device__ __forceinline__ float2 act_scales_q8(float amax)
{
    const float share = 1.0f / 127.0f;
    float d = amax * share, near, inverse;
    d = fmaf(fmaf(-127.0f, d, amax), share, d);
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(near) : "f"(amax));
    near = fmaf(fmaf(-amax, near, 1.0f), near, near);
    inverse = 127.0f * near;
    inverse = fmaf(fmaf(-amax, inverse, 127.0f), near, inverse);
    return amax < 1e-30f ? make_float2(0.0f, 0.0f) : make_float2(d, inverse);
}

/* A value's code in the last byte: 1.5 * 2^23 more, it is rounded to a whole number there as __float2int_rn() does, in a quarter
 * of the time. */
static __device__ __forceinline__ uint32_t act_code_q8(float value, float inverse)
{
    return __float_as_uint(__fadd_rn(__fmul_rn(value, inverse), 12582912.0f));
}

/* Four values' codes. */
static __device__ __forceinline__ uint32_t act_codes_q8(float4 v, float inverse)
{
    return __byte_perm(__byte_perm(act_code_q8(v.x, inverse), act_code_q8(v.y, inverse), 0x40),
                       __byte_perm(act_code_q8(v.z, inverse), act_code_q8(v.w, inverse), 0x40), 0x5410);
}

} // namespace sharpi
#endif
