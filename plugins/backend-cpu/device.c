/* Opening the CPU: which instruction set, how many threads. */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_THREADS 1024u

uint32_t cpu_device_count(void *ctx, struct sharpi_error *err)
{
    (void)ctx;
    (void)err;
    return 1;
}

int32_t cpu_choose_isa(const struct cpu_backend *backend, enum cpu_isa *isa, struct sharpi_error *err)
{
    enum cpu_isa best = cpu_isa_detect();
    int32_t wanted = backend->isa_wanted;
    const char *variable = secure_getenv("SHARPI_CPU_ISA");
    if (variable && *variable && (wanted = cpu_isa_by_name(variable)) < 0)
        return sharpi_fail(err, SHARPI_EINVAL,
                           "SHARPI_CPU_ISA=%s: unknown; it takes scalar, avx2, avx512 or avx512bf16",
                           variable);
    if (wanted > (int32_t)best)
        return sharpi_fail(err, SHARPI_ENOTSUP, "instruction set %s was asked for, this CPU has %s at best",
                           cpu_isa_name((enum cpu_isa)wanted), cpu_isa_name(best));
    *isa = wanted >= 0 ? (enum cpu_isa)wanted : best;
    return SHARPI_OK;
}

static uint32_t choose_threads(const struct cpu_backend *backend, uint32_t wanted)
{
    uint32_t n = wanted ? wanted : backend->n_threads ? backend->n_threads : machine_cores();
    return n < MAX_THREADS ? n : MAX_THREADS;
}

int32_t cpu_device_info(void *ctx, uint32_t index, struct sharpi_device_info *info, struct sharpi_error *err)
{
    const struct cpu_backend *backend = ctx;
    enum cpu_isa isa = CPU_ISA_SCALAR;
    char cpu[40];
    int32_t status = cpu_choose_isa(backend, &isa, err);
    if (status)
        return status;
    if (index != 0)
        return sharpi_fail(err, SHARPI_EINVAL, "there is one CPU device, number 0, not %u", index);
    machine_name(cpu, sizeof cpu);
    info->integrated = 1;
    info->max_threads = choose_threads(backend, 0);
    snprintf(info->name, sizeof info->name, "%s, %s", cpu, cpu_isa_name(isa));
    machine_memory(&info->total_bytes, &info->free_bytes);
    if (backend->memory_limit && backend->memory_limit < info->total_bytes)
        info->total_bytes = backend->memory_limit;
    if (info->free_bytes > info->total_bytes)
        info->free_bytes = info->total_bytes;
    return SHARPI_OK;
}

/* The smaller of two limits, where 0 means none. */
static uint64_t tighter(uint64_t a, uint64_t b)
{
    return !a || (b && b < a) ? b : a;
}

int32_t cpu_device_open(void *ctx, uint32_t index, const struct sharpi_device_options *options,
                        struct sharpi_device **out, struct sharpi_error *err)
{
    const struct cpu_backend *backend = ctx;
    const struct sharpi_host *host = backend->host;
    struct sharpi_device *device;
    enum cpu_isa isa;
    int32_t status;
    *out = NULL;
    if (index != 0)
        return sharpi_fail(err, SHARPI_EINVAL, "there is one CPU device, number 0, not %u", index);
    if ((status = cpu_choose_isa(backend, &isa, err)))
        return status;
    device = host->alloc(host, sizeof *device, 0);
    if (!device)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to open the CPU device");
    device->backend = backend;
    device->host = host;
    device->isa = isa;
    device->repack = options->repack;
    device->memory_limit = tighter(options->memory_limit, backend->memory_limit);
    status = host->pool_create(host, choose_threads(backend, options->n_threads), &device->pool, err);
    if (status) {
        host->free(host, device);
        return status;
    }
    device->n_threads = host->pool_threads(device->pool);
    *out = device;
    return SHARPI_OK;
}

void cpu_device_close(struct sharpi_device *device)
{
    if (!device)
        return;
    device->host->pool_destroy(device->pool);
    device->host->free(device->host, device);
}
