/* POST /v1/embeddings: vectors of unit length, as numbers or as base64 of little-endian floats. */
#include <math.h>
#include <stdlib.h>

#include "handlers.h"

struct embeddings {
    struct gen_request request; /* its prompts only */
    uint32_t kind;
    uint32_t n_dimensions; /* 0 = all */
    int32_t base64;
};

/* ---- The request */

static int32_t add_input(struct exchange *x, const json_t *value, struct gen_prompt *prompt)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    size_t n = json_array_size(value);
    int32_t status;
    if (json_is_string(value)) {
        status = sharpi_model_tokenize(x->server->model, json_string_value(value), json_string_length(value),
                                       SHARPI_TEXT_SPECIAL, &prompt->tokens, &prompt->n_tokens, &err);
        if (status)
            return http_fail_status(&x->error, status, &err);
    } else if (json_is_array(value)) {
        prompt->tokens = calloc(n + 1, sizeof *prompt->tokens);
        if (!prompt->tokens)
            return http_fail(&x->error, 503, "out_of_memory", NULL, "no memory for the input");
        for (size_t i = 0; i < n; i++) {
            json_int_t id =
                json_is_integer(json_array_get(value, i)) ? json_integer_value(json_array_get(value, i)) : -1;
            if (id < 0 || id >= (json_int_t)x->server->model->desc.n_vocab)
                return http_fail(&x->error, 400, "out_of_range", "input", "'input' has at %zu no token id",
                                 i);
            prompt->tokens[i] = (int32_t)id;
        }
        prompt->n_tokens = n;
    }
    return prompt->n_tokens
               ? 0
               : http_fail(&x->error, 400, "invalid_type", "input",
                           "'input' must be a text, token ids, or an array of these, none of them empty");
}

static int32_t read_inputs(struct exchange *x, const json_t *body, struct embeddings *e)
{
    const json_t *value = json_object_get(body, "input");
    int32_t is_list = json_is_array(value) && !json_is_integer(json_array_get(value, 0)), status = 0;
    size_t n = is_list ? json_array_size(value) : 1;
    if (n == 0 || n > 2048)
        return http_fail(&x->error, 400, "out_of_range", "input",
                         "'input' has %zu texts, 1 to 2048 are possible", n);
    e->request.prompts = calloc(n, sizeof *e->request.prompts);
    if (!e->request.prompts)
        return http_fail(&x->error, 503, "out_of_memory", NULL, "no memory for the input");
    e->request.n_prompts = (uint32_t)n;
    for (size_t i = 0; i < n && !status; i++)
        status = add_input(x, is_list ? json_array_get(value, i) : value, &e->request.prompts[i]);
    return status;
}

static int32_t read_request(struct exchange *x, const json_t *body, struct embeddings *e)
{
    const char *format = "float", *pooling = "mean";
    int64_t dimensions = 0;
    if (!x->server->embeddings)
        return http_fail(&x->error, 400, "unsupported", NULL,
                         "the server was started without embeddings; start it with --embeddings");
    if (parse_model(x->server, body, &x->error) ||
        json_read_string(body, "encoding_format", &format, NULL, &x->error) ||
        json_read_string(body, "pooling", &pooling, NULL, &x->error) ||
        json_read_int(body, "dimensions", 1, x->server->model->desc.width, &dimensions, &x->error))
        return -1;
    e->base64 = strcmp(format, "base64") == 0;
    if (!e->base64 && strcmp(format, "float") != 0)
        return http_fail(&x->error, 400, "out_of_range", "encoding_format",
                         "'encoding_format' is '%.40s', must be float or base64", format);
    if (strcmp(pooling, "mean") != 0 && strcmp(pooling, "last") != 0)
        return http_fail(&x->error, 400, "out_of_range", "pooling",
                         "'pooling' is '%.40s', must be mean or last", pooling);
    e->kind = strcmp(pooling, "last") == 0 ? SHARPI_REQUEST_EMBED_LAST : SHARPI_REQUEST_EMBED_MEAN;
    e->n_dimensions = (uint32_t)dimensions;
    return read_inputs(x, body, e);
}

/* ---- The answer */

static void normalize(float *v, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)v[i] * (double)v[i];
    for (uint32_t i = 0; i < n && sum > 0; i++)
        v[i] = (float)((double)v[i] / sqrt(sum));
}

static json_t *base64_json(const float *v, uint32_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint64_t n_bytes = (uint64_t)n * sizeof *v, i;
    const uint8_t *in = (const uint8_t *)v; /* little-endian, as all machines that this runs on */
    struct text out = {0};
    json_t *json;
    for (i = 0; i < n_bytes; i += 3) {
        uint32_t left = (uint32_t)(n_bytes - i), three = (uint32_t)in[i] << 16;
        char four[4];
        three |= left > 1 ? (uint32_t)in[i + 1] << 8 : 0;
        three |= left > 2 ? in[i + 2] : 0;
        four[0] = digits[three >> 18];
        four[1] = digits[three >> 12 & 63];
        four[2] = left > 1 ? digits[three >> 6 & 63] : '=';
        four[3] = left > 2 ? digits[three & 63] : '=';
        text_put(&out, four, 4);
    }
    json = out.failed ? NULL : json_stringn(out.data, out.n);
    text_free(&out);
    return json;
}

static json_t *floats_json(const float *v, uint32_t n)
{
    json_t *list = json_array();
    for (uint32_t i = 0; list && i < n; i++)
        json_array_append_new(list, json_real(isfinite(v[i]) ? (double)v[i] : 0.0));
    return list;
}

static json_t *vector_json(const struct embeddings *e, uint32_t i, struct choice_news *news)
{
    uint32_t n = e->n_dimensions && e->n_dimensions < news->n_embedding ? e->n_dimensions : news->n_embedding;
    normalize(news->embedding, n);
    return json_pack("{s:s, s:I, s:o}", "object", "embedding", "index", (json_int_t)i, "embedding",
                     e->base64 ? base64_json(news->embedding, n) : floats_json(news->embedding, n));
}

static int32_t take_all(struct exchange *x, const struct embeddings *e, struct generation *g, json_t *data,
                        uint64_t *n_tokens)
{
    for (uint32_t i = 0; i < e->request.n_prompts; i++) {
        struct choice_news news;
        struct sharpi_error err = SHARPI_ERROR_INIT;
        memset(&news, 0, sizeof news);
        generation_take(g, i, &news);
        snprintf(err.text, sizeof err.text, "%s", news.error);
        if (!news.finish)
            http_fail_status(&x->error, news.status, &err);
        else if (news.finish == SHARPI_FINISH_CANCELLED || !news.embedding)
            http_fail(&x->error, 503, "cancelled", NULL, "the server is shutting down");
        else
            json_array_append_new(data, vector_json(e, i, &news));
        *n_tokens += news.usage.prompt_tokens;
        choice_news_free(&news);
        if (x->error.status)
            return -1;
    }
    return 0;
}

static int32_t wait_for(struct exchange *x, struct generation *g)
{
    while (!generation_wait_all(g, 0.2)) {
        if (connection_is_gone(x->tracked))
            return http_fail(&x->error, 499, NULL, NULL, "the client has gone");
        if (x->server->draining > 1)
            generation_cancel(g);
    }
    return 0;
}

static int32_t answer(struct exchange *x, const struct embeddings *e)
{
    struct generation *g = NULL;
    json_t *data = json_array();
    uint64_t n_tokens = 0;
    int32_t status = generation_embed(x->server, &e->request, e->kind, &g, &x->error);
    if (!status)
        status = wait_for(x, g);
    if (!status)
        status = take_all(x, e, g, data, &n_tokens);
    generation_release(g);
    if (status) {
        json_decref(data);
        return -1;
    }
    text_put_json(&x->out, json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data, "model",
                                     x->server->model_id, "usage", "prompt_tokens", (json_int_t)n_tokens,
                                     "total_tokens", (json_int_t)n_tokens));
    return 0;
}

int32_t handle_embeddings(struct exchange *x)
{
    struct embeddings e = {.request = {.n = 1}};
    json_t *body = NULL;
    int32_t status = json_read_body(x->body.data, x->body.n, &body, &x->error);
    if (!status)
        status = read_request(x, body, &e);
    json_decref(body);
    if (!status)
        status = answer(x, &e);
    gen_request_free(&e.request);
    return status;
}
