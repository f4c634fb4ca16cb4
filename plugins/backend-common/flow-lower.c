/* First stage of compiling: ops become nodes. See flow.h.
 *
 * Invariant: nodes are in an order in which they could run; every cell that a node reads was made by an earlier node.
 */
#include "flow.h"

/* Columns of a slice that may be used where they lie: kernels want rows at multiples of 64 bytes. */
#define VIEW_ALIGN 16u

struct node *node_add(struct flow *flow, int32_t kind, const struct sharpi_op *op, struct sharpi_error *err)
{
    struct node *node;
    if (flow_grow(flow, &flow->nodes, flow->n_nodes, &flow->cap_nodes, sizeof *node, err))
        return NULL;
    node = &flow->nodes[flow->n_nodes++];
    memset(node, 0, sizeof *node);
    node->kind = kind;
    node->op = op;
    node->layer = op->layer;
    for (uint32_t i = 0; i < SHARPI_OP_MAX_INPUTS; i++)
        node->in[i] = -1;
    for (uint32_t i = 0; i < FLOW_MAX_HELPERS; i++)
        node->helpers[i] = -1;
    node->out = node->residual = node->vector = node->weight = node->index = node->step = -1;
    return node;
}

int32_t cell_add(struct flow *flow, int32_t rows, uint64_t row_bytes, int32_t *out, struct sharpi_error *err)
{
    struct cell *cell;
    int32_t status = flow_grow(flow, &flow->cells, flow->n_cells, &flow->cap_cells, sizeof *cell, err);
    if (status)
        return status;
    cell = &flow->cells[flow->n_cells];
    memset(cell, 0, sizeof *cell);
    cell->rows = rows;
    cell->stride = round64(row_bytes);
    cell->is_shared = 1;
    cell->parent = (int32_t)flow->n_cells;
    *out = (int32_t)flow->n_cells++;
    return SHARPI_OK;
}

/* A row node that does what the op says on cells of the same numbers as its values. */
static int32_t lower_row(struct lowering *lowering, const struct sharpi_op *op, int32_t kind,
                         struct sharpi_error *err)
{
    struct node *node = node_add(lowering->flow, kind, op, err);
    if (!node)
        return SHARPI_ENOMEM;
    memcpy(node->in, op->in, sizeof node->in);
    node->out = op->out;
    return SHARPI_OK;
}

/* The same with the op's first weight as a vector. */
static int32_t lower_row_vector(struct lowering *lowering, const struct sharpi_op *op, int32_t kind,
                                float plus, struct sharpi_error *err)
{
    int32_t vector, status = vector_add(lowering->flow, op->w[0], plus, &vector, err);
    if (!status)
        status = lower_row(lowering, op, kind, err);
    if (!status)
        lowering->flow->nodes[lowering->flow->n_nodes - 1].vector = vector;
    return status;
}

int32_t quantized_cell(struct lowering *lowering, const struct sharpi_op *op, int32_t value, uint32_t format,
                       int32_t *out, struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    int32_t *known = &lowering->act_cells[(uint64_t)value * FLOW_MAX_FORMATS + format];
    struct node *node;
    int32_t status;
    if (format == 0)
        *known = value;
    if (*known < 0) {
        status = cell_add(flow, flow->cells[value].rows,
                          flow->traits->format_row_bytes(format, flow->cells[value].width), known, err);
        if (status)
            return status;
        node = node_add(flow, NODE_QUANTIZE, op, err);
        if (!node)
            return SHARPI_ENOMEM;
        node->in[0] = value;
        node->out = *known;
        node->index = (int32_t)format;
    }
    *out = *known;
    return SHARPI_OK;
}

int32_t quantized_cells(struct lowering *lowering, const struct sharpi_op *op, int32_t value,
                        uint32_t formats, int32_t in[SHARPI_OP_MAX_INPUTS], uint32_t *n,
                        struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint32_t f = 0; f < FLOW_MAX_FORMATS && !status; f++) {
        if (formats >> f & 1)
            status = quantized_cell(lowering, op, value, f, &in[(*n)++], err);
    }
    return status;
}

/* The weight of a linear and its input in the weight's formats. */
static int32_t lower_linear_input(struct lowering *lowering, const struct sharpi_op *op, struct node *product,
                                  struct sharpi_error *err)
{
    uint32_t n = 0;
    int32_t status =
        lowering->flow->traits->weight(lowering->flow, op->w[0], &product->weight, &product->formats, err);
    return status ? status : quantized_cells(lowering, op, op->in[0], product->formats, product->in, &n, err);
}

static int32_t lower_product(struct lowering *lowering, const struct sharpi_op *op, int32_t residual,
                             int32_t out, struct sharpi_error *err)
{
    struct node *node, input = {.in = {-1, -1, -1, -1}};
    int32_t bias = -1;
    int32_t status = lower_linear_input(lowering, op, &input, err);
    if (!status && op->kind == SHARPI_OP_LINEAR)
        status = vector_add(lowering->flow, op->w[1], 0.0f, &bias, err);
    if (status)
        return status;
    node = node_add(lowering->flow, NODE_MATMUL, op, err);
    if (!node)
        return SHARPI_ENOMEM;
    memcpy(node->in, input.in, sizeof node->in);
    node->out = out;
    node->residual = residual;
    node->vector = bias;
    node->weight = input.weight;
    node->formats = input.formats;
    node->index = op->in[0];
    return SHARPI_OK;
}

static int32_t lower_linear(struct lowering *lowering, const struct sharpi_op *op, uint32_t number,
                            struct sharpi_error *err)
{
    struct node input = {.in = {-1, -1, -1, -1}};
    if (lowering->absorbed_by[number] >= 0) /* the product itself comes with the add */
        return lower_linear_input(lowering, op, &input, err);
    return lower_product(lowering, op, -1, op->out, err);
}

static int32_t lower_add(struct lowering *lowering, const struct sharpi_op *op, uint32_t number,
                         struct sharpi_error *err)
{
    for (uint32_t k = 0; k < 2; k++) {
        int32_t maker = lowering->graph->values[op->in[k]]->producer;
        if (maker >= 0 && lowering->absorbed_by[maker] == (int32_t)number)
            return lower_product(lowering, lowering->graph->ops[maker], op->in[1 - k], op->out, err);
    }
    return lower_row(lowering, op, NODE_ADD, err);
}

static int32_t lower_logits(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    const struct sharpi_logits_attr *attr = op->attr;
    struct node *node;
    int32_t logits, status = cell_add(flow, SHARPI_ROWS_SELECTED, 0, &logits, err);
    if (status)
        return status;
    flow->n_vocab = op->w[0]->ne[1];
    flow->logits_cell = logits;
    flow->cells[logits].place = PLACE_LOGITS;
    flow->cells[logits].stride = flow->n_vocab * sizeof(float);
    status = lower_product(lowering, op, -1, logits, err);
    if (status || !(attr->softcap > 0.0f))
        return status;
    node = node_add(flow, NODE_LOGIT_CAP, op, err);
    if (!node)
        return SHARPI_ENOMEM;
    node->in[0] = logits;
    return SHARPI_OK;
}

static int32_t lower_slice(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err)
{
    const struct sharpi_slice_attr *attr = op->attr;
    struct cell *cells = lowering->flow->cells;
    if (attr->first % VIEW_ALIGN)
        return lower_row(lowering, op, NODE_SLICE, err);
    cells[op->out].parent = cells[op->in[0]].parent;
    cells[op->out].column = cells[op->in[0]].column + attr->first;
    cells[cells[op->out].parent].has_views = 1;
    return SHARPI_OK;
}

static int32_t lower_rope(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    int32_t table, status = rope_add(flow, op->attr, op->w[0], &table, err);
    if (!status)
        status = lower_row(lowering, op, NODE_ROPE, err);
    if (!status)
        flow->nodes[flow->n_nodes - 1].in[1] = flow->ropes[table].cell;
    return status;
}

/* All tables are made in the first step, so that no layer waits for one. */
static int32_t lower_rope_tables(struct lowering *lowering, struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    for (uint32_t i = flow->request.first_op; i < flow->request.end_op; i++) {
        const struct sharpi_op *op = lowering->graph->ops[i];
        int32_t table, status;
        struct node *node;
        if (op->kind != SHARPI_OP_ROPE)
            continue;
        if ((status = rope_add(flow, op->attr, op->w[0], &table, err)))
            return status;
        if (flow->ropes[table].cell >= 0)
            continue;
        status = cell_add(flow, SHARPI_ROWS_TOKENS, flow->ropes[table].attr.n_rot * sizeof(float),
                          &flow->ropes[table].cell, err);
        node = status ? NULL : node_add(flow, NODE_ROPE_TABLE, op, err);
        if (!node)
            return SHARPI_ENOMEM;
        node->layer = lowering->graph->ops[flow->request.first_op]->layer;
        node->out = flow->ropes[table].cell;
        node->index = table;
    }
    return SHARPI_OK;
}

/* Remembers the page table and the window that an attention reads, once. */
static int32_t check_add(struct flow *flow, uint32_t kv_layer, uint32_t window, struct sharpi_error *err)
{
    const struct sharpi_kv_layer *kv = &flow->kv_layers[kv_layer];
    int32_t status;
    for (uint32_t i = 0; i < flow->n_checks; i++) {
        const struct sharpi_kv_layer *known = &flow->kv_layers[flow->checks[i].kv_layer];
        if (flow->checks[i].window == window && known->class_index == kv->class_index &&
            known->ring == kv->ring && known->n_pages == kv->n_pages)
            return SHARPI_OK;
    }
    status = flow_grow(flow, &flow->checks, flow->n_checks, &flow->cap_checks, sizeof *flow->checks, err);
    if (!status)
        flow->checks[flow->n_checks++] = (struct cache_check){kv_layer, window};
    return status;
}

static int32_t attention_add(struct flow *flow, const struct sharpi_op *op, int32_t *number,
                             struct sharpi_error *err)
{
    const struct sharpi_attention_attr *attr = op->attr;
    int32_t sinks, status;
    if (attr->kv_layer >= flow->n_kv_layers)
        return sharpi_fail(err, SHARPI_EBUG, "layer %u: attention reads the cache of layer %u of %u",
                           attr->layer, attr->kv_layer, flow->n_kv_layers);
    if ((status = vector_add(flow, op->w[0], 0.0f, &sinks, err)) ||
        (status = flow->traits->attention(flow, op, &flow->kv_layers[attr->kv_layer], sinks, number, err)))
        return status;
    return check_add(flow, attr->kv_layer, attr->window, err);
}

static int32_t lower_attention(struct lowering *lowering, const struct sharpi_op *op,
                               struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    struct node *node;
    int32_t number, status = attention_add(flow, op, &number, err);
    if (status)
        return status;
    if (op->in[1] >= 0 && !flow->traits->attention_appends) {
        node = node_add(flow, NODE_APPEND, op, err);
        if (!node)
            return SHARPI_ENOMEM;
        node->in[0] = op->in[1];
        node->in[1] = op->in[2];
        node->index = number;
    }
    node = node_add(flow, NODE_ATTENTION, op, err);
    if (!node)
        return SHARPI_ENOMEM;
    node->in[0] = op->in[0];
    if (flow->traits->attention_appends) {
        node->in[1] = op->in[1];
        node->in[2] = op->in[2];
    }
    node->out = op->out;
    node->index = number;
    return SHARPI_OK;
}

static int32_t lower_table(struct lowering *lowering, const struct sharpi_op *op, int32_t kind,
                           struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    int32_t status = SHARPI_OK, weight = -1;
    uint32_t formats;
    flow->needs_tokens |= kind == NODE_EMBED ? 1 : 2;
    flow->n_table_rows = op->w[0]->ne[1] < flow->n_table_rows ? op->w[0]->ne[1] : flow->n_table_rows;
    if (kind == NODE_ROW_GATHER && flow->traits->gather)
        return flow->traits->gather(flow, op, err);
    if (kind == NODE_EMBED && flow->traits->embeds_weights)
        status = flow->traits->weight(flow, op->w[0], &weight, &formats, err);
    if (!status)
        status = lower_row(lowering, op, kind, err);
    if (!status)
        flow->nodes[flow->n_nodes - 1].weight = weight;
    return status;
}

static int32_t lower_custom(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err)
{
    const struct sharpi_custom_attr *attr = op->attr;
    char line[160];
    lowering->flow->n_fallback_ops++;
    snprintf(line, sizeof line, "layer %d: %s runs as the architecture's reference function", op->layer,
             attr->name ? attr->name : "a custom op");
    lowering->flow->host->log(lowering->flow->host, SHARPI_LOG_WARN, lowering->flow->traits->topic, line);
    return lower_row(lowering, op, NODE_CUSTOM, err);
}

static int32_t lower_op(struct lowering *lowering, const struct sharpi_op *op, uint32_t number,
                        struct sharpi_error *err)
{
    switch (op->kind) {
    case SHARPI_OP_EMBED:
        return lower_table(lowering, op, NODE_EMBED, err);
    case SHARPI_OP_ROW_GATHER:
        return lower_table(lowering, op, NODE_ROW_GATHER, err);
    case SHARPI_OP_RMS_NORM: {
        const struct sharpi_rms_norm_attr *attr = op->attr;
        return lower_row_vector(lowering, op, NODE_RMS_NORM, attr->add_one ? 1.0f : 0.0f, err);
    }
    case SHARPI_OP_LINEAR:
        return lower_linear(lowering, op, number, err);
    case SHARPI_OP_ROPE:
        return lower_rope(lowering, op, err);
    case SHARPI_OP_ATTENTION:
        return lower_attention(lowering, op, err);
    case SHARPI_OP_GLU:
        return lower_row(lowering, op, NODE_GLU, err);
    case SHARPI_OP_MOE_FFN:
        return lowering->flow->traits->moe(lowering, op, err);
    case SHARPI_OP_ADD:
        return lower_add(lowering, op, number, err);
    case SHARPI_OP_MUL:
        return op->in[1] >= 0 ? lower_row(lowering, op, NODE_MUL, err)
                              : lower_row_vector(lowering, op, NODE_MUL_VECTOR, 0.0f, err);
    case SHARPI_OP_SCALE:
        return lower_row_vector(lowering, op, NODE_SCALE, 0.0f, err);
    case SHARPI_OP_SOFTCAP:
        return lower_row(lowering, op, NODE_SOFTCAP, err);
    case SHARPI_OP_SELECT_ROWS:
        return lower_row(lowering, op, NODE_SELECT, err);
    case SHARPI_OP_LOGITS:
        return lower_logits(lowering, op, err);
    case SHARPI_OP_TAP:
        return SHARPI_OK;
    case SHARPI_OP_CUSTOM:
        return lower_custom(lowering, op, err);
    case SHARPI_OP_SLICE:
        return lower_slice(lowering, op, err);
    case SHARPI_OP_ACTIVATION:
        return lower_row(lowering, op, NODE_ACTIVATION, err);
    default:
        return sharpi_fail(err, SHARPI_ENOTSUP, "%s does not know op kind %d", lowering->flow->traits->name,
                           op->kind);
    }
}

/* Copies of `value` to every place outside the program that wants it. */
static int32_t lower_copies(struct lowering *lowering, const struct sharpi_op *op, int32_t value,
                            const int32_t *wanted, uint32_t n_wanted, int32_t kind, struct sharpi_error *err)
{
    for (uint32_t i = 0; i < n_wanted; i++) {
        struct node *node;
        if (wanted[i] != value)
            continue;
        node = node_add(lowering->flow, kind, op, err);
        if (!node)
            return SHARPI_ENOMEM;
        node->in[0] = value;
        node->index = (int32_t)i;
    }
    return SHARPI_OK;
}

static int32_t lower_external(struct lowering *lowering, const struct sharpi_op *op, int32_t value,
                              struct sharpi_error *err)
{
    const struct sharpi_compile *request = &lowering->flow->request;
    int32_t status;
    if (value < 0 || !lowering->uses[value].is_external)
        return SHARPI_OK;
    status =
        lower_copies(lowering, op, value, request->carry_out, request->n_carry_out, NODE_COPY_CARRY, err);
    return status ? status
                  : lower_copies(lowering, op, value, request->taps, request->n_taps, NODE_COPY_TAP, err);
}

static int32_t lower_carried_in(struct lowering *lowering, struct sharpi_error *err)
{
    const struct sharpi_compile *request = &lowering->flow->request;
    const struct sharpi_op *first = lowering->graph->ops[request->first_op];
    for (uint32_t i = 0; i < request->n_carry_in; i++) {
        struct node *node = node_add(lowering->flow, NODE_COPY_IN, first, err);
        int32_t status;
        if (!node)
            return SHARPI_ENOMEM;
        node->out = request->carry_in[i];
        node->index = (int32_t)i;
        if ((status = lower_external(lowering, first, request->carry_in[i], err)))
            return status;
    }
    return SHARPI_OK;
}

/* Cells 0 .. n_values-1 are the graph's values. */
static int32_t lower_values(struct lowering *lowering, struct sharpi_error *err)
{
    struct flow *flow = lowering->flow;
    for (uint32_t i = 0; i < lowering->graph->n_values; i++) {
        const struct sharpi_value *value = lowering->graph->values[i];
        int32_t number, status = cell_add(flow, value->rows, value->width * UINT64_C(4), &number, err);
        if (status)
            return status;
        flow->cells[number].width = value->width;
        flow->cells[number].is_shared = 0;
        for (uint32_t f = 0; f < FLOW_MAX_FORMATS; f++)
            lowering->act_cells[(uint64_t)i * FLOW_MAX_FORMATS + f] = -1;
    }
    for (uint32_t i = 0; i < lowering->graph->n_ops; i++)
        lowering->absorbed_by[i] = -1;
    /* A select reads any row of its input while other threads may be at others. */
    for (uint32_t i = flow->request.first_op; i < flow->request.end_op; i++) {
        if (lowering->graph->ops[i]->kind == SHARPI_OP_SELECT_ROWS)
            flow->cells[lowering->graph->ops[i]->in[0]].is_kept = 1;
    }
    return SHARPI_OK;
}

static int32_t lower_all(struct lowering *lowering, struct sharpi_error *err)
{
    const struct sharpi_compile *request = &lowering->flow->request;
    int32_t status = lower_values(lowering, err);
    if (status)
        return status;
    find_uses(lowering);
    find_absorbed(lowering);
    status = lower_rope_tables(lowering, err);
    if (!status)
        status = lower_carried_in(lowering, err);
    for (uint32_t i = request->first_op; i < request->end_op && !status; i++) {
        const struct sharpi_op *op = lowering->graph->ops[i];
        status = lower_op(lowering, op, i, err);
        if (!status && op->kind != SHARPI_OP_TAP && op->kind != SHARPI_OP_LOGITS)
            status = lower_external(lowering, op, op->out, err);
    }
    return status;
}

int32_t flow_lower(struct flow *flow, struct sharpi_error *err)
{
    const struct sharpi_host *host = flow->host;
    const struct sharpi_graph_view *graph = flow->request.graph;
    struct lowering lowering = {.flow = flow, .graph = graph};
    int32_t status = SHARPI_ENOMEM;
    lowering.uses = flow_alloc(flow, graph->n_values, sizeof *lowering.uses, err);
    lowering.act_cells = flow_alloc(flow, graph->n_values, FLOW_MAX_FORMATS * sizeof(int32_t), err);
    lowering.absorbed_by = flow_alloc(flow, graph->n_ops, sizeof *lowering.absorbed_by, err);
    if (lowering.uses && lowering.act_cells && lowering.absorbed_by)
        status = lower_all(&lowering, err);
    if (lowering.uses)
        host->free(host, lowering.uses);
    if (lowering.act_cells)
        host->free(host, lowering.act_cells);
    if (lowering.absorbed_by)
        host->free(host, lowering.absorbed_by);
    return status;
}
