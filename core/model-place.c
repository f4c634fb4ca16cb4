/* Placing a model on the devices of this machine: the plan, and programs for what it says.
 *
 * Invariant: after sharpi_model_place the plan's bytes are those of the compiled programs and of the cache's layout.
 */
#include "model-place.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "model-parts.h"

enum {
    MAX_TRIALS = 8, /* placements that are compiled before one is taken as it is */
    MAX_MEASURES = MAX_TRIALS * (SHARPI_PLAN_MAX_DEVICES + 1),
};

struct placing {
    struct sharpi_model *model;
    struct sharpi_planning planning;
    struct sharpi_plan *saved;
    struct sharpi_placement placement; /* the saved one, for the devices that there are; or the last trial */
    struct sharpi_plan_device devices[SHARPI_PLAN_MAX_DEVICES];
    struct sharpi_plan_measure measures[MAX_MEASURES];
    uint32_t most; /* positions that there might be */
    uint32_t n_host_ops;
    struct sharpi_error why; /* the first of them is the host's */
};

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

/* ---- Texts */

static const char *used_parts(const struct sharpi_plan *plan, char *text, size_t n)
{
    size_t at = 0;
    text[0] = 0;
    for (uint32_t i = 0; i < plan->n_parts && at < n; i++) {
        char part[SHARPI_PLAN_PART_TEXT];
        sharpi_plan_describe_part(plan, &plan->parts[i], part);
        if (*part)
            at +=
                (size_t)snprintf(text + at, n - at, "%s%s on %s", at ? ", " : "", part, plan->parts[i].name);
    }
    return text;
}

void sharpi_model_describe_cache(const struct sharpi_model *model, const struct sharpi_model_device *device,
                                 char *text, size_t n)
{
    const char *global = NULL, *swa = NULL;
    for (uint32_t i = 0; i < model->desc.n_layers; i++) {
        const struct sharpi_kv_layer *kv = &model->kv_layers[i];
        if (sharpi_model_layer_device(model, i) != device || !kv->kv)
            continue;
        if (model->desc.layers[i].window)
            swa = kv->kv->name;
        else
            global = kv->kv->name;
    }
    text[0] = 0;
    if (global && swa && strcmp(global, swa) != 0)
        snprintf(text, n, " (KV %s, %s with windows)", global, swa);
    else if (global || swa)
        snprintf(text, n, " (KV %s)", global ? global : swa);
}

/* One line per device that is used. */
static void log_parts(const struct sharpi_model *model)
{
    const struct sharpi_plan *plan = model->plan;
    char what[SHARPI_PLAN_PART_TEXT], cache[80], weights[24], kv[24], scratch[24], runtime[24];
    for (uint32_t i = 0; i < plan->n_parts; i++) {
        const struct sharpi_plan_part *p = &plan->parts[i];
        const struct sharpi_model_device *device = &model->devices[i];
        sharpi_plan_describe_part(plan, p, what);
        if (!*what)
            continue;
        sharpi_model_describe_cache(model, device, cache, sizeof cache);
        sharpi_log_printf(&model->engine->log, SHARPI_LOG_INFO, "plan",
                          "%s on %s%s: weights %s, KV %s, scratch %s, runtime %s", what, device->name, cache,
                          sharpi_plan_size(p->weight_bytes, weights), sharpi_plan_size(p->kv_bytes, kv),
                          sharpi_plan_size(p->scratch_bytes, scratch),
                          sharpi_plan_size(p->runtime_bytes, runtime));
    }
}

/* What the user did not ask for and will feel: layers or experts on the CPU beside a device. */
static void log_spill(const struct placing *p)
{
    const struct sharpi_plan *plan = p->model->plan;
    const struct sharpi_plan_request *r = &p->planning.request;
    const struct sharpi_plan_part *host = &plan->parts[plan->n_parts - 1];
    char what[SHARPI_PLAN_PART_TEXT];
    sharpi_plan_describe_part(plan, host, what);
    if (!r->n_devices || p->saved || r->limit_layers || !*what ||
        (host->first_segment == host->end_segment && r->n_expert_layers))
        return;
    sharpi_log_printf(
        &p->model->engine->log, SHARPI_LOG_WARN, "plan",
        "%s on the CPU, which is slower%s%s; a smaller context (-c), --kv q8_0 or --reserve exact "
        "leave more room on the device",
        what, plan->rejected.n ? ": " : "", plan->rejected.n ? plan->rejected.lines[0] : "");
}

static void log_plan(const struct placing *p)
{
    const struct sharpi_model *model = p->model;
    const struct sharpi_plan *plan = model->plan;
    sharpi_log_printf(&model->engine->log, SHARPI_LOG_INFO, "plan", "context %u, %u sequences", plan->context,
                      plan->max_seqs);
    log_parts(model);
    for (uint32_t i = 0; i < plan->notes.n; i++)
        sharpi_log_text(&model->engine->log, SHARPI_LOG_WARN, "plan", plan->notes.lines[i]);
    log_spill(p);
}

/* ---- A saved plan */

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

/* The saved plan's devices are taken for this process's, in order. */
static int32_t take_saved_placement(struct placing *p, struct sharpi_error *err)
{
    const struct sharpi_plan *saved = p->saved;
    const uint32_t n_devices = p->model->n_devices, n_saved = saved->n_parts - 1;
    uint32_t n_used = 0;
    char text[400];
    for (uint32_t i = 0; i < n_saved; i++) {
        if (saved->parts[i].first_segment < saved->parts[i].end_segment)
            n_used = i + 1;
    }
    if (n_used > n_devices)
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "the saved plan has %s; this process has %u device%s with memory of %s own: load the "
            "backend (sharpi doctor), choose another --device, or make a new plan",
            used_parts(saved, text, sizeof text), n_devices, n_devices == 1 ? "" : "s",
            n_devices == 1 ? "its" : "their");
    p->placement = saved->placement;
    for (uint32_t i = n_used; i < n_devices; i++)
        p->placement.ends[i] = i ? p->placement.ends[i - 1] : 0;
    p->planning.request.placement = &p->placement;
    return SHARPI_OK;
}

/* ---- Ops that the devices lack */

/* SHARPI_ENOTSUP with the reason of the first device that cannot do the op. An attention op stays where its cache is. */
static int32_t check_devices(const struct sharpi_model *model, const struct sharpi_op *op,
                             struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint32_t d = 0; d < model->n_devices && !status; d++) {
        const struct sharpi_offer *offer = model->devices[d].offer;
        if (op->kind != SHARPI_OP_ATTENTION && op->kind != SHARPI_OP_TAP)
            status = offer->backend->supports(offer->ctx, sharpi_graph_view(model->graph), op, NULL, err);
    }
    return status;
}

/* Marks ops that are left to the host, and keeps the first reason in `why`. */
static int32_t find_host_ops(struct placing *p, struct sharpi_error *err)
{
    struct sharpi_model *model = p->model;
    const struct sharpi_graph_view *view = sharpi_graph_view(model->graph);
    p->why = (struct sharpi_error)SHARPI_ERROR_INIT;
    model->host_ops = calloc(view->n_ops, 1);
    if (!model->host_ops)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to place %u ops", view->n_ops);
    for (uint32_t i = 0; i < view->n_ops; i++) {
        if (check_devices(model, view->ops[i], p->n_host_ops ? NULL : &p->why) == SHARPI_OK)
            continue;
        model->host_ops[i] = 1;
        p->n_host_ops++;
    }
    if (!p->n_host_ops) {
        free(model->host_ops);
        model->host_ops = NULL;
    } else if (sharpi_settings_bool(model->engine->settings, "model", "strict", 0)) {
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "%u ops would run on the CPU, as the device cannot do them, and model.strict is on: %s",
            p->n_host_ops, p->why.text);
    }
    p->planning.request.host_ops = model->host_ops;
    return SHARPI_OK;
}

/* ---- Cache formats */

/* Whether all devices can do every attention with that format; the host can with any. */
static int32_t is_possible(const struct sharpi_model *model, const struct sharpi_kv_layout *layout,
                           const struct sharpi_kv_format *format)
{
    const struct sharpi_graph_view *view = sharpi_graph_view(model->graph);
    for (uint32_t i = 0; i < view->n_ops * model->n_devices; i++) {
        const struct sharpi_op *op = view->ops[i / model->n_devices];
        const struct sharpi_attention_attr *attr = op->attr;
        if (op->kind == SHARPI_OP_ATTENTION &&
            !sharpi_device_takes_format(model, &model->devices[i % model->n_devices], op,
                                        &layout->layers[attr->kv_layer], format))
            return 0;
    }
    return 1;
}

/* A plan is compared only with formats that could be used. */
static int32_t choose_other_formats(struct placing *p, struct sharpi_error *err)
{
    struct sharpi_plan_request *r = &p->planning.request;
    const struct sharpi_kv_shape shape = {1, 1, 1, 0};
    struct sharpi_kv_layout layout;
    uint32_t n = 0;
    int32_t status = sharpi_kv_layout_init(&layout, r->desc, &r->formats, &shape, err);
    for (uint32_t i = 0; i < r->n_other_formats && !status; i++) {
        if (is_possible(p->model, &layout, &p->planning.other_formats[i]))
            p->planning.other_formats[n++] = p->planning.other_formats[i];
    }
    r->n_other_formats = n;
    sharpi_kv_layout_finish(&layout);
    return status;
}

/* ---- Plan and programs */

static int32_t describe_devices(struct placing *p, struct sharpi_error *err)
{
    struct sharpi_plan_request *r = &p->planning.request;
    r->devices = p->devices;
    r->n_devices = p->model->n_devices;
    r->context_cap = r->n_devices ? 0 : SHARPI_PLAN_CPU_CONTEXT;
    return sharpi_devices_describe(p->model, p->devices, &r->host, err);
}

/* The compiled parts as the planner's prices. */
static void measure(struct placing *p, const struct sharpi_placement *placement)
{
    struct sharpi_plan_request *r = &p->planning.request;
    for (uint32_t d = 0; d <= r->n_devices && r->n_measures < MAX_MEASURES; d++) {
        const struct sharpi_model_device *device = &p->model->devices[d];
        const uint32_t first = d ? placement->ends[d - 1] : 0,
                       end = d < r->n_devices ? placement->ends[d] : r->desc->n_layers + 2;
        const uint64_t again = sharpi_plan_tables_again(r->weights, first, end),
                       mapped = device->memory.mapped_bytes;
        if (device->n_parts)
            p->measures[r->n_measures++] = (struct sharpi_plan_measure){
                .device = d,
                .first_segment = first,
                .end_segment = end,
                .n_expert_layers = placement->n_expert_layers,
                .weight_bytes = device->memory.weight_bytes,
                .mapped_bytes = mapped > again ? mapped - again : 0, /* as the devices before count them */
                .scratch_bytes = device->memory.scratch_bytes};
    }
    r->measures = p->measures;
}

static int32_t compile(struct placing *p, const struct sharpi_placement *placement, uint32_t context,
                       struct sharpi_error *err)
{
    struct sharpi_plan_request *r = &p->planning.request;
    const uint32_t chunk = r->chunk < context ? r->chunk : context;
    int32_t status = sharpi_parts_compile(p->model, r, placement, context, chunk, err);
    if (!status)
        measure(p, placement);
    return status;
}

/* Plans with file sizes, compiles what was planned, and plans again with the programs' bytes, until a plan has only parts that
 * were compiled. Without devices there is one placement, which is compiled first. */
static int32_t find_plan(struct placing *p, struct sharpi_error *err)
{
    struct sharpi_plan_request *r = &p->planning.request;
    struct sharpi_placement everything_on_host = {.n_expert_layers = 0};
    int32_t status = SHARPI_OK;
    if (!r->n_devices)
        status = compile(p, r->placement ? r->placement : &everything_on_host, p->most, err);
    for (uint32_t trial = 0; !status; trial++) {
        sharpi_plan_free(p->model->plan);
        p->model->plan = NULL;
        status = sharpi_planning_make(&p->planning, p->model, &p->model->plan, err);
        if (status)
            return status;
        assert(p->model->plan); /* for the analyzer: that is what success means */
        if (sharpi_plan_measured(r, &p->model->plan->placement))
            return SHARPI_OK;
        if (trial > MAX_TRIALS)
            return sharpi_fail(err, SHARPI_EBUG, "the memory plan does not settle on a placement");
        p->placement = p->model->plan->placement;
        status = compile(p, &p->placement, p->most, err);
        if (!status)
            status = describe_devices(p, err); /* opening a device may take some of its memory */
        if (trial + 1 == MAX_TRIALS)
            r->placement = &p->placement;
    }
    return status;
}

/* A larger chunk, where the plan has room for it; one that cannot be planned is none. All else stays as it is, but for what is
 * compiled. */
static void enlarge_chunk(struct placing *p)
{
    struct sharpi_plan_request *r = &p->planning.request;
    const struct sharpi_placement *wanted = r->placement;
    const uint32_t usual = r->chunk;
    struct sharpi_plan *plan = p->model->plan;
    const struct sharpi_placement placement = plan->placement;
    int32_t yes = 0;
    for (uint32_t chunk = SHARPI_PLAN_LARGE_CHUNK; chunk > usual && !yes; chunk /= 2) {
        p->model->plan = NULL;
        r->chunk = chunk;
        r->n_measures = 0;
        r->placement = &placement;
        yes = find_plan(p, NULL) == SHARPI_OK && sharpi_plan_has_room(plan, p->model->plan);
        if (yes) {
            sharpi_planning_take(&plan, p->model->plan);
        } else {
            sharpi_plan_free(p->model->plan);
            r->chunk = usual;
        }
    }
    r->placement = wanted;
    p->model->plan = plan;
}

static int32_t plan_and_compile(struct placing *p, struct sharpi_error *err)
{
    struct sharpi_plan_request *r = &p->planning.request;
    struct sharpi_model *model = p->model;
    int32_t status;
    p->most = r->desc->context_length;
    if (r->context && r->context < p->most)
        p->most = r->context;
    else if (!r->context && r->context_cap && r->context_cap < p->most)
        p->most = r->context_cap;
    if (r->chunk > p->most)
        r->chunk = p->most;
    if ((status = find_plan(p, err)))
        return status;
    if (p->planning.chunk_is_free && r->n_devices)
        enlarge_chunk(p);
    if (model->plan->context == model->context && model->plan->chunk == model->chunk &&
        memcmp(&model->plan->placement, &model->placement, sizeof model->placement) == 0)
        return SHARPI_OK;
    r->n_measures = 0;
    status = compile(p, &model->plan->placement, model->plan->context, err);
    r->chunk = model->chunk;
    return status ? status : sharpi_plan_update(model->plan, r, err);
}

int32_t sharpi_model_place(struct sharpi_model *model, const struct sharpi_model_options *options,
                           int32_t insist, struct sharpi_error *err)
{
    struct placing *p = calloc(1, sizeof *p);
    int32_t status;
    if (!p)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to plan");
    p->model = model;
    model->n_threads = sharpi_choose_uint(options->n_threads, model, "threads", 0);
    model->repack =
        !options->no_repack && sharpi_settings_bool(model->engine->settings, "model", "repack", 1);
    if ((status = read_saved(model, &p->saved, err)) || (status = sharpi_devices_find(model, options, err)) ||
        (status = sharpi_planning_init(&p->planning, model, options, p->saved, err)) ||
        (status = describe_devices(p, err)) || (p->saved && (status = take_saved_placement(p, err))))
        goto out;
    model->max_sessions = p->planning.request.max_seqs;
    model->headroom = p->planning.request.headroom;
    if (!(status = find_host_ops(p, err)) && !(status = choose_other_formats(p, err)) &&
        !(status = find_taps(model, options->taps, err)))
        status = plan_and_compile(p, err);
    if (!status && p->n_host_ops && model->ranges.n > 1)
        sharpi_plan_say(&model->plan->notes, "%u ops run on the CPU, as the device cannot do them: %s",
                        p->n_host_ops, p->why.text);
    if (!status && insist)
        log_plan(p);
out:
    sharpi_planning_finish(&p->planning);
    sharpi_plan_free(p->saved);
    free(p);
    return status;
}
