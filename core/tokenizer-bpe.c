/* Byte-level byte-pair encoding: words of a pre-tokenizer, bytes as the first symbols, merged by rank.
 *
 * Invariant: every byte of the text ends up in exactly one token, broken UTF-8 included (as U+FFFD where the vocabulary
 * lacks the byte); the expressions of the pre-tokenizer only ever see valid UTF-8.
 */
#include "tokenizer-internal.h"

/* The id of a word that is a token as a whole, else -1. */
static int32_t find_word(const struct sharpi_tokenizer *t, struct merge_work *w, const char *word, uint32_t n)
{
    uint32_t m = 0;
    if (n > t->max_bytes)
        return -1;
    for (uint32_t i = 0; i < n; i++)
        m += utf8_encode(byte_to_letter((uint8_t)word[i]), w->scratch + m);
    int32_t id = symbol_find(t, w->scratch, m);
    return id >= 0 && id < t->n_tokens && symbol_is_plain(t, id) ? id : -1;
}

static int32_t encode_word(const struct sharpi_tokenizer *t, struct merge_work *w, const char *word,
                           uint32_t n, struct sharpi_tokens *out, struct sharpi_error *err)
{
    int32_t id = t->pre->whole_words ? find_word(t, w, word, n) : -1;
    if (id >= 0)
        return sharpi_tokens_push(out, id, err);
    int32_t status = merge_begin(w, n, err);
    if (status != SHARPI_OK)
        return status;
    for (uint32_t i = 0; i < n; i++)
        merge_add(w, i, 1, t->byte_ids[(uint8_t)word[i]]);
    merge_run(t, w, word);
    for (int32_t i = 0; i >= 0 && status == SHARPI_OK; i = w->symbols[i].next) {
        const struct merge_symbol *s = &w->symbols[i];
        if (s->id >= 0 && s->id < t->n_tokens && symbol_is_plain(t, s->id)) {
            status = sharpi_tokens_push(out, s->id, err);
            continue;
        }
        for (uint32_t k = 0; k < s->n && status == SHARPI_OK; k++)
            status = push_bytes(t, word + s->at + k, 1, out, err);
    }
    return status;
}

int32_t bpe_encode(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text, uint64_t n,
                   struct sharpi_tokens *out, struct sharpi_error *err)
{
    int32_t status = t->pre->whole_words ? merge_scratch(w, 2 * (uint64_t)t->max_bytes + 4, err) : SHARPI_OK;
    for (uint64_t at = 0; at < n && status == SHARPI_OK;) {
        uint64_t valid = utf8_valid_prefix(text + at, n - at);
        if (valid == 0) {
            status = t->byte_ids[(uint8_t)text[at]] >= 0 ? push_bytes(t, text + at, 1, out, err)
                                                         : encode_word(t, w, REPLACEMENT, 3, out, err);
            at++;
            continue;
        }
        const struct span *words;
        uint64_t n_words;
        status = pre_split(t, w, text + at, valid, &words, &n_words, err);
        for (uint64_t i = 0; i < n_words && status == SHARPI_OK; i++)
            status = encode_word(t, w, text + at + words[i].at, words[i].n, out, err);
        at += valid;
    }
    return status;
}
