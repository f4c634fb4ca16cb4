/* The end of an output row: partials of several blocks together, division by the sum, sinks. */
#ifndef SHARPI_CUDA_ATTENTION_MERGE_CUH
#define SHARPI_CUDA_ATTENTION_MERGE_CUH

#include <sharpi/cuda/attention-work.cuh>

namespace sharpi
{

constexpr float log2_e = 1.4426950408889634f;

__device__ inline float softcapped(float score, float softcap)
{
    return softcap != 0.0f ? softcap * tanhf(score / softcap) : score;
}

/* What the unnormalised output is multiplied with. `max` is in units of log 2; a sink is one more score without a value. */
__device__ inline float output_factor(const sharpi_kv_cuda_args &a, uint32_t head, float max, float sum)
{
    if (!a.sinks)
        return sum > 0.0f ? 1.0f / sum : 0.0f;
    const float sink = a.sinks[head] * log2_e, greater = fmaxf(max, sink);
    const float shrink = exp2f(max - greater);
    return shrink / (sum * shrink + exp2f(sink - greater));
}

__device__ inline uint64_t partial_row(const work_shape &w, uint32_t block, uint32_t slot, uint32_t row)
{
    return ((uint64_t)block * 2 + slot) * w.m + row;
}

constexpr uint32_t merge_threads = 1024, merge_columns = 128; /* at most so many threads */

/* What merge_item shares among its threads. */
struct merge_state {
    float4 acc[merge_threads];
    float maxima[merge_threads / 32], sums[merge_threads / 32];
};

/* Columns [column, + merge_columns) of one output row of sequence `seq`: each warp takes every n_warps-th partial. */
__device__ inline void merge_item(const sharpi_kv_cuda_args &a, const work_shape &w, uint32_t seq,
                                  const sharpi_batch_seq &s, uint32_t row, uint32_t kv_head, uint32_t column,
                                  merge_state &state)
{
    const uint32_t n_warps = blockDim.x / 32;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = a.head_dim;
    uint32_t page, end_page, begin;
    const uint32_t chunk = chunk_of(w, count_units(a, w, seq, begin));

    begin += kv_head * units_per_head(a, w, s);
    const uint32_t group = row / w.m;
    for (uint32_t i = 0; i < group; i++) {
        page_range(a, w, s, i, page, end_page);
        begin += end_page - page;
    }
    page_range(a, w, s, group, page, end_page);
    const uint32_t first = begin / chunk, n = (begin + end_page - page - 1) / chunk - first + 1;
    launch_wait(); /* all above is of descriptors only */
    if (n == 1)
        return; /* that block wrote `out` */

    /* Only the first block can have the segment as its last one. Weights are relative to this thread's own maximum. */
    float max = -INFINITY, sum = 0.0f;
    float4 acc = make_float4(0, 0, 0, 0);
    column += 4 * lane;
    for (uint32_t i = warp; i < n; i += 4 * n_warps) {
        float2 part[4];
        float4 x[4];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t at = i + j * n_warps;
            const uint64_t from = partial_row(w, first + at, !at && begin > first * chunk, row - group * w.m);
            part[j] = at < n ? w.sums[from] : make_float2(-INFINITY, 0.0f);
            x[j] = at < n && column < d ? *(const float4 *)(w.acc + from * w.acc_width + column)
                                        : make_float4(0, 0, 0, 0);
        }
        const float now = fmaxf(fmaxf(fmaxf(part[0].x, part[1].x), fmaxf(part[2].x, part[3].x)), max);
        const float reference = now == -INFINITY ? 0.0f : now, shrink = exp2f(max - reference);
        max = now;
        sum *= shrink, acc.x *= shrink, acc.y *= shrink, acc.z *= shrink, acc.w *= shrink;
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            const float weight = exp2f(part[j].x - reference);
            sum += part[j].y * weight;
            acc.x += x[j].x * weight, acc.y += x[j].y * weight, acc.z += x[j].z * weight,
                acc.w += x[j].w * weight;
        }
    }
    state.acc[threadIdx.x] = acc;
    if (lane == 0)
        state.maxima[warp] = max, state.sums[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        const float mine = lane < n_warps ? state.maxima[lane] : -INFINITY;
        float whole = mine;
        for (uint32_t i = 16; i; i /= 2)
            whole = fmaxf(whole, __shfl_xor_sync(~0u, whole, i));
        const float reference = whole == -INFINITY ? 0.0f : whole, weight = exp2f(mine - reference);
        sum = lane < n_warps ? state.sums[lane] * weight : 0.0f;
        for (uint32_t i = 16; i; i /= 2)
            sum += __shfl_xor_sync(~0u, sum, i);
        acc = make_float4(0, 0, 0, 0);
        for (uint32_t i = 0; i < n_warps; i++) {
            const float4 x = state.acc[i * 32 + lane];
            const float one = __shfl_sync(~0u, weight, i);
            acc.x += x.x * one, acc.y += x.y * one, acc.z += x.z * one, acc.w += x.w * one;
        }
        const uint32_t token = s.first_token + row / w.ratio, head = kv_head * w.ratio + row % w.ratio;
        const float factor = output_factor(a, head, whole, sum);
        float *out = a.out + token * a.out_stride + (uint64_t)head * d + column;
        if (column < d) /* head_dims are multiples of 4 */
            *(float4 *)out = make_float4(acc.x * factor, acc.y * factor, acc.z * factor, acc.w * factor);
    }
    __syncthreads();
}

/* Blocks go over (sequence, row, KV head, columns); max_rows: of a sequence with few rows. */
static __global__ __launch_bounds__(merge_threads) void merge_kernel(const sharpi_kv_cuda_args a,
                                                                     const work_shape w, uint32_t max_rows)
{
    __shared__ merge_state state;
    const uint32_t parts = ceil_div(a.head_dim, merge_columns), per_seq = max_rows * a.n_kv_heads * parts;
    launch_next();
    const uint32_t n_seqs = a.step->n_seqs;
    for (uint64_t item = blockIdx.x; item < (uint64_t)n_seqs * per_seq; item += gridDim.x) {
        const uint32_t seq = (uint32_t)(item / per_seq), in_seq = (uint32_t)(item % per_seq);
        const uint32_t row = in_seq / parts % max_rows, kv_head = in_seq / parts / max_rows;
        const sharpi_batch_seq s = a.seqs[seq];
        if (row < s.n_tokens * w.ratio && is_ours(w, s.n_tokens * w.ratio))
            merge_item(a, w, seq, s, row, kv_head, in_seq % parts * merge_columns, state);
    }
    launch_wait();
}

} // namespace sharpi
#endif
