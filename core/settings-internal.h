/* What the files of the settings share. */
#ifndef SHARPI_CORE_SETTINGS_INTERNAL_H
#define SHARPI_CORE_SETTINGS_INTERNAL_H

#include "settings.h"

/* Where a value comes from; a higher one replaces a lower one. */
enum settings_rank {
    SETTINGS_RANK_FILE = 1,
    SETTINGS_RANK_ENVIRONMENT = 2,
    SETTINGS_RANK_COMMAND_LINE = 3,
};

struct settings_entry {
    struct sharpi_setting shown;
    int32_t rank;
};

struct sharpi_settings {
    uint32_t n_entries;
    struct settings_entry *entries;
    uint32_t n_files;
    char **files;
    uint32_t n_variables; /* names of environment variables that were looked for */
    char **variables;
};

/* Same name, with '-' and '_' alike. */
int32_t sharpi_settings_same(const char *a, const char *b);

struct settings_entry *sharpi_settings_find(const struct sharpi_settings *settings, const char *section,
                                            const char *key);

/* Sets or replaces, all strings are copied. A value of a higher rank stays. */
int32_t sharpi_settings_set(struct sharpi_settings *settings, const char *section, const char *key,
                            const char *value, const char *origin, int32_t rank, struct sharpi_error *err);

/* One more string in a list of strings. */
int32_t sharpi_settings_push(char ***list, uint32_t *n, const char *text, struct sharpi_error *err);

#endif
