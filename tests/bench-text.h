/* Speed of tokenizer and sampler, as numbers, so that a program can print them as it likes. */
#ifndef TESTS_BENCH_TEXT_H
#define TESTS_BENCH_TEXT_H

#include <sharpi/sampler.h>
#include "core/tokenizer.h"

struct bench_encode {
    uint64_t n_bytes, n_tokens; /* per run */
    double seconds;             /* of the fastest run */
    double megabytes_per_second;
};

/* Encodes text[n_bytes] `runs` times. */
int32_t bench_encode(const struct sharpi_tokenizer *tokenizer, const char *text, uint64_t n_bytes,
                     int32_t runs, struct bench_encode *out, struct sharpi_error *err);

struct bench_sample {
    int32_t n_vocab;
    double microseconds;         /* per sample: the median of all runs */
    double megabytes_per_second; /* of logits */
};

/* Samples `runs` times from logits shaped like a model's: bell-shaped with a few high ones. */
int32_t bench_sample(const struct sharpi_sampler_params *params, int32_t n_vocab, int32_t runs,
                     struct bench_sample *out, struct sharpi_error *err);

#endif
