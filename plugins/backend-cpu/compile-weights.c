/* Which tensors a program keeps, in what form, and where in its weight memory. Sizes only: data may be absent.
 *
 * Invariant: every item begins at a multiple of 64 bytes; weight_bytes is their end.
 */
#include "compile.h"

static int32_t weight_make(struct sharpi_program *program, const struct sharpi_tensor *tensor, int32_t *out,
                           struct sharpi_error *err)
{
    struct weight *w;
    uint64_t all;
    int32_t status;
    for (uint32_t i = 0; i < program->n_weights; i++) {
        if (program->weights[i].tensor == tensor) {
            *out = (int32_t)i;
            return SHARPI_OK;
        }
    }
    status = flow_grow(&program->flow, &program->weights, program->n_weights, &program->cap_weights,
                       sizeof *w, err);
    if (status)
        return status;
    w = &program->weights[program->n_weights];
    memset(w, 0, sizeof *w);
    w->tensor = tensor;
    w->n = (uint32_t)tensor->ne[2];
    w->matrices = flow_alloc(&program->flow, w->n, sizeof *w->matrices, err);
    if (!w->matrices)
        return SHARPI_ENOMEM;
    *out = (int32_t)program->n_weights++;
    for (uint32_t e = 0; e < w->n; e++) {
        status = matrix_init(&w->matrices[e], tensor, e, program->device->isa, program->device->repack,
                             &w->packed_bytes, err);
        if (status)
            return status;
    }
    if (__builtin_mul_overflow(w->packed_bytes, w->n, &all) || all > UINT64_MAX / 4)
        return sharpi_fail(err, SHARPI_EINVAL, "tensor %s is too large", tensor->name);
    w->packed_bytes = round64(w->packed_bytes);
    return SHARPI_OK;
}

int32_t weight_add(struct flow *flow, const struct sharpi_tensor *tensor, int32_t *out, uint32_t *formats,
                   struct sharpi_error *err)
{
    int32_t status = weight_make(program_of(flow), tensor, out, err);
    if (!status)
        *formats = 1u << program_of(flow)->weights[*out].matrices[0].act;
    return status;
}

int32_t weights_lay_out(struct sharpi_program *program, struct sharpi_error *err)
{
    uint64_t end = 0;
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < program->n_weights && !status; i++) {
        struct weight *w = &program->weights[i];
        status = flow_give_out(&end, w->packed_bytes * w->n, &w->offset, err);
        if (!w->packed_bytes)
            program->mapped_bytes += w->tensor->n_bytes;
    }
    if (!status)
        status = vectors_lay_out(&program->flow, &end, err);
    program->weight_bytes = end;
    return status;
}
