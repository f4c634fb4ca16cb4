/* Plugins of an engine: finding, loading and checking them, and what they registered.
 *
 * Invariant: an offer is listed only while its plugin is loaded, and every required member of its table is set. A plugin
 * that fails at any point leaves nothing behind but its record with the reason.
 */
#ifndef SHARPI_CORE_PLUGINS_H
#define SHARPI_CORE_PLUGINS_H

#include <sharpi/plugin/arch.h>
#include <sharpi/plugin/backend.h>
#include <sharpi/plugin/kv.h>
#include <sharpi/plugin/plugin.h>

#include "settings.h"

struct sharpi_engine;

enum sharpi_offer_kind {
    SHARPI_OFFER_BACKEND = 1,
    SHARPI_OFFER_ARCH = 2,
    SHARPI_OFFER_KV = 3,
};

/* A registered table. */
struct sharpi_offer {
    int32_t kind;    /* enum sharpi_offer_kind */
    uint32_t plugin; /* index of its record */
    const char *name;
    const char *summary; /* never NULL */
    union {
        const struct sharpi_backend *backend;
        const struct sharpi_arch *arch;
        const struct sharpi_kv *kv;
    };
    void *ctx; /* first argument of the table's functions */
};

/* A plugin that was asked for, loaded or not. Strings are never NULL. */
struct sharpi_plugin_record {
    char *name;       /* as listed, without directory and ".so" */
    char *path;       /* the file, "" when none was found */
    char *tried;      /* every file that was looked for, one a line */
    char *reason;     /* why it is not loaded, "" when it is */
    int32_t optional; /* listed in load-optional, or by the default list */
    int32_t loaded;
    char *version, *license, *summary; /* "" when unknown */

    void *handle; /* of dlopen */
    const struct sharpi_plugin *table;
    void *ctx;
    struct sharpi_config config;
};

struct sharpi_plugins {
    uint32_t n_records;
    struct sharpi_plugin_record **records; /* in the order of loading */
    uint32_t n_offers;
    struct sharpi_offer *offers;          /* in the order of registration */
    struct sharpi_plugin_record *loading; /* whose init runs, else NULL */
};

/* Loads what the configuration lists. A required plugin that fails is an error that says all there is to know. */
int32_t sharpi_plugins_load_all(struct sharpi_engine *engine, struct sharpi_error *err);
/* Loads one: a name (looked up in the plugin directories) or an absolute path. */
int32_t sharpi_plugins_load(struct sharpi_engine *engine, const char *name, int32_t optional,
                            struct sharpi_error *err);
/* fini and dlclose in reverse order, and frees all. */
void sharpi_plugins_unload(struct sharpi_engine *engine);

/* The offer of that kind and name, NULL if there is none; for architectures, where several may be, the first one. */
const struct sharpi_offer *sharpi_plugins_find(const struct sharpi_plugins *plugins, int32_t kind,
                                               const char *name);
/* The architecture that serves the file best, by probe. SHARPI_ENOTSUP says what is loaded and what the probes said. */
int32_t sharpi_plugins_find_arch(const struct sharpi_plugins *plugins, const struct sharpi_model_file *file,
                                 const struct sharpi_offer **out, struct sharpi_error *err);
/* All names of a kind, "cpu, cuda", for messages; cut to fit. "none" when there is none. */
const char *sharpi_plugins_names(const struct sharpi_plugins *plugins, int32_t kind, char *buffer,
                                 uint64_t n);

#endif
