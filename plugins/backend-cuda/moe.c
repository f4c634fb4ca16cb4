/* Lowering of a mixture of experts: router product, routing, the experts as grouped products, and the weighted sum per token,
 * which takes part in fusion like any other row op.
 *
 * Who goes to which expert lies in memory that all mixtures share (layout.moe_*), outside of the cells: mixtures run one
 * after the other. The cell `routing` only keeps the order of nodes.
 */
#include "program.h"

/* The weight of that kind as a matrix. */
static int32_t expert_weight(struct flow *flow, const struct sharpi_op *op, uint32_t kind, int32_t *number,
                             struct cuda_matrix *matrix, struct sharpi_error *err)
{
    uint32_t formats;
    int32_t status = weight_add(flow, op->w[kind], number, &formats, err);
    if (!status)
        *matrix = program_of(flow)->weights[*number].matrix;
    return status;
}

static int32_t expert_weights(struct flow *flow, const struct sharpi_op *op, struct mixture *m,
                              struct sharpi_error *err)
{
    int32_t status;
    if (op->w[SHARPI_MOE_GATE_UP]) {
        status = expert_weight(flow, op, SHARPI_MOE_GATE_UP, &m->gate_weight, &m->gate, err);
        m->up_weight = m->gate_weight;
        m->up = m->gate;
        m->gate.n_out = m->up.n_out = m->attr->n_ff;
    } else {
        status = expert_weight(flow, op, SHARPI_MOE_GATE, &m->gate_weight, &m->gate, err);
        if (!status)
            status = expert_weight(flow, op, SHARPI_MOE_UP, &m->up_weight, &m->up, err);
    }
    return status ? status : expert_weight(flow, op, SHARPI_MOE_DOWN, &m->down_weight, &m->down, err);
}

/* Formats of a grouped product's input, unsorted and, for larger batches, sorted. */
static uint32_t grouped_formats(const struct flow *flow, const struct cuda_matrix *matrix)
{
    uint32_t formats = 1u << matmul_grouped_act_format(matrix, 0);
    if (experts_sorted(flow->request.max_tokens))
        formats |= 1u << matmul_grouped_act_format(matrix, 1);
    return formats;
}

static int32_t expert_cells(struct lowering *lowering, const struct sharpi_op *op, struct mixture *m,
                            struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    const uint64_t k = m->attr->n_used;
    const uint32_t in = grouped_formats(flow, &m->gate) | grouped_formats(flow, &m->up),
                   down = grouped_formats(flow, &m->down);
    int32_t status = SHARPI_OK;
    m->hidden_row = round64(4ull * m->attr->n_ff);
    m->out_row = round64(4ull * m->width);
    for (uint32_t f = 0; f < ACT_COUNT && !status; f++) {
        m->act_row[f] = round64(act_row_bytes((enum act_format)f, m->attr->n_ff));
        if (in >> f & 1)
            status = quantized_cell(lowering, op, op->in[0], f, &m->input[f], err);
        if (!status && f != ACT_F32 && down >> f & 1)
            status = cell_add(flow, SHARPI_ROWS_TOKENS, k * m->act_row[f], &m->hidden_act[f], err);
    }
    if (status || (status = cell_add(flow, SHARPI_ROWS_TOKENS, k * m->hidden_row, &m->hidden, err)) ||
        (status = cell_add(flow, SHARPI_ROWS_TOKENS, k * m->hidden_row, &m->hidden_up, err)))
        return status;
    return cell_add(flow, SHARPI_ROWS_TOKENS, k * m->out_row, &m->output, err);
}

/* The op's mixture without its nodes. */
static int32_t mixture_add(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    struct sharpi_program *program = program_of(flow);
    struct mixture *m;
    int32_t status =
        flow_grow(flow, &program->mixtures, program->n_mixtures, &program->cap_mixtures, sizeof *m, err);
    if (status)
        return status;
    m = &program->mixtures[program->n_mixtures];
    memset(m, 0, sizeof *m);
    m->attr = op->attr;
    m->width = flow->cells[op->out].width;
    memset(m->input, -1, sizeof m->input);
    memset(m->hidden_act, -1, sizeof m->hidden_act);
    if ((status = expert_weights(flow, op, m, err)) ||
        (status = vector_add(flow, op->w[SHARPI_MOE_ROUTER_BIAS], 0.0f, &m->bias, err)) ||
        (status = vector_add(flow, op->w[SHARPI_MOE_EXPERT_SCALE], 0.0f, &m->scale, err)) ||
        (status = expert_cells(lowering, op, m, err)))
        return status;
    program->n_mixtures++;
    return SHARPI_OK;
}

/* The router's product and the routing. */
static int32_t lower_router(struct lowering *lowering, const struct sharpi_op *op, struct mixture *m,
                            int32_t *routing, struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    struct node *node;
    int32_t weight, input[SHARPI_OP_MAX_INPUTS] = {-1, -1, -1, -1}, status;
    uint32_t formats, n = 0;
    if ((status = weight_add(flow, op->w[SHARPI_MOE_ROUTER], &weight, &formats, err)) ||
        (status = quantized_cells(lowering, op, op->in[1], formats, input, &n, err)) ||
        (status = cell_add(flow, SHARPI_ROWS_TOKENS, m->attr->n_experts * UINT64_C(4), &m->logits, err)) ||
        (status = cell_add(flow, SHARPI_ROWS_TOKENS, 4, routing, err)))
        return status;
    if (!(node = node_add(flow, NODE_MATMUL, op, err)))
        return SHARPI_ENOMEM;
    memcpy(node->in, input, sizeof node->in);
    node->out = m->logits;
    node->weight = weight;
    node->formats = formats;
    node->index = op->in[1];
    if (!(node = node_add(flow, NODE_ROUTE, op, err)))
        return SHARPI_ENOMEM;
    node->in[0] = m->logits;
    node->out = *routing;
    node->index = (int32_t)program_of(flow)->n_mixtures - 1;
    return SHARPI_OK;
}

int32_t lower_moe(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    struct sharpi_program *program = program_of(flow);
    struct mixture *m;
    struct node *node;
    uint32_t n = 1, n_helpers = 2;
    int32_t routing, status = mixture_add(lowering, op, err);
    if (status)
        return status;
    m = &program->mixtures[program->n_mixtures - 1];
    if ((status = lower_router(lowering, op, m, &routing, err)))
        return status;
    if (!(node = node_add(flow, NODE_EXPERTS, op, err)))
        return SHARPI_ENOMEM;
    node->in[0] = routing;
    node->helpers[0] = m->hidden;
    node->helpers[1] = m->hidden_up;
    for (uint32_t f = 0; f < ACT_COUNT; f++) {
        if (m->input[f] >= 0)
            node->in[n++] = m->input[f];
        if (m->hidden_act[f] >= 0)
            node->helpers[n_helpers++] = m->hidden_act[f];
    }
    node->out = m->output;
    node->index = (int32_t)program->n_mixtures - 1;
    if (!(node = node_add(flow, NODE_COMBINE, op, err)))
        return SHARPI_ENOMEM;
    node->in[0] = m->output;
    node->in[1] = routing;
    node->out = op->out;
    node->index = (int32_t)program->n_mixtures - 1;
    return SHARPI_OK;
}
