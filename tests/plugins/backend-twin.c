/* The CPU backend a second time, as a device with memory of its own: so that models in several parts can be tested without a GPU,
 * to the bit. [backend-twin] devices = N makes it several; memory_limit is the core's to read. */
#include <stdlib.h>
#include <string.h>

#include "plugins/backend-cpu/measure.h"
#include "plugins/backend-cpu/program.h"

struct twin {
    struct cpu_backend cpu; /* first: the CPU's functions take it for theirs */
    uint32_t n_devices;
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
    (void)index;
    info->integrated = 0;
    snprintf(info->name, sizeof info->name, "twin");
    return status;
}

static int32_t device_open(void *ctx, uint32_t index, const struct sharpi_device_options *options,
                           struct sharpi_device **out, struct sharpi_error *err)
{
    (void)index;
    return cpu_device_open(ctx, 0, options, out, err);
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
    .supports = cpu_supports,
    .compile = cpu_compile,
    .program_memory = cpu_program_memory,
    .load = cpu_load,
    .program_destroy = cpu_program_destroy,
    .run = cpu_run,
    .measure = cpu_measure,
};

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    const char *devices = host->config_get(config, "devices");
    struct twin *twin = host->alloc(host, sizeof *twin, 0);
    int32_t status;
    if (!twin)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the twin");
    twin->cpu.host = host;
    twin->cpu.isa_wanted = -1;
    twin->n_devices = devices ? (uint32_t)atoi(devices) : 1;
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

static const char *const config_keys[] = {"devices", "memory_limit", NULL};

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
