/* What the files of the sampler share.
 *
 * Words: the *view* is what is left to choose from. It is dense (all of logits[n]) until a stage cuts it down; then it is
 * the list of candidates. Invariant: no logit in the list is NaN or infinite; a dense view whose maximum is known
 * has no NaN and no +inf.
 */
#ifndef SHARPI_CORE_SAMPLER_INTERNAL_H
#define SHARPI_CORE_SAMPLER_INTERNAL_H

#include <sharpi/sampler.h>

enum stage {
    STAGE_BIAS,
    STAGE_PENALTIES,
    STAGE_DRY,
    STAGE_TOP_K,
    STAGE_TYPICAL_P,
    STAGE_TOP_P,
    STAGE_MIN_P,
    STAGE_XTC,
    STAGE_TEMPERATURE,
    N_STAGES,
};

enum {
    SUM_BLOCK = 256, /* logits whose exponentials are added in float before they join a double */
};

struct cand {
    float logit;
    int32_t id;
};

struct view {
    float *logits;
    int32_t n;
    int32_t dense;
    int32_t max_known;
    float max; /* highest logit of a dense view */
    struct cand *list;
    int32_t n_list;
    int32_t sorted; /* list: highest logit first, lowest id on a tie */
};

struct rng { /* xoshiro256** by Blackman and Vigna */
    uint64_t s[4];
};

struct sharpi_sampler {
    struct sharpi_sampler_params params; /* its pointers are to the copies below */
    int32_t n_vocab;
    enum stage chain[N_STAGES];
    int32_t n_chain;
    struct sharpi_logit_bias *bias;
    uint8_t *is_breaker; /* [n_vocab] or NULL */
    struct rng rng;

    int32_t *history; /* accepted tokens, oldest first */
    int64_t n_history, history_capacity;
    int32_t *counts;  /* [n_vocab] occurrences in the penalties' window */
    int32_t *repeats; /* [n_vocab] all 0 between calls; DRY's longest repeat that the token would extend */
    int32_t *lengths; /* [history_capacity] scratch of DRY */

    struct cand *list, *sort_scratch; /* [n_vocab] */
    float *weights;                   /* [n_vocab] exponentials of the list */
    double *block_sums;               /* [n_vocab / SUM_BLOCK + 1] */
};

/* sampler.c */
int32_t stage_changes_logits(enum stage stage); /* rather than cut down the view */
int32_t sample_view(struct sharpi_sampler *sampler,
                    struct view *v); /* runs the chain and draws; -1: nothing left */

/* sampler-chain.c */
int32_t chain_parse(const char *text, enum stage *chain, int32_t *n, struct sharpi_error *err);

/* sampler-scan.c: passes over all logits */
float scan_max(float *logits, int32_t n); /* and replaces NaN by -inf, +inf by FLT_MAX */
/* Sum of exp(logit - max); block_sums (may be NULL) gets the sum of each SUM_BLOCK logits. */
double scan_sum_exp(const float *logits, int32_t n, float max, double *block_sums);
int32_t scan_gather(const float *logits, int32_t n, float at_least, struct cand *out); /* in order of id */
int32_t scan_first(const float *logits, int32_t n, float at_least);              /* lowest id, -1: none */
int32_t scan_top_k(const float *logits, int32_t n, int32_t k, struct cand *out); /* sorted; -inf left out */
void scan_divide(float *logits, int32_t n, float max, float divisor);            /* (logit - max) / divisor */
void scan_exp(float *x, int32_t n, float max);                                   /* x[i] = exp(x[i] - max) */
float exp_nonpositive(float x); /* the same bits on every processor; 0 below -87 */
void cand_sort(struct cand *list, struct cand *scratch, int32_t n); /* highest logit, then lowest id first */

/* sampler-penalties.c: change logits of a dense view or of a list */
void apply_bias(struct sharpi_sampler *s, struct view *v);
void apply_penalties(struct sharpi_sampler *s, struct view *v);
void apply_dry(struct sharpi_sampler *s, struct view *v);

/* sampler-stages.c */
void view_know_max(struct view *v);
void apply_top_k(struct sharpi_sampler *s, struct view *v);
void apply_typical_p(struct sharpi_sampler *s, struct view *v);
void apply_top_p(struct sharpi_sampler *s, struct view *v);
void apply_min_p(struct sharpi_sampler *s, struct view *v);
void apply_xtc(struct sharpi_sampler *s, struct view *v);
void apply_temperature(struct sharpi_sampler *s, struct view *v);
int32_t draw(struct sharpi_sampler *s, struct view *v); /* -1: nothing left */
int32_t draw_highest(struct view *v);

double rng_uniform(struct rng *rng); /* [0, 1) */

#endif
