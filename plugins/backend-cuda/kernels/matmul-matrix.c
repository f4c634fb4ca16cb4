/* Byte arithmetic of the device layout (matmul-layout.h); what is planned here is what repack kernels fill. */
#include <string.h>

#include "matmul-layout.h"
#include "matmul.h"

/* Bytes of one matrix of a stack, a multiple of 256; 0 if the type is unknown or the size does not fit. */
static uint64_t one_matrix_bytes(int32_t type, uint64_t n_in, uint64_t n_out)
{
    struct slab_layout l = slab_layout_of(type);
    uint64_t unit, n_units, bytes;

    if (n_in == 0 || n_out == 0 || n_in > UINT32_MAX / 8 || n_out > UINT32_MAX - MATMUL_GROUP ||
        sharpi_row_bytes(type, n_in) == 0)
        return 0;
    if (type != SHARPI_TYPE_F32 && l.columns == 0)
        return 0;
    unit = l.columns ? group_bytes(l, n_in) : n_in * sizeof(float);
    n_units = l.columns ? (n_out + MATMUL_GROUP - 1) / MATMUL_GROUP : n_out;
    if (__builtin_mul_overflow(unit, n_units, &bytes) || bytes > UINT64_MAX - 255)
        return 0;
    return (bytes + 255) & ~(uint64_t)255;
}

uint64_t matrix_device_bytes(int32_t type, uint64_t n_in, uint64_t n_out, uint32_t n_stack)
{
    uint64_t bytes;
    return __builtin_mul_overflow(one_matrix_bytes(type, n_in, n_out), (uint64_t)n_stack, &bytes) ? 0 : bytes;
}

int32_t matrix_init(struct cuda_matrix *m, int32_t type, uint64_t n_in, uint64_t n_out, uint32_t n_stack,
                    const void *data, struct sharpi_error *err)
{
    const struct sharpi_type_info *info = sharpi_type_info(type);

    if (matrix_device_bytes(type, n_in, n_out, n_stack) == 0)
        return sharpi_fail(
            err, SHARPI_ENOTSUP, "cuda: no matrix product for %llu x %llu weights of type %s (%d)",
            (unsigned long long)n_out, (unsigned long long)n_in, info ? info->name : "unknown", (int)type);
    memset(m, 0, sizeof *m);
    m->data = data;
    m->n_in = n_in;
    m->n_out = n_out;
    m->stack_bytes = one_matrix_bytes(type, n_in, n_out);
    m->n_stack = n_stack;
    m->type = type;
    return SHARPI_OK;
}

struct cuda_matrix matrix_rows(const struct cuda_matrix *m, uint64_t first, uint64_t n_out)
{
    struct slab_layout l = slab_layout_of(m->type);
    struct cuda_matrix part = *m;
    uint64_t offset = l.columns ? first / MATMUL_GROUP * group_bytes(l, m->n_in) : first * m->n_in * 4;

    part.n_out = n_out;
    if (m->data)
        part.data = (const char *)m->data + offset;
    return part;
}
