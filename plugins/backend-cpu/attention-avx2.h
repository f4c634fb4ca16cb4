/* What AVX2 and the sets above it share: the transpose of 8 x 8 floats. */
#ifndef SHARPI_BACKEND_CPU_ATTENTION_AVX2_H
#define SHARPI_BACKEND_CPU_ATTENTION_AVX2_H

#include <immintrin.h>
#include <stdint.h>

/* dst[i * dst_stride + r] = src[r * src_stride + i] for r, i < 8. Halves of rows r and r + 4 are joined while
 * loading, so that the remaining steps stay inside 128-bit lanes. */
static inline void transpose_8x8(float *dst, uint64_t dst_stride, const float *src, uint64_t src_stride)
{
    __m256 x[8], y[8];
    for (uint32_t r = 0; r < 4; r++) {
        const float *low = src + r * src_stride, *high = src + (r + 4) * src_stride;
        x[r] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
        x[r + 4] =
            _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 4)), _mm_loadu_ps(high + 4), 1);
    }
    for (uint32_t half = 0; half < 8; half += 4) {
        const __m256 a = _mm256_unpacklo_ps(x[half], x[half + 1]),
                     b = _mm256_unpackhi_ps(x[half], x[half + 1]);
        const __m256 c = _mm256_unpacklo_ps(x[half + 2], x[half + 3]),
                     d = _mm256_unpackhi_ps(x[half + 2], x[half + 3]);
        y[half] = _mm256_shuffle_ps(a, c, 0x44);
        y[half + 1] = _mm256_shuffle_ps(a, c, 0xee);
        y[half + 2] = _mm256_shuffle_ps(b, d, 0x44);
        y[half + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (uint32_t i = 0; i < 8; i++)
        _mm256_storeu_ps(dst + i * dst_stride, y[i]);
}

#endif
