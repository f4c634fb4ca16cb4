/* Sampling from the highest logits only: the tokens, one after the other, are those that sampling from all of them gives. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <CUnit/Basic.h>

#include "core/session.h"
#include "fixtures.h"

enum { N_VOCAB = 5000, N_DRAWS = 40 };

/* ---- Samplers */

struct setting {
    struct sharpi_sampler_params params;
    uint32_t reach;
};

static struct sharpi_logit_bias one_bias = {7, 1.0f};

/* Chains with what they look at. */
static uint32_t make_settings(struct setting *settings)
{
    uint32_t n = 0;
#define SETTING(expected, ...)                                                                               \
    do {                                                                                                     \
        struct sharpi_sampler_params *p = &settings[n].params;                                               \
        sharpi_sampler_params_init(p);                                                                       \
        p->seed = 77 + n;                                                                                    \
        __VA_ARGS__;                                                                                         \
        settings[n++].reach = (expected);                                                                    \
    } while (0)
    SETTING(40, (void)p);
    SETTING(1, p->temperature = 0);
    SETTING(1, p->temperature = 0, p->top_k = 0, p->min_p = 0.5f, p->xtc_probability = 1);
    SETTING(1, p->temperature = 0, p->chain = "");
    SETTING(3, p->top_k = 3, p->top_p = 1, p->min_p = 0);
    SETTING(256, p->top_k = 256, p->typical_p = 0.7f, p->temperature = 1.5f);
    SETTING(0, p->top_k = 257);
    SETTING(0, p->top_k = 0);
    SETTING(20, p->top_k = 20, p->xtc_probability = 0.5f, p->min_keep = 2);
    SETTING(0, p->repeat_penalty = 1.1f);
    SETTING(0, p->repeat_penalty = 1.1f, p->temperature = 0);
    SETTING(40, p->repeat_penalty = 1.1f, p->penalty_last_n = 0);
    SETTING(0, p->frequency_penalty = 0.1f);
    SETTING(0, p->dry_multiplier = 0.8f);
    SETTING(40, p->dry_multiplier = 0.8f, p->dry_last_n = 0);
    SETTING(0, p->bias = &one_bias, p->n_bias = 1);
    SETTING(0, p->bias = &one_bias, p->n_bias = 1, p->temperature = 0);
    SETTING(0, p->chain = "top_p;top_k;temperature");
    SETTING(0, p->chain = "min_p;top_k");
    SETTING(0, p->chain = "temperature;top_k");
    SETTING(40, p->chain = "temperature;top_k", p->temperature = 1);
    SETTING(30, p->chain = "top_k;penalties;bias;dry;top_p;temperature", p->top_k = 30,
            p->repeat_penalty = 1.3f, p->dry_multiplier = 0.8f, p->bias = &one_bias, p->n_bias = 1);
    SETTING(0, p->chain = "top_k;penalties", p->temperature = 0, p->repeat_penalty = 1.3f);
#undef SETTING
    return n;
}

static struct sharpi_sampler *create(const struct sharpi_sampler_params *params, int32_t n_vocab)
{
    struct sharpi_sampler *sampler = NULL;
    CU_ASSERT_EQUAL_FATAL(sharpi_sampler_create(params, n_vocab, &sampler, NULL), SHARPI_OK);
    return sampler;
}

static void chains_know_how_far_they_look(void)
{
    struct setting settings[32];
    uint32_t n = make_settings(settings);
    for (uint32_t i = 0; i < n; i++) {
        struct sharpi_sampler *sampler = create(&settings[i].params, N_VOCAB);
        CU_ASSERT_EQUAL(sharpi_sampler_reach(sampler), settings[i].reach);
        if (sharpi_sampler_reach(sampler) != settings[i].reach)
            fprintf(stderr, "setting %u looks at %u\n", i, sharpi_sampler_reach(sampler));
        sharpi_sampler_destroy(sampler);
    }
    { /* a vocabulary that top_k does not cut */
        struct sharpi_sampler *sampler = create(&settings[0].params, 40);
        CU_ASSERT_EQUAL(sharpi_sampler_reach(sampler), 0);
        sharpi_sampler_destroy(sampler);
    }
}

static uint32_t seed = 1;

static float uniform(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) * 0x1p-24f;
}

/* Rows of all kinds: peaked, flat, full of ties, with NaN and -inf, with hardly anything. */
static void make_row(float *row, uint32_t kind)
{
    for (uint32_t i = 0; i < N_VOCAB; i++) {
        row[i] = 12.0f * uniform() * uniform();
        if (kind % 5 == 1)
            row[i] = floorf(row[i]);
        if (kind % 5 == 2 && i % 3 == 0)
            row[i] = i % 2 ? NAN : -INFINITY;
        if (kind % 5 == 3 && i != 17 && i != 4000)
            row[i] = -INFINITY;
        if (kind % 5 == 4)
            row[i] = 1.0f;
    }
}

static void the_highest_give_the_same_tokens(void)
{
    struct setting settings[32];
    uint32_t n = make_settings(settings);
    float *row = malloc(N_VOCAB * sizeof *row), *copy = malloc(N_VOCAB * sizeof *copy);
    CU_ASSERT_FATAL(row && copy);
    for (uint32_t i = 0; i < n; i++) {
        struct sharpi_sampler *all = create(&settings[i].params, N_VOCAB),
                              *few = create(&settings[i].params, N_VOCAB);
        for (uint32_t draw = 0; draw < N_DRAWS && settings[i].reach; draw++) {
            int32_t ids[SHARPI_TOP_MAX], a, b;
            float values[SHARPI_TOP_MAX];
            uint32_t found;
            make_row(row, draw);
            memcpy(copy, row, N_VOCAB * sizeof *copy);
            /* more candidates than needed do no harm */
            found =
                sharpi_logits_candidates(copy, N_VOCAB, settings[i].reach + (draw & 1), ids, values, NULL);
            a = sharpi_sampler_sample(all, row, N_VOCAB);
            b = sharpi_sampler_sample_top(few, ids, values, found);
            CU_ASSERT_EQUAL(a, b);
            CU_ASSERT_EQUAL(sharpi_sampler_accept(all, a, NULL), SHARPI_OK);
            CU_ASSERT_EQUAL(sharpi_sampler_accept(few, b, NULL), SHARPI_OK);
        }
        sharpi_sampler_destroy(all);
        sharpi_sampler_destroy(few);
    }
    free(row);
    free(copy);
}

static void candidates_are_sorted_and_summed(void)
{
    float row[] = {1, 3, NAN, 3, -INFINITY, 2}, values[6], sum;
    int32_t ids[6];
    CU_ASSERT_EQUAL(sharpi_logits_candidates(row, 6, 6, ids, values, &sum), 4);
    CU_ASSERT(ids[0] == 1 && ids[1] == 3 && ids[2] == 5 && ids[3] == 0);
    CU_ASSERT(values[0] == 3 && values[3] == 1);
    CU_ASSERT_DOUBLE_EQUAL(sum, log(2 * exp(3) + exp(2) + exp(1)), 1e-5);
    row[0] = row[1] = row[3] = row[5] = -INFINITY;
    CU_ASSERT_EQUAL(sharpi_logits_candidates(row, 6, 2, ids, values, &sum), 0);
    CU_ASSERT(sum == -INFINITY);
}

/* ---- Sessions */

static struct sharpi_engine *engine;

static struct sharpi_model *load(uint32_t max_sessions)
{
    struct sharpi_model_options options = {.size = sizeof options,
                                           .kv = "f32",
                                           .context = 256,
                                           .chunk = 32,
                                           .n_threads = 2,
                                           .max_sessions = max_sessions};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_model *model = NULL;
    struct fixture_data data;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[3], &data), 0);
    free(data.logits);
    if (sharpi_model_load(engine, data.model, &options, &model, &err))
        fprintf(stderr, "%s\n", err.text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(model);
    return model;
}

/* Tokens from all logits, as a caller of sharpi_step gets them. */
static void generate_from_all(struct sharpi_model *model, const struct sharpi_sampler_params *params,
                              const int32_t *prompt, uint32_t n_prompt, int32_t *made)
{
    struct sharpi_sampler *sampler = create(params, (int32_t)model->desc.n_vocab);
    struct sharpi_session *session = NULL;
    float *row = malloc(model->desc.n_vocab * sizeof *row);
    CU_ASSERT_EQUAL_FATAL(sharpi_session_create(model, &session, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_session_feed(session, prompt, n_prompt, NULL), SHARPI_OK);
    for (uint32_t i = 0; i < N_DRAWS; i++) {
        CU_ASSERT_PTR_NOT_NULL_FATAL(sharpi_session_logits(session));
        memcpy(row, sharpi_session_logits(session), model->desc.n_vocab * sizeof *row);
        made[i] = sharpi_sampler_sample(sampler, row, (int32_t)model->desc.n_vocab);
        sharpi_sampler_accept(sampler, made[i], NULL);
        CU_ASSERT_EQUAL(sharpi_session_feed(session, &made[i], 1, NULL), SHARPI_OK);
    }
    sharpi_session_free(session);
    sharpi_sampler_destroy(sampler);
    free(row);
}

static void a_session_generates_the_same(void)
{
    static const int32_t prompt[] = {5, 9, 200, 31, 7, 7, 120};
    struct setting settings[32];
    uint32_t n = make_settings(settings);
    struct sharpi_model *model = load(2);
    for (uint32_t i = 0; i < n; i++) {
        struct sharpi_sampler *sampler = create(&settings[i].params, (int32_t)model->desc.n_vocab);
        struct sharpi_session *session = NULL;
        int32_t expected[N_DRAWS], token;
        generate_from_all(model, &settings[i].params, prompt, 7, expected);
        CU_ASSERT_EQUAL_FATAL(sharpi_session_create(model, &session, NULL), SHARPI_OK);
        CU_ASSERT_EQUAL(sharpi_session_feed(session, prompt, 7, NULL), SHARPI_OK);
        for (uint32_t k = 0; k < N_DRAWS; k++) {
            CU_ASSERT_EQUAL(sharpi_session_next(session, sampler, &token, NULL), SHARPI_OK);
            CU_ASSERT_EQUAL(token, expected[k]);
            CU_ASSERT_PTR_NULL(sharpi_session_logits(session));
        }
        /* whoever feeds gets all logits again */
        CU_ASSERT_EQUAL(sharpi_session_feed(session, prompt, 1, NULL), SHARPI_OK);
        CU_ASSERT_PTR_NOT_NULL(sharpi_session_logits(session));
        sharpi_session_free(session);
        sharpi_sampler_destroy(sampler);
    }
    sharpi_model_free(model);
}

/* Three sessions in a step: the highest 5, the highest 9, none; and once more with one that wants all. */
static void sessions_of_a_batch_get_what_they_want(void)
{
    static const int32_t tokens[] = {5, 9, 200, 31, 7};
    struct sharpi_model *model = load(3);
    struct sharpi_session *s[3];
    struct sharpi_work work[3];
    float *all[3];
    for (uint32_t i = 0; i < 3; i++) {
        all[i] = malloc(model->desc.n_vocab * sizeof(float));
        CU_ASSERT_EQUAL_FATAL(sharpi_session_create(model, &s[i], NULL), SHARPI_OK);
        work[i] = (struct sharpi_work){.session = s[i], .tokens = tokens, .n_tokens = 2 + i, .want = 1};
    }
    CU_ASSERT_EQUAL(sharpi_step(model, work, 3, NULL), SHARPI_OK);
    for (uint32_t i = 0; i < 3; i++) {
        CU_ASSERT_FATAL(s[i]->has_logits && !s[i]->n_top);
        memcpy(all[i], s[i]->logits, model->desc.n_vocab * sizeof(float));
        CU_ASSERT_EQUAL(sharpi_session_truncate(s[i], 0, NULL), SHARPI_OK);
    }
    s[0]->top_k = 5;
    s[1]->top_k = 9;
    work[2].want = 0;
    CU_ASSERT_EQUAL(sharpi_step(model, work, 3, NULL), SHARPI_OK);
    CU_ASSERT(!s[0]->has_logits && s[0]->n_top == 5);
    CU_ASSERT(!s[1]->has_logits && s[1]->n_top == 9);
    CU_ASSERT(!s[2]->has_logits && !s[2]->n_top);
    for (uint32_t i = 0; i < 2; i++) {
        int32_t ids[SHARPI_TOP_MAX];
        float values[SHARPI_TOP_MAX], sum;
        sharpi_logits_candidates(all[i], model->desc.n_vocab, s[i]->n_top, ids, values, &sum);
        CU_ASSERT_EQUAL(memcmp(ids, s[i]->top_ids, s[i]->n_top * sizeof *ids), 0);
        CU_ASSERT_EQUAL(memcmp(values, s[i]->top_logits, s[i]->n_top * sizeof *values), 0);
        CU_ASSERT_EQUAL(sum, s[i]->top_log_sum);
        CU_ASSERT_PTR_NULL(sharpi_session_logits(s[i]));
        CU_ASSERT_EQUAL(sharpi_session_truncate(s[i], 0, NULL), SHARPI_OK);
        CU_ASSERT_EQUAL(s[i]->n_top, 0);
    }
    CU_ASSERT_EQUAL(sharpi_session_truncate(s[2], 0, NULL), SHARPI_OK);
    work[2].want = 1;
    CU_ASSERT_EQUAL(sharpi_step(model, work, 3, NULL), SHARPI_OK);
    for (uint32_t i = 0; i < 3; i++) {
        CU_ASSERT(s[i]->has_logits && !s[i]->n_top);
        CU_ASSERT_EQUAL(memcmp(s[i]->logits, all[i], model->desc.n_vocab * sizeof(float)), 0);
        sharpi_session_free(s[i]);
        free(all[i]);
    }
    sharpi_model_free(model);
}

static void a_sampler_that_looks_further_is_refused(void)
{
    static const int32_t tokens[] = {5, 9};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_model *model = load(1);
    struct setting settings[32];
    struct sharpi_session *session = NULL;
    struct sharpi_sampler *greedy, *forty;
    struct sharpi_work work = {.tokens = tokens, .n_tokens = 2, .want = 1};
    int32_t token;
    make_settings(settings);
    forty = create(&settings[0].params, (int32_t)model->desc.n_vocab);
    greedy = create(&settings[1].params, (int32_t)model->desc.n_vocab);
    CU_ASSERT_EQUAL_FATAL(sharpi_session_create(model, &session, NULL), SHARPI_OK);
    work.session = session;
    session->top_k = 1;
    CU_ASSERT_EQUAL(sharpi_step(model, &work, 1, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_session_sample(session, forty, &token, &err), SHARPI_EBUG);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "highest 1 logits"));
    CU_ASSERT_EQUAL(sharpi_session_sample(session, greedy, &token, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_session_sample(session, greedy, &token, &err), SHARPI_EINVAL); /* used up */
    sharpi_session_free(session);
    sharpi_sampler_destroy(forty);
    sharpi_sampler_destroy(greedy);
    sharpi_model_free(model);
}

#define TEST(name)                                                                                           \
    {                                                                                                        \
#name, name                                                                                          \
    }

int main(void)
{
    static CU_TestInfo samplers[] = {TEST(chains_know_how_far_they_look),
                                     TEST(the_highest_give_the_same_tokens),
                                     TEST(candidates_are_sorted_and_summed), CU_TEST_INFO_NULL};
    static CU_TestInfo sessions[] = {TEST(a_session_generates_the_same),
                                     TEST(sessions_of_a_batch_get_what_they_want),
                                     TEST(a_sampler_that_looks_further_is_refused), CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"samplers", NULL, NULL, NULL, NULL, samplers},
                             {"sessions", NULL, NULL, NULL, NULL, sessions},
                             CU_SUITE_INFO_NULL};
    unsigned failures;
    int status;
    if ((status = fixtures_engine(NULL, &engine)))
        return status;
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    sharpi_engine_close(engine);
    return failures != 0;
}
