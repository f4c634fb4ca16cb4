/* The row kernels in terms of the compilers' vector types; included once by the file of each ISA.
 *
 * The including file defines LANES (floats in a register) and ROW_OPS (the table's name). What is left over at the end of
 * a row goes through the same code in a register padded with zeros, so that an element's result does not depend on its place.
 */
#include <math.h>
#include <string.h>

#include <sharpi/plugin/graph.h>

#include "ops.h"

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

#define OPS_INLINE static inline __attribute__((always_inline))

OPS_INLINE vec load(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

OPS_INLINE void store(float *p, vec v)
{
    memcpy(p, &v, sizeof v);
}

OPS_INLINE vec load_some(const float *p, uint32_t n)
{
    vec v = {0};
    memcpy(&v, p, n * sizeof *p);
    return v;
}

OPS_INLINE void store_some(float *p, vec v, uint32_t n)
{
    memcpy(p, &v, n * sizeof *p);
}

OPS_INLINE vec set1(float x)
{
    return (vec){0} + x;
}

OPS_INLINE vec select(ivec mask, vec yes, vec no)
{
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

OPS_INLINE float sum(vec v)
{
    float total = 0;
    for (uint32_t i = 0; i < LANES; i++)
        total += v[i];
    return total;
}

/* e^x within 2 ulp for x in [-87, 88], limited to that range. x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 is subtracted in two
 * parts so that n times the first is exact; e^r by its Taylor series to r^7 (the rest is below 6e-9). */
OPS_INLINE vec exp_vec(vec x)
{
    const vec magic = set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vec low = set1(-87.0f), high = set1(88.0f), n, r, p;
    ivec exponent;
    x = select(x < low, low, x);
    x = select(x > high, high, x);
    n = x * 1.44269504f + magic;
    exponent = (ivec)n << 23;
    n -= magic;
    r = x - n * 0.693145752f;
    r -= n * 1.42860677e-6f;
    p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * (r * r) + r + 1.0f;
    return (vec)((ivec)p + exponent);
}

/* tanh: 1 - 2 / (e^2|x| + 1), and near 0, where that cancels, an odd polynomial (a fit with relative error 2e-7). */
OPS_INLINE vec tanh_vec(vec x)
{
    const ivec sign_bit = (ivec){0} + (int32_t)0x80000000u;
    vec a = (vec)((ivec)x & ~sign_bit), z = x * x, p, q;
    p = z * -6.096714166e-3f + 2.0997179e-2f;
    p = p * z - 5.385090958e-2f;
    p = p * z + 1.333276974e-1f;
    p = p * z - 3.333332894e-1f;
    p = p * z * x + x;
    q = 1.0f - 2.0f / (exp_vec(a + a) + 1.0f);
    q = (vec)((ivec)q | ((ivec)x & sign_bit));
    return select(a < set1(0.625f), p, q);
}

OPS_INLINE vec erf_act(vec x)
{
    vec y;
    for (uint32_t i = 0; i < LANES; i++)
        y[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.7071067812f));
    return y;
}

/* 0.5 (1 + tanh(u)) = 1 / (1 + e^-2u) without cancellation. */
OPS_INLINE vec act_vec(vec x, int32_t activation)
{
    const vec zero = {0};
    switch (activation) {
    case SHARPI_ACT_SILU:
        return x / (1.0f + exp_vec(-x));
    case SHARPI_ACT_GELU_TANH:
        return x / (1.0f + exp_vec((x + 0.044715f * x * x * x) * -1.5957691216f));
    case SHARPI_ACT_GELU_ERF:
        return erf_act(x);
    default: /* SHARPI_ACT_RELU2 */
        return select(x > zero, x * x, zero);
    }
}

/* A function y[i] = EXPR of a = in1[i], b = in2[i]. */
#define MAP2(EXPR)                                                                                           \
    do {                                                                                                     \
        uint32_t i = 0;                                                                                      \
        for (; i + LANES <= n; i += LANES) {                                                                 \
            vec a = load(in1 + i), b = load(in2 + i);                                                        \
            (void)b;                                                                                         \
            store(y + i, EXPR);                                                                              \
        }                                                                                                    \
        if (i < n) {                                                                                         \
            vec a = load_some(in1 + i, n - i), b = load_some(in2 + i, n - i);                                \
            (void)b;                                                                                         \
            store_some(y + i, EXPR, n - i);                                                                  \
        }                                                                                                    \
    } while (0)
#define MAP1(EXPR)                                                                                           \
    do {                                                                                                     \
        const float *in2 = in1;                                                                              \
        MAP2(EXPR);                                                                                          \
    } while (0)

OPS_INLINE float sum_of_squares(const float *x, uint32_t n)
{
    vec s0 = {0}, s1 = {0};
    uint32_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        vec a = load(x + i), b = load(x + i + LANES);
        s0 += a * a;
        s1 += b * b;
    }
    for (; i < n; i += LANES) {
        vec a = load_some(x + i, n - i < LANES ? n - i : LANES);
        s0 += a * a;
    }
    return sum(s0 + s1);
}

static void rms_norm(float *y, const float *in1, const float *w, uint32_t n, float eps)
{
    const vec factor = set1(1.0f / sqrtf(sum_of_squares(in1, n) / (float)n + eps));
    if (w) {
        const float *in2 = w;
        MAP2(a * factor * b);
    } else {
        MAP1(a * factor);
    }
}

static void rope(float *y, const float *x, const float *cos, const float *sin, uint32_t n_rot, uint32_t neox)
{
    uint32_t half = n_rot / 2, j = 0;
    for (; neox && j + LANES <= half; j += LANES) {
        vec x0 = load(x + j), x1 = load(x + j + half), c = load(cos + j), s = load(sin + j);
        store(y + j, x0 * c - x1 * s);
        store(y + j + half, x0 * s + x1 * c);
    }
    for (; j < half; j++) {
        uint32_t i0 = neox ? j : 2 * j, i1 = neox ? j + half : 2 * j + 1;
        float x0 = x[i0], x1 = x[i1];
        y[i0] = x0 * cos[j] - x1 * sin[j];
        y[i1] = x0 * sin[j] + x1 * cos[j];
    }
}

/* One loop per activation: the choice is made outside. */
static void activate(float *y, const float *in1, uint32_t n, int32_t activation)
{
    switch (activation) {
    case SHARPI_ACT_SILU:
        MAP1(act_vec(a, SHARPI_ACT_SILU));
        break;
    case SHARPI_ACT_GELU_TANH:
        MAP1(act_vec(a, SHARPI_ACT_GELU_TANH));
        break;
    case SHARPI_ACT_GELU_ERF:
        MAP1(act_vec(a, SHARPI_ACT_GELU_ERF));
        break;
    default:
        MAP1(act_vec(a, SHARPI_ACT_RELU2));
    }
}

static void glu(float *y, const float *in1, const float *in2, uint32_t n, int32_t activation)
{
    switch (activation) {
    case SHARPI_ACT_SILU:
        MAP2(act_vec(a, SHARPI_ACT_SILU) * b);
        break;
    case SHARPI_ACT_GELU_TANH:
        MAP2(act_vec(a, SHARPI_ACT_GELU_TANH) * b);
        break;
    case SHARPI_ACT_GELU_ERF:
        MAP2(act_vec(a, SHARPI_ACT_GELU_ERF) * b);
        break;
    default:
        MAP2(act_vec(a, SHARPI_ACT_RELU2) * b);
    }
}

static void add(float *y, const float *in1, const float *in2, uint32_t n)
{
    MAP2(a + b);
}

static void mul(float *y, const float *in1, const float *in2, uint32_t n)
{
    MAP2(a * b);
}

static void scale(float *y, const float *in1, float factor, uint32_t n)
{
    MAP1(a * factor);
}

static void softcap(float *y, const float *in1, float cap, uint32_t n)
{
    MAP1(cap * tanh_vec(a / cap));
}

static void add_scaled(float *y, const float *in1, float factor, uint32_t n)
{
    const float *in2 = y;
    MAP2(b + a * factor);
}

const struct row_ops ROW_OPS = {rms_norm, rope, activate, glu, add, mul, scale, softcap, add_scaled};
