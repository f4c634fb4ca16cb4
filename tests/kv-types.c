/* KV formats compared with f32 at a model's own shape: whatever a narrower cache rounds, the highest logit of every position stays
 * among f32's five highest. All formats read the same tokens: half of them as a prompt, the rest one by one, so that the kernels
 * for many rows and for few take part. One model is loaded at a time.
 *
 *   kv-types MODEL.gguf N_TOKENS [BACKEND]   random tokens, the same in every run; memory for 2 x N_TOKENS x vocabulary x 4 bytes
 *   kv-types                                 the small models of tests, as the suite runs it
 *
 * Exit status 1 if that does not hold, a layer's cache is not of the format that was asked for, or no logit differs from f32's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/session.h"
#include "fixtures.h"

struct comparison {
    struct sharpi_engine *engine;
    const char *path, *backend;
    uint32_t n_tokens, n_vocab;
    int32_t *tokens;
    float *wide, *narrow; /* [n_tokens, n_vocab], with f32 and with another format */
};

static void print_log(void *user, int32_t level, const char *topic, const char *message)
{
    (void)user;
    (void)level;
    fprintf(stderr, "%s: %s\n", topic, message);
}

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Arrays and tokens, once the vocabulary is known. */
static int32_t prepare(struct comparison *c, uint32_t n_vocab, struct sharpi_error *err)
{
    uint64_t state = 1;
    c->n_vocab = n_vocab;
    c->tokens = malloc(sizeof *c->tokens * c->n_tokens);
    c->wide = malloc(sizeof *c->wide * c->n_tokens * n_vocab);
    c->narrow = malloc(sizeof *c->narrow * c->n_tokens * n_vocab);
    if (!c->tokens || !c->wide || !c->narrow)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for 2 x %u x %u logits", c->n_tokens, n_vocab);
    for (uint32_t i = 0; i < c->n_tokens; i++)
        c->tokens[i] = (int32_t)(next_random(&state) % n_vocab);
    return SHARPI_OK;
}

/* Every layer that holds K and V holds them in this format. */
static int32_t check_layers(const struct sharpi_model *model, const char *kv, struct sharpi_error *err)
{
    for (uint32_t l = 0; l < model->desc.n_layers; l++) {
        const struct sharpi_kv *format = model->kv_layers[l].kv;
        if (!format && model->desc.layers[l].kv_source >= 0)
            continue;
        if (!format || strcmp(format->name, kv) != 0)
            return sharpi_fail(err, SHARPI_EBUG, "layer %u holds %s instead of %s", l,
                               format ? format->name : "nothing", kv);
    }
    return SHARPI_OK;
}

static int32_t feed(const struct comparison *c, struct sharpi_model *model, float *logits,
                    struct sharpi_error *err)
{
    struct sharpi_session *session = NULL;
    int32_t status = sharpi_session_create(model, &session, err);
    uint32_t at = 0, n = c->n_tokens / 2;
    for (; !status && at < c->n_tokens; at += n, n = 1) {
        const struct sharpi_work work = {.session = session,
                                         .tokens = c->tokens + at,
                                         .n_tokens = n,
                                         .want = 2,
                                         .logits = logits + (uint64_t)at * c->n_vocab};
        status = sharpi_step(model, &work, 1, err);
    }
    sharpi_session_free(session);
    return status;
}

/* Logits of all tokens with this format. */
static int32_t run_format(struct comparison *c, const char *kv, int32_t is_wide, struct sharpi_error *err)
{
    const struct sharpi_model_options options = {
        .size = sizeof options, .backend = c->backend, .kv = kv, .context = c->n_tokens};
    struct sharpi_model *model = NULL;
    int32_t status = sharpi_model_load(c->engine, c->path, &options, &model, err);
    if (!status)
        status = check_layers(model, kv, err);
    if (!status && is_wide) {
        printf("%s: %u tokens, the first %u as a prompt, on %s\n", c->path, c->n_tokens, c->n_tokens / 2,
               model->backend_names);
        status = prepare(c, model->desc.n_vocab, err);
    }
    if (!status)
        status = feed(c, model, is_wide ? c->wide : c->narrow, err);
    sharpi_model_free(model);
    return status;
}

enum { TOP = 5 };

/* Ids of the highest logits of a row of n, highest first. */
static void highest(uint32_t ids[TOP], const float *row, uint32_t n)
{
    uint32_t n_ids = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = n_ids;
        while (at > 0 && row[i] > row[ids[at - 1]])
            at--;
        if (at == TOP)
            continue;
        n_ids += n_ids < TOP;
        memmove(ids + at + 1, ids + at, (n_ids - 1 - at) * sizeof *ids);
        ids[at] = i;
    }
}

static uint32_t contains(const uint32_t ids[TOP], uint32_t id)
{
    for (uint32_t i = 0; i < TOP; i++)
        if (ids[i] == id)
            return 1;
    return 0;
}

/* 1: the narrow format's highest logits are where they may be. What all have in common says more where a model repeats its input,
 * as one of random weights does whose output matrix is its embedding. */
static int32_t compare(const struct comparison *c, const char *kv)
{
    const float largest = max_difference(c->wide, c->narrow, (uint64_t)c->n_tokens * c->n_vocab);
    uint32_t near = 0, equal = 0, common = 0;
    for (uint32_t i = 0; i < c->n_tokens; i++) {
        uint32_t wide[TOP], narrow[TOP];
        highest(wide, c->wide + (uint64_t)i * c->n_vocab, c->n_vocab);
        highest(narrow, c->narrow + (uint64_t)i * c->n_vocab, c->n_vocab);
        near += contains(wide, narrow[0]);
        equal += wide[0] == narrow[0];
        for (uint32_t k = 0; k < TOP; k++)
            common += contains(wide, narrow[k]);
    }
    printf("%-5s top-1 in f32's top-5: %u of %u, equal: %u, top-5 in common: %.0f%%, logits differ by at "
           "most %.4f\n",
           kv, near, c->n_tokens, equal, 100.0 * common / (TOP * c->n_tokens), (double)largest);
    fflush(stdout);
    if (largest == 0) /* it rounds, so something must differ */
        fprintf(stderr, "%s: the same logits as with f32\n", kv);
    return near == c->n_tokens && largest > 0 && largest < INFINITY;
}

static int compare_formats(struct sharpi_engine *engine, const char *path, uint32_t n_tokens,
                           const char *backend)
{
    static const char *const formats[] = {"f16", "bf16", "q8_0"};
    struct comparison c = {.engine = engine, .path = path, .backend = backend, .n_tokens = n_tokens};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = run_format(&c, "f32", 1, &err), all_near = 1;
    for (uint32_t i = 0; i < 3 && !status; i++) {
        status = run_format(&c, formats[i], 0, &err);
        if (!status)
            all_near &= compare(&c, formats[i]);
    }
    if (status)
        fprintf(stderr, "%s\n", err.text);
    free(c.tokens);
    free(c.wide);
    free(c.narrow);
    return status || !all_near;
}

/* Those without experts: where rounding swaps one another token may come up. */
static int compare_fixtures(struct sharpi_engine *engine)
{
    int failed = 0;
    for (uint32_t i = 0; i < n_fixtures; i++) {
        struct fixture_data data;
        if (fixtures[i].mixture)
            continue;
        if (fixture_read(&fixtures[i], &data))
            return 1;
        free(data.logits);
        failed |= compare_formats(engine, data.model, 100, NULL);
    }
    return failed;
}

int main(int argc, char **argv)
{
    const uint32_t n_tokens = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    struct sharpi_engine_options options = {
        .size = sizeof options, .no_default_config = 1, .log = print_log, .log_level = SHARPI_LOG_WARN};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_engine *engine = NULL;
    int status;
    if (argc > 1 && (argc > 4 || n_tokens < 2)) {
        fprintf(stderr, "usage: kv-types MODEL.gguf N_TOKENS [BACKEND], of at least 2 tokens\n");
        return 2;
    }
    if (argc == 1 && (status = fixtures_engine(print_log, &engine)))
        return status;
    if (argc > 1 && sharpi_engine_open(&options, &engine, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    status = argc == 1 ? compare_fixtures(engine)
                       : compare_formats(engine, argv[1], n_tokens, argc == 4 ? argv[3] : NULL);
    sharpi_engine_close(engine);
    return status;
}
