/* Device side of row steps: a block's view of its columns, and what ops need besides plain arithmetic.
 *
 * Invariant: columns past a row's width are never stored and do not count in sums; loads give 0 for them.
 */
#ifndef SHARPI_BACKEND_CUDA_ROWS_DEVICE_CUH
#define SHARPI_BACKEND_CUDA_ROWS_DEVICE_CUH

#include "rows-internal.h"

#define ROWS_WARPS_MAX 256 /* chunks of a tile / 32 */

/* The columns of this block: chunk i of a thread is chunk thread + i * threads of the tile. */
struct rows_view {
    uint32_t thread, threads;
    uint32_t first; /* chunk of the row where the tile begins */
    uint32_t tile;  /* chunks */
    uint32_t row;
};

static __device__ __forceinline__ uint32_t view_slot(const rows_view &v, int i)
{
    return v.thread + (uint32_t)i * v.threads;
}

static __device__ __forceinline__ uint32_t view_column(const rows_view &v, int i)
{
    return 4 * (v.first + view_slot(v, i));
}

/* How many of the chunk's columns exist in a row of `width`: 0 .. 4. */
static __device__ __forceinline__ uint32_t view_count(const rows_view &v, int i, uint32_t width)
{
    uint32_t column = view_column(v, i);
    if (view_slot(v, i) >= v.tile || column >= width)
        return 0;
    return width - column < 4 ? width - column : 4;
}

static __device__ __forceinline__ float4 zero4(void)
{
    return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

static __device__ __forceinline__ float4 load4(const float *p, uint32_t count, bool aligned)
{
    float4 x = zero4();
    if (count == 4 && aligned)
        return *(const float4 *)p;
    if (count > 0)
        x.x = p[0];
    if (count > 1)
        x.y = p[1];
    if (count > 2)
        x.z = p[2];
    if (count > 3)
        x.w = p[3];
    return x;
}

/* A load that is not put off until its result is needed. */
static __device__ __forceinline__ float4 load4_now(const float *p)
{
    float4 x;
    asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "l"(p)
                 : "memory");
    return x;
}

static __device__ __forceinline__ float load_now(const float *p)
{
    float x;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(x) : "l"(p) : "memory");
    return x;
}

static __device__ __forceinline__ void store4(float *p, float4 x, uint32_t count, bool aligned)
{
    if (count == 4 && aligned) {
        *(float4 *)p = x;
        return;
    }
    if (count > 0)
        p[0] = x.x;
    if (count > 1)
        p[1] = x.y;
    if (count > 2)
        p[2] = x.z;
    if (count > 3)
        p[3] = x.w;
}

/* The first `count` elements, then zeros. */
static __device__ __forceinline__ float4 first4(float4 x, uint32_t count)
{
    return make_float4(count > 0 ? x.x : 0.0f, count > 1 ? x.y : 0.0f, count > 2 ? x.z : 0.0f,
                       count > 3 ? x.w : 0.0f);
}

static __device__ __forceinline__ float dot4(float4 x, uint32_t count)
{
    float sum = x.x * x.x;
    sum += count > 1 ? x.y * x.y : 0.0f;
    sum += count > 2 ? x.z * x.z : 0.0f;
    sum += count > 3 ? x.w * x.w : 0.0f;
    return count > 0 ? sum : 0.0f;
}

static __device__ __forceinline__ float4 mul4(float4 a, float4 b)
{
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

static __device__ __forceinline__ float4 scale4(float4 a, float s)
{
    return make_float4(a.x * s, a.y * s, a.z * s, a.w * s);
}

static __device__ __forceinline__ float4 add4(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

/* Sum over groups of `lanes` neighbours, 1, 2, 4 .. 32. */
static __device__ __forceinline__ float sum_lanes(float x, uint32_t lanes)
{
    for (uint32_t d = lanes / 2; d > 0; d /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, (int)d);
    return x;
}

static __device__ __forceinline__ float sum_warp(float x)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

/* The threads that work on a row together: all of a block, in a kernel of its own. */
struct own_block {
    __device__ __forceinline__ uint32_t n_threads() const
    {
        return blockDim.x;
    }
    __device__ __forceinline__ void sync() const
    {
        __syncthreads();
    }
};

/* Sum over the threads; `part` is not written again before the next but one barrier. */
template <class Block>
static __device__ __forceinline__ float sum_block(float x, float *part, const Block &block)
{
    uint32_t lane = threadIdx.x % 32, n_warps = block.n_threads() / 32;
    x = sum_warp(x);
    if (n_warps == 1)
        return x;
    if (lane == 0)
        part[threadIdx.x / 32] = x;
    block.sync();
    return sum_warp(lane < n_warps ? part[lane] : 0.0f);
}

static __device__ __forceinline__ float limited(float x, float limit)
{
    return fminf(fmaxf(x, -limit), limit);
}

/* 0.5 z (1 + tanh(u)) is z / (1 + exp(-2u)). */
static __device__ __forceinline__ float activate(float z, int activation)
{
    switch (activation) {
    case SHARPI_ACT_SILU:
        return z / (1.0f + expf(-z));
    case SHARPI_ACT_GELU_TANH:
        return z / (1.0f + expf(-1.5957691216f * (z + 0.044715f * z * z * z)));
    case SHARPI_ACT_GELU_ERF:
        return 0.5f * z * (1.0f + erff(z * 0.7071067812f));
    default: /* SHARPI_ACT_RELU2 */
        return z > 0.0f ? z * z : 0.0f;
    }
}

/* ---- Fetching ahead: a thread copies to shared memory what only it will read. */

static __device__ __forceinline__ void fetch4(float4 *slot, const float *p, uint32_t count)
{
    uint32_t to = (uint32_t)__cvta_generic_to_shared(slot);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(p), "r"(4 * count)
                 : "memory");
}

static __device__ __forceinline__ void fetch_wait(void)
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

#endif
