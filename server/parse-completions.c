/* POST /v1/completions: the request. Prompts are a text, token ids, or an array of either. */
#include <stdlib.h>

#include "request.h"
#include "server.h"

static const char *const known[] = {"prompt",         "max_tokens", "stop",    "logprobs",
                                    "stream_options", "echo",       "best_of", NULL};

static int32_t no_memory(struct http_error *error)
{
    return http_fail(error, 503, "out_of_memory", NULL, "no memory for the prompt");
}

static int32_t take_text(const struct server *server, const json_t *value, int32_t keep,
                         struct gen_prompt *prompt, struct http_error *error)
{
    struct sharpi_error why = SHARPI_ERROR_INIT;
    uint64_t n = json_string_length(value);
    int32_t status = sharpi_model_tokenize(server->model, json_string_value(value), n, SHARPI_TEXT_SPECIAL,
                                           &prompt->tokens, &prompt->n_tokens, &why);
    if (status)
        return http_fail_status(error, status, &why);
    if (!keep)
        return 0;
    prompt->text = malloc(n + 1);
    if (!prompt->text)
        return no_memory(error);
    memcpy(prompt->text, json_string_value(value), n + 1);
    prompt->n_text = n;
    return 0;
}

static int32_t take_ids(const struct server *server, const json_t *list, int32_t keep,
                        struct gen_prompt *prompt, struct http_error *error)
{
    struct sharpi_error why = SHARPI_ERROR_INIT;
    size_t n = json_array_size(list);
    int32_t status;
    prompt->tokens = calloc(n + 1, sizeof *prompt->tokens);
    if (!prompt->tokens)
        return no_memory(error);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= (json_int_t)server->model->desc.n_vocab)
            return http_fail(error, 400, "out_of_range", "prompt", "'prompt' has at %zu no token id below %u",
                             i, server->model->desc.n_vocab);
        prompt->tokens[i] = (int32_t)json_integer_value(id);
    }
    prompt->n_tokens = n;
    if (!keep)
        return 0;
    status = sharpi_tokenizer_decode(server->model->tokenizer, prompt->tokens, n, SHARPI_DECODE_START,
                                     &prompt->text, &prompt->n_text, &why);
    return status ? http_fail_status(error, status, &why) : 0;
}

static int32_t take_prompt(const struct server *server, const json_t *value, int32_t keep,
                           struct gen_prompt *prompt, struct http_error *error)
{
    int32_t status;
    if (json_is_string(value))
        status = take_text(server, value, keep, prompt, error);
    else if (json_is_array(value))
        status = take_ids(server, value, keep, prompt, error);
    else
        return http_fail(error, 400, "invalid_type", "prompt",
                         "'prompt' must be a string, an array of token ids, or an array of these");
    if (!status && prompt->n_tokens == 0)
        return http_fail(error, 400, "out_of_range", "prompt", "'prompt' is empty");
    return status;
}

static int32_t read_prompts(const struct server *server, const json_t *body, struct gen_request *out,
                            struct http_error *error)
{
    const json_t *value = json_object_get(body, "prompt");
    int32_t is_list = json_is_array(value) && !json_is_integer(json_array_get(value, 0)), status = 0;
    size_t n = is_list ? json_array_size(value) : 1;
    if (n == 0 || n * out->n > server->settings->max_choices)
        return http_fail(error, 400, "out_of_range", "prompt",
                         "%zu prompts times n = %u: from 1 to %u are possible", n, out->n,
                         server->settings->max_choices);
    out->prompts = calloc(n, sizeof *out->prompts);
    if (!out->prompts)
        return no_memory(error);
    out->n_prompts = (uint32_t)n;
    for (size_t i = 0; i < n && !status; i++)
        status = take_prompt(server, is_list ? json_array_get(value, i) : value, out->echo, &out->prompts[i],
                             error);
    return status;
}

/* "logprobs": N is how many of the most likely are told, 0 only the chosen one. Some clients say true for 0. */
static int32_t read_logprobs(const json_t *body, struct gen_request *out, struct http_error *error)
{
    const json_t *value = json_object_get(body, "logprobs");
    int64_t n_top = 0;
    if (json_is_boolean(value)) {
        out->logprobs = json_is_true(value);
        return 0;
    }
    if (json_read_int(body, "logprobs", 0, 20, &n_top, error))
        return -1;
    out->logprobs = json_given(body, "logprobs");
    out->n_top = (uint32_t)n_top;
    return 0;
}

static int32_t read_rest(const json_t *body, struct gen_request *out, struct http_error *error)
{
    const json_t *options = json_object_get(body, "stream_options");
    int64_t max_tokens = 16, best_of = out->n; /* 16: OpenAI's default */
    if (json_read_int(body, "max_tokens", -1, INT32_MAX, &max_tokens, error) ||
        read_logprobs(body, out, error) || json_read_bool(body, "echo", &out->echo, error) ||
        json_read_int(body, "best_of", 1, 128, &best_of, error) ||
        json_read_bool(options, "include_usage", &out->include_usage, error))
        return -1;
    if (max_tokens == 0)
        return http_fail(error, 400, "out_of_range", "max_tokens", "'max_tokens' is 0, must be at least 1");
    if (best_of != out->n)
        return http_fail(error, 400, "unsupported", "best_of", "'best_of' must be equal to 'n' (%u) here",
                         out->n);
    if (out->echo && out->logprobs)
        return http_fail(error, 400, "unsupported", "echo",
                         "'echo' with 'logprobs': log-probabilities of the prompt are not computed here");
    out->max_tokens = max_tokens > 0 ? (uint32_t)max_tokens : 0;
    return 0;
}

int32_t parse_completions(const struct server *server, const json_t *body, struct gen_request *out,
                          struct http_error *error)
{
    out->api = API_COMPLETIONS;
    if (!server->model->tokenizer)
        return http_fail(error, 400, "unsupported", NULL, "%s", server->model->tokenizer_error.text);
    if (parse_common(server, body, out, error) || read_rest(body, out, error) ||
        parse_stops(body, "stop", out, error))
        return -1;
    note_ignored(body, known, out);
    return read_prompts(server, body, out, error);
}
