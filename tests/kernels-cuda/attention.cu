/* Attention of the KV formats on CUDA against a reference in double over what the cache holds, and its speed.
 *
 * The reference encodes with the formats' own C code, so appended bytes are compared bit for bit; pages that nobody
 * filled hold NaN, output starts as NaN, and rows past the step's end must stay untouched.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime.h>

#include <sharpi/cuda/attention.cuh>

#include "random.cuh"

/* A format as somebody else would add it: what it must have and no more. The bytes are bf16's, row after row. */
struct plain_bf16 : sharpi::format_base<plain_bf16> {
    __host__ __device__ static constexpr uint32_t tile_bytes(uint32_t d)
    {
        return sharpi::tile_rows * d * 2;
    }
    __device__ static float load(const void *tile, uint32_t d, uint32_t row, uint32_t col)
    {
        return __uint_as_float((uint32_t)((const uint16_t *)tile)[row * d + col] << 16);
    }
    __device__ static float store32(void *tile, uint32_t d, uint32_t row, uint32_t col, float x)
    {
        const __nv_bfloat16 y = __float2bfloat16_rn(x);
        if (col + threadIdx.x % 32 < d)
            ((uint16_t *)tile)[row * d + col + threadIdx.x % 32] = __bfloat16_as_ushort(y);
        return __bfloat162float(y);
    }
    static int32_t check(uint32_t, uint32_t, struct sharpi_error *)
    {
        return SHARPI_OK;
    }
    static void pack_row(void *tile, uint32_t d, uint32_t row, const void *src)
    {
        memcpy((uint16_t *)tile + row * d, src, d * 2);
    }
    static void unpack_row(void *dst, const void *tile, uint32_t d, uint32_t row)
    {
        memcpy(dst, (const uint16_t *)tile + row * d, d * 2);
    }
};

static const struct sharpi_kv_cuda plain_bf16_cuda = SHARPI_KV_CUDA_TABLE(plain_bf16);

extern "C" {
extern const struct sharpi_kv_cuda kv_f32_cuda, kv_f16_cuda, kv_bf16_cuda, kv_q8_0_cuda;
extern const struct sharpi_kv_cpu kv_f32_c, kv_f16_c, kv_bf16_c, kv_q8_0_c;
int test_attention(int bench);
}

#define MAX_SEQS 64

struct format {
    const char *name;
    const struct sharpi_kv_cuda *cuda;
    const struct sharpi_kv_cpu *cpu;
    uint32_t block_elems, block_bytes;
    double decode_limit, prefill_limit; /* of the relative error */
};

static const struct format formats[] = {
    {"f32", &kv_f32_cuda, &kv_f32_c, 1, 4, 1e-5, 1e-5},
    {"f16", &kv_f16_cuda, &kv_f16_c, 1, 2, 2e-3, 2e-3},
    {"bf16", &kv_bf16_cuda, &kv_bf16_c, 1, 2, 1e-4, 1.2e-2},
    {"q8_0", &kv_q8_0_cuda, &kv_q8_0_c, 32, 34, 2e-3, 2e-3},
    {"new", &plain_bf16_cuda, &kv_bf16_c, 1, 2, 1e-4, 1.2e-2},
};

static double greatest_errors[sizeof formats / sizeof *formats][2]; /* few rows, many rows */

/* Roughly normal. */
static float random_float(void)
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(random_bits() & 0xffffff) / 8388608.0f - 1.0f;
    return sum * 0.87f;
}

static void require(cudaError_t error, const char *what)
{
    if (error != cudaSuccess) {
        printf("attention: %s: %s\n", what, cudaGetErrorString(error));
        exit(1);
    }
}

static void *device_copy(const void *src, uint64_t n)
{
    void *p;
    require(cudaMalloc(&p, n ? n : 16), "cudaMalloc");
    if (src)
        require(cudaMemcpy(p, src, n, cudaMemcpyHostToDevice), "cudaMemcpy");
    return p;
}

struct test_case {
    uint32_t n_heads, n_kv_heads, d, window, causal, ring_pages;
    float softcap;
    int sinks, shared; /* shared: no k and v of its own */
    uint32_t n_seqs;
    struct {
        uint32_t length, n_tokens;
    } seqs[MAX_SEQS];
};

/* Everything on the host; rows as kv.h has them. */
struct host {
    const struct format *format;
    const struct test_case *test;
    uint32_t n_tokens, n_pages, ring, stride, n_rows_padded;
    uint64_t row_bytes;
    float *q, *k, *v, *sinks, *out;
    char *k_rows, *v_rows; /* [n_pages, 64, row_bytes]: before the step */
    int32_t *pages, *seqs_of;
    struct sharpi_batch_seq seqs[MAX_SEQS];
};

static float *random_rows(uint64_t n, float scale)
{
    float *x = (float *)malloc((n + 4) * sizeof *x);
    for (uint64_t i = 0; i < n; i++)
        x[i] = random_float() * scale;
    return x;
}

static char *row_at(const struct host *h, char *rows, uint32_t seq, uint32_t position)
{
    const uint32_t slot = position % h->ring;
    const int32_t page = h->pages[seq * h->stride + slot / SHARPI_KV_PAGE];
    if (page < 0) {
        printf("attention: the test's own page table lacks a page\n");
        exit(1);
    }
    return rows + ((uint64_t)page * SHARPI_KV_PAGE + slot % SHARPI_KV_PAGE) * h->row_bytes;
}

static void fill_cache(struct host *h, char *rows)
{
    const uint64_t n = (uint64_t)h->test->n_kv_heads * h->test->d;
    float *x = (float *)malloc(n * sizeof *x);
    memset(rows, 0xff, (uint64_t)h->n_pages * SHARPI_KV_PAGE * h->row_bytes);
    for (uint32_t s = 0; s < h->test->n_seqs; s++) {
        const uint32_t length = h->seqs[s].length;
        for (uint32_t p = length > h->ring ? length - h->ring : 0; p < length; p++) {
            const float size = 0.5f + (float)(random_bits() % 100) / 100.0f;
            for (uint64_t i = 0; i < n; i++)
                x[i] = random_float() * size;
            h->format->cpu->append(row_at(h, rows, s, p), x, n);
        }
    }
    free(x);
}

static void host_init(struct host *h, const struct format *format, const struct test_case *test)
{
    const uint64_t n = (uint64_t)test->n_kv_heads * test->d;
    memset(h, 0, sizeof *h);
    h->format = format;
    h->test = test;
    h->row_bytes = n / format->block_elems * format->block_bytes;
    h->stride = test->ring_pages;
    h->ring = test->ring_pages * SHARPI_KV_PAGE;
    h->n_pages = test->ring_pages * test->n_seqs + 3;
    for (uint32_t s = 0; s < test->n_seqs; s++) {
        h->seqs[s].first_token = h->n_tokens;
        h->seqs[s].n_tokens = test->seqs[s].n_tokens;
        h->seqs[s].length = test->seqs[s].length;
        h->n_tokens += test->seqs[s].n_tokens;
    }
    h->n_rows_padded = h->n_tokens + 3;
    h->seqs_of = (int32_t *)calloc(h->n_rows_padded, sizeof(int32_t));
    for (uint32_t s = 0; s < test->n_seqs; s++)
        for (uint32_t t = 0; t < h->seqs[s].n_tokens; t++)
            h->seqs_of[h->seqs[s].first_token + t] = (int32_t)s;
    /* pages in random order */
    h->pages = (int32_t *)malloc(((uint64_t)h->n_pages + MAX_SEQS) * sizeof(int32_t));
    for (uint32_t i = 0; i < h->n_pages; i++)
        h->pages[i] = (int32_t)i;
    for (uint32_t i = h->n_pages - 1; i; i--) {
        const uint32_t j = random_bits() % (i + 1);
        const int32_t t = h->pages[i];
        h->pages[i] = h->pages[j];
        h->pages[j] = t;
    }
    for (uint32_t s = 0; s < test->n_seqs; s++) /* what is not held */
        for (uint32_t i = 0; i < h->stride; i++)
            if ((uint64_t)i * SHARPI_KV_PAGE >= (uint64_t)h->seqs[s].length + h->seqs[s].n_tokens)
                h->pages[s * h->stride + i] = -1;
    h->q = random_rows((uint64_t)h->n_rows_padded * test->n_heads * test->d, 1.5f);
    h->k = random_rows((uint64_t)h->n_rows_padded * n, 1.0f);
    h->v = random_rows((uint64_t)h->n_rows_padded * n, 1.0f);
    h->sinks = random_rows(test->n_heads, 2.0f);
    h->out = (float *)malloc((uint64_t)h->n_rows_padded * test->n_heads * test->d * sizeof(float));
    h->k_rows = (char *)malloc(h->n_pages * SHARPI_KV_PAGE * h->row_bytes);
    h->v_rows = (char *)malloc(h->n_pages * SHARPI_KV_PAGE * h->row_bytes);
    fill_cache(h, h->k_rows);
    fill_cache(h, h->v_rows);
    if (test->shared) /* the step's rows are in the cache already */
        for (uint32_t t = 0; t < h->n_tokens; t++) {
            const uint32_t s = (uint32_t)h->seqs_of[t], p = h->seqs[s].length + t - h->seqs[s].first_token;
            format->cpu->append(row_at(h, h->k_rows, s, p), h->k + t * n, n);
            format->cpu->append(row_at(h, h->v_rows, s, p), h->v + t * n, n);
        }
}

static void host_free(struct host *h)
{
    free(h->q), free(h->k), free(h->v), free(h->sinks), free(h->out), free(h->k_rows), free(h->v_rows),
        free(h->pages);
    free(h->seqs_of);
}

/* One output row in double, over the cache after the append. */
static void reference_row(struct host *h, uint32_t token, uint32_t head, double *out)
{
    const struct test_case *test = h->test;
    const uint32_t d = test->d, g = head / (test->n_heads / test->n_kv_heads),
                   s = (uint32_t)h->seqs_of[token];
    const uint32_t p = h->seqs[s].length + token - h->seqs[s].first_token;
    const uint32_t end = test->causal ? p + 1 : h->seqs[s].length + h->seqs[s].n_tokens;
    const uint32_t low = test->window && p + 1 > test->window ? p + 1 - test->window : 0;
    const float *q = h->q + ((uint64_t)token * test->n_heads + head) * d;
    double *score = (double *)malloc((end - low) * sizeof *score), max = -INFINITY, sum = 0;
    float x[512];

    for (uint32_t i = low; i < end; i++) {
        double dot = 0;
        h->format->cpu->load(x, d, row_at(h, h->k_rows, s, i), 0, (uint64_t)g * d, d, 1);
        for (uint32_t j = 0; j < d; j++)
            dot += (double)q[j] * x[j];
        dot /= sqrt((double)d);
        score[i - low] = test->softcap != 0.0f ? test->softcap * tanh(dot / test->softcap) : dot;
        max = fmax(max, score[i - low]);
    }
    if (test->sinks)
        sum = exp(h->sinks[head] - (max = fmax(max, h->sinks[head])));
    memset(out, 0, d * sizeof *out);
    for (uint32_t i = low; i < end; i++) {
        const double weight = exp(score[i - low] - max);
        sum += weight;
        h->format->cpu->load(x, d, row_at(h, h->v_rows, s, i), 0, (uint64_t)g * d, d, 1);
        for (uint32_t j = 0; j < d; j++)
            out[j] += weight * x[j];
    }
    for (uint32_t j = 0; j < d; j++)
        out[j] /= sum;
    free(score);
}

/* The greatest relative error of a row, some rows if there are many; infinity for what was not or wrongly written. */
static double compare_out(struct host *h, uint32_t max_rows)
{
    const struct test_case *test = h->test;
    const uint64_t n = (uint64_t)h->n_tokens * test->n_heads, d = test->d;
    double ref[512], worst = 0;
    uint32_t unset;

    memset(&unset, 0xff, sizeof unset);
    for (uint64_t i = 0; i < n * d; i++)
        if (!isfinite(h->out[i])) {
            printf("    not finite: token %llu head %llu column %llu\n",
                   (unsigned long long)(i / d / test->n_heads), (unsigned long long)(i / d % test->n_heads),
                   (unsigned long long)(i % d));
            return INFINITY;
        }
    for (uint64_t i = n * d; i < (uint64_t)h->n_rows_padded * test->n_heads * d; i++)
        if (memcmp(&h->out[i], &unset, 4)) {
            printf("    a row past the step's end was written\n");
            return INFINITY;
        }
    for (uint32_t i = 0; i < max_rows && i < n; i++) {
        const uint64_t row = n <= max_rows ? i : i < 8 ? i : i < 16 ? n - 1 - (i - 8) : random_bits() % n;
        double error = 0, size = 0;
        reference_row(h, (uint32_t)(row / test->n_heads), (uint32_t)(row % test->n_heads), ref);
        for (uint32_t j = 0; j < d; j++) {
            error += (h->out[row * d + j] - ref[j]) * (h->out[row * d + j] - ref[j]);
            size += ref[j] * ref[j];
        }
        worst = fmax(worst, sqrt(error / size));
    }
    return worst;
}

/* Device pages as kv.h's rows. */
static char *rows_of_pages(const struct host *h, const void *device)
{
    const uint64_t page_bytes = SHARPI_KV_PAGE * h->row_bytes;
    char *raw = (char *)malloc(h->n_pages * page_bytes), *rows = (char *)malloc(h->n_pages * page_bytes);
    require(cudaMemcpy(raw, device, h->n_pages * page_bytes, cudaMemcpyDeviceToHost), "reading the cache");
    for (uint32_t i = 0; i < h->n_pages; i++)
        h->format->cuda->page_to_rows(rows + i * page_bytes, raw + i * page_bytes, h->test->n_kv_heads,
                                      h->test->d);
    free(raw);
    return rows;
}

static void *pages_of_rows(const struct host *h, const char *rows)
{
    const uint64_t page_bytes = SHARPI_KV_PAGE * h->row_bytes;
    char *raw = (char *)malloc(h->n_pages * page_bytes);
    for (uint32_t i = 0; i < h->n_pages; i++)
        h->format->cuda->page_from_rows(raw + i * page_bytes, rows + i * page_bytes, h->test->n_kv_heads,
                                        h->test->d);
    void *device = device_copy(raw, h->n_pages * page_bytes);
    free(raw);
    return device;
}

/* What the device has of a case. */
struct device_case {
    struct sharpi_kv_cuda_args a;
    uint64_t scratch_bytes, out_floats, codes_bytes;
    char *codes;
};

static const uint64_t guard = 4096;

static void device_init(struct device_case *dev, const struct host *h)
{
    const struct test_case *test = h->test;
    const uint64_t wide = test->n_heads * test->d, narrow = test->n_kv_heads * test->d;
    struct sharpi_kv_cuda_args &a = dev->a;
    struct sharpi_cuda_step step = {0};
    int device, n_sms;
    require(cudaGetDevice(&device), "cudaGetDevice");
    cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device);
    memset(dev, 0, sizeof *dev);
    a.size = (uint32_t)sizeof a;
    a.n_heads = test->n_heads, a.n_kv_heads = test->n_kv_heads, a.head_dim = test->d;
    a.window = test->window, a.causal = test->causal, a.softcap = test->softcap;
    a.scale = 1.0f / sqrtf((float)test->d);
    a.ring = h->ring, a.page_stride = h->stride;
    a.k_cache = pages_of_rows(h, h->k_rows), a.v_cache = pages_of_rows(h, h->v_rows);
    a.pages = (const int32_t *)device_copy(h->pages, h->n_pages * sizeof(int32_t));
    step.n_tokens = h->n_tokens, step.n_seqs = test->n_seqs;
    a.step = (const struct sharpi_cuda_step *)device_copy(&step, sizeof step);
    a.seqs = (const struct sharpi_batch_seq *)device_copy(h->seqs, sizeof h->seqs);
    a.seqs_of = (const int32_t *)device_copy(h->seqs_of, h->n_rows_padded * sizeof(int32_t));
    a.q = (const float *)device_copy(h->q, h->n_rows_padded * wide * 4);
    if (!test->shared) {
        a.k = (const float *)device_copy(h->k, h->n_rows_padded * narrow * 4);
        a.v = (const float *)device_copy(h->v, h->n_rows_padded * narrow * 4);
    }
    if (test->sinks)
        a.sinks = (const float *)device_copy(h->sinks, test->n_heads * 4);
    dev->out_floats = h->n_rows_padded * wide;
    a.out = (float *)device_copy(NULL, dev->out_floats * 4);
    a.q_stride = a.out_stride = wide, a.k_stride = a.v_stride = narrow;
    a.max_tokens = h->n_rows_padded, a.max_seqs = test->n_seqs + 1;
    for (uint32_t s = 0; s < test->n_seqs; s++)
        a.max_seq_tokens = a.max_seq_tokens > h->seqs[s].n_tokens ? a.max_seq_tokens : h->seqs[s].n_tokens;
    a.max_length = h->ring;
    a.n_sms = (uint32_t)n_sms,
    a.compute_major = getenv("ATTENTION_MAJOR") ? (uint32_t)atoi(getenv("ATTENTION_MAJOR")) : 9;
    a.shared_bytes = (uint32_t)shared_limit();
    a.overlaps = 1;
    dev->scratch_bytes = h->format->cuda->scratch_bytes(&a);
    a.scratch = device_copy(NULL, dev->scratch_bytes + guard);
    require(cudaMemset(a.scratch, 0xff, dev->scratch_bytes + guard), "memset");
    require(cudaMemset(a.scratch, 0, SHARPI_CUDA_COUNTER_BYTES), "memset");
    dev->codes_bytes = h->n_rows_padded * (wide + wide / 4 + 32);
    dev->codes = (char *)device_copy(NULL, dev->codes_bytes);
}

static void device_free(struct device_case *dev)
{
    struct sharpi_kv_cuda_args &a = dev->a;
    cudaFree(a.k_cache), cudaFree(a.v_cache), cudaFree((void *)a.pages), cudaFree((void *)a.step);
    cudaFree((void *)a.seqs), cudaFree((void *)a.seqs_of), cudaFree((void *)a.q), cudaFree((void *)a.k);
    cudaFree((void *)a.v), cudaFree((void *)a.sinks), cudaFree(a.out), cudaFree(a.scratch);
    cudaFree(dev->codes);
}

/* Launches with these args and reads `out` into `out`, if it is written. */
static void run_once(const struct device_case *dev, const struct format *format, struct sharpi_kv_cuda_args a,
                     float *out, const char *what)
{
    require(cudaMemset(dev->a.out, 0xff, dev->out_floats * 4), "memset");
    require(cudaMemset(dev->codes, 0xff, dev->codes_bytes), "memset");
    require((cudaError_t)format->cuda->attention(&a, NULL), "launch");
    const cudaError_t error = cudaDeviceSynchronize();
    if (error != cudaSuccess) {
        printf("  FAILED %s %s: %s\n", format->name, what, cudaGetErrorString(error));
        exit(1);
    }
    if (out)
        require(cudaMemcpy(out, dev->a.out, dev->out_floats * 4, cudaMemcpyDeviceToHost), "reading out");
}

/* kv-cuda.h's out_q8 of one row. */
static void encode_codes(char *row, const float *x, uint32_t n)
{
    for (uint32_t b = 0; b < n / 32; b++) {
        float amax = 0, inverse, scale[2];
        int32_t sum = 0;
        for (uint32_t i = 0; i < 32; i++)
            amax = fmaxf(amax, fabsf(x[32 * b + i]));
        scale[0] = amax < 1e-30f ? 0.0f : amax / 127.0f;
        inverse = amax < 1e-30f ? 0.0f : 127.0f / amax;
        for (uint32_t i = 0; i < 32; i++) {
            const int32_t code = (int32_t)rintf(x[32 * b + i] * inverse);
            row[32 * b + (i / 4 % 4 * 2 + i / 16) * 4 + i % 4] = (char)code;
            sum += code;
        }
        scale[1] = scale[0] * (float)sum;
        memcpy(row + n + 8 * b, scale, 8);
    }
}

/* The codes that were written are those of the rows `out`; rows past the end were left alone. */
static int codes_differ(const struct device_case *dev, const struct host *h, const float *out,
                        uint64_t stride)
{
    const uint32_t n = h->test->n_heads * h->test->d;
    char *codes = (char *)malloc(dev->codes_bytes), *wanted = (char *)malloc(dev->codes_bytes);
    require(cudaMemcpy(codes, dev->codes, dev->codes_bytes, cudaMemcpyDeviceToHost), "reading codes");
    memset(wanted, 0xff, dev->codes_bytes);
    for (uint32_t t = 0; t < h->n_tokens; t++)
        encode_codes(wanted + t * stride, out + (uint64_t)t * n, n);
    const int differ = memcmp(codes, wanted, dev->codes_bytes) != 0;
    free(codes), free(wanted);
    return differ;
}

/* Codes beside `out` and alone. */
static int check_codes(const struct device_case *dev, const struct host *h, const float *out,
                       const char *what)
{
    struct sharpi_kv_cuda_args a = dev->a;
    a.out_q8 = dev->codes, a.out_q8_stride = (uint64_t)a.n_heads * a.head_dim / 4 * 5 + 16;
    a.out_q8_stride = a.out_q8_stride / 16 * 16;
    if (!h->format->cuda->quantizes(&a))
        return h->format->cuda->attention(&a, NULL) == 0; /* must be refused */
    float *again = (float *)malloc(dev->out_floats * 4);
    run_once(dev, h->format, a, again, what);
    int failed = memcmp(out, again, dev->out_floats * 4) || codes_differ(dev, h, out, a.out_q8_stride);
    a.out = NULL;
    run_once(dev, h->format, a, NULL, what);
    failed |= codes_differ(dev, h, out, a.out_q8_stride);
    free(again);
    return failed;
}

/* With fewer blocks, so that they have more units, and several segments: other numbers of parts. */
static double check_blocks(const struct device_case *dev, struct host *h, const char *what)
{
    static const uint32_t counts[] = {1, 2, 5, 23};
    double worst = 0;
    for (uint32_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct sharpi_kv_cuda_args a = dev->a;
        a.n_sms = counts[i];
        run_once(dev, h->format, a, h->out, what);
        worst = fmax(worst, compare_out(h, 12));
    }
    return worst;
}

static int scratch_is_wrong(const struct device_case *dev)
{
    char head[SHARPI_CUDA_COUNTER_BYTES], tail[guard];
    int wrong = 0;
    require(cudaMemcpy(head, dev->a.scratch, sizeof head, cudaMemcpyDeviceToHost), "reading the counters");
    require(cudaMemcpy(tail, (char *)dev->a.scratch + dev->scratch_bytes, guard, cudaMemcpyDeviceToHost),
            "reading the guard");
    for (uint64_t i = 0; i < sizeof head; i++)
        wrong |= head[i] != 0;
    for (uint64_t i = 0; i < guard; i++)
        wrong |= tail[i] != (char)0xff;
    return wrong;
}

static int cache_differs(const struct device_case *dev, struct host *h)
{
    const uint64_t bytes = h->n_pages * SHARPI_KV_PAGE * h->row_bytes,
                   narrow = h->test->n_kv_heads * h->test->d;
    if (!h->test->shared)
        for (uint32_t t = 0; t < h->n_tokens; t++) {
            const uint32_t s = (uint32_t)h->seqs_of[t], p = h->seqs[s].length + t - h->seqs[s].first_token;
            h->format->cpu->append(row_at(h, h->k_rows, s, p), h->k + t * narrow, narrow);
            h->format->cpu->append(row_at(h, h->v_rows, s, p), h->v + t * narrow, narrow);
        }
    char *k = rows_of_pages(h, dev->a.k_cache), *v = rows_of_pages(h, dev->a.v_cache);
    const int differ = memcmp(k, h->k_rows, bytes) || memcmp(v, h->v_rows, bytes);
    free(k), free(v);
    return differ;
}

/* kv-cuda.h's has_heads: one head of q (which: 0), k or v. The pointers in `a` are the host's. */
static void reference_head(const struct sharpi_kv_cuda_args *a, uint32_t which, uint32_t token,
                           const float *x, float *y)
{
    const struct sharpi_kv_cuda_heads *heads = &a->heads[which];
    const float *angles = a->table + token * a->table_stride;
    const uint32_t d = a->head_dim;
    double z[512], sum = 0;
    for (uint32_t i = 0; i < d; i++)
        sum += (double)x[i] * x[i];
    for (uint32_t i = 0; i < d; i++)
        z[i] = heads->has_norm ? x[i] / sqrt(sum / d + heads->eps) * (heads->weight ? heads->weight[i] : 1.0f)
                               : x[i];
    for (uint32_t i = 0; i < d / 2; i++) {
        const uint32_t first = a->is_neox ? i : 2 * i, second = a->is_neox ? i + d / 2 : 2 * i + 1;
        const double c = heads->turns ? angles[i] : 1, s = heads->turns ? angles[i + d / 2] : 0;
        y[first] = (float)(z[first] * c - z[second] * s);
        y[second] = (float)(z[second] * c + z[first] * s);
    }
}

/* On the device: the heads of all of the step's rows x. */
static float *reference_heads(const struct host *h, const struct sharpi_kv_cuda_args *a, uint32_t which,
                              const float *x)
{
    const uint64_t n_heads = which ? a->n_kv_heads : a->n_heads, d = a->head_dim;
    const uint64_t bytes = h->n_rows_padded * n_heads * d * sizeof(float);
    float *y = (float *)malloc(bytes);
    memset(y, 0xff, bytes);
    for (uint64_t i = 0; i < h->n_tokens * n_heads; i++)
        reference_head(a, which, (uint32_t)(i / n_heads), x + i * d, y + i * d);
    float *device = (float *)device_copy(y, bytes);
    free(y);
    return device;
}

/* What the cache has at the step's positions: [K and V, n_tokens, n_kv_heads, head_dim]. */
static float *appended_rows(const struct device_case *dev, struct host *h)
{
    const uint64_t n = (uint64_t)h->test->n_kv_heads * h->test->d, page_bytes = SHARPI_KV_PAGE * h->row_bytes;
    char *page = (char *)malloc(page_bytes), *rows = (char *)malloc(page_bytes);
    float *x = (float *)malloc(2 * h->n_tokens * n * sizeof *x);
    for (uint32_t i = 0; i < 2 * h->n_tokens; i++) {
        const char *cache = (const char *)(i < h->n_tokens ? dev->a.k_cache : dev->a.v_cache);
        const uint32_t t = i % h->n_tokens, s = (uint32_t)h->seqs_of[t];
        const uint64_t at =
            row_at(h, h->k_rows, s, h->seqs[s].length + t - h->seqs[s].first_token) - h->k_rows;
        require(cudaMemcpy(page, cache + at / page_bytes * page_bytes, page_bytes, cudaMemcpyDeviceToHost),
                "reading a page");
        h->format->cuda->page_to_rows(rows, page, h->test->n_kv_heads, h->test->d);
        h->format->cpu->load(x + i * n, n, rows + at % page_bytes, 0, 0, n, 1);
    }
    free(page), free(rows);
    return x;
}

/* Rows of n are nearly the same: what is appended may be rounded otherwise. */
static int rows_differ(const float *x, const float *wanted, uint64_t n_rows, uint32_t n)
{
    int differ = 0;
    for (uint64_t row = 0; row < n_rows; row++, x += n, wanted += n) {
        double error = 0, size = 0;
        for (uint32_t i = 0; i < n; i++) {
            error += ((double)x[i] - wanted[i]) * ((double)x[i] - wanted[i]);
            size += (double)wanted[i] * wanted[i];
        }
        differ |= !(sqrt(error / size) <= 1e-2);
    }
    return differ;
}

/* A launch that makes heads (a: the device's pointers, on_host: the host's) against one that is given them. */
static int check_made(const struct device_case *dev, struct host *h, const struct sharpi_kv_cuda_args *a,
                      const struct sharpi_kv_cuda_args *on_host, const char *what)
{
    const uint32_t n_kv_rows = h->n_tokens * a->n_kv_heads, d = a->head_dim;
    struct sharpi_kv_cuda_args given = dev->a;
    float *out = (float *)malloc(dev->out_floats * 4), *wanted = (float *)malloc(dev->out_floats * 4);

    run_once(dev, h->format, *a, out, what);
    float *rows = appended_rows(dev, h);
    given.q = reference_heads(h, on_host, 0, h->q);
    if (given.k) {
        given.k = reference_heads(h, on_host, 1, h->k);
        given.v = reference_heads(h, on_host, 2, h->v);
    }
    run_once(dev, h->format, given, wanted, what);
    float *wanted_rows = appended_rows(dev, h);
    const int differ = rows_differ(out, wanted, (uint64_t)h->n_tokens * a->n_heads, d) ||
                       rows_differ(rows, wanted_rows, 2 * n_kv_rows, d);
    cudaFree((void *)given.q), cudaFree((void *)given.k), cudaFree((void *)given.v);
    free(out), free(wanted), free(rows), free(wanted_rows);
    return differ;
}

/* Heads with and without norms and turns; then all is as it was but for the step's positions. */
static int check_heads(const struct device_case *dev, struct host *h, const float *out, const char *what)
{
    const uint32_t d = h->test->d;
    struct sharpi_kv_cuda_args a = dev->a;
    a.has_heads = 1, a.is_neox = 1;
    if (!h->format->cuda->makes_heads(&a))
        return h->format->cuda->attention(&a, NULL) != cudaErrorInvalidValue; /* must be refused */
    a.table_stride = d + 4;
    const uint64_t n_angles = h->n_rows_padded * a.table_stride;
    float *weights = random_rows(2 * d, 0.25f), *table = random_rows(n_angles, 3.0f);
    for (uint32_t i = 0; i < 2 * d; i++)
        weights[i] += 1.0f;
    for (uint64_t t = 0; t < h->n_rows_padded; t++)
        for (uint32_t i = 0; i < d / 2; i++) {
            float *angle = table + t * a.table_stride + i;
            angle[d / 2] = sinf(*angle);
            *angle = cosf(*angle);
        }
    float *device_weights = (float *)device_copy(weights, 2 * d * 4),
          *device_table = (float *)device_copy(table, n_angles * 4);
    int failed = 0;
    for (uint32_t variant = 0; variant < 16; variant++) {
        a.is_neox = variant & 1;
        for (uint32_t i = 0; i < 3; i++) {
            a.heads[i].weight = i < 2 ? device_weights + i * d : NULL;
            a.heads[i].eps = 0.1f * (float)(i + 1);
            a.heads[i].has_norm = variant >> (i < 2 ? 1 : 2) & 1;
            a.heads[i].turns = i < 2 ? variant >> 3 : 0;
        }
        a.table = variant >> 3 ? device_table : NULL;
        struct sharpi_kv_cuda_args on_host = a;
        on_host.heads[0].weight = weights, on_host.heads[1].weight = weights + d, on_host.table = table;
        failed |= h->format->cuda->makes_heads(&a)
                      ? check_made(dev, h, &a, &on_host, what)
                      : h->format->cuda->attention(&a, NULL) != cudaErrorInvalidValue;
    }
    float *again = (float *)malloc(dev->out_floats * 4);
    run_once(dev, h->format, dev->a, again, what);
    failed |= memcmp(out, again, dev->out_floats * 4) || cache_differs(dev, h);
    cudaFree(device_weights), cudaFree(device_table);
    free(weights), free(table), free(again);
    return failed;
}

static int run_case(const struct format *format, const struct test_case *test, const char *what)
{
    struct host h;
    struct device_case dev;
    struct sharpi_error err = SHARPI_ERROR_INIT;

    if (format->cuda->check(0, test->n_heads, test->n_kv_heads, test->d, &err))
        return 0;
    host_init(&h, format, test);
    device_init(&dev, &h);
    float *first = (float *)malloc(dev.out_floats * 4);
    run_once(&dev, format, dev.a, h.out, what);
    memcpy(first, h.out, dev.out_floats * 4);
    const int bytes_differ = cache_differs(&dev, &h);
    double worst = compare_out(&h, 24);
    run_once(&dev, format, dev.a, h.out, what); /* the counters are as they were, and the order of sums */
    const int is_other = memcmp(first, h.out, dev.out_floats * 4) != 0;
    const int are_codes_wrong = check_codes(&dev, &h, first, what);
    const int are_heads_wrong = check_heads(&dev, &h, first, what);
    const int is_narrow = dev.a.max_seq_tokens * test->n_heads / test->n_kv_heads <= 16;
    if (is_narrow)
        worst = fmax(worst, check_blocks(&dev, &h, what));
    const int is_scratch_wrong = scratch_is_wrong(&dev);
    const double limit = is_narrow ? format->decode_limit : format->prefill_limit;
    double *greatest = &greatest_errors[format - formats][!is_narrow];
    *greatest = fmax(*greatest, worst);
    const int failed = bytes_differ || is_scratch_wrong || is_other || are_codes_wrong || are_heads_wrong ||
                       !(worst <= limit);
    if (failed || getenv("VERBOSE"))
        printf("  %s %-4s %-34s H %u/%u d %u w %u cap %g: error %.2e (limit %.0e)%s%s%s%s%s\n",
               failed ? "FAILED" : "ok    ", format->name, what, test->n_heads, test->n_kv_heads, test->d,
               test->window, (double)test->softcap, worst, limit, bytes_differ ? ", cache bytes differ" : "",
               is_scratch_wrong ? ", scratch overrun or counters left" : "",
               is_other ? ", differs when repeated" : "", are_codes_wrong ? ", codes are wrong" : "",
               are_heads_wrong ? ", made heads are wrong" : "");
    free(first);
    device_free(&dev);
    host_free(&h);
    return failed;
}

/* ---- Cases */

static uint32_t pages_for(uint32_t positions)
{
    return (positions + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE;
}

static int all_formats(const struct test_case *test, const char *what)
{
    const char *only = getenv("ATTENTION_FORMAT");
    int failed = 0;
    for (uint32_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if ((uint64_t)test->n_kv_heads * test->d % formats[i].block_elems == 0 &&
            (!only || !strcmp(only, formats[i].name)))
            failed += run_case(&formats[i], test, what);
    return failed;
}

static struct test_case plain(uint32_t n_heads, uint32_t n_kv_heads, uint32_t d)
{
    struct test_case test;
    memset(&test, 0, sizeof test);
    test.n_heads = n_heads, test.n_kv_heads = n_kv_heads, test.d = d, test.causal = 1;
    return test;
}

static struct test_case with_seq(struct test_case test, uint32_t length, uint32_t n_tokens)
{
    test.seqs[test.n_seqs].length = length;
    test.seqs[test.n_seqs++].n_tokens = n_tokens;
    if (!test.window && test.ring_pages < pages_for(length + n_tokens))
        test.ring_pages = pages_for(length + n_tokens);
    return test;
}

static int test_decode(void)
{
    static const uint32_t geometries[][3] = {
        {1, 1, 64},  {8, 4, 64},  {32, 8, 128}, {16, 8, 256}, {16, 1, 512}, {4, 4, 128},
        {6, 2, 80},  {8, 2, 96},  {7, 1, 112},  {8, 4, 192},  {16, 1, 128}, {32, 1, 128},
        {80, 1, 64}, {4, 2, 320}, {4, 2, 20},   {2, 1, 16},   {4, 1, 32},   {4, 2, 384}};
    int failed = 0;
    for (uint32_t i = 0; i < sizeof geometries / sizeof *geometries; i++) {
        const struct test_case base = plain(geometries[i][0], geometries[i][1], geometries[i][2]);
        failed += all_formats(&(const struct test_case &)with_seq(base, 0, 1), "first token");
        failed += all_formats(&(const struct test_case &)with_seq(base, 63, 1), "last of a page");
        failed += all_formats(&(const struct test_case &)with_seq(base, 1000 + i, 1), "decode");
        struct test_case many = base;
        for (uint32_t s = 0; s < 5; s++)
            many = with_seq(many, s * s * 97 + s, 1);
        failed += all_formats(&many, "five sequences");
        many.softcap = 3.0f, many.sinks = 1;
        failed += all_formats(&many, "softcap, sinks");
        many.shared = 1;
        failed += all_formats(&many, "shared cache");
        struct test_case ring = base;
        ring.window = 100, ring.ring_pages = 4;
        ring = with_seq(with_seq(with_seq(ring, 10, 1), 1234, 1), 255, 1);
        failed += all_formats(&ring, "ring");
        ring.window = 64;
        failed += all_formats(&ring, "ring of a window of one page");
        struct test_case wide = base; /* its rows together see more units than one row can */
        wide.window = 127, wide.ring_pages = 4;
        failed +=
            all_formats(&(const struct test_case &)with_seq(wide, 381, 4), "ring, verification, 4 tokens");
        failed += all_formats(&(const struct test_case &)with_seq(base, 500, 3), "verification, 3 tokens");
        failed += all_formats(&(const struct test_case &)with_seq(with_seq(base, 300, 9), 70, 2),
                              "verification, 9 and 2");
    }
    failed += all_formats(&(const struct test_case &)with_seq(plain(16, 1, 512), 20011, 1), "20k");
    failed += all_formats(&(const struct test_case &)with_seq(plain(32, 8, 128), 33000, 1), "33k");
    struct test_case many = plain(8, 2, 128);
    for (uint32_t s = 0; s < 50; s++)
        many = with_seq(many, (s * 7919) % 900, 1);
    failed += all_formats(&many, "fifty sequences");
    return failed;
}

static int test_prefill(void)
{
    static const uint32_t geometries[][3] = {{8, 4, 64},   {16, 4, 128}, {16, 8, 256}, {16, 1, 512},
                                             {3, 3, 80},   {8, 2, 96},   {7, 1, 112},  {8, 4, 192},
                                             {32, 1, 128}, {4, 2, 20},   {2, 2, 16},   {4, 2, 320},
                                             {16, 1, 256}, {16, 2, 64},  {2, 2, 128}};
    int failed = 0;
    for (uint32_t i = 0; i < sizeof geometries / sizeof *geometries; i++) {
        const struct test_case base = plain(geometries[i][0], geometries[i][1], geometries[i][2]);
        failed += all_formats(&(const struct test_case &)with_seq(base, 0, 130), "prefill of 130");
        failed += all_formats(&(const struct test_case &)with_seq(base, 77, 257), "chunk of 257 at 77");
        struct test_case mixed = with_seq(with_seq(with_seq(with_seq(base, 5, 1), 300, 200), 513, 1), 0, 66);
        failed += all_formats(&mixed, "mixed");
        mixed.softcap = 2.5f, mixed.sinks = 1;
        failed += all_formats(&mixed, "mixed, softcap, sinks");
        struct test_case ring = base;
        ring.window = 90, ring.ring_pages = 8;
        ring = with_seq(with_seq(with_seq(ring, 1111, 300), 40, 1), 0, 200);
        failed += all_formats(&ring, "chunk larger than the window");
        struct test_case two_way = with_seq(base, 33, 150);
        two_way.causal = 0;
        failed += all_formats(&two_way, "not causal");
    }
    return failed;
}

static int test_random(uint32_t n)
{
    static const uint32_t dims[] = {64, 80, 96, 112, 128, 192, 256, 512}, ratios[] = {1, 2, 3, 4, 8, 16};
    int failed = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t n_kv_heads = 1 + random_bits() % 3;
        struct test_case test =
            plain(n_kv_heads * ratios[random_bits() % 6], n_kv_heads, dims[random_bits() % 8]);
        const uint32_t decode_only = random_bits() % 2;
        if (random_bits() % 2) {
            test.window = 1 + random_bits() % 300;
            test.ring_pages = pages_for(test.window + 400) + random_bits() % 3;
        }
        if (random_bits() % 3 == 0)
            test.softcap = 2.0f;
        test.sinks = random_bits() % 4 == 0;
        test.shared = random_bits() % 4 == 0;
        for (uint32_t s = 1 + random_bits() % 6; s; s--)
            test = with_seq(test, random_bits() % 1500,
                            decode_only || random_bits() % 2 ? 1 : 1 + random_bits() % 350);
        failed += all_formats(&test, "random");
    }
    return failed;
}

/* ---- Speed */

/* Values that are neither zero nor NaN in any format: for q8_0 the scales' part is written afterwards. */
static __global__ void fill_kernel(uint32_t *x, uint64_t n, uint32_t kind, uint32_t tile_words,
                                   uint32_t scale_words)
{
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < n;
         i += (uint64_t)gridDim.x * blockDim.x) {
        uint32_t h = (uint32_t)(i * 2654435761u) ^ (uint32_t)(i >> 7) * 40503u;
        h ^= h >> 15, h *= 2246822519u, h ^= h >> 13;
        if (kind == 0) /* f32 in +-[0.5, 1) */
            h = (h & 0x807fffffu) | 0x3f000000u;
        else if (kind == 1) /* f16 */
            h = (h & 0x83ff83ffu) | 0x38003800u;
        else if (kind == 2) /* bf16 */
            h = (h & 0x807f807fu) | 0x3f003f00u;
        else if (i % tile_words >= tile_words - scale_words) /* scales near 0.008 */
            h = (h & 0x00ff00ffu) | 0x20002000u;
        x[i] = h;
    }
}

struct speed {
    const char *name;
    uint32_t n_heads, n_kv_heads, d, window;
};

static int compare_floats(const void *a, const void *b)
{
    return *(const float *)a < *(const float *)b ? -1 : 1;
}

/* Median milliseconds of one op of a step of n_seqs sequences, n_tokens each, at `depth`; caches of several layers in turn. */
static float time_step(const struct format *format, uint32_t kind, const struct speed *x, uint32_t n_seqs,
                       uint32_t n_tokens, uint32_t depth, uint32_t *n_layers_out)
{
    const uint32_t positions =
        x->window ? pages_for(x->window + n_tokens) * 64 + 64 : pages_for(depth + n_tokens) * 64;
    const uint64_t n = (uint64_t)x->n_kv_heads * x->d,
                   row_bytes = n / format->block_elems * format->block_bytes;
    const uint64_t cache_bytes = row_bytes * positions * n_seqs;
    uint32_t n_layers = (uint32_t)(400000000ull / (2 * cache_bytes)) + 1;
    struct sharpi_kv_cuda_args a;
    struct sharpi_cuda_step step = {n_seqs * n_tokens, n_seqs, 0, 0};
    struct sharpi_batch_seq *seqs = (struct sharpi_batch_seq *)calloc(n_seqs, sizeof *seqs);
    int32_t *seqs_of = (int32_t *)calloc(n_seqs * n_tokens, sizeof *seqs_of);
    uint32_t stride = positions / 64;
    int32_t *pages = (int32_t *)malloc((uint64_t)n_seqs * stride * sizeof *pages);
    int n_sms;
    char *k, *v;

    n_layers = n_layers > 24 ? 24 : n_layers;
    *n_layers_out = n_layers;
    for (uint32_t s = 0; s < n_seqs; s++) {
        seqs[s].first_token = s * n_tokens, seqs[s].n_tokens = n_tokens, seqs[s].length = depth;
        for (uint32_t t = 0; t < n_tokens; t++)
            seqs_of[s * n_tokens + t] = (int32_t)s;
    }
    for (uint32_t i = 0; i < n_seqs * stride; i++)
        pages[i] = (int32_t)i;
    for (uint32_t i = n_seqs * stride - 1; i; i--) {
        const uint32_t j = random_bits() % (i + 1);
        const int32_t t = pages[i];
        pages[i] = pages[j], pages[j] = t;
    }
    memset(&a, 0, sizeof a);
    cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, 0);
    a.size = (uint32_t)sizeof a;
    a.n_heads = x->n_heads, a.n_kv_heads = x->n_kv_heads, a.head_dim = x->d, a.window = x->window,
    a.causal = 1;
    a.scale = 0.1f / sqrtf((float)x->d);
    a.ring = positions, a.page_stride = stride;
    require(cudaMalloc((void **)&k, cache_bytes * n_layers), "cudaMalloc");
    require(cudaMalloc((void **)&v, cache_bytes * n_layers), "cudaMalloc");
    const uint32_t tile_words = 16 * format->block_bytes * x->d / format->block_elems;
    fill_kernel<<<1024, 256>>>((uint32_t *)k, cache_bytes * n_layers / 4, kind, tile_words,
                               kind == 3 ? x->d : 0);
    fill_kernel<<<1024, 256>>>((uint32_t *)v, cache_bytes * n_layers / 4, kind, tile_words,
                               kind == 3 ? x->d : 0);
    a.pages = (const int32_t *)device_copy(pages, (uint64_t)n_seqs * stride * 4);
    a.step = (const struct sharpi_cuda_step *)device_copy(&step, sizeof step);
    a.seqs = (const struct sharpi_batch_seq *)device_copy(seqs, n_seqs * sizeof *seqs);
    a.seqs_of = (const int32_t *)device_copy(seqs_of, (uint64_t)n_seqs * n_tokens * 4);
    const uint64_t n_rows = (uint64_t)n_seqs * n_tokens;
    float *rows;
    require(cudaMalloc((void **)&rows, n_rows * (2 * n + 2 * (uint64_t)x->n_heads * x->d) * 4), "cudaMalloc");
    fill_kernel<<<1024, 256>>>((uint32_t *)rows, n_rows * (2 * n + (uint64_t)x->n_heads * x->d), 0, 1, 0);
    a.q = rows, a.k = rows + n_rows * x->n_heads * x->d, a.v = a.k + n_rows * n;
    a.out = (float *)(a.v + n_rows * n);
    a.q_stride = a.out_stride = (uint64_t)x->n_heads * x->d, a.k_stride = a.v_stride = n;
    a.max_tokens = (uint32_t)n_rows, a.max_seqs = n_seqs, a.max_seq_tokens = n_tokens;
    a.max_length = positions, a.n_sms = (uint32_t)n_sms,
    a.compute_major = getenv("ATTENTION_MAJOR") ? (uint32_t)atoi(getenv("ATTENTION_MAJOR")) : 9;
    a.shared_bytes = (uint32_t)shared_limit();
    a.overlaps = 1;
    a.scratch = device_copy(NULL, format->cuda->scratch_bytes(&a));
    require(cudaMemset(a.scratch, 0, SHARPI_CUDA_COUNTER_BYTES), "memset");

    /* a graph of all layers, as the backend replays it */
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    require(cudaStreamCreate(&stream), "stream");
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (uint32_t i = 0; i < n_layers; i++) {
        a.k_cache = k + i * cache_bytes, a.v_cache = v + i * cache_bytes;
        require((cudaError_t)format->cuda->attention(&a, stream), "launch");
    }
    require(cudaStreamEndCapture(stream, &graph), "capture");
    require(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    cudaEventCreate(&begin), cudaEventCreate(&end);
    float times[15];
    require(cudaDeviceSynchronize(), "fill");
    for (int i = -3; i < 15; i++) {
        float ms = 0;
        cudaEventRecord(begin, stream);
        require(cudaGraphLaunch(exec, stream), "replay");
        cudaEventRecord(end, stream);
        require(cudaStreamSynchronize(stream), "run");
        cudaEventElapsedTime(&ms, begin, end);
        if (i >= 0)
            times[i] = ms / (float)n_layers;
    }
    qsort(times, 15, sizeof *times, compare_floats);
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
    cudaEventDestroy(begin), cudaEventDestroy(end);
    cudaFree(k), cudaFree(v), cudaFree((void *)a.pages), cudaFree((void *)a.step), cudaFree((void *)a.seqs);
    cudaFree((void *)a.seqs_of), cudaFree(rows), cudaFree(a.scratch);
    free(seqs), free(seqs_of), free(pages);
    return times[7];
}

/* ATTENTION_ONLY: a part of the label of what is to be timed. */
static int is_wanted(const char *label)
{
    const char *only = getenv("ATTENTION_ONLY");
    return !only || strstr(label, only);
}

static void bench_decode(void)
{
    static const struct speed models[] = {{"12B global", 16, 1, 512, 0}, {"12B local", 16, 8, 256, 1024},
                                          {"8B", 32, 8, 128, 0},         {"E4B global", 8, 2, 512, 0},
                                          {"ratio 16", 32, 2, 128, 0},   {"A3B", 32, 4, 128, 0},
                                          {"E4B local", 8, 2, 256, 512}};
    static const uint32_t depths[] = {0, 100, 500, 1000, 2000, 4096, 16384, 131072}, batches[] = {1, 8, 64};
    printf("decode: microseconds an op, KV bytes a second, the time of those at 4.28 TB/s and its share\n");
    for (uint32_t m = 0; m < 7; m++)
        for (uint32_t b = 0; b < 3; b++)
            for (uint32_t i = 0; i < 8; i++)
                for (uint32_t f = 1; f < 4; f++) {
                    const struct speed *x = &models[m];
                    uint32_t n_layers;
                    if (f == 1 || (batches[b] > 1 && depths[i] > 16384) || (x->window && depths[i] > 16384))
                        continue;
                    char label[128];
                    snprintf(label, sizeof label, "%-10s batch %2u depth %6u %-5s", x->name, batches[b],
                             depths[i], formats[f].name);
                    if (!is_wanted(label))
                        continue;
                    const float ms = time_step(&formats[f], f, x, batches[b], 1, depths[i], &n_layers);
                    const uint32_t seen = x->window && depths[i] + 1 > x->window ? x->window : depths[i] + 1;
                    const double bytes = 2.0 * batches[b] * seen * x->n_kv_heads * x->d *
                                         formats[f].block_bytes / formats[f].block_elems;
                    printf("  %-10s batch %2u depth %6u %-5s %8.2f us  %7.1f GB/s  floor %8.2f us  %5.1f%%\n",
                           x->name, batches[b], depths[i], formats[f].name, ms * 1e3,
                           bytes * 1e-6 / (double)ms, bytes / 4.28e12 * 1e6,
                           bytes / 4.28e12 * 1e5 / (double)ms);
                    fflush(stdout);
                }
}

static void bench_prefill(void)
{
    static const struct speed models[] = {{"d 64", 32, 8, 64, 0},
                                          {"8B", 32, 8, 128, 0},
                                          {"d 256", 16, 8, 256, 0},
                                          {"12B global", 16, 1, 512, 0},
                                          {"12B local", 16, 8, 256, 1024}};
    static const uint32_t sizes[][2] = {{4096, 0}, {16384, 0}, {2048, 32768}};
    printf("prefill: microseconds an op, TFLOP/s (4 d per visible pair), share of 790\n");
    for (uint32_t m = 0; m < 5; m++)
        for (uint32_t i = 0; i < 3; i++)
            for (uint32_t f = 1; f < 4; f++) {
                const struct speed *x = &models[m];
                uint32_t n_layers;
                if (f == 1 && m != 1)
                    continue;
                char label[128];
                snprintf(label, sizeof label, "%-10s %6u tokens at %6u %-5s", x->name, sizes[i][0],
                         sizes[i][1], formats[f].name);
                if (!is_wanted(label))
                    continue;
                const float ms = time_step(&formats[f], f, x, 1, sizes[i][0], sizes[i][1], &n_layers);
                double pairs = 0;
                for (uint32_t t = 0; t < sizes[i][0]; t++) {
                    const uint32_t seen = sizes[i][1] + t + 1;
                    pairs += x->window && seen > x->window ? x->window : seen;
                }
                const double tflops = pairs * 4 * x->d * x->n_heads / (double)ms * 1e-9;
                printf("  %s %9.1f us %7.1f TFLOP/s %5.1f%%\n", label, ms * 1e3, tflops, tflops / 7.9);
                fflush(stdout);
            }
}

/* ATTENTION_PART (decode, prefill, random, small, none) and ATTENTION_FORMAT limit the checks, so that they can run side by
 * side. */
int test_attention(int bench)
{
    const char *part = getenv("ATTENTION_PART");
    int failed = 0;
    if (!part || !strcmp(part, "decode"))
        failed += test_decode();
    if (!part || !strcmp(part, "prefill"))
        failed += test_prefill();
    if (!part || !strcmp(part, "random"))
        failed += test_random(40);
    if (part && !strcmp(part, "small")) /* for the sanitizers */
        failed += test_random(3);
    printf("attention%s%s: %d failures\n", part ? ", " : "", part ? part : "", failed);
    for (uint32_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (greatest_errors[i][0] > 0 || greatest_errors[i][1] > 0)
            printf("attention, %s: greatest relative error of a row %.1e with few rows, %.1e with many\n",
                   formats[i].name, greatest_errors[i][0], greatest_errors[i][1]);
    fflush(stdout);
    if (bench) {
        bench_decode();
        bench_prefill();
    }
    return failed != 0;
}
