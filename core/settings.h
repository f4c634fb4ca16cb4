/* The configuration: files, environment and command line merged, each value with the place that it came from.
 *
 * Invariant: after sharpi_settings_check every value of a core section has the type and the range that the table in
 * settings-keys.c states, so the typed getters cannot fail. Not changed after sharpi_engine_open: any thread may read.
 *
 * (Not called config.h: that is autoconf's.)  In names '-' and '_' are the same.
 */
#ifndef SHARPI_CORE_SETTINGS_H
#define SHARPI_CORE_SETTINGS_H

#include <sharpi/plugin/tensor.h>

struct sharpi_log;
struct sharpi_settings;

/* The section of one plugin, what host->config_get looks in. */
struct sharpi_config {
    const struct sharpi_settings *settings;
    const char *section;
};

struct sharpi_setting {
    char *section, *key, *value;
    char *origin;  /* "/etc/sharpi/sharpi.ini:12", "environment SHARPI_MODEL_KV", "command line" */
    int32_t known; /* the core or a loaded plugin knows section and key */
};

/* ---- Reading, in order of precedence: a later value replaces an earlier one */

int32_t sharpi_settings_create(struct sharpi_settings **out, struct sharpi_error *err);
void sharpi_settings_destroy(struct sharpi_settings *settings); /* NULL is fine */

/* The system's sharpi.ini, then *.ini of its conf.d sorted by name, the user's. Missing files are fine. */
int32_t sharpi_settings_read_default(struct sharpi_settings *settings, struct sharpi_error *err);
/* The first two of DIRECTORY. */
int32_t sharpi_settings_read_tree(struct sharpi_settings *settings, const char *directory,
                                  struct sharpi_error *err);
int32_t sharpi_settings_read_file(struct sharpi_settings *settings, const char *path,
                                  struct sharpi_error *err);
int32_t sharpi_settings_override(struct sharpi_settings *settings,
                                 const char *assignment, /* section.key=value */
                                 struct sharpi_error *err);

/* ---- Environment and checks. Errors name the place, and the nearest name where one is unknown. */

/* Takes SHARPI_<SECTION>_<KEY> for the core's keys and checks the core's sections: keys, types, ranges. */
int32_t sharpi_settings_check_core(struct sharpi_settings *settings, struct sharpi_error *err);
/* The same for a plugin's section, whose values only the plugin can check; `names` of its keys is NULL-terminated, or NULL. */
int32_t sharpi_settings_check_plugin(struct sharpi_settings *settings, const char *plugin,
                                     const char *const *names, struct sharpi_error *err);
/* When all plugins are loaded: sections that nobody knows. Those of plugins that are not loaded (named in `plugins`, or
 * named like one) cannot be checked; the log says so. Logs SHARPI_ variables that nobody looked for. */
int32_t sharpi_settings_check_rest(const struct sharpi_settings *settings, const char *const *plugins,
                                   uint32_t n, struct sharpi_log *log, struct sharpi_error *err);

/* ---- Looking up. NULL or the fallback when not set; the typed ones give it for "auto" too. */

const char *sharpi_settings_get(const struct sharpi_settings *settings, const char *section, const char *key);
uint64_t sharpi_settings_uint(const struct sharpi_settings *settings, const char *section, const char *key,
                              uint64_t fallback);
uint64_t sharpi_settings_bytes(const struct sharpi_settings *settings, const char *section, const char *key,
                               uint64_t fallback);
int32_t sharpi_settings_bool(const struct sharpi_settings *settings, const char *section, const char *key,
                             int32_t fallback);
const char *sharpi_settings_string(const struct sharpi_settings *settings, const char *section,
                                   const char *key, const char *fallback);
/* Where a value came from, for messages; "the default" when not set. */
const char *sharpi_settings_origin(const struct sharpi_settings *settings, const char *section,
                                   const char *key);

/* All values, in no particular order, and the files that were read, for tools. */
uint32_t sharpi_settings_count(const struct sharpi_settings *settings);
const struct sharpi_setting *sharpi_settings_at(const struct sharpi_settings *settings, uint32_t index);
uint32_t sharpi_settings_n_files(const struct sharpi_settings *settings);
const char *sharpi_settings_file(const struct sharpi_settings *settings, uint32_t index);

/* ---- Values as text, for the command line too. 0, or SHARPI_EINVAL without a text. */

int32_t sharpi_parse_uint(const char *text, uint64_t *out);  /* decimal digits */
int32_t sharpi_parse_bytes(const char *text, uint64_t *out); /* 12282MiB, 2GB, 1.5GiB, 4096 */
int32_t sharpi_parse_bool(const char *text, int32_t *out);   /* true false yes no on off 1 0 */

#endif
