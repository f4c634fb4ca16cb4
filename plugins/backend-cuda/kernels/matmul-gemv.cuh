/* One slab of 16 rows times a few activation rows, from shared memory into a lane's registers.
 *
 * Quantized: int8 tensor-core products whose right operand has a column per token and block: with NT tokens, a product's eight
 * columns are NT tokens times 8 / NT blocks of 32 (others of the slab's blocks are zeros there), so that a fragment of sums c
 * holds 8 / NT blocks' sums apart, and scaling them is shared by all lanes. Lane 4 g + t gets c of rows g and g + 8 and columns
 * 2t and 2t + 1; column n is token n % NT and block n / NT of the fragment's.
 * 16-bit weights: float, one token of f32, on the plain units; float_mma, up to 8 tokens of f32, each split in two bf16 that
 * together have 16 bits.
 * A slab's activations are loaded before its weights are waited for.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_GEMV_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_GEMV_CUH

#include "matmul-decode.cuh"

enum gemv_mode { GEMV_Q1, GEMV_Q2, GEMV_Q4, GEMV_Q8, GEMV_FLOAT, GEMV_FLOAT_MMA };

/* Tokens of a kernel, and sums of a lane per row. */
static constexpr __host__ __device__ int mode_tokens(int mode)
{
    return mode == GEMV_Q1 || mode == GEMV_FLOAT ? 1 : mode == GEMV_Q2 ? 2 : mode == GEMV_Q4 ? 4 : 8;
}
static constexpr __host__ __device__ int mode_sums(int mode)
{
    return mode == GEMV_FLOAT ? 1 : 2;
}

struct gemv_input {
    const uint8_t *act; /* the first activation row */
    uint64_t stride;
    uint32_t n_in, n_rows; /* rows that may be read */
};

/* ---- Quantized ---- */

/* Where a lane's activations are: words of its column as right operand (g), scales of its columns as sums (2t, 2t + 1). */
template <int NT> struct gemv_lane {
    const uint8_t *word, *scale[2];      /* of the first slab's first fragment */
    uint32_t word_block, scale_block[2]; /* in a fragment */
    uint32_t n_blocks;                   /* of a row */
    int lane;
};

template <int NT> static __device__ __forceinline__ gemv_lane<NT> gemv_lane_of(const gemv_input &in, int lane)
{
    const int g = lane >> 2, t = lane & 3, last = (int)in.n_rows - 1;
    gemv_lane<NT> l;
    l.word_block = g / NT;
    l.word = in.act + min(g % NT, last) * in.stride + l.word_block * 32 + t * 8;
#pragma unroll
    for (int n = 0; n < 2; n++) {
        l.scale_block[n] = (2 * t + n) / NT;
        l.scale[n] = in.act + min((2 * t + n) % NT, last) * in.stride + in.n_in + l.scale_block[n] * 8;
    }
    l.n_blocks = in.n_in / 32;
    l.lane = lane;
    return l;
}

/* A fragment's activations: words, and {scale, scaled sum} of both columns. */
struct act_fragment {
    uint2 word;
    float2 d[2];
};

/* Fragment f of a slab. `whole`: the row does not end in the slab; past its end are zeros. */
template <int NT>
static __device__ __forceinline__ act_fragment act_load(const gemv_lane<NT> &l, uint32_t slab_index, int f,
                                                        bool whole)
{
    constexpr int each = 8 / NT;
    act_fragment x;
    uint32_t first = slab_index * 8 + f * each;
    if (whole) {
        x.word = *(const uint2 *)(l.word + first * 32);
        x.d[0] = *(const float2 *)(l.scale[0] + first * 8);
        x.d[1] = *(const float2 *)(l.scale[1] + first * 8);
        return x;
    }
    x.word = first + l.word_block < l.n_blocks ? *(const uint2 *)(l.word + first * 32) : make_uint2(0, 0);
#pragma unroll
    for (int n = 0; n < 2; n++)
        x.d[n] = first + l.scale_block[n] < l.n_blocks ? *(const float2 *)(l.scale[n] + first * 8)
                                                       : make_float2(0, 0);
    return x;
}

/* One token's activations, slab after slab. */
struct act_walk {
    const uint8_t *word, *scale; /* the lane's, of the next slab */
    uint32_t slab, n_whole;      /* n_whole: slabs that the row fills */
};

static __device__ __forceinline__ act_walk act_walk_from(const gemv_lane<1> &l, uint32_t slab)
{
    act_walk w = {l.word + slab * 256, l.scale[0] + slab * 64, slab, l.n_blocks / 8};
    asm volatile("" : "+l"(w.word), "+l"(w.scale), "+r"(w.n_whole)); /* not to be made again in every slab */
    return w;
}

/* The next N slabs'. */
template <int N>
static __device__ __forceinline__ void act_next(act_fragment x[N], act_walk &w, const gemv_lane<1> &l)
{
    if (w.slab + N <= w.n_whole) {
        __builtin_assume(__isGlobal(w.scale) && __isGlobal(w.word));
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float4 d = *(const float4 *)(w.scale + 64 * i);
            x[i].word = *(const uint2 *)(w.word + 256 * i);
            x[i].d[0] = make_float2(d.x, d.y);
            x[i].d[1] = make_float2(d.z, d.w);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            x[i] = act_load<1>(l, w.slab + i, 0, false);
    }
    w.slab += N;
    w.word += 256 * N;
    w.scale += 64 * N;
}

/* c += a b: 16 rows x 8 tokens over 32 or 16 columns. */
static __device__ __forceinline__ void mma_s8_k32(int c[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                  uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
static __device__ __forceinline__ void mma_s8_k16(int c[4], uint32_t a0, uint32_t a1, uint32_t b0)
{
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(b0));
}

/* The same with codes from 0 to 255. */
static __device__ __forceinline__ void mma_u8_k32(int c[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                  uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Types of 256-element blocks: sums before d and dmin. */
struct slab_sums {
    float sum[4], min[4];
};

template <int TYPE>
static __device__ __forceinline__ void scale_sum(const uint8_t *slab, const lane_header<TYPE> &h, int g,
                                                 uint32_t block, int row, int c0, int c1, int min0, int min1,
                                                 float2 d, float &acc, float &sum, float &min)
{
    using W = weight_type<TYPE>;
    if constexpr (W::two_scales) {
        sum += d.x * (float)(c0 * sub_scale_at<TYPE>(slab, h, g, block, row, 0) +
                             c1 * sub_scale_at<TYPE>(slab, h, g, block, row, 1));
        if constexpr (W::has_min)
            min += d.x * (float)(min0 * sub_min_at<TYPE>(slab, h, g, block, row, 0) +
                                 min1 * sub_min_at<TYPE>(slab, h, g, block, row, 1));
    } else if constexpr (W::is_super) {
        sum += d.x * (float)(c0 * sub_scale_at<TYPE>(slab, h, g, block, row, 0));
        if constexpr (W::has_min)
            min += d.y * (float)sub_min_at<TYPE>(slab, h, g, block, row, 0);
    } else {
        float scale, offset;
        block_scale_at<TYPE>(slab, g, block, row, scale, offset);
        acc += scale * (d.x * (float)c0);
        if constexpr (W::has_min)
            acc += offset * d.y;
    }
}

/* Fragment f's blocks. */
template <int TYPE, int NT>
static __device__ __forceinline__ void dot_fragment(const uint8_t *slab, const lane_header<TYPE> &h,
                                                    const act_fragment &x, int f, const gemv_lane<NT> &l,
                                                    float acc[2][2], slab_sums &part)
{
    using W = weight_type<TYPE>;
    constexpr int each = 8 / NT;
    int c[2][4] = {}, ones[2][4] = {};
#pragma unroll
    for (int j = 0; j < each; j++) {
        const int b = f * each + j;
        uint32_t v[2][2];
        lane_values<TYPE>(slab, b, 0, l.lane, v[0]);
        lane_values<TYPE>(slab, b, 1, l.lane, v[1]);
        const bool mine = NT == 8 || l.word_block == j;
        const uint32_t x0 = mine ? x.word.x : 0, x1 = mine ? x.word.y : 0;
        if constexpr (W::two_scales) {
            mma_s8_k16(c[0], v[0][0], v[1][0], x0);
            mma_s8_k16(c[1], v[0][1], v[1][1], x1);
            if constexpr (W::has_min) {
                mma_s8_k16(ones[0], 0x01010101, 0x01010101, x0);
                mma_s8_k16(ones[1], 0x01010101, 0x01010101, x1);
            }
        } else {
            mma_s8_k32(c[0], v[0][0], v[1][0], v[0][1], v[1][1], x0, x1);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t block = f * each + (NT == 8 ? 0 : l.scale_block[0]);
        scale_sum<TYPE>(slab, h, l.lane >> 2, block, i >> 1, c[0][i], c[1][i], ones[0][i], ones[1][i],
                        x.d[i & 1], acc[i >> 1][i & 1], part.sum[i], part.min[i]);
    }
}

template <int TYPE>
static __device__ __forceinline__ void dot_finish(const lane_header<TYPE> &h, const slab_sums &part,
                                                  float acc[2][2])
{
    if constexpr (weight_type<TYPE>::is_super) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            acc[i >> 1][i & 1] += block_scale<TYPE>(h, 0, i >> 1) * part.sum[i];
            if constexpr (weight_type<TYPE>::has_min)
                acc[i >> 1][i & 1] -= block_min<TYPE>(h, 0, i >> 1) * part.min[i];
        }
    }
}

/* All of a slab's activations. */
template <int NT> struct act_slab {
    act_fragment f[NT];
};

template <int NT>
static __device__ __forceinline__ void slab_load(act_slab<NT> &x, const gemv_lane<NT> &l, uint32_t index)
{
    const bool whole = index * 8 + 8 <= l.n_blocks;
#pragma unroll
    for (int f = 0; f < NT; f++)
        x.f[f] = act_load<NT>(l, index, f, whole);
}

/* Several tokens. */
template <int TYPE, int NT>
static __device__ __forceinline__ void slab_dot(const uint8_t *slab, const act_slab<NT> &x,
                                                const gemv_lane<NT> &l, float acc[2][2])
{
    const lane_header<TYPE> h = lane_header_load<TYPE>(slab, l.lane);
    slab_sums part = {};
#pragma unroll
    for (int f = 0; f < NT; f++)
        dot_fragment<TYPE, NT>(slab, h, x.f[f], f, l, acc, part);
    dot_finish<TYPE>(h, part, acc);
}

/* ---- Quantized, one token ----
 *
 * Column n of the right operand has block n's activations, so of the products of block b's weights only column b's are wanted.
 *
 * By bytes: blocks b and b + 4 share their sums, by zeros in the others' half of the columns: their products are four pairs that do
 * not wait for each other, and a lane takes what it wants, columns 2t and 2t + 1, from two of them.
 *
 * By nibbles, 4-bit codes of an even and an odd block in a byte: two products of both blocks' columns, of the low nibbles and of the whole
 * bytes. The even block's sum is the first's; the odd block's is a sixteenth of how much more the second is in its column. All
 * pairs of blocks share their sums, by zeros in the columns of other pairs. So a mask for two blocks is all the unpacking.
 */

static __device__ __forceinline__ uint4 load_shared_now(uint32_t address)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

static __device__ __forceinline__ uint2 load_shared_pair_now(uint32_t address)
{
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
    return v;
}

static __device__ __forceinline__ uint32_t load_shared_word_now(uint32_t address)
{
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
    return v;
}

/* A lane's granules of a slab, 16 bytes at a time: left to itself the compiler loads words one by one, which meet in a quarter of the
 * banks. In registers; as bytes they are a slab of a warp with one lane, but for its header. */
template <int TYPE> struct lane_slab {
    alignas(16) uint8_t bytes[weight_type<TYPE>::layout.header + 512 * (weight_type<TYPE>::layout.high_bits +
                                                                        weight_type<TYPE>::layout.low_bits)];
};

template <int TYPE>
static __device__ __forceinline__ void lane_slab_load(lane_slab<TYPE> &s, uint32_t slab, int lane)
{
    constexpr slab_layout l = weight_type<TYPE>::layout;
#pragma unroll
    for (uint32_t at = l.header; at < sizeof s.bytes; at += 512)
        *(uint4 *)(s.bytes + at) = load_shared_now(slab + at + 16 * lane);
}

/* The bytes of both rows and sub-blocks: v[2 * sub-block + row], the left operand. */
template <int TYPE>
static __device__ __forceinline__ void one_values(const lane_slab<TYPE> &codes, int block, uint32_t v[4])
{
    uint32_t of_row[2][2];
    lane_values<TYPE>(codes.bytes, block, 0, 0, of_row[0]);
    lane_values<TYPE>(codes.bytes, block, 1, 0, of_row[1]);
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] = of_row[i & 1][i >> 1];
}

/* Sums begin at this whole number, which as a float's bits is 1.5 * 2^23: a sum's bits less that float are the sum as a float. */
static constexpr int SUM_BEGIN = 0x4b400000;

/* How much more a sum is than its beginning, or than another. */
static __device__ __forceinline__ float sum_value(int sum, int less = SUM_BEGIN)
{
    return __int_as_float(sum) - __int_as_float(less);
}

/* By nibbles. f[2 * row + which]: of blocks 2t and 2t + 1, the codes' products, as they are and times 16. */
template <int TYPE>
static __device__ __forceinline__ void nibble_products(const lane_slab<TYPE> &codes, const act_fragment &x,
                                                       int lane, float f[4])
{
    int low[4] = {SUM_BEGIN, SUM_BEGIN, SUM_BEGIN, SUM_BEGIN},
        all[4] = {SUM_BEGIN, SUM_BEGIN, SUM_BEGIN, SUM_BEGIN};
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
        const uint4 q = lane_granule(codes.bytes + weight_type<TYPE>::low_offset, pair, 0);
        const uint2 w = lane >> 3 == pair ? x.word : make_uint2(0, 0);
        mma_u8_k32(low, q.x & 0x0f0f0f0fu, q.y & 0x0f0f0f0fu, q.z & 0x0f0f0f0fu, q.w & 0x0f0f0f0fu, w.x, w.y);
        mma_u8_k32(all, q.x, q.y, q.z, q.w, w.x, w.y);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        f[2 * r] = sum_value(low[2 * r]);
        f[2 * r + 1] = sum_value(all[2 * r + 1], low[2 * r + 1]);
    }
}

/* By bytes. Of the products of blocks 2t and 2t + 1 with their columns, the lane's: c[2 * row + which], for types whose sub-blocks
 * have scales of their own one c for each. */
template <int TYPE>
static __device__ __forceinline__ void one_products(const lane_slab<TYPE> &codes, const act_fragment &x,
                                                    int lane, int c[1 + weight_type<TYPE>::two_scales][4])
{
    constexpr int n_sub = 1 + weight_type<TYPE>::two_scales;
    const bool odd = lane & 1, high = lane & 16;
    const uint2 low_x = high ? make_uint2(0, 0) : x.word, high_x = high ? x.word : make_uint2(0, 0);
    int all[4][n_sub][4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            for (int sub = 0; sub < n_sub; sub++)
                all[j][sub][i] = SUM_BEGIN;
        }
#pragma unroll
        for (int b = j; b < 8; b += 4) {
            const uint2 w = b < 4 ? low_x : high_x;
            uint32_t v[4];
            one_values<TYPE>(codes, b, v);
            if constexpr (n_sub == 2) {
                mma_s8_k16(all[j][0], v[0], v[1], w.x);
                mma_s8_k16(all[j][1], v[2], v[3], w.y);
            } else {
                mma_s8_k32(all[j][0], v[0], v[1], v[2], v[3], w.x, w.y);
            }
        }
    }
#pragma unroll
    for (int sub = 0; sub < n_sub; sub++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            c[sub][i] = odd ? all[2 + (i & 1)][sub][i] : all[i & 1][sub][i];
    }
}

/* A lane's scales of its blocks and rows; what of the header it wants for that. */
template <int TYPE> struct one_header {
    static constexpr bool nibbles = TYPE == SHARPI_TYPE_Q4_0 || TYPE == SHARPI_TYPE_Q4_K;
    static constexpr bool halves = TYPE == SHARPI_TYPE_Q4_0 || TYPE == SHARPI_TYPE_Q5_0 ||
                                   TYPE == SHARPI_TYPE_Q8_0 || TYPE == SHARPI_TYPE_IQ4_NL;
    uint32_t a, b; /* halves: of either row; six bits: lower and upper bits */
    uint2 d;       /* six bits: of either row */

    __device__ __forceinline__ void load(uint32_t slab, int lane)
    {
        const uint32_t g = (uint32_t)lane >> 2, t = (uint32_t)lane & 3;
        if constexpr (halves) {
            a = load_shared_word_now(slab + g * 32 + t * 4);
            b = load_shared_word_now(slab + g * 32 + t * 4 + 16);
        } else if constexpr (weight_type<TYPE>::six_bits) {
            a = load_shared_word_now(slab + g * 32 + 16 + t * 4);
            b = load_shared_word_now(slab + g * 32 + 8 + (t >> 1) * 4) >> (t & 1) * 4;
            d = load_shared_pair_now(slab + g * 32);
        }
    }
};

static __device__ __forceinline__ float2 halves_of(uint32_t pair)
{
    return __half22float2(*(const __half2 *)&pair);
}

/* Bytes 2 i and 2 i + 1 of v as floats: as the last bits of halves from 1024 on, less that. */
static __device__ __forceinline__ float2 bytes_of(uint32_t v, int i)
{
    const uint32_t pair = __byte_perm(v, 0x64646464u, i ? 0x4342 : 0x4140);
    return __half22float2(__hsub2(*(const __half2 *)&pair, __floats2half2_rn(1024.0f, 1024.0f)));
}

/* f: the products of blocks 2t and 2t + 1, [2 * row + which]. */
template <int TYPE>
static __device__ __forceinline__ void one_scale(const one_header<TYPE> &h, const act_fragment &x, float f[4],
                                                 float acc[2][2])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int n = i & 1;
        const float factor = one_header<TYPE>::nibbles ? (n ? 16.0f : 1.0f) : weight_type<TYPE>::value_factor;
        f[i] *= x.d[n].x * (1.0f / factor);
        if (one_header<TYPE>::nibbles && weight_type<TYPE>::code_offset)
            f[i] -= x.d[n].y * (float)weight_type<TYPE>::code_offset;
    }
    if constexpr (one_header<TYPE>::halves) {
        const float2 s[2] = {halves_of(h.a), halves_of(h.b)};
#pragma unroll
        for (int r = 0; r < 2; r++) {
            acc[r][0] += s[r].x * f[2 * r];
            acc[r][1] += s[r].y * f[2 * r + 1];
        }
    } else {
        const uint32_t scales = (h.a & 0x0f0f0f0fu) | (h.b << 4 & 0x30303030u),
                       mins = (h.a >> 4 & 0x0f0f0f0fu) | (h.b << 2 & 0x30303030u);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float2 s = bytes_of(scales, r), m = bytes_of(mins, r), d = halves_of(r ? h.d.y : h.d.x);
            acc[r][0] += d.x * (s.x * f[2 * r] + s.y * f[2 * r + 1]);
            acc[r][1] -= d.y * (m.x * x.d[0].y + m.y * x.d[1].y);
        }
    }
}

/* `slab`: its address in shared memory. */
template <int TYPE>
static __device__ __forceinline__ void slab_dot_one(uint32_t slab, const act_fragment &x, int lane,
                                                    float acc[2][2])
{
    using W = weight_type<TYPE>;
    lane_slab<TYPE> codes;
    int c[1 + W::two_scales][4];
    if constexpr (one_header<TYPE>::halves || W::six_bits) {
        one_header<TYPE> h;
        float f[4];
        h.load(slab, lane); /* first, so that it is there when it is wanted */
        lane_slab_load(codes, slab, lane);
        if constexpr (one_header<TYPE>::nibbles) {
            nibble_products<TYPE>(codes, x, lane, f);
        } else {
            one_products<TYPE>(codes, x, lane, c);
#pragma unroll
            for (int i = 0; i < 4; i++)
                f[i] = sum_value(c[0][i]);
        }
        one_scale<TYPE>(h, x, f, acc);
        return;
    }
    const uint8_t *at = (const uint8_t *)__cvta_shared_to_generic(slab);
    const lane_header<TYPE> h = lane_header_load<TYPE>(at, lane);
    slab_sums part = {};
    lane_slab_load(codes, slab, lane);
    one_products<TYPE>(codes, x, lane, c);
    constexpr int last = W::two_scales;
    int ones[2][4] = {};
    if constexpr (W::two_scales && W::has_min) { /* sums of activations: column n's are block n's */
        mma_s8_k16(ones[0], 0x01010101, 0x01010101, x.word.x);
        mma_s8_k16(ones[1], 0x01010101, 0x01010101, x.word.y);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        scale_sum<TYPE>(at, h, lane >> 2, 2 * (lane & 3) + (i & 1), i >> 1, c[0][i] - SUM_BEGIN,
                        c[last][i] - SUM_BEGIN, ones[0][i], ones[1][i], x.d[i & 1], acc[i >> 1][i & 1],
                        part.sum[i], part.min[i]);
    }
    dot_finish<TYPE>(h, part, acc);
}

/* ---- 16-bit weights ---- */

/* Columns [column, column + 4) of an f32 row; zeros past the end. */
static __device__ __forceinline__ float4 act_floats(const uint8_t *row, uint32_t n_in, uint32_t column)
{
    const float *x = (const float *)row + column;
    float4 v = make_float4(0, 0, 0, 0);
    if (column + 4 <= n_in)
        return *(const float4 *)x;
    if (column < n_in)
        v.x = x[0];
    if (column + 1 < n_in)
        v.y = x[1];
    if (column + 2 < n_in)
        v.z = x[2];
    return v;
}

template <int TYPE>
static __device__ __forceinline__ void columns_float(const uint8_t *slab, int p, float4 x, int lane,
                                                     float acc[2][1])
{
    const lane_header<TYPE> none = {};
    float4 w0 = lane_weights<TYPE>(slab, none, p >> 1, 0, p & 1, lane),
           w1 = lane_weights<TYPE>(slab, none, p >> 1, 1, p & 1, lane);
    acc[0][0] += (w0.x * x.x + w0.y * x.y) + (w0.z * x.z + w0.w * x.w);
    acc[1][0] += (w1.x * x.x + w1.y * x.y) + (w1.z * x.z + w1.w * x.w);
}

/* What bf16_pair leaves of a and b. */
static __device__ __forceinline__ uint32_t bf16_rest(float a, float b, uint32_t pair)
{
    return bf16_pair(a - __uint_as_float(pair << 16), b - __uint_as_float(pair & 0xffff0000u));
}

/* 16 columns of the slab: weights and activations as sums of two bf16; the product of both small parts is left out. */
template <int TYPE>
static __device__ __forceinline__ void columns_float_mma(const uint8_t *slab, int p, float4 x, int lane,
                                                         float c[4])
{
    uint32_t x0 = bf16_pair(x.x, x.y), x1 = bf16_pair(x.z, x.w), y0 = bf16_rest(x.x, x.y, x0),
             y1 = bf16_rest(x.z, x.w, x1), w[4];
    if constexpr (TYPE == SHARPI_TYPE_BF16) {
        uint2 p0 = lane_pairs(slab, p >> 1, 0, p & 1, lane), p1 = lane_pairs(slab, p >> 1, 1, p & 1, lane);
        w[0] = p0.x, w[1] = p1.x, w[2] = p0.y, w[3] = p1.y;
    } else {
        const lane_header<TYPE> none = {};
        float4 w0 = lane_weights<TYPE>(slab, none, p >> 1, 0, p & 1, lane),
               w1 = lane_weights<TYPE>(slab, none, p >> 1, 1, p & 1, lane);
        w[0] = bf16_pair(w0.x, w0.y), w[1] = bf16_pair(w1.x, w1.y);
        w[2] = bf16_pair(w0.z, w0.w), w[3] = bf16_pair(w1.z, w1.w);
        const uint32_t rest[4] = {bf16_rest(w0.x, w0.y, w[0]), bf16_rest(w1.x, w1.y, w[1]),
                                  bf16_rest(w0.z, w0.w, w[2]), bf16_rest(w1.z, w1.w, w[3])};
        mma_bf16(c, rest, x0, x1);
    }
    mma_bf16(c, w, y0, y1);
    mma_bf16(c, w, x0, x1);
}

/* A slab; float: row 0 is the token, float_mma: row g. Only a row's last slab looks for its end. */
template <int TYPE, int MODE>
static __device__ __forceinline__ void dot_float(const uint8_t *slab, uint32_t slab_index, const float4 x[8],
                                                 const uint8_t *row, uint32_t n_in, int lane,
                                                 float acc[2][MODE == GEMV_FLOAT ? 1 : 2])
{
    const int t = lane & 3;
    float c[4] = {};
    const bool whole = slab_index * 128 + 128 <= n_in;
#pragma unroll
    for (int p = 0; p < 8; p++) { /* 16 columns */
        uint32_t column = slab_index * 128 + p * 16;
        if (!whole && column >= n_in)
            break;
        float4 v = whole ? x[p] : act_floats(row, n_in, column + 4 * t);
        if constexpr (MODE == GEMV_FLOAT)
            columns_float<TYPE>(slab, p, v, lane, acc);
        else
            columns_float_mma<TYPE>(slab, p, v, lane, c);
    }
    if constexpr (MODE == GEMV_FLOAT_MMA) {
        acc[0][0] += c[0], acc[0][1] += c[1];
        acc[1][0] += c[2], acc[1][1] += c[3];
    }
}

/* ---- Results ---- */

/* The sum over the lanes of a g whose t differ in the bits of `mask`. */
static __device__ __forceinline__ float lanes_sum(float v, int mask)
{
    if (mask & 1)
        v += __shfl_xor_sync(~0u, v, 1);
    if (mask & 2)
        v += __shfl_xor_sync(~0u, v, 2);
    return v;
}

/* The warp's sums of a pass to shared memory, sums[token][row]. */
template <int MODE>
static __device__ __forceinline__ void deposit(float *sums, const float acc[2][mode_sums(MODE)], int lane)
{
    constexpr int NT = mode_tokens(MODE);
    const int g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float *to = sums + g + 8 * r;
        if constexpr (NT == 1) {
            float v = acc[r][0];
            if constexpr (mode_sums(MODE) == 2)
                v += acc[r][1];
            v = lanes_sum(v, 3);
            if (t == 0)
                to[0] = v;
        } else {
            constexpr int mask = NT == 2 ? 3 : NT == 4 ? 2 : 0; /* columns 2t + n of the same token */
            float v0 = lanes_sum(acc[r][0], mask), v1 = lanes_sum(acc[r][1], mask);
            if (2 * t < NT) {
                to[2 * t * 16] = v0;
                to[(2 * t + 1) * 16] = v1;
            }
        }
    }
}

#endif
