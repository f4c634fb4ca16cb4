/* Copies from device memory to shared memory that run ahead of their use (cp.async), 16 bytes per lane at a time.
 *
 * Bulk copies (sm_90) were tried instead: issued by single lanes, one for each 512 to 4096 bytes, they cost the warp some 150 cycles
 * each and were slower.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_RING_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_RING_CUH

#include <sharpi/cuda/device.cuh>

using sharpi::barrier_wait;
using sharpi::shared_address;

static __device__ __forceinline__ void copy_16(uint32_t dst, const uint8_t *src)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(dst), "l"(src) : "memory");
}

/* `bytes` (a multiple of 16, at most MOST) by a whole warp; lane l copies bytes 16 l .. of each 512. */
template <uint32_t MOST>
static __device__ __forceinline__ void copy_warp(uint8_t *dst, const uint8_t *src, uint32_t bytes, int lane)
{
    const uint32_t to = shared_address(dst) + 16 * lane;
    src += 16 * lane;
#pragma unroll
    for (uint32_t i = 0; i < (MOST + 511) / 512; i++)
        if (i * 512 + 16 * lane < bytes)
            copy_16(to + i * 512, src + i * 512);
}

/* ---- A place in a ring of slots with barriers; use: wait full with parity, fill: wait empty with parity ^ 1 ---- */

struct ring_place {
    uint32_t slot, parity;
};

static __device__ __forceinline__ void ring_step(ring_place &r, uint32_t n_slots)
{
    if (++r.slot == n_slots) {
        r.slot = 0;
        r.parity ^= 1;
    }
}

/* ---- A warp's own copies, in groups ---- */

static __device__ __forceinline__ void copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most `pending` (0..3) of this thread's groups are under way. */
static __device__ __forceinline__ void copy_wait(uint32_t pending)
{
    if (pending == 3)
        asm volatile("cp.async.wait_group 3;" ::: "memory");
    else if (pending == 2)
        asm volatile("cp.async.wait_group 2;" ::: "memory");
    else if (pending == 1)
        asm volatile("cp.async.wait_group 1;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 0;" ::: "memory");
}

/* ---- Between warps: a barrier in shared memory on which `count` threads arrive; phases have parity 0, 1, 0 ... ---- */

static __device__ __forceinline__ void barrier_init(uint64_t *barrier, uint32_t count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
static __device__ __forceinline__ void barrier_arrive(uint64_t *barrier)
{
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(shared_address(barrier))
                 : "memory");
}
/* Arrives when the copies that this thread has issued so far are complete. */
static __device__ __forceinline__ void barrier_arrive_copies(uint64_t *barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}

#endif
