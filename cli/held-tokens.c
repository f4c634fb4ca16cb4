/* Tokens in a session's cache: see held-tokens.h. */
#include "held-tokens.h"

#include <string.h>

uint64_t common_prefix(const int32_t *a, uint64_t n_a, const int32_t *b, uint64_t n_b)
{
    uint64_t n = n_a < n_b ? n_a : n_b, i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

/* A step that failed may have emptied the session. */
static void follow_session(struct held_tokens *held)
{
    uint32_t length = sharpi_session_length(held->session);
    if (held->tokens.n > length)
        held->tokens.n = length;
}

int32_t held_rewind(struct held_tokens *held, const int32_t *tokens, uint64_t n, uint64_t *keep,
                    struct sharpi_error *err)
{
    int32_t status;
    follow_session(held);
    *keep = common_prefix(held->tokens.ids, held->tokens.n, tokens, n);
    if (*keep == n && n > 0)
        --*keep;
    status = sharpi_session_truncate(held->session, (uint32_t)*keep, err);
    if (status == SHARPI_ENOTSUP) {
        *keep = 0;
        status = sharpi_session_truncate(held->session, 0, err);
    }
    if (!status)
        held->tokens.n = *keep;
    return status;
}

int32_t held_note(struct held_tokens *held, const int32_t *tokens, uint64_t n, struct sharpi_error *err)
{
    int32_t status = sharpi_tokens_reserve(&held->tokens, n, err);
    if (!status && n) {
        memcpy(held->tokens.ids + held->tokens.n, tokens, n * sizeof *tokens);
        held->tokens.n += n;
    }
    follow_session(held);
    return status;
}

void held_free(struct held_tokens *held)
{
    sharpi_tokens_free(&held->tokens);
}
