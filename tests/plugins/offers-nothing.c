/* Registers nothing. */
#include "fixture.h"
static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)host, (void)config, (void)ctx, (void)err;
    return SHARPI_OK;
}
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("offers-nothing"), .init = init};
SHARPI_PLUGIN_ENTRY(plugin)
