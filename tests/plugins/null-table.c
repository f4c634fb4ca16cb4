/* Registers NULL. */
#include "fixture.h"
static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config, (void)ctx;
    return host->register_kv(host, NULL, NULL, err);
}
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("null-table"), .init = init};
SHARPI_PLUGIN_ENTRY(plugin)
