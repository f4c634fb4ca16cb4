/* A session: one sequence's pages, the logits of its last token, and the text that it has not shown yet. */
#ifndef SHARPI_CORE_SESSION_H
#define SHARPI_CORE_SESSION_H

#include "model.h"
#include <sharpi/sampler.h>

struct sharpi_session {
    struct sharpi_model *model;
    struct sharpi_kv_seq *seq;
    float *logits; /* [n_vocab] of the last token fed */
    uint32_t has_logits;
    int32_t pending; /* sampled, not fed yet; -1 = none */
    struct sharpi_detokenizer *detokenizer;
};

#endif
