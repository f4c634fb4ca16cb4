/* Configuration: what is read in which order, what is refused and with which words, and "did you mean". */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/engine.h"
#include "core/nearest.h"

static char scratch[64];

static void path_of(char *path, size_t n, const char *name)
{
    snprintf(path, n, "%s/%s", scratch, name);
}

static const char *write_bytes(const char *name, const char *bytes, size_t n)
{
    static char path[256];
    FILE *f;
    path_of(path, sizeof path, name);
    f = fopen(path, "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    CU_ASSERT_EQUAL(fwrite(bytes, 1, n, f), n);
    fclose(f);
    return path;
}

static const char *write_text(const char *name, const char *text)
{
    return write_bytes(name, text, strlen(text));
}

static void check_contains(const char *text, const char *part)
{
    if (!strstr(text, part))
        printf("\n    expected: %s\n    found:    %s\n", part, text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, part));
}

/* Reads `text` as a file and checks it. */
static int32_t read_settings(const char *text, struct sharpi_settings **settings, struct sharpi_error *err)
{
    int32_t status;
    *err = (struct sharpi_error)SHARPI_ERROR_INIT;
    CU_ASSERT_EQUAL_FATAL(sharpi_settings_create(settings, err), SHARPI_OK);
    status = sharpi_settings_read_file(*settings, write_text("a.ini", text), err);
    return status ? status : sharpi_settings_check_core(*settings, err);
}

static void values_have_types_and_origins(void)
{
    struct sharpi_error err;
    struct sharpi_settings *s;
    char expected[256];
    CU_ASSERT_EQUAL(read_settings("; a comment\n"
                                  "[model]\n"
                                  "context = 4096 ; inline\n"
                                  "kv.global: q8_0\n"
                                  "strict=yes\n"
                                  "# another\n"
                                  "threads = auto\n"
                                  "max_sessions = 3\n"
                                  "[server]\r\n"
                                  "listen = [::1]:8080\r\n",
                                  &s, &err),
                    SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_settings_uint(s, "model", "context", 1), 4096);
    CU_ASSERT_EQUAL(sharpi_settings_uint(s, "model", "threads", 7), 7); /* auto */
    CU_ASSERT_EQUAL(sharpi_settings_uint(s, "model", "chunk", 9), 9);   /* not set */
    CU_ASSERT_EQUAL(sharpi_settings_uint(s, "model", "max-sessions", 1), 3);
    CU_ASSERT_EQUAL(sharpi_settings_bool(s, "model", "strict", 0), 1);
    CU_ASSERT_STRING_EQUAL(sharpi_settings_string(s, "model", "kv.global", ""), "q8_0");
    CU_ASSERT_STRING_EQUAL(sharpi_settings_string(s, "server", "listen", ""), "[::1]:8080");
    CU_ASSERT_STRING_EQUAL(sharpi_settings_string(s, "model", "kv", "f16"), "f16");
    path_of(expected, sizeof expected, "a.ini:3");
    CU_ASSERT_STRING_EQUAL(sharpi_settings_origin(s, "model", "context"), expected);
    path_of(expected, sizeof expected, "a.ini:10");
    CU_ASSERT_STRING_EQUAL(sharpi_settings_origin(s, "server", "listen"), expected);
    CU_ASSERT_STRING_EQUAL(sharpi_settings_origin(s, "model", "kv"), "the default");
    CU_ASSERT_EQUAL(sharpi_settings_n_files(s), 1);
    CU_ASSERT_EQUAL(sharpi_settings_count(s), 6);
    sharpi_settings_destroy(s);
}

static void indented_lines_continue_a_value(void)
{
    struct sharpi_error err;
    struct sharpi_settings *s;
    CU_ASSERT_EQUAL(read_settings("[plugins]\n"
                                  "load = a b ; first\n"
                                  "   c d ; more\n"
                                  "\n"
                                  "\t; a comment between\n"
                                  "\te\n"
                                  "load-optional =\n"
                                  "    f\n",
                                  &s, &err),
                    SHARPI_OK);
    CU_ASSERT_STRING_EQUAL(sharpi_settings_get(s, "plugins", "load"), "a b c d e");
    CU_ASSERT_STRING_EQUAL(sharpi_settings_get(s, "plugins", "load-optional"), "f");
    sharpi_settings_destroy(s);
}

static const struct broken {
    const char *text, *reason;
} broken[] = {
    {"[model]\n\ncontxt = 5\n", "a.ini:3: [model] contxt: no such key; did you mean 'context'?"},
    {"[model]\nKV_GLOBAL = f16\n", "a.ini:2: [model] KV_GLOBAL: no such key; did you mean 'kv.global'?"},
    {"[server]\ncolour = red\n", "a.ini:2: [server] colour: no such key; its keys are: listen"},
    {"[model]\ncontext = many\n", "a.ini:2: [model] context = many: not a number (1 to 1073741824, or auto)"},
    {"[model]\ncontext = -5\n", "a.ini:2: [model] context = -5: not a number"},
    {"[model]\ncontext = 0\n", "a.ini:2: [model] context = 0: outside 1 to 1073741824"},
    {"[model]\ncontext = 99999999999999999999999\n",
     "a.ini:2: [model] context = 99999999999999999999999: not a number"},
    {"[model]\nchunk = 512k\n", "a.ini:2: [model] chunk = 512k: not a number (1 to 65536, or auto)"},
    {"[model]\nstrict = maybe\n", "a.ini:2: [model] strict = maybe: neither true nor false"},
    {"[model]\nkv =\n", "a.ini:2: [model] kv has no value"},
    {"kv = f16\n", "a.ini:1: a key needs a [section] above it: 'kv'"},
    {"[]\nkv = f16\n", "a.ini:2: a key needs a [section] above it: 'kv'"},
    {"[model]\nkv\n", "a.ini:2: neither [section], nor key = value, nor a comment"},
    {"[model\nkv = f16\n", "a.ini:1: neither [section], nor key = value, nor a comment"},
    {"[model]\n= 5\n", "a.ini:2: a key has 1 to 48 bytes: ''"},
    {"[model]\nkv = f16\nchunk = 5\nkv = f32\n", "a.ini:4: set twice in this file: 'kv'"},
    {"[model]\nkv = f16\n  chunk = 5\n",
     "a.ini:3: an indented line continues the value above; begin a key in the first column: 'chunk = 5'"},
    {"[model]\nkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk = 5\n",
     "a.ini:2: a key has 1 to 48 bytes"},
    {"[sssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss]\nk = 5\n",
     "a.ini:2: a section's name has at most 48 bytes"},
};

static void broken_files_are_refused_with_file_and_line(void)
{
    for (uint32_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        struct sharpi_error err;
        struct sharpi_settings *s;
        CU_ASSERT_NOT_EQUAL(read_settings(broken[i].text, &s, &err), SHARPI_OK);
        check_contains(err.text, broken[i].reason);
        check_contains(err.text, scratch);
        sharpi_settings_destroy(s);
    }
}

static void hostile_files_are_refused(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_settings *s;
    size_t n = (1 << 20) + 1;
    char *big = malloc(n + 1);
    CU_ASSERT_EQUAL_FATAL(sharpi_settings_create(&s, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_settings_read_file(s, write_bytes("a.ini", "[model]\nkv = \0f16\n", 18), &err),
                    SHARPI_EFORMAT);
    check_contains(err.text, "a.ini: has a NUL byte: not a text file");
    memset(big, '\n', n);
    CU_ASSERT_EQUAL(sharpi_settings_read_file(s, write_bytes("a.ini", big, n), &err), SHARPI_EFORMAT);
    check_contains(err.text, "a.ini: larger than 1 MiB");
    CU_ASSERT_EQUAL(sharpi_settings_read_file(s, write_bytes("a.ini", big, n - 1), &err), SHARPI_OK);
    memset(big, 'x', 300);
    CU_ASSERT_EQUAL(sharpi_settings_read_file(s, write_bytes("a.ini", big, 300), &err), SHARPI_EFORMAT);
    check_contains(err.text, "a.ini:1: 300 bytes in a line, 195 are possible");
    CU_ASSERT_EQUAL(sharpi_settings_read_file(s, scratch, &err), SHARPI_EIO);
    check_contains(err.text, "Is a directory");
    CU_ASSERT_EQUAL(sharpi_settings_read_file(s, "/nowhere/x.ini", &err), SHARPI_ENOENT);
    check_contains(err.text, "/nowhere/x.ini: cannot be read: No such file or directory");
    sharpi_settings_destroy(s);
    free(big);
}

/* The longest possible line reaches us whole. */
static void longest_line_is_not_cut(void)
{
    char text[256] = "[plugins]\nload=";
    struct sharpi_error err;
    struct sharpi_settings *s;
    memset(text + strlen(text), 'x', 195 - 5);
    CU_ASSERT_EQUAL(read_settings(text, &s, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(strlen(sharpi_settings_get(s, "plugins", "load")), 190);
    sharpi_settings_destroy(s);
}

/* Any bytes: an error or not, but no crash (run it with sanitizers). */
static void random_bytes_do_not_crash(void)
{
    static const char pieces[][12] = {"[",  "]",  "=",  "\n", " ", ";",    "model",
                                      "kv", "\t", "\r", "#",  ":", "\xff", "a.b"};
    uint32_t seed = 1;
    for (uint32_t round = 0; round < 2000; round++) {
        char text[600] = "";
        struct sharpi_error err;
        struct sharpi_settings *s;
        for (uint32_t i = 0; i < 40; i++) {
            seed = seed * 1664525 + 1013904223;
            strcat(text, pieces[(seed >> 16) % 14]);
        }
        read_settings(text, &s, &err);
        sharpi_settings_destroy(s);
    }
    CU_PASS("no crash");
}

static void later_sources_are_stronger(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_settings *s;
    char path[256];
    path_of(path, sizeof path, "conf.d");
    mkdir(path, 0700);
    write_text("sharpi.ini", "[model]\nkv = a\nkv.swa = a\nbackend = a\nkv.global = a\n");
    write_text("conf.d/20-b.ini", "[model]\nkv = c\nkv.swa = c\nbackend = c\n");
    write_text("conf.d/10-a.ini", "[model]\nkv = b\nkv.swa = b\nbackend = b\n");
    write_text("conf.d/30-not-read.txt", "[model]\nkv = d\n");
    write_text("conf.d/.30-hidden.ini", "[model]\nkv = d\n");
    setenv("SHARPI_MODEL_KV_SWA", "environment", 1);
    setenv("SHARPI_MODEL_BACKEND", "environment", 1);
    setenv("SHARPI_MODEL_CHUNK", "", 1); /* empty is not set */
    CU_ASSERT_EQUAL_FATAL(sharpi_settings_create(&s, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_settings_read_tree(s, scratch, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_settings_override(s, "model.backend=command", &err), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_settings_check_core(s, &err), SHARPI_OK);
    CU_ASSERT_STRING_EQUAL(sharpi_settings_get(s, "model", "kv.global"), "a");
    CU_ASSERT_STRING_EQUAL(sharpi_settings_get(s, "model", "kv"), "c");
    CU_ASSERT_STRING_EQUAL(sharpi_settings_get(s, "model", "kv.swa"), "environment");
    CU_ASSERT_STRING_EQUAL(sharpi_settings_get(s, "model", "backend"), "command");
    CU_ASSERT_PTR_NULL(sharpi_settings_get(s, "model", "chunk"));
    CU_ASSERT_STRING_EQUAL(sharpi_settings_origin(s, "model", "kv.swa"),
                           "environment variable SHARPI_MODEL_KV_SWA");
    CU_ASSERT_STRING_EQUAL(sharpi_settings_origin(s, "model", "backend"), "command line");
    check_contains(sharpi_settings_origin(s, "model", "kv"), "conf.d/20-b.ini:2");
    CU_ASSERT_EQUAL(sharpi_settings_n_files(s), 3);
    unsetenv("SHARPI_MODEL_KV_SWA");
    unsetenv("SHARPI_MODEL_BACKEND");
    unsetenv("SHARPI_MODEL_CHUNK");
    sharpi_settings_destroy(s);
}

static void users_file_is_read_where_xdg_says(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_settings *s;
    char path[256];
    const char *home = getenv("HOME");
    char *old_home = home ? strdup(home) : NULL;
    path_of(path, sizeof path, "sharpi");
    mkdir(path, 0700);
    write_text("sharpi/sharpi.ini", "[model]\nkv = mine\n");
    setenv("XDG_CONFIG_HOME", scratch, 1);
    CU_ASSERT_EQUAL_FATAL(sharpi_settings_create(&s, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_settings_read_default(s, &err), SHARPI_OK);
    CU_ASSERT_STRING_EQUAL(sharpi_settings_string(s, "model", "kv", ""), "mine");
    sharpi_settings_destroy(s);
    setenv("XDG_CONFIG_HOME", "relative", 1);
    setenv("HOME", "/nowhere", 1);
    CU_ASSERT_EQUAL_FATAL(sharpi_settings_create(&s, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_settings_read_default(s, &err), SHARPI_OK);
    sharpi_settings_destroy(s);
    unsetenv("XDG_CONFIG_HOME");
    if (old_home)
        setenv("HOME", old_home, 1);
    free(old_home);
}

static void overrides_must_name_section_and_key(void)
{
    static const char *const bad[] = {"kv=f16",  "model.kv",      "=", ".=", "model.=f16",
                                      ".kv=f16", "mod el.kv=f16", ""};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_settings *s;
    CU_ASSERT_EQUAL_FATAL(sharpi_settings_create(&s, &err), SHARPI_OK);
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_EQUAL(sharpi_settings_override(s, bad[i], &err), SHARPI_EINVAL);
    check_contains(err.text, "is not SECTION.KEY=VALUE, as in model.kv=q8_0");
    CU_ASSERT_EQUAL(sharpi_settings_override(s, "model.kv.swa=a=b.c", &err), SHARPI_OK);
    CU_ASSERT_STRING_EQUAL(sharpi_settings_get(s, "model", "kv.swa"), "a=b.c");
    CU_ASSERT_EQUAL(sharpi_settings_override(s, "model.contxt=5", &err), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_settings_check_core(s, &err), SHARPI_EINVAL);
    check_contains(err.text, "command line: [model] contxt: no such key; did you mean 'context'?");
    sharpi_settings_destroy(s);
}

struct messages {
    char text[4096];
};

static void collect(void *user, int32_t level, const char *topic, const char *message)
{
    struct messages *m = user;
    size_t at = strlen(m->text);
    snprintf(m->text + at, sizeof m->text - at, "%d %s: %s\n", level, topic, message);
}

static void misspelt_variable_is_a_warning(void)
{
    struct messages m = {""};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_engine *engine;
    struct sharpi_engine_options options = {.size = sizeof options,
                                            .no_default_config = 1,
                                            .overrides = (const char *const[]){"plugins.load=", NULL},
                                            .log = collect,
                                            .log_user = &m,
                                            .log_level = SHARPI_LOG_WARN};
    setenv("SHARPI_MODEL_CONTXT", "5", 1);
    setenv("SHARPI_SOMETHING_ELSE", "5", 1);
    CU_ASSERT_EQUAL_FATAL(sharpi_engine_open(&options, &engine, &err), SHARPI_OK);
    CU_ASSERT_STRING_EQUAL(m.text,
                           "1 config: environment variable SHARPI_MODEL_CONTXT is not used: no loaded plugin "
                           "has that key; did you mean SHARPI_MODEL_CONTEXT?\n");
    unsetenv("SHARPI_MODEL_CONTXT");
    unsetenv("SHARPI_SOMETHING_ELSE");
    sharpi_engine_close(engine);
}

static void one_file_replaces_the_default_ones(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_engine *engine;
    struct sharpi_engine_options options = {.size = sizeof options};
    options.config_path = write_text("only.ini", "[plugins]\nload =\n[model]\nkv = x\n");
    CU_ASSERT_EQUAL_FATAL(sharpi_engine_open(&options, &engine, &err), SHARPI_OK);
    CU_ASSERT_STRING_EQUAL(sharpi_settings_string(engine->settings, "model", "kv", ""), "x");
    CU_ASSERT_EQUAL(sharpi_settings_n_files(engine->settings), 1);
    CU_ASSERT_EQUAL(engine->plugins.n_records, 0);
    sharpi_engine_close(engine);
    options.config_path = "/nowhere.ini";
    CU_ASSERT_EQUAL(sharpi_engine_open(&options, &engine, &err), SHARPI_ENOENT);
    CU_ASSERT_PTR_NULL(engine);
    options = (struct sharpi_engine_options){.size = 8};
    CU_ASSERT_EQUAL(sharpi_engine_open(&options, &engine, &err), SHARPI_EINVAL);
    sharpi_engine_close(NULL);
}

static void sizes_and_switches_are_read_as_people_write_them(void)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {{"0", 0},
                 {"4096", 4096},
                 {"12282MiB", 12282ull << 20},
                 {"12282 MiB", 12282ull << 20},
                 {"2GB", 2000000000},
                 {"2G", 2ull << 30},
                 {"1.5GiB", 3ull << 29},
                 {"0.25KiB", 256},
                 {"7B", 7},
                 {"1TiB", 1ull << 40},
                 {"3kB", 3000},
                 {"18446744073709551615", UINT64_MAX}};
    static const char *const bad[] = {"",
                                      "MiB",
                                      "-1",
                                      "1.5",
                                      "1.",
                                      "1.MiB",
                                      "1 mib",
                                      "1MiBB",
                                      "0x10",
                                      "1e3",
                                      ".5GiB",
                                      "1,5GiB",
                                      " 1",
                                      "18446744073709551616",
                                      "99999999999999TiB",
                                      "1.1234567GiB",
                                      "16777216TiB"};
    uint64_t bytes;
    int32_t flag;
    for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CU_ASSERT_EQUAL(sharpi_parse_bytes(sizes[i].text, &bytes), SHARPI_OK);
        CU_ASSERT_EQUAL(bytes, sizes[i].bytes);
    }
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_EQUAL(sharpi_parse_bytes(bad[i], &bytes), SHARPI_EINVAL);
    CU_ASSERT_EQUAL(sharpi_parse_uint("18446744073709551615", &bytes), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_parse_uint("18446744073709551616", &bytes), SHARPI_EINVAL);
    CU_ASSERT_EQUAL(sharpi_parse_uint("1 ", &bytes), SHARPI_EINVAL);
    CU_ASSERT(sharpi_parse_bool("on", &flag) == 0 && flag == 1);
    CU_ASSERT(sharpi_parse_bool("0", &flag) == 0 && flag == 0);
    CU_ASSERT_EQUAL(sharpi_parse_bool("True", &flag), SHARPI_EINVAL);
}

static void nearest_name_is_what_was_meant(void)
{
    static const char *const names[] = {"context", "chunk", "kv", "kv.global", NULL, "threads"};
    CU_ASSERT_EQUAL(sharpi_edit_distance("context", "contxt"), 1);
    CU_ASSERT_EQUAL(sharpi_edit_distance("kitten", "sitting"), 3);
    CU_ASSERT_EQUAL(sharpi_edit_distance("threads", "thraeds"), 1); /* neighbours swapped */
    CU_ASSERT_EQUAL(sharpi_edit_distance("KV_global", "kv-global"), 0);
    CU_ASSERT_EQUAL(sharpi_edit_distance("", "abc"), 3);
    CU_ASSERT_STRING_EQUAL(sharpi_nearest("contexts", names, 6), "context");
    CU_ASSERT_STRING_EQUAL(sharpi_nearest("kb", names, 6), "kv");
    CU_ASSERT_STRING_EQUAL(sharpi_nearest("trheads", names, 6), "threads");
    CU_ASSERT_PTR_NULL(sharpi_nearest("colour", names, 6));
    CU_ASSERT_PTR_NULL(sharpi_nearest("context", names, 0));
    CU_ASSERT_PTR_NULL(sharpi_nearest(
        "a name that is much, much longer than any name that a key or a plugin could have", names, 6));
}

static const CU_TestInfo tests[] = {
    {"values_have_types_and_origins", values_have_types_and_origins},
    {"indented_lines_continue_a_value", indented_lines_continue_a_value},
    {"broken_files_are_refused_with_file_and_line", broken_files_are_refused_with_file_and_line},
    {"hostile_files_are_refused", hostile_files_are_refused},
    {"longest_line_is_not_cut", longest_line_is_not_cut},
    {"random_bytes_do_not_crash", random_bytes_do_not_crash},
    {"later_sources_are_stronger", later_sources_are_stronger},
    {"users_file_is_read_where_xdg_says", users_file_is_read_where_xdg_says},
    {"overrides_must_name_section_and_key", overrides_must_name_section_and_key},
    {"misspelt_variable_is_a_warning", misspelt_variable_is_a_warning},
    {"one_file_replaces_the_default_ones", one_file_replaces_the_default_ones},
    {"sizes_and_switches_are_read_as_people_write_them", sizes_and_switches_are_read_as_people_write_them},
    {"nearest_name_is_what_was_meant", nearest_name_is_what_was_meant},
    CU_TEST_INFO_NULL,
};

static void remove_scratch(void)
{
    static const char *const names[] = {"a.ini",
                                        "only.ini",
                                        "sharpi.ini",
                                        "conf.d/20-b.ini",
                                        "conf.d/10-a.ini",
                                        "conf.d/30-not-read.txt",
                                        "conf.d/.30-hidden.ini",
                                        "conf.d",
                                        "sharpi/sharpi.ini",
                                        "sharpi",
                                        ""};
    char path[256];
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++) {
        path_of(path, sizeof path, names[i]);
        remove(path);
    }
}

/* Variables of whoever runs the tests would get in the way. */
static void clear_environment(void)
{
    for (uint32_t i = 0; environ[i];) {
        char name[128];
        if (strncmp(environ[i], "SHARPI_", 7) == 0 && strcspn(environ[i], "=") < sizeof name) {
            snprintf(name, strcspn(environ[i], "=") + 1, "%s", environ[i]);
            unsetenv(name);
        } else {
            i++;
        }
    }
}

int main(void)
{
    CU_SuiteInfo suites[] = {{"config", NULL, NULL, NULL, NULL, (CU_TestInfo *)tests}, CU_SUITE_INFO_NULL};
    unsigned failures;
    clear_environment();
    strcpy(scratch, "/tmp/test-config-XXXXXX");
    if (!mkdtemp(scratch) || CU_initialize_registry() != CUE_SUCCESS ||
        CU_register_suites(suites) != CUE_SUCCESS)
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    remove_scratch();
    return failures ? 1 : 0;
}
