/* What the files of the plugin loader share. */
#ifndef SHARPI_CORE_PLUGINS_INTERNAL_H
#define SHARPI_CORE_PLUGINS_INTERNAL_H

#include "plugins.h"

/* plugin-find.c: where a plugin's file is. SHARPI_OK with record->path; each file looked for is added to record->tried. */
int32_t sharpi_plugin_find_file(struct sharpi_engine *engine, const char *listed,
                                struct sharpi_plugin_record *record, struct sharpi_error *err);
/* Replaces one of the record's strings by a copy; SHARPI_ENOMEM leaves it as it was. */
int32_t sharpi_plugin_set(char **string, const char *text, struct sharpi_error *err);

/* plugin-open.c: from a file to an initialised plugin. On an error nothing is left open or registered. */
int32_t sharpi_plugin_open(struct sharpi_engine *engine, struct sharpi_plugin_record *record,
                           struct sharpi_error *err);
void sharpi_plugin_close(struct sharpi_plugin_record *record);
/* What can be told from the table alone. */
int32_t sharpi_plugin_check_table(const struct sharpi_plugin *table,
                                  const struct sharpi_plugin_record *record, struct sharpi_error *err);

/* plugin-offers.c: what host->register_* do. */
int32_t sharpi_plugin_offer(struct sharpi_engine *engine, const struct sharpi_offer *offer,
                            struct sharpi_error *err);
void sharpi_plugin_drop_offers(struct sharpi_plugins *plugins, uint32_t n_kept);

#endif
