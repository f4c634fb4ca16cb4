/* A sound plugin that offers one of each kind, takes two keys and says in the log what it got and when it ends. */
#include "fixture.h"

static const struct sharpi_backend backend = {FIXTURE_BACKEND, .name = "good-backend",
                                              .summary = "no device"};
static const struct sharpi_arch arch = {FIXTURE_ARCH, .name = "good-arch"};
static const struct sharpi_kv kv = {FIXTURE_KV, .name = "good-kv"};

struct state {
    const struct sharpi_host *host;
};

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    struct state *state = host->alloc(host, sizeof *state, 0);
    const char *level = host->config_get(config, "level");
    int32_t status;
    if (!state)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory");
    state->host = host;
    if ((status = host->register_backend(host, &backend, state, err)) ||
        (status = host->register_arch(host, &arch, state, err)) ||
        (status = host->register_kv(host, &kv, state, err))) {
        host->free(host, state);
        return status;
    }
    host->log(host, SHARPI_LOG_INFO, "good", level ? level : "no level");
    *ctx = state;
    return SHARPI_OK;
}

static void fini(void *ctx)
{
    struct state *state = ctx;
    const struct sharpi_host *host = state->host;
    host->log(host, SHARPI_LOG_INFO, "good", "fini good");
    host->free(host, state);
}

static const char *const keys[] = {"level", "memory_limit", NULL};
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("good"), .init = init, .fini = fini,
                                            .config_keys = keys};
SHARPI_PLUGIN_ENTRY(plugin)
