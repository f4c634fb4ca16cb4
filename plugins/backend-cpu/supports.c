/* Whether the CPU can run an op: asked by the planner before anything is loaded. */
#include "compile.h"

static int32_t check_matrix(const struct sharpi_tensor *tensor, enum cpu_isa isa, struct sharpi_error *err)
{
    struct matrix matrix;
    uint64_t packed_bytes;
    return tensor ? matrix_init(&matrix, tensor, 0, isa, 0, &packed_bytes, err) : SHARPI_OK;
}

static int32_t check_experts(const struct sharpi_op *op, enum cpu_isa isa, struct sharpi_error *err)
{
    static const int32_t matrices[] = {SHARPI_MOE_ROUTER, SHARPI_MOE_GATE, SHARPI_MOE_UP, SHARPI_MOE_GATE_UP,
                                       SHARPI_MOE_DOWN};
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < sizeof matrices / sizeof *matrices && !status; i++)
        status = check_matrix(op->w[matrices[i]], isa, err);
    return status;
}

static int32_t check_attention(const struct sharpi_op *op, const struct sharpi_kv_layer *kv, enum cpu_isa isa,
                               struct sharpi_error *err)
{
    struct attention_plan plan;
    uint64_t scratch_bytes;
    if (!kv || !kv->kv)
        return sharpi_fail(err, SHARPI_EBUG, "layer %d: no cache format was given for attention", op->layer);
    return attention_plan_init(&plan, isa, op->attr, kv, 1, &scratch_bytes, err);
}

int32_t cpu_supports(void *ctx, const struct sharpi_graph_view *graph, const struct sharpi_op *op,
                     const struct sharpi_kv_layer *kv, struct sharpi_error *err)
{
    enum cpu_isa isa;
    int32_t status = cpu_choose_isa(ctx, &isa, err);
    (void)graph;
    if (status)
        return status;
    switch (op->kind) {
    case SHARPI_OP_LINEAR:
    case SHARPI_OP_LOGITS:
        return check_matrix(op->w[0], isa, err);
    case SHARPI_OP_MOE_FFN:
        return check_experts(op, isa, err);
    case SHARPI_OP_ATTENTION:
        return check_attention(op, kv, isa, err);
    case SHARPI_OP_EMBED:
    case SHARPI_OP_ROW_GATHER:
        if (!sharpi_type_info(op->w[0]->type))
            return sharpi_fail(err, SHARPI_ENOTSUP, "table %s has unknown type %d", op->w[0]->name,
                               op->w[0]->type);
        return SHARPI_OK;
    case SHARPI_OP_RMS_NORM:
    case SHARPI_OP_ROPE:
    case SHARPI_OP_GLU:
    case SHARPI_OP_ADD:
    case SHARPI_OP_MUL:
    case SHARPI_OP_SCALE:
    case SHARPI_OP_SOFTCAP:
    case SHARPI_OP_SELECT_ROWS:
    case SHARPI_OP_TAP:
    case SHARPI_OP_CUSTOM:
    case SHARPI_OP_SLICE:
    case SHARPI_OP_ACTIVATION:
        return SHARPI_OK;
    default:
        return sharpi_fail(err, SHARPI_ENOTSUP, "the CPU backend does not know op kind %d", op->kind);
    }
}
