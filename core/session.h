/* A session: one sequence's pages, the logits of its last token or the highest of them, and the text that it has not shown yet. */
#ifndef SHARPI_CORE_SESSION_H
#define SHARPI_CORE_SESSION_H

#include "model.h"
#include "sampler-top.h"

struct sharpi_session {
    struct sharpi_model *model;
    struct sharpi_kv_seq *seq;
    float *logits; /* [n_vocab] of the last token fed */
    uint32_t has_logits;
    /* Set before a step: its last row is kept as so many of the highest logits instead of all of them, if the work item wants
     * one row and brings no room of its own (sharpi_sampler_reach says how many are enough). 0: all. */
    uint32_t top_k;
    uint32_t n_top; /* what the last step left of them, 0 = none */
    int32_t top_ids[SHARPI_TOP_MAX];
    float top_logits[SHARPI_TOP_MAX]; /* highest first, lowest id on a tie */
    float top_log_sum;                /* log of the sum of exp over all logits */
    int32_t pending;                  /* sampled, not fed yet; -1 = none */
    struct sharpi_detokenizer *detokenizer;
};

/* A token from what the last step left, all logits or the highest. Neither fed nor accepted. Uses the logits up. */
int32_t sharpi_session_sample(struct sharpi_session *session, struct sharpi_sampler *sampler, int32_t *token,
                              struct sharpi_error *err);

#endif
