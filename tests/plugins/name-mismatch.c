/* Calls itself other than its file. */
#include "fixture.h"
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("something-else"), .init = f_init};
SHARPI_PLUGIN_ENTRY(plugin)
