/* One slab of 16 rows times a few activation rows, from shared memory into a lane's registers.
 *
 * Three ways, by type and number of tokens; each adds to acc:
 *   dot_dp4a:  quantized, 1 or 2 tokens. acc[row][token] is the lane's share: the four lanes of a g are summed at the end.
 *   dot_mma:   quantized, up to 8 tokens. acc[row][i] is complete, of token 2t + i.
 *   dot_float: 16-bit weights, f32 activations; shares as dot_dp4a.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_GEMV_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_GEMV_CUH

#include "matmul-decode.cuh"

struct gemv_input {
    const uint8_t *act; /* the first activation row */
    uint64_t stride;
    uint32_t n_in, n_rows; /* rows that may be read */
};

/* Scales (x, z) and scaled sums (y, w) of blocks `first` and first + 1 of a row; zeros past the end. */
static __device__ __forceinline__ float4 act_scale_pair(const uint8_t *row, uint32_t n_in, uint32_t first)
{
    float4 d = make_float4(0, 0, 0, 0);
    if (first * 32 < n_in) {
        d = *(const float4 *)(row + n_in + first * 8);
        if (first * 32 + 32 >= n_in)
            d.z = d.w = 0;
    }
    return d;
}

/* The lane's words of sub-blocks 0 and 1 of a block of a row. */
static __device__ __forceinline__ uint2 act_words(const uint8_t *row, uint32_t n_in, uint32_t block, int t)
{
    return block * 32 < n_in ? *(const uint2 *)(row + block * 32 + t * 8) : make_uint2(0, 0);
}

template <int TYPE, int NT>
static __device__ __forceinline__ void dot_dp4a(const uint8_t *slab, uint32_t slab_index,
                                                const gemv_input &in, int lane, float acc[2][NT])
{
    using W = weight_type<TYPE>;
    const lane_header<TYPE> h = lane_header_load<TYPE>(slab, lane);
    const int t = lane & 3;
    const uint8_t *x_row[NT];
    float part[2][NT] = {}, part_min[2][NT] = {};
    float4 d[NT];

#pragma unroll
    for (int n = 0; n < NT; n++)
        x_row[n] = in.act + (n < (int)in.n_rows ? n : 0) * in.stride;
#pragma unroll
    for (int b = 0; b < 8; b++) {
        uint32_t v[2][2];
        lane_values<TYPE>(slab, b, 0, lane, v[0]);
        lane_values<TYPE>(slab, b, 1, lane, v[1]);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            if (b % 2 == 0)
                d[n] = act_scale_pair(x_row[n], in.n_in, slab_index * 8 + b);
            const float dx = b & 1 ? d[n].z : d[n].x, sx = b & 1 ? d[n].w : d[n].y;
            const uint2 x = act_words(x_row[n], in.n_in, slab_index * 8 + b, t);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                if constexpr (W::two_scales) {
                    int sum = __dp4a((int)v[r][0], (int)x.x, 0) * sub_scale<TYPE>(h, b, r, 0) +
                              __dp4a((int)v[r][1], (int)x.y, 0) * sub_scale<TYPE>(h, b, r, 1);
                    part[r][n] += dx * (float)sum;
                    if constexpr (W::has_min) {
                        int min = __dp4a(0x01010101, (int)x.x, 0) * sub_min<TYPE>(h, b, r, 0) +
                                  __dp4a(0x01010101, (int)x.y, 0) * sub_min<TYPE>(h, b, r, 1);
                        part_min[r][n] += dx * (float)min;
                    }
                } else {
                    int sum = __dp4a((int)v[r][1], (int)x.y, __dp4a((int)v[r][0], (int)x.x, 0));
                    if constexpr (W::is_super) {
                        part[r][n] += dx * (float)(sum * sub_scale<TYPE>(h, b, r, 0));
                        if constexpr (W::has_min)
                            part_min[r][n] += sx * (float)sub_min<TYPE>(h, b, r, 0);
                    } else {
                        acc[r][n] += block_scale<TYPE>(h, b, r) * dx * (float)sum;
                        if constexpr (W::has_min) /* all four lanes of a g do the same: a quarter each */
                            acc[r][n] -= 0.25f * block_min<TYPE>(h, b, r) * sx;
                    }
                }
            }
        }
    }
    if constexpr (W::is_super) {
        constexpr float share = W::two_scales ? 1.0f : 0.25f;
#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
            for (int n = 0; n < NT; n++) {
                acc[r][n] += block_scale<TYPE>(h, 0, r) * part[r][n];
                if constexpr (W::has_min)
                    acc[r][n] -= share * block_min<TYPE>(h, 0, r) * part_min[r][n];
            }
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

template <int TYPE>
static __device__ __forceinline__ void dot_mma(const uint8_t *slab, uint32_t slab_index, const gemv_input &in,
                                               int lane, float acc[2][2])
{
    using W = weight_type<TYPE>;
    const lane_header<TYPE> h = lane_header_load<TYPE>(slab, lane);
    const int g = lane >> 2, t = lane & 3, last = (int)in.n_rows - 1;
    const uint8_t *x_row = in.act + min(g, last) * in.stride;
    const uint8_t *d_row[2] = {in.act + min(2 * t, last) * in.stride,
                               in.act + min(2 * t + 1, last) * in.stride};
    float part[4] = {}, part_min[4] = {};
    float4 d[2];

#pragma unroll
    for (int b = 0; b < 8; b++) {
        uint32_t v[2][2];
        int sum[4] = {}, min[4] = {};
        lane_values<TYPE>(slab, b, 0, lane, v[0]);
        lane_values<TYPE>(slab, b, 1, lane, v[1]);
        const uint2 x = act_words(x_row, in.n_in, slab_index * 8 + b, t);
        if (b % 2 == 0) {
            d[0] = act_scale_pair(d_row[0], in.n_in, slab_index * 8 + b);
            d[1] = act_scale_pair(d_row[1], in.n_in, slab_index * 8 + b);
        }
        block_mma<TYPE>(h, b, v, x, sum, min);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = i >> 1, n = i & 1;
            const float dx = b & 1 ? d[n].z : d[n].x, sx = b & 1 ? d[n].w : d[n].y;
            if constexpr (W::is_super) {
                part[i] += dx * (float)sum[i];
                if constexpr (W::two_scales)
                    part_min[i] += dx * (float)min[i];
                else if constexpr (W::has_min)
                    part_min[i] += sx * (float)sub_min<TYPE>(h, b, r, 0);
            } else {
                float value = dx * (float)sum[i];
                acc[r][n] += block_scale<TYPE>(h, b, r) * value;
                if constexpr (W::has_min)
                    acc[r][n] -= block_min<TYPE>(h, b, r) * sx;
            }
        }
    }
    if constexpr (W::is_super) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            acc[i >> 1][i & 1] += block_scale<TYPE>(h, 0, i >> 1) * part[i];
            if constexpr (W::has_min)
                acc[i >> 1][i & 1] -= block_min<TYPE>(h, 0, i >> 1) * part_min[i];
        }
    }
}

/* Columns [column, column + 4) of an f32 row; zeros past the end. */
static __device__ __forceinline__ float4 act_floats(const uint8_t *row, uint32_t n_in, uint32_t column)
{
    const float *x = (const float *)row + column;
    if (column + 4 <= n_in)
        return *(const float4 *)x;
    float4 v = make_float4(0, 0, 0, 0);
    if (column < n_in)
        v.x = x[0];
    if (column + 1 < n_in)
        v.y = x[1];
    if (column + 2 < n_in)
        v.z = x[2];
    return v;
}

template <int TYPE, int NT>
static __device__ __forceinline__ void dot_float(const uint8_t *slab, uint32_t slab_index,
                                                 const gemv_input &in, int lane, float acc[2][NT])
{
    const lane_header<TYPE> none = {};
    const int t = lane & 3;
#pragma unroll
    for (int p = 0; p < 8; p++) { /* 16 columns */
        uint32_t column = slab_index * 128 + p * 16;
        if (column >= in.n_in)
            break;
        float4 w0 = lane_weights<TYPE>(slab, none, p >> 1, 0, p & 1, lane),
               w1 = lane_weights<TYPE>(slab, none, p >> 1, 1, p & 1, lane);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float4 x = act_floats(in.act + (n < (int)in.n_rows ? n : 0) * in.stride, in.n_in, column + 4 * t);
            acc[0][n] += w0.x * x.x + w0.y * x.y + w0.z * x.z + w0.w * x.w;
            acc[1][n] += w1.x * x.x + w1.y * x.y + w1.z * x.z + w1.w * x.w;
        }
    }
}

#endif
