/* Conversations of both APIs in the one form that chat templates know: objects with role and content, content a string.
 */
#include <stdlib.h>

#include "request.h"
#include "server.h"

enum { MAX_MESSAGES = 16384 };

/* ---- Content */

static int32_t add_part(struct text *text, const json_t *part, const char *param, size_t i,
                        struct http_error *error)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    const json_t *value = json_object_get(part, "text");
    if (!json_is_object(part) || !type)
        return http_fail(error, 400, "invalid_type", param,
                         "part %zu of '%s' must be an object with a 'type'", i, param);
    if (strcmp(type, "text") != 0 && strcmp(type, "input_text") != 0 && strcmp(type, "output_text") != 0)
        return http_fail(error, 400, "unsupported", param,
                         "part %zu of '%s' is of type '%.40s': this server reads text only%s", i, param, type,
                         strstr(type, "tool") ? ", it does not do tool calls" : "");
    if (!json_is_string(value))
        return http_fail(error, 400, "invalid_type", param, "part %zu of '%s' has no string 'text'", i,
                         param);
    if (text->n)
        text_puts(text, "\n");
    text_put(text, json_string_value(value), json_string_length(value));
    return 0;
}

json_t *parse_content(const json_t *content, const char *param, struct http_error *error)
{
    struct text text = {0};
    json_t *out = NULL;
    int32_t status = 0;
    if (json_is_string(content))
        return json_incref((json_t *)(uintptr_t)content);
    if (!json_is_array(content)) {
        http_fail(error, 400, "invalid_type", param, "'%s' is %s, must be a string or an array of parts",
                  param, json_type_name(content));
        return NULL;
    }
    for (size_t i = 0; i < json_array_size(content) && !status; i++)
        status = add_part(&text, json_array_get(content, i), param, i, error);
    if (!status) {
        out = text.failed ? NULL : json_stringn(text.data ? text.data : "", text.n);
        if (!out)
            http_fail(error, 503, "out_of_memory", NULL, "no memory for the messages");
    }
    text_free(&text);
    return out;
}

/* ---- Roles */

static const char *read_role(const json_t *message, size_t i, const char *const *roles,
                             struct http_error *error)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    char param[64];
    snprintf(param, sizeof param, "messages[%zu].role", i);
    if (!json_is_object(message) || !role) {
        http_fail(error, 400, "invalid_type", param, "message %zu must be an object with a 'role'", i);
        return NULL;
    }
    for (; *roles; roles++) {
        if (strcmp(*roles, role) == 0)
            return *roles;
    }
    if (strcmp(role, "tool") == 0 || strcmp(role, "function") == 0)
        http_fail(error, 400, "unsupported", param,
                  "message %zu has the role '%s': this server does not do tool calls", i, role);
    else
        http_fail(error, 400, "out_of_range", param, "message %zu has the unknown role '%.40s'", i, role);
    return NULL;
}

static const json_t *message_array(const json_t *body, struct http_error *error)
{
    const json_t *messages = json_object_get(body, "messages");
    if (!json_is_array(messages) || json_array_size(messages) == 0) {
        http_fail(error, 400, "invalid_type", "messages",
                  "'messages' must be an array with at least one message");
        return NULL;
    }
    if (json_array_size(messages) > MAX_MESSAGES) {
        http_fail(error, 400, "out_of_range", "messages", "'messages' has %zu messages, at most %d are taken",
                  json_array_size(messages), MAX_MESSAGES);
        return NULL;
    }
    return messages;
}

static int32_t append(json_t *list, json_t *message, struct http_error *error)
{
    if (!message || json_array_append_new(list, message))
        return http_fail(error, 503, "out_of_memory", NULL, "no memory for the messages");
    return 0;
}

/* ---- OpenAI */

static int32_t add_openai(json_t *list, const json_t *message, size_t i, struct http_error *error)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", NULL};
    const char *role = read_role(message, i, roles, error);
    const json_t *content = json_object_get(message, "content");
    const json_t *thought = json_object_get(message, "reasoning_content");
    const json_t *name = json_object_get(message, "name");
    char param[64];
    json_t *text, *out;
    if (!role)
        return -1;
    if (strcmp(role, "developer") == 0)
        role = "system";
    if (json_array_size(json_object_get(message, "tool_calls")) || json_given(message, "function_call"))
        return http_fail(error, 400, "unsupported", "messages",
                         "message %zu has tool calls: this server does not do them", i);
    snprintf(param, sizeof param, "messages[%zu].content", i);
    if (!json_given(message, "content") && strcmp(role, "assistant") == 0)
        text = json_string("");
    else
        text = parse_content(content, param, error);
    if (!text)
        return error->status ? -1
                             : http_fail(error, 503, "out_of_memory", NULL, "no memory for the messages");
    out = json_pack("{s:s, s:o}", "role", role, "content", text);
    if (out && json_is_string(thought) && strcmp(role, "assistant") == 0)
        json_object_set(out, "reasoning_content", (json_t *)(uintptr_t)thought);
    if (out && json_is_string(name))
        json_object_set(out, "name", (json_t *)(uintptr_t)name);
    return append(list, out, error);
}

json_t *chat_messages(const json_t *body, struct http_error *error)
{
    const json_t *messages = message_array(body, error);
    json_t *list = messages ? json_array() : NULL;
    int32_t status =
        messages && !list ? http_fail(error, 503, "out_of_memory", NULL, "no memory for the messages") : 0;
    for (size_t i = 0; list && i < json_array_size(messages) && !status; i++)
        status = add_openai(list, json_array_get(messages, i), i, error);
    if (status) {
        json_decref(list);
        return NULL;
    }
    return list;
}

/* ---- Anthropic */

/* Thinking blocks of an assistant's message are told apart; the rest must be text. */
static json_t *split_thinking(const json_t *content, struct text *thought)
{
    json_t *rest, *block;
    size_t i;
    if (!json_is_array(content))
        return json_incref((json_t *)(uintptr_t)content);
    rest = json_array();
    json_array_foreach(content, i, block)
    {
        const char *type = json_string_value(json_object_get(block, "type"));
        const json_t *value = json_object_get(block, "thinking");
        if (type && strcmp(type, "redacted_thinking") == 0)
            continue;
        if (type && strcmp(type, "thinking") == 0 && json_is_string(value))
            text_put(thought, json_string_value(value), json_string_length(value));
        else if (rest)
            json_array_append(rest, block);
    }
    return rest;
}

static int32_t add_anthropic(json_t *list, const json_t *message, size_t i, struct http_error *error)
{
    static const char *const roles[] = {"user", "assistant", "system", NULL};
    const char *role = read_role(message, i, roles, error);
    struct text thought = {0};
    char param[64];
    json_t *content, *text, *out;
    if (!role)
        return -1;
    snprintf(param, sizeof param, "messages[%zu].content", i);
    if (strcmp(role, "assistant") == 0)
        content = split_thinking(json_object_get(message, "content"), &thought);
    else
        content = json_incref(json_object_get(message, "content"));
    text = parse_content(content, param, error);
    json_decref(content);
    out = text ? json_pack("{s:s, s:o}", "role", role, "content", text) : NULL;
    if (out && thought.n)
        json_object_set_new(out, "reasoning_content", json_stringn(thought.data, thought.n));
    text_free(&thought);
    return error->status ? -1 : append(list, out, error);
}

json_t *anthropic_messages(const json_t *body, struct http_error *error)
{
    const json_t *messages = message_array(body, error);
    json_t *list = messages ? json_array() : NULL, *system;
    int32_t status =
        messages && !list ? http_fail(error, 503, "out_of_memory", NULL, "no memory for the messages") : 0;
    if (list && json_given(body, "system")) {
        system = parse_content(json_object_get(body, "system"), "system", error);
        status =
            system ? append(list, json_pack("{s:s, s:o}", "role", "system", "content", system), error) : -1;
    }
    for (size_t i = 0; list && i < json_array_size(messages) && !status; i++)
        status = add_anthropic(list, json_array_get(messages, i), i, error);
    if (status) {
        json_decref(list);
        return NULL;
    }
    return list;
}

/* ---- To a prompt */

json_t *template_variables(const json_t *body, struct http_error *error)
{
    json_t *given = json_object_get(body, "chat_template_kwargs"), *out;
    json_t *effort = json_object_get(body, "reasoning_effort"), *thinking = json_object_get(body, "thinking");
    const char *type = json_string_value(json_object_get(thinking, "type"));
    if (json_given(body, "chat_template_kwargs") && !json_is_object(given)) {
        http_fail(error, 400, "invalid_type", "chat_template_kwargs",
                  "'chat_template_kwargs' is %s, must be an object", json_type_name(given));
        return NULL;
    }
    out = json_object();
    if (out && json_is_string(effort)) {
        json_object_set(out, "reasoning_effort", effort);
        if (strcmp(json_string_value(effort), "none") == 0)
            json_object_set_new(out, "enable_thinking", json_false());
    }
    if (out && type)
        json_object_set_new(out, "enable_thinking", json_boolean(strcmp(type, "disabled") != 0));
    if (out && given)
        json_object_update(out, given);
    if (!out)
        http_fail(error, 503, "out_of_memory", NULL, "no memory for the messages");
    return out;
}

int32_t prompt_from_messages(const struct server *server, const json_t *body, const json_t *messages,
                             json_t *extra, int32_t continue_last, struct gen_request *out,
                             struct http_error *error)
{
    struct sharpi_template_text text = {0};
    struct gen_prompt *prompt;
    int32_t status;
    (void)body;
    if (!server->prompt_template)
        return http_fail(error, 400, "no_chat_template", NULL, "%s", server->prompt_missing.text);
    out->prompts = calloc(1, sizeof *out->prompts);
    if (!out->prompts)
        return http_fail(error, 503, "out_of_memory", NULL, "no memory for the prompt");
    out->n_prompts = 1;
    prompt = &out->prompts[0];
    status = prompt_render(server->prompt_template, messages, extra, continue_last, &text, error);
    if (!status)
        status = prompt_tokenize(server->prompt_template, text.data, text.n_bytes, &prompt->tokens,
                                 &prompt->n_tokens, error);
    if (status) {
        sharpi_template_text_free(&text);
        return -1;
    }
    prompt->text = text.data;
    prompt->n_text = text.n_bytes;
    return 0;
}
