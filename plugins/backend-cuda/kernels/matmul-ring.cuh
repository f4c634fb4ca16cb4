/* A ring of buffers in shared memory that one warp fills with weights ahead of its own use.
 *
 * sm_90: one lane starts a bulk copy of the whole buffer. sm_80: every lane copies its share with cp.async. Either way a
 * buffer's mbarrier completes when the bytes are there. Copies are multiples of 16 bytes, 16-byte aligned.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_RING_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_RING_CUH

#include <stdint.h>

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* One thread, before a barrier that the warp's lanes take part in. */
static __device__ __forceinline__ void ring_init(uint64_t *full)
{
#if __CUDA_ARCH__ >= 900
    const uint32_t count = 1;
#else
    const uint32_t count = 32;
#endif
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(full)), "r"(count) : "memory");
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

/* All lanes, after all have finished reading what the buffer held (__syncwarp). */
static __device__ __forceinline__ void ring_fill(uint8_t *buffer, const uint8_t *src, uint32_t bytes,
                                                 uint64_t *full, int lane)
{
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(full)),
                     "r"(bytes)
                     : "memory");
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                shared_address(buffer)),
            "l"(src), "r"(bytes), "r"(shared_address(full))
            : "memory");
    }
#else
    for (uint32_t i = 16 * lane; i < bytes; i += 512)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(buffer + i)),
                     "l"(src + i)
                     : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(full)) : "memory");
#endif
}

/* The same in three steps, for a warp whose lanes each copy several pieces: all lanes say how many bytes will come in all, each
 * copies its pieces, all say that theirs are under way. */
static __device__ __forceinline__ void ring_expect(uint64_t *full, uint32_t bytes, int lane)
{
#if __CUDA_ARCH__ >= 900
    if (lane == 0)
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(full)),
                     "r"(bytes)
                     : "memory");
    __syncwarp();
#endif
}
static __device__ __forceinline__ void ring_copy(uint8_t *dst, const uint8_t *src, uint32_t bytes,
                                                 uint64_t *full)
{
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            shared_address(dst)),
        "l"(src), "r"(bytes), "r"(shared_address(full))
        : "memory");
#else
    for (uint32_t i = 0; i < bytes; i += 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(dst + i)), "l"(src + i)
                     : "memory");
#endif
}
static __device__ __forceinline__ void ring_commit(uint64_t *full)
{
#if __CUDA_ARCH__ < 900
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(full)) : "memory");
#endif
}

/* A barrier on which `count` threads arrive when they have read a buffer. */
static __device__ __forceinline__ void ring_init_empty(uint64_t *empty, uint32_t count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(empty)), "r"(count) : "memory");
}
static __device__ __forceinline__ void ring_release(uint64_t *empty)
{
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(empty)) : "memory");
}

/* All lanes: until the fill of this parity (0 for a buffer's first, then alternating) is complete. */
static __device__ __forceinline__ void ring_wait(uint64_t *full, uint32_t parity)
{
    uint32_t done;
    do {
#if __CUDA_ARCH__ >= 900
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(done)
            : "r"(shared_address(full)), "r"(parity)
            : "memory");
#else
        asm volatile(
            "{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(done)
            : "r"(shared_address(full)), "r"(parity)
            : "memory");
#endif
    } while (!done);
}

#endif
