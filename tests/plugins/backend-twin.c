/* The CPU backend a second time, as a device with memory of its own: so that models in several parts can be tested without a GPU,
 * to the bit. [backend-twin] devices = N makes it several, granularity = N says that its blocks are multiples of N, runtime = N that
 * opening the first one takes N bytes; memory_limit is the core's to read; refused = KIND makes it refuse ops of that kind, refused_kv =
 * FORMAT attention with a cache in that format; unusable = N that its first N devices cannot be used. All of its memory is always free. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plugins/backend-cpu/measure.h"
#include "plugins/backend-cpu/program.h"

struct twin {
    struct cpu_backend cpu; /* first: the CPU's functions take it for theirs */
    uint32_t n_devices, n_unusable;
    uint64_t granularity, runtime, runtime_taken;
    int32_t refused;     /* kind of op, 0 = none */
    char refused_kv[32]; /* format of a cache, "" = none */
};

static uint32_t device_count(void *ctx, struct sharpi_error *err)
{
    const struct twin *twin = ctx;
    if (!twin->n_devices)
        sharpi_fail(err, SHARPI_EDEVICE, "[backend-twin] devices = 0");
    return twin->n_devices;
}

static int32_t device_info(void *ctx, uint32_t index, struct sharpi_device_info *info,
                           struct sharpi_error *err)
{
    int32_t status = cpu_device_info(ctx, 0, info, err);
    const struct twin *twin = ctx;
    if (index < twin->n_unusable)
        return sharpi_fail(err, SHARPI_ENOTSUP, "[backend-twin] unusable = %u", twin->n_unusable);
    info->free_bytes = info->total_bytes - twin->runtime_taken;
    info->integrated = 0;
    info->granularity = twin->granularity;
    snprintf(info->name, sizeof info->name, "twin");
    return status;
}

static int32_t device_open(void *ctx, uint32_t index, const struct sharpi_device_options *options,
                           struct sharpi_device **out, struct sharpi_error *err)
{
    struct twin *twin = ctx;
    (void)index;
    twin->runtime_taken = twin->runtime;
    return cpu_device_open(ctx, 0, options, out, err);
}

static int32_t supports(void *ctx, const struct sharpi_graph_view *graph, const struct sharpi_op *op,
                        const struct sharpi_kv_layer *kv, struct sharpi_error *err)
{
    const struct twin *twin = ctx;
    if (op->kind == twin->refused)
        return sharpi_fail(err, SHARPI_ENOTSUP, "layer %d: the twin refuses ops of kind %d", op->layer,
                           op->kind);
    if (op->kind == SHARPI_OP_ATTENTION && kv && kv->kv && strcmp(kv->kv->name, twin->refused_kv) == 0)
        return sharpi_fail(err, SHARPI_ENOTSUP, "the twin has no kernels for %s", kv->kv->name);
    return cpu_supports(ctx, graph, op, kv, err);
}

/* ---- Candidates: found the slow way, in a row that the caller does not see */

enum { MAX_BEST = 64 };

static void find_best(const float *row, uint32_t n_vocab, uint32_t k, int32_t *ids, float *values,
                      float *log_sum)
{
    double sum = 0;
    for (uint32_t i = 0; i < k; i++) {
        int32_t best = -1;
        for (uint32_t v = 0; v < n_vocab; v++) {
            int32_t taken = 0;
            for (uint32_t j = 0; j < i; j++)
                taken |= ids[j] == (int32_t)v;
            if (!taken && (best < 0 || row[v] > row[best]))
                best = (int32_t)v;
        }
        ids[i] = best;
        values[i] = row[best];
    }
    for (uint32_t v = 0; v < n_vocab; v++)
        sum += exp((double)row[v] - (double)values[0]);
    *log_sum = values[0] + (float)log(sum);
}

static int32_t run(struct sharpi_program *program, const struct sharpi_batch *batch,
                   const struct sharpi_run_io *io, struct sharpi_error *err)
{
    const struct sharpi_host *host = program->flow.host;
    struct sharpi_run_io own = *io;
    const uint32_t k = io->n_best;
    int32_t status;
    if (!k || !batch->n_logits || !program->flow.n_vocab)
        return cpu_run(program, batch, io, err);
    own.logits = host->alloc(host, (uint64_t)batch->n_logits * program->flow.n_vocab * sizeof(float), 0);
    if (!own.logits)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %u rows", batch->n_logits);
    own.n_best = 0;
    status = cpu_run(program, batch, &own, err);
    for (uint32_t i = 0; i < batch->n_logits && !status; i++)
        find_best(own.logits + (size_t)i * program->flow.n_vocab, (uint32_t)program->flow.n_vocab, k,
                  io->best_ids + (size_t)i * k, io->best_logits + (size_t)i * k, &io->best_log_sum[i]);
    host->free(host, own.logits);
    return status;
}

static const struct sharpi_backend backend = {
    .size = sizeof backend,
    .name = "twin",
    .summary = "the processor, as if it were a card",
    .device_count = device_count,
    .device_info = device_info,
    .device_open = device_open,
    .device_close = cpu_device_close,
    .alloc = cpu_alloc,
    .free = memory_give,
    .copy = cpu_copy,
    .write = cpu_write,
    .read = cpu_read,
    .supports = supports,
    .compile = cpu_compile,
    .program_memory = cpu_program_memory,
    .load = cpu_load,
    .program_destroy = cpu_program_destroy,
    .run = run,
    .measure = cpu_measure,
    .max_best = MAX_BEST,
};

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    const char *devices = host->config_get(config, "devices");
    const char *unusable = host->config_get(config, "unusable");
    const char *refused = host->config_get(config, "refused");
    const char *refused_kv = host->config_get(config, "refused_kv");
    const char *granularity = host->config_get(config, "granularity");
    const char *runtime = host->config_get(config, "runtime");
    struct twin *twin = host->alloc(host, sizeof *twin, 0);
    int32_t status;
    if (!twin)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the twin");
    twin->cpu.host = host;
    twin->cpu.isa_wanted = -1;
    twin->n_devices = devices ? (uint32_t)atoi(devices) : 1;
    twin->n_unusable = unusable ? (uint32_t)atoi(unusable) : 0;
    twin->refused = refused ? atoi(refused) : 0;
    snprintf(twin->refused_kv, sizeof twin->refused_kv, "%s", refused_kv ? refused_kv : "");
    twin->granularity = granularity ? (uint64_t)atoi(granularity) : 0;
    twin->runtime = runtime ? (uint64_t)atoll(runtime) : 0;
    status = host->register_backend(host, &backend, twin, err);
    if (status)
        host->free(host, twin);
    else
        *ctx = twin;
    return status;
}

static void fini(void *ctx)
{
    struct twin *twin = ctx;
    twin->cpu.host->free(twin->cpu.host, twin);
}

static const char *const config_keys[] = {"devices",    "granularity",  "runtime",  "refused",
                                          "refused_kv", "memory_limit", "unusable", NULL};

static const struct sharpi_plugin plugin = {
    SHARPI_PLUGIN_HEAD,
    .name = "backend-twin",
    .version = "0.1.0",
    .license = "MIT",
    .summary = "the CPU backend under another name, for tests",
    .init = init,
    .fini = fini,
    .config_keys = config_keys,
};

SHARPI_PLUGIN_ENTRY(plugin)
