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
static __device__ __forceinline__ void wide_mma(float (&c)[2][4], const uint32_t (&a)[4], uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, "
                 "{%8, %9, %10, %11}, %12, 1, 1, 1, 0;"
                 : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
                   "+f"(c[1][2]), "+f"(c[1][3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/* ---- Clusters of blocks ---- */

/* All threads of all blocks of the cluster that have not ended; writes before are visible after. */
static __device__ __forceinline__ void cluster_barrier(void)
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* The same without the writes. */
static __device__ __forceinline__ void cluster_barrier_relaxed(void)
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
}
static __device__ __forceinline__ uint32_t cluster_rank(void)
{
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* What block `rank` of the cluster has in its shared memory where this block has *mine. */
static __device__ __forceinline__ float4 cluster_load(const float4 *mine, uint32_t rank)
{
    float4 v;
    uint32_t address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(address)
        : "r"(sharpi::shared_address(mine)), "r"(rank));
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

#endif
#endif
