/* Has no init. */
#include "fixture.h"
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN("null-init")};
SHARPI_PLUGIN_ENTRY(plugin)
