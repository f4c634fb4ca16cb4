/* Placing a model on a device of this machine: which device, the plan, the cache's layout, the program.
 *
 * Invariant: after sharpi_model_place the plan's bytes are those of the compiled program and of the cache's layout.
 */
#include "model-place.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- Device */

static uint64_t tighter(uint64_t a, uint64_t b) /* of two limits, 0 meaning none */
{
    return !a || (b && b < a) ? b : a;
}

/* [model] memory_limit, and memory_limit of the backend plugin's section. */
static uint64_t memory_limit(const struct sharpi_model *model)
{
    const struct sharpi_settings *settings = model->engine->settings;
    const char *section = model->engine->plugins.records[model->backend_offer->plugin]->name;
    return tighter(sharpi_settings_bytes(settings, "model", "memory-limit", 0),
                   sharpi_settings_bytes(settings, section, "memory-limit", 0));
}

static int32_t open_device(struct sharpi_model *model, const struct sharpi_model_options *options,
                           struct sharpi_error *err)
{
    const struct sharpi_plugins *plugins = &model->engine->plugins;
    const char *name = sharpi_choose_string(options->backend, model, "backend", NULL);
    struct sharpi_device_options device = {
        .size = sizeof device,
        .repack = !options->no_repack && sharpi_settings_bool(model->engine->settings, "model", "repack", 1)};
    char names[256];
    uint32_t i;
    model->n_threads = device.n_threads = sharpi_choose_uint(options->n_threads, model, "threads", 0);
    for (i = 0; i < plugins->n_offers && !model->backend_offer; i++) {
        const struct sharpi_offer *offer = &plugins->offers[i];
        if (offer->kind == SHARPI_OFFER_BACKEND &&
            (name ? strcmp(offer->name, name) == 0 : offer->backend->device_count(offer->ctx, NULL) > 0))
            model->backend_offer = offer;
    }
    if (!model->backend_offer)
        return sharpi_fail(
            err, SHARPI_ENOENT, "backend '%s' is not loaded; loaded: %s; 'sharpi doctor' says why",
            name ? name : "any", sharpi_plugins_names(plugins, SHARPI_OFFER_BACKEND, names, sizeof names));
    model->backend = model->backend_offer->backend;
    if (model->backend->device_count(model->backend_offer->ctx, err) == 0)
        return SHARPI_EDEVICE;
    device.memory_limit = memory_limit(model);
    return model->backend->device_open(model->backend_offer->ctx, 0, &device, &model->device, err);
}

static int32_t describe_device(const struct sharpi_offer *offer, uint64_t limit,
                               struct sharpi_plan_device *out, uint32_t *integrated, struct sharpi_error *err)
{
    struct sharpi_device_info info = {.size = sizeof info};
    int32_t status = offer->backend->device_info(offer->ctx, 0, &info, err);
    if (status)
        return status;
    snprintf(out->name, sizeof out->name, "%.63s", info.name);
    *integrated = info.integrated;
    out->total_bytes = limit && limit < info.total_bytes ? limit : info.total_bytes;
    out->free_bytes = limit && limit < info.free_bytes ? limit : info.free_bytes;
    return SHARPI_OK;
}

/* The model's device and the host; they are the same when its memory is the host's. */
static int32_t take_devices(const struct sharpi_model *model, struct sharpi_plan_request *r,
                            struct sharpi_plan_device *device, struct sharpi_error *err)
{
    const struct sharpi_offer *cpu =
        sharpi_plugins_find(&model->engine->plugins, SHARPI_OFFER_BACKEND, "cpu");
    uint32_t integrated;
    int32_t status = describe_device(model->backend_offer, memory_limit(model), device, &integrated, err);
    if (status)
        return status;
    if (integrated) {
        r->host = *device;
        r->context_cap = SHARPI_PLAN_CPU_CONTEXT;
        return SHARPI_OK;
    }
    r->devices = device;
    r->n_devices = 1;
    return cpu ? describe_device(cpu, 0, &r->host, &integrated, err) : SHARPI_OK;
}

/* ---- Program */

static int32_t find_taps(struct sharpi_model *model, const char *const *names, struct sharpi_error *err)
{
    uint32_t n = 0;
    while (names && names[n])
        n++;
    model->taps = calloc(n + 1, sizeof *model->taps);
    model->tap_pointers = calloc(n + 1, sizeof *model->tap_pointers);
    if (!model->taps || !model->tap_pointers)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %u taps", n);
    for (; model->n_taps < n; model->n_taps++) {
        model->taps[model->n_taps] = sharpi_graph_tap(model->graph, names[model->n_taps], err);
        if (model->taps[model->n_taps] < 0)
            return SHARPI_ENOENT;
    }
    return SHARPI_OK;
}

static int32_t check_ops(const struct sharpi_model *model, struct sharpi_error *err)
{
    const struct sharpi_graph_view *view = sharpi_graph_view(model->graph);
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < view->n_ops && !status; i++) {
        const struct sharpi_op *op = view->ops[i];
        const struct sharpi_kv_layer *kv = NULL;
        if (op->kind == SHARPI_OP_ATTENTION)
            kv = &model->kv_layers[((const struct sharpi_attention_attr *)op->attr)->kv_layer];
        status = model->backend->supports(model->backend_offer->ctx, view, op, kv, err);
    }
    return status;
}

/* Cache layout and program for a context and chunk; what an earlier call made is replaced. */
static int32_t compile(struct sharpi_model *model, const struct sharpi_plan_request *r, uint32_t context,
                       uint32_t chunk, struct sharpi_error *err)
{
    const struct sharpi_graph_view *view = sharpi_graph_view(model->graph);
    struct sharpi_compile request = {.size = sizeof request,
                                     .end_op = view->n_ops,
                                     .max_tokens = chunk,
                                     .max_seqs = r->max_seqs,
                                     .max_logits = chunk,
                                     .graph = view,
                                     .n_taps = model->n_taps,
                                     .taps = model->taps};
    const struct sharpi_kv_shape shape = {context, r->full_cache ? context : r->headroom, r->max_seqs};
    struct sharpi_kv_layout layout;
    int32_t status = sharpi_kv_layout_init(&layout, r->desc, &r->formats, &shape, err);
    if (status)
        return status;
    if (model->program)
        model->backend->program_destroy(model->program);
    model->program = NULL;
    free(model->kv_layers);
    free(model->classes);
    request.kv_layers = model->kv_layers = layout.layers;
    model->classes = layout.classes;
    request.n_classes = model->n_classes = layout.n_classes;
    model->context = context;
    model->chunk = chunk;
    if ((status = check_ops(model, err)) ||
        (status = model->backend->compile(model->device, &request, &model->program, err)))
        return status;
    model->memory = (struct sharpi_program_memory){.size = sizeof model->memory};
    status = model->backend->program_memory(model->program, &model->memory);
    if (!status && model->memory.n_fallback_ops &&
        sharpi_settings_bool(model->engine->settings, "model", "strict", 0))
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "%u ops would run on a slower path (the log names them) and model.strict is on; set it "
            "to false, or choose another KV format or backend",
            model->memory.n_fallback_ops);
    return status;
}

/* ---- Plan */

static int32_t read_saved(const struct sharpi_model *model, struct sharpi_plan **out,
                          struct sharpi_error *err)
{
    enum { LIMIT = 1 << 20 };
    const char *path = sharpi_choose_string(NULL, model, "plan", NULL);
    FILE *file;
    char *text;
    size_t n;
    int32_t status;
    if (!path)
        return SHARPI_OK;
    file = fopen(path, "rbe");
    if (!file)
        return sharpi_fail(err, SHARPI_ENOENT, "cannot open the plan %s: %s", path, strerror(errno));
    text = malloc(LIMIT);
    n = text ? fread(text, 1, LIMIT, file) : 0;
    if (!text)
        status = sharpi_fail(err, SHARPI_ENOMEM, "no memory to read %s", path);
    else if (ferror(file) || n == LIMIT)
        status = sharpi_fail(err, SHARPI_EIO, "%s cannot be read or is larger than %d bytes", path, LIMIT);
    else
        status = sharpi_plan_read(text, n, path, out, err);
    free(text);
    fclose(file);
    return status;
}

static const char *used_parts(const struct sharpi_plan *plan, char *text, size_t n)
{
    size_t at = 0;
    for (uint32_t i = 0; i < plan->n_parts && at < n; i++) {
        const struct sharpi_plan_part *p = &plan->parts[i];
        uint32_t first = p->first_segment ? p->first_segment - 1 : 0;
        uint32_t end = p->end_segment > plan->n_layers ? plan->n_layers : p->end_segment - 1;
        if (p->first_segment < p->end_segment && first < end)
            at += (size_t)snprintf(text + at, n - at, "%slayers %u to %u on %s", at ? ", " : "", first,
                                   end - 1, p->name);
        else if (p->n_expert_layers)
            at += (size_t)snprintf(text + at, n - at, "%sexperts of %u layers on %s", at ? ", " : "",
                                   p->n_expert_layers, p->name);
    }
    return text;
}

/* A model runs on one device: the host when `on_host`, else the first device. */
static int32_t check_placement(const struct sharpi_plan *plan, int32_t on_host, struct sharpi_error *err)
{
    char text[400] = "";
    for (uint32_t i = 0; i < plan->n_parts; i++) {
        const struct sharpi_plan_part *p = &plan->parts[i];
        if (p->first_segment == 0 && p->end_segment == plan->n_segments && (p->host != 0) == on_host &&
            plan->placement.n_expert_layers == 0 && (on_host || i == 0))
            return SHARPI_OK;
    }
    used_parts(plan, text, sizeof text);
    return sharpi_fail(
        err, SHARPI_ENOTSUP,
        "the memory plan has %s; this version runs a model on one device, here the %s. %s%sUse a "
        "smaller context (-c), --kv q8_0, --reserve exact, another --backend, or a new plan",
        text, on_host ? "CPU" : "first of its backend", plan->rejected.n ? plan->rejected.lines[0] : "",
        plan->rejected.n ? ". " : "");
}

static void log_plan(const struct sharpi_model *model)
{
    const struct sharpi_plan *plan = model->plan;
    char weights[24], kv[24], scratch[24];
    sharpi_log_printf(&model->engine->log, SHARPI_LOG_INFO, "plan",
                      "context %u, %u sequences; weights %s, KV %s, scratch %s", plan->context,
                      plan->max_seqs, sharpi_plan_size(model->memory.weight_bytes, weights),
                      sharpi_plan_size(sharpi_plan_kv_bytes(plan), kv),
                      sharpi_plan_size(model->memory.scratch_bytes, scratch));
    for (uint32_t i = 0; i < plan->notes.n; i++)
        sharpi_log_text(&model->engine->log, SHARPI_LOG_WARN, "plan", plan->notes.lines[i]);
}

/* Compiles for the most context that there might be, plans with that program's bytes, compiles for what the plan says. */
static int32_t plan_and_compile(struct sharpi_model *model, struct sharpi_planning *planning, int32_t insist,
                                struct sharpi_error *err)
{
    struct sharpi_plan_request *r = &planning->request;
    const int32_t on_host = r->n_devices == 0;
    uint32_t most = r->desc->context_length;
    int32_t status;
    if (r->context && r->context < most)
        most = r->context;
    else if (!r->context && r->context_cap && r->context_cap < most)
        most = r->context_cap;
    if ((status = compile(model, r, most, r->chunk, err)) ||
        (status = sharpi_planning_make(planning, model, &model->plan, err)) ||
        (insist && (status = check_placement(model->plan, on_host, err))))
        return status;
    if (model->plan->context == most)
        return SHARPI_OK;
    if (r->chunk > model->plan->context)
        r->chunk = model->plan->context;
    if ((status = compile(model, r, model->plan->context, r->chunk, err)))
        return status;
    return sharpi_plan_update(model->plan, r, err);
}

int32_t sharpi_model_place(struct sharpi_model *model, const struct sharpi_model_options *options,
                           int32_t insist, struct sharpi_error *err)
{
    struct sharpi_planning planning = {.other_formats = NULL};
    struct sharpi_plan_device device = {.program = &model->memory};
    struct sharpi_plan *saved = NULL;
    int32_t status;
    if ((status = read_saved(model, &saved, err)) || (status = open_device(model, options, err)) ||
        (status = sharpi_planning_init(&planning, model, options, saved, err)) ||
        (status = take_devices(model, &planning.request, &device, err)))
        goto out;
    if (saved && (status = check_placement(saved, planning.request.n_devices == 0, err)))
        goto out;
    model->max_sessions = planning.request.max_seqs;
    model->headroom = planning.request.headroom;
    if (!(status = find_taps(model, options->taps, err)))
        status = plan_and_compile(model, &planning, insist, err);
    if (!status && insist)
        log_plan(model);
out:
    sharpi_planning_finish(&planning);
    sharpi_plan_free(saved);
    return status;
}
