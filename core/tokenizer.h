/* Text to token ids and back, by the rules that a GGUF file states.
 *
 * Invariant: a tokenizer copies what it needs from the file and never changes after creation, so any thread may use
 * it and the file may be closed. Input text is any bytes; broken UTF-8 is encoded, never refused. Ids that come
 * out are always in [0, n_tokens).
 */
#ifndef SHARPI_CORE_TOKENIZER_H
#define SHARPI_CORE_TOKENIZER_H

#include "gguf.h"

struct sharpi_tokenizer;

/* A growing array of token ids. Start with SHARPI_TOKENS_INIT, end with sharpi_tokens_free. */
struct sharpi_tokens {
    int32_t *ids;
    uint64_t n;
    uint64_t capacity;
};

#define SHARPI_TOKENS_INIT                                                                                   \
    {                                                                                                        \
        NULL, 0, 0                                                                                           \
    }

/* Room for `n_more` ids behind those that are there; SHARPI_ENOMEM leaves the array as it was. */
int32_t sharpi_tokens_reserve(struct sharpi_tokens *tokens, uint64_t n_more, struct sharpi_error *err);
int32_t sharpi_tokens_push(struct sharpi_tokens *tokens, int32_t id, struct sharpi_error *err);
void sharpi_tokens_free(struct sharpi_tokens *tokens); /* and make it empty again */

enum sharpi_encode_flags {
    SHARPI_ENCODE_ADD_SPECIAL =
        1, /* BOS in front (unless parsed text has it) and EOS behind, as the file asks */
    SHARPI_ENCODE_PARSE_SPECIAL = 2, /* the text of a control token becomes its id; only for trusted text */
};

enum sharpi_decode_flags {
    SHARPI_DECODE_SPECIAL = 1, /* control tokens appear as their text instead of nothing */
    SHARPI_DECODE_START = 2,   /* the ids begin a text: drop the space that encoding put in front */
};

enum sharpi_token_attr { /* what the file calls the token type; the numbers are those of the file format */
                         SHARPI_TOKEN_NORMAL = 1,
                         SHARPI_TOKEN_UNKNOWN = 2,
                         SHARPI_TOKEN_CONTROL = 3,
                         SHARPI_TOKEN_USER_DEFINED = 4, /* split out of any text before merging */
                         SHARPI_TOKEN_UNUSED = 5,
                         SHARPI_TOKEN_BYTE = 6,
};

enum sharpi_tokenizer_kind {
    SHARPI_TOKENIZER_SPM = 1,    /* "llama": SentencePiece pieces merged by score */
    SHARPI_TOKENIZER_BPE = 2,    /* "gpt2": byte-level pieces merged by rank */
    SHARPI_TOKENIZER_GEMMA4 = 3, /* "gemma4": UTF-8 pieces merged by rank */
};

/* SHARPI_ENOTSUP names a kind that is not known (bert, t5, rwkv ...), SHARPI_EFORMAT the key that is wrong. */
int32_t sharpi_tokenizer_create(const struct sharpi_gguf *gguf, struct sharpi_tokenizer **out,
                                struct sharpi_error *err);
void sharpi_tokenizer_destroy(struct sharpi_tokenizer *tokenizer); /* NULL is fine */

enum sharpi_tokenizer_kind sharpi_tokenizer_kind(const struct sharpi_tokenizer *tokenizer);
const char *
sharpi_tokenizer_pre(const struct sharpi_tokenizer *tokenizer); /* pre-tokenizer in use: "qwen2" */
/* A sentence for the log when the file names a pre-tokenizer that is not known and `default` stands in; else NULL. */
const char *sharpi_tokenizer_warning(const struct sharpi_tokenizer *tokenizer);

/* Appends the ids of `text` to `out`. On an error the ids that were there before are still there, no more. */
int32_t sharpi_tokenizer_encode(const struct sharpi_tokenizer *tokenizer, const char *text, uint64_t n_bytes,
                                uint32_t flags, struct sharpi_tokens *out, struct sharpi_error *err);

/* Decodes ids to bytes: *out is a new array, NUL-terminated behind its *n bytes (free() it). Bytes come out as the
 * tokens have them, so that decoding an encoding gives the same bytes; an id out of range is SHARPI_EINVAL. */
int32_t sharpi_tokenizer_decode(const struct sharpi_tokenizer *tokenizer, const int32_t *ids, uint64_t n_ids,
                                uint32_t flags, char **out, uint64_t *n, struct sharpi_error *err);

/* Facts. A special id is -1 when the file has none. An id out of range gives an empty string and attribute 0. */
int32_t sharpi_tokenizer_n_tokens(const struct sharpi_tokenizer *tokenizer);
int32_t sharpi_tokenizer_bos(const struct sharpi_tokenizer *tokenizer);
int32_t sharpi_tokenizer_eos(const struct sharpi_tokenizer *tokenizer);
int32_t sharpi_tokenizer_eot(const struct sharpi_tokenizer *tokenizer);
int32_t sharpi_tokenizer_adds_bos(const struct sharpi_tokenizer *tokenizer); /* 1 or 0 */
int32_t sharpi_tokenizer_adds_eos(const struct sharpi_tokenizer *tokenizer);
int32_t sharpi_tokenizer_is_eog(const struct sharpi_tokenizer *tokenizer, int32_t id); /* ends a generation */

/* The text of a token as the file has it, and the bytes that it stands for in a text (a control token: none).
 * Both stay valid as long as the tokenizer. */
struct sharpi_str sharpi_token_text(const struct sharpi_tokenizer *tokenizer, int32_t id);
struct sharpi_str sharpi_token_piece(const struct sharpi_tokenizer *tokenizer, int32_t id);
int32_t sharpi_token_attr(const struct sharpi_tokenizer *tokenizer, int32_t id); /* enum sharpi_token_attr */
/* The id whose text in the file is exactly `text`, whatever its attribute; -1 when there is none. */
int32_t sharpi_token_find(const struct sharpi_tokenizer *tokenizer, const char *text, uint64_t n_bytes);

/* Streaming decoder: one per sequence, one thread at a time. What it hands out is always whole, valid UTF-8; a
 * character that is not complete yet is held back, bytes that can never become one turn into U+FFFD. */
struct sharpi_detokenizer;
int32_t sharpi_detokenizer_create(const struct sharpi_tokenizer *tokenizer, uint32_t decode_flags,
                                  struct sharpi_detokenizer **out, struct sharpi_error *err);
void sharpi_detokenizer_destroy(struct sharpi_detokenizer *detokenizer);
/* The text that `id` completes, perhaps empty; valid until the next call. An id out of range adds nothing. */
struct sharpi_str sharpi_detokenizer_push(struct sharpi_detokenizer *detokenizer, int32_t id);
/* What was held back (U+FFFD for a cut character), and a clean state. */
struct sharpi_str sharpi_detokenizer_flush(struct sharpi_detokenizer *detokenizer);

#endif
