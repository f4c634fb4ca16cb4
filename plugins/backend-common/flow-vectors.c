/* Small tensors that a program keeps in its weight memory: norm weights, biases, rope frequencies. Sizes are known without data.
 *
 * Invariant: every item begins at a multiple of 64 bytes.
 */
#include "flow.h"

int32_t vector_add(struct flow *flow, const struct sharpi_tensor *tensor, float plus, int32_t *out,
                   struct sharpi_error *err)
{
    struct vector *v;
    int32_t status;
    *out = -1;
    if (!tensor)
        return SHARPI_OK;
    if (tensor->type != SHARPI_TYPE_F32)
        return sharpi_fail(err, SHARPI_ENOTSUP, "tensor %s must be f32, not %s", tensor->name,
                           sharpi_type_info(tensor->type) ? sharpi_type_info(tensor->type)->name : "unknown");
    for (uint32_t i = 0; i < flow->n_vectors; i++) {
        if (flow->vectors[i].tensor == tensor && flow->vectors[i].plus == plus) {
            *out = (int32_t)i;
            return SHARPI_OK;
        }
    }
    status = flow_grow(flow, &flow->vectors, flow->n_vectors, &flow->cap_vectors, sizeof *v, err);
    if (status)
        return status;
    v = &flow->vectors[flow->n_vectors];
    memset(v, 0, sizeof *v);
    v->tensor = tensor;
    v->plus = plus;
    v->n = tensor->ne[0];
    *out = (int32_t)flow->n_vectors++;
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

int32_t rope_add(struct flow *flow, const struct sharpi_rope_attr *attr, const struct sharpi_tensor *divisors,
                 int32_t *out, struct sharpi_error *err)
{
    struct sharpi_rope_attr angles = angles_of(attr);
    struct rope_table *table;
    int32_t status;
    for (uint32_t i = 0; i < flow->n_ropes; i++) {
        table = &flow->ropes[i];
        /* NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): floats of the same file are the same bits */
        if (table->divisors == divisors && memcmp(&table->attr, &angles, sizeof angles) == 0) {
            *out = (int32_t)i;
            return SHARPI_OK;
        }
    }
    status = flow_grow(flow, &flow->ropes, flow->n_ropes, &flow->cap_ropes, sizeof *table, err);
    if (status)
        return status;
    table = &flow->ropes[flow->n_ropes];
    memset(table, 0, sizeof *table);
    table->attr = angles;
    table->divisors = divisors;
    table->magnitude = (float)sharpi_rope_magnitude(&angles);
    table->cell = -1;
    *out = (int32_t)flow->n_ropes++;
    return SHARPI_OK;
}

int32_t flow_give_out(uint64_t *end, uint64_t n_bytes, uint64_t *offset, struct sharpi_error *err)
{
    *offset = *end;
    if (n_bytes > UINT64_MAX / 4 || *end > UINT64_MAX / 4)
        return sharpi_fail(err, SHARPI_EINVAL, "the weights add up to more than any memory");
    *end += round64(n_bytes);
    return SHARPI_OK;
}

int32_t vectors_lay_out(struct flow *flow, uint64_t *end, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < flow->n_vectors && !status; i++)
        status = flow_give_out(end, flow->vectors[i].n * sizeof(float), &flow->vectors[i].offset, err);
    for (uint32_t i = 0; i < flow->n_ropes && !status; i++)
        status =
            flow_give_out(end, flow->ropes[i].attr.n_rot / 2 * sizeof(double), &flow->ropes[i].offset, err);
    return status;
}

static void fill_vector(const struct vector *v, float *data)
{
    memcpy(data, v->tensor->data, v->n * sizeof *data);
    for (uint64_t k = 0; k < v->n && v->plus != 0.0f; k++)
        data[k] += v->plus;
}

static void fill_rope(const struct rope_table *table, double *frequencies)
{
    for (uint32_t j = 0; j < table->attr.n_rot / 2; j++) {
        float divisor = 1.0f;
        if (table->divisors)
            memcpy(&divisor, (const uint8_t *)table->divisors->data + j * sizeof divisor, sizeof divisor);
        frequencies[j] = sharpi_rope_frequency(&table->attr, (double)divisor, j);
    }
}

void vectors_fill(const struct flow *flow, uint8_t *memory, uint64_t first)
{
    for (uint32_t i = 0; i < flow->n_vectors; i++)
        fill_vector(&flow->vectors[i], (float *)(void *)(memory + (flow->vectors[i].offset - first)));
    for (uint32_t i = 0; i < flow->n_ropes; i++)
        fill_rope(&flow->ropes[i], (double *)(void *)(memory + (flow->ropes[i].offset - first)));
}

void vectors_point(struct flow *flow, const uint8_t *memory)
{
    for (uint32_t i = 0; i < flow->n_vectors; i++)
        flow->vectors[i].data = (const float *)(const void *)(memory + flow->vectors[i].offset);
    for (uint32_t i = 0; i < flow->n_ropes; i++)
        flow->ropes[i].frequencies = (const double *)(const void *)(memory + flow->ropes[i].offset);
}

static int32_t check_data(const struct sharpi_tensor *tensor, struct sharpi_error *err)
{
    return !tensor || tensor->data
               ? SHARPI_OK
               : sharpi_fail(err, SHARPI_EBUG, "tensor %s has no data to load", tensor->name);
}

int32_t flow_check_data(const struct flow *flow, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < flow->n_nodes && !status; i++) {
        const struct sharpi_op *op = flow->nodes[i].op;
        for (uint32_t k = 0; k < SHARPI_OP_MAX_WEIGHTS && !status; k++)
            status = check_data(op->w[k], err);
    }
    return status;
}
