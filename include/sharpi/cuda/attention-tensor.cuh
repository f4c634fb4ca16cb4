/* Attention on the tensor cores by mma.sync: decode, verification, and prefill where wgmma is missing.
 *
 * A block holds M = 16 MT rows and walks pages. Per page: each warp multiplies all rows with its share of the positions
 * (K), the warps agree on the rows' maxima, each writes its weights to shared memory, and each multiplies all weights with
 * its share of the columns (V). So every K and V element is read from shared memory, and converted, once. Pages come by
 * asynchronous copies, n_stages ahead. Two barriers a page.
 *
 * Arithmetic: f32 sums and softmax; operands f16 (formats that say so) or bf16. With MT = 1 (decode) bf16 queries and
 * weights are split into two bf16 each, so that the products are f32's but for 2^-17; else they are rounded (2^-9).
 * f16 queries are scaled by a power of two per row first.
 */
#ifndef SHARPI_CUDA_ATTENTION_TENSOR_CUH
#define SHARPI_CUDA_ATTENTION_TENSOR_CUH

#include <sharpi/cuda/attention-append.cuh>
#include <sharpi/cuda/attention-merge.cuh>

namespace sharpi
{

template <class F, int D, int MT> struct tensor_shape {
    static constexpr uint32_t n_warps = D <= 128 ? 4 : 8, n_threads = 32 * n_warps, m = 16 * MT;
    static constexpr uint32_t n_tiles = tile_rows / 8 / n_warps; /* n8 tiles of positions per warp */
    static constexpr uint32_t col_blocks = D < 128 ? 1 : D / 32 / n_warps; /* 32 columns each, per warp */
    static constexpr bool is_split = MT == 1 && !F::uses_f16;              /* operands in two parts */
    static constexpr uint32_t parts = is_split ? 2 : 1;
    static constexpr uint32_t blocks_per_sm = D <= 256 && MT == 1 ? 2 : 1;

    /* Shared memory after the stages. */
    __host__ __device__ static constexpr uint32_t q_bytes(uint32_t d)
    {
        return parts * m * ((d + 63) / 64 * 64) * 2;
    }
    static constexpr uint32_t p_bytes = parts * m * tile_rows * 2;
    static constexpr uint32_t max_bytes = n_warps * m * 4, sum_bytes = n_warps * m * 4, scale_bytes = m * 4;
    static constexpr uint32_t max_stages = 4, barrier_bytes = 2 * max_stages * 8;
    __host__ __device__ static constexpr uint32_t fixed_bytes(uint32_t d)
    {
        return q_bytes(d) + p_bytes + max_bytes + sum_bytes + scale_bytes + barrier_bytes;
    }
};

/* A operand piece: [m, d] of 16-bit values, 64 columns after 64 columns, pieces permuted as in piece16. */
template <int M> __device__ inline uint32_t operand_piece(uint32_t row, uint32_t piece)
{
    return (piece / 8 * M + row) * 8 + (piece % 8 ^ row % 8);
}

/* A operand of rows [16 tile, +16), k step `step`. */
template <int M>
__device__ inline void load_operand(uint32_t (&x)[4], uint32_t base, uint32_t tile, uint32_t step)
{
    const uint32_t lane = threadIdx.x % 32;
    load_matrices(x, base + 16 * operand_piece<M>(16 * tile + lane % 16, 2 * step + lane / 16));
}

template <class F> __device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    if (F::uses_f16)
        mma_f16(c, a, b0, b1);
    else
        mma_bf16(c, a, b0, b1);
}

template <class F> __device__ inline uint32_t pack(float x, float y)
{
    return F::uses_f16 ? pack_f16(x, y) : pack_bf16(x, y);
}

/* What bf16 rounding left of x and y. */
__device__ inline uint32_t pack_rest(float x, float y, uint32_t packed)
{
    return pack_bf16(x - __uint_as_float(packed << 16), y - __uint_as_float(packed & 0xffff0000u));
}

template <class F, int D, int MT> struct tensor_block {
    using shape = tensor_shape<F, D, MT>;
    static constexpr uint32_t M = shape::m;

    const sharpi_kv_cuda_args &a;
    const work_shape &w;
    char *k_stages, *v_stages;
    uint32_t q, p; /* shared addresses */
    char *q_memory, *p_memory;
    float *maxima, *sums, *row_scale;
    uint64_t *barriers;
    uint32_t n_stages, tile_bytes;

    segment x; /* what is computed */
    float o[MT][shape::col_blocks][4][4];
    float max[MT][2], sum[MT][2];
    uint32_t low[MT][2], end[MT][2], greatest_low, least_end;

    __device__ tensor_block(const sharpi_kv_cuda_args &args, const work_shape &work, uint32_t stages,
                            char *memory)
        : a(args), w(work), n_stages(stages), tile_bytes(F::tile_bytes(args.head_dim))
    {
        const uint32_t d = a.head_dim;
        k_stages = memory;
        v_stages = k_stages + n_stages * tile_bytes;
        q_memory = v_stages + n_stages * tile_bytes;
        p_memory = q_memory + shape::q_bytes(d);
        maxima = (float *)(p_memory + shape::p_bytes);
        sums = maxima + shape::n_warps * M;
        row_scale = sums + shape::n_warps * M;
        barriers = (uint64_t *)(row_scale + M);
        q = shared_address(q_memory);
        p = shared_address(p_memory);
    }

    __device__ void fetch(const segment &from, uint32_t stage, bool is_v)
    {
#if __CUDA_ARCH__ >= 900
        if (threadIdx.x) /* copy_begin's rule; the page table need not be read */
            return;
#endif
        copy_begin((is_v ? v_stages : k_stages) + stage * tile_bytes,
                   tile_of(a, is_v ? a.v_cache : a.k_cache, from, from.page, tile_bytes), tile_bytes,
                   barriers + 2 * stage + is_v);
    }

    /* Queries to shared memory, in the operands' type; a warp per row. */
    __device__ void load_queries()
    {
        const uint32_t lane = threadIdx.x % 32, d = a.head_dim, width = (d + 63) / 64 * 64;
        for (uint32_t row = threadIdx.x / 32; row < M; row += shape::n_warps) {
            const row_view view = view_of(a, x, M, row);
            const float *src = a.q + view.token * a.q_stride + (uint64_t)view.head * d;
            float up = 1.0f;
            if (F::uses_f16) {
                float greatest = 0.0f;
                for (uint32_t i = lane; i < d; i += 32)
                    greatest = fmaxf(greatest, fabsf(src[i]));
                for (uint32_t i = 16; i; i /= 2)
                    greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, i));
                const int exponent = (int)(__float_as_uint(greatest) >> 23) - 127;
                up = exponent > -100 && exponent < 100 ? __uint_as_float((uint32_t)(127 - exponent) << 23)
                                                       : 1.0f;
            }
            for (uint32_t col = 0; col < width; col += 32) {
                const uint32_t slot = col + F::q_slot(lane);
                const float value = view.is_valid && col + lane < d ? src[col + lane] * up : 0.0f;
                const uint32_t at = operand_piece<M>(row, slot / 8) * 8 + slot % 8,
                               whole = pack<F>(value, 0.0f);
                ((uint16_t *)q_memory)[at] = (uint16_t)whole;
                if (shape::is_split)
                    ((uint16_t *)q_memory)[M * width + at] = (uint16_t)pack_rest(value, 0.0f, whole);
            }
            if (lane == 0)
                row_scale[row] = a.scale * F::unit / up;
        }
    }

    __device__ void begin_segment(uint32_t n_rows)
    {
        load_queries();
        greatest_low = view_of(a, x, M, n_rows - 1).low;
        least_end = view_of(a, x, M, 0).end;
        for (uint32_t m = 0; m < MT; m++)
            for (uint32_t h = 0; h < 2; h++) {
                const row_view view = view_of(a, x, M, 16 * m + threadIdx.x % 32 / 4 + 8 * h);
                low[m][h] = view.low;
                end[m][h] = view.end;
                max[m][h] = -INFINITY;
                sum[m][h] = 0.0f;
                for (uint32_t c = 0; c < shape::col_blocks; c++)
                    for (uint32_t j = 0; j < 4; j++)
                        o[m][c][j][2 * h] = o[m][c][j][2 * h + 1] = 0.0f;
            }
        __syncthreads();
    }

    /* Whether some row does not see some position of the page. */
    __device__ bool is_edge() const
    {
        return x.page * tile_rows < greatest_low || (x.page + 1) * tile_rows > least_end;
    }

    __device__ void multiply_k(const char *k, uint32_t n_rows, float (&s)[MT][shape::n_tiles][4])
    {
        const uint32_t d = a.head_dim, warp = threadIdx.x / 32;
        const uint32_t part = 2 * M * ((d + 63) / 64 * 64);
        for (uint32_t m = 0; m < MT; m++)
            for (uint32_t n = 0; n < shape::n_tiles; n++)
                for (uint32_t i = 0; i < 4; i++)
                    s[m][n][i] = 0.0f;
#pragma unroll 4
        for (uint32_t block = 0; block < D / 32; block++) {
            if (block * 32 >= d)
                break;
            uint32_t b[shape::n_tiles][2][2];
#pragma unroll
            for (uint32_t n = 0; n < shape::n_tiles; n++)
                F::k_fragment(b[n], k, d, (warp * shape::n_tiles + n) * 8, block);
#pragma unroll
            for (uint32_t m = 0; m < MT; m++) {
                if (MT > 1 && 16 * m >= n_rows)
                    break;
#pragma unroll
                for (uint32_t i = 0; i < 2 * shape::parts; i++) {
                    uint32_t x_[4];
                    load_operand<M>(x_, q + i / 2 * part, m, 2 * block + i % 2);
#pragma unroll
                    for (uint32_t n = 0; n < shape::n_tiles; n++)
                        mma<F>(s[m][n], x_, b[n][i % 2][0], b[n][i % 2][1]);
                }
            }
        }
    }

    /* Scores in units of log 2 under the mask; the rows' maxima over this warp's positions to shared memory. */
    __device__ void scale_scores(uint32_t n_rows, bool edge, float (&s)[MT][shape::n_tiles][4])
    {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
        for (uint32_t m = 0; m < MT; m++) {
            if (MT > 1 && 16 * m >= n_rows)
                break;
#pragma unroll
            for (uint32_t h = 0; h < 2; h++) {
                const uint32_t row = 16 * m + lane / 4 + 8 * h;
                const float scale = row_scale[row];
                float greatest = -INFINITY;
#pragma unroll
                for (uint32_t n = 0; n < shape::n_tiles; n++)
#pragma unroll
                    for (uint32_t i = 0; i < 2; i++) {
                        float &score = s[m][n][2 * h + i];
                        score *= scale;
                        if (a.softcap != 0.0f)
                            score = a.softcap * tanhf(score / a.softcap);
                        score *= log2_e;
                        if (edge) {
                            const uint32_t position =
                                x.page * tile_rows + (warp * shape::n_tiles + n) * 8 + lane % 4 * 2 + i;
                            if (position < low[m][h] || position >= end[m][h])
                                score = -INFINITY;
                        }
                        greatest = fmaxf(greatest, score);
                    }
                greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, 1));
                greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, 2));
                if (lane % 4 == 0)
                    maxima[warp * M + row] = greatest;
            }
        }
    }

    /* Weights to shared memory; sums and outputs to the new maximum. */
    __device__ void weigh(uint32_t n_rows, const float (&s)[MT][shape::n_tiles][4])
    {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
        for (uint32_t m = 0; m < MT; m++) {
            if (MT > 1 && 16 * m >= n_rows)
                break;
#pragma unroll
            for (uint32_t h = 0; h < 2; h++) {
                const uint32_t row = 16 * m + lane / 4 + 8 * h;
                float now = max[m][h];
#pragma unroll
                for (uint32_t i = 0; i < shape::n_warps; i++)
                    now = fmaxf(now, maxima[i * M + row]);
                const float reference = now == -INFINITY ? 0.0f : now;
                const float shrink = exp2_fast(max[m][h] - reference);
                max[m][h] = now;
                sum[m][h] *= shrink;
#pragma unroll
                for (uint32_t n = 0; n < shape::n_tiles; n++) {
                    const float first = exp2_fast(s[m][n][2 * h] - reference);
                    const float second = exp2_fast(s[m][n][2 * h + 1] - reference);
                    const uint32_t packed = pack<F>(first, second);
                    const uint32_t at = 16 * operand_piece<M>(row, warp * shape::n_tiles + n) + lane % 4 * 4;
                    *(uint32_t *)(p_memory + at) = packed;
                    if (shape::is_split)
                        *(uint32_t *)(p_memory + M * tile_rows * 2 + at) = pack_rest(first, second, packed);
                    sum[m][h] += first + second;
                }
#pragma unroll
                for (uint32_t c = 0; c < shape::col_blocks; c++)
#pragma unroll
                    for (uint32_t j = 0; j < 4; j++) {
                        o[m][c][j][2 * h] *= shrink;
                        o[m][c][j][2 * h + 1] *= shrink;
                    }
            }
        }
    }

    __device__ void multiply_v(const char *v, uint32_t n_rows)
    {
        const uint32_t d = a.head_dim, warp = threadIdx.x / 32;
#pragma unroll
        for (uint32_t step = 0; step < tile_rows / 16; step++)
#pragma unroll
            for (uint32_t c = 0; c < shape::col_blocks; c++) {
                const uint32_t col = (warp * shape::col_blocks + c) * 32;
                if (col >= d)
                    break;
                uint32_t b[4][2];
                F::v_fragment(b, v, d, 16 * step, col);
#pragma unroll
                for (uint32_t m = 0; m < MT; m++) {
                    if (MT > 1 && 16 * m >= n_rows)
                        break;
#pragma unroll
                    for (uint32_t i = 0; i < shape::parts; i++) {
                        uint32_t x_[4];
                        load_operand<M>(x_, p + i * M * tile_rows * 2, m, step);
#pragma unroll
                        for (uint32_t j = 0; j < 4; j++)
                            mma<F>(o[m][c][j], x_, b[j][0], b[j][1]);
                    }
                }
            }
    }

    /* A decode step's own row into the tiles in shared memory, and once into the cache; then stale V rows are zeroed. */
    __device__ void patch(char *k, char *v)
    {
        const sharpi_batch_seq s = a.seqs[x.seq];
        const uint32_t d = a.head_dim, row = s.length % tile_rows, warp = threadIdx.x / 32;
        if (a.k && w.appends) {
            const uint64_t head = (uint64_t)x.kv_head * d;
            if (warp < 2) {
                const float *src =
                    warp ? a.v + s.first_token * a.v_stride + head : a.k + s.first_token * a.k_stride + head;
                store_row<F>(warp ? v : k, d, row, src);
                store_row<F>(tile_of(a, warp ? a.v_cache : a.k_cache, x, x.page, tile_bytes), d, row, src);
            }
        }
        const uint32_t n = s.length + s.n_tokens - x.page * tile_rows;
        if (n < tile_rows)
            F::zero_rows(v, d, n);
        fence_async();
        __syncthreads();
    }

    __device__ void end_segment(uint32_t n_rows, bool is_partial, uint32_t slot)
    {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = a.head_dim;
        for (uint32_t m = 0; m < MT; m++)
            for (uint32_t h = 0; h < 2; h++) {
                sum[m][h] += __shfl_xor_sync(~0u, sum[m][h], 1);
                sum[m][h] += __shfl_xor_sync(~0u, sum[m][h], 2);
                if (lane % 4 == 0)
                    sums[warp * M + 16 * m + lane / 4 + 8 * h] = sum[m][h];
            }
        __syncthreads();
#pragma unroll
        for (uint32_t m = 0; m < MT; m++)
#pragma unroll
            for (uint32_t h = 0; h < 2; h++) {
                const uint32_t row = 16 * m + lane / 4 + 8 * h;
                if (row >= n_rows)
                    continue;
                float total = 0.0f;
                for (uint32_t i = 0; i < shape::n_warps; i++)
                    total += sums[i * M + row];
                const row_view view = view_of(a, x, M, row);
                const uint64_t at = partial_row(w, blockIdx.x, slot, row);
                const float factor =
                    F::unit * (is_partial ? 1.0f : output_factor(a, view.head, max[m][h], total));
                float *out = is_partial ? w.acc + at * w.acc_width
                                        : a.out + view.token * a.out_stride + (uint64_t)view.head * d;
                if (is_partial && warp == 0 && lane % 4 == 0)
                    w.sums[at] = make_float2(max[m][h], total);
#pragma unroll
                for (uint32_t c = 0; c < shape::col_blocks; c++)
#pragma unroll
                    for (uint32_t j = 0; j < 4; j++)
#pragma unroll
                        for (uint32_t i = 0; i < 2; i++) {
                            const uint32_t col =
                                (warp * shape::col_blocks + c) * 32 + F::v_column(j, lane % 4 * 2 + i);
                            if (col < d)
                                out[col] = o[m][c][j][2 * h + i] * factor;
                        }
            }
        __syncthreads();
    }

    /* A decode step's pages are read before the kernels before this one end: those write none of them. */
    __device__ void run()
    {
        if (!w.appends)
            launch_wait();
        block_work work = w.is_split ? split_work(a, w) : whole_work(a, w);
        if (!work.n_units) {
            launch_wait();
            return;
        }
        for (uint32_t i = threadIdx.x; i < 2 * n_stages; i += shape::n_threads)
            barrier_init(barriers + i, shape::n_threads);
        barrier_init_done();
        __syncthreads();

        segment next = work.at; /* what is fetched next */
        uint32_t n_fetched = 0;
        x = work.at;
        for (; n_fetched < n_stages && n_fetched < work.n_units; n_fetched++) {
            fetch(next, n_fetched, false);
            fetch(next, n_fetched, true);
            if (n_fetched + 1 < work.n_units)
                next_unit(a, w, next);
        }

        if (w.appends)
            launch_wait();
        uint32_t stage = 0, phase = 0, slot = 0, n_rows = 0;
        bool begins = true, is_partial = work.is_first_partial;
        for (uint32_t unit = 0; unit < work.n_units; unit++) {
            char *k = k_stages + stage * tile_bytes, *v = v_stages + stage * tile_bytes;
            const bool ends = x.page + 1 == x.end_page;
            if (begins) {
                n_rows = min(M, rows_of(a, x.seq) - x.group * M);
                begin_segment(n_rows);
            }
            float s[MT][shape::n_tiles][4];
            barrier_wait(barriers + 2 * stage, phase);
            if (ends) {
                barrier_wait(barriers + 2 * stage + 1, phase);
                patch(k, v);
            }
            multiply_k(k, n_rows, s);
            scale_scores(n_rows, is_edge(), s);
            __syncthreads(); /* maxima are there; nobody reads this K or the last V and weights any more */
            const bool more = n_fetched < work.n_units;
            if (more)
                fetch(next, stage, false);
            weigh(n_rows, s);
            barrier_wait(barriers + 2 * stage + 1, phase);
            __syncthreads(); /* weights are there */
            multiply_v(v, n_rows);
            if (ends || unit + 1 == work.n_units) {
                is_partial |= !ends;
                end_segment(n_rows, is_partial, slot);
                is_partial = false;
                slot = 1;
            }
            begins = ends;
            if (more) {
                __syncthreads();
                fetch(next, stage, true);
                if (++n_fetched < work.n_units)
                    next_unit(a, w, next);
            }
            if (++stage == n_stages) {
                stage = 0;
                phase ^= 1;
            }
            if (unit + 1 < work.n_units)
                next_unit(a, w, x);
        }
    }
};

template <class F, int D, int MT>
__global__
__launch_bounds__(tensor_shape<F, D, MT>::n_threads,
                  tensor_shape<F, D, MT>::blocks_per_sm) void tensor_kernel(const sharpi_kv_cuda_args a,
                                                                            const work_shape w,
                                                                            uint32_t n_stages)
{
    extern __shared__ __align__(1024) char memory[];
    launch_next();
    tensor_block<F, D, MT> block(a, w, n_stages, memory);
    block.run();
}

} // namespace sharpi
#endif
