/* What the files of the sampler share, and what exactly a sampler computes.
 *
 * The *view* is what is left to choose from: logits in ascending order of id, of which those at -inf are cut out. Its *order* is
 * highest logit first, lowest id on a tie. A token's *weight* is exp((logit - highest) * factor) as an integer, WEIGHT_ONE for
 * the highest: sums are exact, so results do not depend on how they are added up. (What is less likely than the likeliest by
 * 2 * WEIGHT_ONE has the weight 0: in the largest vocabularies such tokens are one draw in ten thousand at the very most.)
 * A cut by weight ends with the first token, in order, at which the running sum passes what is wanted. The draw is the first
 * token by id at which the running sum passes a random part of the whole: any order does for a draw, and this one needs no
 * search.
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
    WEIGHT_BITS = 30,
    WEIGHT_ONE = 1 << WEIGHT_BITS,
    BLOCK = 64, /* logits whose maximum and sum of weights are remembered */
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

/* What orders the tokens of a view, highest key first, and what they count for. */
struct measure {
    struct scale scale;
    int32_t is_near; /* the key is -|depth below the highest - centre|, else the logit */
    int32_t is_rank; /* each that is left counts 1, else its weight */
    float centre;
};

struct range {
    float low, high; /* of keys; low is outside */
};

/* The last place that is kept: what comes behind it in the order of keys is not. */
struct cut {
    float key;
    int32_t at;
    int32_t count; /* of kept ones at most; -1: not known */
    uint64_t mass; /* their weights; 0: not known */
};

static inline int32_t is_kept(struct cut c, float key, int32_t at)
{
    return (key > c.key) | ((key == c.key) & (at <= c.at)); /* no branch: nobody could predict it */
}

struct view {
    float *logits;
    const int32_t *ids; /* NULL: a logit's place is its id */
    int32_t n;
    float *maxima;              /* of each block, if max_known */
    int32_t max_known, weighed; /* is scale.max right; are `total` and the sampler's sums */
    struct scale scale;
    uint64_t total;
    int32_t has_tail; /* what is behind `end` by the keys `by` is not in the sums, but not yet cut out */
    struct cut end;
    struct measure by;
};

/* Tokens that a cut may lie between: keys, what they count for, and where in the view they are, ascending. */
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
    struct part parts[2];

    /* [n_vocab / BLOCK + 1] each */
    float *maxima;
    uint64_t *sums; /* of a view's weights */
};

/* sampler.c */
int32_t stage_changes_logits(enum stage stage); /* rather than cut down the view */
/* Runs the chain and draws; -1: nothing left. Overwrites logits. */
int32_t sample_view(struct sharpi_sampler *sampler, float *logits, const int32_t *ids, int32_t n);

/* sampler-chain.c */
int32_t chain_parse(const char *text, enum stage *chain, int32_t *n, struct sharpi_error *err);

/* sampler-scan.c: passes over all logits. Blocks whose maxima say that there is nothing in them are passed over. */
/* The highest logit, and of each block. Replaces NaN by -inf, +inf by FLT_MAX. */
float scan_max(float *logits, int32_t n, float *maxima);
/* Sums of each block's weights; returns the whole. *depth (may be NULL): sum of weight * depth below the highest. */
uint64_t scan_weigh(const struct view *v, uint64_t *sums, uint64_t *depth);
uint64_t scan_weigh_kept(const struct view *v, uint64_t *sums); /* without the tail */
/* What has key > range.high: adds up each block's. Between: what has low < key <= high. */
struct split {
    uint64_t above, total; /* total: if is_whole, when no block is passed over */
    int32_t n_above;
};
struct split scan_split(const struct view *v, const struct measure *m, struct range r, int32_t is_whole,
                        uint64_t *sums, struct part *between);
/* Keys and weights of a block. Returns how many it has. */
int32_t scan_block(const struct view *v, const struct measure *m, int32_t block, float *keys,
                   uint32_t *weights);
int32_t scan_count(const struct view *v, const struct measure *m, struct cut c); /* what is kept */
/* Copies what is kept; `logits` and `ids` may be the view's own. Returns how many. */
int32_t scan_gather(const struct view *v, const struct measure *m, struct cut c, float *logits, int32_t *ids);
void scan_cut(const struct view *v, const struct measure *m, struct cut c); /* -inf to what is not kept */

struct range scan_range(const float *keys, int32_t n); /* lowest and highest; of none {inf, -inf} */

/* sampler-select.c: finding the place of a cut. By weight, the sampler's sums become those of what is kept, and c.mass. */
/* Where, in the order of keys, the running sum of what tokens count for passes `wanted`, less than `total`. By weight: the view
 * is weighed. */
struct cut find_cut(struct sharpi_sampler *s, const struct view *v, const struct measure *m, uint64_t total,
                    uint64_t wanted);
/* Where it reaches a share of the whole. */
struct cut find_share(struct sharpi_sampler *s, const struct view *v, const struct measure *m, double share);
struct cut cut_at_rank(struct sharpi_sampler *s, const struct view *v, const struct measure *m,
                       int32_t k); /* behind the k first */

/* sampler-logits.c: passes over a row that no sampler has seen. */
double logits_sum_exp(const float *logits, int32_t n, float max); /* sum of exp(logit - max) */
int32_t logits_top_k(const float *logits, int32_t n, int32_t k, struct cand *out); /* sorted; -inf left out */

/* sampler-top.c */
int32_t stage_is_off(const struct sharpi_sampler_params *p,
                     enum stage stage); /* it leaves every view as it is */

/* sampler-penalties.c */
void apply_bias(struct sharpi_sampler *s, struct view *v);
void apply_penalties(struct sharpi_sampler *s, struct view *v);
void apply_dry(struct sharpi_sampler *s, struct view *v);

/* sampler-stages.c */
void view_know_max(struct view *v);
void view_cut_tail(struct view *v); /* before another stage looks at the view */
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
