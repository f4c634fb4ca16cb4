/* Loading: takes the memory that compile counted, packs weights with all threads, and fixes every pointer a run needs.
 *
 * A packed chunk's pages of the file mapping are given back at once, so that a model is in memory once, not twice. Invariant: on failure nothing is held and the program can be loaded again.
 */
#include "program.h"

/* Bytes of the file's layout that a thread packs at a time: often enough for the progress bar, seldom enough for locks. */
#define PACK_CHUNK (UINT64_C(1) << 20)

struct packing {
    struct sharpi_program *program;
    sharpi_progress_fn *progress;
    void *user;
    uint64_t n_chunks, total_bytes;
    uint64_t next, done_bytes; /* atomic */
    uint32_t cancelled;        /* atomic */
};

/* Rows of a chunk of the weight's matrices, and chunks in one matrix. */
static uint64_t chunk_rows(const struct weight *w)
{
    const struct matrix *m = &w->matrices[0];
    uint64_t units = PACK_CHUNK / m->row_bytes / m->rows_unit;
    return (units ? units : 1) * m->rows_unit;
}

static uint64_t matrix_chunks(const struct weight *w)
{
    uint64_t rows = chunk_rows(w);
    return w->packed_bytes ? (w->matrices[0].n_out + rows - 1) / rows : 0;
}

/* Packs chunk `chunk` of the weight; returns the bytes of the file's layout. */
static uint64_t pack_chunk(struct packing *packing, struct weight *w, uint64_t chunk)
{
    uint64_t per_matrix = matrix_chunks(w), rows = chunk_rows(w), first = chunk % per_matrix * rows;
    const struct matrix *m = &w->matrices[chunk / per_matrix];
    uint64_t count = m->n_out - first < rows ? m->n_out - first : rows;
    const uint8_t *src = (const uint8_t *)w->tensor->data + chunk / per_matrix * m->n_out * m->row_bytes;
    matrix_pack(m, packing->program->weight_memory + w->offset + chunk / per_matrix * w->packed_bytes, src,
                first, count);
    file_forget(src + first * m->row_bytes, count * m->row_bytes);
    if (__atomic_sub_fetch(&w->left, 1, __ATOMIC_ACQ_REL) == 0) /* the pages that chunks shared */
        file_forget(w->tensor->data, w->tensor->n_bytes);
    return count * m->row_bytes;
}

static void pack_task(void *arg, uint32_t ith, uint32_t nth)
{
    struct packing *packing = arg;
    struct sharpi_program *program = packing->program;
    uint64_t before = 0; /* chunks of earlier weights */
    uint32_t w = 0;
    (void)nth;
    while (!__atomic_load_n(&packing->cancelled, __ATOMIC_RELAXED)) {
        uint64_t chunk = __atomic_fetch_add(&packing->next, 1, __ATOMIC_RELAXED), done;
        if (chunk >= packing->n_chunks)
            return;
        while (chunk - before >= matrix_chunks(&program->weights[w]) * program->weights[w].n) {
            before += matrix_chunks(&program->weights[w]) * program->weights[w].n;
            w++;
        }
        done = pack_chunk(packing, &program->weights[w], chunk - before);
        done = __atomic_add_fetch(&packing->done_bytes, done, __ATOMIC_RELAXED);
        if (ith == 0 && packing->progress && packing->progress(packing->user, done, packing->total_bytes))
            __atomic_store_n(&packing->cancelled, 1, __ATOMIC_RELAXED);
    }
}

static int32_t pack_weights(struct sharpi_program *program, sharpi_progress_fn *progress, void *user,
                            struct sharpi_error *err)
{
    struct packing packing = {.program = program, .progress = progress, .user = user};
    for (uint32_t i = 0; i < program->n_weights; i++) {
        struct weight *w = &program->weights[i];
        uint64_t chunks = matrix_chunks(w) * w->n;
        if (chunks > UINT32_MAX)
            return sharpi_fail(err, SHARPI_EINVAL, "tensor %s is too large", w->tensor->name);
        w->left = (uint32_t)chunks;
        packing.n_chunks += chunks;
        packing.total_bytes += chunks ? w->tensor->n_bytes : 0;
    }
    program->flow.host->pool_run(program->device->pool, pack_task, &packing);
    /* the end, which another thread may have reached while the caller's was between reports */
    if (!packing.cancelled && progress && progress(user, packing.total_bytes, packing.total_bytes))
        packing.cancelled = 1;
    return packing.cancelled ? sharpi_fail(err, SHARPI_ECANCELLED, "loading was cancelled") : SHARPI_OK;
}

static void point_weights(struct sharpi_program *program)
{
    for (uint32_t i = 0; i < program->n_weights; i++) {
        struct weight *w = &program->weights[i];
        for (uint32_t e = 0; e < w->n; e++) {
            struct matrix *m = &w->matrices[e];
            m->data = w->packed_bytes ? program->weight_memory + w->offset + e * w->packed_bytes
                                      : (const uint8_t *)w->tensor->data + e * m->n_out * m->row_bytes;
        }
    }
}

static float *cell_floats(const struct sharpi_program *program, int32_t cell)
{
    return cell >= 0 ? (float *)(void *)program->flow.cells[cell].base : NULL;
}

static void barrier(void *user)
{
    struct sharpi_program *program = user;
    program->flow.host->pool_barrier(program->device->pool);
}

static void load_attentions(struct sharpi_program *program, const struct sharpi_kv_layer *kv_layers)
{
    for (uint32_t i = 0; i < program->n_attentions; i++) {
        struct attention *a = &program->attentions[i];
        a->plan.kv.k = kv_layers[a->kv_layer].k;
        a->plan.kv.v = kv_layers[a->kv_layer].v;
        a->plan.sinks = a->sinks >= 0 ? program->flow.vectors[a->sinks].data : NULL;
        a->job.plan = &a->plan;
        a->job.q = cell_floats(program, a->q);
        a->job.k = cell_floats(program, a->k);
        a->job.v = cell_floats(program, a->v);
        a->job.out = cell_floats(program, a->out);
        a->job.q_stride = program->flow.cells[a->q].stride / sizeof(float);
        a->job.out_stride = program->flow.cells[a->out].stride / sizeof(float);
        a->job.k_stride = a->k >= 0 ? program->flow.cells[a->k].stride / sizeof(float) : 0;
        a->job.v_stride = a->v >= 0 ? program->flow.cells[a->v].stride / sizeof(float) : 0;
        a->job.scratch = program->scratch + program->flow.arena_bytes;
        a->job.barrier = barrier;
        a->job.barrier_user = program;
    }
}

static void load_product_step(struct sharpi_program *program, const struct step *step,
                              struct product *product)
{
    for (uint32_t f = 0; f < ACT_COUNT; f++) {
        if (step->act[f] >= 0) {
            product->job.act[f] = program->flow.cells[step->act[f]].base;
            product->job.act_stride[f] = program->flow.cells[step->act[f]].stride;
        }
    }
    for (uint32_t i = 0; i < step->n; i++) {
        const struct node *node = &program->flow.nodes[program->flow.schedule[step->first + i]];
        struct matmul_part *part = &program->parts[product->first_part + i];
        part->w = &program->weights[node->weight].matrices[0];
        part->bias = node->vector >= 0 ? program->flow.vectors[node->vector].data : NULL;
        part->in_rows = NULL;
        part->out = cell_floats(program, node->out);
        part->out_stride = program->flow.cells[node->out].stride / sizeof(float);
        part->epilogue = node->residual >= 0 ? MATMUL_ADD : MATMUL_STORE;
    }
    product->job.parts = program->parts + product->first_part;
    product->job.n_parts = step->n;
}

static void load_steps(struct sharpi_program *program)
{
    uint32_t n_parts = 0;
    for (uint32_t i = 0; i < program->flow.n_steps; i++) {
        const struct step *step = &program->flow.steps[i];
        program->products[i].job.next = &program->counters[2 * i];
        program->products[i].first_part = n_parts;
        if (step->kind != STEP_MATMUL)
            continue;
        load_product_step(program, step, &program->products[i]);
        n_parts += step->n;
    }
}

/* The first program to be loaded takes memory for all, the last one gives it back. */
static int32_t take_scratch(struct sharpi_program *program, struct sharpi_error *err)
{
    struct scratch *shared = program->shared;
    int32_t status = shared->n_loaded
                         ? SHARPI_OK
                         : memory_take(program->device, shared->n_bytes, "activations", &shared->memory, err);
    if (status)
        return status;
    shared->n_loaded++;
    program->scratch = shared->memory;
    return SHARPI_OK;
}

void program_unload(struct sharpi_program *program)
{
    struct scratch *shared = program->shared;
    memory_give(program->device, program->weight_memory);
    if (program->scratch && --shared->n_loaded == 0) {
        memory_give(program->device, shared->memory);
        shared->memory = NULL;
    }
    program->weight_memory = program->scratch = NULL;
}

int32_t cpu_load(struct sharpi_program *program, const struct sharpi_kv_layer *kv_layers,
                 sharpi_progress_fn *progress, void *user, struct sharpi_error *err)
{
    void *weights = NULL;
    int32_t status;
    if (program->loaded)
        return sharpi_fail(err, SHARPI_EBUG, "the program is loaded already");
    if ((status = flow_check_data(&program->flow, err)) ||
        (status = memory_take(program->device, program->weight_bytes, "the weights", &weights, err)))
        return status;
    program->weight_memory = weights;
    status = take_scratch(program, err);
    if (!status)
        status = pack_weights(program, progress, user, err);
    if (status) {
        program_unload(program);
        return status;
    }
    for (uint32_t i = 0; i < program->flow.n_cells; i++) {
        if (program->flow.cells[i].place == PLACE_ARENA)
            program->flow.cells[i].base = program->scratch + program->flow.cells[i].offset;
    }
    point_weights(program);
    vectors_fill(&program->flow, program->weight_memory, 0);
    vectors_point(&program->flow, program->weight_memory);
    load_attentions(program, kv_layers);
    load_steps(program);
    program->loaded = 1;
    return SHARPI_OK;
}
