/* Offers the same architecture twice. */
#include "fixture.h"
static const struct sharpi_arch arch = {FIXTURE_ARCH, .name = "twice"};
static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    int32_t status = host->register_arch(host, &arch, NULL, err);
    (void)config, (void)ctx;
    return status ? status : host->register_arch(host, &arch, NULL, err);
}
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("duplicate-arch"), .init = init};
SHARPI_PLUGIN_ENTRY(plugin)
