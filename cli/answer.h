/* One answer: prefill of a prompt's tokens and the decode loop, as run and chat share them. */
#ifndef SHARPI_CLI_ANSWER_H
#define SHARPI_CLI_ANSWER_H

#include "held-tokens.h"

enum answer_stop {
    ANSWER_END = 1,       /* the model ended it */
    ANSWER_LENGTH = 2,    /* n_predict tokens are made */
    ANSWER_CONTEXT = 3,   /* the context is full */
    ANSWER_INTERRUPT = 4, /* Ctrl-C */
};
const char *answer_stop_name(enum answer_stop stop); /* "end", "length", "context", "interrupt" */

/* Gets each token with the text that it completes (whole UTF-8 characters, perhaps nothing); token -1 brings the rest. */
typedef int32_t answer_put_fn(void *user, int32_t token, const char *text, uint64_t n,
                              struct sharpi_error *err);

struct answer {
    struct sharpi_model *model;
    struct held_tokens *held; /* the session, and what it holds */
    struct sharpi_sampler *sampler;
    uint32_t n_predict; /* most tokens to make; 0 = until the model ends or the context is full */
    uint32_t ignore_end;
    answer_put_fn *put;
    void *user;

    /* What came of it. */
    enum answer_stop stop;
    uint64_t n_prompt, n_reused; /* tokens of the prompt; those of them that the cache had */
    uint32_t n_made;
    double prefill_seconds, decode_seconds;
};

/* A prompt and at least one token of answer must fit: SHARPI_EFULL with the numbers. `remedy` ends the sentence. */
int32_t answer_check_fits(const struct sharpi_model *model, uint64_t n_prompt, const char *remedy,
                          struct sharpi_error *err);

/* Makes the session hold tokens[n] (what it has of them is not computed again), then samples until something stops it.
 * Ctrl-C stops within one step of at most a chunk. */
int32_t answer_run(struct answer *answer, const int32_t *tokens, uint64_t n, struct sharpi_error *err);

double per_second(double n, double seconds); /* 0 where no time passed */

#endif
