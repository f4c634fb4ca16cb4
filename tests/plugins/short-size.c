/* Its table ends before init. */
#include "fixture.h"
static const struct sharpi_plugin plugin = {.magic = SHARPI_PLUGIN_MAGIC,
                                            .abi_major = SHARPI_ABI_MAJOR,
                                            .size = offsetof(struct sharpi_plugin, init),
                                            .name = "short-size",
                                            .version = "1.0"};
SHARPI_PLUGIN_ENTRY(plugin)
