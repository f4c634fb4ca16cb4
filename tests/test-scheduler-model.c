/* The scheduler on a real model, $SHARPI_MODEL (a GGUF file; Gemma 3 270M is meant): long conversations, long shared
 * prefixes, and how long a long prompt stalls others. Skipped without it.
 */
#include <stdlib.h>
#include <string.h>

#include <CUnit/Basic.h>

#include "fixtures.h"
#include "scheduler-world.h"

enum { CONVERSATION = 2000, NEW_TOKENS = 100, SHARED = 1000, LONG_PROMPT = 3000 };

static struct sharpi_engine *engine;
static const char *path;
static struct watch watch;

static struct sharpi_model *load(struct sharpi_model_options o)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_model *model = NULL;
    o.size = sizeof o;
    o.context = 4096;
    if (sharpi_model_load(engine, path, &o, &model, &err))
        fprintf(stderr, "%s\n", err.text);
    CU_ASSERT_FATAL(model != NULL);
    return model;
}

static struct sharpi_scheduler *schedule(struct sharpi_model *model, struct sharpi_scheduler_options o)
{
    struct sharpi_scheduler *s = NULL;
    o.size = sizeof o;
    CU_ASSERT_FATAL(sharpi_scheduler_create(model, &o, &s, NULL) == 0);
    return s;
}

/* Text of no meaning that repeats nothing. */
static void make_tokens(int32_t *tokens, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        tokens[i] = 1000 + (int32_t)(seed >> 8) % 20000;
    }
    tokens[0] = 2;
}

/* Logits after all tokens, fed in chunks; free(). */
static float *run_cold(struct sharpi_model *model, const int32_t *tokens, uint32_t n, uint32_t chunk)
{
    struct sharpi_session *session = NULL;
    float *logits = malloc(model->desc.n_vocab * sizeof *logits);
    CU_ASSERT_FATAL(logits && sharpi_session_create(model, &session, NULL) == 0);
    for (uint32_t at = 0; at < n; at += chunk)
        CU_ASSERT(sharpi_session_feed(session, tokens + at, n - at < chunk ? n - at : chunk, NULL) == 0);
    memcpy(logits, sharpi_session_logits(session), model->desc.n_vocab * sizeof *logits);
    sharpi_session_free(session);
    return logits;
}

static void second_turn_of_a_long_conversation(void)
{
    struct sharpi_model *model = load((struct sharpi_model_options){.max_sessions = 2});
    struct sharpi_scheduler *s =
        schedule(model, (struct sharpi_scheduler_options){.observe = watch_observe, .observe_user = &watch});
    struct answer *a = calloc(2, sizeof *a);
    int32_t tokens[CONVERSATION + NEW_TOKENS];
    struct sharpi_request r = {
        .tokens = tokens, .n_tokens = CONVERSATION - 20, .max_tokens = 20, .ignore_end = 1};
    float *cold[2], difference, noise;
    const float *warm;
    uint32_t n_vocab = model->desc.n_vocab;
    CU_ASSERT_FATAL(a != NULL);
    make_tokens(tokens, CONVERSATION + NEW_TOKENS, 5);
    CU_ASSERT(answer_ask(s, r, &a[0]) == 0 && answer_wait(&a[0]) && a[0].n == 20);
    memcpy(tokens + CONVERSATION - 20, a[0].tokens, 20 * sizeof *tokens);
    r.n_tokens = CONVERSATION + NEW_TOKENS;
    r.max_tokens = 1;
    CU_ASSERT(answer_ask(s, r, &a[1]) == 0 && answer_wait(&a[1]));
    CU_ASSERT(a[1].usage.reused_tokens == CONVERSATION - 1);
    warm = watch_find(&watch, a[1].id, CONVERSATION + NEW_TOKENS);
    sharpi_scheduler_destroy(s);
    cold[0] = run_cold(model, tokens, CONVERSATION + NEW_TOKENS, 512);
    cold[1] = run_cold(model, tokens, CONVERSATION + NEW_TOKENS, 300);
    CU_ASSERT_FATAL(warm && cold[0] && cold[1]);
    difference = max_difference(warm, cold[0], n_vocab);
    noise = max_difference(cold[0], cold[1], n_vocab);
    fprintf(stderr,
            "  first turn %u tokens: %.2f s to the first token; second turn, %u reused of %u: %.2f s; logits "
            "differ by %g from a cold run's, and two cold runs in other chunks by %g (largest logit %g)\n",
            a[0].usage.prompt_tokens, a[0].usage.times.first_token - a[0].usage.times.started,
            a[1].usage.reused_tokens, a[1].usage.prompt_tokens,
            a[1].usage.times.first_token - a[1].usage.times.started, (double)difference, (double)noise,
            (double)cold[0][argmax(cold[0], n_vocab)]);
    CU_ASSERT(difference <= 2 * noise + 0.001f); /* int8 activations: rounding goes either way */
    CU_ASSERT(rank_of(warm, n_vocab, argmax(cold[0], n_vocab)) < 5);
    free(cold[0]);
    free(cold[1]);
    watch_clear(&watch);
    free(a);
    sharpi_model_free(model);
}

static void two_requests_hold_a_thousand_tokens_once(void)
{
    struct sharpi_model *model = load((struct sharpi_model_options){.max_sessions = 2});
    struct sharpi_scheduler *s = schedule(model, (struct sharpi_scheduler_options){.max_stall_ms = 0});
    struct answer *a = calloc(2, sizeof *a);
    int32_t tokens[2][SHARED + 50];
    struct sharpi_scheduler_stats stats;
    CU_ASSERT_FATAL(a != NULL);
    for (uint32_t i = 0; i < 2; i++) {
        struct sharpi_request r = {
            .tokens = tokens[i], .n_tokens = SHARED + 50, .max_tokens = 2000, .ignore_end = 1};
        make_tokens(tokens[i], SHARED + 50, 5);
        tokens[i][SHARED] = 77 + (int32_t)i;
        CU_ASSERT(answer_ask(s, r, &a[i]) == 0);
    }
    CU_ASSERT(answer_wait_tokens(&a[0], 2) && answer_wait_tokens(&a[1], 2));
    sharpi_scheduler_get_stats(s, &stats);
    for (uint32_t c = 0; c < stats.n_classes; c++) {
        fprintf(stderr, "  window %u: %u pages active, %u of them shared, %u cached, %u free\n",
                stats.classes[c].window, stats.classes[c].active, stats.classes[c].shared,
                stats.classes[c].cached, stats.classes[c].free);
        if (!stats.classes[c].window) /* 1000 tokens are 15 whole pages; each has two or three of its own */
            CU_ASSERT(stats.classes[c].shared == SHARED / SHARPI_KV_PAGE &&
                      stats.classes[c].active <= 15 + 6);
    }
    CU_ASSERT(a[1].usage.reused_tokens >= SHARED / SHARPI_KV_PAGE * SHARPI_KV_PAGE);
    sharpi_scheduler_destroy(s);
    free(a);
    sharpi_model_free(model);
}

/* Four answers being written, and a long prompt arrives. The bound is for a machine that has nothing else to do; so the
 * test only asks for half of the steps. */
static void long_prompt_does_not_stall_others(void)
{
    struct sharpi_model *model = load((struct sharpi_model_options){.max_sessions = 5});
    struct sharpi_scheduler *s = schedule(model, (struct sharpi_scheduler_options){.max_stall_ms = 100});
    struct answer *a = calloc(5, sizeof *a);
    int32_t tokens[LONG_PROMPT];
    struct sharpi_scheduler_stats before, after;
    uint64_t slow = 0, all = 0;
    CU_ASSERT_FATAL(a != NULL);
    make_tokens(tokens, LONG_PROMPT, 9);
    for (uint32_t i = 0; i < 4; i++) {
        struct sharpi_request r = {
            .tokens = tokens + 10 * i, .n_tokens = 20, .max_tokens = 3000, .ignore_end = 1};
        CU_ASSERT(answer_ask(s, r, &a[i]) == 0 && answer_wait_tokens(&a[i], 5));
    }
    sharpi_scheduler_get_stats(s, &before);
    struct sharpi_request r = {.tokens = tokens, .n_tokens = LONG_PROMPT, .max_tokens = 1, .ignore_end = 1};
    CU_ASSERT(answer_ask(s, r, &a[4]) == 0 && answer_wait(&a[4]));
    sharpi_scheduler_get_stats(s, &after);
    for (uint32_t i = 0; i <= SHARPI_HISTOGRAM_BUCKETS; i++) {
        uint64_t n = after.inter_token.counts[i] - before.inter_token.counts[i];
        all += n;
        slow += i > 0 && sharpi_seconds_bounds[i - 1] >= 0.2 ? n : 0;
    }
    fprintf(stderr,
            "  %d tokens of prompt beside 4 answers: %.1f s, %llu tokens meanwhile, %llu of them later than "
            "200 ms; "
            "%.2g s a prompt token, %.2g s a decode step\n",
            LONG_PROMPT, a[4].usage.times.first_token - a[4].usage.times.started, (unsigned long long)all,
            (unsigned long long)slow, after.prefill_token_s, after.decode_step_s);
    CU_ASSERT(all > 0 && slow <= all / 2);
    sharpi_scheduler_destroy(s);
    free(a);
    sharpi_model_free(model);
}

int main(void)
{
    struct sharpi_engine_options options = {.size = sizeof options, .no_default_config = 1};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    unsigned failures;
    CU_pSuite suite;
    path = getenv("SHARPI_MODEL");
    if (!path) {
        fprintf(stderr, "skipped: SHARPI_MODEL names no model\n");
        return 77;
    }
    if (sharpi_engine_open(&options, &engine, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    CU_initialize_registry();
    suite = CU_add_suite("scheduler with a real model", NULL, NULL);
    CU_add_test(suite, "second turn of a long conversation", second_turn_of_a_long_conversation);
    CU_add_test(suite, "two requests hold a thousand tokens once", two_requests_hold_a_thousand_tokens_once);
    CU_add_test(suite, "long prompt does not stall others", long_prompt_does_not_stall_others);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    sharpi_engine_close(engine);
    return failures ? 1 : 0;
}
