/* A backend without `run`, which is the last member. */
#include "fixture.h"
static const struct sharpi_backend backend = {.size = sizeof backend,
                                              .name = "incomplete",
                                              .device_count = f_device_count,
                                              .device_info = f_device_info,
                                              .device_open = f_device_open,
                                              .device_close = f_device_close,
                                              .alloc = f_alloc,
                                              .free = f_free,
                                              .copy = f_copy,
                                              .write = f_write,
                                              .read = f_read,
                                              .supports = f_supports,
                                              .compile = f_compile,
                                              .program_memory = f_program_memory,
                                              .load = f_load,
                                              .program_destroy = f_program_destroy};
static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config, (void)ctx;
    return host->register_backend(host, &backend, NULL, err);
}
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("incomplete-backend"), .init = init};
SHARPI_PLUGIN_ENTRY(plugin)
