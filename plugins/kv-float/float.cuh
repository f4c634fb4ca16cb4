/* f32, f16 and bf16 as formats of attention.cuh. Stored bits are those of half.h. */
#ifndef SHARPI_KV_FLOAT_CUH
#define SHARPI_KV_FLOAT_CUH

#include <sharpi/cuda/attention.cuh>

#include <string.h>

struct kv_cuda_f32 {
    static constexpr bool exact = true, uses_f16 = false, tiles_are_operands = false;
    static constexpr uint32_t dim_unit = 4;

    __host__ __device__ static constexpr uint32_t tile_bytes(uint32_t d)
    {
        return sharpi::tile_rows * d * 4;
    }
    __device__ static float load(const void *tile, uint32_t d, uint32_t row, uint32_t col)
    {
        return ((const float *)tile)[row * d + col];
    }
    __device__ static float store32(void *tile, uint32_t d, uint32_t row, uint32_t col, float x)
    {
        if (col + threadIdx.x % 32 < d)
            ((float *)tile)[row * d + col + threadIdx.x % 32] = x;
        return x;
    }
    static int32_t check(uint32_t, uint32_t, struct sharpi_error *)
    {
        return SHARPI_OK;
    }
    static void pack_row(void *tile, uint32_t d, uint32_t row, const void *src)
    {
        memcpy((float *)tile + row * d, src, d * 4);
    }
    static void unpack_row(void *dst, const void *tile, uint32_t d, uint32_t row)
    {
        memcpy(dst, (const float *)tile + row * d, d * 4);
    }
};

/* What f16 and bf16 share: two bytes an element in piece16's order. */
struct kv_cuda_two_bytes : sharpi::fragments16 {
    static int32_t check(uint32_t, uint32_t, struct sharpi_error *)
    {
        return SHARPI_OK;
    }
    static void pack_row(void *tile, uint32_t d, uint32_t row, const void *src)
    {
        for (uint32_t i = 0; i < d; i++)
            ((uint16_t *)tile)[offset(d, row, i)] = ((const uint16_t *)src)[i];
    }
    static void unpack_row(void *dst, const void *tile, uint32_t d, uint32_t row)
    {
        for (uint32_t i = 0; i < d; i++)
            ((uint16_t *)dst)[i] = ((const uint16_t *)tile)[offset(d, row, i)];
    }
};

struct kv_cuda_f16 : kv_cuda_two_bytes {
    static constexpr bool uses_f16 = true;

    __device__ static float load(const void *tile, uint32_t d, uint32_t row, uint32_t col)
    {
        return __half2float(((const __half *)tile)[offset(d, row, col)]);
    }
    __device__ static float store32(void *tile, uint32_t d, uint32_t row, uint32_t col, float x)
    {
        const uint32_t bits = __float_as_uint(x), i = col + threadIdx.x % 32;
        const bool is_nan =
            (bits & 0x7fffffffu) > 0x7f800000u; /* its upper payload bits are kept, as half.h does */
        const uint32_t nan = (bits >> 16 & 0x8000u) | 0x7e00u | (bits >> 13 & 0x3ffu);
        const uint16_t half = (uint16_t)(is_nan ? nan : __half_as_ushort(__float2half_rn(x)));
        if (i < d)
            ((uint16_t *)tile)[offset(d, row, i)] = half;
        return __half2float(__ushort_as_half(half));
    }
};

struct kv_cuda_bf16 : kv_cuda_two_bytes {
    static constexpr bool uses_f16 = false;

    __device__ static float load(const void *tile, uint32_t d, uint32_t row, uint32_t col)
    {
        return __uint_as_float((uint32_t)((const uint16_t *)tile)[offset(d, row, col)] << 16);
    }
    __device__ static float store32(void *tile, uint32_t d, uint32_t row, uint32_t col, float x)
    {
        const uint32_t bits = __float_as_uint(x), i = col + threadIdx.x % 32;
        const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
        const uint32_t half = is_nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
        if (i < d)
            ((uint16_t *)tile)[offset(d, row, i)] = (uint16_t)half;
        return __uint_as_float(half << 16);
    }
};

#endif
