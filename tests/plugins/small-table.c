/* Made with headers that end at init: sound, for ever. What lies behind must not be read. */
#include "fixture.h"
static const struct {
    struct sharpi_plugin table;
} plugin = {{.magic = SHARPI_PLUGIN_MAGIC,
             .abi_major = SHARPI_ABI_MAJOR,
             .size = offsetof(struct sharpi_plugin, fini),
             .name = "small-table",
             .version = "1.0",
             .init = f_init,
             .fini = (void (*)(void *))(uintptr_t)0x10,
             .config_keys = (const char *const *)(uintptr_t)0x10}};
SHARPI_PLUGIN_ENTRY(plugin.table)
