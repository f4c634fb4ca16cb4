/* Reference models of ../shared/fixtures: loading them, running tokens through them, comparing logits. */
#ifndef SHARPI_TESTS_FIXTURES_H
#define SHARPI_TESTS_FIXTURES_H

#include "core/model.h"

#define FIXTURE_TOKENS 200u
#define FIXTURE_VOCAB  320u
#define FIXTURE_PROMPT 48u
#define FIXTURE_GREEDY 72u

struct fixture {
    const char *name;
    int32_t windowed; /* has sliding-window layers */
    int32_t mixture;  /* judge reduced precision by the 90th percentile over positions */
    float bf16_kv, q8_0_kv,
        int8_act; /* largest differences that the fixtures' README gives (percentile for mixtures) */
};

extern const struct fixture fixtures[];
extern const uint32_t n_fixtures;

/* 0 when ../shared/fixtures is not there (tests then exit 77). */
int fixtures_present(void);

/* Opens an engine without configuration for tests of the fixtures; `log` may be NULL. Returns 0, or main's exit status
 * after a line on stderr: 77 without fixtures, 1 without an engine. */
int fixtures_engine(sharpi_log_fn *log, struct sharpi_engine **engine);

struct fixture_data {
    int32_t tokens[FIXTURE_TOKENS];
    float *logits; /* [200, 320] */
    int32_t greedy[FIXTURE_GREEDY];
    char model[512];
};
/* Reads the reference; free logits. Returns 0, or -1 with a line on stderr. */
int fixture_read(const struct fixture *f, struct fixture_data *data);

/* Logits of every position of `n` tokens, [n, vocab]; free(). NULL with a line on stderr. */
float *run_tokens(struct sharpi_model *model, const int32_t *tokens, uint32_t n);

float max_difference(const float *a, const float *b, uint64_t n);
/* 90th percentile over rows of the largest difference in a row. */
float percentile_difference(const float *a, const float *b, uint32_t n_rows, uint32_t width);
uint32_t argmax(const float *row, uint32_t n);
/* How many entries of the row are larger than row[i]. */
uint32_t rank_of(const float *row, uint32_t n, uint32_t i);

#endif
