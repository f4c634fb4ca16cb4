/* A block's way over pages, common to the tensor cores' kernels: asynchronous copies n_stages ahead, segments begun and ended,
 * a decode step's own row stored on the way. What is computed per page is the block's (struct Block below):
 *
 *   begin(n_rows)                    a segment begins: queries, empty sums; ends with a barrier of the block
 *   scores(k, n_rows, edge)          products with K under the mask; maxima to shared memory
 *   weights(n_rows)                  weights to shared memory, sums and outputs brought to the new maximum
 *   accumulate(v, n_rows)            outputs += weights V
 *   end(n_rows, is_partial, slot)    outputs to their place; ends with a barrier
 *
 * Two barriers a page: after scores nobody reads this K, nor the last page's V and weights; after weights they are there.
 */
#ifndef SHARPI_CUDA_ATTENTION_WALK_CUH
#define SHARPI_CUDA_ATTENTION_WALK_CUH

#include <sharpi/cuda/attention-append.cuh>
#include <sharpi/cuda/attention-merge.cuh>
#include <sharpi/cuda/attention-operand.cuh>

namespace sharpi
{

/* A operand piece: [m, d] of 16-bit values, 64 columns after 64 columns, pieces permuted as in piece16. */
template <int M> __device__ inline uint32_t operand_piece(uint32_t row, uint32_t piece)
{
    return (piece / 8 * M + row) * 8 + (piece % 8 ^ row % 8);
}

constexpr uint32_t max_stages = 4, barrier_bytes = 2 * max_stages * 8;

/* fixed_d: the head_dim if it is known to the compiler, else 0. max_fresh: blocks of 32 elements of a K and V row, per warp. */
template <class F, class Block, int fixed_d, int max_fresh> struct page_walk {
    const sharpi_kv_cuda_args &a;
    const work_shape &w;
    char *k_stages, *v_stages;
    uint64_t *barriers;
    uint32_t n_stages, tile_bytes;
    segment x; /* what is computed */
    uint32_t greatest_low, least_end;

    __device__ page_walk(const sharpi_kv_cuda_args &args, const work_shape &work, uint32_t stages,
                         char *memory)
        : a(args), w(work), barriers((uint64_t *)memory), n_stages(stages),
          tile_bytes(F::tile_bytes(fixed_d ? fixed_d : args.head_dim))
    {
        k_stages = memory + barrier_bytes;
        v_stages = k_stages + n_stages * tile_bytes;
    }
    __device__ char *after_stages() const
    {
        return v_stages + n_stages * tile_bytes;
    }
    __device__ uint32_t head_dim() const
    {
        return fixed_d ? fixed_d : a.head_dim;
    }
    __device__ Block &block()
    {
        return *static_cast<Block *>(this);
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

    /* Queries of m rows to shared memory in the operands' type, `rest_at` bytes later what rounding left (0: not wanted);
     * row_scale: what products are multiplied with. A warp takes rows_at_once rows together, to have their loads in
     * flight. */
    template <int D, int M, int n_warps>
    __device__ void load_queries(char *q, uint32_t rest_at, float *row_scale, uint32_t n_rows)
    {
        constexpr uint32_t per_row = D / 32, rows = M / n_warps,
                           at_once = per_row * rows <= 32 ? rows : 32 / per_row;
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = head_dim();
        for (uint32_t first = 0; first < rows; first += at_once) {
            float value[at_once][per_row];
#pragma unroll
            for (uint32_t r = 0; r < at_once; r++) {
                const uint32_t row = (first + r) * n_warps + warp;
                const row_view view = view_of(a, w, x, row);
                const float *src = a.q + view.token * a.q_stride + (uint64_t)view.head * d;
#pragma unroll
                for (uint32_t i = 0; i < per_row; i++)
                    value[r][i] = row < n_rows && 32 * i + lane < d ? src[32 * i + lane] : 0.0f;
            }
#pragma unroll
            for (uint32_t r = 0; r < at_once; r++) {
                const uint32_t row = (first + r) * n_warps + warp;
                float up = 1.0f;
                if (F::uses_f16) {
                    float greatest = 0.0f;
#pragma unroll
                    for (uint32_t i = 0; i < per_row; i++)
                        greatest = fmaxf(greatest, fabsf(value[r][i]));
                    up = power_for_f16(warp_max(greatest));
                }
#pragma unroll
                for (uint32_t i = 0; i < per_row; i++) {
                    const uint32_t slot = 32 * i + F::q_slot(lane);
                    if (32 * i >= (d + 63) / 64 * 64)
                        break;
                    const uint32_t at = operand_piece<M>(row, slot / 8) * 8 + slot % 8;
                    const uint32_t whole = pack<F>(value[r][i] * up, 0.0f);
                    ((uint16_t *)q)[at] = (uint16_t)whole;
                    if (rest_at)
                        ((uint16_t *)(q + rest_at))[at] = (uint16_t)pack_rest(value[r][i], 0.0f, whole);
                }
                if (lane == 0)
                    row_scale[row] = a.scale * F::unit / up;
            }
        }
    }

    /* Bounds that tell edge pages: some row does not see some position of them. */
    __device__ void bound(uint32_t n_rows)
    {
        greatest_low = view_of(a, w, x, n_rows - 1).low;
        least_end = view_of(a, w, x, 0).end;
    }
    __device__ bool is_edge() const
    {
        return x.page * tile_rows < greatest_low || (x.page + 1) * tile_rows > least_end;
    }

    /* A decode step's own K and V row is shared out to the warps in blocks of 32 elements; this warp's are loaded early. */
    float fresh[max_fresh];

    __device__ void load_fresh()
    {
        const uint32_t d = head_dim(), n_blocks = ceil_div(d, 32), lane = threadIdx.x % 32,
                       n_warps = blockDim.x / 32;
        const float *k_row = a.k + x.s.first_token * a.k_stride + (uint64_t)x.kv_head * d;
        const float *v_row = a.v + x.s.first_token * a.v_stride + (uint64_t)x.kv_head * d;
#pragma unroll
        for (uint32_t j = 0; j < max_fresh; j++) {
            const uint32_t i = threadIdx.x / 32 + j * n_warps,
                           col = (i < n_blocks ? i : i - n_blocks) * 32 + lane;
            fresh[j] = i < 2 * n_blocks && col < d ? (i < n_blocks ? k_row : v_row)[col] : 0.0f;
        }
    }

    /* A segment's last page: a decode step's own row goes into the tiles in shared memory and into the cache; V rows past
     * the sequence's end are zeroed, since a weight of 0 does not silence a NaN. */
    __device__ void patch(char *k, char *v)
    {
        const uint32_t d = head_dim(), n_blocks = ceil_div(d, 32), n_warps = blockDim.x / 32;
        const uint32_t row = x.s.length % tile_rows;
        if (w.appends) {
            char *k_home = tile_of(a, a.k_cache, x, x.page, tile_bytes),
                 *v_home = tile_of(a, a.v_cache, x, x.page, tile_bytes);
#pragma unroll
            for (uint32_t j = 0; j < max_fresh; j++) {
                const uint32_t i = threadIdx.x / 32 + j * n_warps,
                               col = (i < n_blocks ? i : i - n_blocks) * 32;
                if (i >= 2 * n_blocks)
                    break;
                F::store32(i < n_blocks ? k : v, d, row, col, fresh[j]);
                F::store32(i < n_blocks ? k_home : v_home, d, row, col, fresh[j]);
            }
        }
        const uint32_t n = x.s.length + x.s.n_tokens - x.page * tile_rows;
        if (n < tile_rows)
            F::zero_rows(v, d, n);
        fence_async();
        __syncthreads();
    }

    /* A decode step's pages are read before the kernels before this one end: those write none of them. */
    __device__ void run()
    {
        if (threadIdx.x < 2 * n_stages)
            barrier_init(barriers + threadIdx.x, blockDim.x);
        barrier_init_done();
        block_work work = w.is_split ? split_work(a, w) : whole_work(a, w);
        __syncthreads();
        if (!w.appends) /* a kernel before may have written what is read next */
            launch_wait();

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
                if (w.appends)
                    load_fresh();
                n_rows = rows_in_group(w, x);
                bound(n_rows);
                block().begin(n_rows);
            }
            barrier_wait(barriers + 2 * stage, phase);
            if (ends) {
                barrier_wait(barriers + 2 * stage + 1, phase);
                patch(k, v);
            }
            block().scores(k, n_rows, is_edge());
            __syncthreads();
            const bool more = n_fetched < work.n_units;
            if (more)
                fetch(next, stage, false);
            block().weights(n_rows);
            barrier_wait(barriers + 2 * stage + 1, phase);
            __syncthreads();
            block().accumulate(v, n_rows);
            if (ends || unit + 1 == work.n_units) {
                is_partial |= !ends;
                block().end(n_rows, is_partial, slot);
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

} // namespace sharpi
#endif
