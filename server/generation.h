/* A request on its way through the scheduler: the mailbox between the scheduler's thread, which fills it, and the connection's
 * thread, which empties it.
 *
 * Invariant: it is counted: the connection and every choice that the scheduler still has hold it, and who lets go last frees it.
 * So a connection may leave at any time, and what is left of its choices ends at the next step.
 */
#ifndef SHARPI_SERVER_GENERATION_H
#define SHARPI_SERVER_GENERATION_H

#include "core/scheduler.h"
#include "output.h"
#include "request.h"

struct generation;

/* What a choice has to say since it was asked last. Free with choice_news_free. */
struct choice_news {
    struct text said, thought;
    struct token_probs probs;
    int32_t started;  /* the scheduler began with it */
    int32_t finished; /* nothing more comes; what follows is filled */
    uint32_t finish;  /* enum sharpi_finish; 0 = it failed: status and error */
    int32_t status;
    char error[512];
    int32_t stop_string; /* index in the request's stop strings that ended it; -1 = none did */
    uint32_t reasoning_tokens;
    struct sharpi_request_usage usage;
    float *embedding;
    uint32_t n_embedding;
};
void choice_news_free(struct choice_news *news);

/* Hands every choice to the scheduler: choice i is of prompt i / n. `request` must outlive the call only, except that its
 * stop strings move into the generation. */
int32_t generation_start(struct server *server, struct gen_request *request, struct generation **out,
                         struct http_error *error);
/* The same for embeddings: one choice per prompt. `kind` is SHARPI_REQUEST_EMBED_LAST or _MEAN. */
int32_t generation_embed(struct server *server, const struct gen_request *request, uint32_t kind,
                         struct generation **out, struct http_error *error);

const char *generation_stop_string(const struct generation *generation, int32_t index);
/* Waits until a choice has news, at most `timeout_s`; its index, or -1. Choices take turns. */
int32_t generation_wait(struct generation *generation, double timeout_s);
/* The same until all are finished: 1 when they are. */
int32_t generation_wait_all(struct generation *generation, double timeout_s);
/* Moves what a choice has to `news`, which is all zeros or freed. */
void generation_take(struct generation *generation, uint32_t choice, struct choice_news *news);
/* 1 when every choice has finished and said so to generation_take. */
int32_t generation_is_done(struct generation *generation);
/* 1 when a choice has failed already: its status and error are filled; nothing is taken. */
int32_t generation_has_failed(struct generation *generation, struct choice_news *news);
void generation_cancel(struct generation *generation);
/* The connection lets go; what still runs is cancelled. NULL is fine. */
void generation_release(struct generation *generation);

#endif
