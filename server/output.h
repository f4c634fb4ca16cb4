/* From the tokens of one choice to what a client may see: text, reasoning, log-probabilities.
 *
 * token -> whole UTF-8 text -> reasoning or answer -> stop strings -> out. Stop strings are looked for in the answer only: a
 * model that thinks about one has not said it. A token's log-probabilities come out together with its text, and never
 * without it: what a stop string cuts off was not said.
 */
#ifndef SHARPI_SERVER_OUTPUT_H
#define SHARPI_SERVER_OUTPUT_H

#include "core/reasoning.h"
#include "core/tokenizer.h"
#include <sharpi/sampler.h>
#include "stops.h"

struct token_prob {
    int32_t token;
    float logprob;
    uint32_t first_top, n_top; /* in `tops` */
    uint64_t begin, end;       /* of its text in all that was generated, bytes */
};

/* All zeros is an empty list. */
struct token_probs {
    uint32_t n, capacity, n_tops, tops_capacity;
    struct token_prob *items;
    struct sharpi_logprob *tops;
};
/* Appends a copy. SHARPI_ENOMEM. */
int32_t token_probs_add(struct token_probs *probs, const struct token_prob *prob,
                        const struct sharpi_logprob *top);
void token_probs_free(struct token_probs *probs);

struct output {
    const struct sharpi_tokenizer *tokenizer;
    struct sharpi_detokenizer *detokenizer;
    struct sharpi_reasoning splitter;
    struct stop_matcher matcher;
    int32_t split, keep_probs, failed;
    uint64_t pushed; /* bytes of text so far */
    uint32_t reasoning_tokens;
    struct token_probs pending; /* their text is held back */

    /* Ready for the client, who takes it away. */
    struct text said, thought;
    struct token_probs probs;
};

/* `prompt` (may be NULL) is what the model continues: with `split` it may have opened a block of reasoning. The output must not
 * move afterwards; output_free in any case. */
int32_t output_init(struct output *output, const struct sharpi_tokenizer *tokenizer,
                    const struct stop_strings *stops, int32_t split, int32_t keep_probs, const char *prompt,
                    uint64_t n_prompt, struct sharpi_error *err);
void output_free(struct output *output);

/* 1 when the answer is over: a stop string was found, or memory ran out (`failed`). */
int32_t output_push(struct output *output, int32_t token, float logprob, const struct sharpi_logprob *top,
                    uint32_t n_top);
/* Nothing more comes: what was held back is said, unless a stop string was found. */
void output_end(struct output *output);

#endif
