/* What plugins register: backends, architectures, KV formats. Required members are looked at here, once, so that nobody has
 * to test them again. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "plugins-internal.h"

/* A member that must be there, by its place in the table. */
struct required {
    uint32_t offset;
    const char *name;
};

#define REQUIRED(table, member)                                                                              \
    {                                                                                                        \
        offsetof(struct table, member), #member                                                              \
    }

static const struct required backend_members[] = {
    REQUIRED(sharpi_backend, name),
    REQUIRED(sharpi_backend, device_count),
    REQUIRED(sharpi_backend, device_info),
    REQUIRED(sharpi_backend, device_open),
    REQUIRED(sharpi_backend, device_close),
    REQUIRED(sharpi_backend, alloc),
    REQUIRED(sharpi_backend, free),
    REQUIRED(sharpi_backend, copy),
    REQUIRED(sharpi_backend, write),
    REQUIRED(sharpi_backend, read),
    REQUIRED(sharpi_backend, supports),
    REQUIRED(sharpi_backend, compile),
    REQUIRED(sharpi_backend, program_memory),
    REQUIRED(sharpi_backend, load),
    REQUIRED(sharpi_backend, program_destroy),
    REQUIRED(sharpi_backend, run),
    {0, NULL},
};
static const struct required arch_members[] = {
    REQUIRED(sharpi_arch, name),
    REQUIRED(sharpi_arch, describe),
    REQUIRED(sharpi_arch, build),
    {0, NULL},
};
static const struct required kv_members[] = {
    REQUIRED(sharpi_kv, name),
    REQUIRED(sharpi_kv, row_bytes),
    REQUIRED(sharpi_kv, encode),
    REQUIRED(sharpi_kv, decode),
    {0, NULL},
};

static const char *kind_name(int32_t kind)
{
    return kind == SHARPI_OFFER_BACKEND ? "backend"
           : kind == SHARPI_OFFER_ARCH  ? "architecture"
                                        : "KV format";
}

/* Name of the first required member that is missing, or NULL. All are pointers. */
static const char *missing_member(const void *table, uint32_t size, const struct required *members)
{
    for (; members->name; members++) {
        void *value;
        if (size < members->offset + sizeof value)
            return members->name;
        memcpy(&value, (const char *)table + members->offset, sizeof value);
        if (!value)
            return members->name;
    }
    return NULL;
}

/* Checks the table and reads name and summary from it. */
static int32_t read_offer(struct sharpi_offer *offer, struct sharpi_error *err)
{
    const struct required *members;
    const char *missing;
    uint32_t size;
    if (!offer->arch)
        return sharpi_fail(err, SHARPI_EABI, "registers a NULL %s", kind_name(offer->kind));
    members = offer->kind == SHARPI_OFFER_BACKEND ? backend_members
              : offer->kind == SHARPI_OFFER_ARCH  ? arch_members
                                                  : kv_members;
    memcpy(&size, offer->arch, sizeof size); /* the first member of every table */
    missing = missing_member(offer->arch, size, members);
    if (missing)
        return sharpi_fail(err, SHARPI_EABI, "its %s lacks the required member '%s' (the table's size is %u)",
                           kind_name(offer->kind), missing, size);
    /* name and summary have the same place in the three tables, and are required to be known by size. */
    offer->name = offer->arch->name;
    offer->summary = SHARPI_HAS(offer->arch, summary) ? offer->arch->summary : "";
    return SHARPI_OK;
}

static int32_t check_duplicate(const struct sharpi_engine *engine, const struct sharpi_offer *offer,
                               struct sharpi_error *err)
{
    const struct sharpi_plugins *plugins = &engine->plugins;
    for (uint32_t i = 0; i < plugins->n_offers; i++) {
        const struct sharpi_offer *other = &plugins->offers[i];
        if (other->kind != offer->kind || strcmp(other->name, offer->name) != 0)
            continue;
        if (offer->kind != SHARPI_OFFER_ARCH || other->plugin == offer->plugin)
            return sharpi_fail(err, SHARPI_EINVAL,
                               "%s '%.100s' is already there, from plugin %s; load only one",
                               kind_name(offer->kind), offer->name, plugins->records[other->plugin]->name);
    }
    return SHARPI_OK;
}

int32_t sharpi_plugin_offer(struct sharpi_engine *engine, const struct sharpi_offer *offer,
                            struct sharpi_error *err)
{
    struct sharpi_plugins *plugins = &engine->plugins;
    struct sharpi_offer fresh = *offer, *grown;
    int32_t status;
    if (!plugins->loading)
        return sharpi_fail(err, SHARPI_EBUG, "%s registered outside of a plugin's init",
                           kind_name(offer->kind));
    while (plugins->records[fresh.plugin] != plugins->loading)
        fresh.plugin++;
    status = read_offer(&fresh, err);
    if (!status)
        status = check_duplicate(engine, &fresh, err);
    if (status)
        return status;
    grown = realloc(plugins->offers, (plugins->n_offers + 1u) * sizeof *grown);
    if (!grown)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to register a %s", kind_name(offer->kind));
    plugins->offers = grown;
    grown[plugins->n_offers++] = fresh;
    return SHARPI_OK;
}

void sharpi_plugin_drop_offers(struct sharpi_plugins *plugins, uint32_t n_kept)
{
    plugins->n_offers = n_kept;
}

const struct sharpi_offer *sharpi_plugins_find(const struct sharpi_plugins *plugins, int32_t kind,
                                               const char *name)
{
    for (uint32_t i = 0; i < plugins->n_offers; i++) {
        if (plugins->offers[i].kind == kind && strcmp(plugins->offers[i].name, name) == 0)
            return &plugins->offers[i];
    }
    return NULL;
}

const char *sharpi_plugins_names(const struct sharpi_plugins *plugins, int32_t kind, char *buffer, uint64_t n)
{
    uint64_t at = 0;
    snprintf(buffer, n, "none");
    for (uint32_t i = 0; i < plugins->n_offers; i++) {
        if (plugins->offers[i].kind == kind && at < n)
            at += (uint64_t)snprintf(buffer + at, n - at, "%s%s", at ? ", " : "", plugins->offers[i].name);
    }
    return buffer;
}
