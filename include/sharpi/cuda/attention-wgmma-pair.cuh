/* Prefill on Hopper for head_dim 512, and the kernel for all head_dims.
 *
 * Here the two computing warpgroups have the same 64 rows: each multiplies with half of a tile's positions (K), they exchange
 * maxima and weights through shared memory, and each multiplies all weights with its half of the columns (V).
 */
#ifndef SHARPI_CUDA_ATTENTION_WGMMA_PAIR_CUH
#define SHARPI_CUDA_ATTENTION_WGMMA_PAIR_CUH

#include <sharpi/cuda/attention-wgmma.cuh>

namespace sharpi
{

template <class F, int D> struct wgmma_pair_block : wgmma_block<F, D> {
    using base = wgmma_block<F, D>;
    using shape = wgmma_shape<D>;
    using base::a, base::w, base::work, base::q, base::k, base::v, base::p, base::exchange, base::row_scale;
    using base::k_full, base::v_full, base::k_empty, base::v_empty;
    static constexpr uint32_t M = shape::m, N = shape::n, stages = shape::n_stages, half = N / 2;

    __device__ wgmma_pair_block(const sharpi_kv_cuda_args &args, const work_shape &shape_of_work,
                                const block_work &block, char *memory)
        : base(args, shape_of_work, block, memory)
    {
    }

    __device__ void multiply_half(float (&s)[half / 2], uint32_t stage)
    {
        const uint64_t descriptor = wgmma_descriptor(16, 1024);
        const uint32_t q_at = shared_address(q);
        const uint32_t k_at = shared_address(k) + stage * shape::tile_bytes + threadIdx.x / 128 * half * 128;
        wgmma_touch(s);
        wgmma_begin();
        /* not unrolled further: the compiler would keep all descriptors in registers */
#pragma unroll 1
        for (uint32_t part = 0; part < D / 64; part++)
#pragma unroll
            for (uint32_t step = 0; step < 4; step++)
                wgmma<F::uses_f16, half>::shared(s, wgmma_at(descriptor, q_at + part * M * 128 + step * 32),
                                                 wgmma_at(descriptor, k_at + part * N * 128 + step * 32),
                                                 part || step);
        wgmma_commit();
    }

    /* This half's scores to weights in shared memory, for both warpgroups; two meetings of both. */
    __device__ void share_weights(float (&s)[half / 2], uint32_t tile, uint32_t row, const float (&scale)[2],
                                  const uint32_t (&low)[2], const uint32_t (&end)[2], float (&max)[2],
                                  float (&sum)[2], float (&shrink)[2], bool edge)
    {
        const uint32_t lane = threadIdx.x % 32, which = threadIdx.x / 128;
        const uint32_t position = (work.at.page + tile) * tile_rows + which * half + lane % 4 * 2;
        float mine[2];
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            mine[h] = -INFINITY;
#pragma unroll
            for (uint32_t i = 2 * h; i < half / 2; i += i % 2 ? 3 : 1) {
                s[i] *= scale[h] * log2_e;
                if (a.softcap != 0.0f)
                    s[i] = softcapped_fast(s[i], a.softcap * log2_e);
                if (edge && (position + i / 4 * 8 + i % 2 < low[h] || position + i / 4 * 8 + i % 2 >= end[h]))
                    s[i] = -INFINITY;
                mine[h] = fmaxf(mine[h], s[i]);
            }
            mine[h] = quad_max(mine[h]);
            if (lane % 4 == 0)
                exchange[which * M + row + 8 * h] = mine[h];
        }
        meet(1, 256);
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            const float now = fmaxf(fmaxf(max[h], mine[h]), exchange[(1 - which) * M + row + 8 * h]);
            const float reference = now == -INFINITY ? 0.0f : now;
            shrink[h] = exp2_fast(max[h] - reference);
            max[h] = now;
            sum[h] *= shrink[h];
#pragma unroll
            for (uint32_t j = 0; j < half / 8; j++) {
                const float first = exp2_fast(s[4 * j + 2 * h] - reference);
                const float second = exp2_fast(s[4 * j + 2 * h + 1] - reference);
                sum[h] += first + second;
                *(uint32_t *)(p + 16 * operand_piece<M>(row + 8 * h, which * half / 8 + j) + lane % 4 * 4) =
                    pack<F>(first, second);
            }
        }
        meet(1, 256);
    }

    __device__ void load_weights(uint32_t (&x)[N / 16][4])
    {
#pragma unroll
        for (uint32_t step = 0; step < N / 16; step++)
            load_operand<M>(x[step], shared_address(p), threadIdx.x % 128 / 32, step);
    }

    __device__ void compute()
    {
        const uint32_t thread = threadIdx.x % 128, n = base::n_tiles(),
                       row = thread / 32 * 16 + thread % 32 / 4;
        float s[half / 2], o[shape::outputs];
        float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f}, shrink[2], scale[2];
        uint32_t weights[N / 16][4], low[2], end[2];

        base::load_queries();
        const uint32_t n_rows = rows_in_group(w, work.at);
        const uint32_t greatest_low = view_of(a, w, work.at, n_rows - 1).low,
                       least_end = view_of(a, w, work.at, 0).end;
        for (uint32_t h = 0; h < 2; h++) {
            const row_view view = view_of(a, w, work.at, row + 8 * h);
            low[h] = view.low, end[h] = view.end, scale[h] = row_scale[row + 8 * h];
        }
#pragma unroll
        for (uint32_t i = 0; i < shape::outputs; i++)
            o[i] = 0.0f;
        auto is_edge = [&](uint32_t tile) {
            const uint32_t first = (work.at.page + tile) * tile_rows;
            return first < greatest_low || first + N > least_end;
        };

        barrier_wait(k_full, 0);
        multiply_half(s, 0);
        wgmma_wait<0>();
        wgmma_touch(s);
        if (thread == 0)
            barrier_arrive(k_empty);
        share_weights(s, 0, row, scale, low, end, max, sum, shrink, is_edge(0));
        load_weights(weights);
#pragma unroll 1
        for (uint32_t i = 0; i + 1 < n; i++) {
            const uint32_t stage = i % stages, next = (i + 1) % stages;
            barrier_wait(k_full + next, (i + 1) / stages % 2);
            multiply_half(s, next);
            barrier_wait(v_full + stage, i / stages % 2);
            base::multiply_v(o, weights, stage);
            wgmma_wait<1>();
            wgmma_touch(s);
            if (thread == 0)
                barrier_arrive(k_empty + next);
            share_weights(s, i + 1, row, scale, low, end, max, sum, shrink, is_edge(i + 1));
            wgmma_wait<0>();
            wgmma_touch(o);
            if (thread == 0)
                barrier_arrive(v_empty + stage);
#pragma unroll
            for (uint32_t j = 0; j < shape::outputs; j++)
                o[j] *= shrink[j / 2 % 2];
            load_weights(weights);
        }
        const uint32_t stage = (n - 1) % stages;
        barrier_wait(v_full + stage, (n - 1) / stages % 2);
        base::zero_rows(stage, n - 1);
        base::multiply_v(o, weights, stage);
        wgmma_wait<0>();
        wgmma_touch(o);

        for (uint32_t h = 0; h < 2; h++) {
            sum[h] = quad_sum(sum[h]);
            if (thread % 4 == 0)
                exchange[threadIdx.x / 128 * M + row + 8 * h] = sum[h];
        }
        meet(1, 256);
        for (uint32_t h = 0; h < 2; h++)
            sum[h] += exchange[(1 - threadIdx.x / 128) * M + row + 8 * h];
        base::store(o, max, sum, row);
    }
};

template <class F, int D, bool is_pair = wgmma_shape<D>::splits_columns> struct wgmma_block_of {
    using type = wgmma_block<F, D>;
};

template <class F, int D> struct wgmma_block_of<F, D, true> {
    using type = wgmma_pair_block<F, D>;
};

template <class F, int D>
__global__ __launch_bounds__(wgmma_shape<D>::n_threads, 1) void wgmma_kernel(const sharpi_kv_cuda_args a,
                                                                             const work_shape w)
{
#if SHARPI_HAS_WGMMA
    extern __shared__ char memory[];
    launch_next();
    launch_wait();
    const block_work work = whole_work(a, w);
    if (!work.n_units)
        return;
    typename wgmma_block_of<F, D>::type block(a, w, work, memory);
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < wgmma_shape<D>::n_stages; i++) {
            barrier_init_count(block.k_full + i, F::tiles_are_operands ? 1 : 128);
            barrier_init_count(block.v_full + i, F::tiles_are_operands ? 1 : 128);
            barrier_init_count(block.k_empty + i, 2);
            barrier_init_count(block.v_empty + i, 2);
        }
        barrier_init_done();
    }
    __syncthreads();
    if (threadIdx.x >= 256) {
        registers_less<F::tiles_are_operands ? 24 : 56>();
        if (!F::tiles_are_operands || threadIdx.x == 256)
            block.copy();
    } else {
        registers_more<F::tiles_are_operands ? 240 : 224>();
        block.compute();
    }
#endif
}

} // namespace sharpi
#endif
