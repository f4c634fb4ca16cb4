/* Attention in f32 throughout, element by element: for caches of f32, for head_dims that the tensor cores' kernels do not
 * take, and where shared memory is too small for those. Reads tiles where they are, through the L1 cache.
 */
#ifndef SHARPI_CUDA_ATTENTION_EXACT_CUH
#define SHARPI_CUDA_ATTENTION_EXACT_CUH

#include <sharpi/cuda/attention-merge.cuh>

namespace sharpi
{

constexpr uint32_t exact_m = 16, exact_threads = 256;

struct exact_state {
    float q[exact_m][512];
    float p[exact_m][tile_rows];
    float max[exact_m], sum[exact_m], shrink[exact_m];
};

/* p = scores of the page for all rows, -inf where invisible. A thread has a position and every fourth row. */
template <class F>
__device__ inline void exact_scores(const sharpi_kv_cuda_args &a, const work_shape &w, const segment &x,
                                    exact_state &state)
{
    const uint32_t d = a.head_dim, column = threadIdx.x % tile_rows, first = threadIdx.x / tile_rows;
    const uint32_t position = x.page * tile_rows + column;
    const void *tile = tile_of(a, a.k_cache, x, x.page, F::tile_bytes(d));
    float sum[4] = {0, 0, 0, 0};
    for (uint32_t i = 0; i < d; i++) {
        const float k = F::load(tile, d, column, i);
        for (uint32_t r = 0; r < 4; r++)
            sum[r] += state.q[first + 4 * r][i] * k;
    }
    for (uint32_t r = 0; r < 4; r++) {
        const row_view view = view_of(a, w, x, first + 4 * r);
        const bool sees = position >= view.low && position < view.end;
        state.p[first + 4 * r][column] = sees ? softcapped(sum[r] * a.scale, a.softcap) : -INFINITY;
    }
}

/* p = exp(p - max); a warp per two rows. */
__device__ inline void exact_weights(exact_state &state)
{
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t row = threadIdx.x / 32; row < exact_m; row += exact_threads / 32) {
        float x = state.p[row][lane], y = state.p[row][lane + 32], max = fmaxf(x, y);
        for (uint32_t i = 16; i; i /= 2)
            max = fmaxf(max, __shfl_xor_sync(~0u, max, i));
        const float old = state.max[row], now = fmaxf(old, max);
        x = now == -INFINITY ? 0.0f : expf(x - now);
        y = now == -INFINITY ? 0.0f : expf(y - now);
        state.p[row][lane] = x;
        state.p[row][lane + 32] = y;
        float sum = x + y;
        for (uint32_t i = 16; i; i /= 2)
            sum += __shfl_xor_sync(~0u, sum, i);
        __syncwarp();
        if (lane == 0) {
            state.shrink[row] = old == -INFINITY ? 0.0f : expf(old - now);
            state.sum[row] = state.sum[row] * state.shrink[row] + sum;
            state.max[row] = now;
        }
    }
}

/* acc = acc * shrink + p v; a thread has columns threadIdx.x and threadIdx.x + 256 of all rows. */
template <class F>
__device__ inline void exact_accumulate(const sharpi_kv_cuda_args &a, const segment &x,
                                        const exact_state &state, uint32_t n, float (&acc)[2][exact_m])
{
    const uint32_t d = a.head_dim;
    const void *tile = tile_of(a, a.v_cache, x, x.page, F::tile_bytes(d));
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t column = threadIdx.x + i * exact_threads;
        if (column >= d)
            break;
        for (uint32_t r = 0; r < exact_m; r++)
            acc[i][r] *= state.shrink[r];
        for (uint32_t j = 0; j < n; j++) {
            const float v = F::load(tile, d, j, column);
            for (uint32_t r = 0; r < exact_m; r++)
                acc[i][r] += state.p[r][j] ? state.p[r][j] * v : 0.0f;
        }
    }
}

/* The segment is over: its rows to `out`, or to the block's partial `slot`. */
__device__ inline void exact_store(const sharpi_kv_cuda_args &a, const work_shape &w, const segment &x,
                                   const exact_state &state, bool is_partial, uint32_t slot,
                                   const float (&acc)[2][exact_m])
{
    for (uint32_t r = 0; r < exact_m; r++) {
        const row_view view = view_of(a, w, x, r);
        const uint64_t at = partial_row(w, blockIdx.x, slot, r);
        const float factor =
            is_partial ? 1.0f : output_factor(a, view.head, state.max[r] * log2_e, state.sum[r]);
        float *out = is_partial ? w.acc + at * w.acc_width
                                : a.out + view.token * a.out_stride + (uint64_t)view.head * a.head_dim;
        if (!view.is_valid)
            break;
        for (uint32_t i = 0; i < 2; i++)
            if (threadIdx.x + i * exact_threads < a.head_dim)
                out[threadIdx.x + i * exact_threads] = acc[i][r] * factor;
        if (is_partial && threadIdx.x == 0)
            w.sums[at] = make_float2(state.max[r] * log2_e, state.sum[r]);
    }
}

template <class F>
__global__ __launch_bounds__(exact_threads) void exact_kernel(const sharpi_kv_cuda_args a, const work_shape w)
{
    __shared__ exact_state state;
    launch_next();
    launch_wait();
    block_work work = w.is_split ? split_work(a, w) : whole_work(a, w);
    segment x = work.at;
    float acc[2][exact_m];
    bool is_partial = work.is_first_partial;
    uint32_t slot = 0;

    for (bool begins = true; work.n_units; work.n_units--) {
        if (begins) {
            __syncthreads();
            for (uint32_t r = 0; r < exact_m; r++) {
                const row_view view = view_of(a, w, x, r);
                const float *q = a.q + view.token * a.q_stride + (uint64_t)view.head * a.head_dim;
                for (uint32_t i = threadIdx.x; i < a.head_dim; i += exact_threads)
                    state.q[r][i] = q[i];
                acc[0][r] = acc[1][r] = 0.0f;
            }
            if (threadIdx.x < exact_m) {
                state.max[threadIdx.x] = -INFINITY;
                state.sum[threadIdx.x] = 0.0f;
            }
            __syncthreads();
            begins = false;
        }
        exact_scores<F>(a, w, x, state);
        __syncthreads();
        exact_weights(state);
        __syncthreads();
        exact_accumulate<F>(a, x, state, min(tile_rows, x.s.length + x.s.n_tokens - x.page * tile_rows), acc);
        __syncthreads();
        const bool ends = x.page + 1 == x.end_page;
        if (ends || work.n_units == 1) {
            is_partial |= !ends;
            exact_store(a, w, x, state, is_partial, slot, acc);
            begins = true;
            is_partial = false;
            slot = 1;
        }
        if (work.n_units > 1)
            next_unit(a, w, x);
    }
}

} // namespace sharpi
#endif
