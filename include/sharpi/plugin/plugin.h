/* The entry of a plugin: one exported function that returns this table.
 *
 *     static const struct sharpi_plugin my_plugin = {
 *         SHARPI_PLUGIN_HEAD, .name = "arch-mine", .version = "1.0", .license = "MIT",
 *         .summary = "my architecture", .init = my_init, .fini = my_fini,
 *     };
 *     SHARPI_PLUGIN_ENTRY(my_plugin)
 *
 * Frozen for ever: the first four members of struct sharpi_plugin and the name of the entry function. The core accepts
 * a plugin iff magic and abi_major agree and size covers the members that it requires (name, version, init).
 *
 * Rules for everything that crosses the boundary:
 * - Every table begins with `uint32_t size`, set to sizeof by the side that fills it. Members are only ever appended.
 *   SHARPI_HAS(table, member) tells whether the other side knows and filled a member.
 * - Only fixed-width integers, floats, pointers and explicit-valued enums cross.
 * - Tables are static const: never copied, never freed.
 * - No call exits, aborts or prints. Calls return enum sharpi_status and fill a caller-owned struct sharpi_error.
 * - A plugin does not link libsharpi: all it needs comes in the host table (host.h) or is inline in these headers.
 */
#ifndef SHARPI_PLUGIN_PLUGIN_H
#define SHARPI_PLUGIN_PLUGIN_H

#include <sharpi/plugin/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SHARPI_PLUGIN_MAGIC 0x49505253u /* "SRPI" */
#define SHARPI_ABI_MAJOR    1u          /* changes when an existing member changes: old plugins are refused */
#define SHARPI_ABI_MINOR    0u          /* changes when members are appended: for information only */

/* True if `table` (a pointer) is large enough to have `member` and the member is set. */
#define SHARPI_HAS(table, member)                                                                            \
    ((table)->size >= offsetof(__typeof__(*(table)), member) + sizeof((table)->member) && (table)->member)

struct sharpi_host;
struct sharpi_config;

struct sharpi_plugin {
    uint32_t magic;     /* SHARPI_PLUGIN_MAGIC */
    uint32_t abi_major; /* SHARPI_ABI_MAJOR the plugin was compiled with */
    uint32_t abi_minor;
    uint32_t size;       /* sizeof(struct sharpi_plugin) */
    const char *name;    /* the file's name without ".so"; also its section in sharpi.ini */
    const char *version; /* the plugin's own */
    const char *license; /* SPDX identifier */
    const char *summary; /* one line for people */
    /* Registers what the plugin offers (host->register_*) and may set *ctx, which is given back to fini and to every
     * registered table's functions. `config` is the plugin's section of sharpi.ini. Called once, from the thread that
     * opens the library. On error everything it registered is dropped and fini is not called. Required. */
    int32_t (*init)(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err);
    /* Called once, after every object that came from the plugin was destroyed. May be NULL. */
    void (*fini)(void *ctx);
    /* Keys that the plugin's ini section knows, NULL-terminated, for checking and suggestions; NULL: no keys. */
    const char *const *config_keys;
};

#define SHARPI_PLUGIN_HEAD                                                                                   \
    .magic = SHARPI_PLUGIN_MAGIC, .abi_major = SHARPI_ABI_MAJOR, .abi_minor = SHARPI_ABI_MINOR,              \
    .size = (uint32_t)sizeof(struct sharpi_plugin)

/* The one exported symbol. A function, because dlsym is only sure for functions. */
#define SHARPI_PLUGIN_ENTRY(table)                                                                           \
    __attribute__((visibility("default"))) const struct sharpi_plugin *sharpi_plugin_entry(void);            \
    const struct sharpi_plugin *sharpi_plugin_entry(void)                                                    \
    {                                                                                                        \
        return &(table);                                                                                     \
    }

typedef const struct sharpi_plugin *sharpi_plugin_entry_fn(void);

#ifdef __cplusplus
}
#endif
#endif
