/* Speed of tokenizer and sampler:  bench-text [MODEL.gguf TEXT-FILE]
 *
 * Invariant: a time is of the call alone; copies and allocation of the inputs are outside.
 */
#include "bench-text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int32_t bench_encode(const struct sharpi_tokenizer *tokenizer, const char *text, uint64_t n_bytes,
                     int32_t runs, struct bench_encode *out, struct sharpi_error *err)
{
    struct sharpi_tokens ids = SHARPI_TOKENS_INIT;
    int32_t status = SHARPI_OK;
    *out = (struct bench_encode){.n_bytes = n_bytes, .seconds = INFINITY};
    for (int32_t i = 0; i < runs && status == SHARPI_OK; i++) {
        ids.n = 0;
        double start = now();
        status = sharpi_tokenizer_encode(tokenizer, text, n_bytes, 0, &ids, err);
        double took = now() - start;
        out->seconds = took < out->seconds ? took : out->seconds;
        out->n_tokens = ids.n;
    }
    out->megabytes_per_second = (double)n_bytes / out->seconds * 1e-6;
    sharpi_tokens_free(&ids);
    return status;
}

static void model_like_logits(float *logits, int32_t n)
{
    uint64_t state = 1;
    for (int32_t i = 0; i < n; i++) {
        double sum = 0;
        for (int32_t k = 0; k < 4; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (double)(state >> 40) * 0x1p-24 - 0.5;
        }
        logits[i] = (float)(sum * 4);
    }
    for (int32_t i = 0; i < 30; i++)
        logits[(int64_t)i * 7919 % n] = 18 - 0.5f * (float)i;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int32_t time_samples(struct sharpi_sampler *sampler, const float *logits, float *copy, double *times,
                            int32_t n_vocab, int32_t runs, struct sharpi_error *err)
{
    for (int32_t i = 0; i < runs; i++) {
        memcpy(copy, logits, (size_t)n_vocab * sizeof *copy);
        double start = now();
        int32_t id = sharpi_sampler_sample(sampler, copy, n_vocab);
        times[i] = now() - start;
        int32_t status = sharpi_sampler_accept(sampler, id, err);
        if (status != SHARPI_OK)
            return status;
    }
    qsort(times, (size_t)runs, sizeof *times, by_value);
    return SHARPI_OK;
}

int32_t bench_sample(const struct sharpi_sampler_params *params, int32_t n_vocab, int32_t runs,
                     struct bench_sample *out, struct sharpi_error *err)
{
    struct sharpi_sampler *sampler = NULL;
    int32_t status = sharpi_sampler_create(params, n_vocab, &sampler, err);
    if (status != SHARPI_OK)
        return status;
    size_t n = (size_t)n_vocab;
    float *logits = malloc(2 * n * sizeof *logits);
    double *times = malloc((size_t)runs * sizeof *times);
    if (!logits || !times || runs < 1) {
        status =
            sharpi_fail(err, SHARPI_ENOMEM, "no memory to measure %d samples of %d logits", runs, n_vocab);
    } else {
        model_like_logits(logits, n_vocab);
        status = time_samples(sampler, logits, logits + n, times, n_vocab, runs, err);
        double median = times[runs / 2];
        *out = (struct bench_sample){n_vocab, median * 1e6, (double)n * sizeof *logits / median * 1e-6};
    }
    free(logits);
    free(times);
    sharpi_sampler_destroy(sampler);
    return status;
}

static void report_chain(const char *name, const struct sharpi_sampler_params *params)
{
    struct bench_sample b;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    if (bench_sample(params, 262144, 200, &b, &err) == SHARPI_OK)
        printf("sample  %-34s %8.1f us/sample %8.0f MB/s\n", name, b.microseconds, b.megabytes_per_second);
    else
        printf("%s\n", err.text);
}

static void report_sampler(void)
{
    struct sharpi_sampler_params p, q;
    sharpi_sampler_params_init(&p);
    report_chain("default (top_k 40, top_p, min_p)", &p);
    q = p;
    q.temperature = 0;
    report_chain("greedy", &q);
    q = p;
    q.repeat_penalty = 1.1f;
    q.dry_multiplier = 0.8f;
    report_chain("default, penalties, DRY", &q);
    q = p;
    q.top_k = 0;
    q.min_p = 0;
    report_chain("top_p 0.95 without top_k", &q);
    q = p;
    q.top_k = 0;
    q.top_p = 1;
    report_chain("min_p 0.05 without top_k", &q);
    q.min_p = 0;
    report_chain("temperature only", &q);
    q.chain = "temperature;top_p";
    q.temperature = 1.5f;
    q.top_p = 0.98f;
    report_chain("temperature 1.5, then top_p 0.98", &q);
    q = p;
    q.top_k = 1000;
    report_chain("top_k 1000", &q);
    q = p;
    q.top_k = 0;
    q.typical_p = 0.9f;
    report_chain("typical_p 0.9 without top_k", &q);
}

static char *read_text(const char *path, uint64_t *n)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    long size;
    if (!file)
        return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) > 0 && fseek(file, 0, SEEK_SET) == 0) {
        text = malloc((size_t)size);
        *n = text ? fread(text, 1, (size_t)size, file) : 0;
    }
    fclose(file);
    return text;
}

static int report_tokenizer(const char *model, const char *text_path)
{
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_tokenizer *tokenizer = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct bench_encode b;
    uint64_t n = 0;
    char *text = read_text(text_path, &n);
    if (!text) {
        printf("%s cannot be read\n", text_path);
        return 1;
    }
    int32_t status = sharpi_gguf_open(model, SHARPI_GGUF_HEADER_ONLY, &gguf, &err);
    double start = now();
    if (status == SHARPI_OK)
        status = sharpi_tokenizer_create(gguf, &tokenizer, &err);
    if (status == SHARPI_OK) {
        printf("create  %d tokens in %.1f ms\n", sharpi_tokenizer_n_tokens(tokenizer), (now() - start) * 1e3);
        status = bench_encode(tokenizer, text, n, 5, &b, &err);
    }
    if (status == SHARPI_OK)
        printf("encode  %llu bytes, %llu tokens, %.2f MB/s\n", (unsigned long long)b.n_bytes,
               (unsigned long long)b.n_tokens, b.megabytes_per_second);
    else
        printf("%s\n", err.text);
    sharpi_tokenizer_destroy(tokenizer);
    sharpi_gguf_close(gguf);
    free(text);
    return status != SHARPI_OK;
}

int main(int argc, char **argv)
{
    report_sampler();
    return argc > 2 ? report_tokenizer(argv[1], argv[2]) : 0;
}
