/* The block of q8_0, ggml's: 32 int8 and their scale as f16, value = scale * int8; a row of n elements is n /
 * 32 blocks.
 *
 * Encoding. d = max|x| / 127, rounded to f16, then q = round(x / d) (to even) with the rounded d, so no error
 * exceeds d / 2 and encoding what was decoded gives the same bytes (if d is normal in f16; for |x| < 0.008
 * within d / 2). Where rounding d down, which only f16's subnormals do by more than 2^-11, would push max|x|
 * above 127.5 d, the next larger d is taken. d below 1e-30 encodes zeros. |x| is limited to 127 times the
 * largest f16, infinities included; NaN encodes 0. The scalar functions here are the reference, and the slow
 * path for heads that do not begin or end with a block.
 */
#ifndef SHARPI_KV_Q8_0_BLOCK_H
#define SHARPI_KV_Q8_0_BLOCK_H

#include <sharpi/plugin/kv.h>

#include "../kv-float/half.h"

#define Q8_0_ELEMS 32u
#define Q8_0_LIMIT (127.0f * 65504.0f)

struct q8_0_block {
    uint16_t scale; /* f16 */
    int8_t q[Q8_0_ELEMS];
};

_Static_assert(sizeof(struct q8_0_block) == 34, "a q8_0 block is 34 bytes");

/* The stored scale for a block whose largest magnitude is amax (finite, at most Q8_0_LIMIT). */
static inline uint16_t q8_0_scale(float amax)
{
    const float d = amax / 127.0f;
    uint16_t half;
    if (!(d >= 1e-30f))
        return 0;
    half = f16_of_f32(d);
    return f32_of_f16(half) * 127.5f < amax ? (uint16_t)(half + 1) : half;
}

/* 1 / scale, and 0 for 0: a zero block's inverse would be infinite. */
static inline float q8_0_inverse(uint16_t scale)
{
    return scale ? 1.0f / f32_of_f16(scale) : 0.0f;
}

void q8_0_encode_row(void *row, const float *src, uint64_t n);
/* Elements [first, first + count) of a row; any alignment to blocks. */
void q8_0_decode_part(const void *row, uint64_t first, uint64_t count, float *dst);

extern const struct sharpi_kv_cpu kv_q8_0_c, kv_q8_0_avx2, kv_q8_0_avx512;

#endif
