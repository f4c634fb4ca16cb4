/* Row steps as kernels/rows.h wants them: nodes become row ops, chains are dealt to launches.
 *
 * A row step has variants: when the product before it has done the glu already, when experts' rows lie in token order, when
 * attention has written its output's codes itself, and when it makes its heads itself.
 */
#include "program.h"

/* One step while its ops are put together. */
struct making {
    const struct sharpi_program *program;
    uint32_t variant;
    int32_t glu_in, glu_out;    /* cells of the glu that was dropped: the result lies in the first; -1 */
    int32_t codes_of, heads_of; /* the launch's */
    struct row_op ops[ROWS_MAX_OPS];
    struct rows_chain chains[ROWS_MAX_CHAINS];
    uint32_t n_ops, n_chains;
};

static struct row_operand operand(const struct making *making, int32_t number)
{
    const struct cell *cells = making->program->flow.cells, *cell;
    struct row_operand operand = {0};
    if (number >= 0 && number == making->glu_out)
        number = making->glu_in;
    cell = &cells[number];
    if (cell->place == PLACE_LOCAL) {
        operand.local = (uint32_t)cell->parent + 1;
        operand.column = cell->column;
    } else {
        operand.base = cell->base;
        operand.stride = (uint32_t)cell->stride;
    }
    return operand;
}

/* ---- Which formats a value is wanted in */

static int32_t is_wanted(const struct sharpi_program *program, const struct node *node, int32_t cell,
                         uint32_t format, uint32_t n_rows)
{
    if (node->kind == NODE_MATMUL) {
        for (uint32_t i = 0; i < SHARPI_OP_MAX_INPUTS; i++) {
            if (node->in[i] == cell)
                return matmul_act_format(&program->weights[node->weight].matrix, n_rows) == format;
        }
    } else if (node->kind == NODE_EXPERTS) {
        const struct mixture *m = &program->mixtures[node->index];
        int32_t sorted = experts_sorted(n_rows);
        return m->input[format] == cell && (matmul_grouped_act_format(&m->gate, sorted) == format ||
                                            matmul_grouped_act_format(&m->up, sorted) == format);
    }
    return 0;
}

/* The numbers of rows for which somebody wants the quantized cell; beyond 1024 rows nothing changes. */
static void find_range(const struct sharpi_program *program, int32_t cell, uint32_t format, struct row_op *op)
{
    uint32_t limit = program->flow.request.max_tokens < 1024 ? program->flow.request.max_tokens : 1024;
    op->min_rows = UINT32_MAX;
    op->max_rows = 1;
    for (uint32_t i = 0; i < program->flow.n_nodes; i++) {
        const struct node *node = &program->flow.nodes[i];
        if (node->kind != NODE_MATMUL && node->kind != NODE_EXPERTS)
            continue;
        if (node->in[0] != cell && node->in[1] != cell && node->in[2] != cell && node->in[3] != cell)
            continue;
        for (uint32_t n = 1; n <= limit; n++) {
            if (!is_wanted(program, node, cell, format, n))
                continue;
            op->min_rows = n < op->min_rows ? n : op->min_rows;
            op->max_rows = n > op->max_rows ? n : op->max_rows;
        }
    }
    if (op->max_rows == limit)
        op->max_rows = 0;
}

/* ---- Nodes */

static void fill_norm(const struct node *node, struct row_op *op)
{
    const struct sharpi_rms_norm_attr *attr = node->op->attr;
    op->kind = ROW_RMS_NORM;
    op->group = attr->group;
    op->eps = attr->eps;
}

static void fill_rope(const struct node *node, struct row_op *op)
{
    const struct sharpi_rope_attr *attr = node->op->attr;
    op->kind = ROW_ROPE;
    op->group = attr->head_dim;
    op->n_rot = attr->n_rot;
    op->rope_mode = attr->mode;
}

static void fill_rope_table(const struct sharpi_program *program, const struct node *node, struct row_op *op)
{
    const struct rope_table *table = &program->flow.ropes[node->index];
    op->kind = ROW_ROPE_TABLE;
    op->width = table->attr.n_rot;
    op->frequencies = table->frequencies;
    op->scale = table->magnitude;
}

static void fill_glu(const struct node *node, struct row_op *op)
{
    const struct sharpi_glu_attr *attr = node->op->attr;
    op->kind = ROW_GLU;
    op->activation = attr->activation;
    op->limit = attr->clamp;
}

static void fill_combine(const struct making *making, const struct node *node, struct row_op *op)
{
    const struct sharpi_program *program = making->program;
    const struct mixture *m = &program->mixtures[node->index];
    op->kind = ROW_COMBINE;
    op->n_used = m->attr->n_used;
    op->in[0].stride = (uint32_t)m->out_row;
    if (!(making->variant & VARIANT_UNSORTED))
        op->slots = (const int32_t *)(const void *)(program->scratch + program->layout.moe_slots);
    op->weights = (const float *)(const void *)(program->scratch + program->layout.moe_weights);
}

static void fill_kind(const struct making *making, const struct node *node, struct row_op *op)
{
    const struct sharpi_program *program = making->program;
    const struct sharpi_op *graph_op = node->op;
    switch (node->kind) {
    case NODE_EMBED:
        op->kind = ROW_EMBED;
        op->in[0].base = program->scratch + program->layout.embeddings;
        op->in[0].stride = (uint32_t)(program->embedding_width * sizeof(float));
        break;
    case NODE_RMS_NORM:
        fill_norm(node, op);
        break;
    case NODE_ROPE_TABLE:
        fill_rope_table(program, node, op);
        break;
    case NODE_ROPE:
        fill_rope(node, op);
        break;
    case NODE_GLU:
        fill_glu(node, op);
        break;
    case NODE_ACTIVATION:
        op->kind = ROW_ACTIVATION;
        op->activation = ((const struct sharpi_activation_attr *)graph_op->attr)->activation;
        break;
    case NODE_ADD:
        op->kind = ROW_ADD;
        break;
    case NODE_MUL:
        op->kind = ROW_MUL;
        break;
    case NODE_MUL_VECTOR:
        op->kind = ROW_MUL_VECTOR;
        break;
    case NODE_SCALE:
        op->kind = ROW_SCALE;
        op->scale = ((const struct sharpi_scale_attr *)graph_op->attr)->scale;
        break;
    case NODE_SOFTCAP:
        op->kind = ROW_SOFTCAP;
        op->limit = ((const struct sharpi_softcap_attr *)graph_op->attr)->cap;
        break;
    case NODE_SELECT:
        op->kind = ROW_SELECT;
        break;
    case NODE_SLICE:
        op->kind = ROW_COPY;
        op->in[0].base = (uint8_t *)op->in[0].base +
                         ((const struct sharpi_slice_attr *)graph_op->attr)->first * sizeof(float);
        break;
    case NODE_QUANTIZE:
        op->kind = ROW_QUANTIZE;
        op->width = program->flow.cells[node->in[0]].width;
        op->format = node->index;
        find_range(program, node->out, (uint32_t)node->index, op);
        break;
    default: /* NODE_COMBINE */
        fill_combine(making, node, op);
    }
}

/* What is left of a glu that the products did: nothing, or a copy to where its readers look. Returns 1 if nothing. */
static int32_t drop_glu(struct making *making, const struct node *node, struct row_op *op)
{
    const struct cell *cells = making->program->flow.cells;
    if (cells[node->out].place == PLACE_LOCAL) {
        making->glu_in = node->in[0];
        making->glu_out = node->out;
        return 1;
    }
    op->kind = ROW_COPY;
    op->in[1] = (struct row_operand){0};
    return cells[node->out].base == cells[node->in[0]].base;
}

/* The attention whose output this node brings into a format; -1. */
static int32_t attention_of(const struct sharpi_program *program, const struct node *node)
{
    for (uint32_t i = 0; i < program->n_attentions && node->kind == NODE_QUANTIZE; i++) {
        if (program->attentions[i].out == node->in[0] && program->attentions[i].codes >= 0)
            return (int32_t)i;
    }
    return -1;
}

/* Nothing to do in steps where attention makes its heads, or of so few rows that it writes codes: they are there, or are not wanted. */
static int32_t is_idle(const struct making *making, const struct node *node, const struct row_op *op)
{
    if (making->variant & VARIANT_HEADS_DONE && heads_of(making->program, node) == making->heads_of)
        return 1;
    return making->variant & VARIANT_CODES_DONE && attention_of(making->program, node) == making->codes_of &&
           (op->format == ACT_Q8 || op->min_rows > MATMUL_GEMV_ROWS);
}

static int32_t add_node(struct making *making, const struct node *node, int32_t is_done,
                        struct sharpi_error *err)
{
    const struct flow *flow = &making->program->flow;
    struct row_op *op = &making->ops[making->n_ops];
    if (making->n_ops == ROWS_MAX_OPS)
        return sharpi_fail(err, SHARPI_EBUG, "layer %d: a row step of more than %u ops", node->layer,
                           ROWS_MAX_OPS);
    memset(op, 0, sizeof *op);
    op->width = flow->cells[node->out].width;
    op->scale = 1.0f;
    op->out = operand(making, node->out);
    if (node->in[0] >= 0)
        op->in[0] = operand(making, node->in[0]);
    if (node->in[1] >= 0 && node->kind != NODE_COMBINE)
        op->in[1] = operand(making, node->in[1]);
    op->vector = node->vector >= 0 ? flow->vectors[node->vector].data : NULL;
    fill_kind(making, node, op);
    if ((is_done && drop_glu(making, node, op)) || is_idle(making, node, op))
        return SHARPI_OK;
    making->n_ops++;
    return SHARPI_OK;
}

/* ---- Steps */

static int32_t finish(const struct making *making, int32_t rows, uint32_t rows_factor, struct rows_step **out,
                      struct sharpi_error *err)
{
    struct rows_chain chains[ROWS_MAX_CHAINS];
    uint32_t n = 0;
    *out = NULL;
    for (uint32_t c = 0; c < making->n_chains; c++) {
        if (making->chains[c].n_ops)
            chains[n++] = making->chains[c];
    }
    if (n == 0)
        return SHARPI_OK;
    *out = making->program->device->host->alloc(making->program->device->host, rows_step_bytes(), 0);
    if (!*out)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a row step");
    return rows_step_init(*out, chains, n, rows, rows_factor, err);
}

/* The glu that product launch number `launch` of this program does when it can: `node` is it. */
static int32_t is_glu_of(const struct sharpi_program *program, int32_t launch, const struct node *node)
{
    return launch >= 0 && node->kind == NODE_GLU &&
           (const uint8_t *)program->launches[launch].product.part[0].out ==
               program->flow.cells[node->in[0]].base;
}

static int32_t add_chain(struct making *making, const struct chain *chain, int32_t glu_launch,
                         struct sharpi_error *err)
{
    const struct flow *flow = &making->program->flow;
    struct rows_chain *made = &making->chains[making->n_chains++];
    uint32_t first = making->n_ops;
    int32_t status = SHARPI_OK;
    made->ops = making->ops + first;
    for (uint32_t i = 0; i < chain->n && !status; i++) {
        const struct node *node = &flow->nodes[flow->schedule[chain->first + i]];
        int32_t is_done = making->variant & VARIANT_GLU_DONE && is_glu_of(making->program, glu_launch, node);
        status = add_node(making, node, is_done, err);
    }
    made->n_ops = making->n_ops - first;
    return status;
}

/* Which variants of these chains differ from the plain one (bits); *codes_of, *heads: the first attention whose codes or heads
 * they make, -1. */
static uint32_t find_variants(const struct sharpi_program *program, const struct chain *const *chains,
                              uint32_t n_chains, int32_t glu_launch, int32_t *codes_of, int32_t *heads)
{
    uint32_t variants = 0;
    *codes_of = *heads = -1;
    for (uint32_t c = 0; c < n_chains; c++) {
        for (uint32_t i = 0; i < chains[c]->n; i++) {
            const struct node *node = &program->flow.nodes[program->flow.schedule[chains[c]->first + i]];
            if (is_glu_of(program, glu_launch, node))
                variants |= VARIANT_GLU_DONE;
            if (node->kind == NODE_COMBINE)
                variants |= VARIANT_UNSORTED;
            if (*codes_of < 0)
                *codes_of = attention_of(program, node);
            if (*heads < 0)
                *heads = heads_of(program, node);
        }
    }
    return variants | (*codes_of >= 0 ? VARIANT_CODES_DONE : 0) | (*heads >= 0 ? VARIANT_HEADS_DONE : 0);
}

/* The look-up of token ids comes before the step that begins with its rows. */
static int32_t make_lookup(struct sharpi_program *program, const struct chain *const *chains,
                           uint32_t n_chains, struct sharpi_error *err)
{
    for (uint32_t c = 0; c < n_chains; c++) {
        for (uint32_t i = 0; i < chains[c]->n; i++) {
            const struct node *node = &program->flow.nodes[program->flow.schedule[chains[c]->first + i]];
            struct launch *launch;
            if (node->kind != NODE_EMBED)
                continue;
            launch = launch_add(program, LAUNCH_LOOKUP, node, err);
            if (!launch)
                return SHARPI_ENOMEM;
            launch->what = "the look-up of token ids";
            launch->index = node->weight;
            launch->scale = ((const struct sharpi_embed_attr *)node->op->attr)->scale;
        }
    }
    return SHARPI_OK;
}

static int32_t make_launch(struct sharpi_program *program, const struct chain *const *chains,
                           uint32_t n_chains, int32_t glu_launch, struct sharpi_error *err)
{
    const struct node *first = &program->flow.nodes[program->flow.schedule[chains[0]->first]];
    int32_t codes_of, heads;
    uint32_t variants = find_variants(program, chains, n_chains, glu_launch, &codes_of, &heads);
    int32_t status = make_lookup(program, chains, n_chains, err);
    struct launch *launch = status ? NULL : launch_add(program, LAUNCH_ROWS, first, err);
    struct making *making = launch ? flow_alloc(&program->flow, 1, sizeof *making, err) : NULL;
    if (!making)
        return status ? status : SHARPI_ENOMEM;
    for (uint32_t v = 0; v < MAX_VARIANTS && !status; v++) {
        if (v & ~variants)
            continue;
        memset(making, 0, sizeof *making);
        making->program = program;
        making->variant = v;
        making->glu_in = making->glu_out = -1;
        making->codes_of = codes_of;
        making->heads_of = heads;
        for (uint32_t c = 0; c < n_chains && !status; c++)
            status = add_chain(making, chains[c], glu_launch, err);
        if (!status)
            status = finish(making, chains[0]->rows, 1, &launch->steps[v], err);
    }
    program->device->host->free(program->device->host, making);
    if (status)
        return status;
    launch->what = "a row step";
    launch->rows = chains[0]->rows;
    launch->variants = variants;
    launch->glu_launch = variants & VARIANT_GLU_DONE ? glu_launch : -1;
    launch->codes_of = codes_of;
    launch->heads_of = heads;
    return SHARPI_OK;
}

int32_t rows_make(struct sharpi_program *program, const struct step *step, int32_t glu_launch,
                  struct sharpi_error *err)
{
    struct chain single = {.first = step->first, .n = step->n, .rows = step->rows};
    const struct chain *all = step->kind == STEP_ROWS ? program->flow.chains + step->first_chain : &single;
    uint32_t n_all = step->kind == STEP_ROWS ? step->n_chains : 1;
    int32_t status = SHARPI_OK;
    for (int32_t rows = SHARPI_ROWS_TOKENS; rows <= SHARPI_ROWS_SELECTED; rows++) {
        const struct chain *chains[ROWS_MAX_CHAINS];
        uint32_t n = 0;
        for (uint32_t c = 0; c < n_all && !status; c++) {
            if (all[c].rows == rows)
                chains[n++] = &all[c];
            if (n == ROWS_MAX_CHAINS) {
                status = make_launch(program, chains, n, glu_launch, err);
                n = 0;
            }
        }
        if (n && !status)
            status = make_launch(program, chains, n, glu_launch, err);
    }
    return status;
}

int32_t rows_make_cap(struct sharpi_program *program, struct launch *launch, float cap,
                      struct sharpi_error *err)
{
    const struct cell *logits = &program->flow.cells[program->flow.logits_cell];
    struct row_op op = {
        .kind = ROW_SOFTCAP, .width = (uint32_t)program->flow.n_vocab, .limit = cap, .scale = 1.0f};
    struct rows_chain chain = {&op, 1};
    op.in[0].base = op.out.base = logits->base;
    op.in[0].stride = op.out.stride = (uint32_t)logits->stride;
    launch->steps[0] = program->device->host->alloc(program->device->host, rows_step_bytes(), 0);
    if (!launch->steps[0])
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a row step");
    return rows_step_init(launch->steps[0], &chain, 1, SHARPI_ROWS_SELECTED, 1, err);
}

/* Glu (unless the products did it), then down's formats: unsorted for few rows, sorted for more. */
static uint32_t hidden_ops(const struct sharpi_program *program, const struct mixture *m, uint32_t glu_done,
                           struct row_op *ops)
{
    const struct cell *cells = program->flow.cells;
    struct row_operand hidden = {.base = cells[m->hidden].base, .stride = (uint32_t)m->hidden_row};
    uint32_t n = 0;
    if (!glu_done) {
        ops[n] = (struct row_op){
            .kind = ROW_GLU, .width = m->attr->n_ff, .activation = m->attr->activation, .scale = 1.0f};
        ops[n].in[0] = ops[n].out = hidden;
        ops[n].in[1] =
            (struct row_operand){.base = cells[m->hidden_up].base, .stride = (uint32_t)m->hidden_row};
        n++;
    }
    for (int32_t sorted = 0; sorted < 2; sorted++) {
        enum act_format format = matmul_grouped_act_format(&m->down, sorted);
        uint32_t same = format == matmul_grouped_act_format(&m->down, !sorted);
        if (format == ACT_F32 || m->hidden_act[format] < 0 || (same && sorted))
            continue;
        ops[n] = (struct row_op){.kind = ROW_QUANTIZE,
                                 .width = m->attr->n_ff,
                                 .format = (int32_t)format,
                                 .scale = 1.0f,
                                 .min_rows = sorted && !same ? MATMUL_GEMV_ROWS + 1 : 1,
                                 .max_rows = sorted || same ? 0 : MATMUL_GEMV_ROWS};
        ops[n].in[0] = hidden;
        ops[n].out = (struct row_operand){.base = cells[m->hidden_act[format]].base,
                                          .stride = (uint32_t)m->act_row[format]};
        n++;
    }
    return n;
}

int32_t rows_make_hidden(struct sharpi_program *program, struct launch *launch, const struct mixture *m,
                         struct sharpi_error *err)
{
    const struct sharpi_host *host = program->device->host;
    for (uint32_t glu_done = 0; glu_done < 2; glu_done++) {
        struct row_op ops[3];
        struct rows_chain chain = {ops, hidden_ops(program, m, glu_done, ops)};
        int32_t status;
        if (chain.n_ops == 0)
            continue;
        launch->steps[glu_done] = host->alloc(host, rows_step_bytes(), 0);
        if (!launch->steps[glu_done])
            return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a row step");
        status = rows_step_init(launch->steps[glu_done], &chain, 1, SHARPI_ROWS_TOKENS, m->attr->n_used, err);
        if (status)
            return status;
    }
    return SHARPI_OK;
}
