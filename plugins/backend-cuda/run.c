/* One step of the engine: checks and stages the batch, then launches everything on the device's stream or replays a graph.
 *
 * Graphs are made for decode steps (every sequence has one token) of up to MAX_GRAPH_ROWS tokens, one for each power of two, with
 * and without logits, when such a step comes for the second time. Replayed or not, the launches are the same.
 */
#include "program.h"

static const int32_t *step_count(const struct sharpi_program *program, int32_t rows)
{
    const struct step_head *head =
        (const struct step_head *)(const void *)(program->scratch + program->layout.inputs +
                                                 program->layout.step);
    return (const int32_t *)(rows == SHARPI_ROWS_SELECTED ? &head->step.n_logits : &head->step.n_tokens);
}

struct rows_batch run_rows_batch(const struct sharpi_program *program)
{
    const struct layout *l = &program->layout;
    const uint8_t *inputs = program->scratch + l->inputs;
    struct rows_batch batch = {
        .n_rows = {step_count(program, SHARPI_ROWS_TOKENS), step_count(program, SHARPI_ROWS_SELECTED)},
        .tokens = (const int32_t *)(const void *)(inputs + l->tokens),
        .positions = (const int32_t *)(const void *)(inputs + l->positions),
        .logit_rows = (const int32_t *)(const void *)(inputs + l->logit_rows)};
    return batch;
}

static uint32_t rows_of(const struct run *run, int32_t rows)
{
    return rows == SHARPI_ROWS_SELECTED ? run->n_logits : run->n_tokens;
}

/* ---- Launches */

/* Whether the product does its glu at this number of rows. */
static int32_t does_glu(const struct run *run, const struct launch *launch)
{
    const struct matmul_args *product = &launch->product;
    return launch->glu &&
           matmul_can_glu(product->ctx, product->part[0].w, product->part[1].w, rows_of(run, launch->rows));
}

struct matmul_args run_product(const struct run *run, const struct launch *launch)
{
    struct matmul_args args = launch->product;
    args.n_rows = rows_of(run, launch->rows);
    args.n_rows_dev = step_count(run->program, launch->rows);
    args.stream = run->stream;
    if (does_glu(run, launch)) {
        args.glu = launch->glu;
        args.glu_clamp = launch->glu_clamp;
    }
    return args;
}

static int launch_product(const struct run *run, const struct launch *launch)
{
    struct matmul_args args = run_product(run, launch);
    return matmul_launch(&args);
}

static struct sharpi_kv_cuda_args attention_args(const struct run *run, const struct attention *a)
{
    struct sharpi_kv_cuda_args args = a->args;
    args.max_tokens = run->n_tokens;
    args.max_seqs = run->n_seqs;
    args.max_seq_tokens = run->max_seq_tokens;
    args.max_length = run->max_length;
    args.overlaps = run->program->device->overlap;
    return args;
}

/* Whether attention writes the codes that the product after it reads. */
static int32_t writes_codes(const struct run *run, const struct attention *a)
{
    const struct sharpi_kv_cuda_args args = attention_args(run, a);
    if (a->codes < 0 || run->n_tokens > MATMUL_GEMV_ROWS)
        return 0;
    if (!SHARPI_HAS(a->kernels, quantizes) || !a->kernels->quantizes)
        return 0;
    return a->kernels->quantizes(&args);
}

/* Whether attention makes heads of products' rows. */
static int32_t makes_heads(const struct run *run, const struct attention *a)
{
    const struct sharpi_kv_cuda_args args = attention_args(run, a);
    if (!a->can_make_heads || !SHARPI_HAS(a->kernels, makes_heads) || !a->kernels->makes_heads)
        return 0;
    return a->kernels->makes_heads(&args);
}

const struct rows_step *run_rows_step(const struct run *run, const struct launch *launch)
{
    const struct sharpi_program *program = run->program;
    uint32_t variant = VARIANT_PLAIN;
    if (launch->glu_launch >= 0 && does_glu(run, &program->launches[launch->glu_launch]))
        variant |= VARIANT_GLU_DONE;
    if (!experts_sorted(run->n_tokens))
        variant |= VARIANT_UNSORTED & launch->variants;
    if (launch->codes_of >= 0 && writes_codes(run, &program->attentions[launch->codes_of]))
        variant |= VARIANT_CODES_DONE;
    if (launch->heads_of >= 0 && makes_heads(run, &program->attentions[launch->heads_of]))
        variant |= VARIANT_HEADS_DONE;
    return launch->steps[variant];
}

static int launch_rows(const struct run *run, const struct launch *launch)
{
    const struct sharpi_program *program = run->program;
    const struct rows_step *step = run_rows_step(run, launch);
    struct rows_batch batch = run_rows_batch(program);
    if (!step)
        return 0;
    return rows_step_launch(step, &batch, rows_of(run, launch->rows), program->device->n_sms,
                            program->device->overlap, run->stream);
}

static int launch_sequence(const struct run *run, const struct launch *launch)
{
    const struct sharpi_program *program = run->program;
    return sequence_launch(launch->sequence, step_count(program, launch->rows),
                           program->scratch + program->layout.sequence, !program->device->takes_turns,
                           run->stream);
}

static int launch_lookup(const struct run *run, const struct launch *launch)
{
    const struct sharpi_program *program = run->program;
    if (run->batch->embeddings)
        return 0;
    return matrix_gather_launch(&program->weights[launch->index].matrix, run_rows_batch(program).tokens, 0,
                                run->n_tokens, step_count(program, SHARPI_ROWS_TOKENS), launch->scale,
                                (float *)(void *)(program->scratch + program->layout.embeddings),
                                program->embedding_width, run->stream);
}

/* Whole groups of rows are packed: what lies past the last one was sent in an earlier step, or is zero. */
static int launch_gather(const struct run *run, const struct launch *launch)
{
    const struct sharpi_program *program = run->program;
    const struct gather *g = &program->gathers[launch->index];
    uint64_t rows = (run->n_tokens + MATMUL_GROUP - 1) / MATMUL_GROUP * MATMUL_GROUP;
    int error;
    rows = rows < g->matrix.n_out ? rows : g->matrix.n_out;
    error = matrix_repack(&g->matrix, 0, program->scratch + program->layout.inputs + g->raw, 0, rows,
                          run->stream);
    if (error)
        return error;
    return matrix_gather_launch(&g->matrix, NULL, 0, run->n_tokens, step_count(program, SHARPI_ROWS_TOKENS),
                                g->scale, (float *)(void *)(program->scratch + g->rows), g->end - g->first,
                                run->stream);
}

/* Attention reads products' rows and makes heads of them. */
static void use_raw(const struct flow *flow, const struct attention *a, struct sharpi_kv_cuda_args *args)
{
    const float **const rows[] = {&args->q, &args->k, &args->v};
    uint64_t *const strides[] = {&args->q_stride, &args->k_stride, &args->v_stride};
    for (uint32_t i = 0; i < 3; i++) {
        const struct cell *raw = a->paths[i].raw >= 0 ? &flow->cells[a->paths[i].raw] : NULL;
        *rows[i] = raw ? (const float *)(const void *)raw->base : NULL;
        *strides[i] = raw ? raw->stride / sizeof(float) : 0;
    }
    args->has_heads = 1;
}

static int launch_attention(const struct run *run, const struct launch *launch)
{
    const struct sharpi_program *program = run->program;
    const struct attention *a = &program->attentions[launch->index];
    struct sharpi_kv_cuda_args args = attention_args(run, a);
    if (writes_codes(run, a)) {
        args.out_q8 = program->flow.cells[a->codes].base;
        args.out_q8_stride = program->flow.cells[a->codes].stride;
    }
    if (makes_heads(run, a))
        use_raw(&program->flow, a, &args);
    return a->kernels->attention(&args, run->stream);
}

static int launch_copy(const struct run *run, const struct launch *launch)
{
    const struct sharpi_program *program = run->program;
    const struct cell *cell = &program->flow.cells[launch->cell];
    uint64_t bytes = cell->width * sizeof(float);
    float *host = launch->kind == LAUNCH_COPY_IN ? program->host_carry_in[launch->index]
                  : launch->is_tap               ? program->host_taps[launch->index]
                                                 : program->host_carry_out[launch->index];
    if (launch->kind == LAUNCH_COPY_IN)
        return (int)cudaMemcpy2DAsync(cell->base, cell->stride, host, bytes, bytes, rows_of(run, cell->rows),
                                      cudaMemcpyHostToDevice, run->stream);
    return (int)cudaMemcpy2DAsync(host, bytes, cell->base, cell->stride, bytes, rows_of(run, cell->rows),
                                  cudaMemcpyDeviceToHost, run->stream);
}

static int enqueue(const struct run *run, const struct launch *launch)
{
    if (rows_of(run, launch->rows) == 0)
        return 0;
    switch (launch->kind) {
    case LAUNCH_ROWS:
        return launch_rows(run, launch);
    case LAUNCH_GATHER:
        return launch_gather(run, launch);
    case LAUNCH_LOOKUP:
        return launch_lookup(run, launch);
    case LAUNCH_MATMUL:
        return launch_product(run, launch);
    case LAUNCH_ATTENTION:
        return launch_attention(run, launch);
    case LAUNCH_ROUTE:
        return run_route(run, launch);
    case LAUNCH_EXPERTS:
        return run_experts(run, launch);
    case LAUNCH_LOGITS:
        return run->is_captured ? launch_logits(run, launch, 0, run->n_logits,
                                                step_count(run->program, SHARPI_ROWS_SELECTED))
                                : 0; /* in pieces, afterwards */
    default:                         /* LAUNCH_COPY_IN, LAUNCH_COPY_OUT */
        return launch_copy(run, launch);
    }
}

static int32_t fail_at(const struct sharpi_program *program, const struct launch *launch, int error,
                       struct sharpi_error *err)
{
    char what[96];
    if (launch->layer >= 0 && (uint32_t)launch->layer < program->flow.request.graph->n_layers)
        snprintf(what, sizeof what, "layer %d: %s", launch->layer, launch->what);
    else
        snprintf(what, sizeof what, "%s", launch->what);
    return cuda_fail(err, error, what);
}

static int32_t enqueue_all(const struct run *run, struct sharpi_error *err)
{
    struct sharpi_program *program = run->program;
    const struct layout *l = &program->layout;
    cudaError_t error = cudaMemcpyAsync(program->scratch + l->inputs, program->host_inputs, l->gathers,
                                        cudaMemcpyHostToDevice, run->stream);
    for (uint32_t i = 0; i < program->n_gathers && !error; i++) {
        const struct gather *g = &program->gathers[i];
        error = cudaMemcpyAsync(program->scratch + l->inputs + g->raw, program->host_inputs + g->raw,
                                run->n_tokens * g->row_bytes, cudaMemcpyHostToDevice, run->stream);
    }
    if (error)
        return cuda_fail(err, (int)error, "sending the batch");
    for (uint32_t i = 0, n; i < program->n_launches; i += n) {
        const struct launch *launch = &program->launches[i];
        int32_t joined = launch->sequence && run->n_tokens == 1;
        int failed = joined ? launch_sequence(run, launch) : enqueue(run, launch);
        n = joined ? launch->n_sequence : 1;
        if (failed)
            return fail_at(program, launch, failed, err);
    }
    if (run->is_captured && run->n_logits && program->flow.n_vocab)
        return send_logits(run, run->n_logits, step_count(program, SHARPI_ROWS_SELECTED), err);
    return SHARPI_OK;
}

/* ---- Graphs */

static uint32_t bucket_of(uint32_t n)
{
    uint32_t b = 0;
    while (1u << b < n)
        b++;
    return b;
}

/* The graph that this batch can be replayed with; NULL: none, launch it. */
static struct graph_slot *find_slot(struct sharpi_program *program, const struct sharpi_batch *batch,
                                    struct run *bounds)
{
    const struct sharpi_compile *request = &program->flow.request;
    uint32_t bucket, rows;
    if (!program->device->backend->use_graphs || batch->n_tokens != batch->n_seqs || batch->embeddings ||
        batch->n_tokens > MAX_GRAPH_ROWS || (bounds->n_best && bounds->wants_rows) ||
        (batch->n_logits && batch->n_logits != batch->n_tokens))
        return NULL;
    bucket = bucket_of(batch->n_tokens);
    rows = 1u << bucket;
    rows = rows < request->max_tokens ? rows : request->max_tokens;
    rows = rows < request->max_seqs ? rows : request->max_seqs;
    if (batch->n_logits)
        rows = rows < program->logits_rows ? rows : program->logits_rows;
    if (batch->n_tokens > rows)
        return NULL;
    bounds->n_tokens = bounds->n_seqs = rows;
    bounds->n_logits = batch->n_logits ? rows : 0;
    bounds->max_seq_tokens = 1;
    return &program->graphs[bucket][!batch->n_logits ? RESULT_NONE
                                    : bounds->n_best ? RESULT_BEST
                                                     : RESULT_LOGITS];
}

static int32_t capture(const struct run *run, struct graph_slot *slot, struct sharpi_error *err)
{
    cudaGraph_t graph = NULL;
    cudaError_t error = cudaStreamBeginCapture(run->stream, cudaStreamCaptureModeThreadLocal), ended;
    int32_t status;
    if (error)
        return cuda_fail(err, (int)error, "beginning to capture a step");
    status = enqueue_all(run, err);
    ended = cudaStreamEndCapture(run->stream, &graph);
    if (!status && ended)
        status = cuda_fail(err, (int)ended, "capturing a step");
    if (!status && (error = cudaGraphInstantiate(&slot->exec, graph, 0)))
        status = cuda_fail(err, (int)error, "making a graph of a step");
    if (graph)
        cudaGraphDestroy(graph);
    return status;
}

/* ---- Results */

static int32_t wait(const struct run *run, struct sharpi_error *err)
{
    cudaError_t error = cudaStreamSynchronize(run->stream);
    return error ? cuda_fail(err, (int)error, "a step") : SHARPI_OK;
}

/* Logits of steps that are not captured: piece by piece through the device's buffer. */
static int32_t run_logits(const struct run *run, const struct sharpi_run_io *io, struct sharpi_error *err)
{
    const struct sharpi_program *program = run->program;
    const struct launch *launch = NULL;
    for (uint32_t i = 0; i < program->n_launches; i++)
        launch = program->launches[i].kind == LAUNCH_LOGITS ? &program->launches[i] : launch;
    for (uint32_t first = 0; launch && first < run->n_logits; first += program->logits_rows) {
        uint32_t n =
            run->n_logits - first < program->logits_rows ? run->n_logits - first : program->logits_rows;
        const int32_t *count = (const int32_t *)(const void *)(program->scratch + program->layout.counts) + n;
        int error = launch_logits(run, launch, first, n, count);
        int32_t status;
        if (error)
            return fail_at(program, launch, error, err);
        if ((status = send_logits(run, n, count, err)) || (status = wait(run, err)))
            return status;
        deliver_logits(run, io, first, n, n);
    }
    return SHARPI_OK;
}

static void copy_values(const struct run *run, const int32_t *values, uint32_t n, float *const *from,
                        float *const *to)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct cell *cell = &run->program->flow.cells[values[i]];
        uint64_t rows = cell->rows == SHARPI_ROWS_SELECTED ? run->batch->n_logits : run->batch->n_tokens;
        memcpy(to[i], from[i], rows * cell->width * sizeof(float));
    }
}

static void copy_results(const struct run *run, const struct sharpi_run_io *io)
{
    const struct sharpi_compile *request = &run->program->flow.request;
    copy_values(run, request->carry_out, request->n_carry_out, run->program->host_carry_out, io->carry_out);
    copy_values(run, request->taps, request->n_taps, run->program->host_taps, io->taps);
    if (run->is_captured && run->batch->n_logits && run->program->flow.n_vocab)
        deliver_logits(run, io, 0, run->batch->n_logits, run->n_logits);
}

/* ---- Steps */

/* Whether the slot's graph does for this step. One for much longer sequences would, but has launches and blocks that only those need. */
static int32_t fits(const struct graph_slot *slot, const struct run *run)
{
    return slot->n_best == run->n_best && slot->max_length >= run->max_length &&
           slot->max_length / 4 <= run->max_length;
}

/* Makes the slot's graph if it has none that fits. One that cannot be made, for lack of memory perhaps, is not tried again: such steps
 * are launched, which is slower. */
static int32_t has_graph(const struct run *run, struct graph_slot *slot)
{
    const struct sharpi_host *host = run->program->device->host;
    struct sharpi_error why = SHARPI_ERROR_INIT;
    char line[1100];
    if (slot->exec && !fits(slot, run)) {
        cudaGraphExecDestroy(slot->exec);
        slot->exec = NULL;
    }
    if (slot->exec || slot->is_broken)
        return !slot->is_broken;
    slot->n_best = run->n_best;
    slot->max_length = run->max_length;
    slot->is_broken = capture(run, slot, &why) != SHARPI_OK;
    if (slot->is_broken) {
        snprintf(line, sizeof line, "steps of %u tokens are not replayed as graphs, which is slower: %s",
                 run->n_tokens, why.text);
        host->log(host, SHARPI_LOG_WARN, "backend-cuda", line);
    }
    return !slot->is_broken;
}

static int32_t run_graph(const struct run *run, const struct graph_slot *slot, struct sharpi_error *err)
{
    cudaError_t error = cudaGraphLaunch(slot->exec, run->stream);
    return error ? cuda_fail(err, (int)error, "replaying a step") : wait(run, err);
}

static int32_t run_plain(struct run *run, const struct sharpi_run_io *io, struct sharpi_error *err)
{
    int32_t status = enqueue_all(run, err);
    if (!status && run->n_logits && run->program->flow.n_vocab)
        status = run_logits(run, io, err);
    return status ? status : wait(run, err);
}

enum { LEAST_LENGTH = 256 }; /* that bounds say */

/* A bound of the sequences' lengths after the step: a power of two, so that a growing sequence's graph is made anew only when it has
 * doubled. */
static uint32_t bound_of_lengths(const struct sharpi_program *program, const struct sharpi_batch *batch)
{
    uint32_t bound = LEAST_LENGTH;
    for (uint32_t s = 0; s < batch->n_seqs; s++) {
        const uint64_t length = (uint64_t)batch->seqs[s].length + batch->seqs[s].n_tokens;
        while (bound < length && bound < program->max_length)
            bound *= 2;
    }
    return bound < program->max_length ? bound : program->max_length;
}

/* Bounds that are the batch's own numbers, but for lengths. */
static struct run exact_run(struct sharpi_program *program, const struct sharpi_batch *batch,
                            const struct sharpi_run_io *io)
{
    struct run run = {.program = program,
                      .batch = batch,
                      .n_tokens = batch->n_tokens,
                      .n_logits = batch->n_logits,
                      .n_seqs = batch->n_seqs,
                      .max_length = bound_of_lengths(program, batch),
                      .n_best = SHARPI_HAS(io, n_best) ? io->n_best : 0,
                      .wants_rows = io->logits != NULL,
                      .stream = program->device->stream};
    for (uint32_t s = 0; s < batch->n_seqs; s++) {
        if (batch->seqs[s].n_tokens > run.max_seq_tokens)
            run.max_seq_tokens = batch->seqs[s].n_tokens;
    }
    return run;
}

/* What was begun still reads the step's inputs and writes its outputs. */
static void end_failed(const struct run *run)
{
    cudaStreamSynchronize(run->stream);
    cudaGetLastError();
}

int32_t cuda_run(struct sharpi_program *program, const struct sharpi_batch *batch,
                 const struct sharpi_run_io *io, struct sharpi_error *err)
{
    struct run run, bounds;
    struct graph_slot *slot;
    int32_t status;
    if (!program->loaded)
        return sharpi_fail(err, SHARPI_EBUG, "the program is not loaded");
    if ((status = batch_check(&program->flow, batch, io, err)))
        return status;
    cudaSetDevice(program->device->index);
    run = bounds = exact_run(program, batch, io);
    bounds.is_captured = 1;
    slot = find_slot(program, batch, &bounds);
    status = batch_stage(program, batch, io, err);
    if (status) {
        end_failed(&run);
        return status;
    }
    cuda_turn_begin(program->device);
    if (slot && slot->uses++ && has_graph(&bounds, slot)) {
        run = bounds;
        status = run_graph(&run, slot, err);
    } else {
        status = run_plain(&run, io, err);
    }
    if (status)
        end_failed(&run);
    cuda_turn_end(program->device);
    if (!status)
        copy_results(&run, io);
    return status;
}
