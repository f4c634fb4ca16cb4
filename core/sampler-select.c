/* Finding the place of a cut: the token, in the order of keys, at which a running sum passes what is wanted.
 *
 * Invariant: the place is exact, whatever an estimate said. Nothing long is sorted: a sample says between which two keys the cut
 * is likely to lie, one pass adds up what is above them and takes out the tokens between, and of these only the bucket that holds
 * the cut is looked at again.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "sampler-internal.h"

enum {
    N_BUCKETS = 1024,
    FEW = 64,        /* so few are sorted */
    SHORT = 8192,    /* in a view so short all are between */
    N_SAMPLES = 128, /* blocks that stand for the others */
};

#define DEVIATIONS  3.5       /* of a sampled sum that are allowed for */
#define SAMPLE_UNIT 0x1p30    /* what the weights of a sample add up to, about */
#define SAMPLE_MOST 0x1p30    /* of one: where the estimate of its block was too low */
#define NOWHERE     INT32_MAX /* the place of a cut behind everything */
#define EVERYTHING                                                                                           \
    (struct range)                                                                                           \
    {                                                                                                        \
        -INFINITY, INFINITY                                                                                  \
    }

/* ---- Buckets of equal width, highest key first */

struct buckets {
    struct range r; /* both ends belong to it */
    double per_key;
    uint64_t sums[N_BUCKETS];
};

static int32_t bucket_of(const struct buckets *b, float key)
{
    const int32_t bucket = (int32_t)(((double)b->r.high - (double)key) * b->per_key);
    return bucket < N_BUCKETS - 1 ? bucket : N_BUCKETS - 1;
}

static float bucket_top(const struct buckets *b, int32_t bucket)
{
    return (float)((double)b->r.high - bucket / b->per_key);
}

/* The range has two ends. */
static void begin_buckets(struct buckets *b, struct range r)
{
    b->r = r;
    b->per_key = N_BUCKETS / ((double)r.high - (double)r.low);
    memset(b->sums, 0, sizeof b->sums);
}

static void fill_buckets(struct buckets *b, const struct part *p, struct range r)
{
    begin_buckets(b, r);
    for (int32_t i = 0; i < p->n; i++)
        b->sums[bucket_of(b, p->keys[i])] += p->weights[i];
}

/* ---- Exactly */

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
    int32_t order[FEW];
    if (p->n <= FEW)
        sort_few(p, order);
    for (int32_t i = 0; i < p->n; i++) {
        const int32_t k = p->n <= FEW ? order[i] : i;
        before += p->weights[k];
        if (before > wanted)
            return (struct cut){p->keys[k], p->at[k], -1, before};
    }
    return (struct cut){-FLT_MAX, NOWHERE, -1, 0};
}

/* to = the part's tokens in one bucket; `to` may be the part. */
static void take_bucket(const struct part *p, const struct buckets *b, int32_t bucket, struct part *to)
{
    int32_t n = 0;
    for (int32_t i = 0; i < p->n; i++) {
        if (bucket_of(b, p->keys[i]) != bucket)
            continue;
        to->keys[n] = p->keys[i];
        to->weights[n] = p->weights[i];
        to->at[n++] = p->at[i];
    }
    to->n = n;
}

/* Where the running sum, of which `before` comes before the part, passes `wanted`; NOWHERE: not in the part. All its keys are in
 * the range. Uses parts[1]. */
static struct cut select_cut(struct sharpi_sampler *s, struct part part, struct range r, uint64_t before,
                             uint64_t wanted)
{
    struct buckets b;
    if (!(r.low > -INFINITY && r.high < INFINITY))
        r = scan_range(part.keys, part.n);
    while (part.n > FEW && r.low < r.high) {
        struct part *to = &s->parts[1];
        int32_t bucket = 0;
        fill_buckets(&b, &part, r);
        for (; bucket < N_BUCKETS - 1 && before + b.sums[bucket] <= wanted; bucket++)
            before += b.sums[bucket];
        take_bucket(&part, &b, bucket, to);
        part = *to;
        r = scan_range(part.keys, part.n);
    }
    return walk(&part, before, wanted);
}

/* ---- By estimate */

/* What a view's tokens count for in the order of keys, by a sample of them: blocks that count for much, and each so-manyth, by
 * what they count for, of the others. */
struct sample {
    struct part part; /* is 1 in `at` for what stands for others too */
    struct buckets buckets;
    double squares[N_BUCKETS]; /* of what stands for others */
};

/* By rank all blocks are alike. */
static uint64_t size_of(const struct sharpi_sampler *s, const struct measure *m, int32_t block)
{
    return m->is_rank ? BLOCK : s->sums[block];
}

static void take_sample(struct sharpi_sampler *s, const struct view *v, const struct measure *m,
                        struct part *to)
{
    const int32_t n_blocks = (v->n + BLOCK - 1) / BLOCK;
    uint64_t total = 0, carry = 0;
    for (int32_t b = 0; b < n_blocks; b++)
        total += size_of(s, m, b);
    const uint64_t step = total / N_SAMPLES + 1;
    const double unit = SAMPLE_UNIT / (double)total;
    int32_t n = 0;
    for (int32_t b = 0; b < n_blocks; b++) {
        float keys[BLOCK];
        uint32_t weights[BLOCK];
        const uint64_t size = size_of(s, m, b);
        const int32_t is_sample = size < step;
        carry += is_sample ? size : 0;
        if (is_sample && carry < step)
            continue;
        carry -= is_sample ? step : 0;
        const int32_t here = scan_block(v, m, b, keys, weights);
        const double stands_for = is_sample ? unit * (double)step / (double)size : unit;
        for (int32_t i = 0; i < here; i++) {
            const double weight = (double)(int32_t)weights[i] * stands_for;
            to->keys[n] = keys[i];
            to->weights[n] = (uint32_t)(int32_t)(weight < SAMPLE_MOST ? weight : SAMPLE_MOST);
            to->at[n] = is_sample;
            n += (weight >= 1) & (keys[i] > -INFINITY);
        }
    }
    to->n = n;
}

/* The variance of the estimated sum in the buckets before `end`, which is a share of the whole: of a ratio's residuals (Cochran,
 * Sampling Techniques, 6.3). */
static double variance(const struct sample *sample, int32_t end, double share)
{
    double inside = 0, outside = 0;
    for (int32_t b = 0; b < N_BUCKETS; b++)
        *(b < end ? &inside : &outside) += sample->squares[b];
    return inside * (1 - share) * (1 - share) + outside * share * share;
}

/* The first bucket at which the running sum passes `wanted`; N_BUCKETS: none. */
static int32_t bucket_at(const struct buckets *b, double wanted)
{
    double sum = 0;
    int32_t i = 0;
    for (; i < N_BUCKETS; i++) {
        sum += (double)b->sums[i];
        if (sum > wanted)
            break;
    }
    return i;
}

/* The keys between which the running sum passes a share of the whole, very likely. */
static struct range guess(struct sharpi_sampler *s, const struct view *v, const struct measure *m,
                          double share)
{
    struct sample sample = {.part = s->parts[1]};
    struct range g = EVERYTHING;
    double whole = 0;
    take_sample(s, v, m, &sample.part);
    const struct part *p = &sample.part;
    const struct range r = scan_range(p->keys, p->n);
    if (p->n == 0 || !(r.low < r.high))
        return g;
    begin_buckets(&sample.buckets, r);
    for (int32_t i = 0; i < p->n; i++) {
        const int32_t bucket = bucket_of(&sample.buckets, p->keys[i]);
        const double weight = (double)(int32_t)p->weights[i];
        whole += weight;
        sample.buckets.sums[bucket] += p->weights[i];
        sample.squares[bucket] += p->at[i] ? weight * weight : 0;
    }
    const int32_t middle = bucket_at(&sample.buckets, share * whole);
    const double margin = DEVIATIONS * sqrt(variance(&sample, middle + 1, share));
    const int32_t first = bucket_at(&sample.buckets, share * whole - margin),
                  last = bucket_at(&sample.buckets, share * whole + margin);
    if (first > 0)
        g.high = bucket_top(&sample.buckets, first);
    if (last < N_BUCKETS - 1)
        g.low = bucket_top(&sample.buckets, last + 1);
    return g;
}

/* Sizes of blocks before they are weighed: what weighs most in it, and what the rest of a block usually does. */
static void estimate_sums(struct sharpi_sampler *s, const struct view *v, const struct measure *m)
{
    enum { N_RESTS = 31 };
    const int32_t n_blocks = (v->n + BLOCK - 1) / BLOCK;
    const struct view tops = {.logits = v->maxima, .n = n_blocks};
    uint64_t rests[N_RESTS];
    float keys[BLOCK];
    uint32_t weights[BLOCK];
    for (int32_t b = 0; b < n_blocks; b += BLOCK) {
        const int32_t n = scan_block(&tops, m, b / BLOCK, keys, weights);
        for (int32_t i = 0; i < n; i++)
            s->sums[b + i] = weights[i];
    }
    for (int32_t i = 0; i < N_RESTS; i++) {
        const int32_t b = (int32_t)((int64_t)n_blocks * i / N_RESTS), n = scan_block(v, m, b, keys, weights);
        uint64_t rest = 0;
        int32_t j = i;
        for (int32_t k = 0; k < n; k++)
            rest += weights[k];
        rest -= s->sums[b];
        for (; j > 0 && rests[j - 1] > rest; j--)
            rests[j] = rests[j - 1];
        rests[j] = rest;
    }
    for (int32_t b = 0; b < n_blocks; b++)
        s->sums[b] += rests[N_RESTS / 2] + 1;
}

/* Adds what is kept of those between to the sums of what is above. */
static void complete_sums(struct sharpi_sampler *s, const struct part *between, struct cut c)
{
    for (int32_t i = 0; i < between->n; i++)
        s->sums[(uint32_t)between->at[i] / BLOCK] +=
            between->weights[i] & -(uint32_t)is_kept(c, between->keys[i], between->at[i]);
}

/* The cut, in or beside the range that was split at. */
static struct cut cut_in(struct sharpi_sampler *s, const struct view *v, const struct measure *m,
                         struct range r, struct split found, uint64_t wanted)
{
    struct part *between = &s->parts[0];
    uint64_t *sums = m->is_rank ? NULL : s->sums;
    struct cut c = {.at = NOWHERE};
    if (found.above <= wanted)
        c = select_cut(s, *between, r, found.above, wanted);
    if (c.at == NOWHERE) { /* a wrong guess: take all on that side */
        r = found.above > wanted ? (struct range){r.high, INFINITY} : (struct range){-INFINITY, r.low};
        found = scan_split(v, m, r, 0, sums, between);
        c = select_cut(s, *between, r, found.above, wanted);
    }
    c.count = found.n_above + between->n;
    if (sums)
        complete_sums(s, between, c);
    return c;
}

struct cut find_cut(struct sharpi_sampler *s, const struct view *v, const struct measure *m, uint64_t total,
                    uint64_t wanted)
{
    const struct range r = v->n > SHORT ? guess(s, v, m, (double)wanted / (double)total) : EVERYTHING;
    return cut_in(s, v, m, r, scan_split(v, m, r, 0, m->is_rank ? NULL : s->sums, &s->parts[0]), wanted);
}

struct cut find_share(struct sharpi_sampler *s, const struct view *v, const struct measure *m, double share)
{
    struct range r = EVERYTHING;
    if (v->n > SHORT) {
        if (!v->weighed)
            estimate_sums(s, v, m);
        r = guess(s, v, m, share);
    }
    const struct split found = scan_split(v, m, r, 1, s->sums, &s->parts[0]);
    const uint64_t reach = (uint64_t)ceil(share * (double)found.total);
    return cut_in(s, v, m, r, found,
                  reach > 0 ? reach - 1 : 0); /* integers reach it where they pass one less */
}

/* ---- By rank */

/* Of k blocks the highest are at least this: so are the k highest of all. */
static float kth_maximum(struct sharpi_sampler *s, const struct view *v, int32_t k)
{
    struct part all = s->parts[0];
    all.n = 0;
    for (int32_t b = 0; b * BLOCK < v->n; b++) {
        all.keys[all.n] = v->maxima[b];
        all.weights[all.n] = 1;
        all.at[all.n] = b;
        all.n += v->maxima[b] > -INFINITY;
    }
    return k < all.n ? select_cut(s, all, EVERYTHING, 0, (uint64_t)k - 1).key : -INFINITY;
}

struct cut cut_at_rank(struct sharpi_sampler *s, const struct view *v, const struct measure *m, int32_t k)
{
    const struct cut everything = {-FLT_MAX, v->n - 1, -1, 0};
    struct measure by = *m;
    by.is_rank = 1;
    if (k >= v->n)
        return everything;
    if (m->is_near || k >= v->n / BLOCK) {
        const struct measure logit = {.scale = v->scale};
        const int32_t left = scan_count(v, &logit, everything);
        return left <= k ? everything : find_cut(s, v, &by, (uint64_t)left, (uint64_t)k - 1);
    }
    const float low = nextafterf(kth_maximum(s, v, k), -INFINITY);
    struct part *between = &s->parts[0];
    scan_split(v, &by, (struct range){low, INFINITY}, 0, NULL, between);
    return between->n < k ? everything : select_cut(s, *between, EVERYTHING, 0, (uint64_t)k - 1);
}
