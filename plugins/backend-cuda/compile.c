/* Compiling for a GPU: the data flow with this backend's weights, attentions and mixtures, then its memory, then all launches
 * once on paper. Arithmetic only: the device is not touched.
 */
#include "program.h"

/* ---- What the device can do */

static int32_t check_matrix(const struct sharpi_tensor *tensor, struct sharpi_error *err)
{
    struct cuda_matrix matrix;
    return tensor ? matrix_init(&matrix, tensor->type, tensor->ne[0], tensor->ne[1], (uint32_t)tensor->ne[2],
                                NULL, err)
                  : SHARPI_OK;
}

static int32_t check_experts(const struct sharpi_op *op, struct sharpi_error *err)
{
    static const int32_t matrices[] = {SHARPI_MOE_ROUTER, SHARPI_MOE_GATE, SHARPI_MOE_UP, SHARPI_MOE_GATE_UP,
                                       SHARPI_MOE_DOWN};
    const struct sharpi_moe_attr *attr = op->attr;
    int32_t status = SHARPI_OK;
    if (attr->n_experts > MOE_MAX_EXPERTS || attr->n_used > MOE_MAX_USED)
        return sharpi_fail(err, SHARPI_ENOTSUP, "layer %d: %u of %u experts; the CUDA backend does %u of %u",
                           op->layer, attr->n_used, attr->n_experts, MOE_MAX_USED, MOE_MAX_EXPERTS);
    if (op->w[SHARPI_MOE_GATE_UP] && attr->n_ff % MATMUL_GROUP)
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "layer %d: experts of %u columns with gate and up in one tensor; the CUDA backend "
                           "wants a multiple of %u",
                           op->layer, attr->n_ff, MATMUL_GROUP);
    for (uint32_t i = 0; i < sizeof matrices / sizeof *matrices && !status; i++)
        status = check_matrix(op->w[matrices[i]], err);
    return status;
}

static const struct sharpi_kv_cuda *kernels_of(const struct sharpi_kv_layer *kv)
{
    const struct sharpi_kv_cuda *kernels;
    if (!SHARPI_HAS(kv->kv, kernels))
        return NULL;
    kernels = kv->kv->kernels(kv->kv_ctx, "cuda", "sm_80");
    return kernels && SHARPI_HAS(kernels, check) && SHARPI_HAS(kernels, scratch_bytes) &&
                   SHARPI_HAS(kernels, attention)
               ? kernels
               : NULL;
}

static int32_t check_attention(const struct sharpi_attention_attr *attr, const struct sharpi_kv_layer *kv,
                               const struct sharpi_kv_cuda **kernels, struct sharpi_error *err)
{
    if (!kv || !kv->kv)
        return sharpi_fail(err, SHARPI_EBUG, "layer %u: no cache format was given for attention",
                           attr->layer);
    if (!attr->n_kv_heads || attr->n_heads % attr->n_kv_heads || kv->n_kv_heads != attr->n_kv_heads ||
        kv->head_dim != attr->head_dim || !kv->ring || kv->ring % SHARPI_KV_PAGE)
        return sharpi_fail(
            err, SHARPI_EINVAL,
            "attention of layer %u has %u heads over %u KV heads of %u, its cache (layer %u) %u of %u "
            "and %u positions",
            attr->layer, attr->n_heads, attr->n_kv_heads, attr->head_dim, attr->kv_layer, kv->n_kv_heads,
            kv->head_dim, kv->ring);
    *kernels = kernels_of(kv);
    if (!*kernels)
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "cache format %s has no kernels for CUDA; use another format, such as kv = bf16, or "
            "the CPU backend",
            kv->kv->name);
    return (*kernels)->check(attr->layer, attr->n_heads, attr->n_kv_heads, attr->head_dim, err);
}

static int32_t check_logits(const struct sharpi_tensor *tensor, struct sharpi_error *err)
{
    if (tensor->ne[1] > TOPK_MAX_VOCAB)
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "%llu logits are too many to choose from on a GPU: at most %u",
                           (unsigned long long)tensor->ne[1], TOPK_MAX_VOCAB);
    return check_matrix(tensor, err);
}

int32_t cuda_supports(void *ctx, const struct sharpi_graph_view *graph, const struct sharpi_op *op,
                      const struct sharpi_kv_layer *kv, struct sharpi_error *err)
{
    const struct sharpi_kv_cuda *kernels;
    (void)ctx;
    (void)graph;
    switch (op->kind) {
    case SHARPI_OP_EMBED:
    case SHARPI_OP_ROW_GATHER:
    case SHARPI_OP_LINEAR:
        return check_matrix(op->w[0], err);
    case SHARPI_OP_LOGITS:
        return check_logits(op->w[0], err);
    case SHARPI_OP_MOE_FFN:
        return check_experts(op, err);
    case SHARPI_OP_ATTENTION:
        return check_attention(op->attr, kv, &kernels, err);
    case SHARPI_OP_RMS_NORM:
    case SHARPI_OP_ROPE:
    case SHARPI_OP_GLU:
    case SHARPI_OP_ADD:
    case SHARPI_OP_MUL:
    case SHARPI_OP_SCALE:
    case SHARPI_OP_SOFTCAP:
    case SHARPI_OP_SELECT_ROWS:
    case SHARPI_OP_TAP:
    case SHARPI_OP_SLICE:
    case SHARPI_OP_ACTIVATION:
        return SHARPI_OK;
    case SHARPI_OP_CUSTOM:
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "layer %d: %s is the architecture's own op, which runs on the CPU only", op->layer,
                           ((const struct sharpi_custom_attr *)op->attr)->name);
    default:
        return sharpi_fail(err, SHARPI_ENOTSUP, "the CUDA backend does not know op kind %d", op->kind);
    }
}

/* ---- Traits */

static uint64_t format_row_bytes(uint32_t format, uint64_t n)
{
    return round64(act_row_bytes((enum act_format)format, n));
}

uint32_t formats_of(const struct cuda_matrix *matrix, uint64_t max_rows)
{
    uint32_t formats = 0;
    for (uint64_t n = 1; n <= max_rows && n <= 1024; n++)
        formats |= 1u << matmul_act_format(matrix, (uint32_t)n);
    return formats | 1u << matmul_act_format(matrix, (uint32_t)max_rows);
}

int32_t weight_add(struct flow *flow, const struct sharpi_tensor *tensor, int32_t *out, uint32_t *formats,
                   struct sharpi_error *err)
{
    struct sharpi_program *program = program_of(flow);
    struct weight *w;
    uint32_t i = 0;
    int32_t status;
    while (i < program->n_weights && program->weights[i].tensor != tensor)
        i++;
    if (i == program->n_weights) {
        status = flow_grow(flow, &program->weights, i, &program->cap_weights, sizeof *w, err);
        if (status)
            return status;
        w = &program->weights[i];
        memset(w, 0, sizeof *w);
        w->tensor = tensor;
        status = matrix_init(&w->matrix, tensor->type, tensor->ne[0], tensor->ne[1], (uint32_t)tensor->ne[2],
                             NULL, err);
        if (status)
            return status;
        w->n_bytes = matrix_device_bytes(tensor->type, tensor->ne[0], tensor->ne[1], (uint32_t)tensor->ne[2]);
        program->n_weights++;
    }
    *out = (int32_t)i;
    *formats = formats_of(&program->weights[i].matrix, flow->request.max_tokens);
    return SHARPI_OK;
}

static int32_t attention_add(struct flow *flow, const struct sharpi_op *op, const struct sharpi_kv_layer *kv,
                             int32_t sinks, int32_t *out, struct sharpi_error *err)
{
    struct sharpi_program *program = program_of(flow);
    const struct sharpi_attention_attr *attr = op->attr;
    struct attention *a;
    int32_t status = flow_grow(flow, &program->attentions, program->n_attentions, &program->cap_attentions,
                               sizeof *a, err);
    if (status)
        return status;
    a = &program->attentions[program->n_attentions];
    memset(a, 0, sizeof *a);
    if ((status = check_attention(attr, kv, &a->kernels, err)))
        return status;
    if (kv->class_index >= program->n_classes)
        return sharpi_fail(err, SHARPI_EBUG, "layer %u: page table %u of %u", attr->layer, kv->class_index,
                           program->n_classes);
    a->kv_layer = attr->kv_layer;
    a->layer = attr->layer;
    a->q = op->in[0];
    a->k = op->in[1];
    a->v = op->in[2];
    a->out = op->out;
    a->sinks = sinks;
    a->codes = -1;
    a->args = (struct sharpi_kv_cuda_args){.size = sizeof a->args,
                                           .n_heads = attr->n_heads,
                                           .n_kv_heads = attr->n_kv_heads,
                                           .head_dim = attr->head_dim,
                                           .window = attr->window,
                                           .causal = attr->causal,
                                           .scale = attr->scale,
                                           .softcap = attr->softcap,
                                           .ring = kv->ring,
                                           .n_sms = program->device->n_sms,
                                           .compute_major = program->device->compute_major,
                                           .shared_bytes = program->device->shared_bytes};
    *out = (int32_t)program->n_attentions++;
    return SHARPI_OK;
}

static struct gather *find_gather(struct sharpi_program *program, const struct sharpi_op *op)
{
    const struct sharpi_row_gather_attr *attr = op->attr;
    for (uint32_t i = 0; i < program->n_gathers; i++) {
        if (program->gathers[i].table == op->w[0] && program->gathers[i].scale == attr->scale)
            return &program->gathers[i];
    }
    return NULL;
}

/* A gathered row stays in the file mapping: its cell is a range of columns of what comes with the batch. */
static int32_t gather_add(struct flow *flow, const struct sharpi_op *op, struct sharpi_error *err)
{
    struct sharpi_program *program = program_of(flow);
    const struct sharpi_row_gather_attr *attr = op->attr;
    struct gather *g = find_gather(program, op);
    const uint64_t first = attr->first, end = first + flow->cells[op->out].width;
    int32_t status = flow_grow(flow, &program->gathered, program->n_gathered, &program->cap_gathered,
                               sizeof *program->gathered, err);
    if (!status && !g)
        status =
            flow_grow(flow, &program->gathers, program->n_gathers, &program->cap_gathers, sizeof *g, err);
    if (status)
        return status;
    if (!g) {
        g = &program->gathers[program->n_gathers++];
        *g = (struct gather){.table = op->w[0], .scale = attr->scale, .first = first, .end = end};
        program->mapped_bytes += op->w[0]->n_bytes;
    }
    g->first = first < g->first ? first : g->first;
    g->end = end > g->end ? end : g->end;
    program->gathered[program->n_gathered++] =
        (struct gathered){op->out, (uint32_t)(g - program->gathers), first};
    flow->cells[op->out].place = PLACE_INPUT;
    return SHARPI_OK;
}

/* Bytes of a row's values that live within one chain. */
#define MAX_LOCAL (64u << 10)

#define KIND(kind) (UINT64_C(1) << (kind))

static const struct flow_traits traits = {
    .topic = "backend-cuda",
    .name = "the CUDA backend",
    .step_kinds = KIND(NODE_SLICE) | KIND(NODE_ROUTE) | KIND(NODE_COPY_IN) | KIND(NODE_COPY_CARRY) |
                  KIND(NODE_COPY_TAP),
    .max_best = TOPK_MAX,
    .attention_appends = 1,
    .attention_makes_heads = 1,
    .early_formats = 1u << ACT_Q8,
    .embeds_weights = 1,
    .format_row_bytes = format_row_bytes,
    .weight = weight_add,
    .attention = attention_add,
    .gather = gather_add,
    .moe = lower_moe,
};

/* ---- Stages */

static int32_t find_embedding(struct sharpi_program *program, struct sharpi_error *err)
{
    for (uint32_t i = 0; i < program->flow.n_nodes; i++) {
        const struct node *node = &program->flow.nodes[i];
        if (node->kind != NODE_EMBED)
            continue;
        if (program->embedding_width)
            return sharpi_fail(err, SHARPI_ENOTSUP, "the CUDA backend looks token ids up in one table only");
        program->embedding_width = program->flow.cells[node->out].width;
    }
    return SHARPI_OK;
}

static void find_max_length(struct sharpi_program *program)
{
    for (uint32_t i = 0; i < program->flow.n_kv_layers; i++) {
        if (program->flow.kv_layers[i].ring > program->max_length)
            program->max_length = program->flow.kv_layers[i].ring;
    }
}

/* Which attentions' outputs are wanted as ACT_Q8, where. */
static void find_codes(struct sharpi_program *program)
{
    for (uint32_t i = 0; i < program->flow.n_nodes; i++) {
        const struct node *node = &program->flow.nodes[i];
        for (uint32_t k = 0; k < program->n_attentions && node->kind == NODE_QUANTIZE; k++) {
            if (node->index == ACT_Q8 && node->in[0] == program->attentions[k].out)
                program->attentions[k].codes = node->out;
        }
    }
}

int32_t heads_of(const struct sharpi_program *program, const struct node *node)
{
    const int32_t number = (int32_t)(node - program->flow.nodes);
    for (uint32_t i = 0; i < program->n_attentions; i++) {
        const struct attention *a = &program->attentions[i];
        if (a->can_make_heads && paths_have(a->paths, number))
            return (int32_t)i;
    }
    return -1;
}

/* Which attentions may make their heads themselves. A row step does without those of one attention only: others' stay with it. */
static void find_heads(struct sharpi_program *program)
{
    const struct flow *flow = &program->flow;
    for (uint32_t i = 0; i < flow->n_nodes; i++) {
        const struct node *node = &flow->nodes[i];
        if (node->kind == NODE_ATTENTION) {
            struct attention *a = &program->attentions[node->index];
            a->can_make_heads = (uint32_t)attention_paths(flow, node, a->paths);
        }
    }
    for (uint32_t i = 0; i < flow->n_steps; i++) {
        int32_t first = -1;
        for (uint32_t k = 0; k < flow->steps[i].n; k++) {
            const int32_t number = heads_of(program, step_node(flow, &flow->steps[i], k));
            if (first >= 0 && number >= 0 && number != first)
                program->attentions[number].can_make_heads = 0;
            first = first >= 0 ? first : number;
        }
    }
}

static int32_t compile_stages(struct sharpi_program *program, struct sharpi_error *err)
{
    struct flow *flow = &program->flow;
    int32_t status;
    find_max_length(program);
    if ((status = flow_lower(flow, err)) || (status = flow_schedule(flow, err)) ||
        (status = flow_place(flow, err)))
        return status;
    if (flow->logits_cell >= 0)
        flow->cells[flow->logits_cell].stride = round64(flow->n_vocab * sizeof(float));
    find_codes(program);
    find_heads(program);
    if ((status = find_embedding(program, err)) || (status = program_lay_out(program, err)))
        return status;
    program->weight_memory = (uint8_t *)(UINT64_C(1) << 52); /* on paper: no launch is made with these */
    program->scratch = (uint8_t *)(UINT64_C(1) << 54);
    program_point(program);
    status = launches_make(program, err);
    launches_free(program);
    program->weight_memory = program->scratch = NULL;
    return status;
}

static uint32_t choose_logits_rows(const struct sharpi_compile *request)
{
    uint32_t rows = request->max_seqs < MIN_LOGITS_ROWS ? MIN_LOGITS_ROWS : request->max_seqs;
    rows = rows < MAX_GRAPH_ROWS ? rows : MAX_GRAPH_ROWS;
    return rows < request->max_logits ? rows : request->max_logits;
}

static int32_t join_scratch(struct sharpi_program *program, struct sharpi_error *err)
{
    const struct layout *l = &program->layout;
    const struct scratch_wish wish = {l->n_bytes, program_host_bytes(program), {l->pages, l->attention}};
    uint64_t before;
    int32_t status =
        scratch_join(&program->device->scratch, program->device->host, &wish, &program->shared, &before, err);
    if (!status)
        program->added_bytes = cuda_rounded(program->shared->n_bytes) - cuda_rounded(before);
    return status;
}

static int32_t compile_with(struct sharpi_device *device, uint64_t max_local,
                            const struct sharpi_compile *request, struct sharpi_program **out,
                            struct sharpi_error *err)
{
    struct sharpi_program *program = device->host->alloc(device->host, sizeof *program, 0);
    int32_t status;
    *out = NULL;
    if (!program)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a program");
    program->device = device;
    program->n_classes = request->n_classes;
    program->traits = traits;
    program->traits.max_local = max_local;
    program->logits_rows = choose_logits_rows(request);
    status = flow_init(&program->flow, &program->traits, device->host, request, err);
    if (!status && request->n_classes > MAX_CLASSES)
        status = sharpi_fail(err, SHARPI_ENOTSUP, "%u page tables; the CUDA backend does %u",
                             request->n_classes, MAX_CLASSES);
    if (!status)
        status = compile_stages(program, err);
    if (!status)
        status = join_scratch(program, err);
    if (status)
        cuda_program_destroy(program);
    else
        *out = program;
    return status;
}

int32_t cuda_compile(struct sharpi_device *device, const struct sharpi_compile *request,
                     struct sharpi_program **out, struct sharpi_error *err)
{
    int32_t status = compile_with(device, MAX_LOCAL, request, out, err);
    /* chains may keep more in shared memory than there is: then every value lies in memory */
    return status == SHARPI_ENOTSUP ? compile_with(device, 0, request, out, err) : status;
}

int32_t cuda_program_memory(const struct sharpi_program *program, struct sharpi_program_memory *memory)
{
    memory->n_fallback_ops = program->flow.n_fallback_ops;
    memory->weight_bytes = cuda_rounded(program->weight_bytes);
    memory->mapped_bytes = program->mapped_bytes;
    memory->scratch_bytes = program->added_bytes;
    return SHARPI_OK;
}

void cuda_program_destroy(struct sharpi_program *program)
{
    const struct sharpi_host *host;
    if (!program)
        return;
    host = program->device->host;
    program_unload(program);
    scratch_leave(&program->device->scratch, host, program->shared);
    launches_free(program);
    {
        void *const arrays[] = {program->weights, program->attentions, program->mixtures,
                                program->gathers, program->gathered,   program->launches};
        for (uint32_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
            if (arrays[i])
                host->free(host, arrays[i]);
        }
    }
    flow_free(&program->flow);
    host->free(host, program);
}
