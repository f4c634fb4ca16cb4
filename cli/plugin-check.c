/* sharpi-plugin-check: tells the author of a plugin what the core, or a machine that is out of memory, would.
 *
 * Every check that runs the plugin's code does so in a process of its own, so that a crash is a result like any other. Exit
 * status: 0 all is well, 1 a check failed, 2 wrong usage.
 */
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/plugin-symbols.h"
#include "core/engine.h"

enum {
    SECONDS = 60,     /* a check that takes longer hangs */
    MAX_ALLOCS = 256, /* of init that are made to fail, one after the other */
    MAX_SETTINGS = 32,
    KV_ELEMENTS = 1024, /* of a row to encode: a multiple of every block size */
};

/* What a check's process tells the one that waits for it. */
struct report {
    int32_t ok;
    int32_t done; /* enough of its kind */
    uint32_t n;
    char text[8192];
};

struct checker {
    const char *path;
    const char *settings[MAX_SETTINGS + 1];
    struct report *report; /* shared memory */
    int failed;
};

__attribute__((format(printf, 2, 3))) static void say(struct report *report, const char *format, ...)
{
    va_list args;
    int n;
    va_start(args, format);
    n = vsnprintf(report->text + report->n, sizeof report->text - report->n, format, args);
    va_end(args);
    report->n += (uint32_t)n;
    if (report->n >= sizeof report->text)
        report->n = sizeof report->text - 1;
}

static void result(struct checker *checker, int ok, const char *what, const char *detail)
{
    printf("%-8s%s%s%s\n", ok ? "ok" : "FAILED", what, *detail ? ": " : "", detail);
    if (!ok)
        checker->failed = 1;
}

/* ---- Symbols */

struct symbols {
    int32_t has_entry;
    struct report extra, core;
};

static void take_symbol(void *user, const char *name, int32_t defined)
{
    static const char *const linker[] = {"_init", "_fini", "_edata", "_end", "__bss_start"};
    struct symbols *s = user;
    if (!defined) {
        if (strncmp(name, "sharpi_", 7) == 0)
            say(&s->core, "%s%s", s->core.n ? ", " : "", name);
        return;
    }
    if (strcmp(name, "sharpi_plugin_entry") == 0) {
        s->has_entry = 1;
        return;
    }
    for (size_t i = 0; i < sizeof linker / sizeof *linker; i++) {
        if (strcmp(name, linker[i]) == 0)
            return;
    }
    if (strncmp(name, "__asan", 6) != 0 && strncmp(name, "__odr_asan", 10) != 0)
        say(&s->extra, "%s%s", s->extra.n ? ", " : "", name);
}

static void take_needed(void *user, const char *name)
{
    struct symbols *s = user;
    if (strncmp(name, "libsharpi.so", 12) == 0)
        say(&s->core, "%s%s", s->core.n ? ", " : "", name);
}

static int check_symbols(struct checker *checker)
{
    struct symbols *s = calloc(1, sizeof *s);
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = s ? plugin_symbols(checker->path, take_symbol, take_needed, s, &err) : SHARPI_ENOMEM;
    result(checker, !status, "is a shared object for this machine", err.text);
    if (!status) {
        result(checker, s->has_entry, "exports sharpi_plugin_entry",
               s->has_entry ? "" : "it does not; write SHARPI_PLUGIN_ENTRY(table)");
        result(checker, s->extra.n == 0, "exports nothing else", s->extra.text);
        result(checker, s->core.n == 0, "needs nothing of libsharpi", s->core.text);
    }
    free(s);
    return !status;
}

/* ---- Checks in a process of their own */

typedef void check_fn(struct checker *checker, uint32_t argument);

static void run_check(struct checker *checker, const char *what, check_fn *check, uint32_t argument)
{
    struct report *report = checker->report;
    int status = 0;
    pid_t child;
    memset(report, 0, sizeof *report);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        alarm(SECONDS);
        check(checker, argument);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        result(checker, 0, what, "no process could be started for it");
        return;
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        result(checker, 0, what, "it did not return");
    } else if (WIFSIGNALED(status)) {
        result(checker, 0, what, strsignal(WTERMSIG(status)));
    } else if (WEXITSTATUS(status) != 0) {
        result(checker, 0, what, "it ended the process");
    } else {
        result(checker, report->ok, what, report->text);
    }
}

static void print_log(void *user, int32_t level, const char *topic, const char *message)
{
    (void)user;
    printf("        %s says%s: %s\n", topic, level <= SHARPI_LOG_WARN ? " (warning)" : "", message);
    fflush(stdout);
}

/* An engine with the plugin's settings and no plugin. */
static struct sharpi_engine *open_engine(struct checker *checker, sharpi_log_fn *log)
{
    struct sharpi_engine_options options = {.size = sizeof options,
                                            .no_default_config = 1,
                                            .overrides = checker->settings,
                                            .log = log,
                                            .log_level = SHARPI_LOG_INFO};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_engine *engine;
    if (sharpi_engine_open_bare(&options, &engine, &err) == 0)
        return engine;
    say(checker->report, "%s", err.text);
    return NULL;
}

static void check_load(struct checker *checker, uint32_t argument)
{
    struct sharpi_engine *engine = open_engine(checker, print_log);
    struct sharpi_error err = SHARPI_ERROR_INIT;
    (void)argument;
    if (!engine)
        return;
    checker->report->ok = sharpi_plugins_load(engine, checker->path, 0, &err) == 0;
    if (checker->report->ok) {
        const struct sharpi_plugin_record *record = engine->plugins.records[0];
        say(checker->report, "%s %s, %s: %s", record->name, record->version,
            *record->license ? record->license : "no licence stated",
            *record->summary ? record->summary : "no summary");
    } else {
        say(checker->report, "%s", err.text);
    }
    sharpi_engine_close(engine);
}

static const char *const kind_names[] = {"", "backend", "architecture", "KV format"};

static void check_offers(struct checker *checker, uint32_t argument)
{
    struct sharpi_engine *engine = open_engine(checker, NULL);
    (void)argument;
    if (!engine || sharpi_plugins_load(engine, checker->path, 0, NULL) != 0)
        return;
    for (uint32_t i = 0; i < engine->plugins.n_offers; i++) {
        const struct sharpi_offer *offer = &engine->plugins.offers[i];
        say(checker->report, "%s%s %s%s%s%s", i ? ", " : "", kind_names[offer->kind], offer->name,
            *offer->summary ? " (" : "", offer->summary, *offer->summary ? ")" : "");
    }
    checker->report->ok = engine->plugins.n_offers > 0;
    if (!checker->report->ok)
        say(checker->report, "nothing is registered");
    sharpi_engine_close(engine);
}

/* Twice in one process, and twice at once. */
static void check_again(struct checker *checker, uint32_t argument)
{
    struct sharpi_engine *one = open_engine(checker, NULL), *two = open_engine(checker, NULL);
    struct sharpi_error err = SHARPI_ERROR_INIT;
    (void)argument;
    if (!one || !two)
        return;
    if (sharpi_plugins_load(one, checker->path, 0, &err) == 0 &&
        sharpi_plugins_load(two, checker->path, 0, &err) == 0) {
        sharpi_plugins_unload(one);
        checker->report->ok = sharpi_plugins_load(one, checker->path, 0, &err) == 0;
    }
    say(checker->report, "%s", err.text);
    sharpi_engine_close(one);
    sharpi_engine_close(two);
}

static void check_freed(struct checker *checker, uint32_t argument)
{
    struct sharpi_engine *engine = open_engine(checker, NULL);
    int64_t live;
    (void)argument;
    if (!engine || sharpi_plugins_load(engine, checker->path, 0, NULL) != 0)
        return;
    sharpi_plugins_unload(engine);
    live = atomic_load(&engine->live_allocs);
    checker->report->ok = live == 0;
    if (live)
        say(checker->report, "%lld blocks of host->alloc are left after fini", (long long)live);
    sharpi_engine_close(engine);
}

/* Only `argument` allocations succeed: init must say so, and free what it has. */
static void check_out_of_memory(struct checker *checker, uint32_t argument)
{
    struct sharpi_engine *engine = open_engine(checker, NULL);
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct report *report = checker->report;
    int32_t status;
    int64_t live;
    if (!engine)
        return;
    atomic_store(&engine->allocs_left, argument);
    status = sharpi_plugins_load(engine, checker->path, 0, &err);
    report->done = atomic_load(&engine->allocs_left) > 0 || status == 0;
    if (status == 0) {
        report->ok = 1; /* it made do, or needed no more */
    } else if (strstr(err.text, "it does not say why")) {
        say(report, "init fails without a text");
    } else {
        live = atomic_load(&engine->live_allocs);
        report->ok = live == 0;
        if (live)
            say(report, "init fails and leaves %lld blocks", (long long)live);
    }
    sharpi_engine_close(engine);
}

static void check_all_out_of_memory(struct checker *checker)
{
    for (uint32_t i = 0; i < MAX_ALLOCS; i++) {
        char what[64];
        const int failed_before = checker->failed;
        snprintf(what, sizeof what, "init when memory runs out after %u allocations", i);
        run_check(checker, what, check_out_of_memory, i);
        if (checker->report->done || checker->failed != failed_before)
            return;
    }
}

/* ---- What is offered */

/* A guard behind the row and behind the floats must stay as it is, zeros must come back as zeros. */
static int check_kv_row(struct report *report, const struct sharpi_offer *offer)
{
    const uint64_t n = KV_ELEMENTS, bytes = offer->kv->row_bytes(offer->ctx, n);
    float *in = calloc(n + 16, sizeof *in), *out = calloc(n + 16, sizeof *out);
    unsigned char *row = bytes > 0 && bytes <= 64 * n ? malloc(bytes + 64) : NULL;
    int ok = in && out && row;
    double error = 0, norm = 0;
    if (!ok)
        say(report, "%s: row_bytes(%u) is %llu", offer->name, KV_ELEMENTS, (unsigned long long)bytes);
    for (uint32_t pass = 0; ok && pass < 2; pass++) {
        for (uint64_t i = 0; i < n; i++)
            in[i] = pass ? sinf((float)i * 0.37f) * (float)(1 + i % 5) : 0.0f;
        memset(row, 0xa5, bytes + 64);
        memset(out, 0xa5, (n + 16) * sizeof *out);
        offer->kv->encode(offer->ctx, row, in, n);
        offer->kv->decode(offer->ctx, row, out, n);
        for (uint64_t i = 0; i < 64; i++)
            ok = ok && row[bytes + i] == 0xa5 && ((unsigned char *)(out + n))[i] == 0xa5;
        for (uint64_t i = 0; i < n; i++) {
            error += (double)(out[i] - in[i]) * (out[i] - in[i]);
            norm += (double)in[i] * in[i];
        }
        if (!ok)
            say(report, "%s: encode or decode writes past the row", offer->name);
        else if (!pass && error != 0)
            say(report, "%s: zeros do not come back as zeros", offer->name);
        ok = ok && (pass || error == 0);
    }
    if (ok && !(error <= 0.04 * norm)) {
        say(report, "%s: what comes back is %.0f%% off", offer->name, 100 * sqrt(error / norm));
        ok = 0;
    }
    if (ok)
        say(report, "%s: %.2f bytes an element, %.3f%% off", offer->name, (double)bytes / (double)n,
            100 * sqrt(error / norm));
    free(in);
    free(out);
    free(row);
    return ok;
}

static int check_devices(struct report *report, const struct sharpi_offer *offer)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    uint32_t n = offer->backend->device_count(offer->ctx, &err);
    if (n == 0) {
        say(report, "%s: no device here: %s", offer->name, err.text[0] ? err.text : "it does not say why");
        return err.text[0] != 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct sharpi_device_info info = {.size = sizeof info};
        if (offer->backend->device_info(offer->ctx, i, &info, &err) != 0) {
            say(report, "%s: device %u: %s", offer->name, i, err.text);
            return 0;
        }
        info.name[sizeof info.name - 1] = '\0';
        say(report, "%s%s device %u: %s, %.1f GiB", i ? ", " : "", offer->name, i, info.name,
            (double)info.total_bytes / (1 << 30));
    }
    return 1;
}

static void check_one_offer(struct checker *checker, uint32_t argument)
{
    struct sharpi_engine *engine = open_engine(checker, NULL);
    const struct sharpi_offer *offer;
    if (!engine || sharpi_plugins_load(engine, checker->path, 0, NULL) != 0)
        return;
    checker->report->done = argument + 1 >= engine->plugins.n_offers;
    if (argument < engine->plugins.n_offers) {
        offer = &engine->plugins.offers[argument];
        checker->report->ok = offer->kind == SHARPI_OFFER_KV        ? check_kv_row(checker->report, offer)
                              : offer->kind == SHARPI_OFFER_BACKEND ? check_devices(checker->report, offer)
                                                                    : 1;
        if (offer->kind == SHARPI_OFFER_ARCH)
            say(checker->report, "%s: 'sharpi inspect MODEL' describes a file with it", offer->name);
    }
    sharpi_engine_close(engine);
}

static int check_plugin(struct checker *checker)
{
    if (!check_symbols(checker))
        return 1;
    run_check(checker, "loads and ends", check_load, 0);
    if (checker->failed && !checker->report->ok)
        return 1;
    run_check(checker, "offers", check_offers, 0);
    for (uint32_t i = 0; i < 64 && !checker->report->done; i++)
        run_check(checker, "offer works", check_one_offer, i);
    run_check(checker, "loads twice at once, and again", check_again, 0);
    run_check(checker, "frees its memory", check_freed, 0);
    check_all_out_of_memory(checker);
    return checker->failed;
}

static int usage(FILE *to)
{
    fputs("Usage: sharpi-plugin-check [--set KEY=VALUE]... FILE.so\n\n"
          "Loads a plugin as sharpi would and checks what it can.\n\n"
          "Options:\n"
          "      --set KEY=VALUE      a key of the plugin's section of sharpi.ini\n"
          "      --version            the version\n"
          "  -h, --help               this text\n\n"
          "Exit status: 0 all is well, 1 a check failed, 2 wrong usage.\n",
          to);
    return to == stdout ? 0 : 2;
}

/* "KEY=VALUE" with the plugin's name, which is the file's, in front. */
static const char *setting_of(const char *path, const char *assignment)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    char *setting = NULL;
    size_t n = strcspn(base, ".");
    return asprintf(&setting, "%.*s.%s", (int)n, base, assignment) < 0 ? NULL : setting;
}

int main(int argc, char **argv)
{
    struct checker checker = {0};
    char *path;
    int n = 0, at = 1, status;
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return usage(stdout);
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        return printf("sharpi-plugin-check %s\n", sharpi_version()) < 0;
    if (argc < 2 || argv[argc - 1][0] == '-')
        return usage(stderr);
    path = realpath(argv[argc - 1], NULL);
    if (!path) {
        perror(argv[argc - 1]);
        return 1;
    }
    for (; at + 2 < argc && n < MAX_SETTINGS && strcmp(argv[at], "--set") == 0; at += 2)
        checker.settings[n++] = setting_of(path, argv[at + 1]);
    checker.report =
        mmap(NULL, sizeof *checker.report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (checker.report == MAP_FAILED || at != argc - 1) {
        free(path);
        return usage(stderr);
    }
    checker.path = path;
    status = check_plugin(&checker);
    puts(status ? "FAILED: see above" : "all is well");
    while (n > 0)
        free((char *)(uintptr_t)checker.settings[--n]);
    munmap(checker.report, sizeof *checker.report);
    free(path);
    return status;
}
