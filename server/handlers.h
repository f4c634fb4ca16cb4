/* What the routes do; each returns 0, or -1 with x->error filled. */
#ifndef SHARPI_SERVER_HANDLERS_H
#define SHARPI_SERVER_HANDLERS_H

#include "exchange.h"

/* generate.c */
int32_t handle_chat(struct exchange *x);
int32_t handle_completions(struct exchange *x);
int32_t handle_messages(struct exchange *x);
/* embeddings.c */
int32_t handle_embeddings(struct exchange *x);
/* tokens.c */
int32_t handle_tokenize(struct exchange *x);
int32_t handle_detokenize(struct exchange *x);
int32_t handle_apply_template(struct exchange *x);
int32_t handle_count_tokens(struct exchange *x);
/* info.c */
int32_t handle_health(struct exchange *x);
int32_t handle_metrics(struct exchange *x);
int32_t handle_models(struct exchange *x);
int32_t handle_model(struct exchange *x);
int32_t handle_plan(struct exchange *x);
int32_t handle_page(struct exchange *x);

#endif
