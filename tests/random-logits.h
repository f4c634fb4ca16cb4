/* What tests of the sampler share: random rows of logits, of all kinds that it must bear, and its exponential written plainly. */
#ifndef SHARPI_TESTS_RANDOM_LOGITS_H
#define SHARPI_TESTS_RANDOM_LOGITS_H

#include <math.h>
#include <stdint.h>

static uint64_t random_state = 1;

static double uniform(void) /* splitmix64 */
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static void random_logits(float *logits, int32_t n, double scale)
{
    for (int32_t i = 0; i < n; i++)
        logits[i] = (float)(scale * (uniform() + uniform() + uniform() + uniform() - 2));
}

enum { N_KINDS = 7 };

/* Bells, few values with many ties, all alike, peaks, far apart, mostly cut out, with NaN and `infinity`, of either sign. */
static void kinds_of_logits(float *logits, int32_t n, int32_t kind, float infinity)
{
    static const double spread[] = {0.01, 1, 4, 12, 60};
    random_logits(logits, n, spread[(int32_t)(uniform() * 5)]);
    for (int32_t i = 0; i < n; i++) {
        if (kind == 1)
            logits[i] = roundf(logits[i]);
        if (kind == 2)
            logits[i] = 3;
        if (kind == 3 && uniform() < 20.0 / n)
            logits[i] += 8;
        if (kind == 4)
            logits[i] = ldexpf(logits[i] - 4, (int)(uniform() * 120) - 60);
        if (kind == 5 && uniform() < 0.9)
            logits[i] = -INFINITY;
        if (kind == 6 && uniform() < 0.01)
            logits[i] = uniform() < 0.5 ? NAN : infinity;
    }
    logits[n / 2] = kind == 5 || kind == 6 ? 1 : logits[n / 2];
}

/* The exponential as it is defined: these operations in this order. */
static float exact_exp2(float x)
{
    const float t = x + 12582912.0f, r = x - (t - 12582912.0f);
    float p = r * 1.32647e-3f + 9.67151e-3f;
    if (!(x > -125))
        return 0;
    p = p * r + 5.550734e-2f;
    p = p * r + 2.4022242e-1f;
    p = p * r + 6.9314698e-1f;
    p = p * r + 1.0f;
    return ldexpf(p, (int)(t - 12582912.0f));
}

#endif
