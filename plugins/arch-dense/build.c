/* The forward pass of the dense families. Notation: D width, H query heads, G KV heads, d head_dim.
 *
 *   x  = embd[token]                                     gemma: * sqrt(D)
 *   h  = rms(x, attn_norm)
 *   q, k, v = W h [+ b];  [norm of each head of q and k];  rope on q and k
 *   x += attn_output attention(q, k, v)                  gemma: normed before it is added
 *   x += ffn_down(act(ffn_gate h2) * (ffn_up h2)), h2 = rms(x, ffn_norm)      likewise
 *   logits = output rms(x, output_norm)                  gemma2: soft capped
 */
#include "dense.h"

#include <stdio.h>

/* Tensor "blk.<layer>.<name>", or NULL. */
static const struct sharpi_tensor *layer_tensor(const struct dense_params *p,
                                                const struct sharpi_model_file *file, uint32_t layer,
                                                const char *name)
{
    char full[96];
    snprintf(full, sizeof full, "blk.%u.%s", layer, name);
    return p->host->file_tensor(file, full);
}

/* The same, required: sets the builder's error when it is missing. */
static const struct sharpi_tensor *need(const struct dense_params *p, const struct sharpi_model_file *file,
                                        struct sharpi_builder *b, uint32_t layer, const char *name)
{
    const struct sharpi_tensor *tensor = layer_tensor(p, file, layer, name);
    if (!tensor && !b->status)
        b->status = sharpi_fail(b->err, SHARPI_ENOENT, "%s: tensor blk.%u.%s is missing",
                                p->host->file_path(file), layer, name);
    return tensor;
}

/* linear with the weight NAME.weight and, if the file has it, the bias NAME.bias. */
static int32_t linear(const struct dense_params *p, const struct sharpi_model_file *file,
                      struct sharpi_builder *b, uint32_t layer, const char *name, int32_t x, int32_t split)
{
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    return sharpi_g_linear(b, x, need(p, file, b, layer, weight), layer_tensor(p, file, layer, bias), split);
}

static int32_t attention(const struct dense_params *p, const struct sharpi_model_file *file,
                         const struct sharpi_model_desc *desc, struct sharpi_builder *b, uint32_t layer,
                         int32_t h)
{
    const struct sharpi_layer_desc *l = &desc->layers[layer];
    const struct sharpi_tensor *q_norm = layer_tensor(p, file, layer, "attn_q_norm.weight");
    const struct sharpi_tensor *k_norm = layer_tensor(p, file, layer, "attn_k_norm.weight");
    const uint32_t local = l->window && p->family->local_rope;
    const struct sharpi_tensor *divisors = local ? NULL : p->host->file_tensor(file, "rope_freqs.weight");
    struct sharpi_rope_attr rope = local ? p->rope_local : p->rope;
    struct sharpi_attention_attr a = {.size = sizeof a,
                                      .layer = layer,
                                      .kv_layer = layer,
                                      .n_heads = desc->n_heads,
                                      .n_kv_heads = l->n_kv_heads,
                                      .head_dim = l->head_dim,
                                      .scale = p->attention_scale,
                                      .softcap = p->attention_softcap,
                                      .window = l->window,
                                      .causal = 1};
    int32_t q = linear(p, file, b, layer, "attn_q", h, SHARPI_SPLIT_OUTPUT);
    int32_t k = linear(p, file, b, layer, "attn_k", h, SHARPI_SPLIT_OUTPUT);
    int32_t v = linear(p, file, b, layer, "attn_v", h, SHARPI_SPLIT_OUTPUT);
    int32_t o;
    if (q_norm)
        q = sharpi_g_rms_norm(b, q, q_norm, p->eps, l->head_dim);
    if (k_norm)
        k = sharpi_g_rms_norm(b, k, k_norm, p->eps, l->head_dim);
    rope.n_heads = desc->n_heads;
    q = sharpi_g_rope(b, q, &rope, divisors);
    rope.n_heads = l->n_kv_heads;
    k = sharpi_g_rope(b, k, &rope, divisors);
    o = sharpi_g_attention(b, q, k, v, &a, layer_tensor(p, file, layer, "attn_sinks.weight"));
    o = sharpi_g_tap(b, o, "attn_heads");
    return linear(p, file, b, layer, "attn_output", o, SHARPI_SPLIT_INPUT);
}

static int32_t feed_forward(const struct dense_params *p, const struct sharpi_model_file *file,
                            struct sharpi_builder *b, uint32_t layer, int32_t h)
{
    int32_t gate = linear(p, file, b, layer, "ffn_gate", h, SHARPI_SPLIT_OUTPUT);
    int32_t up = linear(p, file, b, layer, "ffn_up", h, SHARPI_SPLIT_OUTPUT);
    return linear(p, file, b, layer, "ffn_down", sharpi_g_glu(b, gate, up, p->family->activation),
                  SHARPI_SPLIT_INPUT);
}

static int32_t build_layer(const struct dense_params *p, const struct sharpi_model_file *file,
                           const struct sharpi_model_desc *desc, struct sharpi_builder *b, uint32_t layer,
                           int32_t x)
{
    const uint32_t sandwich = p->family->sandwich_norms;
    int32_t h, o, f;
    b->layer = (int32_t)layer;
    h = sharpi_g_rms_norm(b, x, need(p, file, b, layer, "attn_norm.weight"), p->eps, 0);
    o = sharpi_g_tap(b, attention(p, file, desc, b, layer, h), "attn_out");
    if (sandwich)
        o = sharpi_g_rms_norm(b, o, need(p, file, b, layer, "post_attention_norm.weight"), p->eps, 0);
    x = sharpi_g_add(b, x, o);
    h = sharpi_g_rms_norm(b, x, need(p, file, b, layer, "ffn_norm.weight"), p->eps, 0);
    f = sharpi_g_tap(b, feed_forward(p, file, b, layer, h), "ffn_out");
    if (sandwich)
        f = sharpi_g_rms_norm(b, f, need(p, file, b, layer, "post_ffw_norm.weight"), p->eps, 0);
    return sharpi_g_tap(b, sharpi_g_add(b, x, f), "out");
}

int32_t dense_build(const struct dense_params *p, const struct sharpi_model_file *file,
                    const struct sharpi_model_desc *desc, struct sharpi_builder *b, struct sharpi_error *err)
{
    const struct sharpi_tensor *table = p->host->file_tensor(file, "token_embd.weight");
    const struct sharpi_tensor *norm = p->host->file_tensor(file, "output_norm.weight");
    const struct sharpi_tensor *output = p->host->file_tensor(file, "output.weight");
    uint32_t layer;
    int32_t x;
    if (!norm)
        return sharpi_fail(err, SHARPI_ENOENT, "%s: tensor output_norm.weight is missing",
                           p->host->file_path(file));
    b->layer = -1;
    x = sharpi_g_tap(b, sharpi_g_embed(b, table, p->embedding_scale), "embd");
    for (layer = 0; layer < desc->n_layers && !b->status; layer++)
        x = build_layer(p, file, desc, b, layer, x);
    b->layer = (int32_t)desc->n_layers;
    x = sharpi_g_rms_norm(b, sharpi_g_select_rows(b, x), norm, p->eps, 0);
    x = sharpi_g_tap(b, x, "result_norm");
    sharpi_g_logits(b, x, output ? output : table, p->final_softcap);
    return b->status;
}
