/* From metadata to the model description and the parameters of the forward pass.
 *
 * What the file says that cannot be honoured is refused here, never ignored. Keys: the GGUF naming of the families.
 */
#include "decoder.h"

#include <math.h>
#include <string.h>

/* Whether layer `i` slides: by attention.sliding_window_pattern (one number p: every p-th layer is global; or an array,
 * true = sliding), else by the family's habit. */
static int32_t layer_slides(const struct decoder_arch *arch, const struct sharpi_model_file *file, uint32_t i,
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

static int32_t describe_layers(const struct decoder_arch *arch, const struct sharpi_reader *r,
                               const struct sharpi_model_desc *desc, uint32_t head_dim, uint32_t window,
                               struct sharpi_layer_desc *layers)
{
    uint32_t i, slides;
    int32_t status;
    for (i = 0; i < desc->n_layers; i++) {
        struct sharpi_layer_desc *layer = &layers[i];
        layer->head_dim = head_dim;
        layer->n_kv_heads = desc->n_heads;
        if ((status = sharpi_read_layer_u32(r, ".attention.head_count_kv", i, 1, desc->n_heads, 0,
                                            &layer->n_kv_heads)) ||
            (status = sharpi_read_layer_u32(r, ".feed_forward_length", i, 1, 1u << 24, !arch->family->experts,
                                            &layer->n_ff)))
            return status;
        if (desc->n_heads % layer->n_kv_heads)
            return sharpi_fail(
                r->err, SHARPI_EFORMAT,
                "%s: %s.attention.head_count_kv = %u in layer %u, must divide the %u query heads",
                r->host->file_path(r->file), arch->family->name, layer->n_kv_heads, i, desc->n_heads);
        if (window) {
            if ((status = layer_slides(arch, r->file, i, &slides, r->err)))
                return status;
            layer->window = slides ? window : 0;
        }
    }
    return SHARPI_OK;
}

static int32_t describe_experts(const struct sharpi_reader *r, struct sharpi_model_desc *desc)
{
    const struct sharpi_tensor *gate = sharpi_find_layer(r, 0, "ffn_gate_exps.weight");
    int32_t status = sharpi_read_u32(r, ".expert_count", 1, 65536, 1, &desc->n_experts);
    if (!status)
        status = sharpi_read_u32(r, ".expert_used_count", 1, desc->n_experts, 1, &desc->n_experts_used);
    if (gate)
        desc->n_ff_expert = (uint32_t)gate->ne[1];
    return status;
}

int32_t decoder_describe(const struct decoder_arch *arch, const struct sharpi_model_file *file,
                         struct sharpi_model_desc *desc, struct sharpi_error *err)
{
    const struct sharpi_reader r = {arch->host, file, err};
    struct sharpi_layer_desc *layers;
    uint32_t head_dim, value_dim, window = 0;
    int32_t status;
    if ((status = sharpi_read_u32(&r, ".block_count", 1, 4096, 1, &desc->n_layers)) ||
        (status = sharpi_read_u32(&r, ".embedding_length", 1, 1u << 20, 1, &desc->width)) ||
        (status = sharpi_read_u32(&r, ".context_length", 1, 1u << 30, 1, &desc->context_length)) ||
        (status = sharpi_read_u32(&r, ".attention.head_count", 1, 4096, 1, &desc->n_heads)) ||
        (status = sharpi_read_vocab(&r, desc)))
        return status;
    head_dim = desc->width / desc->n_heads;
    if ((status = sharpi_read_u32(&r, ".attention.key_length", 1, 4096, 0, &head_dim)))
        return status;
    value_dim = head_dim;
    if ((status = sharpi_read_u32(&r, ".attention.value_length", 1, 4096, 0, &value_dim)))
        return status;
    if (value_dim != head_dim || head_dim == 0 || head_dim % 2)
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "%s: keys of %u and values of %u elements; this plugin needs them equal and even",
                           arch->host->file_path(file), head_dim, value_dim);
    if (arch->family->windowed &&
        (status = sharpi_read_u32(&r, ".attention.sliding_window", 0, 1u << 30, 0, &window)))
        return status;
    layers = sharpi_read_layers(&r, desc);
    if (!layers)
        return SHARPI_ENOMEM;
    desc->mask_known = 1;
    if (arch->family->experts && (status = describe_experts(&r, desc)))
        return status;
    return describe_layers(arch, &r, desc, head_dim, window, layers);
}

/* rope.scaling.*: none, linear and yarn; anything else changes the angles in a way we would get wrong. */
static int32_t rope_scaling(const struct decoder_arch *arch, const struct sharpi_model_file *file,
                            const struct sharpi_model_desc *desc, struct sharpi_rope_attr *rope,
                            struct sharpi_error *err)
{
    const struct sharpi_reader r = {arch->host, file, err};
    const char *type = "none";
    float factor = 0.0f;
    int32_t status = arch->host->file_string(file, ".rope.scaling.type", &type, err);
    if (status && status != SHARPI_ENOENT)
        return status;
    if ((status = sharpi_read_f32(&r, ".rope.scaling.factor", 0.0, 1e6, 0, &factor)))
        return status;
    if (factor == 0.0f && (status = sharpi_read_f32(&r, ".rope.scale_linear", 0.0, 1e6, 0, &factor)))
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
        if ((status = sharpi_read_u32(&r, ".rope.scaling.original_context_length", 1, 1u << 30, 0,
                                      &rope->original_context)) ||
            (status = sharpi_read_f32(&r, ".rope.scaling.attn_factor", 0.0, 100.0, 0, &rope->yarn_attn)) ||
            (status = sharpi_read_f32(&r, ".rope.scaling.yarn_ext_factor", 0.0, 1.0, 0, &rope->yarn_ext)) ||
            (status =
                 sharpi_read_f32(&r, ".rope.scaling.yarn_beta_fast", 0.0, 1e6, 0, &rope->yarn_beta_fast)) ||
            (status =
                 sharpi_read_f32(&r, ".rope.scaling.yarn_beta_slow", 0.0, 1e6, 0, &rope->yarn_beta_slow)))
            return status;
    }
    return SHARPI_OK;
}

int32_t decoder_params(const struct decoder_arch *arch, const struct sharpi_model_file *file,
                       const struct sharpi_model_desc *desc, struct decoder_params *params,
                       struct sharpi_error *err)
{
    const struct sharpi_reader r = {arch->host, file, err};
    const struct decoder_family *family = arch->family;
    uint32_t head_dim = desc->layers[0].head_dim, n_rot = head_dim;
    int32_t status;
    memset(params, 0, sizeof *params);
    params->host = arch->host;
    params->family = family;
    params->renormalize = !family->raw_weights;
    params->expert_scale = 1.0f;
    if ((status = sharpi_read_u32(&r, ".rope.dimension_count", 1, head_dim, 0, &n_rot)))
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
    if ((status = sharpi_read_f32(&r, ".attention.layer_norm_rms_epsilon", 1e-12, 0.1, 1, &params->eps)) ||
        (status = sharpi_read_f32(&r, ".rope.freq_base", 1.0, 1e12, 0, &params->rope.theta)) ||
        (status = sharpi_read_f32(&r, ".attention.scale", 1e-6, 1e3, 0, &params->attention_scale)) ||
        (status = sharpi_read_f32(&r, ".attn_logit_softcapping", 0.0, 1e6, 0, &params->attention_softcap)) ||
        (status = sharpi_read_f32(&r, ".final_logit_softcapping", 0.0, 1e6, 0, &params->final_softcap)) ||
        (status = rope_scaling(arch, file, desc, &params->rope, err)))
        return status;
    if (family->experts &&
        ((status = sharpi_read_u32(&r, ".expert_weights_norm", 0, 1, 0, &params->renormalize)) ||
         (status = sharpi_read_f32(&r, ".expert_weights_scale", 0.0, 1e6, 0, &params->expert_scale))))
        return status;
    if (params->expert_scale == 0.0f) /* as some converters write "none" */
        params->expert_scale = 1.0f;
    if (!family->local_rope)
        params->rope_local = params->rope;
    else
        status = sharpi_read_f32(&r, ".rope.freq_base_swa", 1.0, 1e12, 0, &params->rope_local.theta);
    return status;
}
