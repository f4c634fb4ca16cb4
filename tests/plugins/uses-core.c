/* Calls a function of libsharpi, which a plugin must not need. */
#include <sharpi/sharpi.h>

#include "fixture.h"

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    if (!sharpi_version())
        return SHARPI_EBUG;
    return f_init(host, config, ctx, err);
}
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("uses-core"), .init = init};
SHARPI_PLUGIN_ENTRY(plugin)
