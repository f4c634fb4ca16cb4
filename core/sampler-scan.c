/* Passes over all logits of a vocabulary.
 *
 * Invariant: results have the same bits on every processor. So the exponential is our own, products are never fused with sums
 * (C17 mode; clang needs the pragma), and weights are integers: it does not matter in which order they are added.
 * Cost per pass over 262,144 logits: 1 MiB read; the exponential is some 20 operations for eight logits.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sampler-internal.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

enum {
    LANES = 8,
    SCAN_BLOCK = 32, /* logits that are compared at once before any is looked at */
};

typedef float lanes __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t mask __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint32_t words __attribute__((vector_size(LANES * 4), aligned(4))); /* may wrap around */

/* The same code for the processor at hand; lane arithmetic is the same in each. */
#if defined(__x86_64__)
#define FOR_EACH_CPU(ret, name, params, args)                                                                \
    __attribute__((target("avx2"))) static ret name##_avx2 params                                            \
    {                                                                                                        \
        return name##_body args;                                                                             \
    }                                                                                                        \
    static ret name##_any params                                                                             \
    {                                                                                                        \
        return name##_body args;                                                                             \
    }                                                                                                        \
    static ret name##_best params                                                                            \
    {                                                                                                        \
        return __builtin_cpu_supports("avx2") ? name##_avx2 args : name##_any args;                          \
    }
#else
#define FOR_EACH_CPU(ret, name, params, args)                                                                \
    static ret name##_best params                                                                            \
    {                                                                                                        \
        return name##_body args;                                                                             \
    }
#endif
#define BODY static inline __attribute__((always_inline))

/* exp(x) = 2^k * p(r), k = round(x * log2 e), r the rest: a polynomial of least relative error, 1e-7, with p(0) = 1. */
#define LOG2E   1.44269504088896341f
#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, in the low bits */
#define MIN_LOG -125.0f     /* of base 2 */

/* to[i] = 2^((from[i] - max) * factor) for LANES numbers, 0 where the exponent is below MIN_LOG. */
BODY void exp2_lanes(const float *from, float max, float factor, lanes *to)
{
    lanes x, t, r, p;
    words bits, value;
    memcpy(&x, from, sizeof x);
    x = (x - max) * factor;
    t = x + ROUNDER;
    r = x - (t - ROUNDER);
    p = r * 1.32647e-3f + 9.67151e-3f;
    p = p * r + 5.550734e-2f;
    p = p * r + 2.4022242e-1f;
    p = p * r + 6.9314698e-1f;
    p = p * r + 1.0f;
    memcpy(&bits, &t, sizeof bits);
    memcpy(&value, &p, sizeof value);
    value = (value + (bits << 23)) & (words)(x > MIN_LOG); /* the shift drops ROUNDER's own bits */
    memcpy(to, &value, sizeof value);
}

/* A sum of weights in 16-bit halves, so that 32-bit lanes hold SUM_MAX of each. */
struct sums {
    words low, high;
};
enum { SUM_MAX = 1 << 15 };

BODY void add_words(struct sums *sums, const words *weights)
{
    sums->low += *weights & 0xffffu;
    sums->high += *weights >> 16;
}

BODY uint64_t sum_of(const struct sums *sums)
{
    uint32_t low[LANES], high[LANES];
    uint64_t total = 0;
    memcpy(low, &sums->low, sizeof low);
    memcpy(high, &sums->high, sizeof high);
    for (int32_t k = 0; k < LANES; k++)
        total += low[k] + ((uint64_t)high[k] << 16);
    return total;
}

/* *best = the higher one, lane by lane; *ordered loses the lanes with a NaN. */
BODY void raise_lanes(const float *from, lanes *best, mask *ordered)
{
    lanes x;
    mask a, b;
    memcpy(&x, from, sizeof x);
    mask above = x > *best;
    *ordered &= x == x;
    memcpy(&a, &x, sizeof a);
    memcpy(&b, best, sizeof b);
    a = (a & above) | (b & ~above);
    memcpy(best, &a, sizeof a);
}

/* The highest logit, +inf if any is NaN. */
BODY float max_body(const float *logits, int32_t n)
{
    enum { CHAINS = 4 }; /* independent ones, or each comparison waits for the last */
    lanes best[CHAINS];
    float high = -INFINITY;
    mask ordered = ~(mask){0};
    int32_t i = 0, any_bad = 0;
    for (int32_t c = 0; c < CHAINS; c++)
        best[c] = (lanes){0} - INFINITY;
    for (; i + CHAINS * LANES <= n; i += CHAINS * LANES) {
        for (int32_t c = 0; c < CHAINS; c++)
            raise_lanes(logits + i + c * LANES, &best[c], &ordered);
    }
    for (int32_t c = 0; c < CHAINS; c++) {
        for (int32_t k = 0; k < LANES; k++) {
            high = best[c][k] > high ? best[c][k] : high;
            any_bad |= !ordered[k];
        }
    }
    for (; i < n; i++) {
        high = logits[i] > high ? logits[i] : high;
        any_bad |= logits[i] != logits[i];
    }
    return any_bad ? INFINITY : high;
}
FOR_EACH_CPU(float, max, (const float *logits, int32_t n), (logits, n))

float scan_max(float *logits, int32_t n)
{
    float max = max_best(logits, n);
    if (max <= FLT_MAX)
        return max;
    for (int32_t i = 0; i < n; i++) {
        if (logits[i] != logits[i])
            logits[i] = -INFINITY;
        else if (logits[i] > FLT_MAX)
            logits[i] = FLT_MAX;
    }
    return max_best(logits, n);
}

/* Numbers from 0 to 1 as integers. */
BODY void to_words(const lanes *x, words *to)
{
    mask m = __builtin_convertvector(*x * (float)WEIGHT_ONE + 0.5f, mask);
    memcpy(to, &m, sizeof m);
}

/* to = weight * depth below the highest, 0 where the weight is 0. */
BODY void depth_lanes(const float *logits, const struct scale *by, const lanes *weights, lanes *to)
{
    lanes x;
    mask bits;
    memcpy(&x, logits, sizeof x);
    x = (by->max - x) * by->factor * *weights;
    memcpy(&bits, &x, sizeof bits);
    bits &= *weights > 0.0f;
    memcpy(to, &bits, sizeof bits);
}

BODY uint64_t weigh_some(const float *logits, int32_t n, const struct scale *by, uint32_t *weights,
                         uint64_t *depth)
{
    const struct scale scale = *by;
    const float factor = scale.factor * LOG2E;
    struct sums sums = {{0}, {0}}, depths = {{0}, {0}};
    for (int32_t i = 0; i + LANES <= n; i += LANES) {
        lanes e, t;
        words w, d;
        exp2_lanes(logits + i, scale.max, factor, &e);
        to_words(&e, &w);
        memcpy(weights + i, &w, sizeof w);
        add_words(&sums, &w);
        if (depth) {
            depth_lanes(logits + i, &scale, &e, &t);
            to_words(&t, &d);
            add_words(&depths, &d);
        }
    }
    if (depth)
        *depth += sum_of(&depths);
    return sum_of(&sums);
}

BODY uint64_t weigh_body(const float *logits, int32_t n, const struct scale *by, uint32_t *weights,
                         uint64_t *depth)
{
    uint64_t total = 0;
    int32_t i = 0;
    for (; n - i >= LANES;) {
        int32_t some = n - i < SUM_MAX * LANES ? (n - i) / LANES * LANES : SUM_MAX * LANES;
        total += weigh_some(logits + i, some, by, weights + i, depth);
        i += some;
    }
    if (i < n) {
        float tail[LANES];
        uint32_t w[LANES];
        for (int32_t k = 0; k < LANES; k++)
            tail[k] = i + k < n ? logits[i + k] : -INFINITY;
        total += weigh_some(tail, LANES, by, w, depth);
        memcpy(weights + i, w, (size_t)(n - i) * sizeof *w);
    }
    return total;
}
BODY uint64_t weights_body(const float *logits, int32_t n, const struct scale *by, uint32_t *weights)
{
    return weigh_body(logits, n, by, weights, NULL);
}
FOR_EACH_CPU(uint64_t, weights, (const float *logits, int32_t n, const struct scale *by, uint32_t *weights),
             (logits, n, by, weights))
FOR_EACH_CPU(uint64_t, weigh,
             (const float *logits, int32_t n, const struct scale *by, uint32_t *weights, uint64_t *depth),
             (logits, n, by, weights, depth))

uint64_t scan_weigh(const float *logits, int32_t n, const struct scale *by, uint32_t *weights,
                    uint64_t *depth)
{
    if (!depth)
        return weights_best(logits, n, by, weights);
    *depth = 0;
    return weigh_best(logits, n, by, weights, depth);
}

BODY double sum_exp_body(const float *logits, int32_t n, float max)
{
    double total = 0;
    for (int32_t block = 0; block < n; block += SUM_BLOCK) {
        int32_t end = n - block < SUM_BLOCK ? n : block + SUM_BLOCK, i = block;
        lanes sum = {0}, e;
        for (; i + LANES <= end; i += LANES) {
            exp2_lanes(logits + i, max, LOG2E, &e);
            sum += e;
        }
        if (i < end) {
            float tail[LANES];
            for (int32_t k = 0; k < LANES; k++)
                tail[k] = i + k < end ? logits[i + k] : -INFINITY;
            exp2_lanes(tail, max, LOG2E, &e);
            sum += e;
        }
        for (int32_t k = 0; k < LANES; k++)
            total += (double)sum[k];
    }
    return total;
}
FOR_EACH_CPU(double, sum_exp, (const float *logits, int32_t n, float max), (logits, n, max))

double scan_sum_exp(const float *logits, int32_t n, float max)
{
    return sum_exp_best(logits, n, max);
}

BODY void nearness_body(const float *logits, int32_t n, const struct scale *by, float centre, float *keys)
{
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes x;
        words bits;
        memcpy(&x, logits + i, sizeof x);
        x = (by->max - x) * by->factor - centre;
        memcpy(&bits, &x, sizeof bits);
        bits |= 0x80000000u; /* minus the absolute value */
        memcpy(keys + i, &bits, sizeof bits);
    }
    for (; i < n; i++)
        keys[i] = -fabsf((by->max - logits[i]) * by->factor - centre);
}
FOR_EACH_CPU(void, nearness,
             (const float *logits, int32_t n, const struct scale *by, float centre, float *keys),
             (logits, n, by, centre, keys))

void scan_nearness(const float *logits, int32_t n, const struct scale *by, float centre, float *keys)
{
    nearness_best(logits, n, by, centre, keys);
}

BODY void ones_body(const float *logits, int32_t n, uint32_t *weights)
{
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes x;
        memcpy(&x, logits + i, sizeof x);
        mask bits = (x > -INFINITY) & 1;
        memcpy(weights + i, &bits, sizeof bits);
    }
    for (; i < n; i++)
        weights[i] = logits[i] > -INFINITY;
}
FOR_EACH_CPU(void, ones, (const float *logits, int32_t n, uint32_t *weights), (logits, n, weights))

void scan_ones(const float *logits, int32_t n, uint32_t *weights)
{
    ones_best(logits, n, weights);
}

BODY void block_sums_body(const uint32_t *weights, int32_t n, uint64_t *to)
{
    for (int32_t block = 0; block < n; block += SUM_BLOCK) {
        int32_t end = n - block < SUM_BLOCK ? n : block + SUM_BLOCK, i = block;
        struct sums sums = {{0}, {0}};
        uint64_t rest = 0;
        for (; i + LANES <= end; i += LANES) {
            words w;
            memcpy(&w, weights + i, sizeof w);
            add_words(&sums, &w);
        }
        for (; i < end; i++)
            rest += weights[i];
        to[block / SUM_BLOCK] = rest + sum_of(&sums);
    }
}
FOR_EACH_CPU(void, block_sums, (const uint32_t *weights, int32_t n, uint64_t *to), (weights, n, to))

void scan_block_sums(const uint32_t *weights, int32_t n, uint64_t *to)
{
    block_sums_best(weights, n, to);
}

/* Is a mask all zero? */
BODY int32_t is_none(const mask *m)
{
    int64_t parts __attribute__((vector_size(LANES * 4)));
    memcpy(&parts, m, sizeof parts);
    return (parts[0] | parts[1] | parts[2] | parts[3]) == 0;
}

/* Is any of LANES keys between? */
BODY int32_t any_between(const float *keys, float top, float bottom)
{
    lanes k;
    memcpy(&k, keys, sizeof k);
    mask any = (k > bottom) & (k <= top);
    return !is_none(&any);
}

/* *sums gets what is above; starts[] where of LANES keys some are between. Returns how many: no branch depends on that. */
BODY int32_t split_some(const float *keys, const uint32_t *weights, int32_t n, float top, float bottom,
                        struct sums *to, int32_t *starts)
{
    struct sums sums = {{0}, {0}};
    int32_t count = 0;
    for (int32_t i = 0; i + LANES <= n; i += LANES) {
        lanes k;
        words w;
        memcpy(&k, keys + i, sizeof k);
        memcpy(&w, weights + i, sizeof w);
        mask above = k > top, between = (k > bottom) & ~above;
        w &= (words)above;
        add_words(&sums, &w);
        starts[count] = i;
        count += !is_none(&between);
    }
    *to = sums;
    return count;
}

BODY void take_between(const struct part *from, int32_t start, int32_t end, float top, float bottom,
                       struct part *in)
{
    int32_t n = in->n;
    for (int32_t i = start; i < end; i++) {
        in->keys[n] = from->keys[i];
        in->weights[n] = from->weights[i];
        in->at[n] = from->at ? from->at[i] : i;
        n += (from->keys[i] > bottom) & (from->keys[i] <= top);
    }
    in->n = n;
}

BODY uint64_t split_body(const struct part *from, float top, float bottom, struct part *in)
{
    enum { AT_ONCE = 4096 };
    int32_t starts[AT_ONCE / LANES];
    uint64_t total = 0;
    int32_t i = 0;
    in->n = 0;
    while (from->n - i >= LANES) {
        struct sums sums;
        int32_t some = from->n - i < AT_ONCE ? (from->n - i) / LANES * LANES : AT_ONCE;
        int32_t n = split_some(from->keys + i, from->weights + i, some, top, bottom, &sums, starts);
        total += sum_of(&sums);
        for (int32_t k = 0; k < n; k++)
            take_between(from, i + starts[k], i + starts[k] + LANES, top, bottom, in);
        i += some;
    }
    take_between(from, i, from->n, top, bottom, in);
    for (; i < from->n; i++)
        total += from->keys[i] > top ? from->weights[i] : 0;
    return total;
}
FOR_EACH_CPU(uint64_t, split, (const struct part *from, float top, float bottom, struct part *in),
             (from, top, bottom, in))

uint64_t scan_split(const struct part *from, float top, float bottom, struct part *in)
{
    return split_best(from, top, bottom, in);
}

BODY int32_t count_body(const float *keys, int32_t n, float at_least)
{
    mask counts = {0};
    int32_t count = 0, i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes x;
        memcpy(&x, keys + i, sizeof x);
        counts -= x >= at_least;
    }
    for (; i < n; i++)
        count += keys[i] >= at_least;
    for (int32_t k = 0; k < LANES; k++)
        count += counts[k];
    return count;
}
FOR_EACH_CPU(int32_t, count, (const float *keys, int32_t n, float at_least), (keys, n, at_least))

int32_t scan_count(const float *keys, int32_t n, float at_least)
{
    return count_best(keys, n, at_least);
}

BODY void mask_body(const float *keys, int32_t n, float at_least, uint32_t *weights)
{
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes k;
        words v;
        memcpy(&k, keys + i, sizeof k);
        memcpy(&v, weights + i, sizeof v);
        v &= (words)(k >= at_least);
        memcpy(weights + i, &v, sizeof v);
    }
    for (; i < n; i++)
        weights[i] = keys[i] >= at_least ? weights[i] : 0;
}
FOR_EACH_CPU(void, mask, (const float *keys, int32_t n, float at_least, uint32_t *weights),
             (keys, n, at_least, weights))

BODY void cut_body(const float *keys, int32_t n, float at_least, float *logits)
{
    int32_t i = 0;
    const lanes out = (lanes){0} - INFINITY;
    for (; i + LANES <= n; i += LANES) {
        lanes k, x;
        mask a, b;
        memcpy(&k, keys + i, sizeof k);
        memcpy(&a, logits + i, sizeof a);
        memcpy(&b, &out, sizeof b);
        mask is_kept = k >= at_least;
        a = (a & is_kept) | (b & ~is_kept);
        memcpy(&x, &a, sizeof x);
        memcpy(logits + i, &x, sizeof x);
    }
    for (; i < n; i++)
        logits[i] = keys[i] >= at_least ? logits[i] : -INFINITY;
}
FOR_EACH_CPU(void, cut, (const float *keys, int32_t n, float at_least, float *logits),
             (keys, n, at_least, logits))

void scan_cut(const float *keys, int32_t n, float at_least, float *logits, uint32_t *weights)
{
    if (weights)
        mask_best(keys, n, at_least, weights);
    cut_best(keys, n, at_least, logits);
}

/* Is any of SCAN_BLOCK logits at least / above the limit? */
BODY int32_t any_above_body(const float *logits, float limit, int32_t or_equal)
{
    mask any = {0};
    for (int32_t i = 0; i < SCAN_BLOCK; i += LANES) {
        lanes x;
        memcpy(&x, logits + i, sizeof x);
        any |= or_equal ? (mask)(x >= limit) : (mask)(x > limit);
    }
    return !is_none(&any);
}

/* at[] = where keys are at least the limit, in order. */
BODY int32_t gather_body(const float *keys, int32_t n, float at_least, int32_t *at)
{
    const float below = nextafterf(at_least, -INFINITY);
    int32_t count = 0, i = 0;
    while (i < n) {
        int32_t end = i + SCAN_BLOCK <= n ? i + SCAN_BLOCK : n;
        if (end - i == SCAN_BLOCK && !any_above_body(keys + i, at_least, 1)) {
            i = end;
            continue;
        }
        while (i < end) {
            int32_t some = end - i < LANES ? end - i : LANES;
            if (some == LANES && !any_between(keys + i, INFINITY, below)) {
                i += LANES;
                continue;
            }
            for (int32_t last = i + some; i < last; i++) {
                at[count] = i;
                count += keys[i] >= at_least;
            }
        }
    }
    return count;
}
FOR_EACH_CPU(int32_t, gather, (const float *keys, int32_t n, float at_least, int32_t *at),
             (keys, n, at_least, at))

int32_t scan_gather(const float *keys, int32_t n, float at_least, int32_t *at)
{
    return gather_best(keys, n, at_least, at);
}

/* Does a come behind b in the order of results? */
static int32_t is_behind(struct cand a, struct cand b)
{
    return a.logit < b.logit || (a.logit == b.logit && a.id > b.id);
}

/* Heap whose top is the last of the kept ones: puts `c` at place i and lets it sink. */
static void sink(struct cand *heap, int32_t n, int32_t i, struct cand c)
{
    for (;;) {
        int32_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && is_behind(heap[child + 1], heap[child]))
            child++;
        if (!is_behind(heap[child], c))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = c;
}

/* The next logit above the limit at or behind `from`; n if there is none. */
BODY int32_t next_above_body(const float *logits, int32_t n, int32_t from, float limit)
{
    int32_t i = from;
    for (; i < n && i % SCAN_BLOCK != 0; i++) {
        if (logits[i] > limit)
            return i;
    }
    while (i + SCAN_BLOCK <= n && !any_above_body(logits + i, limit, 0))
        i += SCAN_BLOCK;
    while (i < n && !(logits[i] > limit))
        i++;
    return i;
}
FOR_EACH_CPU(int32_t, next_above, (const float *logits, int32_t n, int32_t from, float limit),
             (logits, n, from, limit))

int32_t scan_first(const float *logits, int32_t n, float at_least)
{
    int32_t i = next_above_best(logits, n, 0, nextafterf(at_least, -INFINITY));
    return i < n ? i : -1;
}

static int32_t select_heap(const float *logits, int32_t n, int32_t k, struct cand *out)
{
    int32_t count = 0;
    float limit = -INFINITY;
    for (int32_t i = next_above_best(logits, n, 0, limit); i < n;
         i = next_above_best(logits, n, i + 1, limit)) {
        struct cand c = {logits[i], i};
        if (count < k) {
            out[count++] = c;
            if (count < k)
                continue;
            for (int32_t j = k / 2 - 1; j >= 0; j--)
                sink(out, k, j, out[j]);
        } else {
            sink(out, k, 0, c);
        }
        limit = out[0].logit;
    }
    return count;
}

static int compare(const void *a, const void *b)
{
    const struct cand *x = a, *y = b;
    return is_behind(*x, *y) ? 1 : is_behind(*y, *x) ? -1 : 0;
}

int32_t scan_top_k(const float *logits, int32_t n, int32_t k, struct cand *out)
{
    int32_t count = select_heap(logits, n, k < n ? k : n, out);
    qsort(out, (size_t)count, sizeof *out, compare);
    return count;
}

static float logprob(float logit, double log_total)
{
    if (logit > FLT_MAX)
        return 0;
    return logit == logit ? (float)((double)logit - log_total) : -INFINITY;
}

int32_t sharpi_logits_top(const float *logits, int32_t n_vocab, int32_t k, struct sharpi_logprob *out,
                          int32_t chosen_id, float *chosen)
{
    int32_t count = 0;
    int32_t highest = next_above_best(logits, n_vocab, 0, -INFINITY);
    for (int32_t i = highest; i < n_vocab; i = next_above_best(logits, n_vocab, i + 1, logits[i]))
        highest = i;
    float limit = -INFINITY, max = highest < n_vocab ? logits[highest] : -INFINITY;
    double total = scan_sum_exp(logits, n_vocab, max);
    double log_total = log(total > 0 ? total : 1) + (double)max;
    if (chosen)
        *chosen = chosen_id >= 0 && chosen_id < n_vocab ? logprob(logits[chosen_id], log_total) : -INFINITY;
    if (k <= 0)
        return 0;
    /* k is small, so insertion into the sorted result will do. */
    for (int32_t i = next_above_best(logits, n_vocab, 0, limit); i < n_vocab;
         i = next_above_best(logits, n_vocab, i + 1, limit)) {
        int32_t at = count < k ? count++ : k - 1;
        for (; at > 0 && logits[out[at - 1].id] < logits[i]; at--)
            out[at] = out[at - 1];
        out[at] = (struct sharpi_logprob){i, logprob(logits[i], log_total)};
        if (count == k)
            limit = logits[out[k - 1].id];
    }
    return count;
}
