/* Offers a backend that good has too. */
#include "fixture.h"
static const struct sharpi_backend backend = {FIXTURE_BACKEND, .name = "good-backend"};
static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config, (void)ctx;
    return host->register_backend(host, &backend, NULL, err);
}
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("duplicate-backend"), .init = init};
SHARPI_PLUGIN_ENTRY(plugin)
