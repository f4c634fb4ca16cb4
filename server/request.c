/* What the APIs' requests have in common: see request.h. */
#include "request.h"

#include <math.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "server.h"

void gen_request_free(struct gen_request *r)
{
    for (uint32_t i = 0; i < r->n_prompts; i++) {
        free(r->prompts[i].tokens);
        free(r->prompts[i].text);
    }
    free(r->prompts);
    free(r->bias);
    free(r->breakers);
    stop_strings_free(&r->stops);
    memset(r, 0, sizeof *r);
}

/* ---- Sampling */

static const struct float_field {
    const char *key;
    size_t at;
    double min, max;
} float_fields[] = {
    {"temperature", offsetof(struct sharpi_sampler_params, temperature), 0, 1000},
    {"top_p", offsetof(struct sharpi_sampler_params, top_p), 0, 1},
    {"min_p", offsetof(struct sharpi_sampler_params, min_p), 0, 1},
    {"typical_p", offsetof(struct sharpi_sampler_params, typical_p), 0, 1},
    {"repeat_penalty", offsetof(struct sharpi_sampler_params, repeat_penalty), 0, 1000},
    {"repetition_penalty", offsetof(struct sharpi_sampler_params, repeat_penalty), 0, 1000},
    {"frequency_penalty", offsetof(struct sharpi_sampler_params, frequency_penalty), -100, 100},
    {"presence_penalty", offsetof(struct sharpi_sampler_params, presence_penalty), -100, 100},
    {"dry_multiplier", offsetof(struct sharpi_sampler_params, dry_multiplier), 0, 1000},
    {"dry_base", offsetof(struct sharpi_sampler_params, dry_base), 0, 1000},
    {"xtc_probability", offsetof(struct sharpi_sampler_params, xtc_probability), 0, 1},
    {"xtc_threshold", offsetof(struct sharpi_sampler_params, xtc_threshold), 0, 1},
};

static const struct int_field {
    const char *key;
    size_t at;
    int64_t min;
} int_fields[] = {
    {"top_k", offsetof(struct sharpi_sampler_params, top_k), -1},
    {"min_keep", offsetof(struct sharpi_sampler_params, min_keep), 1},
    {"repeat_last_n", offsetof(struct sharpi_sampler_params, penalty_last_n), -1},
    {"dry_allowed_length", offsetof(struct sharpi_sampler_params, dry_allowed_length), 1},
    {"dry_last_n", offsetof(struct sharpi_sampler_params, dry_last_n), -1},
    {"dry_penalty_last_n", offsetof(struct sharpi_sampler_params, dry_last_n), -1},
};

static int32_t read_numbers(const json_t *body, struct sharpi_sampler_params *params,
                            struct http_error *error)
{
    for (size_t i = 0; i < sizeof float_fields / sizeof *float_fields; i++) {
        const struct float_field *f = &float_fields[i];
        void *at = (char *)params + f->at;
        float *to = at;
        double value = (double)*to;
        if (json_read_number(body, f->key, f->min, f->max, &value, error))
            return -1;
        *to = (float)value;
    }
    for (size_t i = 0; i < sizeof int_fields / sizeof *int_fields; i++) {
        const struct int_field *f = &int_fields[i];
        void *at = (char *)params + f->at;
        int32_t *to = at;
        int64_t value = *to;
        if (json_read_int(body, f->key, f->min, INT32_MAX, &value, error))
            return -1;
        *to = (int32_t)value;
    }
    if (params->top_k < 0)
        params->top_k = 0;
    return 0;
}

/* {"TOKEN ID": bias}: OpenAI's -100 forbids a token. */
static int32_t read_bias(const struct server *server, const json_t *body, struct gen_request *out,
                         struct http_error *error)
{
    json_t *map = json_object_get(body, "logit_bias"), *value;
    const char *key;
    uint64_t n = out->sampler.n_bias;
    if (!json_given(body, "logit_bias"))
        return 0;
    if (!json_is_object(map))
        return http_fail(error, 400, "invalid_type", "logit_bias",
                         "'logit_bias' is %s, must be an object of token ids and numbers",
                         json_type_name(map));
    if (json_object_size(map) > GEN_MAX_BIAS)
        return http_fail(error, 400, "out_of_range", "logit_bias",
                         "'logit_bias' has %zu tokens, at most %d are taken", json_object_size(map),
                         GEN_MAX_BIAS);
    out->bias = calloc(n + json_object_size(map) + 1, sizeof *out->bias);
    if (!out->bias)
        return http_fail(error, 503, "out_of_memory", NULL, "no memory for logit_bias");
    if (n)
        memcpy(out->bias, out->sampler.bias, n * sizeof *out->bias);
    json_object_foreach(map, key, value)
    {
        uint64_t id;
        double bias = json_number_value(value);
        if (sharpi_parse_uint(key, &id) || id >= (uint64_t)server->model->desc.n_vocab)
            return http_fail(error, 400, "out_of_range", "logit_bias",
                             "'%.40s' in 'logit_bias' is no token id below %u", key,
                             server->model->desc.n_vocab);
        if (!json_is_number(value) || !(bias >= -1000 && bias <= 1000))
            return http_fail(error, 400, "out_of_range", "logit_bias",
                             "the bias of token %s must be a number from -100 to 100", key);
        out->bias[n].id = (int32_t)id;
        out->bias[n++].bias = bias <= -100 ? -HUGE_VALF : (float)bias;
    }
    out->sampler.bias = out->bias;
    out->sampler.n_bias = n;
    return 0;
}

/* "samplers": the order of the stages, as a text or an array of names. */
static int32_t read_chain(const json_t *body, struct gen_request *out, struct http_error *error)
{
    const json_t *value = json_object_get(body, "samplers");
    struct sharpi_error why = SHARPI_ERROR_INIT;
    size_t i, n = json_array_size(value);
    if (!json_given(body, "samplers"))
        return 0;
    if (json_is_string(value))
        snprintf(out->chain, sizeof out->chain, "%s", json_string_value(value));
    for (i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(value, i));
        size_t used = strlen(out->chain);
        snprintf(out->chain + used, sizeof out->chain - used, "%s%s", i ? ";" : "", name ? name : "?");
    }
    if (!json_is_string(value) && !n)
        return http_fail(error, 400, "invalid_type", "samplers", "'samplers' must be names of stages, as %s",
                         SHARPI_SAMPLER_CHAIN);
    if (sharpi_sampler_check_chain(out->chain, &why))
        return http_fail(error, 400, "out_of_range", "samplers", "%s", why.text);
    out->sampler.chain = out->chain;
    return 0;
}

static int32_t read_breakers(const struct server *server, const json_t *body, struct gen_request *out,
                             struct http_error *error)
{
    const json_t *list = json_object_get(body, "dry_sequence_breakers");
    const char *texts[32];
    struct sharpi_error why = SHARPI_ERROR_INIT;
    size_t n = json_array_size(list);
    int32_t status;
    out->sampler.dry_breakers = server->breakers;
    out->sampler.n_dry_breakers = server->n_breakers;
    if (!json_given(body, "dry_sequence_breakers"))
        return 0;
    if (!json_is_array(list) || n > sizeof texts / sizeof *texts)
        return http_fail(error, 400, "invalid_type", "dry_sequence_breakers",
                         "'dry_sequence_breakers' must be an array of at most 32 strings");
    for (size_t i = 0; i < n; i++) {
        texts[i] = json_string_value(json_array_get(list, i));
        if (!texts[i])
            return http_fail(error, 400, "invalid_type", "dry_sequence_breakers",
                             "'dry_sequence_breakers' must be an array of strings");
    }
    status = sharpi_sampler_breakers(server->model->tokenizer, texts, n, &out->breakers,
                                     &out->sampler.n_dry_breakers, &why);
    if (status)
        return http_fail_status(error, status, &why);
    out->sampler.dry_breakers = out->breakers;
    return 0;
}

static int32_t read_seed(const struct server *server, const json_t *body, struct gen_request *out,
                         struct http_error *error)
{
    int64_t seed = -1;
    if (json_read_int(body, "seed", INT64_MIN, INT64_MAX, &seed, error))
        return -1;
    if (json_given(body, "seed") && seed != -1) { /* -1: what other servers take for a random one */
        out->sampler.seed = (uint64_t)seed;
    } else if (!server->seed_given) {
        uint64_t random;
        if (getrandom(&random, sizeof random, GRND_NONBLOCK) != (ssize_t)sizeof random)
            random = (uint64_t)time(NULL) ^ (uint64_t)(uintptr_t)out;
        out->sampler.seed = random >> 11;
    }
    return 0;
}

int32_t parse_common(const struct server *server, const json_t *body, struct gen_request *out,
                     struct http_error *error)
{
    int64_t n = 1;
    int32_t no_cache = 0, cache = 1;
    out->sampler = *server->sampling;
    out->n = 1;
    if (parse_model(server, body, error) || parse_unsupported(body, error) ||
        read_numbers(body, &out->sampler, error) || read_bias(server, body, out, error) ||
        read_chain(body, out, error) || read_breakers(server, body, out, error) ||
        read_seed(server, body, out, error))
        return -1;
    if (json_read_int(body, "n", 1, server->settings->max_choices, &n, error) ||
        json_read_bool(body, "stream", &out->stream, error) ||
        json_read_bool(body, "ignore_eos", &out->ignore_end, error) ||
        json_read_bool(body, "cache_prompt", &cache, error))
        return -1;
    out->n = (uint32_t)n;
    out->no_reuse = no_cache || !cache;
    if (server->draining)
        return http_fail(error, 503, "shutting_down", NULL, "the server is shutting down");
    return 0;
}

/* ---- Names */

int32_t parse_model(const struct server *server, const json_t *body, struct http_error *error)
{
    const char *name = NULL, *alias = server->settings->alias;
    uint64_t n = 0;
    if (json_read_string(body, "model", &name, &n, error))
        return -1;
    if (!name || !*name || strcmp(name, server->model_id) == 0 || list_has(alias, name, n) ||
        list_has(alias, "*", 1))
        return 0;
    return http_fail(error, 404, "model_not_found", "model",
                     "there is no model '%.100s' here; this server has '%s' (--alias gives it more names)",
                     name, server->model_id);
}

int32_t parse_stops(const json_t *body, const char *key, struct gen_request *out, struct http_error *error)
{
    const json_t *value = json_object_get(body, key);
    struct sharpi_error why = SHARPI_ERROR_INIT;
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    int32_t status = 0;
    if (!json_given(body, key))
        return 0;
    for (size_t i = 0; i < n && !status; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_string(item))
            return http_fail(error, 400, "invalid_type", key, "'%s' must be a string or an array of strings",
                             key);
        status = stop_strings_add(&out->stops, json_string_value(item), json_string_length(item), &why);
    }
    return status
               ? http_fail(error, status == SHARPI_ENOMEM ? 503 : 400, NULL, key, "'%s': %s", key, why.text)
               : 0;
}

/* Fields that ask for what this server cannot do; the value that asks for nothing is fine. */
static const struct {
    const char *key, *what;
} unsupported[] = {
    {"tools", "tool calls"},
    {"functions", "tool calls"},
    {"function_call", "tool calls"},
    {"grammar", "grammars"},
    {"json_schema", "JSON schemas"},
    {"guided_json", "JSON schemas"},
    {"guided_regex", "grammars"},
    {"guided_choice", "grammars"},
    {"guided_grammar", "grammars"},
    {"structured_outputs", "JSON schemas"},
    {"output_format", "JSON schemas"},
    {"mcp_servers", "tool calls"},
    {"container", "tool calls"},
    {"web_search_options", "web search"},
    {"audio", "audio"},
    {"prediction", "predicted output"},
    {"suffix", "filling in the middle"},
    {"use_beam_search", "beam search"},
};

static int32_t asks_for_something(const json_t *value)
{
    if (json_is_array(value))
        return json_array_size(value) > 0;
    if (json_is_object(value))
        return json_object_size(value) > 0;
    if (json_is_string(value))
        return json_string_length(value) > 0 && strcmp(json_string_value(value), "none") != 0;
    return value && !json_is_null(value) && !json_is_false(value);
}

/* "auto" without tools, and "none", ask for nothing. */
static int32_t is_idle_choice(const json_t *choice)
{
    const char *text = json_string_value(json_is_object(choice) ? json_object_get(choice, "type") : choice);
    return text && (strcmp(text, "auto") == 0 || strcmp(text, "none") == 0);
}

int32_t parse_unsupported(const json_t *body, struct http_error *error)
{
    const json_t *format = json_object_get(body, "response_format"), *value;
    const char *type = json_string_value(json_object_get(format, "type"));
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        if (asks_for_something(json_object_get(body, unsupported[i].key)))
            return http_fail(error, 400, "unsupported", unsupported[i].key,
                             "'%s': this server does not do %s", unsupported[i].key, unsupported[i].what);
    }
    value = json_object_get(body, "tool_choice");
    if (asks_for_something(value) && !is_idle_choice(value))
        return http_fail(error, 400, "unsupported", "tool_choice",
                         "'tool_choice': this server does not do tool calls");
    if (json_given(body, "response_format") && (!type || strcmp(type, "text") != 0))
        return http_fail(
            error, 400, "unsupported", "response_format",
            "'response_format' is '%.40s': this server does not do JSON modes and schemas, only 'text'",
            type ? type : "?");
    value = json_object_get(body, "modalities");
    for (size_t i = 0; i < json_array_size(value); i++) {
        type = json_string_value(json_array_get(value, i));
        if (!type || strcmp(type, "text") != 0)
            return http_fail(error, 400, "unsupported", "modalities",
                             "'modalities': this server gives text only");
    }
    return 0;
}

static const char *const common_fields[] = {"model",
                                            "n",
                                            "stream",
                                            "ignore_eos",
                                            "cache_prompt",
                                            "logit_bias",
                                            "samplers",
                                            "seed",
                                            "dry_sequence_breakers",
                                            "tool_choice",
                                            "response_format",
                                            "modalities",
                                            "tools",
                                            "parallel_tool_calls",
                                            NULL};

/* Said by clients about themselves; nothing could be done about them. */
static const char *const harmless_fields[] = {"user",
                                              "metadata",
                                              "store",
                                              "service_tier",
                                              "safety_identifier",
                                              "prompt_cache_key",
                                              "prompt_cache_retention",
                                              "verbosity",
                                              NULL};

static int32_t is_listed(const char *key, const char *const *list)
{
    for (; *list; list++) {
        if (strcmp(*list, key) == 0)
            return 1;
    }
    return 0;
}

static int32_t is_number_field(const char *key)
{
    for (size_t i = 0; i < sizeof float_fields / sizeof *float_fields; i++) {
        if (strcmp(float_fields[i].key, key) == 0)
            return 1;
    }
    for (size_t i = 0; i < sizeof int_fields / sizeof *int_fields; i++) {
        if (strcmp(int_fields[i].key, key) == 0)
            return 1;
    }
    return 0;
}

static int32_t is_word(const char *key)
{
    return *key && !key[strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")];
}

void note_ignored(const json_t *body, const char *const *known, struct gen_request *out)
{
    json_t *value;
    const char *key;
    size_t used = 0;
    json_object_foreach((json_t *)(uintptr_t)body, key, value)
    {
        if (json_is_null(value) || is_listed(key, known) || is_listed(key, common_fields) ||
            is_listed(key, harmless_fields) || is_number_field(key) || !is_word(key) ||
            !asks_for_something(value) || used + strlen(key) + 3 > sizeof out->ignored)
            continue;
        used +=
            (size_t)snprintf(out->ignored + used, sizeof out->ignored - used, "%s%s", used ? ", " : "", key);
    }
}
