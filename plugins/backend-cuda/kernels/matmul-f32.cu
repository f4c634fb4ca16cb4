/* Products with f32 weights, in f32 throughout: routers, and whole models when logits are compared with a reference.
 *
 * Few rows: a block per weight row reads it once. Many rows: 64 x 64 tiles on the plain arithmetic units. Mixtures: a warp per
 * output, which is slow and only meant to be right.
 */
#include "launch.h"
#include "matmul-epilogue.cuh"
#include "matmul-internal.h"

struct f32_params {
    const float *w, *x, *bias;
    float *out;
    uint64_t x_stride, out_stride; /* floats */
    const int32_t *n_rows_dev;
    uint32_t n_in, n_out, n_rows;
    int32_t epilogue;
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

/* ---- Many rows: out tile of 64 tokens x 64 weight rows; each thread 4 x 4 ---- */

enum { F32_TILE = 64, F32_STEP = 16 };

static __device__ __forceinline__ void f32_load_tile(float tile[F32_STEP][F32_TILE + 4], const float *src,
                                                     uint64_t stride, uint32_t first, uint32_t n, uint32_t k,
                                                     uint32_t n_in)
{
    for (uint32_t i = threadIdx.x; i < F32_TILE * F32_STEP; i += 256) {
        uint32_t r = i / F32_STEP, c = i % F32_STEP;
        tile[c][r] = first + r < n && k + c < n_in ? src[(first + r) * stride + k + c] : 0;
    }
}

static __global__ void __launch_bounds__(256) f32_tile_kernel(const f32_params a)
{
    __shared__ float w_tile[F32_STEP][F32_TILE + 4], x_tile[F32_STEP][F32_TILE + 4];
    const uint32_t first_row = blockIdx.x * F32_TILE, first_token = blockIdx.y * F32_TILE;
    const uint32_t tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float acc[4][4] = {};

    launch_next();
    launch_wait();
    uint32_t n_rows = rows_now(a.n_rows, a.n_rows_dev);
    if (first_token >= n_rows)
        return;
    for (uint32_t k = 0; k < a.n_in; k += F32_STEP) {
        f32_load_tile(w_tile, a.w, a.n_in, first_row, a.n_out, k, a.n_in);
        f32_load_tile(x_tile, a.x, a.x_stride, first_token, n_rows, k, a.n_in);
        __syncthreads();
#pragma unroll
        for (int c = 0; c < F32_STEP; c++) {
            float4 w = *(const float4 *)&w_tile[c][4 * tx], x = *(const float4 *)&x_tile[c][4 * ty];
            const float ws[4] = {w.x, w.y, w.z, w.w}, xs[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
            for (int i = 0; i < 16; i++)
                acc[i / 4][i % 4] += xs[i / 4] * ws[i % 4];
        }
        __syncthreads();
    }
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t token = first_token + 4 * ty + i / 4, row = first_row + 4 * tx + i % 4;
        if (token < n_rows && row < a.n_out)
            f32_store(a, token, row, acc[i / 4][i % 4]);
    }
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
                    part->epilogue};
    dim3 grid(a.n_out), block(F32_ROW_THREADS);
    void (*kernel)(f32_params) = args->n_rows <= 1   ? f32_row_kernel<1>
                                 : args->n_rows <= 2 ? f32_row_kernel<2>
                                 : args->n_rows <= 4 ? f32_row_kernel<4>
                                                     : f32_row_kernel<8>;
    if (args->n_rows > MATMUL_GEMV_ROWS) {
        grid = dim3((a.n_out + F32_TILE - 1) / F32_TILE, (a.n_rows + F32_TILE - 1) / F32_TILE);
        block = dim3(256);
        void (*tile)(const f32_params) = f32_tile_kernel;
        kernel = tile;
    }
    return launch_kernel(kernel, grid, block, 0, args->stream, args->ctx->overlap, &a);
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
