/* The scheduler against single runs: whatever else is in the batch, whatever was reused, preempted or cancelled, every
 * sequence's logits are those that it has alone.
 */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CUnit/Basic.h>

#include "core/kv-layout.h"
#include "fixtures.h"
#include "scheduler-world.h"

enum { N_SEQS = 8 };

static struct sharpi_engine *engine;
static struct watch watch;
static char last_warning[512];

static void keep_log(void *user, int32_t level, const char *topic, const char *message)
{
    (void)user;
    (void)level;
    snprintf(last_warning, sizeof last_warning, "%s: %s", topic, message);
}

static struct sharpi_model *load(const struct fixture_data *data, struct sharpi_model_options o)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_model *model = NULL;
    o.size = sizeof o;
    o.kv = o.kv ? o.kv : "f32";
    o.context = o.context ? o.context : 512;
    o.max_sessions = o.max_sessions ? o.max_sessions : N_SEQS;
    o.n_threads = 2;
    if (sharpi_model_load(engine, data->model, &o, &model, &err))
        fprintf(stderr, "%s\n", err.text);
    CU_ASSERT_FATAL(model != NULL);
    return model;
}

static struct sharpi_scheduler *schedule(struct sharpi_model *model, struct sharpi_scheduler_options o)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_scheduler *s = NULL;
    o.size = sizeof o;
    o.observe = watch_observe;
    o.observe_user = &watch;
    watch_clear(&watch);
    if (sharpi_scheduler_create(model, &o, &s, &err))
        fprintf(stderr, "%s\n", err.text);
    CU_ASSERT_FATAL(s != NULL);
    return s;
}

static void open_fixture(const char *name, struct fixture_data *data)
{
    for (uint32_t i = 0; i < n_fixtures; i++) {
        if (strcmp(fixtures[i].name, name) == 0) {
            CU_ASSERT_FATAL(fixture_read(&fixtures[i], data) == 0);
            free(data->logits);
        }
    }
}

static struct sharpi_scheduler_stats stats_of(struct sharpi_scheduler *s)
{
    struct sharpi_scheduler_stats stats;
    sharpi_scheduler_get_stats(s, &stats);
    return stats;
}

static struct sharpi_class_stats class_of_window(const struct sharpi_scheduler_stats *stats, int32_t windowed)
{
    for (uint32_t c = 0; c < stats->n_classes; c++) {
        if ((stats->classes[c].window != 0) == windowed)
            return stats->classes[c];
    }
    return (struct sharpi_class_stats){.window = 0};
}

/* ---- Compared with single runs */

struct comparison {
    float largest; /* difference of a logit */
    float rows[4096];
    uint32_t n_rows, wrong_tokens;
};

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static float percentile(struct comparison *c)
{
    qsort(c->rows, c->n_rows, sizeof *c->rows, by_value);
    return c->n_rows ? c->rows[c->n_rows * 9 / 10] : INFINITY;
}

/* The answer's prompt and tokens run alone: every row that was sampled from, and what greedy makes of it. */
static void compare(struct sharpi_model *model, const int32_t *prompt, uint32_t n_prompt,
                    const struct answer *answer, struct comparison *c)
{
    int32_t tokens[1024];
    float *logits;
    uint32_t i;
    memcpy(tokens, prompt, n_prompt * sizeof *tokens);
    memcpy(tokens + n_prompt, answer->tokens, answer->n * sizeof *tokens);
    logits = run_tokens(model, tokens, n_prompt + answer->n);
    CU_ASSERT_FATAL(logits != NULL);
    for (i = 0; i < answer->n; i++) {
        const float *alone = logits + (size_t)(n_prompt - 1 + i) * FIXTURE_VOCAB;
        const float *seen = watch_find(&watch, answer->id, n_prompt + i);
        float d = seen ? max_difference(alone, seen, FIXTURE_VOCAB) : INFINITY;
        c->largest = fmaxf(c->largest, d);
        c->rows[c->n_rows++] = d;
        c->wrong_tokens += (int32_t)argmax(alone, FIXTURE_VOCAB) != answer->tokens[i];
    }
    free(logits);
}

/* Eight sequences of other lengths: three from the start, the others join as tokens come, and all leave at different steps. */
static void run_batch(const struct fixture *f, const struct fixture_data *data,
                      struct sharpi_model_options options, float tolerance)
{
    struct sharpi_model *model = load(data, options);
    struct sharpi_scheduler *s = schedule(model, (struct sharpi_scheduler_options){.max_stall_ms = 0});
    struct answer *answers = calloc(N_SEQS, sizeof *answers);
    struct comparison c = {.largest = 0};
    struct sharpi_scheduler_stats stats;
    float difference;
    uint32_t i;
    CU_ASSERT_FATAL(answers != NULL);
    for (i = 0; i < N_SEQS; i++) {
        struct sharpi_request r = {.tokens = data->tokens + 3 * i,
                                   .n_tokens = 1 + (i * 53) % 150,
                                   .max_tokens = 12 + 5 * i,
                                   .ignore_end = 1};
        if (i >= 3)
            CU_ASSERT(answer_wait_tokens(&answers[i - 3], 4));
        CU_ASSERT(answer_ask(s, r, &answers[i]) == 0);
    }
    for (i = 0; i < N_SEQS; i++) {
        CU_ASSERT(answer_wait(&answers[i]));
        CU_ASSERT(answers[i].status == 0 && answers[i].finish == SHARPI_FINISH_LENGTH);
        CU_ASSERT(answers[i].n == 12 + 5 * i && answers[i].usage.output_tokens == answers[i].n);
    }
    stats = stats_of(s);
    CU_ASSERT(stats.batch_seqs.sum > (double)stats.batch_seqs.n); /* else nothing ran together */
    CU_ASSERT(stats.failed == 0 && stats.accounting_errors == 0);
    sharpi_scheduler_destroy(s);
    for (i = 0; i < N_SEQS; i++)
        compare(model, data->tokens + 3 * i, 1 + (i * 53) % 150, &answers[i], &c);
    difference = f->mixture && tolerance > 0.01f ? percentile(&c) : c.largest;
    CU_ASSERT(difference <= tolerance);
    if (tolerance <= 0.01f)
        CU_ASSERT(c.wrong_tokens == 0);
    fprintf(stderr,
            "  %-12s %-5s %s: %g (tolerance %g), %llu steps, %.1f sequences a step, %u of %u tokens differ\n",
            f->name, options.kv, options.headroom ? "ring" : "full", (double)difference, (double)tolerance,
            (unsigned long long)stats.steps, stats.batch_seqs.sum / (double)stats.batch_seqs.n,
            c.wrong_tokens, c.n_rows);
    free(answers);
    sharpi_model_free(model);
}

static void each_fixture(void (*check)(const struct fixture *, const struct fixture_data *))
{
    for (uint32_t i = 0; i < n_fixtures; i++) {
        struct fixture_data data;
        CU_ASSERT_FATAL(fixture_read(&fixtures[i], &data) == 0);
        check(&fixtures[i], &data);
        free(data.logits);
    }
}

static void check_batches(const struct fixture *f, const struct fixture_data *data)
{
    run_batch(f, data, (struct sharpi_model_options){.kv = "f32", .chunk = 64}, 1e-4f);
    run_batch(f, data, (struct sharpi_model_options){.kv = "q8_0", .chunk = 64}, 2 * f->q8_0_kv);
}

static void eight_sequences_equal_single_runs(void)
{
    each_fixture(check_batches);
}

static void check_ring_batches(const struct fixture *f, const struct fixture_data *data)
{
    if (!f->windowed)
        return;
    run_batch(f, data, (struct sharpi_model_options){.kv = "f32", .chunk = 32, .headroom = 32}, 1e-4f);
    run_batch(f, data, (struct sharpi_model_options){.kv = "q8_0", .chunk = 64, .headroom = 64},
              2 * f->q8_0_kv);
}

static void eight_sequences_over_wrapped_rings_equal_single_runs(void)
{
    each_fixture(check_ring_batches);
}

/* ---- Reuse */

/* A turn, its answer, and a second turn that continues both. */
static void check_second_turn(const struct fixture *f, const struct fixture_data *data)
{
    struct sharpi_model *model =
        load(data, (struct sharpi_model_options){.chunk = 64, .headroom = 128, .max_sessions = 2});
    struct sharpi_scheduler *s = schedule(model, (struct sharpi_scheduler_options){.max_stall_ms = 0});
    struct answer *a = calloc(3, sizeof *a);
    struct comparison c = {.largest = 0};
    struct sharpi_scheduler_stats before, after;
    int32_t turn[512];
    uint32_t n = 150;
    struct sharpi_request r = {.tokens = data->tokens, .n_tokens = n, .max_tokens = 20, .ignore_end = 1};
    CU_ASSERT_FATAL(a != NULL);
    CU_ASSERT(answer_ask(s, r, &a[0]) == 0 && answer_wait(&a[0]));
    CU_ASSERT(a[0].usage.reused_tokens == 0 && a[0].usage.reuse_limit == SHARPI_REUSE_NONE_YET);
    memcpy(turn, data->tokens, n * sizeof *turn);
    memcpy(turn + n, a[0].tokens, a[0].n * sizeof *turn);
    memcpy(turn + n + 20, data->tokens + 10, 40 * sizeof *turn);
    before = stats_of(s);
    r.tokens = turn;
    r.n_tokens = n + 60;
    CU_ASSERT(answer_ask(s, r, &a[1]) == 0 && answer_wait(&a[1]));
    after = stats_of(s);
    CU_ASSERT(a[1].usage.reused_tokens == n + 19); /* the last token of an answer is not computed */
    CU_ASSERT(a[1].usage.reuse_limit == SHARPI_REUSE_DIVERGES);
    CU_ASSERT(after.prefill_tokens - before.prefill_tokens == 41);
    CU_ASSERT(after.prefix_hit_tokens == n + 19);
    turn[n + 25] ^= 1; /* the last message is edited */
    CU_ASSERT(answer_ask(s, r, &a[2]) == 0 && answer_wait(&a[2]));
    CU_ASSERT(a[2].usage.reused_tokens == n + 25);
    sharpi_scheduler_destroy(s);
    compare(model, turn, n + 60, &a[2], &c);
    turn[n + 25] ^= 1;
    compare(model, turn, n + 60, &a[1], &c);
    CU_ASSERT(c.largest <= 1e-4f && c.wrong_tokens == 0);
    if (c.largest > 1e-4f)
        fprintf(stderr, "  %s: %g\n", f->name, (double)c.largest);
    free(a);
    sharpi_model_free(model);
}

static void second_turn_computes_only_what_is_new(void)
{
    each_fixture(check_second_turn);
}

static void running_requests_share_a_prefix(void)
{
    struct fixture_data data;
    struct sharpi_model *model;
    struct sharpi_scheduler *s;
    struct sharpi_scheduler_stats stats;
    struct answer *a = calloc(3, sizeof *a);
    int32_t prompts[3][170];
    open_fixture("gemma3", &data);
    model = load(&data, (struct sharpi_model_options){.chunk = 32, .headroom = 512, .max_sessions = 3});
    s = schedule(model, (struct sharpi_scheduler_options){.max_stall_ms = 0});
    CU_ASSERT_FATAL(a != NULL);
    for (uint32_t i = 0; i < 3; i++) { /* all at once: the later two wait until the first has computed it */
        struct sharpi_request r = {.tokens = prompts[i], .n_tokens = 170, .max_tokens = 200, .ignore_end = 1};
        memcpy(prompts[i], data.tokens, sizeof prompts[i]);
        prompts[i][160] = 5 + (int32_t)i;
        CU_ASSERT(answer_ask(s, r, &a[i]) == 0);
    }
    for (uint32_t i = 0; i < 3; i++)
        CU_ASSERT(answer_wait_tokens(&a[i], 2));
    stats = stats_of(s);
    CU_ASSERT(class_of_window(&stats, 0).shared >= 2 && class_of_window(&stats, 1).shared >= 1);
    CU_ASSERT(stats.prefix_hit_tokens >= 2 * 128);
    CU_ASSERT(class_of_window(&stats, 0).active <= 2 + 3 * 4);
    for (uint32_t i = 0; i < 3; i++) {
        sharpi_scheduler_cancel(s, a[i].id);
        CU_ASSERT(answer_wait(&a[i]) && a[i].finish == SHARPI_FINISH_CANCELLED);
    }
    sharpi_scheduler_destroy(s);
    for (uint32_t i = 0; i < 3; i++) {
        struct comparison c = {.largest = 0};
        compare(model, prompts[i], 170, &a[i], &c);
        CU_ASSERT(c.largest <= 1e-4f && c.wrong_tokens == 0);
    }
    free(a);
    sharpi_model_free(model);
}

static void reuse_is_verified_against_a_cold_run(void)
{
    struct fixture_data data;
    struct sharpi_model *model;
    struct sharpi_scheduler *s;
    struct sharpi_scheduler_stats stats;
    struct answer *a = calloc(3, sizeof *a);
    struct sharpi_request r = {.n_tokens = 150, .max_tokens = 3, .ignore_end = 1};
    CU_ASSERT_FATAL(a != NULL);
    open_fixture("gemma4-ple", &data);
    r.tokens = data.tokens;
    model = load(&data, (struct sharpi_model_options){.chunk = 64, .max_sessions = 2});
    s = schedule(model, (struct sharpi_scheduler_options){.verify_reuse = 1});
    CU_ASSERT(answer_ask(s, r, &a[0]) == 0 && answer_wait(&a[0]));
    CU_ASSERT(answer_ask(s, r, &a[1]) == 0 && answer_wait(&a[1]));
    stats = stats_of(s);
    CU_ASSERT(a[1].usage.reused_tokens == 149 && a[1].usage.reuse_limit == SHARPI_REUSE_ALL);
    CU_ASSERT(stats.verify_runs == 1 && stats.verify_mismatches == 0);
    sharpi_scheduler_destroy(s);

    s = schedule(model, (struct sharpi_scheduler_options){.verify_reuse = 1, .verify_tolerance = 1e-4f});
    memset(a, 0, 2 * sizeof *a);
    CU_ASSERT(answer_ask(s, r, &a[0]) == 0 && answer_wait(&a[0]));
    /* spoil the cache behind its back */
    for (uint32_t i = 0; i < model->desc.n_layers; i++) {
        if (model->kv_layers[i].kv)
            memset(model->kv_layers[i].k, 0, sharpi_kv_layer_bytes(&model->kv_layers[i]));
    }
    CU_ASSERT(answer_ask(s, r, &a[1]) == 0 && answer_wait(&a[1]));
    stats = stats_of(s);
    CU_ASSERT(stats.verify_runs == 1 && stats.verify_mismatches == 1);
    CU_ASSERT(stats.fallbacks[SHARPI_FALLBACK_MISMATCH] == 1);
    CU_ASSERT(strstr(last_warning, "reused") != NULL);
    sharpi_scheduler_destroy(s);
    CU_ASSERT(sharpi_scheduler_create(model, &(struct sharpi_scheduler_options){.size = 0}, &s, NULL) == 0);
    sharpi_scheduler_destroy(s);
    free(a);
    sharpi_model_free(model);
}

/* ---- Ends */

static void requests_end_as_they_should(void)
{
    struct fixture_data data;
    struct sharpi_model *model;
    struct sharpi_scheduler *s;
    struct answer *a = calloc(6, sizeof *a);
    struct sharpi_request r = {.n_tokens = 48, .max_tokens = 24, .ignore_end = 1};
    CU_ASSERT_FATAL(a != NULL);
    open_fixture("llama", &data);
    r.tokens = data.greedy;
    model = load(&data, (struct sharpi_model_options){.context = 128});
    s = schedule(model, (struct sharpi_scheduler_options){.max_stall_ms = 0});
    CU_ASSERT(answer_ask(s, r, &a[0]) == 0 && answer_wait(&a[0]));
    CU_ASSERT(a[0].n == 24 && memcmp(a[0].tokens, data.greedy + 48, 24 * sizeof(int32_t)) == 0);

    r.stop_tokens = data.greedy + 48 + 9;
    r.n_stop_tokens = 1;
    CU_ASSERT(answer_ask(s, r, &a[1]) == 0 && answer_wait(&a[1]));
    CU_ASSERT(a[1].finish == SHARPI_FINISH_STOP && a[1].stop_token == data.greedy[57]);
    CU_ASSERT(a[1].n <= 9 && memcmp(a[1].tokens, data.greedy + 48, a[1].n * sizeof(int32_t)) == 0);
    r.n_stop_tokens = 0;

    a[2].stop_after = 5; /* as when a stop string is found */
    CU_ASSERT(answer_ask(s, r, &a[2]) == 0 && answer_wait(&a[2]));
    CU_ASSERT(a[2].finish == SHARPI_FINISH_STOP && a[2].n == 5 && a[2].stop_token == -1);

    r.max_tokens = 0; /* until the context is full */
    CU_ASSERT(answer_ask(s, r, &a[3]) == 0 && answer_wait(&a[3]));
    CU_ASSERT(a[3].finish == SHARPI_FINISH_LENGTH && a[3].n == 128 - 48);

    r.max_tokens = 4;
    r.logprobs = 1;
    r.n_top = 5;
    CU_ASSERT(answer_ask(s, r, &a[4]) == 0 && answer_wait(&a[4]));
    CU_ASSERT(a[4].n == 4);
    for (uint32_t i = 0; i < a[4].n; i++) {
        struct sharpi_logprob top;
        float chosen;
        const float *logits = watch_find(&watch, a[4].id, 48 + i);
        CU_ASSERT_FATAL(logits != NULL);
        sharpi_logits_top(logits, FIXTURE_VOCAB, 1, &top, a[4].tokens[i], &chosen);
        CU_ASSERT(fabsf(chosen - a[4].logprobs[i]) < 1e-6f);
    }
    CU_ASSERT(a[4].usage.times.queued > 0 && a[4].usage.times.started >= a[4].usage.times.queued &&
              a[4].usage.times.first_token >= a[4].usage.times.started &&
              a[4].usage.times.finished >= a[4].usage.times.first_token);
    sharpi_scheduler_destroy(s);
    free(a);
    sharpi_model_free(model);
}

/* Nobody looks at all logits here, so steps keep the highest only. */
static void logprobs_of_the_highest_logits_are_those_of_all(void)
{
    struct fixture_data data;
    struct sharpi_model *model;
    struct sharpi_scheduler *s = NULL;
    struct answer *a = calloc(4, sizeof *a);
    struct sharpi_sampler_params params;
    struct sharpi_request r = {.n_tokens = 48, .max_tokens = 24, .ignore_end = 1, .logprobs = 1};
    float *logits;
    CU_ASSERT_FATAL(a != NULL);
    open_fixture("qwen3", &data);
    r.tokens = data.greedy;
    model = load(&data, (struct sharpi_model_options){.max_sessions = 4});
    CU_ASSERT_FATAL(sharpi_scheduler_create(model, NULL, &s, NULL) == 0);
    CU_ASSERT(answer_ask(s, r, &a[0]) == 0 && answer_wait(&a[0]));
    r.n_top = 5;
    CU_ASSERT(answer_ask(s, r, &a[1]) == 0 && answer_wait(&a[1]));
    sharpi_sampler_params_init(&params); /* looks at the highest 40 */
    r.sampler = &params;
    CU_ASSERT(answer_ask(s, r, &a[2]) == 0 && answer_wait(&a[2]));
    params.top_k = 0; /* looks at all */
    CU_ASSERT(answer_ask(s, r, &a[3]) == 0 && answer_wait(&a[3]));
    sharpi_scheduler_destroy(s);
    CU_ASSERT(memcmp(a[0].tokens, data.greedy + 48, 24 * sizeof(int32_t)) == 0);
    for (uint32_t i = 0; i < 4; i++) {
        int32_t tokens[72];
        memcpy(tokens, data.greedy, sizeof tokens);
        memcpy(tokens + 48, a[i].tokens, a[i].n * sizeof *tokens);
        logits = run_tokens(model, tokens, 72);
        CU_ASSERT_FATAL(logits && a[i].n == 24);
        for (uint32_t j = 0; j < 24; j++) {
            struct sharpi_logprob top;
            float chosen;
            sharpi_logits_top(logits + (size_t)(47 + j) * FIXTURE_VOCAB, FIXTURE_VOCAB, 1, &top,
                              a[i].tokens[j], &chosen);
            /* of its own token without, of the most likely one with top logprobs */
            CU_ASSERT(fabsf((i ? top.logprob : chosen) - a[i].logprobs[j]) < 1e-3f);
        }
        free(logits);
    }
    free(a);
    sharpi_model_free(model);
}

static void what_can_never_work_is_refused_with_numbers(void)
{
    struct fixture_data data;
    struct sharpi_model *model;
    struct sharpi_scheduler *s;
    struct answer *a = calloc(8, sizeof *a);
    int32_t bad = 320;
    struct sharpi_sampler_params hot;
    struct sharpi_request r = {.max_tokens = 4, .ignore_end = 1};
    CU_ASSERT_FATAL(a != NULL);
    open_fixture("llama", &data);
    r.tokens = data.tokens;
    model = load(&data, (struct sharpi_model_options){.context = 192});
    s = schedule(model, (struct sharpi_scheduler_options){.max_pages = 2, .max_queued = 1});
    CU_ASSERT(answer_ask(s, r, &a[0]) == SHARPI_EINVAL);
    r.n_tokens = 192;
    CU_ASSERT(answer_ask(s, r, &a[1]) == SHARPI_EINVAL);
    CU_ASSERT(strstr(a[1].error, "192") && strstr(a[1].error, "context"));
    r.n_tokens = 150;
    CU_ASSERT(answer_ask(s, r, &a[2]) == SHARPI_EINVAL);
    CU_ASSERT(strstr(a[2].error, "151") && strstr(a[2].error, "3 KV pages") && strstr(a[2].error, "has 2"));
    r.tokens = &bad;
    r.n_tokens = 1;
    CU_ASSERT(answer_ask(s, r, &a[3]) == SHARPI_EINVAL && strstr(a[3].error, "320"));
    r.tokens = data.tokens;
    sharpi_sampler_params_init(&hot);
    hot.top_p = 7;
    r.sampler = &hot;
    CU_ASSERT(answer_ask(s, r, &a[4]) == SHARPI_EINVAL && strstr(a[4].error, "top_p"));
    r.sampler = NULL;
    r.kind = SHARPI_REQUEST_EMBED_LAST;
    CU_ASSERT(answer_ask(s, r, &a[5]) == SHARPI_ENOTSUP && strstr(a[5].error, "result_norm"));
    r.kind = SHARPI_REQUEST_GENERATE;
    r.n_tokens = 100; /* what fits alone may still fill the cache while it generates */
    r.max_tokens = 0;
    CU_ASSERT(answer_ask(s, r, &a[6]) == 0 && answer_wait(&a[6]));
    CU_ASSERT(a[6].finish == SHARPI_FINISH_LENGTH && a[6].n == 29); /* 128 computed, one more sampled */
    CU_ASSERT(stats_of(s).refused == 6 && stats_of(s).submitted == 7);
    CU_ASSERT(sharpi_scheduler_drain(s, 1) == 0);
    CU_ASSERT(answer_ask(s, r, &a[7]) == SHARPI_ECANCELLED);
    sharpi_scheduler_destroy(s);
    free(a);
    sharpi_model_free(model);
}

static void cancelled_prompt_frees_its_pages(void)
{
    struct fixture_data data;
    struct sharpi_model *model;
    struct sharpi_scheduler *s;
    struct sharpi_scheduler_stats stats;
    struct answer *a = calloc(3, sizeof *a);
    int32_t prompt[2000];
    struct sharpi_request r = {.tokens = prompt, .n_tokens = 2000, .max_tokens = 4, .ignore_end = 1};
    CU_ASSERT_FATAL(a != NULL);
    open_fixture("gemma3", &data);
    for (uint32_t i = 0; i < 2000; i++)
        prompt[i] = data.tokens[i % 200];
    model = load(&data, (struct sharpi_model_options){.context = 2048, .chunk = 8, .max_sessions = 2});
    s = schedule(model, (struct sharpi_scheduler_options){.max_stall_ms = 0});
    CU_ASSERT(answer_ask(s, r, &a[0]) == 0);
    do {
        stats = stats_of(s);
        usleep(1000);
    } while (stats.prefill_tokens < 100);
    CU_ASSERT(class_of_window(&stats, 0).active > 0);
    sharpi_scheduler_cancel(s, a[0].id);
    CU_ASSERT(answer_wait(&a[0]) && a[0].finish == SHARPI_FINISH_CANCELLED && a[0].n == 0);
    stats = stats_of(s);
    CU_ASSERT(stats.prefill_tokens < 2000 && stats.cancelled == 1);
    CU_ASSERT(class_of_window(&stats, 0).active == 0 && class_of_window(&stats, 1).active == 0);

    a[1].cancel_in = s; /* from the event function */
    r.n_tokens = 20;
    r.max_tokens = 1000;
    CU_ASSERT(answer_ask(s, r, &a[1]) == 0 && answer_wait(&a[1]));
    CU_ASSERT(a[1].finish == SHARPI_FINISH_CANCELLED && a[1].n <= 2);
    CU_ASSERT(answer_ask(s, r, &a[2]) == 0);
    sharpi_scheduler_destroy(s); /* cancels what runs */
    CU_ASSERT(a[2].done == 1 && a[2].finish == SHARPI_FINISH_CANCELLED);
    free(a);
    sharpi_model_free(model);
}

/* ---- Preemption */

static void check_preemption(const struct fixture *f, const struct fixture_data *data)
{
    struct sharpi_model *model = load(data, (struct sharpi_model_options){.chunk = 64, .headroom = 128});
    struct sharpi_scheduler *s = schedule(model, (struct sharpi_scheduler_options){.max_pages = 7});
    struct answer *a = calloc(4, sizeof *a);
    struct comparison c = {.largest = 0};
    struct sharpi_scheduler_stats stats;
    CU_ASSERT_FATAL(a != NULL);
    for (uint32_t i = 0; i < 4; i++) { /* each 100 + 80 tokens: 3 pages at the end, 12 in all, there are 7 */
        struct sharpi_request r = {
            .tokens = data->tokens + 20 * i, .n_tokens = 100, .max_tokens = 80, .ignore_end = 1};
        CU_ASSERT(answer_ask(s, r, &a[i]) == 0);
    }
    for (uint32_t i = 0; i < 4; i++)
        CU_ASSERT(answer_wait(&a[i]) && a[i].status == 0 && a[i].n == 80 && a[i].started == 1);
    stats = stats_of(s);
    CU_ASSERT(stats.preemptions > 0 && stats.accounting_errors == 0);
    CU_ASSERT(stats.fallbacks[SHARPI_FALLBACK_PREEMPTED] == stats.preemptions);
    CU_ASSERT(class_of_window(&stats, 0).n_pages == 7);
    sharpi_scheduler_destroy(s);
    for (uint32_t i = 0; i < 4; i++)
        compare(model, data->tokens + 20 * i, 100, &a[i], &c);
    CU_ASSERT(c.largest <= 1e-4f && c.wrong_tokens == 0);
    fprintf(stderr, "  %-12s %llu preemptions, differs by %g\n", f->name,
            (unsigned long long)stats.preemptions, (double)c.largest);
    free(a);
    sharpi_model_free(model);
}

static void preempted_sequences_resume_with_the_same_text(void)
{
    static const char *const names[] = {"llama", "gemma3", "gemma4-ple", "qwen3moe"};
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct fixture f = {.name = names[i]};
        struct fixture_data data;
        open_fixture(names[i], &data);
        check_preemption(&f, &data);
    }
}

/* ---- A pool */

/* An engine whose models share so many positions. */
static struct sharpi_engine *engine_with_pool(const char *setting)
{
    const char *const overrides[] = {setting, NULL};
    struct sharpi_engine_options options = {.size = sizeof options,
                                            .no_default_config = 1,
                                            .overrides = overrides,
                                            .log_level = SHARPI_LOG_ERROR};
    struct sharpi_engine *other = NULL;
    CU_ASSERT_FATAL(sharpi_engine_open(&options, &other, NULL) == 0);
    return other;
}

/* Eight requests of 100 + 200 tokens, 5 pages each, with the memory of two contexts: 16 pages of each class, the rings of the
 * windowed ones too. */
static void check_pool(const struct fixture *f, const struct fixture_data *data)
{
    struct sharpi_engine *usual = engine, *small = engine_with_pool("model.kv-pool=1024");
    struct sharpi_model *model,
        *whole = load(data, (struct sharpi_model_options){.chunk = 64, .headroom = 512});
    struct sharpi_scheduler *s;
    struct answer *a = calloc(N_SEQS, sizeof *a);
    struct comparison c = {.largest = 0};
    struct sharpi_scheduler_stats stats;
    CU_ASSERT_FATAL(a != NULL);
    engine = small;
    model = load(data, (struct sharpi_model_options){.chunk = 64, .headroom = 512});
    engine = usual;
    CU_ASSERT(model->kv_bytes * N_SEQS == whole->kv_bytes * 2);
    CU_ASSERT(model->plan->pool == 1024 && sharpi_plan_kv_bytes(model->plan) == model->kv_bytes);
    s = schedule(model, (struct sharpi_scheduler_options){.max_stall_ms = 0});
    for (uint32_t i = 0; i < N_SEQS; i++) {
        struct sharpi_request r = {
            .tokens = data->tokens + 10 * i, .n_tokens = 100, .max_tokens = 200, .ignore_end = 1};
        CU_ASSERT(answer_ask(s, r, &a[i]) == 0);
    }
    for (uint32_t i = 0; i < N_SEQS; i++)
        CU_ASSERT(answer_wait(&a[i]) && a[i].status == 0 && a[i].n == 200 && a[i].started == 1);
    stats = stats_of(s);
    CU_ASSERT(stats.preemptions > 0 && stats.accounting_errors == 0);
    CU_ASSERT(stats.batch_seqs.counts[2] + stats.batch_seqs.counts[3] > 0); /* more than two at once */
    CU_ASSERT(class_of_window(&stats, 0).n_pages == 16);
    sharpi_scheduler_destroy(s);
    for (uint32_t i = 0; i < N_SEQS; i++)
        compare(whole, data->tokens + 10 * i, 100, &a[i], &c);
    CU_ASSERT(c.largest <= 1e-4f && c.wrong_tokens == 0);
    fprintf(stderr, "  %-12s %llu preemptions, differs by %g\n", f->name,
            (unsigned long long)stats.preemptions, (double)c.largest);
    free(a);
    sharpi_model_free(model);
    sharpi_model_free(whole);
    sharpi_engine_close(small);
}

static void eight_requests_share_the_pages_of_two_contexts(void)
{
    static const char *const names[] = {"llama", "gemma3", "gemma4-ple", "qwen3moe"};
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct fixture f = {.name = names[i]};
        struct fixture_data data;
        open_fixture(names[i], &data);
        check_pool(&f, &data);
    }
}

/* ---- Embeddings */

enum { N_TEXTS = 6 };

/* Rows of the final norm, [n, width], of the tokens alone. free(). */
static float *norms_alone(struct sharpi_model *model, const int32_t *tokens, uint32_t n)
{
    struct sharpi_session *session = NULL;
    float *rows = malloc((size_t)n * model->desc.width * sizeof *rows), *tap = rows;
    float *logits = malloc((size_t)n * FIXTURE_VOCAB * sizeof *logits);
    struct sharpi_work work = {.tokens = tokens, .n_tokens = n, .want = 2, .logits = logits, .taps = &tap};
    CU_ASSERT_FATAL(rows && logits && sharpi_session_create(model, &session, NULL) == 0);
    work.session = session;
    CU_ASSERT(sharpi_step(model, &work, 1, NULL) == 0);
    sharpi_session_free(session);
    free(logits);
    return rows;
}

/* An embedding beside what a step with nothing else in it leaves. */
static void check_embedding(struct sharpi_model *model, const struct sharpi_request *r,
                            const struct answer *a)
{
    const uint32_t width = model->desc.width;
    float *rows = norms_alone(model, r->tokens, r->n_tokens), wanted[1024] = {0};
    const uint32_t first = r->kind == SHARPI_REQUEST_EMBED_LAST ? r->n_tokens - 1 : 0;
    for (uint32_t i = first; i < r->n_tokens; i++) {
        for (uint32_t j = 0; j < width; j++)
            wanted[j] += rows[(size_t)i * width + j] / (float)(r->n_tokens - first);
    }
    CU_ASSERT(a->n_embedding == width && a->n == 0);
    CU_ASSERT(max_difference(wanted, a->embedding, width) < 1e-4f);
    free(rows);
}

/* Texts of different lengths, both kinds, and an answer, all at once. */
static void embeddings_are_the_final_norm(void)
{
    static const char *const taps[] = {"result_norm", NULL};
    struct fixture_data data;
    struct sharpi_model *model;
    struct sharpi_scheduler *s;
    struct sharpi_scheduler_stats stats;
    struct answer *a = calloc(N_TEXTS + 1, sizeof *a);
    struct sharpi_request texts[N_TEXTS], r;
    CU_ASSERT_FATAL(a != NULL);
    open_fixture("gemma3", &data);
    model =
        load(&data, (struct sharpi_model_options){.taps = taps, .chunk = 128, .max_sessions = N_TEXTS + 1});
    s = schedule(model, (struct sharpi_scheduler_options){.max_stall_ms = 0});
    r = (struct sharpi_request){.tokens = data.greedy, .n_tokens = 48, .max_tokens = 24, .ignore_end = 1};
    CU_ASSERT(answer_ask(s, r, &a[N_TEXTS]) == 0);
    for (uint32_t i = 0; i < N_TEXTS; i++) {
        texts[i] = (struct sharpi_request){.tokens = data.tokens + 11 * i,
                                           .n_tokens = i == 0 ? 100 : 7 + 5 * i,
                                           .kind = i % 3 == 1 ? SHARPI_REQUEST_EMBED_LAST
                                                              : SHARPI_REQUEST_EMBED_MEAN};
        CU_ASSERT(answer_ask(s, texts[i], &a[i]) == 0);
    }
    for (uint32_t i = 0; i <= N_TEXTS; i++)
        CU_ASSERT(answer_wait(&a[i]) && a[i].status == 0);
    CU_ASSERT(a[N_TEXTS].n == 24 && memcmp(a[N_TEXTS].tokens, data.greedy + 48, 24 * sizeof(int32_t)) == 0);
    stats = stats_of(s);
    CU_ASSERT(stats.batch_seqs.sum > (double)stats.batch_seqs.n); /* some steps had several */
    CU_ASSERT(stats.failed_steps == 0 && stats.steps == stats.batch_seqs.n);
    sharpi_scheduler_destroy(s);
    for (uint32_t i = 0; i < N_TEXTS; i++)
        check_embedding(model, &texts[i], &a[i]);
    free(a);
    sharpi_model_free(model);
}

/* ---- Saved prefixes */

static uint32_t files_in(const char *dir, char *path, size_t n)
{
    DIR *d = opendir(dir);
    const struct dirent *file;
    uint32_t count = 0;
    while (d && (file = readdir(d))) {
        if (file->d_name[0] != '.') {
            snprintf(path, n, "%s/%s", dir, file->d_name);
            count++;
        }
    }
    if (d)
        closedir(d);
    return count;
}

static void flip_byte(const char *path, long at)
{
    FILE *file = fopen(path, "r+b");
    int byte;
    CU_ASSERT_FATAL(file != NULL);
    fseek(file, at, at < 0 ? SEEK_END : SEEK_SET);
    byte = fgetc(file);
    fseek(file, -1, SEEK_CUR);
    fputc(byte ^ 0x40, file);
    fclose(file);
}

/* Asks for the first 180 tokens in a fresh scheduler with this folder. */
static struct sharpi_scheduler_stats
ask_with_disk(struct sharpi_model *model, const struct fixture_data *data, const char *dir, struct answer *a)
{
    struct sharpi_scheduler *s =
        schedule(model, (struct sharpi_scheduler_options){.prompt_cache_dir = dir, .prompt_cache_min = 100});
    struct sharpi_request r = {.tokens = data->tokens, .n_tokens = 180, .max_tokens = 5, .ignore_end = 1};
    struct sharpi_scheduler_stats stats;
    memset(a, 0, sizeof *a);
    CU_ASSERT(answer_ask(s, r, a) == 0 && answer_wait(a));
    stats = stats_of(s);
    sharpi_scheduler_destroy(s);
    return stats;
}

static void check_disk(const struct fixture *f, const struct fixture_data *data)
{
    struct sharpi_model_options o = {.chunk = 64, .headroom = 128, .max_sessions = 1, .kv = "q8_0"};
    struct sharpi_model *model = load(data, o);
    struct answer *a = calloc(2, sizeof *a);
    struct comparison c = {.largest = 0};
    struct sharpi_scheduler_stats stats;
    char dir[] = "/tmp/test-scheduler-XXXXXX", path[512];
    CU_ASSERT_FATAL(a && mkdtemp(dir));
    ask_with_disk(model, data, dir, &a[0]);
    CU_ASSERT(files_in(dir, path, sizeof path) == 1);
    stats = ask_with_disk(model, data, dir, &a[1]);
    CU_ASSERT(stats.disk_loads == 1 && stats.prefill_tokens == 1);
    CU_ASSERT(a[1].usage.disk_tokens == 179 && a[1].usage.reused_tokens == 179);
    compare(model, data->tokens, 180, &a[1], &c);
    CU_ASSERT(c.largest <= (f->mixture ? 2 : 1) * 2 * f->q8_0_kv);
    CU_ASSERT(memcmp(a[0].tokens, a[1].tokens, 5 * sizeof(int32_t)) == 0);

    flip_byte(path, -2000);
    stats = ask_with_disk(model, data, dir, &a[1]);
    CU_ASSERT(stats.disk_refused == 1 && stats.disk_loads == 0 && a[1].n == 5);
    CU_ASSERT(a[1].usage.reused_tokens == 0 && stats.fallbacks[SHARPI_FALLBACK_SAVED_PREFIX] == 1);
    stats = ask_with_disk(model, data, dir, &a[1]); /* the computed prompt has been saved over it */
    CU_ASSERT(stats.disk_refused == 0 && stats.disk_loads == 1);
    flip_byte(path, 100);
    stats = ask_with_disk(model, data, dir, &a[1]);
    CU_ASSERT(stats.disk_refused == 1 && stats.disk_loads == 0);
    CU_ASSERT(truncate(path, 300) == 0);
    stats = ask_with_disk(model, data, dir, &a[1]);
    CU_ASSERT(stats.disk_refused == 1 && strstr(last_warning, "prompt-cache"));
    sharpi_model_free(model);
    o.kv = "f32"; /* another format: foreign */
    model = load(data, o);
    stats = ask_with_disk(model, data, dir, &a[1]);
    CU_ASSERT(stats.disk_refused == 1 && stats.disk_loads == 0 && a[1].n == 5);
    sharpi_model_free(model);
    while (files_in(dir, path, sizeof path))
        unlink(path);
    rmdir(dir);
    free(a);
}

static void saved_prefixes_survive_a_restart(void)
{
    static const char *const names[] = {"llama", "gemma3", "gemma4-wide"};
    for (uint32_t i = 0; i < n_fixtures; i++) {
        for (uint32_t j = 0; j < sizeof names / sizeof *names; j++) {
            struct fixture_data data;
            if (strcmp(fixtures[i].name, names[j]))
                continue;
            open_fixture(names[j], &data);
            check_disk(&fixtures[i], &data);
        }
    }
}

int main(void)
{
    unsigned failures;
    int status;
    CU_pSuite suite;
    if ((status = fixtures_engine(keep_log, &engine)))
        return status;
    CU_initialize_registry();
    suite = CU_add_suite("scheduler", NULL, NULL);
    CU_add_test(suite, "requests end as they should", requests_end_as_they_should);
    CU_add_test(suite, "logprobs of the highest logits are those of all",
                logprobs_of_the_highest_logits_are_those_of_all);
    CU_add_test(suite, "what can never work is refused with numbers",
                what_can_never_work_is_refused_with_numbers);
    CU_add_test(suite, "cancelled prompt frees its pages", cancelled_prompt_frees_its_pages);
    CU_add_test(suite, "second turn computes only what is new", second_turn_computes_only_what_is_new);
    CU_add_test(suite, "running requests share a prefix", running_requests_share_a_prefix);
    CU_add_test(suite, "reuse is verified against a cold run", reuse_is_verified_against_a_cold_run);
    CU_add_test(suite, "preempted sequences resume with the same text",
                preempted_sequences_resume_with_the_same_text);
    CU_add_test(suite, "eight requests share the pages of two contexts",
                eight_requests_share_the_pages_of_two_contexts);
    CU_add_test(suite, "embeddings are the final norm", embeddings_are_the_final_norm);
    CU_add_test(suite, "saved prefixes survive a restart", saved_prefixes_survive_a_restart);
    CU_add_test(suite, "eight sequences equal single runs", eight_sequences_equal_single_runs);
    CU_add_test(suite, "eight sequences over wrapped rings equal single runs",
                eight_sequences_over_wrapped_rings_equal_single_runs);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    watch_clear(&watch);
    sharpi_engine_close(engine);
    return failures ? 1 : 0;
}
