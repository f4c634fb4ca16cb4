/* Made for a later interface. */
#include "fixture.h"
static const struct sharpi_plugin plugin = {.magic = SHARPI_PLUGIN_MAGIC,
                                            .abi_major = SHARPI_ABI_MAJOR + 1,
                                            .size = sizeof plugin,
                                            .name = "future-major"};
SHARPI_PLUGIN_ENTRY(plugin)
