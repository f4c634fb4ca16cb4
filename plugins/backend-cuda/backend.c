/* The CUDA backend's plugin entry: its settings and its table. */
#include "program.h"

#include "../backend-common/settings.h"

#include <string.h>

/* 99 KiB, which every chip since 8.0 gives a block, to 227 KiB, which none exceeds. */
#define MIN_SHARED_BYTES (99 << 10)
#define MAX_SHARED_BYTES (227 << 10)

static const char *const config_keys[] = {"memory_limit", "graphs",        "overlap", "cublas",
                                          "sequences",    "shared_memory", NULL};

static const struct sharpi_backend cuda_backend_table = {
    .size = sizeof cuda_backend_table,
    .name = "cuda",
    .summary = "NVIDIA GPUs: repacked weights, tensor cores, decode steps as CUDA graphs",
    .device_count = cuda_device_count,
    .device_info = cuda_device_info,
    .device_open = cuda_device_open,
    .device_close = cuda_device_close,
    .alloc = cuda_alloc,
    .free = cuda_give,
    .copy = cuda_copy,
    .write = cuda_write,
    .read = cuda_read,
    .supports = cuda_supports,
    .compile = cuda_compile,
    .program_memory = cuda_program_memory,
    .load = cuda_load,
    .program_destroy = cuda_program_destroy,
    .run = cuda_run,
    .measure = cuda_measure,
    .max_best = TOPK_MAX,
};

static int32_t read_switch(const char *key, const char *value, uint32_t *on, struct sharpi_error *err)
{
    *on = 1;
    if (!value || strcmp(value, "true") == 0)
        return SHARPI_OK;
    *on = 0;
    if (strcmp(value, "false") == 0)
        return SHARPI_OK;
    return sharpi_fail(err, SHARPI_EINVAL, "[backend-cuda] %s = %s: must be true or false", key, value);
}

static int32_t read_shared_memory(const char *value, uint32_t *n_bytes, struct sharpi_error *err)
{
    uint64_t n = 0;
    const int32_t status = setting_size("backend-cuda", "shared_memory", value, &n, err);
    if (!status && value && (n < MIN_SHARED_BYTES || n > MAX_SHARED_BYTES))
        return sharpi_fail(err, SHARPI_EINVAL,
                           "[backend-cuda] shared_memory = %s: a block uses from %dK to %dK", value,
                           MIN_SHARED_BYTES >> 10, MAX_SHARED_BYTES >> 10);
    *n_bytes = (uint32_t)n;
    return status;
}

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    struct cuda_backend *backend = host->alloc(host, sizeof *backend, 0);
    int32_t status;
    if (!backend)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the CUDA backend");
    backend->host = host;
    cuda_nvml_init(&backend->nvml);
    if ((status = setting_size("backend-cuda", "memory_limit", host->config_get(config, "memory_limit"),
                               &backend->memory_limit, err)) ||
        (status = read_switch("graphs", host->config_get(config, "graphs"), &backend->use_graphs, err)) ||
        (status = read_switch("overlap", host->config_get(config, "overlap"), &backend->use_overlap, err)) ||
        (status = read_switch("cublas", host->config_get(config, "cublas"), &backend->use_blas, err)) ||
        (status =
             read_switch("sequences", host->config_get(config, "sequences"), &backend->use_sequences, err)) ||
        (status =
             read_shared_memory(host->config_get(config, "shared_memory"), &backend->shared_bytes, err)) ||
        (status = host->register_backend(host, &cuda_backend_table, backend, err))) {
        cuda_nvml_finish(&backend->nvml);
        host->free(host, backend);
        return status;
    }
    *ctx = backend;
    return SHARPI_OK;
}

static void fini(void *ctx)
{
    struct cuda_backend *backend = ctx;
    cuda_nvml_finish(&backend->nvml);
    backend->host->free(backend->host, backend);
}

static const struct sharpi_plugin plugin = {
    SHARPI_PLUGIN_HEAD,
    .name = "backend-cuda",
    .version = "0.1.0",
    .license = "MIT",
    .summary = "runs models on NVIDIA GPUs",
    .init = init,
    .fini = fini,
    .config_keys = config_keys,
};

SHARPI_PLUGIN_ENTRY(plugin)
