/* Where everything lies: one block of weight memory (matrices, then vectors and rope frequencies) and one of scratch (cells,
 * workspaces, inputs), which it may have in common with other programs. Exact: load allocates these two blocks and nothing else.
 */
#include "program.h"

/* Gives out `n_bytes` at a multiple of 256, as matrices and vector loads want it. */
static int32_t give_out(uint64_t *end, uint64_t n_bytes, uint64_t *offset, struct sharpi_error *err)
{
    *offset = *end;
    if (n_bytes > UINT64_MAX / 8 || *end > UINT64_MAX / 8)
        return sharpi_fail(err, SHARPI_EINVAL, "the model adds up to more than any memory");
    *end += (n_bytes + 255) / 256 * 256;
    return SHARPI_OK;
}

static int32_t lay_out_weights(struct sharpi_program *program, struct sharpi_error *err)
{
    uint64_t end = 0;
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < program->n_weights && !status; i++)
        status = give_out(&end, program->weights[i].n_bytes, &program->weights[i].offset, err);
    program->vector_offset = end;
    if (!status)
        status = vectors_lay_out(&program->flow, &end, err);
    program->weight_bytes = end;
    return status;
}

/* The largest scratch of any attention, for decode and for prompts. */
static uint64_t attention_bytes(const struct sharpi_program *program)
{
    const struct sharpi_compile *request = &program->flow.request;
    uint64_t most = 0;
    for (uint32_t i = 0; i < program->n_attentions; i++) {
        struct sharpi_kv_cuda_args args = program->attentions[i].args;
        uint64_t bytes;
        args.max_tokens = request->max_tokens;
        args.max_seqs = request->max_seqs;
        args.max_length = program->max_length;
        args.max_seq_tokens = request->max_tokens;
        bytes = program->attentions[i].kernels->scratch_bytes(&args);
        most = bytes > most ? bytes : most;
        args.max_tokens = request->max_seqs < request->max_tokens ? request->max_seqs : request->max_tokens;
        args.max_seq_tokens = 1;
        bytes = program->attentions[i].kernels->scratch_bytes(&args);
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* The largest workspace of any product of the graph, be it in this program or in another part of the model. */
static uint64_t matmul_bytes(const struct sharpi_program *program)
{
    const struct sharpi_compile *request = &program->flow.request;
    uint64_t most = 0;
    for (uint32_t i = 0; i < request->graph->n_ops * SHARPI_OP_MAX_WEIGHTS; i++) {
        const struct sharpi_tensor *tensor =
            request->graph->ops[i / SHARPI_OP_MAX_WEIGHTS]->w[i % SHARPI_OP_MAX_WEIGHTS];
        struct cuda_matrix matrix = {.type = tensor ? tensor->type : SHARPI_TYPE_F32};
        uint64_t rows = request->max_tokens, bytes;
        if (!tensor || tensor->ne[1] < 2)
            continue;
        if (tensor->ne[2] > 1)
            rows *= MOE_MAX_USED;
        bytes = matmul_workspace_bytes(program->device->matmul, &matrix, (uint32_t)rows);
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* Memory that all mixtures share, from *end on. */
static int32_t lay_out_moe(struct sharpi_program *program, uint64_t *end, struct sharpi_error *err)
{
    struct layout *l = &program->layout;
    uint64_t pairs = 0, experts = 0, workspace = 0;
    int32_t status;
    for (uint32_t i = 0; i < program->n_mixtures; i++) {
        const struct sharpi_moe_attr *attr = program->mixtures[i].attr;
        uint64_t n = (uint64_t)program->flow.request.max_tokens * attr->n_used;
        uint64_t bytes = moe_workspace_bytes(attr->n_experts, program->flow.request.max_tokens);
        pairs = n > pairs ? n : pairs;
        experts = attr->n_experts > experts ? attr->n_experts : experts;
        workspace = bytes > workspace ? bytes : workspace;
    }
    if (!pairs)
        return SHARPI_OK;
    if ((status = give_out(end, pairs * 4, &l->moe_experts, err)) ||
        (status = give_out(end, pairs * 4, &l->moe_weights, err)) ||
        (status = give_out(end, pairs * 4, &l->moe_slots, err)) ||
        (status = give_out(end, pairs * 4, &l->moe_source, err)) ||
        (status = give_out(end, (experts + 1) * 4, &l->moe_starts, err)))
        return status;
    l->moe_bytes = workspace;
    return give_out(end, workspace, &l->moe_workspace, err);
}

/* Raw rows among the inputs. */
static int32_t lay_out_gather(const struct sharpi_program *program, struct gather *g, uint64_t *end,
                              struct sharpi_error *err)
{
    const uint32_t rows = program->flow.request.max_tokens;
    int32_t status = matrix_init(&g->matrix, g->table->type, g->end - g->first, rows, 1, NULL, err);
    g->row_bytes = sharpi_row_bytes(g->table->type, g->end - g->first);
    return status ? status : give_out(end, rows * g->row_bytes, &g->raw, err);
}

/* What they become. */
static int32_t lay_out_gathered(const struct sharpi_program *program, uint64_t *end, struct sharpi_error *err)
{
    const uint64_t rows = program->flow.request.max_tokens;
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < program->n_gathers && !status; i++) {
        struct gather *g = &program->gathers[i];
        status = give_out(end, matrix_device_bytes(g->matrix.type, g->matrix.n_in, rows, 1), &g->packed, err);
        if (!status)
            status = give_out(end, rows * (g->end - g->first) * sizeof(float), &g->rows, err);
    }
    return status;
}

/* The inputs: [head, tokens, positions, seqs_of, logit_rows, seqs, gathered rows], offsets from their beginning. */
static int32_t lay_out_inputs(struct sharpi_program *program, struct sharpi_error *err)
{
    const struct sharpi_compile *request = &program->flow.request;
    struct layout *l = &program->layout;
    uint64_t end = 0;
    int32_t status;
    if ((status = give_out(&end, sizeof(struct step_head), &l->step, err)) ||
        (status = give_out(&end, request->max_tokens * UINT64_C(4), &l->tokens, err)) ||
        (status = give_out(&end, request->max_tokens * UINT64_C(4), &l->positions, err)) ||
        (status = give_out(&end, request->max_tokens * UINT64_C(4), &l->seqs_of, err)) ||
        (status = give_out(&end, request->max_logits * UINT64_C(4), &l->logit_rows, err)) ||
        (status = give_out(&end, request->max_seqs * sizeof(struct sharpi_batch_seq), &l->seqs, err)))
        return status;
    l->gathers = end;
    for (uint32_t i = 0; i < program->n_gathers; i++) {
        if ((status = lay_out_gather(program, &program->gathers[i], &end, err)))
            return status;
    }
    l->input_bytes = end;
    return SHARPI_OK;
}

/* Page tables, one after the other: [max_seqs, page_stride]. */
static int32_t lay_out_pages(struct sharpi_program *program, struct sharpi_error *err)
{
    struct layout *l = &program->layout;
    uint64_t end = 0;
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < program->flow.n_kv_layers; i++) {
        const struct sharpi_kv_layer *kv = &program->flow.kv_layers[i];
        if (kv->class_index < program->n_classes)
            l->page_stride[kv->class_index] = kv->ring / SHARPI_KV_PAGE;
    }
    for (uint32_t c = 0; c < program->n_classes && !status; c++)
        status = give_out(&end, (uint64_t)program->flow.request.max_seqs * l->page_stride[c] * 4,
                          &l->class_pages[c], err);
    l->page_bytes = end;
    return status;
}

uint64_t best_bytes(uint64_t n_rows, uint64_t k)
{
    return n_rows * (2 * k + 1) * 4;
}

/* Best candidates of the rows of logits: [ids, logits, sums], and what finding them needs. */
static int32_t lay_out_best(struct sharpi_program *program, uint64_t rows, uint64_t *end,
                            struct sharpi_error *err)
{
    struct layout *l = &program->layout;
    int32_t status;
    if (!program->flow.n_vocab)
        return SHARPI_OK;
    if ((status = give_out(end, best_bytes(rows, TOPK_MAX), &l->best, err)))
        return status;
    return give_out(end, topk_workspace_bytes((uint32_t)program->flow.n_vocab, (uint32_t)rows), &l->topk,
                    err);
}

/* What stays from run to run, see struct layout; `attention` is its end, and begins with counters. */
static int32_t lay_out_head(struct sharpi_program *program, uint64_t *end, struct sharpi_error *err)
{
    struct layout *l = &program->layout;
    int32_t status;
    l->attention_bytes = attention_bytes(program);
    if (l->attention_bytes < SHARPI_CUDA_COUNTER_BYTES)
        l->attention_bytes = SHARPI_CUDA_COUNTER_BYTES;
    l->matmul_bytes = matmul_bytes(program);
    if ((status = give_out(end, sequence_memory_bytes(program->device->matmul), &l->sequence, err)) ||
        (status = give_out(end, (MAX_GRAPH_ROWS + 1) * 4, &l->counts, err)) ||
        (status = give_out(end, l->matmul_bytes, &l->matmul, err)) ||
        (status = give_out(end, l->page_bytes, &l->pages, err)))
        return status;
    return give_out(end, l->attention_bytes, &l->attention, err);
}

int32_t program_lay_out(struct sharpi_program *program, struct sharpi_error *err)
{
    const struct sharpi_compile *request = &program->flow.request;
    struct layout *l = &program->layout;
    uint64_t end = 0, rows = program->logits_rows;
    int32_t status;
    if ((status = lay_out_weights(program, err)) || (status = lay_out_inputs(program, err)) ||
        (status = lay_out_pages(program, err)) || (status = lay_out_head(program, &end, err)) ||
        (status = give_out(&end, program->flow.arena_bytes, &l->arena, err)) ||
        (status = give_out(&end, l->input_bytes, &l->inputs, err)) ||
        (status = give_out(&end, request->max_tokens * program->embedding_width * 4, &l->embeddings, err)) ||
        (status = give_out(&end, program->flow.n_vocab ? rows * round64(program->flow.n_vocab * 4) : 0,
                           &l->logits, err)) ||
        (status = lay_out_best(program, rows, &end, err)) ||
        (status = lay_out_gathered(program, &end, err)) || (status = lay_out_moe(program, &end, err)))
        return status;
    l->n_bytes = end > upload_bytes(program) ? end : upload_bytes(program);
    return SHARPI_OK;
}

/* ---- Addresses */

static void point_cells(struct sharpi_program *program)
{
    const struct layout *l = &program->layout;
    struct flow *flow = &program->flow;
    for (uint32_t i = 0; i < program->n_gathers; i++)
        program->gathers[i].matrix.data = program->scratch + program->gathers[i].packed;
    for (uint32_t i = 0; i < program->n_gathered; i++) {
        const struct gather *g = &program->gathers[program->gathered[i].gather];
        struct cell *cell = &flow->cells[program->gathered[i].cell];
        cell->offset = g->rows + (program->gathered[i].first - g->first) * sizeof(float);
        cell->stride = (g->end - g->first) * sizeof(float);
    }
    for (uint32_t i = 0; i < flow->n_cells; i++) {
        struct cell *cell = &flow->cells[i];
        const struct cell *root = &flow->cells[cell->parent];
        uint64_t column = (uint64_t)cell->column * sizeof(float);
        if (cell->place == PLACE_ARENA)
            cell->base = program->scratch + l->arena + cell->offset;
        else if (cell->place == PLACE_INPUT)
            cell->base = program->scratch + root->offset + column;
        else if (cell->place == PLACE_LOGITS)
            cell->base = program->scratch + l->logits;
        if (cell->place == PLACE_INPUT)
            cell->stride = root->stride;
    }
}

static void point_mixture(struct sharpi_program *program, struct mixture *m)
{
    m->gate = program->weights[m->gate_weight].matrix;
    m->up = program->weights[m->up_weight].matrix;
    m->down = program->weights[m->down_weight].matrix;
    if (m->gate_weight == m->up_weight) {
        m->up = matrix_rows(&m->up, m->attr->n_ff, m->attr->n_ff);
        m->gate = matrix_rows(&m->gate, 0, m->attr->n_ff);
    }
}

static const float *cell_floats(const struct sharpi_program *program, int32_t cell)
{
    return cell >= 0 ? (const float *)(const void *)program->flow.cells[cell].base : NULL;
}

static uint64_t cell_stride(const struct sharpi_program *program, int32_t cell)
{
    return cell >= 0 ? program->flow.cells[cell].stride / sizeof(float) : 0;
}

static void point_heads(const struct sharpi_program *program, struct attention *a)
{
    const struct flow *flow = &program->flow;
    for (uint32_t i = 0; i < 3 && a->can_make_heads; i++) {
        struct sharpi_kv_cuda_heads *heads = &a->args.heads[i];
        if (a->paths[i].norm >= 0) {
            const struct node *norm = &flow->nodes[a->paths[i].norm];
            heads->has_norm = 1;
            heads->eps = ((const struct sharpi_rms_norm_attr *)norm->op->attr)->eps;
            heads->weight = norm->vector >= 0 ? flow->vectors[norm->vector].data : NULL;
        }
        if (a->paths[i].rope >= 0) {
            const struct node *rope = &flow->nodes[a->paths[i].rope];
            heads->turns = 1;
            a->args.is_neox = ((const struct sharpi_rope_attr *)rope->op->attr)->mode == SHARPI_ROPE_NEOX;
            a->args.table = cell_floats(program, rope->in[1]);
            a->args.table_stride = cell_stride(program, rope->in[1]);
        }
    }
}

static void point_attention(const struct sharpi_program *program, struct attention *a)
{
    const struct sharpi_kv_layer *kv = &program->flow.kv_layers[a->kv_layer];
    const struct layout *l = &program->layout;
    uint8_t *inputs = program->scratch + l->inputs;
    a->args.page_stride = l->page_stride[kv->class_index];
    a->args.pages =
        (const int32_t *)(const void *)(program->scratch + l->pages + l->class_pages[kv->class_index]);
    a->args.k_cache = kv->k;
    a->args.v_cache = kv->v;
    a->args.step = (const struct sharpi_cuda_step *)(const void *)(inputs + l->step);
    a->args.seqs = (const struct sharpi_batch_seq *)(const void *)(inputs + l->seqs);
    a->args.seqs_of = (const int32_t *)(const void *)(inputs + l->seqs_of);
    a->args.q = cell_floats(program, a->q);
    a->args.k = cell_floats(program, a->k);
    a->args.v = cell_floats(program, a->v);
    a->args.sinks = a->sinks >= 0 ? program->flow.vectors[a->sinks].data : NULL;
    a->args.out = (float *)(uintptr_t)cell_floats(program, a->out);
    a->args.q_stride = cell_stride(program, a->q);
    a->args.k_stride = cell_stride(program, a->k);
    a->args.v_stride = cell_stride(program, a->v);
    a->args.out_stride = cell_stride(program, a->out);
    a->args.max_length = program->max_length;
    a->args.scratch = program->scratch + l->attention;
    point_heads(program, a);
}

void program_point(struct sharpi_program *program)
{
    point_cells(program);
    for (uint32_t i = 0; i < program->n_weights; i++)
        program->weights[i].matrix.data = program->weight_memory + program->weights[i].offset;
    vectors_point(&program->flow, program->weight_memory);
    for (uint32_t i = 0; i < program->n_mixtures; i++)
        point_mixture(program, &program->mixtures[i]);
    for (uint32_t i = 0; i < program->n_attentions; i++)
        point_attention(program, &program->attentions[i]);
}
