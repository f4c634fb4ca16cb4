/* Stages that cut down what is left to choose from, temperature, and the final draw.
 *
 * Invariant: a stage never leaves nothing, and never drops a token that is likelier than one it keeps, except for XTC and
 * typical, whose point that is. Probabilities are those of the tokens that are left when a stage begins.
 * Nothing is sorted that is long: an estimate says which keys a cut lies between, one pass adds up what is above them, and the
 * same is done to the few between.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "sampler-internal.h"

enum {
    N_BUCKETS = 1024,
    FEW = 64,            /* so few are sorted */
    ESTIMATE_ALL = 8192, /* so few are all looked at for an estimate */
    N_SAMPLES = 128,     /* blocks that are looked at otherwise */
    HEAP_MAX = 256,      /* top_k by a heap */
    SPARSE = 8,          /* a view of which less than 1 / SPARSE is left becomes a list */
};

#define DEEPEST 32.0f /* weights are 0 this far below the highest, for any vocabulary */
#define MARGIN                                                                                               \
    0.03 /* error of an estimate that is rarely exceeded: 2.7 / sqrt(N_SAMPLES * SUM_BLOCK) deviations of one draw */

/* ---- Finding a cut */

struct range {
    float low, high; /* of keys */
};

static int32_t bucket_of(struct range r, float per_key, float key)
{
    float depth = (r.high - key) * per_key;
    return depth < N_BUCKETS - 1 ? (int32_t)depth : N_BUCKETS - 1; /* NaN too */
}

static float bucket_top(struct range r, int32_t bucket)
{
    return (float)((double)r.high - bucket * ((double)r.high - (double)r.low) / N_BUCKETS);
}

/* Weights by key, highest first. Of many blocks only the heavy ones and each so-manyth, by weight, of the others are looked at,
 * and stand for these. Returns whether all were. */
static int32_t estimate(struct sharpi_sampler *s, const struct part *from, struct range r, float *histogram)
{
    const float per_key = N_BUCKETS / (r.high - r.low);
    const int32_t n_blocks = (from->n + SUM_BLOCK - 1) / SUM_BLOCK;
    double step = 0, carry = 0;
    scan_block_sums(from->weights, from->n, s->block_sums);
    for (int32_t b = 0; b < n_blocks && from->n > ESTIMATE_ALL; b++)
        step += (double)s->block_sums[b] / N_SAMPLES;
    memset(histogram, 0, N_BUCKETS * sizeof *histogram);
    for (int32_t b = 0; b < n_blocks; b++) {
        const double sum = (double)s->block_sums[b];
        const int32_t end = b + 1 < n_blocks ? (b + 1) * SUM_BLOCK : from->n;
        float stands_for = 1;
        if (sum < step) {
            carry += sum;
            if (carry < step)
                continue;
            carry -= step;
            stands_for = (float)(step / sum);
        }
        for (int32_t i = b * SUM_BLOCK; i < end; i++) {
            if (from->weights[i] > 0)
                histogram[bucket_of(r, per_key, from->keys[i])] +=
                    (float)(int32_t)from->weights[i] * stands_for;
        }
    }
    return step == 0;
}

/* The keys (low, high] between which the running sum passes `wanted`, by estimate; at least one end of `r` is outside. */
static struct range guess(struct sharpi_sampler *s, const struct part *from, struct range r, uint64_t total,
                          uint64_t wanted)
{
    float histogram[N_BUCKETS];
    double whole = 0, sum = 0, part = (double)wanted / (double)total, above, below;
    const double margin = MARGIN * sqrt(part * (1 - part));
    const int32_t is_exact = estimate(s, from, r, histogram);
    const float last = nextafterf(r.high, -INFINITY);
    int32_t first = 0, end = 0;
    struct range g = {-INFINITY, INFINITY};
    for (int32_t b = 0; b < N_BUCKETS; b++)
        whole += (double)histogram[b];
    above = is_exact ? (double)wanted : whole * (part - fmin(margin, part / 2));
    below = is_exact ? (double)wanted : whole * (part + fmin(margin, (1 - part) / 2));
    while (end < N_BUCKETS && sum <= below) {
        sum += (double)histogram[end++];
        first = sum <= above ? end : first;
    }
    if (first == 0 && end == N_BUCKETS)
        end = N_BUCKETS / 2;
    if (first > 0)
        g.high = fminf(fmaxf(bucket_top(r, first), r.low), last);
    if (end < N_BUCKETS)
        g.low = fminf(fmaxf(bucket_top(r, end), r.low), last);
    return g;
}

static uint64_t sum_part(const struct part *p, struct range *r)
{
    uint64_t sum = 0;
    *r = (struct range){INFINITY, -INFINITY};
    for (int32_t i = 0; i < p->n; i++) {
        sum += p->weights[i];
        r->low = p->keys[i] < r->low ? p->keys[i] : r->low;
        r->high = p->keys[i] > r->high ? p->keys[i] : r->high;
    }
    return sum;
}

/* Stable, highest key first. */
static void sort_few(const struct part *p, int32_t *order)
{
    for (int32_t i = 0; i < p->n; i++) {
        int32_t j = i;
        for (; j > 0 && p->keys[order[j - 1]] < p->keys[i]; j--)
            order[j] = order[j - 1];
        order[j] = i;
    }
}

/* The cut in a part that is short, or all of whose keys are the same; `before` is the weight of what comes before it. */
static struct cut walk(const struct part *p, uint64_t before, uint64_t wanted)
{
    struct cut c = {-FLT_MAX, INT32_MAX, -1, 0};
    int32_t order[FEW];
    if (p->n <= FEW)
        sort_few(p, order);
    for (int32_t i = 0; i < p->n; i++) {
        const int32_t k = p->n <= FEW ? order[i] : i;
        before += p->weights[k];
        if (before > wanted)
            return (struct cut){p->keys[k], p->at ? p->at[k] : k, -1, before};
    }
    return c;
}

/* The place in the order of keys at which the running sum of weights passes `wanted`, which is less than the total. `r` is
 * a first idea of where the keys are that have weights: low < high. */
static struct cut find_cut(struct sharpi_sampler *s, struct part from, struct range r, uint64_t total,
                           uint64_t wanted)
{
    uint64_t before = 0;
    for (int32_t level = 0; from.n > FEW && r.low < r.high; level++) {
        struct part *in = &s->parts[level & 1];
        struct range g = guess(s, &from, r, total, wanted - before);
        uint64_t above = scan_split(&from, g.high, g.low, in), between = sum_part(in, &r);
        if (before + above > wanted ||
            before + above + between <= wanted) { /* a wrong guess: take all on that side */
            g = before + above > wanted ? (struct range){g.high, INFINITY} : (struct range){-INFINITY, g.low};
            above = scan_split(&from, g.high, g.low, in);
            between = sum_part(in, &r);
        }
        before += above;
        total = between;
        from = *in;
    }
    return walk(&from, before, wanted);
}

/* ---- The view */

void view_know_max(struct view *v)
{
    if (!v->max_known)
        v->scale.max = scan_max(v->logits, v->n);
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

/* Makes sure of weights. Returns 0 when nothing is left. */
static int32_t weigh(struct sharpi_sampler *s, struct view *v)
{
    view_know_max(v);
    if (v->scale.max == -INFINITY)
        return 0;
    if (!v->weighed)
        v->total = scan_weigh(v->logits, v->n, &v->scale, s->weights, NULL);
    v->weighed = 1;
    return 1;
}

/* Where the running sum of weights, highest logit first, passes `wanted`. The view is weighed. */
static struct cut cut_at_mass(struct sharpi_sampler *s, const struct view *v, uint64_t wanted)
{
    const float max = v->scale.max, low = max - DEEPEST / v->scale.factor;
    const struct part all = {v->logits, s->weights, NULL, v->n};
    return find_cut(s, all, (struct range){fminf(low, nextafterf(max, -INFINITY)), max}, v->total, wanted);
}

/* Behind the k highest logits. */
static struct cut cut_at_rank(struct sharpi_sampler *s, struct view *v, int32_t k)
{
    struct cut c = {-FLT_MAX, v->n - 1, -1, 0};
    view_know_max(v);
    if (k >= v->n)
        return c;
    if (k <= HEAP_MAX) {
        struct cand best[HEAP_MAX];
        int32_t n = scan_top_k(v->logits, v->n, k, best);
        return n < k ? c : (struct cut){best[k - 1].logit, best[k - 1].id, k, 0};
    }
    const int32_t left = scan_count(v->logits, v->n, -FLT_MAX);
    if (left <= k)
        return c;
    const struct part all = {v->logits, s->weights, NULL, v->n};
    scan_ones(v->logits, v->n, s->weights);
    v->weighed = 0;
    const float low = fminf(v->scale.max - DEEPEST, nextafterf(v->scale.max, -INFINITY));
    c = find_cut(s, all, (struct range){low, v->scale.max}, (uint64_t)left, (uint64_t)k - 1);
    return (struct cut){c.key, c.at, k, 0};
}

/* The cut, or one that keeps as many as must be kept. */
static struct cut at_least(struct sharpi_sampler *s, struct view *v, struct cut c)
{
    if (s->params.min_keep <= 1)
        return c;
    struct cut least = cut_at_rank(s, v, s->params.min_keep);
    return least.key < c.key || (least.key == c.key && least.at > c.at) ? least : c;
}

/* Makes the kept places a list. */
static void gather(struct sharpi_sampler *s, struct view *v, const float *keys, int32_t n_first, float first,
                   float others)
{
    int32_t n = scan_gather(keys, n_first, first, s->kept);
    const int32_t n_others = scan_gather(keys + n_first, v->n - n_first, others, s->kept + n);
    for (int32_t i = n; i < n + n_others; i++)
        s->kept[i] += n_first;
    n += n_others;
    for (int32_t i = 0; i < n; i++) {
        const int32_t from = s->kept[i];
        s->list_logits[i] = v->logits[from];
        s->list_ids[i] = v->ids ? v->ids[from] : from;
        s->weights[i] = v->weighed ? s->weights[from] : 0;
    }
    v->logits = s->list_logits;
    v->ids = s->list_ids;
    v->n = n;
}

/* Sets what is behind the cut to -inf. */
static void cut_out(const struct sharpi_sampler *s, struct view *v, const float *keys, struct cut c)
{
    const int32_t n_first = c.at < v->n ? c.at + 1 : v->n, n_others = v->n - n_first;
    const float others = nextafterf(c.key, INFINITY);
    scan_cut(keys, n_first, c.key, v->logits, v->weighed ? s->weights : NULL);
    scan_cut(keys + n_first, n_others, others, v->logits + n_first, v->weighed ? s->weights + n_first : NULL);
}

/* Drops what is behind the cut in the order of keys. What is kept has the same weights if the highest logit is. */
static void keep(struct sharpi_sampler *s, struct view *v, const float *keys, struct cut c)
{
    const int32_t n_first = c.at < v->n ? c.at + 1 : v->n, n_others = v->n - n_first;
    const float others = nextafterf(c.key, INFINITY); /* of equal keys only the first are kept */
    if (c.count < 0)
        c.count = scan_count(keys, n_first, c.key) + scan_count(keys + n_first, n_others, others);
    v->weighed &= c.mass > 0;
    v->total = c.mass;
    if (c.count < v->n / SPARSE) {
        gather(s, v, keys, n_first, c.key, others);
        return;
    }
    if (keys == v->logits && v->weighed) {
        v->has_tail = 1;
        v->end = c;
        return;
    }
    cut_out(s, v, keys, c);
}

void view_cut_tail(struct sharpi_sampler *s, struct view *v)
{
    if (v->has_tail)
        cut_out(s, v, v->logits, v->end);
    v->has_tail = 0;
}

/* ---- Stages */

void apply_top_k(struct sharpi_sampler *s, struct view *v)
{
    if (s->params.top_k < v->n)
        keep(s, v, v->logits, cut_at_rank(s, v, s->params.top_k));
}

void apply_top_p(struct sharpi_sampler *s, struct view *v)
{
    const double p = (double)s->params.top_p;
    if (!weigh(s, v))
        return;
    uint64_t wanted = (uint64_t)ceil(p * (double)v->total); /* integers reach it where they pass one less */
    struct cut c = cut_at_mass(s, v, wanted > 0 ? wanted - 1 : 0);
    keep(s, v, v->logits, at_least(s, v, c));
}

void apply_min_p(struct sharpi_sampler *s, struct view *v)
{
    view_know_max(v);
    float limit = v->scale.max + (float)log((double)s->params.min_p) / v->scale.factor;
    limit = limit > -FLT_MAX ? limit : -FLT_MAX;
    keep(s, v, v->logits, at_least(s, v, (struct cut){limit, v->n - 1, -1, 0}));
}

/* Meister et al. 2022: tokens whose surprise is nearest to the entropy, until they pass p; the lowest id first on a tie. */
void apply_typical_p(struct sharpi_sampler *s, struct view *v)
{
    const double p = (double)s->params.typical_p;
    uint64_t depth;
    view_know_max(v);
    if (v->scale.max == -INFINITY)
        return;
    v->total = scan_weigh(v->logits, v->n, &v->scale, s->weights, &depth);
    v->weighed = 1;
    /* Surprise is depth + log(total), so the entropy is the mean depth + log(total). */
    const float mean = (float)((double)depth / (double)v->total);
    scan_nearness(v->logits, v->n, &v->scale, mean, s->keys);
    const struct part all = {s->keys, s->weights, NULL, v->n};
    struct cut c = find_cut(s, all, (struct range){-DEEPEST, 0}, v->total, (uint64_t)(p * (double)v->total));
    if (s->params.min_keep > 1) {
        const int32_t left = scan_count(v->logits, v->n, -FLT_MAX), least = s->params.min_keep;
        scan_ones(v->logits, v->n, s->weights);
        v->weighed = 0;
        struct cut most = {-FLT_MAX, v->n - 1, -1, 0};
        if (least < left)
            most = find_cut(s, all, (struct range){-DEEPEST, 0}, (uint64_t)left, (uint64_t)least - 1);
        most.mass = c.mass = 0;
        c = most.key < c.key || (most.key == c.key && most.at > c.at) ? most : c;
    }
    const int32_t keeps_max = -mean > c.key;
    keep(s, v, s->keys, c);
    v->max_known = keeps_max;
    v->weighed &= keeps_max;
}

/* Where weights are at least `enough`, in order of id. */
static int32_t gather_heavy(struct sharpi_sampler *s, const struct view *v, uint64_t enough)
{
    const float depth = -(float)log((double)enough / WEIGHT_ONE) + 0.01f; /* surely deep enough */
    const int32_t n =
        scan_gather(v->logits, v->n, fmaxf(v->scale.max - depth / v->scale.factor, -FLT_MAX), s->kept);
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) {
        const int32_t at = s->kept[i];
        s->kept[count] = at;
        count += s->weights[at] >= enough;
    }
    return count;
}

/* Exclude Top Choices: with some chance, of the tokens that are likely enough only the last in order stays. */
void apply_xtc(struct sharpi_sampler *s, struct view *v)
{
    const struct sharpi_sampler_params *p = &s->params;
    if (rng_uniform(&s->rng) >= (double)p->xtc_probability || !weigh(s, v))
        return;
    const uint64_t enough = (uint64_t)ceil((double)p->xtc_threshold * (double)v->total);
    const int32_t n = gather_heavy(s, v, enough > 0 ? enough : 1);
    int32_t last = 0;
    for (int32_t i = 1; i < n; i++)
        last = v->logits[s->kept[i]] <= v->logits[s->kept[last]] ? i : last;
    if (n < 2 || (p->min_keep > 1 && scan_count(v->logits, v->n, -FLT_MAX) - (n - 1) < p->min_keep))
        return;
    for (int32_t i = 0; i < n; i++) {
        if (i != last)
            v->logits[s->kept[i]] = -INFINITY;
    }
    v->max_known = v->weighed = 0;
}

void apply_temperature(struct sharpi_sampler *s, struct view *v)
{
    v->scale.factor = fminf(1 / s->params.temperature, 1e30f); /* so that 0 times it is 0 */
    v->weighed = 0;
}

/* ---- The draw */

int32_t draw(struct sharpi_sampler *s, struct view *v)
{
    if (!weigh(s, v))
        return -1;
    uint64_t wanted = (uint64_t)(rng_uniform(&s->rng) * (double)v->total);
    wanted = wanted < v->total ? wanted : v->total - 1; /* rounding */
    int32_t at = cut_at_mass(s, v, wanted).at;
    return v->ids ? v->ids[at] : at;
}

int32_t draw_highest(struct view *v)
{
    view_know_max(v);
    int32_t at = v->scale.max > -INFINITY ? scan_first(v->logits, v->n, v->scale.max) : -1;
    return at >= 0 && v->ids ? v->ids[at] : at;
}
