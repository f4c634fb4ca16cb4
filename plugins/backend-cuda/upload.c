/* Weights from the file mapping to the device: several threads copy chunks into pinned memory, each with a stream of its own
 * on which the chunk goes to the device and is repacked there, while the thread fills its other buffer.
 *
 * Staging on the device is the program's scratch memory, which nobody uses before the first run.
 */
#include "program.h"

#include <unistd.h>

#define CHUNK_BYTES (UINT64_C(2) << 20)
#define MAX_THREADS 8u
#define N_BUFFERS   2u /* of a thread */

struct uploading {
    struct sharpi_program *program;
    sharpi_progress_fn *progress;
    void *user;
    uint64_t buffer_bytes;
    uint64_t n_chunks, total_bytes;
    uint64_t next, done_bytes; /* atomic */
    uint32_t cancelled;        /* atomic */
    int32_t error;             /* atomic: first cudaError_t */
};

struct uploader {
    cudaStream_t stream;
    cudaEvent_t events[N_BUFFERS];
    uint8_t *pinned[N_BUFFERS], *staging[N_BUFFERS];
    uint32_t turn;
};

static uint64_t row_bytes_of(const struct weight *w)
{
    return sharpi_row_bytes(w->tensor->type, w->tensor->ne[0]);
}

/* Rows of a chunk: whole groups, at least one. */
static uint64_t chunk_rows(const struct weight *w)
{
    uint64_t group_bytes = row_bytes_of(w) * MATMUL_GROUP;
    return group_bytes && group_bytes < CHUNK_BYTES ? CHUNK_BYTES / group_bytes * MATMUL_GROUP : MATMUL_GROUP;
}

static uint64_t matrix_chunks(const struct weight *w)
{
    return (w->matrix.n_out + chunk_rows(w) - 1) / chunk_rows(w);
}

static uint64_t buffer_bytes(const struct sharpi_program *program)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < program->n_weights; i++) {
        const struct weight *w = &program->weights[i];
        uint64_t rows = chunk_rows(w) < w->matrix.n_out ? chunk_rows(w) : w->matrix.n_out;
        uint64_t bytes = rows * row_bytes_of(w);
        most = bytes > most ? bytes : most;
    }
    return (most + 255) / 256 * 256;
}

static uint32_t thread_count(const struct sharpi_program *program)
{
    long n = program->device->n_threads ? (long)program->device->n_threads : sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n < (long)MAX_THREADS ? (uint32_t)n : MAX_THREADS;
}

uint64_t upload_bytes(const struct sharpi_program *program)
{
    uint64_t all = 0, most = (uint64_t)MAX_THREADS * N_BUFFERS * buffer_bytes(program);
    for (uint32_t i = 0; i < program->n_weights && all < most; i++)
        all += program->weights[i].tensor->n_bytes;
    /* a small model does not need room for many chunks, but for one at least */
    return all < most / MAX_THREADS ? most / MAX_THREADS : most;
}

static void set_error(struct uploading *u, int32_t error)
{
    int32_t none = 0;
    if (error)
        __atomic_compare_exchange_n(&u->error, &none, error, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static int32_t uploader_open(struct uploader *up, const struct uploading *u, uint32_t ith)
{
    int32_t error = (int32_t)cudaSetDevice(u->program->device->index);
    if (!error)
        error = (int32_t)cudaStreamCreateWithFlags(&up->stream, cudaStreamNonBlocking);
    for (uint32_t i = 0; i < N_BUFFERS && !error; i++) {
        void *memory = NULL;
        up->staging[i] = u->program->scratch + (ith * N_BUFFERS + i) * u->buffer_bytes;
        error = (int32_t)cudaEventCreateWithFlags(&up->events[i], cudaEventDisableTiming);
        if (!error)
            error = (int32_t)cudaMallocHost(&memory, u->buffer_bytes);
        up->pinned[i] = memory;
    }
    return error;
}

/* Waits for what is under way. */
static int32_t uploader_close(struct uploader *up)
{
    int32_t error = up->stream ? (int32_t)cudaStreamSynchronize(up->stream) : 0;
    for (uint32_t i = 0; i < N_BUFFERS; i++) {
        if (up->events[i])
            cudaEventDestroy(up->events[i]);
        if (up->pinned[i])
            cudaFreeHost(up->pinned[i]);
    }
    if (up->stream)
        cudaStreamDestroy(up->stream);
    return error;
}

/* Chunk `chunk` of the weight; *n_bytes is what of the file it takes. */
static int32_t upload_chunk(struct uploader *up, const struct weight *w, uint64_t chunk, uint64_t *n_bytes)
{
    uint64_t per_matrix = matrix_chunks(w), stack = chunk / per_matrix, rows = chunk_rows(w);
    uint64_t first = chunk % per_matrix * rows, row_bytes = row_bytes_of(w);
    uint64_t count = w->matrix.n_out - first < rows ? w->matrix.n_out - first : rows;
    const uint8_t *src = (const uint8_t *)w->tensor->data + (stack * w->matrix.n_out + first) * row_bytes;
    uint32_t b = up->turn++ % N_BUFFERS;
    int32_t error = (int32_t)cudaEventSynchronize(up->events[b]); /* the buffer's last chunk has left it */
    *n_bytes = count * row_bytes;
    if (error)
        return error;
    memcpy(up->pinned[b], src, *n_bytes);
    error =
        (int32_t)cudaMemcpyAsync(up->staging[b], up->pinned[b], *n_bytes, cudaMemcpyHostToDevice, up->stream);
    if (!error)
        error = matrix_repack(&w->matrix, (uint32_t)stack, up->staging[b], first, count, up->stream);
    if (!error)
        error = (int32_t)cudaEventRecord(up->events[b], up->stream);
    return error;
}

static void upload_chunks(struct uploading *u, struct uploader *up, uint32_t ith)
{
    const struct sharpi_program *program = u->program;
    uint64_t before = 0; /* chunks of earlier weights */
    uint32_t w = 0;
    while (!__atomic_load_n(&u->cancelled, __ATOMIC_RELAXED) &&
           !__atomic_load_n(&u->error, __ATOMIC_RELAXED)) {
        uint64_t chunk = __atomic_fetch_add(&u->next, 1, __ATOMIC_RELAXED), bytes, done;
        if (chunk >= u->n_chunks)
            return;
        while (chunk - before >= matrix_chunks(&program->weights[w]) * program->weights[w].matrix.n_stack) {
            before += matrix_chunks(&program->weights[w]) * program->weights[w].matrix.n_stack;
            w++;
        }
        set_error(u, upload_chunk(up, &program->weights[w], chunk - before, &bytes));
        done = __atomic_add_fetch(&u->done_bytes, bytes, __ATOMIC_RELAXED);
        if (ith == 0 && u->progress && u->progress(u->user, done, u->total_bytes))
            __atomic_store_n(&u->cancelled, 1, __ATOMIC_RELAXED);
    }
}

static void upload_task(void *arg, uint32_t ith, uint32_t nth)
{
    struct uploading *u = arg;
    struct uploader up = {0};
    int32_t error;
    (void)nth;
    error = uploader_open(&up, u, ith);
    set_error(u, error);
    if (!error)
        upload_chunks(u, &up, ith);
    set_error(u, uploader_close(&up));
}

/* What has been sent need not stay in this process's memory. */
static void forget_files(const struct sharpi_program *program)
{
    for (uint32_t i = 0; i < program->n_weights; i++)
        file_forget(program->weights[i].tensor->data, program->weights[i].tensor->n_bytes);
}

int32_t upload_weights(struct sharpi_program *program, sharpi_progress_fn *progress, void *user,
                       struct sharpi_error *err)
{
    struct uploading u = {.program = program, .progress = progress, .user = user};
    const struct sharpi_host *host = program->device->host;
    struct sharpi_pool *pool;
    uint32_t n_threads = thread_count(program);
    int32_t status;
    u.buffer_bytes = buffer_bytes(program);
    for (uint32_t i = 0; i < program->n_weights; i++) {
        u.n_chunks += matrix_chunks(&program->weights[i]) * program->weights[i].matrix.n_stack;
        u.total_bytes += program->weights[i].tensor->n_bytes;
    }
    while (n_threads > 1 && n_threads * N_BUFFERS * u.buffer_bytes > program->layout.n_bytes)
        n_threads--;
    if ((status = host->pool_create(host, n_threads, &pool, err)))
        return status;
    host->pool_run(pool, upload_task, &u);
    host->pool_destroy(pool);
    forget_files(program);
    if (u.error)
        return cuda_fail(err, u.error, "sending the weights");
    /* the end, which another thread may have reached while the caller's was between reports */
    if (!u.cancelled && progress && progress(user, u.total_bytes, u.total_bytes))
        u.cancelled = 1;
    return u.cancelled ? sharpi_fail(err, SHARPI_ECANCELLED, "loading was cancelled") : SHARPI_OK;
}
