/* Gemma 4's forward pass, as the family's specification writes it. D width, H query heads, d head_dim, P per-layer width.
 *
 *   x  = embd[token] * sqrt(D)
 *   h  = rms(x, attn_norm);  q = rope(rms per head(Wq h));  k = rope(rms per head(Wk h));  v = rms per head(Wv h or Wk h)
 *   x += rms(Wo attention(q, k, v), post_attention_norm)                scale 1: the norms take its place
 *   x += rms(ffn(rms(x, ffn_norm)), post_ffw_norm)                      dense, or dense + experts
 *   x += rms(proj(gelu(inp_gate x) * u_layer), post_norm)               per-layer embedding
 *   x *= layer_output_scale
 *   logits = softcap(embd rms(x, output_norm))
 */
#include "gemma4.h"

struct build {
    const struct sharpi_reader *r;
    const struct sharpi_model_desc *desc;
    const struct gemma4_params *p;
    struct sharpi_builder *b;
    int32_t context; /* per_layer_model_proj x, [T, n_layers * P]; -1 without per-layer embedding */
};

/* K and V of a layer with its own cache. V is normed without weight and not turned. */
static void keys_and_values(const struct build *g, uint32_t layer, int32_t h,
                            const struct sharpi_rope_attr *rope, const struct sharpi_tensor *divisors,
                            int32_t *k, int32_t *v)
{
    const struct sharpi_layer_desc *l = &g->desc->layers[layer];
    int32_t raw = sharpi_g_layer_linear(g->r, g->b, layer, "attn_k", h, SHARPI_SPLIT_OUTPUT);
    *v = l->k_eq_v ? raw : sharpi_g_layer_linear(g->r, g->b, layer, "attn_v", h, SHARPI_SPLIT_OUTPUT);
    *k = sharpi_g_layer_norm(g->r, g->b, layer, "attn_k_norm.weight", raw, g->p->eps, l->head_dim);
    *k = sharpi_g_rope(g->b, *k, rope, divisors);
    *v = sharpi_g_rms_norm(g->b, *v, NULL, g->p->eps, l->head_dim);
}

static int32_t attention(const struct build *g, uint32_t layer, int32_t h)
{
    const struct sharpi_layer_desc *l = &g->desc->layers[layer];
    const struct sharpi_tensor *divisors =
        l->window ? NULL : g->r->host->file_tensor(g->r->file, "rope_freqs.weight");
    struct sharpi_rope_attr rope = {.size = sizeof rope,
                                    .mode = SHARPI_ROPE_NEOX,
                                    .n_heads = g->desc->n_heads,
                                    .head_dim = l->head_dim,
                                    .n_rot = l->head_dim,
                                    .theta = l->window ? g->p->theta_local : g->p->theta,
                                    .freq_scale = 1.0f,
                                    .yarn_attn = 1.0f};
    struct sharpi_attention_attr a = {.size = sizeof a,
                                      .layer = layer,
                                      .kv_layer = l->kv_source < 0 ? layer : (uint32_t)l->kv_source,
                                      .n_heads = g->desc->n_heads,
                                      .n_kv_heads = l->n_kv_heads,
                                      .head_dim = l->head_dim,
                                      .scale = 1.0f,
                                      .window = l->window,
                                      .causal = 1};
    int32_t k = -1, v = -1, o;
    int32_t q = sharpi_g_layer_linear(g->r, g->b, layer, "attn_q", h, SHARPI_SPLIT_OUTPUT);
    q = sharpi_g_layer_norm(g->r, g->b, layer, "attn_q_norm.weight", q, g->p->eps, l->head_dim);
    q = sharpi_g_rope(g->b, q, &rope, divisors);
    rope.n_heads = l->n_kv_heads;
    if (l->kv_source < 0)
        keys_and_values(g, layer, h, &rope, divisors, &k, &v);
    o = sharpi_g_tap(g->b, sharpi_g_attention(g->b, q, k, v, &a, NULL), "attn_heads");
    return sharpi_g_layer_linear(g->r, g->b, layer, "attn_output", o, SHARPI_SPLIT_INPUT);
}

static int32_t dense_ffn(const struct build *g, uint32_t layer, int32_t h)
{
    int32_t gate = sharpi_g_layer_linear(g->r, g->b, layer, "ffn_gate", h, SHARPI_SPLIT_OUTPUT);
    int32_t up = sharpi_g_layer_linear(g->r, g->b, layer, "ffn_up", h, SHARPI_SPLIT_OUTPUT);
    return sharpi_g_layer_linear(g->r, g->b, layer, "ffn_down",
                                 sharpi_g_glu(g->b, gate, up, SHARPI_ACT_GELU_TANH), SHARPI_SPLIT_INPUT);
}

/* The experts' branch: its own norms, the router reads the un-normed stream scaled by its own vector. */
static int32_t experts(const struct build *g, uint32_t layer, int32_t x)
{
    const struct sharpi_tensor *w[SHARPI_OP_MAX_WEIGHTS] = {NULL};
    struct sharpi_moe_attr a = {.size = sizeof a,
                                .n_experts = g->desc->n_experts,
                                .n_used = g->desc->n_experts_used,
                                .n_ff = g->desc->n_ff_expert,
                                .activation = SHARPI_ACT_GELU_TANH,
                                .renormalize = 1,
                                .weight_scale = 1.0f};
    int32_t h, router;
    router = sharpi_g_rms_norm(g->b, x, NULL, g->p->eps, 0);
    router = sharpi_g_mul_weight(g->b, router, sharpi_need_layer(g->r, g->b, layer, "ffn_gate_inp.scale"));
    router = sharpi_g_scale(g->b, router, 1.0f / sqrtf((float)g->desc->width), NULL);
    h = sharpi_g_layer_norm(g->r, g->b, layer, "pre_ffw_norm_2.weight", x, g->p->eps, 0);
    w[SHARPI_MOE_ROUTER] = sharpi_need_layer(g->r, g->b, layer, "ffn_gate_inp.weight");
    w[SHARPI_MOE_GATE_UP] = sharpi_find_layer(g->r, layer, "ffn_gate_up_exps.weight");
    if (!w[SHARPI_MOE_GATE_UP]) {
        w[SHARPI_MOE_GATE] = sharpi_need_layer(g->r, g->b, layer, "ffn_gate_exps.weight");
        w[SHARPI_MOE_UP] = sharpi_need_layer(g->r, g->b, layer, "ffn_up_exps.weight");
    }
    w[SHARPI_MOE_DOWN] = sharpi_need_layer(g->r, g->b, layer, "ffn_down_exps.weight");
    w[SHARPI_MOE_EXPERT_SCALE] = sharpi_find_layer(g->r, layer, "ffn_down_exps.scale");
    h = sharpi_g_moe_ffn(g->b, h, router, w, &a);
    return sharpi_g_layer_norm(g->r, g->b, layer, "post_ffw_norm_2.weight", h, g->p->eps, 0);
}

static int32_t feed_forward(const struct build *g, uint32_t layer, int32_t x)
{
    int32_t m =
        dense_ffn(g, layer, sharpi_g_layer_norm(g->r, g->b, layer, "ffn_norm.weight", x, g->p->eps, 0));
    if (g->desc->n_experts) {
        m = sharpi_g_layer_norm(g->r, g->b, layer, "post_ffw_norm_1.weight", m, g->p->eps, 0);
        m = sharpi_g_add(g->b, m, experts(g, layer, x));
    }
    m = sharpi_g_tap(g->b, m, "ffn_out");
    return sharpi_g_add(g->b, x,
                        sharpi_g_layer_norm(g->r, g->b, layer, "post_ffw_norm.weight", m, g->p->eps, 0));
}

/* u_layer = (rms(context part, per_layer_proj_norm) + token part) / sqrt(2); the token part's table stays in the file. */
static int32_t per_layer_input(const struct build *g, uint32_t layer)
{
    const uint32_t P = g->desc->ple_width;
    const struct sharpi_tensor *table = sharpi_need_tensor(g->r, g->b, "per_layer_token_embd.weight");
    int32_t token = sharpi_g_row_gather(g->b, table, layer * P, P, sqrtf((float)P));
    int32_t context = sharpi_g_slice(g->b, g->context, layer * P, P);
    context = sharpi_g_rms_norm(g->b, context, sharpi_need_tensor(g->r, g->b, "per_layer_proj_norm.weight"),
                                g->p->eps, 0);
    return sharpi_g_scale(g->b, sharpi_g_add(g->b, context, token), 1.0f / sqrtf(2.0f), NULL);
}

static int32_t add_per_layer_input(const struct build *g, uint32_t layer, int32_t x)
{
    int32_t gate = sharpi_g_layer_linear(g->r, g->b, layer, "inp_gate", x, SHARPI_SPLIT_NONE);
    int32_t m = sharpi_g_glu(g->b, gate, per_layer_input(g, layer), SHARPI_ACT_GELU_TANH);
    m = sharpi_g_layer_linear(g->r, g->b, layer, "proj", m, SHARPI_SPLIT_NONE);
    return sharpi_g_add(g->b, x, sharpi_g_layer_norm(g->r, g->b, layer, "post_norm.weight", m, g->p->eps, 0));
}

static int32_t build_layer(const struct build *g, uint32_t layer, int32_t x)
{
    const struct sharpi_tensor *scale = sharpi_find_layer(g->r, layer, "layer_output_scale.weight");
    int32_t o;
    g->b->layer = (int32_t)layer;
    o = attention(g, layer, sharpi_g_layer_norm(g->r, g->b, layer, "attn_norm.weight", x, g->p->eps, 0));
    o = sharpi_g_tap(g->b, o, "attn_out");
    x = sharpi_g_add(g->b, x,
                     sharpi_g_layer_norm(g->r, g->b, layer, "post_attention_norm.weight", o, g->p->eps, 0));
    x = feed_forward(g, layer, x);
    if (g->desc->ple_width)
        x = add_per_layer_input(g, layer, x);
    if (scale)
        x = sharpi_g_scale(g->b, x, 1.0f, scale);
    return sharpi_g_tap(g->b, x, "out");
}

int32_t gemma4_build(const struct sharpi_reader *r, const struct sharpi_model_desc *desc,
                     const struct gemma4_params *params, struct sharpi_builder *b)
{
    const struct sharpi_tensor *table = sharpi_need_tensor(r, b, "token_embd.weight");
    const struct sharpi_tensor *output = r->host->file_tensor(r->file, "output.weight");
    struct build g = {r, desc, params, b, -1};
    uint32_t layer;
    int32_t x;
    b->layer = -1;
    x = sharpi_g_tap(b, sharpi_g_embed(b, table, sqrtf((float)desc->width)), "embd");
    if (desc->ple_width) {
        g.context = sharpi_g_linear(b, x, sharpi_need_tensor(r, b, "per_layer_model_proj.weight"), NULL,
                                    SHARPI_SPLIT_NONE);
        g.context = sharpi_g_scale(b, g.context, 1.0f / sqrtf((float)desc->width), NULL);
    }
    for (layer = 0; layer < desc->n_layers && !b->status; layer++)
        x = build_layer(&g, layer, x);
    b->layer = (int32_t)desc->n_layers;
    x = sharpi_g_rms_norm(b, sharpi_g_select_rows(b, x), sharpi_need_tensor(r, b, "output_norm.weight"),
                          params->eps, 0);
    x = sharpi_g_tap(b, x, "result_norm");
    sharpi_g_logits(b, x, output ? output : table, params->softcap);
    return b->status;
}
