/* The end of an output row: partials of several blocks together, division by the sum, sinks, and the row as the next product reads
 * it. */
#ifndef SHARPI_CUDA_ATTENTION_MERGE_CUH
#define SHARPI_CUDA_ATTENTION_MERGE_CUH

#include <sharpi/cuda/attention-jobs.cuh>
#include <sharpi/cuda/attention-work.cuh>
#include <sharpi/cuda/codes.cuh>

namespace sharpi
{

constexpr float log2_e = 1.4426950408889634f;

__device__ inline float softcapped(float score, float softcap)
{
    return softcap != 0.0f ? softcap * tanhf(score / softcap) : score;
}

/* cap tanh(x / cap) = cap - 2 cap / (1 + e^(2 x / cap)), within 3e-7 cap. */
__device__ inline float softcapped_fast(float x, float cap)
{
    return cap - __fdividef(2.0f * cap, 1.0f + exp2_fast(fminf(x * __fdividef(2.0f * log2_e, cap), 80.0f)));
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

/* Part of an output row, unnormalised: relative to 2^max. */
struct merged {
    float max, sum;
    float4 acc; /* four columns */
};

__device__ inline void add_scaled(float4 &acc, const float4 &x, float weight)
{
    acc.x += x.x * weight, acc.y += x.y * weight, acc.z += x.z * weight, acc.w += x.w * weight;
}

/* Where the n parts of a row group lie: the first, and part i > 0 at rest + i * step. */
struct merge_range {
    uint32_t first, rest, step, n;
};

__device__ inline merge_range segment_parts(uint32_t first_unit, uint32_t n_units, uint32_t chunk)
{
    const uint32_t block = first_unit / chunk;
    merge_range range;
    range.first =
        2 * block + (first_unit > block * chunk); /* only there it can be the block's last segment */
    range.rest = 2 * block;
    range.step = 2;
    range.n = (first_unit + n_units - 1) / chunk - block + 1;
    return range;
}

/* Parts begin, begin + step, ... of a row, n_at_once of them in flight, are added to y. Not through L1, which may hold what
 * other blocks have overwritten. */
template <int n_at_once>
__device__ inline void merge_parts(const work_shape &w, const merge_range &range, uint32_t row,
                                   uint32_t column, uint32_t begin, uint32_t step, bool has_column, merged &y)
{
    for (uint32_t i = begin; i < range.n; i += n_at_once * step) {
        float2 part[n_at_once];
        float4 x[n_at_once];
        float now = y.max;
#pragma unroll
        for (uint32_t j = 0; j < n_at_once; j++) {
            const uint32_t at = i + j * step;
            const uint64_t from = (uint64_t)(at ? range.rest + at * range.step : range.first) * w.m + row;
            part[j] = at < range.n ? __ldcg(w.sums + from) : make_float2(-INFINITY, 0.0f);
            x[j] = at < range.n && has_column ? __ldcg((const float4 *)(w.acc + from * w.acc_width + column))
                                              : make_float4(0, 0, 0, 0);
            now = fmaxf(now, part[j].x);
        }
        const float reference = now == -INFINITY ? 0.0f : now, shrink = exp2f(y.max - reference);
        y.max = now;
        y.sum *= shrink, y.acc.x *= shrink, y.acc.y *= shrink, y.acc.z *= shrink, y.acc.w *= shrink;
#pragma unroll
        for (uint32_t j = 0; j < n_at_once; j++) {
            const float weight = exp2f(part[j].x - reference);
            y.sum += part[j].y * weight;
            add_scaled(y.acc, x[j], weight);
        }
    }
}

/* Columns [column, + 4) of a row of out_q8 (kv-cuda.h), by a whole warp; eight lanes have a block of 32 columns. */
__device__ inline void store_codes(char *row, uint32_t n, uint32_t column, const float4 &y, bool exists)
{
    const uint32_t word = column % 32 / 4;
    float amax = fmaxf(fmaxf(fabsf(y.x), fabsf(y.y)), fmaxf(fabsf(y.z), fabsf(y.w)));
    for (uint32_t i = 1; i < 8; i *= 2)
        amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, i));
    const float2 scales = act_scales_q8(amax);
    const uint32_t codes = act_codes_q8(y, scales.y);
    int sum = __dp4a((int)codes, 0x01010101, 0);
    for (uint32_t i = 1; i < 8; i *= 2)
        sum += __shfl_xor_sync(~0u, sum, i);
    if (!exists)
        return;
    ((uint32_t *)row)[column / 32 * 8 + word % 4 * 2 + word / 4] = codes;
    if (word == 0)
        ((float2 *)(row + n))[column / 32] = make_float2(scales.x, scales.x * (float)sum);
}

/* Columns [column, + 4) of a head's output, complete, by a whole warp; exists: whether the lane has such columns. */
__device__ inline void store_row(const sharpi_kv_cuda_args &a, uint32_t token, uint32_t head, uint32_t column,
                                 const float4 &x, bool exists)
{
    column += head * a.head_dim;
    if (a.out && exists)
        *(float4 *)(a.out + token * a.out_stride + column) = x;
    if (a.out_q8)
        store_codes((char *)a.out_q8 + token * a.out_q8_stride, a.n_heads * a.head_dim, column, x, exists);
}

/* Whether this arrival is the last of n; the counter is then as it was. One thread of each block, after a barrier of those that
 * wrote. What the others wrote may be read after the next barrier. */
__device__ inline bool comes_last(uint32_t *counter, uint32_t n)
{
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    if (before != n - 1)
        return false;
    *counter = 0;
    return true;
}

constexpr uint32_t merge_threads = 1024, merge_columns = 128; /* at most so many threads */

/* What merge_item shares among its threads. */
struct merge_state {
    float4 acc[merge_threads];
    float maxima[merge_threads / 32], sums[merge_threads / 32];
};

/* The units of a row group, counted over all. */
__device__ inline merge_range parts_of_rows(const sharpi_kv_cuda_args &a, const work_shape &w, uint32_t seq,
                                            const sharpi_batch_seq &s, uint32_t group, uint32_t kv_head)
{
    uint32_t page, end_page, begin;
    const uint32_t chunk = chunk_of(w, count_units(a, w, seq, begin));

    begin += kv_head * units_per_head(a, w, s);
    for (uint32_t i = 0; i < group; i++) {
        page_range(a, w, s, i, page, end_page);
        begin += end_page - page;
    }
    page_range(a, w, s, group, page, end_page);
    return segment_parts(begin, end_page - page, chunk);
}

/* The sum of what the warps have, each relative to its own maximum; in warp 0. */
__device__ inline merged add_warps(const merged &y, merge_state &state)
{
    const uint32_t n_warps = blockDim.x / 32, lane = threadIdx.x % 32;
    merged total = {-INFINITY, 0.0f, make_float4(0, 0, 0, 0)};
    state.acc[threadIdx.x] = y.acc;
    if (lane == 0)
        state.maxima[threadIdx.x / 32] = y.max, state.sums[threadIdx.x / 32] = y.sum;
    __syncthreads();
    if (threadIdx.x >= 32)
        return total;
    const float mine = lane < n_warps ? state.maxima[lane] : -INFINITY;
    total.max = mine;
    for (uint32_t i = 16; i; i /= 2)
        total.max = fmaxf(total.max, __shfl_xor_sync(~0u, total.max, i));
    const float weight = exp2f(mine - (total.max == -INFINITY ? 0.0f : total.max));
    total.sum = lane < n_warps ? state.sums[lane] * weight : 0.0f;
    for (uint32_t i = 16; i; i /= 2)
        total.sum += __shfl_xor_sync(~0u, total.sum, i);
    for (uint32_t i = 0; i < n_warps; i++)
        add_scaled(total.acc, state.acc[i * 32 + lane], __shfl_sync(~0u, weight, i));
    return total;
}

/* Columns [column, + merge_columns) of one output row of sequence `seq`: each warp takes every n_warps-th partial. */
__device__ inline void merge_item(const sharpi_kv_cuda_args &a, const work_shape &w, uint32_t seq,
                                  const sharpi_batch_seq &s, uint32_t row, uint32_t kv_head, uint32_t column,
                                  merge_state &state)
{
    merge_range range;
    if (w.is_direct) {
        const direct_job job = parts_of_head(a, w, seq, kv_head);
        range = {job.first_partial, job.first_partial, 1, job.n_parts};
    } else {
        range = parts_of_rows(a, w, seq, s, row / w.m, kv_head);
    }
    merged y = {-INFINITY, 0.0f, make_float4(0, 0, 0, 0)};
    launch_wait(); /* all above is of descriptors only */
    if (range.n <= w.inline_parts)
        return; /* in `out` already */
    column += 4 * (threadIdx.x % 32);
    merge_parts<4>(w, range, row % w.m, column, threadIdx.x / 32, blockDim.x / 32, column < a.head_dim, y);
    const merged whole = add_warps(y, state);
    if (threadIdx.x < 32) { /* head_dims are multiples of 4 */
        const uint32_t head = kv_head * w.ratio + row % w.ratio;
        const float factor = output_factor(a, head, whole.max, whole.sum);
        const float4 &x = whole.acc;
        store_row(a, s.first_token + row / w.ratio, head, column,
                  make_float4(x.x * factor, x.y * factor, x.z * factor, x.w * factor), column < a.head_dim);
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
