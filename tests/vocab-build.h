/* Small vocabularies for tests, written as GGUF bytes and read back by the real reader. */
#ifndef TESTS_VOCAB_BUILD_H
#define TESTS_VOCAB_BUILD_H

#include "core/tokenizer.h"

struct vocab_token {
    const char *text; /* NULL ends a list */
    int32_t type;     /* enum sharpi_token_attr */
    float score;
};

enum { VOCAB_UNSAID = 0, VOCAB_NO, VOCAB_YES }; /* a flag of the file */

struct vocab {
    const char *model; /* NULL: the key is missing; so for pre, tokens and merges */
    const char *pre;
    const struct vocab_token *tokens;
    const char *const *merges; /* NULL ends them */
    int32_t no_scores;
    int32_t no_prefix; /* add_space_prefix = false */
    int32_t add_bos, add_eos;
    uint32_t bos; /* 0: unsaid */
};

/* The file's bytes in front of a text, as fuzz-tokenizer reads them. 0, or -1 with errno set. */
int vocab_save_seed(const struct vocab *v, const char *text, const char *path);

int32_t vocab_create(const struct vocab *v, struct sharpi_tokenizer **out, struct sharpi_error *err);

#endif
