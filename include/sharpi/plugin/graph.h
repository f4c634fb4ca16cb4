/* The forward pass as an architecture states it and a backend runs it: a list of ops over values.
 *
 * A value is [rows, width] of f32, row-major; rows is symbolic: the batch's tokens, or (after select_rows) the rows that
 * want logits. Heads are a view: width = heads * dim, head-major. A graph is built once per model, never per step, and
 * does not change afterwards.
 *
 * Ops carry the layer they belong to (-1: input, 0..n-1, n: output). Ops are listed in the order of execution, so a
 * program is a range of the list; the values that cross the range's edges are its carried values.
 */
#ifndef SHARPI_PLUGIN_GRAPH_H
#define SHARPI_PLUGIN_GRAPH_H

#include <math.h>
#include <string.h>

#include <sharpi/plugin/host.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Kinds; the numbers are frozen. "in" are values, "w" weights, by index; what may be missing is in brackets. */
enum sharpi_op_kind {
    SHARPI_OP_EMBED = 1, /* token ids -> [T, D]; w0 table [D, vocab]; attr scale */
    SHARPI_OP_ROW_GATHER =
        2, /* token ids -> [T, P]; w0 table [>= first+P, vocab]; the table stays in the file mapping */
    SHARPI_OP_RMS_NORM = 3, /* in0 -> same; [w0 weight [group width]] */
    SHARPI_OP_LINEAR = 4,   /* in0 [T, in] -> [T, out]; w0 [in, out]; [w1 bias [out]] */
    SHARPI_OP_ROPE = 5,     /* in0 -> same; [w0 frequency divisors [n_rot / 2], f32] */
    SHARPI_OP_ATTENTION =
        6,             /* in0 q [T, H*d], [in1 k, in2 v [T, G*d]] -> [T, H*d]; k and v are appended to the
                                 layer's cache first; without them the layer reads kv_layer's cache; [w0 sinks [H]] */
    SHARPI_OP_GLU = 7, /* in0 gate, in1 up -> act(gate) * up */
    SHARPI_OP_MOE_FFN =
        8,              /* in0 x [T, D], in1 router input [T, D] -> [T, D]; weights: enum sharpi_moe_weight */
    SHARPI_OP_ADD = 9,  /* in0 + in1 */
    SHARPI_OP_MUL = 10, /* in0 * in1; or in0 * w0 [width] when there is no in1 */
    SHARPI_OP_SCALE = 11,       /* in0 * attr scale [* w0 [1]] */
    SHARPI_OP_SOFTCAP = 12,     /* cap * tanh(in0 / cap) */
    SHARPI_OP_SELECT_ROWS = 13, /* [T, w] -> [R, w]: the rows that want logits */
    SHARPI_OP_LOGITS = 14,      /* in0 [R, D] -> the program's logits [R, V]; w0 [D, V]; attr softcap */
    SHARPI_OP_TAP = 15,         /* marks in0 as readable under attr name; no output */
    SHARPI_OP_CUSTOM = 16,      /* an op of the architecture's own, with its reference function in attr */
    SHARPI_OP_SLICE = 17,       /* columns [first, first + width) of in0 */
    SHARPI_OP_ACTIVATION = 18,  /* act(in0) */
};

enum sharpi_activation {
    SHARPI_ACT_SILU = 1,      /* z / (1 + exp(-z)) */
    SHARPI_ACT_GELU_TANH = 2, /* 0.5 z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) */
    SHARPI_ACT_GELU_ERF = 3,  /* 0.5 z (1 + erf(z / sqrt 2)) */
    SHARPI_ACT_RELU2 = 4,     /* max(z, 0)^2 */
};

struct sharpi_embed_attr {
    uint32_t size;
    float scale; /* each row is multiplied by it */
};

struct sharpi_row_gather_attr {
    uint32_t size;
    uint32_t first; /* columns [first, first + width) of the table's row; */
    uint32_t width; /* whole blocks of the table's type */
    float scale;
};

/* y = x / sqrt(mean(x^2) + eps) * (weight + add_one), over groups of `group` consecutive elements. */
struct sharpi_rms_norm_attr {
    uint32_t size;
    uint32_t group; /* the whole width, or head_dim for a norm per head */
    float eps;
    uint32_t add_one;
};

enum sharpi_split { /* how a matrix may be cut over devices */
                    SHARPI_SPLIT_NONE = 0,
                    SHARPI_SPLIT_OUTPUT = 1,
                    SHARPI_SPLIT_INPUT = 2,
};

struct sharpi_linear_attr {
    uint32_t size;
    int32_t split;
};

enum sharpi_rope_mode {
    SHARPI_ROPE_NORM = 1, /* pairs (2j, 2j+1) */
    SHARPI_ROPE_NEOX = 2, /* pairs (j, j + n_rot/2) */
};

/* Pair j of a head turns by the angle  pos * f_j  with f_j = theta^(-2j / n_rot) / divisor_j (w0; a divisor above
 * 1e20 means angle 0); linear scaling multiplies f_j by freq_scale; yarn mixes both (yarn_ext > 0), see the formula at
 * sharpi_rope_frequency. cos and sin are multiplied by sharpi_rope_magnitude. Elements past n_rot stay. */
struct sharpi_rope_attr {
    uint32_t size;
    int32_t mode;
    uint32_t n_heads, head_dim, n_rot;
    float theta;
    float freq_scale; /* 1 = none; 1 / factor for linear and yarn */
    float yarn_ext;   /* 0 = no yarn, 1 = yarn */
    float yarn_attn;  /* attention factor; 1 = none */
    float yarn_beta_fast, yarn_beta_slow;
    uint32_t original_context; /* yarn: the context the base model was trained with */
    uint32_t sections[4];      /* rotated dims per position axis; all 0: one axis */
};

/* Radians per position of pair j, `divisor` = element j of w0 (1 without). Yarn ("YaRN: Efficient Context Window
 * Extension", eq. 17-23): pairs that turn more than beta_fast times in the original context keep their frequency, those
 * under beta_slow are interpolated, with a linear ramp in j between. */
static inline double sharpi_rope_frequency(const struct sharpi_rope_attr *a, double divisor, uint32_t j)
{
    double f = divisor > 1e20 ? 0.0 : pow((double)a->theta, -2.0 * j / a->n_rot) / divisor;
    double low, high, ramp, keep;
    if (!(a->yarn_ext > 0.0f))
        return f * a->freq_scale;
    low = floor(a->n_rot * log(a->original_context / (a->yarn_beta_fast * 2.0 * 3.14159265358979323846)) /
                (2.0 * log((double)a->theta)));
    high = ceil(a->n_rot * log(a->original_context / (a->yarn_beta_slow * 2.0 * 3.14159265358979323846)) /
                (2.0 * log((double)a->theta)));
    low = low < 0.0 ? 0.0 : low;
    high = high > a->n_rot - 1.0 ? a->n_rot - 1.0 : high;
    ramp = (j - low) / (high - low > 0.001 ? high - low : 0.001);
    ramp = ramp < 0.0 ? 0.0 : ramp > 1.0 ? 1.0 : ramp;
    keep = (1.0 - ramp) * a->yarn_ext;
    return f * (a->freq_scale * (1.0 - keep) + keep);
}

/* Factor on cos and sin (same paper, eq. 22 and 24). */
static inline double sharpi_rope_magnitude(const struct sharpi_rope_attr *a)
{
    if (!(a->yarn_ext > 0.0f))
        return a->yarn_attn > 0.0f ? a->yarn_attn : 1.0;
    return (a->yarn_attn > 0.0f ? a->yarn_attn : 1.0) * (1.0 + 0.1 * log(1.0 / a->freq_scale));
}

struct sharpi_attention_attr {
    uint32_t size;
    uint32_t layer;                         /* this layer's number in the model description */
    uint32_t kv_layer;                      /* whose cache is read: = layer, or the layer's kv_source */
    uint32_t n_heads, n_kv_heads, head_dim; /* query head h reads KV head h / (n_heads / n_kv_heads) */
    float scale;
    float softcap;   /* 0 = none: s = cap * tanh(s / cap), before the mask */
    uint32_t window; /* 0 = all earlier positions; w: position p sees p-w+1 .. p */
    uint32_t causal; /* 1 */
};

struct sharpi_glu_attr {
    uint32_t size;
    int32_t activation; /* enum sharpi_activation */
    float clamp;        /* 0 = none: gate and up are limited to +-clamp */
};

struct sharpi_moe_attr {
    uint32_t size;
    uint32_t n_experts, n_used, n_ff;
    int32_t activation;
    uint32_t
        softmax_after;    /* 0: p = softmax over all experts, then top-k; 1: softmax over the chosen logits */
    uint32_t renormalize; /* 1: the chosen weights are divided by their sum */
    float weight_scale;   /* factor on every weight; 1 = none */
};

enum sharpi_moe_weight {                              /* indices into sharpi_op.w of SHARPI_OP_MOE_FFN */
                         SHARPI_MOE_ROUTER = 0,       /* [D, E] */
                         SHARPI_MOE_ROUTER_BIAS = 1,  /* [E] or NULL */
                         SHARPI_MOE_GATE = 2,         /* [D, X, E]; NULL when gate and up are fused */
                         SHARPI_MOE_UP = 3,           /* [D, X, E]; NULL likewise */
                         SHARPI_MOE_GATE_UP = 4,      /* [D, 2X, E]: rows 0..X-1 gate; or NULL */
                         SHARPI_MOE_DOWN = 5,         /* [X, D, E] */
                         SHARPI_MOE_EXPERT_SCALE = 6, /* [E] factor after renormalization, or NULL */
};

struct sharpi_scale_attr {
    uint32_t size;
    float scale;
};

struct sharpi_softcap_attr {
    uint32_t size;
    float cap; /* > 0 */
};

struct sharpi_logits_attr {
    uint32_t size;
    float softcap; /* 0 = none */
};

struct sharpi_slice_attr {
    uint32_t size;
    uint32_t first, width;
};

struct sharpi_activation_attr {
    uint32_t size;
    int32_t activation;
};

struct sharpi_tap_attr {
    uint32_t size;
    uint32_t reserved;
    const char *name; /* "attn_out"; the full name is "blk.<layer>.<name>", or "<name>" outside the layers */
};

/* Reference of a custom op: n_rows rows; in[i] [n_rows, in_width[i]] -> out [n_rows, out_width], f32 in host memory.
 * Called from several threads with disjoint rows. */
struct sharpi_custom_attr {
    uint32_t size;
    uint32_t out_width;
    const char *name;
    int32_t (*compute)(const void *user, const struct sharpi_tensor *const *w, const float *const *in,
                       const uint32_t *in_width, float *out, uint32_t n_rows, const int32_t *positions);
    const void *user; /* lives as long as the model file (host->file_alloc) */
};

#define SHARPI_OP_MAX_INPUTS  4
#define SHARPI_OP_MAX_WEIGHTS 8

struct sharpi_op {
    uint32_t size;
    int32_t kind;                                         /* enum sharpi_op_kind */
    int32_t layer;                                        /* -1 input, 0 .. n_layers-1, n_layers output */
    int32_t in[SHARPI_OP_MAX_INPUTS];                     /* value handles, -1 = none */
    int32_t out;                                          /* filled by the core; -1 for ops without output */
    const struct sharpi_tensor *w[SHARPI_OP_MAX_WEIGHTS]; /* NULL = none */
    const void *attr; /* the kind's attribute struct, beginning with its size; copied by graph_add */
};

enum sharpi_rows {
    SHARPI_ROWS_TOKENS = 0,   /* one row per token of the batch */
    SHARPI_ROWS_SELECTED = 1, /* one row per token that wants logits */
};

struct sharpi_value {
    uint32_t size;
    uint32_t width;
    int32_t rows;     /* enum sharpi_rows */
    int32_t producer; /* index of the op that makes it */
    int32_t last_use; /* index of the last op that reads it; = producer when none does */
};

/* What a backend sees: read-only, complete, owned by the model. */
struct sharpi_graph_view {
    uint32_t size;
    uint32_t n_ops, n_values, n_layers;
    const struct sharpi_op *const *ops; /* pointers: an op may grow */
    const struct sharpi_value *const *values;
};

/* ---- Builder: what an architecture's build function uses. The first error sticks: later calls return -1, so a layer
 * can be written without checks and the status is looked at once, at the end. */
struct sharpi_builder {
    const struct sharpi_host *host;
    struct sharpi_graph *graph;
    int32_t layer;  /* of the ops that follow; set it before each layer */
    int32_t status; /* first error, or 0 */
    struct sharpi_error *err;
};

static inline int32_t sharpi_g_op(struct sharpi_builder *b, int32_t kind, int32_t in0, int32_t in1,
                                  int32_t in2, const struct sharpi_tensor *w0, const struct sharpi_tensor *w1,
                                  const void *attr)
{
    struct sharpi_op op;
    int32_t value;
    if (b->status)
        return -1;
    memset(&op, 0, sizeof op);
    op.size = (uint32_t)sizeof op;
    op.kind = kind;
    op.layer = b->layer;
    op.in[0] = in0;
    op.in[1] = in1;
    op.in[2] = in2;
    op.in[3] = -1;
    op.out = -1;
    op.w[0] = w0;
    op.w[1] = w1;
    op.attr = attr;
    value = b->host->graph_add(b->graph, &op, b->err);
    if (value < 0) {
        b->status = value;
        return -1;
    }
    return value;
}

static inline int32_t sharpi_g_embed(struct sharpi_builder *b, const struct sharpi_tensor *table, float scale)
{
    struct sharpi_embed_attr a = {sizeof a, scale};
    return sharpi_g_op(b, SHARPI_OP_EMBED, -1, -1, -1, table, NULL, &a);
}

static inline int32_t sharpi_g_row_gather(struct sharpi_builder *b, const struct sharpi_tensor *table,
                                          uint32_t first, uint32_t width, float scale)
{
    struct sharpi_row_gather_attr a = {sizeof a, first, width, scale};
    return sharpi_g_op(b, SHARPI_OP_ROW_GATHER, -1, -1, -1, table, NULL, &a);
}

/* `weight` may be NULL; `group` 0 means the whole width (the core fills it in). */
static inline int32_t sharpi_g_rms_norm(struct sharpi_builder *b, int32_t x,
                                        const struct sharpi_tensor *weight, float eps, uint32_t group)
{
    struct sharpi_rms_norm_attr a = {sizeof a, group, eps, 0};
    return sharpi_g_op(b, SHARPI_OP_RMS_NORM, x, -1, -1, weight, NULL, &a);
}

static inline int32_t sharpi_g_linear(struct sharpi_builder *b, int32_t x, const struct sharpi_tensor *weight,
                                      const struct sharpi_tensor *bias, int32_t split)
{
    struct sharpi_linear_attr a = {sizeof a, split};
    return sharpi_g_op(b, SHARPI_OP_LINEAR, x, -1, -1, weight, bias, &a);
}

static inline int32_t sharpi_g_rope(struct sharpi_builder *b, int32_t x, const struct sharpi_rope_attr *attr,
                                    const struct sharpi_tensor *divisors)
{
    return sharpi_g_op(b, SHARPI_OP_ROPE, x, -1, -1, divisors, NULL, attr);
}

/* k and v are -1 for a layer that reads another layer's cache. */
static inline int32_t sharpi_g_attention(struct sharpi_builder *b, int32_t q, int32_t k, int32_t v,
                                         const struct sharpi_attention_attr *attr,
                                         const struct sharpi_tensor *sinks)
{
    return sharpi_g_op(b, SHARPI_OP_ATTENTION, q, k, v, sinks, NULL, attr);
}

static inline int32_t sharpi_g_glu(struct sharpi_builder *b, int32_t gate, int32_t up, int32_t activation)
{
    struct sharpi_glu_attr a = {sizeof a, activation, 0.0f};
    return sharpi_g_op(b, SHARPI_OP_GLU, gate, up, -1, NULL, NULL, &a);
}

/* `w`: SHARPI_OP_MAX_WEIGHTS tensors by enum sharpi_moe_weight. */
static inline int32_t sharpi_g_moe_ffn(struct sharpi_builder *b, int32_t x, int32_t router_input,
                                       const struct sharpi_tensor *const *w,
                                       const struct sharpi_moe_attr *attr)
{
    struct sharpi_op op;
    int32_t value;
    if (b->status)
        return -1;
    memset(&op, 0, sizeof op);
    op.size = (uint32_t)sizeof op;
    op.kind = SHARPI_OP_MOE_FFN;
    op.layer = b->layer;
    op.in[0] = x;
    op.in[1] = router_input;
    op.in[2] = op.in[3] = op.out = -1;
    memcpy(op.w, w, sizeof op.w);
    op.attr = attr;
    value = b->host->graph_add(b->graph, &op, b->err);
    if (value < 0)
        b->status = value;
    return b->status ? -1 : value;
}

static inline int32_t sharpi_g_add(struct sharpi_builder *b, int32_t x, int32_t y)
{
    return sharpi_g_op(b, SHARPI_OP_ADD, x, y, -1, NULL, NULL, NULL);
}

static inline int32_t sharpi_g_mul(struct sharpi_builder *b, int32_t x, int32_t y)
{
    return sharpi_g_op(b, SHARPI_OP_MUL, x, y, -1, NULL, NULL, NULL);
}

static inline int32_t sharpi_g_mul_weight(struct sharpi_builder *b, int32_t x,
                                          const struct sharpi_tensor *weight)
{
    return sharpi_g_op(b, SHARPI_OP_MUL, x, -1, -1, weight, NULL, NULL);
}

/* `weight` [1] may be NULL. */
static inline int32_t sharpi_g_scale(struct sharpi_builder *b, int32_t x, float scale,
                                     const struct sharpi_tensor *weight)
{
    struct sharpi_scale_attr a = {sizeof a, scale};
    return sharpi_g_op(b, SHARPI_OP_SCALE, x, -1, -1, weight, NULL, &a);
}

static inline int32_t sharpi_g_softcap(struct sharpi_builder *b, int32_t x, float cap)
{
    struct sharpi_softcap_attr a = {sizeof a, cap};
    return sharpi_g_op(b, SHARPI_OP_SOFTCAP, x, -1, -1, NULL, NULL, &a);
}

static inline int32_t sharpi_g_slice(struct sharpi_builder *b, int32_t x, uint32_t first, uint32_t width)
{
    struct sharpi_slice_attr a = {sizeof a, first, width};
    return sharpi_g_op(b, SHARPI_OP_SLICE, x, -1, -1, NULL, NULL, &a);
}

static inline int32_t sharpi_g_activation(struct sharpi_builder *b, int32_t x, int32_t activation)
{
    struct sharpi_activation_attr a = {sizeof a, activation};
    return sharpi_g_op(b, SHARPI_OP_ACTIVATION, x, -1, -1, NULL, NULL, &a);
}

static inline int32_t sharpi_g_select_rows(struct sharpi_builder *b, int32_t x)
{
    return sharpi_g_op(b, SHARPI_OP_SELECT_ROWS, x, -1, -1, NULL, NULL, NULL);
}

static inline int32_t sharpi_g_logits(struct sharpi_builder *b, int32_t x, const struct sharpi_tensor *weight,
                                      float softcap)
{
    struct sharpi_logits_attr a = {sizeof a, softcap};
    return sharpi_g_op(b, SHARPI_OP_LOGITS, x, -1, -1, weight, NULL, &a);
}

/* Names a value for tools and tests; costs nothing when nobody asks. Returns x. */
static inline int32_t sharpi_g_tap(struct sharpi_builder *b, int32_t x, const char *name)
{
    struct sharpi_tap_attr a = {sizeof a, 0, name};
    sharpi_g_op(b, SHARPI_OP_TAP, x, -1, -1, NULL, NULL, &a);
    return b->status ? -1 : x;
}

#ifdef __cplusplus
}
#endif
#endif
