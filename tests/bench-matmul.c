/* Speed of the matrix products: bytes of weights per second for one row (decode), operations per second for many (prefill).
 *
 * One row streams weights larger than the last-level cache and cannot beat memory bandwidth; 64 and 512 rows reuse them and are
 * bound by arithmetic. Best of several runs, one thread in CPU time,
 * since others may use the machine.
 */
#include <time.h>

#include "test-matmul.h"

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double best_time(const struct matmul_job *job, uint32_t nth, uint32_t n_runs)
{
    double best = 1e30;
    clockid_t clock =
        nth == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC; /* alone, what others take does not count */
    for (uint32_t i = 0; i < n_runs; i++) {
        double start = now(clock);
        run_job(job, nth);
        double t = now(clock) - start;
        best = t < best ? t : best;
    }
    return best;
}

static void bench_shape(const struct prepared *w, uint32_t n_rows, double seconds[2])
{
    const struct matrix *m = &w->matrix;
    uint64_t act_bytes = act_row_bytes(m->act, m->n_in);
    float *x = malloc(m->n_in * sizeof *x), *out = malloc(n_rows * m->n_out * sizeof *out);
    uint8_t *act = aligned_alloc(64, n_rows * act_bytes);
    for (uint32_t i = 0; i < n_rows; i++) {
        random_floats(x, m->n_in);
        act_quantize(cpu_isa_detect(), m->act, act + i * act_bytes, x, m->n_in);
    }
    uint32_t next = 0;
    struct matmul_part part = {.w = m, .out = out, .out_stride = m->n_out, .n_rows = n_rows};
    struct matmul_job job = {.parts = &part, .n_parts = 1, .next = &next};
    job.act[m->act] = act;
    job.act_stride[m->act] = act_bytes;
    for (uint32_t nth = 1; nth <= 2; nth++)
        seconds[nth - 1] = best_time(&job, nth, m->n_out < 1000 ? 200 : n_rows == 1 ? 8 : 4);
    free(x);
    free(out);
    free(act);
}

static void bench_type(int32_t type, uint32_t repack)
{
    enum { N_IN = 2048, N_OUT_DECODE = 32768, N_OUT_CACHED = 192, N_OUT = 2048 };
    uint64_t bytes = N_OUT_DECODE * sharpi_row_bytes(type, N_IN);
    uint8_t *weights = malloc(bytes);
    struct prepared w;
    double cached[2], one[2], many[2], more[2];

    random_weights(type, weights, (uint64_t)N_IN * N_OUT_DECODE);
    double start = now(CLOCK_PROCESS_CPUTIME_ID);
    if (!prepare_matrix(&w, type, weights, N_IN, N_OUT_DECODE, cpu_isa_detect(), repack))
        return;
    double pack = now(CLOCK_PROCESS_CPUTIME_ID) - start;
    bench_shape(&w, 1, one);
    free_prepared(&w);
    prepare_matrix(&w, type, weights, N_IN, N_OUT_CACHED, cpu_isa_detect(), repack);
    bench_shape(&w, 1, cached);
    free_prepared(&w);
    prepare_matrix(&w, type, weights, N_IN, N_OUT, cpu_isa_detect(), repack);
    bench_shape(&w, 64, many);
    bench_shape(&w, 512, more);
    free_prepared(&w);
    free(weights);
    double ops = 2.0 * N_IN * N_OUT * 1e-9;
    printf("%-7s %-7s %6.1f   %6.1f %6.1f    %6.0f %6.0f    %6.0f %6.0f   %6.2f\n",
           sharpi_type_info(type)->name, w.matrix.packed ? "packed" : "file",
           (double)bytes * N_OUT_CACHED / N_OUT_DECODE / cached[0] * 1e-9, (double)bytes / one[0] * 1e-9,
           (double)bytes / one[1] * 1e-9, 64 * ops / many[0], 64 * ops / many[1], 512 * ops / more[0],
           512 * ops / more[1], w.matrix.packed ? (double)bytes / pack * 1e-9 : 0.0);
    fflush(stdout);
}

int bench_matmul(const char *only)
{
    printf("%s\n                 1 row GB/s: cached, streamed   64 rows GOP/s    512 rows GOP/s   pack GB/s\n"
           "type    layout   1 thr    1 thr  2 thr     1 thr  2 thr     1 thr  2 thr    1 thr\n",
           cpu_isa_name(cpu_isa_detect()));
    for (int32_t type = 0; type < 64; type++) {
        const struct sharpi_type_info *info = sharpi_type_info(type);
        if (!info || (only && strcmp(only, info->name) != 0))
            continue;
        if (info->block_elems > 1)
            bench_type(type, 1);
        bench_type(type, 0);
    }
    return 0;
}
