/* Taking slabs of the device layout (matmul-layout.h) apart, in registers.
 *
 * Everything is written from the view of one lane: `row` is 0 for row g, 1 for row g + 8 of the group, `block` one of the slab's
 * blocks of 32 columns, `sub` one of its sub-blocks. A weight is
 *     block_scale * sub_scale * value            (types whose blocks have 32 elements: sub_scale is 1)
 * minus block_min * sub_min, where has_min. block and row are meant to be compile-time constants after unrolling.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_DECODE_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_DECODE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "matmul-layout.h"

template <int TYPE> struct weight_type {
    static constexpr slab_layout layout = slab_layout_of(TYPE);
    static constexpr uint32_t columns = layout.columns;
    static constexpr uint32_t blocks = columns / 32;
    static constexpr uint32_t low_offset = layout.header + 512 * layout.high_bits;
    static constexpr bool is_float = layout.low_bits == 16;
    static constexpr bool is_super = TYPE == SHARPI_TYPE_Q2_K || TYPE == SHARPI_TYPE_Q3_K ||
                                     TYPE == SHARPI_TYPE_Q4_K || TYPE == SHARPI_TYPE_Q5_K ||
                                     TYPE == SHARPI_TYPE_Q6_K || TYPE == SHARPI_TYPE_IQ4_XS;
    /* Scales and mins of 6 bits. */
    static constexpr bool six_bits = TYPE == SHARPI_TYPE_Q4_K || TYPE == SHARPI_TYPE_Q5_K;
    static constexpr bool has_min = TYPE == SHARPI_TYPE_Q4_1 || TYPE == SHARPI_TYPE_Q5_1 ||
                                    TYPE == SHARPI_TYPE_Q2_K || TYPE == SHARPI_TYPE_Q4_K ||
                                    TYPE == SHARPI_TYPE_Q5_K;
    /* The two sub-blocks of a block have scales of their own. */
    static constexpr bool two_scales =
        TYPE == SHARPI_TYPE_Q2_K || TYPE == SHARPI_TYPE_Q3_K || TYPE == SHARPI_TYPE_Q6_K;
    static constexpr bool has_table =
        TYPE == SHARPI_TYPE_IQ4_NL || TYPE == SHARPI_TYPE_IQ4_XS || TYPE == SHARPI_TYPE_MXFP4;
    /* A value is a code of at most 7 bits less an offset (lane_codes). */
    static constexpr bool has_codes = !is_float && !has_table && layout.low_bits != 8;
    static constexpr int centre = 1 << (layout.low_bits + layout.high_bits - 1); /* of all codes */
    static constexpr int code_offset = has_min ? 0 : centre;
    /* lane_values gives the value times this. */
    static constexpr int value_factor = TYPE == SHARPI_TYPE_Q4_0   ? 16
                                        : TYPE == SHARPI_TYPE_Q5_0 ? 8
                                        : TYPE == SHARPI_TYPE_Q6_K ? 4
                                        : TYPE == SHARPI_TYPE_Q3_K ? 32
                                                                   : 1;
};

/* ---- Codes ---- */

static __device__ __forceinline__ uint32_t word_of(uint4 v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

static __device__ __forceinline__ uint4 lane_granule(const uint8_t *plane, int granule, int lane)
{
    return ((const uint4 *)plane)[granule * 32 + lane];
}

/* Four 4-bit codes (the low 16 bits of `codes` and of `pick`) to the bytes of a table of 16. */
static __device__ __forceinline__ uint32_t table_bytes(uint32_t codes, uint32_t pick, uint32_t t0,
                                                       uint32_t t1, uint32_t t2, uint32_t t3)
{
    return __byte_perm(__byte_perm(t0, t1, codes), __byte_perm(t2, t3, codes), pick);
}

template <int TYPE> static __device__ __forceinline__ void table_values(uint32_t w, uint32_t v[2])
{
    constexpr bool fp4 = TYPE == SHARPI_TYPE_MXFP4;
    /* 0 1 2 3 4 6 8 12 and their negatives; -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113 */
    constexpr uint32_t t0 = fp4 ? 0x03020100u : 0xbfad9881u, t1 = fp4 ? 0x0c080604u : 0xf6eaddcfu,
                       t2 = fp4 ? 0xfdfeff00u : 0x26190d01u, t3 = fp4 ? 0xf4f8fafcu : 0x71594535u;
    uint32_t codes = w & 0x77777777u, pick = (w & 0x88888888u) >> 1 | 0x32103210u;
    v[0] = table_bytes(codes, pick, t0, t1, t2, t3);
    v[1] = table_bytes(codes >> 16, pick >> 16, t0, t1, t2, t3);
}

/* (a & b) ^ c in one instruction, which constants b and c keep the compiler from. */
static __device__ __forceinline__ uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

/* The lane's four values of each sub-block as int8, times value_factor. */
template <int TYPE>
static __device__ __forceinline__ void lane_values(const uint8_t *slab, int block, int row, int lane,
                                                   uint32_t v[2])
{
    using W = weight_type<TYPE>;
    const uint8_t *low = slab + W::low_offset, *high = slab + W::layout.header;

    if constexpr (TYPE == SHARPI_TYPE_Q8_0) {
        uint4 q = lane_granule(low, block, lane);
        v[0] = row ? q.z : q.x;
        v[1] = row ? q.w : q.y;
    } else if constexpr (W::layout.low_bits == 4) {
        const uint4 q = lane_granule(low, block >> 1, lane);
        if constexpr (W::has_table) {
            table_values<TYPE>(word_of(q, 2 * (block & 1) + row), v);
            return;
        }
        const bool odd = block & 1;
        const uint32_t w[2] = {word_of(q, row), word_of(q, 2 + row)};
#pragma unroll
        for (int sub = 0; sub < 2; sub++) {
            if constexpr (TYPE == SHARPI_TYPE_Q4_0) {
                v[sub] = and_xor(odd ? w[sub] : w[sub] << 4, 0xf0f0f0f0u, 0x80808080u);
            } else if constexpr (TYPE == SHARPI_TYPE_Q5_0) {
                const uint32_t h = word_of(lane_granule(high, 0, lane), block >> 1);
                const int bit = 4 * (block & 1) + 2 * row + sub;
                v[sub] = ((odd ? w[sub] >> 1 : w[sub] << 3) & 0x78787878u) | (h << (7 - bit) & 0x80808080u);
            } else if constexpr (TYPE == SHARPI_TYPE_Q6_K) {
                const uint32_t h = word_of(lane_granule(high, block >> 2, lane), block & 3);
                const int bit = 4 * row + 2 * sub;
                v[sub] = ((odd ? w[sub] >> 2 : w[sub] << 2) & 0x3c3c3c3cu) | (h << (6 - bit) & 0xc0c0c0c0u);
            } else {
                v[sub] = (odd ? w[sub] >> 4 : w[sub]) & 0x0f0f0f0fu;
                if constexpr (W::layout.high_bits == 1) {
                    const uint32_t h = word_of(lane_granule(high, 0, lane), block >> 1);
                    const int bit = 4 * (block & 1) + 2 * row + sub;
                    v[sub] |= (bit < 4 ? h << (4 - bit) : h >> (bit - 4)) & 0x10101010u;
                }
            }
        }
    } else {
        static_assert(TYPE == SHARPI_TYPE_Q2_K || TYPE == SHARPI_TYPE_Q3_K, "2-bit types");
        uint32_t w = word_of(lane_granule(low, block >> 2, lane), block & 3);
        if constexpr (TYPE == SHARPI_TYPE_Q2_K) {
            v[0] = w >> (4 * row) & 0x03030303u;
            v[1] = w >> (4 * row + 2) & 0x03030303u;
        } else {
            uint32_t h = word_of(lane_granule(high, 0, lane), block >> 1);
            int bit = 4 * (block & 1) + 2 * row;
            v[0] = ((row ? w << 1 : w << 5) & 0x60606060u) | (h << (7 - bit) & 0x80808080u);
            v[1] = ((row ? w >> 1 : w << 3) & 0x60606060u) | (h << (6 - bit) & 0x80808080u);
        }
    }
}

/* has_codes only: the lane's four codes of sub-block `sub`, unsigned bytes. */
template <int TYPE>
static __device__ __forceinline__ uint32_t lane_codes(const uint8_t *slab, int block, int row, int sub,
                                                      int lane)
{
    using W = weight_type<TYPE>;
    const uint8_t *low = slab + W::low_offset, *high = slab + W::layout.header;
    const int combo = 2 * row + sub;
    uint32_t v;

    if constexpr (W::layout.low_bits == 4)
        v = word_of(lane_granule(low, block >> 1, lane), 2 * sub + row) >> 4 * (block & 1) & 0x0f0f0f0fu;
    else
        v = word_of(lane_granule(low, block >> 2, lane), block & 3) >> 2 * combo & 0x03030303u;
    if constexpr (W::layout.high_bits == 1) {
        constexpr int to = W::layout.low_bits;
        const int bit = 4 * (block & 1) + combo;
        uint32_t h = word_of(lane_granule(high, 0, lane), block >> 1);
        v |= (bit < to ? h << (to - bit) : h >> (bit - to)) & (0x01010101u << to);
    } else if constexpr (W::layout.high_bits == 2) {
        const int bit = 2 * combo;
        uint32_t h = word_of(lane_granule(high, block >> 2, lane), block & 3);
        v |= (bit < 4 ? h << (4 - bit) : h >> (bit - 4)) & 0x30303030u;
    }
    return v ^ W::layout.flip * 0x01010101u;
}

/* 16-bit types: the lane's four weights of sub-block `sub` as pairs of columns (4t, 4t + 1), (4t + 2, 4t + 3). */
static __device__ __forceinline__ uint2 lane_pairs(const uint8_t *slab, int block, int row, int sub, int lane)
{
    uint4 q = lane_granule(slab, 2 * block + sub, lane);
    return row ? make_uint2(q.z, q.w) : make_uint2(q.x, q.y);
}

/* ---- Scales ---- */

/* The header of the lane's two rows, in registers. a: 16 bytes of a row, or less; q4_k, q5_k: of both rows, [0] {d, dmin} and upper
 * bits, [1] lower bits. */
template <int TYPE> struct lane_header {
    uint4 a[2];
    uint4 b[2]; /* q4_1, q5_1: blocks 4..7; q2_k: .x {d, dmin}; q6_k: .x d */
};

template <int TYPE>
static __device__ __forceinline__ lane_header<TYPE> lane_header_load(const uint8_t *slab, int lane)
{
    using W = weight_type<TYPE>;
    lane_header<TYPE> h = {};
    int g = lane >> 2;

    if constexpr (W::is_float) {
    } else if constexpr (TYPE == SHARPI_TYPE_Q4_1 || TYPE == SHARPI_TYPE_Q5_1) {
        const uint4 *p = (const uint4 *)slab + 4 * g;
        h.a[0] = p[0], h.b[0] = p[1], h.a[1] = p[2], h.b[1] = p[3];
    } else if constexpr (TYPE == SHARPI_TYPE_MXFP4 || TYPE == SHARPI_TYPE_IQ4_XS) {
        uint4 both = ((const uint4 *)slab)[g];
        h.a[0].x = both.x, h.a[0].y = both.y, h.a[1].x = both.z, h.a[1].y = both.w;
    } else {
        const uint4 *p = (const uint4 *)slab + 2 * g;
        h.a[0] = p[0], h.a[1] = p[1];
        if constexpr (TYPE == SHARPI_TYPE_Q2_K) {
            uint2 d = ((const uint2 *)(slab + 256))[g];
            h.b[0].x = d.x, h.b[1].x = d.y;
        } else if constexpr (TYPE == SHARPI_TYPE_Q6_K) {
            uint32_t d = ((const uint32_t *)(slab + 256))[g];
            h.b[0].x = d & 0xffff, h.b[1].x = d >> 16;
        }
    }
    return h;
}

static __device__ __forceinline__ float half_bits(uint32_t bits)
{
    return __half2float(__ushort_as_half((unsigned short)bits));
}

static __device__ __forceinline__ uint32_t byte_of(uint4 v, int i)
{
    return word_of(v, i >> 2) >> 8 * (i & 3) & 255;
}

/* Without value_factor's inverse: block_scale below has it. */
template <int TYPE>
static __device__ __forceinline__ float raw_block_scale(const lane_header<TYPE> &h, int block, int row)
{
    if constexpr (TYPE == SHARPI_TYPE_Q4_1 || TYPE == SHARPI_TYPE_Q5_1) {
        return half_bits(word_of(block < 4 ? h.a[row] : h.b[row], block & 3) & 0xffff);
    } else if constexpr (TYPE == SHARPI_TYPE_MXFP4) {
        uint32_t e = byte_of(h.a[row], block); /* 2^(e - 128), subnormal for the two smallest */
        return __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    } else if constexpr (TYPE == SHARPI_TYPE_Q2_K || TYPE == SHARPI_TYPE_Q6_K) {
        return half_bits(h.b[row].x & 0xffff);
    } else if constexpr (TYPE == SHARPI_TYPE_Q3_K) {
        return half_bits(h.a[row].w & 0xffff);
    } else if constexpr (weight_type<TYPE>::six_bits) {
        return half_bits(word_of(h.a[0], row) & 0xffff);
    } else if constexpr (TYPE == SHARPI_TYPE_IQ4_XS) {
        return half_bits(h.a[row].x & 0xffff);
    } else {
        return half_bits(word_of(h.a[row], block >> 1) >> 16 * (block & 1) & 0xffff);
    }
}

template <int TYPE>
static __device__ __forceinline__ float block_scale(const lane_header<TYPE> &h, int block, int row)
{
    return raw_block_scale<TYPE>(h, block, row) * (1.0f / weight_type<TYPE>::value_factor);
}

/* has_min only. What is subtracted is block_min * sub_min. */
template <int TYPE>
static __device__ __forceinline__ float block_min(const lane_header<TYPE> &h, int block, int row)
{
    if constexpr (TYPE == SHARPI_TYPE_Q4_1 || TYPE == SHARPI_TYPE_Q5_1)
        return -half_bits(word_of(block < 4 ? h.a[row] : h.b[row], block & 3) >> 16);
    else if constexpr (TYPE == SHARPI_TYPE_Q2_K)
        return half_bits(h.b[row].x >> 16);
    else
        return half_bits(word_of(h.a[0], row) >> 16);
}

/* Scale or min of 6 bits, of the words (matmul-layout.h) that have the block's lower and upper bits. */
static __device__ __forceinline__ int six_bits(uint32_t low, uint32_t high, int block, int row, int is_min)
{
    const int byte = 8 * (2 * row + (block & 1));
    return (int)(low >> (byte + 4 * is_min) & 15) |
           (int)(high >> (byte + 4 * (block >> 1 & 1) + 2 * is_min) & 3) << 4;
}

template <int TYPE>
static __device__ __forceinline__ int six_bits_of(const lane_header<TYPE> &h, int block, int row, int is_min)
{
    return six_bits(word_of(h.a[1], block >> 1), block < 4 ? h.a[0].z : h.a[0].w, block, row, is_min);
}

template <int TYPE>
static __device__ __forceinline__ int sub_scale(const lane_header<TYPE> &h, int block, int row, int sub)
{
    if constexpr (TYPE == SHARPI_TYPE_Q2_K) {
        return byte_of(h.a[row], 2 * block + sub) & 15;
    } else if constexpr (TYPE == SHARPI_TYPE_Q3_K) {
        int i = 2 * block + sub;
        int nibble = byte_of(h.a[row], i & 7) >> (i < 8 ? 0 : 4) & 15;
        int top = byte_of(h.a[row], 8 + (i & 3)) >> 2 * (i >> 2) & 3;
        return (nibble | top << 4) - 32;
    } else if constexpr (weight_type<TYPE>::six_bits) {
        return six_bits_of<TYPE>(h, block, row, 0);
    } else if constexpr (TYPE == SHARPI_TYPE_Q6_K) {
        return (int8_t)byte_of(h.a[row], 2 * block + sub);
    } else if constexpr (TYPE == SHARPI_TYPE_IQ4_XS) {
        return (int)((h.a[row].y >> 4 * block & 15) | (h.a[row].x >> (16 + 2 * block) & 3) << 4) - 32;
    } else {
        return 1;
    }
}

template <int TYPE>
static __device__ __forceinline__ int sub_min(const lane_header<TYPE> &h, int block, int row, int sub)
{
    if constexpr (TYPE == SHARPI_TYPE_Q2_K)
        return byte_of(h.a[row], 2 * block + sub) >> 4;
    else if constexpr (weight_type<TYPE>::six_bits)
        return six_bits_of<TYPE>(h, block, row, 1);
    else
        return 1;
}

/* ---- Scales of a block that is known at run time only ---- */

/* Byte i of eight. */
static __device__ __forceinline__ int byte_at(uint32_t low, uint32_t high, uint32_t i)
{
    return (int)(__byte_perm(low, high, i) & 255);
}

/* Types of 32-element blocks, from shared memory: scale, and what to add where has_min. */
template <int TYPE>
static __device__ __forceinline__ void block_scale_at(const uint8_t *slab, int g, uint32_t block, int row,
                                                      float &scale, float &offset)
{
    constexpr float factor = 1.0f / weight_type<TYPE>::value_factor;
    const uint32_t place = (2 * g + row) * 8 + block;
    offset = 0;
    if constexpr (TYPE == SHARPI_TYPE_Q4_1 || TYPE == SHARPI_TYPE_Q5_1) {
        float2 both = __half22float2(((const __half2 *)slab)[place]);
        scale = both.x;
        offset = both.y;
    } else if constexpr (TYPE == SHARPI_TYPE_MXFP4) {
        uint32_t e = slab[place];
        scale = __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    } else {
        scale = __half2float(((const __half *)slab)[place]) * factor;
    }
}

static __device__ __forceinline__ int six_bits_at(const uint8_t *slab, int g, uint32_t block, int row,
                                                  int is_min)
{
    const uint32_t *words = (const uint32_t *)(slab + 32 * g);
    return six_bits(words[4 + (block >> 1)], words[2 + (block >> 2)], (int)block, row, is_min);
}

/* Types of 256-element blocks. */
template <int TYPE>
static __device__ __forceinline__ int sub_scale_at(const uint8_t *slab, const lane_header<TYPE> &h, int g,
                                                   uint32_t block, int row, int sub)
{
    const uint4 a = h.a[row];
    const uint32_t i = 2 * block + sub;
    if constexpr (TYPE == SHARPI_TYPE_Q2_K) {
        return byte_at(block < 4 ? a.x : a.z, block < 4 ? a.y : a.w, i & 7) & 15;
    } else if constexpr (TYPE == SHARPI_TYPE_Q3_K) {
        return ((byte_at(a.x, a.y, i & 7) >> 4 * (i >> 3) & 15) |
                (byte_at(a.z, a.z, i & 3) >> 2 * (i >> 2) & 3) << 4) -
               32;
    } else if constexpr (TYPE == SHARPI_TYPE_Q6_K) {
        return (int8_t)byte_at(block < 4 ? a.x : a.z, block < 4 ? a.y : a.w, i & 7);
    } else if constexpr (TYPE == SHARPI_TYPE_IQ4_XS) {
        return (int)((a.y >> 4 * block & 15) | (a.x >> (16 + 2 * block) & 3) << 4) - 32;
    } else {
        return six_bits_at(slab, g, block, row, 0);
    }
}

template <int TYPE>
static __device__ __forceinline__ int sub_min_at(const uint8_t *slab, const lane_header<TYPE> &h, int g,
                                                 uint32_t block, int row, int sub)
{
    const uint4 a = h.a[row];
    if constexpr (TYPE == SHARPI_TYPE_Q2_K)
        return byte_at(block < 4 ? a.x : a.z, block < 4 ? a.y : a.w, 2 * (block & 3) + sub) >> 4;
    else
        return six_bits_at(slab, g, block, row, 1);
}

/* ---- Exact f32 ---- */

/* Signed byte i of v as a float: the byte, made unsigned, in the mantissa of 2^23. */
static __device__ __forceinline__ float byte_value(uint32_t v, int i)
{
    return __uint_as_float(__byte_perm(v ^ 0x80808080u, 0x4b000000u, 0x7440 | i)) - (8388608.0f + 128.0f);
}

/* The lane's four weights of a sub-block, with the roundings of the CPU's dequant_row: two products, one difference. */
template <int TYPE>
static __device__ __forceinline__ float4 lane_weights(const uint8_t *slab, const lane_header<TYPE> &h,
                                                      int block, int row, int sub, int lane)
{
    using W = weight_type<TYPE>;
    float w[4];

    if constexpr (W::is_float) {
        uint2 p = lane_pairs(slab, block, row, sub, lane);
        if constexpr (TYPE == SHARPI_TYPE_BF16) {
            return make_float4(__uint_as_float(p.x << 16), __uint_as_float(p.x & 0xffff0000u),
                               __uint_as_float(p.y << 16), __uint_as_float(p.y & 0xffff0000u));
        } else {
            return make_float4(half_bits(p.x & 0xffff), half_bits(p.x >> 16), half_bits(p.y & 0xffff),
                               half_bits(p.y >> 16));
        }
    } else {
        uint32_t v[2];
        lane_values<TYPE>(slab, block, row, lane, v);
        float scale = block_scale<TYPE>(h, block, row);
        if constexpr (W::is_super)
            scale = __fmul_rn(scale, (float)sub_scale<TYPE>(h, block, row, sub));
        float min = 0;
        if constexpr (W::has_min)
            min = __fmul_rn(block_min<TYPE>(h, block, row), (float)sub_min<TYPE>(h, block, row, sub));
        for (int i = 0; i < 4; i++) {
            w[i] = __fmul_rn(scale, byte_value(v[sub], i));
            if constexpr (W::has_min)
                w[i] = __fsub_rn(w[i], min);
        }
        return make_float4(w[0], w[1], w[2], w[3]);
    }
}

/* ---- Tensor cores in bf16 ---- */

static __device__ __forceinline__ uint32_t bf16_pair(float a, float b)
{
    __nv_bfloat162 p = __floats2bfloat162_rn(a, b);
    return *(uint32_t *)&p;
}

/* has_codes only: the lane's four weights of a sub-block as two pairs. The code becomes the float 128 + code by bit tricks, and one
 * multiply-add makes the weight: off the exact value by 2^-17 of the scale at most, far below bf16's rounding. */
template <int TYPE>
static __device__ __forceinline__ void lane_pairs_fast(const uint8_t *slab, const lane_header<TYPE> &h,
                                                       int block, int row, int sub, int lane, uint32_t &first,
                                                       uint32_t &second)
{
    using W = weight_type<TYPE>;
    const uint32_t v = lane_codes<TYPE>(slab, block, row, sub, lane);
    float scale = raw_block_scale<TYPE>(h, block, row), min = 0, f[4];
    if constexpr (W::is_super)
        scale *= (float)sub_scale<TYPE>(h, block, row, sub);
    if constexpr (W::has_min)
        min = block_min<TYPE>(h, block, row) * (float)sub_min<TYPE>(h, block, row, sub);
    const float base = -scale * (128.0f + W::code_offset) - min;
#pragma unroll
    for (int i = 0; i < 4; i++)
        f[i] = scale * __uint_as_float(__byte_perm(v, 0x43000000u, 0x7044 | i << 8)) + base;
    first = bf16_pair(f[0], f[1]);
    second = bf16_pair(f[2], f[3]);
}

/* c += a b: 16 rows x 16 columns times 8 tokens. */
static __device__ __forceinline__ void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Calls macro(TYPE) in the case of `type`: every type with slabs, or the quantized ones. */
#define EACH_QUANTIZED_TYPE(X)                                                                               \
    X(SHARPI_TYPE_Q4_0)                                                                                      \
    X(SHARPI_TYPE_Q4_1)                                                                                      \
    X(SHARPI_TYPE_Q5_0)                                                                                      \
    X(SHARPI_TYPE_Q5_1)                                                                                      \
    X(SHARPI_TYPE_Q8_0)                                                                                      \
    X(SHARPI_TYPE_Q2_K)                                                                                      \
    X(SHARPI_TYPE_Q3_K)                                                                                      \
    X(SHARPI_TYPE_Q4_K)                                                                                      \
    X(SHARPI_TYPE_Q5_K)                                                                                      \
    X(SHARPI_TYPE_Q6_K)                                                                                      \
    X(SHARPI_TYPE_IQ4_NL)                                                                                    \
    X(SHARPI_TYPE_IQ4_XS)                                                                                    \
    X(SHARPI_TYPE_MXFP4)
#define EACH_SLAB_TYPE(X)                                                                                    \
    EACH_QUANTIZED_TYPE(X)                                                                                   \
    X(SHARPI_TYPE_F16)                                                                                       \
    X(SHARPI_TYPE_BF16)

#endif
