/* Malformed GGUF files made by hand: how each is built, and what the message about it must contain. */
#ifndef TESTS_GGUF_CASES_H
#define TESTS_GGUF_CASES_H

#include "gguf-build.h"

struct gguf_case {
    const char *name;
    void (*build)(struct build *b);
    int32_t status;
    const char *message; /* a part of it */
};

extern const struct gguf_case gguf_cases[];
extern const uint64_t n_gguf_cases;

#endif
