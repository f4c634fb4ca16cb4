/* See settings.h. The values: a short list, looked through in order. */
#include "settings-internal.h"

#include <stdlib.h>
#include <string.h>

static int32_t no_memory(struct sharpi_error *err)
{
    return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the configuration");
}

int32_t sharpi_settings_create(struct sharpi_settings **out, struct sharpi_error *err)
{
    *out = calloc(1, sizeof **out);
    return *out ? SHARPI_OK : no_memory(err);
}

static void entry_free(struct settings_entry *entry)
{
    free(entry->shown.section);
    free(entry->shown.key);
    free(entry->shown.value);
    free(entry->shown.origin);
}

static void list_free(char **list, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        free(list[i]);
    free(list);
}

void sharpi_settings_destroy(struct sharpi_settings *settings)
{
    if (!settings)
        return;
    for (uint32_t i = 0; i < settings->n_entries; i++)
        entry_free(&settings->entries[i]);
    free(settings->entries);
    list_free(settings->files, settings->n_files);
    list_free(settings->variables, settings->n_variables);
    free(settings);
}

int32_t sharpi_settings_push(char ***list, uint32_t *n, const char *text, struct sharpi_error *err)
{
    char **grown = realloc(*list, (*n + 1u) * sizeof *grown);
    if (!grown)
        return no_memory(err);
    *list = grown;
    grown[*n] = strdup(text);
    if (!grown[*n])
        return no_memory(err);
    (*n)++;
    return SHARPI_OK;
}

int32_t sharpi_settings_same(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        if ((*a == '_' ? '-' : *a) != (*b == '_' ? '-' : *b))
            return 0;
    }
    return *a == *b;
}

struct settings_entry *sharpi_settings_find(const struct sharpi_settings *settings, const char *section,
                                            const char *key)
{
    for (uint32_t i = 0; i < settings->n_entries; i++) {
        const struct sharpi_setting *shown = &settings->entries[i].shown;
        if (sharpi_settings_same(shown->section, section) && sharpi_settings_same(shown->key, key))
            return &settings->entries[i];
    }
    return NULL;
}

static int32_t fill(struct settings_entry *entry, const char *section, const char *key, const char *value,
                    const char *origin)
{
    struct sharpi_setting *shown = &entry->shown;
    shown->section = strdup(section);
    shown->key = strdup(key);
    shown->value = strdup(value);
    shown->origin = strdup(origin);
    return shown->section && shown->key && shown->value && shown->origin ? SHARPI_OK : SHARPI_ENOMEM;
}

int32_t sharpi_settings_set(struct sharpi_settings *settings, const char *section, const char *key,
                            const char *value, const char *origin, int32_t rank, struct sharpi_error *err)
{
    struct settings_entry fresh = {.rank = rank}, *old, *grown;
    old = sharpi_settings_find(settings, section, key);
    if (old && old->rank > rank)
        return SHARPI_OK;
    if (fill(&fresh, section, key, value, origin)) {
        entry_free(&fresh);
        return no_memory(err);
    }
    if (old) {
        entry_free(old);
        *old = fresh;
        return SHARPI_OK;
    }
    grown = realloc(settings->entries, (settings->n_entries + 1u) * sizeof *grown);
    if (!grown) {
        entry_free(&fresh);
        return no_memory(err);
    }
    settings->entries = grown;
    grown[settings->n_entries++] = fresh;
    return SHARPI_OK;
}

static int is_name(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '-' &&
            c != '_' && c != '.')
            return 0;
    }
    return n > 0 && n < 64;
}

int32_t sharpi_settings_override(struct sharpi_settings *settings, const char *assignment,
                                 struct sharpi_error *err)
{
    const char *dot = strchr(assignment, '.'), *equals = strchr(assignment, '=');
    char section[64], key[64];
    if (!dot || !equals || dot > equals || !is_name(assignment, (size_t)(dot - assignment)) ||
        !is_name(dot + 1, (size_t)(equals - dot - 1)))
        return sharpi_fail(err, SHARPI_EINVAL,
                           "command line: '%.200s' is not SECTION.KEY=VALUE, as in model.kv=q8_0",
                           assignment);
    memcpy(section, assignment, (size_t)(dot - assignment));
    section[dot - assignment] = '\0';
    memcpy(key, dot + 1, (size_t)(equals - dot - 1));
    key[equals - dot - 1] = '\0';
    return sharpi_settings_set(settings, section, key, equals + 1, "command line", SETTINGS_RANK_COMMAND_LINE,
                               err);
}

const char *sharpi_settings_get(const struct sharpi_settings *settings, const char *section, const char *key)
{
    const struct settings_entry *entry = sharpi_settings_find(settings, section, key);
    return entry ? entry->shown.value : NULL;
}

const char *sharpi_settings_origin(const struct sharpi_settings *settings, const char *section,
                                   const char *key)
{
    const struct settings_entry *entry = sharpi_settings_find(settings, section, key);
    return entry ? entry->shown.origin : "the default";
}

/* What the typed getters read: "auto" is as good as not set. */
static const char *get_set(const struct sharpi_settings *settings, const char *section, const char *key)
{
    const char *text = sharpi_settings_get(settings, section, key);
    return text && strcmp(text, "auto") != 0 ? text : NULL;
}

uint64_t sharpi_settings_uint(const struct sharpi_settings *settings, const char *section, const char *key,
                              uint64_t fallback)
{
    const char *text = get_set(settings, section, key);
    uint64_t value;
    return text && sharpi_parse_uint(text, &value) == 0 ? value : fallback;
}

uint64_t sharpi_settings_bytes(const struct sharpi_settings *settings, const char *section, const char *key,
                               uint64_t fallback)
{
    const char *text = get_set(settings, section, key);
    uint64_t value;
    return text && sharpi_parse_bytes(text, &value) == 0 ? value : fallback;
}

int32_t sharpi_settings_bool(const struct sharpi_settings *settings, const char *section, const char *key,
                             int32_t fallback)
{
    const char *text = get_set(settings, section, key);
    int32_t value;
    return text && sharpi_parse_bool(text, &value) == 0 ? value : fallback;
}

const char *sharpi_settings_string(const struct sharpi_settings *settings, const char *section,
                                   const char *key, const char *fallback)
{
    const char *text = get_set(settings, section, key);
    return text ? text : fallback;
}

uint32_t sharpi_settings_count(const struct sharpi_settings *settings)
{
    return settings->n_entries;
}

const struct sharpi_setting *sharpi_settings_at(const struct sharpi_settings *settings, uint32_t index)
{
    return index < settings->n_entries ? &settings->entries[index].shown : NULL;
}

uint32_t sharpi_settings_n_files(const struct sharpi_settings *settings)
{
    return settings->n_files;
}

const char *sharpi_settings_file(const struct sharpi_settings *settings, uint32_t index)
{
    return index < settings->n_files ? settings->files[index] : NULL;
}
