/* The engine: everything that models share. Configuration, log, plugins and the host table that plugins get.
 *
 * Invariant: there is no other state. Two engines in one process know nothing of each other. After sharpi_engine_open
 * only the log's lock changes, so several threads may read.
 *
 * How to use it inside the core:
 *     engine->log                     sharpi_log_printf(&engine->log, SHARPI_LOG_INFO, "model", "...")
 *     engine->settings                sharpi_settings_uint(engine->settings, "model", "chunk", 512)
 *     engine->plugins                 sharpi_plugins_find(&engine->plugins, SHARPI_OFFER_KV, "bf16")
 *     &engine->host                   what a sharpi_builder needs
 */
#ifndef SHARPI_CORE_ENGINE_H
#define SHARPI_CORE_ENGINE_H

#include <sharpi/plugin/host.h>
#include <sharpi/sharpi.h>

#include "log.h"
#include "plugins.h"
#include "settings.h"

struct sharpi_engine {
    struct sharpi_host host; /* sharpi_engine_of finds the engine from it */
    struct sharpi_log log;
    struct sharpi_settings *settings;
    struct sharpi_plugins plugins;
    /* Test hook: allocations by host->alloc that still succeed; negative = no limit. */
    _Atomic int64_t allocs_left;
    /* Blocks of host->alloc that are not freed yet. */
    _Atomic int64_t live_allocs;
};

/* Fills the host table (host.c). */
void sharpi_host_init(struct sharpi_host *host);

static inline struct sharpi_engine *sharpi_engine_of(const struct sharpi_host *host)
{
    return (struct sharpi_engine *)((char *)(uintptr_t)host - offsetof(struct sharpi_engine, host));
}

/* Opens an engine without loading plugins, for tools that check them one by one (sharpi_plugins_load). */
int32_t sharpi_engine_open_bare(const struct sharpi_engine_options *options, struct sharpi_engine **out,
                                struct sharpi_error *err);

#endif
