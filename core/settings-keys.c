/* Keys of the core's sections, and everything that is checked against lists of names: sections, keys, environment.
 *
 * To add a key, add a line to `keys`; a section exists because a key is in it.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "nearest.h"
#include "plan.h"
#include "settings-internal.h"

enum key_type {
    TYPE_STRING, /* not empty */
    TYPE_WORDS,  /* a list, perhaps empty */
    TYPE_UINT,
    TYPE_BOOL,
    TYPE_BYTES,   /* 12282MiB */
    TYPE_RESERVE, /* rule, exact or a size */
    TYPE_NUMBER,  /* 0.8, -1; its user knows the range */
};

struct key {
    const char *section, *key;
    int32_t type;      /* enum key_type */
    uint64_t min, max; /* of TYPE_UINT; "auto" is always possible */
};

static const struct key keys[] = {
    {"plugins", "load", TYPE_WORDS, 0, 0},
    {"plugins", "load-optional", TYPE_WORDS, 0, 0},
    {"model", "backend", TYPE_STRING, 0, 0},
    {"model", "device", TYPE_WORDS, 0, 0},
    {"model", "gpu-layers", TYPE_UINT, 0, 65536},
    {"model", "cpu-moe", TYPE_BOOL, 0, 0},
    {"model", "n-cpu-moe", TYPE_UINT, 0, 65536},
    {"model", "context", TYPE_UINT, 1, 1u << 30},
    {"model", "max-sessions", TYPE_UINT, 1, 4096},
    {"model", "chunk", TYPE_UINT, 1, 65536},
    {"model", "headroom", TYPE_UINT, 1, 1u << 30},
    {"model", "kv-pool", TYPE_UINT, 1, 1u << 30},
    {"model", "threads", TYPE_UINT, 1, 1024},
    {"model", "kv", TYPE_STRING, 0, 0},
    {"model", "kv.global", TYPE_STRING, 0, 0},
    {"model", "kv.swa", TYPE_STRING, 0, 0},
    {"model", "reserve", TYPE_RESERVE, 0, 0},
    {"model", "memory-limit", TYPE_BYTES, 0, 0},
    {"model", "plan", TYPE_STRING, 0, 0},
    {"model", "repack", TYPE_BOOL, 0, 0},
    {"model", "strict", TYPE_BOOL, 0, 0},
    {"sampling", "temp", TYPE_NUMBER, 0, 0},
    {"sampling", "top-k", TYPE_NUMBER, 0, 0},
    {"sampling", "top-p", TYPE_NUMBER, 0, 0},
    {"sampling", "min-p", TYPE_NUMBER, 0, 0},
    {"sampling", "typical", TYPE_NUMBER, 0, 0},
    {"sampling", "min-keep", TYPE_NUMBER, 0, 0},
    {"sampling", "repeat-penalty", TYPE_NUMBER, 0, 0},
    {"sampling", "repeat-last-n", TYPE_NUMBER, 0, 0},
    {"sampling", "frequency-penalty", TYPE_NUMBER, 0, 0},
    {"sampling", "presence-penalty", TYPE_NUMBER, 0, 0},
    {"sampling", "dry-multiplier", TYPE_NUMBER, 0, 0},
    {"sampling", "dry-base", TYPE_NUMBER, 0, 0},
    {"sampling", "dry-allowed-length", TYPE_NUMBER, 0, 0},
    {"sampling", "dry-last-n", TYPE_NUMBER, 0, 0},
    {"sampling", "xtc-probability", TYPE_NUMBER, 0, 0},
    {"sampling", "xtc-threshold", TYPE_NUMBER, 0, 0},
    {"sampling", "logit-bias", TYPE_WORDS, 0, 0},
    {"sampling", "chain", TYPE_STRING, 0, 0},
    {"sampling", "seed", TYPE_UINT, 0, UINT64_MAX},
    {"server", "listen", TYPE_STRING, 0, 0},
    {"server", "alias", TYPE_STRING, 0, 0},
    {"server", "api-keys-file", TYPE_STRING, 0, 0},
    {"server", "tls-cert", TYPE_STRING, 0, 0},
    {"server", "tls-key", TYPE_STRING, 0, 0},
    {"server", "cors", TYPE_STRING, 0, 0},
    {"server", "max-body", TYPE_BYTES, 0, 0},
    {"server", "max-connections", TYPE_UINT, 1, 100000},
    {"server", "max-choices", TYPE_UINT, 1, 4096},
    {"server", "idle-timeout", TYPE_UINT, 1, 86400},
    {"server", "body-timeout", TYPE_UINT, 1, 86400},
    {"server", "write-timeout", TYPE_UINT, 2, 86400},
    {"server", "shutdown-timeout", TYPE_UINT, 0, 86400},
    {"server", "hang-timeout", TYPE_UINT, 1, 86400},
    {"server", "heartbeat", TYPE_UINT, 1, 3600},
    {"server", "parallel", TYPE_UINT, 1, 4096},
    {"server", "max-queued", TYPE_UINT, 1, 1u << 20},
    {"server", "max-stall-ms", TYPE_UINT, 0, 3600000},
    {"server", "embeddings", TYPE_BOOL, 0, 0},
    {"server", "verify-reuse", TYPE_BOOL, 0, 0},
    {"server", "prompt-cache-dir", TYPE_STRING, 0, 0},
    {"server", "prompt-cache-bytes", TYPE_BYTES, 0, 0},
};

enum { N_KEYS = sizeof keys / sizeof *keys };

/* Variables that others read. */
static const char *const other_variables[] = {"SHARPI_PLUGIN_PATH", "SHARPI_CPU_ISA", "SHARPI_API_KEY",
                                              "SHARPI_MODEL_DIR", "SHARPI_CATALOGUE"};

static const struct key *find_key(const char *section, const char *name)
{
    for (uint32_t i = 0; i < N_KEYS; i++) {
        if (sharpi_settings_same(keys[i].section, section) && sharpi_settings_same(keys[i].key, name))
            return &keys[i];
    }
    return NULL;
}

static int32_t is_core_section(const char *section)
{
    for (uint32_t i = 0; i < N_KEYS; i++) {
        if (sharpi_settings_same(keys[i].section, section))
            return 1;
    }
    return 0;
}

/* ---- Environment */

static void variable_name(char *name, size_t n, const char *section, const char *key)
{
    snprintf(name, n, "SHARPI_%s_%s", section, key);
    for (; *name; name++) {
        if (*name >= 'a' && *name <= 'z')
            *name = (char)(*name - 'a' + 'A');
        else if (*name == '-' || *name == '.')
            *name = '_';
    }
}

static int32_t take_variable(struct sharpi_settings *settings, const char *section, const char *key,
                             struct sharpi_error *err)
{
    char name[128], origin[160];
    const char *value;
    int32_t status;
    variable_name(name, sizeof name, section, key);
    status = sharpi_settings_push(&settings->variables, &settings->n_variables, name, err);
    value = secure_getenv(name);
    if (status || !value || !*value) /* an empty one counts as not set */
        return status;
    snprintf(origin, sizeof origin, "environment variable %s", name);
    return sharpi_settings_set(settings, section, key, value, origin, SETTINGS_RANK_ENVIRONMENT, err);
}

/* ---- Values */

static int32_t check_uint(const struct key *key, const struct sharpi_setting *setting,
                          struct sharpi_error *err)
{
    uint64_t value;
    if (sharpi_parse_uint(setting->value, &value) != 0)
        return sharpi_fail(err, SHARPI_EINVAL, "%s: [%s] %s = %.60s: not a number (%llu to %llu, or auto)",
                           setting->origin, key->section, key->key, setting->value,
                           (unsigned long long)key->min, (unsigned long long)key->max);
    if (value < key->min || value > key->max)
        return sharpi_fail(err, SHARPI_EINVAL, "%s: [%s] %s = %.60s: outside %llu to %llu", setting->origin,
                           key->section, key->key, setting->value, (unsigned long long)key->min,
                           (unsigned long long)key->max);
    return SHARPI_OK;
}

static int32_t check_value(const struct key *key, const struct sharpi_setting *setting,
                           struct sharpi_error *err)
{
    struct sharpi_reserve reserve;
    uint64_t bytes;
    char *end;
    int32_t flag;
    if (key->type != TYPE_WORDS && !*setting->value)
        return sharpi_fail(err, SHARPI_EINVAL, "%s: [%s] %s has no value", setting->origin, key->section,
                           key->key);
    if (strcmp(setting->value, "auto") == 0)
        return SHARPI_OK;
    if (key->type == TYPE_UINT)
        return check_uint(key, setting, err);
    if (key->type == TYPE_BOOL && sharpi_parse_bool(setting->value, &flag) != 0)
        return sharpi_fail(err, SHARPI_EINVAL, "%s: [%s] %s = %.60s: neither true nor false", setting->origin,
                           key->section, key->key, setting->value);
    if (key->type == TYPE_BYTES && sharpi_parse_bytes(setting->value, &bytes) != 0)
        return sharpi_fail(err, SHARPI_EINVAL, "%s: [%s] %s = %.60s: not a size, as 12282MiB is",
                           setting->origin, key->section, key->key, setting->value);
    if (key->type == TYPE_NUMBER && (strtod(setting->value, &end), *end))
        return sharpi_fail(err, SHARPI_EINVAL, "%s: [%s] %s = %.60s: not a number", setting->origin,
                           key->section, key->key, setting->value);
    if (key->type == TYPE_RESERVE && sharpi_parse_reserve(setting->value, &reserve) != 0)
        return sharpi_fail(err, SHARPI_EINVAL, "%s: [%s] %s = %.60s: neither rule, exact nor a size",
                           setting->origin, key->section, key->key, setting->value);
    return SHARPI_OK;
}

/* ---- Names */

/* "ORIGIN: [section] key: no such key; did you mean 'x'?", or all that there are. */
static int32_t unknown_key(const struct sharpi_setting *setting, const char *const *names, uint32_t n,
                           struct sharpi_error *err)
{
    const char *near = sharpi_nearest(setting->key, names, n);
    char all[512] = "none";
    size_t at = 0;
    if (near)
        return sharpi_fail(err, SHARPI_EINVAL, "%s: [%s] %s: no such key; did you mean '%s'?",
                           setting->origin, setting->section, setting->key, near);
    for (uint32_t i = 0; i < n && at < sizeof all; i++)
        at += (size_t)snprintf(all + at, sizeof all - at, "%s%s", i ? ", " : "", names[i]);
    return sharpi_fail(err, SHARPI_EINVAL, "%s: [%s] %s: no such key; its keys are: %s", setting->origin,
                       setting->section, setting->key, all);
}

static int32_t check_core_entry(struct sharpi_setting *setting, struct sharpi_error *err)
{
    const struct key *key = find_key(setting->section, setting->key);
    const char *names[N_KEYS];
    uint32_t n = 0;
    if (key) {
        setting->known = 1;
        return check_value(key, setting, err);
    }
    for (uint32_t i = 0; i < N_KEYS; i++) {
        if (sharpi_settings_same(keys[i].section, setting->section))
            names[n++] = keys[i].key;
    }
    return unknown_key(setting, names, n, err);
}

int32_t sharpi_settings_check_core(struct sharpi_settings *settings, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < N_KEYS && !status; i++)
        status = take_variable(settings, keys[i].section, keys[i].key, err);
    for (uint32_t i = 0; i < settings->n_entries && !status; i++) {
        if (is_core_section(settings->entries[i].shown.section))
            status = check_core_entry(&settings->entries[i].shown, err);
    }
    return status;
}

int32_t sharpi_settings_check_plugin(struct sharpi_settings *settings, const char *plugin,
                                     const char *const *names, struct sharpi_error *err)
{
    uint32_t n = 0;
    int32_t status = SHARPI_OK;
    for (; names && names[n] && !status; n++)
        status = take_variable(settings, plugin, names[n], err);
    for (uint32_t i = 0; i < settings->n_entries && !status; i++) {
        struct sharpi_setting *setting = &settings->entries[i].shown;
        if (!sharpi_settings_same(setting->section, plugin))
            continue;
        for (uint32_t j = 0; j < n; j++)
            setting->known |= sharpi_settings_same(setting->key, names[j]);
        if (!setting->known)
            status = unknown_key(setting, names, n, err);
    }
    return status;
}

/* ---- What is left over */

static int32_t is_listed(const char *name, const char *const *names, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (sharpi_settings_same(name, names[i]))
            return 1;
    }
    return 0;
}

static int32_t is_named_like_plugin(const char *section)
{
    return strncmp(section, "backend-", 8) == 0 || strncmp(section, "arch-", 5) == 0 ||
           strncmp(section, "kv-", 3) == 0;
}

/* A section that neither the core nor a loaded plugin has. */
static int32_t check_section(const struct sharpi_setting *setting, const char *const *names, uint32_t n,
                             uint32_t n_plugins, struct sharpi_log *log, struct sharpi_error *err)
{
    const char *near = sharpi_nearest(setting->section, names, n);
    if (is_listed(setting->section, names, n_plugins))
        return SHARPI_OK; /* asked for and not loaded: that was said already */
    if (is_named_like_plugin(setting->section)) {
        sharpi_log_printf(log, near ? SHARPI_LOG_WARN : SHARPI_LOG_INFO, "config",
                          "%s: [%s] is not used: no such plugin is loaded%s%s%s", setting->origin,
                          setting->section, near ? "; did you mean [" : "", near ? near : "",
                          near ? "]?" : "");
        return SHARPI_OK;
    }
    return sharpi_fail(err, SHARPI_EINVAL,
                       "%s: [%s]: no such section, and no plugin of that name is loaded%s%s%s",
                       setting->origin, setting->section, near ? "; did you mean [" : "", near ? near : "",
                       near ? "]?" : "");
}

static void check_variables(const struct sharpi_settings *settings, struct sharpi_log *log)
{
    const char *const *known = (const char *const *)settings->variables;
    for (char **at = environ; at && *at; at++) {
        char name[64];
        size_t n = strcspn(*at, "=");
        const char *near;
        if (strncmp(*at, "SHARPI_", 7) != 0 || n >= sizeof name)
            continue;
        memcpy(name, *at, n);
        name[n] = '\0';
        if (is_listed(name, known, settings->n_variables) ||
            is_listed(name, other_variables, sizeof other_variables / sizeof *other_variables))
            continue;
        near = sharpi_nearest(name, known, settings->n_variables);
        if (near && sharpi_edit_distance(name, near) > 2) /* the prefix makes all of them alike */
            near = NULL;
        sharpi_log_printf(log, near ? SHARPI_LOG_WARN : SHARPI_LOG_DEBUG, "config",
                          "environment variable %s is not used: no loaded plugin has that key%s%s%s", name,
                          near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    }
}

int32_t sharpi_settings_check_rest(const struct sharpi_settings *settings, const char *const *plugins,
                                   uint32_t n, struct sharpi_log *log, struct sharpi_error *err)
{
    const char **names = calloc(n + N_KEYS, sizeof *names);
    int32_t status = SHARPI_OK;
    if (!names)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to check the configuration");
    for (uint32_t i = 0; i < n; i++)
        names[i] = plugins[i];
    for (uint32_t i = 0; i < N_KEYS; i++)
        names[n + i] = keys[i].section;
    for (uint32_t i = 0; i < settings->n_entries && !status; i++) {
        if (!settings->entries[i].shown.known)
            status = check_section(&settings->entries[i].shown, names, n + N_KEYS, n, log, err);
    }
    check_variables(settings, log);
    free(names);
    return status;
}
