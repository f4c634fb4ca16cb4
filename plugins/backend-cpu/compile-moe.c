/* Lowering of a mixture of experts: router product, routing per token, the experts as grouped products (run-moe.c), and the
 * weighted sum per token, so that router and sum take part in fusion like any other product and row op.
 */
#include "compile.h"

static int32_t lower_router(struct lowering *lowering, const struct sharpi_op *op,
                            const struct mixture *mixture, struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    struct node *node;
    int32_t weight, input[SHARPI_OP_MAX_INPUTS], logits, bias, scale, status;
    uint32_t formats, n = 0;
    if ((status = weight_add(flow, op->w[SHARPI_MOE_ROUTER], &weight, &formats, err)) ||
        (status = vector_add(flow, op->w[SHARPI_MOE_ROUTER_BIAS], 0.0f, &bias, err)) ||
        (status = vector_add(flow, op->w[SHARPI_MOE_EXPERT_SCALE], 0.0f, &scale, err)) ||
        (status = quantized_cells(lowering, op, op->in[1], formats, input, &n, err)) ||
        (status = cell_add(flow, SHARPI_ROWS_TOKENS, mixture->attr->n_experts * UINT64_C(4), &logits, err)))
        return status;
    if (!(node = node_add(flow, NODE_MATMUL, op, err)))
        return SHARPI_ENOMEM;
    node->in[0] = input[0];
    node->out = logits;
    node->vector = bias;
    node->weight = weight;
    node->formats = formats;
    node->index = op->in[1];
    if (!(node = node_add(flow, NODE_ROUTE, op, err)))
        return SHARPI_ENOMEM;
    node->in[0] = logits;
    node->out = mixture->routing;
    node->vector = scale;
    return SHARPI_OK;
}

/* The weight of that kind, or -1. */
static int32_t expert_weight(struct lowering *lowering, const struct sharpi_op *op, uint32_t kind,
                             int32_t *out, struct sharpi_error *err)
{
    uint32_t formats;
    *out = -1;
    return op->w[kind] ? weight_add(lowering->flow, op->w[kind], out, &formats, err) : SHARPI_OK;
}

static int32_t expert_weights(struct lowering *lowering, const struct sharpi_op *op, struct mixture *m,
                              struct sharpi_error *err)
{
    int32_t status = expert_weight(lowering, op, SHARPI_MOE_GATE_UP, &m->gate_up, err);
    m->gate = m->up = -1;
    if (!status && m->gate_up < 0)
        status = expert_weight(lowering, op, SHARPI_MOE_GATE, &m->gate, err);
    if (!status && m->gate_up < 0)
        status = expert_weight(lowering, op, SHARPI_MOE_UP, &m->up, err);
    return status ? status : expert_weight(lowering, op, SHARPI_MOE_DOWN, &m->down, err);
}

static int32_t expert_cells(struct lowering *lowering, const struct sharpi_op *op, struct mixture *m,
                            struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    struct sharpi_program *program = program_of(flow);
    const uint64_t k = m->attr->n_used;
    const int32_t rows = SHARPI_ROWS_TOKENS;
    const int32_t sources[3] = {m->gate_up, m->gate, m->up};
    int32_t status = SHARPI_OK;
    m->hidden_row = round64(8ull * m->attr->n_ff);
    m->act_row = act_row_bytes(program->weights[m->down].matrices[0].act, m->attr->n_ff);
    m->out_row = round64(4ull * m->width);
    for (uint32_t i = 0; i < 3 && !status; i++) {
        if (sources[i] >= 0) {
            enum act_format format = program->weights[sources[i]].matrices[0].act;
            status = quantized_cell(lowering, op, op->in[0], format, &m->input[format], err);
        }
    }
    if (status || (status = cell_add(flow, rows, k * m->hidden_row, &m->hidden, err)) ||
        (status = cell_add(flow, rows, k * m->act_row, &m->hidden_act, err)) ||
        (status = cell_add(flow, rows, k * m->out_row, &m->output, err)) ||
        (status = cell_add(flow, rows, k * 8, &m->routing, err)) ||
        (status = cell_add(flow, rows, k * 4, &m->slots, err)) ||
        (status = cell_add(flow, rows, k * 4, &m->source, err)))
        return status;
    return cell_add(flow, rows, k * 4, &m->iota, err);
}

/* The op's mixture without its nodes. */
static int32_t mixture_add(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    struct sharpi_program *program = program_of(flow);
    const struct sharpi_moe_attr *attr = op->attr;
    struct mixture *m;
    int32_t status =
        flow_grow(flow, &program->mixtures, program->n_mixtures, &program->cap_mixtures, sizeof *m, err);
    if (status)
        return status;
    m = &program->mixtures[program->n_mixtures];
    memset(m, 0, sizeof *m);
    program->n_mixtures++; /* destroy frees what it has by now */
    m->attr = attr;
    m->width = flow->cells[op->out].width;
    memset(m->input, -1, sizeof m->input);
    m->starts = flow_alloc(flow, attr->n_experts + 1ull, sizeof *m->starts, err);
    m->parts = flow_alloc(flow, 2ull * attr->n_experts, sizeof *m->parts, err);
    if (!m->starts || !m->parts)
        return SHARPI_ENOMEM;
    if ((status = expert_weights(lowering, op, m, err)))
        return status;
    return expert_cells(lowering, op, m, err);
}

int32_t lower_moe(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    struct sharpi_program *program = program_of(flow);
    const struct mixture *m;
    struct node *node;
    uint32_t n_in = 1;
    int32_t status = mixture_add(lowering, op, err);
    if (status)
        return status;
    m = &program->mixtures[program->n_mixtures - 1];
    if ((status = lower_router(lowering, op, m, err)))
        return status;
    if (!(node = node_add(flow, NODE_EXPERTS, op, err)))
        return SHARPI_ENOMEM;
    node->in[0] = m->routing;
    for (uint32_t f = 0; f < ACT_COUNT; f++) {
        if (m->input[f] >= 0)
            node->in[n_in++] = m->input[f];
    }
    node->out = m->output;
    node->helpers[0] = m->hidden;
    node->helpers[1] = m->hidden_act;
    node->helpers[2] = m->slots;
    node->helpers[3] = m->source;
    node->helpers[4] = m->iota;
    node->index = (int32_t)program->n_mixtures - 1;
    if (!(node = node_add(flow, NODE_COMBINE, op, err)))
        return SHARPI_ENOMEM;
    node->in[0] = m->output;
    node->in[1] = m->routing;
    node->in[2] = m->slots;
    node->out = op->out;
    node->index = (int32_t)program->n_mixtures - 1;
    return SHARPI_OK;
}
