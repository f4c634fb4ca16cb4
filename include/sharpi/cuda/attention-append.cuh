/* Append: the step's K and V rows go to their places in the pages. Reads 4 bytes an element, writes the format's. */
#ifndef SHARPI_CUDA_ATTENTION_APPEND_CUH
#define SHARPI_CUDA_ATTENTION_APPEND_CUH

#include <sharpi/cuda/attention-work.cuh>

namespace sharpi
{

/* One head's part of a row, by a warp: loads first, four at a time. */
template <class F> __device__ inline void store_row(void *tile, uint32_t d, uint32_t row, const float *src)
{
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t col = 0; col < d; col += 128) {
        float x[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            x[i] = col + 32 * i + lane < d ? src[col + 32 * i + lane] : 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            if (col + 32 * i < d)
                F::store32(tile, d, row, col + 32 * i, x[i]);
    }
}

constexpr uint32_t append_threads = 256;

/* A warp per token, KV head and K or V. */
template <class F>
__global__ __launch_bounds__(append_threads) void append_kernel(const sharpi_kv_cuda_args a)
{
    launch_next();
    launch_wait();
    const uint64_t warp = (uint64_t)blockIdx.x * (append_threads / 32) + threadIdx.x / 32;
    const uint32_t is_v = warp % 2, head = warp / 2 % a.n_kv_heads,
                   token = (uint32_t)(warp / 2 / a.n_kv_heads);
    if (token >= a.step->n_tokens)
        return;
    segment x = {};
    x.seq = (uint32_t)a.seqs_of[token];
    x.kv_head = head;
    const uint32_t position = a.seqs[x.seq].length + token - a.seqs[x.seq].first_token;
    void *tile = tile_of(a, is_v ? a.v_cache : a.k_cache, x, position / tile_rows, F::tile_bytes(a.head_dim));
    const float *src =
        (is_v ? a.v + token * a.v_stride : a.k + token * a.k_stride) + (uint64_t)head * a.head_dim;
    store_row<F>(tile, a.head_dim, position % tile_rows, src);
}

template <class F> int launch_append(const sharpi_kv_cuda_args &a, cudaStream_t stream)
{
    const uint64_t warps = (uint64_t)a.max_tokens * a.n_kv_heads * 2;
    return launch(append_kernel<F>, (uint32_t)((warps + append_threads / 32 - 1) / (append_threads / 32)),
                  append_threads, 0, stream, a.overlaps, a);
}

} // namespace sharpi
#endif
