/* Routes about text and tokens: nothing of this needs the model's weights. */
#include <stdlib.h>

#include "handlers.h"

static int32_t out_of_memory(struct exchange *x)
{
    return http_fail(&x->error, 503, "out_of_memory", NULL, "no memory for the answer");
}

static int32_t respond_json(struct exchange *x, json_t *json)
{
    if (!json)
        return out_of_memory(x);
    text_put_json(&x->out, json);
    text_puts(&x->out, "\n");
    return 0;
}

/* ---- Tokenize */

static json_t *ids_json(const int32_t *ids, uint64_t n)
{
    json_t *list = json_array();
    for (uint64_t i = 0; list && i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static json_t *pieces_json(const struct sharpi_tokenizer *t, const int32_t *ids, uint64_t n)
{
    json_t *list = json_array();
    for (uint64_t i = 0; list && i < n; i++) {
        struct sharpi_str s = sharpi_token_text(t, ids[i]);
        json_array_append_new(list, json_pack("{s:I, s:o}", "id", (json_int_t)ids[i], "piece",
                                              json_clean(s.data ? s.data : "", s.n)));
    }
    return list;
}

struct tokenize {
    const char *text;
    uint64_t n_text;
    int32_t add_special, parse_special, with_pieces;
};

static int32_t read_tokenize(const json_t *body, struct tokenize *t, struct http_error *error)
{
    t->parse_special = 1;
    if (json_read_string(body, "content", &t->text, &t->n_text, error) ||
        json_read_string(body, "text", &t->text, &t->n_text, error) ||
        json_read_bool(body, "add_special", &t->add_special, error) ||
        json_read_bool(body, "parse_special", &t->parse_special, error) ||
        json_read_bool(body, "with_pieces", &t->with_pieces, error))
        return -1;
    return t->text ? 0
                   : http_fail(error, 400, "invalid_request", "content",
                               "'content' is missing: the text to tokenize");
}

int32_t handle_tokenize(struct exchange *x)
{
    struct tokenize t = {.text = NULL};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    json_t *body = NULL, *list = NULL;
    int32_t *ids = NULL, status = json_read_body(x->body.data, x->body.n, &body, &x->error), code;
    uint64_t n = 0;
    if (!status)
        status = read_tokenize(body, &t, &x->error);
    if (!status) {
        code = sharpi_model_tokenize(x->server->model, t.text, t.n_text,
                                     (t.add_special ? SHARPI_TEXT_SPECIAL : 0u) |
                                         (t.parse_special ? SHARPI_TEXT_PARSE : 0u),
                                     &ids, &n, &err);
        status = code ? http_fail_status(&x->error, code, &err) : 0;
    }
    if (!status) {
        list = t.with_pieces ? pieces_json(x->server->model->tokenizer, ids, n) : ids_json(ids, n);
        status = respond_json(x, json_pack("{s:o, s:I}", "tokens", list, "count", (json_int_t)n));
    }
    free(ids);
    json_decref(body);
    return status;
}

/* ---- Detokenize */

static int32_t read_ids(const struct exchange *x, const json_t *body, int32_t **ids, uint64_t *n,
                        struct http_error *error)
{
    const json_t *list = json_object_get(body, "tokens");
    if (!json_is_array(list))
        return http_fail(error, 400, "invalid_type", "tokens", "'tokens' must be an array of token ids");
    *n = json_array_size(list);
    *ids = calloc(*n + 1, sizeof **ids);
    if (!*ids)
        return http_fail(error, 503, "out_of_memory", NULL, "no memory for the tokens");
    for (size_t i = 0; i < *n; i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= (json_int_t)x->server->model->desc.n_vocab)
            return http_fail(error, 400, "out_of_range", "tokens", "'tokens' has at %zu no token id below %u",
                             i, x->server->model->desc.n_vocab);
        (*ids)[i] = (int32_t)json_integer_value(id);
    }
    return 0;
}

int32_t handle_detokenize(struct exchange *x)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const struct sharpi_tokenizer *tokenizer = x->server->model->tokenizer;
    json_t *body = NULL;
    int32_t *ids = NULL, special = 0, status = json_read_body(x->body.data, x->body.n, &body, &x->error),
            code;
    uint64_t n = 0, n_text = 0;
    char *text = NULL;
    if (!status)
        status = read_ids(x, body, &ids, &n, &x->error);
    if (!status)
        status = json_read_bool(body, "special", &special, &x->error);
    if (!status && !tokenizer)
        status = http_fail(&x->error, 400, "unsupported", NULL, "%s", x->server->model->tokenizer_error.text);
    if (!status) {
        code = sharpi_tokenizer_decode(tokenizer, ids, n, special ? SHARPI_DECODE_SPECIAL : 0, &text, &n_text,
                                       &err);
        status = code ? http_fail_status(&x->error, code, &err) : 0;
    }
    if (!status)
        status = respond_json(x, json_pack("{s:o}", "content", json_clean(text, n_text)));
    free(text);
    free(ids);
    json_decref(body);
    return status;
}

/* ---- Templates */

static int32_t render(struct exchange *x, const json_t *body, int32_t anthropic, struct gen_request *out)
{
    json_t *messages = anthropic ? anthropic_messages(body, &x->error) : chat_messages(body, &x->error),
           *extra;
    const char *role;
    int32_t status = -1, continue_last = 0;
    if (!messages)
        return -1;
    role =
        json_string_value(json_object_get(json_array_get(messages, json_array_size(messages) - 1), "role"));
    continue_last = anthropic && role && strcmp(role, "assistant") == 0;
    extra = template_variables(body, &x->error);
    if (extra && !json_read_bool(body, "continue_final_message", &continue_last, &x->error))
        status = prompt_from_messages(x->server, body, messages, extra, continue_last, out, &x->error);
    json_decref(extra);
    json_decref(messages);
    return status;
}

int32_t handle_apply_template(struct exchange *x)
{
    struct gen_request request = {.n = 1};
    json_t *body = NULL;
    int32_t status = json_read_body(x->body.data, x->body.n, &body, &x->error);
    if (!status)
        status = parse_unsupported(body, &x->error);
    if (!status)
        status = render(x, body, 0, &request);
    if (!status)
        status = respond_json(x, json_pack("{s:o, s:I}", "prompt",
                                           json_clean(request.prompts[0].text, request.prompts[0].n_text),
                                           "tokens", (json_int_t)request.prompts[0].n_tokens));
    gen_request_free(&request);
    json_decref(body);
    return status;
}

int32_t handle_count_tokens(struct exchange *x)
{
    struct gen_request request = {.n = 1};
    json_t *body = NULL;
    int32_t status = json_read_body(x->body.data, x->body.n, &body, &x->error);
    if (!status)
        status = parse_model(x->server, body, &x->error);
    if (!status)
        status = parse_unsupported(body, &x->error);
    if (!status)
        status = render(x, body, 1, &request);
    if (!status)
        status = respond_json(x, json_pack("{s:I}", "input_tokens", (json_int_t)request.prompts[0].n_tokens));
    gen_request_free(&request);
    json_decref(body);
    return status;
}
