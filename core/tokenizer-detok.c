/* Token ids back to text: all at once, exactly; or one by one as valid UTF-8 for a reader who watches.
 *
 * Invariant of the streaming decoder: what it hands out is whole characters; between calls it holds at most three
 * bytes, and only if they begin a character.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer-internal.h"

struct sharpi_detokenizer {
    const struct sharpi_tokenizer *tokenizer;
    uint32_t flags;
    int32_t at_start; /* the next piece may begin with the space of the prefix */
    uint32_t n_held;
    char held[4];
    char *out; /* room for the longest piece after each of its bytes turned into U+FFFD */
};

/* The text of one token under `flags`; *at_start says whether a leading space is to be dropped. */
static struct sharpi_str token_output(const struct sharpi_tokenizer *t, int32_t id, uint32_t flags,
                                      int32_t *at_start)
{
    int32_t attr = sharpi_token_attr(t, id);
    if (attr == SHARPI_TOKEN_CONTROL || attr == SHARPI_TOKEN_UNKNOWN)
        return flags & SHARPI_DECODE_SPECIAL ? sharpi_token_text(t, id) : (struct sharpi_str){"", 0};
    struct sharpi_str piece = sharpi_token_piece(t, id);
    if (*at_start && piece.n > 0) {
        *at_start = 0;
        if (piece.data[0] == ' ' && attr != SHARPI_TOKEN_USER_DEFINED) {
            piece.data++;
            piece.n--;
        }
    }
    return piece;
}

static int32_t drops_prefix(const struct sharpi_tokenizer *t, uint32_t flags)
{
    return (flags & SHARPI_DECODE_START) && t->space_prefix;
}

int32_t sharpi_tokenizer_decode(const struct sharpi_tokenizer *tokenizer, const int32_t *ids, uint64_t n_ids,
                                uint32_t flags, char **out, uint64_t *n, struct sharpi_error *err)
{
    uint64_t total = 0;
    int32_t at_start = drops_prefix(tokenizer, flags);
    *out = NULL;
    *n = 0;
    for (uint64_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || ids[i] >= tokenizer->n_tokens)
            return sharpi_fail(err, SHARPI_EINVAL,
                               "token %d at place %llu is not in the vocabulary of %d tokens", ids[i],
                               (unsigned long long)i, tokenizer->n_tokens);
        total += token_output(tokenizer, ids[i], flags, &at_start).n;
    }
    char *text = malloc(total + 1);
    if (!text)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a text of %llu bytes",
                           (unsigned long long)total);
    at_start = drops_prefix(tokenizer, flags);
    for (uint64_t i = 0, at = 0; i < n_ids; i++) {
        struct sharpi_str piece = token_output(tokenizer, ids[i], flags, &at_start);
        memcpy(text + at, piece.data, piece.n);
        at += piece.n;
    }
    text[total] = 0;
    *out = text;
    *n = total;
    return SHARPI_OK;
}

int32_t sharpi_detokenizer_create(const struct sharpi_tokenizer *tokenizer, uint32_t decode_flags,
                                  struct sharpi_detokenizer **out, struct sharpi_error *err)
{
    struct sharpi_detokenizer *d = calloc(1, sizeof *d);
    *out = NULL;
    if (d)
        d->out = malloc(3 * ((uint64_t)tokenizer->max_bytes + sizeof d->held));
    if (!d || !d->out) {
        free(d);
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a streaming decoder");
    }
    d->tokenizer = tokenizer;
    d->flags = decode_flags;
    d->at_start = drops_prefix(tokenizer, decode_flags);
    *out = d;
    return SHARPI_OK;
}

void sharpi_detokenizer_destroy(struct sharpi_detokenizer *detokenizer)
{
    if (detokenizer)
        free(detokenizer->out);
    free(detokenizer);
}

/* Consumes one character or one byte that cannot begin one, from what is held and then from the piece; returns the
 * bytes written, 0 when what is left may become a character later (then it is held). */
static uint32_t take_character(struct sharpi_detokenizer *d, struct sharpi_str *piece, char *to)
{
    char window[8];
    uint32_t n = d->n_held, from_piece = 0;
    memcpy(window, d->held, n);
    while (n < 4 && from_piece < piece->n)
        window[n++] = piece->data[from_piece++];
    uint32_t length = utf8_length(window, n);
    if (length == 0 && utf8_incomplete(window, n) && from_piece == piece->n) {
        memcpy(d->held, window, n);
        d->n_held = n;
        piece->data += from_piece;
        piece->n = 0;
        return 0;
    }
    uint32_t used = length;
    if (length == 0) { /* the longest beginning of a character, or one byte, makes one U+FFFD */
        used = 1;
        while (used < n && used < 3 && utf8_incomplete(window, used + 1))
            used++;
        memcpy(to, REPLACEMENT, 3);
    } else {
        memcpy(to, window, length);
    }
    /* `used` covers all held bytes: they begin a character, so they go together. */
    uint32_t of_piece = used - d->n_held;
    piece->data += of_piece;
    piece->n -= of_piece;
    d->n_held = 0;
    return length > 0 ? length : 3;
}

struct sharpi_str sharpi_detokenizer_push(struct sharpi_detokenizer *detokenizer, int32_t id)
{
    struct sharpi_detokenizer *d = detokenizer;
    struct sharpi_str piece = token_output(d->tokenizer, id, d->flags, &d->at_start);
    uint64_t n = 0;
    while (piece.n > 0) {
        uint32_t written = take_character(d, &piece, d->out + n);
        n += written;
    }
    return (struct sharpi_str){d->out, n};
}

struct sharpi_str sharpi_detokenizer_flush(struct sharpi_detokenizer *detokenizer)
{
    struct sharpi_detokenizer *d = detokenizer;
    uint64_t n = d->n_held > 0 ? sizeof REPLACEMENT - 1 : 0;
    memcpy(d->out, REPLACEMENT, n);
    d->n_held = 0;
    d->at_start = drops_prefix(d->tokenizer, d->flags);
    return (struct sharpi_str){d->out, n};
}
