/* Loading: takes the two blocks of device memory that compile counted and the pinned buffers, sends weights, makes the launches. The
 * first program to be loaded takes scratch for all that are in it, the last one gives it back.
 *
 * Invariant: on failure nothing is held and the program can be loaded again.
 */
#include "program.h"

#include <pthread.h>

static int32_t take_pinned(uint64_t n_bytes, void *out, struct sharpi_error *err)
{
    void *memory = NULL;
    cudaError_t error = n_bytes ? cudaMallocHost(&memory, n_bytes) : cudaSuccess;
    if (error) {
        cudaGetLastError();
        return sharpi_fail(err, SHARPI_ENOMEM, "no pinned host memory for steps: %llu bytes wanted (%s)",
                           (unsigned long long)n_bytes, cudaGetErrorString(error));
    }
    if (memory)
        memset(memory, 0, n_bytes);
    memcpy(out, &memory, sizeof memory);
    return SHARPI_OK;
}

static void give_pinned(void *memory)
{
    if (memory)
        cudaFreeHost(memory);
}

static uint64_t value_bytes(const struct sharpi_program *program, int32_t value)
{
    const struct cell *cell = &program->flow.cells[value];
    return round64(flow_rows(&program->flow, cell->rows) * cell->width * sizeof(float));
}

uint64_t program_host_bytes(const struct sharpi_program *program)
{
    const struct sharpi_compile *request = &program->flow.request;
    uint64_t n = round64(program->layout.page_bytes);
    for (uint32_t i = 0; i < request->n_carry_in; i++)
        n += value_bytes(program, request->carry_in[i]);
    for (uint32_t i = 0; i < request->n_carry_out; i++)
        n += value_bytes(program, request->carry_out[i]);
    for (uint32_t i = 0; i < request->n_taps; i++)
        n += value_bytes(program, request->taps[i]);
    return n;
}

/* Places for values from *at on. */
static int32_t point_values(const struct sharpi_program *program, const int32_t *values, uint32_t n,
                            uint8_t **at, float ***out, struct sharpi_error *err)
{
    *out = flow_alloc(&program->flow, n, sizeof **out, err);
    if (!*out)
        return SHARPI_ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        (*out)[i] = (float *)(void *)*at;
        *at += value_bytes(program, values[i]);
    }
    return SHARPI_OK;
}

static void drop_values(const struct sharpi_program *program, float ***values)
{
    if (*values)
        program->device->host->free(program->device->host, *values);
    *values = NULL;
}

static int32_t take_buffers(struct sharpi_program *program, struct sharpi_error *err)
{
    const struct sharpi_compile *request = &program->flow.request;
    const struct layout *l = &program->layout;
    const uint64_t rows = program->logits_rows;
    uint8_t *at = program->shared->host_memory;
    int32_t status;
    program->host_pages = at;
    at += round64(l->page_bytes);
    if ((status = take_pinned(l->input_bytes, &program->host_inputs, err)) ||
        (status = take_pinned(program->flow.n_vocab * rows * sizeof(float), &program->host_logits, err)) ||
        (status =
             take_pinned(program->flow.n_vocab ? best_bytes(rows, TOPK_MAX) : 0, &program->host_best, err)) ||
        (status = point_values(program, request->carry_in, request->n_carry_in, &at, &program->host_carry_in,
                               err)) ||
        (status = point_values(program, request->carry_out, request->n_carry_out, &at,
                               &program->host_carry_out, err)))
        return status;
    return point_values(program, request->taps, request->n_taps, &at, &program->host_taps, err);
}

static void give_scratch(struct sharpi_program *program)
{
    struct scratch *shared = program->shared;
    program->scratch = NULL;
    if (--shared->n_loaded)
        return;
    cuda_give(program->device, shared->memory);
    give_pinned(shared->host_memory);
    shared->memory = shared->host_memory = NULL;
}

static int32_t take_scratch(struct sharpi_program *program, struct sharpi_error *err)
{
    struct scratch *shared = program->shared;
    int32_t status = SHARPI_OK;
    if (!shared->n_loaded++)
        status = cuda_take(program->device, shared->n_bytes, "activations", &shared->memory, err);
    program->scratch = shared->memory;
    if (!status && !shared->host_memory)
        status = take_pinned(shared->n_host_bytes, &shared->host_memory, err);
    if (status)
        give_scratch(program);
    return status;
}

static void free_graphs(struct sharpi_program *program)
{
    for (uint32_t b = 0; b < N_BUCKETS; b++) {
        for (uint32_t k = 0; k < N_RESULTS; k++) {
            if (program->graphs[b][k].exec)
                cudaGraphExecDestroy(program->graphs[b][k].exec);
            program->graphs[b][k] = (struct graph_slot){0};
        }
    }
}

void program_unload(struct sharpi_program *program)
{
    if (!program->scratch && !program->weight_memory)
        return;
    cudaSetDevice(program->device->index);
    cudaStreamSynchronize(program->device->stream);
    free_graphs(program);
    drop_values(program, &program->host_carry_in);
    drop_values(program, &program->host_carry_out);
    drop_values(program, &program->host_taps);
    give_pinned(program->host_inputs);
    give_pinned(program->host_logits);
    give_pinned(program->host_best);
    program->host_best = NULL;
    program->host_inputs = program->host_pages = NULL;
    program->host_logits = NULL;
    cuda_give(program->device, program->weight_memory);
    program->weight_memory = NULL;
    if (program->scratch)
        give_scratch(program);
    program->loaded = 0;
}

/* Vectors and rope frequencies, through a host copy. */
static int32_t load_vectors(struct sharpi_program *program, struct sharpi_error *err)
{
    uint64_t n_bytes = program->weight_bytes - program->vector_offset;
    uint8_t *memory;
    int32_t status;
    if (!n_bytes)
        return SHARPI_OK;
    memory = flow_alloc(&program->flow, n_bytes, 1, err);
    if (!memory)
        return SHARPI_ENOMEM;
    vectors_fill(&program->flow, memory, program->vector_offset);
    status =
        cuda_write(program->device, program->weight_memory, program->vector_offset, memory, n_bytes, err);
    program->device->host->free(program->device->host, memory);
    return status;
}

/* Scratch is zeroed, as kernels want their counters and as page tables are remembered; the table of numbers is written. Weights
 * went through it: so this is done for every program that is loaded, and none has run yet that it could disturb, but for the page
 * tables, which are then sent again. */
static int32_t load_scratch(struct sharpi_program *program, struct sharpi_error *err)
{
    const struct layout *l = &program->layout;
    const struct scratch *shared = program->shared;
    int32_t counts[MAX_GRAPH_ROWS + 1];
    cudaError_t error =
        cudaMemsetAsync(shared->memory, 0, cuda_rounded(shared->n_bytes), program->device->stream);
    if (error)
        return cuda_fail(err, (int)error, "clearing the activations");
    if (shared->host_memory)
        memset(shared->host_memory, 0, shared->n_host_bytes);
    for (uint32_t i = 0; i <= MAX_GRAPH_ROWS; i++)
        counts[i] = (int32_t)i;
    return cuda_write(program->device, program->scratch, l->counts, counts, sizeof counts, err);
}

/* ---- What the first prompt would wait for */

#define FIRST_WARM_ROWS 128u /* below, steps run on few kernels that load quickly */

struct warming {
    struct sharpi_program *program;
    uint32_t stop; /* atomic: the weights are there, nobody is to wait any longer */
};

/* Launches the products of a step of so many tokens. */
static void launch_products(const struct warming *warming, uint32_t n_tokens, cudaStream_t stream)
{
    const struct sharpi_program *program = warming->program;
    const struct run run = {
        .program = warming->program, .n_tokens = n_tokens, .n_logits = 1, .stream = stream};
    for (uint32_t i = 0; i < program->n_launches; i++) {
        const struct launch *launch = &program->launches[i];
        struct matmul_args args;
        if (__atomic_load_n(&warming->stop, __ATOMIC_RELAXED))
            return;
        if (launch->kind != LAUNCH_MATMUL && launch->kind != LAUNCH_LOGITS)
            continue;
        args = run_product(&run, launch);
        matmul_launch(&args);
    }
}

/* Has algorithms chosen and kernels loaded by capturing steps that never run: of one token, and of numbers up to the largest.
 * What fails here fails again, and is said, in the first true step. */
static void *warm_up(void *arg)
{
    const struct warming *warming = arg;
    const uint32_t most = warming->program->flow.request.max_tokens;
    cudaStream_t stream = NULL;
    cudaGraph_t graph = NULL;
    if (cudaSetDevice(warming->program->device->index) == cudaSuccess &&
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess &&
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess) {
        launch_products(warming, 1, stream);
        for (uint32_t n = FIRST_WARM_ROWS; n < most; n *= 2)
            launch_products(warming, n, stream);
        launch_products(warming, most, stream);
        cudaStreamEndCapture(stream, &graph);
    }
    if (graph)
        cudaGraphDestroy(graph);
    if (stream)
        cudaStreamDestroy(stream);
    cudaGetLastError();
    return NULL;
}

/* The bus is busy with the weights meanwhile, the GPU and most of the host are not. */
static int32_t upload_and_warm_up(struct sharpi_program *program, sharpi_progress_fn *progress, void *user,
                                  struct sharpi_error *err)
{
    struct warming warming = {.program = program};
    pthread_t thread;
    const int32_t is_warming = pthread_create(&thread, NULL, warm_up, &warming) == 0;
    const int32_t status = upload_weights(program, progress, user, err);
    __atomic_store_n(&warming.stop, 1, __ATOMIC_RELAXED);
    if (is_warming)
        pthread_join(thread, NULL);
    return status;
}

/* ---- Sequences */

/* Their launches run one by one from now on. */
static void drop_sequences(struct sharpi_program *program)
{
    for (uint32_t i = 0; i < program->n_launches; i++) {
        if (program->launches[i].sequence)
            program->device->host->free(program->device->host, program->launches[i].sequence);
        program->launches[i].sequence = NULL;
    }
}

/* Launches one for no row, cooperatively. The driver refuses it where it cannot promise that all blocks run at once, as it may be when several
 * processes share a GPU; that is better known now than in the middle of a step. */
static cudaError_t try_sequence(const struct sharpi_program *program, const struct sequence *sequence)
{
    const struct layout *l = &program->layout;
    const int32_t *none = (const int32_t *)(const void *)(program->scratch + l->counts);
    cudaError_t error;
    cuda_turn_begin(program->device);
    error = (cudaError_t)sequence_launch(sequence, none, program->scratch + l->sequence, 1,
                                         program->device->stream);
    if (!error)
        error = cudaStreamSynchronize(program->device->stream);
    cuda_turn_end(program->device);
    return error;
}

static void check_sequences(struct sharpi_program *program)
{
    struct sharpi_device *device = program->device;
    const struct sequence *first = NULL;
    cudaError_t error = cudaSuccess;
    char line[200];
    for (uint32_t i = 0; i < program->n_launches && !first; i++)
        first = program->launches[i].sequence;
    if (first && device->sequences && (error = try_sequence(program, first))) {
        cudaGetLastError();
        device->sequences = 0;
        snprintf(line, sizeof line,
                 "steps of one row run launch by launch, which is slower: the driver refuses a kernel whose "
                 "blocks "
                 "wait for each other (%s)",
                 cudaGetErrorString(error));
        device->host->log(device->host, SHARPI_LOG_WARN, "backend-cuda", line);
    }
    if (!device->sequences)
        drop_sequences(program);
}

static int32_t load_all(struct sharpi_program *program, sharpi_progress_fn *progress, void *user,
                        struct sharpi_error *err)
{
    int32_t status;
    program_point(program);
    if ((status = take_buffers(program, err)) || (status = launches_make(program, err)) ||
        (status = upload_and_warm_up(program, progress, user, err)) ||
        (status = load_vectors(program, err)) || (status = load_scratch(program, err)))
        return status;
    check_sequences(program);
    return SHARPI_OK;
}

int32_t cuda_load(struct sharpi_program *program, const struct sharpi_kv_layer *kv_layers,
                  sharpi_progress_fn *progress, void *user, struct sharpi_error *err)
{
    void *weights = NULL;
    int32_t status;
    if (program->loaded)
        return sharpi_fail(err, SHARPI_EBUG, "the program is loaded already");
    cudaSetDevice(program->device->index);
    if ((status = flow_check_data(&program->flow, err)) ||
        (status = cuda_take(program->device, program->weight_bytes, "the weights", &weights, err)))
        return status;
    program->weight_memory = weights;
    status = take_scratch(program, err);
    for (uint32_t i = 0; i < program->flow.n_kv_layers && kv_layers; i++) {
        program->flow.kv_layers[i].k = kv_layers[i].k;
        program->flow.kv_layers[i].v = kv_layers[i].v;
    }
    if (!status)
        status = load_all(program, progress, user, err);
    if (status) {
        program_unload(program);
        return status;
    }
    program->loaded = 1;
    return SHARPI_OK;
}
