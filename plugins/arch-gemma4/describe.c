/* Gemma 4's metadata: layers that slide or are global, shared K/V, per-layer embedding, experts. */
#include "gemma4.h"

/* Layer i borrows the K/V of the last layer of its kind that has some of its own. */
static int32_t find_source(const struct sharpi_model_desc *desc, const struct sharpi_layer_desc *layers,
                           uint32_t layer, uint32_t n_own, int32_t *source, struct sharpi_error *err)
{
    int32_t s;
    for (s = (int32_t)n_own - 1; s >= 0; s--) {
        if ((layers[s].window != 0) == (layers[layer].window != 0)) {
            *source = s;
            return SHARPI_OK;
        }
    }
    return sharpi_fail(err, SHARPI_EFORMAT, "layer %u of %u shares K/V, but no earlier layer is %s", layer,
                       desc->n_layers, layers[layer].window ? "sliding" : "global");
}

struct head_dims {
    uint32_t global, sliding;
};

static int32_t read_head_dims(const struct sharpi_reader *r, struct head_dims *dims)
{
    struct head_dims values;
    int32_t status;
    *dims = (struct head_dims){0, 0};
    if ((status = sharpi_read_u32(r, ".attention.key_length", 2, 4096, 1, &dims->global)))
        return status;
    dims->sliding = dims->global;
    if ((status = sharpi_read_u32(r, ".attention.key_length_swa", 2, 4096, 0, &dims->sliding)))
        return status;
    values = *dims;
    if ((status = sharpi_read_u32(r, ".attention.value_length", 2, 4096, 0, &values.global)) ||
        (status = sharpi_read_u32(r, ".attention.value_length_swa", 2, 4096, 0, &values.sliding)))
        return status;
    if (values.global != dims->global || values.sliding != dims->sliding)
        return sharpi_fail(
            r->err, SHARPI_ENOTSUP, "%s: keys and values of different length (%u, %u; sliding %u, %u)",
            r->host->file_path(r->file), dims->global, values.global, dims->sliding, values.sliding);
    return SHARPI_OK;
}

static int32_t describe_layers(const struct sharpi_reader *r, const struct sharpi_model_desc *desc,
                               struct sharpi_layer_desc *layers, uint32_t window, uint32_t n_shared)
{
    struct head_dims dims;
    uint32_t i, slides, n_own = desc->n_layers - n_shared;
    int32_t status = read_head_dims(r, &dims);
    for (i = 0; i < desc->n_layers && !status; i++) {
        struct sharpi_layer_desc *l = &layers[i];
        slides = 0;
        if ((status = sharpi_read_layer_u32(r, ".attention.sliding_window_pattern", i, 0, 1, window != 0,
                                            &slides)) ||
            (status = sharpi_read_layer_u32(r, ".attention.head_count_kv", i, 1, desc->n_heads, 1,
                                            &l->n_kv_heads)) ||
            (status = sharpi_read_layer_u32(r, ".feed_forward_length", i, 1, 1u << 24, 1, &l->n_ff)))
            return status;
        l->window = slides ? window : 0;
        l->head_dim = slides ? dims.sliding : dims.global;
        l->k_eq_v = i < n_own && !sharpi_find_layer(r, i, "attn_v.weight");
        if (i >= n_own)
            status = find_source(desc, layers, i, n_own, &l->kv_source, r->err);
    }
    return status;
}

int32_t gemma4_describe(const struct sharpi_reader *r, struct sharpi_model_desc *desc)
{
    struct sharpi_layer_desc *layers;
    uint32_t window = 0, n_shared = 0;
    int32_t status;
    if ((status = sharpi_read_u32(r, ".block_count", 1, 4096, 1, &desc->n_layers)) ||
        (status = sharpi_read_u32(r, ".embedding_length", 1, 1u << 20, 1, &desc->width)) ||
        (status = sharpi_read_u32(r, ".context_length", 1, 1u << 30, 1, &desc->context_length)) ||
        (status = sharpi_read_u32(r, ".attention.head_count", 1, 4096, 1, &desc->n_heads)) ||
        (status = sharpi_read_u32(r, ".attention.sliding_window", 0, 1u << 30, 0, &window)) ||
        (status = sharpi_read_u32(r, ".attention.shared_kv_layers", 0, desc->n_layers - 1, 0, &n_shared)) ||
        (status =
             sharpi_read_u32(r, ".embedding_length_per_layer_input", 0, 1u << 16, 0, &desc->ple_width)) ||
        (status = sharpi_read_u32(r, ".expert_count", 0, 65536, 0, &desc->n_experts)) ||
        (status = sharpi_read_vocab(r, desc)))
        return status;
    if (desc->n_experts &&
        ((status = sharpi_read_u32(r, ".expert_used_count", 1, desc->n_experts, 1, &desc->n_experts_used)) ||
         (status = sharpi_read_u32(r, ".expert_feed_forward_length", 1, 1u << 24, 1, &desc->n_ff_expert))))
        return status;
    layers = sharpi_read_layers(r, desc);
    if (!layers)
        return SHARPI_ENOMEM;
    desc->mask_known = 1;
    return describe_layers(r, desc, layers, window, n_shared);
}

int32_t gemma4_params(const struct sharpi_reader *r, struct gemma4_params *params)
{
    int32_t status;
    *params = (struct gemma4_params){.softcap = 30.0f, .theta = 1e6f, .theta_local = 1e4f};
    if ((status = sharpi_read_f32(r, ".attention.layer_norm_rms_epsilon", 1e-12, 0.1, 1, &params->eps)) ||
        (status = sharpi_read_f32(r, ".final_logit_softcapping", 0.0, 1e6, 0, &params->softcap)) ||
        (status = sharpi_read_f32(r, ".rope.freq_base", 1.0, 1e12, 0, &params->theta)))
        return status;
    return sharpi_read_f32(r, ".rope.freq_base_swa", 1.0, 1e12, 0, &params->theta_local);
}

uint64_t gemma4_reserve(const struct sharpi_model_desc *desc, uint64_t device_total, uint32_t chunk)
{
    const uint64_t gib2 = 2ull << 30;
    uint64_t dense = device_total / 3 > gib2 ? device_total / 3 : gib2;
    uint64_t windowed = device_total / 6 > gib2 ? device_total / 6 : gib2;
    uint64_t head_dim = 0, kv_heads = 0, n_ff = 0, per_token;
    uint32_t i, any_window = 0;
    for (i = 0; i < desc->n_layers; i++) {
        const struct sharpi_layer_desc *l = &desc->layers[i];
        head_dim = l->head_dim > head_dim ? l->head_dim : head_dim;
        kv_heads = l->n_kv_heads > kv_heads ? l->n_kv_heads : kv_heads;
        n_ff = l->n_ff > n_ff ? l->n_ff : n_ff;
        any_window |= l->window != 0;
    }
    if (!any_window)
        return dense;
    per_token = 3ull * desc->width + 2 * desc->n_heads * head_dim + 2 * kv_heads * head_dim + 2 * n_ff;
    if (desc->ple_width)
        per_token += 2ull * desc->n_layers * desc->ple_width + desc->ple_width + desc->width;
    windowed += chunk * per_token * 4;
    return windowed < dense ? windowed : dense;
}
