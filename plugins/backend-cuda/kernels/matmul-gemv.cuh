/* One slab of 16 rows times a few activation rows, from shared memory into a lane's registers.
 *
 * Four ways, by type and number of tokens; each adds to acc:
 *   dp4a:      quantized, one token. acc[row][0] is the lane's share: the four lanes of a g are summed at the end.
 *   mma:       quantized, up to 8 tokens. acc[row][i] is complete, of token 2t + i.
 *   float:     16-bit weights, one token of f32; shares as dp4a.
 *   float_mma: 16-bit weights, up to 8 tokens of f32, each split in two bf16 that together have 16 bits; complete as mma.
 * A slab's activations are loaded (act_load) before its weights are waited for. Loads past the end of a row are moved to
 * its last block and count as zeros: no branches.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_GEMV_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_GEMV_CUH

#include "matmul-decode.cuh"

enum gemv_mode { GEMV_DP4A, GEMV_MMA, GEMV_FLOAT, GEMV_FLOAT_MMA };

struct gemv_input {
    const uint8_t *act; /* the first activation row */
    uint64_t stride;
    uint32_t n_in, n_rows; /* rows that may be read */
};

/* ---- Quantized ---- */

/* A lane's activations of NB blocks: NS rows' scales and scaled sums (x, y: even blocks, z, w: odd ones), one row's words. */
template <int NS, int NB> struct act_slab {
    uint2 word[NB];
    float4 d[NS][NB / 2];
};

/* Blocks [first, first + NB) of a row of words and NS rows of scales. The row may end before. */
template <int NS, int NB>
static __device__ __forceinline__ void act_load(act_slab<NS, NB> &x, const uint8_t *word_row,
                                                const uint8_t *const scale_row[2], uint32_t n_in,
                                                uint32_t first, int t)
{
    const uint32_t last = n_in / 32 - 1;
    if (first + NB - 1 <= last) {
#pragma unroll
        for (int b = 0; b < NB; b++)
            x.word[b] = *(const uint2 *)(word_row + first * 32 + t * 8 + b * 32);
#pragma unroll
        for (int n = 0; n < NS; n++)
#pragma unroll
            for (int b = 0; b < NB / 2; b++)
                x.d[n][b] = *(const float4 *)(scale_row[n] + n_in + first * 8 + b * 16);
        return;
    }
#pragma unroll
    for (uint32_t b = 0; b < NB; b++)
        x.word[b] = *(const uint2 *)(word_row + min(first + b, last) * 32 + t * 8);
#pragma unroll
    for (int n = 0; n < NS; n++) {
#pragma unroll
        for (uint32_t b = 0; b < NB; b += 2) {
            uint32_t block = first + b;
            float4 d = *(const float4 *)(scale_row[n] + n_in + min(block, last & ~1u) * 8);
            x.d[n][b / 2] = make_float4(block <= last ? d.x : 0, block <= last ? d.y : 0,
                                        block < last ? d.z : 0, block < last ? d.w : 0);
        }
    }
}

template <int TYPE>
static __device__ __forceinline__ void dot_dp4a(const uint8_t *slab, const act_slab<1, 8> &in, int lane,
                                                float acc[2][1])
{
    using W = weight_type<TYPE>;
    const lane_header<TYPE> h = lane_header_load<TYPE>(slab, lane);
    float part[2] = {}, part_min[2] = {};

#pragma unroll
    for (int b = 0; b < 8; b++) {
        const float4 d = in.d[0][b / 2];
        const float dx = b & 1 ? d.z : d.x, sx = b & 1 ? d.w : d.y;
        const uint2 x = in.word[b];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            uint32_t v[2];
            lane_values<TYPE>(slab, b, r, lane, v);
            if constexpr (W::two_scales) {
                int sum = __dp4a((int)v[0], (int)x.x, 0) * sub_scale<TYPE>(h, b, r, 0) +
                          __dp4a((int)v[1], (int)x.y, 0) * sub_scale<TYPE>(h, b, r, 1);
                part[r] += dx * (float)sum;
                if constexpr (W::has_min) {
                    int min = __dp4a(0x01010101, (int)x.x, 0) * sub_min<TYPE>(h, b, r, 0) +
                              __dp4a(0x01010101, (int)x.y, 0) * sub_min<TYPE>(h, b, r, 1);
                    part_min[r] += dx * (float)min;
                }
            } else {
                int sum = __dp4a((int)v[1], (int)x.y, __dp4a((int)v[0], (int)x.x, 0));
                if constexpr (W::is_super) {
                    part[r] += dx * (float)(sum * sub_scale<TYPE>(h, b, r, 0));
                    if constexpr (W::has_min)
                        part_min[r] += sx * (float)sub_min<TYPE>(h, b, r, 0);
                } else {
                    acc[r][0] +=
                        raw_block_scale<TYPE>(h, b, r) * (dx * (1.0f / W::value_factor)) * (float)sum;
                    if constexpr (W::has_min) /* all four lanes of a g do the same: a quarter each */
                        acc[r][0] -= block_min<TYPE>(h, b, r) * (0.25f * sx);
                }
            }
        }
    }
    if constexpr (W::is_super) {
        constexpr float share = W::two_scales ? 1.0f : 0.25f;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            acc[r][0] += block_scale<TYPE>(h, 0, r) * part[r];
            if constexpr (W::has_min)
                acc[r][0] -= share * block_min<TYPE>(h, 0, r) * part_min[r];
        }
    }
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

/* One block: sum[i] of element i of the accumulator fragment, times the sub-block's integer scales; min likewise (two_scales). */
template <int TYPE>
static __device__ __forceinline__ void block_mma(const lane_header<TYPE> &h, int b, const uint32_t v[2][2],
                                                 uint2 x, int sum[4], int min[4])
{
    using W = weight_type<TYPE>;
    if constexpr (W::two_scales) {
        int c[2][4] = {}, ones[2][4] = {};
        mma_s8_k16(c[0], v[0][0], v[1][0], x.x);
        mma_s8_k16(c[1], v[0][1], v[1][1], x.y);
        if constexpr (W::has_min) {
            mma_s8_k16(ones[0], 0x01010101, 0x01010101, x.x);
            mma_s8_k16(ones[1], 0x01010101, 0x01010101, x.y);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sum[i] = c[0][i] * sub_scale<TYPE>(h, b, i >> 1, 0) + c[1][i] * sub_scale<TYPE>(h, b, i >> 1, 1);
            if constexpr (W::has_min)
                min[i] =
                    ones[0][i] * sub_min<TYPE>(h, b, i >> 1, 0) + ones[1][i] * sub_min<TYPE>(h, b, i >> 1, 1);
        }
    } else {
        mma_s8_k32(sum, v[0][0], v[1][0], v[0][1], v[1][1], x.x, x.y);
        if constexpr (W::is_super) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                sum[i] *= sub_scale<TYPE>(h, b, i >> 1, 0);
        }
    }
}

/* Types of 256-element blocks: sums before d and dmin. */
struct mma_part {
    float sum[4], min[4];
};

/* Blocks [BEGIN, BEGIN + 4) of a slab. */
template <int TYPE, int BEGIN>
static __device__ __forceinline__ void dot_mma_half(const uint8_t *slab, const lane_header<TYPE> &h,
                                                    const act_slab<2, 4> &in, int lane, float acc[2][2],
                                                    mma_part &part)
{
    using W = weight_type<TYPE>;
#pragma unroll
    for (int b = BEGIN; b < BEGIN + 4; b++) {
        uint32_t v[2][2];
        int sum[4] = {}, min[4] = {};
        lane_values<TYPE>(slab, b, 0, lane, v[0]);
        lane_values<TYPE>(slab, b, 1, lane, v[1]);
        block_mma<TYPE>(h, b, v, in.word[b - BEGIN], sum, min);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = i >> 1, n = i & 1;
            const float4 d = in.d[n][(b - BEGIN) / 2];
            const float dx = b & 1 ? d.z : d.x, sx = b & 1 ? d.w : d.y;
            if constexpr (W::is_super) {
                part.sum[i] += dx * (float)sum[i];
                if constexpr (W::two_scales)
                    part.min[i] += dx * (float)min[i];
                else if constexpr (W::has_min)
                    part.min[i] += sx * (float)sub_min<TYPE>(h, b, r, 0);
            } else {
                float value = dx * (float)sum[i];
                acc[r][n] += block_scale<TYPE>(h, b, r) * value;
                if constexpr (W::has_min)
                    acc[r][n] -= block_min<TYPE>(h, b, r) * sx;
            }
        }
    }
}

template <int TYPE>
static __device__ __forceinline__ void dot_mma_finish(const lane_header<TYPE> &h, const mma_part &part,
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

#endif
