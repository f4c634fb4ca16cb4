/* A host table for tests of the CPU backend: memory that can run out, threads and graphs of the core. */
#include "cpu-world.h"

#include <stdlib.h>
#include <string.h>

#include <core/graph.h>
#include <core/pool.h>

const struct sharpi_plugin *sharpi_plugin_entry(void);

static void host_log(const struct sharpi_host *host, int32_t level, const char *topic, const char *message)
{
    struct test_host *test = (struct test_host *)(uintptr_t)host;
    (void)topic;
    (void)message;
    test->n_warnings += level == SHARPI_LOG_WARN;
}

static void *host_alloc(const struct sharpi_host *host, uint64_t n_bytes, uint64_t alignment)
{
    struct test_host *test = (struct test_host *)(uintptr_t)host;
    void *memory;
    alignment = alignment < 16 ? 16 : alignment;
    if (test->allocs_left == 0)
        return NULL;
    if (test->allocs_left > 0)
        test->allocs_left--;
    n_bytes = (n_bytes + alignment - 1) / alignment * alignment;
    memory = aligned_alloc(alignment, n_bytes ? n_bytes : alignment);
    if (memory) {
        memset(memory, 0, n_bytes);
        test->n_live++;
    }
    return memory;
}

static void host_free(const struct sharpi_host *host, void *memory)
{
    struct test_host *test = (struct test_host *)(uintptr_t)host;
    test->n_live -= memory != NULL;
    free(memory);
}

static int32_t host_register(const struct sharpi_host *host, const struct sharpi_backend *backend, void *ctx,
                             struct sharpi_error *err)
{
    struct test_host *test = (struct test_host *)(uintptr_t)host;
    (void)err;
    test->backend = backend;
    test->ctx = ctx;
    return SHARPI_OK;
}

static const char *host_config(const struct sharpi_config *config, const char *key)
{
    const struct test_host *test = (const struct test_host *)(const void *)config;
    return strcmp(key, "isa") == 0            ? test->isa
           : strcmp(key, "threads") == 0      ? test->threads
           : strcmp(key, "memory_limit") == 0 ? test->memory_limit
                                              : NULL;
}

static int32_t host_pool_create(const struct sharpi_host *host, uint32_t n_threads, struct sharpi_pool **out,
                                struct sharpi_error *err)
{
    (void)host;
    return sharpi_pool_create(n_threads, out, err);
}

void test_host_init(struct test_host *test)
{
    memset(test, 0, sizeof *test);
    test->allocs_left = -1;
    test->host.size = (uint32_t)sizeof test->host;
    test->host.log = host_log;
    test->host.alloc = host_alloc;
    test->host.free = host_free;
    test->host.register_backend = host_register;
    test->host.config_get = host_config;
    test->host.graph_add = sharpi_graph_add;
    test->host.pool_create = host_pool_create;
    test->host.pool_destroy = sharpi_pool_destroy;
    test->host.pool_threads = sharpi_pool_threads;
    test->host.pool_run = sharpi_pool_run;
    test->host.pool_barrier = sharpi_pool_barrier;
}

int32_t test_host_open(struct test_host *test, struct sharpi_error *err)
{
    const struct sharpi_config *config = (const struct sharpi_config *)(const void *)test;
    return sharpi_plugin_entry()->init(&test->host, config, &test->ctx, err);
}

void test_host_close(struct test_host *test)
{
    sharpi_plugin_entry()->fini(test->ctx);
    test->ctx = NULL;
}
