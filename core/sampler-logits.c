/* Passes over a row of logits that no sampler has seen: its sum, its highest, log-probabilities.
 *
 * Invariant: the row is only read, and results have the same bits on every processor (sampler-lanes.h).
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "sampler-lanes.h"

BODY double sum_exp_body(const float *logits, int32_t n, float max)
{
    double total = 0;
    float room[BLOCK];
    for (int32_t b = 0; b * BLOCK < n; b++) {
        const float *x = block_at(logits, n, b, room);
        lanes sum = {0}, e[TOGETHER];
        for (int32_t i = 0; i < BLOCK; i += STRIDE) {
            exp2_lanes(x + i, max, LOG2E, 0, e);
            for (int32_t k = 0; k < TOGETHER; k++)
                sum += e[k];
        }
        for (int32_t k = 0; k < LANES; k++)
            total += (double)sum[k];
    }
    return total;
}
FOR_EACH_CPU(double, sum_exp, (const float *logits, int32_t n, float max), (logits, n, max))

double logits_sum_exp(const float *logits, int32_t n, float max)
{
    return sum_exp_best(logits, n, max);
}

/* Is any of a block's logits above the limit? */
BODY int32_t any_above(const float *logits, float limit)
{
    lanes x[TOGETHER];
    mask any[TOGETHER] = {0};
    for (int32_t i = 0; i < BLOCK; i += STRIDE) {
        load_lanes(logits + i, x);
        IN_STEP(k, any[k] |= x[k] > limit);
    }
    return bits_of(any) != 0;
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
    for (; i < n && i % BLOCK != 0; i++) {
        if (logits[i] > limit)
            return i;
    }
    while (i + BLOCK <= n && !any_above(logits + i, limit))
        i += BLOCK;
    while (i < n && !(logits[i] > limit))
        i++;
    return i;
}
FOR_EACH_CPU(int32_t, next_above, (const float *logits, int32_t n, int32_t from, float limit),
             (logits, n, from, limit))

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

int32_t logits_top_k(const float *logits, int32_t n, int32_t k, struct cand *out)
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
    double total = logits_sum_exp(logits, n_vocab, max);
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
