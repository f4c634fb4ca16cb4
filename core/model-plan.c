/* From a model, its options and the settings to a request for the planner; plans for devices that are only described. */
#include "model-place.h"

#include <stdlib.h>
#include <string.h>

const char *sharpi_choose_string(const char *option, const struct sharpi_model *model, const char *key,
                                 const char *fallback)
{
    return option ? option : sharpi_settings_string(model->engine->settings, "model", key, fallback);
}

uint32_t sharpi_choose_uint(uint32_t option, const struct sharpi_model *model, const char *key,
                            uint32_t fallback)
{
    uint64_t value = option ? option : sharpi_settings_uint(model->engine->settings, "model", key, fallback);
    return value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

/* ---- Sizes */

/* A prompt may only be split when every layer's mask is known: else a chunk is as long as the context, whose automatic size is
 * kept moderate, since scratch grows with it. */
static void choose_unsplit(struct sharpi_plan_request *r)
{
    uint32_t context = r->context ? r->context : SHARPI_PLAN_WHOLE_CONTEXT;
    if (context > r->desc->context_length)
        context = r->desc->context_length;
    r->context = r->chunk = context;
}

static int32_t choose_sizes(struct sharpi_planning *planning, const struct sharpi_model *model,
                            const struct sharpi_model_options *options, struct sharpi_error *err)
{
    struct sharpi_plan_request *r = &planning->request;
    uint32_t most;
    r->max_seqs = sharpi_choose_uint(options->max_sessions, model, "max-sessions", 1);
    r->pool = planning->saved ? planning->saved->pool : sharpi_choose_uint(0, model, "kv-pool", 0);
    r->context = sharpi_choose_uint(options->context, model, "context", 0);
    r->chunk = sharpi_choose_uint(options->chunk, model, "chunk", 0);
    planning->chunk_is_free = !r->chunk && r->desc->mask_known;
    if (!r->chunk)
        r->chunk = SHARPI_PLAN_CHUNK;
    r->full_cache = options->full_cache;
    most = r->context && r->context < r->desc->context_length ? r->context : r->desc->context_length;
    if (r->chunk > most)
        r->chunk = most;
    if (r->chunk > 65536)
        return sharpi_fail(err, SHARPI_EINVAL, "a chunk of %u tokens is more than 65536", r->chunk);
    if (!r->desc->mask_known)
        choose_unsplit(r);
    r->headroom = sharpi_choose_uint(options->headroom, model, "headroom", r->chunk > 4096 ? r->chunk : 4096);
    if (r->headroom < r->chunk)
        return sharpi_fail(
            err, SHARPI_EINVAL,
            "headroom %u is less than the chunk of %u tokens: a chunk would overwrite keys that its first "
            "tokens need; use a headroom of at least %u",
            r->headroom, r->chunk, r->chunk);
    return SHARPI_OK;
}

/* ---- Formats */

static int32_t find_format(const struct sharpi_model *model, const char *name, struct sharpi_kv_format *out,
                           struct sharpi_error *err)
{
    const struct sharpi_plugins *plugins = &model->engine->plugins;
    const struct sharpi_offer *offer = sharpi_plugins_find(plugins, SHARPI_OFFER_KV, name);
    char names[256];
    if (!offer)
        return sharpi_fail(err, SHARPI_ENOENT, "KV format '%s' is not loaded; loaded: %s", name,
                           sharpi_plugins_names(plugins, SHARPI_OFFER_KV, names, sizeof names));
    *out = (struct sharpi_kv_format){offer->kv, offer->ctx};
    return SHARPI_OK;
}

/* kv.global or kv.swa over kv, an option over a setting. */
static const char *format_name(const struct sharpi_model *model, const struct sharpi_model_options *options,
                               int32_t windowed)
{
    const char *option = windowed ? options->kv_swa : options->kv_global, *special;
    if (!option)
        option = options->kv;
    if (option)
        return option;
    special = sharpi_choose_string(NULL, model, windowed ? "kv.swa" : "kv.global", NULL);
    return special ? special : sharpi_choose_string(NULL, model, "kv", "f16");
}

static int32_t choose_formats(struct sharpi_plan_request *r, const struct sharpi_model *model,
                              const struct sharpi_model_options *options, struct sharpi_error *err)
{
    int32_t status = find_format(model, format_name(model, options, 0), &r->formats.global, err);
    return status ? status : find_format(model, format_name(model, options, 1), &r->formats.swa, err);
}

/* All loaded formats that can hold this model, to compare with. */
static int32_t list_formats(struct sharpi_planning *planning, const struct sharpi_model *model,
                            struct sharpi_error *err)
{
    const struct sharpi_plugins *plugins = &model->engine->plugins;
    struct sharpi_plan_request *r = &planning->request;
    planning->other_formats = calloc(plugins->n_offers + 1u, sizeof *planning->other_formats);
    if (!planning->other_formats)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to plan with %u offers", plugins->n_offers);
    for (uint32_t i = 0; i < plugins->n_offers; i++) {
        const struct sharpi_offer *offer = &plugins->offers[i];
        int32_t status = offer->kind == SHARPI_OFFER_KV ? SHARPI_OK : SHARPI_ENOENT;
        for (uint32_t l = 0; l < r->desc->n_layers && !status && SHARPI_HAS(offer->kv, check); l++)
            status = offer->kv->check(offer->ctx, l, r->desc->layers[l].n_kv_heads,
                                      r->desc->layers[l].head_dim, NULL);
        if (!status)
            planning->other_formats[r->n_other_formats++] = (struct sharpi_kv_format){offer->kv, offer->ctx};
    }
    r->other_formats = planning->other_formats;
    return SHARPI_OK;
}

static int32_t check_formats(const struct sharpi_plan_request *r, struct sharpi_error *err)
{
    const struct sharpi_kv_shape shape = {1, 1, 1, 0};
    struct sharpi_kv_layout layout;
    int32_t status = sharpi_kv_layout_init(&layout, r->desc, &r->formats, &shape, err);
    if (!status)
        status = sharpi_kv_layout_check(&layout, err);
    sharpi_kv_layout_finish(&layout);
    return status;
}

/* ---- The request */

static int32_t differs(uint32_t option, uint32_t saved)
{
    return option && option != saved;
}

static int32_t other(const char *option, const char *saved)
{
    return option && strcmp(option, saved) != 0;
}

/* A saved plan's sizes become options; one that the user gave too must say the same. */
static int32_t take_saved(const struct sharpi_model *model, const struct sharpi_plan *saved,
                          struct sharpi_model_options *options, struct sharpi_error *err)
{
    if (saved->n_layers != model->desc.n_layers || saved->context_model != model->desc.context_length)
        return sharpi_fail(err, SHARPI_EINVAL,
                           "the saved plan is for a model of %u layers and %u positions; this one has %u and "
                           "%u: make a new plan",
                           saved->n_layers, saved->context_model, model->desc.n_layers,
                           model->desc.context_length);
    if (differs(options->context, saved->context) || differs(options->chunk, saved->chunk) ||
        differs(options->headroom, saved->headroom) || differs(options->max_sessions, saved->max_seqs) ||
        differs(sharpi_choose_uint(0, model, "kv-pool", 0), saved->pool) ||
        other(options->kv_global ? options->kv_global : options->kv, saved->kv_global) ||
        other(options->kv_swa ? options->kv_swa : options->kv, saved->kv_swa))
        return sharpi_fail(
            err, SHARPI_EINVAL,
            "the saved plan has a context of %u, chunk %u, headroom %u, %u sequences, kv-pool %u, kv %s and "
            "%s with windows: leave options that say otherwise away, or make a new plan",
            saved->context, saved->chunk, saved->headroom, saved->max_seqs, saved->pool, saved->kv_global,
            saved->kv_swa);
    options->context = saved->context;
    options->chunk = saved->chunk;
    options->headroom = saved->headroom;
    options->full_cache = saved->full_cache;
    options->max_sessions = saved->max_seqs;
    options->kv_global = saved->kv_global;
    options->kv_swa = saved->kv_swa;
    return SHARPI_OK;
}

static struct sharpi_reserve choose_reserve(const struct sharpi_model *model)
{
    struct sharpi_reserve reserve = {SHARPI_RESERVE_RULE, 0};
    const char *text = sharpi_choose_string(NULL, model, "reserve", NULL);
    if (text)
        sharpi_parse_reserve(text, &reserve); /* the settings were checked */
    return reserve;
}

/* What the user wants where: --gpu-layers, --cpu-moe, --n-cpu-moe. A saved plan has it all. */
static void choose_placement(struct sharpi_plan_request *r, const struct sharpi_model *model,
                             const struct sharpi_plan *saved)
{
    const struct sharpi_settings *settings = model->engine->settings;
    const uint64_t layers = sharpi_settings_uint(settings, "model", "gpu-layers", UINT64_MAX);
    if (saved)
        return;
    r->limit_layers = layers != UINT64_MAX;
    r->n_device_layers = layers < UINT32_MAX ? (uint32_t)layers : UINT32_MAX;
    r->n_expert_layers = (uint32_t)sharpi_settings_uint(settings, "model", "n-cpu-moe", 0);
    if (sharpi_settings_bool(settings, "model", "cpu-moe", 0))
        r->n_expert_layers = SHARPI_PLAN_ALL_LAYERS;
}

int32_t sharpi_planning_init(struct sharpi_planning *planning, const struct sharpi_model *model,
                             const struct sharpi_model_options *options, const struct sharpi_plan *saved,
                             struct sharpi_error *err)
{
    struct sharpi_plan_request *r = &planning->request;
    struct sharpi_model_options wanted = *options;
    int32_t status;
    memset(planning, 0, sizeof *planning);
    planning->saved = saved;
    r->desc = &model->desc;
    r->arch = model->arch_offer;
    r->weights = &planning->weights;
    r->graph = sharpi_graph_view(model->graph);
    choose_placement(r, model, saved);
    r->reserve = saved ? saved->reserve : choose_reserve(model);
    snprintf(r->host.name, sizeof r->host.name, "cpu");
    if ((saved && (status = take_saved(model, saved, &wanted, err))) ||
        (status = choose_sizes(planning, model, &wanted, err)) ||
        (status = choose_formats(r, model, &wanted, err)) || (status = check_formats(r, err)) ||
        (status = list_formats(planning, model, err)))
        return status;
    return sharpi_plan_weights_init(&planning->weights, sharpi_graph_view(model->graph), err);
}

void sharpi_planning_finish(struct sharpi_planning *planning)
{
    sharpi_plan_weights_finish(&planning->weights);
    free(planning->other_formats);
    memset(planning, 0, sizeof *planning);
}

/* A copy for a terminal: a file's texts may hold anything. */
static char *printable(const char *text)
{
    char *copy = strdup(text);
    for (char *at = copy; at && *at; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?';
    }
    return copy;
}

static int32_t check_same(const struct sharpi_plan *plan, const struct sharpi_plan *saved,
                          struct sharpi_error *err)
{
    if (plan->model_weight_bytes != saved->model_weight_bytes || plan->cache_bytes != saved->cache_bytes)
        return sharpi_fail(
            err, SHARPI_EINVAL,
            "the saved plan was made for another model: %llu bytes of tensors and %llu of KV, "
            "this one has %llu and %llu: make a new plan",
            (unsigned long long)saved->model_weight_bytes, (unsigned long long)saved->cache_bytes,
            (unsigned long long)plan->model_weight_bytes, (unsigned long long)plan->cache_bytes);
    return SHARPI_OK;
}

int32_t sharpi_planning_make(const struct sharpi_planning *planning, const struct sharpi_model *model,
                             struct sharpi_plan **out, struct sharpi_error *err)
{
    const struct sharpi_gguf *gguf = sharpi_model_file_gguf(model->file);
    struct sharpi_plan *plan;
    int32_t status = sharpi_plan_make(&planning->request, &plan, err);
    if (status)
        return status;
    plan->model_name = printable(model->name);
    plan->model_arch = printable(model->arch_offer->name);
    plan->model_path = printable(sharpi_model_file_path(model->file));
    for (uint64_t i = 0; i < sharpi_gguf_n_tensors(gguf); i++)
        plan->model_weight_bytes += sharpi_gguf_tensor_at(gguf, i)->n_bytes;
    if (!plan->model_name || !plan->model_arch || !plan->model_path)
        status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for a plan");
    else if (planning->saved)
        status = check_same(plan, planning->saved, err);
    if (status)
        sharpi_plan_free(plan);
    else
        *out = plan;
    return status;
}

void sharpi_planning_take(struct sharpi_plan **plan, struct sharpi_plan *larger)
{
    const struct sharpi_plan_text rejected = larger->rejected;
    larger->rejected = (*plan)->rejected;
    (*plan)->rejected = rejected;
    sharpi_plan_free(*plan);
    *plan = larger;
}

/* ---- Described devices */

struct described {
    uint32_t n;
    struct sharpi_plan_device devices[SHARPI_PLAN_MAX_DEVICES];
    struct sharpi_plan_measure measures[SHARPI_PLAN_MAX_DEVICES + 1];
};

static int32_t take_devices(const struct sharpi_plan_wishes *wishes, struct described *described,
                            struct sharpi_plan_request *r, struct sharpi_error *err)
{
    for (uint32_t i = 0; i < wishes->n_devices; i++) {
        if (strcmp(wishes->devices[i].name, "cpu") == 0)
            r->host = wishes->devices[i];
        else if (described->n < SHARPI_PLAN_MAX_DEVICES)
            described->devices[described->n++] = wishes->devices[i];
        else
            return sharpi_fail(err, SHARPI_EINVAL, "a plan is for at most %d devices",
                               SHARPI_PLAN_MAX_DEVICES);
    }
    return SHARPI_OK;
}

/* Parts keep the bytes that they had, which may be those of programs. */
static void take_saved_devices(const struct sharpi_plan *saved, struct described *described,
                               struct sharpi_plan_request *r)
{
    for (uint32_t i = 0; i < saved->n_parts; i++) {
        const struct sharpi_plan_part *p = &saved->parts[i];
        struct sharpi_plan_device *device = p->host ? &r->host : &described->devices[described->n++];
        memcpy(device->name, p->name, sizeof device->name);
        device->total_bytes = p->total_bytes;
        device->free_bytes = p->free_bytes;
        device->granularity = p->granularity;
        device->runtime_bytes = p->runtime_bytes;
        described->measures[i] =
            (struct sharpi_plan_measure){.device = i,
                                         .first_segment = p->first_segment,
                                         .end_segment = p->end_segment,
                                         .n_expert_layers = saved->placement.n_expert_layers,
                                         .weight_bytes = p->weight_bytes,
                                         .mapped_bytes = p->mapped_bytes,
                                         .scratch_bytes = p->scratch_bytes};
    }
    r->placement = &saved->placement;
    r->measures = described->measures;
    r->n_measures = saved->n_parts;
}

/* --gpu-layers 0 leaves the devices alone, any other number needs one. */
static int32_t check_limit(struct sharpi_plan_request *r, struct sharpi_error *err)
{
    if (r->n_device_layers && !r->n_devices)
        return sharpi_fail(err, SHARPI_EINVAL,
                           "%u layers on a device (--gpu-layers), but only the host is described",
                           r->n_device_layers);
    if (!r->n_device_layers)
        r->n_devices = 0;
    return SHARPI_OK;
}

/* A larger chunk, where *plan has room for it. */
static void enlarge_chunk(struct sharpi_planning *planning, const struct sharpi_model *model,
                          struct sharpi_plan **plan)
{
    const struct sharpi_placement *wanted = planning->request.placement, placement = (*plan)->placement;
    const uint32_t usual = planning->request.chunk;
    int32_t yes = 0;
    planning->request.placement = &placement;
    for (uint32_t chunk = SHARPI_PLAN_LARGE_CHUNK; chunk > usual && !yes; chunk /= 2) {
        struct sharpi_plan *larger = NULL;
        planning->request.chunk = chunk;
        yes = sharpi_planning_make(planning, model, &larger, NULL) == SHARPI_OK &&
              sharpi_plan_has_room(*plan, larger);
        if (yes)
            sharpi_planning_take(plan, larger);
        else
            sharpi_plan_free(larger);
    }
    planning->request.placement = wanted;
}

int32_t sharpi_model_plan(struct sharpi_model *model, const struct sharpi_model_options *options,
                          const struct sharpi_plan_wishes *wishes, struct sharpi_plan **out,
                          struct sharpi_error *err)
{
    struct described described = {.n = 0};
    struct sharpi_planning planning;
    struct sharpi_plan *plan = NULL;
    int32_t status = sharpi_planning_init(&planning, model, options, wishes->saved, err);
    if (!status && wishes->saved)
        take_saved_devices(wishes->saved, &described, &planning.request);
    else if (!status)
        status = take_devices(wishes, &described, &planning.request, err);
    planning.request.devices = described.devices;
    planning.request.n_devices = described.n;
    if (!status && planning.request.limit_layers)
        status = check_limit(&planning.request, err);
    if (wishes->n_expert_layers)
        planning.request.n_expert_layers = wishes->n_expert_layers;
    planning.request.context_cap = planning.request.n_devices ? 0 : SHARPI_PLAN_CPU_CONTEXT;
    if (!status)
        status = sharpi_planning_make(&planning, model, &plan, err);
    if (!status && planning.chunk_is_free && planning.request.n_devices)
        enlarge_chunk(&planning, model, &plan);
    if (!status && wishes->saved)
        plan->context_limit = wishes->saved->context_limit;
    sharpi_planning_finish(&planning);
    *out = plan;
    return status;
}
