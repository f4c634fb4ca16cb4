/* From metadata to the model description and the parameters of the forward pass.
 *
 * What the file says that cannot be honoured is refused here, never ignored. Keys: the GGUF naming of the families.
 */
#include "dense.h"

#include <math.h>
#include <string.h>

/* Reads a count in [min, max]. `required` 0: absent leaves *out. */
static int32_t get_u32(const struct dense_arch *arch, const struct sharpi_model_file *file, const char *key,
                       uint64_t min, uint64_t max, uint32_t required, uint32_t *out, struct sharpi_error *err)
{
    uint64_t value;
    int32_t status = arch->host->file_u64(file, key, &value, err);
    if (status == SHARPI_ENOENT)
        return required
                   ? sharpi_fail(err, SHARPI_ENOENT,
                                 "%s: key %s%s is missing; the file is not a complete %s model",
                                 arch->host->file_path(file), arch->family->name, key, arch->family->name)
                   : SHARPI_OK;
    if (status)
        return status;
    if (value < min || value > max)
        return sharpi_fail(err, SHARPI_EFORMAT, "%s: %s%s = %llu, must be %llu to %llu",
                           arch->host->file_path(file), arch->family->name, key, (unsigned long long)value,
                           (unsigned long long)min, (unsigned long long)max);
    *out = (uint32_t)value;
    return SHARPI_OK;
}

/* Reads a finite number in [min, max]; absent leaves *out. */
static int32_t get_f32(const struct dense_arch *arch, const struct sharpi_model_file *file, const char *key,
                       double min, double max, float *out, struct sharpi_error *err)
{
    double value;
    int32_t status = arch->host->file_f64(file, key, &value, err);
    if (status)
        return status == SHARPI_ENOENT ? SHARPI_OK : status;
    if (!(value >= min && value <= max))
        return sharpi_fail(err, SHARPI_EFORMAT, "%s: %s%s = %g, must be %g to %g",
                           arch->host->file_path(file), arch->family->name, key, value, min, max);
    *out = (float)value;
    return SHARPI_OK;
}

/* Whether layer `i` slides: by attention.sliding_window_pattern (one number p: every p-th layer is global; or an array,
 * true = sliding), else by the family's habit. */
static int32_t layer_slides(const struct dense_arch *arch, const struct sharpi_model_file *file, uint32_t i,
                            uint32_t *slides, struct sharpi_error *err)
{
    uint64_t value, n;
    uint32_t every = arch->family->global_every;
    int32_t status =
        arch->host->file_array_u64(file, ".attention.sliding_window_pattern", i, &value, &n, err);
    if (status && status != SHARPI_ENOENT)
        return status;
    if (!status && n) {
        *slides = value != 0;
        return SHARPI_OK;
    }
    if (!status)
        every = (uint32_t)(value < UINT32_MAX ? value : 0);
    *slides = every == 0 || (i + 1) % every != 0;
    return SHARPI_OK;
}

static int32_t describe_layers(const struct dense_arch *arch, const struct sharpi_model_file *file,
                               const struct sharpi_model_desc *desc, uint32_t head_dim, uint32_t window,
                               struct sharpi_layer_desc *layers, struct sharpi_error *err)
{
    uint64_t value;
    uint32_t i, slides;
    int32_t status;
    for (i = 0; i < desc->n_layers; i++) {
        struct sharpi_layer_desc *layer = &layers[i];
        layer->head_dim = head_dim;
        layer->kv_source = -1;
        value = desc->n_heads;
        status = arch->host->file_array_u64(file, ".attention.head_count_kv", i, &value, NULL, err);
        if (status && status != SHARPI_ENOENT)
            return status;
        if (value == 0 || value > desc->n_heads || desc->n_heads % value)
            return sharpi_fail(
                err, SHARPI_EFORMAT,
                "%s: %s.attention.head_count_kv = %llu in layer %u, must divide the %u query heads",
                arch->host->file_path(file), arch->family->name, (unsigned long long)value, i, desc->n_heads);
        layer->n_kv_heads = (uint32_t)value;
        status = arch->host->file_array_u64(file, ".feed_forward_length", i, &value, NULL, err);
        if (status)
            return status == SHARPI_ENOENT
                       ? sharpi_fail(err, status, "%s: key %s.feed_forward_length is missing",
                                     arch->host->file_path(file), arch->family->name)
                       : status;
        layer->n_ff = (uint32_t)value;
        if (window) {
            status = layer_slides(arch, file, i, &slides, err);
            if (status)
                return status;
            layer->window = slides ? window : 0;
        }
    }
    return SHARPI_OK;
}

/* The vocabulary is as long as the embedding table; vocab_size, when given, must agree. */
static int32_t describe_vocab(const struct dense_arch *arch, const struct sharpi_model_file *file,
                              struct sharpi_model_desc *desc, struct sharpi_error *err)
{
    const struct sharpi_tensor *table = arch->host->file_tensor(file, "token_embd.weight");
    if (!table || table->n_dims != 2 || table->ne[1] == 0 || table->ne[1] > INT32_MAX)
        return sharpi_fail(err, SHARPI_EFORMAT,
                           "%s: tensor token_embd.weight is missing or not [%u, vocabulary]",
                           arch->host->file_path(file), desc->width);
    desc->n_vocab = (uint32_t)table->ne[1];
    return SHARPI_OK;
}

int32_t dense_describe(const struct dense_arch *arch, const struct sharpi_model_file *file,
                       struct sharpi_model_desc *desc, struct sharpi_error *err)
{
    struct sharpi_layer_desc *layers;
    uint32_t head_dim = 0, value_dim = 0, window = 0;
    int32_t status;
    if ((status = get_u32(arch, file, ".block_count", 1, 4096, 1, &desc->n_layers, err)) ||
        (status = get_u32(arch, file, ".embedding_length", 1, 1u << 20, 1, &desc->width, err)) ||
        (status = get_u32(arch, file, ".context_length", 1, 1u << 30, 1, &desc->context_length, err)) ||
        (status = get_u32(arch, file, ".attention.head_count", 1, 4096, 1, &desc->n_heads, err)) ||
        (status = describe_vocab(arch, file, desc, err)))
        return status;
    head_dim = desc->width / desc->n_heads;
    if ((status = get_u32(arch, file, ".attention.key_length", 1, 4096, 0, &head_dim, err)))
        return status;
    value_dim = head_dim;
    if ((status = get_u32(arch, file, ".attention.value_length", 1, 4096, 0, &value_dim, err)))
        return status;
    if (value_dim != head_dim)
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "%s: keys of %u and values of %u elements; arch-dense needs them equal",
                           arch->host->file_path(file), head_dim, value_dim);
    if (arch->family->windowed &&
        (status = get_u32(arch, file, ".attention.sliding_window", 0, 1u << 30, 0, &window, err)))
        return status;
    layers = arch->host->file_alloc(file, sizeof *layers * desc->n_layers);
    if (!layers)
        return sharpi_fail(err, SHARPI_ENOMEM, "%s: no memory for %u layers", arch->host->file_path(file),
                           desc->n_layers);
    desc->layers = layers;
    desc->layer_size = sizeof *layers;
    desc->n_layers_described = desc->n_layers;
    desc->mask_known = 1;
    return describe_layers(arch, file, desc, head_dim, window, layers, err);
}

/* rope.scaling.*: none, linear and yarn; anything else changes the angles in a way we would get wrong. */
static int32_t rope_scaling(const struct dense_arch *arch, const struct sharpi_model_file *file,
                            const struct sharpi_model_desc *desc, struct sharpi_rope_attr *rope,
                            struct sharpi_error *err)
{
    const char *type = "none";
    float factor = 0.0f;
    int32_t status = arch->host->file_string(file, ".rope.scaling.type", &type, err);
    if (status && status != SHARPI_ENOENT)
        return status;
    if ((status = get_f32(arch, file, ".rope.scaling.factor", 0.0, 1e6, &factor, err)))
        return status;
    if (factor == 0.0f && (status = get_f32(arch, file, ".rope.scale_linear", 0.0, 1e6, &factor, err)))
        return status;
    if (strcmp(type, "none") == 0 && factor > 0.0f && factor != 1.0f)
        type = "linear"; /* older files give the factor alone */
    if (strcmp(type, "none") == 0)
        return SHARPI_OK;
    if (strcmp(type, "linear") != 0 && strcmp(type, "yarn") != 0)
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "%s: %s.rope.scaling.type = %s is not implemented (none, linear, yarn are); use a file "
            "without it",
            arch->host->file_path(file), arch->family->name, type);
    if (factor <= 0.0f)
        factor = 1.0f;
    rope->freq_scale = 1.0f / factor;
    if (strcmp(type, "yarn") == 0) {
        rope->yarn_ext = 1.0f;
        rope->original_context = desc->context_length;
        if ((status = get_u32(arch, file, ".rope.scaling.original_context_length", 1, 1u << 30, 0,
                              &rope->original_context, err)) ||
            (status = get_f32(arch, file, ".rope.scaling.attn_factor", 0.0, 100.0, &rope->yarn_attn, err)) ||
            (status = get_f32(arch, file, ".rope.scaling.yarn_ext_factor", 0.0, 1.0, &rope->yarn_ext, err)) ||
            (status =
                 get_f32(arch, file, ".rope.scaling.yarn_beta_fast", 0.0, 1e6, &rope->yarn_beta_fast, err)) ||
            (status =
                 get_f32(arch, file, ".rope.scaling.yarn_beta_slow", 0.0, 1e6, &rope->yarn_beta_slow, err)))
            return status;
    }
    return SHARPI_OK;
}

int32_t dense_params(const struct dense_arch *arch, const struct sharpi_model_file *file,
                     const struct sharpi_model_desc *desc, struct dense_params *params,
                     struct sharpi_error *err)
{
    const struct dense_family *family = arch->family;
    uint32_t head_dim = desc->layers[0].head_dim, n_rot = head_dim;
    int32_t status;
    memset(params, 0, sizeof *params);
    params->host = arch->host;
    params->family = family;
    if ((status = get_u32(arch, file, ".rope.dimension_count", 1, head_dim, 0, &n_rot, err)))
        return status;
    params->rope = (struct sharpi_rope_attr){.size = sizeof params->rope,
                                             .mode = family->rope_mode,
                                             .head_dim = head_dim,
                                             .n_rot = n_rot,
                                             .theta = 10000.0f,
                                             .freq_scale = 1.0f,
                                             .yarn_attn = 1.0f,
                                             .yarn_beta_fast = 32.0f,
                                             .yarn_beta_slow = 1.0f};
    params->rope_local = params->rope;
    params->embedding_scale = family->scale_embedding ? sqrtf((float)desc->width) : 1.0f;
    params->attention_scale = 1.0f / sqrtf((float)head_dim);
    if (family->big_layers == desc->n_layers)
        params->attention_scale = 1.0f / sqrtf((float)desc->width / (float)desc->n_heads);
    params->eps = 0.0f;
    if ((status = get_f32(arch, file, ".attention.layer_norm_rms_epsilon", 1e-12, 0.1, &params->eps, err)) ||
        (status = get_f32(arch, file, ".rope.freq_base", 1.0, 1e12, &params->rope.theta, err)) ||
        (status = get_f32(arch, file, ".attention.scale", 1e-6, 1e3, &params->attention_scale, err)) ||
        (status =
             get_f32(arch, file, ".attn_logit_softcapping", 0.0, 1e6, &params->attention_softcap, err)) ||
        (status = get_f32(arch, file, ".final_logit_softcapping", 0.0, 1e6, &params->final_softcap, err)) ||
        (status = rope_scaling(arch, file, desc, &params->rope, err)))
        return status;
    if (params->eps <= 0.0f)
        return sharpi_fail(err, SHARPI_ENOENT, "%s: key %s.attention.layer_norm_rms_epsilon is missing",
                           arch->host->file_path(file), family->name);
    if (!family->local_rope)
        params->rope_local = params->rope;
    else
        status = get_f32(arch, file, ".rope.freq_base_swa", 1.0, 1e12, &params->rope_local.theta, err);
    return status;
}
