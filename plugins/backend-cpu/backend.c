/* The CPU backend's plugin entry: its settings and its table. */
#include "../backend-common/settings.h"
#include "measure.h"
#include "program.h"

#include <ctype.h>
#include <stdlib.h>

static const char *const config_keys[] = {"isa", "threads", "memory_limit", NULL};

static const struct sharpi_backend cpu_backend = {
    .size = sizeof cpu_backend,
    .name = "cpu",
    .summary = "the processor: repacked weights, integer products, fused row steps",
    .device_count = cpu_device_count,
    .device_info = cpu_device_info,
    .device_open = cpu_device_open,
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

static int32_t read_isa(const char *value, int32_t *isa, struct sharpi_error *err)
{
    if (!value)
        return SHARPI_OK;
    *isa = cpu_isa_by_name(value);
    if (*isa < 0)
        return sharpi_fail(err, SHARPI_EINVAL,
                           "[backend-cpu] isa = %s: unknown; it takes scalar, avx2, avx512 or avx512bf16",
                           value);
    return SHARPI_OK;
}

static int32_t read_threads(const char *value, uint32_t *n_threads, struct sharpi_error *err)
{
    char *end;
    unsigned long n;
    if (!value)
        return SHARPI_OK;
    n = strtoul(value, &end, 10);
    if (!isdigit((unsigned char)*value) || *end || n > 1024)
        return sharpi_fail(err, SHARPI_EINVAL, "[backend-cpu] threads = %s: must be 0 (one per core) to 1024",
                           value);
    *n_threads = (uint32_t)n;
    return SHARPI_OK;
}

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    struct cpu_backend *backend = host->alloc(host, sizeof *backend, 0);
    int32_t status;
    if (!backend)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the CPU backend");
    backend->host = host;
    backend->isa_wanted = -1;
    if ((status = read_isa(host->config_get(config, "isa"), &backend->isa_wanted, err)) ||
        (status = read_threads(host->config_get(config, "threads"), &backend->n_threads, err)) ||
        (status = setting_size("backend-cpu", "memory_limit", host->config_get(config, "memory_limit"),
                               &backend->memory_limit, err)) ||
        (status = host->register_backend(host, &cpu_backend, backend, err))) {
        host->free(host, backend);
        return status;
    }
    *ctx = backend;
    return SHARPI_OK;
}

static void fini(void *ctx)
{
    struct cpu_backend *backend = ctx;
    backend->host->free(backend->host, backend);
}

static const struct sharpi_plugin plugin = {
    SHARPI_PLUGIN_HEAD,
    .name = "backend-cpu",
    .version = "0.1.0",
    .license = "MIT",
    .summary = "runs models on the processor",
    .init = init,
    .fini = fini,
    .config_keys = config_keys,
};

SHARPI_PLUGIN_ENTRY(plugin)
