/* Products with f32 weights, in f32 throughout: routers, gates and projections of per-layer embeddings, and whole models when
 * logits are compared with a reference.
 *
 * Few rows: a block per weight row reads it once. More: tiles on the plain arithmetic units, with the columns dealt to the warps of
 * a block and to the blocks of a cluster, as such matrices have few rows. Mixtures: a warp per output, which is slow and only
 * meant to be right.
 */
#include "launch.h"
#include "matmul-epilogue.cuh"
#include "matmul-internal.h"
#include "matmul-ring.cuh"
#include "matmul-wgmma.cuh"

struct f32_params {
    const float *w, *x, *bias;
    float *out;
    uint64_t x_stride, out_stride; /* floats */
    const int32_t *n_rows_dev;
    uint32_t n_in, n_out, n_rows;
    int32_t epilogue;
    uint32_t n_split; /* blocks of a cluster */
};

static __device__ __forceinline__ uint32_t rows_now(uint32_t n_rows, const int32_t *n_rows_dev)
{
    return n_rows_dev ? min(n_rows, (uint32_t)max(0, *n_rows_dev)) : n_rows;
}

static __device__ __forceinline__ void f32_store(const f32_params &a, uint32_t token, uint32_t row,
                                                 float value)
{
    float *out = a.out + token * a.out_stride + row;
    if (a.bias)
        value += a.bias[row];
    *out = a.epilogue == MATMUL_ADD ? *out + value : value;
}

/* ---- Few rows ---- */

enum { F32_ROW_THREADS = 128 };

template <int NT> static __global__ void __launch_bounds__(F32_ROW_THREADS) f32_row_kernel(const f32_params a)
{
    __shared__ float sums[NT][F32_ROW_THREADS / 32];
    const uint32_t row = blockIdx.x, thread = threadIdx.x;
    const float *w = a.w + (uint64_t)row * a.n_in;
    float acc[NT] = {};

    launch_next();
    launch_wait();
    uint32_t n_rows = rows_now(a.n_rows, a.n_rows_dev);
    if (a.n_in % 4 == 0) {
#pragma unroll 4
        for (uint32_t i = 4 * thread; i < a.n_in; i += 4 * F32_ROW_THREADS) {
            float4 v = *(const float4 *)(w + i);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                float4 x = *(const float4 *)(a.x + (n < (int)a.n_rows ? n : 0) * a.x_stride + i);
                acc[n] += v.x * x.x + v.y * x.y + v.z * x.z + v.w * x.w;
            }
        }
    } else {
        for (uint32_t i = thread; i < a.n_in; i += F32_ROW_THREADS)
            for (int n = 0; n < NT; n++)
                acc[n] += w[i] * a.x[(n < (int)a.n_rows ? n : 0) * a.x_stride + i];
    }
#pragma unroll
    for (int n = 0; n < NT; n++) {
        for (int step = 16; step; step /= 2)
            acc[n] += __shfl_xor_sync(~0u, acc[n], step);
        if (thread % 32 == 0)
            sums[n][thread / 32] = acc[n];
    }
    __syncthreads();
    if (thread < NT && thread < n_rows)
        f32_store(a, thread, row, sums[thread][0] + sums[thread][1] + sums[thread][2] + sums[thread][3]);
}

/* ---- More rows: a tile is 8 NT tokens x 16 weight rows ----
 *
 * The columns come in chunks of 128, copied to shared memory two chunks ahead. A warp multiplies 16 columns of each: a lane has NT
 * tokens and four rows. The warps' sums are added up in their order, then those of the cluster's blocks, each of which has a
 * range of the chunks, in theirs.
 */

enum {
    F32_WARPS = 8,
    F32_THREADS = 32 * F32_WARPS,
    F32_ROWS = 16,
    F32_COLUMNS = 128,
    F32_PITCH =
        F32_COLUMNS + 4, /* floats from row to row of a chunk: eight lanes' float4 hit all banks once */
    F32_STAGES = 2,
    F32_SUM_PITCH = F32_ROWS + 4,
    F32_MOST_SPLIT = 8, /* blocks of a cluster */
};

template <int NT> struct f32_shared {
    union {
        struct {
            float w[F32_ROWS][F32_PITCH], x[8 * NT][F32_PITCH];
        } stage[F32_STAGES];
        float sums[F32_WARPS][8 * NT]
                  [F32_SUM_PITCH]; /* when all chunks are done; the first are then the block's */
    };
};

/* Columns [column, column + 128) of rows [first, first + N) of `src`; zeros past its n rows and n_in columns. */
template <int N>
static __device__ __forceinline__ void f32_copy(float (*to)[F32_PITCH], const float *src, uint64_t stride,
                                                uint32_t first, uint32_t n, uint32_t column, uint32_t n_in)
{
    if (n_in % 4 == 0) {
#pragma unroll
        for (uint32_t i = threadIdx.x; i < N * F32_COLUMNS / 4; i += F32_THREADS) {
            const uint32_t r = i / (F32_COLUMNS / 4), c = column + 4 * (i % (F32_COLUMNS / 4));
            const bool exists = first + r < n && c < n_in;
            asm volatile(
                "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(&to[r][c - column])),
                "l"(exists ? src + (first + r) * stride + c : src), "r"(exists ? 16 : 0)
                : "memory");
        }
    } else {
        for (uint32_t i = threadIdx.x; i < N * F32_COLUMNS; i += F32_THREADS) {
            const uint32_t r = i / F32_COLUMNS, c = column + i % F32_COLUMNS;
            to[r][c - column] = first + r < n && c < n_in ? src[(first + r) * stride + c] : 0.0f;
        }
    }
}

/* The warp's columns of a chunk. Lane 8 g + t: tokens t, t + 8 .., rows 4 g .. 4 g + 3. */
template <int NT>
static __device__ __forceinline__ void f32_multiply(const float (*w)[F32_PITCH], const float (*x)[F32_PITCH],
                                                    float acc[NT][4])
{
    const uint32_t t = threadIdx.x % 8, g = threadIdx.x / 8 % 4,
                   first = threadIdx.x / 32 * (F32_COLUMNS / F32_WARPS);
#pragma unroll
    for (uint32_t c = first; c < first + F32_COLUMNS / F32_WARPS; c += 4) {
        float4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            v[j] = *(const float4 *)&w[4 * g + j][c];
#pragma unroll
        for (int i = 0; i < NT; i++) {
            const float4 u = *(const float4 *)&x[t + 8 * i][c];
#pragma unroll
            for (int j = 0; j < 4; j++)
                acc[i][j] += v[j].x * u.x + v[j].y * u.y + v[j].z * u.z + v[j].w * u.w;
        }
    }
}

static __device__ __forceinline__ void f32_add(float4 &a, float4 b)
{
    a = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

/* The warps' sums into the first warp's place, a thread four rows of a token. */
template <int NT>
static __device__ __forceinline__ void f32_add_warps(f32_shared<NT> *shared, float acc[NT][4])
{
    const uint32_t t = threadIdx.x % 8, g = threadIdx.x / 8 % 4, i = threadIdx.x;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < NT; k++)
        *(float4 *)&shared->sums[threadIdx.x / 32][t + 8 * k][4 * g] =
            make_float4(acc[k][0], acc[k][1], acc[k][2], acc[k][3]);
    __syncthreads();
    if (i < 8 * NT * 4) {
        float4 sum = *(const float4 *)&shared->sums[0][i / 4][4 * (i % 4)];
#pragma unroll
        for (int k = 1; k < F32_WARPS; k++)
            f32_add(sum, *(const float4 *)&shared->sums[k][i / 4][4 * (i % 4)]);
        *(float4 *)&shared->sums[0][i / 4][4 * (i % 4)] = sum;
    }
}

/* Four rows of a token, of all of the cluster's blocks. */
static __device__ __forceinline__ float4 f32_add_blocks(const float4 *mine, uint32_t n_split)
{
    float4 sum = *mine;
#if SHARPI_HAS_WGMMA
    if (n_split > 1) {
        float4 of[F32_MOST_SPLIT];
#pragma unroll
        for (uint32_t k = 0; k < F32_MOST_SPLIT; k++)
            of[k] = k < n_split ? cluster_load(mine, k) : make_float4(0, 0, 0, 0);
        sum = of[0];
#pragma unroll
        for (int k = 1; k < F32_MOST_SPLIT; k++)
            f32_add(sum, of[k]);
    }
#endif
    return sum;
}

template <int NT>
static __device__ __forceinline__ void f32_finish(const f32_params &a, f32_shared<NT> *shared,
                                                  uint32_t first_row, uint32_t first_token, uint32_t n_rows)
{
    const uint32_t rank = blockIdx.x % a.n_split;
#if SHARPI_HAS_WGMMA
    if (a.n_split > 1)
        cluster_barrier();
    else
#endif
        __syncthreads();
    for (uint32_t i = threadIdx.x * a.n_split + rank; i < 8 * NT * 4; i += F32_THREADS * a.n_split) {
        const uint32_t token = first_token + i / 4, row = first_row + 4 * (i % 4);
        const float4 sum = f32_add_blocks((const float4 *)&shared->sums[0][i / 4][4 * (i % 4)], a.n_split);
        const float value[4] = {sum.x, sum.y, sum.z, sum.w};
        for (uint32_t j = 0; j < 4 && token < n_rows && row + j < a.n_out; j++)
            f32_store(a, token, row + j, value[j]);
    }
#if SHARPI_HAS_WGMMA
    if (a.n_split > 1)
        cluster_barrier_relaxed(); /* nobody ends while others read its sums */
#endif
}

template <int NT> static __global__ void __launch_bounds__(F32_THREADS, 2) f32_tile_kernel(const f32_params a)
{
    extern __shared__ float4 memory[];
    f32_shared<NT> *shared = (f32_shared<NT> *)memory;
    const uint32_t tile = blockIdx.x / a.n_split, rank = blockIdx.x % a.n_split, first_row = tile * F32_ROWS,
                   first_token = blockIdx.y * 8 * NT, n_chunks = (a.n_in + F32_COLUMNS - 1) / F32_COLUMNS;
    const uint32_t begin = rank * n_chunks / a.n_split, end = (rank + 1) * n_chunks / a.n_split;
    float acc[NT][4] = {};

    launch_next();
    for (uint32_t c = begin; c < end && c < begin + F32_STAGES; c++) /* weights need not wait */
        f32_copy<F32_ROWS>(shared->stage[c - begin].w, a.w, a.n_in, first_row, a.n_out, c * F32_COLUMNS,
                           a.n_in);
    launch_wait();
    const uint32_t n_rows = rows_now(a.n_rows, a.n_rows_dev);
    if (first_token >= n_rows)
        return;
    for (uint32_t c = begin; c < begin + F32_STAGES; c++) {
        if (c < end)
            f32_copy<8 * NT>(shared->stage[c - begin].x, a.x, a.x_stride, first_token, n_rows,
                             c * F32_COLUMNS, a.n_in);
        copy_commit();
    }
    for (uint32_t c = begin; c < end; c++) {
        auto &stage = shared->stage[(c - begin) % F32_STAGES];
        copy_wait(F32_STAGES - 1);
        __syncthreads();
        f32_multiply<NT>(stage.w, stage.x, acc);
        __syncthreads();
        if (c + F32_STAGES < end) {
            const uint32_t column = (c + F32_STAGES) * F32_COLUMNS;
            f32_copy<F32_ROWS>(stage.w, a.w, a.n_in, first_row, a.n_out, column, a.n_in);
            f32_copy<8 * NT>(stage.x, a.x, a.x_stride, first_token, n_rows, column, a.n_in);
        }
        copy_commit();
    }
    f32_add_warps<NT>(shared, acc);
    f32_finish<NT>(a, shared, first_row, first_token, n_rows);
}

/* Blocks that share a tile: about as many blocks as multiprocessors. */
static uint32_t choose_split(const struct matmul_context *ctx, const f32_params *a, uint32_t n_tiles)
{
    const uint32_t n_chunks = (a->n_in + F32_COLUMNS - 1) / F32_COLUMNS;
    uint32_t split = 1;
    while (ctx->has_wide && split < F32_MOST_SPLIT && 2 * split <= n_chunks &&
           2 * split * n_tiles <= (uint32_t)ctx->n_sms)
        split *= 2;
    return split;
}

template <int NT> static int allow_shared(void)
{
    return (int)cudaFuncSetAttribute((const void *)f32_tile_kernel<NT>,
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(f32_shared<NT>));
}

extern "C" int matmul_f32_prepare(void)
{
    int e = allow_shared<2>();
    e = e ? e : allow_shared<4>();
    return e ? e : allow_shared<8>();
}

template <int NT>
static int launch_tiles(const struct matmul_context *ctx, f32_params *a, cudaStream_t stream)
{
    const uint32_t n_tiles = (a->n_out + F32_ROWS - 1) / F32_ROWS,
                   n_groups = (a->n_rows + 8 * NT - 1) / (8 * NT);
    a->n_split = choose_split(ctx, a, n_tiles * n_groups);
    return launch_clusters(f32_tile_kernel<NT>, dim3(n_tiles * a->n_split, n_groups), dim3(F32_THREADS),
                           a->n_split, sizeof(f32_shared<NT>), stream, ctx->overlap, a);
}

extern "C" int matmul_f32_launch(const struct matmul_args *args, const struct matmul_part *part)
{
    const struct cuda_matrix *m = part->w;
    f32_params a = {(const float *)m->data,
                    (const float *)args->act[ACT_F32],
                    part->bias,
                    part->out,
                    args->act_stride[ACT_F32] / 4,
                    part->out_stride,
                    args->n_rows_dev,
                    (uint32_t)m->n_in,
                    (uint32_t)m->n_out,
                    args->n_rows,
                    part->epilogue,
                    1};
    void (*kernel)(f32_params) = args->n_rows <= 1   ? f32_row_kernel<1>
                                 : args->n_rows <= 2 ? f32_row_kernel<2>
                                 : args->n_rows <= 4 ? f32_row_kernel<4>
                                                     : f32_row_kernel<8>;
    if (args->n_rows > 32)
        return launch_tiles<8>(args->ctx, &a, args->stream);
    if (args->n_rows > 16)
        return launch_tiles<4>(args->ctx, &a, args->stream);
    if (args->n_rows > MATMUL_GEMV_ROWS)
        return launch_tiles<2>(args->ctx, &a, args->stream);
    return launch_kernel(kernel, dim3(a.n_out), dim3(F32_ROW_THREADS), 0, args->stream, args->ctx->overlap,
                         &a);
}

/* ---- Mixtures ---- */

struct f32_grouped_params {
    const float *w[2];
    const float *bias[2];
    uint64_t stack_floats[2], x_stride, out_stride;
    const float *x;
    float *out;
    const int32_t *n_pairs_dev, *expert_of, *starts, *in_rows, *out_rows;
    uint32_t n_parts, n_in, n_out, n_pairs, n_experts, in_divisor;
    int32_t sorted, glu;
    float glu_clamp;
};

/* The expert whose places include `place`; n_experts if none. */
static __device__ uint32_t expert_at(const int32_t *starts, uint32_t n_experts, uint32_t place)
{
    uint32_t low = 0, high = n_experts;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if ((uint32_t)starts[middle + 1] <= place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static __device__ float warp_dot(const float *w, const float *x, uint32_t n, uint32_t lane)
{
    float sum = 0;
    for (uint32_t i = lane; i < n; i += 32)
        sum += w[i] * x[i];
    for (int step = 16; step; step /= 2)
        sum += __shfl_xor_sync(~0u, sum, step);
    return sum;
}

static __global__ void __launch_bounds__(128) f32_grouped_kernel(const f32_grouped_params a)
{
    const uint32_t row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x & 31;

    launch_next();
    launch_wait();
    uint32_t n_pairs = rows_now(a.n_pairs, a.n_pairs_dev);
    if (row >= a.n_out)
        return;
    for (uint32_t p = blockIdx.y; p < n_pairs; p += gridDim.y) {
        uint32_t expert = a.sorted ? expert_at(a.starts, a.n_experts, p) : (uint32_t)a.expert_of[p];
        uint64_t in = !a.sorted ? p / a.in_divisor : a.in_rows ? a.in_rows[p] : p;
        uint64_t out = a.sorted && a.out_rows ? a.out_rows[p] : p;
        if (expert >= a.n_experts)
            continue;
        float value[2] = {};
        for (uint32_t i = 0; i < a.n_parts; i++) {
            value[i] = warp_dot(a.w[i] + expert * a.stack_floats[i] + (uint64_t)row * a.n_in,
                                a.x + in * a.x_stride, a.n_in, lane);
            if (a.bias[i])
                value[i] += a.bias[i][(uint64_t)expert * a.n_out + row];
        }
        if (lane == 0)
            a.out[out * a.out_stride + row] =
                a.n_parts == 2 ? gated(a.glu, a.glu_clamp, value[0], value[1]) : value[0];
    }
}

extern "C" int matmul_f32_grouped_launch(const struct matmul_grouped_args *args)
{
    f32_grouped_params a = {};
    for (uint32_t i = 0; i < args->n_parts; i++) {
        a.w[i] = (const float *)args->part[i].w->data;
        a.bias[i] = args->part[i].bias;
        a.stack_floats[i] = args->part[i].w->stack_bytes / 4;
    }
    a.x_stride = args->act_stride / 4;
    a.out_stride = args->part[0].out_stride;
    a.x = (const float *)args->act;
    a.out = args->part[0].out;
    a.n_pairs_dev = args->n_pairs_dev;
    a.expert_of = args->expert_of;
    a.starts = args->starts;
    a.in_rows = args->in_rows;
    a.out_rows = args->out_rows;
    a.n_parts = args->n_parts;
    a.n_in = (uint32_t)args->part[0].w->n_in;
    a.n_out = (uint32_t)args->part[0].w->n_out;
    a.n_pairs = args->n_pairs;
    a.n_experts = args->part[0].w->n_stack;
    a.in_divisor = args->in_divisor ? args->in_divisor : 1;
    a.sorted = args->sorted;
    a.glu = args->glu;
    a.glu_clamp = args->glu_clamp;
    dim3 grid((a.n_out + 3) / 4, min(a.n_pairs, 65535u));
    void (*kernel)(const f32_grouped_params) = f32_grouped_kernel;
    return launch_kernel((void (*)(f32_grouped_params))kernel, grid, dim3(128), 0, args->stream,
                         args->ctx->overlap, &a);
}
