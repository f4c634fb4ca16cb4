/* Building a tokenizer from a file's metadata: texts, attributes, scores, the bytes that tokens stand for.
 *
 * Invariant: one block of memory per kind of data, however many tokens; nothing is taken from the file unchecked.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "tokenizer-internal.h"

static int32_t load_texts(struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf,
                          struct sharpi_error *err)
{
    struct sharpi_str *texts = NULL;
    uint64_t n = 0;
    int32_t status = sharpi_gguf_strings(gguf, "tokenizer.ggml.tokens", &texts, &n, err);
    if (status == SHARPI_ENOENT)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s: tokenizer.ggml.tokens is missing",
                           sharpi_gguf_path(gguf));
    if (status == SHARPI_OK && (n == 0 || n > INT32_MAX / 2))
        status = sharpi_fail(err, SHARPI_EFORMAT, "%s: tokenizer.ggml.tokens has %llu entries",
                             sharpi_gguf_path(gguf), (unsigned long long)n);
    if (status == SHARPI_OK) {
        t->n_tokens = t->n_symbols = t->symbol_capacity = (int32_t)n;
        t->symbols = malloc(n * sizeof *t->symbols);
        t->pieces = calloc(n, sizeof *t->pieces);
        t->attrs = malloc(n);
        if (!t->symbols || !t->pieces || !t->attrs)
            status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for a vocabulary of %llu tokens",
                                 (unsigned long long)n);
    }
    for (uint64_t i = 0; i < n && status == SHARPI_OK; i++)
        status = text_append(t, texts[i].data, texts[i].n, &t->symbols[i], err);
    free(texts);
    return status;
}

static int32_t find_array(const struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf, const char *key,
                          const struct sharpi_gguf_value **out, struct sharpi_error *err)
{
    *out = sharpi_gguf_find(gguf, key);
    if (!*out)
        return SHARPI_OK;
    if ((*out)->type != SHARPI_GGUF_ARRAY || (*out)->n != (uint64_t)t->n_tokens)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s: %s is not an array of %d values, one for each token",
                           sharpi_gguf_path(gguf), key, t->n_tokens);
    return SHARPI_OK;
}

static int32_t load_attrs(struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf,
                          struct sharpi_error *err)
{
    const struct sharpi_gguf_value *types;
    int32_t status = find_array(t, gguf, "tokenizer.ggml.token_type", &types, err);
    for (int32_t i = 0; i < t->n_tokens && status == SHARPI_OK; i++) {
        uint64_t attr = SHARPI_TOKEN_NORMAL;
        if (types)
            status = sharpi_gguf_array_u64(gguf, types, (uint64_t)i, &attr, err);
        if (status == SHARPI_OK && (attr < SHARPI_TOKEN_NORMAL || attr > SHARPI_TOKEN_BYTE))
            attr = SHARPI_TOKEN_NORMAL; /* 0, "undefined", occurs in files */
        t->attrs[i] = (uint8_t)attr;
    }
    return status;
}

/* A number that is lower the higher the score, so that the heap needs one comparison. */
static uint32_t score_priority(double score)
{
    float value = score == score ? (float)score : -1e30f; /* NaN last */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (bits == 0x80000000u)
        bits = 0; /* -0 equals 0 */
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

static int32_t load_scores(struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf,
                           struct sharpi_error *err)
{
    const struct sharpi_gguf_value *scores;
    int32_t status = find_array(t, gguf, "tokenizer.ggml.scores", &scores, err);
    if (status != SHARPI_OK)
        return status;
    if (!scores)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s: tokenizer.ggml.scores is missing",
                           sharpi_gguf_path(gguf));
    t->priority = malloc((uint64_t)t->n_tokens * sizeof *t->priority);
    if (!t->priority)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %d scores", t->n_tokens);
    for (int32_t i = 0; i < t->n_tokens && status == SHARPI_OK; i++) {
        double score = 0;
        status = sharpi_gguf_array_f64(gguf, scores, (uint64_t)i, &score, err);
        t->priority[i] = score_priority(score);
    }
    return status;
}

static int32_t load_index(struct sharpi_tokenizer *t, struct sharpi_error *err)
{
    if (getrandom(&t->table.seed, sizeof t->table.seed, GRND_NONBLOCK) != (ssize_t)sizeof t->table.seed)
        t->table.seed = (uint64_t)(uintptr_t)t * 0x9e3779b97f4a7c15u; /* the address is random enough */
    int32_t status = text_table_init(&t->table, (uint64_t)t->n_tokens, err);
    for (int32_t i = 0; i < t->n_tokens && status == SHARPI_OK; i++)
        symbol_index(t, i);
    return status;
}

static void load_bytes(struct sharpi_tokenizer *t)
{
    for (int32_t byte = 0; byte < 256; byte++) {
        char text[8];
        uint32_t n = t->kind == SHARPI_TOKENIZER_BPE
                         ? utf8_encode(byte_to_letter((uint8_t)byte), text)
                         : (uint32_t)snprintf(text, sizeof text, "<0x%02X>", byte);
        int32_t id = symbol_find(t, text, n);
        /* DeepSeek's user-defined letters look like bytes that UTF-8 never has, but stand for themselves. */
        int32_t is_letter = t->kind == SHARPI_TOKENIZER_BPE && id >= 0 && id < t->n_tokens &&
                            t->attrs[id] == SHARPI_TOKEN_USER_DEFINED;
        t->byte_ids[byte] = is_letter ? -1 : id;
        if (id >= 0 && id < t->n_tokens && t->kind != SHARPI_TOKENIZER_BPE)
            t->attrs[id] = SHARPI_TOKEN_BYTE; /* older files do not say so */
    }
}

static void note_marks(struct sharpi_tokenizer *t)
{
    for (int32_t id = 0; id < t->n_symbols; id++) {
        const char *text = t->text + t->symbols[id].at;
        uint32_t n = t->symbols[id].n;
        for (uint32_t i = 1; i + SPACE_MARK_BYTES <= n; i++) {
            uint8_t before = (uint8_t)text[i - 1];
            if (text[i] == SPACE_MARK[0] && memcmp(text + i, SPACE_MARK, SPACE_MARK_BYTES) == 0)
                t->before_mark[before / 8] |= (uint8_t)(1u << before % 8);
        }
    }
}

/* U+2581 back to spaces; `to` has room for n bytes. */
static uint32_t unmark_spaces(const char *text, uint32_t n, char *to)
{
    uint32_t m = 0;
    for (uint32_t i = 0; i < n;) {
        int32_t mark = n - i >= SPACE_MARK_BYTES && memcmp(text + i, SPACE_MARK, SPACE_MARK_BYTES) == 0;
        to[m++] = mark ? ' ' : text[i];
        i += mark ? SPACE_MARK_BYTES : 1;
    }
    return m;
}

/* Letters of the byte alphabet back to bytes; a text with any other letter stands for itself. */
static uint32_t unspell_bytes(const char *text, uint32_t n, char *to)
{
    uint32_t m = 0;
    for (uint32_t i = 0; i < n;) {
        uint32_t length = utf8_length(text + i, n - i);
        int32_t byte = length > 0 ? letter_to_byte(utf8_decode(text + i, length)) : -1;
        if (byte < 0) {
            memcpy(to, text, n);
            return n;
        }
        to[m++] = (char)byte;
        i += length;
    }
    return m;
}

static int32_t hex_byte(const char *text, uint32_t n)
{
    static const char digits[] = "0123456789ABCDEF";
    const char *high = n == 6 && text[3] ? strchr(digits, text[3]) : NULL;
    const char *low = n == 6 && text[4] ? strchr(digits, text[4]) : NULL;
    if (!high || !low || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    return (int32_t)((high - digits) * 16 + (low - digits));
}

/* The bytes of a token, into `to` (room for its text); returns how many. */
static uint32_t piece_bytes(const struct sharpi_tokenizer *t, int32_t id, char *to)
{
    const char *text = t->text + t->symbols[id].at;
    uint32_t n = t->symbols[id].n;
    int32_t attr = t->attrs[id];
    if (attr == SHARPI_TOKEN_CONTROL || attr == SHARPI_TOKEN_UNKNOWN)
        return 0;
    if (attr == SHARPI_TOKEN_BYTE && t->kind != SHARPI_TOKENIZER_BPE) {
        int32_t byte = hex_byte(text, n);
        to[0] = (char)byte;
        return byte >= 0;
    }
    if (t->kind != SHARPI_TOKENIZER_BPE)
        return unmark_spaces(text, n, to);
    if (attr == SHARPI_TOKEN_UNUSED)
        return 0;
    if (attr == SHARPI_TOKEN_USER_DEFINED) {
        memcpy(to, text, n);
        return n;
    }
    return unspell_bytes(text, n, to);
}

/* Pieces that equal their text share its place. */
static int32_t load_pieces(struct sharpi_tokenizer *t, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    char *piece = malloc((uint64_t)t->max_bytes + 1);
    if (!piece)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the longest token, %u bytes", t->max_bytes);
    for (int32_t id = 0; id < t->n_tokens && status == SHARPI_OK; id++) {
        uint32_t n = piece_bytes(t, id, piece);
        if (n == t->symbols[id].n && memcmp(piece, t->text + t->symbols[id].at, n) == 0)
            t->pieces[id] = t->symbols[id];
        else
            status = text_append(t, piece, n, &t->pieces[id], err);
    }
    free(piece);
    return status;
}

static int32_t load_kind(struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf, struct sharpi_error *err)
{
    struct sharpi_str kind = {NULL, 0};
    int32_t status = sharpi_gguf_string(gguf, "tokenizer.ggml.model", &kind, err);
    if (status == SHARPI_ENOENT)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s: tokenizer.ggml.model is missing",
                           sharpi_gguf_path(gguf));
    if (status != SHARPI_OK)
        return status;
    if (kind.n == 5 && memcmp(kind.data, "llama", 5) == 0)
        t->kind = SHARPI_TOKENIZER_SPM;
    else if (kind.n == 4 && memcmp(kind.data, "gpt2", 4) == 0)
        t->kind = SHARPI_TOKENIZER_BPE;
    else if (kind.n == 6 && memcmp(kind.data, "gemma4", 6) == 0)
        t->kind = SHARPI_TOKENIZER_GEMMA4;
    else
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "%s: tokenizer.ggml.model = %.*s is not supported; llama, gpt2 and gemma4 are",
                           sharpi_gguf_path(gguf), (int)(kind.n < 64 ? kind.n : 64), kind.data);
    return SHARPI_OK;
}

static int32_t load_pre(struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf, struct sharpi_error *err)
{
    struct sharpi_str name = {"default", 7};
    if (t->kind != SHARPI_TOKENIZER_BPE)
        return SHARPI_OK;
    int32_t status = sharpi_gguf_string(gguf, "tokenizer.ggml.pre", &name, err);
    if (status != SHARPI_OK && status != SHARPI_ENOENT)
        return status;
    return pre_load(t, name, err);
}

int32_t tokenizer_load(struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf, struct sharpi_error *err)
{
    int32_t status = load_kind(t, gguf, err);
    if (status == SHARPI_OK)
        status = load_texts(t, gguf, err);
    if (status == SHARPI_OK)
        status = load_attrs(t, gguf, err);
    if (status == SHARPI_OK)
        status = load_index(t, err);
    if (status == SHARPI_OK)
        status =
            t->kind == SHARPI_TOKENIZER_SPM ? load_scores(t, gguf, err) : tokenizer_load_merges(t, gguf, err);
    if (status == SHARPI_OK)
        status = load_pre(t, gguf, err);
    if (status == SHARPI_OK)
        status = tokenizer_load_ids(t, gguf, err);
    if (status != SHARPI_OK)
        return status;
    load_bytes(t);
    if (t->kind != SHARPI_TOKENIZER_BPE)
        note_marks(t);
    status = special_build(t, err);
    return status == SHARPI_OK ? load_pieces(t, err) : status;
}
