/* sharpi plugins: what is loaded, from where, offering what. */
#include <string.h>

#include "command.h"
#include "core/engine.h"

static const char *const kind_names[] = {
    [SHARPI_OFFER_BACKEND] = "backend", [SHARPI_OFFER_ARCH] = "arch", [SHARPI_OFFER_KV] = "kv"};

static void print_offers(const struct sharpi_plugins *plugins, uint32_t record)
{
    uint32_t i;
    for (i = 0; i < plugins->n_offers; i++) {
        const struct sharpi_offer *offer = &plugins->offers[i];
        if (offer->plugin == record)
            printf("    %-8s %-12s %s\n", kind_names[offer->kind], offer->name, offer->summary);
    }
}

static void print_plugins(const struct sharpi_plugins *plugins)
{
    uint32_t i;
    for (i = 0; i < plugins->n_records; i++) {
        const struct sharpi_plugin_record *r = plugins->records[i];
        if (!r->loaded) {
            printf("%s: not loaded: %s\n", r->name, r->reason);
            continue;
        }
        printf("%s %s (%s): %s\n    from     %s\n", r->name, r->version, r->license, r->summary, r->path);
        print_offers(plugins, i);
    }
}

static int plugins_command(int argc, char **argv)
{
    struct common common;
    struct sharpi_engine *engine = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const struct option *tables[] = {common.engine_options, NULL};
    uint32_t n_args;
    int code;
    common_init(&common);
    code =
        parse_command("plugins", "sharpi plugins [OPTIONS]", "Lists the loaded plugins and what they offer.",
                      tables, argc, argv, NULL, 0, &n_args);
    if (code >= 0)
        return code;
    if (open_engine(&common, &engine, &err))
        return fail("plugins", &err);
    print_plugins(&engine->plugins);
    sharpi_engine_close(engine);
    return EXIT_OK;
}

const struct command command_plugins = {"plugins", "loaded plugins and what they offer", plugins_command};
