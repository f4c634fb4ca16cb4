/* Which tensors a program keeps, in what form, and where in its weight memory. Sizes only: data may be absent.
 *
 * Invariant: every item begins at a multiple of 64 bytes; weight_bytes is their end.
 */
#include "compile.h"

int32_t weight_add(struct sharpi_program *program, const struct sharpi_tensor *tensor, int32_t *out,
                   struct sharpi_error *err)
{
    struct weight *w;
    int32_t status;
    for (uint32_t i = 0; i < program->n_weights; i++) {
        if (program->weights[i].tensor == tensor) {
            *out = (int32_t)i;
            return SHARPI_OK;
        }
    }
    status =
        program_grow(program, &program->weights, program->n_weights, &program->cap_weights, sizeof *w, err);
    if (status)
        return status;
    w = &program->weights[program->n_weights];
    memset(w, 0, sizeof *w);
    w->tensor = tensor;
    w->n = (uint32_t)tensor->ne[2];
    w->matrices = program_alloc(program, w->n, sizeof *w->matrices, err);
    if (!w->matrices)
        return SHARPI_ENOMEM;
    *out = (int32_t)program->n_weights++;
    for (uint32_t e = 0; e < w->n; e++) {
        status = matrix_init(&w->matrices[e], tensor, e, program->device->isa, program->device->repack,
                             &w->packed_bytes, err);
        if (status)
            return status;
    }
    if (w->packed_bytes > UINT64_MAX / 4 / w->n)
        return sharpi_fail(err, SHARPI_EINVAL, "tensor %s is too large", tensor->name);
    w->packed_bytes = round64(w->packed_bytes);
    return SHARPI_OK;
}

int32_t vector_add(struct sharpi_program *program, const struct sharpi_tensor *tensor, float plus,
                   int32_t *out, struct sharpi_error *err)
{
    struct vector *v;
    int32_t status;
    *out = -1;
    if (!tensor)
        return SHARPI_OK;
    if (tensor->type != SHARPI_TYPE_F32)
        return sharpi_fail(err, SHARPI_ENOTSUP, "tensor %s must be f32, not %s", tensor->name,
                           sharpi_type_info(tensor->type) ? sharpi_type_info(tensor->type)->name : "unknown");
    for (uint32_t i = 0; i < program->n_vectors; i++) {
        if (program->vectors[i].tensor == tensor && program->vectors[i].plus == plus) {
            *out = (int32_t)i;
            return SHARPI_OK;
        }
    }
    status =
        program_grow(program, &program->vectors, program->n_vectors, &program->cap_vectors, sizeof *v, err);
    if (status)
        return status;
    v = &program->vectors[program->n_vectors];
    memset(v, 0, sizeof *v);
    v->tensor = tensor;
    v->plus = plus;
    v->n = tensor->ne[0];
    *out = (int32_t)program->n_vectors++;
    return SHARPI_OK;
}

/* Attributes that make the same angles are the same table, whatever heads they turn. */
static struct sharpi_rope_attr angles_of(const struct sharpi_rope_attr *attr)
{
    struct sharpi_rope_attr a;
    memset(&a, 0, sizeof a);
    a.n_rot = attr->n_rot;
    a.theta = attr->theta;
    a.freq_scale = attr->freq_scale;
    a.yarn_ext = attr->yarn_ext;
    a.yarn_attn = attr->yarn_attn;
    a.yarn_beta_fast = attr->yarn_beta_fast;
    a.yarn_beta_slow = attr->yarn_beta_slow;
    a.original_context = attr->original_context;
    return a;
}

int32_t rope_add(struct sharpi_program *program, const struct sharpi_rope_attr *attr,
                 const struct sharpi_tensor *divisors, int32_t *out, struct sharpi_error *err)
{
    struct sharpi_rope_attr angles = angles_of(attr);
    struct rope_table *table;
    int32_t status;
    for (uint32_t i = 0; i < program->n_ropes; i++) {
        table = &program->ropes[i];
        if (table->divisors == divisors && memcmp(&table->attr, &angles, sizeof angles) == 0) {
            *out = (int32_t)i;
            return SHARPI_OK;
        }
    }
    status =
        program_grow(program, &program->ropes, program->n_ropes, &program->cap_ropes, sizeof *table, err);
    if (status)
        return status;
    table = &program->ropes[program->n_ropes];
    memset(table, 0, sizeof *table);
    table->attr = angles;
    table->divisors = divisors;
    table->magnitude = (float)sharpi_rope_magnitude(&angles);
    table->cell = -1;
    *out = (int32_t)program->n_ropes++;
    return SHARPI_OK;
}

/* Gives out `n_bytes` from *end on. */
static int32_t give_out(uint64_t *end, uint64_t n_bytes, uint64_t *offset, struct sharpi_error *err)
{
    *offset = *end;
    if (n_bytes > UINT64_MAX / 4 || *end > UINT64_MAX / 4)
        return sharpi_fail(err, SHARPI_EINVAL, "the weights add up to more than any memory");
    *end += round64(n_bytes);
    return SHARPI_OK;
}

int32_t weights_lay_out(struct sharpi_program *program, struct sharpi_error *err)
{
    uint64_t end = 0;
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < program->n_weights && !status; i++) {
        struct weight *w = &program->weights[i];
        status = give_out(&end, w->packed_bytes * w->n, &w->offset, err);
        if (!w->packed_bytes)
            program->mapped_bytes += w->tensor->n_bytes;
    }
    for (uint32_t i = 0; i < program->n_vectors && !status; i++)
        status = give_out(&end, program->vectors[i].n * sizeof(float), &program->vectors[i].offset, err);
    for (uint32_t i = 0; i < program->n_ropes && !status; i++)
        status =
            give_out(&end, program->ropes[i].attr.n_rot / 2 * sizeof(double), &program->ropes[i].offset, err);
    program->weight_bytes = end;
    return status;
}
