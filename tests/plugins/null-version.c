/* Has no version. */
#include "fixture.h"
static const struct sharpi_plugin plugin = {SHARPI_PLUGIN_HEAD, .name = "null-version", .init = f_init};
SHARPI_PLUGIN_ENTRY(plugin)
