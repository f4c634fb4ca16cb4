/* See plugins.h. The list of what to load, the records, and the choice of an architecture. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "model-file.h"
#include "plugins-internal.h"

/* What is loaded when no configuration lists plugins: those of this package that are installed. */
static const char default_list[] =
    "backend-cuda backend-cpu arch-dense arch-gemma4 arch-moe kv-float kv-q8_0";

static int32_t no_memory(struct sharpi_error *err)
{
    return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the list of plugins");
}

static void record_free(struct sharpi_plugin_record *record)
{
    free(record->name);
    free(record->path);
    free(record->tried);
    free(record->reason);
    free(record->version);
    free(record->license);
    free(record->summary);
    free(record);
}

/* File name without directory and ".so". */
static char *name_of(const char *listed)
{
    const char *slash = strrchr(listed, '/'), *base = slash ? slash + 1 : listed;
    size_t n = strlen(base);
    if (slash && n > 3 && strcmp(base + n - 3, ".so") == 0)
        n -= 3;
    return strndup(base, n);
}

static struct sharpi_plugin_record *record_create(const char *listed, int32_t optional)
{
    struct sharpi_plugin_record *record = calloc(1, sizeof *record);
    if (!record)
        return NULL;
    record->optional = optional;
    record->name = name_of(listed);
    record->path = strdup("");
    record->tried = strdup("");
    record->reason = strdup("");
    record->version = strdup("");
    record->license = strdup("");
    record->summary = strdup("");
    if (record->name && record->path && record->tried && record->reason && record->version &&
        record->license && record->summary)
        return record;
    record_free(record);
    return NULL;
}

static int32_t add_record(struct sharpi_plugins *plugins, struct sharpi_plugin_record *record,
                          struct sharpi_error *err)
{
    struct sharpi_plugin_record **grown =
        record ? realloc(plugins->records, (plugins->n_records + 1u) * sizeof *grown) : NULL;
    if (!grown) {
        if (record)
            record_free(record);
        return no_memory(err);
    }
    plugins->records = grown;
    grown[plugins->n_records++] = record;
    return SHARPI_OK;
}

static const struct sharpi_plugin_record *find_record(const struct sharpi_plugins *plugins, const char *name)
{
    for (uint32_t i = 0; i < plugins->n_records; i++) {
        if (strcmp(plugins->records[i]->name, name) == 0)
            return plugins->records[i];
    }
    return NULL;
}

/* The error that a user sees: which plugin, why, and where it was looked for. */
static int32_t explain(const struct sharpi_plugin_record *record, int32_t status, struct sharpi_error *err)
{
    char tried[600];
    if (record->path[0])
        return sharpi_fail(err, status, "plugin %.64s: %s (file %s)", record->name, record->reason,
                           record->path);
    snprintf(tried, sizeof tried, "%s", record->tried);
    for (char *at = tried; (at = strchr(at, '\n')) != NULL;)
        *at = ' ';
    return sharpi_fail(err, status, "plugin %.64s: %s%s%s", record->name, record->reason,
                       tried[0] ? "; looked for: " : "", tried);
}

int32_t sharpi_plugins_load(struct sharpi_engine *engine, const char *name, int32_t optional,
                            struct sharpi_error *err)
{
    struct sharpi_plugins *plugins = &engine->plugins;
    struct sharpi_error reason = SHARPI_ERROR_INIT;
    struct sharpi_plugin_record *record = record_create(name, optional);
    const struct sharpi_plugin_record *other = record ? find_record(plugins, record->name) : NULL;
    int32_t status;
    if (other) {
        status = sharpi_fail(err, SHARPI_EINVAL, "plugin %s is listed twice%s%s", other->name,
                             other->path[0] ? "; first: " : "", other->path);
        record_free(record);
        return status;
    }
    status = add_record(plugins, record, err);
    if (status)
        return status;
    status = sharpi_plugin_find_file(engine, name, record, &reason);
    if (!status)
        status = sharpi_plugin_open(engine, record, &reason);
    if (!status)
        return SHARPI_OK;
    if (sharpi_plugin_set(&record->reason, reason.text, err))
        return SHARPI_ENOMEM;
    return explain(record, status, err);
}

/* Loads the words of `list`. Optional ones that fail are only logged, `quiet` those that are not installed. */
static int32_t load_list(struct sharpi_engine *engine, const char *list, int32_t optional, int32_t quiet,
                         struct sharpi_error *err)
{
    const char *at = list;
    for (;;) {
        struct sharpi_error reason = SHARPI_ERROR_INIT;
        size_t n;
        char *name;
        int32_t status;
        at += strspn(at, " \t,");
        n = strcspn(at, " \t,");
        if (n == 0)
            return SHARPI_OK;
        name = strndup(at, n);
        if (!name)
            return no_memory(err);
        status = sharpi_plugins_load(engine, name, optional, &reason);
        free(name);
        at += n;
        if (status && !optional)
            return sharpi_fail(err, status, "%s", reason.text);
        if (status)
            sharpi_log_printf(&engine->log,
                              quiet && status == SHARPI_ENOENT ? SHARPI_LOG_DEBUG : SHARPI_LOG_WARN,
                              "plugins", "not loaded: %s", reason.text);
    }
}

/* Optional plugins come first, since what is registered first is preferred: they are what this machine has beyond
 * the rest. */
int32_t sharpi_plugins_load_all(struct sharpi_engine *engine, struct sharpi_error *err)
{
    const struct sharpi_settings *settings = engine->settings;
    const char *load = sharpi_settings_get(settings, "plugins", "load");
    const char *optional = sharpi_settings_get(settings, "plugins", "load-optional");
    struct sharpi_error reason = SHARPI_ERROR_INIT;
    int32_t status = SHARPI_OK;
    if (!load && !optional) {
        status = load_list(engine, default_list, 1, 1, err);
        if (!status && engine->plugins.n_offers == 0)
            sharpi_log_text(
                &engine->log, SHARPI_LOG_WARN, "plugins",
                "no plugin is installed where this sharpi looks for them; 'sharpi doctor' says where");
        return status;
    }
    if (optional)
        status = load_list(engine, optional, 1, 0, err);
    if (!status && load)
        status = load_list(engine, load, 0, 0, &reason);
    if (!status || !reason.text[0])
        return status;
    return sharpi_fail(err, status, "%s; listed by [plugins] load, %s", reason.text,
                       sharpi_settings_origin(settings, "plugins", "load"));
}

void sharpi_plugins_unload(struct sharpi_engine *engine)
{
    struct sharpi_plugins *plugins = &engine->plugins;
    sharpi_plugin_drop_offers(plugins, 0);
    while (plugins->n_records > 0) {
        struct sharpi_plugin_record *record = plugins->records[--plugins->n_records];
        sharpi_plugin_close(record);
        record_free(record);
    }
    free(plugins->records);
    free(plugins->offers);
    *plugins = (struct sharpi_plugins){0};
}

/* ---- Architectures */

static int32_t unknown_arch(const struct sharpi_plugins *plugins, const char *arch, const char *path,
                            struct sharpi_error *err)
{
    char names[512];
    return sharpi_fail(err, SHARPI_ENOTSUP,
                       "%.200s: no loaded plugin knows the architecture '%.60s'; loaded: %s", path, arch,
                       sharpi_plugins_names(plugins, SHARPI_OFFER_ARCH, names, sizeof names));
}

int32_t sharpi_plugins_find_arch(const struct sharpi_plugins *plugins, const struct sharpi_model_file *file,
                                 const struct sharpi_offer **out, struct sharpi_error *err)
{
    const char *arch = sharpi_model_file_arch(file), *path = sharpi_model_file_path(file);
    struct sharpi_error reason = SHARPI_ERROR_INIT;
    const char *refused_by = NULL;
    int32_t best = 0;
    *out = NULL;
    for (uint32_t i = 0; i < plugins->n_offers; i++) {
        const struct sharpi_offer *offer = &plugins->offers[i];
        struct sharpi_error why = SHARPI_ERROR_INIT;
        int32_t score = 1;
        if (offer->kind != SHARPI_OFFER_ARCH || strcmp(offer->name, arch) != 0)
            continue;
        if (SHARPI_HAS(offer->arch, probe))
            score = offer->arch->probe(offer->ctx, file, &why);
        if (score > best) {
            best = score;
            *out = offer;
        } else if (score <= 0 && !refused_by) {
            reason = why;
            refused_by = plugins->records[offer->plugin]->name;
        }
    }
    if (*out)
        return SHARPI_OK;
    if (!refused_by)
        return unknown_arch(plugins, arch, path, err);
    return sharpi_fail(err, SHARPI_ENOTSUP, "%.200s: plugin %s does not take it: %.600s", path, refused_by,
                       reason.text[0] ? reason.text : "it does not say why");
}
