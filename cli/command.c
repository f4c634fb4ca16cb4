/* Shared parts of the commands: see command.h. */
#include "command.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sharpi/plugin/host.h>

#include "progress.h"

void common_init(struct common *c)
{
    const struct option engine[] = {
        {"config", 0, OPTION_STRING, "FILE", "read this sharpi.ini only", &c->config, NULL},
        {"set", 0, OPTION_LIST, "SECTION.KEY=VALUE", "override a setting", &c->set, NULL},
        {"verbose", 'v', OPTION_FLAG, NULL, "say more", &c->verbose, NULL},
        {"quiet", 'q', OPTION_FLAG, NULL, "say only what went wrong", &c->quiet, NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option model[] = {
        {"model", 'm', OPTION_STRING, "FILE", "GGUF model", &c->model, NULL},
        {"ctx", 'c', OPTION_UINT, "N", "context: positions per sequence", &c->context, NULL},
        {"threads", 't', OPTION_UINT, "N", "threads (default: one per core)", &c->threads, NULL},
        {"chunk", 0, OPTION_UINT, "N", "most tokens in a step (default: 512, more where a GPU has room)",
         &c->chunk, NULL},
        {"headroom", 0, OPTION_UINT, "N", "positions a ring keeps beyond its window", &c->headroom, NULL},
        {"kv-pool", 0, OPTION_STRING, "N",
         "positions that parallel sequences share (default: a whole context for each)", &c->kv_pool, NULL},
        {"kv", 0, OPTION_STRING, "FORMAT", "KV cache format: f32, f16, bf16, q8_0 ...", &c->kv, NULL},
        {"kv-global", 0, OPTION_STRING, "FORMAT", "the same for layers without window", &c->kv_global, NULL},
        {"kv-swa", 0, OPTION_STRING, "FORMAT", "the same for sliding-window layers", &c->kv_swa, NULL},
        {"reserve", 0, OPTION_STRING, "WHAT", "memory that KV leaves free: rule, exact or a size",
         &c->reserve, NULL},
        {"memory-limit", 0, OPTION_STRING, "SIZE", "use at most that much of the device", &c->memory_limit,
         NULL},
        {"plan", 0, OPTION_STRING, "FILE", "sizes from a plan that 'sharpi plan --json' wrote", &c->plan,
         NULL},
        {"backend", 0, OPTION_STRING, "NAME", "cpu, cuda ...: all its devices", &c->backend, NULL},
        {"device", 0, OPTION_LIST, "NAME", "use this device: cuda, cuda:1, cpu; several in order of use",
         &c->devices, NULL},
        {"gpu-layers", 'g', OPTION_STRING, "N",
         "first N layers on the devices, the rest on the CPU (as many as fit)", &c->gpu_layers, NULL},
        {"cpu-moe", 0, OPTION_FLAG, NULL, "experts of all layers on the CPU", &c->cpu_moe, NULL},
        {"n-cpu-moe", 0, OPTION_STRING, "N", "experts of the first N layers on the CPU", &c->n_cpu_moe, NULL},
        {"no-repack", 0, OPTION_FLAG, NULL, "use weights from the file mapping", &c->no_repack, NULL},
        {"full-cache", 0, OPTION_FLAG, NULL, "no rings: windowed layers keep everything", &c->full_cache,
         NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    memset(c, 0, sizeof *c);
    _Static_assert(sizeof engine <= sizeof c->engine_options, "table size");
    _Static_assert(sizeof model <= sizeof c->model_options, "table size");
    memcpy(c->engine_options, engine, sizeof engine);
    memcpy(c->model_options, model, sizeof model);
}

int stderr_is_terminal(void)
{
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
}

int stdout_has_colour(void)
{
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0 && !(no_color && *no_color);
}

int fail(const char *command, const struct sharpi_error *err)
{
    if (!err->text[0])
        return EXIT_PIPE;
    fprintf(stderr, "sharpi %s: %s\n", command, err->text);
    return EXIT_ERROR;
}

int fail_usage(const char *command, const struct sharpi_error *err)
{
    fail(command, err);
    return EXIT_USAGE;
}

int parse_command(const char *command, const char *usage, const char *about,
                  const struct option *const *tables, int argc, char **argv, const char **args,
                  uint32_t max_args, uint32_t *n_args)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = options_parse(tables, argc, argv, args, max_args, n_args, &err);
    if (status == 1) {
        options_help(usage, about, tables);
        return EXIT_OK;
    }
    return status ? fail_usage(command, &err) : -1;
}

/* ---- Engine and model */

static void print_log(void *user, int32_t level, const char *topic, const char *message)
{
    (void)user;
    fprintf(stderr, "%s%s: %s\n",
            level == SHARPI_LOG_ERROR  ? "error: "
            : level == SHARPI_LOG_WARN ? "warning: "
                                       : "",
            topic, message);
}

/* Options that are settings: "model.KEY=VALUE" at the end of the list of overrides, so that they win. */
struct overrides {
    struct option_list list;
    uint32_t n_texts;
    char *texts[8]; /* to free */
};

static int32_t add_setting(struct overrides *o, const char *key, const char *value, struct sharpi_error *err)
{
    char *text;
    if (!value)
        return SHARPI_OK;
    if (o->list.n >= OPTION_LIST_MAX)
        return sharpi_fail(err, SHARPI_EINVAL, "at most %d settings can be given", OPTION_LIST_MAX);
    if (asprintf(&text, "model.%s=%s", key, value) < 0)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for option --%s", key);
    o->texts[o->n_texts++] = text;
    o->list.items[o->list.n++] = text;
    o->list.items[o->list.n] = NULL;
    return SHARPI_OK;
}

static int32_t add_devices(struct overrides *o, const struct option_list *devices, struct sharpi_error *err)
{
    char text[512];
    size_t at = 0;
    for (uint32_t i = 0; i < devices->n && at < sizeof text; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", i ? " " : "", devices->items[i]);
    if (at >= sizeof text)
        return sharpi_fail(err, SHARPI_EINVAL, "the names after --device are too long");
    return add_setting(o, "device", devices->n ? text : NULL, err);
}

static int32_t add_settings(struct overrides *o, const struct common *common, struct sharpi_error *err)
{
    int32_t status;
    if (common->plan && (common->gpu_layers || common->cpu_moe || common->n_cpu_moe))
        return sharpi_fail(err, SHARPI_EINVAL,
                           "--plan says where layers and experts lie: leave --gpu-layers, --cpu-moe and "
                           "--n-cpu-moe away, or make a new plan");
    if ((status = add_setting(o, "reserve", common->reserve, err)) ||
        (status = add_setting(o, "memory-limit", common->memory_limit, err)) ||
        (status = add_setting(o, "plan", common->plan, err)) ||
        (status = add_setting(o, "gpu-layers", common->gpu_layers, err)) ||
        (status = add_setting(o, "kv-pool", common->kv_pool, err)) ||
        (status = add_setting(o, "n-cpu-moe", common->n_cpu_moe, err)) ||
        (status = add_setting(o, "cpu-moe", common->cpu_moe ? "true" : NULL, err)))
        return status;
    return add_devices(o, &common->devices, err);
}

int32_t open_engine(const struct common *common, struct sharpi_engine **engine, struct sharpi_error *err)
{
    struct overrides settings = {.list = common->set};
    struct sharpi_engine_options options = {.size = sizeof options,
                                            .config_path = common->config,
                                            .overrides = settings.list.items,
                                            .log = print_log,
                                            .log_level = common->quiet     ? SHARPI_LOG_ERROR
                                                         : common->verbose ? SHARPI_LOG_DEBUG
                                                                           : SHARPI_LOG_WARN};
    int32_t status = add_settings(&settings, common, err);
    if (!status)
        status = sharpi_engine_open(&options, engine, err);
    for (uint32_t i = 0; i < settings.n_texts; i++)
        free(settings.texts[i]);
    return status;
}

void model_options(const struct common *common, struct sharpi_model_options *options)
{
    options->size = sizeof *options;
    options->context = common->context;
    options->chunk = common->chunk;
    options->headroom = common->headroom;
    options->n_threads = common->threads;
    options->no_repack = common->no_repack;
    options->full_cache = common->full_cache;
    options->backend = common->backend;
    options->kv = common->kv;
    options->kv_global = common->kv_global;
    options->kv_swa = common->kv_swa;
}

static int32_t show_progress(void *user, uint64_t done, uint64_t total)
{
    if (interrupted())
        return SHARPI_ECANCELLED;
    progress_show(user, done, total);
    return 0;
}

int32_t load_model(const struct common *common, struct sharpi_engine *engine,
                   const struct sharpi_model_options *extra, struct sharpi_model **model,
                   struct sharpi_error *err)
{
    struct sharpi_model_options options = {.size = sizeof options};
    struct progress progress;
    int32_t status;
    if (!common->model)
        return sharpi_fail(err, SHARPI_EINVAL, "no model: give one with -m FILE.gguf");
    if (extra)
        options = *extra;
    model_options(common, &options);
    options.progress = show_progress;
    options.progress_user = &progress;
    progress_begin(&progress, "loading", (int)common->quiet, 0);
    status = sharpi_model_load(engine, common->model, &options, model, err);
    progress_end(&progress);
    return status;
}

/* ---- Signals, time, files */

static volatile sig_atomic_t interrupt_count, terminate;

static void on_interrupt(int signal_number)
{
    terminate |= signal_number == SIGTERM;
    if (++interrupt_count > 1)
        _exit(128 + signal_number);
}

void catch_interrupt(void)
{
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = SIG_IGN; /* a closed pipe is an error of write, not a death */
    sigaction(SIGPIPE, &action, NULL);
}

int interrupted(void)
{
    return interrupt_count != 0;
}

int terminated(void)
{
    return terminate != 0;
}

void clear_interrupt(void)
{
    interrupt_count = terminate;
}

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int32_t put_text(const char *text, uint64_t n, struct sharpi_error *err)
{
    if (fwrite(text, 1, n, stdout) != n || fflush(stdout))
        return errno == EPIPE
                   ? sharpi_fail(err, SHARPI_EIO, "%s", "")
                   : sharpi_fail(err, SHARPI_EIO, "cannot write to standard output: %s", strerror(errno));
    return SHARPI_OK;
}

int finish_output(int code)
{
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
    int earlier = ferror(stdout);
    if (code == EXIT_INTERRUPT && terminated())
        return EXIT_TERMINATED;
    errno = 0;
    if ((fflush(stdout) == 0 && !earlier) || code != EXIT_OK)
        return code;
    if (errno == EPIPE || (poll(&out, 1, 0) == 1 && out.revents & POLLERR))
        return EXIT_PIPE;
    fprintf(stderr, "sharpi: cannot write to standard output: %s\n",
            errno ? strerror(errno) : "not all of it was written");
    return EXIT_ERROR;
}

int32_t read_file(const char *path, uint64_t limit, char **text, uint64_t *n, struct sharpi_error *err)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    uint64_t capacity = 0, used = 0;
    char *buffer = NULL, *bigger;
    int32_t status = SHARPI_OK;
    if (!file)
        return sharpi_fail(err, SHARPI_ENOENT, "cannot open %s: %s", path, strerror(errno));
    do {
        capacity = capacity ? capacity * 2 : 65536;
        if (used > limit) {
            status = sharpi_fail(err, SHARPI_EINVAL, "%s is larger than %llu bytes", path,
                                 (unsigned long long)limit);
            break;
        }
        bigger = realloc(buffer, capacity + 1);
        if (!bigger) {
            status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for %s", path);
            break;
        }
        buffer = bigger;
        used += fread(buffer + used, 1, capacity - used, file);
    } while (used == capacity);
    if (!status && ferror(file))
        status = sharpi_fail(err, SHARPI_EIO, "cannot read %s: %s", path, strerror(errno));
    if (file != stdin)
        fclose(file);
    if (status) {
        free(buffer);
        return status;
    }
    buffer[used] = 0;
    *text = buffer;
    *n = used;
    return SHARPI_OK;
}

int32_t write_file(const char *path, const void *data, uint64_t n, struct sharpi_error *err)
{
    FILE *file = strcmp(path, "-") == 0 ? stdout : fopen(path, "wb");
    int failed;
    if (!file)
        return sharpi_fail(err, SHARPI_EIO, "cannot create %s: %s", path, strerror(errno));
    failed = fwrite(data, 1, n, file) != n;
    failed |= file == stdout ? fflush(file) : fclose(file);
    return failed ? sharpi_fail(err, SHARPI_EIO, "cannot write %s: %s", path, strerror(errno)) : SHARPI_OK;
}
