/* The end of an output row: partials of several blocks together, division by the sum, sinks. */
#ifndef SHARPI_CUDA_ATTENTION_MERGE_CUH
#define SHARPI_CUDA_ATTENTION_MERGE_CUH

#include <sharpi/cuda/attention-work.cuh>

namespace sharpi
{

constexpr float log2_e = 1.4426950408889634f;

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

constexpr uint32_t merge_threads = 512;

/* A block per token and query head; a thread takes four columns of every `per`-th partial. */
static __global__ __launch_bounds__(merge_threads) void merge_kernel(const sharpi_kv_cuda_args a,
                                                                     const work_shape w)
{
    launch_next();
    launch_wait();
    __shared__ float4 part[merge_threads];
    __shared__ float2 whole[merge_threads / 32];
    const uint32_t token = blockIdx.x, head = blockIdx.y, d = a.head_dim, ratio = a.n_heads / a.n_kv_heads;
    if (token >= a.step->n_tokens)
        return;
    const uint32_t seq = a.seqs_of[token], n_rows = rows_of(a, seq);
    if (!is_ours(w, n_rows))
        return;
    const uint32_t row = (token - a.seqs[seq].first_token) * ratio + head % ratio;
    uint32_t page, end_page, begin = units_before(a, w, seq) + head / ratio * units_per_head(a, w, seq);
    for (uint32_t group = 0; group < row / w.m; group++) {
        page_range(a, seq, w.m, group, page, end_page);
        begin += end_page - page;
    }
    page_range(a, seq, w.m, row / w.m, page, end_page);
    const uint32_t chunk = chunk_of(w, units_before(a, w, a.step->n_seqs));
    const uint32_t first = begin / chunk, n = (begin + end_page - page - 1) / chunk - first + 1;
    if (n == 1)
        return; /* that block wrote `out` */

    /* The greatest maximum of all partials, then the sum. Only the first block can have it as its last segment. */
    float max = -INFINITY, sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < n; i += merge_threads)
        max = fmaxf(max, w.sums[partial_row(w, first + i, !i && begin > first * chunk, row % w.m)].x);
    for (uint32_t i = 16; i; i /= 2)
        max = fmaxf(max, __shfl_xor_sync(~0u, max, i));
    if (threadIdx.x % 32 == 0)
        whole[threadIdx.x / 32].x = max;
    __syncthreads();
    for (uint32_t i = 0; i < merge_threads / 32; i++)
        max = fmaxf(max, whole[i].x);
    const float reference = max == -INFINITY ? 0.0f : max;

    const uint32_t columns = (d + 3) / 4, lanes = min(columns, merge_threads),
                   per = min(merge_threads / lanes, 32u);
    const uint32_t column = threadIdx.x % lanes, which = threadIdx.x / lanes;
    float4 acc = make_float4(0, 0, 0, 0);
    if (which < per)
#pragma unroll 4
        for (uint32_t i = which; i < n; i += per) {
            const uint64_t at = partial_row(w, first + i, !i && begin > first * chunk, row % w.m);
            const float2 s = w.sums[at];
            const float4 x = *(const float4 *)(w.acc + at * w.acc_width + column * 4);
            const float weight = exp2f(s.x - reference);
            sum += s.y * weight;
            acc.x += x.x * weight, acc.y += x.y * weight, acc.z += x.z * weight, acc.w += x.w * weight;
        }
    part[threadIdx.x] = acc;
    __syncthreads();
    if (column == 0 && which < per)
        ((float *)whole)[which] = sum;
    __syncthreads();
    if (which)
        return;
    for (uint32_t i = 1; i < per; i++) {
        const float4 x = part[i * lanes + column];
        acc.x += x.x, acc.y += x.y, acc.z += x.z, acc.w += x.w;
    }
    sum = 0.0f;
    for (uint32_t i = 0; i < per; i++)
        sum += ((const float *)whole)[i];
    const float factor = output_factor(a, head, max, sum);
    float *out = a.out + token * a.out_stride + (uint64_t)head * d + column * 4;
    const float y[4] = {acc.x, acc.y, acc.z, acc.w};
    for (uint32_t i = 0; i < 4 && column * 4 + i < d; i++)
        out[i] = y[i] * factor;
}

} // namespace sharpi
#endif
