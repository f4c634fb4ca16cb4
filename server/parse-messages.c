/* POST /v1/messages: the request, Anthropic's. */
#include "request.h"
#include "server.h"

static const char *const known[] = {"messages", "max_tokens",           "system",        "stop_sequences",
                                    "thinking", "chat_template_kwargs", "cache_control", NULL};

static int32_t read_thinking(const json_t *body, struct gen_request *out, struct http_error *error)
{
    const json_t *thinking = json_object_get(body, "thinking");
    const char *type = json_string_value(json_object_get(thinking, "type"));
    if (!json_given(body, "thinking"))
        return 0;
    if (!type ||
        (strcmp(type, "enabled") != 0 && strcmp(type, "disabled") != 0 && strcmp(type, "adaptive") != 0))
        return http_fail(error, 400, "invalid_type", "thinking",
                         "'thinking' must be an object whose 'type' is enabled, adaptive or disabled");
    if (json_given(thinking, "budget_tokens"))
        snprintf(out->ignored, sizeof out->ignored, "thinking.budget_tokens");
    return 0;
}

static int32_t read_format(const json_t *body, struct http_error *error)
{
    if (json_given(json_object_get(body, "output_config"), "format"))
        return http_fail(error, 400, "unsupported", "output_config.format",
                         "'output_config.format': this server does not do JSON schemas");
    return 0;
}

int32_t parse_messages(const struct server *server, const json_t *body, struct gen_request *out,
                       struct http_error *error)
{
    json_t *messages, *extra, *last;
    const char *role;
    int64_t max_tokens = 0;
    int32_t status = -1;
    out->api = API_MESSAGES;
    out->split = 1;
    if (parse_common(server, body, out, error) ||
        json_read_int(body, "max_tokens", 1, INT32_MAX, &max_tokens, error) ||
        parse_stops(body, "stop_sequences", out, error) || read_format(body, error))
        return -1;
    if (!max_tokens)
        return http_fail(error, 400, "invalid_request", "max_tokens", "max_tokens: field required");
    note_ignored(body, known, out);
    if (out->n > 1)
        return http_fail(error, 400, "unsupported", "n", "'n' is %u: a message has one answer", out->n);
    if (read_thinking(body, out, error))
        return -1;
    out->max_tokens = (uint32_t)max_tokens;
    messages = anthropic_messages(body, error);
    extra = messages ? template_variables(body, error) : NULL;
    last = json_array_get(messages, json_array_size(messages) - 1);
    role = json_string_value(json_object_get(last, "role"));
    if (extra) /* a last message of the assistant is the beginning of the answer */
        status = prompt_from_messages(server, body, messages, extra, role && strcmp(role, "assistant") == 0,
                                      out, error);
    json_decref(extra);
    json_decref(messages);
    return status;
}
