/* Random models for tests of the CPU backend: weights in a real mapping, graphs made with the builder. */
#include "cpu-world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <core/graph.h>

#define WIDTH      256u
#define HEADS      4u
#define KV_HEADS   2u
#define HEAD_DIM   64u
#define FF         512u
#define EXPERTS    7u
#define USED       3u
#define PLE        64u
#define FILE_BYTES (UINT64_C(64) << 20)

float world_random(struct world *w)
{
    w->random = w->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (float)(int32_t)(uint32_t)(w->random >> 32) / 2147483648.0f;
}

/* ---- Tensors */

static uint16_t to_f16(float f) /* normal numbers only */
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u >> 16 & 0x8000) | ((((u >> 23) & 255) - 112) << 10) | (u >> 13 & 0x3ff));
}

static void put_f16(uint8_t *at, float f)
{
    uint16_t h = to_f16(f);
    memcpy(at, &h, 2);
}

/* Random blocks of the quantized types, with scales that give elements of about `scale`. */
static void fill_block(struct world *w, int32_t type, uint8_t *block, float scale)
{
    const struct sharpi_type_info *info = sharpi_type_info(type);
    for (uint32_t i = 0; i < info->block_bytes; i++)
        block[i] = (uint8_t)(w->random >> 40), world_random(w);
    switch (type) {
    case SHARPI_TYPE_Q8_0:
        put_f16(block, scale / 127);
        break;
    case SHARPI_TYPE_Q4_0:
        put_f16(block, scale / 8);
        break;
    case SHARPI_TYPE_Q4_K:
        put_f16(block, scale / 8 / 40);
        put_f16(block + 2, scale / 40);
        break;
    default: /* q6_k */
        put_f16(block + 208, scale / 32 / 64);
    }
}

static void fill(struct world *w, struct sharpi_tensor *t, float scale, float offset)
{
    const struct sharpi_type_info *info = sharpi_type_info(t->type);
    uint8_t *data = w->file + w->file_used;
    uint64_t n = t->ne[0] * t->ne[1] * t->ne[2];
    for (uint64_t i = 0; i < n; i += info->block_elems, data += info->block_bytes) {
        float x = world_random(w) * scale + offset;
        if (t->type == SHARPI_TYPE_F32)
            memcpy(data, &x, 4);
        else if (t->type == SHARPI_TYPE_F16)
            put_f16(data, x < 0 ? x - 0.001f : x + 0.001f);
        else if (t->type == SHARPI_TYPE_BF16)
            memcpy(data, (uint8_t *)&x + 2, 2);
        else
            fill_block(w, t->type, data, scale);
    }
}

static const struct sharpi_tensor *tensor(struct world *w, int32_t type, uint64_t ne0, uint64_t ne1,
                                          uint64_t ne2, float scale, float offset)
{
    struct sharpi_tensor *t = calloc(1, sizeof *t + 16);
    char *name = (char *)(t + 1);
    snprintf(name, 16, "tensor%u", w->n_tensors);
    t->size = (uint32_t)sizeof *t;
    t->type = type;
    t->n_dims = ne2 > 1 ? 3 : ne1 > 1 ? 2 : 1;
    t->ne[0] = ne0;
    t->ne[1] = ne1;
    t->ne[2] = ne2;
    t->ne[3] = 1;
    t->name = name;
    t->n_bytes = sharpi_row_bytes(type, ne0) * ne1 * ne2;
    w->tensors[w->n_tensors++] = t;
    if (w->file_used + t->n_bytes > w->file_bytes || w->n_tensors == 256)
        abort();
    fill(w, t, scale, offset);
    t->data = w->file + w->file_used;
    w->file_used += (t->n_bytes + 63) / 64 * 64;
    return t;
}

static const struct sharpi_tensor *matrix(struct world *w, int32_t type, uint64_t n_in, uint64_t n_out)
{
    return tensor(w, type, n_in, n_out, 1, 0.1f, 0);
}

static const struct sharpi_tensor *vector(struct world *w, uint64_t n, float offset)
{
    return tensor(w, SHARPI_TYPE_F32, n, 1, 1, 0.5f, offset);
}

/* ---- Parts of graphs */

static struct sharpi_rope_attr rope_attr(uint32_t heads, int32_t mode, uint32_t n_rot)
{
    struct sharpi_rope_attr a = {.size = sizeof a,
                                 .mode = mode,
                                 .n_heads = heads,
                                 .head_dim = HEAD_DIM,
                                 .n_rot = n_rot,
                                 .theta = 10000,
                                 .freq_scale = 1};
    return a;
}

static struct sharpi_attention_attr attention_attr(const struct world *w, uint32_t layer)
{
    struct sharpi_attention_attr a = {.size = sizeof a,
                                      .layer = layer,
                                      .kv_layer = layer,
                                      .n_heads = HEADS,
                                      .n_kv_heads = KV_HEADS,
                                      .head_dim = HEAD_DIM,
                                      .scale = 0.125f,
                                      .window = w->layers[layer].window,
                                      .causal = 1};
    if (w->layers[layer].kv_source >= 0)
        a.kv_layer = (uint32_t)w->layers[layer].kv_source;
    return a;
}

/* Attention as in most decoders: projections, norms per head, rotation. */
static int32_t plain_attention(struct sharpi_builder *b, struct world *w, int32_t type, int32_t x,
                               uint32_t layer)
{
    struct sharpi_rope_attr rope_q = rope_attr(HEADS, SHARPI_ROPE_NEOX, HEAD_DIM),
                            rope_k = rope_attr(KV_HEADS, SHARPI_ROPE_NEOX, HEAD_DIM);
    struct sharpi_attention_attr attr = attention_attr(w, layer);
    int32_t q, k, v;
    q = sharpi_g_linear(b, x, matrix(w, type, WIDTH, HEADS * HEAD_DIM), vector(w, HEADS * HEAD_DIM, 0), 0);
    q = sharpi_g_rms_norm(b, q, vector(w, HEAD_DIM, 1), 1e-6f, HEAD_DIM);
    q = sharpi_g_rope(b, q, &rope_q, NULL);
    k = sharpi_g_linear(b, x, matrix(w, type, WIDTH, KV_HEADS * HEAD_DIM), NULL, 0);
    k = sharpi_g_rms_norm(b, k, vector(w, HEAD_DIM, 1), 1e-6f, HEAD_DIM);
    k = sharpi_g_rope(b, k, &rope_k, NULL);
    v = sharpi_g_linear(b, x, matrix(w, type, WIDTH, KV_HEADS * HEAD_DIM), NULL, 0);
    q = sharpi_g_attention(b, q, k, v, &attr, NULL);
    sharpi_g_tap(b, q, "attn");
    return sharpi_g_linear(b, q, matrix(w, type, HEADS * HEAD_DIM, WIDTH), NULL, 0);
}

static int32_t plain_ffn(struct sharpi_builder *b, struct world *w, int32_t type, int32_t x,
                         int32_t activation)
{
    int32_t gate = sharpi_g_linear(b, x, matrix(w, type, WIDTH, FF), NULL, 0);
    int32_t up = sharpi_g_linear(b, x, matrix(w, type, WIDTH, FF), NULL, 0);
    return sharpi_g_linear(b, sharpi_g_glu(b, gate, up, activation), matrix(w, type, FF, WIDTH), NULL, 0);
}

static int32_t experts(struct sharpi_builder *b, struct world *w, int32_t type, int32_t x,
                       int32_t router_input, uint32_t variant)
{
    const struct sharpi_tensor *t[SHARPI_OP_MAX_WEIGHTS] = {0};
    struct sharpi_moe_attr a = {.size = sizeof a,
                                .n_experts = EXPERTS,
                                .n_used = USED,
                                .n_ff = FF,
                                .activation = SHARPI_ACT_SILU,
                                .softmax_after = variant & 1,
                                .renormalize = variant >> 1 & 1,
                                .weight_scale = variant & 1 ? 1.0f : 1.5f};
    t[SHARPI_MOE_ROUTER] = matrix(w, SHARPI_TYPE_F32, WIDTH, EXPERTS);
    if (variant & 1) {
        t[SHARPI_MOE_ROUTER_BIAS] = vector(w, EXPERTS, 0);
        t[SHARPI_MOE_EXPERT_SCALE] = vector(w, EXPERTS, 1);
        t[SHARPI_MOE_GATE_UP] = tensor(w, type, WIDTH, 2 * FF, EXPERTS, 0.1f, 0);
    } else {
        t[SHARPI_MOE_GATE] = tensor(w, type, WIDTH, FF, EXPERTS, 0.1f, 0);
        t[SHARPI_MOE_UP] = tensor(w, type, WIDTH, FF, EXPERTS, 0.1f, 0);
    }
    t[SHARPI_MOE_DOWN] = tensor(w, type, FF, WIDTH, EXPERTS, 0.1f, 0);
    return sharpi_g_moe_ffn(b, x, router_input, t, &a);
}

/* x + attention(norm x), then x + ffn(norm x). */
static int32_t plain_layer(struct sharpi_builder *b, struct world *w, int32_t type, int32_t x, uint32_t layer,
                           int32_t has_experts)
{
    int32_t h = sharpi_g_rms_norm(b, x, vector(w, WIDTH, 1), 1e-6f, 0);
    x = sharpi_g_add(b, x, plain_attention(b, w, type, h, layer));
    h = sharpi_g_rms_norm(b, x, vector(w, WIDTH, 1), 1e-6f, 0);
    if (has_experts)
        h = experts(b, w, type, h, h, layer);
    else
        h = plain_ffn(b, w, type, h, SHARPI_ACT_SILU);
    sharpi_g_tap(b, h, "ffn");
    return sharpi_g_add(b, x, h);
}

/* Norms behind the parts too, a looked-up input per layer, rotation of pairs with divisors, a window. */
static int32_t norms_behind_layer(struct sharpi_builder *b, struct world *w, int32_t type, int32_t x,
                                  int32_t ple, uint32_t layer)
{
    struct sharpi_rope_attr rope_q = rope_attr(HEADS, SHARPI_ROPE_NORM, 48),
                            rope_k = rope_attr(KV_HEADS, SHARPI_ROPE_NORM, 48);
    struct sharpi_attention_attr attr = attention_attr(w, layer);
    struct sharpi_rms_norm_attr add_one = {sizeof add_one, 0, 1e-6f, 1};
    const struct sharpi_tensor *divisors = vector(w, 24, 1.5f);
    int32_t h = sharpi_g_op(b, SHARPI_OP_RMS_NORM, x, -1, -1, vector(w, WIDTH, 0), NULL, &add_one), q, k, v;
    q = sharpi_g_rope(b, sharpi_g_linear(b, h, matrix(w, type, WIDTH, HEADS * HEAD_DIM), NULL, 0), &rope_q,
                      divisors);
    k = sharpi_g_linear(b, h, matrix(w, type, WIDTH, KV_HEADS * HEAD_DIM), NULL, 0);
    v = sharpi_g_rms_norm(b, k, NULL, 1e-6f, HEAD_DIM); /* v from k */
    k = sharpi_g_rope(b, k, &rope_k, divisors);
    q = sharpi_g_attention(b, q, k, v, &attr, NULL);
    h = sharpi_g_linear(b, q, matrix(w, type, HEADS * HEAD_DIM, WIDTH), NULL, 0);
    x = sharpi_g_add(b, x, sharpi_g_rms_norm(b, h, vector(w, WIDTH, 1), 1e-6f, 0));
    h = plain_ffn(b, w, type, sharpi_g_rms_norm(b, x, vector(w, WIDTH, 1), 1e-6f, 0), SHARPI_ACT_GELU_TANH);
    sharpi_g_tap(b, h, "ffn");
    x = sharpi_g_add(b, x, sharpi_g_rms_norm(b, h, vector(w, WIDTH, 1), 1e-6f, 0));
    h = sharpi_g_linear(b, x, matrix(w, SHARPI_TYPE_F32, WIDTH, PLE), NULL, 0);
    h = sharpi_g_mul(b, sharpi_g_activation(b, h, SHARPI_ACT_GELU_TANH), sharpi_g_slice(b, ple, PLE, PLE));
    h = sharpi_g_linear(b, h, matrix(w, SHARPI_TYPE_F32, PLE, WIDTH), NULL, 0);
    x = sharpi_g_add(b, x, h);
    return sharpi_g_scale(b, x, 0.9f, vector(w, 1, 1));
}

/* Experts beside a dense part, router before its own norm; reads the cache of layer 0. */
static int32_t borrowing_layer(struct sharpi_builder *b, struct world *w, int32_t type, int32_t x,
                               uint32_t layer)
{
    struct sharpi_rope_attr rope_q = rope_attr(HEADS, SHARPI_ROPE_NEOX, HEAD_DIM);
    struct sharpi_attention_attr attr = attention_attr(w, layer);
    int32_t h = sharpi_g_rms_norm(b, x, vector(w, WIDTH, 1), 1e-6f, 0), q, r;
    q = sharpi_g_rope(b, sharpi_g_linear(b, h, matrix(w, type, WIDTH, HEADS * HEAD_DIM), NULL, 0), &rope_q,
                      NULL);
    q = sharpi_g_attention(b, q, -1, -1, &attr, NULL);
    h = sharpi_g_linear(b, q, matrix(w, type, HEADS * HEAD_DIM, WIDTH), NULL, 0);
    x = sharpi_g_add(b, h, x);
    h = sharpi_g_rms_norm(b, x, vector(w, WIDTH, 1), 1e-6f, 0);
    r = sharpi_g_mul_weight(b, sharpi_g_rms_norm(b, x, NULL, 1e-6f, 0), vector(w, WIDTH, 0));
    q = plain_ffn(b, w, type, h, SHARPI_ACT_RELU2);
    h = sharpi_g_add(b, q, experts(b, w, type, h, r, 3));
    sharpi_g_tap(b, h, "ffn");
    return sharpi_g_add(b, x, h);
}

/* The custom op: out[i] = in0[i] * w[i] + position / 100. */
static int32_t custom_compute(const void *user, const struct sharpi_tensor *const *w, const float *const *in,
                              const uint32_t *in_width, float *out, uint32_t n_rows, const int32_t *positions)
{
    const float *weight = w[0]->data;
    (void)user;
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t i = 0; i < in_width[0]; i++)
            out[r * in_width[0] + i] = in[0][r * in_width[0] + i] * weight[i] + (float)positions[r] / 100.0f;
    return SHARPI_OK;
}

/* Both parts read the same x, and their sum is added; sinks, capped scores, yarn, an unaligned slice, a custom op. */
static int32_t parallel_layer(struct sharpi_builder *b, struct world *w, int32_t type, int32_t x,
                              uint32_t layer)
{
    struct sharpi_rope_attr rope_q = rope_attr(HEADS, SHARPI_ROPE_NEOX, HEAD_DIM), rope_k;
    struct sharpi_attention_attr attr = attention_attr(w, layer);
    struct sharpi_custom_attr custom = {
        .size = sizeof custom, .out_width = WIDTH, .name = "odd", .compute = custom_compute};
    struct sharpi_glu_attr glu = {sizeof glu, SHARPI_ACT_GELU_ERF, 0.7f};
    int32_t h, q, k, v, f, qkv;
    rope_q.freq_scale = 0.25f;
    rope_q.yarn_ext = 1;
    rope_q.yarn_attn = 1;
    rope_q.yarn_beta_fast = 32;
    rope_q.yarn_beta_slow = 1;
    rope_q.original_context = 64;
    rope_k = rope_q;
    rope_k.n_heads = KV_HEADS;
    attr.softcap = 5;
    h = sharpi_g_rms_norm(b, x, vector(w, WIDTH, 1), 1e-6f, 0);
    qkv = sharpi_g_linear(b, h, matrix(w, type, WIDTH, (HEADS + 2 * KV_HEADS) * HEAD_DIM + 32), NULL, 0);
    q = sharpi_g_rope(b, sharpi_g_slice(b, qkv, 0, HEADS * HEAD_DIM), &rope_q, NULL);
    k = sharpi_g_rope(b, sharpi_g_slice(b, qkv, HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM), &rope_k, NULL);
    v = sharpi_g_slice(b, qkv, (HEADS + KV_HEADS) * HEAD_DIM + 5, KV_HEADS * HEAD_DIM);
    q = sharpi_g_attention(b, q, k, v, &attr, vector(w, HEADS, 0));
    q = sharpi_g_linear(b, q, matrix(w, type, HEADS * HEAD_DIM, WIDTH), vector(w, WIDTH, 0), 0);
    f = sharpi_g_op(b, SHARPI_OP_GLU, sharpi_g_linear(b, h, matrix(w, type, WIDTH, FF), NULL, 0),
                    sharpi_g_linear(b, h, matrix(w, type, WIDTH, FF), NULL, 0), -1, NULL, NULL, &glu);
    f = sharpi_g_linear(b, f, matrix(w, type, FF, WIDTH), NULL, 0);
    f = sharpi_g_softcap(b, f, 3);
    sharpi_g_tap(b, f, "ffn");
    f = sharpi_g_op(b, SHARPI_OP_CUSTOM, f, -1, -1, vector(w, WIDTH, 0), NULL, &custom);
    f = sharpi_g_add(b, sharpi_g_add(b, x, q), f);
    /* x is needed after something was added to it */
    return sharpi_g_add(b, f, sharpi_g_linear(b, x, matrix(w, SHARPI_TYPE_F32, WIDTH, WIDTH), NULL, 0));
}

/* ---- Whole models */

static uint64_t f32_row_bytes(void *ctx, uint64_t n)
{
    (void)ctx;
    return n * 4;
}

static void f32_encode(void *ctx, void *row, const float *src, uint64_t n)
{
    (void)ctx;
    memcpy(row, src, n * 4);
}

static void f32_decode(void *ctx, const void *row, float *dst, uint64_t n)
{
    (void)ctx;
    memcpy(dst, row, n * 4);
}

/* Exact, and without kernels: attention itself is tested elsewhere. */
static const struct sharpi_kv f32_cache = {.size = sizeof f32_cache,
                                           .name = "f32",
                                           .summary = "test",
                                           .row_bytes = f32_row_bytes,
                                           .encode = f32_encode,
                                           .decode = f32_decode};

static void describe(struct world *w, const struct world_options *options)
{
    static const uint32_t ring =
        (WORLD_WINDOW + WORLD_HEADROOM + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE * SHARPI_KV_PAGE;
    w->desc = (struct sharpi_model_desc){.size = sizeof w->desc,
                                         .n_layers = WORLD_LAYERS,
                                         .width = WIDTH,
                                         .n_heads = HEADS,
                                         .n_vocab = WORLD_VOCAB,
                                         .context_length = WORLD_CONTEXT,
                                         .mask_known = 1,
                                         .n_layers_described = WORLD_LAYERS,
                                         .layer_size = sizeof w->layers[0],
                                         .layers = w->layers};
    for (uint32_t i = 0; i < WORLD_LAYERS; i++) {
        uint32_t windowed = options->graph == WORLD_ALL && i == 1;
        w->layers[i] = (struct sharpi_layer_desc){.n_kv_heads = KV_HEADS,
                                                  .head_dim = HEAD_DIM,
                                                  .window = windowed ? WORLD_WINDOW : 0,
                                                  .kv_source = options->graph == WORLD_ALL && i == 2 ? 0 : -1,
                                                  .n_ff = FF};
        if (w->layers[i].kv_source >= 0)
            continue;
        w->kv[i] = (struct sharpi_kv_layer){.size = sizeof w->kv[i],
                                            .class_index = windowed,
                                            .kv = &f32_cache,
                                            .n_kv_heads = KV_HEADS,
                                            .head_dim = HEAD_DIM,
                                            .ring = windowed ? ring : WORLD_CONTEXT};
        w->kv[i].n_pages = w->kv[i].ring / SHARPI_KV_PAGE * WORLD_MAX_SEQS;
    }
}

static void build(struct sharpi_builder *b, struct world *w, const struct world_options *options)
{
    int32_t type = options->weight_type, x, ple = -1;
    const struct sharpi_tensor *table = matrix(w, type, WIDTH, WORLD_VOCAB);
    b->layer = -1;
    x = sharpi_g_embed(b, table, 2.5f);
    if (options->graph == WORLD_ALL)
        ple = sharpi_g_row_gather(b, matrix(w, SHARPI_TYPE_Q8_0, 256, WORLD_VOCAB), 64, 2 * PLE, 3);
    for (uint32_t i = 0; i < WORLD_LAYERS; i++) {
        b->layer = (int32_t)i;
        if (options->graph != WORLD_ALL || i == 0)
            x = plain_layer(b, w, type, x, i, options->graph == WORLD_MIXTURE);
        else
            x = i == 1   ? norms_behind_layer(b, w, type, x, ple, i)
                : i == 2 ? borrowing_layer(b, w, type, x, i)
                         : parallel_layer(b, w, type, x, i);
        w->last_residual[i] = x;
    }
    b->layer = WORLD_LAYERS;
    x = sharpi_g_rms_norm(b, sharpi_g_select_rows(b, x), vector(w, WIDTH, 1), 1e-6f, 0);
    sharpi_g_logits(b, x, table, options->graph == WORLD_DENSE ? 0.0f : 8.0f); /* tied */
}

int world_create(struct world *w, struct test_host *host, const struct world_options *options)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_builder b = {.host = &host->host, .err = &err};
    int file = memfd_create("weights", 0);
    memset(w, 0, sizeof *w);
    w->random = options->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    w->file_bytes = FILE_BYTES;
    if (file < 0 || ftruncate(file, (off_t)FILE_BYTES))
        return -1;
    w->file = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    describe(w, options);
    if (w->file == MAP_FAILED || sharpi_graph_create(&w->desc, &w->graph, &err))
        return -1;
    b.graph = w->graph;
    build(&b, w, options);
    if (b.status || sharpi_graph_finish(w->graph, &err)) {
        fprintf(stderr, "world: %s\n", err.text);
        return -1;
    }
    w->view = sharpi_graph_view(w->graph);
    return 0;
}

void world_destroy(struct world *w)
{
    sharpi_graph_destroy(w->graph);
    for (uint32_t i = 0; i < w->n_tensors; i++)
        free(w->tensors[i]);
    munmap(w->file, w->file_bytes);
}
