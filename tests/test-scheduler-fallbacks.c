/* What the scheduler does when a backend is slow or fails, and counts: the CPU backend behind a table that does so on demand. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <CUnit/Basic.h>

#include "core/kv-pages-internal.h"
#include "core/scheduler-internal.h"
#include "fixtures.h"
#include "scheduler-world.h"

enum { N_SEEN = 4096, SLOW_OPS = 3, CONTEXT = 512 };

static struct sharpi_engine *engine;
static const struct sharpi_backend *real;
static struct sharpi_backend table; /* the real one's, with what follows */

/* What the table does. The scheduler's thread alone looks at it while a scheduler is there, but for the flags. */
static struct {
    uint32_t slow_ops;                   /* that programs say they have */
    atomic_int fail;                     /* the next step of several sequences fails, */
    struct sharpi_scheduler *overwrites; /* and takes the rings of the first of this one's sequences along */
    double step_s, token_s;              /* what a step and each prompt token of it cost at least */
    double bad_token_s;                  /* in the first step of both a prompt and a decode: a bad moment */
    uint32_t seen[N_SEEN], n_seen;       /* prompt tokens of steps that have decodes too */
} does;

static int32_t program_memory(const struct sharpi_program *program, struct sharpi_program_memory *memory)
{
    int32_t status = real->program_memory(program, memory);
    memory->n_fallback_ops += does.slow_ops;
    return status;
}

/* As if the step had stored over what the old length looks at. */
static void overwrite_ring(struct sharpi_scheduler *s)
{
    struct sharpi_kv_seq *seq = s->work_of[0]->session->seq;
    for (uint32_t c = 0; c < seq->pages->n_classes; c++) {
        if (seq->pages->classes[c].shape.window)
            seq->classes[c].held_from = seq->length;
    }
}

static void take_time(const struct sharpi_batch *batch)
{
    /* of these tests' prompts only the end has a row of logits */
    const uint32_t n_decodes = batch->n_logits, n_prompt = batch->n_tokens - n_decodes;
    double seconds = does.step_s + n_prompt * does.token_s;
    if (n_prompt && n_decodes) {
        if (!does.n_seen)
            seconds = n_prompt * does.bad_token_s;
        if (does.n_seen < N_SEEN)
            does.seen[does.n_seen++] = n_prompt;
    }
    if (seconds > 0)
        usleep((useconds_t)(seconds * 1e6));
}

static int32_t run(struct sharpi_program *program, const struct sharpi_batch *batch,
                   const struct sharpi_run_io *io, struct sharpi_error *err)
{
    int32_t status = real->run(program, batch, io, err);
    take_time(batch);
    if (status || batch->n_seqs < 2 || !atomic_exchange(&does.fail, 0))
        return status;
    if (does.overwrites)
        overwrite_ring(does.overwrites);
    return sharpi_fail(err, SHARPI_EDEVICE, "the test wants it");
}

static void put_table_in_front(void)
{
    for (uint32_t i = 0; i < engine->plugins.n_offers; i++) {
        struct sharpi_offer *offer = &engine->plugins.offers[i];
        if (offer->kind != SHARPI_OFFER_BACKEND || strcmp(offer->name, "cpu") != 0)
            continue;
        real = offer->backend;
        table = *real;
        table.program_memory = program_memory;
        table.run = run;
        offer->backend = &table;
    }
}

/* ---- A fixture and its scheduler */

struct world {
    struct fixture_data data;
    struct sharpi_model *model;
    struct sharpi_scheduler *s;
    struct answer answers[4];
};

static struct world *open_world(const char *name, struct sharpi_model_options options, double max_stall_ms)
{
    struct sharpi_scheduler_options scheduler = {.size = sizeof scheduler, .max_stall_ms = max_stall_ms};
    struct world *w = calloc(1, sizeof *w);
    struct sharpi_error err = SHARPI_ERROR_INIT;
    CU_ASSERT_FATAL(w != NULL);
    for (uint32_t i = 0; i < n_fixtures; i++) {
        if (strcmp(fixtures[i].name, name) == 0)
            CU_ASSERT_FATAL(fixture_read(&fixtures[i], &w->data) == 0);
    }
    free(w->data.logits);
    options.size = sizeof options;
    options.kv = "f32";
    options.context = CONTEXT;
    options.n_threads = 1;
    if (sharpi_model_load(engine, w->data.model, &options, &w->model, &err) ||
        sharpi_scheduler_create(w->model, &scheduler, &w->s, &err))
        fprintf(stderr, "%s: %s\n", name, err.text);
    CU_ASSERT_FATAL(w->s != NULL);
    return w;
}

static struct sharpi_scheduler_stats close_world(struct world *w)
{
    struct sharpi_scheduler_stats stats;
    sharpi_scheduler_get_stats(w->s, &stats);
    CU_ASSERT(stats.accounting_errors == 0);
    sharpi_scheduler_destroy(w->s);
    sharpi_model_free(w->model);
    free(w);
    memset(&does, 0, sizeof does);
    return stats;
}

static void ask(struct world *w, uint32_t i, const int32_t *prompt, uint32_t n_prompt, uint32_t n)
{
    struct sharpi_request r = {.tokens = prompt, .n_tokens = n_prompt, .max_tokens = n, .ignore_end = 1};
    CU_ASSERT(answer_ask(w->s, r, &w->answers[i]) == 0);
}

static void ends_well(struct world *w, uint32_t i, uint32_t n)
{
    CU_ASSERT(answer_wait(&w->answers[i]) && w->answers[i].status == 0 && w->answers[i].n == n);
}

/* ---- Counters */

static void slow_ops_count_once_per_step(void)
{
    struct sharpi_scheduler_stats stats;
    struct world *w;
    does.slow_ops = SLOW_OPS;
    w = open_world("llama", (struct sharpi_model_options){.chunk = 32, .max_sessions = 2}, 0);
    ask(w, 0, w->data.tokens, 40, 10);
    ends_well(w, 0, 10);
    stats = close_world(w);
    CU_ASSERT(stats.steps == 11); /* two chunks, of which the second makes a token, and nine more */
    CU_ASSERT(stats.fallbacks[SHARPI_FALLBACK_SLOW_OP] == SLOW_OPS * stats.steps);
}

/* Answers of two requests at once; in the middle a step fails, or not. */
static struct sharpi_scheduler_stats two_answers(int32_t fails, int32_t overwrites, int32_t tokens[2][60])
{
    struct world *w = open_world(
        "gemma3", (struct sharpi_model_options){.chunk = 32, .headroom = 32, .max_sessions = 2}, 0);
    for (uint32_t i = 0; i < 2; i++)
        ask(w, i, w->data.tokens + 30 * i, 90, 60);
    CU_ASSERT(answer_wait_tokens(&w->answers[0], 5) && answer_wait_tokens(&w->answers[1], 5));
    does.overwrites = overwrites ? w->s : NULL;
    atomic_store(&does.fail, fails);
    for (uint32_t i = 0; i < 2; i++) {
        ends_well(w, i, 60);
        memcpy(tokens[i], w->answers[i].tokens, sizeof tokens[i]);
    }
    CU_ASSERT(atomic_load(&does.fail) == 0);
    return close_world(w);
}

static void sequences_that_a_failed_step_spoiled_begin_anew(void)
{
    int32_t right[2][60], tokens[2][60];
    struct sharpi_scheduler_stats stats = two_answers(0, 0, right);
    CU_ASSERT(stats.failed_steps == 0 && stats.fallbacks[SHARPI_FALLBACK_BATCH_SPLIT] == 0);
    for (int32_t overwrites = 0; overwrites < 2; overwrites++) {
        stats = two_answers(1, overwrites, tokens);
        CU_ASSERT(memcmp(tokens, right, sizeof right) == 0);
        CU_ASSERT(stats.failed_steps == 1 && stats.fallbacks[SHARPI_FALLBACK_BATCH_SPLIT] == 1);
        CU_ASSERT(stats.fallbacks[SHARPI_FALLBACK_RESTARTED] == (uint64_t)overwrites);
        CU_ASSERT(stats.fallbacks[SHARPI_FALLBACK_PREEMPTED] == 0 &&
                  stats.fallbacks[SHARPI_FALLBACK_SLOW_OP] == 0);
    }
}

/* A prompt that leaves a known one in its middle: the windowed layers keep pages before the ends of prompts only. */
static void prompts_known_without_their_window_are_counted(void)
{
    struct sharpi_scheduler_stats stats;
    int32_t prompt[400];
    struct world *w = open_world(
        "gemma3", (struct sharpi_model_options){.chunk = 32, .headroom = 32, .max_sessions = 1}, 0);
    for (uint32_t i = 0; i < 400; i++)
        prompt[i] = w->data.tokens[i % 150];
    ask(w, 0, prompt, 400, 4);
    ends_well(w, 0, 4);
    prompt[200] ^= 1;
    ask(w, 1, prompt, 210, 4);
    ends_well(w, 1, 4);
    CU_ASSERT(w->answers[1].usage.known_tokens == 200 && w->answers[1].usage.reused_tokens < 200);
    CU_ASSERT(w->answers[1].usage.reuse_limit == SHARPI_REUSE_WINDOW);
    sharpi_scheduler_get_stats(w->s, &stats);
    CU_ASSERT(stats.fallbacks[SHARPI_FALLBACK_WINDOW_LOST] == 1);
    ask(w, 2, prompt, 210, 4); /* the end of a prompt: all is there */
    ends_well(w, 2, 4);
    CU_ASSERT(w->answers[2].usage.reuse_limit == SHARPI_REUSE_ALL);
    stats = close_world(w);
    CU_ASSERT(stats.fallbacks[SHARPI_FALLBACK_WINDOW_LOST] == 1);
}

/* ---- The prompts' share of a step */

/* One bad moment makes a prompt's token look so dear that steps have room for one only. That one is measured too where it is cheaper
 * than what is remembered, so that the share grows again. */
static void a_share_made_small_grows_again(void)
{
    int32_t prompt[300];
    uint32_t most = 0, n;
    struct world *w;
    does.step_s = 6e-3; /* far above what a busy machine adds */
    does.token_s = 3e-3;
    does.bad_token_s = 0.15;
    w = open_world("llama", (struct sharpi_model_options){.chunk = 64, .max_sessions = 2}, 120);
    for (uint32_t i = 0; i < 300; i++)
        prompt[i] = w->data.tokens[(i + 7) % 200];
    ask(w, 0, w->data.tokens, 8, 400); /* what it decodes, the prompt is beside */
    CU_ASSERT(answer_wait_tokens(&w->answers[0], 20));
    ask(w, 1, prompt, 300, 1);
    ends_well(w, 1, 1);
    n = does.n_seen;
    CU_ASSERT(n > 2 && does.seen[0] > 1 && does.seen[1] == 1);
    for (uint32_t i = 1; i < n && i < N_SEEN; i++)
        most = does.seen[i] > most ? does.seen[i] : most;
    if (most < 16 || n > 150)
        fprintf(stderr, "  %u steps, of %u prompt tokens at most\n", n, most);
    CU_ASSERT(most >= 16 && n <= 150); /* 270 steps of one if it stayed small */
    sharpi_scheduler_cancel(w->s, w->answers[0].id);
    CU_ASSERT(answer_wait(&w->answers[0]));
    close_world(w);
}

int main(void)
{
    unsigned failures;
    int status;
    CU_pSuite suite;
    if ((status = fixtures_engine(NULL, &engine)))
        return status;
    put_table_in_front();
    CU_initialize_registry();
    suite = CU_add_suite("scheduler's fallbacks", NULL, NULL);
    CU_add_test(suite, "slow ops count once per step", slow_ops_count_once_per_step);
    CU_add_test(suite, "sequences that a failed step spoiled begin anew",
                sequences_that_a_failed_step_spoiled_begin_anew);
    CU_add_test(suite, "prompts known without their window are counted",
                prompts_known_without_their_window_are_counted);
    CU_add_test(suite, "a share made small grows again", a_share_made_small_grows_again);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    sharpi_engine_close(engine);
    return failures ? 1 : 0;
}
