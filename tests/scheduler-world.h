/* For tests of the scheduler: answers that can be waited for, and logits as they were sampled from. */
#ifndef SHARPI_TESTS_SCHEDULER_WORLD_H
#define SHARPI_TESTS_SCHEDULER_WORLD_H

#include "core/scheduler.h"

enum { ANSWER_MOST = 512 };

struct answer {
    uint64_t id;
    int32_t status; /* of submit, or of FAILED */
    uint32_t done, started, finish, n;
    int32_t tokens[ANSWER_MOST];
    float logprobs[ANSWER_MOST];
    int32_t stop_token;
    uint32_t stop_after; /* tokens; 0 = never: what the event function says */
    uint32_t n_embedding;
    float embedding[1024];
    char error[256];
    struct sharpi_request_usage usage;
    struct sharpi_scheduler *cancel_in; /* cancels itself after its first token */
};

/* Submits; prompt and numbers in `request` as given, event and user are set. */
int32_t answer_ask(struct sharpi_scheduler *s, struct sharpi_request request, struct answer *answer);
/* Waits for its end, or for n tokens. 0 when that takes more than some minutes. */
int answer_wait(struct answer *answer);
int answer_wait_tokens(struct answer *answer, uint32_t n);

/* Logits by sequence: rows that `observe` has seen. */
struct watched {
    uint64_t id;
    uint32_t position;
    float *logits;
};
struct watch {
    uint32_t n, n_vocab;
    struct watched rows[8192];
};
void watch_observe(void *user, uint64_t id, uint32_t position, const float *logits, uint32_t n_vocab);
const float *watch_find(const struct watch *watch, uint64_t id, uint32_t position);
void watch_clear(struct watch *watch);

#endif
