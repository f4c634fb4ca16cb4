/* What the files of the sampler share, and what exactly a sampler computes.
 *
 * The *view* is what is left to choose from: logits in ascending order of id, of which those at -inf are cut out. Its *order* is
 * highest logit first, lowest id on a tie. A token's *weight* is exp((logit - highest) * factor) as an integer, WEIGHT_ONE for
 * the highest: sums are exact, so results do not depend on how a cut is found. (What is less likely than the likeliest by
 * 2 * WEIGHT_ONE has the weight 0: in the largest vocabularies such tokens are one draw in ten thousand at the very most.) A cut by weight ends with the first token, in order, at which the running sum
 * passes what is wanted; the draw is such a token too, for a random part of the whole sum.
 *
 * Invariant: ids ascend, so places in the view order ties as ids do; a view whose maximum is known has no NaN and no +inf.
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
    WEIGHT_ONE = 1 << 30,
    SUM_BLOCK = 64, /* weights whose sum is known when a cut is estimated */
};

struct cand {
    float logit;
    int32_t id;
};

/* What turns logits into weights. */
struct scale {
    float max;    /* the highest logit */
    float factor; /* 1 / temperature once that stage has run */
};

/* The last place that is kept: what comes behind it in the order of `keys` is not. */
struct cut {
    float key;
    int32_t at;
    int32_t count; /* of kept ones; -1: not known */
    uint64_t mass; /* their weights; 0: not known */
};

struct view {
    float *logits;
    const int32_t *ids; /* NULL: a logit's place is its id */
    int32_t n;
    int32_t max_known, weighed; /* is scale.max right; are the sampler's weights and `total` */
    struct scale scale;
    uint64_t total;
    int32_t has_tail; /* behind `end`, still to be cut out: the draw does not get so far */
    struct cut end;
};

/* Keys with their weights, and where in the view they are (NULL: in the same place). */
struct part {
    float *keys;
    uint32_t *weights;
    int32_t *at;
    int32_t n;
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

    /* [n_vocab] each */
    float *list_logits; /* of a view that has become short */
    int32_t *list_ids;
    uint32_t *weights;
    float *keys;
    int32_t *kept;
    struct part parts[2];
    uint64_t *block_sums; /* [n_vocab / SUM_BLOCK + 1] */
};

/* sampler.c */
int32_t stage_changes_logits(enum stage stage); /* rather than cut down the view */
/* Runs the chain and draws; -1: nothing left. Overwrites logits. */
int32_t sample_view(struct sharpi_sampler *sampler, float *logits, const int32_t *ids, int32_t n);

/* sampler-chain.c */
int32_t chain_parse(const char *text, enum stage *chain, int32_t *n, struct sharpi_error *err);

/* sampler-scan.c: passes over all logits */
float scan_max(float *logits, int32_t n); /* and replaces NaN by -inf, +inf by FLT_MAX */
/* weights[i] = the weight of logits[i]; returns their sum. *depth (may be NULL): sum of weight * depth below the highest. */
uint64_t scan_weigh(const float *logits, int32_t n, const struct scale *by, uint32_t *weights,
                    uint64_t *depth);
double scan_sum_exp(const float *logits, int32_t n, float max); /* sum of exp(logit - max) */
/* keys[i] = -|depth of logits[i] below the highest - centre| */
void scan_nearness(const float *logits, int32_t n, const struct scale *by, float centre, float *keys);
void scan_ones(const float *logits, int32_t n, uint32_t *weights); /* 1 for what is left, 0 for what is cut */
void scan_block_sums(const uint32_t *weights, int32_t n, uint64_t *to); /* of SUM_BLOCK each */
/* in = what has bottom < key <= top; returns the sum of the weights with key > top. */
uint64_t scan_split(const struct part *from, float top, float bottom, struct part *in);
int32_t scan_count(const float *keys, int32_t n, float at_least);
/* Logits become -inf and weights (may be NULL) 0 where the key is lower. */
void scan_cut(const float *keys, int32_t n, float at_least, float *logits, uint32_t *weights);
int32_t scan_gather(const float *keys, int32_t n, float at_least, int32_t *at);  /* places, ascending */
int32_t scan_first(const float *logits, int32_t n, float at_least);              /* lowest id, -1: none */
int32_t scan_top_k(const float *logits, int32_t n, int32_t k, struct cand *out); /* sorted; -inf left out */

/* sampler-top.c */
int32_t stage_is_off(const struct sharpi_sampler_params *p,
                     enum stage stage); /* it leaves every view as it is */

/* sampler-penalties.c */
void apply_bias(struct sharpi_sampler *s, struct view *v);
void apply_penalties(struct sharpi_sampler *s, struct view *v);
void apply_dry(struct sharpi_sampler *s, struct view *v);

/* sampler-stages.c */
void view_know_max(struct view *v);
void view_cut_tail(struct sharpi_sampler *s, struct view *v); /* before another stage looks at the view */
void view_settle(
    struct view *v); /* before logits change: what temperature has done to them becomes their value */
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
