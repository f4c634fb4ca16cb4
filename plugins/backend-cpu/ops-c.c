/* Row kernels in plain C: the reference that the vector versions are tested against. */
#include "ops.h"

#include <math.h>
#include <sharpi/plugin/graph.h>

static void rms_norm(float *y, const float *x, const float *w, uint32_t n, float eps)
{
    double sum = 0;
    float factor;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    factor = (float)(1.0 / sqrt(sum / n + (double)eps));
    for (uint32_t i = 0; i < n; i++)
        y[i] = w ? x[i] * factor * w[i] : x[i] * factor;
}

static void rope(float *y, const float *x, const float *cos, const float *sin, uint32_t n_rot, uint32_t neox)
{
    uint32_t half = n_rot / 2;
    for (uint32_t j = 0; j < half; j++) {
        uint32_t i0 = neox ? j : 2 * j, i1 = neox ? j + half : 2 * j + 1;
        float x0 = x[i0], x1 = x[i1];
        y[i0] = x0 * cos[j] - x1 * sin[j];
        y[i1] = x0 * sin[j] + x1 * cos[j];
    }
}

static float act(float x, int32_t activation)
{
    switch (activation) {
    case SHARPI_ACT_SILU:
        return x / (1.0f + expf(-x));
    case SHARPI_ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    case SHARPI_ACT_GELU_ERF:
        return 0.5f * x * (1.0f + erff(x * 0.7071067812f));
    default: /* SHARPI_ACT_RELU2 */
        return x > 0 ? x * x : 0;
    }
}

static void activate(float *y, const float *x, uint32_t n, int32_t activation)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = act(x[i], activation);
}

static void glu(float *y, const float *gate, const float *up, uint32_t n, int32_t activation)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = act(gate[i], activation) * up[i];
}

static void add(float *y, const float *a, const float *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

static void mul(float *y, const float *a, const float *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = a[i] * b[i];
}

static void scale(float *y, const float *x, float factor, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * factor;
}

static void softcap(float *y, const float *x, float cap, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = cap * tanhf(x[i] / cap);
}

static void add_scaled(float *y, const float *x, float factor, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] += x[i] * factor;
}

const struct row_ops row_ops_c = {rms_norm, rope, activate, glu, add, mul, scale, softcap, add_scaled};

const struct row_ops *row_ops_for(enum cpu_isa isa)
{
#ifdef HAVE_AVX512
    if (isa >= CPU_ISA_AVX512)
        return &row_ops_avx512;
#endif
#ifdef HAVE_AVX2
    if (isa >= CPU_ISA_AVX2)
        return &row_ops_avx2;
#endif
    (void)isa;
    return &row_ops_c;
}
