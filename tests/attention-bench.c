/* Speed of attention: decode as bytes of cache read per second, prefill as operations per second.
 *
 * Floors: decode reads K and V once, 2 * depth * row_bytes; prefill does 4 * head_dim operations per (query
 * head, visible key).
 */
#include <time.h>

#include "attention-bench.h"
#include "attention-world.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct world_shape bench_shape(const char *format, enum cpu_isa isa, uint32_t depth,
                                      uint32_t max_threads)
{
    struct world_shape shape = {0};
    shape.format = format;
    shape.isa = isa;
    shape.n_heads = 32;
    shape.n_kv_heads = 8;
    shape.head_dim = 128;
    shape.max_length = shape.ring = depth;
    shape.n_seqs = 1;
    shape.n_threads = max_threads;
    return shape;
}

/* Fills positions [0, depth) by appending chunks of random rows without attending. */
static void fill(struct world *world, uint32_t depth)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    while (world->length[0] < depth) {
        const uint32_t n = depth - world->length[0] < 256 ? depth - world->length[0] : 256;
        const uint64_t stride = (uint64_t)world->shape.n_kv_heads * world->shape.head_dim;
        struct attention_job job = {.plan = &world->plan,
                                    .batch = &world->batch,
                                    .k = world->k,
                                    .v = world->v,
                                    .k_stride = stride,
                                    .v_stride = stride};
        if (world_batch(world, &n, &err))
            fprintf(stderr, "%s\n", err.text);
        attention_append(&job, 0, n);
        world_commit(world);
    }
}

/* Seconds of the fastest of several runs of a step of n tokens at the world's present length. */
static double step_seconds(struct world *world, uint32_t n, uint32_t nth)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    double best = 1e30;
    const double deadline = now() + 0.4;

    if (world_batch(world, &n, &err))
        fprintf(stderr, "%s\n", err.text);
    for (uint32_t i = 0; i < 3 || (i < 200 && now() < deadline); i++) {
        const double start = now();
        double t;
        world_run(world, nth, i == 0);
        t = now() - start;
        best = t < best ? t : best;
    }
    return best;
}

static void bench_format(const struct kv_formats *formats, const char *format, enum cpu_isa isa,
                         uint32_t max_threads)
{
    static const uint32_t depths[] = {4096, 32768};
    for (uint32_t i = 0; i < 2; i++) {
        struct world world;
        const struct world_shape shape = bench_shape(format, isa, depths[i], max_threads);
        if (world_init(&world, formats, &shape))
            return;
        fill(&world, depths[i] - 512);
        for (uint32_t nth = 1; nth <= max_threads; nth *= 2) {
            const double bytes = 2.0 * (depths[i] - 511) * (double)world.plan.row_bytes;
            const double seconds = step_seconds(&world, 1, nth);
            printf("%-6s %-10s decode  depth %5u threads %2u: %8.3f ms %7.2f GB/s\n", format,
                   cpu_isa_name(isa), depths[i], nth, 1e3 * seconds, 1e-9 * bytes / seconds);
        }
        for (uint32_t depth = 0; i == 0 && depth <= 3584; depth += 3584)
            for (uint32_t nth = 1; nth <= max_threads; nth *= 2) {
                double seconds, pairs = 512.0 * depth + 512.0 * 513 / 2;
                world.length[0] = depth;
                seconds = step_seconds(&world, 512, nth);
                printf("%-6s %-10s prefill depth %5u threads %2u: %8.3f ms %7.1f GFLOP/s\n", format,
                       cpu_isa_name(isa), depth, nth, 1e3 * seconds,
                       1e-9 * 4.0 * shape.head_dim * shape.n_heads * pairs / seconds);
            }
        world_free(&world);
    }
}

void attention_bench(const struct kv_formats *formats, uint32_t max_threads)
{
    const enum cpu_isa isa = cpu_isa_detect();
    for (uint32_t f = 0; f < formats->n; f++)
        bench_format(formats, formats->list[f].kv->name, isa, max_threads);
}
