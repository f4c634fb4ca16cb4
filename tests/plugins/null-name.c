/* Has no name. */
#include "fixture.h"
static const struct sharpi_plugin plugin = {FIXTURE_PLUGIN(NULL), .init = f_init};
SHARPI_PLUGIN_ENTRY(plugin)
