/* Routing, the sort by expert and the best candidates of logits rows against plain loops on the host. */
#include "../../plugins/backend-cuda/kernels/moe.h"
#include "../../plugins/backend-cuda/kernels/topk.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_cuda(int status, const char *what)
{
    if (status == cudaSuccess)
        return;
    fprintf(stderr, "moe: %s: %s\n", what, cudaGetErrorString((cudaError_t)status));
    abort();
}

static uint32_t random_state = 99;

static uint32_t next(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static float random_logit(int coarse)
{
    float x = (float)((double)next() / (1 << 23) - 1.0) * 6.0f;
    return coarse ? rintf(x) : x; /* coarse: many ties */
}

/* Memory with a guard behind it, on both sides. */
struct buffer {
    uint8_t *host, *device;
    uint64_t n_bytes;
};

#define GUARD 256

static struct buffer buffer_make(uint64_t n_bytes)
{
    struct buffer b = {(uint8_t *)malloc(n_bytes + GUARD), NULL, n_bytes};
    if (!b.host)
        abort();
    memset(b.host, 0x5a, n_bytes + GUARD);
    check_cuda(cudaMalloc(&b.device, n_bytes + GUARD), "memory");
    return b;
}

static void buffer_up(struct buffer *b)
{
    check_cuda(cudaMemcpy(b->device, b->host, b->n_bytes + GUARD, cudaMemcpyHostToDevice), "up");
}

/* Returns 1 if the guard is still there. */
static int buffer_down(struct buffer *b)
{
    int whole = 1;
    check_cuda(cudaMemcpy(b->host, b->device, b->n_bytes + GUARD, cudaMemcpyDeviceToHost), "down");
    for (uint32_t i = 0; i < GUARD; i++)
        whole &= b->host[b->n_bytes + i] == 0x5a;
    return whole;
}

static void buffer_free(struct buffer *b)
{
    free(b->host);
    cudaFree(b->device);
}

static int fail(const char *what, const char *why, uint32_t at)
{
    printf("FAILED %s: %s at %u\n", what, why, at);
    return 1;
}

/* ---- Routing */

enum { LOGITS, BIAS, SCALE, EXPERTS, WEIGHTS, SLOTS, SOURCE, ROW_EXPERT, STARTS, WORK, COUNT, N_BUFFERS };

static void choose(const struct moe_route *r, const float *score, int32_t *expert, double *weight,
                   const float *scale)
{
    uint8_t taken[MOE_MAX_EXPERTS] = {0};
    double greatest = 0, all = 0, chosen = 0;
    for (uint32_t j = 0; j < r->n_used; j++) {
        int32_t best = -1;
        for (uint32_t e = 0; e < r->n_experts; e++) {
            if (!taken[e] && (best < 0 || score[e] > score[best]))
                best = (int32_t)e;
        }
        taken[best] = 1;
        expert[j] = best;
        greatest = j == 0 ? score[best] : greatest;
        weight[j] = exp(score[best] - greatest);
        chosen += weight[j];
    }
    for (uint32_t e = 0; e < r->n_experts; e++)
        all += exp(score[e] - greatest);
    for (uint32_t j = 0; j < r->n_used; j++)
        weight[j] = weight[j] / (r->softmax_after || r->renormalize ? chosen : all) * r->weight_scale *
                    (scale ? scale[expert[j]] : 1.0);
}

static int check_sort(const struct moe_route *r, struct buffer *b, uint32_t n_true, const char *what)
{
    const int32_t *experts = (int32_t *)b[EXPERTS].host, *slots = (int32_t *)b[SLOTS].host,
                  *source = (int32_t *)b[SOURCE].host, *row_expert = (int32_t *)b[ROW_EXPERT].host,
                  *starts = (int32_t *)b[STARTS].host;
    uint32_t place = 0, k = r->n_used;
    for (uint32_t e = 0; e < r->n_experts; e++) {
        if (starts[e] != (int32_t)place)
            return fail(what, "starts", e);
        for (uint32_t p = 0; p < n_true * k; p++) {
            if (experts[p] != (int32_t)e)
                continue;
            if (slots[p] != (int32_t)place || source[place] != (int32_t)(p / k) ||
                row_expert[place] != (int32_t)e)
                return fail(what, "slot", p);
            place++;
        }
    }
    return starts[r->n_experts] == (int32_t)place ? 0 : fail(what, "last start", place);
}

static int check_route(const struct moe_route *r, struct buffer *b, uint32_t n_true, uint32_t n_bound,
                       const char *what)
{
    const float *bias = r->bias ? (float *)b[BIAS].host : NULL,
                *scale = r->expert_scale ? (float *)b[SCALE].host : NULL;
    for (uint32_t i = EXPERTS; i <= WORK; i++) {
        if (!buffer_down(&b[i]))
            return fail(what, "guard", i);
    }
    for (uint32_t t = 0; t < n_true; t++) {
        float score[MOE_MAX_EXPERTS];
        int32_t expert[MOE_MAX_USED];
        double weight[MOE_MAX_USED];
        for (uint32_t e = 0; e < r->n_experts; e++)
            score[e] = ((float *)(b[LOGITS].host + t * r->logits_stride))[e] + (bias ? bias[e] : 0.0f);
        choose(r, score, expert, weight, scale);
        for (uint32_t j = 0; j < r->n_used; j++) {
            uint32_t p = t * r->n_used + j;
            if (((int32_t *)b[EXPERTS].host)[p] != expert[j])
                return fail(what, "expert", p);
            if (!(fabs(((float *)b[WEIGHTS].host)[p] - weight[j]) <= 2e-6 * fabs(weight[j]) + 1e-9))
                return fail(what, "weight", p);
        }
    }
    for (uint32_t p = n_true * r->n_used * 4; p < n_bound * r->n_used * 4; p++) {
        if (b[EXPERTS].host[p] != 0x5a || b[WEIGHTS].host[p] != 0x5a)
            return fail(what, "a row past the true number was written", p);
    }
    return r->slots ? check_sort(r, b, n_true, what) : 0;
}

static void make_route(struct moe_route *r, struct buffer *b, uint32_t n_experts, uint32_t n_used,
                       uint32_t n_tokens, uint32_t variant)
{
    memset(r, 0, sizeof *r);
    r->n_experts = n_experts;
    r->n_used = n_used;
    r->softmax_after = variant & 1;
    r->renormalize = variant >> 1 & 1;
    r->weight_scale = variant & 4 ? 2.5f : 1.0f;
    r->logits_stride = (n_experts * 4 + 63) / 64 * 64;
    b[LOGITS] = buffer_make(n_tokens * r->logits_stride);
    b[BIAS] = buffer_make(n_experts * 4);
    b[SCALE] = buffer_make(n_experts * 4);
    for (uint32_t i = EXPERTS; i <= ROW_EXPERT; i++)
        b[i] = buffer_make(n_tokens * n_used * 4);
    b[STARTS] = buffer_make((n_experts + 1) * 4);
    b[WORK] = buffer_make(moe_workspace_bytes(n_experts, n_tokens));
    b[COUNT] = buffer_make(4);
    for (uint64_t i = 0; i < b[LOGITS].n_bytes / 4; i++)
        ((float *)b[LOGITS].host)[i] = random_logit(variant & 8);
    for (uint32_t e = 0; e < n_experts; e++) {
        ((float *)b[BIAS].host)[e] = random_logit(variant & 8);
        ((float *)b[SCALE].host)[e] = random_logit(0);
    }
    r->logits = (float *)b[LOGITS].device;
    r->bias = variant & 16 ? (float *)b[BIAS].device : NULL;
    r->expert_scale = variant & 32 ? (float *)b[SCALE].device : NULL;
    r->experts = (int32_t *)b[EXPERTS].device;
    r->weights = (float *)b[WEIGHTS].device;
    r->slots = variant & 64 ? NULL : (int32_t *)b[SLOTS].device;
    r->source = (int32_t *)b[SOURCE].device;
    r->row_expert = (int32_t *)b[ROW_EXPERT].device;
    r->starts = (int32_t *)b[STARTS].device;
    r->workspace = b[WORK].device;
}

static int test_route(uint32_t n_experts, uint32_t n_used, uint32_t n_bound, uint32_t n_true,
                      uint32_t variant)
{
    struct buffer b[N_BUFFERS];
    struct moe_route r;
    char what[96];
    int failed;
    make_route(&r, b, n_experts, n_used, n_bound, variant);
    *(int32_t *)b[COUNT].host = (int32_t)n_true;
    for (uint32_t i = 0; i < N_BUFFERS; i++)
        buffer_up(&b[i]);
    snprintf(what, sizeof what, "route %u of %u experts, %u of %u tokens, variant %u", n_used, n_experts,
             n_true, n_bound, variant);
    check_cuda(moe_route_launch(&r, (int32_t *)b[COUNT].device, n_bound, (int32_t)(variant & 1), 0), what);
    check_cuda(cudaDeviceSynchronize(), what);
    failed = check_route(&r, b, n_true, n_bound, what);
    for (uint32_t i = 0; i < N_BUFFERS; i++)
        buffer_free(&b[i]);
    return failed;
}

static int test_routes(int quick)
{
    static const uint32_t sizes[][2] = {{4, 1},   {8, 2},   {60, 4},   {64, 8},   {100, 6}, {128, 8},
                                        {128, 4}, {256, 8}, {500, 10}, {512, 16}, {16, 16}};
    static const uint32_t tokens[][2] = {{1, 1},  {2, 1},   {8, 8},     {32, 31},
                                         {32, 0}, {64, 33}, {128, 128}, {512, 300}};
    int failed = 0;
    uint32_t variant = 0, n_tokens = quick ? 6 : 8;
    for (uint32_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (uint32_t t = 0; t < n_tokens; t++)
            failed += test_route(sizes[s][0], sizes[s][1], tokens[t][0], tokens[t][1], variant++ * 37 % 128);
    }
    if (!quick) {
        failed += test_route(128, 8, 4096, 4095, 2);
        failed += test_route(512, 16, 4096, 4000, 50);
    }
    return failed;
}

/* ---- Best candidates */

static const float *sort_row;

static int by_value(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    float fx = sort_row[x], fy = sort_row[y];
    if (fx != fy)
        return fx > fy ? -1 : 1;
    return x < y ? -1 : x > y;
}

static float capped(float x, float cap)
{
    return cap > 0 ? (float)(cap * tanh((double)x / cap)) : x;
}

static int near(float a, float b)
{
    return a == b || fabsf(a - b) <= 4e-6f * fabsf(b);
}

/* With a cap the device's tanh may order neighbours otherwise, so then only values are compared. */
static int check_topk(const struct topk_job *job, const uint8_t *logits, const int32_t *ids,
                      const float *values, const float *lse, uint32_t n_true, const char *what)
{
    float *row = (float *)malloc(job->n_vocab * 4ull);
    int32_t *order = (int32_t *)malloc(job->n_vocab * 4ull);
    int failed = 0;
    for (uint32_t r = 0; r < n_true && !failed; r++) {
        double sum = 0, greatest;
        for (uint32_t i = 0; i < job->n_vocab; i++) {
            row[i] = capped(((const float *)(logits + r * job->stride))[i], job->softcap);
            order[i] = (int32_t)i;
        }
        sort_row = row;
        qsort(order, job->n_vocab, sizeof *order, by_value);
        greatest = row[order[0]];
        for (uint32_t i = 0; i < job->n_vocab; i++)
            sum += row[i] > -INFINITY ? exp(row[i] - greatest) : 0.0;
        for (uint32_t j = 0; j < job->k && !failed; j++) {
            uint32_t at = r * job->k + j;
            if (job->softcap <= 0 && ids[at] != order[j])
                failed = fail(what, "id", at);
            else if (ids[at] < 0 || ids[at] >= (int32_t)job->n_vocab || !near(values[at], row[order[j]]) ||
                     !near(values[at], row[ids[at]]))
                failed = fail(what, "value", at);
        }
        if (!failed && lse[r] != (float)(greatest + log(sum)) &&
            !(fabs(lse[r] - (greatest + log(sum))) <= 1e-5 * (fabs(greatest) + 10)))
            failed = fail(what, "lse", r);
    }
    free(row);
    free(order);
    return failed;
}

/* kind 0: random; 1: many ties; 2: all equal; 3: all but few are -infinity */
static void fill_logits(struct buffer *b, int kind)
{
    for (uint64_t i = 0; i < b->n_bytes / 4; i++)
        ((float *)b->host)[i] = kind == 2                    ? 1.5f
                                : kind == 3 && next() % 1000 ? -INFINITY
                                                             : random_logit(kind == 1);
}

static int test_topk(uint32_t n_vocab, uint32_t k, uint32_t n_bound, uint32_t n_true, int kind, float cap,
                     uint32_t gap)
{
    struct topk_job job = {};
    struct buffer logits, ids, values, lse, work, count;
    char what[96];
    int failed = 0;
    job.n_vocab = n_vocab;
    job.k = k;
    job.softcap = cap;
    job.stride = (n_vocab + gap) * 4ull;
    logits = buffer_make(job.stride * n_bound);
    ids = buffer_make(n_bound * k * 4ull);
    values = buffer_make(n_bound * k * 4ull);
    lse = buffer_make(n_bound * 4ull);
    work = buffer_make(topk_workspace_bytes(n_vocab, n_bound));
    count = buffer_make(4);
    fill_logits(&logits, kind);
    *(int32_t *)count.host = (int32_t)n_true;
    struct buffer *all[] = {&logits, &ids, &values, &lse, &work, &count};
    for (uint32_t i = 0; i < 6; i++)
        buffer_up(all[i]);
    job.logits = (float *)logits.device;
    job.ids = (int32_t *)ids.device;
    job.values = (float *)values.device;
    job.lse = (float *)lse.device;
    job.workspace = work.device;
    snprintf(what, sizeof what, "top %u of %u, %u of %u rows, kind %d, cap %g", k, n_vocab, n_true, n_bound,
             kind, (double)cap);
    check_cuda(topk_launch(&job, n_true == n_bound ? NULL : (int32_t *)count.device, n_bound, kind & 1, 0),
               what);
    check_cuda(cudaDeviceSynchronize(), what);
    for (uint32_t i = 1; i < 5; i++)
        failed += buffer_down(all[i]) ? 0 : fail(what, "guard", i);
    failed += check_topk(&job, logits.host, (int32_t *)ids.host, (float *)values.host, (float *)lse.host,
                         n_true, what);
    for (uint64_t i = n_true * 4ull; i < n_bound * 4ull && !failed; i++)
        failed += lse.host[i] == 0x5a ? 0 : fail(what, "a row past the true number was written", (uint32_t)i);
    for (uint32_t i = 0; i < 6; i++)
        buffer_free(all[i]);
    return failed;
}

static int test_topks(int quick)
{
    static const uint32_t vocabs[] = {1, 5, 64, 1000, 2049, 32000, 50257, 151936, 262144};
    static const uint32_t ks[] = {1, 5, 40, 64, 256};
    int failed = 0;
    for (uint32_t v = 0; v < (quick ? 5 : 9); v++) {
        for (uint32_t i = 0; i < 5; i++) {
            for (int kind = 0; kind < (quick ? 2 : 4) && ks[i] <= vocabs[v]; kind++) {
                uint32_t n = vocabs[v] < 3000 ? 4 : 2;
                failed += test_topk(vocabs[v], ks[i], n, n - (uint32_t)(kind & 1), kind,
                                    kind == 0 && i == 2 ? 30.0f : 0.0f, i == 3 ? 64 : 0);
            }
        }
    }
    return failed;
}

/* ---- Timing */

typedef int32_t launch_fn(const void *job, const int32_t *n, uint32_t bound, int32_t overlap,
                          cudaStream_t stream);

static int32_t launch_route(const void *job, const int32_t *n, uint32_t bound, int32_t overlap,
                            cudaStream_t stream)
{
    return moe_route_launch((const struct moe_route *)job, n, bound, overlap, stream);
}

static int32_t launch_topk(const void *job, const int32_t *n, uint32_t bound, int32_t overlap,
                           cudaStream_t stream)
{
    return topk_launch((const struct topk_job *)job, n, bound, overlap, stream);
}

static double time_launch(launch_fn *launch, const void *job, const int32_t *n, uint32_t bound,
                          int32_t overlap)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t a, b;
    float times[9];
    check_cuda(cudaStreamCreate(&stream), "stream");
    check_cuda(cudaEventCreate(&a), "event");
    check_cuda(cudaEventCreate(&b), "event");
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
    for (int i = 0; i < 50; i++)
        check_cuda(launch(job, n, bound, overlap, stream), "launch");
    check_cuda(cudaStreamEndCapture(stream, &graph), "capture");
    check_cuda(cudaGraphInstantiate(&exec, graph, 0), "graph");
    check_cuda(cudaGraphLaunch(exec, stream), "graph");
    for (float &ms : times) {
        cudaEventRecord(a, stream);
        check_cuda(cudaGraphLaunch(exec, stream), "graph");
        cudaEventRecord(b, stream);
        check_cuda(cudaStreamSynchronize(stream), "graph");
        cudaEventElapsedTime(&ms, a, b);
    }
    qsort(times, 9, sizeof times[0],
          [](const void *p, const void *q) { return *(const float *)p < *(const float *)q ? -1 : 1; });
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    return times[4] * 1e3 / 50;
}

static void bench_route(void)
{
    static const uint32_t sizes[][2] = {{8, 2}, {64, 8}, {128, 8}, {512, 16}};
    static const uint32_t tokens[] = {1, 8, 32, 128, 1024, 4096};
    printf("%-16s %6s %9s %9s %9s\n", "route", "n", "us", "us pdl", "no sort");
    for (uint32_t s = 0; s < 4; s++) {
        for (uint32_t t = 0; t < 6; t++) {
            struct buffer b[N_BUFFERS];
            struct moe_route r;
            char name[32];
            double us[3];
            make_route(&r, b, sizes[s][0], sizes[s][1], tokens[t], 2);
            *(int32_t *)b[COUNT].host = (int32_t)tokens[t];
            for (uint32_t i = 0; i < N_BUFFERS; i++)
                buffer_up(&b[i]);
            snprintf(name, sizeof name, "%u of %u", sizes[s][1], sizes[s][0]);
            us[0] = time_launch(launch_route, &r, (int32_t *)b[COUNT].device, tokens[t], 0);
            us[1] = time_launch(launch_route, &r, (int32_t *)b[COUNT].device, tokens[t], 1);
            r.slots = NULL;
            us[2] = time_launch(launch_route, &r, (int32_t *)b[COUNT].device, tokens[t], 1);
            printf("%-16s %6u %9.2f %9.2f %9.2f\n", name, tokens[t], us[0], us[1], us[2]);
            for (uint32_t i = 0; i < N_BUFFERS; i++)
                buffer_free(&b[i]);
        }
    }
}

static void bench_topk(void)
{
    static const uint32_t cases[][3] = {{262144, 1, 1},    {262144, 1, 64},   {262144, 1, 256},
                                        {151936, 1, 64},   {262144, 8, 64},   {262144, 64, 64},
                                        {262144, 256, 64}, {262144, 256, 256}};
    printf("%-24s %9s %9s %9s %7s\n", "top k", "us", "us pdl", "GB/s", "floor");
    for (uint32_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        uint32_t v = cases[c][0], n = cases[c][1], k = cases[c][2];
        struct topk_job job = {};
        struct buffer logits = buffer_make(v * 4ull * n), out = buffer_make(n * (8ull * k + 4)),
                      work = buffer_make(topk_workspace_bytes(v, n));
        char name[48];
        double us, us_overlap, best, floor;
        fill_logits(&logits, 0);
        buffer_up(&logits);
        job.logits = (float *)logits.device;
        job.stride = v * 4ull;
        job.n_vocab = v;
        job.k = k;
        job.ids = (int32_t *)out.device;
        job.values = (float *)(job.ids + n * k);
        job.lse = job.values + n * k;
        job.workspace = work.device;
        us = time_launch(launch_topk, &job, NULL, n, 0);
        us_overlap = time_launch(launch_topk, &job, NULL, n, 1);
        best = us < us_overlap ? us : us_overlap;
        floor = v * 4.0 * n / 4.28e6;
        snprintf(name, sizeof name, "%u of %u x %u", k, n, v);
        printf("%-24s %9.2f %9.2f %9.1f %6.1f%%\n", name, us, us_overlap, v * 4.0 * n / best / 1e3,
               floor / best * 100);
        buffer_free(&logits);
        buffer_free(&out);
        buffer_free(&work);
    }
}

int test_moe(int bench)
{
    int quick = getenv("KERNELS_QUICK") != NULL, failed;
    failed = test_routes(quick);
    printf("moe: routing, %d failures\n", failed);
    failed += test_topks(quick);
    printf("moe: %d failures with top k\n", failed);
    if (bench && !failed) {
        bench_route();
        bench_topk();
    }
    return failed != 0;
}
