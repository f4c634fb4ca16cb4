/* Writing the activation formats of matmul.h from device code.
 *
 * Each function takes four consecutive columns [column, column + 4) of a row, column a multiple of 4.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_ACT_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_ACT_CUH

#include <sharpi/cuda/codes.cuh>

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

using sharpi::act_code_q8;
using sharpi::act_codes_q8;
using sharpi::act_scales_q8;

/* NV times four columns as codes, and what belongs to the block of 32 columns that eight lanes have, whose lane numbers begin at a
 * multiple of 8. `mask`: the lanes of the warp that call this together, whole octets. Step by step for all, so that none waits for
 * another. */
template <int NV> struct act_q8 {
    uint32_t codes[NV];
    float2 scales[NV];
    int sum[NV]; /* of the block's codes */

    __device__ __forceinline__ act_q8(const float4 v[NV], uint32_t mask)
    {
        float amax[NV];
#pragma unroll
        for (int i = 0; i < NV; i++)
            amax[i] = fmaxf(fmaxf(fabsf(v[i].x), fabsf(v[i].y)), fmaxf(fabsf(v[i].z), fabsf(v[i].w)));
#pragma unroll
        for (int step = 1; step < 8; step *= 2) {
#pragma unroll
            for (int i = 0; i < NV; i++)
                amax[i] = fmaxf(amax[i], __shfl_xor_sync(mask, amax[i], step));
        }
#pragma unroll
        for (int i = 0; i < NV; i++) {
            scales[i] = act_scales_q8(amax[i]);
            codes[i] = act_codes_q8(v[i], scales[i].y);
            sum[i] = __dp4a((int)codes[i], 0x01010101, 0);
        }
#pragma unroll
        for (int step = 1; step < 8; step *= 2) {
#pragma unroll
            for (int i = 0; i < NV; i++)
                sum[i] += __shfl_xor_sync(mask, sum[i], step);
        }
    }
    /* Number i as word `word` of a block of a row of n. */
    __device__ __forceinline__ void store(void *row, uint64_t n, uint32_t block, uint32_t word, int i,
                                          bool exists) const
    {
        if (exists)
            ((uint32_t *)row)[block * 8 + (word & 3) * 2 + (word >> 2)] = codes[i];
        if (exists && word == 0)
            ((float2 *)((char *)row + n))[block] = make_float2(scales[i].x, scales[i].x * (float)sum[i]);
    }
};

/* ACT_Q8, by eight lanes as above that hold the columns of a block in order. Stores where `exists`, the same in an octet. */
static __device__ __forceinline__ void act_store_q8(void *row, uint64_t n, uint32_t column, float4 v,
                                                    uint32_t mask, bool exists = true)
{
    act_q8<1>(&v, mask).store(row, n, column >> 5, (column & 31) >> 2, 0, exists);
}

#endif
