/* A KV format whose size says that `decode` is not there, though the memory is. */
#include "fixture.h"
static const struct sharpi_kv kv = {.size = offsetof(struct sharpi_kv, decode),
                                    .name = "incomplete",
                                    .row_bytes = f_row_bytes,
                                    .encode = f_encode,
                                    .decode = f_decode};
static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config, (void)ctx;
    return host->register_kv(host, &kv, NULL, err);
}
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("incomplete-kv"), .init = init};
SHARPI_PLUGIN_ENTRY(plugin)
