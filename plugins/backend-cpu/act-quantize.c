/* Activations into the formats of the integer kernels, in plain C; the layouts are in matmul-internal.h.
 *
 * Codes are x * 127 / amax rounded to nearest, ties to even, so that vector versions agree bit for bit.
 */
#include "matmul-internal.h"

uint64_t act_row_bytes(enum act_format format, uint64_t n)
{
    switch (format) {
    case ACT_Q8_32:
        return round_up64(n) + 2 * round_up64(n / 32 * 4);
    case ACT_Q8_256:
        return round_up64(n) + round_up64(n / 256 * 4) + round_up64(n / 16 * 2) + round_up64(n / 32 * 2);
    default:
        return round_up64(n * sizeof(float));
    }
}

/* Adding 1.5 * 2^23 leaves the rounded integer in the low bits, whatever x is (no undefined conversion of NaN). */
static int8_t round_code(float x)
{
    float shifted = x + 12582912.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return (int8_t)(uint8_t)(bits & 0xff);
}

/* Codes of n elements with one scale; returns the scale. Blocks of next to nothing become zeros: 127 / amax would overflow.
 * A NaN or infinity gives a scale that is not finite, so that it shows in the result. */
static float quantize_block(int8_t *dst, const float *src, uint32_t n)
{
    float amax = 0;
    for (uint32_t i = 0; i < n; i++) {
        float a = src[i] < 0 ? -src[i] : src[i];
        amax = a <= amax || amax != amax ? amax : a; /* a NaN stays */
    }
    if (amax < 1e-30f) {
        memset(dst, 0, n);
        return 0;
    }
    float inverse = 127.0f / amax;
    for (uint32_t i = 0; i < n; i++)
        dst[i] = round_code(src[i] * inverse);
    return amax / 127.0f;
}

static int32_t sum_codes(const int8_t *codes, uint32_t n)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += codes[i];
    return sum;
}

static void quantize_q8_32(void *dst, const float *src, uint64_t n)
{
    int8_t *codes = dst;
    float *d = (float *)act_scales(dst, n);
    int32_t *sums = (int32_t *)act_sums32(dst, n);
    for (uint64_t b = 0; b < n / 32; b++) {
        d[b] = quantize_block(codes + 32 * b, src + 32 * b, 32);
        sums[b] = sum_codes(codes + 32 * b, 32);
    }
}

static void quantize_q8_256(void *dst, const float *src, uint64_t n)
{
    int8_t *codes = dst;
    float *d = (float *)act_scales(dst, n);
    int16_t *by_16 = (int16_t *)act_sums_by_16(dst, n), *by_32 = (int16_t *)act_sums_by_32(dst, n);
    for (uint64_t b = 0; b < n / 256; b++)
        d[b] = quantize_block(codes + 256 * b, src + 256 * b, 256);
    for (uint64_t i = 0; i < n / 16; i++)
        by_16[i] = (int16_t)sum_codes(codes + 16 * i, 16);
    for (uint64_t i = 0; i < n / 32; i++)
        by_32[i] = (int16_t)(by_16[2 * i] + by_16[2 * i + 1]);
}

static void copy_f32(void *dst, const float *src, uint64_t n)
{
    memcpy(dst, src, n * sizeof *src);
}

const act_quantize_fn act_quantize_scalar[ACT_COUNT] = {copy_f32, quantize_q8_32, quantize_q8_256};

void act_quantize(enum cpu_isa isa, enum act_format format, void *dst, const float *src, uint64_t n)
{
    for (int32_t level = isa; level > CPU_ISA_SCALAR; level--) {
        const struct matmul_isa *table = matmul_kernel_table[level];
        if (table && table->quantize[format]) {
            table->quantize[format](dst, src, n);
            return;
        }
    }
    act_quantize_scalar[format](dst, src, n);
}
