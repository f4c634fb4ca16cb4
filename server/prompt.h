/* From messages to the tokens of a prompt, by the model's chat template or one that the operator named.
 *
 * A compiled template never changes: any number of threads render it at once.
 */
#ifndef SHARPI_SERVER_PROMPT_H
#define SHARPI_SERVER_PROMPT_H

#include <jansson.h>

#include "core/chat-template.h"
#include "core/model.h"
#include "http-error.h"

struct prompt_template;

/* `source` NULL: the model's own; SHARPI_ENOENT when it has none. `name` is for messages. */
int32_t prompt_template_create(const struct sharpi_model *model, const char *source, uint64_t n,
                               const char *name, struct prompt_template **out, struct sharpi_error *err);
void prompt_template_destroy(struct prompt_template *prompt); /* NULL is fine */

/* Appends the text to `out`. With `continue_last` it ends within the last message instead of opening a new answer. */
int32_t prompt_render(const struct prompt_template *prompt, const json_t *messages, const json_t *extra,
                      int32_t continue_last, struct sharpi_template_text *out, struct http_error *error);
/* Of a rendered text; *tokens is new. */
int32_t prompt_tokenize(const struct prompt_template *prompt, const char *text, uint64_t n, int32_t **tokens,
                        uint64_t *n_tokens, struct http_error *error);

#endif
