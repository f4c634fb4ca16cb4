/* Reading a model file in an architecture plugin: bounded metadata and named tensors, with errors that say what is wrong.
 *
 * Inline helpers over the host table; a plugin may use them or not.
 */
#ifndef SHARPI_PLUGIN_ARCH_READ_H
#define SHARPI_PLUGIN_ARCH_READ_H

#include <sharpi/plugin/arch.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The metadata side of a description: where to read and what to say. */
struct sharpi_reader {
    const struct sharpi_host *host;
    const struct sharpi_model_file *file;
    struct sharpi_error *err;
};

/* "<file>: <arch>.<key>" for messages; keys begin with '.'. */
#define SHARPI_READER_WHERE "%s: %s%s"
#define SHARPI_READER_ARGS(r, key)                                                                           \
    (r)->host->file_path((r)->file), *(key) == '.' ? (r)->host->file_arch((r)->file) : "", key

/* A whole number in [min, max]. Absent: an error if `required`, else *out stays. */
static inline int32_t sharpi_read_u32(const struct sharpi_reader *r, const char *key, uint64_t min,
                                      uint64_t max, uint32_t required, uint32_t *out)
{
    uint64_t value = 0;
    int32_t status = r->host->file_u64(r->file, key, &value, r->err);
    if (status == SHARPI_ENOENT)
        return required ? sharpi_fail(r->err, SHARPI_ENOENT,
                                      SHARPI_READER_WHERE " is missing: the file is not complete",
                                      SHARPI_READER_ARGS(r, key))
                        : SHARPI_OK;
    if (status)
        return status;
    if (value < min || value > max)
        return sharpi_fail(r->err, SHARPI_EFORMAT, SHARPI_READER_WHERE " = %llu, must be %llu to %llu",
                           SHARPI_READER_ARGS(r, key), (unsigned long long)value, (unsigned long long)min,
                           (unsigned long long)max);
    *out = (uint32_t)value;
    return SHARPI_OK;
}

/* A number in [min, max]; likewise. */
static inline int32_t sharpi_read_f32(const struct sharpi_reader *r, const char *key, double min, double max,
                                      uint32_t required, float *out)
{
    double value = 0;
    int32_t status = r->host->file_f64(r->file, key, &value, r->err);
    if (status == SHARPI_ENOENT)
        return required ? sharpi_fail(r->err, SHARPI_ENOENT,
                                      SHARPI_READER_WHERE " is missing: the file is not complete",
                                      SHARPI_READER_ARGS(r, key))
                        : SHARPI_OK;
    if (status)
        return status;
    if (!(value >= min && value <= max))
        return sharpi_fail(r->err, SHARPI_EFORMAT, SHARPI_READER_WHERE " = %g, must be %g to %g",
                           SHARPI_READER_ARGS(r, key), value, min, max);
    *out = (float)value;
    return SHARPI_OK;
}

/* Entry `layer` of a key that is one value or an array with one per layer; likewise. */
static inline int32_t sharpi_read_layer_u32(const struct sharpi_reader *r, const char *key, uint32_t layer,
                                            uint64_t min, uint64_t max, uint32_t required, uint32_t *out)
{
    uint64_t value = 0;
    int32_t status = r->host->file_array_u64(r->file, key, layer, &value, NULL, r->err);
    if (status == SHARPI_ENOENT)
        return required ? sharpi_fail(r->err, SHARPI_ENOENT,
                                      SHARPI_READER_WHERE " is missing or has no entry for layer %u",
                                      SHARPI_READER_ARGS(r, key), layer)
                        : SHARPI_OK;
    if (status)
        return status;
    if (value < min || value > max)
        return sharpi_fail(r->err, SHARPI_EFORMAT,
                           SHARPI_READER_WHERE " = %llu in layer %u, must be %llu to %llu",
                           SHARPI_READER_ARGS(r, key), (unsigned long long)value, layer,
                           (unsigned long long)min, (unsigned long long)max);
    *out = (uint32_t)value;
    return SHARPI_OK;
}

/* The vocabulary is as long as the embedding table. */
static inline int32_t sharpi_read_vocab(const struct sharpi_reader *r, struct sharpi_model_desc *desc)
{
    const struct sharpi_tensor *table = r->host->file_tensor(r->file, "token_embd.weight");
    if (!table || table->n_dims != 2 || table->ne[0] != desc->width || table->ne[1] == 0 ||
        table->ne[1] > INT32_MAX)
        return sharpi_fail(r->err, SHARPI_EFORMAT,
                           "%s: tensor token_embd.weight is missing or not [%u, vocabulary]",
                           r->host->file_path(r->file), desc->width);
    desc->n_vocab = (uint32_t)table->ne[1];
    return SHARPI_OK;
}

/* Memory for the layers of a description, zeroed, kv_source -1; sets desc->layers. NULL with an error. */
static inline struct sharpi_layer_desc *sharpi_read_layers(const struct sharpi_reader *r,
                                                           struct sharpi_model_desc *desc)
{
    struct sharpi_layer_desc *layers =
        (struct sharpi_layer_desc *)r->host->file_alloc(r->file, sizeof *layers * (uint64_t)desc->n_layers);
    uint32_t i;
    if (!layers) {
        sharpi_fail(r->err, SHARPI_ENOMEM, "%s: no memory for %u layers", r->host->file_path(r->file),
                    desc->n_layers);
        return NULL;
    }
    for (i = 0; i < desc->n_layers; i++)
        layers[i].kv_source = -1;
    desc->layers = layers;
    desc->layer_size = (uint32_t)sizeof *layers;
    desc->n_layers_described = desc->n_layers;
    return layers;
}

/* Tensor "blk.<layer>.<name>", or NULL. */
static inline const struct sharpi_tensor *sharpi_find_layer(const struct sharpi_reader *r, uint32_t layer,
                                                            const char *name)
{
    char full[128];
    snprintf(full, sizeof full, "blk.%u.%s", layer, name);
    return r->host->file_tensor(r->file, full);
}

/* The same, required: when it is missing the builder gets the error, and the op that is made from it does nothing. */
static inline const struct sharpi_tensor *
sharpi_need_layer(const struct sharpi_reader *r, struct sharpi_builder *b, uint32_t layer, const char *name)
{
    const struct sharpi_tensor *tensor = sharpi_find_layer(r, layer, name);
    if (!tensor && !b->status)
        b->status = sharpi_fail(b->err, SHARPI_ENOENT, "%s: tensor blk.%u.%s is missing",
                                r->host->file_path(r->file), layer, name);
    return tensor;
}

/* The same for tensors outside the layers. */
static inline const struct sharpi_tensor *sharpi_need_tensor(const struct sharpi_reader *r,
                                                             struct sharpi_builder *b, const char *name)
{
    const struct sharpi_tensor *tensor = r->host->file_tensor(r->file, name);
    if (!tensor && !b->status)
        b->status =
            sharpi_fail(b->err, SHARPI_ENOENT, "%s: tensor %s is missing", r->host->file_path(r->file), name);
    return tensor;
}

/* linear with blk.<layer>.<name>.weight and, where the file has it, blk.<layer>.<name>.bias. */
static inline int32_t sharpi_g_layer_linear(const struct sharpi_reader *r, struct sharpi_builder *b,
                                            uint32_t layer, const char *name, int32_t x, int32_t split)
{
    char weight[96], bias[96];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    return sharpi_g_linear(b, x, sharpi_need_layer(r, b, layer, weight), sharpi_find_layer(r, layer, bias),
                           split);
}

/* rms_norm with blk.<layer>.<name>; group 0 = the whole width. */
static inline int32_t sharpi_g_layer_norm(const struct sharpi_reader *r, struct sharpi_builder *b,
                                          uint32_t layer, const char *name, int32_t x, float eps,
                                          uint32_t group)
{
    return sharpi_g_rms_norm(b, x, sharpi_need_layer(r, b, layer, name), eps, group);
}

#ifdef __cplusplus
}
#endif
#endif
