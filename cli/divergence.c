/* KL divergence and agreement of two models: see divergence.h.
 *
 * KL(reference || model) = sum of p * (log p - log q) over the vocabulary, in nats; p is the reference.
 */
#include "divergence.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static uint32_t top_of(const float *row, uint32_t n)
{
    uint32_t top = 0;
    for (uint32_t i = 1; i < n; i++)
        top = row[i] > row[top] ? i : top;
    return top;
}

/* Makes exp(row) sum to 1. */
static void normalise(float *row, uint32_t n)
{
    double sum = 0, log_sum;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)row[i]);
    log_sum = sum > 0 ? log(sum) : 0;
    for (uint32_t i = 0; i < n && sum > 0; i++)
        row[i] = (float)((double)row[i] - log_sum);
}

static int32_t push(struct divergence *d, double value, struct sharpi_error *err)
{
    if (d->n == d->capacity) {
        uint64_t capacity = d->capacity ? d->capacity * 2 : 1024;
        float *bigger = realloc(d->values, capacity * sizeof *bigger);
        if (!bigger)
            return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %llu divergences",
                               (unsigned long long)capacity);
        d->values = bigger;
        d->capacity = capacity;
    }
    d->values[d->n++] = (float)value;
    return SHARPI_OK;
}

int32_t divergence_add(struct divergence *d, float *reference, const float *model, uint32_t n_vocab,
                       int32_t token, struct sharpi_error *err)
{
    double sum = 0;
    normalise(reference, n_vocab);
    for (uint32_t i = 0; i < n_vocab; i++) {
        double p = exp((double)reference[i]);
        if (p > 0)
            sum += p * ((double)reference[i] - (double)model[i]);
    }
    /* Tokens that share the first place in the reference, as rounding makes them, are all its top. */
    d->n_same_top += reference[top_of(model, n_vocab)] >= reference[top_of(reference, n_vocab)];
    d->saved_nll -= (double)reference[token];
    return push(d, sum, err);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

void divergence_print(struct divergence *d, double model_nll)
{
    double n = (double)d->n, sum = 0, squares = 0, mean, error, same = (double)d->n_same_top / n;
    if (!d->n)
        return;
    for (uint64_t i = 0; i < d->n; i++) {
        sum += (double)d->values[i];
        squares += (double)d->values[i] * (double)d->values[i];
    }
    mean = sum / n;
    error = d->n > 1 ? sqrt(fmax(squares / n - mean * mean, 0) / (n - 1)) : 0;
    qsort(d->values, d->n, sizeof *d->values, by_value);
    printf("KL divergence %.6f +- %.6f; median %.6f, 99%% %.6f, maximum %.6f\n", mean, error,
           (double)d->values[d->n / 2], (double)d->values[(uint64_t)(0.99 * (n - 1))],
           (double)d->values[d->n - 1]);
    printf("same top token %.3f %% +- %.3f\n", 100 * same, 100 * sqrt(same * (1 - same) / n));
    printf("saved perplexity %.4f, ratio %.6f\n", exp(d->saved_nll / n), exp((model_nll - d->saved_nll) / n));
}

void divergence_free(struct divergence *d)
{
    free(d->values);
}
