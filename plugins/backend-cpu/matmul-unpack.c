/* Takes blocks of the quantized file formats apart: the one place that knows how their bits lie.
 *
 * The formats are the public ones of GGUF files: little-endian, scales as f16 (MXFP4: an 8-bit exponent).
 */
#include "matmul-internal.h"

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};
/* FP4 E2M1, doubled; the block's scale is halved for it. */
static const int8_t fp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static const struct quant_type quant_types[] = {
    {.type = SHARPI_TYPE_Q4_0, .low_bits = 4, .offset = 8, .sub_size = 32, .act = ACT_Q8_32},
    {.type = SHARPI_TYPE_Q4_1, .low_bits = 4, .has_min = 1, .sub_size = 32, .act = ACT_Q8_32},
    {.type = SHARPI_TYPE_Q5_0, .low_bits = 4, .high_bits = 1, .offset = 16, .sub_size = 32, .act = ACT_Q8_32},
    {.type = SHARPI_TYPE_Q5_1, .low_bits = 4, .high_bits = 1, .has_min = 1, .sub_size = 32, .act = ACT_Q8_32},
    {.type = SHARPI_TYPE_Q8_0, .low_bits = 8, .code_is_signed = 1, .sub_size = 32, .act = ACT_Q8_32},
    {.type = SHARPI_TYPE_IQ4_NL, .low_bits = 4, .table = iq4_values, .sub_size = 32, .act = ACT_Q8_32},
    {.type = SHARPI_TYPE_MXFP4,
     .low_bits = 4,
     .table = fp4_values,
     .d_is_e8m0 = 1,
     .sub_size = 32,
     .act = ACT_Q8_32},
    {.type = SHARPI_TYPE_Q2_K,
     .low_bits = 2,
     .has_min = 1,
     .sub_size = 16,
     .scale_bytes = 16,
     .scale_layout = SCALES_4BIT,
     .act = ACT_Q8_256},
    {.type = SHARPI_TYPE_Q3_K,
     .low_bits = 2,
     .high_bits = 1,
     .offset = 4,
     .sub_size = 16,
     .scale_bytes = 16,
     .scale_layout = SCALES_S8,
     .act = ACT_Q8_256},
    {.type = SHARPI_TYPE_Q4_K,
     .low_bits = 4,
     .has_min = 1,
     .sub_size = 32,
     .scale_bytes = 12,
     .scale_layout = SCALES_6BIT,
     .act = ACT_Q8_256},
    {.type = SHARPI_TYPE_Q5_K,
     .low_bits = 4,
     .high_bits = 1,
     .has_min = 1,
     .sub_size = 32,
     .scale_bytes = 12,
     .scale_layout = SCALES_6BIT,
     .act = ACT_Q8_256},
    {.type = SHARPI_TYPE_Q6_K,
     .low_bits = 4,
     .high_bits = 2,
     .offset = 32,
     .sub_size = 16,
     .scale_bytes = 16,
     .scale_layout = SCALES_S8,
     .act = ACT_Q8_256},
    {.type = SHARPI_TYPE_IQ4_XS,
     .low_bits = 4,
     .table = iq4_values,
     .sub_size = 32,
     .scale_bytes = 8,
     .scale_layout = SCALES_S8,
     .act = ACT_Q8_256},
};

const struct quant_type *quant_type_of(int32_t type)
{
    for (size_t i = 0; i < sizeof quant_types / sizeof quant_types[0]; i++)
        if (quant_types[i].type == type)
            return &quant_types[i];
    return NULL;
}

float f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023, u;
    float f;
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24 is exact */
        f = (float)fraction * 0x1p-24f;
        return sign ? -f : f;
    }
    u = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13;
    memcpy(&f, &u, sizeof f);
    return f;
}

float quant_d(const struct quant_type *q, uint16_t bits)
{
    if (!q->d_is_e8m0)
        return f16_to_f32(bits);
    /* 2^(bits - 128), subnormal for the two smallest */
    uint32_t u = bits < 2 ? 0x00200000u << bits : (uint32_t)(bits - 1) << 23;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint16_t get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, sizeof v);
}

#define EACH_BYTE 0x0101010101010101u

/* code[i] |= (src[i] >> shift & mask) << to for n bytes, eight at a time; n is a multiple of 8. */
static void or_bits(uint8_t *code, const uint8_t *src, uint32_t shift, uint64_t mask, uint32_t to, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 8)
        put64(code + i, get64(code + i) | (get64(src + i) >> shift & mask * EACH_BYTE) << to);
}

/* n bytes whose low nibbles are the first n codes and whose high nibbles are the next n. */
static void split_nibbles(uint8_t *code, const uint8_t *qs, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 8) {
        uint64_t v = get64(qs + i);
        put64(code + i, v & 15 * EACH_BYTE);
        put64(code + n + i, v >> 4 & 15 * EACH_BYTE);
    }
}

static void unpack_32(const struct quant_type *q, const uint8_t *p, struct quant_block *out)
{
    out->d = q->d_is_e8m0 ? p[0] : get16(p);
    p += q->d_is_e8m0 ? 1 : 2;
    if (q->has_min) {
        out->dmin = get16(p) ^ 0x8000; /* the file says what to add */
        p += 2;
    }
    if (q->low_bits == 8) {
        memcpy(out->code, p, 32);
        return;
    }
    if (!q->high_bits) {
        split_nibbles(out->code, p, 16);
        return;
    }
    split_nibbles(out->code, p + 4, 16);
    for (uint32_t i = 0; i < 4;
         i++) { /* eight bits, one a byte: whether bit b of byte b is set, moved to bit 4 */
        uint64_t bits = p[i] * EACH_BYTE & 0x8040201008040201u;
        uint64_t fifth = (bits + 127 * EACH_BYTE) >> 3 & 16 * EACH_BYTE;
        put64(out->code + 8 * i, get64(out->code + 8 * i) | fifth);
    }
}

/* 8 scales and 8 mins of 6 bits in 12 bytes. */
static void unpack_6bit_scales(const uint8_t *p, struct quant_block *out)
{
    uint32_t a = get32(p), b = get32(p + 4), c = get32(p + 8);
    uint32_t scale[2] = {a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 6 & 0x03030303) << 4};
    uint32_t min[2] = {b & 0x3f3f3f3f, (c >> 4 & 0x0f0f0f0f) | (b >> 6 & 0x03030303) << 4};
    memcpy(out->packed_scales, p, 12);
    for (uint32_t i = 0; i < 16; i++) {
        out->scale[i] = (int8_t)(scale[i >> 3] >> 8 * (i >> 1 & 3) & 63);
        out->min[i] = (uint8_t)(min[i >> 3] >> 8 * (i >> 1 & 3) & 63);
    }
}

static void unpack_q4_k_q5_k(const struct quant_type *q, const uint8_t *p, struct quant_block *out)
{
    const uint8_t *qs = q->high_bits ? p + 48 : p + 16;
    out->d = get16(p);
    out->dmin = get16(p + 2);
    unpack_6bit_scales(p + 4, out);
    for (uint32_t c = 0; c < 4; c++)
        split_nibbles(out->code + 64 * c, qs + 32 * c, 32);
    if (!q->high_bits)
        return;
    for (uint32_t s = 0; s < 8; s++)
        or_bits(out->code + 32 * s, p + 16, s, 1, 4, 32);
}

static void unpack_q2_k(const uint8_t *p, struct quant_block *out)
{
    out->d = get16(p + 80);
    out->dmin = get16(p + 82);
    memcpy(out->packed_scales, p, 16);
    for (uint32_t i = 0; i < 16; i++) {
        out->scale[i] = p[i] & 15;
        out->min[i] = p[i] >> 4;
    }
    memset(out->code, 0, sizeof out->code);
    for (uint32_t s = 0; s < 8; s++)
        or_bits(out->code + 32 * s, p + 16 + 32 * (s >> 2), 2 * (s & 3), 3, 0, 32);
}

static void unpack_q3_k(const uint8_t *p, struct quant_block *out)
{
    const uint8_t *high = p, *low = p + 32, *scales = p + 96;
    out->d = get16(p + 108);
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t nibble = scales[i & 7] >> (i < 8 ? 0 : 4) & 15,
                 top = scales[8 + (i & 3)] >> 2 * (i >> 2) & 3;
        out->scale[i] = (int8_t)((int32_t)(nibble | top << 4) - 32);
    }
    memcpy(out->packed_scales, out->scale, 16);
    memset(out->code, 0, sizeof out->code);
    for (uint32_t s = 0; s < 8; s++) {
        or_bits(out->code + 32 * s, low + 32 * (s >> 2), 2 * (s & 3), 3, 0, 32);
        or_bits(out->code + 32 * s, high, s, 1, 2, 32);
    }
}

static void unpack_q6_k(const uint8_t *p, struct quant_block *out)
{
    out->d = get16(p + 208);
    memcpy(out->scale, p + 192, 16);
    memcpy(out->packed_scales, p + 192, 16);
    for (uint32_t half = 0; half < 2; half++) {
        const uint8_t *low = p + 64 * half, *high = p + 128 + 32 * half;
        uint8_t *code = out->code + 128 * half;
        split_nibbles(code, low, 64);
        for (uint32_t s = 0; s < 4; s++)
            or_bits(code + 32 * s, high, 2 * s, 3, 4, 32);
    }
}

static void unpack_iq4_xs(const uint8_t *p, struct quant_block *out)
{
    uint32_t high = get16(p + 2);
    out->d = get16(p);
    for (uint32_t s = 0; s < 8; s++) {
        uint32_t bits = (p[4 + s / 2] >> 4 * (s & 1) & 15) | (high >> 2 * s & 3) << 4;
        int8_t scale = (int8_t)((int32_t)bits - 32);
        out->scale[2 * s] = out->scale[2 * s + 1] = scale;
        memcpy(&out->packed_scales[s], &scale, 1);
        split_nibbles(out->code + 32 * s, p + 8 + 16 * s, 16);
    }
}

void quant_unpack(const struct quant_type *q, const uint8_t *block, struct quant_block *out)
{
    switch (q->type) {
    case SHARPI_TYPE_Q2_K:
        unpack_q2_k(block, out);
        return;
    case SHARPI_TYPE_Q3_K:
        unpack_q3_k(block, out);
        return;
    case SHARPI_TYPE_Q4_K:
    case SHARPI_TYPE_Q5_K:
        unpack_q4_k_q5_k(q, block, out);
        return;
    case SHARPI_TYPE_Q6_K:
        unpack_q6_k(block, out);
        return;
    case SHARPI_TYPE_IQ4_XS:
        unpack_iq4_xs(block, out);
        return;
    default:
        unpack_32(q, block, out);
    }
}
