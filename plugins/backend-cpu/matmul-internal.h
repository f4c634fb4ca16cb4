/* What the files of the matrix product share: block formats, packed layouts, activation layouts, kernel tables.
 *
 * Only plain C may be here: this header is seen by objects that are compiled for the weakest CPU and for the strongest.
 *
 * How a product runs: rows come in groups of MATMUL_GROUP = 16. `multiply` of the ISA's kernel computes one group times up to
 * MATMUL_TOKENS activation rows over a range of columns, adding into acc[token][16]; the common code deals out groups to
 * threads, and writes acc to the output. Columns are walked in slabs of MATMUL_SLAB = 256.
 */
#ifndef SHARPI_BACKEND_CPU_MATMUL_INTERNAL_H
#define SHARPI_BACKEND_CPU_MATMUL_INTERNAL_H

#include <string.h>

#include "matmul.h"

#define MATMUL_GROUP  16  /* rows that are interleaved: 64 bytes hold 4 columns of each */
#define MATMUL_SLAB   256 /* columns whose codes a kernel unpacks at a time */
#define MATMUL_TOKENS 64  /* activation rows of one multiply call: a slab of them stays in the L1 cache */

/* ---- Weights: one block of a file row, taken apart (matmul-unpack.c) ---- */

/* How a quantized type is built. Element i of a block is
 *     d * scale[i / 16] * value(code[i]) - dmin * min[i / 16]
 * with value(c) = table ? table[c] : code_is_signed ? (int8_t)c : c - offset. scale and min are 1 where a type has none. */
struct quant_type {
    int32_t type;
    uint8_t low_bits,
        high_bits; /* code width = low + high; the packed layout keeps two bit planes: 4|2|8 and 0|1|2 */
    uint8_t has_min;
    uint8_t offset;
    uint8_t code_is_signed;
    uint8_t d_is_e8m0;    /* d is an 8-bit exponent, not an f16 */
    uint8_t sub_size;     /* elements that share a scale: 16 or 32 */
    uint8_t scale_bytes;  /* packed bytes of scales (and mins) per row of a 256-block; 0 for 32-blocks */
    uint8_t scale_layout; /* enum scale_layout */
    const int8_t *table;
    enum act_format act;
};

enum scale_layout {
    SCALES_NONE = 0,
    SCALES_6BIT = 1, /* Q4_K's own 12 bytes: 8 scales and 8 mins */
    SCALES_4BIT = 2, /* Q2_K's own 16 bytes: scale in the low, min in the high nibble */
    SCALES_S8 = 3,   /* signed bytes, one per sub-block */
};

struct quant_block {
    uint8_t code[256];
    uint8_t packed_scales[16]; /* as the packed layout keeps them: quant_type.scale_bytes */
    int8_t scale[16];          /* per 16 elements */
    uint8_t min[16];
    uint16_t d, dmin; /* raw bits; quant_d() gives the value */
};

/* NULL for f32, f16, bf16 and unknown types. */
const struct quant_type *quant_type_of(int32_t type);
void quant_unpack(const struct quant_type *q, const uint8_t *block, struct quant_block *out);
/* The integer that a code stands for. */
static inline int32_t quant_value(const struct quant_type *q, uint8_t code)
{
    return q->table ? q->table[code] : q->code_is_signed ? (int8_t)code : (int32_t)code - q->offset;
}
float quant_d(const struct quant_type *q, uint16_t bits);
static inline uint32_t quant_block_elems(const struct quant_type *q)
{
    return q->act == ACT_Q8_256 ? 256 : 32;
}

float f16_to_f32(uint16_t bits);
static inline float bf16_to_f32(uint16_t bits)
{
    uint32_t u = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* ---- Weights: packed layout (matmul-pack.c) ----
 *
 * A matrix is ceil(n_out / 16) groups; rows beyond n_out are zeros. A group is its slabs of 256 columns in order (the last
 * may be shorter for types of 32-blocks), padded to 64 bytes. A slab of nb = columns / 32 is
 *     32-blocks:  d [nb][16 rows] f16 (e8m0: bytes), then with has_min dmin [nb][16] f16, then codes [nb]
 *     256-blocks: d [16 rows] f16, then with has_min dmin [16] f16, then scales [scale_bytes / 4][16 rows] of 4 bytes, then codes [8]
 * The codes of 32 columns are a low plane and a high plane. Column group j (0..7: columns 4j .. 4j+3) of all 16 rows is a
 * 64-byte vector in which row r has bytes 4r .. 4r+3; a plane stores several such vectors in one:
 *     8-bit low plane: vector j as it is. 4-bit: vector v has group v in its low and v + 4 in its high nibbles.
 *     2-bit (low or high): vector v has group 4v + i in bits 2i, 2i + 1. 1-bit: bit j is group j's.
 */
uint64_t pack_slab_bytes(const struct quant_type *q, uint64_t n_columns);
uint64_t pack_group_bytes(const struct quant_type *q, uint64_t n_in);
static inline uint32_t pack_codes_bytes(const struct quant_type *q) /* of 32 columns */
{
    return (q->low_bits + q->high_bits) * 64u;
}
static inline uint64_t pack_header_bytes(const struct quant_type *q,
                                         uint64_t nb) /* what is before a slab's codes */
{
    uint64_t d = q->d_is_e8m0 ? 16 : 32, per = d + (q->has_min ? d : 0);
    return quant_block_elems(q) == 32 ? per * nb : per + 16ull * q->scale_bytes;
}
/* Packs the columns [k, k + n) of n_rows <= 16 file rows, which lie row_bytes apart at `src`; n <= 256. */
void pack_slab(const struct quant_type *q, uint8_t *dst, const uint8_t *src, uint64_t row_bytes,
               uint32_t n_rows, uint64_t k, uint64_t n);

/* ---- Activations ----
 *
 * A quantized row of n elements is int8 codes [n], then f32 scales, then sums of codes, each part padded to 64 bytes.
 * ACT_Q8_32:  d [n / 32], int32 sums [n / 32]
 * ACT_Q8_256: d [n / 256], int16 sums [n / 16] per 16 elements, int16 sums [n / 32] per 32
 */
static inline uint64_t round_up64(uint64_t bytes)
{
    return (bytes + 63) & ~(uint64_t)63;
}
static inline const float *act_scales(const void *row, uint64_t n)
{
    return (const float *)((const uint8_t *)row + round_up64(n));
}
static inline const int32_t *act_sums32(const void *row, uint64_t n)
{
    return (const int32_t *)((const uint8_t *)row + round_up64(n) + round_up64(n / 32 * 4));
}
static inline const int16_t *act_sums_by_16(const void *row, uint64_t n)
{
    return (const int16_t *)((const uint8_t *)row + round_up64(n) + round_up64(n / 256 * 4));
}
static inline const int16_t *act_sums_by_32(const void *row, uint64_t n)
{
    return (const int16_t *)((const uint8_t *)act_sums_by_16(row, n) + round_up64(n / 16 * 2));
}

/* ---- Kernels ---- */

/* One group of rows times n_tokens activation rows over columns [k, k + n): acc[token][16] += sum. */
struct matmul_call {
    const uint8_t *w; /* packed: the group's slab at column k; else the group's first file row at column 0 */
    uint64_t row_bytes;      /* file layout only */
    const uint8_t *const *x; /* activation rows */
    uint64_t n_in;           /* length of an activation row */
    uint64_t k, n;           /* multiples of 256, n up to n_in's end */
    uint32_t n_rows;         /* valid rows of the group; the others' sums are not looked at */
    uint32_t n_tokens;       /* 1 .. MATMUL_TOKENS */
    float *acc;
    uint8_t *codes; /* scratch for an unpacked slab: 16 x 256 bytes, 64-byte aligned */
};

struct matmul_kernel {
    int32_t type;
    uint32_t packed; /* reads the packed layout */
    void (*multiply)(const struct matmul_kernel *kernel, const struct matmul_call *call);
    const void *variant; /* the ISA's own constants for `multiply` */
};

typedef void (*act_quantize_fn)(void *dst, const float *src, uint64_t n);

/* What an ISA offers. Missing entries (NULL) are taken from the next weaker one. */
struct matmul_isa {
    const struct matmul_kernel *kernels; /* at most one per type and layout */
    uint32_t n_kernels;
    act_quantize_fn quantize[ACT_COUNT];
};
extern const act_quantize_fn act_quantize_scalar[ACT_COUNT];
extern const struct matmul_isa matmul_scalar;
#ifdef HAVE_AVX2
extern const struct matmul_isa matmul_avx2;
#endif
#ifdef HAVE_AVX512
extern const struct matmul_isa matmul_avx512;
#endif
/* By enum cpu_isa; NULL where this build has no kernels for it. */
extern const struct matmul_isa *const matmul_kernel_table[CPU_ISA_COUNT];

#endif
