/* Decode of at most 8 rows (query heads of a group times tokens), head_dim up to 256, by mma.sync with the cache as the left
 * operand: scores^T [positions, rows] = K Q^T and out^T [columns, rows] = V^T weights^T, so that no half of a tile is
 * wasted on rows that do not exist. Else as attention-tensor.cuh with MT = 1, arithmetic included.
 */
#ifndef SHARPI_CUDA_ATTENTION_NARROW_CUH
#define SHARPI_CUDA_ATTENTION_NARROW_CUH

#include <sharpi/cuda/attention-walk.cuh>

namespace sharpi
{

constexpr uint32_t narrow_rows = 8;

template <class F, int D> struct narrow_shape {
    static constexpr uint32_t n_warps = 4, n_threads = 32 * n_warps,
                              m = narrow_rows;               /* a warp has 16 positions */
    static constexpr uint32_t col_blocks = D / 32 / n_warps; /* 32 columns each, per warp */
    static constexpr bool is_split = !F::uses_f16;
    static constexpr uint32_t parts = is_split ? 2 : 1;
    static constexpr uint32_t blocks_per_sm = D <= 128 && F::tile_bytes(D) < 64 * D * 2 ? 4 : 3;

    __host__ __device__ static constexpr uint32_t q_part(uint32_t d)
    {
        return m * ((d + 63) / 64 * 64) * 2;
    }
    static constexpr uint32_t p_part = m * tile_rows * 2;
    __host__ __device__ static constexpr uint32_t fixed_bytes(uint32_t d)
    {
        return barrier_bytes + parts * (q_part(d) + p_part) + 2 * n_warps * m * 4 + m * 4;
    }
};

template <class F, int D, int fixed_d>
struct narrow_block
    : page_walk<F, narrow_block<F, D, fixed_d>, fixed_d, 2 * D / 32 / narrow_shape<F, D>::n_warps> {
    using shape = narrow_shape<F, D>;
    using walk = page_walk<F, narrow_block<F, D, fixed_d>, fixed_d, 2 * D / 32 / narrow_shape<F, D>::n_warps>;
    using walk::a, walk::w, walk::x;
    static constexpr uint32_t M = shape::m;

    char *q, *p;
    float *maxima, *sums, *row_scale;
    uint32_t q_part;
    float s[4],
        o[shape::col_blocks][2][4]; /* lane 4 g + t: positions or columns g, g + 8; rows 2 t, 2 t + 1 */
    float max[2], sum[2], scale[2];
    uint32_t low[2], end_[2];

    __device__ narrow_block(const sharpi_kv_cuda_args &args, const work_shape &work, uint32_t stages,
                            char *memory)
        : walk(args, work, stages, memory), q_part(shape::q_part(walk::head_dim()))
    {
        q = walk::after_stages();
        p = q + shape::parts * q_part;
        maxima = (float *)(p + shape::parts * shape::p_part);
        sums = maxima + shape::n_warps * M;
        row_scale = sums + shape::n_warps * M;
    }

    __device__ void begin(uint32_t n_rows)
    {
        walk::template load_queries<D, M, shape::n_warps>(q, shape::is_split ? q_part : 0, row_scale, n_rows);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const row_view view = view_of(a, w, x, threadIdx.x % 4 * 2 + i);
            low[i] = view.low;
            end_[i] = view.end;
            max[i] = -INFINITY;
            sum[i] = 0.0f;
        }
#pragma unroll
        for (uint32_t c = 0; c < shape::col_blocks; c++)
#pragma unroll
            for (uint32_t i = 0; i < 8; i++)
                o[c][i / 4][i % 4] = 0.0f;
        __syncthreads();
        scale[0] = row_scale[threadIdx.x % 4 * 2];
        scale[1] = row_scale[threadIdx.x % 4 * 2 + 1];
    }

    __device__ void multiply_k(const char *k)
    {
        const uint32_t d = walk::head_dim(), lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
        const uint32_t q_at = shared_address(q);
        float sums_of_step[2][4] = {};
#pragma unroll
        for (uint32_t block = 0; block < D / 32; block++) {
            if (block * 32 >= d)
                break;
            uint32_t upper[2][2], lower[2][2];
            F::k_fragment(upper, k, d, first, block);
            F::k_fragment(lower, k, d, first + 8, block);
#pragma unroll
            for (uint32_t i = 0; i < shape::parts; i++) {
                uint32_t query[4];
                load_matrices(query,
                              q_at + i * q_part + 16 * operand_piece<M>(lane % 8, 4 * block + lane / 8));
#pragma unroll
                for (uint32_t step = 0; step < 2; step++) {
                    const uint32_t operand[4] = {upper[step][0], lower[step][0], upper[step][1],
                                                 lower[step][1]};
                    mma<F>(sums_of_step[step], operand, query[2 * step], query[2 * step + 1]);
                }
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            s[i] = sums_of_step[0][i] + sums_of_step[1][i];
    }

    __device__ void scores(const char *k, uint32_t, bool edge)
    {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        multiply_k(k);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            s[i] = softcapped(s[i] * scale[i % 2], a.softcap) * log2_e;
            if (edge) {
                const uint32_t position = x.page * tile_rows + warp * 16 + lane / 4 + i / 2 * 8;
                if (position < low[i % 2] || position >= end_[i % 2])
                    s[i] = -INFINITY;
            }
        }
        float2 greatest = make_float2(fmaxf(s[0], s[2]), fmaxf(s[1], s[3]));
#pragma unroll
        for (uint32_t i = 4; i < 32; i *= 2) {
            greatest.x = fmaxf(greatest.x, __shfl_xor_sync(~0u, greatest.x, i));
            greatest.y = fmaxf(greatest.y, __shfl_xor_sync(~0u, greatest.y, i));
        }
        if (lane < 4)
            *(float2 *)(maxima + warp * M + 2 * lane) = greatest;
    }

    __device__ void weights(uint32_t)
    {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        float now[2] = {max[0], max[1]}, shrink[2];
#pragma unroll
        for (uint32_t i = 0; i < shape::n_warps; i++) {
            const float2 other = *(const float2 *)(maxima + i * M + lane % 4 * 2);
            now[0] = fmaxf(now[0], other.x);
            now[1] = fmaxf(now[1], other.y);
        }
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            const uint32_t row = lane % 4 * 2 + r;
            const float reference = now[r] == -INFINITY ? 0.0f : now[r];
            const float upper = exp2_fast(s[r] - reference), lower = exp2_fast(s[2 + r] - reference);
            shrink[r] = exp2_fast(max[r] - reference);
            max[r] = now[r];
            sum[r] = sum[r] * shrink[r] + upper + lower;
            const uint32_t packed = pack<F>(upper, lower);
            char *at = p + 16 * operand_piece<M>(row, 2 * warp) + lane / 4 * 2;
            char *next = p + 16 * operand_piece<M>(row, 2 * warp + 1) + lane / 4 * 2;
            *(uint16_t *)at = (uint16_t)packed;
            *(uint16_t *)next = (uint16_t)(packed >> 16);
            if (shape::is_split) {
                const uint32_t rest = pack_rest(upper, lower, packed);
                *(uint16_t *)(at + shape::p_part) = (uint16_t)rest;
                *(uint16_t *)(next + shape::p_part) = (uint16_t)(rest >> 16);
            }
        }
#pragma unroll
        for (uint32_t c = 0; c < shape::col_blocks; c++)
#pragma unroll
            for (uint32_t i = 0; i < 8; i++)
                o[c][i / 4][i % 4] *= shrink[i % 2];
    }

    __device__ void accumulate(const char *v, uint32_t)
    {
        const uint32_t d = walk::head_dim(), lane = threadIdx.x % 32, warp = threadIdx.x / 32,
                       p_at = shared_address(p);
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t weight[shape::parts][4];
#pragma unroll
            for (uint32_t i = 0; i < shape::parts; i++)
                load_matrices(weight[i], p_at + i * shape::p_part +
                                             16 * operand_piece<M>(lane % 8, 4 * half + lane / 8));
#pragma unroll
            for (uint32_t step = 0; step < 2; step++)
#pragma unroll
                for (uint32_t c = 0; c < shape::col_blocks; c++) {
                    const uint32_t col = (warp * shape::col_blocks + c) * 32;
                    if (col >= d)
                        break;
                    uint32_t b[4][2];
                    F::v_fragment(b, v, d, 32 * half + 16 * step, col);
#pragma unroll
                    for (uint32_t j = 0; j < 2; j++) {
                        const uint32_t operand[4] = {b[2 * j][0], b[2 * j + 1][0], b[2 * j][1],
                                                     b[2 * j + 1][1]};
#pragma unroll
                        for (uint32_t i = 0; i < shape::parts; i++)
                            mma<F>(o[c][j], operand, weight[i][2 * step], weight[i][2 * step + 1]);
                    }
                }
        }
    }

    __device__ void end(uint32_t n_rows, bool is_partial, uint32_t slot)
    {
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = walk::head_dim();
#pragma unroll
        for (uint32_t i = 4; i < 32; i *= 2) {
            sum[0] += __shfl_xor_sync(~0u, sum[0], i);
            sum[1] += __shfl_xor_sync(~0u, sum[1], i);
        }
        if (lane < 4)
            *(float2 *)(sums + warp * M + 2 * lane) = make_float2(sum[0], sum[1]);
        __syncthreads();
#pragma unroll
        for (uint32_t r = 0; r < 2; r++) {
            const uint32_t row = lane % 4 * 2 + r;
            if (row >= n_rows)
                continue;
            float total = 0.0f;
            for (uint32_t i = 0; i < shape::n_warps; i++)
                total += sums[i * M + row];
            const row_view view = view_of(a, w, x, row);
            const uint64_t at = partial_row(w, blockIdx.x, slot, row);
            const float factor = F::unit * (is_partial ? 1.0f : output_factor(a, view.head, max[r], total));
            float *out = is_partial ? w.acc + at * w.acc_width
                                    : a.out + view.token * a.out_stride + (uint64_t)view.head * d;
            if (is_partial && warp == 0 && lane < 4)
                w.sums[at] = make_float2(max[r], total);
#pragma unroll
            for (uint32_t c = 0; c < shape::col_blocks; c++) {
                const uint32_t col = (warp * shape::col_blocks + c) * 32;
                float y[4];
#pragma unroll
                for (uint32_t i = 0; i < 4; i++)
                    y[i] = o[c][i / 2][i % 2 * 2 + r] * factor;
                if constexpr (F::v_column(1, 0) == 1) { /* four tiles side by side */
                    if (col < d)
                        *(float4 *)(out + col + F::v_column(0, lane / 4)) =
                            make_float4(y[0], y[1], y[2], y[3]);
                } else {
#pragma unroll
                    for (uint32_t i = 0; i < 4; i++)
                        if (col + F::v_column(i, lane / 4) < d)
                            out[col + F::v_column(i, lane / 4)] = y[i];
                }
            }
        }
        __syncthreads();
    }
};

template <class F, int D, int fixed_d>
__global__
__launch_bounds__(narrow_shape<F, D>::n_threads,
                  narrow_shape<F, D>::blocks_per_sm) void narrow_kernel(const sharpi_kv_cuda_args a,
                                                                        const work_shape w, uint32_t n_stages)
{
    extern __shared__ __align__(1024) char memory[];
    launch_next();
    narrow_block<F, D, fixed_d> block(a, w, n_stages, memory);
    block.run();
}

} // namespace sharpi
#endif
