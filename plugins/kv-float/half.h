/* f32 to and from the 16-bit floats, exactly as IEEE 754 says: round to nearest, ties to even; subnormals
 * kept; what is too large for f16 becomes infinity; NaN stays NaN (quiet). The vector instructions give the
 * same bits.
 */
#ifndef SHARPI_KV_FLOAT_HALF_H
#define SHARPI_KV_FLOAT_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t bits_of_f32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float f32_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint16_t f16_of_f32(float x)
{
    const uint32_t bits = bits_of_f32(x), magnitude = bits & 0x7fffffffu;
    const uint32_t sign = bits >> 16 & 0x8000u;

    if (magnitude > 0x7f800000u) /* NaN: quiet, the payload's upper bits kept */
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        /* below 2^-14: adding 0.5 puts units of 2^-24 into the lowest bits, rounded by the addition itself */
        const float sum = f32_of_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (bits_of_f32(sum) - 0x3f000000u));
    }
    /* rebias by 15 - 127, add half a unit less one, and one more if the kept part is odd */
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13));
}

static inline float f32_of_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, magnitude = half & 0x7fffu;

    if (magnitude >= 0x7c00u) /* infinity and NaN, which becomes quiet */
        return f32_of_bits(sign | 0x7f800000u | magnitude << 13 | (magnitude > 0x7c00u ? 0x400000u : 0));
    if (magnitude < 0x400u) /* subnormal: so many units of 2^-24 */
        return f32_of_bits(sign | bits_of_f32((float)magnitude * 5.9604644775390625e-8f));
    return f32_of_bits(sign | ((magnitude << 13) + 0x38000000u));
}

static inline uint16_t bf16_of_f32(float x)
{
    const uint32_t bits = bits_of_f32(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) /* rounding could carry a NaN into infinity */
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static inline float f32_of_bf16(uint16_t half)
{
    return f32_of_bits((uint32_t)half << 16);
}

#endif
