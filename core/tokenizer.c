/* The tokenizer's outside: creation, encoding run by run, and facts about tokens.
 *
 * Invariant: an encoding is special tokens and runs of ordinary text in the order of the input; only runs are merged.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer-internal.h"

enum {
    MAX_TEXT_BYTES = 1 << 29, /* symbols are counted with 31 bits, spaces take three bytes */
};

int32_t sharpi_tokens_reserve(struct sharpi_tokens *tokens, uint64_t n_more, struct sharpi_error *err)
{
    if (n_more <= tokens->capacity - tokens->n)
        return SHARPI_OK;
    uint64_t capacity = tokens->n + tokens->n / 2 + 64;
    if (n_more > SIZE_MAX / sizeof *tokens->ids / 2 - tokens->n)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %llu tokens", (unsigned long long)n_more);
    if (capacity < tokens->n + n_more)
        capacity = tokens->n + n_more;
    int32_t *grown = realloc(tokens->ids, capacity * sizeof *grown);
    if (!grown)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %llu tokens", (unsigned long long)capacity);
    tokens->ids = grown;
    tokens->capacity = capacity;
    return SHARPI_OK;
}

int32_t sharpi_tokens_push(struct sharpi_tokens *tokens, int32_t id, struct sharpi_error *err)
{
    if (tokens->n == tokens->capacity) {
        int32_t status = sharpi_tokens_reserve(tokens, 1, err);
        if (status != SHARPI_OK)
            return status;
    }
    tokens->ids[tokens->n++] = id;
    return SHARPI_OK;
}

void sharpi_tokens_free(struct sharpi_tokens *tokens)
{
    free(tokens->ids);
    *tokens = (struct sharpi_tokens)SHARPI_TOKENS_INIT;
}

int32_t sharpi_tokenizer_create(const struct sharpi_gguf *gguf, struct sharpi_tokenizer **out,
                                struct sharpi_error *err)
{
    struct sharpi_tokenizer *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a tokenizer");
    int32_t status = tokenizer_load(t, gguf, err);
    if (status == SHARPI_OK)
        *out = t;
    else
        sharpi_tokenizer_destroy(t);
    return status;
}

void sharpi_tokenizer_destroy(struct sharpi_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    for (int32_t i = 0; i < tokenizer->n_regex; i++)
        pcre2_code_free(tokenizer->regex[i]);
    free(tokenizer->text);
    free(tokenizer->symbols);
    free(tokenizer->pieces);
    free(tokenizer->priority);
    free(tokenizer->attrs);
    free(tokenizer->table.slots);
    free(tokenizer->pairs.slots);
    free(tokenizer->specials.nodes);
    free(tokenizer);
}

static int32_t encode_run(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text,
                          uint64_t n, int32_t begins, struct sharpi_tokens *out, struct sharpi_error *err)
{
    if (n == 0)
        return SHARPI_OK;
    switch (t->kind) {
    case SHARPI_TOKENIZER_SPM:
        return spm_encode(t, w, text, n, begins, out, err);
    case SHARPI_TOKENIZER_GEMMA4:
        return gemma4_encode(t, w, text, n, out, err);
    default:
        return bpe_encode(t, w, text, n, out, err);
    }
}

static int32_t is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Where text goes on behind a special token that ends at `at`. */
static uint64_t behind_special(const struct sharpi_tokenizer *t, int32_t id, const char *text, uint64_t n,
                               uint64_t at)
{
    if (!t->strip_after_special || t->attrs[id] == SHARPI_TOKEN_USER_DEFINED || id == t->bos || id == t->unk)
        return at;
    struct sharpi_str token = sharpi_token_text(t, id);
    if (token.n == 13 && memcmp(token.data, "<|endoftext|>", 13) == 0)
        return at;
    while (at < n && is_space(text[at]))
        at++;
    return at;
}

static int32_t encode_all(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text,
                          uint64_t n, uint32_t flags, struct sharpi_tokens *out, struct sharpi_error *err)
{
    struct span place;
    int32_t id, status = SHARPI_OK, begins = 1;
    uint64_t at = 0;
    while (status == SHARPI_OK && special_find(t, text, n, at, flags, &place, &id)) {
        status = encode_run(t, w, text + at, place.at - at, begins, out, err);
        if (status == SHARPI_OK)
            status = sharpi_tokens_push(out, id, err);
        at = behind_special(t, id, text, n, (uint64_t)place.at + place.n);
        begins = 1;
    }
    return status == SHARPI_OK ? encode_run(t, w, text + at, n - at, begins, out, err) : status;
}

/* A text that was written by a chat template has its BOS already. */
static int32_t begins_with_bos(const struct sharpi_tokenizer *t, const char *text, uint64_t n, uint32_t flags)
{
    struct sharpi_str bos = sharpi_token_text(t, t->bos);
    return (flags & SHARPI_ENCODE_PARSE_SPECIAL) && bos.n > 0 && bos.n <= n &&
           memcmp(text, bos.data, bos.n) == 0;
}

int32_t sharpi_tokenizer_encode(const struct sharpi_tokenizer *tokenizer, const char *text, uint64_t n_bytes,
                                uint32_t flags, struct sharpi_tokens *out, struct sharpi_error *err)
{
    struct merge_work work = {0};
    uint64_t n_before = out->n;
    int32_t status = SHARPI_OK;
    if (n_bytes > MAX_TEXT_BYTES)
        return sharpi_fail(err, SHARPI_EINVAL,
                           "a text of %llu bytes is too long to encode at once; %d at most",
                           (unsigned long long)n_bytes, MAX_TEXT_BYTES);
    int32_t special = (flags & SHARPI_ENCODE_ADD_SPECIAL) != 0;
    if (special && tokenizer->add_bos && tokenizer->bos >= 0 &&
        !begins_with_bos(tokenizer, text, n_bytes, flags))
        status = sharpi_tokens_push(out, tokenizer->bos, err);
    if (status == SHARPI_OK)
        status = encode_all(tokenizer, &work, text, n_bytes, flags, out, err);
    if (status == SHARPI_OK && special && tokenizer->add_eos && tokenizer->eos >= 0)
        status = sharpi_tokens_push(out, tokenizer->eos, err);
    if (status != SHARPI_OK)
        out->n = n_before;
    merge_work_free(&work);
    return status;
}

enum sharpi_tokenizer_kind sharpi_tokenizer_kind(const struct sharpi_tokenizer *tokenizer)
{
    return tokenizer->kind;
}

const char *sharpi_tokenizer_pre(const struct sharpi_tokenizer *tokenizer)
{
    return tokenizer->pre_name[0] ? tokenizer->pre_name : "default";
}

const char *sharpi_tokenizer_warning(const struct sharpi_tokenizer *tokenizer)
{
    return tokenizer->warning[0] ? tokenizer->warning : NULL;
}

int32_t sharpi_tokenizer_n_tokens(const struct sharpi_tokenizer *tokenizer)
{
    return tokenizer->n_tokens;
}

int32_t sharpi_tokenizer_bos(const struct sharpi_tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t sharpi_tokenizer_eos(const struct sharpi_tokenizer *tokenizer)
{
    return tokenizer->eos;
}

int32_t sharpi_tokenizer_eot(const struct sharpi_tokenizer *tokenizer)
{
    return tokenizer->eot;
}

int32_t sharpi_tokenizer_adds_bos(const struct sharpi_tokenizer *tokenizer)
{
    return tokenizer->add_bos && tokenizer->bos >= 0;
}

int32_t sharpi_tokenizer_adds_eos(const struct sharpi_tokenizer *tokenizer)
{
    return tokenizer->add_eos && tokenizer->eos >= 0;
}

int32_t sharpi_tokenizer_is_eog(const struct sharpi_tokenizer *tokenizer, int32_t id)
{
    for (int32_t i = 0; i < tokenizer->n_eog; i++) {
        if (tokenizer->eog[i] == id)
            return 1;
    }
    return 0;
}

static struct sharpi_str span_text(const struct sharpi_tokenizer *t, const struct span *spans, int32_t id)
{
    if (id < 0 || id >= t->n_tokens)
        return (struct sharpi_str){"", 0};
    return (struct sharpi_str){t->text + spans[id].at, spans[id].n};
}

struct sharpi_str sharpi_token_text(const struct sharpi_tokenizer *tokenizer, int32_t id)
{
    return span_text(tokenizer, tokenizer->symbols, id);
}

struct sharpi_str sharpi_token_piece(const struct sharpi_tokenizer *tokenizer, int32_t id)
{
    return span_text(tokenizer, tokenizer->pieces, id);
}

int32_t sharpi_token_attr(const struct sharpi_tokenizer *tokenizer, int32_t id)
{
    return id < 0 || id >= tokenizer->n_tokens ? 0 : tokenizer->attrs[id];
}

int32_t sharpi_token_find(const struct sharpi_tokenizer *tokenizer, const char *text, uint64_t n_bytes)
{
    int32_t id = symbol_find(tokenizer, text, n_bytes);
    return id < tokenizer->n_tokens ? id : -1;
}
