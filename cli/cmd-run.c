/* sharpi run: one prompt in, text out as it is made. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "command.h"
#include <sharpi/sampler.h>

struct run {
    struct common common;
    const char *prompt, *file, *system;
    uint32_t n_predict, raw, no_bos, ignore_end, stats;
    struct sharpi_sampler_params sampling;
    uint32_t seed_given;
};

static int32_t make_prompt(const struct run *r, const struct sharpi_model *model, char **text, uint64_t *n,
                           uint32_t *flags, struct sharpi_error *err)
{
    char *plain = NULL;
    int32_t status = SHARPI_OK;
    if (r->file)
        status = read_file(r->file, 256u << 20, &plain, n, err);
    else if (!(plain = strdup(r->prompt)))
        status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for the prompt");
    if (status)
        return status;
    *flags = r->no_bos ? 0 : SHARPI_TEXT_SPECIAL;
    if (r->raw || !sharpi_model_has_chat_template(model)) {
        *n = r->file ? *n : strlen(plain);
        *text = plain;
        return SHARPI_OK;
    }
    status = sharpi_model_chat_prompt(model, r->system, plain, text, err);
    free(plain);
    if (!status)
        *n = strlen(*text);
    *flags = SHARPI_TEXT_PARSE; /* the template writes BOS itself */
    return status;
}

static int32_t generate(const struct run *r, struct sharpi_model *model, struct sharpi_session *session,
                        struct sharpi_sampler *sampler, uint32_t *n_made, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK, token;
    const char *text;
    uint64_t n;
    struct sharpi_model_info info = {.size = sizeof info};
    sharpi_model_get_info(model, &info);
    for (*n_made = 0; *n_made < r->n_predict && !interrupted(); ++*n_made) {
        if (sharpi_session_length(session) + 1 >= info.context)
            break;
        if ((status = sharpi_session_next(session, sampler, &token, err)))
            return status;
        if (!r->ignore_end && sharpi_model_is_end(model, token))
            break;
        if ((status = sharpi_session_text(session, token, &text, &n, err)) ||
            (status = put_text(text, n, err)))
            return status;
    }
    sharpi_session_text_end(session, &text, &n);
    if ((status = put_text(text, n, err)))
        return status;
    return put_text("\n", 1, err);
}

static int32_t run_prompt(const struct run *r, struct sharpi_model *model, struct sharpi_error *err)
{
    struct sharpi_session *session = NULL;
    struct sharpi_sampler *sampler = NULL;
    struct sharpi_model_info info = {.size = sizeof info};
    char *text = NULL;
    int32_t *tokens = NULL;
    uint64_t n_text = 0, n_tokens = 0;
    uint32_t flags, n_made = 0;
    double start, first, end;
    int32_t status;
    sharpi_model_get_info(model, &info);
    if ((status = make_prompt(r, model, &text, &n_text, &flags, err)) ||
        (status = sharpi_model_tokenize(model, text, n_text, flags, &tokens, &n_tokens, err)) ||
        (status = sharpi_session_create(model, &session, err)) ||
        (status = sharpi_sampler_create(&r->sampling, (int32_t)info.n_vocab, &sampler, err)))
        goto out;
    if (n_tokens == 0) {
        status = sharpi_fail(err, SHARPI_EINVAL, "the prompt is empty");
        goto out;
    }
    start = now_seconds();
    status =
        n_tokens > UINT32_MAX ? SHARPI_EFULL : sharpi_session_feed(session, tokens, (uint32_t)n_tokens, err);
    first = now_seconds();
    if (!status)
        status = generate(r, model, session, sampler, &n_made, err);
    end = now_seconds();
    if (!status && r->stats)
        fprintf(stderr, "prefill %llu tokens, %.1f/s; decode %u tokens, %.1f/s\n",
                (unsigned long long)n_tokens, (double)n_tokens / (first - start), n_made,
                n_made / (end - first));
out:
    sharpi_sampler_destroy(sampler);
    sharpi_session_free(session);
    free(tokens);
    free(text);
    return status;
}

static int run_command(int argc, char **argv)
{
    struct run r = {.n_predict = 256};
    struct sharpi_engine *engine = NULL;
    struct sharpi_model *model = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const char *args[1];
    uint32_t n_args;
    int32_t status;
    int code;
    sharpi_sampler_params_init(&r.sampling);
    const struct option own[] = {
        {"prompt", 'p', OPTION_STRING, "TEXT", "the prompt (or as the one argument)", &r.prompt, NULL},
        {"file", 'f', OPTION_STRING, "FILE", "read the prompt from a file, - is standard input", &r.file,
         NULL},
        {"predict", 'n', OPTION_UINT, "N", "most tokens to make (256)", &r.n_predict, NULL},
        {"system", 0, OPTION_STRING, "TEXT", "system message, for models with a chat template", &r.system,
         NULL},
        {"raw", 0, OPTION_FLAG, NULL, "no chat template: continue the text", &r.raw, NULL},
        {"no-bos", 0, OPTION_FLAG, NULL, "no BOS in front", &r.no_bos, NULL},
        {"ignore-end", 0, OPTION_FLAG, NULL, "go on after end-of-text tokens", &r.ignore_end, NULL},
        {"temp", 0, OPTION_FLOAT, "T", "temperature, 0 = greedy (0.8)", &r.sampling.temperature, NULL},
        {"top-k", 0, OPTION_INT, "K", "keep the K most likely, 0 = off (40)", &r.sampling.top_k, NULL},
        {"top-p", 0, OPTION_FLOAT, "P", "keep the smallest set of probability P, 1 = off (0.95)",
         &r.sampling.top_p, NULL},
        {"min-p", 0, OPTION_FLOAT, "P", "drop what is P times less likely than the best (0.05)",
         &r.sampling.min_p, NULL},
        {"repeat-penalty", 0, OPTION_FLOAT, "R", "penalty on seen tokens, 1 = off (1)",
         &r.sampling.repeat_penalty, NULL},
        {"seed", 0, OPTION_U64, "N", "same seed, same text (default: random)", &r.sampling.seed,
         &r.seed_given},
        {"stats", 0, OPTION_FLAG, NULL, "print speed at the end", &r.stats, NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, r.common.model_options, r.common.engine_options, NULL};
    common_init(&r.common);
    code = parse_command("run", "sharpi run -m FILE [OPTIONS] [PROMPT]", "Answers or continues one prompt.",
                         tables, argc, argv, args, 1, &n_args);
    if (code >= 0)
        return code;
    if (n_args)
        r.prompt = args[0];
    if (!r.prompt == !r.file) {
        sharpi_fail(&err, SHARPI_EINVAL, "give a prompt: -p TEXT, -f FILE, or one argument");
        return fail_usage("run", &err);
    }
    if (!r.seed_given)
        r.sampling.seed = (uint64_t)time(NULL) ^ ((uint64_t)(now_seconds() * 1e9) << 20);
    catch_interrupt();
    status = open_engine(&r.common, &engine, &err);
    if (!status)
        status = load_model(&r.common, engine, NULL, &model, &err);
    if (!status)
        status = run_prompt(&r, model, &err);
    sharpi_model_free(model);
    sharpi_engine_close(engine);
    if (interrupted())
        return EXIT_INTERRUPT;
    return status ? fail("run", &err) : EXIT_OK;
}

const struct command command_run = {"run", "answer or continue a prompt", run_command};
