/* Loading plugins, good ones and broken ones (tests/plugins). Every failure must leave nothing behind but its reason. */
#include <CUnit/Basic.h>
#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/engine.h"

struct messages {
    char text[8192];
};

static char fixtures[1024]; /* directory of the plugins */
static char scratch[64];    /* a directory of this run */

static void collect(void *user, int32_t level, const char *topic, const char *message)
{
    struct messages *m = user;
    size_t at = strlen(m->text);
    snprintf(m->text + at, sizeof m->text - at, "%d %s: %s\n", level, topic, message);
}

/* Opens an engine with these settings only, "section.key=value", up to three. */
static int32_t open_engine(struct messages *m, struct sharpi_engine **engine, struct sharpi_error *err,
                           const char *a, const char *b, const char *c)
{
    const char *const overrides[] = {a, b, c, NULL};
    struct sharpi_engine_options options = {.size = sizeof options,
                                            .no_default_config = 1,
                                            .overrides = overrides,
                                            .log = m ? collect : NULL,
                                            .log_user = m,
                                            .log_level = SHARPI_LOG_DEBUG};
    if (m)
        m->text[0] = '\0';
    *err = (struct sharpi_error)SHARPI_ERROR_INIT;
    return sharpi_engine_open(&options, engine, err);
}

/* Says what was found where a text was expected. */
static void check_contains(const char *text, const char *part)
{
    if (!strstr(text, part))
        printf("\n    expected: %s\n    found:    %s\n", part, text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, part));
}

static void check_lacks(const char *text, const char *part)
{
    if (strstr(text, part))
        printf("\n    not expected: %s\n    in:           %s\n", part, text);
    CU_ASSERT_PTR_NULL(strstr(text, part));
}

static void good_plugin_registers_and_ends(void)
{
    struct messages m;
    struct sharpi_error err;
    struct sharpi_engine *engine;
    const struct sharpi_offer *offer;
    const struct sharpi_plugin_record *record;
    CU_ASSERT_EQUAL_FATAL(open_engine(&m, &engine, &err, "plugins.load=good", "good.level=7", NULL),
                          SHARPI_OK);
    check_contains(m.text, "2 good: 7\n");
    CU_ASSERT_EQUAL(engine->plugins.n_offers, 3);
    offer = sharpi_plugins_find(&engine->plugins, SHARPI_OFFER_BACKEND, "good-backend");
    CU_ASSERT_PTR_NOT_NULL_FATAL(offer);
    assert(offer); /* for the analyzer: the line above does not return */
    CU_ASSERT_STRING_EQUAL(offer->summary, "no device");
    CU_ASSERT_PTR_NOT_NULL(offer->ctx);
    CU_ASSERT_EQUAL(offer->backend->device_count(offer->ctx, &err), 0);
    offer = sharpi_plugins_find(&engine->plugins, SHARPI_OFFER_ARCH, "good-arch");
    CU_ASSERT_PTR_NOT_NULL_FATAL(offer);
    assert(offer); /* for the analyzer: the line above does not return */
    CU_ASSERT_STRING_EQUAL(offer->summary, "");
    CU_ASSERT_PTR_NOT_NULL(sharpi_plugins_find(&engine->plugins, SHARPI_OFFER_KV, "good-kv"));
    CU_ASSERT_PTR_NULL(sharpi_plugins_find(&engine->plugins, SHARPI_OFFER_KV, "good-backend"));
    record = engine->plugins.records[0];
    CU_ASSERT_EQUAL(record->loaded, 1);
    CU_ASSERT_STRING_EQUAL(record->version, "1.0");
    CU_ASSERT_STRING_EQUAL(record->license, "MIT");
    CU_ASSERT_STRING_EQUAL(record->reason, "");
    check_lacks(m.text, "fini");
    sharpi_engine_close(engine);
    check_contains(m.text, "fini good");
}

/* The core's own sections take "auto" for "not set": a plugin's section does too, without the plugin knowing the word. */
static void auto_reaches_a_plugin_as_not_set(void)
{
    struct messages m;
    struct sharpi_error err;
    struct sharpi_engine *engine;
    CU_ASSERT_EQUAL_FATAL(open_engine(&m, &engine, &err, "plugins.load=good", "good.level=auto", NULL),
                          SHARPI_OK);
    check_contains(m.text, "2 good: no level\n");
    sharpi_engine_close(engine);
}

static void plugins_end_in_reverse_order(void)
{
    struct messages m;
    struct sharpi_error err;
    struct sharpi_engine *engine;
    CU_ASSERT_EQUAL_FATAL(open_engine(&m, &engine, &err, "plugins.load= good, other", NULL, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(engine->plugins.n_offers, 4); /* both may offer good-arch */
    sharpi_engine_close(engine);
    check_contains(m.text, "fini other\n2 good: fini good\n");
}

static void two_engines_know_nothing_of_each_other(void)
{
    struct messages m1, m2;
    struct sharpi_error err;
    struct sharpi_engine *one, *two;
    CU_ASSERT_EQUAL_FATAL(open_engine(&m1, &one, &err, "plugins.load=good", "good.level=one", NULL),
                          SHARPI_OK);
    CU_ASSERT_EQUAL_FATAL(open_engine(&m2, &two, &err, "plugins.load=good", "good.level=two", NULL),
                          SHARPI_OK);
    check_contains(m1.text, "good: one");
    check_contains(m2.text, "good: two");
    CU_ASSERT_PTR_NOT_EQUAL(one->plugins.offers[0].ctx, two->plugins.offers[0].ctx);
    sharpi_engine_close(one);
    check_lacks(m2.text, "fini");
    CU_ASSERT_PTR_NOT_NULL(sharpi_plugins_find(&two->plugins, SHARPI_OFFER_KV, "good-kv"));
    sharpi_engine_close(two);
    check_contains(m2.text, "fini good");
}

static const struct bad {
    const char *name, *reason;
    int32_t status;
} bad_plugins[] = {
    {"bad-magic", "not a sharpi plugin: its table begins with 0x12345678, not with 0x49505253", SHARPI_EABI},
    {"future-major",
     "made for version 2 of the plugin interface, this sharpi has version 1: it needs a newer sharpi",
     SHARPI_EABI},
    {"old-major",
     "made for version 0 of the plugin interface, this sharpi has version 1: rebuild the plugin with this "
     "sharpi's "
     "headers",
     SHARPI_EABI},
    {"short-size", "its table has 48 bytes, at least 56 are needed", SHARPI_EABI},
    {"null-name", "its table's required member 'name' is NULL", SHARPI_EABI},
    {"null-version", "its table's required member 'version' is NULL", SHARPI_EABI},
    {"null-init", "its table's required member 'init' is NULL", SHARPI_EABI},
    {"null-entry", "sharpi_plugin_entry returned NULL", SHARPI_EABI},
    {"no-entry", "no-entry.so: undefined symbol: sharpi_plugin_entry", SHARPI_EABI},
    {"name-mismatch", "it calls itself 'something-else' but its file is named 'name-mismatch.so'",
     SHARPI_EABI},
    {"init-fails", "init failed: the driver is version 1, version 2 is needed", SHARPI_EDEVICE},
    {"init-silent", "init failed: it does not say why", SHARPI_EBUG},
    {"duplicate-arch", "architecture 'twice' is already there, from plugin duplicate-arch", SHARPI_EINVAL},
    {"incomplete-backend", "its backend lacks the required member 'run'", SHARPI_EABI},
    {"incomplete-arch", "its architecture lacks the required member 'build'", SHARPI_EABI},
    {"incomplete-kv", "its KV format lacks the required member 'decode'", SHARPI_EABI},
    {"null-table", "registers a NULL KV format", SHARPI_EABI},
};

enum { N_BAD = sizeof bad_plugins / sizeof *bad_plugins };

static void required_bad_plugin_is_an_error_with_the_reason(void)
{
    for (uint32_t i = 0; i < N_BAD; i++) {
        struct sharpi_error err;
        struct sharpi_engine *engine;
        char load[64], file[1200];
        snprintf(load, sizeof load, "plugins.load=%s", bad_plugins[i].name);
        CU_ASSERT_EQUAL(open_engine(NULL, &engine, &err, load, NULL, NULL), bad_plugins[i].status);
        CU_ASSERT_PTR_NULL(engine);
        check_contains(err.text, bad_plugins[i].reason);
        snprintf(file, sizeof file, "(file %s/%s.so)", fixtures, bad_plugins[i].name);
        check_contains(err.text, file);
        check_contains(err.text, "listed by [plugins] load, command line");
    }
}

static void optional_bad_plugin_is_a_warning_and_leaves_nothing(void)
{
    for (uint32_t i = 0; i < N_BAD; i++) {
        struct messages m;
        struct sharpi_error err;
        struct sharpi_engine *engine;
        const struct sharpi_plugin_record *record;
        char load[64];
        snprintf(load, sizeof load, "plugins.load-optional=%s good", bad_plugins[i].name);
        CU_ASSERT_EQUAL_FATAL(open_engine(&m, &engine, &err, load, NULL, NULL), SHARPI_OK);
        check_contains(m.text, "1 plugins: not loaded: plugin ");
        check_contains(m.text, bad_plugins[i].reason);
        record = engine->plugins.records[0];
        CU_ASSERT_EQUAL(record->loaded, 0);
        CU_ASSERT_PTR_NULL(record->handle);
        check_contains(record->reason, bad_plugins[i].reason);
        CU_ASSERT_EQUAL(engine->plugins.n_offers, 3); /* those of good */
        CU_ASSERT_EQUAL(engine->plugins.offers[0].plugin, 1);
        sharpi_engine_close(engine);
        check_lacks(m.text, "fini after a failed init");
    }
}

static void backend_name_may_be_taken_once(void)
{
    struct sharpi_error err;
    struct sharpi_engine *engine;
    CU_ASSERT_EQUAL(open_engine(NULL, &engine, &err, "plugins.load=good duplicate-backend", NULL, NULL),
                    SHARPI_EINVAL);
    check_contains(err.text,
                   "plugin duplicate-backend: init failed: backend 'good-backend' is already there, from "
                   "plugin good; load only one");
}

static void plugin_listed_twice_is_an_error(void)
{
    struct sharpi_error err;
    struct sharpi_engine *engine;
    CU_ASSERT_EQUAL(open_engine(NULL, &engine, &err, "plugins.load=good good", NULL, NULL), SHARPI_EINVAL);
    check_contains(err.text, "plugin good is listed twice; first: ");
}

static void table_of_older_headers_is_not_read_past_its_end(void)
{
    struct sharpi_error err;
    struct sharpi_engine *engine;
    CU_ASSERT_EQUAL_FATAL(open_engine(NULL, &engine, &err, "plugins.load=small-table", NULL, NULL),
                          SHARPI_OK);
    sharpi_engine_close(engine); /* would call address 16 */
}

static void plugin_without_offers_is_a_warning(void)
{
    struct messages m;
    struct sharpi_error err;
    struct sharpi_engine *engine;
    CU_ASSERT_EQUAL_FATAL(open_engine(&m, &engine, &err, "plugins.load=offers-nothing", NULL, NULL),
                          SHARPI_OK);
    check_contains(m.text, "1 plugins: plugin offers-nothing offers nothing");
    sharpi_engine_close(engine);
}

/* ---- Where files are looked for */

static void missing_plugin_lists_every_file_tried(void)
{
    struct messages m;
    struct sharpi_error err;
    struct sharpi_engine *engine;
    char path[2048], expected[2048];
    snprintf(path, sizeof path, "%s:%s", scratch, fixtures);
    setenv("SHARPI_PLUGIN_PATH", path, 1);
    CU_ASSERT_EQUAL(open_engine(&m, &engine, &err, "plugins.load=not-there", NULL, NULL), SHARPI_ENOENT);
    snprintf(expected, sizeof expected,
             "plugin not-there: no such file; looked for: %s/not-there.so %s/not-there.so /", scratch,
             fixtures);
    check_contains(err.text, expected);
    CU_ASSERT_EQUAL_FATAL(open_engine(&m, &engine, &err, "plugins.load-optional=not-there", NULL, NULL),
                          SHARPI_OK);
    check_contains(m.text, expected);
    check_contains(engine->plugins.records[0]->tried, "/not-there.so\n");
    sharpi_engine_close(engine);
    setenv("SHARPI_PLUGIN_PATH", fixtures, 1);
}

static void relative_paths_are_refused(void)
{
    static const char *const names[] = {"./good", "plugins/good.so", "../good", ".good", "-good", "go od/x"};
    struct messages m;
    struct sharpi_error err;
    struct sharpi_engine *engine;
    char load[64], *old = getcwd(NULL, 0);
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(load, sizeof load, "plugins.load=%s", names[i]);
        CU_ASSERT_NOT_EQUAL(open_engine(NULL, &engine, &err, load, NULL, NULL), SHARPI_OK);
    }
    CU_ASSERT_EQUAL(open_engine(NULL, &engine, &err, "plugins.load=./good", NULL, NULL), SHARPI_EINVAL);
    check_contains(err.text, "'./good' is neither a plugin's name nor an absolute path");
    /* The current directory is never looked at, whatever the search path says. */
    CU_ASSERT_EQUAL_FATAL(chdir(fixtures), 0);
    setenv("SHARPI_PLUGIN_PATH", ".::", 1);
    CU_ASSERT_EQUAL(open_engine(&m, &engine, &err, "plugins.load=good", NULL, NULL), SHARPI_ENOENT);
    check_contains(m.text, "SHARPI_PLUGIN_PATH: '.' is not used: only absolute paths are");
    setenv("SHARPI_PLUGIN_PATH", fixtures, 1);
    CU_ASSERT_EQUAL(chdir(old), 0);
    free(old);
}

static void absolute_path_is_loaded(void)
{
    struct sharpi_error err;
    struct sharpi_engine *engine;
    char load[1200];
    unsetenv("SHARPI_PLUGIN_PATH");
    snprintf(load, sizeof load, "plugins.load=%s/good.so", fixtures);
    CU_ASSERT_EQUAL_FATAL(open_engine(NULL, &engine, &err, load, NULL, NULL), SHARPI_OK);
    CU_ASSERT_STRING_EQUAL(engine->plugins.records[0]->name, "good");
    sharpi_engine_close(engine);
    setenv("SHARPI_PLUGIN_PATH", fixtures, 1);
}

static void copy_file(const char *from, const char *to)
{
    char buffer[65536];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    size_t n;
    CU_ASSERT_PTR_NOT_NULL_FATAL(in);
    CU_ASSERT_PTR_NOT_NULL_FATAL(out);
    while ((n = fread(buffer, 1, sizeof buffer, in)) > 0)
        CU_ASSERT_EQUAL_FATAL(fwrite(buffer, 1, n, out), n);
    fclose(in);
    fclose(out);
}

/* This program in BUNDLE/bin and a plugin in BUNDLE/lib/sharpi: what an unpacked tarball looks like. */
static void bundle_uses_the_plugins_beside_it(void)
{
    static const char *const parts[] = {"/lib/sharpi/good.so", "/lib/sharpi", "/lib", "/bin/program", "/bin"};
    char path[256], command[600], from[1200];
    for (int i = 4; i >= 0; i--) {
        snprintf(path, sizeof path, "%s%s", scratch, parts[i]);
        if (!strchr(parts[i] + 1, '.') && !strstr(parts[i], "program"))
            mkdir(path, 0700);
    }
    snprintf(path, sizeof path, "%s/bin/program", scratch);
    copy_file("/proc/self/exe", path);
    chmod(path, 0700);
    snprintf(path, sizeof path, "%s/lib/sharpi/good.so", scratch);
    snprintf(from, sizeof from, "%s/good.so", fixtures);
    copy_file(from, path);
    snprintf(command, sizeof command,
             "cd %s/bin && SHARPI_PLUGIN_PATH= ./program --bundle %s/lib/sharpi/good.so", scratch, scratch);
    CU_ASSERT_EQUAL(system(command), 0); // NOLINT(cert-env33-c): the shell gives the relative argv[0]
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s%s", scratch, parts[i]);
        CU_ASSERT_EQUAL(remove(path), 0);
    }
}

/* What the copy in the bundle does: 0 if the plugin comes from `expected`. */
static int run_in_bundle(const char *expected)
{
    struct sharpi_error err;
    struct sharpi_engine *engine;
    const char *path;
    char real[4096];
    int status;
    if (open_engine(NULL, &engine, &err, "plugins.load=good", NULL, NULL) != 0) {
        printf("\n    %s\n", err.text);
        return 1;
    }
    path = engine->plugins.records[0]->path;
    status = !realpath(path, real) || strcmp(real, expected) != 0;
    if (status)
        printf("\n    loaded %s instead of %s\n", path, expected);
    sharpi_engine_close(engine);
    return status;
}

/* Writes scratch/NAME.so. */
static void write_file(const char *name, const void *bytes, size_t n)
{
    char path[128];
    FILE *f;
    snprintf(path, sizeof path, "%s/%s.so", scratch, name);
    f = fopen(path, "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    CU_ASSERT_EQUAL(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void check_dlopen_message(const char *name, const char *reason)
{
    struct sharpi_error err;
    struct sharpi_engine *engine;
    char load[128];
    snprintf(load, sizeof load, "plugins.load=%s/%s.so", scratch, name);
    CU_ASSERT_EQUAL(open_engine(NULL, &engine, &err, load, NULL, NULL), SHARPI_EABI);
    check_contains(err.text, reason);
}

/* good.so with the name of the C library changed to one that does not exist. */
static void write_without_libc(void)
{
    static char bytes[4 << 20];
    char path[1200], *at = bytes;
    size_t n;
    FILE *f;
    snprintf(path, sizeof path, "%s/good.so", fixtures);
    f = fopen(path, "rb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    while ((at = memmem(at, n - (size_t)(at - bytes), "libc.so.6", 9)) != NULL)
        memcpy(at, "libX.so.6", 9);
    write_file("lacks-library", bytes, n);
}

static void what_dlopen_says_is_reported_verbatim(void)
{
    write_file("empty", "", 0);
    check_dlopen_message("empty", "empty.so: file too short");
    write_file("text", "this is not a shared object, but longer than an ELF header would have to be at least",
               84);
    check_dlopen_message("text", "text.so: invalid ELF header");
    write_without_libc();
    check_dlopen_message("lacks-library",
                         "libX.so.6: cannot open shared object file: No such file or directory");
}

static void missing_symbol_is_reported(void)
{
    struct sharpi_error err;
    struct sharpi_engine *engine;
    /* RTLD_NOW: not at the first call, in the middle of an answer. This program exports nothing. */
    CU_ASSERT_EQUAL(open_engine(NULL, &engine, &err, "plugins.load=uses-core", NULL, NULL), SHARPI_EABI);
    check_contains(err.text, "undefined symbol: sharpi_version");
}

/* ---- Configuration of plugins */

static void unknown_key_of_a_plugin_suggests_the_nearest(void)
{
    struct sharpi_error err;
    struct sharpi_engine *engine;
    CU_ASSERT_EQUAL(open_engine(NULL, &engine, &err, "plugins.load=good", "good.levle=3", NULL),
                    SHARPI_EINVAL);
    check_contains(err.text, "command line: [good] levle: no such key; did you mean 'level'?");
    CU_ASSERT_EQUAL(open_engine(NULL, &engine, &err, "plugins.load=good", "good.colour=3", NULL),
                    SHARPI_EINVAL);
    check_contains(err.text, "command line: [good] colour: no such key; its keys are: level, memory_limit");
    CU_ASSERT_EQUAL(open_engine(NULL, &engine, &err, "plugins.load=other", "other.x=3", NULL), SHARPI_EINVAL);
    check_contains(err.text, "command line: [other] x: no such key; its keys are: none");
}

static void environment_reaches_the_plugin(void)
{
    struct messages m;
    struct sharpi_error err;
    struct sharpi_engine *engine;
    setenv("SHARPI_GOOD_LEVEL", "12", 1);
    CU_ASSERT_EQUAL_FATAL(open_engine(&m, &engine, &err, "plugins.load=good", NULL, NULL), SHARPI_OK);
    check_contains(m.text, "good: 12");
    sharpi_engine_close(engine);
    CU_ASSERT_EQUAL_FATAL(open_engine(&m, &engine, &err, "plugins.load=good", "good.level=13", NULL),
                          SHARPI_OK);
    check_contains(m.text, "good: 13"); /* the command line is stronger */
    sharpi_engine_close(engine);
    unsetenv("SHARPI_GOOD_LEVEL");
}

static void sections_of_plugins_that_are_not_loaded_are_no_error(void)
{
    struct messages m;
    struct sharpi_error err;
    struct sharpi_engine *engine;
    CU_ASSERT_EQUAL_FATAL(open_engine(&m, &engine, &err, "plugins.load=good", "backend-vulkan.x=1", NULL),
                          SHARPI_OK);
    check_contains(m.text, "2 config: command line: [backend-vulkan] is not used: no such plugin is loaded");
    sharpi_engine_close(engine);
    CU_ASSERT_EQUAL_FATAL(
        open_engine(&m, &engine, &err, "plugins.load-optional=missing", "missing.x=1", NULL), SHARPI_OK);
    sharpi_engine_close(engine);
    CU_ASSERT_EQUAL(open_engine(&m, &engine, &err, "plugins.load=good", "modle.kv=f32", NULL), SHARPI_EINVAL);
    check_contains(err.text,
                   "command line: [modle]: no such section, and no plugin of that name is loaded; did you "
                   "mean [model]?");
}

static void default_list_loads_what_is_installed(void)
{
    struct messages m;
    struct sharpi_error err;
    struct sharpi_engine *engine;
    setenv("SHARPI_PLUGIN_PATH", scratch, 1);
    CU_ASSERT_EQUAL_FATAL(open_engine(&m, &engine, &err, NULL, NULL, NULL), SHARPI_OK);
    CU_ASSERT_EQUAL(engine->plugins.n_records, 7);
    CU_ASSERT_EQUAL(engine->plugins.records[0]->optional, 1);
    if (engine->plugins.n_offers == 0)
        check_contains(m.text, "1 plugins: no plugin is installed where this sharpi looks for them");
    sharpi_engine_close(engine);
    setenv("SHARPI_PLUGIN_PATH", fixtures, 1);
}

/* ---- Host table */

static void host_memory_is_zeroed_and_aligned(void)
{
    struct sharpi_error err;
    struct sharpi_engine *engine;
    CU_ASSERT_EQUAL_FATAL(open_engine(NULL, &engine, &err, "plugins.load=", NULL, NULL), SHARPI_OK);
    const struct sharpi_host *host = &engine->host;
    for (uint64_t alignment = 0; alignment <= 1 << 21; alignment = alignment ? alignment * 2 : 1) {
        for (uint64_t n = 0; n < 300; n += 37) {
            unsigned char *memory = host->alloc(host, n, alignment), sum = 0;
            CU_ASSERT_PTR_NOT_NULL_FATAL(memory);
            CU_ASSERT_EQUAL((uintptr_t)memory % (alignment > 16 ? alignment : 16), 0);
            for (uint64_t i = 0; i < n; i++)
                sum |= memory[i];
            CU_ASSERT_EQUAL(sum, 0);
            memset(memory, 0xff, n);
            host->free(host, memory);
        }
    }
    CU_ASSERT_PTR_NULL(host->alloc(host, 16, 24)); /* no power of two */
    CU_ASSERT_PTR_NULL(host->alloc(host, UINT64_MAX, 64));
    CU_ASSERT_PTR_NULL(host->alloc(host, UINT64_MAX / 2, 0));
    host->free(host, NULL);
    atomic_store(&engine->allocs_left, 1);
    void *last = host->alloc(host, 1, 0);
    CU_ASSERT_PTR_NOT_NULL(last);
    CU_ASSERT_PTR_NULL(host->alloc(host, 1, 0));
    CU_ASSERT_PTR_NULL(host->alloc(host, 1, 0));
    host->free(host, last);
    sharpi_engine_close(engine);
}

static void registering_after_init_is_refused(void)
{
    struct sharpi_error err;
    struct sharpi_engine *engine;
    CU_ASSERT_EQUAL_FATAL(open_engine(NULL, &engine, &err, "plugins.load=good", NULL, NULL), SHARPI_OK);
    const struct sharpi_host *host = &engine->host;
    CU_ASSERT_EQUAL(host->register_kv(host, engine->plugins.offers[2].kv, NULL, &err), SHARPI_EBUG);
    check_contains(err.text, "KV format registered outside of a plugin's init");
    sharpi_engine_close(engine);
}

static void log_gives_printable_single_lines(void)
{
    struct messages m;
    struct sharpi_error err;
    struct sharpi_engine *engine;
    char *longer = malloc(10000);
    CU_ASSERT_EQUAL_FATAL(open_engine(&m, &engine, &err, "plugins.load=", NULL, NULL), SHARPI_OK);
    engine->host.log(&engine->host, SHARPI_LOG_WARN, "x", "one\ntwo\033[2J\x7f end");
    check_contains(m.text, "1 x: one two [2J  end\n");
    memset(longer, 'a', 9999);
    longer[9999] = '\0';
    memcpy(longer + 2046, "\xc3\xa9", 2); /* a character on the edge is left out whole */
    m.text[0] = '\0';
    engine->host.log(&engine->host, SHARPI_LOG_WARN, "x", longer);
    CU_ASSERT_EQUAL(strlen(m.text), 5 + 2046 + 1);
    engine->host.log(&engine->host, SHARPI_LOG_WARN, NULL, NULL);
    m.text[0] = '\0';
    engine->host.log(&engine->host, SHARPI_LOG_DEBUG + 1, "x", "too detailed");
    CU_ASSERT_STRING_EQUAL(m.text, "");
    sharpi_engine_close(engine);
    free(longer);
}

static const CU_TestInfo tests[] = {
    {"good_plugin_registers_and_ends", good_plugin_registers_and_ends},
    {"auto_reaches_a_plugin_as_not_set", auto_reaches_a_plugin_as_not_set},
    {"plugins_end_in_reverse_order", plugins_end_in_reverse_order},
    {"two_engines_know_nothing_of_each_other", two_engines_know_nothing_of_each_other},
    {"required_bad_plugin_is_an_error_with_the_reason", required_bad_plugin_is_an_error_with_the_reason},
    {"optional_bad_plugin_is_a_warning_and_leaves_nothing",
     optional_bad_plugin_is_a_warning_and_leaves_nothing},
    {"backend_name_may_be_taken_once", backend_name_may_be_taken_once},
    {"plugin_listed_twice_is_an_error", plugin_listed_twice_is_an_error},
    {"table_of_older_headers_is_not_read_past_its_end", table_of_older_headers_is_not_read_past_its_end},
    {"plugin_without_offers_is_a_warning", plugin_without_offers_is_a_warning},
    {"missing_plugin_lists_every_file_tried", missing_plugin_lists_every_file_tried},
    {"relative_paths_are_refused", relative_paths_are_refused},
    {"absolute_path_is_loaded", absolute_path_is_loaded},
    {"bundle_uses_the_plugins_beside_it", bundle_uses_the_plugins_beside_it},
    {"what_dlopen_says_is_reported_verbatim", what_dlopen_says_is_reported_verbatim},
    {"missing_symbol_is_reported", missing_symbol_is_reported},
    {"unknown_key_of_a_plugin_suggests_the_nearest", unknown_key_of_a_plugin_suggests_the_nearest},
    {"environment_reaches_the_plugin", environment_reaches_the_plugin},
    {"sections_of_plugins_that_are_not_loaded_are_no_error",
     sections_of_plugins_that_are_not_loaded_are_no_error},
    {"default_list_loads_what_is_installed", default_list_loads_what_is_installed},
    {"host_memory_is_zeroed_and_aligned", host_memory_is_zeroed_and_aligned},
    {"registering_after_init_is_refused", registering_after_init_is_refused},
    {"log_gives_printable_single_lines", log_gives_printable_single_lines},
    CU_TEST_INFO_NULL,
};

static void remove_scratch(void)
{
    static const char *const names[] = {"empty", "text", "lacks-library"};
    char path[128];
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s.so", scratch, names[i]);
        unlink(path);
    }
    rmdir(scratch);
}

int main(int argc, char **argv)
{
    const char *build = getenv("top_builddir");
    CU_SuiteInfo suites[] = {{"plugins", NULL, NULL, NULL, NULL, (CU_TestInfo *)tests}, CU_SUITE_INFO_NULL};
    unsigned failures;
    if (argc == 3 && strcmp(argv[1], "--bundle") == 0)
        return run_in_bundle(argv[2]);
    if (!build) {
        puts("skipped: top_builddir is not set, run by 'make check'");
        return 77;
    }
    snprintf(fixtures, sizeof fixtures, "%s/tests/plugins/.libs", build);
    strcpy(scratch, "/tmp/test-plugins-XXXXXX");
    if (!mkdtemp(scratch))
        return 1;
    setenv("SHARPI_PLUGIN_PATH", fixtures, 1);
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    remove_scratch();
    return failures ? 1 : 0;
}
