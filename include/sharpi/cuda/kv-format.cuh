/* What a KV-cache format tells the attention templates about its tiles.
 *
 * A tile is 64 positions of one KV head's K or V, copied between device and shared memory as it is. A format is a struct
 * of static functions and constants:
 *
 *   exact            1: only the f32 kernel may be used (no tensor-core operands)
 *   uses_f16         operands of the tensor cores: 1 f16, 0 bf16
 *   dim_unit         head_dim must be a multiple of this for the tensor-core kernels
 *   unit             k_fragment and v_fragment give values divided by this (a power of two, keeps f16 in range)
 *   tile_bytes(d)
 *   load(tile, d, row, col)          one element as f32, from shared or device memory
 *   store32(tile, d, row, col, x)    a warp stores elements [col, col + 32) of a row, each lane one; col % 32 == 0, lanes
 *                                    with col + lane >= d hold 0 and store nothing; equals the CPU's encode bit for bit.
 *                                    Gives the lane's element as load would
 *   zero_rows(tile, d, first)        a block zeroes rows [first, 64), so that stale values cannot be NaN
 *   q_slot(i)        where element i (of 32) of a query row lies, for k_fragment's order of elements
 *   k_fragment(b, tile, d, row, block)   B operands of two k16 steps: elements [32 block, +32) of rows [row, row + 8)
 *   v_fragment(b, tile, d, row, col)     B operands of four n8 tiles: rows [row, row + 16), columns [col, col + 32)
 *   strip, load_k, load_v, k_operand, k_piece, v_operand, v_first   decode's way from device memory to A operands; see strip16
 *   tiles_are_operands   1: tiles are in piece16's order, so that prefill takes them as they are; else
 *   load_raw32(tile, d, row, block), operands_of_raw32(x, raw)   32 elements / unit in the operands' type, in order
 *   v_column(j, i)   column (of the 32) that n8 tile j of v_fragment has at i
 *   pack_row(tile, d, row, src), unpack_row(dst, tile, d, row)   host: one head's part of a stored row, to the tile and back
 *
 * A format that has load and store32 only derives from format_base, which does the rest element by element.
 */
#ifndef SHARPI_CUDA_KV_FORMAT_CUH
#define SHARPI_CUDA_KV_FORMAT_CUH

#include <sharpi/cuda/device.cuh>

namespace sharpi
{

constexpr uint32_t tile_rows = 64;

__device__ inline uint32_t pack_f16(float x, float y)
{
    const __half2 h = __floats2half2_rn(x, y);
    return *(const uint32_t *)&h;
}

__device__ inline uint32_t pack_bf16(float x, float y)
{
    const __nv_bfloat162 h = __floats2bfloat162_rn(x, y);
    return *(const uint32_t *)&h;
}

/* 16 positions times 128 elements of K or V as decode holds them in registers between loading and use, for formats that load
 * 16-bit values. load_k and load_v take positions [row, row + 16), row % 16 == 0, elements [first, first + 128); what lies past d
 * need not be loaded. They only load, so that a warp can have many loads in flight.
 *
 * k_operand: A operands (rows: positions) of two k16 steps over 32 of the strip's elements, lane 4 g + t having the eight from
 * 8 k_piece(block, t) on, in order.
 * v_operand: A operands (rows: columns, k: positions) of four m16 tiles over half of the strip's columns; rows g and g + 8 of tile j
 * are columns v_first(half, g) + 2 j and the one after it. Both functions give the least number for t or g = 0. */
struct strip16 {
    uint4 x
        [8]; /* K: block b, position g + 8 h at 2 b + h; V: half c, position 2 t + h % 2 + h / 2 * 8 at 4 c + h */
};

__device__ inline uint32_t word_of(const uint4 &x, uint32_t i)
{
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

struct operands16 {
    using strip = strip16;

    __host__ __device__ static constexpr uint32_t k_piece(uint32_t block, uint32_t t)
    {
        return 4 * block + t;
    }
    __host__ __device__ static constexpr uint32_t v_first(uint32_t half, uint32_t g)
    {
        return 64 * half + 8 * g;
    }

    __device__ static void k_operand(uint32_t (&a)[2][4], const strip &s, uint32_t block)
    {
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            a[i / 4][i % 4] = word_of(s.x[2 * block + i % 2], i / 4 * 2 + i % 4 / 2);
    }
    __device__ static void v_operand(uint32_t (&a)[4][4], const strip &s, uint32_t half)
    {
#pragma unroll
        for (uint32_t i = 0; i < 16; i++) {
            const uint4 *pair = s.x + 4 * half + i % 4 / 2 * 2;
            a[i / 4][i % 4] =
                __byte_perm(word_of(pair[0], i / 4), word_of(pair[1], i / 4), i % 2 ? 0x7632 : 0x5410);
        }
    }
};

/* Fragments by way of load, bf16 operands. */
template <class F> struct format_base : operands16 {
    static constexpr bool exact = false, uses_f16 = false, tiles_are_operands = false;
    static constexpr uint32_t dim_unit = 32;
    static constexpr float unit = 1.0f;

    __device__ static uint32_t q_slot(uint32_t i)
    {
        return i;
    }
    __host__ __device__ static constexpr uint32_t v_column(uint32_t j, uint32_t i)
    {
        return 8 * j + i;
    }
    __device__ static void k_fragment(uint32_t (&b)[2][2], const void *tile, uint32_t d, uint32_t row,
                                      uint32_t block)
    {
        const uint32_t lane = threadIdx.x % 32, r = row + lane / 4, first = 32 * block + 2 * (lane % 4);
        for (uint32_t i = 0; i < 4; i++)
            b[i / 2][i % 2] =
                pack_bf16(F::load(tile, d, r, first + 8 * i), F::load(tile, d, r, first + 8 * i + 1));
    }
    __device__ static void v_fragment(uint32_t (&b)[4][2], const void *tile, uint32_t d, uint32_t row,
                                      uint32_t col)
    {
        const uint32_t lane = threadIdx.x % 32, r = row + 2 * (lane % 4), c = col + lane / 4;
        for (uint32_t j = 0; j < 4; j++)
            for (uint32_t i = 0; i < 2; i++)
                b[j][i] = pack_bf16(F::load(tile, d, r + 8 * i, c + 8 * j),
                                    F::load(tile, d, r + 8 * i + 1, c + 8 * j));
    }
    /* 8 elements of a row. */
    __device__ static uint4 load8(const void *tile, uint32_t d, uint32_t row, uint32_t col)
    {
        uint32_t x[4] = {};
        for (uint32_t i = 0; i < 4 && col < d; i++)
            x[i] = pack_bf16(F::load(tile, d, row, col + 2 * i), F::load(tile, d, row, col + 2 * i + 1));
        return make_uint4(x[0], x[1], x[2], x[3]);
    }
    __device__ static void load_k(strip &s, const void *tile, uint32_t d, uint32_t row, uint32_t first)
    {
        const uint32_t lane = threadIdx.x % 32;
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            s.x[i] = load8(tile, d, row + lane / 4 + i % 2 * 8, first + i / 2 * 32 + lane % 4 * 8);
    }
    __device__ static void load_v(strip &s, const void *tile, uint32_t d, uint32_t row, uint32_t first)
    {
        const uint32_t lane = threadIdx.x % 32;
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            s.x[i] =
                load8(tile, d, row + lane % 4 * 2 + i % 2 + i / 2 % 2 * 8, first + i / 4 * 64 + lane / 4 * 8);
    }
    struct raw32 {
        uint4 x[4];
    };
    __device__ static raw32 load_raw32(const void *tile, uint32_t d, uint32_t row, uint32_t block)
    {
        raw32 raw;
        for (uint32_t i = 0; i < 16; i++)
            ((uint32_t *)raw.x)[i] = pack_bf16(F::load(tile, d, row, 32 * block + 2 * i),
                                               F::load(tile, d, row, 32 * block + 2 * i + 1));
        return raw;
    }
    __device__ static void operands_of_raw32(uint4 (&x)[4], const raw32 &raw)
    {
        for (uint32_t i = 0; i < 4; i++)
            x[i] = raw.x[i];
    }
    __device__ static void zero_rows(void *tile, uint32_t d, uint32_t first)
    {
        for (uint32_t r = first + threadIdx.x / 32; r < tile_rows; r += blockDim.x / 32)
            for (uint32_t c = 0; c < d; c += 32)
                F::store32(tile, d, r, c, 0.0f);
    }
};

/* Where 16-byte piece `piece` of a row lies in a tile of 16-bit elements, in pieces. Parts of 64 columns follow each other,
 * each [n_rows, 128 bytes] with the pieces of a row permuted so that 8 rows' equal pieces lie in different banks: the order
 * that wgmma calls 128-byte swizzle. What is left at the end (d % 64 columns) has narrower rows. */
__host__ __device__ inline uint32_t piece16(uint32_t d, uint32_t row, uint32_t piece)
{
    const uint32_t part = piece / 8, left = d / 8 - 8 * part, width = left < 8 ? left : 8;
    const uint32_t swizzle = width == 8 ? row % 8 : width == 4 ? row / 2 % 4 : width == 2 ? row / 4 % 2 : 0;
    return part * 8 * tile_rows + row * width + ((piece % 8) ^ swizzle);
}

/* Fragments of tiles of 16-bit elements in piece16's order. */
struct fragments16 : operands16 {
    static constexpr bool exact = false, tiles_are_operands = true;
    static constexpr uint32_t dim_unit = 16;
    static constexpr float unit = 1.0f;

    __host__ __device__ static constexpr uint32_t tile_bytes(uint32_t d)
    {
        return tile_rows * d * 2;
    }
    /* In elements; rows of odd geometries lie one after the other. */
    __host__ __device__ static uint32_t offset(uint32_t d, uint32_t row, uint32_t col)
    {
        return d % 16 ? row * d + col : piece16(d, row, col / 8) * 8 + col % 8;
    }
    __device__ static uint32_t q_slot(uint32_t i)
    {
        return i;
    }
    __host__ __device__ static constexpr uint32_t v_column(uint32_t j, uint32_t i)
    {
        return 8 * j + i;
    }
    /* Past the row's end (d % 32 == 16) any piece will do: the query is zero there. */
    __device__ static void k_fragment(uint32_t (&b)[2][2], const void *tile, uint32_t d, uint32_t row,
                                      uint32_t block)
    {
        const uint32_t lane = threadIdx.x % 32, piece = 4 * block + lane / 8;
        uint32_t x[4];
        load_matrices(x, shared_address(tile) + 16 * piece16(d, row + lane % 8, piece < d / 8 ? piece : 0));
        b[0][0] = x[0], b[0][1] = x[1], b[1][0] = x[2], b[1][1] = x[3];
    }
    __device__ static void v_fragment(uint32_t (&b)[4][2], const void *tile, uint32_t d, uint32_t row,
                                      uint32_t col)
    {
        const uint32_t lane = threadIdx.x % 32, piece = col / 8 + lane / 16;
        uint32_t x[4];
        load_matrices_transposed(x, shared_address(tile) + 16 * piece16(d, row + lane % 16, piece));
        b[0][0] = x[0], b[0][1] = x[1], b[1][0] = x[2], b[1][1] = x[3];
        load_matrices_transposed(x,
                                 shared_address(tile) +
                                     16 * piece16(d, row + lane % 16, piece + 2 < d / 8 ? piece + 2 : piece));
        b[2][0] = x[0], b[2][1] = x[1], b[3][0] = x[2], b[3][1] = x[3];
    }
    /* Piece `piece` of row `row + r`, row % 16 == 0: the permutation depends on r alone. Past d any piece will do: the query is
     * zero there, or the output is not stored. */
    __device__ static uint4 load_piece(const void *tile, uint32_t d, uint32_t row, uint32_t r, uint32_t piece)
    {
        const uint32_t p = piece < d / 8 ? piece : 0, left = d / 8 - p / 8 * 8;
        return load_once_16((const char *)tile + 16 * (piece16(d, r, p) + row * (left < 8 ? left : 8)));
    }
    __device__ static void load_k(strip &s, const void *tile, uint32_t d, uint32_t row, uint32_t first)
    {
        const uint32_t lane = threadIdx.x % 32;
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            if (first + i / 2 * 32 < d)
                s.x[i] = load_piece(tile, d, row, lane / 4 + i % 2 * 8, first / 8 + i / 2 * 4 + lane % 4);
    }
    __device__ static void load_v(strip &s, const void *tile, uint32_t d, uint32_t row, uint32_t first)
    {
        const uint32_t lane = threadIdx.x % 32;
#pragma unroll
        for (uint32_t i = 0; i < 8; i++)
            if (first + i / 4 * 64 < d)
                s.x[i] = load_piece(tile, d, row, lane % 4 * 2 + i % 2 + i / 2 % 2 * 8,
                                    first / 8 + i / 4 * 8 + lane / 4);
    }
    __device__ static void zero_rows(void *tile, uint32_t d, uint32_t first)
    {
        if (d % 16 == 0)
            for (uint32_t i = first * (d / 8) + threadIdx.x; i < tile_rows * (d / 8); i += blockDim.x)
                ((uint4 *)tile)[piece16(d, i / (d / 8), i % (d / 8))] = make_uint4(0, 0, 0, 0);
    }
};

} // namespace sharpi
#endif
