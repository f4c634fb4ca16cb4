/* Stages that cut down what is left to choose from, temperature, and the final draw.
 *
 * Invariant: a stage never leaves nothing, and never drops a token that is likelier than one it keeps, except for XTC and
 * typical, whose point that is. Probabilities are those of the tokens that are left when a stage begins.
 * A stage on all logits avoids sorting them: it finds the limit first and gathers what lies above.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "sampler-internal.h"

#define NEGLIGIBLE 30.0f /* e^-30 times the largest vocabulary is less than float precision of the sum */

enum {
    N_BUCKETS = 1024,
    LONG_LIST = 1024, /* worth a pass over it to avoid sorting it */
};

void view_know_max(struct view *v)
{
    if (!v->max_known)
        v->max = scan_max(v->logits, v->n);
    v->max_known = 1;
}

static void use_list(struct sharpi_sampler *s, struct view *v, int32_t n, int32_t sorted)
{
    v->list = s->list;
    v->n_list = n;
    v->dense = 0;
    v->sorted = sorted;
}

static void sort_list(struct sharpi_sampler *s, struct view *v)
{
    if (!v->sorted)
        cand_sort(v->list, s->sort_scratch, v->n_list);
    v->sorted = 1;
}

static float list_max(const struct view *v)
{
    float max = -INFINITY;
    if (v->sorted && v->n_list > 0)
        return v->list[0].logit;
    for (int32_t i = 0; i < v->n_list; i++)
        max = v->list[i].logit > max ? v->list[i].logit : max;
    return max;
}

/* weights[i] = exp(logit - max) of the list; returns their sum. */
static double weigh_list(struct sharpi_sampler *s, const struct view *v)
{
    double total = 0;
    for (int32_t i = 0; i < v->n_list; i++)
        s->weights[i] = v->list[i].logit;
    scan_exp(s->weights, v->n_list, list_max(v));
    for (int32_t i = 0; i < v->n_list; i++)
        total += (double)s->weights[i];
    return total;
}

void apply_top_k(struct sharpi_sampler *s, struct view *v)
{
    int32_t k = s->params.top_k;
    if (k <= 0)
        return;
    if (v->dense) {
        view_know_max(v);
        if (k < v->n)
            use_list(s, v, scan_top_k(v->logits, v->n, k, s->list), 1);
    } else if (k < v->n_list) {
        sort_list(s, v);
        v->n_list = k;
    }
}

/* How many of the first weights of a sorted, weighed list reach `wanted`, `least` at least. */
static int32_t count_to(const struct sharpi_sampler *s, int32_t n, double wanted, int32_t least)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += (double)s->weights[i];
        if (sum >= wanted && i + 1 >= least)
            return i + 1;
    }
    return n;
}

static int32_t depth_bucket(float max, float logit)
{
    float depth = (max - logit) * (N_BUCKETS / NEGLIGIBLE);
    return depth < N_BUCKETS - 1 ? (int32_t)depth : N_BUCKETS - 1;
}

/* The same cut for a long, weighed list in any order: buckets of equal depth below the highest logit tell which is cut
 * through, and only that one is sorted. Returns 0 when the list must be sorted after all. */
static int32_t cut_by_depth(struct sharpi_sampler *s, struct view *v, double wanted)
{
    double sums[N_BUCKETS] = {0}, sum = 0;
    float max = list_max(v);
    int32_t cut = 0, n = 0, m = 0;
    for (int32_t i = 0; i < v->n_list; i++)
        sums[depth_bucket(max, v->list[i].logit)] += (double)s->weights[i];
    while (cut < N_BUCKETS - 1 && sum + sums[cut] < wanted)
        sum += sums[cut++];
    for (int32_t i = 0; i < v->n_list; i++)
        n += depth_bucket(max, v->list[i].logit) < cut;
    if (n < s->params.min_keep)
        return 0;
    n = 0;
    for (int32_t i = 0; i < v->n_list; i++) {
        int32_t bucket = depth_bucket(max, v->list[i].logit);
        if (bucket < cut)
            v->list[n++] = v->list[i];
        else if (bucket == cut)
            s->sort_scratch[m++] = v->list[i];
    }
    memcpy(v->list + n, s->sort_scratch, (size_t)m * sizeof *v->list);
    cand_sort(v->list + n, s->sort_scratch, m);
    for (m += n; n < m && sum < wanted; n++)
        sum += (double)exp_nonpositive(v->list[n].logit - max);
    v->n_list = n;
    return 1;
}

static void cut_top_p(struct sharpi_sampler *s, struct view *v, double wanted)
{
    if (v->n_list > LONG_LIST && !v->sorted && cut_by_depth(s, v, wanted))
        return;
    sort_list(s, v);
    weigh_list(s, v);
    v->n_list = count_to(s, v->n_list, wanted, s->params.min_keep);
}

void apply_top_p(struct sharpi_sampler *s, struct view *v)
{
    double p = (double)s->params.top_p, wanted;
    if (p >= 1)
        return;
    if (v->dense) {
        view_know_max(v);
        wanted = p * scan_sum_exp(v->logits, v->n, v->max, NULL);
        /* What is needed is usually near the top: look deeper only while it does not suffice. */
        for (float depth = 4;; depth *= 3) {
            struct view part = *v;
            int32_t all = depth > 100;
            use_list(s, &part, scan_gather(v->logits, v->n, all ? -FLT_MAX : v->max - depth, s->list), 0);
            double reached = weigh_list(s, &part);
            if (all || (reached >= wanted && part.n_list >= s->params.min_keep)) {
                *v = part;
                break;
            }
        }
    } else {
        wanted = p * weigh_list(s, v);
    }
    cut_top_p(s, v, wanted);
}

void apply_min_p(struct sharpi_sampler *s, struct view *v)
{
    int32_t n = 0, least = s->params.min_keep;
    if (s->params.min_p <= 0)
        return;
    if (v->dense)
        view_know_max(v);
    float limit = (v->dense ? v->max : list_max(v)) + (float)log((double)s->params.min_p);
    if (v->dense) {
        n = scan_gather(v->logits, v->n, limit, s->list);
        if (n >= least)
            use_list(s, v, n, 0);
        else
            use_list(s, v, scan_top_k(v->logits, v->n, least, s->list), 1);
        return;
    }
    for (int32_t i = 0; i < v->n_list; i++)
        n += v->list[i].logit >= limit;
    if (n < least || v->sorted) {
        sort_list(s, v);
        n = n < least ? least : n;
        v->n_list = n < v->n_list ? n : v->n_list;
        return;
    }
    n = 0;
    for (int32_t i = 0; i < v->n_list; i++) {
        if (v->list[i].logit >= limit)
            v->list[n++] = v->list[i];
    }
    v->n_list = n;
}

/* Everything with a probability that matters, as a list. */
static void make_list(struct sharpi_sampler *s, struct view *v)
{
    if (!v->dense)
        return;
    view_know_max(v);
    use_list(s, v, scan_gather(v->logits, v->n, v->max - NEGLIGIBLE, s->list), 0);
}

/* Meister et al. 2022: tokens whose surprise is nearest to the entropy, until they reach p. */
void apply_typical_p(struct sharpi_sampler *s, struct view *v)
{
    double p = (double)s->params.typical_p, entropy, sum = 0;
    int32_t kept = 0;
    if (p >= 1)
        return;
    make_list(s, v);
    sort_list(s, v);
    double total = weigh_list(s, v), weighted = 0;
    float max = list_max(v);
    for (int32_t i = 0; i < v->n_list; i++)
        weighted += (double)s->weights[i] * (double)(max - v->list[i].logit);
    entropy = weighted / total + log(total);
    float centre =
        (float)((double)max - (entropy - log(total))); /* the logit whose surprise is the entropy */
    /* The list is sorted, so the nearest are one run: grow it to both sides, likelier first on a tie. */
    int32_t right = 0;
    while (right < v->n_list && v->list[right].logit > centre)
        right++;
    int32_t left = right;
    while (left > 0 || right < v->n_list) {
        double up = left > 0 ? (double)v->list[left - 1].logit - (double)centre : INFINITY;
        double down = right < v->n_list ? (double)centre - (double)v->list[right].logit : INFINITY;
        sum += (double)(up <= down ? s->weights[--left] : s->weights[right++]);
        if (++kept >= s->params.min_keep && sum > p * total)
            break;
    }
    memmove(v->list, v->list + left, (size_t)(right - left) * sizeof *v->list);
    v->n_list = right - left;
}

/* Exclude Top Choices: with some chance, of the tokens that are likely enough only the least likely stays. */
void apply_xtc(struct sharpi_sampler *s, struct view *v)
{
    const struct sharpi_sampler_params *p = &s->params;
    if (p->xtc_probability <= 0 || p->xtc_threshold > 0.5f)
        return;
    if (rng_uniform(&s->rng) >= (double)p->xtc_probability)
        return;
    if (v->dense)
        view_know_max(v);
    double total = v->dense ? scan_sum_exp(v->logits, v->n, v->max, NULL) : 0;
    struct view top = *v;
    if (v->dense) { /* at most 1 / threshold tokens, or all of them at threshold 0 */
        double depth = p->xtc_threshold > 0 ? log((double)p->xtc_threshold * total) : -(double)NEGLIGIBLE;
        use_list(s, &top, scan_gather(v->logits, v->n, v->max + (float)depth, s->list), 0);
        sort_list(s, &top);
    } else {
        sort_list(s, &top);
        total = weigh_list(s, &top);
        *v = top;
        int32_t n = 0;
        while (n < top.n_list && (double)s->weights[n] >= (double)p->xtc_threshold * total)
            n++;
        top.n_list = n;
    }
    int32_t drop = top.n_list - 1;
    int32_t left = (v->dense ? v->n : v->n_list) - drop;
    if (drop < 1 || left < p->min_keep)
        return;
    if (!v->dense) {
        v->n_list -= drop;
        memmove(v->list, v->list + drop, (size_t)v->n_list * sizeof *v->list);
        return;
    }
    for (int32_t i = 0; i < drop; i++)
        v->logits[top.list[i].id] = -INFINITY;
    v->max_known = 0;
}

void apply_temperature(struct sharpi_sampler *s, struct view *v)
{
    float t = s->params.temperature;
    if (t == 1)
        return;
    /* Relative to the highest, so that a low temperature does not overflow where it matters. */
    if (v->dense) {
        view_know_max(v);
        if (v->max > -INFINITY)
            scan_divide(v->logits, v->n, v->max, t);
        v->max = v->max > -INFINITY ? 0 : v->max;
        return;
    }
    float max = list_max(v);
    for (int32_t i = 0; i < v->n_list; i++) {
        float logit = (v->list[i].logit - max) / t;
        v->list[i].logit = logit < -FLT_MAX ? -FLT_MAX : logit;
    }
}

/* The token at which the running sum passes `wanted`; block sums say where to look. */
static int32_t draw_dense(struct sharpi_sampler *s, struct view *v)
{
    view_know_max(v);
    if (v->max == -INFINITY)
        return -1;
    double total = scan_sum_exp(v->logits, v->n, v->max, s->block_sums);
    double wanted = rng_uniform(&s->rng) * total;
    int32_t last = -1;
    for (int32_t block = 0; block < v->n; block += SUM_BLOCK) {
        double sum = s->block_sums[block / SUM_BLOCK];
        if (sum > 0 && wanted < sum) {
            int32_t end = v->n - block < SUM_BLOCK ? v->n : block + SUM_BLOCK;
            for (int32_t i = block; i < end; i++) {
                float weight = exp_nonpositive(v->logits[i] - v->max);
                last = weight > 0 ? i : last;
                wanted -= (double)weight;
                if (wanted < 0)
                    return i;
            }
            return last; /* rounding: the last one of the block */
        }
        wanted -= sum;
    }
    return draw_highest(v);
}

int32_t draw(struct sharpi_sampler *s, struct view *v)
{
    if (v->dense)
        return draw_dense(s, v);
    if (v->n_list == 0)
        return -1;
    double wanted = rng_uniform(&s->rng) * weigh_list(s, v);
    for (int32_t i = 0; i < v->n_list; i++) {
        wanted -= (double)s->weights[i];
        if (wanted < 0)
            return v->list[i].id;
    }
    return draw_highest(v);
}

int32_t draw_highest(struct view *v)
{
    struct cand best;
    if (v->dense) {
        view_know_max(v);
        return v->max > -INFINITY ? scan_first(v->logits, v->n, v->max) : -1;
    }
    best = (struct cand){-INFINITY, -1};
    for (int32_t i = 0; i < v->n_list; i++) {
        const struct cand *c = &v->list[i];
        if (best.id < 0 || c->logit > best.logit || (c->logit == best.logit && c->id < best.id))
            best = *c;
    }
    return best.id;
}
