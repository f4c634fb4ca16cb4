/* What the AVX2 kernels share: loading codes from bit planes, and the driver's table of slab functions.
 *
 * Only for objects compiled with AVX2. Everything is inlined into slab functions with constant arguments, so that each
 * weight type and number of tokens gets straight code without branches.
 */
#ifndef SHARPI_BACKEND_CPU_MATMUL_AVX2_H
#define SHARPI_BACKEND_CPU_MATMUL_AVX2_H

#include <immintrin.h>

#include "matmul-internal.h"

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Keeps a running sum in its register: compilers would reorder long sums of integers into trees, whose many intermediate
 * values do not fit the registers. */
#define PIN(v) __asm__("" : "+x"(v))

#define TILE_TOKENS                                                                                          \
    4 /* tokens that a slab function multiplies at once: 8 sums of 8 lanes stay in registers */

/* Where in the activations a slab lies. */
struct slab_in {
    const uint8_t *const *x; /* activation rows */
    uint64_t n_in, k, nb;    /* row length, first column, columns / 32 */
};

/* acc[token][16] += the slab's products. `codes` are in the packed layout or, for the tile functions, unpacked: one byte each. */
typedef void (*slab_fn)(const uint8_t *header, const uint8_t *codes, const struct slab_in *in, float *acc);

/* Constants of one type's kernel: matmul_kernel.variant. */
struct avx2_variant {
    void (*unpack)(const uint8_t *codes, uint64_t nb, uint8_t *out); /* NULL: codes are bytes already */
    slab_fn direct[TILE_TOKENS]; /* by tokens - 1; from the packed layout */
    slab_fn tile[TILE_TOKENS];   /* from unpacked codes */
    uint32_t n_direct;           /* up to so many tokens it does not pay to unpack first */
};

void avx2_multiply_packed(const struct matmul_kernel *kernel, const struct matmul_call *call);
void avx2_multiply_float(const struct matmul_kernel *kernel, const struct matmul_call *call);
extern const struct avx2_variant avx2_q4_0, avx2_q4_1, avx2_q5_0, avx2_q5_1, avx2_q8_0, avx2_iq4_nl,
    avx2_mxfp4;
extern const struct avx2_variant avx2_q2_k, avx2_q3_k, avx2_q4_k, avx2_q5_k, avx2_q6_k, avx2_iq4_xs;
void act_quantize_q8_32_avx2(void *dst, const float *src, uint64_t n);
void act_quantize_q8_256_avx2(void *dst, const float *src, uint64_t n);

INLINE __m256i load_256(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE __m256i broadcast_4_bytes(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

INLINE __m256 f16_to_ps(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* ---- Codes: rows 8 * half .. + 7 of column group j (0..7) of a 32-column block at p, one byte each. ---- */
typedef __m256i (*codes_fn)(const uint8_t *p, uint32_t j, uint32_t half);

INLINE __m256i codes_8bit(const uint8_t *p, uint32_t j, uint32_t half)
{
    return load_256(p + 64 * j + 32 * half);
}

INLINE __m256i codes_4bit(const uint8_t *p, uint32_t j, uint32_t half)
{
    __m256i v = load_256(p + 64 * (j & 3) + 32 * half);
    return _mm256_and_si256(j < 4 ? v : _mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
}

/* Bit j of every byte, moved to bit `to`. */
INLINE __m256i plane_1bit(const uint8_t *p, uint32_t j, uint32_t half, uint32_t to)
{
    __m256i v = load_256(p + 32 * half);
    v = j < to ? _mm256_slli_epi16(v, (int)(to - j)) : _mm256_srli_epi16(v, (int)(j - to));
    return _mm256_and_si256(v, _mm256_set1_epi8((char)(1 << to)));
}

/* The two bits of column group j, moved to bits to, to + 1. */
INLINE __m256i plane_2bit(const uint8_t *p, uint32_t j, uint32_t half, uint32_t to)
{
    __m256i v = load_256(p + 64 * (j >> 2) + 32 * half);
    uint32_t from = 2 * (j & 3);
    v = from < to ? _mm256_slli_epi16(v, (int)(to - from)) : _mm256_srli_epi16(v, (int)(from - to));
    return _mm256_and_si256(v, _mm256_set1_epi8((char)(3 << to)));
}

INLINE __m256i codes_5bit(const uint8_t *p, uint32_t j, uint32_t half)
{
    return _mm256_or_si256(codes_4bit(p, j, half), plane_1bit(p + 256, j, half, 4));
}

INLINE __m256i codes_6bit(const uint8_t *p, uint32_t j, uint32_t half)
{
    return _mm256_or_si256(codes_4bit(p, j, half), plane_2bit(p + 256, j, half, 4));
}

INLINE __m256i codes_2bit(const uint8_t *p, uint32_t j, uint32_t half)
{
    return plane_2bit(p, j, half, 0);
}

INLINE __m256i codes_3bit(const uint8_t *p, uint32_t j, uint32_t half)
{
    return _mm256_or_si256(plane_2bit(p, j, half, 0), plane_1bit(p + 128, j, half, 2));
}

/* 4-bit codes by the table of IQ4_NL and IQ4_XS: signed values. */
INLINE __m256i codes_iq4(const uint8_t *p, uint32_t j, uint32_t half)
{
    const __m128i table =
        _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes_4bit(p, j, half));
}

/* 4-bit codes by the table of MXFP4, plus 12 to make them unsigned. */
INLINE __m256i codes_fp4(const uint8_t *p, uint32_t j, uint32_t half)
{
    const __m128i table = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes_4bit(p, j, half));
}

INLINE void unpack_slab(const uint8_t *codes, uint64_t nb, uint8_t *out, codes_fn load, uint32_t block_bytes)
{
    for (uint64_t b = 0; b < nb; b++, codes += block_bytes, out += 512) {
        UNROLL for (uint32_t j = 0; j < 8; j++) UNROLL for (uint32_t half = 0; half < 2; half++)
            _mm256_store_si256((__m256i *)(out + 64 * j + 32 * half), load(codes, j, half));
    }
}

/* Four columns of eight rows times four activations, summed in pairs to int16 that never saturates: the codes are
 * unsigned and below 128 with activations within 127, or signed and their magnitude at most 128. */
INLINE __m256i multiply_pairs(__m256i codes, __m256i x, int is_signed)
{
    return is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
                     : _mm256_maddubs_epi16(codes, x);
}

/* ---- Slab functions of a type: `slab` with constants, a `struct traits` of which the last arguments are the members ---- */

#define SLAB(slab, traits, type, kind, n, ...)                                                               \
    static void type##_##kind##n(const uint8_t *header, const uint8_t *codes, const struct slab_in *in,      \
                                 float *acc)                                                                 \
    {                                                                                                        \
        slab((traits){__VA_ARGS__}, n, header, codes, in, acc);                                              \
    }
#define SLABS(slab, traits, type, kind, ...)                                                                 \
    SLAB(slab, traits, type, kind, 1, __VA_ARGS__)                                                           \
    SLAB(slab, traits, type, kind, 2, __VA_ARGS__)                                                           \
    SLAB(slab, traits, type, kind, 3, __VA_ARGS__)                                                           \
    SLAB(slab, traits, type, kind, 4, __VA_ARGS__)

/* Codes in bit planes: direct functions, an unpacker, and tile functions that read what it wrote. */
#define KERNEL(slab, traits, type, load, bytes, ...)                                                         \
    SLABS(slab, traits, type, direct, load, bytes, __VA_ARGS__)                                              \
    SLABS(slab, traits, type, tile, codes_8bit, 512, __VA_ARGS__)                                            \
    static void type##_unpack(const uint8_t *codes, uint64_t nb, uint8_t *out)                               \
    {                                                                                                        \
        unpack_slab(codes, nb, out, load, bytes);                                                            \
    }                                                                                                        \
    const struct avx2_variant avx2_##type = {                                                                \
        .unpack = type##_unpack,                                                                             \
        .direct = {type##_direct1, type##_direct2, type##_direct3, type##_direct4},                          \
        .tile = {type##_tile1, type##_tile2, type##_tile3, type##_tile4},                                    \
        .n_direct = 4,                                                                                       \
    };

#endif
