/* Loading a model: open and describe, place it by plan (model-place.c), then storage and weights.
 *
 * Each function below does one of these and leaves the model in a state that sharpi_model_free can take apart.
 */
#include <stdlib.h>
#include <string.h>

#include "model-parts.h"
#include "sampler-top.h"

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

/* ---- Loading */

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
    model->top_ids = calloc(model->max_sessions, SHARPI_TOP_MAX * sizeof *model->top_ids);
    model->top_logits = calloc(model->max_sessions, SHARPI_TOP_MAX * sizeof *model->top_logits);
    model->top_sums = calloc(model->max_sessions, sizeof *model->top_sums);
    if (!model->step_tokens || !model->step_positions || !model->step_seqs_of || !model->step_logit_rows ||
        !model->top_ids || !model->top_logits || !model->top_sums || !model->step_seqs ||
        !model->step_classes || !model->step_tables)
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
    struct sharpi_model_options own = {.size = sizeof own};
    struct sharpi_model *model = NULL;
    int32_t status = sharpi_model_open(engine, path, 0, &model, err);
    if (status)
        return status;
    if (options) /* an application built against a smaller struct has the rest at its defaults */
        memcpy(&own, options, options->size < sizeof own ? options->size : sizeof own);
    options = &own;
    if ((status = sharpi_model_place(model, options, 1, err)) ||
        (status = sharpi_kv_pages_create(model->classes, model->n_classes, model->max_sessions, &model->pages,
                                         err)) ||
        (status = allocate_step(model, err)) ||
        (status = sharpi_parts_load(model, options->progress, options->progress_user, err))) {
        sharpi_model_free(model);
        return status;
    }
    create_tokenizer(model);
    sharpi_gguf_forget_metadata(sharpi_model_file_gguf(model->file));
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
    sharpi_parts_free(model);
    sharpi_devices_close(model);
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
    free(model->top_ids);
    free(model->top_logits);
    free(model->top_sums);
    free(model->host_ops);
    free(model->kv_layers);
    free(model->classes);
    free(model->taps);
    free(model->tap_pointers);
    sharpi_plan_free(model->plan);
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

/* Of weights used in the file mapping, each once, whichever devices use them. */
static uint64_t mapped_bytes(const struct sharpi_model *model)
{
    for (uint32_t i = 0; model->plan && i < model->plan->n_parts; i++) {
        if (model->plan->parts[i].host)
            return model->plan->parts[i].mapped_bytes;
    }
    return model->memory.mapped_bytes;
}

/* What sharpi_model_get_info copies as much of as the caller has room for. */
static void fill_info(const struct sharpi_model *model, struct sharpi_model_info *info)
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
                                       .backend = model->backend_names,
                                       .name = model->name,
                                       .path = sharpi_model_file_path(model->file),
                                       .file_bytes = sharpi_gguf_file_bytes(gguf),
                                       .weight_bytes = model->memory.weight_bytes,
                                       .mapped_bytes = mapped_bytes(model),
                                       .kv_bytes = model->kv_bytes,
                                       .scratch_bytes = model->memory.scratch_bytes,
                                       .n_parameters = count_parameters(gguf)};
    sharpi_graph_cost(model->graph, 1, &info->step_weight_bytes, &info->step_macs);
}

void sharpi_model_get_info(const struct sharpi_model *model, struct sharpi_model_info *info)
{
    const uint32_t size = info->size;
    struct sharpi_model_info all;
    fill_info(model, &all);
    memcpy(info, &all, size < sizeof all ? size : sizeof all);
    info->size = size;
}
