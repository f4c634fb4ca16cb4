/* q8_0 as a format of attention.cuh. Scales and integers are those that q8_0.h's rule gives; a tile has them apart:
 * [64 rows, d] integers + 128, the 16-byte pieces of a row permuted against bank conflicts, then [d / 32, 64 rows] f16 scales.
 *
 * Fragments are f16 and hold value / 128: an integer / 128 times the scale, which cannot overflow.
 */
#ifndef SHARPI_KV_Q8_0_CUH
#define SHARPI_KV_Q8_0_CUH

#include <string.h>

#include <sharpi/cuda/attention.cuh>

struct kv_cuda_q8_0 {
    static constexpr bool exact = false, uses_f16 = true, tiles_are_operands = false;
    static constexpr uint32_t dim_unit = 32;
    static constexpr float unit = 128.0f;

    __host__ __device__ static constexpr uint32_t tile_bytes(uint32_t d)
    {
        return sharpi::tile_rows * (d + d / 16);
    }
    /* Byte of element `col`. Rows that differ in their lowest two bits, or in bits 1 and 2, put 32-byte halves of
     * 64 bytes into different banks: what the loads below want. */
    __host__ __device__ static uint32_t offset(uint32_t d, uint32_t row, uint32_t col)
    {
        const uint32_t swizzle = ((row ^ row >> 2) & 1) << 2 | (row & 2);
        return row * d + (col ^ (swizzle & (d % 128 == 0 ? 7 : d % 64 == 0 ? 3 : 0)) << 4);
    }
    /* Of the block that begins at element 32 block; in bytes. */
    __host__ __device__ static uint32_t scale_offset(uint32_t d, uint32_t row, uint32_t block)
    {
        return sharpi::tile_rows * d + (block * sharpi::tile_rows + row) * 2;
    }
    __device__ static float load(const void *tile, uint32_t d, uint32_t row, uint32_t col)
    {
        const float scale =
            __half2float(*(const __half *)((const char *)tile + scale_offset(d, row, col / 32)));
        return scale * (float)((int32_t)((const uint8_t *)tile)[offset(d, row, col)] - 128);
    }

    /* q8_0.h's q8_0_scale and encode_block, a lane per element. */
    __device__ static float store32(void *tile, uint32_t d, uint32_t row, uint32_t col, float x)
    {
        const float limit = 127.0f * 65504.0f;
        const uint32_t lane = threadIdx.x % 32;
        x = x != x ? 0.0f : fminf(fmaxf(x, -limit), limit);
        const float amax = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(fabsf(x))));
        const float wanted = __fdiv_rn(amax, 127.0f);
        uint16_t half = 0;
        if (wanted >= 1e-30f) {
            half = __half_as_ushort(__float2half_rn(wanted));
            half += __fmul_rn(__half2float(__ushort_as_half(half)), 127.5f) < amax;
        }
        const float inverse = half ? __fdiv_rn(1.0f, __half2float(__ushort_as_half(half))) : 0.0f;
        const float q = fminf(fmaxf(rintf(__fmul_rn(x, inverse)), -127.0f), 127.0f);
        ((uint8_t *)tile)[offset(d, row, col + lane)] = (uint8_t)((int32_t)q + 128);
        if (lane == 0)
            *(uint16_t *)((char *)tile + scale_offset(d, row, col / 32)) = half;
        return q * __half2float(__ushort_as_half(half));
    }

    __device__ static void zero_rows(void *tile, uint32_t d, uint32_t first)
    {
        const uint32_t n = sharpi::tile_rows - first;
        for (uint32_t i = threadIdx.x; i < n * (d / 32); i += blockDim.x)
            *(uint16_t *)((char *)tile + scale_offset(d, first + i % n, i / n)) = 0;
    }

    /* k_fragment's lane t has elements 8 t .. 8 t + 7 of a block, four per k step. */
    __device__ static uint32_t q_slot(uint32_t i)
    {
        return (i >> 1 & 3) * 8 + (i >> 3) * 2 + (i & 1);
    }
    __host__ __device__ static constexpr uint32_t v_column(uint32_t j, uint32_t i)
    {
        return 4 * i + j;
    }

    /* Two integers of `bytes`, chosen by `selector`, as f16 divided by 128: 0x64xx is 1024 + xx, xx = integer + 128. */
    __device__ static __half2 integers(uint32_t bytes, uint32_t selector)
    {
        const uint32_t x = __byte_perm(bytes, 0x64646464u, selector);
        return __hfma2(*(const __half2 *)&x, __float2half2_rn(1.0f / 128), __float2half2_rn(-9.0f));
    }
    __device__ static uint32_t scaled(__half2 x, __half2 scale)
    {
        const __half2 y = __hmul2(x, scale);
        return *(const uint32_t *)&y;
    }

    __device__ static void k_fragment(uint32_t (&b)[2][2], const void *tile, uint32_t d, uint32_t row,
                                      uint32_t block)
    {
        const uint32_t lane = threadIdx.x % 32, r = row + lane / 4;
        const uint2 q = *(const uint2 *)((const char *)tile + offset(d, r, 32 * block + lane % 4 * 8));
        const __half2 scale = __half2half2(*(const __half *)((const char *)tile + scale_offset(d, r, block)));
        const uint32_t x = q.x, y = q.y;
        b[0][0] = scaled(integers(x, 0x4140), scale);
        b[0][1] = scaled(integers(x, 0x4342), scale);
        b[1][0] = scaled(integers(y, 0x4140), scale);
        b[1][1] = scaled(integers(y, 0x4342), scale);
    }

    /* Lane 4 g + t reads columns 4 g .. 4 g + 3 of rows 2 t, 2 t + 1, and of those + 8. */
    __device__ static void v_fragment(uint32_t (&b)[4][2], const void *tile, uint32_t d, uint32_t row,
                                      uint32_t col)
    {
        const uint32_t lane = threadIdx.x % 32, r = row + lane % 4 * 2, c = col + lane / 4 * 4;
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const char *bytes = (const char *)tile;
            const uint32_t x = *(const uint32_t *)(bytes + offset(d, r + 8 * i, c));
            const uint32_t y = *(const uint32_t *)(bytes + offset(d, r + 8 * i + 1, c));
            const __half2 scale = *(const __half2 *)(bytes + scale_offset(d, r + 8 * i, col / 32));
            const uint32_t low = __byte_perm(x, y, 0x5140), high = __byte_perm(x, y, 0x7362);
            b[0][i] = scaled(integers(low, 0x4140), scale);
            b[1][i] = scaled(integers(low, 0x4342), scale);
            b[2][i] = scaled(integers(high, 0x4140), scale);
            b[3][i] = scaled(integers(high, 0x4342), scale);
        }
    }

    /* Decode's strips (kv-format.cuh), 16 bytes a load. K: columns [64 p + 16 t, + 16), position g + 8 h at 2 p + h; a lane's scales
     * are those of block t, positions g and g + 8. V: columns [16 g, + 16), position 2 t + h % 2 + h / 2 * 8 at h; scales of pairs
     * of positions, of its own columns. */
    struct strip {
        uint4 x[4];
        uint32_t scales[2];
    };
    __host__ __device__ static constexpr uint32_t k_piece(uint32_t block, uint32_t t)
    {
        return block / 2 * 8 + 2 * t + block % 2;
    }
    __host__ __device__ static constexpr uint32_t v_first(uint32_t half, uint32_t g)
    {
        return 16 * g + 8 * half;
    }
    __device__ static void load_k(strip &s, const void *tile, uint32_t d, uint32_t row, uint32_t first)
    {
        const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const char *bytes = (const char *)tile;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t col = first + i / 2 * 64 + t * 16;
            s.x[i] = make_uint4(0, 0, 0, 0); /* past d: a zero query does not silence a NaN */
            if (col < d)
                s.x[i] = sharpi::load_once_16(bytes + row * d + offset(d, g + i % 2 * 8, col));
        }
        s.scales[0] = s.scales[1] = 0;
        if (first + t * 32 < d) {
            const uint16_t *scales = (const uint16_t *)(bytes + scale_offset(d, row + g, first / 32 + t));
            s.scales[0] = sharpi::load_once_2(scales); /* put together later: nothing may wait here */
            s.scales[1] = sharpi::load_once_2(scales + 8);
        }
    }
    __device__ static void k_operand(uint32_t (&a)[2][4], const strip &s, uint32_t block)
    {
        const uint32_t lane = threadIdx.x % 32, mine = s.scales[0] | s.scales[1] << 16;
        const uint32_t both = __shfl_sync(~0u, mine, lane / 4 * 4 + block / 2 * 2 + lane % 4 / 2);
        const __half2 scales = *(const __half2 *)&both;
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) {
            const uint4 &q = s.x[block / 2 * 2 + i % 2];
            a[i / 4][i % 4] =
                scaled(integers(sharpi::word_of(q, block % 2 * 2 + i / 4), i % 4 / 2 ? 0x4342 : 0x4140),
                       i % 2 ? __high2half2(scales) : __low2half2(scales));
        }
    }
    __device__ static void load_v(strip &s, const void *tile, uint32_t d, uint32_t row, uint32_t first)
    {
        const uint32_t lane = threadIdx.x % 32, col = first + lane / 4 * 16, t = lane % 4;
        const char *bytes = (const char *)tile;
        if (col >= d)
            return;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            s.x[i] = sharpi::load_once_16(bytes + row * d + offset(d, t * 2 + i % 2 + i / 2 * 8, col));
#pragma unroll
        for (uint32_t i = 0; i < 2; i++)
            s.scales[i] = sharpi::load_once_4(bytes + scale_offset(d, row + t * 2 + i * 8, col / 32));
    }
    __device__ static void v_operand(uint32_t (&a)[4][4], const strip &s, uint32_t half)
    {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) { /* positions 2 t, 2 t + 1; those + 8 */
            const __half2 scales = *(const __half2 *)&s.scales[i];
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) { /* columns 2 j, 2 j + 1 */
                const uint32_t word = 2 * half + j / 2, x = __byte_perm(sharpi::word_of(s.x[2 * i], word),
                                                                        sharpi::word_of(s.x[2 * i + 1], word),
                                                                        j % 2 ? 0x7362 : 0x5140);
                a[j][2 * i] = scaled(integers(x, 0x4140), scales);
                a[j][2 * i + 1] = scaled(integers(x, 0x4342), scales);
            }
        }
    }

    struct raw32 {
        uint4 x, y;
        __half scale;
    };
    __device__ static raw32 load_raw32(const void *tile, uint32_t d, uint32_t row, uint32_t block)
    {
        const char *bytes = (const char *)tile;
        return {*(const uint4 *)(bytes + offset(d, row, 32 * block)),
                *(const uint4 *)(bytes + offset(d, row, 32 * block + 16)),
                *(const __half *)(bytes + scale_offset(d, row, block))};
    }
    __device__ static void operands_of_raw32(uint4 (&x)[4], const raw32 &raw)
    {
        const __half2 scale = __half2half2(raw.scale);
        const uint32_t words[8] = {raw.x.x, raw.x.y, raw.x.z, raw.x.w, raw.y.x, raw.y.y, raw.y.z, raw.y.w};
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t low = words[2 * i], high = words[2 * i + 1];
            x[i] = make_uint4(scaled(integers(low, 0x4140), scale), scaled(integers(low, 0x4342), scale),
                              scaled(integers(high, 0x4140), scale), scaled(integers(high, 0x4342), scale));
        }
    }

    static int32_t check(uint32_t layer, uint32_t head_dim, struct sharpi_error *err)
    {
        if (head_dim % 32 == 0)
            return SHARPI_OK;
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "q8_0 KV on CUDA needs a head_dim that is a multiple of 32; layer %u has %u; use kv = bf16",
            layer, head_dim);
    }
    static void pack_row(void *tile, uint32_t d, uint32_t row, const void *src)
    {
        for (uint32_t block = 0; block < d / 32; block++) {
            const char *from = (const char *)src + block * 34;
            memcpy((char *)tile + scale_offset(d, row, block), from, 2);
            for (uint32_t i = 0; i < 32; i++)
                ((char *)tile)[offset(d, row, 32 * block + i)] = (char)(from[2 + i] ^ 0x80);
        }
    }
    static void unpack_row(void *dst, const void *tile, uint32_t d, uint32_t row)
    {
        for (uint32_t block = 0; block < d / 32; block++) {
            char *to = (char *)dst + block * 34;
            memcpy(to, (const char *)tile + scale_offset(d, row, block), 2);
            for (uint32_t i = 0; i < 32; i++)
                to[2 + i] = (char)(((const char *)tile)[offset(d, row, 32 * block + i)] ^ 0x80);
        }
    }
};

#endif
