/* Not a plugin, though it has the entry. */
#include "fixture.h"
static const struct sharpi_plugin plugin = {
    .magic = 0x12345678, .abi_major = SHARPI_ABI_MAJOR, .size = sizeof plugin, .name = "bad-magic"};
SHARPI_PLUGIN_ENTRY(plugin)
