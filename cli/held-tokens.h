/* Which tokens a session's cache holds, so that a conversation that grew is not computed again.
 *
 * Invariant: `tokens` are exactly those at positions [0, sharpi_session_length) of the session, after every call here.
 */
#ifndef SHARPI_CLI_HELD_TOKENS_H
#define SHARPI_CLI_HELD_TOKENS_H

#include <sharpi/sharpi.h>

#include "core/tokenizer.h"

struct held_tokens {
    struct sharpi_session *session; /* not owned */
    struct sharpi_tokens tokens;
};

/* How many tokens a and b have in common at their beginning. */
uint64_t common_prefix(const int32_t *a, uint64_t n_a, const int32_t *b, uint64_t n_b);

/* Cuts the session to the longest prefix of tokens[n] that it holds, short of the last token, which has to be computed
 * for its logits. A ring that has overwritten what that prefix would look at makes it 0. *keep: positions that stay. */
int32_t held_rewind(struct held_tokens *held, const int32_t *tokens, uint64_t n, uint64_t *keep,
                    struct sharpi_error *err);

/* Notes tokens as fed, then forgets those that the session does not have (a step that failed, a token not fed yet). */
int32_t held_note(struct held_tokens *held, const int32_t *tokens, uint64_t n, struct sharpi_error *err);

void held_free(struct held_tokens *held);

#endif
