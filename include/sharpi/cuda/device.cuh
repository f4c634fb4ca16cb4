/* The instructions that attention needs and CUDA C++ has no names for: tensor-core products, transposed loads from shared
 * memory, and copies from device memory to shared memory that a barrier in shared memory waits for.
 *
 * Compute capability 8.0 and later; where 9.0 has something better it is used behind the same function.
 */
#ifndef SHARPI_CUDA_DEVICE_CUH
#define SHARPI_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

namespace sharpi
{

__device__ inline uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* c[16, 8] += a[16, 16] b[16, 8], f32 sums. Lane l = 4 g + t holds rows g and g + 8 of a and c, column g of b. */
__device__ inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four 8 x 8 matrices of 16-bit values; lane 8 i + r gives the address of row r of matrix i. */
__device__ inline void load_matrices(uint32_t (&x)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address)
                 : "memory");
}

__device__ inline void load_matrices_transposed(uint32_t (&x)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address)
                 : "memory");
}

/* The transpose of an 8 x 8 matrix of 16-bit values: lane 4 g + t holds row g's columns 2 t, 2 t + 1, before and after. */
__device__ inline uint32_t transposed_matrix(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

/* From device memory, for data that is read once; never moved before or after another of these by the compiler. */
__device__ inline uint4 load_once_16(const void *p)
{
    uint4 x;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(p));
    return x;
}

__device__ inline uint2 load_once_8(const void *p)
{
    uint2 x;
    asm volatile("ld.global.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(x.x), "=r"(x.y) : "l"(p));
    return x;
}

__device__ inline uint32_t load_once_4(const void *p)
{
    uint32_t x;
    asm volatile("ld.global.L1::no_allocate.u32 %0, [%1];" : "=r"(x) : "l"(p));
    return x;
}

__device__ inline uint16_t load_once_2(const void *p)
{
    uint16_t x;
    asm volatile("ld.global.L1::no_allocate.u16 %0, [%1];" : "=h"(x) : "l"(p));
    return x;
}

/* 2^x, 2 ulp. */
__device__ inline float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- Copies to shared memory. copy_begin is called by all threads of the block (of n_threads), as is barrier_init. */

__device__ inline void barrier_init_count(uint64_t *barrier, uint32_t n_arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(n_arrivals)
                 : "memory");
}

__device__ inline void barrier_init(uint64_t *barrier, uint32_t n_threads)
{
#if __CUDA_ARCH__ >= 900
    n_threads = 1; /* one thread starts the copy; the copy engine counts its bytes */
#endif
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(n_threads)
                 : "memory");
}

/* Makes the barriers' initial state visible to the copy engine; before the block's __syncthreads. */
__device__ inline void barrier_init_done(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

/* Ordinary writes to shared memory before, the copy engine's (or wgmma's) accesses after. */
__device__ inline void fence_async(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* n_bytes (a multiple of 16) from device memory; the barrier's next phase completes when they have arrived. */
__device__ inline void copy_begin(void *dst, const void *src, uint32_t n_bytes, uint64_t *barrier)
{
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                     "r"(n_bytes)
                     : "memory");
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                shared_address(dst)),
            "l"(src), "r"(n_bytes), "r"(shared_address(barrier))
            : "memory");
    }
#else
    for (uint32_t i = threadIdx.x * 16; i < n_bytes; i += blockDim.x * 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address((char *)dst + i)),
                     "l"((const char *)src + i)
                     : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

/* Waits for the phase with this parity (0, 1, 0, ...) to complete. */
__device__ inline void barrier_wait(uint64_t *barrier, uint32_t parity)
{
    uint32_t done;
    do {
#if __CUDA_ARCH__ >= 900
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(done)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
#else
        asm volatile(
            "{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(done)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
#endif
    } while (!done);
}

} // namespace sharpi
#endif
