/* Heads of q, k and v from the rows that products made (kv-cuda.h: has_heads). A head in a warp: a lane has four elements of each 128, zeros
 * beyond head_dim.
 */
#ifndef SHARPI_CUDA_ATTENTION_HEADS_CUH
#define SHARPI_CUDA_ATTENTION_HEADS_CUH

#include <sharpi/cuda/attention-work.cuh>

namespace sharpi
{

/* cos and sin of the lane's angles. Where head_dim is 256 they serve both of its fours. */
struct head_turns {
    float4 cosines, sines;
};

/* Four that lie side by side, or two, each twice. */
__device__ inline float4 load_angles(const float *from, bool twice)
{
    if (!twice)
        return *(const float4 *)from;
    const float2 x = *(const float2 *)from;
    return make_float4(x.x, x.x, x.y, x.y);
}

__device__ inline head_turns load_turns(const sharpi_kv_cuda_args &a, uint32_t token, uint32_t d)
{
    const uint32_t lane = threadIdx.x % 32;
    const float *row =
        a.table + token * a.table_stride + (a.is_neox ? 4 * lane % (d / 2) : 2 * lane % (d / 2));
    return {load_angles(row, !a.is_neox), load_angles(row + d / 2, !a.is_neox)};
}

__device__ inline float4 shuffled(const float4 &x, uint32_t distance)
{
    return make_float4(__shfl_xor_sync(~0u, x.x, distance), __shfl_xor_sync(~0u, x.y, distance),
                       __shfl_xor_sync(~0u, x.z, distance), __shfl_xor_sync(~0u, x.w, distance));
}

/* x cos + sign partner sin */
__device__ inline float4 turned(const float4 &x, const float4 &partner, const head_turns &t, float sign)
{
    return make_float4(
        x.x * t.cosines.x + sign * partner.x * t.sines.x, x.y * t.cosines.y + sign * partner.y * t.sines.y,
        x.z * t.cosines.z + sign * partner.z * t.sines.z, x.w * t.cosines.w + sign * partner.w * t.sines.w);
}

/* head_dim is 128 N, or 64. */
template <uint32_t N>
__device__ inline void turn_head(float4 (&x)[N], const head_turns &t, uint32_t d, bool is_neox)
{
    if constexpr (N == 2) {
        const float4 first = x[0];
        x[0] = turned(first, x[1], t, -1.0f);
        x[1] = turned(x[1], first, t, 1.0f);
    } else if (is_neox) {
        const float sign = threadIdx.x % 32 * 8 < d ? -1.0f : 1.0f;
        x[0] = turned(x[0], shuffled(x[0], d / 8), t, sign);
    } else {
        x[0] = turned(x[0], make_float4(-x[0].y, x[0].x, -x[0].w, x[0].z), t, 1.0f);
    }
}

/* weight: in shared memory. */
template <uint32_t N>
__device__ inline void norm_head(float4 (&x)[N], const float *weight, uint32_t d, float eps)
{
    const uint32_t lane = threadIdx.x % 32;
    float sum = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < N; i++)
        sum += x[i].x * x[i].x + x[i].y * x[i].y + x[i].z * x[i].z + x[i].w * x[i].w;
    for (uint32_t i = 16; i; i /= 2)
        sum += __shfl_xor_sync(~0u, sum, i);
    const float factor = rsqrtf(__fdividef(sum, (float)d) + eps);
#pragma unroll
    for (uint32_t i = 0; i < N; i++) {
        const float4 w = *(const float4 *)(weight + 128 * i + 4 * lane);
        x[i] = make_float4(x[i].x * factor * w.x, x[i].y * factor * w.y, x[i].z * factor * w.z,
                           x[i].w * factor * w.w);
    }
}

/* `weights`: of q, k and v, one after the other, 128 N each. */
template <uint32_t N>
__device__ inline void make_head(float4 (&x)[N], const sharpi_kv_cuda_args &a, uint32_t which,
                                 const float *weights, const head_turns &t, uint32_t d)
{
    const sharpi_kv_cuda_heads &h = a.heads[which];
    if (h.has_norm)
        norm_head(x, weights + which * 128 * N, d, h.eps);
    if (h.turns)
        turn_head(x, t, d, a.is_neox);
}

} // namespace sharpi
#endif
