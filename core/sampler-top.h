/* Sampling from the few highest logits of a row, where the chain looks at no others: then a decode step need not bring the
 * whole row to the host.
 *
 * Invariant: the token is the one that sharpi_sampler_sample would have chosen from all logits, and the state of the sampler
 * afterwards is the same.
 */
#ifndef SHARPI_CORE_SAMPLER_TOP_H
#define SHARPI_CORE_SAMPLER_TOP_H

#include <sharpi/sampler.h>

enum { SHARPI_TOP_MAX = 256 }; /* candidates that are worth it */

/* How many of the highest logits the chain looks at: 1 for a greedy one, top_k's number where nothing before it changes or cuts
 * anything. 0: it looks at all. */
uint32_t sharpi_sampler_reach(const struct sharpi_sampler *sampler);

/* The next id from the `n` highest logits, highest first, lowest id on a tie; n >= sharpi_sampler_reach, or all there are.
 * Without side effects on the arrays. -1 when none is above -inf. */
int32_t sharpi_sampler_sample_top(struct sharpi_sampler *sampler, const int32_t *ids, const float *logits,
                                  uint32_t n);

/* The candidates of a row, for backends that do not find them: the k highest logits (k <= SHARPI_TOP_MAX) in that order; what
 * is -inf or NaN is left out. *log_sum (may be NULL): log of the sum of exp(logit) over the row. Returns how many. NaN in the
 * row becomes -inf. */
uint32_t sharpi_logits_candidates(float *logits, uint32_t n_vocab, uint32_t k, int32_t *ids, float *values,
                                  float *log_sum);

#endif
