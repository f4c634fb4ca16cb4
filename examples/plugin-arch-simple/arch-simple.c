/* An example plugin: an architecture. It runs Llama-like files (general.architecture = "llama") without experts or rope scaling, in
 * the fewest lines that are still correct: read the metadata into a description, then say the forward pass once.
 *
 * Everything comes from the installed headers; nothing is linked. For a family of your own change the name, the keys and tensors
 * that you read, and what build_layer says. What a file asks for and this code does not do, it must refuse: see probe.
 */
#include <math.h>

#include <sharpi/plugin/arch-read.h>

/* What the forward pass needs beyond the description. */
struct params {
    float eps, theta;
    uint32_t n_rot;
};

static int32_t probe(void *ctx, const struct sharpi_model_file *file, struct sharpi_error *err)
{
    const struct sharpi_host *host = ctx;
    uint64_t n = 0;
    const char *scaling;
    if (!host->file_u64(file, ".expert_count", &n, NULL) && n) {
        sharpi_fail(err, SHARPI_ENOTSUP, "%s: arch-simple has no experts", host->file_path(file));
        return 0;
    }
    if (!host->file_string(file, ".rope.scaling.type", &scaling, NULL) ||
        host->file_tensor(file, "rope_freqs.weight")) {
        sharpi_fail(err, SHARPI_ENOTSUP, "%s: arch-simple has no rope scaling", host->file_path(file));
        return 0;
    }
    return 1; /* 2 would be preferred to another plugin's 1 */
}

static int32_t describe(void *ctx, const struct sharpi_model_file *file, struct sharpi_model_desc *desc,
                        struct sharpi_error *err)
{
    const struct sharpi_reader r = {ctx, file, err};
    struct sharpi_layer_desc *layers;
    int32_t status;
    if ((status = sharpi_read_u32(&r, ".block_count", 1, 4096, 1, &desc->n_layers)) ||
        (status = sharpi_read_u32(&r, ".embedding_length", 1, 1u << 20, 1, &desc->width)) ||
        (status = sharpi_read_u32(&r, ".context_length", 1, 1u << 30, 1, &desc->context_length)) ||
        (status = sharpi_read_u32(&r, ".attention.head_count", 1, 4096, 1, &desc->n_heads)) ||
        (status = sharpi_read_vocab(&r, desc)))
        return status;
    layers = sharpi_read_layers(&r, desc);
    if (!layers)
        return SHARPI_ENOMEM;
    for (uint32_t i = 0; i < desc->n_layers; i++) {
        layers[i].head_dim = desc->width / desc->n_heads;
        layers[i].n_kv_heads = desc->n_heads;
        if ((status = sharpi_read_u32(&r, ".attention.key_length", 2, 4096, 0, &layers[i].head_dim)) ||
            (status = sharpi_read_layer_u32(&r, ".attention.head_count_kv", i, 1, desc->n_heads, 0,
                                            &layers[i].n_kv_heads)) ||
            (status = sharpi_read_layer_u32(&r, ".feed_forward_length", i, 1, 1u << 24, 1, &layers[i].n_ff)))
            return status;
    }
    desc->mask_known = 1; /* every layer is causal and sees all: prompts may be read in chunks */
    return SHARPI_OK;
}

/*   h  = rms(x, attn_norm);  q, k, v = W h;  rope on q and k;  x += attn_output attention(q, k, v)
 *   h  = rms(x, ffn_norm);   x += ffn_down(silu(ffn_gate h) * (ffn_up h)) */
static int32_t build_layer(const struct params *p, const struct sharpi_reader *r,
                           const struct sharpi_model_desc *desc, struct sharpi_builder *b, uint32_t i,
                           int32_t x)
{
    const struct sharpi_layer_desc *layer = &desc->layers[i];
    const struct sharpi_attention_attr attention = {.size = sizeof attention,
                                                    .layer = i,
                                                    .kv_layer = i,
                                                    .n_heads = desc->n_heads,
                                                    .n_kv_heads = layer->n_kv_heads,
                                                    .head_dim = layer->head_dim,
                                                    .scale = 1.0f / sqrtf((float)layer->head_dim),
                                                    .causal = 1};
    struct sharpi_rope_attr rope = {.size = sizeof rope,
                                    .mode = SHARPI_ROPE_NORM,
                                    .head_dim = layer->head_dim,
                                    .n_rot = p->n_rot ? p->n_rot : layer->head_dim,
                                    .theta = p->theta,
                                    .freq_scale = 1.0f,
                                    .yarn_attn = 1.0f};
    int32_t h, q, k, v, gate, up;

    b->layer = (int32_t)i;
    h = sharpi_g_layer_norm(r, b, i, "attn_norm.weight", x, p->eps, 0);
    q = sharpi_g_layer_linear(r, b, i, "attn_q", h, SHARPI_SPLIT_OUTPUT);
    k = sharpi_g_layer_linear(r, b, i, "attn_k", h, SHARPI_SPLIT_OUTPUT);
    v = sharpi_g_layer_linear(r, b, i, "attn_v", h, SHARPI_SPLIT_OUTPUT);
    rope.n_heads = desc->n_heads;
    q = sharpi_g_rope(b, q, &rope, NULL);
    rope.n_heads = layer->n_kv_heads;
    k = sharpi_g_rope(b, k, &rope, NULL);
    h = sharpi_g_attention(b, q, k, v, &attention, NULL);
    x = sharpi_g_add(b, x, sharpi_g_layer_linear(r, b, i, "attn_output", h, SHARPI_SPLIT_INPUT));

    h = sharpi_g_layer_norm(r, b, i, "ffn_norm.weight", x, p->eps, 0);
    gate = sharpi_g_layer_linear(r, b, i, "ffn_gate", h, SHARPI_SPLIT_OUTPUT);
    up = sharpi_g_layer_linear(r, b, i, "ffn_up", h, SHARPI_SPLIT_OUTPUT);
    h = sharpi_g_layer_linear(r, b, i, "ffn_down", sharpi_g_glu(b, gate, up, SHARPI_ACT_SILU),
                              SHARPI_SPLIT_INPUT);
    return sharpi_g_add(b, x, h);
}

/* The builder keeps the first error, so the ops need no checks in between. */
static int32_t build(void *ctx, const struct sharpi_model_file *file, const struct sharpi_model_desc *desc,
                     struct sharpi_builder *b, struct sharpi_error *err)
{
    const struct sharpi_host *host = ctx;
    const struct sharpi_reader r = {host, file, err};
    const struct sharpi_tensor *table = sharpi_need_tensor(&r, b, "token_embd.weight");
    const struct sharpi_tensor *output = host->file_tensor(file, "output.weight"); /* absent: tied */
    struct params p = {.theta = 10000.0f};
    int32_t x, status;
    if ((status = sharpi_read_f32(&r, ".attention.layer_norm_rms_epsilon", 1e-12, 0.1, 1, &p.eps)) ||
        (status = sharpi_read_f32(&r, ".rope.freq_base", 1.0, 1e12, 0, &p.theta)) ||
        (status = sharpi_read_u32(&r, ".rope.dimension_count", 2, 4096, 0, &p.n_rot)))
        return status;
    b->layer = -1; /* input */
    x = sharpi_g_embed(b, table, 1.0f);
    for (uint32_t i = 0; i < desc->n_layers && !b->status; i++)
        x = build_layer(&p, &r, desc, b, i, x);
    b->layer = (int32_t)desc->n_layers; /* output: only for the rows that somebody wants logits of */
    x = sharpi_g_rms_norm(b, sharpi_g_select_rows(b, x), sharpi_need_tensor(&r, b, "output_norm.weight"),
                          p.eps, 0);
    sharpi_g_logits(b, x, output ? output : table, 0.0f);
    return b->status;
}

static const struct sharpi_arch arch = {
    .size = (uint32_t)sizeof(struct sharpi_arch),
    .name = "llama",
    .summary = "example: plain Llama",
    .probe = probe,
    .describe = describe,
    .build = build,
};

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config;
    (void)ctx;
    /* The table's functions get the host as their context: that is all they need. */
    return host->register_arch(host, &arch, (void *)(uintptr_t)host, err);
}

static const struct sharpi_plugin plugin = {
    SHARPI_PLUGIN_HEAD,
    .name = "arch-simple",
    .version = "1.0",
    .license = "MIT",
    .summary = "example: the Llama architecture in 150 lines",
    .init = init,
};
SHARPI_PLUGIN_ENTRY(plugin)
