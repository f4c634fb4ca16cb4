/* The answer to a request that generates: one JSON document, or a stream of events, in the shape of its API.
 *
 * A stream is: begin, then say for each piece of news of any choice, close when all have finished.
 */
#ifndef SHARPI_SERVER_REPLY_H
#define SHARPI_SERVER_REPLY_H

#include "generation.h"
#include "http-error.h"
#include "request.h"

struct reply;

struct reply_writer {
    void (*whole)(struct reply *reply); /* every choice's news is in reply->news */
    void (*begin)(struct reply *reply);
    void (*say)(struct reply *reply, uint32_t choice, struct choice_news *news);
    void (*close)(struct reply *reply);
    void (*heartbeat)(struct reply *reply);
    enum api_style style;
};
extern const struct reply_writer reply_chat, reply_completions, reply_messages;

/* What a stream remembers of a choice. */
struct reply_choice {
    int32_t begun; /* its opening was said */
    int32_t block; /* Anthropic: kind of the open content block; 0 = none */
    uint32_t n_blocks;
    uint64_t offset; /* completions: bytes of text so far, for text_offset */
};

struct reply {
    const struct reply_writer *writer;
    struct server *server;
    struct gen_request request;
    struct generation *generation;
    char id[48];
    int64_t created;
    uint32_t n_choices;
    struct choice_news *news;     /* [n_choices]; a stream keeps only how each ended */
    struct reply_choice *choices; /* [n_choices] */
    struct text out;
    struct http_error error; /* a choice failed: its status and text */
};

/* Starts the generation and takes `request` over. */
int32_t reply_create(struct server *server, struct gen_request *request, const char *request_id,
                     struct reply **out, struct http_error *error);
void reply_free(struct reply *reply); /* NULL is fine */

/* Keeps how a choice ended, also as reply->error when it failed. */
void reply_note_end(struct reply *reply, uint32_t choice, const struct choice_news *news);

/* ---- Shared by the writers; new JSON values, NULL without memory */

json_t *reply_usage(const struct reply *reply);                  /* OpenAI's */
json_t *reply_report(const struct reply *reply);                 /* ours: what was reused, and times */
const char *reply_finish_reason(const struct choice_news *news); /* OpenAI's */
/* A token's text as JSON; bytes that are no UTF-8 become U+FFFD, and all of them as an array. */
json_t *token_json_text(const struct reply *reply, int32_t token);
json_t *token_json_bytes(const struct reply *reply, int32_t token);
/* Minus infinity has no JSON. */
double json_logprob(float logprob);

#endif
