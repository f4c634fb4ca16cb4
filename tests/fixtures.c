/* See fixtures.h. The tolerances are the table of the fixtures' README. */
#include "fixtures.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct fixture fixtures[] = {
    {"llama", 0, 0, 0.09f, 0.21f, 0.40f},       {"llama3", 0, 0, 0.27f, 0.95f, 1.54f},
    {"qwen2", 0, 0, 0.08f, 0.26f, 0.37f},       {"qwen3", 0, 0, 0.02f, 0.10f, 0.18f},
    {"gemma2", 1, 0, 0.27f, 0.72f, 1.10f},      {"gemma3", 1, 0, 0.09f, 0.30f, 0.53f},
    {"gemma4-ple", 1, 0, 0.13f, 0.43f, 0.73f},  {"gemma4-wide", 1, 0, 0.19f, 0.68f, 1.09f},
    {"gemma4-keqv", 1, 0, 0.20f, 0.69f, 1.19f}, {"gemma4-moe", 1, 1, 0.11f, 0.42f, 1.02f},
    {"qwen3moe", 0, 1, 0.02f, 0.22f, 0.18f},    {"olmoe", 0, 1, 0.04f, 0.06f, 0.14f},
    {"mixtral", 0, 1, 0.04f, 0.14f, 0.24f},
};
const uint32_t n_fixtures = sizeof fixtures / sizeof *fixtures;

static void fixture_path(char *path, size_t n, const char *name, const char *suffix)
{
    const char *shared = getenv("SHARPI_SHARED");
    snprintf(path, n, "%s/fixtures/%s%s", shared ? shared : "../shared", name, suffix);
}

int fixtures_present(void)
{
    char path[512];
    fixture_path(path, sizeof path, "llama", ".gguf");
    return access(path, R_OK) == 0;
}

int fixtures_engine(sharpi_log_fn *log, struct sharpi_engine **engine)
{
    struct sharpi_engine_options options = {
        .size = sizeof options, .no_default_config = 1, .log = log, .log_level = SHARPI_LOG_WARN};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    if (!fixtures_present()) {
        fprintf(stderr, "skipped: no fixtures in $SHARPI_SHARED/fixtures\n");
        return 77;
    }
    if (sharpi_engine_open(&options, engine, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    return 0;
}

static int read_all(const char *name, const char *suffix, void *to, size_t n)
{
    char path[512];
    FILE *file;
    size_t got;
    fixture_path(path, sizeof path, name, suffix);
    file = fopen(path, "rb");
    got = file ? fread(to, 1, n, file) : 0;
    if (file)
        fclose(file);
    if (got != n)
        fprintf(stderr, "%s: %zu bytes instead of %zu\n", path, got, n);
    return got == n ? 0 : -1;
}

int fixture_read(const struct fixture *f, struct fixture_data *data)
{
    size_t n = sizeof(float) * FIXTURE_TOKENS * FIXTURE_VOCAB;
    data->logits = malloc(n);
    fixture_path(data->model, sizeof data->model, f->name, ".gguf");
    if (data->logits && read_all(f->name, ".tokens.i32", data->tokens, sizeof data->tokens) == 0 &&
        read_all(f->name, ".logits.f32", data->logits, n) == 0 &&
        read_all(f->name, ".greedy.i32", data->greedy, sizeof data->greedy) == 0)
        return 0;
    free(data->logits);
    return -1;
}

float *run_tokens(struct sharpi_model *model, const int32_t *tokens, uint32_t n)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_session *session = NULL;
    float *logits = malloc(sizeof *logits * n * model->desc.n_vocab);
    struct sharpi_work work = {.tokens = tokens, .n_tokens = n, .want = 2, .logits = logits};
    int32_t status = logits ? sharpi_session_create(model, &session, &err) : SHARPI_ENOMEM;
    work.session = session;
    if (!status)
        status = sharpi_step(model, &work, 1, &err);
    sharpi_session_free(session);
    if (!status)
        return logits;
    fprintf(stderr, "%s\n", err.text);
    free(logits);
    return NULL;
}

float max_difference(const float *a, const float *b, uint64_t n)
{
    float largest = 0;
    uint64_t i;
    for (i = 0; i < n; i++) {
        float d = fabsf(a[i] - b[i]);
        if (!(d <= largest)) /* NaN counts */
            largest = isnan(d) ? INFINITY : d;
    }
    return largest;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

float percentile_difference(const float *a, const float *b, uint32_t n_rows, uint32_t width)
{
    float *rows = malloc(sizeof *rows * n_rows), value = INFINITY;
    uint32_t i;
    for (i = 0; rows && i < n_rows; i++)
        rows[i] = max_difference(a + (size_t)i * width, b + (size_t)i * width, width);
    if (rows) {
        qsort(rows, n_rows, sizeof *rows, by_value);
        value = rows[n_rows * 9 / 10];
    }
    free(rows);
    return value;
}

uint32_t argmax(const float *row, uint32_t n)
{
    uint32_t best = 0, i;
    for (i = 1; i < n; i++)
        best = row[i] > row[best] ? i : best;
    return best;
}

uint32_t rank_of(const float *row, uint32_t n, uint32_t i)
{
    uint32_t rank = 0, j;
    for (j = 0; j < n; j++)
        rank += row[j] > row[i];
    return rank;
}
