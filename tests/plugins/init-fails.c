/* Registers all kinds, then fails: nothing of it may stay, and fini may not be called. */
#include "fixture.h"

static const struct sharpi_backend backend = {FIXTURE_BACKEND, .name = "failing-backend"};
static const struct sharpi_arch arch = {FIXTURE_ARCH, .name = "failing-arch"};
static const struct sharpi_kv kv = {FIXTURE_KV, .name = "failing-kv"};

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config;
    *ctx = (void *)(uintptr_t)host;
    if (host->register_backend(host, &backend, NULL, err) || host->register_arch(host, &arch, NULL, err) ||
        host->register_kv(host, &kv, NULL, err))
        return SHARPI_EBUG;
    return sharpi_fail(err, SHARPI_EDEVICE, "the driver is version 1, version 2 is needed");
}

static void fini(void *ctx)
{
    const struct sharpi_host *host = ctx;
    host->log(host, SHARPI_LOG_ERROR, "init-fails", "fini after a failed init");
}

static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("init-fails"), .init = init, .fini = fini};
SHARPI_PLUGIN_ENTRY(plugin)
