/* Floors of the machine, measured with all threads: see measure.h. The best of several rounds counts, since anything
 * else on the machine only makes it slower.
 */
#include "measure.h"

#include <string.h>
#include <time.h>

enum { ROUNDS = 5 };
#define READ_BYTES (192ull << 20) /* per thread: far larger than its share of the caches */
#define LOOP_COUNT 2000000u

static uint32_t int8_c(uint32_t rounds)
{
    int32_t sum[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    volatile int8_t factor = 3;
    const int8_t w = factor;
    for (uint32_t i = 0; i < rounds; i++) {
        for (uint32_t j = 0; j < 8; j++)
            sum[j] += (int8_t)sum[j] * w;
    }
    for (uint32_t j = 1; j < 8; j++)
        sum[0] += sum[j];
    return (uint32_t)sum[0];
}

static uint32_t f32_c(uint32_t rounds)
{
    float sum[8] = {1, 2, 3, 4, 5, 6, 7, 8}, total = 0;
    volatile float factor = 0.5f;
    const float w = factor;
    for (uint32_t i = 0; i < rounds; i++) {
        for (uint32_t j = 0; j < 8; j++)
            sum[j] = sum[j] * w + 1.0f;
    }
    for (uint32_t j = 0; j < 8; j++)
        total += sum[j];
    return (uint32_t)total;
}

const struct measure_loops measure_loops_c = {int8_c, f32_c, 16, 16};

static const struct measure_loops *loops_for(enum cpu_isa isa)
{
#ifdef HAVE_AVX512
    if (isa >= CPU_ISA_AVX512)
        return &measure_loops_avx512;
#endif
#ifdef HAVE_AVX2
    if (isa >= CPU_ISA_AVX2)
        return &measure_loops_avx2;
#endif
    (void)isa;
    return &measure_loops_c;
}

struct measurement {
    struct sharpi_pool *pool;
    const struct sharpi_host *host;
    const struct measure_loops *loops;
    unsigned char *memory; /* READ_BYTES per thread */
    double seconds;        /* of the slowest thread, set by thread 0 between barriers */
    double best[3];
    uint32_t sink; /* keeps the results from being optimised away */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint32_t read_all(const unsigned char *memory)
{
    uint64_t sum[8] = {0}, word[8];
    for (uint64_t i = 0; i < READ_BYTES; i += sizeof word) {
        memcpy(word, memory + i, sizeof word);
        for (uint32_t j = 0; j < 8; j++)
            sum[j] += word[j];
    }
    for (uint32_t j = 1; j < 8; j++)
        sum[0] += sum[j];
    return (uint32_t)sum[0];
}

static uint32_t work(const struct measurement *m, uint32_t what, uint32_t ith)
{
    if (what == 0)
        return read_all(m->memory + ith * READ_BYTES);
    return what == 1 ? m->loops->int8(LOOP_COUNT) : m->loops->f32(LOOP_COUNT);
}

static void task(void *arg, uint32_t ith, uint32_t nth)
{
    struct measurement *m = arg;
    uint32_t result = 0;
    (void)nth;
    memset(m->memory + ith * READ_BYTES, 1, READ_BYTES); /* the thread's own pages */
    for (uint32_t what = 0; what < 3; what++) {
        for (uint32_t round = 0; round < ROUNDS; round++) {
            double start;
            m->host->pool_barrier(m->pool);
            start = now();
            result += work(m, what, ith);
            m->host->pool_barrier(m->pool);
            if (ith == 0 && (round == 0 || now() - start < m->best[what]))
                m->best[what] = now() - start;
        }
    }
    if (ith == 0)
        m->sink = result;
}

int32_t cpu_measure(struct sharpi_device *device, struct sharpi_rates *rates, struct sharpi_error *err)
{
    struct measurement m = {.pool = device->pool, .host = device->host, .loops = loops_for(device->isa)};
    const double n = device->n_threads;
    void *memory = NULL;
    int32_t status = memory_take(device, READ_BYTES * device->n_threads, "measuring", &memory, err);
    if (status)
        return status;
    m.memory = memory;
    device->host->pool_run(device->pool, task, &m);
    memory_give(device, memory);
    rates->read_bytes_per_s = n * (double)READ_BYTES / m.best[0];
    rates->int8_ops_per_s = n * LOOP_COUNT * m.loops->ops_int8 / m.best[1];
    rates->f32_ops_per_s = n * LOOP_COUNT * m.loops->ops_f32 / m.best[2];
    return SHARPI_OK;
}
