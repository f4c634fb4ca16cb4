/* POST /v1/chat/completions: the request. */
#include "request.h"
#include "server.h"

static const char *const known[] = {"messages",
                                    "max_tokens",
                                    "max_completion_tokens",
                                    "stop",
                                    "logprobs",
                                    "top_logprobs",
                                    "stream_options",
                                    "chat_template_kwargs",
                                    "reasoning_effort",
                                    "continue_final_message",
                                    "add_generation_prompt",
                                    NULL};

static int32_t read_lengths(const json_t *body, struct gen_request *out, struct http_error *error)
{
    int64_t max_tokens = 0, n_top = 0;
    if (json_read_int(body, "max_tokens", -1, INT32_MAX, &max_tokens, error) ||
        json_read_int(body, "max_completion_tokens", -1, INT32_MAX, &max_tokens, error) ||
        json_read_bool(body, "logprobs", &out->logprobs, error) ||
        json_read_int(body, "top_logprobs", 0, 20, &n_top, error))
        return -1;
    if ((json_given(body, "max_tokens") || json_given(body, "max_completion_tokens")) && max_tokens == 0)
        return http_fail(error, 400, "out_of_range", "max_tokens", "'max_tokens' is 0, must be at least 1");
    if (n_top && !out->logprobs)
        return http_fail(error, 400, "invalid_request", "top_logprobs",
                         "'top_logprobs' needs 'logprobs': true");
    out->max_tokens =
        max_tokens > 0 ? (uint32_t)max_tokens : 0; /* -1: what other servers take for no limit */
    out->n_top = (uint32_t)n_top;
    return 0;
}

static int32_t read_stream_options(const json_t *body, struct gen_request *out, struct http_error *error)
{
    const json_t *options = json_object_get(body, "stream_options");
    if (json_given(body, "stream_options") && !json_is_object(options))
        return http_fail(error, 400, "invalid_type", "stream_options", "'stream_options' must be an object");
    return json_read_bool(options, "include_usage", &out->include_usage, error);
}

static int32_t read_messages(const struct server *server, const json_t *body, struct gen_request *out,
                             struct http_error *error)
{
    int32_t continue_last = 0, status = -1;
    json_t *messages, *extra;
    const char *role;
    if (json_read_bool(body, "continue_final_message", &continue_last, error))
        return -1;
    messages = chat_messages(body, error);
    if (!messages)
        return -1;
    role =
        json_string_value(json_object_get(json_array_get(messages, json_array_size(messages) - 1), "role"));
    extra = template_variables(body, error);
    if (extra && continue_last && strcmp(role, "assistant") != 0)
        http_fail(error, 400, "invalid_request", "continue_final_message",
                  "'continue_final_message' needs a last message of the assistant");
    else if (extra)
        status = prompt_from_messages(server, body, messages, extra, continue_last, out, error);
    json_decref(extra);
    json_decref(messages);
    return status;
}

int32_t parse_chat(const struct server *server, const json_t *body, struct gen_request *out,
                   struct http_error *error)
{
    out->api = API_CHAT;
    out->split = 1;
    if (parse_common(server, body, out, error) || read_lengths(body, out, error) ||
        read_stream_options(body, out, error) || parse_stops(body, "stop", out, error))
        return -1;
    note_ignored(body, known, out);
    return read_messages(server, body, out, error);
}
