/* First stage of compiling: ops become nodes. See program.h.
 *
 * Invariant: nodes are in an order in which they could run; every cell that a node reads was made by an earlier node.
 */
#include "compile.h"

/* Columns of a slice that may be used where they lie: kernels want rows at multiples of 64 bytes. */
#define VIEW_ALIGN 16u

struct node *node_add(struct sharpi_program *program, int32_t kind, const struct sharpi_op *op,
                      struct sharpi_error *err)
{
    struct node *node;
    if (program_grow(program, &program->nodes, program->n_nodes, &program->cap_nodes, sizeof *node, err))
        return NULL;
    node = &program->nodes[program->n_nodes++];
    memset(node, 0, sizeof *node);
    node->kind = kind;
    node->op = op;
    node->layer = op->layer;
    for (uint32_t i = 0; i < SHARPI_OP_MAX_INPUTS; i++)
        node->in[i] = -1;
    node->out = node->residual = node->vector = node->weight = node->index = node->step = -1;
    return node;
}

int32_t cell_add(struct sharpi_program *program, int32_t rows, uint64_t row_bytes, int32_t *out,
                 struct sharpi_error *err)
{
    struct cell *cell;
    int32_t status =
        program_grow(program, &program->cells, program->n_cells, &program->cap_cells, sizeof *cell, err);
    if (status)
        return status;
    cell = &program->cells[program->n_cells];
    memset(cell, 0, sizeof *cell);
    cell->rows = rows;
    cell->stride = round64(row_bytes);
    cell->is_shared = 1;
    cell->parent = (int32_t)program->n_cells;
    *out = (int32_t)program->n_cells++;
    return SHARPI_OK;
}

/* A row node that does what the op says on cells of the same numbers as its values. */
static int32_t lower_row(struct lowering *lowering, const struct sharpi_op *op, int32_t kind,
                         struct sharpi_error *err)
{
    struct node *node = node_add(lowering->program, kind, op, err);
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
    int32_t vector, status = vector_add(lowering->program, op->w[0], plus, &vector, err);
    if (!status)
        status = lower_row(lowering, op, kind, err);
    if (!status)
        lowering->program->nodes[lowering->program->n_nodes - 1].vector = vector;
    return status;
}

int32_t quantized_cell(struct lowering *lowering, const struct sharpi_op *op, int32_t value,
                       enum act_format format, int32_t *out, struct sharpi_error *err)
{
    struct sharpi_program *program = lowering->program;
    int32_t *known = &lowering->act_cells[(uint64_t)value * ACT_COUNT + format];
    struct node *node;
    int32_t status;
    if (format == ACT_F32)
        *known = value;
    if (*known < 0) {
        status = cell_add(program, program->cells[value].rows,
                          act_row_bytes(format, program->cells[value].width), known, err);
        if (status)
            return status;
        node = node_add(program, NODE_QUANTIZE, op, err);
        if (!node)
            return SHARPI_ENOMEM;
        node->in[0] = value;
        node->out = *known;
        node->index = (int32_t)format;
    }
    *out = *known;
    return SHARPI_OK;
}

/* The input of a linear in its weight's format. */
static int32_t lower_linear_input(struct lowering *lowering, const struct sharpi_op *op, int32_t *weight,
                                  int32_t *input, struct sharpi_error *err)
{
    int32_t status = weight_add(lowering->program, op->w[0], weight, err);
    return status ? status
                  : quantized_cell(lowering, op, op->in[0],
                                   lowering->program->weights[*weight].matrices[0].act, input, err);
}

static int32_t lower_product(struct lowering *lowering, const struct sharpi_op *op, int32_t residual,
                             int32_t out, struct sharpi_error *err)
{
    struct sharpi_program *program = lowering->program;
    struct node *node;
    int32_t weight, input, bias = -1;
    int32_t status = lower_linear_input(lowering, op, &weight, &input, err);
    if (!status && op->kind == SHARPI_OP_LINEAR)
        status = vector_add(program, op->w[1], 0.0f, &bias, err);
    if (status)
        return status;
    node = node_add(program, NODE_MATMUL, op, err);
    if (!node)
        return SHARPI_ENOMEM;
    node->in[0] = input;
    node->out = out;
    node->residual = residual;
    node->vector = bias;
    node->weight = weight;
    node->index = op->in[0];
    return SHARPI_OK;
}

static int32_t lower_linear(struct lowering *lowering, const struct sharpi_op *op, uint32_t number,
                            struct sharpi_error *err)
{
    int32_t weight, input;
    if (lowering->absorbed_by[number] >= 0) /* the product itself comes with the add */
        return lower_linear_input(lowering, op, &weight, &input, err);
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
    struct sharpi_program *program = lowering->program;
    const struct sharpi_logits_attr *attr = op->attr;
    struct node *node;
    int32_t logits, status = cell_add(program, SHARPI_ROWS_SELECTED, 0, &logits, err);
    if (status)
        return status;
    program->n_vocab = op->w[0]->ne[1];
    program->cells[logits].place = PLACE_LOGITS;
    program->cells[logits].stride = program->n_vocab * sizeof(float);
    status = lower_product(lowering, op, -1, logits, err);
    if (status || !(attr->softcap > 0.0f))
        return status;
    node = node_add(program, NODE_LOGIT_CAP, op, err);
    if (!node)
        return SHARPI_ENOMEM;
    node->in[0] = logits;
    return SHARPI_OK;
}

static int32_t lower_slice(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err)
{
    const struct sharpi_slice_attr *attr = op->attr;
    struct cell *cells = lowering->program->cells;
    if (attr->first % VIEW_ALIGN)
        return lower_row(lowering, op, NODE_SLICE, err);
    cells[op->out].parent = cells[op->in[0]].parent;
    cells[op->out].column = cells[op->in[0]].column + attr->first;
    cells[cells[op->out].parent].has_views = 1;
    return SHARPI_OK;
}

static int32_t lower_rope(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err)
{
    struct sharpi_program *program = lowering->program;
    int32_t table, status = rope_add(program, op->attr, op->w[0], &table, err);
    if (!status)
        status = lower_row(lowering, op, NODE_ROPE, err);
    if (!status)
        program->nodes[program->n_nodes - 1].in[1] = program->ropes[table].cell;
    return status;
}

/* All tables are made in the first step, so that no layer waits for one. */
static int32_t lower_rope_tables(struct lowering *lowering, struct sharpi_error *err)
{
    struct sharpi_program *program = lowering->program;
    for (uint32_t i = program->request.first_op; i < program->request.end_op; i++) {
        const struct sharpi_op *op = lowering->graph->ops[i];
        int32_t table, status;
        struct node *node;
        if (op->kind != SHARPI_OP_ROPE)
            continue;
        if ((status = rope_add(program, op->attr, op->w[0], &table, err)))
            return status;
        if (program->ropes[table].cell >= 0)
            continue;
        status = cell_add(program, SHARPI_ROWS_TOKENS, program->ropes[table].attr.n_rot * sizeof(float),
                          &program->ropes[table].cell, err);
        node = status ? NULL : node_add(program, NODE_ROPE_TABLE, op, err);
        if (!node)
            return SHARPI_ENOMEM;
        node->layer = lowering->graph->ops[program->request.first_op]->layer;
        node->out = program->ropes[table].cell;
        node->index = table;
    }
    return SHARPI_OK;
}

/* The first attention of each page table and window checks the batch for all like it. */
static uint32_t checks_batch(const struct sharpi_program *program, const struct attention *a)
{
    for (uint32_t i = 0; i < program->n_attentions; i++) {
        const struct attention *b = &program->attentions[i];
        if (b != a && b->plan.window == a->plan.window && b->plan.kv.class_index == a->plan.kv.class_index &&
            b->plan.kv.ring == a->plan.kv.ring && b->plan.kv.n_pages == a->plan.kv.n_pages)
            return 0;
    }
    return 1;
}

static int32_t attention_add(struct sharpi_program *program, const struct sharpi_op *op,
                             struct sharpi_error *err)
{
    const struct sharpi_attention_attr *attr = op->attr;
    struct attention *a;
    uint64_t scratch = 0;
    int32_t status = program_grow(program, &program->attentions, program->n_attentions,
                                  &program->cap_attentions, sizeof *a, err);
    if (status)
        return status;
    if (attr->kv_layer >= program->n_kv_layers)
        return sharpi_fail(err, SHARPI_EBUG, "layer %u: attention reads the cache of layer %u of %u",
                           attr->layer, attr->kv_layer, program->n_kv_layers);
    a = &program->attentions[program->n_attentions];
    memset(a, 0, sizeof *a);
    status = attention_plan_init(&a->plan, program->device->isa, attr, &program->kv_layers[attr->kv_layer],
                                 program->device->n_threads, &scratch, err);
    if (!status)
        status = vector_add(program, op->w[0], 0.0f, &a->sinks, err);
    if (status)
        return status;
    a->kv_layer = attr->kv_layer;
    a->layer = attr->layer;
    a->q = op->in[0];
    a->k = op->in[1];
    a->v = op->in[2];
    a->out = op->out;
    program->n_attentions++;
    a->check = checks_batch(program, a);
    program->n_fallback_ops += a->plan.format == NULL;
    if (round64(scratch) > program->attention_bytes)
        program->attention_bytes = round64(scratch);
    return SHARPI_OK;
}

static int32_t lower_attention(struct lowering *lowering, const struct sharpi_op *op,
                               struct sharpi_error *err)
{
    struct sharpi_program *program = lowering->program;
    struct node *node;
    int32_t status = attention_add(program, op, err);
    if (status)
        return status;
    if (op->in[1] >= 0) {
        node = node_add(program, NODE_APPEND, op, err);
        if (!node)
            return SHARPI_ENOMEM;
        node->in[0] = op->in[1];
        node->in[1] = op->in[2];
        node->index = (int32_t)program->n_attentions - 1;
    }
    node = node_add(program, NODE_ATTENTION, op, err);
    if (!node)
        return SHARPI_ENOMEM;
    node->in[0] = op->in[0];
    node->out = op->out;
    node->index = (int32_t)program->n_attentions - 1;
    return SHARPI_OK;
}

static int32_t lower_table(struct lowering *lowering, const struct sharpi_op *op, int32_t kind,
                           struct sharpi_error *err)
{
    struct sharpi_program *program = lowering->program;
    program->needs_tokens |= kind == NODE_EMBED ? 1 : 2;
    program->n_table_rows = op->w[0]->ne[1] < program->n_table_rows ? op->w[0]->ne[1] : program->n_table_rows;
    return lower_row(lowering, op, kind, err);
}

static int32_t lower_custom(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err)
{
    const struct sharpi_custom_attr *attr = op->attr;
    char line[160];
    lowering->program->n_fallback_ops++;
    snprintf(line, sizeof line, "layer %d: %s runs as the architecture's reference function", op->layer,
             attr->name ? attr->name : "a custom op");
    lowering->program->host->log(lowering->program->host, SHARPI_LOG_WARN, "backend-cpu", line);
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
        return lower_moe(lowering, op, err);
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
        return sharpi_fail(err, SHARPI_ENOTSUP, "the CPU backend does not know op kind %d", op->kind);
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
        node = node_add(lowering->program, kind, op, err);
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
    const struct sharpi_compile *request = &lowering->program->request;
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
    const struct sharpi_compile *request = &lowering->program->request;
    const struct sharpi_op *first = lowering->graph->ops[request->first_op];
    for (uint32_t i = 0; i < request->n_carry_in; i++) {
        struct node *node = node_add(lowering->program, NODE_COPY_IN, first, err);
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
    struct sharpi_program *program = lowering->program;
    for (uint32_t i = 0; i < lowering->graph->n_values; i++) {
        const struct sharpi_value *value = lowering->graph->values[i];
        int32_t number, status = cell_add(program, value->rows, value->width * UINT64_C(4), &number, err);
        if (status)
            return status;
        program->cells[number].width = value->width;
        program->cells[number].is_shared = 0;
        for (uint32_t f = 0; f < ACT_COUNT; f++)
            lowering->act_cells[(uint64_t)i * ACT_COUNT + f] = -1;
    }
    for (uint32_t i = 0; i < lowering->graph->n_ops; i++)
        lowering->absorbed_by[i] = -1;
    /* A select reads any row of its input while other threads may be at others. */
    for (uint32_t i = program->request.first_op; i < program->request.end_op; i++) {
        if (lowering->graph->ops[i]->kind == SHARPI_OP_SELECT_ROWS)
            program->cells[lowering->graph->ops[i]->in[0]].is_kept = 1;
    }
    return SHARPI_OK;
}

static int32_t lower_all(struct lowering *lowering, struct sharpi_error *err)
{
    const struct sharpi_compile *request = &lowering->program->request;
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

int32_t compile_lower(struct sharpi_program *program, struct sharpi_error *err)
{
    const struct sharpi_host *host = program->host;
    const struct sharpi_graph_view *graph = program->request.graph;
    struct lowering lowering = {.program = program, .graph = graph};
    int32_t status = SHARPI_ENOMEM;
    lowering.uses = program_alloc(program, graph->n_values, sizeof *lowering.uses, err);
    lowering.act_cells = program_alloc(program, graph->n_values, ACT_COUNT * sizeof(int32_t), err);
    lowering.absorbed_by = program_alloc(program, graph->n_ops, sizeof *lowering.absorbed_by, err);
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
