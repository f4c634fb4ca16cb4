/* What the AVX-512 kernels share: loading codes from bit planes, and a slab as its functions see it.
 *
 * Only for objects compiled with AVX-512 F, BW, DQ, VL and VNNI. One register holds four columns of all sixteen rows of a group.
 * A slab function unpacks 64 columns of weights into registers and passes all tokens by them, so that nothing is unpacked
 * twice. VPDPBUSD multiplies unsigned codes with the token's four activations, broadcast from memory, and adds them to
 * int32 sums without saturation; signed codes are made unsigned by an offset, which the sums of activations take back.
 */
#ifndef SHARPI_BACKEND_CPU_MATMUL_AVX512_H
#define SHARPI_BACKEND_CPU_MATMUL_AVX512_H

#include <immintrin.h>

#include "matmul-internal.h"

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* A slab of a group and the tokens that it is multiplied with. */
struct slab_in {
    const uint8_t *w;        /* packed: header and codes */
    const uint8_t *const *x; /* activation rows */
    uint64_t n_in, k, nb;    /* row length, first column, columns / 32 */
    uint32_t n_tokens;
    float *acc; /* [n_tokens][16], added to */
};

/* matmul_kernel.variant points to one of these. */
struct avx512_variant {
    void (*slab)(const struct slab_in *in);
};

void avx512_multiply_packed(const struct matmul_kernel *kernel, const struct matmul_call *call);
void avx512_multiply_float(const struct matmul_kernel *kernel, const struct matmul_call *call);
extern const struct avx512_variant avx512_q4_0, avx512_q4_1, avx512_q5_0, avx512_q5_1, avx512_q8_0,
    avx512_iq4_nl, avx512_mxfp4;
extern const struct avx512_variant avx512_q2_k, avx512_q3_k, avx512_q4_k, avx512_q5_k, avx512_q6_k,
    avx512_iq4_xs;
void act_quantize_q8_32_avx512(void *dst, const float *src, uint64_t n);
void act_quantize_q8_256_avx512(void *dst, const float *src, uint64_t n);

INLINE __m512i load_512(const void *p)
{
    return _mm512_loadu_si512(p);
}

INLINE __m512i broadcast_4_bytes(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

/* Sixteen f16 scales, one a row. */
INLINE __m512 f16_to_ps(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* ---- Codes: column group j (0..7) of a 32-column block at p, one unsigned byte each. ---- */
typedef __m512i (*codes_fn)(const uint8_t *p, uint32_t j);

/* Signed bytes, plus 128. */
INLINE __m512i codes_8bit(const uint8_t *p, uint32_t j)
{
    return _mm512_xor_si512(load_512(p + 64 * j), _mm512_set1_epi8(-128));
}

INLINE __m512i codes_4bit(const uint8_t *p, uint32_t j)
{
    __m512i v = load_512(p + 64 * (j & 3));
    return _mm512_and_si512(j < 4 ? v : _mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}

/* Bit j of every byte, moved to bit `to`. */
INLINE __m512i plane_1bit(const uint8_t *p, uint32_t j, uint32_t to)
{
    __m512i v = load_512(p);
    v = j < to ? _mm512_slli_epi16(v, to - j) : j > to ? _mm512_srli_epi16(v, j - to) : v;
    return _mm512_and_si512(v, _mm512_set1_epi8((char)(1 << to)));
}

/* The two bits of column group j, moved to bits to, to + 1. */
INLINE __m512i plane_2bit(const uint8_t *p, uint32_t j, uint32_t to)
{
    __m512i v = load_512(p + 64 * (j >> 2));
    uint32_t from = 2 * (j & 3);
    v = from < to ? _mm512_slli_epi16(v, to - from) : from > to ? _mm512_srli_epi16(v, from - to) : v;
    return _mm512_and_si512(v, _mm512_set1_epi8((char)(3 << to)));
}

INLINE __m512i codes_5bit(const uint8_t *p, uint32_t j)
{
    return _mm512_or_si512(codes_4bit(p, j), plane_1bit(p + 256, j, 4));
}

INLINE __m512i codes_6bit(const uint8_t *p, uint32_t j)
{
    return _mm512_or_si512(codes_4bit(p, j), plane_2bit(p + 256, j, 4));
}

INLINE __m512i codes_2bit(const uint8_t *p, uint32_t j)
{
    return plane_2bit(p, j, 0);
}

INLINE __m512i codes_3bit(const uint8_t *p, uint32_t j)
{
    return _mm512_or_si512(plane_2bit(p, j, 0), plane_1bit(p + 128, j, 2));
}

/* 4-bit codes by the table of IQ4_NL and IQ4_XS, plus 128. */
INLINE __m512i codes_iq4(const uint8_t *p, uint32_t j)
{
    const __m128i table =
        _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103, -90, -75, -59, -39, -15);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes_4bit(p, j));
}

/* 4-bit codes by the table of MXFP4, plus 12. */
INLINE __m512i codes_fp4(const uint8_t *p, uint32_t j)
{
    const __m128i table = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes_4bit(p, j));
}

/* Makes the compiler take an address as it is, rather than keep a register per offset from another; and leave the loop
 * around it alone, of which it might else do two turns at once, more than the registers hold. */
#define OPAQUE(pointer) __asm__ volatile("" : "+r"(pointer))

/* sum += codes * activations over n <= 8 column groups. */
INLINE __m512i sum_codes(__m512i sum, const __m512i *codes, const uint8_t *x, uint32_t n)
{
    UNROLL for (uint32_t j = 0; j < 8; j++) if (j < n) /* a constant count: clang unrolls before it knows n */
        sum = _mm512_dpbusd_epi32(sum, codes[j], broadcast_4_bytes(x + 4 * j));
    return sum;
}

#endif
