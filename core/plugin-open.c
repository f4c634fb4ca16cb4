/* Loading one plugin: dlopen, the checks of its table, its configuration, its init. See plugin.h for what is frozen. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "plugins-internal.h"

/* dlsym gives an object pointer; POSIX promises that it holds a function's address. */
static sharpi_plugin_entry_fn *find_entry(void *handle)
{
    void *symbol = dlsym(handle, "sharpi_plugin_entry");
    sharpi_plugin_entry_fn *entry;
    memcpy(&entry, &symbol, sizeof entry);
    return entry;
}

static int32_t check_head(const struct sharpi_plugin *table, struct sharpi_error *err)
{
    const uint32_t needed = offsetof(struct sharpi_plugin, init) + sizeof table->init;
    if (!table)
        return sharpi_fail(err, SHARPI_EABI, "sharpi_plugin_entry returned NULL");
    if (table->magic != SHARPI_PLUGIN_MAGIC)
        return sharpi_fail(err, SHARPI_EABI,
                           "not a sharpi plugin: its table begins with 0x%08x, not with 0x%08x", table->magic,
                           SHARPI_PLUGIN_MAGIC);
    if (table->abi_major != SHARPI_ABI_MAJOR)
        return sharpi_fail(
            err, SHARPI_EABI, "made for version %u of the plugin interface, this sharpi has version %u: %s",
            table->abi_major, SHARPI_ABI_MAJOR,
            table->abi_major > SHARPI_ABI_MAJOR ? "it needs a newer sharpi"
                                                : "rebuild the plugin with this sharpi's headers");
    if (table->size < needed)
        return sharpi_fail(err, SHARPI_EABI, "its table has %u bytes, at least %u are needed", table->size,
                           needed);
    return SHARPI_OK;
}

int32_t sharpi_plugin_check_table(const struct sharpi_plugin *table,
                                  const struct sharpi_plugin_record *record, struct sharpi_error *err)
{
    int32_t status = check_head(table, err);
    if (status)
        return status;
    if (!table->name)
        return sharpi_fail(err, SHARPI_EABI, "its table's required member 'name' is NULL");
    if (!table->version)
        return sharpi_fail(err, SHARPI_EABI, "its table's required member 'version' is NULL");
    if (!table->init)
        return sharpi_fail(err, SHARPI_EABI, "its table's required member 'init' is NULL");
    if (strcmp(table->name, record->name) != 0)
        return sharpi_fail(err, SHARPI_EABI, "it calls itself '%.100s' but its file is named '%.100s.so'",
                           table->name, record->name);
    return SHARPI_OK;
}

static int32_t read_table(struct sharpi_plugin_record *record, struct sharpi_error *err)
{
    sharpi_plugin_entry_fn *entry;
    int32_t status;
    record->handle = dlopen(record->path, RTLD_NOW | RTLD_LOCAL);
    if (!record->handle)
        return sharpi_fail(err, SHARPI_EABI, "%s", dlerror());
    entry = find_entry(record->handle);
    if (!entry)
        return sharpi_fail(err, SHARPI_EABI, "not a sharpi plugin: %s", dlerror());
    record->table = entry();
    status = sharpi_plugin_check_table(record->table, record, err);
    if (status)
        return status;
    if ((status = sharpi_plugin_set(&record->version, record->table->version, err)) ||
        (record->table->license &&
         (status = sharpi_plugin_set(&record->license, record->table->license, err))) ||
        (record->table->summary &&
         (status = sharpi_plugin_set(&record->summary, record->table->summary, err))))
        return status;
    return SHARPI_OK;
}

static int32_t run_init(struct sharpi_engine *engine, struct sharpi_plugin_record *record,
                        struct sharpi_error *err)
{
    struct sharpi_plugins *plugins = &engine->plugins;
    const uint32_t n_offers = plugins->n_offers;
    struct sharpi_error reason = SHARPI_ERROR_INIT;
    int32_t status;
    record->config = (struct sharpi_config){engine->settings, record->name};
    plugins->loading = record;
    status = record->table->init(&engine->host, &record->config, &record->ctx, &reason);
    plugins->loading = NULL;
    reason.text[sizeof reason.text - 1] = '\0';
    if (!status) {
        record->loaded = 1;
        if (plugins->n_offers == n_offers)
            sharpi_log_printf(&engine->log, SHARPI_LOG_WARN, "plugins", "plugin %s offers nothing",
                              record->name);
        return SHARPI_OK;
    }
    sharpi_plugin_drop_offers(plugins, n_offers);
    if (status > 0)
        status = SHARPI_EBUG; /* statuses are negative */
    return sharpi_fail(err, status, "init failed: %s", reason.text[0] ? reason.text : "it does not say why");
}

int32_t sharpi_plugin_open(struct sharpi_engine *engine, struct sharpi_plugin_record *record,
                           struct sharpi_error *err)
{
    const char *const *keys = NULL;
    int32_t status = read_table(record, err);
    if (!status) {
        if (SHARPI_HAS(record->table, config_keys))
            keys = record->table->config_keys;
        status = sharpi_settings_check_plugin(engine->settings, record->name, keys, err);
    }
    if (!status)
        status = run_init(engine, record, err);
    if (status)
        sharpi_plugin_close(record);
    return status;
}

void sharpi_plugin_close(struct sharpi_plugin_record *record)
{
    if (record->loaded && SHARPI_HAS(record->table, fini))
        record->table->fini(record->ctx);
    record->loaded = 0;
    record->table = NULL;
    record->ctx = NULL;
    if (record->handle)
        dlclose(record->handle);
    record->handle = NULL;
}
