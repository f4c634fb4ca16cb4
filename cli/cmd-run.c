/* sharpi run: one prompt in, text out as it is made, or one JSON object at the end. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "chat-prompt.h"
#include "command.h"
#include "core/engine.h"
#include "sampling.h"

static const char about[] =
    "Answers or continues one prompt.\n\n"
    "--json prints one object on one line when all is done: text; stop (\"end\": the model ended it, "
    "\"length\": -n,\n"
    "\"context\": the context is full, \"interrupt\": Ctrl-C); prompt_tokens, tokens; prefill_seconds, "
    "decode_seconds,\n"
    "prefill_per_second, decode_per_second; seed; model, architecture, backend, context.";

struct run {
    struct common common;
    struct sampling sampling;
    const char *prompt, *file, *system, *template;
    uint32_t n_predict, raw, no_bos, ignore_end, stats, json;

    struct sharpi_model *model;
    char *text; /* of the answer, for --json */
    uint64_t n_text, text_capacity;
};

/* ---- The prompt */

static int32_t read_prompt(const struct run *r, char **text, uint64_t *n, struct sharpi_error *err)
{
    if (r->file)
        return read_file(r->file, 256u << 20, text, n, err);
    *text = strdup(r->prompt);
    *n = strlen(r->prompt);
    return *text ? SHARPI_OK : sharpi_fail(err, SHARPI_ENOMEM, "no memory for the prompt");
}

/* Messages of one turn through the chat template. */
static int32_t render_prompt(const struct run *r, const char *user, uint64_t n_user, int32_t **tokens,
                             uint64_t *n_tokens, struct sharpi_error *err)
{
    json_t *messages = json_array(), *system = NULL, *message = chat_message("user", user, n_user);
    struct chat_prompt *prompt = NULL;
    char *text = NULL;
    uint64_t n;
    int32_t status = SHARPI_OK;
    if (r->system)
        system = chat_message("system", r->system, strlen(r->system));
    if ((r->system && (!system || json_array_append_new(messages, system))) || !message ||
        json_array_append_new(messages, message))
        status = sharpi_fail(err, SHARPI_EINVAL, "the prompt is not valid UTF-8");
    if (!status)
        status = chat_prompt_create(r->model, r->template, -1, &prompt, err);
    if (!status)
        status = chat_prompt_render(prompt, messages, &text, &n, tokens, n_tokens, err);
    free(text);
    chat_prompt_destroy(prompt);
    json_decref(messages);
    return status;
}

static int32_t make_prompt(const struct run *r, int32_t **tokens, uint64_t *n_tokens,
                           struct sharpi_error *err)
{
    char *text = NULL;
    uint64_t n;
    int32_t status = read_prompt(r, &text, &n, err);
    if (status)
        return status;
    if (!r->raw && (r->template || sharpi_model_has_chat_template(r->model)))
        status = render_prompt(r, text, n, tokens, n_tokens, err);
    else if (r->system)
        status = sharpi_fail(err, SHARPI_EINVAL,
                             "--system needs a chat template: the model has none (--template names one)");
    else
        status = sharpi_model_tokenize(r->model, text, n, r->no_bos ? 0 : SHARPI_TEXT_SPECIAL, tokens,
                                       n_tokens, err);
    free(text);
    if (!status && *n_tokens == 0)
        status = sharpi_fail(err, SHARPI_EINVAL, "the prompt is empty");
    return status ? status : answer_check_fits(r->model, *n_tokens, "; shorten it or raise -c", err);
}

/* ---- The answer */

static int32_t keep_text(struct run *r, const char *text, uint64_t n, struct sharpi_error *err)
{
    if (n > r->text_capacity - r->n_text) {
        uint64_t capacity = 2 * (r->n_text + n) + 1024;
        char *bigger = realloc(r->text, capacity);
        if (!bigger)
            return sharpi_fail(err, SHARPI_ENOMEM, "no memory for an answer of %llu bytes",
                               (unsigned long long)capacity);
        r->text = bigger;
        r->text_capacity = capacity;
    }
    if (n)
        memcpy(r->text + r->n_text, text, n);
    r->n_text += n;
    return SHARPI_OK;
}

static int32_t put_token(void *user, int32_t token, const char *text, uint64_t n, struct sharpi_error *err)
{
    struct run *r = user;
    (void)token;
    return r->json ? keep_text(r, text, n, err) : put_text(text, n, err);
}

static int32_t print_json(const struct run *r, const struct answer *a, struct sharpi_error *err)
{
    struct sharpi_model_info info = {.size = sizeof info};
    json_t *object;
    char *line = NULL;
    int32_t status;
    sharpi_model_get_info(r->model, &info);
    object = json_pack("{s:s%, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:I, s:s, s:s, s:s, s:I}", "text",
                       r->text ? r->text : "", (size_t)r->n_text, "stop", answer_stop_name(a->stop),
                       "prompt_tokens", (json_int_t)a->n_prompt, "tokens", (json_int_t)a->n_made,
                       "prefill_seconds", a->prefill_seconds, "decode_seconds", a->decode_seconds,
                       "prefill_per_second", per_second((double)a->n_prompt, a->prefill_seconds),
                       "decode_per_second", per_second(a->n_made, a->decode_seconds), "seed",
                       (json_int_t)r->sampling.params.seed, "model", info.path, "architecture", info.arch,
                       "backend", info.backend, "context", (json_int_t)info.context);
    if (object)
        line = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(6));
    status = line ? put_text(line, strlen(line), err)
                  : sharpi_fail(err, SHARPI_EINVAL,
                                "the result cannot be written as JSON: a name or path is not UTF-8");
    free(line);
    json_decref(object);
    return status ? status : put_text("\n", 1, err);
}

static int32_t report(const struct run *r, const struct answer *a, struct sharpi_error *err)
{
    int32_t status = r->json ? print_json(r, a, err) : put_text("\n", 1, err);
    if (!status && r->stats)
        fprintf(stderr, "prefill %llu tokens, %.1f/s; decode %u tokens, %.1f/s; seed %llu\n",
                (unsigned long long)a->n_prompt, per_second((double)a->n_prompt, a->prefill_seconds),
                a->n_made, per_second(a->n_made, a->decode_seconds),
                (unsigned long long)r->sampling.params.seed);
    return status;
}

static int32_t run_prompt(struct run *r, struct sharpi_error *err)
{
    struct held_tokens held = {.session = NULL};
    struct answer answer = {.model = r->model,
                            .held = &held,
                            .n_predict = r->n_predict,
                            .ignore_end = r->ignore_end,
                            .put = put_token,
                            .user = r};
    int32_t *tokens = NULL;
    uint64_t n = 0;
    int32_t status = make_prompt(r, &tokens, &n, err);
    if (!status)
        status = sharpi_session_create(r->model, &held.session, err);
    if (!status)
        status = sampling_create(&r->sampling, r->model, 0, tokens, n, &answer.sampler, err);
    if (!status)
        status = answer_run(&answer, tokens, n, err);
    if (!status)
        status = report(r, &answer, err);
    sharpi_sampler_destroy(answer.sampler);
    held_free(&held);
    sharpi_session_free(held.session);
    free(tokens);
    return status;
}

/* ---- The command */

static int run_loaded(struct run *r)
{
    struct sharpi_engine *engine = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status;
    catch_interrupt();
    status = open_engine(&r->common, &engine, &err);
    if (!status)
        status = sampling_settle(&r->sampling, engine->settings, &err);
    if (!status)
        status = load_model(&r->common, engine, NULL, &r->model, &err);
    if (!status)
        status = run_prompt(r, &err);
    sharpi_model_free(r->model);
    sharpi_engine_close(engine);
    free(r->text);
    if (interrupted())
        return EXIT_INTERRUPT;
    return status ? fail("run", &err) : EXIT_OK;
}

static int run_command(int argc, char **argv)
{
    struct run r = {.n_predict = 256};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const char *args[1];
    uint32_t n_args;
    int code;
    sampling_init(&r.sampling);
    common_init(&r.common);
    const struct option own[] = {
        {"prompt", 'p', OPTION_STRING, "TEXT", "the prompt (or as the one argument)", &r.prompt, NULL},
        {"file", 'f', OPTION_STRING, "FILE", "read the prompt from a file, - is standard input", &r.file,
         NULL},
        {"predict", 'n', OPTION_UINT, "N", "most tokens to make (256), 0 = until it ends", &r.n_predict,
         NULL},
        {"system", 0, OPTION_STRING, "TEXT", "system message, for models with a chat template", &r.system,
         NULL},
        {"template", 0, OPTION_STRING, "NAME|FILE", "chat template: chatml, gemma, llama2, llama3 or a file",
         &r.template, NULL},
        {"raw", 0, OPTION_FLAG, NULL, "no chat template: continue the text", &r.raw, NULL},
        {"no-bos", 0, OPTION_FLAG, NULL, "no BOS in front", &r.no_bos, NULL},
        {"ignore-end", 0, OPTION_FLAG, NULL, "go on after end-of-text tokens", &r.ignore_end, NULL},
        {"json", 0, OPTION_FLAG, NULL, "print one JSON object at the end", &r.json, NULL},
        {"stats", 0, OPTION_FLAG, NULL, "print speed at the end", &r.stats, NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, r.sampling.options, r.common.model_options, r.common.engine_options,
                                     NULL};
    code = parse_command("run", "sharpi run -m FILE [OPTIONS] [PROMPT]", about, tables, argc, argv, args, 1,
                         &n_args);
    if (code >= 0)
        return code;
    if (n_args)
        r.prompt = args[0];
    if (!r.prompt == !r.file) {
        sharpi_fail(&err, SHARPI_EINVAL, "give a prompt: -p TEXT, -f FILE, or one argument");
        return fail_usage("run", &err);
    }
    code = run_loaded(&r);
    sampling_free(&r.sampling);
    return code;
}

const struct command command_run = {"run", "answer or continue a prompt", run_command};
