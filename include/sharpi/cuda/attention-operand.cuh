/* Making operands of the tensor cores from f32, and a barrier of some of a block's threads: what attention's kernels share. */
#ifndef SHARPI_CUDA_ATTENTION_OPERAND_CUH
#define SHARPI_CUDA_ATTENTION_OPERAND_CUH

#include <sharpi/cuda/kv-format.cuh>

namespace sharpi
{

template <class F> __device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    if (F::uses_f16)
        mma_f16(c, a, b0, b1);
    else
        mma_bf16(c, a, b0, b1);
}

template <class F> __device__ inline uint32_t pack(float x, float y)
{
    return F::uses_f16 ? pack_f16(x, y) : pack_bf16(x, y);
}

/* What bf16 rounding left of x and y. */
__device__ inline uint32_t pack_rest(float x, float y, uint32_t packed)
{
    return pack_bf16(x - __uint_as_float(packed << 16), y - __uint_as_float(packed & 0xffff0000u));
}

__device__ inline float warp_max(float x)
{
    for (uint32_t i = 16; i; i /= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, i));
    return x;
}

/* The power of two that brings a row with this greatest magnitude to [1, 2), so that f16 holds it. */
__device__ inline float power_for_f16(float greatest)
{
    const int exponent = (int)(__float_as_uint(greatest) >> 23) - 127;
    return exponent > -100 && exponent < 100 ? __uint_as_float((uint32_t)(127 - exponent) << 23) : 1.0f;
}

/* Threads of named barrier `id` (1 ..) meet. */
__device__ inline void meet(uint32_t id, uint32_t n_threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}

} // namespace sharpi
#endif
