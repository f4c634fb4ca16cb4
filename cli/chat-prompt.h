/* From messages to the tokens of a prompt: the model's chat template, or one that the user names. */
#ifndef SHARPI_CLI_CHAT_PROMPT_H
#define SHARPI_CLI_CHAT_PROMPT_H

#include <jansson.h>

#include "core/model.h"

struct chat_prompt;

/* `name`: a built-in template or a file; NULL = the model's own (SHARPI_ENOENT names the remedy when it has none).
 * `thinking`: 1 or 0 sets the template's enable_thinking, -1 leaves its default. */
int32_t chat_prompt_create(const struct sharpi_model *model, const char *name, int32_t thinking,
                           struct chat_prompt **out, struct sharpi_error *err);
void chat_prompt_destroy(struct chat_prompt *prompt); /* NULL is fine */

/* The conversation with the opening of the next answer. *text and *tokens are new: free() them. */
int32_t chat_prompt_render(const struct chat_prompt *prompt, const json_t *messages, char **text,
                           uint64_t *n_text, int32_t **tokens, uint64_t *n_tokens, struct sharpi_error *err);

/* {"role": role, "content": text}; NULL without memory or when the text is not UTF-8. */
json_t *chat_message(const char *role, const char *text, uint64_t n);

#endif
