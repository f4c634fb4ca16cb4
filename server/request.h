/* A request to generate, as every API's parser makes it: prompts as tokens, sampling, where to stop, what to report.
 */
#ifndef SHARPI_SERVER_REQUEST_H
#define SHARPI_SERVER_REQUEST_H

#include <sharpi/sampler.h>

#include "json-read.h"
#include "stops.h"

struct server;

enum api_kind { API_CHAT = 1, API_COMPLETIONS = 2, API_MESSAGES = 3 };

struct gen_prompt {
    int32_t *tokens; /* owned */
    uint64_t n_tokens;
    char *text; /* owned; what the tokens were made of; NULL when the client sent ids and nobody needs text */
    uint64_t n_text;
};

enum { GEN_CHAIN_BYTES = 256, GEN_MAX_BIAS = 4096, GEN_IGNORED_BYTES = 256 };

struct gen_request {
    enum api_kind api;
    uint32_t n_prompts;
    struct gen_prompt *prompts;
    uint32_t n;                           /* choices per prompt */
    uint32_t max_tokens;                  /* 0 = as many as the context holds */
    struct sharpi_sampler_params sampler; /* points into this struct and the server */
    char chain[GEN_CHAIN_BYTES];
    struct sharpi_logit_bias *bias;
    int32_t *breakers;
    struct stop_strings stops;
    int32_t stream, include_usage, echo, ignore_end, logprobs, no_reuse;
    uint32_t n_top;
    int32_t split;                   /* reasoning is told from the answer */
    char ignored[GEN_IGNORED_BYTES]; /* fields that nothing is done about, for a header */
};

void gen_request_free(struct gen_request *request);

/* Each parses a body. -1 with `error` filled; gen_request_free in any case. */
int32_t parse_chat(const struct server *server, const json_t *body, struct gen_request *out,
                   struct http_error *error);
int32_t parse_completions(const struct server *server, const json_t *body, struct gen_request *out,
                          struct http_error *error);
int32_t parse_messages(const struct server *server, const json_t *body, struct gen_request *out,
                       struct http_error *error);

/* ---- What they share */

/* Sampling, n, seed, stream ... : all that the APIs spell alike. */
int32_t parse_common(const struct server *server, const json_t *body, struct gen_request *out,
                     struct http_error *error);
/* "model" names the model that is served, or is not there. */
int32_t parse_model(const struct server *server, const json_t *body, struct http_error *error);
/* A string or an array of strings. */
int32_t parse_stops(const json_t *body, const char *key, struct gen_request *out, struct http_error *error);
/* What cannot be honoured yet is refused by name; what is not known goes to `ignored`. `known` is NULL-terminated. */
int32_t parse_unsupported(const json_t *body, struct http_error *error);
void note_ignored(const json_t *body, const char *const *known, struct gen_request *out);
/* A text of content: a string, or an array of parts {"type": "text", "text": ...}, joined by line ends. NULL and `error`
 * otherwise; a new reference. */
json_t *parse_content(const json_t *content, const char *param, struct http_error *error);
/* OpenAI's messages as templates want them (a new array); Anthropic's with `system`. */
json_t *chat_messages(const json_t *body, struct http_error *error);
json_t *anthropic_messages(const json_t *body, struct http_error *error);
/* Renders messages and makes them the request's one prompt. */
int32_t prompt_from_messages(const struct server *server, const json_t *body, const json_t *messages,
                             json_t *extra, int32_t continue_last, struct gen_request *out,
                             struct http_error *error);
/* Variables for the template of a body: chat_template_kwargs, reasoning_effort, thinking. A new object; NULL and `error`. */
json_t *template_variables(const json_t *body, struct http_error *error);

#endif
