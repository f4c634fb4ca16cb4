/* An architecture without `build`. */
#include "fixture.h"
static const struct sharpi_arch arch = {.size = sizeof arch, .name = "incomplete", .describe = f_describe};
static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config, (void)ctx;
    return host->register_arch(host, &arch, NULL, err);
}
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("incomplete-arch"), .init = init};
SHARPI_PLUGIN_ENTRY(plugin)
