/* Weights of the device layout as bf16 fragments of tensor-core products, two at a time in packed bf16 arithmetic.
 *
 * A code of up to 7 bits put below the exponent of 128 is the bf16 number 128 + code; taking 128 + centre away is exact, and one
 * packed multiply-add by the scale makes the weight. Scale and offset are rounded to bf16 before, so a weight is the exact one
 * within three roundings of 2^-9. Int8 values are 7 bits above 128 less the sign bit above 128.
 *
 * Scales of a slab are made once by the whole warp (scale_table_fill), each lane for a quarter of its rows' blocks.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_UNPACK_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_UNPACK_CUH

#include "matmul-decode.cuh"

template <int TYPE> struct unpack_type {
    using W = weight_type<TYPE>;
    /* Words of a block's row: {scale, scale}, {scale, offset}, {scale of sub-block 0, of 1} or that and {offset 0, offset 1}. */
    static constexpr int words = W::is_float ? 0 : W::two_scales && W::has_min ? 2 : 1;
    static constexpr uint32_t table_words = words * 16 * 8; /* [row][g][block][words] of a warp */
};

/* ---- Scales ---- */

template <int TYPE>
static __device__ __forceinline__ void block_words(const uint8_t *slab, const lane_header<TYPE> &h, int g,
                                                   uint32_t block, int row, uint32_t *words)
{
    using W = weight_type<TYPE>;
    constexpr int n_sub = W::two_scales ? 2 : 1;
    float scale[2], offset[2] = {};

    if constexpr (W::is_super) {
        const float d = raw_block_scale<TYPE>(h, 0, row);
#pragma unroll
        for (int sub = 0; sub < n_sub; sub++) {
            scale[sub] = d * (float)sub_scale_at<TYPE>(slab, h, g, block, row, sub);
            if constexpr (W::has_min)
                offset[sub] =
                    -block_min<TYPE>(h, 0, row) * (float)sub_min_at<TYPE>(slab, h, g, block, row, sub);
        }
    } else if constexpr (W::value_factor > 1) {
        scale[0] = __half2float(((const __half *)slab)[(2 * g + row) * 8 + block]);
    } else {
        block_scale_at<TYPE>(slab, g, block, row, scale[0], offset[0]);
    }
#pragma unroll
    for (int sub = 0; sub < n_sub && W::has_min; sub++)
        offset[sub] += scale[sub] * (float)W::centre;
    words[0] = bf16_pair(scale[0], W::two_scales ? scale[1] : W::has_min ? offset[0] : scale[0]);
    if constexpr (unpack_type<TYPE>::words == 2)
        words[1] = bf16_pair(offset[0], offset[1]);
}

/* The whole warp; __syncwarp before (the last slab's words have been read) and after. */
template <int TYPE>
static __device__ __forceinline__ void scale_table_fill(uint32_t *table, const uint8_t *slab, int lane)
{
    constexpr int words = unpack_type<TYPE>::words;
    const int g = lane >> 2, t = lane & 3;
    lane_header<TYPE> h = {};
    if constexpr (weight_type<TYPE>::is_super)
        h = lane_header_load<TYPE>(slab, lane);
#pragma unroll
    for (int row = 0; row < 2; row++) {
        uint32_t w[2 * words];
        block_words<TYPE>(slab, h, g, 2 * t, row, w);
        block_words<TYPE>(slab, h, g, 2 * t + 1, row, w + words);
        uint32_t *to = table + ((row * 8 + g) * 8 + 2 * t) * words;
        if constexpr (words == 2)
            *(uint4 *)to = make_uint4(w[0], w[1], w[2], w[3]);
        else
            *(uint2 *)to = make_uint2(w[0], w[1]);
    }
}

/* ---- 64 columns of a lane's two rows: two blocks ---- */

template <int TYPE> struct lane_bits {
    uint4 low[4]; /* as many granules as there are */
    uint4 high;
    uint32_t scale[2][2], offset[2][2]; /* [row][block]: words of the table */
};

/* Codes without their flip, which is in the top bits: all types that have one have a high plane. */
static __device__ __forceinline__ uint4 flipped(uint4 v, uint32_t flip)
{
    return make_uint4(v.x ^ flip, v.y ^ flip, v.z ^ flip, v.w ^ flip);
}

template <int TYPE>
static __device__ __forceinline__ void lane_bits_load(lane_bits<TYPE> &bits, const uint8_t *slab,
                                                      const uint32_t *table, int step, int lane)
{
    using W = weight_type<TYPE>;
    const uint8_t *low = slab + W::low_offset, *high = slab + W::layout.header;
    constexpr int granules = W::layout.low_bits >= 4 ? W::layout.low_bits / 4 : 1;
    static_assert(W::layout.flip == 0 || W::layout.high_bits > 0, "flipped");
    constexpr uint32_t high_flip = W::layout.flip == 0        ? 0
                                   : W::layout.high_bits == 2 ? 0xaaaaaaaau
                                                              : 0xffffffffu;
#pragma unroll
    for (int i = 0; i < granules; i++)
        bits.low[i] = lane_granule(low, W::layout.low_bits >= 4 ? step * granules + i : step >> 1, lane);
    if constexpr (W::layout.high_bits > 0)
        bits.high = flipped(lane_granule(high, W::layout.high_bits == 2 ? step >> 1 : 0, lane), high_flip);
#pragma unroll
    for (int row = 0; row < 2 && !W::is_float; row++) {
        const uint32_t *from = table + ((row * 8 + (lane >> 2)) * 8 + 2 * step) * unpack_type<TYPE>::words;
        if constexpr (unpack_type<TYPE>::words == 2) {
            uint4 v = *(const uint4 *)from;
            bits.scale[row][0] = v.x, bits.offset[row][0] = v.y;
            bits.scale[row][1] = v.z, bits.offset[row][1] = v.w;
        } else {
            uint2 v = *(const uint2 *)from;
            bits.scale[row][0] = bits.offset[row][0] = v.x, bits.scale[row][1] = bits.offset[row][1] = v.y;
        }
    }
}

/* The four unsigned codes of block `i` of the step, sub-block `sub`. */
template <int TYPE>
static __device__ __forceinline__ uint32_t step_codes(const lane_bits<TYPE> &bits, int step, int i, int row,
                                                      int sub)
{
    using W = weight_type<TYPE>;
    const int combo = 2 * row + sub, in_four = 2 * (step & 1) + i;
    uint32_t v;

    if constexpr (W::layout.low_bits == 4)
        v = word_of(bits.low[0], 2 * sub + row) >> 4 * i & 0x0f0f0f0fu;
    else
        v = word_of(bits.low[0], in_four) >> 2 * combo & 0x03030303u;
    if constexpr (W::layout.high_bits == 1) {
        constexpr int to = W::layout.low_bits;
        const int bit = 4 * i + combo;
        uint32_t h = word_of(bits.high, step);
        v |= (bit < to ? h << (to - bit) : h >> (bit - to)) & (0x01010101u << to);
    } else if constexpr (W::layout.high_bits == 2) {
        const int bit = 2 * combo;
        uint32_t h = word_of(bits.high, in_four);
        v |= (bit < 4 ? h << (4 - bit) : h >> (bit - 4)) & 0x30303030u;
    }
    return v;
}

static __device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

constexpr uint32_t bf16x2_one = 0x3f803f80u, bf16x2_128 = 0x43004300u;

/* Minus (128 + centre), twice: a whole number below 256. */
LAYOUT_FN uint32_t bf16x2_minus(int centre)
{
    return 0x80008000u | bf16x2_128 | (uint32_t)centre * 0x00010001u;
}

/* Signed bytes 0, 1 (`which` 0) or 2, 3 of v as bf16. */
static __device__ __forceinline__ uint32_t bytes_bf16x2(uint32_t v, int which)
{
    const uint32_t p = __byte_perm(v, 0, which ? 0x4342 : 0x4140);
    return fma_bf16x2((p & 0x00800080u) | bf16x2_128, 0xbf80bf80u, (p & 0x007f007fu) | bf16x2_128);
}

template <int TYPE>
static __device__ __forceinline__ void int8_values(const lane_bits<TYPE> &bits, int i, int row, uint32_t v[2])
{
    if constexpr (weight_type<TYPE>::has_table) {
        table_values<TYPE>(word_of(bits.low[0], 2 * i + row), v);
    } else {
        v[0] = word_of(bits.low[i], 2 * row);
        v[1] = word_of(bits.low[i], 2 * row + 1);
    }
}

/* The pairs of one row and sub-block as numbers without scale. */
template <int TYPE>
static __device__ __forceinline__ void step_numbers(const lane_bits<TYPE> &bits, int step, int i, int row,
                                                    int sub, uint32_t x[2])
{
    if constexpr (weight_type<TYPE>::has_codes) {
        const uint32_t v = step_codes<TYPE>(bits, step, i, row, sub),
                       minus = bf16x2_minus(weight_type<TYPE>::centre);
        x[0] = fma_bf16x2(__byte_perm(v, 0x43434343u, 0x4140), bf16x2_one, minus);
        x[1] = fma_bf16x2(__byte_perm(v, 0x43434343u, 0x4342), bf16x2_one, minus);
    } else {
        uint32_t v[2];
        int8_values<TYPE>(bits, i, row, v);
        x[0] = bytes_bf16x2(v[sub], 0);
        x[1] = bytes_bf16x2(v[sub], 1);
    }
}

static __device__ __forceinline__ uint32_t bf16x2_of_halves(uint32_t pair)
{
    return bf16_pair(half_bits(pair & 0xffff), half_bits(pair >> 16));
}

/* The fragment of a group's 16 rows x 16 columns: sub-block `sub` of block `i` of the step. */
template <int TYPE>
static __device__ __forceinline__ void step_fragment(const lane_bits<TYPE> &bits, int step, int i, int sub,
                                                     uint32_t f[4])
{
    using W = weight_type<TYPE>;
#pragma unroll
    for (int row = 0; row < 2; row++) {
        if constexpr (W::is_float) {
            const uint4 q = bits.low[2 * i + sub];
            f[row] = row ? q.z : q.x;
            f[2 + row] = row ? q.w : q.y;
            if constexpr (TYPE == SHARPI_TYPE_F16) {
                f[row] = bf16x2_of_halves(f[row]);
                f[2 + row] = bf16x2_of_halves(f[2 + row]);
            }
        } else {
            const uint32_t word = bits.scale[row][i];
            const uint32_t scale = W::two_scales || W::has_min
                                       ? __byte_perm(word, 0, W::two_scales && sub ? 0x3232 : 0x1010)
                                       : word;
            uint32_t offset = 0x80008000u, x[2]; /* minus zero, which changes nothing */
            if constexpr (W::has_min)
                offset = __byte_perm(bits.offset[row][i], 0, W::two_scales && !sub ? 0x1010 : 0x3232);
            step_numbers<TYPE>(bits, step, i, row, sub, x);
            f[row] = fma_bf16x2(x[0], scale, offset);
            f[2 + row] = fma_bf16x2(x[1], scale, offset);
        }
    }
}

#endif
