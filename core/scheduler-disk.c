/* Prefixes saved in files: what a file's bytes mean, when one is worth writing, and how one gets into the page cache.
 *
 * The bytes: per class, per page from the class's first one to the last, per layer of the class: K, then V. A file is written
 * when a prompt has been computed of which at most half was known, so a growing conversation is written again only as it
 * doubles.
 */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "scheduler-internal.h"

/* Of K, and as many of V. */
static uint64_t page_bytes(const struct sharpi_kv_layer *layer)
{
    return layer->kv->row_bytes(layer->kv_ctx, (uint64_t)layer->n_kv_heads * layer->head_dim) *
           SHARPI_KV_PAGE;
}

/* ---- The stamp */

static uint32_t sample_weights(const struct sharpi_gguf *gguf)
{
    enum { SAMPLE = 4096 };
    uint32_t crc = 0;
    uint64_t i;
    for (i = 0; i < sharpi_gguf_n_tensors(gguf); i++) {
        const struct sharpi_tensor *t = sharpi_gguf_tensor_at(gguf, i);
        uint64_t n = t->n_bytes < SAMPLE ? t->n_bytes : SAMPLE;
        crc = (uint32_t)crc32(crc, (const Bytef *)t->name, (uInt)strlen(t->name));
        if (t->data) {
            crc = (uint32_t)crc32(crc, t->data, (uInt)n);
            crc = (uint32_t)crc32(crc, (const Bytef *)t->data + (t->n_bytes - n) / 2, (uInt)n);
        }
    }
    return crc;
}

/* Everything that the bytes depend on. free(). */
static char *make_stamp(const struct sharpi_model *model)
{
    const struct sharpi_gguf *gguf = sharpi_model_file_gguf(model->file);
    char *text = NULL;
    size_t n = 0;
    uint32_t i;
    FILE *out = open_memstream(&text, &n);
    if (!out)
        return NULL;
    fprintf(out, "sharpi %s backend %s model %s %llu bytes %08x chunk %u headroom %u\n", sharpi_version(),
            model->backend_names, model->arch_offer->name, (unsigned long long)sharpi_gguf_file_bytes(gguf),
            sample_weights(gguf), model->chunk, model->headroom);
    for (i = 0; i < model->n_classes; i++) /* a global class's ring is the context: no matter */
        fprintf(out, "class %u window %u ring %u\n", i, model->classes[i].window,
                model->classes[i].window ? model->classes[i].ring : 0);
    for (i = 0; i < model->desc.n_layers; i++) {
        const struct sharpi_kv_layer *l = &model->kv_layers[i];
        fprintf(out, "layer %u class %u %s %u x %u, %llu\n", i, l->class_index, l->kv ? l->kv->name : "-",
                l->n_kv_heads, l->head_dim, l->kv ? (unsigned long long)page_bytes(l) : 0ull);
    }
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}

static void wake(void *user)
{
    struct sharpi_scheduler *s = user;
    pthread_mutex_lock(&s->lock);
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

int32_t scheduler_disk_open(struct sharpi_scheduler *s, struct sharpi_error *err)
{
    struct sharpi_prompt_cache_options options = {.dir = s->options.prompt_cache_dir,
                                                  .max_bytes = s->options.prompt_cache_bytes,
                                                  .max_tokens = s->model->context,
                                                  .n_classes = s->model->n_classes,
                                                  .log = &s->model->engine->log,
                                                  .wake = wake,
                                                  .user = s};
    char *stamp;
    int32_t status;
    if (!options.dir)
        return SHARPI_OK;
    if (options.n_classes > SHARPI_PROMPT_CLASSES)
        return sharpi_fail(err, SHARPI_ENOTSUP, "prompt_cache_dir: %u KV classes, %u are the limit",
                           options.n_classes, SHARPI_PROMPT_CLASSES);
    if (!options.max_bytes)
        options.max_bytes = 4ull << 30;
    if (!s->options.prompt_cache_min)
        s->options.prompt_cache_min = 256;
    stamp = make_stamp(s->model);
    if (!stamp)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the prompt cache");
    options.stamp = stamp;
    status = sharpi_prompt_cache_open(&options, &s->disk, err);
    free(stamp);
    return status;
}

/* ---- Bytes and pages */

static uint64_t class_page_bytes(const struct sharpi_model *model, uint32_t c)
{
    uint64_t n = 0;
    uint32_t i;
    for (i = 0; i < model->desc.n_layers; i++) {
        const struct sharpi_kv_layer *l = &model->kv_layers[i];
        if (l->kv && l->class_index == c)
            n += 2 * page_bytes(l);
    }
    return n;
}

/* Bytes of a prefix; UINT64_MAX for first pages that cannot be. */
static uint64_t prefix_bytes(const struct sharpi_model *model, const struct sharpi_prompt_data *data)
{
    uint32_t c, end = (data->n_tokens + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE;
    uint64_t n = 0;
    for (c = 0; c < model->n_classes; c++) {
        if (data->first[c] >= end || (!model->classes[c].window && data->first[c]))
            return UINT64_MAX;
        n += class_page_bytes(model, c) * (end - data->first[c]); /* both below 2^40: context x layer */
    }
    return n;
}

/* Moves a page between the device and `bytes`. */
static int32_t move_page(const struct sharpi_scheduler *s, uint32_t c, int32_t page, uint8_t *bytes,
                         int32_t to_device, struct sharpi_error *err)
{
    const struct sharpi_model *model = s->model;
    int32_t status = SHARPI_OK;
    uint32_t i, v;
    for (i = 0; i < model->desc.n_layers && !status; i++) {
        const struct sharpi_kv_layer *l = &model->kv_layers[i];
        const struct sharpi_model_device *d;
        uint64_t n;
        if (!l->kv || l->class_index != c)
            continue;
        n = page_bytes(l);
        d = sharpi_model_layer_device(model, i);
        for (v = 0; v < 2 && !status; v++, bytes += n) {
            void *memory = v ? l->v : l->k;
            status = to_device
                         ? d->offer->backend->write(d->device, memory, n * (uint64_t)page, bytes, n, err)
                         : d->offer->backend->read(d->device, bytes, memory, n * (uint64_t)page, n, err);
        }
    }
    return status;
}

/* ---- Loading */

struct loading {
    struct sharpi_scheduler *s;
    const struct sharpi_prompt_data *data;
    struct sharpi_error err;
};

static int32_t load_page(void *user, uint32_t c, uint32_t index)
{
    struct loading *loading = user;
    const struct sharpi_prompt_data *data = loading->data;
    const struct sharpi_model *model = loading->s->model;
    uint32_t end = (data->n_tokens + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE, i;
    uint8_t *bytes = data->bytes;
    int32_t page;
    if (index < data->first[c])
        return -1;
    page = sharpi_kv_page_take(model->pages, c);
    if (page < 0)
        return -1;
    for (i = 0; i < c; i++)
        bytes += class_page_bytes(model, i) * (end - data->first[i]);
    bytes += class_page_bytes(model, c) * (index - data->first[c]);
    if (move_page(loading->s, c, page, bytes, 1, &loading->err)) {
        sharpi_kv_page_unhold(model->pages, c, page);
        return -1;
    }
    return page;
}

/* How many tokens of the request the file spares, window pages considered. */
static uint32_t usable(const struct sharpi_scheduler *s, const struct request *r, uint32_t i,
                       struct sharpi_prompt_data *data)
{
    uint32_t n = sharpi_prompt_cache_common(s->disk, i, r->tokens, r->n_tokens - 1, data), c;
    for (c = 0; n && c < s->model->n_classes; c++) {
        if (sharpi_kv_first_page(&s->model->classes[c], n) < data->first[c])
            n = 0;
    }
    return n;
}

int32_t scheduler_disk_load(struct sharpi_scheduler *s, const struct request *r, uint32_t known)
{
    struct sharpi_prompt_data data, best_data = {.n_tokens = 0};
    struct loading loading = {.s = s, .data = &best_data, .err = SHARPI_ERROR_INIT};
    uint32_t i, n, best = 0, most = 0, n_files = sharpi_prompt_cache_n(s->disk);
    int32_t status;
    for (i = 0; i < n_files; i++) {
        n = usable(s, r, i, &data);
        if (n > most) {
            most = n;
            best = i;
            best_data = data;
        }
    }
    if (most < known + SHARPI_KV_PAGE)
        return SHARPI_ENOENT;
    status = sharpi_prompt_cache_load(s->disk, best, prefix_bytes(s->model, &best_data), &best_data);
    if (status)
        return status;
    status = sharpi_prefix_insert(s->tree, best_data.tokens, best_data.n_tokens, load_page, &loading,
                                  &loading.err);
    sharpi_prompt_cache_unload(s->disk, best);
    s->stats.disk_loads += !status;
    s->stats.disk_not_taken += status != SHARPI_OK;
    if (status)
        sharpi_log_printf(&s->model->engine->log, SHARPI_LOG_WARN, "prompt-cache",
                          "a saved prefix of %u tokens was not taken: %s", best_data.n_tokens,
                          loading.err.text);
    return status;
}

/* ---- Saving */

static int32_t read_pages(const struct sharpi_scheduler *s, const struct request *r,
                          struct sharpi_prompt_data *data)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    uint32_t c, index, end = (data->n_tokens + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE;
    uint8_t *at = data->bytes;
    int32_t status = SHARPI_OK;
    for (c = 0; c < s->model->n_classes; c++) {
        uint64_t n = class_page_bytes(s->model, c);
        for (index = data->first[c]; index < end && !status; index++, at += n)
            status = move_page(s, c, sharpi_kv_seq_page(r->session->seq, c, index), at, 0, &err);
    }
    return status;
}

void scheduler_disk_save(struct sharpi_scheduler *s, const struct request *r)
{
    struct sharpi_prompt_data data = {.n_tokens = r->n_prompt, .tokens = r->tokens};
    uint32_t c, index;
    if (r->what.no_reuse || r->n_prompt < s->options.prompt_cache_min ||
        r->usage.reused_tokens > r->n_prompt / 2 || sharpi_session_length(r->session) != r->n_prompt)
        return;
    for (c = 0; c < s->model->n_classes;
         c++) { /* all that the ring still has: any branch point there is one */
        for (index = (r->n_prompt - 1) / SHARPI_KV_PAGE;
             index > 0 && sharpi_kv_seq_page(r->session->seq, c, index - 1) >= 0; index--)
            ;
        if (sharpi_kv_seq_page(r->session->seq, c, index) < 0)
            return; /* a narrow ring does not even hold the last page whole */
        data.first[c] = index;
    }
    data.n_bytes = prefix_bytes(s->model, &data);
    data.bytes = data.n_bytes < SIZE_MAX ? malloc(data.n_bytes) : NULL;
    if (!data.bytes)
        return;
    if (read_pages(s, r, &data))
        free(data.bytes);
    else
        sharpi_prompt_cache_save(s->disk, &data);
}
