/* Loading a model: open and describe, then place: device, KV classes and formats, program, storage, weights.
 *
 * Each function below does one of these and leaves the model in a state that sharpi_model_free can take apart.
 */
#include "model.h"

#include <stdlib.h>
#include <string.h>

/* ---- Open: file, architecture, graph */

static int32_t fail_desc(const struct sharpi_model *model, struct sharpi_error *err, const char *what)
{
    return sharpi_fail(err, SHARPI_EBUG, "%s: architecture %s describes the model wrongly: %s",
                       sharpi_model_file_path(model->file), model->arch_offer->name, what);
}

/* What the rest of the core relies on, whoever wrote the plugin. */
static int32_t check_desc(const struct sharpi_model *model, struct sharpi_error *err)
{
    const struct sharpi_model_desc *desc = &model->desc;
    uint32_t i;
    if (desc->n_layers == 0 || desc->n_layers > 65536 || !desc->layers)
        return fail_desc(model, err, "no layers");
    if (desc->n_layers_described != desc->n_layers || desc->layer_size != sizeof *desc->layers)
        return fail_desc(model, err, "layer list of another version");
    if (desc->width == 0 || desc->n_heads == 0 || desc->n_vocab == 0 || desc->context_length == 0)
        return fail_desc(model, err, "width, heads, vocabulary or context is 0");
    for (i = 0; i < desc->n_layers; i++) {
        const struct sharpi_layer_desc *l = &desc->layers[i];
        if (l->n_kv_heads == 0 || l->head_dim == 0 || desc->n_heads % l->n_kv_heads)
            return fail_desc(model, err, "KV heads do not divide the query heads");
        if (l->kv_source < 0)
            continue;
        if (l->kv_source >= (int32_t)i || desc->layers[l->kv_source].kv_source >= 0 ||
            desc->layers[l->kv_source].n_kv_heads != l->n_kv_heads ||
            desc->layers[l->kv_source].head_dim != l->head_dim ||
            desc->layers[l->kv_source].window != l->window)
            return fail_desc(model, err, "a layer borrows K/V of a layer that has another shape or none");
    }
    return SHARPI_OK;
}

static int32_t build_graph(struct sharpi_model *model, struct sharpi_error *err)
{
    const struct sharpi_arch *arch = model->arch_offer->arch;
    struct sharpi_builder builder = {.host = &model->engine->host, .layer = -1, .err = err};
    int32_t status;
    model->desc.size = sizeof model->desc;
    if ((status = arch->describe(model->arch_offer->ctx, model->file, &model->desc, err)) ||
        (status = check_desc(model, err)) || (status = sharpi_graph_create(&model->desc, &model->graph, err)))
        return status;
    builder.graph = model->graph;
    if ((status = arch->build(model->arch_offer->ctx, model->file, &model->desc, &builder, err)))
        return status;
    return builder.status ? builder.status : sharpi_graph_finish(model->graph, err);
}

static void copy_name(struct sharpi_model *model)
{
    struct sharpi_str name = {NULL, 0};
    sharpi_gguf_string(sharpi_model_file_gguf(model->file), "general.name", &name, NULL);
    snprintf(model->name, sizeof model->name, "%.*s", name.n < 100 ? (int)name.n : 100,
             name.data ? name.data : "");
}

int32_t sharpi_model_open(struct sharpi_engine *engine, const char *path, uint32_t flags,
                          struct sharpi_model **out, struct sharpi_error *err)
{
    struct sharpi_model *model = calloc(1, sizeof *model);
    int32_t status;
    if (!model)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a model");
    model->engine = engine;
    if ((status = sharpi_model_file_open(path, flags, &model->file, err)) ||
        (status = sharpi_plugins_find_arch(&engine->plugins, model->file, &model->arch_offer, err)) ||
        (status = build_graph(model, err))) {
        sharpi_model_free(model);
        return status;
    }
    copy_name(model);
    sharpi_gguf_string(sharpi_model_file_gguf(model->file), "tokenizer.chat_template", &model->chat_template,
                       NULL);
    *out = model;
    return SHARPI_OK;
}

/* ---- Place: device, cache, program */

static const char *choose(const char *option, const struct sharpi_model *model, const char *key,
                          const char *fallback)
{
    return option ? option : sharpi_settings_string(model->engine->settings, "model", key, fallback);
}

static uint32_t choose_uint(uint32_t option, const struct sharpi_model *model, const char *key,
                            uint32_t fallback)
{
    uint64_t value = option ? option : sharpi_settings_uint(model->engine->settings, "model", key, fallback);
    return value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static int32_t open_device(struct sharpi_model *model, const struct sharpi_model_options *options,
                           struct sharpi_error *err)
{
    const struct sharpi_plugins *plugins = &model->engine->plugins;
    const char *name = choose(options->backend, model, "backend", NULL);
    struct sharpi_device_options device = {.size = sizeof device, .repack = !options->no_repack};
    char names[256];
    uint32_t i;
    model->n_threads = device.n_threads = choose_uint(options->n_threads, model, "threads", 0);
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
    return model->backend->device_open(model->backend_offer->ctx, 0, &device, &model->device, err);
}

static int32_t choose_sizes(struct sharpi_model *model, const struct sharpi_model_options *options,
                            struct sharpi_error *err)
{
    uint32_t usual = model->desc.context_length < 8192 ? model->desc.context_length : 8192;
    model->max_sessions = options->max_sessions ? options->max_sessions : 1;
    model->context = choose_uint(options->context, model, "context", usual);
    if (model->context > model->desc.context_length) {
        sharpi_log_printf(&model->engine->log, SHARPI_LOG_WARN, "model",
                          "a context of %u was asked for; the model was made for %u, which is used",
                          model->context, model->desc.context_length);
        model->context = model->desc.context_length;
    }
    model->chunk = choose_uint(options->chunk, model, "chunk", 512);
    if (model->chunk > model->context)
        model->chunk = model->context;
    if (model->chunk > 65536)
        return sharpi_fail(err, SHARPI_EINVAL, "a chunk of %u tokens is more than 65536", model->chunk);
    if (!model->desc.mask_known)
        model->chunk = model->context; /* a prompt may not be split: fail closed */
    model->headroom =
        choose_uint(options->headroom, model, "headroom", model->chunk > 4096 ? model->chunk : 4096);
    if (model->headroom < model->chunk)
        return sharpi_fail(
            err, SHARPI_EINVAL,
            "headroom %u is less than the chunk of %u tokens: a chunk would overwrite keys that its first "
            "tokens need; use a headroom of at least %u",
            model->headroom, model->chunk, model->chunk);
    return SHARPI_OK;
}

/* The format of a layer's class: kv.global or kv.swa over kv. */
static int32_t find_format(struct sharpi_model *model, const struct sharpi_model_options *options,
                           uint32_t windowed, const struct sharpi_offer **out, struct sharpi_error *err)
{
    const struct sharpi_plugins *plugins = &model->engine->plugins;
    const char *special = windowed ? choose(options->kv_swa, model, "kv.swa", NULL)
                                   : choose(options->kv_global, model, "kv.global", NULL);
    const char *name = options->kv && !(windowed ? options->kv_swa : options->kv_global) ? options->kv
                       : special                                                         ? special
                                 : choose(options->kv, model, "kv", "f16");
    char names[256];
    *out = sharpi_plugins_find(plugins, SHARPI_OFFER_KV, name);
    if (*out)
        return SHARPI_OK;
    return sharpi_fail(err, SHARPI_ENOENT, "KV format '%s' is not loaded; loaded: %s", name,
                       sharpi_plugins_names(plugins, SHARPI_OFFER_KV, names, sizeof names));
}

static int32_t describe_cache(struct sharpi_model *model, const struct sharpi_model_options *options,
                              struct sharpi_error *err)
{
    const struct sharpi_model_desc *desc = &model->desc;
    uint32_t *class_of = calloc(desc->n_layers, sizeof *class_of), i;
    int32_t status = SHARPI_ENOMEM;
    model->kv_layers = calloc(desc->n_layers, sizeof *model->kv_layers);
    if (!class_of || !model->kv_layers) {
        sharpi_fail(err, SHARPI_ENOMEM, "no memory for %u layers", desc->n_layers);
        goto out;
    }
    status = sharpi_kv_classes(desc, model->context, options->full_cache ? model->context : model->headroom,
                               model->max_sessions, &model->classes, &model->n_classes, class_of, err);
    for (i = 0; i < desc->n_layers && !status; i++) {
        const struct sharpi_layer_desc *l = &desc->layers[i];
        struct sharpi_kv_layer *kv = &model->kv_layers[i];
        const struct sharpi_offer *format;
        *kv = (struct sharpi_kv_layer){.size = sizeof *kv,
                                       .class_index = class_of[i],
                                       .n_kv_heads = l->n_kv_heads,
                                       .head_dim = l->head_dim,
                                       .ring = model->classes[class_of[i]].ring,
                                       .n_pages = model->classes[class_of[i]].n_pages};
        if (l->kv_source >= 0)
            continue;
        status = find_format(model, options, l->window != 0, &format, err);
        if (!status && SHARPI_HAS(format->kv, check))
            status = format->kv->check(format->ctx, i, l->n_kv_heads, l->head_dim, err);
        if (!status) {
            kv->kv = format->kv;
            kv->kv_ctx = format->ctx;
        }
    }
out:
    free(class_of);
    return status;
}

/* Bytes of K, and as many of V, of one layer. */
static uint64_t layer_kv_bytes(const struct sharpi_kv_layer *kv)
{
    return kv->kv->row_bytes(kv->kv_ctx, (uint64_t)kv->n_kv_heads * kv->head_dim) * SHARPI_KV_PAGE *
           kv->n_pages;
}

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

static int32_t compile(struct sharpi_model *model, struct sharpi_error *err)
{
    const struct sharpi_graph_view *view = sharpi_graph_view(model->graph);
    struct sharpi_compile request = {.size = sizeof request,
                                     .end_op = view->n_ops,
                                     .max_tokens = model->chunk,
                                     .max_seqs = model->max_sessions,
                                     .max_logits = model->chunk,
                                     .graph = view,
                                     .kv_layers = model->kv_layers,
                                     .n_classes = model->n_classes,
                                     .n_taps = model->n_taps,
                                     .taps = model->taps};
    uint32_t i;
    int32_t status = SHARPI_OK;
    for (i = 0; i < view->n_ops && !status; i++) {
        const struct sharpi_op *op = view->ops[i];
        const struct sharpi_kv_layer *kv = NULL;
        if (op->kind == SHARPI_OP_ATTENTION)
            kv = &model->kv_layers[((const struct sharpi_attention_attr *)op->attr)->kv_layer];
        status = model->backend->supports(model->backend_offer->ctx, view, op, kv, err);
    }
    if (!status)
        status = model->backend->compile(model->device, &request, &model->program, err);
    model->memory.size = sizeof model->memory;
    return status ? status : model->backend->program_memory(model->program, &model->memory);
}

static int32_t allocate_cache(struct sharpi_model *model, struct sharpi_error *err)
{
    uint32_t i;
    int32_t status = SHARPI_OK;
    for (i = 0; i < model->desc.n_layers && !status; i++) {
        struct sharpi_kv_layer *kv = &model->kv_layers[i];
        uint64_t n_bytes;
        if (!kv->kv)
            continue;
        n_bytes = layer_kv_bytes(kv);
        status = model->backend->alloc(model->device, n_bytes, &kv->k, err);
        if (!status)
            status = model->backend->alloc(model->device, n_bytes, &kv->v, err);
        model->kv_bytes += 2 * n_bytes;
    }
    return status;
}

static int32_t allocate_step(struct sharpi_model *model, struct sharpi_error *err)
{
    uint32_t c;
    model->step_tokens = calloc(model->chunk, sizeof *model->step_tokens);
    model->step_positions = calloc(model->chunk, sizeof *model->step_positions);
    model->step_seqs_of = calloc(model->chunk, sizeof *model->step_seqs_of);
    model->step_logit_rows = calloc(model->chunk, sizeof *model->step_logit_rows);
    model->step_seqs = calloc(model->max_sessions, sizeof *model->step_seqs);
    model->step_classes = calloc(model->n_classes, sizeof *model->step_classes);
    model->step_tables = calloc(model->n_classes, sizeof *model->step_tables);
    if (!model->step_tokens || !model->step_positions || !model->step_seqs_of || !model->step_logit_rows ||
        !model->step_seqs || !model->step_classes || !model->step_tables)
        goto no_memory;
    for (c = 0; c < model->n_classes; c++) {
        uint32_t stride = model->classes[c].ring / SHARPI_KV_PAGE;
        model->step_tables[c] = calloc((size_t)stride * model->max_sessions, sizeof **model->step_tables);
        if (!model->step_tables[c])
            goto no_memory;
        model->step_classes[c] = (struct sharpi_batch_class){
            .pages = model->step_tables[c], .stride = stride, .ring = model->classes[c].ring};
    }
    return SHARPI_OK;
no_memory:
    return sharpi_fail(err, SHARPI_ENOMEM, "no memory for steps of %u tokens", model->chunk);
}

static void create_tokenizer(struct sharpi_model *model)
{
    const char *warning;
    model->tokenizer_error = (struct sharpi_error)SHARPI_ERROR_INIT;
    if (sharpi_tokenizer_create(sharpi_model_file_gguf(model->file), &model->tokenizer,
                                &model->tokenizer_error))
        sharpi_log_printf(&model->engine->log, SHARPI_LOG_WARN, "model", "no text, only token ids: %s",
                          model->tokenizer_error.text);
    else if ((warning = sharpi_tokenizer_warning(model->tokenizer)))
        sharpi_log_text(&model->engine->log, SHARPI_LOG_WARN, "model", warning);
}

int32_t sharpi_model_load(struct sharpi_engine *engine, const char *path,
                          const struct sharpi_model_options *options, struct sharpi_model **out,
                          struct sharpi_error *err)
{
    static const struct sharpi_model_options defaults = {.size = sizeof defaults};
    struct sharpi_model *model = NULL;
    int32_t status = sharpi_model_open(engine, path, 0, &model, err);
    if (status)
        return status;
    if (!options)
        options = &defaults;
    if ((status = choose_sizes(model, options, err)) || (status = open_device(model, options, err)) ||
        (status = describe_cache(model, options, err)) || (status = find_taps(model, options->taps, err)) ||
        (status = compile(model, err)) || (status = allocate_cache(model, err)) ||
        (status = sharpi_kv_pages_create(model->classes, model->n_classes, model->max_sessions, &model->pages,
                                         err)) ||
        (status = allocate_step(model, err)) ||
        (status = model->backend->load(model->program, model->kv_layers, options->progress,
                                       options->progress_user, err))) {
        sharpi_model_free(model);
        return status;
    }
    create_tokenizer(model);
    *out = model;
    return SHARPI_OK;
}

void sharpi_model_free(struct sharpi_model *model)
{
    uint32_t i;
    if (!model)
        return;
    sharpi_tokenizer_destroy(model->tokenizer);
    sharpi_kv_pages_destroy(model->pages);
    if (model->program)
        model->backend->program_destroy(model->program);
    for (i = 0; model->kv_layers && model->device && i < model->desc.n_layers; i++) {
        model->backend->free(model->device, model->kv_layers[i].k);
        model->backend->free(model->device, model->kv_layers[i].v);
    }
    if (model->device)
        model->backend->device_close(model->device);
    for (i = 0; model->step_tables && i < model->n_classes; i++)
        free(model->step_tables[i]);
    free(model->step_tables);
    free(model->step_classes);
    free(model->step_seqs);
    free(model->step_logit_rows);
    free(model->step_seqs_of);
    free(model->step_positions);
    free(model->step_tokens);
    free(model->logits);
    free(model->kv_layers);
    free(model->classes);
    free(model->taps);
    free(model->tap_pointers);
    sharpi_graph_destroy(model->graph);
    sharpi_model_file_close(model->file);
    free(model);
}

/* ---- Facts */

static uint64_t count_parameters(const struct sharpi_gguf *gguf)
{
    uint64_t n = 0, i;
    for (i = 0; i < sharpi_gguf_n_tensors(gguf); i++) {
        const struct sharpi_tensor *t = sharpi_gguf_tensor_at(gguf, i);
        n += t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
    }
    return n;
}

void sharpi_model_get_info(const struct sharpi_model *model, struct sharpi_model_info *info)
{
    const struct sharpi_gguf *gguf = sharpi_model_file_gguf(model->file);
    *info = (struct sharpi_model_info){.size = sizeof *info,
                                       .n_layers = model->desc.n_layers,
                                       .width = model->desc.width,
                                       .n_heads = model->desc.n_heads,
                                       .n_vocab = model->desc.n_vocab,
                                       .context = model->context,
                                       .context_model = model->desc.context_length,
                                       .max_sessions = model->max_sessions,
                                       .chunk = model->chunk,
                                       .n_classes = model->n_classes,
                                       .arch = model->arch_offer->name,
                                       .backend = model->backend_offer ? model->backend_offer->name : "",
                                       .name = model->name,
                                       .path = sharpi_model_file_path(model->file),
                                       .file_bytes = sharpi_gguf_file_bytes(gguf),
                                       .weight_bytes = model->memory.weight_bytes,
                                       .mapped_bytes = model->memory.mapped_bytes,
                                       .kv_bytes = model->kv_bytes,
                                       .scratch_bytes = model->memory.scratch_bytes,
                                       .n_parameters = count_parameters(gguf)};
    sharpi_graph_cost(model->graph, &info->step_weight_bytes, &info->step_macs);
}
