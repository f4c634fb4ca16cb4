/* wgmma with a from registers and b[N, 16] in shared memory as rows of 128 bytes in the 128-byte swizzle; c[j][i] is element i of
 * the fragment of tokens 8 j .. 8 j + 7, as mma.sync has it. sm_90a only. */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_WGMMA_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_WGMMA_CUH

#include <sharpi/cuda/wgmma.cuh>

#if SHARPI_HAS_WGMMA

/* Of rows of 128 bytes, 1024-byte aligned in groups of eight, from `address` on; 32 bytes more is the next 16 columns. */
static __device__ __forceinline__ uint64_t wide_descriptor(uint32_t address)
{
    return sharpi::wgmma_at(sharpi::wgmma_descriptor(16, 1024), address);
}
static __device__ __forceinline__ void wide_begin(void)
{
    sharpi::wgmma_begin();
}
static __device__ __forceinline__ void wide_commit(void)
{
    sharpi::wgmma_commit();
}
template <int PENDING> static __device__ __forceinline__ void wide_wait(void)
{
    sharpi::wgmma_wait<PENDING>();
}
/* What ordinary stores and cp.async wrote becomes visible to wgmma. */
static __device__ __forceinline__ void wide_fence(void)
{
    sharpi::fence_async();
}

template <int N>
static __device__ __forceinline__ void wide_mma(float (&c)[N][4], const uint32_t (&a)[4], uint64_t b)
{
    sharpi::wgmma<false, 8 * N>::template registers<false>(reinterpret_cast<float(&)[4 * N]>(c), a, b);
}

#endif
#endif
