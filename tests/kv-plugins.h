/* For tests: the KV formats of the built plugins kv-float and kv-q8_0, loaded as the core loads them.
 *
 * SHARPI_PLUGIN_PATH names the directory of the .so files. The libraries stay open until the program ends.
 */
#ifndef SHARPI_TESTS_KV_PLUGINS_H
#define SHARPI_TESTS_KV_PLUGINS_H

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sharpi/plugin/kv.h>

#define MAX_KV_FORMATS 8u

struct kv_format {
    const struct sharpi_kv *kv;
    void *ctx;
};

/* The host table's first member is at the front, so that register_kv finds the list. */
struct kv_formats {
    struct sharpi_host host;
    uint32_t n;
    struct kv_format list[MAX_KV_FORMATS];
};

static inline int32_t kv_formats_register(const struct sharpi_host *host, const struct sharpi_kv *kv,
                                          void *ctx, struct sharpi_error *err)
{
    struct kv_formats *formats = (struct kv_formats *)(uintptr_t)host;
    if (formats->n == MAX_KV_FORMATS)
        return sharpi_fail(err, SHARPI_EFULL, "more than %u formats", MAX_KV_FORMATS);
    formats->list[formats->n].kv = kv;
    formats->list[formats->n++].ctx = ctx;
    return SHARPI_OK;
}

/* 0, or -1 after a line on stderr. */
static inline int kv_formats_load(struct kv_formats *formats, const char *plugin)
{
    const char *dir = getenv("SHARPI_PLUGIN_PATH");
    struct sharpi_error err = SHARPI_ERROR_INIT;
    void *symbol, *library, *ctx = NULL;
    sharpi_plugin_entry_fn *entry;
    char path[4096];

    formats->host.size = (uint32_t)sizeof formats->host;
    formats->host.register_kv = kv_formats_register;
    snprintf(path, sizeof path, "%s/%s.so", dir ? dir : "plugins/.libs", plugin);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    symbol = library ? dlsym(library, "sharpi_plugin_entry") : NULL;
    if (!symbol) {
        fprintf(stderr, "%s\n", dlerror());
        return -1;
    }
    memcpy(&entry, &symbol, sizeof entry);
    if (entry()->init(&formats->host, NULL, &ctx, &err)) {
        fprintf(stderr, "%s: %s\n", plugin, err.text);
        return -1;
    }
    return 0;
}

static inline int kv_formats_load_all(struct kv_formats *formats)
{
    memset(formats, 0, sizeof *formats);
    return kv_formats_load(formats, "kv-float") || kv_formats_load(formats, "kv-q8_0") ? -1 : 0;
}

static inline const struct kv_format *kv_formats_find(const struct kv_formats *formats, const char *name)
{
    for (uint32_t i = 0; i < formats->n; i++)
        if (strcmp(formats->list[i].kv->name, name) == 0)
            return &formats->list[i];
    return NULL;
}

#endif
