/* See engine.h: opening reads the configuration, then loads the plugins that it lists. */
#include "engine.h"

#include <stdatomic.h>
#include <stdlib.h>

#ifndef PACKAGE_VERSION
#error "PACKAGE_VERSION comes from configure"
#endif

const char *sharpi_version(void)
{
    return PACKAGE_VERSION;
}

static int32_t read_settings(struct sharpi_engine *engine, const struct sharpi_engine_options *options,
                             struct sharpi_error *err)
{
    struct sharpi_settings *settings;
    int32_t status = sharpi_settings_create(&engine->settings, err);
    if (status)
        return status;
    settings = engine->settings;
    if (options->config_path)
        status = sharpi_settings_read_file(settings, options->config_path, err);
    else if (!options->no_default_config)
        status = sharpi_settings_read_default(settings, err);
    for (const char *const *at = options->overrides; at && *at && !status; at++)
        status = sharpi_settings_override(settings, *at, err);
    return status ? status : sharpi_settings_check_core(settings, err);
}

/* The options that this version knows and the caller filled. */
static int32_t take_options(const struct sharpi_engine_options *given, struct sharpi_engine_options *options,
                            struct sharpi_error *err)
{
    *options = (struct sharpi_engine_options){.size = sizeof *options};
    if (!given)
        return SHARPI_OK;
    if (given->size < sizeof *options)
        return sharpi_fail(err, SHARPI_EINVAL, "engine options: size is %u, must be %zu (sizeof)",
                           given->size, sizeof *options);
    *options = *given;
    return SHARPI_OK;
}

int32_t sharpi_engine_open_bare(const struct sharpi_engine_options *options, struct sharpi_engine **out,
                                struct sharpi_error *err)
{
    struct sharpi_engine_options taken;
    struct sharpi_engine *engine;
    int32_t status = take_options(options, &taken, err);
    *out = NULL;
    if (status)
        return status;
    engine = calloc(1, sizeof *engine);
    if (!engine || sharpi_log_init(&engine->log, taken.log, taken.log_user, taken.log_level)) {
        free(engine);
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for an engine");
    }
    atomic_init(&engine->allocs_left, -1);
    atomic_init(&engine->live_allocs, 0);
    sharpi_host_init(&engine->host);
    status = read_settings(engine, &taken, err);
    if (status)
        sharpi_engine_close(engine);
    else
        *out = engine;
    return status;
}

/* What is left in the configuration once every plugin has taken its section. */
static int32_t check_rest(struct sharpi_engine *engine, struct sharpi_error *err)
{
    const struct sharpi_plugins *plugins = &engine->plugins;
    const char **names = calloc(plugins->n_records + 1u, sizeof *names);
    int32_t status;
    if (!names)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to check the configuration");
    for (uint32_t i = 0; i < plugins->n_records; i++)
        names[i] = plugins->records[i]->name;
    status = sharpi_settings_check_rest(engine->settings, names, plugins->n_records, &engine->log, err);
    free(names);
    return status;
}

int32_t sharpi_engine_open(const struct sharpi_engine_options *options, struct sharpi_engine **out,
                           struct sharpi_error *err)
{
    int32_t status = sharpi_engine_open_bare(options, out, err);
    if (status)
        return status;
    status = sharpi_plugins_load_all(*out, err);
    if (!status)
        status = check_rest(*out, err);
    if (status) {
        sharpi_engine_close(*out);
        *out = NULL;
    }
    return status;
}

void sharpi_engine_close(struct sharpi_engine *engine)
{
    if (!engine)
        return;
    sharpi_plugins_unload(engine);
    sharpi_settings_destroy(engine->settings);
    sharpi_log_finish(&engine->log);
    free(engine);
}
