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
        if constexpr (NT == 1) {
            float4 d = *(const float4 *)(l.scale[0] + first * 8);
            x.d[0] = make_float2(d.x, d.y);
            x.d[1] = make_float2(d.z, d.w);
        } else {
            x.d[0] = *(const float2 *)(l.scale[0] + first * 8);
            x.d[1] = *(const float2 *)(l.scale[1] + first * 8);
        }
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

static __device__ __forceinline__ void act_next(act_fragment &x, act_walk &w, const gemv_lane<1> &l)
{
    if (w.slab < w.n_whole) {
        __builtin_assume(__isGlobal(w.scale) && __isGlobal(w.word));
        const float4 d = *(const float4 *)w.scale;
        x.word = *(const uint2 *)w.word;
        x.d[0] = make_float2(d.x, d.y);
        x.d[1] = make_float2(d.z, d.w);
    } else {
        x = act_load<1>(l, w.slab, 0, false);
    }
    w.slab++;
    w.word += 256;
    w.scale += 64;
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
        sum += d.x *
               (float)(c0 * sub_scale_at<TYPE>(h, block, row, 0) + c1 * sub_scale_at<TYPE>(h, block, row, 1));
        if constexpr (W::has_min)
            min += d.x * (float)(min0 * sub_min_at<TYPE>(h, block, row, 0) +
                                 min1 * sub_min_at<TYPE>(h, block, row, 1));
    } else if constexpr (W::is_super) {
        sum += d.x * (float)(c0 * sub_scale_at<TYPE>(h, block, row, 0));
        if constexpr (W::has_min)
            min += d.y * (float)sub_min_at<TYPE>(h, block, row, 0);
    } else {
        float scale, offset;
        block_scale_at<TYPE>(slab, g, block, row, scale, offset);
        acc += scale * (d.x * (float)c0);
        if constexpr (W::has_min)
            acc += offset * d.y;
    }
}

/* A lane's granules of a slab, 16 bytes at a time: left to itself the compiler loads words one by one, which meet in a quarter of the
 * banks. In registers; as bytes they are a slab of a warp with one lane, but for its header. */
template <int TYPE> struct lane_slab {
    alignas(16) uint8_t bytes[weight_type<TYPE>::layout.header + 512 * (weight_type<TYPE>::layout.high_bits +
                                                                        weight_type<TYPE>::layout.low_bits)];
};

static __device__ __forceinline__ uint4 load_shared_now(const void *p)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"((uint32_t)__cvta_generic_to_shared(p))
                 : "memory");
    return v;
}

static __device__ __forceinline__ uint32_t load_shared_word_now(const void *p)
{
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"((uint32_t)__cvta_generic_to_shared(p)) : "memory");
    return v;
}

template <int TYPE>
static __device__ __forceinline__ void lane_slab_load(lane_slab<TYPE> &s, const uint8_t *slab, int lane)
{
    constexpr slab_layout l = weight_type<TYPE>::layout;
#pragma unroll
    for (uint32_t at = l.header; at < sizeof s.bytes; at += 512)
        *(uint4 *)(s.bytes + at) = load_shared_now(slab + at + 16 * lane);
}

/* A lane's scales of blocks 2t and 2t + 1 of both rows, two f16 a row; only of types whose headers are just these. */
template <int TYPE> struct lane_scales {
    static constexpr bool exist = TYPE == SHARPI_TYPE_Q4_0 || TYPE == SHARPI_TYPE_Q5_0 ||
                                  TYPE == SHARPI_TYPE_Q8_0 || TYPE == SHARPI_TYPE_IQ4_NL;
    uint32_t row[2];

    __device__ __forceinline__ void load(const uint8_t *slab, int lane)
    {
        const uint8_t *p = slab + (lane >> 2) * 32 + (lane & 3) * 4;
        row[0] = load_shared_word_now(p);
        row[1] = load_shared_word_now(p + 16);
    }
    __device__ __forceinline__ float at(int r, int n) const
    {
        return half_bits(row[r] >> 16 * n & 0xffff) * (1.0f / weight_type<TYPE>::value_factor);
    }
};

/* One token, types with one scale per block: the sums of all eight blocks' products with all eight columns, of which a lane keeps those of
 * blocks 2t and 2t + 1 with their own columns. Products do not wait for each other. */
template <int TYPE>
static __device__ __forceinline__ void dot_blocks(const uint8_t *codes, const act_fragment &x, int lane,
                                                  int c[4])
{
    const bool odd = lane & 1, high = lane & 2;
    int all[8][4] = {};
#pragma unroll
    for (int b = 0; b < 8; b++) {
        uint32_t v[2][2];
        lane_values<TYPE>(codes, b, 0, 0, v[0]);
        lane_values<TYPE>(codes, b, 1, 0, v[1]);
        mma_s8_k32(all[b], v[0][0], v[1][0], v[0][1], v[1][1], x.word.x, x.word.y);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int n = i & 1, low = odd ? all[2 + n][i] : all[n][i], up = odd ? all[6 + n][i] : all[4 + n][i];
        c[i] = high ? up : low;
    }
}

/* Fragment f's blocks. `codes`: where lane_values finds them as lane `codes_lane`. APART: there are registers for dot_blocks. */
template <int TYPE, int NT, bool APART>
static __device__ __forceinline__ void dot_fragment(const uint8_t *slab, const uint8_t *codes, int codes_lane,
                                                    const lane_header<TYPE> &h, const act_fragment &x, int f,
                                                    const gemv_lane<NT> &l, float acc[2][2], slab_sums &part)
{
    using W = weight_type<TYPE>;
    constexpr int each = 8 / NT;
    int c[2][4] = {}, ones[2][4] = {};
    constexpr bool apart = APART && NT == 1 && !W::two_scales;
    if constexpr (apart)
        dot_blocks<TYPE>(codes, x, l.lane, c[0]);
#pragma unroll
    for (int j = 0; j < (apart ? 0 : each); j++) {
        const int b = f * each + j;
        uint32_t v[2][2];
        lane_values<TYPE>(codes, b, 0, codes_lane, v[0]);
        lane_values<TYPE>(codes, b, 1, codes_lane, v[1]);
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
        const uint32_t block = f * each + (NT == 8 ? 0 : l.scale_block[NT == 1 ? i & 1 : 0]);
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

/* One token: what the lane has of the products of blocks 2t and 2t + 1, scaled. */
template <int TYPE>
static __device__ __forceinline__ void dot_scaled(const lane_slab<TYPE> &codes,
                                                  const lane_scales<TYPE> &scales, const act_fragment &x,
                                                  int lane, float acc[2][2])
{
    int c[4];
    dot_blocks<TYPE>(codes.bytes, x, lane, c);
#pragma unroll
    for (int i = 0; i < 4; i++)
        acc[i >> 1][i & 1] += scales.at(i >> 1, i & 1) * (x.d[i & 1].x * (float)c[i]);
}

template <int TYPE, int NT, bool APART = false>
static __device__ __forceinline__ void slab_dot(const uint8_t *slab, const act_slab<NT> &x,
                                                const gemv_lane<NT> &l, float acc[2][2])
{
    if constexpr (APART && NT == 1 && lane_scales<TYPE>::exist) {
        lane_scales<TYPE> scales;
        lane_slab<TYPE> codes;
        scales.load(slab, l.lane); /* first, so that it is there when it is wanted */
        lane_slab_load(codes, slab, l.lane);
        dot_scaled<TYPE>(codes, scales, x.f[0], l.lane, acc);
        return;
    }
    const lane_header<TYPE> h = lane_header_load<TYPE>(slab, l.lane);
    slab_sums part = {};
    if constexpr (NT == 1) {
        lane_slab<TYPE> codes;
        lane_slab_load(codes, slab, l.lane);
        dot_fragment<TYPE, NT, APART>(slab, codes.bytes, 0, h, x.f[0], 0, l, acc, part);
    } else { /* registers are needed for activations */
#pragma unroll
        for (int f = 0; f < NT; f++)
            dot_fragment<TYPE, NT, APART>(slab, slab, l.lane, h, x.f[f], f, l, acc, part);
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
