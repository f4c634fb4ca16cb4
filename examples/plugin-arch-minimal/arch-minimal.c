/* Example plugin: a new architecture, "minimal": the plain decoder that most families are variations of.
 *
 * RMS norm, grouped-query attention with NEOX rope, a gated SiLU feed-forward, tied embeddings. It is what "qwen2" computes, under
 * a name of its own, so the same weights give the same logits; `make check` shows that. Copy this file to begin a family.
 *
 * A plugin is one shared object built from the installed headers alone. It never links libsharpi: everything comes in the host
 * table. The core calls, in this order: init (once), describe and build (once per model), fini is not needed here.
 *
 * Shapes below: T tokens of the step (symbolic: any number), D width, H query heads, G KV heads, d elements of a head, F width of the
 * feed-forward part, V vocabulary. Values are [T, columns] of f32. A weight [in, out] has `in` contiguous, as GGUF stores it.
 */
#include <sharpi/plugin/arch-read.h>

/* Keys that would change the forward pass. What a file asks for and this code does not do, it must refuse: a model that runs
 * and answers nonsense is worse than an error. */
static int32_t refuse_unknown(const struct sharpi_reader *r)
{
    static const char *const keys[] = {".expert_count", ".attention.sliding_window", ".rope.scaling.factor",
                                       ".rope.dimension_count_swa"};
    double value;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        value = 0.0;
        /* 0 is how converters write "none". A key that is absent is SHARPI_ENOENT and leaves err untouched. */
        if (r->host->file_f64(r->file, keys[i], &value, NULL) != SHARPI_ENOENT && value != 0.0)
            return sharpi_fail(r->err, SHARPI_ENOTSUP,
                               SHARPI_READER_WHERE " is set; arch-minimal has no such thing",
                               SHARPI_READER_ARGS(r, keys[i]));
    }
    return SHARPI_OK;
}

/* From metadata to the description that memory is planned with. Only the file's header may be there: no tensor data.
 * Keys that begin with '.' get the architecture's name in front: ".block_count" is "minimal.block_count". */
static int32_t describe(void *ctx, const struct sharpi_model_file *file, struct sharpi_model_desc *desc,
                        struct sharpi_error *err)
{
    const struct sharpi_reader r = {ctx, file, err}; /* ctx is what init gave to register_arch: the host */
    struct sharpi_layer_desc *layers;
    uint32_t n_kv_heads, head_dim, n_ff = 0;
    int32_t status;

    /* Each read states the range that the rest of the code relies on: a file may say anything. */
    if ((status = refuse_unknown(&r)) ||
        (status = sharpi_read_u32(&r, ".block_count", 1, 4096, 1, &desc->n_layers)) ||
        (status = sharpi_read_u32(&r, ".embedding_length", 1, 1u << 20, 1, &desc->width)) ||
        (status = sharpi_read_u32(&r, ".context_length", 1, 1u << 30, 1, &desc->context_length)) ||
        (status = sharpi_read_u32(&r, ".feed_forward_length", 1, 1u << 24, 1, &n_ff)) ||
        (status = sharpi_read_u32(&r, ".attention.head_count", 1, 4096, 1, &desc->n_heads)) ||
        (status = sharpi_read_vocab(&r, desc))) /* V = rows of token_embd.weight */
        return status;
    n_kv_heads = desc->n_heads;             /* without the key: one KV head per query head */
    head_dim = desc->width / desc->n_heads; /* likewise */
    if ((status = sharpi_read_u32(&r, ".attention.head_count_kv", 1, desc->n_heads, 0, &n_kv_heads)) ||
        (status = sharpi_read_u32(&r, ".attention.key_length", 2, 4096, 0, &head_dim)))
        return status;

    layers = sharpi_read_layers(&r, desc); /* freed with the file */
    if (!layers)
        return SHARPI_ENOMEM;
    for (uint32_t i = 0; i < desc->n_layers; i++) {
        layers[i].n_kv_heads = n_kv_heads;
        layers[i].head_dim = head_dim;
        layers[i].n_ff = n_ff;
        /* .window stays 0: every position is seen. .kv_source stays -1: each layer has its own cache. */
    }
    desc->mask_known = 1; /* each layer's mask is what .window says, so a long prompt may be read in chunks */
    return SHARPI_OK;
}

/* What the builder functions below need. */
struct build {
    const struct sharpi_reader *r;
    const struct sharpi_model_desc *desc;
    struct sharpi_builder *b;
    float eps, theta;
};

/* [T, D] -> [T, D]. Nothing is computed here: each call adds an op to the graph and returns the handle of its value. */
static int32_t attention(const struct build *g, uint32_t i, int32_t h)
{
    const struct sharpi_layer_desc *layer = &g->desc->layers[i];
    struct sharpi_rope_attr rope = {.size =
                                        sizeof rope, /* attributes begin with their size, like every table */
                                    .mode = SHARPI_ROPE_NEOX,
                                    .head_dim = layer->head_dim,
                                    .n_rot = layer->head_dim,
                                    .theta = g->theta,
                                    .freq_scale = 1.0f,
                                    .yarn_attn = 1.0f};
    const struct sharpi_attention_attr a = {.size = sizeof a,
                                            .layer = i,
                                            .kv_layer = i, /* whose cache is read */
                                            .n_heads = g->desc->n_heads,
                                            .n_kv_heads = layer->n_kv_heads,
                                            .head_dim = layer->head_dim,
                                            .scale = 1.0f / sqrtf((float)layer->head_dim),
                                            .causal = 1};
    /* blk.<i>.attn_q.weight [D, H*d] and, where the file has it, the bias [H*d]. SPLIT tells how a matrix may be cut
     * over devices: by its outputs, or (the one that follows) by its inputs. */
    int32_t q = sharpi_g_layer_linear(g->r, g->b, i, "attn_q", h, SHARPI_SPLIT_OUTPUT); /* [T, H*d] */
    int32_t k = sharpi_g_layer_linear(g->r, g->b, i, "attn_k", h, SHARPI_SPLIT_OUTPUT); /* [T, G*d] */
    int32_t v = sharpi_g_layer_linear(g->r, g->b, i, "attn_v", h, SHARPI_SPLIT_OUTPUT); /* [T, G*d] */
    rope.n_heads = g->desc->n_heads;
    q = sharpi_g_rope(g->b, q, &rope, NULL); /* the attributes are copied: the next lines may change them */
    rope.n_heads = layer->n_kv_heads;
    k = sharpi_g_rope(g->b, k, &rope, NULL);
    h = sharpi_g_attention(g->b, q, k, v, &a, NULL); /* appends k and v to the cache, then [T, H*d] */
    h = sharpi_g_tap(g->b, h, "attn_heads"); /* `sharpi logits --tap blk.0.attn_heads`; free when unused */
    return sharpi_g_layer_linear(g->r, g->b, i, "attn_output", h, SHARPI_SPLIT_INPUT); /* [T, D] */
}

/* [T, D] -> [T, D]: down(silu(gate x) * (up x)), gate and up [D, F], down [F, D]. */
static int32_t feed_forward(const struct build *g, uint32_t i, int32_t h)
{
    int32_t gate = sharpi_g_layer_linear(g->r, g->b, i, "ffn_gate", h, SHARPI_SPLIT_OUTPUT); /* [T, F] */
    int32_t up = sharpi_g_layer_linear(g->r, g->b, i, "ffn_up", h, SHARPI_SPLIT_OUTPUT);     /* [T, F] */
    h = sharpi_g_glu(g->b, gate, up, SHARPI_ACT_SILU);
    return sharpi_g_layer_linear(g->r, g->b, i, "ffn_down", h, SHARPI_SPLIT_INPUT);
}

/* The whole forward pass, said once per model. The builder keeps the first error (a missing tensor, a wrong shape) and ignores
 * what comes after it, so there is one check, at the end. */
static int32_t build(void *ctx, const struct sharpi_model_file *file, const struct sharpi_model_desc *desc,
                     struct sharpi_builder *b, struct sharpi_error *err)
{
    const struct sharpi_host *host = ctx;
    const struct sharpi_reader r = {host, file, err};
    struct build g = {&r, desc, b, 0.0f, 10000.0f};
    const struct sharpi_tensor *table = sharpi_need_tensor(&r, b, "token_embd.weight"); /* [D, V] */
    const struct sharpi_tensor *output = host->file_tensor(file, "output.weight");      /* [D, V], or tied */
    int32_t x, h, status;

    if ((status = sharpi_read_f32(&r, ".attention.layer_norm_rms_epsilon", 1e-12, 0.1, 1, &g.eps)) ||
        (status = sharpi_read_f32(&r, ".rope.freq_base", 1.0, 1e12, 0, &g.theta)))
        return status;
    b->layer = -1;                      /* which layer the next ops belong to; -1 is the input */
    x = sharpi_g_embed(b, table, 1.0f); /* [T, D] */
    for (uint32_t i = 0; i < desc->n_layers && !b->status; i++) {
        b->layer = (int32_t)i;
        h = sharpi_g_layer_norm(&r, b, i, "attn_norm.weight", x, g.eps, 0);
        x = sharpi_g_add(b, x, attention(&g, i, h));
        h = sharpi_g_layer_norm(&r, b, i, "ffn_norm.weight", x, g.eps, 0);
        x = sharpi_g_add(b, x, feed_forward(&g, i, h));
    }
    b->layer = (int32_t)desc->n_layers; /* the output */
    x = sharpi_g_select_rows(b, x);     /* [R, D]: only the tokens whose logits somebody wants */
    x = sharpi_g_rms_norm(b, x, sharpi_need_tensor(&r, b, "output_norm.weight"), g.eps, 0);
    sharpi_g_logits(b, x, output ? output : table, 0.0f); /* [R, V], no soft cap */
    return b->status;
}

static const struct sharpi_arch arch = {
    .size = (uint32_t)sizeof(struct sharpi_arch),
    .name = "minimal", /* general.architecture of the files that it runs */
    .summary = "example: a plain decoder",
    .describe = describe,
    .build = build,
};

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)
        config; /* the plugin's section of sharpi.ini; host->config_get reads it, .config_keys lists its keys */
    (void)ctx; /* nothing was allocated, so there is no fini */
    return host->register_arch(host, &arch, (void *)(uintptr_t)host, err);
}

static const struct sharpi_plugin plugin = {
    SHARPI_PLUGIN_HEAD, .name = "arch-minimal", /* must be the file's name without ".so" */
    .version = "1.0",   .license = "MIT",       .summary = "example: the architecture 'minimal'",
    .init = init,
};
SHARPI_PLUGIN_ENTRY(plugin)
