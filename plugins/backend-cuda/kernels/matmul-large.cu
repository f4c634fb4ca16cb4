/* Products with many activation rows through cublasLt: weights are dequantized to bf16, a piece of the matrix at a time, into
 * scratch that mostly stays in the L2 cache. Columns keep the order of ACT_BF16.
 */
#include "launch.h"
#include "matmul-blas.h"
#include "matmul-decode.cuh"
#include "matmul-internal.h"

enum { LARGE_PIECE = 64 << 20, LARGE_ROWS = 112, LARGE_ROWS_WIDE = 385, LARGE_F32_ROWS = 64 };

struct expand_params {
    const uint8_t *groups; /* the first group */
    uint8_t *out;          /* [n_rows, out_stride] */
    uint64_t group_bytes, out_stride;
    uint32_t n_rows, n_groups, n_slabs, n_in;
};

/* Among four lanes t: word p of lane t becomes word t of lane p. */
static __device__ __forceinline__ void transpose_words(uint32_t w[4], int t)
{
#pragma unroll
    for (int step = 1; step <= 2; step *= 2) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int low = step == 1 ? 2 * i : i, high = low + step;
            uint32_t other = __shfl_xor_sync(~0u, t & step ? w[low] : w[high], step);
            w[low] = t & step ? other : w[low];
            w[high] = t & step ? w[high] : other;
        }
    }
}

template <int TYPE>
static __device__ __forceinline__ void pair_words(const uint8_t *slab, const lane_header<TYPE> &h, int b,
                                                  int row, int sub, int lane, uint32_t w[2])
{
    if constexpr (TYPE == SHARPI_TYPE_BF16) {
        uint2 p = lane_pairs(slab, b, row, sub, lane);
        w[0] = p.x, w[1] = p.y;
    } else {
        float4 v = lane_weights<TYPE>(slab, h, b, row, sub, lane);
        w[0] = bf16_pair(v.x, v.y), w[1] = bf16_pair(v.z, v.w);
    }
}

/* A warp per slab. Lane t of a row writes 16 of each block's 64 bytes. */
template <int TYPE> static __global__ void __launch_bounds__(256) expand_kernel(const expand_params a)
{
    using W = weight_type<TYPE>;
    const uint32_t lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const uint64_t index = (uint64_t)blockIdx.x * 8 + threadIdx.x / 32;
    const uint32_t group = (uint32_t)(index / a.n_slabs), slab_index = (uint32_t)(index % a.n_slabs);

    launch_next();
    launch_wait();
    if (group >= a.n_groups)
        return;
    const uint8_t *slab =
        a.groups + group * a.group_bytes + (uint64_t)slab_index * slab_bytes(W::layout, W::columns);
    const uint32_t first_column = slab_index * W::columns, end = (a.n_in + 63) & ~63u;
    const lane_header<TYPE> h = lane_header_load<TYPE>(slab, (int)lane);
#pragma unroll
    for (int b = 0; b < (int)W::blocks; b++) {
        const uint32_t column = first_column + b * 32;
        if (column >= end)
            break;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            uint32_t w[4] = {};
            if (column < a.n_in)
                pair_words<TYPE>(slab, h, b, r, 0, (int)lane, w);
            if (column + 16 < a.n_in)
                pair_words<TYPE>(slab, h, b, r, 1, (int)lane, w + 2);
            transpose_words(w, (int)t);
            uint32_t row = group * 16 + g + 8 * r;
            if (row < a.n_rows)
                *(uint4 *)(a.out + row * a.out_stride + column * 2 + t * 16) =
                    make_uint4(w[0], w[1], w[2], w[3]);
        }
    }
}

static int expand_launch(const struct matmul_context *ctx, const struct cuda_matrix *m, uint64_t first_row,
                         uint64_t n_rows, void *out, uint64_t out_stride, cudaStream_t stream)
{
    struct slab_layout l = slab_layout_of(m->type);
    expand_params a = {};
    void (*kernel)(expand_params) = nullptr;

    a.group_bytes = group_bytes(l, m->n_in);
    a.groups = (const uint8_t *)m->data + first_row / MATMUL_GROUP * a.group_bytes;
    a.out = (uint8_t *)out;
    a.out_stride = out_stride;
    a.n_rows = (uint32_t)n_rows;
    a.n_groups = (uint32_t)((n_rows + 15) / 16);
    a.n_slabs = (uint32_t)((m->n_in + l.columns - 1) / l.columns);
    a.n_in = (uint32_t)m->n_in;
    switch (m->type) {
#define EXPAND(TYPE)                                                                                         \
    case TYPE: {                                                                                             \
        void (*k)(const expand_params) = expand_kernel<TYPE>;                                                \
        kernel = k;                                                                                          \
        break;                                                                                               \
    }
        EACH_SLAB_TYPE(EXPAND)
    default:
        return (int)cudaErrorInvalidValue;
    }
    uint64_t n_warps = (uint64_t)a.n_groups * a.n_slabs;
    return launch_kernel(kernel, dim3((uint32_t)((n_warps + 7) / 8)), dim3(256), 0, stream, ctx->overlap, &a);
}

/* ---- Host ---- */

/* From how many rows on dequantizing first is faster than tiles, as measured on an H200; on others it is not known. */
static uint32_t large_rows(const struct matmul_context *ctx)
{
    return ctx->wide ? (uint32_t)LARGE_ROWS_WIDE : (uint32_t)LARGE_ROWS;
}

extern "C" int matmul_large_is_better(const struct matmul_context *ctx, const struct cuda_matrix *m,
                                      uint32_t n_rows)
{
    if (!ctx->blas)
        return 0;
    return m->type == SHARPI_TYPE_F32 ? n_rows > LARGE_F32_ROWS : n_rows >= large_rows(ctx);
}

extern "C" uint64_t matmul_large_workspace_bytes(const struct matmul_context *ctx, uint32_t n_rows)
{
    if (!ctx->blas || n_rows <= MATMUL_GEMV_ROWS)
        return 0;
    return MATMUL_BLAS_WORKSPACE + (n_rows >= large_rows(ctx) ? (uint64_t)LARGE_PIECE : 0);
}

static int run_blas(const struct matmul_args *args, const struct matmul_part *part, const void *w,
                    uint64_t w_stride, uint64_t first, uint64_t n_out)
{
    const int is_f32 = part->w->type == SHARPI_TYPE_F32;
    enum act_format format = is_f32 ? ACT_F32 : ACT_BF16;
    struct matmul_blas_call call = {};

    call.w = w;
    call.x = args->act[format];
    call.out = part->out + first;
    call.bias = part->bias ? part->bias + first : nullptr;
    call.is_f32 = is_f32;
    call.add = part->epilogue == MATMUL_ADD;
    call.n_in = is_f32 ? part->w->n_in : w_stride;
    call.n_out = n_out;
    call.n_rows = args->n_rows;
    call.w_stride = w_stride;
    call.x_stride = args->act_stride[format] / (is_f32 ? 4 : 2);
    call.out_stride = part->out_stride;
    call.workspace = (char *)args->workspace + matmul_tile_workspace_bytes(args->ctx);
    call.stream = args->stream;
    return matmul_blas_run(args->ctx->blas, &call);
}

/* -1 if cublasLt cannot: nothing was launched then, or nothing that is not done again. */
extern "C" int matmul_large_launch(const struct matmul_args *args, const struct matmul_part *part)
{
    const struct cuda_matrix *m = part->w;
    const uint64_t columns = (m->n_in + 63) & ~63ull, row_bytes = columns * 2;
    char *scratch = (char *)args->workspace + matmul_tile_workspace_bytes(args->ctx) + MATMUL_BLAS_WORKSPACE;

    if (args->workspace_bytes <
        matmul_tile_workspace_bytes(args->ctx) + matmul_large_workspace_bytes(args->ctx, args->n_rows))
        return (int)cudaErrorInvalidValue;
    if (m->type == SHARPI_TYPE_F32)
        return run_blas(args, part, m->data, m->n_in, 0, m->n_out);
    uint64_t fit = LARGE_PIECE / row_bytes / 256 * 256;
    if (fit == 0)
        return -1;
    uint64_t n_pieces = (m->n_out + fit - 1) / fit, rows = (m->n_out + n_pieces - 1) / n_pieces;
    rows = (rows + 255) / 256 * 256;
    for (uint64_t first = 0; first < m->n_out; first += rows) {
        uint64_t n = m->n_out - first < rows ? m->n_out - first : rows;
        int e = expand_launch(args->ctx, m, first, n, scratch, row_bytes, args->stream);
        if (!e)
            e = run_blas(args, part, scratch, columns, first, n);
        if (e) /* what was added once must not be added again */
            return e == -1 && first && part->epilogue == MATMUL_ADD ? (int)cudaErrorNotSupported : e;
    }
    return 0;
}
