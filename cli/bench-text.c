/* sharpi bench text: speed of the tokenizer and cost of the sampler, both on one thread.
 *
 * Invariant: a time is of the call alone; making, copying and freeing its inputs are outside. Texts and logits are the same on
 * every machine, so that numbers compare. An encoding counts its fastest run, a sampler its median.
 */
#include "bench-text.h"

#include <jansson.h>
#include <math.h>
#include <sharpi/sampler.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "core/tokenizer.h"

enum { TEXT_BYTES = 1 << 20, MAX_TEXT = 1 << 30, MAX_LOGITS = 1 << 24, SAMPLES_PER_REPETITION = 40 };

struct bench_text {
    const char *model, *file;
    uint32_t n_logits, repetitions, json;
    struct sharpi_tokenizer *tokenizer;
    json_t *report, *texts, *chains; /* the arrays belong to the report; NULL when a table is printed */
};

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 40;
}

/* ---- Tokenizer */

/* Words of several scripts, numbers and code, put together at random: no line is like another. */
static void mixed_text(char *text, uint64_t n)
{
    static const char *const words[] = {
        "the ",         "of ",        "memory ",  "attention ", "a ",         "unbelievably ", "Sequence ",
        "in ",          "token, ",    "is ",      "that.\n",    "and ",       "which ",        "don't ",
        "HTTP/1.1 ",    "Über ",      "Straße ",  "größer, ",   "l'été ",     "déjà ",         "mañana ",
        "¿por qué? ",   "привет ",    "словарь ", "переводы ",  "ελληνικά ",  "語彙",          "東京は",
        "函数",         "机器学习。", "한국어 ",  "토큰 ",      "العربية ",   "हिन्दी ",        "return x;\n",
        "    if (n > ", "0x1f) {\n",  "3.14159 ", "2024 ",      "\U0001f600 "};
    uint64_t state = 1, at = 0;
    while (at < n) {
        const char *word = words[next_random(&state) % (sizeof words / sizeof *words)];
        uint64_t length = strlen(word);
        if (length > n - at) { /* not half a character at the end */
            memset(text + at, '.', n - at);
            return;
        }
        memcpy(text + at, word, length);
        at += length;
    }
}

static int32_t print_encoding(const struct bench_text *b, const char *name, uint64_t n_bytes,
                              uint64_t n_tokens, double seconds, struct sharpi_error *err)
{
    double megabytes_per_second = (double)n_bytes / seconds * 1e-6;
    if (b->texts) {
        json_t *row = json_pack("{s:s, s:I, s:I, s:f}", "text", name, "bytes", (json_int_t)n_bytes, "tokens",
                                (json_int_t)n_tokens, "mb_per_s", megabytes_per_second);
        return json_array_append_new(b->texts, row)
                   ? sharpi_fail(err, SHARPI_EINVAL, "'%s' is not UTF-8 and cannot be in JSON", name)
                   : SHARPI_OK;
    }
    printf("| %-30s | %9llu | %9llu | %8.2f |\n", name, (unsigned long long)n_bytes,
           (unsigned long long)n_tokens, megabytes_per_second);
    return SHARPI_OK;
}

static int32_t measure_encoding(const struct bench_text *b, const char *name, const char *text, uint64_t n,
                                struct sharpi_error *err)
{
    struct sharpi_tokens ids = SHARPI_TOKENS_INIT;
    double best = INFINITY;
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < b->repetitions && !status && !interrupted(); i++) {
        double start = now_seconds(), took;
        ids.n = 0;
        status = sharpi_tokenizer_encode(b->tokenizer, text, n, 0, &ids, err);
        took = now_seconds() - start;
        best = took < best ? took : best;
    }
    if (!status && !interrupted())
        status = print_encoding(b, name, n, ids.n, best, err);
    sharpi_tokens_free(&ids);
    return status;
}

static int32_t measure_made_texts(const struct bench_text *b, struct sharpi_error *err)
{
    char *text = malloc(TEXT_BYTES);
    int32_t status;
    if (!text)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a text of %d bytes", TEXT_BYTES);
    mixed_text(text, TEXT_BYTES);
    status = measure_encoding(b, "mixed languages and code", text, TEXT_BYTES, err);
    memset(text, 'a', TEXT_BYTES);
    if (!status)
        status = measure_encoding(b, "one line of one character", text, TEXT_BYTES, err);
    free(text);
    return status;
}

static int32_t open_tokenizer(struct bench_text *b, struct sharpi_error *err)
{
    struct sharpi_gguf *gguf = NULL;
    double start = now_seconds(), took;
    int32_t status = sharpi_gguf_open(b->model, SHARPI_GGUF_HEADER_ONLY, &gguf, err), n;
    if (!status)
        status = sharpi_tokenizer_create(gguf, &b->tokenizer, err);
    sharpi_gguf_close(gguf);
    if (status)
        return status;
    took = (now_seconds() - start) * 1e3;
    n = sharpi_tokenizer_n_tokens(b->tokenizer);
    if (b->report)
        return json_object_set_new(b->report, "vocabulary", json_integer(n)) ||
                       json_object_set_new(b->report, "load_ms", json_real(took))
                   ? sharpi_fail(err, SHARPI_ENOMEM, "no memory for the report")
                   : SHARPI_OK;
    printf("%s: a vocabulary of %d, loaded in %.0f ms\n\n"
           "| text                           |     bytes |    tokens |     MB/s |\n"
           "|--------------------------------|----------:|----------:|---------:|\n",
           b->model, n, took);
    return SHARPI_OK;
}

static int32_t measure_tokenizer(struct bench_text *b, struct sharpi_error *err)
{
    char *text = NULL;
    uint64_t n = 0;
    int32_t status = SHARPI_OK;
    if (b->file)
        status = read_file(b->file, MAX_TEXT, &text, &n, err);
    if (!status)
        status = open_tokenizer(b, err);
    if (!status && text)
        status = measure_encoding(b, b->file, text, n, err);
    if (!status)
        status = measure_made_texts(b, err);
    if (!status && !b->json)
        status = put_text("\n", 1, err);
    free(text);
    return status;
}

/* ---- Sampler */

/* As a model's: bell-shaped with a few high ones. */
static void model_like_logits(float *logits, uint32_t n)
{
    uint64_t state = 1;
    for (uint32_t i = 0; i < n; i++) {
        double sum = 0;
        for (uint32_t k = 0; k < 4; k++)
            sum += (double)next_random(&state) * 0x1p-24 - 0.5;
        logits[i] = (float)(sum * 4);
    }
    for (uint32_t i = 0; i < 30; i++)
        logits[(uint64_t)i * 7919 % n] = 18 - 0.5f * (float)i;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* times[runs], sorted. */
static int32_t time_samples(struct sharpi_sampler *sampler, const float *logits, float *copy, uint32_t n,
                            double *times, uint32_t runs, struct sharpi_error *err)
{
    for (uint32_t i = 0; i < runs; i++) {
        int32_t id, status;
        double start;
        memcpy(copy, logits, n * sizeof *copy);
        start = now_seconds();
        id = sharpi_sampler_sample(sampler, copy, (int32_t)n);
        times[i] = now_seconds() - start;
        status = sharpi_sampler_accept(sampler, id, err);
        if (status)
            return status;
    }
    qsort(times, runs, sizeof *times, by_value);
    return SHARPI_OK;
}

/* logits[2 n]: the logits and room for a copy. */
static int32_t measure_chain(const struct bench_text *b, const char *name,
                             const struct sharpi_sampler_params *params, float *logits, double *times,
                             struct sharpi_error *err)
{
    const uint32_t runs = b->repetitions * SAMPLES_PER_REPETITION;
    struct sharpi_sampler *sampler = NULL;
    int32_t status = sharpi_sampler_create(params, (int32_t)b->n_logits, &sampler, err);
    if (!status)
        status = time_samples(sampler, logits, logits + b->n_logits, b->n_logits, times, runs, err);
    sharpi_sampler_destroy(sampler);
    if (status)
        return status;
    if (b->chains)
        return json_array_append_new(b->chains,
                                     json_pack("{s:s, s:f}", "chain", name, "us", times[runs / 2] * 1e6))
                   ? sharpi_fail(err, SHARPI_ENOMEM, "no memory for the report")
                   : SHARPI_OK;
    printf("| %-34s | %9.1f |\n", name, times[runs / 2] * 1e6);
    return SHARPI_OK;
}

struct chain {
    const char *name, *stages;
    float temperature, top_p, min_p, typical_p, repeat_penalty, dry_multiplier;
    int32_t top_k;
    float xtc_probability;
};

/* The default first; then what has to look at many candidates: no top_k, or a wide one. */
static const struct chain chains[] = {
    {"default: top_k 40, top_p, min_p", NULL, 0.8f, 0.95f, 0.05f, 1, 1, 0, 40, 0},
    {"greedy", NULL, 0, 0.95f, 0.05f, 1, 1, 0, 40, 0},
    {"default with penalties and DRY", NULL, 0.8f, 0.95f, 0.05f, 1, 1.1f, 0.8f, 40, 0},
    {"top_k 1000, top_p, min_p", NULL, 0.8f, 0.95f, 0.05f, 1, 1, 0, 1000, 0},
    {"top_p 0.95, no top_k", NULL, 0.8f, 0.95f, 0, 1, 1, 0, 0, 0},
    {"min_p 0.05, no top_k", NULL, 0.8f, 1, 0.05f, 1, 1, 0, 0, 0},
    {"typical_p 0.9, no top_k", NULL, 0.8f, 1, 0, 0.9f, 1, 0, 0, 0},
    {"xtc, no top_k", NULL, 0.8f, 1, 0, 1, 1, 0, 0, 1},
    {"temperature only", NULL, 0.8f, 1, 0, 1, 1, 0, 0, 0},
    {"temperature 1.5, then top_p 0.98", "temperature;top_p", 1.5f, 0.98f, 0, 1, 1, 0, 0, 0},
};

static int32_t measure_chains(const struct bench_text *b, float *logits, double *times,
                              struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (size_t i = 0; i < sizeof chains / sizeof *chains && !status && !interrupted(); i++) {
        const struct chain *c = &chains[i];
        struct sharpi_sampler_params p;
        sharpi_sampler_params_init(&p);
        p.chain = c->stages;
        p.temperature = c->temperature;
        p.top_p = c->top_p;
        p.min_p = c->min_p;
        p.typical_p = c->typical_p;
        p.repeat_penalty = c->repeat_penalty;
        p.dry_multiplier = c->dry_multiplier;
        p.top_k = c->top_k;
        p.xtc_probability = c->xtc_probability;
        status = measure_chain(b, c->name, &p, logits, times, err);
    }
    return status;
}

static int32_t measure_sampler(const struct bench_text *b, struct sharpi_error *err)
{
    float *logits = malloc((size_t)b->n_logits * 2 * sizeof *logits);
    double *times = malloc((size_t)b->repetitions * SAMPLES_PER_REPETITION * sizeof *times);
    int32_t status;
    if (!logits || !times) {
        status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for %u logits", b->n_logits);
    } else {
        model_like_logits(logits, b->n_logits);
        if (!b->json)
            printf("| sampler of %7u logits          | us/sample |\n"
                   "|------------------------------------|----------:|\n",
                   b->n_logits);
        status = measure_chains(b, logits, times, err);
    }
    free(logits);
    free(times);
    return status;
}

/* ---- The command */

static int32_t begin_report(struct bench_text *b, struct sharpi_error *err)
{
    b->texts = json_array();
    b->chains = json_array();
    b->report = json_pack("{s:s?, s:o, s:i, s:o}", "model", b->model, "texts", b->texts, "logits",
                          (int)b->n_logits, "chains", b->chains);
    if (b->report)
        return SHARPI_OK;
    return sharpi_fail(err, SHARPI_EINVAL, "'%s' is not UTF-8 and cannot be in JSON",
                       b->model ? b->model : "");
}

static int32_t print_report(const struct bench_text *b, struct sharpi_error *err)
{
    char *text = json_dumps(b->report, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    int32_t status;
    if (!text)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the report");
    fputs(text, stdout);
    status = put_text("\n", 1, err);
    free(text);
    return status;
}

static int32_t bench_text(struct bench_text *b, struct sharpi_error *err)
{
    int32_t status = b->json ? begin_report(b, err) : SHARPI_OK;
    if (!status && b->model)
        status = measure_tokenizer(b, err);
    if (!status && !interrupted())
        status = measure_sampler(b, err);
    if (!status && b->report && !interrupted())
        status = print_report(b, err);
    sharpi_tokenizer_destroy(b->tokenizer);
    json_decref(b->report);
    return status;
}

int bench_text_command(int argc, char **argv)
{
    struct bench_text b = {.n_logits = 262144, .repetitions = 5};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const char *args[1];
    uint32_t n_args;
    int code;
    const struct option own[] = {{"model", 'm', OPTION_STRING, "FILE",
                                  "GGUF file with a vocabulary; without it the sampler only", &b.model, NULL},
                                 {"file", 'f', OPTION_STRING, "FILE",
                                  "a text to encode, beside those made for the purpose", &b.file, NULL},
                                 {"logits", 0, OPTION_UINT, "N",
                                  "size of the vocabulary that is sampled from (262144)", &b.n_logits, NULL},
                                 {"repeat", 'r', OPTION_UINT, "N",
                                  "repetitions of an encoding (5); 40 samples for each", &b.repetitions,
                                  NULL},
                                 {"json", 0, OPTION_FLAG, NULL, "JSON instead of tables", &b.json, NULL},
                                 {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, NULL};
    code = parse_command("bench text", "sharpi bench text [-m FILE] [OPTIONS]",
                         "Measures the tokenizer's speed and what a sampled token costs, on one thread.",
                         tables, argc, argv, args, 1, &n_args);
    if (code >= 0)
        return code;
    if (n_args)
        b.model = args[0];
    if (b.file && !b.model) {
        sharpi_fail(&err, SHARPI_EINVAL, "--file needs a vocabulary: add -m FILE.gguf");
        return fail_usage("bench text", &err);
    }
    if (b.n_logits == 0 || b.n_logits > MAX_LOGITS || b.repetitions == 0 || b.repetitions > 1000) {
        sharpi_fail(&err, SHARPI_EINVAL, "--logits must be 1 to %d and --repeat 1 to 1000", MAX_LOGITS);
        return fail_usage("bench text", &err);
    }
    catch_interrupt();
    if (bench_text(&b, &err))
        return fail("bench text", &err);
    return interrupted() ? EXIT_INTERRUPT : EXIT_OK;
}
