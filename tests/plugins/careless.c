/* Does not look whether it got memory, and exports more than its entry. */
#include "fixture.h"

__attribute__((visibility("default"))) int careless_helper(int x);
int careless_helper(int x)
{
    return x + 1;
}

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    volatile int *memory = host->alloc(host, 64, 0);
    memory[0] = careless_helper(1);
    *ctx = NULL;
    host->free(host, (void *)(uintptr_t)memory);
    return f_init(host, config, ctx, err);
}
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("careless"), .init = init};
SHARPI_PLUGIN_ENTRY(plugin)
