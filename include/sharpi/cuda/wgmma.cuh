/* Hopper's warpgroup products (wgmma): c[64, N] += a[64, 16] b[16, N], f32 sums, operands f16 or bf16.
 *
 * Operands in shared memory are [n, 64] parts of 128-byte rows in the 128-byte swizzle (kv-format.cuh, piece16), 1024-byte
 * aligned. Lane 4 g + t of warp w holds c[8 j + i] for rows 16 w + g (i % 4 < 2) and 16 w + g + 8, columns 8 j + 2 t + i % 2,
 * in groups of four per j; registers of a have the layout of mma.sync's. A group of 128 threads calls together, between
 * wgmma_begin and wgmma_commit; results may be read after wgmma_wait. Empty where the compiler makes no code for
 * sm_90a.
 */
#ifndef SHARPI_CUDA_WGMMA_CUH
#define SHARPI_CUDA_WGMMA_CUH

#include <sharpi/cuda/device.cuh>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SHARPI_HAS_WGMMA 1
#else
#define SHARPI_HAS_WGMMA 0
#endif

namespace sharpi
{

/* Descriptor without an address: bytes between 8-row groups (stride) and between 64-column parts (leading). */
__device__ constexpr uint64_t wgmma_descriptor(uint32_t leading, uint32_t stride)
{
    return (uint64_t)(leading >> 4) << 16 | (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}

__device__ inline uint64_t wgmma_at(uint64_t descriptor, uint32_t address)
{
    return descriptor | (address & 0x3ffff) >> 4;
}

__device__ inline void wgmma_begin(void)
{
#if SHARPI_HAS_WGMMA
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ inline void wgmma_commit(void)
{
#if SHARPI_HAS_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

/* All but the last `pending` committed groups are done. */
template <int pending> __device__ inline void wgmma_wait(void)
{
#if SHARPI_HAS_WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#endif
}

/* Keeps the compiler from moving accesses of an accumulator over this point. */
template <int n> __device__ inline void wgmma_touch(float (&c)[n])
{
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile("" : "+f"(c[i])::"memory");
}

/* Lists for asm of the n / 2 accumulators of a lane: their names there, and the operands. */
#define SHARPI_SUMS_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define SHARPI_SUMS_32                                                                                       \
    SHARPI_SUMS_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SHARPI_SUMS_64                                                                                       \
    SHARPI_SUMS_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "      \
                   "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SHARPI_SUMS_128                                                                                      \
    SHARPI_SUMS_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "      \
                   "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "        \
                   "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "        \
                   "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, "          \
                   "%123, %124, %125, %126, %127"
#define SHARPI_C_4(i)   "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define SHARPI_C_16(i)  SHARPI_C_4(i), SHARPI_C_4(i + 4), SHARPI_C_4(i + 8), SHARPI_C_4(i + 12)
#define SHARPI_C_32(i)  SHARPI_C_16(i), SHARPI_C_16(i + 16)
#define SHARPI_C_64(i)  SHARPI_C_32(i), SHARPI_C_32(i + 32)
#define SHARPI_C_128(i) SHARPI_C_64(i), SHARPI_C_64(i + 64)

/* The instructions; n_sums is n / 2 as a literal, and what follows it are the literals after. */
#define SHARPI_WGMMA_SHARED(type, n, n_sums, at_a, at_b, at_adds)                                            \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #at_adds ", 0; "                                         \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" SHARPI_SUMS_##n_sums   \
                 "}, %" #at_a ", %" #at_b ", p, 1, 1, 0, 0; }"                                               \
                 : SHARPI_C_##n_sums(0)                                                                      \
                 : "l"(a), "l"(b), "r"(adds))
#define SHARPI_WGMMA_REGISTERS(type, n, n_sums, is_row, at_a0, at_a1, at_a2, at_a3, at_b)                    \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" SHARPI_SUMS_##n_sums   \
                 "}, {%" #at_a0 ", %" #at_a1 ", %" #at_a2 ", %" #at_a3 "}, %" #at_b ", 1, 1, 1, " #is_row    \
                 ";"                                                                                         \
                 : SHARPI_C_##n_sums(0)                                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

#if SHARPI_HAS_WGMMA
#define SHARPI_WGMMA_BODY(instruction, ...)                                                                  \
    if constexpr (is_f16)                                                                                    \
        instruction("f16", __VA_ARGS__);                                                                     \
    else                                                                                                     \
        instruction("bf16", __VA_ARGS__);
#else
#define SHARPI_WGMMA_BODY(instruction, ...)
#endif

/* One width: c = or += a b with a and b from shared memory, b[n, 16] as rows of K (`shared`); c += a b with a from registers, b as
 * rows of V, [16, n], or else (rows_of_b false) [n, 16] (`registers`). */
#define SHARPI_WGMMA(n, n_sums, at1, at2, at3, at4)                                                          \
    template <bool is_f16> struct wgmma<is_f16, n> {                                                         \
        __device__ static void shared(float (&c)[n_sums], uint64_t a, uint64_t b, int32_t adds)              \
        {                                                                                                    \
            SHARPI_WGMMA_BODY(SHARPI_WGMMA_SHARED, n, n_sums, n_sums, at1, at2)                              \
        }                                                                                                    \
        template <bool rows_of_b = true>                                                                     \
        __device__ static void registers(float (&c)[n_sums], const uint32_t (&a)[4], uint64_t b)             \
        {                                                                                                    \
            if constexpr (rows_of_b) {                                                                       \
                SHARPI_WGMMA_BODY(SHARPI_WGMMA_REGISTERS, n, n_sums, 1, n_sums, at1, at2, at3, at4)          \
            } else {                                                                                         \
                SHARPI_WGMMA_BODY(SHARPI_WGMMA_REGISTERS, n, n_sums, 0, n_sums, at1, at2, at3, at4)          \
            }                                                                                                \
        }                                                                                                    \
    };

template <bool is_f16, int n> struct wgmma;
SHARPI_WGMMA(32, 16, 17, 18, 19, 20)
SHARPI_WGMMA(64, 32, 33, 34, 35, 36)
SHARPI_WGMMA(128, 64, 65, 66, 67, 68)
SHARPI_WGMMA(256, 128, 129, 130, 131, 132)

#undef SHARPI_WGMMA
#undef SHARPI_WGMMA_BODY
#undef SHARPI_WGMMA_SHARED
#undef SHARPI_WGMMA_REGISTERS

} // namespace sharpi
#endif
