/* The scheduler under load and without memory: many threads ask, cancel and stop at random, and allocations fail; whoever is
 * answered gets the tokens of its single run, and in the end every page is back.
 *
 * The linker sends the core's malloc, calloc and realloc through the functions here (--wrap).
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <CUnit/Basic.h>

#include "fixtures.h"
#include "scheduler-world.h"

enum { N_PROMPTS = 24, N_TOKENS = 40, N_THREADS = 4 };

static struct sharpi_engine *engine;

/* ---- Allocations that fail */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t n);

static atomic_int armed, countdown, every, n_failed;

static int fails(void)
{
    if (!atomic_load(&armed) || atomic_fetch_sub(&countdown, 1) != 1)
        return 0;
    atomic_fetch_add(&n_failed, 1);
    if (atomic_load(&every))
        atomic_store(&countdown, atomic_load(&every));
    return 1;
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t n)
{
    return fails() ? NULL : __real_realloc(old, n);
}

static void arm(int first, int again)
{
    atomic_store(&countdown, first);
    atomic_store(&every, again);
    atomic_store(&n_failed, 0);
    atomic_store(&armed, first > 0);
}

/* ---- What is right */

struct world {
    struct sharpi_model *model;
    struct sharpi_scheduler *s;
    int32_t prompts[N_PROMPTS][200];
    uint32_t lengths[N_PROMPTS];
    int32_t answers[N_PROMPTS][N_TOKENS];
    atomic_int completed, cancelled, failed, wrong;
};

static uint32_t random_below(uint32_t *state, uint32_t n)
{
    *state = *state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(*state >> 8) * n >> 24);
}

static void run_alone(struct world *w, uint32_t i)
{
    struct sharpi_session *session = NULL;
    CU_ASSERT_FATAL(sharpi_session_create(w->model, &session, NULL) == 0);
    CU_ASSERT_FATAL(sharpi_session_feed(session, w->prompts[i], w->lengths[i], NULL) == 0);
    for (uint32_t j = 0; j < N_TOKENS; j++) {
        int32_t token = (int32_t)argmax(sharpi_session_logits(session), FIXTURE_VOCAB);
        w->answers[i][j] = token;
        CU_ASSERT_FATAL(sharpi_session_feed(session, &token, 1, NULL) == 0);
    }
    sharpi_session_free(session);
}

static void open_world(struct world *w, const char *name, struct sharpi_model_options o)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct fixture_data data;
    uint32_t i, j, state = 99;
    memset(w, 0, sizeof *w);
    for (i = 0; i < n_fixtures && strcmp(fixtures[i].name, name); i++)
        ;
    CU_ASSERT_FATAL(fixture_read(&fixtures[i], &data) == 0);
    free(data.logits);
    o.size = sizeof o;
    o.kv = "f32";
    o.context = 256;
    o.n_threads = 2;
    if (sharpi_model_load(engine, data.model, &o, &w->model, &err))
        fprintf(stderr, "%s\n", err.text);
    CU_ASSERT_FATAL(w->model != NULL);
    for (i = 0; i < N_PROMPTS; i++) { /* few beginnings, so that prefixes meet */
        w->lengths[i] = 1 + random_below(&state, 199);
        for (j = 0; j < 200; j++)
            w->prompts[i][j] = data.tokens[(j + (i % 3) * 11 + (j > 60 + 10 * (i % 7) ? i : 0)) % 200];
        run_alone(w, i);
    }
}

static void start_world(struct world *w, struct sharpi_scheduler_options o)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    o.size = sizeof o;
    if (sharpi_scheduler_create(w->model, &o, &w->s, &err))
        fprintf(stderr, "%s\n", err.text);
    CU_ASSERT_FATAL(w->s != NULL);
}

static void all_pages_are_back(struct world *w)
{
    struct sharpi_scheduler_stats stats;
    struct sharpi_kv_counts counts;
    sharpi_scheduler_get_stats(w->s, &stats);
    CU_ASSERT(stats.accounting_errors == 0 && stats.running == 0 && stats.queued == 0);
    for (uint32_t c = 0; c < stats.n_classes; c++)
        CU_ASSERT(stats.classes[c].active == 0);
    sharpi_scheduler_destroy(w->s);
    CU_ASSERT(sharpi_kv_pages_check(w->model->pages, NULL) == 0);
    for (uint32_t c = 0; c < w->model->n_classes; c++) {
        sharpi_kv_pages_count(w->model->pages, c, &counts);
        CU_ASSERT(counts.free == counts.n_pages);
    }
}

static void check(struct world *w, uint32_t i, const struct answer *a)
{
    atomic_fetch_add(&w->wrong, a->done != 1 || a->n > N_TOKENS ||
                                    memcmp(a->tokens, w->answers[i], a->n * sizeof(int32_t)) != 0);
    if (a->status)
        atomic_fetch_add(&w->failed, 1);
    else if (a->finish == SHARPI_FINISH_CANCELLED)
        atomic_fetch_add(&w->cancelled, 1);
    else
        atomic_fetch_add(&w->completed, 1);
}

/* ---- Load */

struct client {
    struct world *world;
    uint32_t state, n_requests;
};

static void *client_main(void *user)
{
    struct client *client = user;
    struct world *w = client->world;
    for (uint32_t k = 0; k < client->n_requests; k++) {
        uint32_t i = random_below(&client->state, N_PROMPTS), what = random_below(&client->state, 10);
        struct answer *a = calloc(1, sizeof *a);
        struct sharpi_request r = {.tokens = w->prompts[i],
                                   .n_tokens = w->lengths[i],
                                   .max_tokens = 1 + random_below(&client->state, N_TOKENS),
                                   .no_reuse = what == 9,
                                   .ignore_end = 1};
        a->cancel_in = what == 0 ? w->s : NULL;
        a->stop_after = what == 1 ? 1 + random_below(&client->state, 8) : 0;
        if (answer_ask(w->s, r, a) == 0 && what == 2) {
            usleep(random_below(&client->state, 20000));
            sharpi_scheduler_cancel(w->s, a->id);
        } else if (what == 3) {
            struct sharpi_scheduler_stats stats;
            struct sharpi_scheduler_pulse pulse;
            sharpi_scheduler_get_stats(w->s, &stats);
            sharpi_scheduler_get_pulse(w->s, &pulse);
        }
        if (!answer_wait(a))
            atomic_fetch_add(&w->wrong, 1000);
        check(w, i, a);
        free(a);
    }
    return NULL;
}

static void load(const char *name, struct sharpi_model_options o, struct sharpi_scheduler_options so)
{
    struct world *w = calloc(1, sizeof *w);
    struct client clients[2 * N_THREADS];
    pthread_t threads[2 * N_THREADS];
    struct sharpi_scheduler_stats stats;
    const char *n = getenv("SHARPI_STRESS"); /* requests per thread */
    uint32_t i;
    CU_ASSERT_FATAL(w != NULL);
    o.max_sessions = 5;
    open_world(w, name, o);
    start_world(w, so);
    for (i = 0; i < 2 * N_THREADS; i++) {
        clients[i] =
            (struct client){.world = w, .state = 17 * i + 1, .n_requests = n ? (uint32_t)atoi(n) : 30};
        CU_ASSERT_FATAL(pthread_create(&threads[i], NULL, client_main, &clients[i]) == 0);
    }
    for (i = 0; i < 2 * N_THREADS; i++)
        pthread_join(threads[i], NULL);
    sharpi_scheduler_get_stats(w->s, &stats);
    fprintf(stderr,
            "  %s: %d completed, %d cancelled, %d failed, %d wrong; %llu steps, %llu of %llu prompt tokens "
            "reused, %llu preemptions, %llu pages copied, %llu given up\n",
            name, w->completed, w->cancelled, w->failed, w->wrong, (unsigned long long)stats.steps,
            (unsigned long long)stats.prefix_hit_tokens, (unsigned long long)stats.prompt_tokens,
            (unsigned long long)stats.preemptions, (unsigned long long)stats.page_copies,
            (unsigned long long)stats.evicted_pages);
    CU_ASSERT(w->wrong == 0 && w->failed == 0 && w->completed > 0 && w->cancelled > 0);
    all_pages_are_back(w);
    sharpi_model_free(w->model);
    free(w);
}

static void random_requests_are_answered_as_alone(void)
{
    load("llama", (struct sharpi_model_options){.chunk = 48},
         (struct sharpi_scheduler_options){.max_stall_ms = 0});
    load("gemma3", (struct sharpi_model_options){.chunk = 32, .headroom = 64},
         (struct sharpi_scheduler_options){.max_stall_ms = 5});
    load("gemma4-ple", (struct sharpi_model_options){.chunk = 32, .headroom = 32},
         (struct sharpi_scheduler_options){.max_pages = 6});
    load("qwen3moe", (struct sharpi_model_options){.chunk = 64},
         (struct sharpi_scheduler_options){.max_pages = 9, .verify_reuse = 1});
}

/* ---- No memory */

/* Two requests at once while allocations fail; then one without failures, which must be right. */
static void ask_without_memory(struct world *w, int first, int again, uint32_t *n_without)
{
    struct answer *a = calloc(3, sizeof *a);
    uint32_t i;
    CU_ASSERT_FATAL(a != NULL);
    arm(first, again);
    for (i = 0; i < 2; i++) {
        struct sharpi_request r = {.tokens = w->prompts[i],
                                   .n_tokens = w->lengths[i],
                                   .max_tokens = 8,
                                   .logprobs = i,
                                   .n_top = 2,
                                   .ignore_end = 1};
        answer_ask(w->s, r, &a[i]);
    }
    for (i = 0; i < 2; i++) {
        CU_ASSERT(answer_wait(&a[i]));
        CU_ASSERT(a[i].status == 0 || a[i].status == SHARPI_ENOMEM);
        CU_ASSERT(a[i].status == 0 || a[i].error[0]);
        CU_ASSERT(memcmp(a[i].tokens, w->answers[i], a[i].n * sizeof(int32_t)) == 0);
    }
    *n_without += atomic_load(&n_failed) > 0;
    arm(0, 0);
    struct sharpi_request r = {
        .tokens = w->prompts[2], .n_tokens = w->lengths[2], .max_tokens = 8, .ignore_end = 1};
    CU_ASSERT(answer_ask(w->s, r, &a[2]) == 0 && answer_wait(&a[2]));
    CU_ASSERT(a[2].status == 0 && a[2].n == 8);
    CU_ASSERT(memcmp(a[2].tokens, w->answers[2], 8 * sizeof(int32_t)) == 0);
    free(a);
}

static void failing_allocations_cost_only_their_request(void)
{
    struct world *w = calloc(1, sizeof *w);
    struct sharpi_scheduler_stats stats;
    uint32_t n_without = 0, n_failed_alone = 0;
    CU_ASSERT_FATAL(w != NULL);
    open_world(w, "gemma3", (struct sharpi_model_options){.chunk = 32, .headroom = 64, .max_sessions = 3});
    start_world(w, (struct sharpi_scheduler_options){.max_stall_ms = 0});
    for (int n = 1; n <= 60; n++)
        ask_without_memory(w, n, 0, &n_without);
    for (int n = 1; n <= 40; n++)
        ask_without_memory(w, n, n, &n_failed_alone);
    CU_ASSERT(n_without >= 20 && n_failed_alone >= 20);
    sharpi_scheduler_get_stats(w->s, &stats);
    CU_ASSERT(stats.fallbacks[SHARPI_FALLBACK_BATCH_SPLIT] > 0 &&
              stats.fallbacks[SHARPI_FALLBACK_BATCH_SPLIT] <= stats.failed_steps);
    fprintf(stderr, "  %u of 60 requests met one failure, %u of 40 one at every N-th call\n", n_without,
            n_failed_alone);
    all_pages_are_back(w);
    sharpi_model_free(w->model);
    free(w);
}

static void scheduler_that_cannot_be_made_leaves_nothing(void)
{
    struct world *w = calloc(1, sizeof *w);
    struct sharpi_scheduler_options o = {.size = sizeof o};
    int32_t status = SHARPI_ENOMEM;
    int n;
    CU_ASSERT_FATAL(w != NULL);
    open_world(w, "llama", (struct sharpi_model_options){.chunk = 32, .max_sessions = 3});
    for (n = 1; status && n < 200; n++) {
        arm(n, 0);
        status = sharpi_scheduler_create(w->model, &o, &w->s, NULL);
        arm(0, 0);
        CU_ASSERT(status == 0 || status == SHARPI_ENOMEM);
    }
    CU_ASSERT(status == 0 && n > 10);
    all_pages_are_back(w);
    sharpi_model_free(w->model);
    free(w);
}

int main(void)
{
    unsigned failures;
    int status;
    CU_pSuite suite;
    if ((status = fixtures_engine(NULL, &engine)))
        return status;
    CU_initialize_registry();
    suite = CU_add_suite("scheduler under stress", NULL, NULL);
    CU_add_test(suite, "random requests are answered as alone", random_requests_are_answered_as_alone);
    CU_add_test(suite, "failing allocations cost only their request",
                failing_allocations_cost_only_their_request);
    CU_add_test(suite, "scheduler that cannot be made leaves nothing",
                scheduler_that_cannot_be_made_leaves_nothing);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    sharpi_engine_close(engine);
    return failures ? 1 : 0;
}
