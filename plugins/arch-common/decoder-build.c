/* The forward pass of the families. Notation: D width, H query heads, G KV heads, d head_dim.
 *
 *   x  = embd[token]                                     gemma: * sqrt(D)
 *   h  = rms(x, attn_norm)
 *   q, k, v = W h [+ b];  [norm of each head of q and k];  rope on q and k
 *   x += attn_output attention(q, k, v)                  gemma: normed before it is added
 *   x += ffn_down(act(ffn_gate h2) * (ffn_up h2)), h2 = rms(x, ffn_norm)      likewise; or a mixture of such experts
 *   logits = output rms(x, output_norm)                  gemma2: soft capped
 */
#include "decoder.h"

static int32_t attention(const struct decoder_params *p, const struct sharpi_reader *r,
                         const struct sharpi_model_desc *desc, struct sharpi_builder *b, uint32_t layer,
                         int32_t h)
{
    const struct sharpi_layer_desc *l = &desc->layers[layer];
    const struct sharpi_tensor *q_norm = sharpi_find_layer(r, layer, "attn_q_norm.weight");
    const struct sharpi_tensor *k_norm = sharpi_find_layer(r, layer, "attn_k_norm.weight");
    const uint32_t local = l->window && p->family->local_rope;
    const struct sharpi_tensor *divisors = local ? NULL : r->host->file_tensor(r->file, "rope_freqs.weight");
    const uint32_t norm_group = p->family->whole_qk_norm ? 0 : l->head_dim;
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
    int32_t q = sharpi_g_layer_linear(r, b, layer, "attn_q", h, SHARPI_SPLIT_OUTPUT);
    int32_t k = sharpi_g_layer_linear(r, b, layer, "attn_k", h, SHARPI_SPLIT_OUTPUT);
    int32_t v = sharpi_g_layer_linear(r, b, layer, "attn_v", h, SHARPI_SPLIT_OUTPUT);
    int32_t o;
    if (q_norm)
        q = sharpi_g_rms_norm(b, q, q_norm, p->eps, norm_group);
    if (k_norm)
        k = sharpi_g_rms_norm(b, k, k_norm, p->eps, norm_group);
    rope.n_heads = desc->n_heads;
    q = sharpi_g_rope(b, q, &rope, divisors);
    rope.n_heads = l->n_kv_heads;
    k = sharpi_g_rope(b, k, &rope, divisors);
    o = sharpi_g_attention(b, q, k, v, &a, sharpi_find_layer(r, layer, "attn_sinks.weight"));
    o = sharpi_g_tap(b, o, "attn_heads");
    return sharpi_g_layer_linear(r, b, layer, "attn_output", o, SHARPI_SPLIT_INPUT);
}

/* The experts' tensors; the router's probabilities are a softmax over all experts. */
static int32_t mixture(const struct decoder_params *p, const struct sharpi_reader *r,
                       const struct sharpi_model_desc *desc, struct sharpi_builder *b, uint32_t layer,
                       int32_t h)
{
    const struct sharpi_tensor *w[SHARPI_OP_MAX_WEIGHTS] = {NULL};
    struct sharpi_moe_attr a = {.size = sizeof a,
                                .n_experts = desc->n_experts,
                                .n_used = desc->n_experts_used,
                                .activation = p->family->activation,
                                .renormalize = p->renormalize,
                                .weight_scale = p->expert_scale};
    if (sharpi_find_layer(r, layer, "ffn_gate.0.weight") && !b->status)
        b->status = sharpi_fail(
            b->err, SHARPI_ENOTSUP,
            "%s: blk.%u holds one tensor per expert, as files before 2024 did; convert the model again",
            r->host->file_path(r->file), layer);
    w[SHARPI_MOE_ROUTER] = sharpi_need_layer(r, b, layer, "ffn_gate_inp.weight");
    w[SHARPI_MOE_GATE] = sharpi_need_layer(r, b, layer, "ffn_gate_exps.weight");
    w[SHARPI_MOE_UP] = sharpi_need_layer(r, b, layer, "ffn_up_exps.weight");
    w[SHARPI_MOE_DOWN] = sharpi_need_layer(r, b, layer, "ffn_down_exps.weight");
    if (!b->status)
        a.n_ff = (uint32_t)w[SHARPI_MOE_GATE]->ne[1]; /* the key for the width differs between families */
    return sharpi_g_moe_ffn(b, h, h, w, &a);
}

static int32_t feed_forward(const struct decoder_params *p, const struct sharpi_reader *r,
                            struct sharpi_builder *b, uint32_t layer, int32_t h)
{
    int32_t gate = sharpi_g_layer_linear(r, b, layer, "ffn_gate", h, SHARPI_SPLIT_OUTPUT);
    int32_t up = sharpi_g_layer_linear(r, b, layer, "ffn_up", h, SHARPI_SPLIT_OUTPUT);
    return sharpi_g_layer_linear(r, b, layer, "ffn_down", sharpi_g_glu(b, gate, up, p->family->activation),
                                 SHARPI_SPLIT_INPUT);
}

static int32_t build_layer(const struct decoder_params *p, const struct sharpi_reader *r,
                           const struct sharpi_model_desc *desc, struct sharpi_builder *b, uint32_t layer,
                           int32_t x)
{
    const uint32_t sandwich = p->family->sandwich_norms;
    int32_t h, o, f;
    b->layer = (int32_t)layer;
    h = sharpi_g_layer_norm(r, b, layer, "attn_norm.weight", x, p->eps, 0);
    o = sharpi_g_tap(b, attention(p, r, desc, b, layer, h), "attn_out");
    if (sandwich)
        o = sharpi_g_layer_norm(r, b, layer, "post_attention_norm.weight", o, p->eps, 0);
    x = sharpi_g_add(b, x, o);
    h = sharpi_g_layer_norm(r, b, layer, "ffn_norm.weight", x, p->eps, 0);
    f = p->family->experts ? mixture(p, r, desc, b, layer, h) : feed_forward(p, r, b, layer, h);
    f = sharpi_g_tap(b, f, "ffn_out");
    if (sandwich)
        f = sharpi_g_layer_norm(r, b, layer, "post_ffw_norm.weight", f, p->eps, 0);
    return sharpi_g_tap(b, sharpi_g_add(b, x, f), "out");
}

int32_t decoder_build(const struct decoder_params *p, const struct sharpi_model_file *file,
                      const struct sharpi_model_desc *desc, struct sharpi_builder *b)
{
    const struct sharpi_reader r = {p->host, file, b->err};
    const struct sharpi_tensor *table = sharpi_need_tensor(&r, b, "token_embd.weight");
    const struct sharpi_tensor *output = p->host->file_tensor(file, "output.weight");
    uint32_t layer;
    int32_t x;
    b->layer = -1;
    x = sharpi_g_tap(b, sharpi_g_embed(b, table, p->embedding_scale), "embd");
    for (layer = 0; layer < desc->n_layers && !b->status; layer++)
        x = build_layer(p, &r, desc, b, layer, x);
    b->layer = (int32_t)desc->n_layers;
    x = sharpi_g_rms_norm(b, sharpi_g_select_rows(b, x), sharpi_need_tensor(&r, b, "output_norm.weight"),
                          p->eps, 0);
    x = sharpi_g_tap(b, x, "result_norm");
    sharpi_g_logits(b, x, output ? output : table, p->final_softcap);
    return b->status;
}
