/* SentencePiece and Gemma 4: pieces of UTF-8 with U+2581 for a space.
 *
 * Invariant: cutting a run in front of a U+2581 changes nothing, because it happens only where no symbol of the
 * vocabulary has the byte before and the mark next to each other, so that no merge could cross the cut.
 */
#include <string.h>

#include "tokenizer-internal.h"

int32_t push_bytes(const struct sharpi_tokenizer *t, const char *text, uint64_t n, struct sharpi_tokens *out,
                   struct sharpi_error *err)
{
    for (uint64_t i = 0; i < n; i++) {
        int32_t id = t->byte_ids[(uint8_t)text[i]];
        if (id < 0 || id >= t->n_tokens) /* a vocabulary without bytes: one unknown token for all of it */
            return t->unk >= 0 ? sharpi_tokens_push(out, t->unk, err) : SHARPI_OK;
        int32_t status = sharpi_tokens_push(out, id, err);
        if (status != SHARPI_OK)
            return status;
    }
    return SHARPI_OK;
}

static int32_t encode_chunk(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text,
                            uint64_t n, struct sharpi_tokens *out, struct sharpi_error *err)
{
    int32_t status = merge_begin(w, n, err);
    if (status != SHARPI_OK)
        return status;
    for (uint64_t at = 0; at < n;) {
        uint32_t length = utf8_length(text + at, n - at);
        int32_t id = length > 0 ? symbol_find(t, text + at, length) : -1;
        length = length > 0 ? length : 1;
        merge_add(w, (uint32_t)at, length, id >= 0 && symbol_is_plain(t, id) ? id : -1);
        at += length;
    }
    merge_run(t, w, text);
    for (int32_t i = 0; i >= 0 && status == SHARPI_OK; i = w->symbols[i].next) {
        const struct merge_symbol *s = &w->symbols[i];
        status = s->id >= 0 && s->id < t->n_tokens ? sharpi_tokens_push(out, s->id, err)
                                                   : push_bytes(t, text + s->at, s->n, out, err);
    }
    return status;
}

/* The end of the chunk that begins at `at`. */
static uint64_t chunk_end(const struct sharpi_tokenizer *t, const char *text, uint64_t n, uint64_t at)
{
    for (uint64_t i = at + 1; i < n; i++) {
        uint8_t before = (uint8_t)text[i - 1];
        if (text[i] == SPACE_MARK[0] && n - i >= SPACE_MARK_BYTES &&
            memcmp(text + i, SPACE_MARK, SPACE_MARK_BYTES) == 0 &&
            !(t->before_mark[before / 8] >> before % 8 & 1))
            return i;
    }
    return n;
}

int32_t encode_characters(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text,
                          uint64_t n, struct sharpi_tokens *out, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint64_t at = 0; at < n && status == SHARPI_OK;) {
        uint64_t end = chunk_end(t, text, n, at);
        status = encode_chunk(t, w, text + at, end - at, out, err);
        at = end;
    }
    return status;
}

/* Writes `text` with U+2581 for spaces to the scratch buffer; returns its length. */
static uint64_t mark_spaces(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text,
                            uint64_t n, int32_t prefix)
{
    char *to = w->scratch;
    uint64_t m = 0;
    if (t->squeeze_spaces) {
        while (n > 0 && text[n - 1] == ' ')
            n--;
        while (n > 0 && text[0] == ' ') {
            text++;
            n--;
        }
    }
    if (prefix && n > 0) {
        memcpy(to, SPACE_MARK, SPACE_MARK_BYTES);
        m = SPACE_MARK_BYTES;
    }
    for (uint64_t i = 0; i < n; i++) {
        if (text[i] != ' ') {
            to[m++] = text[i];
        } else if (!t->squeeze_spaces || text[i - 1] != ' ') { /* i > 0: squeezed text begins with a letter */
            memcpy(to + m, SPACE_MARK, SPACE_MARK_BYTES);
            m += SPACE_MARK_BYTES;
        }
    }
    return m;
}

int32_t spm_encode(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text, uint64_t n,
                   int32_t begins, struct sharpi_tokens *out, struct sharpi_error *err)
{
    int32_t status = merge_scratch(w, SPACE_MARK_BYTES * (n + 1), err);
    if (status != SHARPI_OK)
        return status;
    uint64_t m = mark_spaces(t, w, text, n, begins && t->space_prefix);
    return encode_characters(t, w, w->scratch, m, out, err);
}

int32_t gemma4_encode(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text, uint64_t n,
                      struct sharpi_tokens *out, struct sharpi_error *err)
{
    int32_t status = merge_scratch(w, SPACE_MARK_BYTES * n, err);
    if (status != SHARPI_OK)
        return status;
    uint64_t m = mark_spaces(t, w, text, n, 0);
    for (uint64_t at = 0; at < m && status == SHARPI_OK;) {
        const char *run = w->scratch + at;
        int32_t newlines = run[0] == '\n';
        uint64_t length = 1;
        while (at + length < m && (run[length] == '\n') == newlines)
            length++;
        int32_t id = newlines ? symbol_find(t, run, length) : -1;
        if (id >= 0 && id < t->n_tokens && symbol_is_plain(t, id))
            status = sharpi_tokens_push(out, id, err);
        else
            status = encode_characters(t, w, run, length, out, err);
        at += length;
    }
    return status;
}
