/* See sampler-top.h. */
#include "sampler-top.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "sampler-internal.h"

int32_t stage_is_off(const struct sharpi_sampler_params *p, enum stage stage)
{
    switch (stage) {
    case STAGE_BIAS:
        return p->n_bias == 0;
    case STAGE_PENALTIES:
        return p->penalty_last_n == 0 ||
               (p->repeat_penalty == 1 && p->frequency_penalty == 0 && p->presence_penalty == 0);
    case STAGE_DRY:
        return p->dry_multiplier == 0 || p->dry_last_n == 0;
    case STAGE_TOP_K:
        return p->top_k <= 0;
    case STAGE_TYPICAL_P:
        return p->typical_p >= 1;
    case STAGE_TOP_P:
        return p->top_p >= 1;
    case STAGE_MIN_P:
        return p->min_p <= 0;
    case STAGE_XTC:
        return p->xtc_probability <= 0 || p->xtc_threshold > 0.5f;
    default:
        return p->temperature == 1;
    }
}

uint32_t sharpi_sampler_reach(const struct sharpi_sampler *sampler)
{
    const struct sharpi_sampler_params *p = &sampler->params;
    const int32_t greedy = p->temperature == 0;
    for (int32_t i = 0; i < sampler->n_chain; i++) {
        enum stage stage = sampler->chain[i];
        if (stage_is_off(p, stage) || (greedy && !stage_changes_logits(stage)))
            continue;
        if (stage != STAGE_TOP_K || p->top_k > SHARPI_TOP_MAX || p->top_k >= sampler->n_vocab)
            return 0;
        return (uint32_t)p->top_k;
    }
    return greedy ? 1 : 0;
}

static int by_id(const void *a, const void *b)
{
    const struct cand *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

int32_t sharpi_sampler_sample_top(struct sharpi_sampler *sampler, const int32_t *ids, const float *logits,
                                  uint32_t n)
{
    struct cand top[SHARPI_TOP_MAX];
    const uint32_t reach = sharpi_sampler_reach(sampler);
    int32_t n_top = 0;
    n = reach && reach < n ? reach : n;
    for (uint32_t i = 0; i < n && n_top < SHARPI_TOP_MAX && n_top < sampler->n_vocab; i++) {
        if (logits[i] > -INFINITY) /* NaN is not */
            top[n_top++] = (struct cand){logits[i] > FLT_MAX ? FLT_MAX : logits[i], ids[i]};
    }
    qsort(top, (size_t)n_top, sizeof *top, by_id);
    for (int32_t i = 0; i < n_top; i++) {
        sampler->list_logits[i] = top[i].logit;
        sampler->list_ids[i] = top[i].id;
    }
    return sample_view(sampler, sampler->list_logits, sampler->list_ids, n_top);
}

uint32_t sharpi_logits_candidates(float *logits, uint32_t n_vocab, uint32_t k, int32_t *ids, float *values,
                                  float *log_sum)
{
    struct cand best[SHARPI_TOP_MAX];
    const int32_t wanted = k < SHARPI_TOP_MAX ? (int32_t)k : SHARPI_TOP_MAX;
    const float max = scan_max(logits, (int32_t)n_vocab, NULL);
    const int32_t n = max > -INFINITY ? logits_top_k(logits, (int32_t)n_vocab, wanted, best) : 0;
    for (int32_t i = 0; i < n; i++) {
        ids[i] = best[i].id;
        values[i] = best[i].logit;
    }
    if (log_sum)
        *log_sum = n ? max + (float)log(logits_sum_exp(logits, (int32_t)n_vocab, max)) : -INFINITY;
    return (uint32_t)n;
}
