/* A second sound plugin: same architecture name as good (allowed), with a probe that takes nothing; says when it ends. */
#include "fixture.h"

static int32_t probe(void *ctx, const struct sharpi_model_file *file, struct sharpi_error *err)
{
    (void)ctx, (void)file;
    return sharpi_fail(err, SHARPI_OK, "other takes no file");
}

static const struct sharpi_arch arch = {FIXTURE_ARCH, .name = "good-arch", .probe = probe};

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config;
    *ctx = (void *)(uintptr_t)host;
    return host->register_arch(host, &arch, NULL, err);
}

static void fini(void *ctx)
{
    const struct sharpi_host *host = ctx;
    host->log(host, SHARPI_LOG_INFO, "other", "fini other");
}

static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("other"), .init = init, .fini = fini};
SHARPI_PLUGIN_ENTRY(plugin)
