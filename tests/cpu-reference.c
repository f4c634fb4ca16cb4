/* The graph, op by op, in double precision: no fusion, no batching, no cache. What the CPU backend is compared with. */
#include "cpu-world.h"

#include <stdlib.h>
#include <string.h>

#include <plugins/backend-cpu/matmul.h>

struct interpreter {
    const struct world *world;
    struct reference *out;
    const int32_t *tokens;
    uint32_t n;
};

static float *dequantized(const struct sharpi_tensor *t, uint64_t expert)
{
    uint64_t n = t->ne[0] * t->ne[1];
    float *data = malloc(n * sizeof *data);
    for (uint64_t r = 0; r < t->ne[1]; r++)
        dequant_row(t->type,
                    (const uint8_t *)t->data + (expert * t->ne[1] + r) * sharpi_row_bytes(t->type, t->ne[0]),
                    data + r * t->ne[0], t->ne[0]);
    return data;
}

static void product(double *out, const double *x, const struct sharpi_tensor *t, uint64_t expert, uint32_t n)
{
    float *w = dequantized(t, expert);
    for (uint32_t r = 0; r < n; r++) {
        for (uint64_t o = 0; o < t->ne[1]; o++) {
            double sum = 0;
            for (uint64_t i = 0; i < t->ne[0]; i++)
                sum += (double)w[o * t->ne[0] + i] * x[r * t->ne[0] + i];
            out[r * t->ne[1] + o] = sum;
        }
    }
    free(w);
}

static double element(const struct sharpi_tensor *t, uint64_t i)
{
    return t ? (double)((const float *)t->data)[i] : 0.0;
}

static double act(double x, int32_t activation)
{
    switch (activation) {
    case SHARPI_ACT_SILU:
        return x / (1 + exp(-x));
    case SHARPI_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case SHARPI_ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    default:
        return x > 0 ? x * x : 0;
    }
}

static void rms_norm(const struct sharpi_op *op, double *out, const double *x, uint64_t n_all, uint32_t width)
{
    const struct sharpi_rms_norm_attr *a = op->attr;
    uint32_t group = a->group ? a->group : width;
    for (uint64_t g = 0; g < n_all; g += group) {
        double sum = 0;
        for (uint32_t i = 0; i < group; i++)
            sum += x[g + i] * x[g + i];
        for (uint32_t i = 0; i < group; i++)
            out[g + i] = x[g + i] / sqrt(sum / group + (double)a->eps) *
                         (op->w[0] ? element(op->w[0], i) + a->add_one : 1.0);
    }
}

static void rope(const struct sharpi_op *op, double *out, const double *x, uint32_t n)
{
    const struct sharpi_rope_attr *a = op->attr;
    uint32_t half = a->n_rot / 2;
    for (uint64_t r = 0; r < (uint64_t)n * a->n_heads; r++, x += a->head_dim, out += a->head_dim) {
        memcpy(out, x, a->head_dim * sizeof *out);
        for (uint32_t j = 0; j < half; j++) {
            double divisor = op->w[0] ? element(op->w[0], j) : 1.0;
            double angle = (double)(r / a->n_heads) * sharpi_rope_frequency(a, divisor, j);
            double c = cos(angle) * sharpi_rope_magnitude(a), s = sin(angle) * sharpi_rope_magnitude(a);
            uint32_t i0 = a->mode == SHARPI_ROPE_NEOX ? j : 2 * j,
                     i1 = a->mode == SHARPI_ROPE_NEOX ? j + half : 2 * j + 1;
            out[i0] = x[i0] * c - x[i1] * s;
            out[i1] = x[i0] * s + x[i1] * c;
        }
    }
}

/* The k and v of the layer whose cache is read. */
static const struct sharpi_op *cache_owner(const struct interpreter *in, uint32_t kv_layer)
{
    for (uint32_t i = 0; i < in->world->view->n_ops; i++) {
        const struct sharpi_op *op = in->world->view->ops[i];
        if (op->kind == SHARPI_OP_ATTENTION && op->in[1] >= 0 &&
            ((const struct sharpi_attention_attr *)op->attr)->layer == kv_layer)
            return op;
    }
    abort();
}

static void attend(const struct interpreter *in, const struct sharpi_op *op, uint32_t t, uint32_t h,
                   const double *k, const double *v, double *out)
{
    const struct sharpi_attention_attr *a = op->attr;
    const double *q = in->out->values[op->in[0]] + ((uint64_t)t * a->n_heads + h) * a->head_dim;
    uint32_t g = h / (a->n_heads / a->n_kv_heads), stride = a->n_kv_heads * a->head_dim;
    uint32_t first = a->window && t + 1 > a->window ? t + 1 - a->window : 0;
    double *p = malloc((t + 1) * sizeof *p), greatest = op->w[0] ? element(op->w[0], h) : -1e300, sum;
    for (uint32_t s = first; s <= t; s++) {
        p[s] = 0;
        for (uint32_t i = 0; i < a->head_dim; i++)
            p[s] += q[i] * k[(uint64_t)s * stride + g * a->head_dim + i];
        p[s] *= (double)a->scale;
        if (a->softcap > 0)
            p[s] = (double)a->softcap * tanh(p[s] / (double)a->softcap);
        greatest = p[s] > greatest ? p[s] : greatest;
    }
    sum = op->w[0] ? exp(element(op->w[0], h) - greatest) : 0;
    for (uint32_t s = first; s <= t; s++)
        sum += p[s] = exp(p[s] - greatest);
    memset(out, 0, a->head_dim * sizeof *out);
    for (uint32_t s = first; s <= t; s++)
        for (uint32_t i = 0; i < a->head_dim; i++)
            out[i] += p[s] / sum * v[(uint64_t)s * stride + g * a->head_dim + i];
    free(p);
}

static void attention(const struct interpreter *in, const struct sharpi_op *op, double *out)
{
    const struct sharpi_attention_attr *a = op->attr;
    const struct sharpi_op *owner = op->in[1] >= 0 ? op : cache_owner(in, a->kv_layer);
    for (uint32_t t = 0; t < in->n; t++)
        for (uint32_t h = 0; h < a->n_heads; h++)
            attend(in, op, t, h, in->out->values[owner->in[1]], in->out->values[owner->in[2]],
                   out + ((uint64_t)t * a->n_heads + h) * a->head_dim);
}

static void expert_row(const struct sharpi_op *op, uint32_t e, const double *x, double *out)
{
    const struct sharpi_moe_attr *a = op->attr;
    double *hidden = malloc(2 * a->n_ff * sizeof *hidden);
    if (op->w[SHARPI_MOE_GATE_UP]) {
        product(hidden, x, op->w[SHARPI_MOE_GATE_UP], e, 1);
    } else {
        product(hidden, x, op->w[SHARPI_MOE_GATE], e, 1);
        product(hidden + a->n_ff, x, op->w[SHARPI_MOE_UP], e, 1);
    }
    for (uint32_t i = 0; i < a->n_ff; i++)
        hidden[i] = act(hidden[i], a->activation) * hidden[a->n_ff + i];
    product(out, hidden, op->w[SHARPI_MOE_DOWN], e, 1);
    free(hidden);
}

static void moe_row(const struct sharpi_op *op, const double *x, const double *router_input, double *out,
                    uint32_t width)
{
    const struct sharpi_moe_attr *a = op->attr;
    double logits[64], p[64], all = 0, sum = 0, *row = malloc(width * sizeof *row);
    uint32_t chosen[64], used[64] = {0};
    product(logits, router_input, op->w[SHARPI_MOE_ROUTER], 0, 1);
    for (uint32_t e = 0; e < a->n_experts; e++)
        logits[e] += element(op->w[SHARPI_MOE_ROUTER_BIAS], e);
    for (uint32_t j = 0; j < a->n_used; j++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < a->n_experts; e++)
            if (!used[e] && (best == UINT32_MAX || logits[e] > logits[best]))
                best = e;
        best = best == UINT32_MAX ? 0 : best; /* never: n_used <= n_experts */
        used[best] = 1;
        chosen[j] = best;
    }
    for (uint32_t e = 0; e < a->n_experts; e++)
        all += exp(logits[e]);
    for (uint32_t j = 0; j < a->n_used; j++)
        sum += p[j] = exp(logits[chosen[j]]);
    memset(out, 0, width * sizeof *out);
    for (uint32_t j = 0; j < a->n_used; j++) {
        double weight = p[j] / (a->softmax_after || a->renormalize ? sum : all) * (double)a->weight_scale;
        if (op->w[SHARPI_MOE_EXPERT_SCALE])
            weight *= element(op->w[SHARPI_MOE_EXPERT_SCALE], chosen[j]);
        expert_row(op, chosen[j], x, row);
        for (uint32_t i = 0; i < width; i++)
            out[i] += weight * row[i];
    }
    free(row);
}

static void look_up(const struct interpreter *in, const struct sharpi_op *op, double *out, uint32_t first,
                    uint32_t width, double scale)
{
    float *table = dequantized(op->w[0], 0);
    for (uint32_t t = 0; t < in->n; t++)
        for (uint32_t i = 0; i < width; i++)
            out[(uint64_t)t * width + i] =
                scale * (double)table[(uint64_t)in->tokens[t] * op->w[0]->ne[0] + first + i];
    free(table);
}

static void custom(const struct interpreter *in, const struct sharpi_op *op, double *out, const double *x,
                   uint32_t width)
{
    for (uint32_t t = 0; t < in->n; t++)
        for (uint32_t i = 0; i < width; i++)
            out[(uint64_t)t * width + i] = x[(uint64_t)t * width + i] * element(op->w[0], i) + t / 100.0;
}

/* One element of the ops that work element by element. */
static double map(const struct sharpi_op *op, double x, double y, uint32_t column)
{
    switch (op->kind) {
    case SHARPI_OP_GLU: {
        const struct sharpi_glu_attr *a = op->attr;
        double c = (double)a->clamp;
        if (c > 0) {
            x = x > c ? c : x < -c ? -c : x;
            y = y > c ? c : y < -c ? -c : y;
        }
        return act(x, a->activation) * y;
    }
    case SHARPI_OP_ADD:
        return x + y;
    case SHARPI_OP_MUL:
        return op->w[0] ? x * element(op->w[0], column) : x * y;
    case SHARPI_OP_SCALE:
        return x * (double)((const struct sharpi_scale_attr *)op->attr)->scale *
               (op->w[0] ? element(op->w[0], 0) : 1.0);
    case SHARPI_OP_SOFTCAP: {
        double cap = (double)((const struct sharpi_softcap_attr *)op->attr)->cap;
        return cap * tanh(x / cap);
    }
    case SHARPI_OP_ACTIVATION:
        return act(x, ((const struct sharpi_activation_attr *)op->attr)->activation);
    default: /* select_rows: all rows */
        return x;
    }
}

static void logits(const struct interpreter *in, const struct sharpi_op *op, const double *x)
{
    double cap = (double)((const struct sharpi_logits_attr *)op->attr)->softcap;
    product(in->out->logits, x, op->w[0], 0, in->n);
    for (uint64_t i = 0; i < (uint64_t)in->n * op->w[0]->ne[1] && cap > 0; i++)
        in->out->logits[i] = cap * tanh(in->out->logits[i] / cap);
}

static void run_op(const struct interpreter *in, const struct sharpi_op *op)
{
    double *out = op->kind != SHARPI_OP_LOGITS && op->kind != SHARPI_OP_TAP ? in->out->values[op->out] : NULL;
    const double *x = op->in[0] >= 0 ? in->out->values[op->in[0]] : NULL;
    const double *y = op->in[1] >= 0 ? in->out->values[op->in[1]] : x;
    uint32_t width = out ? in->world->view->values[op->out]->width : 0;
    uint32_t in_width = x ? in->world->view->values[op->in[0]]->width : 0;
    uint64_t n = (uint64_t)in->n * width;
    switch (op->kind) {
    case SHARPI_OP_EMBED:
        look_up(in, op, out, 0, width, (double)((const struct sharpi_embed_attr *)op->attr)->scale);
        break;
    case SHARPI_OP_ROW_GATHER: {
        const struct sharpi_row_gather_attr *a = op->attr;
        look_up(in, op, out, a->first, width, (double)a->scale);
        break;
    }
    case SHARPI_OP_RMS_NORM:
        rms_norm(op, out, x, n, width);
        break;
    case SHARPI_OP_LINEAR:
        product(out, x, op->w[0], 0, in->n);
        for (uint64_t i = 0; i < n && op->w[1]; i++)
            out[i] += element(op->w[1], i % width);
        break;
    case SHARPI_OP_ROPE:
        rope(op, out, x, in->n);
        break;
    case SHARPI_OP_ATTENTION:
        attention(in, op, out);
        break;
    case SHARPI_OP_MOE_FFN:
        for (uint32_t t = 0; t < in->n; t++)
            moe_row(op, x + (uint64_t)t * width, y + (uint64_t)t * width, out + (uint64_t)t * width, width);
        break;
    case SHARPI_OP_LOGITS:
        logits(in, op, x);
        break;
    case SHARPI_OP_TAP:
        break;
    case SHARPI_OP_CUSTOM:
        custom(in, op, out, x, width);
        break;
    case SHARPI_OP_SLICE:
        for (uint64_t i = 0; i < n; i++)
            out[i] =
                x[i / width * in_width + ((const struct sharpi_slice_attr *)op->attr)->first + i % width];
        break;
    default:
        for (uint64_t i = 0; i < n; i++)
            out[i] = map(op, x[i], y[i], (uint32_t)(i % width));
    }
}

void reference_run(struct reference *reference, const struct world *world, const int32_t *tokens, uint32_t n)
{
    struct interpreter in = {world, reference, tokens, n};
    reference->n_values = world->view->n_values;
    reference->values = calloc(reference->n_values, sizeof *reference->values);
    for (uint32_t i = 0; i < reference->n_values; i++)
        reference->values[i] = calloc((uint64_t)n * world->view->values[i]->width, sizeof(double));
    reference->logits = calloc((uint64_t)n * world->desc.n_vocab, sizeof(double));
    for (uint32_t i = 0; i < world->view->n_ops; i++)
        run_op(&in, world->view->ops[i]);
}

void reference_free(struct reference *reference)
{
    for (uint32_t i = 0; i < reference->n_values; i++)
        free(reference->values[i]);
    free(reference->values);
    free(reference->logits);
}
