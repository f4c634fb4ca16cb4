/* The host table: thin functions that find the engine behind the table and do what host.h promises. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "graph.h"
#include "model-file.h"
#include "plugins-internal.h"
#include "pool.h"

static void host_log(const struct sharpi_host *host, int32_t level, const char *topic, const char *message)
{
    sharpi_log_text(&sharpi_engine_of(host)->log, level, topic, message);
}

/* ---- Memory. Each block has the address that calloc gave in front of it, so that large blocks are fresh zero pages of
 * the system, never touched here. */

/* Test hook: 1 when this allocation is to fail. */
static int32_t is_out(struct sharpi_engine *engine)
{
    if (atomic_load(&engine->allocs_left) < 0)
        return 0;
    if (atomic_fetch_sub(&engine->allocs_left, 1) > 0)
        return 0;
    atomic_store(&engine->allocs_left, 0);
    return 1;
}

static void *host_alloc(const struct sharpi_host *host, uint64_t n_bytes, uint64_t alignment)
{
    uint64_t total;
    uintptr_t aligned;
    char *raw;
    if (alignment < 16)
        alignment = 16;
    if ((alignment & (alignment - 1)) != 0 || __builtin_add_overflow(n_bytes, alignment, &total) ||
        total > PTRDIFF_MAX || is_out(sharpi_engine_of(host)))
        return NULL;
    raw = calloc(1, total); /* 16-byte aligned: with a gap of at least 16, at most `alignment` */
    if (!raw)
        return NULL;
    aligned = ((uintptr_t)raw + alignment) & ~(uintptr_t)(alignment - 1);
    memcpy((char *)aligned - sizeof raw, &raw, sizeof raw);
    atomic_fetch_add_explicit(&sharpi_engine_of(host)->live_allocs, 1, memory_order_relaxed);
    return (void *)aligned;
}

static void host_free(const struct sharpi_host *host, void *memory)
{
    void *raw;
    if (!memory)
        return;
    atomic_fetch_sub_explicit(&sharpi_engine_of(host)->live_allocs, 1, memory_order_relaxed);
    memcpy(&raw, (char *)memory - sizeof raw, sizeof raw);
    free(raw);
}

/* ---- Registration */

static int32_t host_register_backend(const struct sharpi_host *host, const struct sharpi_backend *backend,
                                     void *ctx, struct sharpi_error *err)
{
    struct sharpi_offer offer = {.kind = SHARPI_OFFER_BACKEND, .backend = backend, .ctx = ctx};
    return sharpi_plugin_offer(sharpi_engine_of(host), &offer, err);
}

static int32_t host_register_arch(const struct sharpi_host *host, const struct sharpi_arch *arch, void *ctx,
                                  struct sharpi_error *err)
{
    struct sharpi_offer offer = {.kind = SHARPI_OFFER_ARCH, .arch = arch, .ctx = ctx};
    return sharpi_plugin_offer(sharpi_engine_of(host), &offer, err);
}

static int32_t host_register_kv(const struct sharpi_host *host, const struct sharpi_kv *kv, void *ctx,
                                struct sharpi_error *err)
{
    struct sharpi_offer offer = {.kind = SHARPI_OFFER_KV, .kv = kv, .ctx = ctx};
    return sharpi_plugin_offer(sharpi_engine_of(host), &offer, err);
}

/* "auto" is as good as not set, as in the core's own sections: a plugin need not know the word. */
static const char *host_config_get(const struct sharpi_config *config, const char *key)
{
    return sharpi_settings_string(config->settings, config->section, key, NULL);
}

static int32_t host_pool_create(const struct sharpi_host *host, uint32_t n_threads, struct sharpi_pool **out,
                                struct sharpi_error *err)
{
    (void)host;
    return sharpi_pool_create(n_threads, out, err);
}

void sharpi_host_init(struct sharpi_host *host)
{
    *host = (struct sharpi_host){
        .size = sizeof *host,
        .abi_minor = SHARPI_ABI_MINOR,
        .version = sharpi_version(),
        .log = host_log,
        .alloc = host_alloc,
        .free = host_free,
        .register_backend = host_register_backend,
        .register_arch = host_register_arch,
        .register_kv = host_register_kv,
        .config_get = host_config_get,
        .file_u64 = sharpi_model_file_u64,
        .file_f64 = sharpi_model_file_f64,
        .file_string = sharpi_model_file_string,
        .file_array_u64 = sharpi_model_file_array_u64,
        .file_array_f64 = sharpi_model_file_array_f64,
        .file_tensor = sharpi_model_file_tensor,
        .file_alloc = sharpi_model_file_alloc,
        .file_arch = sharpi_model_file_arch,
        .file_path = sharpi_model_file_path,
        .graph_add = sharpi_graph_add,
        .pool_create = host_pool_create,
        .pool_destroy = sharpi_pool_destroy,
        .pool_threads = sharpi_pool_threads,
        .pool_run = sharpi_pool_run,
        .pool_barrier = sharpi_pool_barrier,
    };
}
