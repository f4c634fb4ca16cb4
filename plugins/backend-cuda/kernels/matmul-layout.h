/* Device layout of weights: what the host's byte arithmetic and the kernels share.
 *
 * f32: as in the file, rows of n_in floats.
 *
 * Other types: rows in groups of 16, a group is its slabs of 256 columns (16-bit types: 128) one after the other, and groups follow each
 * other. A slab is [header][high plane][low plane]. In it, lane = 4 g + t of a warp (g = 0..7, t = 0..3) owns rows g and g + 8
 * and, of each block of 32 columns, columns 4t .. 4t+3 (sub-block 0) and 16+4t .. 16+4t+3 (sub-block 1): what the fragments of
 * int8 m16n8k32 and (with ACT_BF16's order of pairs) bf16 m16n8k16 want. Planes are made of granules of 512 bytes in which lane l
 * has bytes 16 l .. 16 l + 15. The last slab of a group ends with the last granule of its low plane that holds a column < n_in.
 *
 * A code's low and high bits (LOW + HIGH bits, after `flip` below) lie in the low and the high plane. Granules, as four words of a lane:
 *   low 4:  64 columns; word 2 * sub-block + row. Byte j: low nibble the even block, high nibble the odd block, column 4t + j.
 *           Types with a table: word 2 * (block & 1) + row; nibbles 0..3 are sub-block 0, nibbles 4..7 sub-block 1.
 *   low 8:  32 columns; word 2 * row + sub-block.
 *   low 2, high 2: 128 columns; word block & 3, in byte j bits 2c, 2c + 1 with c = 2 * row + sub-block.
 *   high 1: 256 columns; word block >> 1, in byte j bit 4 * (block & 1) + 2 * row + sub-block.
 *   16 bits: 16 columns; words 0, 1 the four columns of row g, words 2, 3 of row g + 8.
 * (`row` is 0 for row g, 1 for row g + 8.)
 *
 * Headers hold, for each g, the part of row g and then that of row g + 8:
 *   q4_0 q5_0 q8_0 iq4_nl: f16 d [8 blocks]   q4_1 q5_1: f16 {d, m} [8 blocks]   mxfp4: exponent bytes [8 blocks]
 *   iq4_xs: the file's f16 d, 2 and 4 bytes of scales
 *   q3_k: the file's 12 bytes of scales, f16 d, 2 bytes unused
 *   q2_k: 16 bytes of scales; then for all rows f16 {d, dmin}   q6_k: 16 bytes of scales; then for all rows f16 d
 * q4_k q5_k, for each g: f16 {d, dmin} of row g and of row g + 8; two words with the upper 2 bits and four with the lower 4 bits of what
 * the lanes t want, scale s and min m of blocks 2t and 2t + 1. In byte 2 * row + (block & 1) of lane t's word of the four: s, m;
 * of word t >> 1 of the two, from bit 4 * (t & 1) on: s, m.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_LAYOUT_H
#define SHARPI_BACKEND_CUDA_MATMUL_LAYOUT_H

#include <sharpi/plugin/tensor.h>

#ifdef __CUDACC__
#define LAYOUT_FN static constexpr __host__ __device__
#else
#define LAYOUT_FN static inline
#endif

struct slab_layout {
    uint32_t columns; /* 0: the type has no slabs */
    uint32_t header;  /* bytes */
    uint32_t high_bits, low_bits;
    uint32_t flip; /* codes are stored xor this, so that their top bit is a two's complement sign */
};

LAYOUT_FN struct slab_layout slab_layout_make(uint32_t columns, uint32_t header, uint32_t high_bits,
                                              uint32_t low_bits, uint32_t flip)
{
    struct slab_layout l = {columns, header, high_bits, low_bits, flip};
    return l;
}

LAYOUT_FN struct slab_layout slab_layout_of(int32_t type)
{
    switch (type) {
    case SHARPI_TYPE_F16:
    case SHARPI_TYPE_BF16:
        return slab_layout_make(128, 0, 0, 16, 0);
    case SHARPI_TYPE_Q4_0:
        return slab_layout_make(256, 256, 0, 4, 0);
    case SHARPI_TYPE_IQ4_NL:
        return slab_layout_make(256, 256, 0, 4, 0);
    case SHARPI_TYPE_Q4_1:
        return slab_layout_make(256, 512, 0, 4, 0);
    case SHARPI_TYPE_Q5_0:
        return slab_layout_make(256, 256, 1, 4, 16);
    case SHARPI_TYPE_Q5_1:
        return slab_layout_make(256, 512, 1, 4, 0);
    case SHARPI_TYPE_Q8_0:
        return slab_layout_make(256, 256, 0, 8, 0);
    case SHARPI_TYPE_MXFP4:
        return slab_layout_make(256, 128, 0, 4, 0);
    case SHARPI_TYPE_Q2_K:
        return slab_layout_make(256, 320, 0, 2, 0);
    case SHARPI_TYPE_Q3_K:
        return slab_layout_make(256, 256, 1, 2, 4);
    case SHARPI_TYPE_Q4_K:
        return slab_layout_make(256, 256, 0, 4, 0);
    case SHARPI_TYPE_Q5_K:
        return slab_layout_make(256, 256, 1, 4, 0);
    case SHARPI_TYPE_Q6_K:
        return slab_layout_make(256, 288, 2, 4, 32);
    case SHARPI_TYPE_IQ4_XS:
        return slab_layout_make(256, 128, 0, 4, 0);
    default:
        return slab_layout_make(0, 0, 0, 0, 0);
    }
}

/* Bytes of a slab of which only the first `columns` count. */
LAYOUT_FN uint32_t slab_bytes(struct slab_layout l, uint32_t columns)
{
    return l.header + 512 * l.high_bits + (columns * l.low_bits + 255) / 256 * 512;
}

LAYOUT_FN uint64_t group_bytes(struct slab_layout l, uint64_t n_in)
{
    return n_in / l.columns * slab_bytes(l, l.columns) +
           (n_in % l.columns ? slab_bytes(l, (uint32_t)(n_in % l.columns)) : 0);
}

#endif
