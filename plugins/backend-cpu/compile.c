/* Compiling a range of the graph: checks the request, runs the stages, answers what it will take. Arithmetic only. */
#include "compile.h"

void *program_alloc(const struct sharpi_program *program, uint64_t n, uint64_t item_bytes,
                    struct sharpi_error *err)
{
    void *memory = NULL;
    n = n ? n : 1;
    if (n <= UINT64_MAX / 2 / item_bytes)
        memory = program->host->alloc(program->host, n * item_bytes, 0);
    if (!memory)
        sharpi_fail(err, SHARPI_ENOMEM, "no memory for a program: %llu items of %llu bytes",
                    (unsigned long long)n, (unsigned long long)item_bytes);
    return memory;
}

int32_t program_grow(const struct sharpi_program *program, void *array, uint32_t n, uint32_t *cap,
                     uint64_t item_bytes, struct sharpi_error *err)
{
    uint32_t bigger = *cap ? *cap * 2 : 64;
    void *memory, *old;
    if (n < *cap)
        return SHARPI_OK;
    memory = *cap > UINT32_MAX / 2 ? NULL : program_alloc(program, bigger, item_bytes, err);
    if (!memory)
        return SHARPI_ENOMEM;
    memcpy(&old, array, sizeof old);
    if (old) {
        memcpy(memory, old, n * item_bytes);
        program->host->free(program->host, old);
    }
    memcpy(array, &memory, sizeof memory);
    *cap = bigger;
    return SHARPI_OK;
}

static int32_t check_values(const struct sharpi_compile *request, const char *what, const int32_t *values,
                            uint32_t n, struct sharpi_error *err)
{
    for (uint32_t i = 0; i < n; i++) {
        if (values[i] < 0 || (uint32_t)values[i] >= request->graph->n_values)
            return sharpi_fail(err, SHARPI_EBUG, "%s value %u is %d of %u", what, i, values[i],
                               request->graph->n_values);
    }
    return SHARPI_OK;
}

static int32_t check_request(const struct sharpi_compile *request, struct sharpi_error *err)
{
    int32_t status;
    if (request->first_op >= request->end_op || request->end_op > request->graph->n_ops)
        return sharpi_fail(err, SHARPI_EBUG, "ops %u to %u of %u cannot be compiled", request->first_op,
                           request->end_op, request->graph->n_ops);
    if (request->max_tokens == 0 || request->max_tokens > INT32_MAX || request->max_seqs == 0 ||
        request->max_logits > request->max_tokens)
        return sharpi_fail(err, SHARPI_EINVAL,
                           "a batch of at most %u tokens, %u sequences and %u rows of logits cannot be",
                           request->max_tokens, request->max_seqs, request->max_logits);
    if ((status = check_values(request, "carried-in", request->carry_in, request->n_carry_in, err)) ||
        (status = check_values(request, "carried-out", request->carry_out, request->n_carry_out, err)))
        return status;
    return check_values(request, "tapped", request->taps, request->n_taps, err);
}

/* A copy of n items that the program owns; *copy stays NULL for none. */
static int32_t own_copy(const struct sharpi_program *program, const void *items, uint64_t n,
                        uint64_t item_bytes, void *copy, struct sharpi_error *err)
{
    void *memory = program_alloc(program, n, item_bytes, err);
    if (!memory)
        return SHARPI_ENOMEM;
    if (n)
        memcpy(memory, items, n * item_bytes);
    memcpy(copy, &memory, sizeof memory);
    return SHARPI_OK;
}

static int32_t copy_request(struct sharpi_program *program, const struct sharpi_compile *request,
                            struct sharpi_error *err)
{
    struct sharpi_compile *own = &program->request;
    int32_t status;
    memcpy(own, request, sizeof *own);
    own->carry_in = own->carry_out = own->taps = NULL;
    program->n_kv_layers = request->kv_layers ? request->graph->n_layers : 0;
    if ((status = own_copy(program, request->carry_in, own->n_carry_in, 4, &own->carry_in, err)) ||
        (status = own_copy(program, request->carry_out, own->n_carry_out, 4, &own->carry_out, err)) ||
        (status = own_copy(program, request->taps, own->n_taps, 4, &own->taps, err)))
        return status;
    return own_copy(program, request->kv_layers, program->n_kv_layers, sizeof *program->kv_layers,
                    &program->kv_layers, err);
}

/* Counts the tables that are looked up in the file mapping. */
static void count_mapped(struct sharpi_program *program)
{
    for (uint32_t i = 0; i < program->n_nodes; i++) {
        const struct node *node = &program->nodes[i];
        uint32_t used = 0;
        if (node->kind != NODE_EMBED && node->kind != NODE_ROW_GATHER && node->kind != NODE_CUSTOM)
            continue;
        for (uint32_t k = 0; k < SHARPI_OP_MAX_WEIGHTS; k++) {
            for (uint32_t w = 0; w < program->n_weights && node->op->w[k]; w++)
                used |= program->weights[w].tensor == node->op->w[k] && !program->weights[w].packed_bytes;
            if (node->op->w[k] && !used)
                program->mapped_bytes += node->op->w[k]->n_bytes;
        }
    }
}

static int32_t compile_stages(struct sharpi_program *program, struct sharpi_error *err)
{
    int32_t status;
    if ((status = compile_lower(program, err)) || (status = weights_lay_out(program, err)) ||
        (status = compile_schedule(program, err)) || (status = compile_place(program, err)))
        return status;
    count_mapped(program);
    program->parts = program_alloc(program, program->n_parts, sizeof *program->parts, err);
    program->counters = program_alloc(program, 2ull * program->n_steps, sizeof *program->counters, err);
    return program->parts && program->counters ? SHARPI_OK : SHARPI_ENOMEM;
}

static void log_fallbacks(const struct sharpi_program *program)
{
    for (uint32_t i = 0; i < program->n_attentions; i++) {
        const struct attention *a = &program->attentions[i];
        char line[200];
        if (a->plan.format)
            continue;
        snprintf(line, sizeof line,
                 "layer %u: cache format %s has no kernels for the CPU; its reference encode and decode are "
                 "used, slowly",
                 a->layer, a->plan.kv.kv->name);
        program->host->log(program->host, SHARPI_LOG_WARN, "backend-cpu", line);
    }
}

int32_t cpu_compile(struct sharpi_device *device, const struct sharpi_compile *request,
                    struct sharpi_program **out, struct sharpi_error *err)
{
    struct sharpi_program *program;
    int32_t status = check_request(request, err);
    *out = NULL;
    if (status)
        return status;
    program = device->host->alloc(device->host, sizeof *program, 0);
    if (!program)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a program");
    program->device = device;
    program->host = device->host;
    program->ops = row_ops_for(device->isa);
    program->n_table_rows = UINT64_MAX;
    status = copy_request(program, request, err);
    if (!status)
        status = compile_stages(program, err);
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
    memory->n_fallback_ops = program->n_fallback_ops;
    memory->weight_bytes = memory_rounded(program->weight_bytes);
    memory->mapped_bytes = program->mapped_bytes;
    memory->scratch_bytes = memory_rounded(program_scratch_bytes(program));
    return SHARPI_OK;
}

void cpu_program_destroy(struct sharpi_program *program)
{
    const struct sharpi_host *host;
    if (!program)
        return;
    host = program->host;
    memory_give(program->device, program->weight_memory);
    memory_give(program->device, program->scratch);
    for (uint32_t i = 0; i < program->n_weights; i++)
        host->free(host, program->weights[i].matrices);
    for (uint32_t i = 0; i < program->n_mixtures; i++) {
        if (program->mixtures[i].starts)
            host->free(host, program->mixtures[i].starts);
        if (program->mixtures[i].parts)
            host->free(host, program->mixtures[i].parts);
    }
    {
        void *const arrays[] = {program->cells,
                                program->nodes,
                                program->schedule,
                                program->chains,
                                program->steps,
                                program->weights,
                                program->vectors,
                                program->ropes,
                                program->mixtures,
                                program->attentions,
                                program->parts,
                                program->counters,
                                program->kv_layers,
                                (void *)(uintptr_t)program->request.carry_in,
                                (void *)(uintptr_t)program->request.carry_out,
                                (void *)(uintptr_t)program->request.taps};
        for (uint32_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
            if (arrays[i])
                host->free(host, arrays[i]);
        }
    }
    host->free(host, program);
}
