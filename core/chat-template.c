/* Chat templates: the variables they see, and the built-in ones. */
#include "core/chat-template.h"

#include <string.h>

/* The text of a message: a string, nothing, or a list of parts of which the texts count. */
#define TEXT_MACRO                                                                                           \
    "{%- macro text(content) -%}\n"                                                                          \
    "{%- if content is string -%}{{- content -}}\n"                                                          \
    "{%- elif content is sequence -%}\n"                                                                     \
    "{%- for part in content if part is mapping and part.text is string -%}{{- part.text -}}{%- endfor "     \
    "-%}\n"                                                                                                  \
    "{%- endif -%}\n"                                                                                        \
    "{%- endmacro -%}\n"

static const char chatml[] = TEXT_MACRO
    "{%- for message in messages -%}\n"
    "{{- '<|im_start|>' + message['role'] + '\\n' + text(message['content']) + '<|im_end|>\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif -%}\n";

/* A system message opens the first turn of the user, for Gemma has no role for it. */
static const char gemma[] = TEXT_MACRO
    "{{- bos_token -}}\n"
    "{%- set ns = namespace(system='') -%}\n"
    "{%- if messages and messages[0]['role'] in ('system', 'developer') -%}\n"
    "    {%- set ns.system = text(messages[0]['content']) | trim + '\\n\\n' -%}\n"
    "    {%- set messages = messages[1:] -%}\n"
    "{%- endif -%}\n"
    "{%- for message in messages -%}\n"
    "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
    "        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}\n"
    "    {%- endif -%}\n"
    "    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}\n"
    "    {{- '<start_of_turn>' + role + '\\n' + (ns.system if loop.first else '') + text(message['content']) "
    "| "
    "trim + "
    "'<end_of_turn>\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{% endif -%}\n";

static const char llama3[] = TEXT_MACRO
    "{{- bos_token -}}\n"
    "{%- for message in messages -%}\n"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + text(message['content']) | "
    "trim + "
    "'<|eot_id|>' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif "
    "-%}\n";

static const char llama2[] = TEXT_MACRO
    "{%- set ns = namespace(system='') -%}\n"
    "{%- if messages and messages[0]['role'] == 'system' -%}\n"
    "    {%- set ns.system = '<<SYS>>\\n' + text(messages[0]['content']) + '\\n<</SYS>>\\n\\n' -%}\n"
    "    {%- set messages = messages[1:] -%}\n"
    "{%- endif -%}\n"
    "{%- for message in messages -%}\n"
    "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
    "        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}\n"
    "    {%- endif -%}\n"
    "    {%- if message['role'] == 'user' -%}\n"
    "        {{- bos_token + '[INST] ' + ((ns.system if loop.first else '') + text(message['content'])) | "
    "trim + "
    "' [/INST]' -}}\n"
    "    {%- elif message['role'] == 'assistant' -%}\n"
    "        {{- ' ' + text(message['content']) | trim + ' ' + eos_token -}}\n"
    "    {%- else -%}\n"
    "        {{- raise_exception('Only user and assistant roles are supported!') -}}\n"
    "    {%- endif -%}\n"
    "{%- endfor -%}\n";

static const struct {
    const char *name, *source;
} builtins[] = {{"chatml", chatml}, {"gemma", gemma}, {"llama2", llama2}, {"llama3", llama3}};

const char *sharpi_chat_template_builtin_name(size_t i)
{
    return i < sizeof builtins / sizeof builtins[0] ? builtins[i].name : NULL;
}

const char *sharpi_chat_template_builtin(const char *name)
{
    for (size_t i = 0; i < sizeof builtins / sizeof builtins[0]; i++)
        if (strcmp(name, builtins[i].name) == 0)
            return builtins[i].source;
    return NULL;
}

/* Borrows `value` into the context: jansson counts a reference more. */
static int set(json_t *context, const char *name, const json_t *value)
{
    return value ? json_object_set(context, name, (json_t *)(uintptr_t)value)
                 : json_object_set_new(context, name, json_null());
}

static json_t *make_context(const json_t *messages, const json_t *tools,
                            const struct sharpi_chat_template_options *options)
{
    json_t *context = json_object();
    int failed;

    if (!context)
        return NULL;
    failed =
        set(context, "messages", messages) || set(context, "tools", tools) ||
        set(context, "documents", NULL) ||
        json_object_set_new(context, "add_generation_prompt", json_boolean(options->add_generation_prompt));
    if (options->bos_token)
        failed |= json_object_set_new(context, "bos_token", json_string(options->bos_token));
    if (options->eos_token)
        failed |= json_object_set_new(context, "eos_token", json_string(options->eos_token));
    if (options->extra)
        failed |= json_object_update(context, (json_t *)(uintptr_t)options->extra);
    if (failed) {
        json_decref(context);
        return NULL;
    }
    return context;
}

int32_t sharpi_chat_template_apply(const struct sharpi_template *tmpl, const json_t *messages,
                                   const json_t *tools, const struct sharpi_chat_template_options *options,
                                   struct sharpi_template_text *out, struct sharpi_template_failure *failure,
                                   struct sharpi_error *err)
{
    static const struct sharpi_chat_template_options none;
    json_t *context;
    int32_t status;

    if (failure)
        *failure = (struct sharpi_template_failure){0};
    if (!json_is_array(messages) || (tools && !json_is_array(tools) && !json_is_null(tools)))
        return sharpi_fail(err, SHARPI_EINVAL, "messages and tools of a chat must be JSON arrays");
    if (options && options->extra && !json_is_object(options->extra))
        return sharpi_fail(err, SHARPI_EINVAL,
                           "the extra variables of a chat template must be a JSON object");
    context = make_context(messages, tools, options ? options : &none);
    if (!context)
        return sharpi_fail(err, SHARPI_ENOMEM,
                           "the variables of the chat template could not be set: out of memory, "
                           "or a token that is no valid UTF-8");
    status = sharpi_template_render(tmpl, context, options ? options->limits : NULL, out, failure, err);
    json_decref(context);
    return status;
}

int32_t sharpi_chat_template_render(const char *source, size_t n_bytes, const json_t *messages,
                                    const json_t *tools, const struct sharpi_chat_template_options *options,
                                    struct sharpi_template_text *out, struct sharpi_template_failure *failure,
                                    struct sharpi_error *err)
{
    struct sharpi_template *tmpl;
    int32_t status = sharpi_template_compile(source, n_bytes, &tmpl, failure, err);

    if (status != SHARPI_OK)
        return status;
    status = sharpi_chat_template_apply(tmpl, messages, tools, options, out, failure, err);
    sharpi_template_destroy(tmpl);
    return status;
}
