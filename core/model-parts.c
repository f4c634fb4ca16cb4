/* Parts of a model: a program for each range of ops that lies on one device, storage for the cache, running them in turn.
 *
 * Invariant: a layer's K and V lie on the device of its attention op; carried values are read only after the part that makes
 * them has run.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model-parts.h"
#include "sampler-top.h"

struct sharpi_model_device *sharpi_model_layer_device(const struct sharpi_model *model, uint32_t layer)
{
    return &model->devices[sharpi_placement_device(&model->placement, model->n_devices, (int32_t)layer,
                                                   SHARPI_OP_ATTENTION)];
}

/* ---- Compiling */

/* An attention that the device refuses: where another cache format would do, the message names those. */
static int32_t fail_attention(const struct sharpi_model *model, const struct sharpi_model_device *device,
                              const struct sharpi_op *op, const struct sharpi_kv_layer *kv,
                              const struct sharpi_error *why, struct sharpi_error *err)
{
    const struct sharpi_plugins *plugins = &model->engine->plugins;
    char names[256] = "";
    size_t at = 0;
    for (uint32_t i = 0; i < plugins->n_offers && at < sizeof names; i++) {
        const struct sharpi_offer *offer = &plugins->offers[i];
        const struct sharpi_kv_format format = {offer->kv, offer->ctx};
        if (offer->kind == SHARPI_OFFER_KV && sharpi_device_takes_format(model, device, op, kv, &format))
            at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", at ? ", " : "", offer->name);
    }
    if (!at)
        return sharpi_fail(err, why->code, "%s", why->text);
    return sharpi_fail(
        err, why->code,
        "layer %d on %s with --kv %s: %.600s. Formats that %s has for it: %s. A format holds for all "
        "devices: choose one of these, or keep the layer on the CPU (--gpu-layers)",
        op->layer, device->name, kv->kv->name, why->text, device->name, names);
}

static int32_t check_ops(const struct sharpi_model *model, const struct sharpi_model_part *part,
                         struct sharpi_error *err)
{
    const struct sharpi_graph_view *view = sharpi_graph_view(model->graph);
    const struct sharpi_offer *offer = part->device->offer;
    for (uint32_t i = part->range->first_op; i < part->range->end_op; i++) {
        const struct sharpi_op *op = view->ops[i];
        const struct sharpi_kv_layer *kv = NULL;
        struct sharpi_error why = SHARPI_ERROR_INIT;
        int32_t status;
        if (op->kind == SHARPI_OP_ATTENTION)
            kv = &model->kv_layers[((const struct sharpi_attention_attr *)op->attr)->kv_layer];
        if (!(status = offer->backend->supports(offer->ctx, view, op, kv, &why)))
            continue;
        why.code = status;
        return kv && kv->kv ? fail_attention(model, part->device, op, kv, &why, err)
                            : sharpi_fail(err, status, "%s", why.text);
    }
    return SHARPI_OK;
}

/* Taps that the range makes, and what kind of rows and results it has. */
static int32_t describe_part(const struct sharpi_model *model, struct sharpi_model_part *part,
                             struct sharpi_error *err)
{
    const struct sharpi_graph_view *view = sharpi_graph_view(model->graph);
    const struct sharpi_range *range = part->range;
    part->taps = calloc(model->n_taps + 1u, sizeof *part->taps);
    part->tap_pointers = calloc(model->n_taps + 1u, sizeof *part->tap_pointers);
    part->carry_in = calloc(range->n_in + 1u, sizeof *part->carry_in);
    part->carry_out = calloc(range->n_out + 1u, sizeof *part->carry_out);
    if (!part->taps || !part->tap_pointers || !part->carry_in || !part->carry_out)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a part of %u ops",
                           range->end_op - range->first_op);
    for (uint32_t i = 0; i < model->n_taps; i++) {
        uint32_t maker = (uint32_t)view->values[model->taps[i]]->producer;
        if (maker >= range->first_op && maker < range->end_op)
            part->taps[part->n_taps++] = model->taps[i];
    }
    part->only_selected = 1;
    for (uint32_t i = range->first_op; i < range->end_op; i++) {
        const struct sharpi_op *op = view->ops[i];
        part->has_logits |= op->kind == SHARPI_OP_LOGITS;
        part->only_selected &= op->out < 0 || view->values[op->out]->rows == SHARPI_ROWS_SELECTED;
    }
    return SHARPI_OK;
}

static void add_memory(struct sharpi_program_memory *sum, const struct sharpi_program_memory *part)
{
    sum->n_fallback_ops += part->n_fallback_ops;
    sum->weight_bytes += part->weight_bytes;
    sum->mapped_bytes += part->mapped_bytes;
    sum->scratch_bytes += part->scratch_bytes;
}

static int32_t compile_part(struct sharpi_model *model, struct sharpi_model_part *part, uint32_t max_seqs,
                            struct sharpi_error *err)
{
    const struct sharpi_backend *backend;
    struct sharpi_program_memory memory = {.size = sizeof memory};
    struct sharpi_compile request = {.size = sizeof request,
                                     .first_op = part->range->first_op,
                                     .end_op = part->range->end_op,
                                     .max_tokens = model->chunk,
                                     .max_seqs = max_seqs,
                                     .max_logits = model->chunk,
                                     .graph = sharpi_graph_view(model->graph),
                                     .kv_layers = model->kv_layers,
                                     .n_classes = model->n_classes,
                                     .n_carry_in = part->range->n_in,
                                     .n_carry_out = part->range->n_out,
                                     .carry_in = part->range->in,
                                     .carry_out = part->range->out};
    int32_t status;
    if ((status = sharpi_device_use(model, part->device, err)) ||
        (status = describe_part(model, part, err)) || (status = check_ops(model, part, err)))
        return status;
    request.n_taps = part->n_taps;
    request.taps = part->taps;
    backend = part->device->offer->backend;
    if ((status = backend->compile(part->device->device, &request, &part->program, err)))
        return status;
    if ((status = backend->program_memory(part->program, &memory)))
        return sharpi_fail(err, status, "backend %s does not know what its program takes", backend->name);
    part->device->n_parts++;
    add_memory(&part->device->memory, &memory);
    add_memory(&model->memory, &memory);
    return SHARPI_OK;
}

/* What tools look at: the first device that is used, and the names of all. */
static void summarize(struct sharpi_model *model)
{
    size_t at = 0;
    const struct sharpi_offer *last = NULL;
    model->backend_offer = NULL;
    for (uint32_t i = 0; i <= model->n_devices; i++) {
        const struct sharpi_model_device *device = &model->devices[i];
        if (!device->n_parts)
            continue;
        if (!model->backend_offer) {
            model->backend_offer = device->offer;
            model->backend = device->offer->backend;
            model->device = device->device;
        }
        if (device->offer != last && at < sizeof model->backend_names)
            at += (size_t)snprintf(model->backend_names + at, sizeof model->backend_names - at, "%s%s",
                                   last ? "+" : "", device->offer->name);
        last = device->offer;
    }
}

static void drop_programs(struct sharpi_model *model)
{
    for (uint32_t i = 0; model->parts && i < model->ranges.n; i++) {
        struct sharpi_model_part *part = &model->parts[i];
        if (part->program)
            part->device->offer->backend->program_destroy(part->program);
        free(part->carry_in);
        free(part->carry_out);
        free(part->taps);
        free(part->tap_pointers);
    }
    free(model->parts);
    model->parts = NULL;
    sharpi_ranges_finish(&model->ranges);
    memset(&model->memory, 0, sizeof model->memory);
    model->memory.size = sizeof model->memory;
    for (uint32_t i = 0; model->devices && i <= model->n_devices; i++) {
        model->devices[i].n_parts = 0;
        model->devices[i].memory = model->memory;
    }
}

/* The cache's layout, which an earlier one may be replaced by as long as nothing is allocated. */
static int32_t lay_out_cache(struct sharpi_model *model, const struct sharpi_plan_request *request,
                             uint32_t context, struct sharpi_error *err)
{
    const struct sharpi_kv_shape shape = {context, request->full_cache ? context : request->headroom,
                                          request->max_seqs, request->pool};
    struct sharpi_kv_layout layout;
    int32_t status = sharpi_kv_layout_init(&layout, request->desc, &request->formats, &shape, err);
    if (status)
        return status;
    free(model->kv_layers);
    free(model->classes);
    model->kv_layers = layout.layers;
    model->classes = layout.classes;
    model->n_classes = layout.n_classes;
    return SHARPI_OK;
}

int32_t sharpi_parts_compile(struct sharpi_model *model, const struct sharpi_plan_request *request,
                             const struct sharpi_placement *placement, uint32_t context, uint32_t chunk,
                             struct sharpi_error *err)
{
    int32_t status;
    drop_programs(model);
    model->context = context;
    model->chunk = chunk;
    model->placement = *placement;
    if ((status = lay_out_cache(model, request, context, err)) ||
        (status = sharpi_ranges_init(&model->ranges, sharpi_graph_view(model->graph), placement,
                                     model->n_devices, model->host_ops, chunk, err)))
        return status;
    model->parts = calloc(model->ranges.n + 1u, sizeof *model->parts);
    if (!model->parts)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %u parts", model->ranges.n);
    for (uint32_t i = 0; i < model->ranges.n && !status; i++) {
        model->parts[i].range = &model->ranges.items[i];
        model->parts[i].device = &model->devices[model->ranges.items[i].device];
        status = compile_part(model, &model->parts[i], request->max_seqs, err);
    }
    if (status)
        return status;
    summarize(model);
    if (model->memory.n_fallback_ops && sharpi_settings_bool(model->engine->settings, "model", "strict", 0))
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "%u ops would run on a slower path (the log names them) and model.strict is on; set it "
            "to false, or choose another KV format or backend",
            model->memory.n_fallback_ops);
    return SHARPI_OK;
}

/* ---- Loading */

static int32_t allocate_cache(struct sharpi_model *model, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < model->desc.n_layers && !status; i++) {
        struct sharpi_model_device *device = sharpi_model_layer_device(model, i);
        const struct sharpi_backend *backend = device->offer->backend;
        struct sharpi_kv_layer *kv = &model->kv_layers[i];
        uint64_t n_bytes;
        if (!kv->kv)
            continue;
        n_bytes = sharpi_kv_layer_bytes(kv);
        status = backend->alloc(device->device, n_bytes, &kv->k, err);
        if (!status)
            status = backend->alloc(device->device, n_bytes, &kv->v, err);
        device->kv_bytes += 2 * sharpi_kv_block_bytes(kv, device->granularity);
    }
    for (uint32_t i = 0; i <= model->n_devices; i++)
        model->kv_bytes += model->devices[i].kv_bytes;
    return status;
}

static int32_t allocate_carried(struct sharpi_model *model, struct sharpi_error *err)
{
    const struct sharpi_ranges *ranges = &model->ranges;
    if (!ranges->n_bytes)
        return SHARPI_OK;
    model->carried = ranges->n_bytes <= SIZE_MAX / 2 ? aligned_alloc(64, ranges->n_bytes) : NULL;
    if (!model->carried)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %llu bytes of activations between devices",
                           (unsigned long long)ranges->n_bytes);
    for (uint32_t i = 0; i < ranges->n; i++) {
        const struct sharpi_range *range = &ranges->items[i];
        for (uint32_t k = 0; k < range->n_in; k++)
            model->parts[i].carry_in[k] = model->carried + ranges->offsets[range->in[k]] / sizeof(float);
        for (uint32_t k = 0; k < range->n_out; k++)
            model->parts[i].carry_out[k] = model->carried + ranges->offsets[range->out[k]] / sizeof(float);
    }
    return SHARPI_OK;
}

/* Progress of all parts as if they were one, each by the bytes that it keeps. */
struct loading {
    sharpi_progress_fn *progress;
    void *user;
    uint64_t before, part, total;
};

static int32_t show_progress(void *user, uint64_t done, uint64_t total)
{
    const struct loading *l = user;
    double share = total ? (double)done / (double)total : 1.0;
    return l->progress(l->user, l->before + (uint64_t)(share * (double)l->part), l->total);
}

/* A part gets the storage of its own device only. */
static int32_t load_programs(struct sharpi_model *model, sharpi_progress_fn *progress, void *user,
                             struct sharpi_error *err)
{
    struct loading loading = {progress, user, 0, 0, model->memory.weight_bytes + model->memory.mapped_bytes};
    struct sharpi_kv_layer *kv_layers = malloc(model->desc.n_layers * sizeof *kv_layers);
    int32_t status = SHARPI_OK;
    if (!kv_layers)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %u layers", model->desc.n_layers);
    for (uint32_t i = 0; i < model->ranges.n && !status; i++) {
        const struct sharpi_model_part *part = &model->parts[i];
        const struct sharpi_backend *backend = part->device->offer->backend;
        struct sharpi_program_memory memory = {.size = sizeof memory};
        memcpy(kv_layers, model->kv_layers, model->desc.n_layers * sizeof *kv_layers);
        for (uint32_t l = 0; l < model->desc.n_layers; l++) {
            if (sharpi_model_layer_device(model, l) != part->device)
                kv_layers[l].k = kv_layers[l].v = NULL;
        }
        backend->program_memory(part->program, &memory);
        loading.part = memory.weight_bytes + memory.mapped_bytes;
        status = model->ranges.n == 1 ? backend->load(part->program, kv_layers, progress, user, err)
                                      : backend->load(part->program, kv_layers,
                                                      progress ? show_progress : NULL, &loading, err);
        loading.before += loading.part;
    }
    free(kv_layers);
    return status;
}

int32_t sharpi_parts_load(struct sharpi_model *model, sharpi_progress_fn *progress, void *user,
                          struct sharpi_error *err)
{
    int32_t status = allocate_cache(model, err);
    if (!status)
        status = allocate_carried(model, err);
    return status ? status : load_programs(model, progress, user, err);
}

void sharpi_parts_free(struct sharpi_model *model)
{
    drop_programs(model);
    for (uint32_t i = 0; model->kv_layers && model->devices && i < model->desc.n_layers; i++) {
        const struct sharpi_model_device *device = sharpi_model_layer_device(model, i);
        if (!device->device)
            continue;
        device->offer->backend->free(device->device, model->kv_layers[i].k);
        device->offer->backend->free(device->device, model->kv_layers[i].v);
    }
    free(model->carried);
    model->carried = NULL;
}

int32_t sharpi_model_copy_page(struct sharpi_model *model, uint32_t class_index, int32_t from, int32_t to,
                               struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < model->desc.n_layers && !status; i++) {
        const struct sharpi_model_device *device = sharpi_model_layer_device(model, i);
        const struct sharpi_backend *backend = device->offer->backend;
        const struct sharpi_kv_layer *kv = &model->kv_layers[i];
        uint64_t n;
        if (!kv->kv || kv->class_index != class_index)
            continue;
        n = sharpi_kv_layer_bytes(kv) / kv->n_pages;
        status = backend->copy(device->device, kv->k, (uint64_t)to * n, kv->k, (uint64_t)from * n, n, err);
        if (!status)
            status =
                backend->copy(device->device, kv->v, (uint64_t)to * n, kv->v, (uint64_t)from * n, n, err);
    }
    return status;
}

/* ---- Running */

static void point_taps(const struct sharpi_model *model, struct sharpi_model_part *part, float *const *taps)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < model->n_taps && n < part->n_taps; i++) {
        if (model->taps[i] == part->taps[n])
            part->tap_pointers[n++] = taps[i];
    }
}

int32_t sharpi_parts_find_top(const struct sharpi_model *model, uint32_t k)
{
    const struct sharpi_backend *backend = model->parts[model->ranges.n - 1].device->offer->backend;
    return k && SHARPI_HAS(backend, max_best) && k <= backend->max_best;
}

/* For backends that give all logits. */
static void find_top(const struct sharpi_model *model, uint32_t n_rows, const struct sharpi_results *r)
{
    const uint32_t k = r->top_k;
    for (uint32_t i = 0; i < n_rows; i++) {
        int32_t *ids = r->top_ids + (size_t)i * k;
        float *values = r->top_logits + (size_t)i * k;
        uint32_t n = sharpi_logits_candidates(r->logits + (size_t)i * model->desc.n_vocab,
                                              model->desc.n_vocab, k, ids, values, &r->top_sums[i]);
        for (; n < k; n++) {
            ids[n] = -1;
            values[n] = -INFINITY;
        }
    }
}

static int32_t run_part(const struct sharpi_model *model, struct sharpi_model_part *part,
                        const struct sharpi_batch *batch, const struct sharpi_results *results,
                        struct sharpi_error *err)
{
    struct sharpi_run_io io = {.size = sizeof io,
                               .n_taps = part->n_taps,
                               .carry_in = (const float *const *)part->carry_in,
                               .carry_out = part->carry_out,
                               .logits = part->has_logits ? results->logits : NULL,
                               .taps = part->n_taps ? part->tap_pointers : NULL};
    if (part->has_logits && sharpi_parts_find_top(model, results->top_k)) {
        io.logits = NULL;
        io.n_best = results->top_k;
        io.best_ids = results->top_ids;
        io.best_logits = results->top_logits;
        io.best_log_sum = results->top_sums;
    }
    point_taps(model, part, results->taps);
    return part->device->offer->backend->run(part->program, batch, &io, err);
}

int32_t sharpi_parts_run(struct sharpi_model *model, const struct sharpi_batch *batch,
                         const struct sharpi_results *results, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < model->ranges.n && !status; i++) {
        if (!model->parts[i].only_selected || batch->n_logits)
            status = run_part(model, &model->parts[i], batch, results, err);
    }
    if (!status && results->top_k && !sharpi_parts_find_top(model, results->top_k))
        find_top(model, batch->n_logits, results);
    return status;
}
