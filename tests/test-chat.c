/* What sharpi chat is made of: the prefix that a session keeps, reasoning told from answers, sampling options. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <CUnit/Basic.h>

#include "cli/chat.h"
#include "cli/held-tokens.h"
#include "core/reasoning.h"
#include "cli/sampling.h"
#include "fixtures.h"

/* ---- Common prefixes */

static void prefix_ends_at_the_first_difference(void)
{
    const int32_t a[] = {1, 2, 3, 4}, b[] = {1, 2, 9, 4, 5};
    CU_ASSERT(common_prefix(a, 4, b, 5) == 2);
    CU_ASSERT(common_prefix(a, 2, b, 5) == 2);
    CU_ASSERT(common_prefix(a, 4, a, 4) == 4);
    CU_ASSERT(common_prefix(a, 4, a + 1, 3) == 0);
    CU_ASSERT(common_prefix(a, 0, b, 5) == 0);
}

/* A session of a fixture with sliding windows, ring as small as it gets. */
struct world {
    struct sharpi_engine *engine;
    struct sharpi_model *model;
    struct held_tokens held;
    struct fixture_data data;
};

static int open_world(struct world *w, const char *name)
{
    struct sharpi_model_options options = {
        .size = sizeof options, .context = 256, .chunk = 32, .headroom = 32, .n_threads = 1, .kv = "f32"};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const struct fixture *f = fixtures;
    memset(w, 0, sizeof *w);
    while (strcmp(f->name, name) != 0)
        f++;
    if (fixture_read(f, &w->data) == 0 && sharpi_engine_open(NULL, &w->engine, &err) == 0 &&
        sharpi_model_load(w->engine, w->data.model, &options, &w->model, &err) == 0 &&
        sharpi_session_create(w->model, &w->held.session, &err) == 0)
        return 0;
    fprintf(stderr, "%s\n", err.text);
    return -1;
}

static void close_world(struct world *w)
{
    held_free(&w->held);
    sharpi_session_free(w->held.session);
    sharpi_model_free(w->model);
    sharpi_engine_close(w->engine);
    free(w->data.logits);
}

/* Makes the session hold tokens[n] as a turn does; returns how many were kept, UINT64_MAX on failure. */
static uint64_t go_to(struct world *w, const int32_t *tokens, uint32_t n)
{
    uint64_t keep;
    if (held_rewind(&w->held, tokens, n, &keep, NULL) ||
        sharpi_session_feed(w->held.session, tokens + keep, n - (uint32_t)keep, NULL) ||
        held_note(&w->held, tokens + keep, n - keep, NULL))
        return UINT64_MAX;
    return keep;
}

static float difference_at(const struct world *w, uint32_t position)
{
    const float *logits = sharpi_session_logits(w->held.session);
    return logits ? max_difference(logits, w->data.logits + (size_t)position * FIXTURE_VOCAB, FIXTURE_VOCAB)
                  : INFINITY;
}

static void a_longer_conversation_computes_only_its_end(void)
{
    struct world w;
    CU_ASSERT_FATAL(open_world(&w, "llama") == 0);
    CU_ASSERT(go_to(&w, w.data.tokens, 60) == 0);
    CU_ASSERT(go_to(&w, w.data.tokens, 100) == 60);
    CU_ASSERT(difference_at(&w, 99) <= 0.002f);
    CU_ASSERT(sharpi_session_length(w.held.session) == 100 && w.held.tokens.n == 100);
    close_world(&w);
}

static void a_changed_conversation_goes_back_to_the_change(void)
{
    struct world w;
    int32_t changed[100];
    CU_ASSERT_FATAL(open_world(&w, "llama") == 0);
    memcpy(changed, w.data.tokens, sizeof changed);
    changed[70] = changed[70] == 5 ? 6 : 5;
    CU_ASSERT(go_to(&w, changed, 100) == 0);
    CU_ASSERT(go_to(&w, w.data.tokens, 100) == 70);
    CU_ASSERT(difference_at(&w, 99) <= 0.002f);
    close_world(&w);
}

static void the_same_conversation_computes_its_last_token_for_the_logits(void)
{
    struct world w;
    CU_ASSERT_FATAL(open_world(&w, "llama") == 0);
    CU_ASSERT(go_to(&w, w.data.tokens, 50) == 0);
    CU_ASSERT(go_to(&w, w.data.tokens, 50) == 49);
    CU_ASSERT(difference_at(&w, 49) <= 0.002f);
    close_world(&w);
}

/* Window 16, headroom 32: a ring of 64. After 200 positions nothing before 120 can be gone back to. */
static void a_ring_that_moved_on_starts_again(void)
{
    struct world w;
    CU_ASSERT_FATAL(open_world(&w, "gemma3") == 0);
    CU_ASSERT(go_to(&w, w.data.tokens, 200) == 0);
    CU_ASSERT(go_to(&w, w.data.tokens, 60) == 0);
    CU_ASSERT(difference_at(&w, 59) <= 0.002f);
    CU_ASSERT(go_to(&w, w.data.tokens, 70) == 60);
    CU_ASSERT(difference_at(&w, 69) <= 0.002f);
    close_world(&w);
}

static void a_sampled_token_that_was_not_fed_is_not_held(void)
{
    struct world w;
    struct sharpi_sampler_params params;
    struct sharpi_sampler *sampler = NULL;
    int32_t token = -1;
    CU_ASSERT_FATAL(open_world(&w, "llama") == 0);
    sharpi_sampler_params_init(&params);
    params.temperature = 0;
    CU_ASSERT_FATAL(sharpi_sampler_create(&params, FIXTURE_VOCAB, &sampler, NULL) == 0);
    CU_ASSERT(go_to(&w, w.data.tokens, 20) == 0);
    CU_ASSERT(sharpi_session_next(w.held.session, sampler, &token, NULL) == 0);
    CU_ASSERT(held_note(&w.held, &token, 1, NULL) == 0);
    CU_ASSERT(w.held.tokens.n == 20);
    CU_ASSERT(go_to(&w, w.data.tokens, 40) == 20); /* and the pending token is gone */
    CU_ASSERT(difference_at(&w, 39) <= 0.002f);
    sharpi_sampler_destroy(sampler);
    close_world(&w);
}

/* ---- Reasoning */

struct heard {
    char thought[256], said[256];
};

static int32_t hear(void *user, int32_t is_reasoning, const char *text, uint64_t n, struct sharpi_error *err)
{
    struct heard *heard = user;
    char *to = is_reasoning ? heard->thought : heard->said;
    (void)err;
    strncat(to, text, n);
    return SHARPI_OK;
}

/* The text must split the same in one piece and byte by byte. */
static void check_split(const char *prompt, const char *text, const char *thought, const char *said)
{
    for (size_t piece = 1; piece <= strlen(text) + 1; piece += strlen(text)) {
        struct heard heard = {"", ""};
        struct sharpi_reasoning r;
        sharpi_reasoning_init(&r, prompt, strlen(prompt), hear, &heard);
        for (size_t at = 0; at < strlen(text); at += piece) {
            size_t n = strlen(text) - at < piece ? strlen(text) - at : piece;
            CU_ASSERT(sharpi_reasoning_push(&r, text + at, n, NULL) == 0);
        }
        CU_ASSERT(sharpi_reasoning_end(&r, NULL) == 0);
        CU_ASSERT_STRING_EQUAL(heard.thought, thought);
        CU_ASSERT_STRING_EQUAL(heard.said, said);
    }
}

static void reasoning_is_told_from_the_answer(void)
{
    check_split("", "<think>a < b</thin </think>\n\nyes", "a < b</thin ", "yes");
    check_split("", "\n<think></think>yes", "", "yes");
    check_split("", "<|channel>thought\nhm<channel|>yes", "\nhm", "yes");
    check_split("", "[THINK]hm[/THINK] yes", "hm", "yes");
    check_split("", "<think>never ends", "never ends", "");
    check_split("", "<think>a</think?</think>b", "a</think?", "b");
    check_split("", "<<think>x", "", "<<think>x");
}

static void a_template_may_have_opened_the_reasoning(void)
{
    check_split("<|assistant|><think>\n", "hm</think>yes", "hm", "yes");
    check_split("<think>\n\n</think>\n\n", "yes", "", "yes");
}

static void an_answer_about_marks_stays_whole(void)
{
    check_split("", "Write <think>x</think>.", "", "Write <think>x</think>.");
    check_split("", " <thin", "", " <thin");
    check_split("", "<th", "", "<th");
    check_split("", "  \n", "", "");
    check_split("", "<think>a</think>b<think>c</think>", "a", "b<think>c</think>");
}

static void marks_that_are_control_tokens_are_known(void)
{
    CU_ASSERT(sharpi_reasoning_is_mark("<|channel>", 10));
    CU_ASSERT(sharpi_reasoning_is_mark("<channel|>", 10));
    CU_ASSERT(sharpi_reasoning_is_mark("<think>", 7));
    CU_ASSERT(!sharpi_reasoning_is_mark("<eos>", 5));
    CU_ASSERT(!sharpi_reasoning_is_mark("<", 1));
    CU_ASSERT(!sharpi_reasoning_is_mark("", 0));
}

/* ---- The screen */

/* What the terminal would get for reasoning and answer. */
static void show(struct chat_screen *screen, const char *thought, const char *said, char *text, size_t n)
{
    FILE *file = tmpfile();
    int saved = dup(STDOUT_FILENO);
    size_t got;
    CU_ASSERT_FATAL(file && saved >= 0);
    fflush(stdout);
    dup2(fileno(file), STDOUT_FILENO);
    chat_screen_begin(screen);
    CU_ASSERT(chat_screen_put(screen, 1, thought, strlen(thought), NULL) == 0);
    CU_ASSERT(chat_screen_put(screen, 0, said, strlen(said), NULL) == 0);
    CU_ASSERT(chat_screen_end(screen, NULL) == 0);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    rewind(file);
    got = fread(text, 1, n - 1, file);
    text[got] = 0;
    fclose(file);
}

static void reasoning_is_dimmed_or_marked_or_hidden(void)
{
    struct chat_screen colour = {.colour = 1}, none = {.colour = 0}, hidden = {.hide_reasoning = 1};
    char text[128];
    show(&colour, "\nhm", "yes", text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "\033[2mhm\n\033[0myes\n");
    show(&colour, "hm", "", text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "\033[2mhm\n\033[0m");
    show(&none, "hm\n", "yes\n", text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "<think>\nhm\n</think>\nyes\n");
    show(&hidden, "hm", "yes", text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "yes\n");
}

static void a_model_cannot_control_the_terminal(void)
{
    struct chat_screen terminal = {.clean = 1}, pipe = {.clean = 0};
    const char *evil = "a\033]0;x\007b\r\xc2\x9b"
                       "2J\xc2\xa0\tc\x7f";
    char text[128];
    show(&terminal, "", evil, text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "a]0;xb2J\xc2\xa0\tc\n");
    show(&pipe, "", evil, text, sizeof text);
    CU_ASSERT(memcmp(text, evil, strlen(evil)) == 0);
}

/* ---- Sampling options */

static struct sharpi_settings *settings_of(const char *const *assignments)
{
    struct sharpi_settings *settings = NULL;
    CU_ASSERT_FATAL(sharpi_settings_create(&settings, NULL) == 0);
    for (; *assignments; assignments++)
        CU_ASSERT(sharpi_settings_override(settings, *assignments, NULL) == 0);
    CU_ASSERT(sharpi_settings_check_core(settings, NULL) == 0);
    return settings;
}

static void parse_options(struct sampling *s, int argc, const char *const *argv)
{
    const struct option *const tables[] = {s->options, NULL};
    uint32_t n_args;
    CU_ASSERT(options_parse(tables, argc, (char **)(uintptr_t)argv, NULL, 0, &n_args, NULL) == 0);
}

static void options_win_over_settings(void)
{
    static const char *const set[] = {"sampling.temp=0.25",
                                      "sampling.top-k=7",
                                      "sampling.seed=11",
                                      "sampling.chain=top_k, temperature",
                                      "sampling.logit-bias=3+1.5 9-inf",
                                      NULL};
    static const char *const argv[] = {"run", "--top-k", "9", "--xtc-threshold=0.2"};
    struct sharpi_settings *settings = settings_of(set);
    struct sampling s;
    sampling_init(&s);
    parse_options(&s, 4, argv);
    CU_ASSERT(sampling_settle(&s, settings, NULL) == 0);
    CU_ASSERT(s.params.temperature == 0.25f && s.params.top_k == 9 && s.params.seed == 11);
    CU_ASSERT(s.params.xtc_threshold == 0.2f && s.params.top_p == 0.95f);
    CU_ASSERT(s.params.n_bias == 2 && s.params.bias[0].id == 3 && s.params.bias[0].bias == 1.5f);
    CU_ASSERT(s.params.bias[1].id == 9 && s.params.bias[1].bias == -INFINITY);
    CU_ASSERT(sharpi_sampler_check_chain(s.params.chain, NULL) == 0);
    CU_ASSERT(strncmp(s.params.chain, "top_k;", 6) == 0);
    sampling_free(&s);
    sharpi_settings_destroy(settings);
}

static void settle_fails_with(const char *assignment, const char *words)
{
    const char *const set[] = {assignment, NULL};
    struct sharpi_settings *settings = settings_of(set);
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sampling s;
    sampling_init(&s);
    CU_ASSERT(sampling_settle(&s, settings, &err) == SHARPI_EINVAL);
    CU_ASSERT(strstr(err.text, words) != NULL);
    sampling_free(&s);
    sharpi_settings_destroy(settings);
}

static void wrong_settings_are_named(void)
{
    settle_fails_with("sampling.temp=-1", "temperature = -1");
    settle_fails_with("sampling.top-k=1.5", "[sampling] top-k");
    settle_fails_with("sampling.chain=temprature", "temperature");
    settle_fails_with("sampling.logit-bias=x+1", "x+1");
    settle_fails_with("sampling.logit-bias=3+", "3+");
    settle_fails_with("sampling.logit-bias=99999999999+1", "99999999999+1");
}

static void set_changes_all_or_nothing(void)
{
    static const char *const none[] = {NULL};
    struct sharpi_settings *settings = settings_of(none);
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sampling s;
    char value[64];
    sampling_init(&s);
    CU_ASSERT(sampling_settle(&s, settings, NULL) == 0);
    CU_ASSERT(sampling_set(&s, "temp=0.2", NULL) == 0 && s.params.temperature == 0.2f);
    CU_ASSERT(sampling_set(&s, "top_p 0.5", NULL) == 0 && s.params.top_p == 0.5f);
    CU_ASSERT(sampling_set(&s, "temp=-3", NULL) == SHARPI_EINVAL && s.params.temperature == 0.2f);
    CU_ASSERT(sampling_set(&s, "temp=", NULL) == SHARPI_EINVAL && s.params.temperature == 0.2f);
    CU_ASSERT(sampling_set(&s, "logit-bias=4+1 5-2", NULL) == 0 && s.params.n_bias == 2);
    CU_ASSERT(sampling_set(&s, "logit-bias=4+1 nonsense", NULL) == SHARPI_EINVAL && s.params.n_bias == 2);
    CU_ASSERT(sampling_set(&s, "logit-bias=", NULL) == 0 && s.params.n_bias == 0);
    CU_ASSERT(sampling_set(&s, "samplers=top_k", NULL) == 0);
    CU_ASSERT(sampling_set(&s, "samplers=nonsense", NULL) == SHARPI_EINVAL);
    CU_ASSERT_STRING_EQUAL(s.params.chain, "top_k");
    CU_ASSERT(sampling_set(&s, "tempp=1", &err) == SHARPI_EINVAL && strstr(err.text, "'temp'"));
    CU_ASSERT_STRING_EQUAL(sampling_describe(&s, 0, value, sizeof value), "temp");
    CU_ASSERT_STRING_EQUAL(value, "0.2");
    sampling_free(&s);
    sharpi_settings_destroy(settings);
}

/* Samples a few tokens from flat logits. */
static void draw(struct sampling *s, const struct sharpi_model *model, uint32_t answer, int32_t *ids)
{
    struct sharpi_sampler *sampler = NULL;
    float logits[FIXTURE_VOCAB];
    CU_ASSERT_FATAL(sampling_create(s, model, answer, NULL, 0, &sampler, NULL) == 0);
    for (uint32_t i = 0; i < 8; i++) {
        memset(logits, 0, sizeof logits);
        ids[i] = sharpi_sampler_sample(sampler, logits, FIXTURE_VOCAB);
    }
    sharpi_sampler_destroy(sampler);
}

static void a_seed_repeats_an_answer_but_not_the_next_one(void)
{
    static const char *const set[] = {"sampling.seed=4", "sampling.dry-multiplier=1", NULL};
    struct sharpi_settings *settings = settings_of(set);
    int32_t first[8], again[8], second[8];
    struct sampling s;
    struct world w;
    CU_ASSERT_FATAL(open_world(&w, "llama") == 0);
    sampling_init(&s);
    CU_ASSERT(sampling_settle(&s, settings, NULL) == 0);
    draw(&s, w.model, 0, first);
    draw(&s, w.model, 0, again);
    draw(&s, w.model, 1, second);
    CU_ASSERT(memcmp(first, again, sizeof first) == 0);
    CU_ASSERT(memcmp(first, second, sizeof first) != 0);
    CU_ASSERT(s.params.n_dry_breakers > 0);
    sampling_free(&s);
    sharpi_settings_destroy(settings);
    close_world(&w);
}

int main(void)
{
    CU_pSuite suite, models;
    unsigned failures;
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    suite = CU_add_suite("chat", NULL, NULL);
    CU_ADD_TEST(suite, prefix_ends_at_the_first_difference);
    CU_ADD_TEST(suite, reasoning_is_told_from_the_answer);
    CU_ADD_TEST(suite, a_template_may_have_opened_the_reasoning);
    CU_ADD_TEST(suite, an_answer_about_marks_stays_whole);
    CU_ADD_TEST(suite, marks_that_are_control_tokens_are_known);
    CU_ADD_TEST(suite, reasoning_is_dimmed_or_marked_or_hidden);
    CU_ADD_TEST(suite, a_model_cannot_control_the_terminal);
    CU_ADD_TEST(suite, options_win_over_settings);
    CU_ADD_TEST(suite, wrong_settings_are_named);
    CU_ADD_TEST(suite, set_changes_all_or_nothing);
    if (fixtures_present()) {
        models = CU_add_suite("chat with models", NULL, NULL);
        CU_ADD_TEST(models, a_longer_conversation_computes_only_its_end);
        CU_ADD_TEST(models, a_changed_conversation_goes_back_to_the_change);
        CU_ADD_TEST(models, the_same_conversation_computes_its_last_token_for_the_logits);
        CU_ADD_TEST(models, a_ring_that_moved_on_starts_again);
        CU_ADD_TEST(models, a_sampled_token_that_was_not_fed_is_not_held);
        CU_ADD_TEST(models, a_seed_repeats_an_answer_but_not_the_next_one);
    } else {
        puts("tests with models are left out: no fixtures");
    }
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
