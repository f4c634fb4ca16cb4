/* Brings file rows into the packed layout of matmul-internal.h: sixteen rows interleaved, codes in bit planes, scales of
 * all rows side by side. Loses and adds no information; the same for every ISA.
 */
#include "matmul-internal.h"

uint64_t pack_slab_bytes(const struct quant_type *q, uint64_t n_columns)
{
    uint64_t nb = n_columns / 32;
    return pack_header_bytes(q, nb) + nb * pack_codes_bytes(q);
}

uint64_t pack_group_bytes(const struct quant_type *q, uint64_t n_in)
{
    uint64_t whole = n_in / MATMUL_SLAB, rest = n_in % MATMUL_SLAB;
    return round_up64(whole * pack_slab_bytes(q, MATMUL_SLAB) + (rest ? pack_slab_bytes(q, rest) : 0));
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, sizeof v);
}

/* Writes one row's 32 codes into both planes; dst is the row's first byte in the first vector. Works on the four codes of
 * a column group at once: they are neighbours in the row and in the vector. */
static void pack_codes(const struct quant_type *q, uint8_t *dst, const uint8_t *code)
{
    uint32_t g[8];
    for (uint32_t j = 0; j < 8; j++)
        g[j] = get32(code + 4 * j);
    if (q->low_bits == 8) {
        for (uint32_t j = 0; j < 8; j++)
            put32(dst + 64 * j, g[j]);
        return;
    }
    uint32_t n_low = q->low_bits == 4 ? 4 : 2, shift = q->low_bits;
    if (q->low_bits == 4) {
        for (uint32_t v = 0; v < 4; v++)
            put32(dst + 64 * v, (g[v] & 0x0f0f0f0f) | (g[v + 4] & 0x0f0f0f0f) << 4);
    } else {
        const uint32_t m = 0x03030303;
        for (uint32_t v = 0; v < 2; v++)
            put32(dst + 64 * v, (g[4 * v] & m) | (g[4 * v + 1] & m) << 2 | (g[4 * v + 2] & m) << 4 |
                                    (g[4 * v + 3] & m) << 6);
    }
    dst += 64 * n_low;
    if (q->high_bits == 1) {
        uint32_t bits = 0;
        for (uint32_t j = 0; j < 8; j++)
            bits |= (g[j] >> shift & 0x01010101) << j;
        put32(dst, bits);
    } else if (q->high_bits == 2) {
        for (uint32_t v = 0; v < 2; v++) {
            uint32_t bits = 0;
            for (uint32_t i = 0; i < 4; i++)
                bits |= (g[4 * v + i] >> shift & 0x03030303) << 2 * i;
            put32(dst + 64 * v, bits);
        }
    }
}

static void put_scale(const struct quant_type *q, uint8_t *dst, uint32_t row, uint16_t bits)
{
    if (q->d_is_e8m0)
        dst[row] = (uint8_t)bits;
    else
        memcpy(dst + 2 * row, &bits, sizeof bits);
}

static void pack_row_32(const struct quant_type *q, uint8_t *dst, const uint8_t *src, uint32_t row,
                        uint32_t nb)
{
    uint32_t file_bytes = sharpi_type_info(q->type)->block_bytes, d_bytes = q->d_is_e8m0 ? 16 : 32;
    uint8_t *codes = dst + pack_header_bytes(q, nb);
    struct quant_block b[MATMUL_SLAB / 32];
    /* First all, then all: reading codes back at once would wait for the narrower stores. */
    for (uint32_t i = 0; i < nb; i++, src += file_bytes)
        quant_unpack(q, src, &b[i]);
    for (uint32_t i = 0; i < nb; i++, codes += pack_codes_bytes(q)) {
        put_scale(q, dst + (uint64_t)d_bytes * i, row, b[i].d);
        if (q->has_min)
            put_scale(q, dst + (uint64_t)d_bytes * (nb + i), row, b[i].dmin);
        pack_codes(q, codes + 4 * row, b[i].code);
    }
}

static void pack_row_256(const struct quant_type *q, uint8_t *dst, const uint8_t *src, uint32_t row)
{
    struct quant_block b;
    uint8_t *scales = dst + (q->has_min ? 64 : 32), *codes = dst + pack_header_bytes(q, 8);
    quant_unpack(q, src, &b);
    put_scale(q, dst, row, b.d);
    if (q->has_min)
        put_scale(q, dst + 32, row, b.dmin);
    for (uint32_t i = 0; i < q->scale_bytes / 4u; i++)
        memcpy(scales + 64 * i + 4 * row, b.packed_scales + 4 * i, 4);
    for (uint32_t i = 0; i < 8; i++)
        pack_codes(q, codes + i * pack_codes_bytes(q) + 4 * row, b.code + 32 * i);
}

void pack_slab(const struct quant_type *q, uint8_t *dst, const uint8_t *src, uint64_t row_bytes,
               uint32_t n_rows, uint64_t k, uint64_t n)
{
    uint64_t offset = sharpi_row_bytes(q->type, k);
    if (n_rows < MATMUL_GROUP)
        memset(dst, 0, pack_slab_bytes(q, n));
    for (uint32_t row = 0; row < n_rows; row++) {
        const uint8_t *p = src + row * row_bytes + offset;
        if (quant_block_elems(q) == 32)
            pack_row_32(q, dst, p, row, (uint32_t)(n / 32));
        else
            pack_row_256(q, dst, p, row);
    }
}

void matrix_pack(const struct matrix *m, void *dst, const void *src, uint64_t first, uint64_t count)
{
    const struct quant_type *q = quant_type_of(m->type);
    if (!q || !m->packed)
        return;
    uint64_t group_bytes = pack_group_bytes(q, m->n_in),
             last = first + count < m->n_out ? first + count : m->n_out;
    for (uint64_t row = first; row < last; row += MATMUL_GROUP) {
        uint8_t *group = (uint8_t *)dst + row / MATMUL_GROUP * group_bytes, *p = group;
        uint32_t n_rows = last - row < MATMUL_GROUP ? (uint32_t)(last - row) : MATMUL_GROUP;
        for (uint64_t k = 0; k < m->n_in; k += MATMUL_SLAB) {
            uint64_t n = m->n_in - k < MATMUL_SLAB ? m->n_in - k : MATMUL_SLAB;
            pack_slab(q, p, (const uint8_t *)src + row * m->row_bytes, m->row_bytes, n_rows, k, n);
            p += pack_slab_bytes(q, n);
        }
        memset(p, 0, group_bytes - (uint64_t)(p - group));
    }
}
