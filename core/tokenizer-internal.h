/* What the files of the tokenizer share.
 *
 * Words: a *symbol* is anything that merging can make; ids below n_tokens are tokens of the file, ids above are
 * intermediate texts that only occur in merge rules. A *span* is a place in the tokenizer's one block of text.
 * Invariant: after creation nothing here changes; the state of one encoding is a struct merge_work.
 */
#ifndef SHARPI_CORE_TOKENIZER_INTERNAL_H
#define SHARPI_CORE_TOKENIZER_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "tokenizer.h"

#define SPACE_MARK       "\xe2\x96\x81" /* U+2581, SentencePiece's visible space */
#define SPACE_MARK_BYTES 3
#define REPLACEMENT      "\xef\xbf\xbd" /* U+FFFD */

enum {
    MAX_EOG = 16,
    MAX_PATTERNS = 6,
    MAX_SPECIAL_BYTES = 1024, /* bounds the time that the search for special tokens spends at one position */
    MAX_WARNING_BYTES = 192,
};

struct span {
    uint32_t at;
    uint32_t n;
};

/* Text -> symbol id: open addressing, linear probing, at most half full. */
struct text_slot {
    uint32_t hash;
    int32_t id; /* -1: free */
};

struct text_table {
    struct text_slot *slots;
    uint64_t mask;
    uint64_t n;
    uint64_t seed; /* random, so that a file cannot be built to collide */
};

/* Two neighbouring symbols -> their merge. Same layout rules as the text table. */
struct pair_slot {
    int32_t left; /* -1: free */
    int32_t right;
    uint32_t rank; /* lower merges first */
    int32_t result;
};

struct pair_table {
    struct pair_slot *slots;
    uint64_t mask;
    uint64_t seed;
};

/* Special tokens as a trie; `root` is indexed by the first byte. */
struct trie_node {
    int32_t child;
    int32_t sibling;
    int32_t any_id;  /* token that ends here, -1 if none */
    int32_t user_id; /* the same when it is user-defined */
    uint8_t byte;
};

struct special_trie {
    struct trie_node *nodes;
    uint64_t n;
    uint64_t capacity;
    int32_t root[256]; /* -1: no special token begins with this byte */
};

struct pre_rules {     /* one pre-tokenizer: regular expressions that cut a text one after the other */
    const char *names; /* of the key tokenizer.ggml.pre, each between spaces */
    const char *patterns[MAX_PATTERNS];
    int32_t whole_words; /* a word that is a token is not merged (llama 3) */
    int32_t adds_bos;
};

struct sharpi_tokenizer {
    enum sharpi_tokenizer_kind kind;
    int32_t n_tokens;
    int32_t n_symbols;
    int32_t symbol_capacity;

    char *text;
    uint64_t n_text;
    uint64_t text_capacity;
    struct span *symbols; /* [n_symbols] text as the file has it */
    struct span *pieces;  /* [n_tokens] bytes that the token stands for */
    uint32_t *priority;   /* [n_tokens] SPM: the score as a number, the best score lowest */
    uint8_t *attrs;       /* [n_tokens] enum sharpi_token_attr */
    uint32_t max_bytes;   /* longest symbol */

    struct text_table table;
    struct pair_table pairs;
    struct special_trie specials;

    int32_t byte_ids[256];   /* symbol of a byte: "<0x41>", or its letter in the byte alphabet; -1: none */
    uint8_t before_mark[32]; /* bit b: some symbol has the byte b in front of a U+2581 */
    int32_t bos, eos, eot, unk;
    int32_t eog[MAX_EOG];
    int32_t n_eog;
    int32_t add_bos, add_eos;
    int32_t space_prefix, squeeze_spaces;
    int32_t strip_after_special; /* Phi-3: white space behind a control token belongs to it */

    const struct pre_rules *pre;
    char pre_name[64];
    pcre2_code *regex[MAX_PATTERNS];
    int32_t n_regex;
    char warning[MAX_WARNING_BYTES]; /* empty: nothing to warn about */
};

/* One text run while its symbols are merged: a linked list over `symbols` and a heap of possible merges. */
struct merge_symbol {
    int32_t prev, next; /* -1 at the ends */
    uint32_t at;        /* byte offset in the run */
    uint32_t n;         /* bytes; 0: swallowed by its left neighbour */
    int32_t id;         /* -1: a text that is no symbol */
};

struct merge_pair {
    uint64_t key; /* priority << 32 | left symbol: best merge first, leftmost on a tie */
    int32_t right;
    int32_t result;
    uint32_t n; /* bytes of both; a pair whose symbols have changed since is stale */
};

struct merge_work {
    struct merge_symbol *symbols;
    uint64_t n_symbols, symbol_capacity;
    struct merge_pair *heap;
    uint64_t n_heap, heap_capacity;
    char *scratch; /* a run after white space was rewritten, or a word in the byte alphabet */
    uint64_t scratch_capacity;
    struct span *words[2]; /* pre-tokenizer: before and after one expression */
    uint64_t word_capacity[2];
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

/* tokenizer-utf8.c. Length of the valid character at `text` (n > 0 bytes are there), 0 if there is none. */
uint32_t utf8_length(const char *text, uint64_t n);
uint32_t utf8_decode(const char *text, uint32_t length);  /* of a valid character */
uint32_t utf8_encode(uint32_t codepoint, char text[4]);   /* bytes written */
uint64_t utf8_valid_prefix(const char *text, uint64_t n); /* bytes of whole valid characters at the start */
uint32_t utf8_incomplete(const char *text,
                         uint64_t n);       /* bytes if all n begin a character that lacks bytes, else 0 */
uint32_t byte_to_letter(uint8_t byte);      /* GPT-2's byte alphabet */
int32_t letter_to_byte(uint32_t codepoint); /* -1: not in the alphabet */

/* tokenizer-table.c */
int32_t text_table_init(struct text_table *table, uint64_t n, struct sharpi_error *err);
uint64_t text_hash(uint64_t seed, const char *text, uint64_t n);
void symbol_prefetch(const struct sharpi_tokenizer *t, const char *text,
                     uint64_t n); /* start fetching what symbol_find needs: */
void symbol_prefetch_text(const struct sharpi_tokenizer *t, const char *text,
                          uint64_t n);                                               /* the slot is there */
int32_t symbol_find(const struct sharpi_tokenizer *t, const char *text, uint64_t n); /* -1: none */
void symbol_index(struct sharpi_tokenizer *t,
                  int32_t id); /* enters the text of `id`; a later id replaces an equal text */
int32_t symbol_intern(struct sharpi_tokenizer *t, const char *text, uint64_t n, int32_t *id,
                      struct sharpi_error *err);
int32_t text_append(struct sharpi_tokenizer *t, const char *text, uint64_t n, struct span *span,
                    struct sharpi_error *err);
int32_t pair_table_init(struct pair_table *table, uint64_t n, uint64_t seed, struct sharpi_error *err);
void pair_insert(struct pair_table *table, int32_t left, int32_t right, uint32_t rank, int32_t result);
void pair_prefetch(const struct pair_table *table, int32_t left, int32_t right);
const struct pair_slot *pair_find(const struct pair_table *table, int32_t left, int32_t right);

/* tokenizer-special.c */
int32_t special_build(struct sharpi_tokenizer *t, struct sharpi_error *err);
/* The first special token at or behind `from`: its place and id; 0 if there is none. */
int32_t special_find(const struct sharpi_tokenizer *t, const char *text, uint64_t n, uint64_t from,
                     uint32_t flags, struct span *place, int32_t *id);

/* tokenizer-load.c and tokenizer-merges.c */
int32_t tokenizer_load(struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf, struct sharpi_error *err);
int32_t tokenizer_load_merges(struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf,
                              struct sharpi_error *err);
/* tokenizer-ids.c: special ids, what ends a generation, BOS and EOS rules. */
int32_t tokenizer_load_ids(struct sharpi_tokenizer *t, const struct sharpi_gguf *gguf,
                           struct sharpi_error *err);

/* tokenizer-pre.c */
int32_t pre_load(struct sharpi_tokenizer *t, struct sharpi_str name, struct sharpi_error *err);
/* Cuts valid UTF-8 into words; they cover the text. *words stays valid until the next call with this work. */
int32_t pre_split(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text, uint64_t n,
                  const struct span **words, uint64_t *n_words, struct sharpi_error *err);

/* tokenizer-merge.c */
void merge_work_free(struct merge_work *w);
int32_t merge_scratch(struct merge_work *w, uint64_t n, struct sharpi_error *err);
int32_t merge_begin(struct merge_work *w, uint64_t max_symbols, struct sharpi_error *err);
void merge_add(struct merge_work *w, uint32_t at, uint32_t n, int32_t id); /* the next symbol of the run */
/* Merges until nothing merges; then follow `next` from symbol 0. */
void merge_run(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text);

/* tokenizer-spm.c, tokenizer-bpe.c: one run of ordinary text. `begins`: at the start or behind a special token. */
int32_t spm_encode(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text, uint64_t n,
                   int32_t begins, struct sharpi_tokens *out, struct sharpi_error *err);
int32_t gemma4_encode(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text, uint64_t n,
                      struct sharpi_tokens *out, struct sharpi_error *err);
int32_t bpe_encode(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text, uint64_t n,
                   struct sharpi_tokens *out, struct sharpi_error *err);
/* Characters of text[n] as symbols, merged and emitted; what is no token becomes byte tokens. */
int32_t encode_characters(const struct sharpi_tokenizer *t, struct merge_work *w, const char *text,
                          uint64_t n, struct sharpi_tokens *out, struct sharpi_error *err);
int32_t push_bytes(const struct sharpi_tokenizer *t, const char *text, uint64_t n, struct sharpi_tokens *out,
                   struct sharpi_error *err);

/* May ordinary text become this symbol? Control, unknown and byte tokens come only from elsewhere. */
static inline int32_t symbol_is_plain(const struct sharpi_tokenizer *t, int32_t id)
{
    return id >= t->n_tokens || (t->attrs[id] != SHARPI_TOKEN_CONTROL &&
                                 t->attrs[id] != SHARPI_TOKEN_UNKNOWN && t->attrs[id] != SHARPI_TOKEN_BYTE);
}

#endif
