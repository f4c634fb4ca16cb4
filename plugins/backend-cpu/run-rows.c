/* Row steps: chains of row nodes, run row by row so that a row stays in the nearest caches from node to node.
 *
 * Many rows: each thread takes a stretch of rows of every chain. Few rows: (chain, row) pairs are dealt out one by one, so
 * that with one token q, k and v are worked on side by side. A row's result never depends on who computes it.
 */
#include "run.h"

/* Where one row node finds its rows. */
struct row {
    struct run *run;
    const struct node *node;
    uint8_t *local; /* this thread's scratch */
    uint32_t number;
};

static float *row_of(const struct row *row, int32_t cell)
{
    return (float *)(void *)cell_row(&row->run->program->flow.cells[cell], row->local, row->number);
}

static const float *vector_of(const struct row *row)
{
    return row->node->vector >= 0 ? row->run->program->flow.vectors[row->node->vector].data : NULL;
}

static uint32_t width_of(const struct row *row, int32_t cell)
{
    return row->run->program->flow.cells[cell].width;
}

/* Columns [first, first + width) of a table's row, from the file mapping. */
static void look_up(const struct row *row, uint64_t first, float scale)
{
    const struct sharpi_tensor *table = row->node->op->w[0];
    const struct sharpi_type_info *type = sharpi_type_info(table->type);
    const struct row_ops *ops = row->run->program->ops;
    uint64_t token = (uint64_t)row->run->batch->tokens[row->number];
    uint64_t row_bytes = sharpi_row_bytes(table->type, table->ne[0]);
    uint32_t width = width_of(row, row->node->out);
    float *out = row_of(row, row->node->out);
    dequant_row(table->type,
                (const uint8_t *)table->data + token * row_bytes +
                    first / type->block_elems * type->block_bytes,
                out, width);
    if (scale != 1.0f)
        ops->scale(out, out, scale, width);
}

static void run_embed(const struct row *row)
{
    const struct sharpi_embed_attr *attr = row->node->op->attr;
    const float *given = row->run->batch->embeddings;
    uint32_t width = width_of(row, row->node->out);
    if (given)
        memcpy(row_of(row, row->node->out), given + (uint64_t)row->number * width, width * sizeof(float));
    else
        look_up(row, 0, attr->scale);
}

static void run_rms_norm(const struct row *row)
{
    const struct sharpi_rms_norm_attr *attr = row->node->op->attr;
    const struct row_ops *ops = row->run->program->ops;
    const float *in = row_of(row, row->node->in[0]), *weight = vector_of(row);
    float *out = row_of(row, row->node->out);
    uint32_t width = width_of(row, row->node->out), group = attr->group ? attr->group : width;
    for (uint32_t i = 0; i < width; i += group)
        ops->rms_norm(out + i, in + i, weight, group, attr->eps);
}

static void run_rope_table(const struct row *row)
{
    const struct rope_table *table = &row->run->program->flow.ropes[row->node->index];
    uint32_t half = table->attr.n_rot / 2;
    float *cosines = row_of(row, row->node->out), *sines = cosines + half;
    double position = row->run->batch->positions[row->number];
    for (uint32_t j = 0; j < half; j++) {
        double angle = position * table->frequencies[j], sine, cosine;
        sincos(angle, &sine, &cosine);
        cosines[j] = (float)(cosine * (double)table->magnitude);
        sines[j] = (float)(sine * (double)table->magnitude);
    }
}

static void run_rope(const struct row *row)
{
    const struct sharpi_rope_attr *attr = row->node->op->attr;
    const struct row_ops *ops = row->run->program->ops;
    const float *in = row_of(row, row->node->in[0]), *table = row_of(row, row->node->in[1]);
    float *out = row_of(row, row->node->out);
    uint32_t rest = attr->head_dim - attr->n_rot;
    for (uint32_t h = 0; h < attr->n_heads; h++, in += attr->head_dim, out += attr->head_dim) {
        ops->rope(out, in, table, table + attr->n_rot / 2, attr->n_rot, attr->mode == SHARPI_ROPE_NEOX);
        if (rest && out != in)
            memcpy(out + attr->n_rot, in + attr->n_rot, rest * sizeof *out);
    }
}

static float limited(float x, float limit)
{
    return x > limit ? limit : x < -limit ? -limit : x;
}

static void run_glu(const struct row *row)
{
    const struct sharpi_glu_attr *attr = row->node->op->attr;
    const struct row_ops *ops = row->run->program->ops;
    const float *gate = row_of(row, row->node->in[0]), *up = row_of(row, row->node->in[1]);
    float *out = row_of(row, row->node->out), some_gate[256], some_up[256];
    uint32_t width = width_of(row, row->node->out);
    if (!(attr->clamp > 0.0f)) {
        ops->glu(out, gate, up, width, attr->activation);
        return;
    }
    for (uint32_t i = 0; i < width; i += 256) {
        uint32_t n = width - i < 256 ? width - i : 256;
        for (uint32_t k = 0; k < n; k++) {
            some_gate[k] = limited(gate[i + k], attr->clamp);
            some_up[k] = limited(up[i + k], attr->clamp);
        }
        ops->glu(out + i, some_gate, some_up, n, attr->activation);
    }
}

static void run_custom(const struct row *row)
{
    const struct sharpi_custom_attr *attr = row->node->op->attr;
    const float *in[SHARPI_OP_MAX_INPUTS] = {0};
    uint32_t in_width[SHARPI_OP_MAX_INPUTS] = {0};
    int32_t status, none = 0;
    for (uint32_t i = 0; i < SHARPI_OP_MAX_INPUTS; i++) {
        if (row->node->in[i] < 0)
            continue;
        in[i] = row_of(row, row->node->in[i]);
        in_width[i] = width_of(row, row->node->in[i]);
    }
    status = attr->compute(attr->user, row->node->op->w, in, in_width, row_of(row, row->node->out), 1,
                           row->run->batch->positions + row->number);
    if (status)
        __atomic_compare_exchange_n(&row->run->status, &none, status, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* One row of k and v, from wherever this thread has them. */
static void run_append(const struct row *row)
{
    struct attention_job job = row->run->program->attentions[row->node->index].job;
    job.k = row_of(row, row->node->in[0]);
    job.v = row_of(row, row->node->in[1]);
    job.k_stride = job.v_stride = 0;
    attention_append(&job, row->number, 1);
}

static void copy_row(float *dst, const float *src, uint32_t width)
{
    memcpy(dst, src, width * sizeof *dst);
}

/* Nodes that move rows without arithmetic. */
static void run_move(const struct row *row)
{
    const struct node *node = row->node;
    const struct sharpi_run_io *io = row->run->io;
    uint32_t width =
        width_of(row, node->kind == NODE_COPY_CARRY || node->kind == NODE_COPY_TAP ? node->in[0] : node->out);
    uint64_t at = (uint64_t)row->number * width;
    struct row other = *row;
    switch (node->kind) {
    case NODE_SELECT:
        other.number = (uint32_t)row->run->batch->logit_rows[row->number];
        copy_row(row_of(row, node->out), row_of(&other, node->in[0]), width);
        break;
    case NODE_SLICE: {
        const struct sharpi_slice_attr *attr = node->op->attr;
        copy_row(row_of(row, node->out), row_of(row, node->in[0]) + attr->first, width);
        break;
    }
    case NODE_COPY_IN:
        copy_row(row_of(row, node->out), io->carry_in[node->index] + at, width);
        break;
    case NODE_COPY_CARRY:
        copy_row(io->carry_out[node->index] + at, row_of(row, node->in[0]), width);
        break;
    default: /* NODE_COPY_TAP */
        copy_row(io->taps[node->index] + at, row_of(row, node->in[0]), width);
    }
}

/* Element by element. */
static void run_map(const struct row *row)
{
    const struct node *node = row->node;
    const struct row_ops *ops = row->run->program->ops;
    const float *in = row_of(row, node->in[0]);
    float *out = row_of(row, node->out);
    uint32_t width = width_of(row, node->out);
    switch (node->kind) {
    case NODE_ACTIVATION:
        ops->activate(out, in, width, ((const struct sharpi_activation_attr *)node->op->attr)->activation);
        break;
    case NODE_ADD:
        ops->add(out, in, row_of(row, node->in[1]), width);
        break;
    case NODE_MUL:
        ops->mul(out, in, row_of(row, node->in[1]), width);
        break;
    case NODE_MUL_VECTOR:
        ops->mul(out, in, vector_of(row), width);
        break;
    case NODE_SCALE: {
        const struct sharpi_scale_attr *attr = node->op->attr;
        ops->scale(out, in, vector_of(row) ? attr->scale * vector_of(row)[0] : attr->scale, width);
        break;
    }
    default: /* NODE_SOFTCAP */
        ops->softcap(out, in, ((const struct sharpi_softcap_attr *)node->op->attr)->cap, width);
    }
}

static void run_node(const struct row *row)
{
    const struct node *node = row->node;
    const struct sharpi_program *program = row->run->program;
    switch (node->kind) {
    case NODE_EMBED:
        run_embed(row);
        break;
    case NODE_ROW_GATHER: {
        const struct sharpi_row_gather_attr *attr = node->op->attr;
        look_up(row, attr->first, attr->scale);
        break;
    }
    case NODE_RMS_NORM:
        run_rms_norm(row);
        break;
    case NODE_ROPE_TABLE:
        run_rope_table(row);
        break;
    case NODE_ROPE:
        run_rope(row);
        break;
    case NODE_GLU:
        run_glu(row);
        break;
    case NODE_CUSTOM:
        run_custom(row);
        break;
    case NODE_QUANTIZE:
        act_quantize(program->device->isa, (enum act_format)node->index, row_of(row, node->out),
                     row_of(row, node->in[0]), width_of(row, node->in[0]));
        break;
    case NODE_APPEND:
        run_append(row);
        break;
    case NODE_ROUTE:
        route_row(node->op->attr, row_of(row, node->in[0]), vector_of(row), row_of(row, node->out));
        break;
    case NODE_COMBINE:
        combine_row(row->run, &program->mixtures[node->index], row_of(row, node->out), row->number);
        break;
    case NODE_SELECT:
    case NODE_SLICE:
    case NODE_COPY_IN:
    case NODE_COPY_CARRY:
    case NODE_COPY_TAP:
        run_move(row);
        break;
    default:
        run_map(row);
    }
}

static void run_chain(struct run *run, const struct chain *chain, uint8_t *local, uint64_t first,
                      uint64_t end)
{
    const struct sharpi_program *program = run->program;
    struct row row = {.run = run, .local = local};
    for (uint64_t r = first; r < end; r++) {
        row.number = (uint32_t)r;
        for (uint32_t i = 0; i < chain->n; i++) {
            row.node = &program->flow.nodes[program->flow.schedule[chain->first + i]];
            run_node(&row);
        }
    }
}

void run_row_step(struct run *run, const struct step *step, uint32_t ith, uint32_t nth)
{
    const struct sharpi_program *program = run->program;
    uint8_t *local = thread_scratch(program, ith);
    uint32_t dealt = 0;
    for (uint32_t c = 0; c < step->n_chains; c++) {
        const struct chain *chain = &program->flow.chains[step->first_chain + c];
        uint64_t n = run_rows(run, chain->rows), first, end;
        if (n < 2ull * nth) {
            for (uint64_t r = 0; r < n; r++) {
                if (dealt++ % nth == ith)
                    run_chain(run, chain, local, r, r + 1);
            }
            continue;
        }
        thread_share(n, ith, nth, &first, &end);
        run_chain(run, chain, local, first, end);
    }
}
