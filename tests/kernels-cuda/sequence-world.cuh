/* What tests of sequences share: memory in which a sequence and the launches that it stands for run one after the other, from the same
 * random contents, and what holds for every sequence: the same bits in every run, and nothing stored for no rows.
 */
#ifndef SHARPI_TESTS_KERNELS_CUDA_SEQUENCE_WORLD_CUH
#define SHARPI_TESTS_KERNELS_CUDA_SEQUENCE_WORLD_CUH

#include "../../plugins/backend-cuda/kernels/code.h"
#include "../../plugins/backend-cuda/kernels/sequence.h"
#include "random.cuh"

namespace
{

struct sequence_world {
    matmul_context *ctx;
    uint8_t *arena, *initial, *counters; /* initial: on the host */
    uint64_t n_bytes, used;              /* of the arena */
    int has_bulk; /* the device must run sequences; with less shared memory it may not */
    int32_t *n_rows;
    rows_batch batch;
};

/* 1: there is no context; said why. */
int open_world(sequence_world *w, uint64_t n_bytes)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    w->n_bytes = n_bytes;
    w->initial = (uint8_t *)malloc(n_bytes);
    for (uint64_t i = 0; i < n_bytes / 4; i++)
        ((float *)w->initial)[i] = (float)(int32_t)(random_bits() << 8) / 0x1p31f;
    OK((cudaError_t)code_compute_major(&w->has_bulk));
    w->has_bulk = w->has_bulk >= 9 && !shared_limit();
    OK(cudaMalloc(&w->arena, n_bytes));
    OK(cudaMalloc(&w->n_rows, 4));
    w->batch.n_rows[0] = w->batch.n_rows[1] = w->n_rows;
    const struct matmul_options options = {0, 1, 0, shared_limit()};
    if (matmul_context_create(&w->ctx, &options, NULL, &err)) {
        printf("sequences: %s\n", err.text);
        return 1;
    }
    OK(cudaMalloc(&w->counters, sequence_memory_bytes(w->ctx)));
    OK(cudaMemset(w->counters, 0, SEQUENCE_COUNTER_BYTES));
    return 0;
}

uint8_t *take(sequence_world *w, uint64_t n_bytes)
{
    uint8_t *p = w->arena + w->used;
    w->used += (n_bytes + 255) / 256 * 256;
    if (w->used > w->n_bytes) {
        printf("sequences: the arena is too small\n");
        exit(1);
    }
    return p;
}

void begin(sequence_world *w, int32_t n_rows)
{
    OK(cudaMemcpy(w->arena, w->initial, w->n_bytes, cudaMemcpyHostToDevice));
    OK(cudaMemcpy(w->n_rows, &n_rows, 4, cudaMemcpyHostToDevice));
}

/* A copy of the arena, for the caller to free. */
uint8_t *finish(const sequence_world *w)
{
    uint8_t *copy = (uint8_t *)malloc(w->n_bytes);
    OK(cudaDeviceSynchronize());
    OK(cudaMemcpy(copy, w->arena, w->n_bytes, cudaMemcpyDeviceToHost));
    return copy;
}

uint8_t *run_sequence(sequence_world *w, const sequence *s, int32_t n_rows)
{
    begin(w, n_rows);
    OK(sequence_launch(s, w->n_rows, w->counters, 0, 0));
    return finish(w);
}

/* SEQUENCE_PART, for sanitizers, which are a thousand times slower. short: few repeats; small: few repeats of small shapes. */
int is_short(void)
{
    return getenv("SEQUENCE_PART") != NULL;
}

int is_small(void)
{
    return is_short() && !strcmp(getenv("SEQUENCE_PART"), "small");
}

int check_repeats(sequence_world *w, const sequence *s, const uint8_t *first)
{
    int bad = 0;
    for (int i = 0; i < (is_short() ? 2 : 50); i++) {
        uint8_t *again = run_sequence(w, s, 1);
        if (memcmp(again, first, w->n_bytes)) {
            printf("  run %d gives other bits\n", i);
            bad = 1;
        }
        free(again);
    }
    return bad;
}

int check_no_rows(sequence_world *w, const sequence *s)
{
    uint8_t *got = run_sequence(w, s, 0);
    int bad = memcmp(got, w->initial, w->n_bytes) != 0;
    if (bad)
        printf("  something is written for no rows\n");
    free(got);
    return bad;
}

/* Of one launch that finds its weights (n_bytes) in memory only: the L2 cache was filled with something else before. The events' own time, 2 us
 * or so, counts. */
void time_sequence(sequence_world *w, const sequence *s, const char *name, uint64_t n_bytes)
{
    const size_t n_other = 256 << 20;
    cudaEvent_t first, last;
    uint8_t *other;
    float ms[15];
    OK(cudaMalloc(&other, n_other));
    OK(cudaEventCreate(&first));
    OK(cudaEventCreate(&last));
    begin(w, 1);
    for (float &t : ms) {
        OK(cudaMemsetAsync(other, 1, n_other, 0));
        OK(cudaEventRecord(first, 0));
        OK(sequence_launch(s, w->n_rows, w->counters, 0, 0));
        OK(cudaEventRecord(last, 0));
        OK(cudaEventSynchronize(last));
        OK(cudaEventElapsedTime(&t, first, last));
    }
    qsort(ms, 15, sizeof ms[0],
          [](const void *p, const void *q) { return *(float *)p < *(float *)q ? -1 : 1; });
    const double us = ms[7] * 1e3, bytes_per_us = (double)n_bytes / us;
    printf("  %s: %.1f us, %.1f MB, %.2f TB/s = %.1f%% of 4.28\n", name, us, (double)n_bytes * 1e-6,
           bytes_per_us * 1e-6, bytes_per_us / 4.28e6 * 100);
    OK(cudaEventDestroy(first));
    OK(cudaEventDestroy(last));
    OK(cudaFree(other));
}

} /* namespace */

#endif
