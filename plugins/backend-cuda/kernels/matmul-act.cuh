/* Writing the activation formats of matmul.h from device code.
 *
 * Each function takes four consecutive columns [column, column + 4) of a row, column a multiple of 4.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_ACT_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_ACT_CUH

#include <cuda_bf16.h>
#include <stdint.h>

/* ACT_BF16. Columns from n up to n rounded up to 64 must be stored too, as zeros (act_store_bf16 of zeros). */
static __device__ __forceinline__ void act_store_bf16(void *row, uint32_t column, float4 v)
{
    uint32_t first = (column & 15) >> 1; /* pairs `first` and `first + 1` of 16 columns: 0 2 4 6 */
    __nv_bfloat162 *pairs = (__nv_bfloat162 *)row + (column >> 4 << 3);
    pairs[first >> 1] = __floats2bfloat162_rn(v.x, v.y);
    pairs[4 + (first >> 1)] = __floats2bfloat162_rn(v.z, v.w);
}

/* ACT_Q8: eight lanes whose lane numbers begin at a multiple of 8 hold the 32 columns of a block in order and call this
 * together; `mask` is the set of calling lanes of the warp (whole octets). */
static __device__ __forceinline__ void act_store_q8(void *row, uint64_t n, uint32_t column, float4 v,
                                                    uint32_t mask)
{
    float amax = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
    for (int step = 1; step < 8; step *= 2)
        amax = fmaxf(amax, __shfl_xor_sync(mask, amax, step));
    float d = amax < 1e-30f ? 0.0f : amax / 127.0f, inverse = amax < 1e-30f ? 0.0f : 127.0f / amax;
    int a = __float2int_rn(v.x * inverse), b = __float2int_rn(v.y * inverse),
        c = __float2int_rn(v.z * inverse), e = __float2int_rn(v.w * inverse), sum = a + b + c + e;
    for (int step = 1; step < 8; step *= 2)
        sum += __shfl_xor_sync(mask, sum, step);
    uint32_t word = (column & 31) >> 2, place = (word & 3) * 2 + (word >> 2);
    ((uint32_t *)row)[(column >> 5) * 8 + place] = (uint32_t)(a & 255) | (uint32_t)(b & 255) << 8 |
                                                   (uint32_t)(c & 255) << 16 | (uint32_t)(e & 255) << 24;
    if (word == 0)
        ((float2 *)((char *)row + n))[column >> 5] = make_float2(d, d * (float)sum);
}

#endif
