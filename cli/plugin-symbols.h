/* The dynamic symbols of a shared object, read from the file without loading it. */
#ifndef SHARPI_CLI_PLUGIN_SYMBOLS_H
#define SHARPI_CLI_PLUGIN_SYMBOLS_H

#include <sharpi/plugin/tensor.h>

/* Called for each. `defined`: the object exports it; else it needs it from elsewhere. */
typedef void plugin_symbol_fn(void *user, const char *name, int32_t defined);
/* Called for each library that the object names as needed. */
typedef void plugin_needed_fn(void *user, const char *name);

/* SHARPI_EFORMAT says what is wrong with the file; a hostile one does no harm. */
int32_t plugin_symbols(const char *path, plugin_symbol_fn *symbol, plugin_needed_fn *needed, void *user,
                       struct sharpi_error *err);

#endif
