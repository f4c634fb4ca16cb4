/* From messages to the prompt of a model: renders its chat template with the variables that Hugging Face's
 * apply_chat_template gives, and knows templates for models that carry none.
 */
#ifndef SHARPI_CORE_CHAT_TEMPLATE_H
#define SHARPI_CORE_CHAT_TEMPLATE_H

#include <jansson.h>

#include "core/jinja/jinja.h"

/* All may be zero. `extra` is a JSON object whose members become variables (enable_thinking, documents,
 * custom_tools ...) and win over the others. */
struct sharpi_chat_template_options {
    int32_t add_generation_prompt; /* 1: end with the opening of the answer */
    const char *bos_token, *eos_token;
    const json_t *extra;
    const struct sharpi_template_limits *limits;
};

/* `messages`: array of objects as the OpenAI API has them; `tools`: array, or NULL. Appends to `out`. Status and
 * `failure` (may be NULL) as sharpi_template_compile and sharpi_template_render. */
int32_t sharpi_chat_template_render(const char *source, size_t n_bytes, const json_t *messages,
                                    const json_t *tools, const struct sharpi_chat_template_options *options,
                                    struct sharpi_template_text *out, struct sharpi_template_failure *failure,
                                    struct sharpi_error *err);

/* The same with a template that was compiled before. */
int32_t sharpi_chat_template_apply(const struct sharpi_template *tmpl, const json_t *messages,
                                   const json_t *tools, const struct sharpi_chat_template_options *options,
                                   struct sharpi_template_text *out, struct sharpi_template_failure *failure,
                                   struct sharpi_error *err);

/* Source of a built-in template: "chatml", "gemma", "llama2", "llama3"; NULL for other names. */
const char *sharpi_chat_template_builtin(const char *name);
/* Name of the i-th built-in template, NULL past the last. */
const char *sharpi_chat_template_builtin_name(size_t i);

#endif
