/* Passes over all logits of a vocabulary, and sorting what they found.
 *
 * Invariant: results have the same bits on every processor. So the exponential is our own, sums are formed in the same
 * eight lanes everywhere, and products are never fused with sums (C17 mode; clang needs the pragma).
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
    RADIX_MIN = 512,
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

/* exp(x) = 2^k * p(r), r in [-ln2/2, ln2/2]: Cephes' polynomial, relative error about 1e-7. */
#define LOG2E    1.44269504088896341f
#define LN2_HIGH 0.693359375f
#define LN2_LOW  -2.12194440e-4f
#define ROUNDER  12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, in the low bits */
#define EXP_MIN  -87.0f

/* to[i] = exp(from[i] - max) for LANES numbers, 0 where that is below EXP_MIN. */
BODY void exp_lanes(const float *from, float max, float *to)
{
    lanes x, t, k, r, p;
    words bits, value;
    mask keep;
    memcpy(&x, from, sizeof x);
    x = x - max;
    keep = x > EXP_MIN;
    t = x * LOG2E + ROUNDER;
    k = t - ROUNDER;
    r = x - k * LN2_HIGH;
    r = r - k * LN2_LOW;
    p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    memcpy(&bits, &t, sizeof bits);
    bits = (bits - 0x4b400000u) << 23; /* k times the weight of one in the exponent */
    memcpy(&value, &p, sizeof value);
    value = (value + bits) & (words)keep;
    memcpy(to, &value, sizeof value);
}

float exp_nonpositive(float x)
{
    float from[LANES] = {x}, to[LANES];
    exp_lanes(from, 0, to);
    return to[0];
}

BODY void exp_all_body(float *x, int32_t n, float max)
{
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        exp_lanes(x + i, max, x + i);
    for (; i < n; i++)
        x[i] = exp_nonpositive(x[i] - max);
}
FOR_EACH_CPU(void, exp_all, (float *x, int32_t n, float max), (x, n, max))

void scan_exp(float *x, int32_t n, float max)
{
    exp_all_best(x, n, max);
}

/* The highest logit, +inf if any is NaN. */
BODY float max_body(const float *logits, int32_t n)
{
    float high[LANES], best = -INFINITY;
    int32_t good[LANES], any_bad = 0, i = 0;
    lanes m = (lanes){0} - INFINITY;
    mask ordered = ~(mask){0};
    for (; i + LANES <= n; i += LANES) {
        lanes x;
        mask a, b;
        memcpy(&x, logits + i, sizeof x);
        mask above = x > m;
        ordered &= x == x;
        memcpy(&a, &x, sizeof a);
        memcpy(&b, &m, sizeof b);
        a = (a & above) | (b & ~above);
        memcpy(&m, &a, sizeof m);
    }
    memcpy(high, &m, sizeof high);
    memcpy(good, &ordered, sizeof good);
    for (int32_t k = 0; k < LANES; k++) {
        best = high[k] > best ? high[k] : best;
        any_bad |= !good[k];
    }
    for (; i < n; i++) {
        best = logits[i] > best ? logits[i] : best;
        any_bad |= logits[i] != logits[i];
    }
    return any_bad ? INFINITY : best;
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

BODY double sum_exp_body(const float *logits, int32_t n, float max, double *block_sums)
{
    double total = 0;
    float e[LANES];
    for (int32_t block = 0; block < n; block += SUM_BLOCK) {
        lanes sum = {0};
        int32_t end = n - block < SUM_BLOCK ? n : block + SUM_BLOCK, i = block;
        for (; i + LANES <= end; i += LANES) {
            lanes x;
            exp_lanes(logits + i, max, e);
            memcpy(&x, e, sizeof x);
            sum += x;
        }
        if (i < end) {
            float tail[LANES];
            lanes x;
            for (int32_t k = 0; k < LANES; k++)
                tail[k] = i + k < end ? logits[i + k] : -INFINITY;
            exp_lanes(tail, max, e);
            memcpy(&x, e, sizeof x);
            sum += x;
        }
        double block_sum = 0;
        for (int32_t k = 0; k < LANES; k++)
            block_sum += (double)sum[k];
        if (block_sums)
            block_sums[block / SUM_BLOCK] = block_sum;
        total += block_sum;
    }
    return total;
}
FOR_EACH_CPU(double, sum_exp, (const float *logits, int32_t n, float max, double *block_sums),
             (logits, n, max, block_sums))

double scan_sum_exp(const float *logits, int32_t n, float max, double *block_sums)
{
    return sum_exp_best(logits, n, max, block_sums);
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
    int64_t parts[4];
    memcpy(parts, &any, sizeof parts);
    return (parts[0] | parts[1] | parts[2] | parts[3]) != 0;
}

BODY int32_t gather_body(const float *logits, int32_t n, float at_least, struct cand *out)
{
    int32_t count = 0, i = 0;
    while (i < n) {
        int32_t end = i + SCAN_BLOCK <= n ? i + SCAN_BLOCK : n;
        if (end - i == SCAN_BLOCK && !any_above_body(logits + i, at_least, 1)) {
            i = end;
            continue;
        }
        for (; i < end; i++) {
            if (logits[i] >= at_least)
                out[count++] = (struct cand){logits[i], i};
        }
    }
    return count;
}
FOR_EACH_CPU(int32_t, gather, (const float *logits, int32_t n, float at_least, struct cand *out),
             (logits, n, at_least, out))

int32_t scan_gather(const float *logits, int32_t n, float at_least, struct cand *out)
{
    return gather_best(logits, n, at_least > -FLT_MAX ? at_least : -FLT_MAX, out);
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

/* Sort key: lower for a higher logit. */
static uint32_t sort_key(float logit)
{
    uint32_t bits;
    float value = logit == 0 ? 0 : logit; /* -0 equals 0 */
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

static int32_t is_in_id_order(const struct cand *list, int32_t n)
{
    for (int32_t i = 1; i < n; i++) {
        if (list[i].id < list[i - 1].id)
            return 0;
    }
    return 1;
}

void cand_sort(struct cand *list, struct cand *scratch, int32_t n)
{
    enum { BITS = 11, BUCKETS = 1 << BITS };
    if (n < RADIX_MIN || !is_in_id_order(list, n)) {
        qsort(list, (size_t)n, sizeof *list, compare);
        return;
    }
    for (int32_t shift = 0; shift < 32; shift += BITS) { /* stable, so ids stay in order within a logit */
        int32_t place[BUCKETS] = {0};
        for (int32_t i = 0; i < n; i++)
            place[sort_key(list[i].logit) >> shift & (BUCKETS - 1)]++;
        for (int32_t b = 0, sum = 0; b < BUCKETS; b++) {
            int32_t count = place[b];
            place[b] = sum;
            sum += count;
        }
        for (int32_t i = 0; i < n; i++)
            scratch[place[sort_key(list[i].logit) >> shift & (BUCKETS - 1)]++] = list[i];
        struct cand *swap = list;
        list = scratch;
        scratch = swap;
    }
    memcpy(scratch, list, (size_t)n * sizeof *list); /* three passes: the result is in the caller's scratch */
}

int32_t scan_top_k(const float *logits, int32_t n, int32_t k, struct cand *out)
{
    int32_t count = select_heap(logits, n, k < n ? k : n, out);
    qsort(out, (size_t)count, sizeof *out, compare);
    return count;
}

BODY void divide_body(float *logits, int32_t n, float max, float divisor)
{
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes x;
        memcpy(&x, logits + i, sizeof x);
        x = (x - max) / divisor;
        memcpy(logits + i, &x, sizeof x);
    }
    for (; i < n; i++)
        logits[i] = (logits[i] - max) / divisor;
}
FOR_EACH_CPU(void, divide, (float *logits, int32_t n, float max, float divisor), (logits, n, max, divisor))

void scan_divide(float *logits, int32_t n, float max, float divisor)
{
    divide_best(logits, n, max, divisor);
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
    double total = scan_sum_exp(logits, n_vocab, max, NULL);
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
