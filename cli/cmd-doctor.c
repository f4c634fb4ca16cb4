/* sharpi doctor: why something is not loaded, and what to do about it.
 *
 * Every plugin that the configuration asks for is tried, with every file that was looked for and the loader's own
 * words; then every backend is asked for its devices.
 */
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "core/engine.h"

static void print_lines(const char *indent, const char *text)
{
    while (*text) {
        size_t n = strcspn(text, "\n");
        printf("%s%.*s\n", indent, (int)n, text);
        text += n + (text[n] == '\n');
    }
}

static void print_configuration(const struct sharpi_engine *engine)
{
    uint32_t i;
    printf("configuration\n");
    if (sharpi_settings_n_files(engine->settings) == 0)
        printf("    no file was found: built-in defaults\n");
    for (i = 0; i < sharpi_settings_n_files(engine->settings); i++)
        printf("    read %s\n", sharpi_settings_file(engine->settings, i));
    for (i = 0; i < sharpi_settings_count(engine->settings); i++) {
        const struct sharpi_setting *s = sharpi_settings_at(engine->settings, i);
        printf("    %s.%s = %s   (%s)\n", s->section, s->key, s->value, s->origin);
    }
}

/* What usually helps, by the reason's words. */
static const char *remedy(const struct sharpi_plugin_record *r)
{
    if (strstr(r->reason, "cannot open shared object file") && *r->path)
        return "a library that the plugin needs is missing: install it (ldd shows which)";
    if (!*r->path)
        return "install the package that holds the plugin, or set SHARPI_PLUGIN_PATH to its directory";
    if (strstr(r->reason, "ABI") || strstr(r->reason, "abi") || strstr(r->reason, "plugin interface"))
        return "rebuild the plugin against this version's headers";
    return "sharpi-plugin-check FILE.so tests the plugin alone";
}

/* Returns how many required plugins are missing. */
static uint32_t print_plugins(const struct sharpi_plugins *plugins)
{
    uint32_t i, missing = 0;
    printf("plugins\n");
    for (i = 0; i < plugins->n_records; i++) {
        const struct sharpi_plugin_record *r = plugins->records[i];
        if (r->loaded) {
            printf("    ok      %-12s %s\n", r->name, r->path);
            continue;
        }
        missing += !r->optional;
        printf("    %-7s %s\n", r->optional ? "absent" : "MISSING", r->name);
        print_lines("            ", r->reason);
        if (*r->tried) {
            printf("            tried:\n");
            print_lines("                ", r->tried);
        }
        printf("            %s%s\n", r->optional ? "if you want it: " : "fix: ", remedy(r));
    }
    return missing;
}

/* Returns the number of usable devices. */
static uint32_t print_devices(const struct sharpi_plugins *plugins)
{
    uint32_t i, d, n, usable = 0;
    printf("devices\n");
    for (i = 0; i < plugins->n_offers; i++) {
        const struct sharpi_offer *offer = &plugins->offers[i];
        struct sharpi_error err = SHARPI_ERROR_INIT;
        if (offer->kind != SHARPI_OFFER_BACKEND)
            continue;
        n = offer->backend->device_count(offer->ctx, &err);
        if (n == 0)
            printf("    none    %-12s %s\n", offer->name, err.text);
        for (d = 0; d < n; d++) {
            struct sharpi_device_info info = {.size = sizeof info};
            if (offer->backend->device_info(offer->ctx, d, &info, &err)) {
                printf("    failed  %s %u: %s\n", offer->name, d, err.text);
                continue;
            }
            usable++;
            printf("    ok      %-12s %s, %.1f GiB of %.1f GiB free\n", offer->name, info.name,
                   (double)info.free_bytes / (1u << 30), (double)info.total_bytes / (1u << 30));
        }
    }
    return usable;
}

static int doctor_command(int argc, char **argv)
{
    struct common common;
    struct sharpi_engine *engine = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const struct option *tables[] = {common.engine_options, NULL};
    uint32_t n_args, missing, usable;
    int code;
    common_init(&common);
    code =
        parse_command("doctor", "sharpi doctor [OPTIONS]", "Finds out why a plugin or device cannot be used.",
                      tables, argc, argv, NULL, 0, &n_args);
    if (code >= 0)
        return code;
    if (sharpi_engine_open_bare(&(struct sharpi_engine_options){.size = sizeof(struct sharpi_engine_options),
                                                                .config_path = common.config,
                                                                .overrides = common.set.items},
                                &engine, &err))
        return fail("doctor", &err);
    sharpi_plugins_load_all(engine, &err); /* what failed is in the records */
    print_configuration(engine);
    if (getenv("SHARPI_PLUGIN_PATH"))
        printf("SHARPI_PLUGIN_PATH=%s\n", getenv("SHARPI_PLUGIN_PATH"));
    missing = print_plugins(&engine->plugins);
    usable = print_devices(&engine->plugins);
    sharpi_engine_close(engine);
    if (missing == 0 && usable > 0)
        printf("all is well\n");
    return missing || usable == 0 ? EXIT_ERROR : EXIT_OK;
}

const struct command command_doctor = {"doctor", "why a plugin or device cannot be used, and the fix",
                                       doctor_command};
