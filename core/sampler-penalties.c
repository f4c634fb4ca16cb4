/* Stages that change logits: bias, repetition penalties, DRY.
 *
 * Invariant: the counts cover exactly the penalties' window of the history; the scratch arrays are all zero between
 * calls. Each stage costs time for the window, not for the vocabulary.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "sampler-internal.h"

static float clamp_logit(double logit)
{
    if (logit > (double)FLT_MAX)
        return FLT_MAX;
    return logit < -(double)FLT_MAX ? -INFINITY : (float)logit; /* NaN stays NaN: the scan deals with it */
}

/* The logit of a token in the view; NULL if a stage has cut it away. */
static float *find_logit(struct view *v, int32_t id)
{
    int32_t low = 0, high = v->n;
    if (!v->ids)
        return id < v->n ? &v->logits[id] : NULL;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (v->ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < v->n && v->ids[low] == id ? &v->logits[low] : NULL;
}

static void change_begins(struct view *v)
{
    view_settle(v);
    v->max_known = v->weighed = 0;
}

void apply_bias(struct sharpi_sampler *s, struct view *v)
{
    if (s->params.n_bias > 0)
        change_begins(v);
    for (uint64_t i = 0; i < s->params.n_bias; i++) {
        float *logit = find_logit(v, s->bias[i].id);
        if (logit)
            *logit = clamp_logit((double)*logit + (double)s->bias[i].bias);
    }
}

static int64_t window_start(const struct sharpi_sampler *s, int32_t last_n)
{
    return last_n < 0 || last_n >= s->n_history ? 0 : s->n_history - last_n;
}

static void penalise(const struct sharpi_sampler *s, float *logit, int32_t count)
{
    const struct sharpi_sampler_params *p = &s->params;
    double x = (double)*logit;
    x = x > 0 ? x / (double)p->repeat_penalty : x * (double)p->repeat_penalty;
    *logit = clamp_logit(x - count * (double)p->frequency_penalty - (double)p->presence_penalty);
}

void apply_penalties(struct sharpi_sampler *s, struct view *v)
{
    const struct sharpi_sampler_params *p = &s->params;
    if (p->penalty_last_n == 0 || s->n_history == 0 ||
        (p->repeat_penalty == 1 && p->frequency_penalty == 0 && p->presence_penalty == 0))
        return;
    int64_t from = window_start(s, p->penalty_last_n);
    change_begins(v);
    for (int64_t i = from; i < s->n_history; i++) {
        int32_t id = s->history[i], count = s->counts[id];
        float *logit = count > 0 ? find_logit(v, id) : NULL;
        if (logit)
            penalise(s, logit, count);
        if (count > 0)
            s->counts[id] = -count; /* done */
    }
    for (int64_t i = from; i < s->n_history; i++) {
        int32_t *count = &s->counts[s->history[i]];
        *count = *count < 0 ? -*count : *count;
    }
}

static int32_t is_breaker(const struct sharpi_sampler *s, int32_t id)
{
    return s->is_breaker && s->is_breaker[id];
}

/* lengths[j] = how many tokens ending j places before the end equal the last tokens: the Z function of the window read
 * backwards, in linear time (Gusfield, Algorithms on Strings, 1.3). */
static void match_lengths(const int32_t *end, int32_t n, int32_t *lengths)
{
    int32_t left = 0, right = 0; /* the match that reaches furthest covers [left, right) */
    lengths[0] = n;
    for (int32_t j = 1; j < n; j++) {
        int32_t z = 0;
        if (j < right)
            z = lengths[j - left] < right - j ? lengths[j - left] : right - j;
        while (j + z < n && end[-z] == end[-j - z])
            z++;
        lengths[j] = z;
        if (j + z > right) {
            left = j;
            right = j + z;
        }
    }
}

static double dry_penalty(const struct sharpi_sampler_params *p, int32_t length)
{
    double penalty = (double)p->dry_multiplier;
    for (int32_t i = p->dry_allowed_length; i < length && penalty < 1e30; i++)
        penalty *= (double)p->dry_base;
    return penalty;
}

void apply_dry(struct sharpi_sampler *s, struct view *v)
{
    const struct sharpi_sampler_params *p = &s->params;
    int64_t from = window_start(s, p->dry_last_n), n = s->n_history - from;
    if (p->dry_multiplier == 0 || p->dry_last_n == 0 || n < 2)
        return;
    const int32_t *end = s->history + s->n_history - 1;
    int32_t limit = 0; /* a repeat does not reach across a breaker */
    while (limit < n && !is_breaker(s, end[-limit]))
        limit++;
    if (limit < p->dry_allowed_length || limit == 0)
        return;
    change_begins(v);
    match_lengths(end, (int32_t)n, s->lengths);
    for (int32_t j = 1; j < n; j++) {
        int32_t length = s->lengths[j] < limit ? s->lengths[j] : limit, next = end[-j + 1];
        if (length >= p->dry_allowed_length && length > s->repeats[next] && !is_breaker(s, next))
            s->repeats[next] = length;
    }
    for (int32_t j = 1; j < n; j++) {
        int32_t next = end[-j + 1], length = s->repeats[next];
        float *logit = length > 0 ? find_logit(v, next) : NULL;
        if (logit)
            *logit = clamp_logit((double)*logit - dry_penalty(p, length));
        s->repeats[next] = 0;
    }
}
