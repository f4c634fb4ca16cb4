/* Prefill on Hopper: flash attention by wgmma, for head_dims of 64, 128, 256 and 512.
 *
 * A block has two warpgroups that compute and one that copies. Up to head_dim 256 each computing warpgroup has 64 rows; at
 * 512 both have the same 64 rows and scores, and each has half of the output's columns (such a block reads so many bytes
 * per row from L2 that dividing the scores' work too gained nothing). K and V tiles of n positions pass through rings of
 * stages: as they are when the format's tiles are operands, else converted on the way by the copying warpgroup (only what did
 * not fit attention-convert.cuh's scratch). The product with K of the next tile runs while the softmax of this one is
 * computed and its product with V.
 *
 * Arithmetic: operands f16 or bf16 (queries and weights rounded to them), f32 sums and softmax.
 */
#ifndef SHARPI_CUDA_ATTENTION_WGMMA_CUH
#define SHARPI_CUDA_ATTENTION_WGMMA_CUH

#include <sharpi/cuda/attention-convert.cuh>
#include <sharpi/cuda/attention-tensor.cuh>
#include <sharpi/cuda/wgmma.cuh>

namespace sharpi
{

template <int D> struct wgmma_shape {
    static constexpr bool splits_columns = D > 256;
    static constexpr uint32_t m = splits_columns ? 64 : 128;
    static constexpr uint32_t n = D <= 128 ? 128 : 64;
    static constexpr uint32_t pages = n / tile_rows;
    static constexpr uint32_t columns = splits_columns ? D / 2 : D; /* of the output, per warpgroup */
    static constexpr uint32_t n_threads = 384;
    static constexpr uint32_t tile_bytes = n * D * 2, q_bytes = m * D * 2;
    static constexpr uint32_t n_stages = D <= 256 ? 2 : 1;
    static constexpr uint32_t n_bytes = q_bytes + 2 * n_stages * tile_bytes + m * 4 + 4 * n_stages * 8 + 1024;
    static constexpr uint32_t scores = n / 2, outputs = columns / 2; /* registers */
};

template <int n_registers> __device__ inline void registers_less(void)
{
#if SHARPI_HAS_WGMMA
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n_registers));
#endif
}

template <int n_registers> __device__ inline void registers_more(void)
{
#if SHARPI_HAS_WGMMA
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n_registers));
#endif
}

__device__ inline void barrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/* Over the four lanes that share a row. */
__device__ inline float quad_sum(float x)
{
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

__device__ inline float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

template <class F, int D> struct wgmma_block {
    using shape = wgmma_shape<D>;
    static constexpr uint32_t M = shape::m, N = shape::n, stages = shape::n_stages;

    const sharpi_kv_cuda_args &a;
    const work_shape &w;
    const block_work &work;
    char *q, *k, *v;
    float *row_scale;
    uint64_t *k_full, *v_full, *k_empty, *v_empty;

    __device__ wgmma_block(const sharpi_kv_cuda_args &args, const work_shape &shape_of_work,
                           const block_work &block, char *memory)
        : a(args), w(shape_of_work), work(block)
    {
        q = memory + (1024 - shared_address(memory) % 1024) % 1024;
        k = q + shape::q_bytes;
        v = k + stages * shape::tile_bytes;
        row_scale = (float *)(v + stages * shape::tile_bytes);
        k_full = (uint64_t *)(row_scale + M);
        v_full = k_full + stages;
        k_empty = v_full + stages;
        v_empty = k_empty + stages;
    }

    __device__ uint32_t n_tiles() const
    {
        return ceil_div(work.n_units, shape::pages);
    }

    /* ---- The copying warpgroup */

    __device__ const char *source(void *cache, uint32_t page) const
    {
        if (!w.capacity || w.takes_overflow)
            return tile_of(a, cache, work.at, page, F::tile_bytes(D));
        const uint32_t tile = work.first_tile + (page - work.first_page) * a.n_kv_heads + work.at.kv_head;
        return w.tiles + ((uint64_t)(cache == a.v_cache) * w.capacity + tile) * F::tile_bytes(D);
    }

    /* Starts the copies of tile i's pages; past the end the last page again. One thread. */
    __device__ void fetch(char *dst, void *cache, uint32_t i, uint64_t *full)
    {
#if SHARPI_HAS_WGMMA
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(full)),
                     "r"(shape::tile_bytes)
                     : "memory");
#pragma unroll 1
        for (uint32_t page = 0; page < shape::pages; page++) {
            const uint32_t at = min(work.at.page + i * shape::pages + page, work.at.end_page - 1);
            const char *src = source(cache, at);
            const uint32_t bytes = shape::pages == 1 ? tile_rows * D * 2 : tile_rows * 128;
            for (uint32_t part = 0; part < (shape::pages == 1 ? 1 : D / 64); part++)
                asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], "
                             "%2, [%3];" ::"r"(shared_address(dst + (part * N + page * tile_rows) * 128)),
                             "l"(src + part * tile_rows * 128), "r"(bytes), "r"(shared_address(full))
                             : "memory");
        }
#endif
    }

    /* The same for formats whose tiles want conversion; 128 threads, each 32 elements of a row at a time. */
    __device__ void convert(char *dst, void *cache, uint32_t i, uint64_t *full)
    {
        constexpr uint32_t blocks = tile_rows * D / 32; /* of a page; lanes have consecutive rows */
        const uint32_t thread = threadIdx.x % 128;
#pragma unroll 1
        for (uint32_t page = 0; page < shape::pages; page++) {
            const uint32_t at = min(work.at.page + i * shape::pages + page, work.at.end_page - 1);
            const char *src = source(cache, at);
#pragma unroll 1
            for (uint32_t first = thread; first < blocks; first += 2 * 128) {
                typename F::raw32 raw[2];
#pragma unroll
                for (uint32_t j = 0; j < 2; j++)
                    if (first + j * 128 < blocks)
                        raw[j] = F::load_raw32(src, D, (first + j * 128) % tile_rows,
                                               (first + j * 128) / tile_rows);
#pragma unroll
                for (uint32_t j = 0; j < 2; j++) {
                    const uint32_t row = (first + j * 128) % tile_rows, block = (first + j * 128) / tile_rows;
                    uint4 x[4];
                    if (first + j * 128 >= blocks)
                        break;
                    F::operands_of_raw32(x, raw[j]);
#pragma unroll
                    for (uint32_t l = 0; l < 4; l++)
                        *(uint4 *)(dst + 16 * operand_piece<N>(page * tile_rows + row, 4 * block + l)) = x[l];
                }
            }
        }
        fence_async();
        barrier_arrive(full);
    }

    __device__ void put(char *dst, void *cache, uint32_t i, uint64_t *full)
    {
        if constexpr (F::tiles_are_operands)
            fetch(dst, cache, i, full);
        else
            convert(dst, cache, i, full);
    }

    __device__ void copy()
    {
        for (uint32_t i = 0; i < n_tiles(); i++) {
            const uint32_t stage = i % stages, parity = i / stages % 2 ^ 1;
            barrier_wait(k_empty + stage, parity);
            put(k + stage * shape::tile_bytes, a.k_cache, i, k_full + stage);
            barrier_wait(v_empty + stage, parity);
            put(v + stage * shape::tile_bytes, a.v_cache, i, v_full + stage);
        }
    }

    /* ---- The computing warpgroups */

    __device__ void load_queries()
    {
        const uint32_t lane = threadIdx.x % 32;
        for (uint32_t row = threadIdx.x / 32; row < M; row += 8) {
            const row_view view = view_of(a, w, work.at, row);
            const float2 *src = (const float2 *)(a.q + view.token * a.q_stride + (uint64_t)view.head * D);
            float2 x[D / 64];
            float up = 1.0f, greatest = 0.0f;
#pragma unroll
            for (uint32_t i = 0; i < D / 64; i++) {
                x[i] = view.is_valid ? src[i * 32 + lane] : make_float2(0.0f, 0.0f);
                greatest = fmaxf(greatest, fmaxf(fabsf(x[i].x), fabsf(x[i].y)));
            }
            if (F::uses_f16) {
                for (uint32_t i = 16; i; i /= 2)
                    greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, i));
                const int exponent = (int)(__float_as_uint(greatest) >> 23) - 127;
                up = exponent > -100 && exponent < 100 ? __uint_as_float((uint32_t)(127 - exponent) << 23)
                                                       : 1.0f;
            }
#pragma unroll
            for (uint32_t i = 0; i < D / 64; i++)
                *(uint32_t *)(q + 16 * operand_piece<M>(row, 8 * i + lane / 4) + lane % 4 * 4) =
                    pack<F>(x[i].x * up, x[i].y * up);
            if (lane == 0)
                row_scale[row] = a.scale * F::unit / up;
        }
        fence_async();
        meet(1, 256);
    }

    __device__ void multiply_k(float (&s)[shape::scores], uint32_t stage)
    {
        const uint32_t warpgroup = shape::splits_columns ? 0 : threadIdx.x / 128;
        const uint64_t descriptor = wgmma_descriptor(16, 1024);
        const uint32_t q_at = shared_address(q) + warpgroup * 64 * 128;
        const uint32_t k_at = shared_address(k) + stage * shape::tile_bytes;
        wgmma_touch(s);
        wgmma_begin();
        /* not unrolled further: the compiler would keep all descriptors in registers */
#pragma unroll(D <= 256 ? D / 64 : 1)
        for (uint32_t part = 0; part < D / 64; part++)
#pragma unroll
            for (uint32_t step = 0; step < 4; step++)
                wgmma<F::uses_f16, N>::shared(s, wgmma_at(descriptor, q_at + part * M * 128 + step * 32),
                                              wgmma_at(descriptor, k_at + part * N * 128 + step * 32),
                                              part || step);
        wgmma_commit();
    }

    __device__ void multiply_v(float (&o)[shape::outputs], const uint32_t (&p)[N / 16][4], uint32_t stage)
    {
        const uint32_t first = shape::splits_columns ? threadIdx.x / 128 * shape::columns / 64 : 0;
        const uint64_t descriptor = wgmma_descriptor(N * 128, 1024);
        const uint32_t v_at = shared_address(v) + stage * shape::tile_bytes + first * N * 128;
        wgmma_touch(o);
        wgmma_begin();
#pragma unroll
        for (uint32_t step = 0; step < N / 16; step++)
            wgmma<F::uses_f16, shape::columns>::registers(o, p[step],
                                                          wgmma_at(descriptor, v_at + step * 16 * 128));
        wgmma_commit();
    }

    /* Scores to weights of the running maximum; sums with it. `shrink` is for the output. */
    __device__ void weigh(float (&s)[shape::scores], uint32_t tile, const float (&scale)[2],
                          const uint32_t (&low)[2], const uint32_t (&end)[2], float (&max)[2],
                          float (&sum)[2], float (&shrink)[2], bool edge)
    {
        const uint32_t lane = threadIdx.x % 32,
                       base = (work.at.page + tile * shape::pages) * tile_rows + lane % 4 * 2;
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            float factor = scale[h] * log2_e;
            if (a.softcap != 0.0f) {
#pragma unroll
                for (uint32_t i = 2 * h; i < shape::scores; i += i % 2 ? 3 : 1)
                    s[i] = softcapped_fast(s[i] * scale[h], a.softcap);
                factor = log2_e;
            }
            if (edge) {
#pragma unroll
                for (uint32_t i = 2 * h; i < shape::scores; i += i % 2 ? 3 : 1) {
                    const uint32_t position = base + i / 4 * 8 + i % 2;
                    if (position < low[h] || position >= end[h])
                        s[i] = -INFINITY;
                }
            }
            float greatest = s[2 * h];
#pragma unroll
            for (uint32_t i = 2 * h; i < shape::scores; i += i % 2 ? 3 : 1)
                greatest = fmaxf(greatest, s[i]);
            greatest = quad_max(greatest);
            /* maxima are of scores before the factor, which is positive: see attention() for scale <= 0 */
            const float now = fmaxf(max[h], greatest * factor);
            const float reference = now == -INFINITY ? 0.0f : now;
            shrink[h] = exp2_fast(max[h] - reference);
            max[h] = now;
            float total = 0.0f;
#pragma unroll
            for (uint32_t i = 2 * h; i < shape::scores; i += i % 2 ? 3 : 1) {
                s[i] = exp2_fast(fmaf(s[i], factor, -reference));
                total += s[i];
            }
            sum[h] = sum[h] * shrink[h] + total;
        }
    }

    __device__ static void pack_weights(uint32_t (&p)[N / 16][4], const float (&s)[shape::scores])
    {
#pragma unroll
        for (uint32_t i = 0; i < N / 16; i++)
#pragma unroll
            for (uint32_t j = 0; j < 4; j++)
                p[i][j] = pack<F>(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
    }

    /* Rows of V past the sequence's end may hold anything; both warpgroups zero them all. */
    __device__ void zero_rows(uint32_t stage, uint32_t tile)
    {
        const uint32_t first =
            work.at.s.length + work.at.s.n_tokens - (work.at.page + tile * shape::pages) * tile_rows;
        if (first >= N)
            return;
        for (uint32_t i = threadIdx.x % 128; i < (N - first) * (D / 8); i += 128) {
            const uint32_t row = first + i / (D / 8), piece = i % (D / 8);
            *(uint4 *)(v + stage * shape::tile_bytes + 16 * ((piece / 8 * N + row) * 8 + piece % 8)) =
                make_uint4(0, 0, 0, 0);
        }
        fence_async();
        meet(2 + threadIdx.x / 128, 128);
    }

    __device__ void store(const float (&o)[shape::outputs], const float (&max)[2], float (&sum)[2],
                          uint32_t row)
    {
        const uint32_t lane = threadIdx.x % 32,
                       first = shape::splits_columns ? threadIdx.x / 128 * shape::columns : 0;
#pragma unroll
        for (uint32_t h = 0; h < 2; h++) {
            const row_view view = view_of(a, w, work.at, row + 8 * h);
            if (!view.is_valid)
                continue;
            const float factor = F::unit * output_factor(a, view.head, max[h], sum[h]);
            float *out = a.out + view.token * a.out_stride + (uint64_t)view.head * D + first + lane % 4 * 2;
#pragma unroll
            for (uint32_t j = 0; j < shape::columns / 8; j++)
                *(float2 *)(out + 8 * j) =
                    make_float2(o[4 * j + 2 * h] * factor, o[4 * j + 2 * h + 1] * factor);
        }
    }

    __device__ void compute()
    {
        const uint32_t thread = threadIdx.x % 128, n = n_tiles();
        const uint32_t row =
            (shape::splits_columns ? 0 : threadIdx.x / 128 * 64) + thread / 32 * 16 + thread % 32 / 4;
        float s[shape::scores], o[shape::outputs];
        float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f}, shrink[2], scale[2];
        uint32_t p[N / 16][4], low[2], end[2];

        load_queries();
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
            const uint32_t first = (work.at.page + tile * shape::pages) * tile_rows;
            return first < greatest_low || first + N > least_end;
        };

        barrier_wait(k_full, 0);
        multiply_k(s, 0);
        wgmma_wait<0>();
        wgmma_touch(s);
        if (thread == 0)
            barrier_arrive(k_empty);
        weigh(s, 0, scale, low, end, max, sum, shrink, is_edge(0));
        pack_weights(p, s);
#pragma unroll 1
        for (uint32_t i = 0; i + 1 < n; i++) {
            const uint32_t stage = i % stages, next = (i + 1) % stages;
            barrier_wait(k_full + next, (i + 1) / stages % 2);
            multiply_k(s, next);
            barrier_wait(v_full + stage, i / stages % 2);
            multiply_v(o, p, stage);
            wgmma_wait<1>();
            wgmma_touch(s);
            if (thread == 0)
                barrier_arrive(k_empty + next);
            weigh(s, i + 1, scale, low, end, max, sum, shrink, is_edge(i + 1));
            wgmma_wait<0>();
            wgmma_touch(o);
            if (thread == 0)
                barrier_arrive(v_empty + stage);
#pragma unroll
            for (uint32_t j = 0; j < shape::outputs; j++)
                o[j] *= shrink[j / 2 % 2];
            pack_weights(p, s);
        }
        const uint32_t stage = (n - 1) % stages;
        barrier_wait(v_full + stage, (n - 1) / stages % 2);
        zero_rows(stage, n - 1);
        multiply_v(o, p, stage);
        wgmma_wait<0>();
        wgmma_touch(o);
        for (uint32_t h = 0; h < 2; h++)
            sum[h] = quad_sum(sum[h]);
        store(o, max, sum, row);
    }
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
    wgmma_block<F, D> block(a, w, work, memory);
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
