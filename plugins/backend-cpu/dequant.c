/* One weight row to f32: embedding look-up, and the yardstick of the tests. */
#include "matmul-internal.h"

static void dequant_block(const struct quant_type *q, const uint8_t *src, float *dst)
{
    struct quant_block b;
    quant_unpack(q, src, &b);
    float d = quant_d(q, b.d);
    if (quant_block_elems(q) == 32) {
        float min = q->has_min ? f16_to_f32(b.dmin) : 0;
        for (uint32_t i = 0; i < 32; i++)
            dst[i] = d * (float)quant_value(q, b.code[i]) - min;
        return;
    }
    float dmin = q->has_min ? f16_to_f32(b.dmin) : 0;
    for (uint32_t s = 0; s < 16; s++) {
        float scale = d * (float)b.scale[s], min = q->has_min ? dmin * (float)b.min[s] : 0;
        for (uint32_t i = 16 * s; i < 16 * s + 16; i++)
            dst[i] = scale * (float)quant_value(q, b.code[i]) - min;
    }
}

void dequant_row(int32_t type, const void *src, float *dst, uint64_t n)
{
    const uint8_t *p = src;
    const struct quant_type *q = quant_type_of(type);
    const struct sharpi_type_info *info = sharpi_type_info(type);

    if (type == SHARPI_TYPE_F32) {
        memcpy(dst, src, n * sizeof *dst);
    } else if (type == SHARPI_TYPE_F16 || type == SHARPI_TYPE_BF16) {
        for (uint64_t i = 0; i < n; i++) {
            uint16_t bits;
            memcpy(&bits, p + 2 * i, sizeof bits);
            dst[i] = type == SHARPI_TYPE_F16 ? f16_to_f32(bits) : bf16_to_f32(bits);
        }
    } else if (q && info) {
        for (uint64_t i = 0; i + info->block_elems <= n; i += info->block_elems, p += info->block_bytes)
            dequant_block(q, p, dst + i);
    }
}
