/* sharpi plan: how a model would lie in memory, on this machine or on devices that are only described. Reads the file's header
 * only.
 */
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "core/model.h"

struct plan {
    struct common common;
    struct option_list described; /* --device NAME:SIZE; NAME and NAME:NUMBER stay in common.devices */
    uint32_t parallel, json;
    const char *replay;
};

static int32_t read_saved(const char *path, struct sharpi_plan **saved, struct sharpi_error *err)
{
    char *text;
    uint64_t n;
    int32_t status = read_file(path, 1u << 20, &text, &n, err);
    if (status)
        return status;
    status = sharpi_plan_read(text, n, path, saved, err);
    free(text);
    return status;
}

static int32_t make_described(const struct plan *o, struct sharpi_model *model,
                              const struct sharpi_model_options *options, struct sharpi_plan **plan,
                              struct sharpi_error *err)
{
    struct sharpi_plan_device devices[OPTION_LIST_MAX];
    struct sharpi_plan_wishes wishes = {.devices = devices};
    struct sharpi_plan *saved = NULL;
    int32_t status = SHARPI_OK;
    for (; wishes.n_devices < o->described.n && !status; wishes.n_devices++)
        status =
            sharpi_plan_parse_device(o->described.items[wishes.n_devices], &devices[wishes.n_devices], err);
    if (!status && o->replay)
        status = read_saved(o->replay, &saved, err);
    wishes.saved = saved;
    if (!status)
        status = sharpi_model_plan(model, options, &wishes, plan, err);
    sharpi_plan_free(saved);
    return status;
}

static int32_t print_plan(const struct plan *o, const struct sharpi_plan *plan, struct sharpi_error *err)
{
    char *text;
    int32_t status = o->json ? sharpi_plan_json(plan, &text, err) : sharpi_plan_text(plan, &text, err);
    if (status)
        return status;
    status = put_text(text, strlen(text), err);
    if (!status && o->json)
        status = put_text("\n", 1, err);
    free(text);
    return status;
}

static int32_t run_plan(const struct plan *o, int *fits, struct sharpi_error *err)
{
    struct sharpi_model_options options = {.size = sizeof options};
    struct sharpi_engine *engine = NULL;
    struct sharpi_model *model = NULL;
    struct sharpi_plan *described = NULL;
    const struct sharpi_plan *plan;
    int32_t status = open_engine(&o->common, &engine, err);
    model_options(&o->common, &options);
    options.max_sessions = o->parallel;
    if (!status)
        status = sharpi_model_open(engine, o->common.model, SHARPI_GGUF_HEADER_ONLY, &model, err);
    if (!status && (o->described.n || o->replay))
        status = make_described(o, model, &options, &described, err);
    else if (!status)
        status = sharpi_model_place(model, &options, 0, err);
    if (!status) {
        plan = described ? described : model->plan;
        *fits = sharpi_plan_short_bytes(plan) == 0;
        status = print_plan(o, plan, err);
    }
    sharpi_plan_free(described);
    sharpi_model_free(model);
    sharpi_engine_close(engine);
    return status;
}

/* "cuda:1" is a device of this machine, "card:12GiB" is described. */
static int is_described(const char *device)
{
    const char *colon = strchr(device, ':');
    return colon && colon[1 + strspn(colon + 1, "0123456789")] != 0;
}

static int sort_devices(struct plan *o, struct sharpi_error *err)
{
    struct option_list real = {.n = 0};
    for (uint32_t i = 0; i < o->common.devices.n; i++) {
        const char *device = o->common.devices.items[i];
        struct option_list *list = is_described(device) ? &o->described : &real;
        list->items[list->n++] = device;
    }
    o->common.devices = real;
    if (real.n && o->described.n)
        return sharpi_fail(err, SHARPI_EINVAL,
                           "--device %s is of this machine and %s is described: a plan is for either",
                           real.items[0], o->described.items[0]);
    return SHARPI_OK;
}

static int check_usage(struct plan *o, const char **args, uint32_t n_args, struct sharpi_error *err)
{
    if (n_args)
        o->common.model = args[0];
    if (!o->common.model)
        return sharpi_fail(err, SHARPI_EINVAL, "no model: give one with -m FILE.gguf");
    if (o->replay &&
        (o->common.devices.n || o->common.cpu_moe || o->common.n_cpu_moe || o->common.gpu_layers))
        return sharpi_fail(err, SHARPI_EINVAL, "--replay takes devices and placement from the saved plan");
    return sort_devices(o, err);
}

static int plan_command(int argc, char **argv)
{
    struct plan o = {.json = 0};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const char *args[1] = {NULL};
    uint32_t n_args;
    int code, fits = 0;
    const struct option own[] = {
        {"device", 0, OPTION_LIST, "NAME[:SIZE[,free=SIZE]]",
         "with a size: plan for such a device, 'cpu' is the host; else use this one (cuda, cuda:1, cpu); "
         "several in order of use",
         &o.common.devices, NULL},
        {"parallel", 0, OPTION_UINT, "N", "sequences with a cache at once (1)", &o.parallel, NULL},
        {"json", 0, OPTION_FLAG, NULL, "as JSON, which --replay and --plan take", &o.json, NULL},
        {"replay", 0, OPTION_STRING, "FILE", "count a saved plan again, for its own devices", &o.replay,
         NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, o.common.model_options, o.common.engine_options, NULL};
    common_init(&o.common);
    code = parse_command("plan", "sharpi plan [OPTIONS] FILE",
                         "Shows how a model would lie in memory: layers, context, caches, and what was not "
                         "chosen. Exit status 1: it does not fit.",
                         tables, argc, argv, args, 1, &n_args);
    if (code >= 0)
        return code;
    if (check_usage(&o, args, n_args, &err))
        return fail_usage("plan", &err);
    if (run_plan(&o, &fits, &err))
        return fail("plan", &err);
    return fits ? EXIT_OK : EXIT_ERROR;
}

const struct command command_plan = {"plan", "how a model would lie in memory", plan_command};
