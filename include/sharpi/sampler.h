/* From logits to one token id: a chain of stages in a configurable order.
 *
 * Invariant: the same parameters, seed, logits and accepted tokens give the same ids on every run and processor (own
 * generator, own exponential function). A sampler belongs to one sequence, one thread at a time.
 */
#ifndef SHARPI_SAMPLER_H
#define SHARPI_SAMPLER_H

#include <sharpi/plugin/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SHARPI_API __attribute__((visibility("default")))
#else
#define SHARPI_API
#endif

struct sharpi_sampler;
struct sharpi_tokenizer;

struct sharpi_logit_bias {
    int32_t id;
    float bias; /* added to the logit; -INFINITY forbids the token */
};

/* A stage does nothing at its "off" value or when the chain leaves it out. Defaults (sharpi_sampler_params_init) in brackets. */
struct sharpi_sampler_params {
    uint64_t seed;         /* [0]; the caller picks a random one where the user gave none */
    float temperature;     /* [0.8] 0 = greedy: the highest logit, the lowest id on a tie */
    int32_t top_k;         /* [40] keep the k most likely; 0 = off */
    float top_p;           /* [0.95] smallest set whose probabilities reach p; 1 = off */
    float min_p;           /* [0.05] drop what is less likely than min_p x the most likely; 0 = off */
    float typical_p;       /* [1] locally typical: nearest to the entropy first, up to p; 1 = off */
    float xtc_probability; /* [0] chance per token that XTC applies; 0 = off */
    float xtc_threshold; /* [0.1] of the tokens at least this likely XTC keeps only the least; > 0.5 = off */
    int32_t min_keep;    /* [1] top_p, min_p, typical and xtc leave at least this many */

    int32_t penalty_last_n; /* [64] accepted tokens that the penalties see; 0 = off, -1 = all */
    float repeat_penalty;   /* [1] divides a positive, multiplies a negative logit of a seen token; 1 = off */
    float frequency_penalty; /* [0] subtracted once per occurrence */
    float presence_penalty;  /* [0] subtracted once */

    float dry_multiplier; /* [0] DRY: penalty = multiplier x base^(repeat length - allowed length); 0 = off */
    float dry_base;       /* [1.75] */
    int32_t dry_allowed_length;  /* [2] a repeat this long or longer is penalised */
    int32_t dry_last_n;          /* [-1] accepted tokens that DRY searches; 0 = off, -1 = all */
    const int32_t *dry_breakers; /* [none] ids that end a repeat (sharpi_sampler_breakers); copied */
    uint64_t n_dry_breakers;

    const struct sharpi_logit_bias *bias; /* [none] copied */
    uint64_t n_bias;

    const char *chain; /* [NULL = SHARPI_SAMPLER_CHAIN] stages in order, separated by ';' */
};

#define SHARPI_SAMPLER_CHAIN "bias;penalties;dry;top_k;typical_p;top_p;min_p;xtc;temperature"

SHARPI_API void sharpi_sampler_params_init(struct sharpi_sampler_params *params);

/* Checks every parameter (SHARPI_EINVAL names it, its value and its range; a bias names the id). */
SHARPI_API int32_t sharpi_sampler_create(const struct sharpi_sampler_params *params, int32_t n_vocab,
                                         struct sharpi_sampler **out, struct sharpi_error *err);
SHARPI_API void sharpi_sampler_destroy(struct sharpi_sampler *sampler); /* NULL is fine */

/* A copy in the same state: it will sample the same tokens from the same logits. */
SHARPI_API int32_t sharpi_sampler_clone(const struct sharpi_sampler *sampler, struct sharpi_sampler **out,
                                        struct sharpi_error *err);
SHARPI_API void
sharpi_sampler_reset(struct sharpi_sampler *sampler); /* forget accepted tokens, start the seed again */

/* The next id from logits[n_vocab], which are overwritten (they hold the biased and penalised values afterwards).
 * NaN counts as -inf. Returns -1 when no logit is above -inf: then there is nothing to sample. Does not accept.
 * n_vocab may be smaller than at creation, not larger (-1). */
SHARPI_API int32_t sharpi_sampler_sample(struct sharpi_sampler *sampler, float *logits, int32_t n_vocab);

/* Tells penalties and DRY about a token of the sequence, of the prompt too if they are to see it. */
SHARPI_API int32_t sharpi_sampler_accept(struct sharpi_sampler *sampler, int32_t id,
                                         struct sharpi_error *err);

/* The `k` highest logits with natural-log probabilities over the whole vocabulary, highest first, lowest id on a
 * tie; *chosen (may be NULL) gets the log-probability of `chosen_id`. For an API's logprobs, before sampling.
 * Returns how many were written (fewer than k only if n_vocab is smaller). */
struct sharpi_logprob {
    int32_t id;
    float logprob;
};
SHARPI_API int32_t sharpi_logits_top(const float *logits, int32_t n_vocab, int32_t k,
                                     struct sharpi_logprob *out, int32_t chosen_id, float *chosen);

/* Ids of all tokens whose text contains one of `strings` (usual for DRY: "\n", ":", "\"", "*"). *out: free() it. */
int32_t sharpi_sampler_breakers(const struct sharpi_tokenizer *tokenizer, const char *const *strings,
                                uint64_t n_strings, int32_t **out, uint64_t *n, struct sharpi_error *err);

/* Checks the text of a chain; an unknown stage is SHARPI_EINVAL with the nearest name. */
SHARPI_API int32_t sharpi_sampler_check_chain(const char *chain, struct sharpi_error *err);

#ifdef __cplusplus
}
#endif
#endif
