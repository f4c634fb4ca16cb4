/* Stages that cut down what is left to choose from, temperature, and the final draw.
 *
 * Invariant: a stage never leaves nothing, and never drops a token that is likelier than one it keeps, except for XTC and
 * typical, whose point that is. Probabilities are those of the tokens that are left when a stage begins.
 */
#include <float.h>
#include <math.h>

#include "sampler-internal.h"

enum {
    SPARSE = 8, /* a view of which less than 1 / SPARSE is left becomes a list */
};

/* ---- The view */

void view_know_max(struct view *v)
{
    if (!v->max_known)
        v->scale.max = scan_max(v->logits, v->n, v->maxima);
    v->max_known = 1;
}

void view_settle(struct view *v)
{
    if (v->scale.factor == 1)
        return;
    view_know_max(v);
    for (int32_t i = 0; i < v->n && v->scale.max > -INFINITY; i++)
        v->logits[i] = (v->logits[i] - v->scale.max) * v->scale.factor;
    v->scale.factor = 1;
    v->max_known = v->weighed = 0;
}

/* Makes sure of sums of weights. Returns 0 when nothing is left. */
static int32_t weigh(struct sharpi_sampler *s, struct view *v)
{
    view_know_max(v);
    if (v->scale.max == -INFINITY)
        return 0;
    if (!v->weighed)
        v->total = v->has_tail ? scan_weigh_kept(v, s->sums) : scan_weigh(v, s->sums, NULL);
    v->weighed = 1;
    return 1;
}

static struct measure by_logit(const struct view *v)
{
    return (struct measure){.scale = v->scale};
}

/* The cut, or one that keeps as many as must be kept. */
static struct cut at_least(struct sharpi_sampler *s, const struct view *v, const struct measure *m,
                           struct cut c)
{
    if (s->params.min_keep <= 1)
        return c;
    const struct cut least = cut_at_rank(s, v, m, s->params.min_keep);
    return is_kept(least, c.key, c.at) ? least : c;
}

/* Makes what is kept a list. */
static void become_list(struct sharpi_sampler *s, struct view *v, const struct measure *m, struct cut c)
{
    v->n = scan_gather(v, m, c, s->list_logits, s->list_ids);
    v->logits = s->list_logits;
    v->ids = s->list_ids;
    v->max_known = v->weighed = 0;
}

/* Drops what is behind the cut in the order of keys; is_summed: the sampler's sums are of what is kept. */
static void keep(struct sharpi_sampler *s, struct view *v, const struct measure *m, struct cut c,
                 int32_t is_summed)
{
    const int32_t keeps_max = !m->is_near || -m->centre > c.key;
    if (c.count < 0)
        c.count = scan_count(v, m, c);
    if (c.count < v->n / SPARSE) {
        become_list(s, v, m, c);
        return;
    }
    v->has_tail = 1;
    v->end = c;
    v->by = *m;
    v->weighed = is_summed && c.mass > 0;
    v->total = c.mass;
    if (!keeps_max) {
        view_cut_tail(v);
        v->max_known = 0;
    }
}

void view_cut_tail(struct view *v)
{
    if (!v->has_tail)
        return;
    scan_cut(v, &v->by, v->end);
    v->has_tail = v->weighed = 0;
}

/* ---- Stages */

void apply_top_k(struct sharpi_sampler *s, struct view *v)
{
    const struct measure m = by_logit(v);
    if (s->params.top_k < v->n) {
        view_know_max(v);
        keep(s, v, &m, cut_at_rank(s, v, &m, s->params.top_k), 0);
    }
}

void apply_top_p(struct sharpi_sampler *s, struct view *v)
{
    view_know_max(v);
    if (v->scale.max == -INFINITY)
        return;
    const struct measure m = by_logit(v);
    const struct cut c = find_share(s, v, &m, (double)s->params.top_p), most = at_least(s, v, &m, c);
    keep(s, v, &m, most, most.at == c.at);
}

void apply_min_p(struct sharpi_sampler *s, struct view *v)
{
    view_know_max(v);
    const struct measure m = by_logit(v);
    float limit = v->scale.max + (float)log((double)s->params.min_p) / v->scale.factor;
    limit = limit > -FLT_MAX ? limit : -FLT_MAX;
    keep(s, v, &m, at_least(s, v, &m, (struct cut){limit, v->n - 1, -1, 0}), 0);
}

/* Meister et al. 2022: tokens whose surprise is nearest to the entropy, until they pass p; the lowest id first on a tie. */
void apply_typical_p(struct sharpi_sampler *s, struct view *v)
{
    const double p = (double)s->params.typical_p;
    uint64_t depth;
    view_know_max(v);
    if (v->scale.max == -INFINITY)
        return;
    v->total = scan_weigh(v, s->sums, &depth);
    /* Surprise is depth + log(total), so the entropy is the mean depth + log(total). */
    const float mean = (float)((double)depth / (double)v->total);
    const struct measure m = {.scale = v->scale, .is_near = 1, .centre = mean};
    const struct cut c = find_cut(s, v, &m, v->total, (uint64_t)(p * (double)v->total));
    const struct cut most = at_least(s, v, &m, c);
    keep(s, v, &m, most, most.at == c.at);
}

/* parts[0] = where weights are at least `enough`. */
static void gather_heavy(struct sharpi_sampler *s, const struct view *v, uint64_t enough)
{
    const float depth = -(float)log((double)enough / WEIGHT_ONE) + 0.01f; /* surely deep enough */
    const float low = fmaxf(v->scale.max - depth / v->scale.factor, -FLT_MAX);
    const struct measure m = by_logit(v);
    struct part *heavy = &s->parts[0];
    scan_split(v, &m, (struct range){low, INFINITY}, 0, NULL, heavy);
    int32_t n = 0;
    for (int32_t i = 0; i < heavy->n; i++) {
        heavy->keys[n] = heavy->keys[i];
        heavy->at[n] = heavy->at[i];
        n += heavy->weights[i] >= enough;
    }
    heavy->n = n;
}

static void forbid(struct view *v, int32_t at)
{
    const int32_t first = at / BLOCK * BLOCK;
    v->logits[at] = -INFINITY;
    v->maxima[at / BLOCK] = scan_max(v->logits + first, v->n - first < BLOCK ? v->n - first : BLOCK, NULL);
}

/* Exclude Top Choices: with some chance, of the tokens that are likely enough only the last in order stays. */
void apply_xtc(struct sharpi_sampler *s, struct view *v)
{
    const struct sharpi_sampler_params *p = &s->params;
    if (rng_uniform(&s->rng) >= (double)p->xtc_probability || !weigh(s, v))
        return;
    const uint64_t enough = (uint64_t)ceil((double)p->xtc_threshold * (double)v->total);
    gather_heavy(s, v, enough > 0 ? enough : 1);
    const struct part *heavy = &s->parts[0];
    const struct measure m = by_logit(v);
    int32_t last = 0;
    for (int32_t i = 1; i < heavy->n; i++)
        last = heavy->keys[i] <= heavy->keys[last] ? i : last;
    const int32_t n = heavy->n - 1;
    if (n < 1 ||
        (p->min_keep > 1 && scan_count(v, &m, (struct cut){-FLT_MAX, v->n - 1, -1, 0}) - n < p->min_keep))
        return;
    for (int32_t i = 0; i <= n; i++) {
        if (i != last)
            forbid(v, heavy->at[i]);
    }
    v->scale.max = scan_max(v->maxima, (v->n + BLOCK - 1) / BLOCK, NULL);
    v->weighed = 0;
}

void apply_temperature(struct sharpi_sampler *s, struct view *v)
{
    v->scale.factor = fminf(1 / s->params.temperature, 1e30f); /* so that 0 times it is 0 */
    v->weighed = 0;
}

/* ---- The draw */

/* The place in a block at which the running sum of weights passes `wanted`. */
static int32_t draw_from_block(const struct view *v, int32_t block, uint64_t wanted)
{
    const struct measure m = by_logit(v);
    float keys[BLOCK];
    uint32_t weights[BLOCK], unused[BLOCK];
    const int32_t n = scan_block(v, &m, block, keys, weights);
    if (v->has_tail)
        scan_block(v, &v->by, block, keys, unused);
    for (int32_t i = 0; i < n; i++) {
        const int32_t at = block * BLOCK + i;
        const uint64_t weight = !v->has_tail || is_kept(v->end, keys[i], at) ? weights[i] : 0;
        if (weight > wanted)
            return at;
        wanted -= weight;
    }
    return block * BLOCK; /* not reached: the sum is of these */
}

int32_t draw(struct sharpi_sampler *s, struct view *v)
{
    int32_t block = 0;
    if (!weigh(s, v))
        return -1;
    uint64_t wanted = (uint64_t)(rng_uniform(&s->rng) * (double)v->total);
    wanted = wanted < v->total ? wanted : v->total - 1; /* rounding */
    for (; s->sums[block] <= wanted; block++)
        wanted -= s->sums[block];
    const int32_t at = draw_from_block(v, block, wanted);
    return v->ids ? v->ids[at] : at;
}

int32_t draw_highest(struct view *v)
{
    int32_t at = 0;
    view_know_max(v);
    if (v->scale.max == -INFINITY)
        return -1;
    while (v->maxima[at / BLOCK] < v->scale.max)
        at += BLOCK;
    while (v->logits[at] < v->scale.max)
        at++;
    return v->ids ? v->ids[at] : at;
}
