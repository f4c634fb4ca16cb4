/* See kv-layout.h. */
#include "kv-layout.h"

#include <stdlib.h>
#include <string.h>

static void describe_layer(struct sharpi_kv_layout *layout, const struct sharpi_model_desc *desc,
                           const struct sharpi_kv_formats *formats, uint32_t layer, uint32_t class_index)
{
    const struct sharpi_layer_desc *l = &desc->layers[layer];
    const struct sharpi_kv_class *class = &layout->classes[class_index];
    const struct sharpi_kv_format *format = l->window ? &formats->swa : &formats->global;
    struct sharpi_kv_layer *kv = &layout->layers[layer];
    *kv = (struct sharpi_kv_layer){.size = sizeof *kv,
                                   .class_index = class_index,
                                   .n_kv_heads = l->n_kv_heads,
                                   .head_dim = l->head_dim,
                                   .ring = class->ring,
                                   .n_pages = class->n_pages};
    if (l->kv_source >= 0)
        return;
    kv->kv = format->kv;
    kv->kv_ctx = format->ctx;
}

int32_t sharpi_kv_layout_init(struct sharpi_kv_layout *layout, const struct sharpi_model_desc *desc,
                              const struct sharpi_kv_formats *formats, const struct sharpi_kv_shape *shape,
                              struct sharpi_error *err)
{
    uint32_t *class_of = calloc(desc->n_layers, sizeof *class_of), i;
    int32_t status;
    memset(layout, 0, sizeof *layout);
    layout->layers = calloc(desc->n_layers, sizeof *layout->layers);
    if (!class_of || !layout->layers)
        status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for %u layers", desc->n_layers);
    else
        status = sharpi_kv_classes(desc, shape->context, shape->headroom, shape->max_seqs, shape->pool,
                                   &layout->classes, &layout->n_classes, class_of, err);
    if (status) {
        sharpi_kv_layout_finish(layout);
    } else {
        layout->n_layers = desc->n_layers;
        for (i = 0; i < desc->n_layers; i++)
            describe_layer(layout, desc, formats, i, class_of[i]);
    }
    free(class_of);
    return status;
}

void sharpi_kv_layout_finish(struct sharpi_kv_layout *layout)
{
    free(layout->layers);
    free(layout->classes);
    memset(layout, 0, sizeof *layout);
}

int32_t sharpi_kv_layout_check(const struct sharpi_kv_layout *layout, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < layout->n_layers && !status; i++) {
        const struct sharpi_kv_layer *kv = &layout->layers[i];
        if (kv->kv && SHARPI_HAS(kv->kv, check))
            status = kv->kv->check(kv->kv_ctx, i, kv->n_kv_heads, kv->head_dim, err);
    }
    return status;
}

uint64_t sharpi_kv_layer_bytes(const struct sharpi_kv_layer *layer)
{
    uint64_t bytes;
    if (!layer->kv)
        return 0;
    bytes = layer->kv->row_bytes(layer->kv_ctx, (uint64_t)layer->n_kv_heads * layer->head_dim);
    if (__builtin_mul_overflow(bytes, (uint64_t)SHARPI_KV_PAGE * layer->n_pages, &bytes))
        return UINT64_MAX;
    return bytes;
}

uint64_t sharpi_kv_block_bytes(const struct sharpi_kv_layer *layer, uint64_t granularity)
{
    uint64_t bytes = sharpi_kv_layer_bytes(layer), rest = granularity ? bytes % granularity : 0;
    if (rest && __builtin_add_overflow(bytes, granularity - rest, &bytes))
        return UINT64_MAX;
    return bytes;
}

uint64_t sharpi_kv_layout_bytes(const struct sharpi_kv_layout *layout, uint32_t first, uint32_t end,
                                uint64_t granularity)
{
    uint64_t sum = 0;
    for (uint32_t i = first; i < end; i++) {
        uint64_t bytes = sharpi_kv_block_bytes(&layout->layers[i], granularity);
        /* K and V */
        if (__builtin_mul_overflow(bytes, 2, &bytes) || __builtin_add_overflow(sum, bytes, &sum))
            return UINT64_MAX;
    }
    return sum;
}
