/* Compiling a range of the graph: runs the stages with this backend's traits, answers what they come to. Arithmetic only. */
#include "compile.h"

static int32_t looks_up(const struct node *node)
{
    return node->kind == NODE_EMBED || node->kind == NODE_ROW_GATHER || node->kind == NODE_CUSTOM;
}

/* Whether a node before number `end`, or a product, uses the tensor in the file mapping. */
static int32_t is_mapped_already(const struct sharpi_program *program, const struct sharpi_tensor *tensor,
                                 uint32_t end)
{
    for (uint32_t w = 0; w < program->n_weights; w++) {
        if (program->weights[w].tensor == tensor && !program->weights[w].packed_bytes)
            return 1;
    }
    for (uint32_t i = 0; i < end; i++) {
        const struct node *node = &program->flow.nodes[i];
        for (uint32_t k = 0; k < SHARPI_OP_MAX_WEIGHTS && looks_up(node); k++) {
            if (node->op->w[k] == tensor)
                return 1;
        }
    }
    return 0;
}

/* Counts the tables that are looked up in the file mapping, each once, however many layers have their rows in it. */
static void count_mapped(struct sharpi_program *program)
{
    for (uint32_t i = 0; i < program->flow.n_nodes; i++) {
        const struct node *node = &program->flow.nodes[i];
        for (uint32_t k = 0; k < SHARPI_OP_MAX_WEIGHTS && looks_up(node); k++) {
            const struct sharpi_tensor *tensor = node->op->w[k];
            if (tensor && !is_mapped_already(program, tensor, i))
                program->mapped_bytes += tensor->n_bytes;
        }
    }
}

static uint64_t format_row_bytes(uint32_t format, uint64_t n)
{
    return act_row_bytes((enum act_format)format, n);
}

static int32_t attention_add(struct flow *flow, const struct sharpi_op *op, const struct sharpi_kv_layer *kv,
                             int32_t sinks, int32_t *out, struct sharpi_error *err)
{
    struct sharpi_program *program = program_of(flow);
    const struct sharpi_attention_attr *attr = op->attr;
    struct attention *a;
    uint64_t scratch = 0;
    int32_t status = flow_grow(flow, &program->attentions, program->n_attentions, &program->cap_attentions,
                               sizeof *a, err);
    if (status)
        return status;
    a = &program->attentions[program->n_attentions];
    memset(a, 0, sizeof *a);
    status = attention_plan_init(&a->plan, program->device->isa, attr, kv, program->device->n_threads,
                                 &scratch, err);
    if (status)
        return status;
    a->sinks = sinks;
    a->kv_layer = attr->kv_layer;
    a->layer = attr->layer;
    a->q = op->in[0];
    a->k = op->in[1];
    a->v = op->in[2];
    a->out = op->out;
    flow->n_fallback_ops += a->plan.format == NULL;
    if (round64(scratch) > program->attention_bytes)
        program->attention_bytes = round64(scratch);
    *out = (int32_t)program->n_attentions++;
    return SHARPI_OK;
}

/* Local scratch is the thread's, as large as the largest step wants it. */
static const struct flow_traits traits = {
    .topic = "backend-cpu",
    .name = "the CPU backend",
    .max_local = UINT64_MAX,
    .format_row_bytes = format_row_bytes,
    .weight = weight_add,
    .attention = attention_add,
    .moe = lower_moe,
};

static int32_t compile_stages(struct sharpi_program *program, struct sharpi_error *err)
{
    struct flow *flow = &program->flow;
    int32_t status;
    if ((status = flow_lower(flow, err)) || (status = weights_lay_out(program, err)) ||
        (status = flow_schedule(flow, err)) || (status = flow_place(flow, err)))
        return status;
    count_mapped(program);
    program->thread_bytes =
        round64(flow->local_bytes > matmul_scratch_bytes() ? flow->local_bytes : matmul_scratch_bytes());
    program->parts = flow_alloc(flow, flow->n_parts, sizeof *program->parts, err);
    program->products = flow_alloc(flow, flow->n_steps, sizeof *program->products, err);
    program->counters = flow_alloc(flow, 2ull * flow->n_steps, sizeof *program->counters, err);
    return program->parts && program->products && program->counters ? SHARPI_OK : SHARPI_ENOMEM;
}

static int32_t join_scratch(struct sharpi_program *program, struct sharpi_error *err)
{
    const struct scratch_wish wish = {.n_bytes = program_scratch_bytes(program)};
    uint64_t before;
    int32_t status =
        scratch_join(&program->device->scratch, program->device->host, &wish, &program->shared, &before, err);
    if (!status)
        program->added_bytes = memory_rounded(program->shared->n_bytes) - memory_rounded(before);
    return status;
}

/* One line for all layers of a format. */
static void log_fallbacks(const struct sharpi_program *program)
{
    const struct sharpi_kv *said[2] = {NULL, NULL}; /* of layers with and without a window */
    for (uint32_t i = 0; i < program->n_attentions; i++) {
        const struct attention *a = &program->attentions[i];
        const struct sharpi_kv *kv = a->plan.kv.kv;
        uint32_t n = 0;
        char line[240];
        if (a->plan.format || kv == said[0] || kv == said[1])
            continue;
        said[said[0] != NULL] = kv;
        for (uint32_t k = i; k < program->n_attentions; k++)
            n += program->attentions[k].plan.kv.kv == kv;
        snprintf(line, sizeof line,
                 "cache format %.60s has no kernels for the CPU; its reference encode and decode are used, "
                 "slowly, in "
                 "%u layer%s from layer %u on",
                 kv->name, n, n == 1 ? "" : "s", a->layer);
        program->flow.host->log(program->flow.host, SHARPI_LOG_WARN, "backend-cpu", line);
    }
}

int32_t cpu_compile(struct sharpi_device *device, const struct sharpi_compile *request,
                    struct sharpi_program **out, struct sharpi_error *err)
{
    struct sharpi_program *program = device->host->alloc(device->host, sizeof *program, 0);
    int32_t status;
    *out = NULL;
    if (!program)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a program");
    program->device = device;
    program->ops = row_ops_for(device->isa);
    status = flow_init(&program->flow, &traits, device->host, request, err);
    if (!status)
        status = compile_stages(program, err);
    if (!status)
        status = join_scratch(program, err);
    if (status) {
        cpu_program_destroy(program);
        return status;
    }
    log_fallbacks(program);
    *out = program;
    return SHARPI_OK;
}

int32_t cpu_program_memory(const struct sharpi_program *program, struct sharpi_program_memory *memory)
{
    memory->n_fallback_ops = program->flow.n_fallback_ops;
    memory->weight_bytes = memory_rounded(program->weight_bytes);
    memory->mapped_bytes = program->mapped_bytes;
    memory->scratch_bytes = program->added_bytes;
    return SHARPI_OK;
}

void cpu_program_destroy(struct sharpi_program *program)
{
    const struct sharpi_host *host;
    if (!program)
        return;
    host = program->flow.host;
    program_unload(program);
    scratch_leave(&program->device->scratch, host, program->shared);
    for (uint32_t i = 0; i < program->n_weights; i++)
        host->free(host, program->weights[i].matrices);
    for (uint32_t i = 0; i < program->n_mixtures; i++) {
        if (program->mixtures[i].starts)
            host->free(host, program->mixtures[i].starts);
        if (program->mixtures[i].parts)
            host->free(host, program->mixtures[i].parts);
    }
    {
        void *const arrays[] = {program->weights, program->mixtures, program->attentions,
                                program->parts,   program->products, program->counters};
        for (uint32_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
            if (arrays[i])
                host->free(host, arrays[i]);
        }
    }
    flow_free(&program->flow);
    host->free(host, program);
}
