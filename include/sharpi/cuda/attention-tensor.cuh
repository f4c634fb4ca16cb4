/* Attention on the tensor cores by mma.sync with M = 16 MT query rows as the left operand: decode of groups of 9 to 16
 * query heads or of head_dims above 256 (MT = 1), verification, and prefill where wgmma is missing (MT = 4).
 *
 * Per page each warp multiplies all rows with its share of the positions (K), and all weights with its share of the columns
 * (V). So every K and V element is read from shared memory, and converted, once.
 *
 * Arithmetic: f32 sums and softmax; operands f16 (formats that say so) or bf16. With MT = 1 bf16 queries and weights are split
 * into two bf16 each, so that the products are f32's but for 2^-17; else they are rounded (2^-9). f16 queries are scaled by a
 * power of two per row first.
 */
#ifndef SHARPI_CUDA_ATTENTION_TENSOR_CUH
#define SHARPI_CUDA_ATTENTION_TENSOR_CUH

#include <sharpi/cuda/attention-walk.cuh>

namespace sharpi
{

template <class F, int D, int MT> struct tensor_shape {
    /* The widest tiles allow one block per multiprocessor only: twice the warps, and two share the positions of eight, each
     * with half of the elements (k_parts). */
    static constexpr uint32_t k_parts = D > 256 && MT == 1 && F::tile_bytes(512) > 50000 ? 2 : 1;
    static constexpr uint32_t k_warps = D <= 128 ? 4 : 8, n_warps = k_warps * k_parts,
                              n_threads = 32 * n_warps;
    static constexpr uint32_t m = 16 * MT;
    static constexpr uint32_t n_tiles = tile_rows / 8 / k_warps; /* n8 tiles of positions per warp */
    static constexpr uint32_t col_blocks = D / 32 / n_warps;     /* 32 columns each, per warp */
    static constexpr uint32_t exchange_bytes = k_parts > 1 ? k_warps * 32 * n_tiles * 16 * MT : 0;
    static constexpr bool is_split = MT == 1 && !F::uses_f16; /* operands in two parts */
    static constexpr uint32_t parts = is_split ? 2 : 1;
    static constexpr uint32_t blocks_per_sm = MT > 1 ? 1 : D <= 256 || F::tile_bytes(512) < 50000 ? 2 : 1;

    __host__ __device__ static constexpr uint32_t q_part(uint32_t d)
    {
        return m * ((d + 63) / 64 * 64) * 2;
    }
    static constexpr uint32_t p_part = m * tile_rows * 2;
    /* Shared memory besides the stages. */
    __host__ __device__ static constexpr uint32_t fixed_bytes(uint32_t d)
    {
        return barrier_bytes + parts * (q_part(d) + p_part) + 2 * n_warps * m * 4 + m * 4 + exchange_bytes;
    }
};

/* y[j][i]: n8 tile j of 32 columns, columns 2 t + i of the tile; `left` columns exist. As wide as the format's order allows. */
template <class F>
__device__ inline void store_columns(float *out, uint32_t left, uint32_t t, const float (&y)[4][2])
{
#pragma unroll
    for (uint32_t j = 0; j < 4; j++)
        if (F::v_column(1, 0) == 1) { /* four tiles side by side */
            if (j < 2)
                *(float4 *)(out + F::v_column(0, 2 * t + j)) =
                    make_float4(y[0][j], y[1][j], y[2][j], y[3][j]);
        } else if (F::v_column(j, 2 * t) < left) {
            *(float2 *)(out + F::v_column(j, 2 * t)) = make_float2(y[j][0], y[j][1]);
        }
}

/* A operand of rows [16 tile, +16), k step `step`. */
template <int M>
__device__ inline void load_operand(uint32_t (&x)[4], uint32_t base, uint32_t tile, uint32_t step)
{
    const uint32_t lane = threadIdx.x % 32;
    load_matrices(x, base + 16 * operand_piece<M>(16 * tile + lane % 16, 2 * step + lane / 16));
}

template <class F, int D, int MT, int fixed_d>
struct tensor_block
    : page_walk<F, tensor_block<F, D, MT, fixed_d>, fixed_d, 2 * D / 32 / tensor_shape<F, D, MT>::n_warps> {
    using shape = tensor_shape<F, D, MT>;
    using walk =
        page_walk<F, tensor_block<F, D, MT, fixed_d>, fixed_d, 2 * D / 32 / tensor_shape<F, D, MT>::n_warps>;
    using walk::a, walk::w, walk::x;
    static constexpr uint32_t M = shape::m;

    char *q, *p;
    float *maxima, *sums, *row_scale;
    float4 *exchange;
    uint32_t q_part;
    float s[MT][shape::n_tiles][4], o[MT][shape::col_blocks][4][4];
    float max[MT][2], sum[MT][2];
    uint32_t low[MT][2], end_[MT][2];

    __device__ tensor_block(const sharpi_kv_cuda_args &args, const work_shape &work, uint32_t stages,
                            char *memory)
        : walk(args, work, stages, memory), q_part(shape::q_part(walk::head_dim()))
    {
        q = walk::after_stages();
        p = q + shape::parts * q_part;
        maxima = (float *)(p + shape::parts * shape::p_part);
        sums = maxima + shape::n_warps * M;
        exchange = (float4 *)(sums + shape::n_warps * M);
        row_scale = (float *)((char *)exchange + shape::exchange_bytes);
    }

    __device__ bool is_empty(uint32_t m, uint32_t n_rows) const
    {
        return MT > 1 && 16 * m >= n_rows;
    }

    __device__ void begin(uint32_t n_rows)
    {
        walk::template load_queries<D, M, shape::n_warps>(q, shape::is_split ? q_part : 0, row_scale, n_rows);
        for (uint32_t m = 0; m < MT; m++)
            for (uint32_t h = 0; h < 2; h++) {
                const row_view view = view_of(a, w, x, 16 * m + threadIdx.x % 32 / 4 + 8 * h);
                low[m][h] = view.low;
                end_[m][h] = view.end;
                max[m][h] = -INFINITY;
                sum[m][h] = 0.0f;
                for (uint32_t c = 0; c < shape::col_blocks; c++)
                    for (uint32_t j = 0; j < 4; j++)
                        o[m][c][j][2 * h] = o[m][c][j][2 * h + 1] = 0.0f;
            }
        __syncthreads();
    }

    __device__ void multiply_k(const char *k, uint32_t n_rows)
    {
        const uint32_t d = walk::head_dim(), warp = threadIdx.x / 32 % shape::k_warps,
                       q_at = shared_address(q);
        const uint32_t first = shape::k_parts > 1 ? threadIdx.x / 32 / shape::k_warps * (D / 64) : 0;
        /* few products depend on each other: with one row tile there are four chains of sums */
        constexpr uint32_t n_chains = MT == 1 ? 4 : 1;
        float chain[n_chains][MT][shape::n_tiles][4] = {};
        /* Where head_dim is known no end is checked, here and in accumulate: a branch would keep a step's loads behind the products of
         * the step before. */
#pragma unroll(MT == 1 ? 16 : 4)
        for (uint32_t i_block = 0; i_block < D / 32 / shape::k_parts; i_block++) {
            const uint32_t block = first + i_block;
            if (fixed_d != D && block * 32 >= d)
                break;
            uint32_t b[shape::n_tiles][2][2];
#pragma unroll
            for (uint32_t n = 0; n < shape::n_tiles; n++)
                F::k_fragment(b[n], k, d, (warp * shape::n_tiles + n) * 8, block);
#pragma unroll
            for (uint32_t m = 0; m < MT; m++) {
                if (is_empty(m, n_rows))
                    break;
#pragma unroll
                for (uint32_t i = 0; i < 2 * shape::parts; i++) {
                    uint32_t operand[4];
                    load_operand<M>(operand, q_at + i / 2 * q_part, m, 2 * block + i % 2);
#pragma unroll
                    for (uint32_t n = 0; n < shape::n_tiles; n++)
                        mma<F>(chain[(shape::parts == 2 ? i : 2 * (i_block % 2) + i) % n_chains][m][n],
                               operand, b[n][i % 2][0], b[n][i % 2][1]);
                }
            }
        }
#pragma unroll
        for (uint32_t m = 0; m < MT; m++)
#pragma unroll
            for (uint32_t n = 0; n < shape::n_tiles; n++)
#pragma unroll
                for (uint32_t i = 0; i < 4; i++) {
                    s[m][n][i] = chain[0][m][n][i];
#pragma unroll
                    for (uint32_t c = 1; c < n_chains; c++)
                        s[m][n][i] += chain[c][m][n][i];
                }
    }

    /* The sums over both halves of the elements, in the first k_warps warps. */
    __device__ void add_parts()
    {
        const uint32_t warp = threadIdx.x / 32;
        float4 *at = exchange + warp % shape::k_warps * 32 + threadIdx.x % 32;
        static_assert(shape::k_parts == 1 || (MT == 1 && shape::n_tiles == 1), "one tile of scores per warp");
        if (warp >= shape::k_warps)
            *at = make_float4(s[0][0][0], s[0][0][1], s[0][0][2], s[0][0][3]);
        __syncthreads();
        if (warp < shape::k_warps) {
            const float4 other = *at;
            s[0][0][0] += other.x, s[0][0][1] += other.y, s[0][0][2] += other.z, s[0][0][3] += other.w;
        }
    }

    /* Scores are in units of log 2. */
    __device__ void scores(const char *k, uint32_t n_rows, bool edge)
    {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        multiply_k(k, n_rows);
        if (shape::k_parts > 1) {
            add_parts();
            if (warp >= shape::k_warps)
                return;
        }
#pragma unroll
        for (uint32_t m = 0; m < MT; m++) {
            if (is_empty(m, n_rows))
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
                        score = softcapped(score * scale, a.softcap) * log2_e;
                        if (edge) {
                            const uint32_t position =
                                x.page * tile_rows + (warp * shape::n_tiles + n) * 8 + lane % 4 * 2 + i;
                            if (position < low[m][h] || position >= end_[m][h])
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

    __device__ void weights(uint32_t n_rows)
    {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
        for (uint32_t m = 0; m < MT; m++) {
            if (is_empty(m, n_rows))
                break;
#pragma unroll
            for (uint32_t h = 0; h < 2; h++) {
                const uint32_t row = 16 * m + lane / 4 + 8 * h;
                float now = max[m][h];
#pragma unroll
                for (uint32_t i = 0; i < shape::k_warps; i++)
                    now = fmaxf(now, maxima[i * M + row]);
                const float reference = now == -INFINITY ? 0.0f : now;
                const float shrink = exp2_fast(max[m][h] - reference);
                max[m][h] = now;
                sum[m][h] *= shrink;
#pragma unroll
                for (uint32_t n = 0; n < shape::n_tiles; n++) {
                    if (shape::k_parts > 1 && warp >= shape::k_warps)
                        break;
                    const float first = exp2_fast(s[m][n][2 * h] - reference);
                    const float second = exp2_fast(s[m][n][2 * h + 1] - reference);
                    const uint32_t packed = pack<F>(first, second);
                    const uint32_t at = 16 * operand_piece<M>(row, warp * shape::n_tiles + n) + lane % 4 * 4;
                    *(uint32_t *)(p + at) = packed;
                    if (shape::is_split)
                        *(uint32_t *)(p + shape::p_part + at) = pack_rest(first, second, packed);
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

    __device__ void accumulate(const char *v, uint32_t n_rows)
    {
        const uint32_t d = walk::head_dim(), warp = threadIdx.x / 32, p_at = shared_address(p);
#pragma unroll
        for (uint32_t step = 0; step < tile_rows / 16; step++)
#pragma unroll
            for (uint32_t c = 0; c < shape::col_blocks; c++) {
                const uint32_t col = (warp * shape::col_blocks + c) * 32;
                if (fixed_d != D && col >= d)
                    break;
                uint32_t b[4][2];
                F::v_fragment(b, v, d, 16 * step, col);
#pragma unroll
                for (uint32_t m = 0; m < MT; m++) {
                    if (is_empty(m, n_rows))
                        break;
#pragma unroll
                    for (uint32_t i = 0; i < shape::parts; i++) {
                        uint32_t operand[4];
                        load_operand<M>(operand, p_at + i * shape::p_part, m, step);
#pragma unroll
                        for (uint32_t j = 0; j < 4; j++)
                            mma<F>(o[m][c][j], operand, b[j][0], b[j][1]);
                    }
                }
            }
    }

    __device__ void end(uint32_t n_rows, bool is_partial, uint32_t slot)
    {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = walk::head_dim();
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
                const row_view view = view_of(a, w, x, row);
                const uint64_t at = partial_row(w, blockIdx.x, slot, row);
                const float factor =
                    F::unit * (is_partial ? 1.0f : output_factor(a, view.head, max[m][h], total));
                float *out = is_partial ? w.acc + at * w.acc_width
                                        : a.out + view.token * a.out_stride + (uint64_t)view.head * d;
                if (is_partial && warp == 0 && lane % 4 == 0)
                    w.sums[at] = make_float2(max[m][h], total);
#pragma unroll
                for (uint32_t c = 0; c < shape::col_blocks; c++) {
                    const uint32_t col = (warp * shape::col_blocks + c) * 32;
                    float y[4][2];
#pragma unroll
                    for (uint32_t j = 0; j < 8; j++)
                        y[j / 2][j % 2] = o[m][c][j / 2][2 * h + j % 2] * factor;
                    if (col < d)
                        store_columns<F>(out + col, d - col, lane % 4, y);
                }
            }
        __syncthreads();
    }
};

template <class F, int D, int MT, int fixed_d>
__global__
__launch_bounds__(tensor_shape<F, D, MT>::n_threads,
                  tensor_shape<F, D, MT>::blocks_per_sm) void tensor_kernel(const sharpi_kv_cuda_args a,
                                                                            const work_shape w,
                                                                            uint32_t n_stages)
{
    extern __shared__ __align__(1024) char memory[];
    launch_next();
    tensor_block<F, D, MT, fixed_d> block(a, w, n_stages, memory);
    block.run();
}

} // namespace sharpi
#endif
