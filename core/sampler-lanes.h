/* Numbers by eight and by 32: what the sampler's passes over logits are written with.
 *
 * Invariant: results have the same bits on every processor. So the exponential is our own, and products are never fused with
 * sums (C17 mode; clang needs the pragma).
 */
#ifndef SHARPI_CORE_SAMPLER_LANES_H
#define SHARPI_CORE_SAMPLER_LANES_H

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "sampler-internal.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

enum {
    LANES = 8,
    TOGETHER = 4, /* eights that are worked on in step: one alone would mostly wait for its own last result */
    STRIDE = LANES * TOGETHER,
};

typedef float lanes __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t mask __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint32_t words __attribute__((vector_size(LANES * 4), aligned(4))); /* may wrap around */
typedef uint64_t longs __attribute__((vector_size(LANES * 4), aligned(4)));

/* The same code for the processor at hand; lane arithmetic is the same in each. */
#if defined(__x86_64__)
#define FOR_EACH_CPU(ret, name, params, args)                                                                \
    __attribute__((target("avx2,popcnt,bmi"))) static ret name##_avx2 params                                 \
    {                                                                                                        \
        return name##_body args;                                                                             \
    }                                                                                                        \
    static ret name##_any params                                                                             \
    {                                                                                                        \
        return name##_body args;                                                                             \
    }                                                                                                        \
    static ret name##_best params                                                                            \
    {                                                                                                        \
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") ? name##_avx2 args            \
                                                                               : name##_any args;            \
    }
#else
#define FOR_EACH_CPU(ret, name, params, args)                                                                \
    static ret name##_best params                                                                            \
    {                                                                                                        \
        return name##_body args;                                                                             \
    }
#endif
#define BODY static inline __attribute__((always_inline))
/* A statement for k from 0 to TOGETHER - 1: written out, since gcc keeps arrays that loops go through in memory. */
#define IN_STEP(k, ...)                                                                                      \
    do {                                                                                                     \
        IN_STEP_ONE(k, 0, __VA_ARGS__);                                                                      \
        IN_STEP_ONE(k, 1, __VA_ARGS__);                                                                      \
        IN_STEP_ONE(k, 2, __VA_ARGS__);                                                                      \
        IN_STEP_ONE(k, 3, __VA_ARGS__);                                                                      \
    } while (0)
#define IN_STEP_ONE(k, value, ...)                                                                           \
    do {                                                                                                     \
        enum { k = value };                                                                                  \
        __VA_ARGS__;                                                                                         \
    } while (0)

/* to = STRIDE numbers, one load each: gcc takes an array that is filled at once for memory. */
BODY void load_lanes(const float *from, lanes *to)
{
    IN_STEP(k, memcpy(&to[k], from + k * LANES, sizeof to[k]));
}

/* exp(x) = 2^k * p(r), k = round(x * log2 e), r the rest: a polynomial of least relative error, 1e-7, with p(0) = 1. */
#define LOG2E   1.44269504088896341f
#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, in the low bits */
#define MIN_LOG -125.0f     /* of base 2 */

/* to[i] = 2^((from[i] - max) * factor + lift) for STRIDE numbers, 0 where the exponent without lift is below MIN_LOG. The lift is
 * an even integer. */
BODY void exp2_lanes(const float *from, float max, float factor, float lift, lanes *to)
{
    const float rounder = ROUNDER + lift;
    lanes x[TOGETHER], t[TOGETHER], p[TOGETHER];
    mask is_in[TOGETHER];
    load_lanes(from, x);
    IN_STEP(k, x[k] = (x[k] - max) * factor);
    IN_STEP(k, t[k] = x[k] + rounder);
    IN_STEP(k, is_in[k] = x[k] > MIN_LOG);
    IN_STEP(k, x[k] = x[k] - (t[k] - rounder));
    IN_STEP(k, p[k] = x[k] * 1.32647e-3f + 9.67151e-3f);
    IN_STEP(k, p[k] = p[k] * x[k] + 5.550734e-2f);
    IN_STEP(k, p[k] = p[k] * x[k] + 2.4022242e-1f);
    IN_STEP(k, p[k] = p[k] * x[k] + 6.9314698e-1f);
    IN_STEP(k, p[k] = p[k] * x[k] + 1.0f);
    IN_STEP(k, to[k] =
                   (lanes)(((words)p[k] + ((words)t[k] << 23)) & (words)is_in[k])); /* drops ROUNDER's bits */
}

/* The nearest integers of numbers from 0 to 2^30. */
BODY void round_lanes(const lanes *x, words *to)
{
    IN_STEP(k, to[k] = (words) __builtin_convertvector(x[k] + 0.5f, mask));
}

/* Adds STRIDE words of at most 2^30 to sums of twice their width. */
BODY void add_words(longs *sums, const words *w)
{
    const longs a = (longs)(w[0] + w[1]), b = (longs)(w[2] + w[3]);
    *sums += ((a & 0xffffffffu) + (a >> 32)) + ((b & 0xffffffffu) + (b >> 32));
}

BODY uint64_t sum_of(const longs *sums)
{
    return (*sums)[0] + (*sums)[1] + (*sums)[2] + (*sums)[3];
}

/* One bit for each lane of STRIDE comparisons. */
BODY uint64_t bits_of(const mask *m)
{
#if defined(__x86_64__)
    __m128i part[2 * TOGETHER];
    IN_STEP(k, memcpy(&part[2 * k], &m[k], sizeof m[k]));
    const __m128i low = _mm_packs_epi16(_mm_packs_epi32(part[0], part[1]), _mm_packs_epi32(part[2], part[3]));
    const __m128i high =
        _mm_packs_epi16(_mm_packs_epi32(part[4], part[5]), _mm_packs_epi32(part[6], part[7]));
    return (uint32_t)_mm_movemask_epi8(low) | (uint64_t)(uint32_t)_mm_movemask_epi8(high) << 16;
#else
    uint64_t bits = 0;
    for (int32_t i = 0; i < STRIDE; i++)
        bits |= (uint64_t)(m[i / LANES][i % LANES] & 1) << i;
    return bits;
#endif
}

/* The `b`th block of a row of `n`: in place, or its end in `room`, filled up with -inf. */
BODY const float *block_at(const float *row, int32_t n, int32_t b, float *room)
{
    const int32_t at = b * BLOCK;
    if (n - at >= BLOCK)
        return row + at;
    for (int32_t i = 0; i < BLOCK; i++)
        room[i] = i < n - at ? row[at + i] : -__builtin_inff();
    return room;
}

#endif
