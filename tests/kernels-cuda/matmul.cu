/* Matrix products of the CUDA backend against the CPU's unpacking of every weight format and sums in double.
 *
 * Weights are random valid blocks of the file format. Outputs lie between guard values, which must survive; everything is
 * poisoned before it is written. Inputs are random in every check.
 */
#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sharpi/plugin/graph.h>

#include "../../plugins/backend-cuda/kernels/matmul-internal.h"
#include "random.cuh"

extern "C" {
void dequant_row(int32_t type, const void *src, float *dst, uint64_t n);
int test_matmul(int bench);
}

namespace
{

const int32_t all_types[] = {SHARPI_TYPE_F32,  SHARPI_TYPE_F16,    SHARPI_TYPE_BF16,   SHARPI_TYPE_Q4_0,
                             SHARPI_TYPE_Q4_1, SHARPI_TYPE_Q5_0,   SHARPI_TYPE_Q5_1,   SHARPI_TYPE_Q8_0,
                             SHARPI_TYPE_Q2_K, SHARPI_TYPE_Q3_K,   SHARPI_TYPE_Q4_K,   SHARPI_TYPE_Q5_K,
                             SHARPI_TYPE_Q6_K, SHARPI_TYPE_IQ4_NL, SHARPI_TYPE_IQ4_XS, SHARPI_TYPE_MXFP4};
const int n_types = sizeof all_types / sizeof all_types[0];

/* KERNELS_QUICK in the environment: few and small products, for runs under a memory checker. */
const int quick = getenv("KERNELS_QUICK") != NULL;

/* MATMUL_TYPES in the environment names the types to look at; unset: all. */
int wanted(int32_t type)
{
    const char *types = getenv("MATMUL_TYPES");
    return !types || strstr(types, sharpi_type_info(type)->name) != NULL;
}

float random_float() /* about normal, deviation 1 */
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(random_bits() & 0xffffff) / 0x1p24f - 0.5f;
    return sum * 1.7320508f;
}

/* Scales that a real model could have, so that no product is far from 1. */
void set_scales(int32_t type, uint8_t *block)
{
    uint16_t d = half_of(0.001f + 0.01f * (float)(random_bits() & 255) / 255),
             m = half_of(0.001f + 0.01f * (float)(random_bits() & 255) / 255);
    switch (type) {
    case SHARPI_TYPE_MXFP4:
        block[0] = (uint8_t)(118 + random_bits() % 6);
        return;
    case SHARPI_TYPE_Q2_K:
        memcpy(block + 80, &d, 2);
        memcpy(block + 82, &m, 2);
        return;
    case SHARPI_TYPE_Q3_K:
        memcpy(block + 108, &d, 2);
        return;
    case SHARPI_TYPE_Q6_K:
        memcpy(block + 208, &d, 2);
        return;
    case SHARPI_TYPE_Q4_1:
    case SHARPI_TYPE_Q5_1:
    case SHARPI_TYPE_Q4_K:
    case SHARPI_TYPE_Q5_K:
        memcpy(block + 2, &m, 2); /* fall through */
    default:
        memcpy(block, &d, 2);
    }
}

void random_rows(int32_t type, uint8_t *dst, uint64_t n_in, uint64_t n_rows)
{
    const struct sharpi_type_info *info = sharpi_type_info(type);
    uint64_t n_blocks = n_in / info->block_elems * n_rows;

    for (uint64_t b = 0; b < n_blocks; b++, dst += info->block_bytes) {
        if (info->block_elems == 1) {
            float f = random_float() * 0.05f;
            uint32_t u;
            uint16_t h = f >= 0 ? half_of(f + 0.001f) : half_of(0.001f - f) | 0x8000;
            memcpy(&u, &f, 4);
            if (type == SHARPI_TYPE_F32)
                memcpy(dst, &f, 4);
            else if (type == SHARPI_TYPE_F16)
                memcpy(dst, &h, 2);
            else
                memcpy(dst, (char *)&u + 2, 2);
            continue;
        }
        for (uint32_t i = 0; i < info->block_bytes; i++)
            dst[i] = (uint8_t)random_bits();
        set_scales(type, dst);
    }
}

struct weight {
    cuda_matrix m;
    uint8_t *file, *device;
    float *value; /* [n_stack * n_out, n_in] on the host */
    float *value_dev;
};

/* A random matrix, repacked in two pieces. */
weight weight_make(int32_t type, uint64_t n_in, uint64_t n_out, uint32_t n_stack)
{
    weight w = {};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    uint64_t row_bytes = sharpi_row_bytes(type, n_in), rows = n_out * n_stack,
             n = matrix_device_bytes(type, n_in, n_out, n_stack);
    uint8_t *staging;

    w.file = (uint8_t *)malloc(row_bytes * rows);
    w.value = (float *)malloc(rows * n_in * 4);
    random_rows(type, w.file, n_in, rows);
    for (uint64_t r = 0; r < rows; r++)
        dequant_row(type, w.file + r * row_bytes, w.value + r * n_in, n_in);
    OK(cudaMalloc(&w.device, n));
    OK(cudaMemset(w.device, 0xff, n));
    OK(cudaMalloc(&staging, row_bytes * n_out + 16));
    OK(cudaMalloc(&w.value_dev, rows * n_in * 4));
    OK(cudaMemcpy(w.value_dev, w.value, rows * n_in * 4, cudaMemcpyHostToDevice));
    OK(matrix_init(&w.m, type, n_in, n_out, n_stack, w.device, &err));
    uint64_t cut = n_out / 2 / 16 * 16;
    for (uint32_t s = 0; s < n_stack; s++) {
        const uint8_t *src = w.file + s * n_out * row_bytes;
        if (cut) {
            OK(cudaMemcpy(staging, src, row_bytes * cut, cudaMemcpyHostToDevice));
            OK(matrix_repack(&w.m, s, staging, 0, cut, 0));
        }
        OK(cudaMemcpy(staging, src + cut * row_bytes, row_bytes * (n_out - cut), cudaMemcpyHostToDevice));
        OK(matrix_repack(&w.m, s, staging, cut, n_out - cut, 0));
    }
    OK(cudaDeviceSynchronize());
    cudaFree(staging);
    return w;
}

void weight_free(weight *w)
{
    free(w->file);
    free(w->value);
    cudaFree(w->device);
    cudaFree(w->value_dev);
}

/* ---- Outputs between guards ---- */

const uint64_t guard_floats = 64;
const uint32_t poison = 0x7fc12345;

struct guarded {
    float *base, *data;
    uint64_t n;
};

__global__ void fill_words(uint32_t *p, uint32_t v, uint64_t n)
{
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < n;
         i += (uint64_t)gridDim.x * blockDim.x)
        p[i] = v;
}

guarded guarded_make(uint64_t n)
{
    guarded g = {};
    g.n = n;
    OK(cudaMalloc(&g.base, (n + 2 * guard_floats) * 4));
    g.data = g.base + guard_floats;
    fill_words<<<256, 256>>>((uint32_t *)g.base, poison, n + 2 * guard_floats);
    return g;
}

/* Copies to the host and frees; counts damaged guards. */
int guarded_take(guarded *g, float *host)
{
    uint32_t edge[2 * guard_floats];
    int bad = 0;
    OK(cudaMemcpy(host, g->data, g->n * 4, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(edge, g->base, guard_floats * 4, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(edge + guard_floats, g->data + g->n, guard_floats * 4, cudaMemcpyDeviceToHost));
    for (uint64_t i = 0; i < 2 * guard_floats; i++)
        bad += edge[i] != poison;
    cudaFree(g->base);
    return bad;
}

/* ---- Reference: double sums of exact weights ---- */

/* out[t][o] = sum_i w[o][i] x[t][i]; size[t][o] = sqrt(sum_i (w[o][i] x[t][i])^2), what the sum is like when its terms do not
 * cancel: errors are judged by the larger. */
__global__ void reference_kernel(const float *w, const float *x, double *out, double *size, uint64_t n_in,
                                 uint64_t n_out)
{
    const float *wr = w + blockIdx.x * n_in, *xr = x + blockIdx.y * n_in;
    double sum = 0, squares = 0;
    for (uint64_t i = threadIdx.x; i < n_in; i += 32) {
        double p = (double)wr[i] * (double)xr[i];
        sum += p;
        squares += p * p;
    }
    for (int other = 16; other; other /= 2) {
        sum += __shfl_xor_sync(~0u, sum, other);
        squares += __shfl_xor_sync(~0u, squares, other);
    }
    if (threadIdx.x == 0) {
        out[blockIdx.y * n_out + blockIdx.x] = sum;
        size[blockIdx.y * n_out + blockIdx.x] = sqrt(squares);
    }
}

float *random_device(uint64_t n, float *host)
{
    float *p;
    for (uint64_t i = 0; i < n; i++)
        host[i] = random_float();
    OK(cudaMalloc(&p, n * 4 + 64));
    OK(cudaMemcpy(p, host, n * 4, cudaMemcpyHostToDevice));
    return p;
}

void reference(const float *w_dev, const float *x_dev, double *out, double *size, uint64_t n_in,
               uint64_t n_out, uint64_t n_rows)
{
    double *dev;
    uint64_t n = n_out * n_rows;
    OK(cudaMalloc(&dev, 2 * n * 8));
    reference_kernel<<<dim3((uint32_t)n_out, (uint32_t)n_rows), 32>>>(w_dev, x_dev, dev, dev + n, n_in,
                                                                      n_out);
    OK(cudaMemcpy(out, dev, n * 8, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(size, dev + n, n * 8, cudaMemcpyDeviceToHost));
    cudaFree(dev);
}

double activation_of(int32_t a, double z)
{
    if (a == SHARPI_ACT_SILU)
        return z / (1 + exp(-z));
    if (a == SHARPI_ACT_GELU_TANH)
        return 0.5 * z * (1 + tanh(0.7978845608028654 * (z + 0.044715 * z * z * z)));
    if (a == SHARPI_ACT_GELU_ERF)
        return 0.5 * z * (1 + erf(z / sqrt(2.0)));
    return z > 0 ? z * z : 0;
}

/* What a relative error may be, by what the activations are rounded to. */
double tolerance(enum act_format format, int32_t type)
{
    if (format == ACT_F32)
        return type == SHARPI_TYPE_F32 ? 1e-5 : 1e-5;
    return format == ACT_Q8 ? 1.2e-2 : 6e-3;
}

/* ---- Checks ---- */

int check_repack(int32_t type, uint64_t n_in, uint64_t n_out)
{
    weight w = weight_make(type, n_in, n_out, 1);
    guarded out = guarded_make(n_out * n_in);
    float *host = (float *)malloc(n_out * n_in * 4);
    OK(matrix_gather_launch(&w.m, NULL, 0, (uint32_t)n_out, NULL, 1.0f, out.data, n_in, 0));
    int guards = guarded_take(&out, host);
    uint64_t bad = 0;
    for (uint64_t i = 0; i < n_out * n_in; i++)
        bad += memcmp(&host[i], &w.value[i], 4) != 0 && !(host[i] == 0 && w.value[i] == 0);
    if (bad || guards)
        printf("FAIL repack %-7s %5llu x %5llu: %llu of %llu weights differ, %d guards damaged\n",
               sharpi_type_info(type)->name, (unsigned long long)n_out, (unsigned long long)n_in,
               (unsigned long long)bad, (unsigned long long)(n_out * n_in), guards);
    free(host);
    weight_free(&w);
    return bad || guards;
}

struct product {
    int32_t type, type2; /* type2 < 0: one part */
    uint64_t n_in, n_out;
    uint32_t n_rows, n_rows_dev; /* bucket, true number */
    int32_t epilogue, bias, glu;
};

struct bench_context {
    matmul_context *ctx;
    void *workspace;
    uint64_t workspace_bytes;
};

void *activations(enum act_format format, const float *x, uint64_t n_in, uint32_t n_rows, uint64_t *stride)
{
    char *p;
    *stride = act_row_bytes(format, n_in);
    OK(cudaMalloc(&p, *stride * n_rows));
    OK(cudaMemset(p, 0xff,
                  *stride * n_rows)); /* NaN past the true rows and in the padding that is not the format's */
    OK(act_convert_launch(format, p, *stride, x, n_in, n_in, n_rows, NULL, 0));
    return p;
}

double relative_error(const float *out, const double *ref, const double *size, uint64_t n)
{
    double diff = 0, norm = 0, sizes = 0;
    for (uint64_t i = 0; i < n; i++) {
        diff += (out[i] - ref[i]) * (out[i] - ref[i]);
        norm += ref[i] * ref[i];
        sizes += size[i] * size[i];
    }
    return sqrt(diff / (norm > sizes ? norm : sizes));
}

/* Runs one product of one or two parts and compares; prints on failure. *worst collects the error. */
int check_product(const bench_context *b, const product &c, double *worst)
{
    uint32_t n_parts = c.type2 >= 0 ? 2 : 1, rows = c.n_rows;
    weight w[2];
    guarded out[2];
    float *x = (float *)malloc(rows * c.n_in * 4), *x_dev = random_device(rows * c.n_in, x), *bias[2],
          *bias_dev[2];
    uint64_t n = c.n_out * rows;
    double *ref[2], *size[2];
    float *got = (float *)malloc(n * 4), *before = (float *)malloc(n * 4);
    matmul_args args = {};
    int fail = 0, c_glu = c.glu;

    args.ctx = b->ctx;
    args.n_parts = n_parts;
    args.n_rows = rows;
    args.glu = c.glu;
    args.workspace = b->workspace;
    args.workspace_bytes = b->workspace_bytes;
    int32_t *rows_dev;
    int32_t true_rows = (int32_t)c.n_rows_dev;
    OK(cudaMalloc(&rows_dev, 4));
    OK(cudaMemcpy(rows_dev, &true_rows, 4, cudaMemcpyHostToDevice));
    args.n_rows_dev = rows_dev;
    for (uint64_t i = 0; i < n; i++)
        before[i] = random_float();
    for (uint32_t p = 0; p < n_parts; p++) {
        w[p] = weight_make(p ? c.type2 : c.type, c.n_in, c.n_out, 1);
        ref[p] = (double *)malloc(n * 8);
        size[p] = (double *)malloc(n * 8);
        reference(w[p].value_dev, x_dev, ref[p], size[p], c.n_in, c.n_out, rows);
        bias[p] = (float *)malloc(c.n_out * 4);
        bias_dev[p] = random_device(c.n_out, bias[p]);
        out[p] = guarded_make(n);
        if (c.epilogue == MATMUL_ADD)
            OK(cudaMemcpy(out[p].data, before, n * 4, cudaMemcpyHostToDevice));
        for (uint64_t i = 0; i < n; i++)
            ref[p][i] += (c.bias ? bias[p][i % c.n_out] : 0) + (c.epilogue == MATMUL_ADD ? before[i] : 0);
        args.part[p] = {&w[p].m, c.bias ? bias_dev[p] : NULL, out[p].data, c.n_out, c.epilogue};
        enum act_format f = matmul_act_format(&w[p].m, rows);
        if (!args.act[f])
            args.act[f] = activations(f, x_dev, c.n_in, rows, &args.act_stride[f]);
    }
    if (c.glu && !matmul_can_glu(b->ctx, &w[0].m, &w[1].m, rows))
        args.glu = c_glu = 0;
    if (c_glu)
        for (uint64_t i = 0; i < n; i++) {
            double gate = fmax(size[0][i], fabs(ref[0][i])), up = fmax(size[1][i], fabs(ref[1][i]));
            size[0][i] = (c.glu == SHARPI_ACT_RELU2 ? gate * gate : gate) * up;
            ref[0][i] = activation_of(c.glu, ref[0][i]) * ref[1][i];
        }
    int e = matmul_launch(&args);
    if (!e)
        e = (int)cudaDeviceSynchronize();
    for (uint32_t p = 0; p < (c_glu ? 1 : n_parts); p++) {
        int guards = guarded_take(&out[p], got);
        uint64_t valid = c.n_out * c.n_rows_dev, touched = 0;
        double error = relative_error(got, ref[p], size[p], valid),
               limit = tolerance(matmul_act_format(&w[p].m, rows), w[p].m.type) * (c_glu ? 2 : 1) *
                       (valid < 16 ? 2 : 1);
        for (uint64_t i = valid; i < n && (!b->ctx->blas || (rows <= 128 && c.type != SHARPI_TYPE_F32 &&
                                                             c.type2 != SHARPI_TYPE_F32));
             i++) {
            uint32_t u;
            memcpy(&u, &got[i], 4);
            touched += c.epilogue == MATMUL_ADD ? got[i] != before[i] : u != poison;
        }
        if (error > *worst)
            *worst = error;
        if (e || guards || touched || !(error <= limit)) {
            printf("FAIL %-7s part %u of %u, %llu x %llu, %u of %u rows, epilogue %d bias %d glu %d: error "
                   "%.2e, "
                   "%d guards, %llu past the rows, %s\n",
                   sharpi_type_info(w[p].m.type)->name, p, n_parts, (unsigned long long)c.n_out,
                   (unsigned long long)c.n_in, c.n_rows_dev, rows, c.epilogue, c.bias, c.glu, error, guards,
                   (unsigned long long)touched, cudaGetErrorString((cudaError_t)e));
            fail = 1;
        }
    }
    if (e)
        exit(1); /* the context is lost */
    if (c_glu)
        cudaFree(out[1].base);
    for (uint32_t p = 0; p < n_parts; p++) {
        weight_free(&w[p]);
        free(ref[p]);
        free(size[p]);
        free(bias[p]);
        cudaFree(bias_dev[p]);
    }
    for (int f = 0; f < ACT_COUNT; f++)
        cudaFree((void *)args.act[f]);
    cudaFree(rows_dev);
    cudaFree(x_dev);
    free(x);
    free(got);
    free(before);
    return fail;
}

uint64_t whole_blocks(int32_t type, uint64_t n)
{
    uint64_t elems = sharpi_type_info(type)->block_elems;
    return n / elems ? n / elems * elems : elems;
}

int check_type(const bench_context *b, int32_t type, uint32_t min_rows, uint32_t max_rows)
{
    static const uint64_t sizes[][2] = {{4096, 176}, {32, 1},   {96, 17},  {2880, 40},
                                        {1536, 100}, {256, 33}, {100, 50}, {800, 2100}};
    static const uint32_t rows[][2] = {{1, 1},   {2, 2},   {4, 3},     {8, 5},     {8, 8},     {16, 9},
                                       {32, 32}, {64, 50}, {128, 128}, {300, 300}, {512, 300}, {600, 555}};
    int fail = 0;
    double worst_few = 0, worst_many = 0;

    if (!wanted(type))
        return 0;

    for (auto &s : sizes)
        if (min_rows <= MATMUL_GEMV_ROWS)
            fail += check_repack(type, whole_blocks(type, s[0]), s[1]);
    for (auto &s : sizes) {
        for (auto &r : rows) {
            if (r[0] < min_rows || r[0] > max_rows || (quick && s[0] * s[1] * r[0] > 50000))
                continue;
            uint64_t n_in = whole_blocks(type, s[0]);
            double *worst = r[0] <= 8 ? &worst_few : &worst_many;
            int odd = (int)(random_bits() & 1);
            fail += check_product(b,
                                  {type, -1, n_in, s[1], r[0], r[1], odd ? MATMUL_ADD : MATMUL_STORE,
                                   (int)(random_bits() & 1), 0},
                                  worst);
            if (type != SHARPI_TYPE_F32)
                fail += check_product(
                    b, {type, type, n_in, s[1], r[0], r[1], MATMUL_STORE, odd, 1 + (int)(random_bits() & 3)},
                    worst);
        }
    }
    printf("%-7s %s  worst error: %.1e up to 8 rows, %.1e beyond\n", sharpi_type_info(type)->name,
           fail ? "FAIL" : "ok  ", worst_few, worst_many);
    return fail;
}

/* Every number of rows around the sizes of tiles, and matrices that take several rounds of blocks. */
int check_tiles(const bench_context *b, int32_t type, uint32_t max_rows)
{
    static const uint32_t rows[] = {9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128};
    int fail = 0;
    double worst = 0;

    if (!wanted(type) || type == SHARPI_TYPE_F32)
        return 0;
    for (uint32_t r : rows) {
        if (r > max_rows || (quick && r != 9 && r != 33))
            continue;
        fail += check_product(b, {type, -1, whole_blocks(type, 1056), 85, r, r, MATMUL_ADD, 1, 0}, &worst);
        fail += check_product(
            b,
            {type, type, whole_blocks(type, 1800), 150, r, r, MATMUL_STORE, 1, r & 1 ? SHARPI_ACT_SILU : 0},
            &worst);
    }
    for (uint32_t r : {24u, 64u, 128u}) {
        if (r > max_rows || quick)
            continue;
        fail += check_product(b, {type, type, 512, 20000, r, r, MATMUL_STORE, 0, SHARPI_ACT_SILU}, &worst);
        fail += check_product(b, {type, -1, 512, 40001, r, r, MATMUL_STORE, 1, 0}, &worst);
    }
    printf("%-7s tiles %s, worst error %.1e\n", sharpi_type_info(type)->name, fail ? "FAIL" : "ok", worst);
    return fail;
}

/* Every way to cut a product into blocks that there is on wgmma. */
int check_cuts(const bench_context *b)
{
    int fail = 0;
    double worst = 0;
    for (uint32_t groups = 4; groups <= 16; groups += quick ? 12 : 4) {
        for (uint32_t split = 1; split <= 8; split += quick ? 7 : 1) {
            b->ctx->wide_groups = groups;
            b->ctx->wide_split = split;
            for (uint32_t r : {16u, 60u}) {
                fail += check_product(
                    b, {SHARPI_TYPE_Q4_K, SHARPI_TYPE_Q4_K, 2304, 1000, r, r, MATMUL_STORE, 1, 0}, &worst);
                fail += check_product(b,
                                      {SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_0, 2080, 130, r, r - 3, MATMUL_STORE,
                                       1, SHARPI_ACT_SILU},
                                      &worst);
            }
        }
    }
    b->ctx->wide_groups = b->ctx->wide_split = 0;
    printf("cuts %s, worst error %.1e\n", fail ? "FAIL" : "ok", worst);
    return fail;
}

/* Two runs of a product give the same bits. */
int check_same(const bench_context *b, int32_t type, uint32_t rows)
{
    const uint64_t n_in = 4096, n_out = 1000, n = n_out * rows;
    float *x = (float *)malloc(rows * n_in * 4), *x_dev = random_device(rows * n_in, x), *host[2];
    weight w = weight_make(type, n_in, n_out, 1);
    matmul_args args = {};
    int fail = 0;

    args.ctx = b->ctx;
    args.n_parts = 1;
    args.n_rows = rows;
    args.workspace = b->workspace;
    args.workspace_bytes = b->workspace_bytes;
    enum act_format f = matmul_act_format(&w.m, rows);
    args.act[f] = activations(f, x_dev, n_in, rows, &args.act_stride[f]);
    for (int i = 0; i < 2; i++) {
        guarded out = guarded_make(n);
        host[i] = (float *)malloc(n * 4);
        args.part[0] = {&w.m, NULL, out.data, n_out, MATMUL_STORE};
        OK(matmul_launch(&args));
        fail += guarded_take(&out, host[i]);
    }
    fail += memcmp(host[0], host[1], n * 4) != 0;
    if (fail)
        printf("FAIL %s, %u rows: two runs differ\n", sharpi_type_info(type)->name, rows);
    weight_free(&w);
    cudaFree((void *)args.act[f]);
    cudaFree(x_dev);
    free(x), free(host[0]), free(host[1]);
    return fail != 0;
}

int check_mixed(const bench_context *b, uint32_t min_rows, uint32_t max_rows)
{
    int fail = 0;
    double worst = 0;
    static const uint32_t rows[] = {1, 2, 7, 40, 300};
    for (uint32_t r : rows) {
        if (r < min_rows || r > max_rows || (quick && r > 40))
            continue;
        fail += check_product(b, {SHARPI_TYPE_Q4_K, SHARPI_TYPE_Q6_K, 2048, 130, r, r, MATMUL_STORE, 1, 0},
                              &worst);
        fail += check_product(b, {SHARPI_TYPE_Q4_0, SHARPI_TYPE_BF16, 2048, 130, r, r, MATMUL_STORE, 1, 0},
                              &worst);
        fail += check_product(b, {SHARPI_TYPE_F32, SHARPI_TYPE_Q8_0, 2048, 130, r, r, MATMUL_STORE, 1, 0},
                              &worst);
    }
    printf("mixed types %s\n", fail ? "FAIL" : "ok");
    return fail;
}

/* ---- Mixtures ---- */

struct mixture {
    int32_t type;
    uint64_t n_in, n_out;
    uint32_t n_experts, n_tokens, k;
    int32_t sorted, glu, with_bias;
};

/* Pairs token-major with distinct experts per token, and their order by expert. */
struct routing {
    int32_t *expert_of, *starts, *in_rows, *out_rows; /* host, then device */
};

template <typename T> T *to_device(const T *host, uint64_t n)
{
    T *p;
    OK(cudaMalloc(&p, n * sizeof(T) + 16));
    OK(cudaMemcpy(p, host, n * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}

routing route(const mixture &c)
{
    uint32_t n = c.n_tokens * c.k, place = 0;
    routing r = {(int32_t *)calloc(n, 4), (int32_t *)calloc(c.n_experts + 1, 4), (int32_t *)calloc(n, 4),
                 (int32_t *)calloc(n, 4)};
    for (uint32_t t = 0; t < c.n_tokens; t++) {
        uint32_t first = random_bits() % c.n_experts;
        for (uint32_t j = 0; j < c.k; j++)
            r.expert_of[t * c.k + j] = (int32_t)((first + j * 3) % c.n_experts);
    }
    for (uint32_t e = 0; e < c.n_experts; e++) {
        r.starts[e] = (int32_t)place;
        for (uint32_t p = 0; p < n; p++) {
            if (r.expert_of[p] != (int32_t)e)
                continue;
            r.in_rows[place] = (int32_t)(p / c.k);
            r.out_rows[place++] = (int32_t)p;
        }
    }
    r.starts[c.n_experts] = (int32_t)place;
    return r;
}

int check_mixture(const bench_context *b, const mixture &c, double *worst)
{
    uint32_t n_parts = c.glu ? 2 : 1, n_pairs = c.n_tokens * c.k;
    routing r = route(c);
    float *x = (float *)malloc(c.n_tokens * c.n_in * 4), *x_dev = random_device(c.n_tokens * c.n_in, x);
    float *bias[2], *bias_dev[2], *got = (float *)malloc(n_pairs * c.n_out * 4);
    double diff = 0, norm = 0;
    weight w[2];
    matmul_grouped_args args = {};
    guarded out = guarded_make(n_pairs * c.n_out);
    int32_t *expert_dev = to_device(r.expert_of, n_pairs), *starts_dev = to_device(r.starts, c.n_experts + 1),
            *in_dev = to_device(r.in_rows, n_pairs), *out_dev = to_device(r.out_rows, n_pairs);

    for (uint32_t p = 0; p < n_parts; p++) {
        w[p] = weight_make(c.type, c.n_in, c.n_out, c.n_experts);
        bias[p] = (float *)malloc(c.n_experts * c.n_out * 4);
        bias_dev[p] = random_device(c.n_experts * c.n_out, bias[p]);
        args.part[p] = {&w[p].m, c.with_bias ? bias_dev[p] : NULL, out.data, c.n_out, MATMUL_STORE};
    }
    args.ctx = b->ctx;
    args.n_parts = n_parts;
    args.act = activations(matmul_grouped_act_format(&w[0].m, c.sorted), x_dev, c.n_in, c.n_tokens,
                           &args.act_stride);
    args.n_pairs = n_pairs;
    args.sorted = c.sorted;
    args.expert_of = expert_dev;
    args.in_divisor = c.k;
    args.starts = starts_dev;
    args.in_rows = in_dev;
    args.out_rows = out_dev;
    args.glu = c.glu;
    args.workspace = b->workspace;
    args.workspace_bytes = b->workspace_bytes;
    int e = matmul_grouped_launch(&args);
    OK(e ? e : (int)cudaDeviceSynchronize());
    int guards = guarded_take(&out, got);
    for (uint32_t p = 0; p < n_pairs; p++) {
        for (uint64_t o = 0; o < c.n_out; o++) {
            double value[2] = {}, size[2] = {};
            for (uint32_t i = 0; i < n_parts; i++) {
                const float *row = w[i].value + ((uint64_t)r.expert_of[p] * c.n_out + o) * c.n_in,
                            *in = x + p / c.k * c.n_in;
                for (uint64_t j = 0; j < c.n_in; j++) {
                    value[i] += (double)row[j] * in[j];
                    size[i] += (double)row[j] * in[j] * row[j] * in[j];
                }
                value[i] += c.with_bias ? bias[i][(uint64_t)r.expert_of[p] * c.n_out + o] : 0;
                size[i] = fmax(sqrt(size[i]), fabs(value[i]));
            }
            double ref = c.glu ? activation_of(c.glu, value[0]) * value[1] : value[0],
                   scale = c.glu ? size[0] * size[1] : size[0], d = got[p * c.n_out + o] - ref;
            diff += d * d;
            norm += scale * scale;
        }
    }
    double error = sqrt(diff / norm),
           limit = tolerance(matmul_grouped_act_format(&w[0].m, c.sorted), c.type) * (c.glu ? 2 : 1);
    if (error > *worst)
        *worst = error;
    int fail = guards || !(error <= limit);
    if (fail)
        printf("FAIL mixture %-7s %llu x %llu, %u experts, %u tokens x %u, sorted %d glu %d bias %d: error "
               "%.2e, %d guards\n",
               sharpi_type_info(c.type)->name, (unsigned long long)c.n_out, (unsigned long long)c.n_in,
               c.n_experts, c.n_tokens, c.k, c.sorted, c.glu, c.with_bias, error, guards);
    for (uint32_t p = 0; p < n_parts; p++) {
        weight_free(&w[p]);
        free(bias[p]);
        cudaFree(bias_dev[p]);
    }
    cudaFree((void *)args.act);
    cudaFree(x_dev), cudaFree(expert_dev), cudaFree(starts_dev), cudaFree(in_dev), cudaFree(out_dev);
    free(x), free(got), free(r.expert_of), free(r.starts), free(r.in_rows), free(r.out_rows);
    return fail;
}

int check_mixtures(const bench_context *b)
{
    int fail = 0;
    for (int32_t type : all_types) {
        double worst[2] = {};
        if (!wanted(type))
            continue;
        uint64_t n_in = whole_blocks(type, 600);
        for (int glu = 0; glu < 2; glu++) {
            int32_t a = glu ? SHARPI_ACT_SILU : 0;
            fail += check_mixture(b, {type, n_in, 50, 16, 1, 4, 0, a, glu}, &worst[0]);
            fail += check_mixture(b, {type, n_in, 72, 9, 7, 3, 0, a, !glu}, &worst[0]);
            fail += check_mixture(b, {type, n_in, 50, 16, 1, 4, 1, a, glu}, &worst[1]);
            fail += check_mixture(b, {type, n_in, 150, 11, quick ? 40u : 100, 4, 1, a, !glu}, &worst[1]);
        }
        printf("mixture %-7s worst error: %.1e few, %.1e sorted\n", sharpi_type_info(type)->name, worst[0],
               worst[1]);
    }
    return fail;
}

/* ---- Timing ---- */

struct timed_matrix {
    cuda_matrix m;
};

/* Median of several replays of a graph that runs all matrices once, in microseconds per matrix. */
template <typename Fn> double median_graph_us(Fn enqueue, int n_inside, cudaStream_t stream)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t a, z;
    float ms[15];
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    enqueue();
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    cudaEventCreate(&a);
    cudaEventCreate(&z);
    for (int i = 0; i < 3; i++)
        OK(cudaGraphLaunch(exec, stream));
    for (float &t : ms) {
        OK(cudaEventRecord(a, stream));
        OK(cudaGraphLaunch(exec, stream));
        OK(cudaEventRecord(z, stream));
        OK(cudaEventSynchronize(z));
        cudaEventElapsedTime(&t, a, z);
    }
    qsort(ms, 15, sizeof ms[0],
          [](const void *p, const void *q) { return *(float *)p < *(float *)q ? -1 : 1; });
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaEventDestroy(a);
    cudaEventDestroy(z);
    return ms[7] * 1e3 / n_inside;
}

/* A random tensor of `n_copies` matrices. Every byte is random; scales are made harmless by repeating valid file rows. */
cuda_matrix big_matrix(int32_t type, uint64_t n_in, uint64_t n_out, uint32_t n_stack)
{
    cuda_matrix m;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    uint64_t row_bytes = sharpi_row_bytes(type, n_in), some = n_out < 512 ? n_out : 512;
    uint8_t *device, *staging, *host = (uint8_t *)malloc(row_bytes * some);

    random_rows(type, host, n_in, some);
    OK(cudaMalloc(&device, matrix_device_bytes(type, n_in, n_out, n_stack)));
    OK(cudaMalloc(&staging, row_bytes * n_out));
    for (uint64_t r = 0; r < n_out; r += some)
        OK(cudaMemcpy(staging + r * row_bytes, host, row_bytes * (n_out - r < some ? n_out - r : some),
                      cudaMemcpyHostToDevice));
    OK(matrix_init(&m, type, n_in, n_out, n_stack, device, &err));
    for (uint32_t s = 0; s < n_stack; s++)
        OK(matrix_repack(&m, s, staging, 0, n_out, 0));
    OK(cudaDeviceSynchronize());
    cudaFree(staging);
    free(host);
    return m;
}

const double floor_bytes_per_us = 4.28e6;

/* n matrices of a stack in a row, each its own launch, long past the L2 cache. */
void time_matrix(const bench_context *b, int32_t type, uint64_t n_in, uint64_t n_out, const uint32_t *rows,
                 int n_row_counts, int glu)
{
    if (!wanted(type))
        return;
    uint64_t one = matrix_device_bytes(type, n_in, n_out, 1);
    uint32_t n = (uint32_t)(600000000 / one) + 2;
    cuda_matrix stack = big_matrix(type, n_in, n_out, n);
    cudaStream_t stream;
    OK(cudaStreamCreate(&stream));
    for (int k = 0; k < n_row_counts; k++) {
        uint32_t r = rows[k];
        float *x = (float *)malloc(r * n_in * 4), *x_dev = random_device(r * n_in, x), *out;
        OK(cudaMalloc(&out, (uint64_t)r * n_out * 4));
        matmul_args args = {};
        args.ctx = b->ctx;
        args.n_rows = r;
        args.workspace = b->workspace;
        args.workspace_bytes = b->workspace_bytes;
        args.stream = stream;
        enum act_format f = matmul_act_format(&stack, r);
        args.act[f] = activations(f, x_dev, n_in, r, &args.act_stride[f]);
        OK(cudaDeviceSynchronize());
        uint32_t step = glu ? 2 : 1, used = r > 512 ? (n < 4 ? n : 4) : n;
        double us = median_graph_us(
            [&] {
                for (uint32_t i = 0; i + step <= used; i += step) {
                    cuda_matrix m[2] = {stack, stack};
                    for (uint32_t j = 0; j < step; j++) {
                        m[j].data = (const char *)stack.data + (i + j) * stack.stack_bytes;
                        m[j].n_stack = 1;
                        args.part[j] = {&m[j], NULL, out, n_out, MATMUL_STORE};
                    }
                    args.n_parts = step;
                    args.glu = glu ? SHARPI_ACT_SILU : 0;
                    OK(matmul_launch(&args));
                }
            },
            (int)(used / step), stream);
        double bytes = (double)one * step, flops = 2.0 * (double)(n_in * n_out) * r * step;
        printf("%-7s %6llu x %5llu%s rows %5u: %9.2f us  %7.2f TB/s = %5.1f%% of 4.28   %7.1f TFLOP/s\n",
               sharpi_type_info(type)->name, (unsigned long long)n_out, (unsigned long long)n_in,
               glu ? " x2 glu" : "", r, us, bytes / us * 1e-6, 100 * bytes / us / floor_bytes_per_us,
               flops / us * 1e-6);
        cudaFree((void *)args.act[f]);
        cudaFree(x_dev);
        cudaFree(out);
        free(x);
    }
    cudaStreamDestroy(stream);
    cudaFree((void *)stack.data);
}

/* One layer's experts as Qwen3 30B has them: 128 experts of 2048 -> 768, top 8; gate, up and activation, then down. */
void time_mixture(const bench_context *b, int32_t type, uint32_t n_tokens)
{
    const uint32_t n_experts = 128, k = 8, n_copies = 4;
    const uint64_t width = 2048, hidden = 768;
    const int32_t sorted = n_tokens > MATMUL_GEMV_ROWS;
    mixture c = {type, width, hidden, n_experts, n_tokens, k, 0, 0, 0};
    cuda_matrix gate[n_copies], up[n_copies], down[n_copies];
    cudaStream_t stream;
    uint32_t n_pairs = n_tokens * k;
    for (uint32_t i = 0; i < n_copies; i++) {
        gate[i] = big_matrix(type, width, hidden, n_experts);
        up[i] = big_matrix(type, width, hidden, n_experts);
        down[i] = big_matrix(type, hidden, width, n_experts);
    }
    OK(cudaStreamCreate(&stream));
    float *x = (float *)malloc(n_pairs * width * 4), *x_dev = random_device(n_pairs * width, x), *out;
    OK(cudaMalloc(&out, n_pairs * width * 4));
    routing r[n_copies];
    uint64_t experts_used = 0;
    for (auto &one : r) {
        one = route(c);
        for (uint32_t e = 0; e < n_experts; e++)
            experts_used += one.starts[e + 1] > one.starts[e];
        one.expert_of = to_device(one.expert_of, n_pairs);
        one.starts = to_device(one.starts, n_experts + 1);
        one.in_rows = to_device(one.in_rows, n_pairs);
    }
    matmul_grouped_args a = {};
    enum act_format f = matmul_grouped_act_format(&gate[0], sorted);
    uint64_t wide, narrow;
    void *act_wide = activations(f, x_dev, width, n_tokens, &wide),
         *act_narrow = activations(f, x_dev, hidden, n_pairs, &narrow);
    a.ctx = b->ctx;
    a.n_pairs = n_pairs;
    a.sorted = sorted;
    a.workspace = b->workspace;
    a.workspace_bytes = b->workspace_bytes;
    a.stream = stream;
    double us = median_graph_us(
        [&] {
            for (uint32_t i = 0; i < n_copies; i++) {
                a.expert_of = r[i].expert_of;
                a.starts = r[i].starts;
                a.in_rows = r[i].in_rows;
                a.in_divisor = k;
                a.n_parts = 2;
                a.glu = SHARPI_ACT_SILU;
                a.part[0] = {&gate[i], NULL, out, hidden, MATMUL_STORE};
                a.part[1] = {&up[i], NULL, out, hidden, MATMUL_STORE};
                a.act = act_wide;
                a.act_stride = wide;
                OK(matmul_grouped_launch(&a));
                a.in_rows = NULL;
                a.in_divisor = 1;
                a.n_parts = 1;
                a.glu = 0;
                a.part[0] = {&down[i], NULL, out, width, MATMUL_STORE};
                a.act = act_narrow;
                a.act_stride = narrow;
                OK(matmul_grouped_launch(&a));
            }
        },
        n_copies, stream);
    double read = (double)experts_used / n_copies * 3 * (double)matrix_device_bytes(type, width, hidden, 1),
           flops = 6.0 * (double)(width * hidden) * n_pairs;
    printf("%-7s mixture 128 x 3 x 2048 x 768, top 8, tokens %5u: %9.2f us  %6.2f TB/s = %5.1f%% of 4.28  "
           "%6.1f TFLOP/s\n",
           sharpi_type_info(type)->name, n_tokens, us, read / us * 1e-6, read / us / floor_bytes_per_us * 100,
           flops / us * 1e-6);
    for (uint32_t i = 0; i < n_copies; i++)
        cudaFree((void *)gate[i].data), cudaFree((void *)up[i].data), cudaFree((void *)down[i].data);
    cudaFree(x_dev), cudaFree(out), cudaFree(act_wide), cudaFree(act_narrow);
    cudaStreamDestroy(stream);
    free(x);
}

/* Kernels that the tests choose from: as it comes, without cublasLt, and without wgmma either. */
const char *const variants[] = {"as chosen", "without cublasLt", "without cublasLt and wgmma"};

void set_variant(matmul_context *ctx, const matmul_context *whole, int variant)
{
    ctx->blas = variant ? NULL : whole->blas;
    ctx->wide = variant < 2 ? whole->has_wide : 0;
}

void bench_many(const bench_context *b)
{
    static const uint32_t mid[] = {16, 64, 128}, many[] = {128, 256, 4096};
    static const int32_t types[] = {SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_K, SHARPI_TYPE_Q6_K, SHARPI_TYPE_Q8_0,
                                    SHARPI_TYPE_BF16};
    const matmul_context whole = *b->ctx;
    for (int v = 0; v < 3; v++) {
        printf("-- many rows, %s\n", variants[v]);
        set_variant(b->ctx, &whole, v);
        for (int32_t type : types) {
            if (v == 0) {
                time_matrix(b, type, 3840, 15360, mid, 3, 0);
                time_matrix(b, type, 15360, 3840, mid, 3, 0);
                time_matrix(b, type, 4096, 4096, mid, 3, 0);
            }
            if (v == 0 || type == SHARPI_TYPE_Q4_0)
                time_matrix(b, type, 3840, 15360, many, 3, 0);
        }
    }
    set_variant(b->ctx, &whole, 0);
}

void bench_all(const bench_context *b, uint32_t min_rows, uint32_t max_rows)
{
    static const uint32_t few[] = {1, 2, 4, 8};
    static const int32_t main_types[] = {SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_K, SHARPI_TYPE_Q6_K,
                                         SHARPI_TYPE_Q8_0, SHARPI_TYPE_BF16};
    if (min_rows <= MATMUL_GEMV_ROWS) {
        printf("-- decode\n");
        const int blocks = b->ctx->gemv_blocks;
        for (b->ctx->gemv_blocks = 1; b->ctx->gemv_blocks <= 3; b->ctx->gemv_blocks++) {
            printf("-- %d blocks per SM\n", b->ctx->gemv_blocks);
            for (int32_t type : main_types) {
                time_matrix(b, type, 3840, 15360, few, 4, 0);
                time_matrix(b, type, 3840, 15360, few, 1, 1);
                time_matrix(b, type, 15360, 3840, few, 4, 0);
                time_matrix(b, type, 4096, 4096, few, 4, 0);
                time_matrix(b, type, 4096, 1024, few, 1, 0);
            }
        }
        b->ctx->gemv_blocks = blocks;
        for (int32_t type : all_types)
            time_matrix(b, type, 3840, 15360, few, type == SHARPI_TYPE_F32 ? 1 : 4, 0);
    }
    for (uint32_t n : {1u, 4u, 8u, 16u, 64u, 512u, 4096u})
        if (n >= min_rows && n <= max_rows)
            time_mixture(b, SHARPI_TYPE_Q4_K, n);
    if (max_rows <= MATMUL_GEMV_ROWS)
        return;
    bench_many(b);
}

} // namespace

/* MATMUL_MIN_ROWS and MATMUL_MAX_ROWS in the environment limit the rows. */
int test_matmul(int bench)
{
    bench_context b = {};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int has_blas = 0, fail = 0;
    const char *limit = getenv("MATMUL_MAX_ROWS");
    uint32_t max_rows = limit ? (uint32_t)atoi(limit) : 100000;
    limit = getenv("MATMUL_MIN_ROWS");
    uint32_t min_rows = limit ? (uint32_t)atoi(limit) : 1;

    const struct matmul_options options = {0, 1, 1, shared_limit()};
    if (matmul_context_create(&b.ctx, &options, &has_blas, &err)) {
        printf("%s\n", err.text);
        return 1;
    }
    printf("matmul: cublasLt %s\n", has_blas ? "loaded" : "not found");
    for (int32_t type : all_types) {
        cuda_matrix m = {};
        m.type = type;
        m.n_in = m.n_out = 16384;
        uint64_t n = matmul_workspace_bytes(b.ctx, &m, 8192);
        if (n > b.workspace_bytes)
            b.workspace_bytes = n;
    }
    OK(cudaMalloc(&b.workspace, b.workspace_bytes + 1));
    OK(cudaMemset(b.workspace, 0, b.workspace_bytes + 1));
    printf("workspace %.1f MiB\n", (double)b.workspace_bytes / 0x1p20);
    const matmul_context whole = *b.ctx;
    for (int v = 0; v < (max_rows <= MATMUL_GEMV_ROWS ? 1 : 3); v++) {
        printf("-- %s\n", variants[v]);
        set_variant(b.ctx, &whole, v);
        for (int i = 0; i < n_types; i++) {
            fail += check_type(&b, all_types[i], v ? 9 : min_rows, max_rows);
            if (v != 1)
                fail += check_tiles(&b, all_types[i], max_rows);
        }
        if (b.ctx->wide && v == 0 && max_rows >= 64)
            fail += check_cuts(&b);
        for (uint32_t r : {5u, 20u, 64u, 128u})
            if (r >= min_rows && r <= max_rows && !(quick && r > 64))
                fail += check_same(&b, SHARPI_TYPE_Q4_0, r) + check_same(&b, SHARPI_TYPE_Q6_K, r);
        fail += check_mixed(&b, v ? 9 : min_rows, max_rows);
        fail += check_mixtures(&b);
    }
    set_variant(b.ctx, &whole, 0);
    if (bench)
        bench_all(&b, min_rows, max_rows);
    cudaFree(b.workspace);
    matmul_context_destroy(b.ctx);
    printf("matmul: %s\n", fail ? "FAIL" : "ok");
    return fail != 0;
}
