/* Its entry returns nothing. */
#include "fixture.h"
__attribute__((visibility("default"))) const struct sharpi_plugin *sharpi_plugin_entry(void);
const struct sharpi_plugin *sharpi_plugin_entry(void)
{
    return NULL;
}
