/* Building and checking graphs: see graph.h. Shapes of each op kind are checked by its own small function, so that an
 * error says op, layer, tensor and both numbers.
 */
#include "graph.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nearest.h"

struct sharpi_graph {
    const struct sharpi_model_desc *desc;
    struct sharpi_op **ops;
    struct sharpi_value **values;
    uint32_t n_ops, n_values, cap_ops, cap_values;
    uint32_t finished;
    struct sharpi_graph_view view;
};

/* What is fixed per kind. */
struct op_kind {
    const char *name;
    uint32_t attr_size; /* 0 = no attributes */
    uint32_t min_in, max_in;
    int32_t has_weight; /* 1 required, 0 none, -1 optional */
};

static const struct op_kind op_kinds[] = {
    [SHARPI_OP_EMBED] = {"embed", sizeof(struct sharpi_embed_attr), 0, 0, 1},
    [SHARPI_OP_ROW_GATHER] = {"row_gather", sizeof(struct sharpi_row_gather_attr), 0, 0, 1},
    [SHARPI_OP_RMS_NORM] = {"rms_norm", sizeof(struct sharpi_rms_norm_attr), 1, 1, -1},
    [SHARPI_OP_LINEAR] = {"linear", sizeof(struct sharpi_linear_attr), 1, 1, 1},
    [SHARPI_OP_ROPE] = {"rope", sizeof(struct sharpi_rope_attr), 1, 1, -1},
    [SHARPI_OP_ATTENTION] = {"attention", sizeof(struct sharpi_attention_attr), 1, 3, -1},
    [SHARPI_OP_GLU] = {"glu", sizeof(struct sharpi_glu_attr), 2, 2, 0},
    [SHARPI_OP_MOE_FFN] = {"moe_ffn", sizeof(struct sharpi_moe_attr), 2, 2, 1},
    [SHARPI_OP_ADD] = {"add", 0, 2, 2, 0},
    [SHARPI_OP_MUL] = {"mul", 0, 1, 2, -1},
    [SHARPI_OP_SCALE] = {"scale", sizeof(struct sharpi_scale_attr), 1, 1, -1},
    [SHARPI_OP_SOFTCAP] = {"softcap", sizeof(struct sharpi_softcap_attr), 1, 1, 0},
    [SHARPI_OP_SELECT_ROWS] = {"select_rows", 0, 1, 1, 0},
    [SHARPI_OP_LOGITS] = {"logits", sizeof(struct sharpi_logits_attr), 1, 1, 1},
    [SHARPI_OP_TAP] = {"tap", sizeof(struct sharpi_tap_attr), 1, 1, 0},
    [SHARPI_OP_CUSTOM] = {"custom", sizeof(struct sharpi_custom_attr), 0, SHARPI_OP_MAX_INPUTS, -1},
    [SHARPI_OP_SLICE] = {"slice", sizeof(struct sharpi_slice_attr), 1, 1, 0},
    [SHARPI_OP_ACTIVATION] = {"activation", sizeof(struct sharpi_activation_attr), 1, 1, 0},
};

static const struct op_kind *op_kind(int32_t kind)
{
    if (kind < 1 || kind >= (int32_t)(sizeof op_kinds / sizeof *op_kinds))
        return NULL;
    return &op_kinds[kind];
}

const char *sharpi_op_name(int32_t kind)
{
    const struct op_kind *k = op_kind(kind);
    return k ? k->name : "unknown";
}

int32_t sharpi_graph_create(const struct sharpi_model_desc *desc, struct sharpi_graph **out,
                            struct sharpi_error *err)
{
    struct sharpi_graph *graph = calloc(1, sizeof *graph);
    if (!graph)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a graph");
    graph->desc = desc;
    *out = graph;
    return SHARPI_OK;
}

void sharpi_graph_destroy(struct sharpi_graph *graph)
{
    uint32_t i;
    if (!graph)
        return;
    for (i = 0; i < graph->n_ops; i++) {
        if (graph->ops[i]->kind == SHARPI_OP_TAP || graph->ops[i]->kind == SHARPI_OP_CUSTOM) {
            size_t at = graph->ops[i]->kind == SHARPI_OP_TAP ? offsetof(struct sharpi_tap_attr, name)
                                                             : offsetof(struct sharpi_custom_attr, name);
            char *name;
            memcpy(&name, (const char *)graph->ops[i]->attr + at, sizeof name);
            free(name);
        }
        free((void *)(uintptr_t)graph->ops[i]->attr);
        free(graph->ops[i]);
    }
    for (i = 0; i < graph->n_values; i++)
        free(graph->values[i]);
    free(graph->ops);
    free(graph->values);
    free(graph);
}

/* ---- Shape checks. `where` is "layer 3 linear" for messages. */

struct check {
    const struct sharpi_graph *graph;
    const struct sharpi_op *op;
    struct sharpi_error *err;
    char where[64];
    uint32_t width; /* of the output, set by the kind's check */
    int32_t rows;
};

static int32_t fail_shape(const struct check *c, const char *what, uint64_t got, uint64_t want)
{
    return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: %s is %llu, must be %llu", c->where, what,
                       (unsigned long long)got, (unsigned long long)want);
}

static const struct sharpi_value *input(const struct check *c, uint32_t i)
{
    return c->op->in[i] >= 0 ? c->graph->values[c->op->in[i]] : NULL;
}

/* Weight `i` must have exactly these dimensions; 0 stands for any. */
static int32_t check_weight(const struct check *c, uint32_t i, uint64_t ne0, uint64_t ne1, uint64_t ne2)
{
    const struct sharpi_tensor *w = c->op->w[i];
    uint64_t want[3] = {ne0, ne1, ne2};
    uint32_t d;
    for (d = 0; d < 3; d++) {
        if (want[d] && w->ne[d] != want[d])
            return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: tensor %s has ne[%u] = %llu, must be %llu",
                               c->where, w->name, d, (unsigned long long)w->ne[d],
                               (unsigned long long)want[d]);
    }
    if (w->ne[3] != 1)
        return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: tensor %s has 4 dimensions", c->where, w->name);
    return SHARPI_OK;
}

static int32_t check_vector(const struct check *c, uint32_t i, uint64_t n)
{
    int32_t status = check_weight(c, i, n, 1, 1);
    if (status)
        return status;
    if (c->op->w[i]->type != SHARPI_TYPE_F32)
        return sharpi_fail(c->err, SHARPI_ENOTSUP,
                           "%s: tensor %s must be f32, not %s; convert the model again", c->where,
                           c->op->w[i]->name, sharpi_type_info(c->op->w[i]->type)->name);
    return SHARPI_OK;
}

static int32_t check_table(struct check *c, uint64_t first, uint64_t width, uint64_t ne0)
{
    const struct sharpi_tensor *w = c->op->w[0];
    uint32_t block = sharpi_type_info(w->type)->block_elems;
    if (width == 0 || first + width > ne0 || first % block || width % block)
        return sharpi_fail(c->err, SHARPI_EFORMAT,
                           "%s: columns %llu..%llu are not whole blocks of tensor %s [%llu]", c->where,
                           (unsigned long long)first, (unsigned long long)(first + width), w->name,
                           (unsigned long long)ne0);
    c->width = (uint32_t)width;
    c->rows = SHARPI_ROWS_TOKENS;
    return check_weight(c, 0, 0, c->graph->desc->n_vocab, 1);
}

static int32_t check_norm(struct check *c)
{
    const struct sharpi_rms_norm_attr *a = c->op->attr;
    uint32_t group = a->group ? a->group : c->width;
    if (c->width % group)
        return fail_shape(c, "width modulo the norm's group", c->width % group, 0);
    if (!(a->eps > 0.0f && a->eps < 1.0f))
        return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: eps is %g, must be in (0, 1)", c->where,
                           (double)a->eps);
    return c->op->w[0] ? check_vector(c, 0, group) : SHARPI_OK;
}

static int32_t check_linear(struct check *c)
{
    const struct sharpi_tensor *w = c->op->w[0];
    int32_t status = check_weight(c, 0, c->width, 0, 1);
    if (!status && (w->ne[1] == 0 || w->ne[1] > UINT32_MAX))
        status = fail_shape(c, "number of output rows", w->ne[1], UINT32_MAX);
    if (!status && c->op->w[1])
        status = check_vector(c, 1, w->ne[1]);
    c->width = (uint32_t)w->ne[1];
    return status;
}

static int32_t check_rope(struct check *c)
{
    const struct sharpi_rope_attr *a = c->op->attr;
    if ((uint64_t)a->n_heads * a->head_dim != c->width)
        return fail_shape(c, "heads x head_dim", (uint64_t)a->n_heads * a->head_dim, c->width);
    if (a->n_rot == 0 || a->n_rot % 2 || a->n_rot > a->head_dim)
        return sharpi_fail(c->err, SHARPI_EFORMAT,
                           "%s: rotated dims are %u, must be even and at most head_dim %u", c->where,
                           a->n_rot, a->head_dim);
    if (!(a->theta > 0.0f) || !(a->freq_scale > 0.0f))
        return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: theta %g and frequency scale %g must be positive",
                           c->where, (double)a->theta, (double)a->freq_scale);
    if (a->mode != SHARPI_ROPE_NORM && a->mode != SHARPI_ROPE_NEOX)
        return sharpi_fail(c->err, SHARPI_ENOTSUP, "%s: unknown rope mode %d", c->where, a->mode);
    return c->op->w[0] ? check_vector(c, 0, a->n_rot / 2) : SHARPI_OK;
}

static int32_t check_attention(struct check *c)
{
    const struct sharpi_attention_attr *a = c->op->attr;
    const struct sharpi_model_desc *desc = c->graph->desc;
    uint64_t kv_width = (uint64_t)a->n_kv_heads * a->head_dim;
    if (a->n_kv_heads == 0 || a->n_heads % a->n_kv_heads)
        return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: %u query heads are not a multiple of %u KV heads",
                           c->where, a->n_heads, a->n_kv_heads);
    if ((uint64_t)a->n_heads * a->head_dim != c->width)
        return fail_shape(c, "heads x head_dim", (uint64_t)a->n_heads * a->head_dim, c->width);
    if (a->layer >= desc->n_layers || a->kv_layer > a->layer || (int32_t)a->layer != c->op->layer)
        return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: attention says layer %u reading layer %u of %u",
                           c->where, a->layer, a->kv_layer, desc->n_layers);
    if ((input(c, 1) == NULL) != (input(c, 2) == NULL) || (input(c, 1) == NULL) != (a->kv_layer != a->layer))
        return sharpi_fail(c->err, SHARPI_EFORMAT,
                           "%s: k and v belong to a layer with its own cache, and only to it", c->where);
    if (input(c, 1) && input(c, 1)->width != kv_width)
        return fail_shape(c, "width of k", input(c, 1)->width, kv_width);
    if (input(c, 2) && input(c, 2)->width != kv_width)
        return fail_shape(c, "width of v", input(c, 2)->width, kv_width);
    if (desc->layers[a->kv_layer].n_kv_heads != a->n_kv_heads ||
        desc->layers[a->kv_layer].head_dim != a->head_dim || desc->layers[a->layer].window != a->window)
        return sharpi_fail(c->err, SHARPI_EFORMAT,
                           "%s: KV heads, head_dim or window differ from the model description of layer %u",
                           c->where, a->kv_layer);
    return c->op->w[0] ? check_vector(c, 0, a->n_heads) : SHARPI_OK;
}

static int32_t check_moe(struct check *c)
{
    const struct sharpi_moe_attr *a = c->op->attr;
    const struct sharpi_tensor *const *w = c->op->w;
    int32_t status;
    if (a->n_experts == 0 || a->n_used == 0 || a->n_used > a->n_experts)
        return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: %u experts of which %u are used", c->where,
                           a->n_experts, a->n_used);
    if (!w[SHARPI_MOE_DOWN] || (!w[SHARPI_MOE_GATE_UP] && (!w[SHARPI_MOE_GATE] || !w[SHARPI_MOE_UP])))
        return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: expert tensors are missing", c->where);
    if (input(c, 1)->width != c->width)
        return fail_shape(c, "width of the router's input", input(c, 1)->width, c->width);
    status = check_weight(c, SHARPI_MOE_ROUTER, c->width, a->n_experts, 1);
    if (!status && w[SHARPI_MOE_ROUTER_BIAS])
        status = check_vector(c, SHARPI_MOE_ROUTER_BIAS, a->n_experts);
    if (!status && w[SHARPI_MOE_EXPERT_SCALE])
        status = check_vector(c, SHARPI_MOE_EXPERT_SCALE, a->n_experts);
    if (!status && w[SHARPI_MOE_GATE_UP])
        status = check_weight(c, SHARPI_MOE_GATE_UP, c->width, 2ull * a->n_ff, a->n_experts);
    if (!status && !w[SHARPI_MOE_GATE_UP])
        status = check_weight(c, SHARPI_MOE_GATE, c->width, a->n_ff, a->n_experts);
    if (!status && !w[SHARPI_MOE_GATE_UP])
        status = check_weight(c, SHARPI_MOE_UP, c->width, a->n_ff, a->n_experts);
    return status ? status : check_weight(c, SHARPI_MOE_DOWN, a->n_ff, c->width, a->n_experts);
}

static int32_t check_same_width(const struct check *c)
{
    if (input(c, 1)->width != c->width)
        return fail_shape(c, "width of the second input", input(c, 1)->width, c->width);
    return SHARPI_OK;
}

static int32_t check_activation(const struct check *c, int32_t activation)
{
    if (activation < SHARPI_ACT_SILU || activation > SHARPI_ACT_RELU2)
        return sharpi_fail(c->err, SHARPI_ENOTSUP, "%s: unknown activation %d", c->where, activation);
    return SHARPI_OK;
}

/* Checks the op's shapes and sets the output's width and rows. */
static int32_t check_op(struct check *c)
{
    const struct sharpi_op *op = c->op;
    const struct sharpi_tensor *w = op->w[0];
    int32_t status = SHARPI_OK;
    if (input(c, 0)) {
        c->width = input(c, 0)->width;
        c->rows = input(c, 0)->rows;
    }
    switch (op->kind) {
    case SHARPI_OP_EMBED:
        return check_table(c, 0, c->graph->desc->width, w->ne[0]);
    case SHARPI_OP_ROW_GATHER: {
        const struct sharpi_row_gather_attr *a = op->attr;
        return check_table(c, a->first, a->width, w->ne[0]);
    }
    case SHARPI_OP_RMS_NORM:
        return check_norm(c);
    case SHARPI_OP_LINEAR:
        return check_linear(c);
    case SHARPI_OP_ROPE:
        return check_rope(c);
    case SHARPI_OP_ATTENTION:
        return check_attention(c);
    case SHARPI_OP_GLU:
        status = check_activation(c, ((const struct sharpi_glu_attr *)op->attr)->activation);
        return status ? status : check_same_width(c);
    case SHARPI_OP_MOE_FFN:
        return check_moe(c);
    case SHARPI_OP_ADD:
        return check_same_width(c);
    case SHARPI_OP_MUL:
        if (!input(c, 1) == !w)
            return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: takes a second value or a weight", c->where);
        return w ? check_vector(c, 0, c->width) : check_same_width(c);
    case SHARPI_OP_SCALE:
        return w ? check_vector(c, 0, 1) : SHARPI_OK;
    case SHARPI_OP_SOFTCAP:
        if (!(((const struct sharpi_softcap_attr *)op->attr)->cap > 0.0f))
            return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: the cap must be positive", c->where);
        return SHARPI_OK;
    case SHARPI_OP_SELECT_ROWS:
        c->rows = SHARPI_ROWS_SELECTED;
        return SHARPI_OK;
    case SHARPI_OP_LOGITS:
        if (c->rows != SHARPI_ROWS_SELECTED)
            return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: its input must come through select_rows",
                               c->where);
        return check_weight(c, 0, c->width, c->graph->desc->n_vocab, 1);
    case SHARPI_OP_CUSTOM:
        c->width = ((const struct sharpi_custom_attr *)op->attr)->out_width;
        if (!((const struct sharpi_custom_attr *)op->attr)->compute)
            return sharpi_fail(c->err, SHARPI_EBUG, "%s: has no compute function", c->where);
        return c->width ? SHARPI_OK : fail_shape(c, "width", 0, 1);
    case SHARPI_OP_SLICE: {
        const struct sharpi_slice_attr *a = op->attr;
        if (a->width == 0 || (uint64_t)a->first + a->width > c->width)
            return fail_shape(c, "last column of the slice", (uint64_t)a->first + a->width, c->width);
        c->width = a->width;
        return SHARPI_OK;
    }
    case SHARPI_OP_ACTIVATION:
        return check_activation(c, ((const struct sharpi_activation_attr *)op->attr)->activation);
    default: /* tap */
        return SHARPI_OK;
    }
}

static int32_t check_inputs(struct check *c, const struct op_kind *kind)
{
    const struct sharpi_op *op = c->op;
    uint32_t i, n_in = 0;
    for (i = 0; i < SHARPI_OP_MAX_INPUTS; i++) {
        if (op->in[i] < 0)
            continue;
        if ((uint32_t)op->in[i] >= c->graph->n_values)
            return sharpi_fail(c->err, SHARPI_EBUG, "%s: input %u is value %d of %u", c->where, i, op->in[i],
                               c->graph->n_values);
        if (n_in++ != i)
            return sharpi_fail(c->err, SHARPI_EBUG, "%s: input %u is missing", c->where, i - 1);
        if (c->graph->values[op->in[i]]->rows != c->graph->values[op->in[0]]->rows)
            return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: mixes all rows with selected rows", c->where);
    }
    if (n_in < kind->min_in || n_in > kind->max_in)
        return sharpi_fail(c->err, SHARPI_EFORMAT, "%s: has %u inputs, must have %u to %u", c->where, n_in,
                           kind->min_in, kind->max_in);
    if (kind->has_weight == 1 && !op->w[0])
        return sharpi_fail(c->err, SHARPI_ENOENT, "%s: its tensor is missing from the file", c->where);
    if (kind->has_weight == 0 && op->w[0])
        return sharpi_fail(c->err, SHARPI_EBUG, "%s: takes no tensor", c->where);
    if (kind->attr_size && (!op->attr || *(const uint32_t *)op->attr < kind->attr_size))
        return sharpi_fail(c->err, SHARPI_EABI, "%s: its attributes are missing or from an older version",
                           c->where);
    return SHARPI_OK;
}

/* ---- Adding */

static int32_t grow(void ***array, uint32_t n, uint32_t *cap)
{
    uint32_t new_cap = *cap ? *cap * 2 : 256;
    void **bigger;
    if (n < *cap)
        return SHARPI_OK;
    bigger = realloc(*array, new_cap * sizeof *bigger);
    if (!bigger)
        return SHARPI_ENOMEM;
    *array = bigger;
    *cap = new_cap;
    return SHARPI_OK;
}

/* A copy of the attributes, a norm's group filled in and names made the graph's own. */
static void *copy_attr(const struct sharpi_op *op, uint32_t attr_size, uint32_t in_width)
{
    void *attr = calloc(1, attr_size);
    const char *name = NULL;
    size_t at = 0;
    if (!attr)
        return NULL;
    memcpy(attr, op->attr, attr_size);
    *(uint32_t *)attr = attr_size;
    if (op->kind == SHARPI_OP_RMS_NORM && ((struct sharpi_rms_norm_attr *)attr)->group == 0)
        ((struct sharpi_rms_norm_attr *)attr)->group = in_width;
    if (op->kind == SHARPI_OP_TAP) {
        name = ((const struct sharpi_tap_attr *)attr)->name;
        at = offsetof(struct sharpi_tap_attr, name);
    } else if (op->kind == SHARPI_OP_CUSTOM) {
        name = ((const struct sharpi_custom_attr *)attr)->name;
        at = offsetof(struct sharpi_custom_attr, name);
    }
    if (at) {
        char *own = strdup(name ? name : "?");
        if (!own) {
            free(attr);
            return NULL;
        }
        memcpy((char *)attr + at, &own, sizeof own);
    }
    return attr;
}

static int32_t append(struct sharpi_graph *graph, const struct check *c, uint32_t attr_size)
{
    struct sharpi_op *op = calloc(1, sizeof *op);
    struct sharpi_value *value = NULL;
    int32_t has_out = c->op->kind != SHARPI_OP_TAP && c->op->kind != SHARPI_OP_LOGITS;
    if (!op || grow((void ***)&graph->ops, graph->n_ops, &graph->cap_ops) ||
        grow((void ***)&graph->values, graph->n_values, &graph->cap_values))
        goto no_memory;
    memcpy(op, c->op, sizeof *op);
    op->size = (uint32_t)sizeof *op;
    op->attr = NULL;
    op->out = -1;
    if (attr_size) {
        op->attr = copy_attr(c->op, attr_size, op->in[0] >= 0 ? graph->values[op->in[0]]->width : 0);
        if (!op->attr)
            goto no_memory;
    }
    if (has_out) {
        value = calloc(1, sizeof *value);
        if (!value)
            goto no_memory;
        value->size = (uint32_t)sizeof *value;
        value->width = c->width;
        value->rows = c->rows;
        value->producer = value->last_use = (int32_t)graph->n_ops;
        op->out = (int32_t)graph->n_values;
        graph->values[graph->n_values++] = value;
    }
    graph->ops[graph->n_ops++] = op;
    return has_out ? op->out : 0;
no_memory:
    if (op)
        free((void *)(uintptr_t)op->attr);
    free(op);
    return sharpi_fail(c->err, SHARPI_ENOMEM, "no memory for a graph of %u ops", graph->n_ops + 1);
}

int32_t sharpi_graph_add(struct sharpi_graph *graph, const struct sharpi_op *op, struct sharpi_error *err)
{
    const struct op_kind *kind = op_kind(op->kind);
    struct check c = {.graph = graph, .op = op, .err = err, .rows = SHARPI_ROWS_TOKENS};
    int32_t n_layers = (int32_t)graph->desc->n_layers, status;
    if (!kind)
        return sharpi_fail(err, SHARPI_ENOTSUP, "op kind %d is not known to this version", op->kind);
    if (op->layer < 0)
        snprintf(c.where, sizeof c.where, "input: %s", kind->name);
    else if (op->layer >= n_layers)
        snprintf(c.where, sizeof c.where, "output: %s", kind->name);
    else
        snprintf(c.where, sizeof c.where, "layer %d: %s", op->layer, kind->name);
    if (graph->finished)
        return sharpi_fail(err, SHARPI_EBUG, "%s: added to a finished graph", c.where);
    if (op->size < sizeof *op)
        return sharpi_fail(err, SHARPI_EABI, "%s: op of %u bytes, must be %zu", c.where, op->size,
                           sizeof *op);
    if (op->layer < -1 || op->layer > n_layers ||
        (graph->n_ops && op->layer < graph->ops[graph->n_ops - 1]->layer))
        return sharpi_fail(err, SHARPI_EBUG, "%s: layers must not decrease", c.where);
    status = check_inputs(&c, kind);
    if (!status)
        status = check_op(&c);
    return status ? status : append(graph, &c, kind->attr_size);
}

/* ---- Finishing */

int32_t sharpi_graph_finish(struct sharpi_graph *graph, struct sharpi_error *err)
{
    uint32_t i, j, n_attention = 0;
    if (graph->n_ops == 0 || graph->ops[0]->kind != SHARPI_OP_EMBED)
        return sharpi_fail(err, SHARPI_EBUG, "a graph begins with embed");
    if (graph->ops[graph->n_ops - 1]->kind != SHARPI_OP_LOGITS)
        return sharpi_fail(err, SHARPI_EBUG, "a graph ends with logits");
    for (i = 0; i < graph->n_ops; i++) {
        const struct sharpi_op *op = graph->ops[i];
        if (op->kind == SHARPI_OP_ATTENTION) {
            const struct sharpi_attention_attr *a = op->attr;
            int32_t source = graph->desc->layers[a->layer].kv_source;
            if (a->kv_layer != (source < 0 ? a->layer : (uint32_t)source))
                return sharpi_fail(err, SHARPI_EBUG,
                                   "layer %u reads the cache of layer %u, its description says %d", a->layer,
                                   a->kv_layer, source);
            n_attention++;
        }
        for (j = 0; j < SHARPI_OP_MAX_INPUTS; j++) {
            if (op->in[j] >= 0)
                graph->values[op->in[j]]->last_use = (int32_t)i;
        }
    }
    if (n_attention != graph->desc->n_layers)
        return sharpi_fail(err, SHARPI_EBUG, "the graph has %u attention ops for %u layers", n_attention,
                           graph->desc->n_layers);
    graph->view = (struct sharpi_graph_view){
        .size = (uint32_t)sizeof graph->view,
        .n_ops = graph->n_ops,
        .n_values = graph->n_values,
        .n_layers = graph->desc->n_layers,
        .ops = (const struct sharpi_op *const *)graph->ops,
        .values = (const struct sharpi_value *const *)graph->values,
    };
    graph->finished = 1;
    return SHARPI_OK;
}

const struct sharpi_graph_view *sharpi_graph_view(const struct sharpi_graph *graph)
{
    return &graph->view;
}

/* ---- Looking at it */

static void tap_name(const struct sharpi_graph *graph, const struct sharpi_op *op, char *name, size_t n)
{
    const struct sharpi_tap_attr *a = op->attr;
    if (op->layer >= 0 && op->layer < (int32_t)graph->desc->n_layers)
        snprintf(name, n, "blk.%d.%s", op->layer, a->name);
    else
        snprintf(name, n, "%s", a->name);
}

int32_t sharpi_graph_tap(const struct sharpi_graph *graph, const char *name, struct sharpi_error *err)
{
    char candidate[128], best[128] = "";
    uint32_t i, distance, best_distance = UINT32_MAX;
    for (i = 0; i < graph->n_ops; i++) {
        if (graph->ops[i]->kind != SHARPI_OP_TAP)
            continue;
        tap_name(graph, graph->ops[i], candidate, sizeof candidate);
        if (strcmp(candidate, name) == 0)
            return graph->ops[i]->in[0];
        distance = sharpi_edit_distance(candidate, name);
        if (distance < best_distance) {
            best_distance = distance;
            memcpy(best, candidate, sizeof best);
        }
    }
    sharpi_fail(err, SHARPI_ENOENT, "no tap '%s' in this graph; nearest is '%s'; inspect --graph lists all",
                name, best);
    return -1;
}

static int32_t describe_attr(const struct sharpi_op *op, char *text, size_t n)
{
    switch (op->kind) {
    case SHARPI_OP_EMBED:
        return snprintf(text, n, " scale=%g", (double)((const struct sharpi_embed_attr *)op->attr)->scale);
    case SHARPI_OP_ROW_GATHER: {
        const struct sharpi_row_gather_attr *a = op->attr;
        return snprintf(text, n, " columns=%u..%u scale=%g", a->first, a->first + a->width, (double)a->scale);
    }
    case SHARPI_OP_RMS_NORM: {
        const struct sharpi_rms_norm_attr *a = op->attr;
        return snprintf(text, n, " group=%u eps=%g", a->group, (double)a->eps);
    }
    case SHARPI_OP_ROPE: {
        const struct sharpi_rope_attr *a = op->attr;
        return snprintf(text, n, " %s heads=%u dim=%u rot=%u theta=%g scale=%g%s",
                        a->mode == SHARPI_ROPE_NORM ? "norm" : "neox", a->n_heads, a->head_dim, a->n_rot,
                        (double)a->theta, (double)a->freq_scale, a->yarn_ext > 0.0f ? " yarn" : "");
    }
    case SHARPI_OP_ATTENTION: {
        const struct sharpi_attention_attr *a = op->attr;
        return snprintf(text, n, " kv_layer=%u heads=%u/%u dim=%u scale=%g window=%u softcap=%g", a->kv_layer,
                        a->n_heads, a->n_kv_heads, a->head_dim, (double)a->scale, a->window,
                        (double)a->softcap);
    }
    case SHARPI_OP_GLU:
        return snprintf(text, n, " activation=%d", ((const struct sharpi_glu_attr *)op->attr)->activation);
    case SHARPI_OP_ACTIVATION:
        return snprintf(text, n, " activation=%d",
                        ((const struct sharpi_activation_attr *)op->attr)->activation);
    case SHARPI_OP_MOE_FFN: {
        const struct sharpi_moe_attr *a = op->attr;
        return snprintf(text, n, " experts=%u used=%u ff=%u softmax_after=%u renormalize=%u", a->n_experts,
                        a->n_used, a->n_ff, a->softmax_after, a->renormalize);
    }
    case SHARPI_OP_SCALE:
        return snprintf(text, n, " scale=%g", (double)((const struct sharpi_scale_attr *)op->attr)->scale);
    case SHARPI_OP_SOFTCAP:
        return snprintf(text, n, " cap=%g", (double)((const struct sharpi_softcap_attr *)op->attr)->cap);
    case SHARPI_OP_LOGITS:
        return snprintf(text, n, " softcap=%g",
                        (double)((const struct sharpi_logits_attr *)op->attr)->softcap);
    case SHARPI_OP_SLICE: {
        const struct sharpi_slice_attr *a = op->attr;
        return snprintf(text, n, " columns=%u..%u", a->first, a->first + a->width);
    }
    case SHARPI_OP_CUSTOM:
        return snprintf(text, n, " name=%s", ((const struct sharpi_custom_attr *)op->attr)->name);
    default:
        return 0;
    }
}

int32_t sharpi_graph_describe_op(const struct sharpi_graph *graph, uint32_t index, char *line, uint64_t n)
{
    const struct sharpi_op *op = graph->ops[index];
    char inputs[64] = "", attr[160] = "", weights[600] = "", out[48] = "", tap[128] = "";
    uint32_t i;
    size_t used = 0;
    for (i = 0; i < SHARPI_OP_MAX_INPUTS && op->in[i] >= 0; i++)
        used += (size_t)snprintf(inputs + used, sizeof inputs - used, "%sv%d", i ? ", " : "", op->in[i]);
    for (i = 0, used = 0; i < SHARPI_OP_MAX_WEIGHTS; i++) {
        if (op->w[i] && used < sizeof weights - 1)
            used += (size_t)snprintf(weights + used, sizeof weights - used, " %s:%s", op->w[i]->name,
                                     sharpi_type_info(op->w[i]->type)->name);
    }
    describe_attr(op, attr, sizeof attr);
    if (op->kind == SHARPI_OP_TAP)
        tap_name(graph, op, tap, sizeof tap);
    if (op->out >= 0)
        snprintf(out, sizeof out, " -> v%d [%s, %u]", op->out,
                 graph->values[op->out]->rows == SHARPI_ROWS_TOKENS ? "T" : "R",
                 graph->values[op->out]->width);
    return snprintf(line, n, "%4u %3d %-11s (%s)%s%s%s%s%s", index, op->layer, sharpi_op_name(op->kind),
                    inputs, out, weights, attr, *tap ? " " : "", tap);
}

/* The share of n experts that somebody uses, where each of n_tokens uses `n_used` different ones: 1 - (1 - n_used / n)^n_tokens. */
static double share_in_use(uint64_t n, uint32_t n_used, uint32_t n_tokens)
{
    return n_used < n ? 1.0 - pow(1.0 - (double)n_used / (double)n, n_tokens) : 1.0;
}

void sharpi_graph_cost(const struct sharpi_graph *graph, uint32_t n_tokens, uint64_t *weight_bytes,
                       uint64_t *macs)
{
    uint32_t i, j;
    *weight_bytes = *macs = 0;
    for (i = 0; i < graph->n_ops; i++) {
        const struct sharpi_op *op = graph->ops[i];
        for (j = 0; j < SHARPI_OP_MAX_WEIGHTS; j++) {
            const struct sharpi_tensor *w = op->w[j];
            uint64_t n_used = 1;
            double share = 1.0;
            if (!w)
                continue;
            if (op->kind == SHARPI_OP_EMBED || op->kind == SHARPI_OP_ROW_GATHER) {
                *weight_bytes += n_tokens * sharpi_row_bytes(w->type, w->ne[0]);
                continue;
            }
            if (op->kind == SHARPI_OP_MOE_FFN && w->ne[2] > 1) {
                n_used = ((const struct sharpi_moe_attr *)op->attr)->n_used;
                share = share_in_use(w->ne[2], (uint32_t)n_used, n_tokens);
            }
            *weight_bytes += (uint64_t)((double)w->n_bytes * share + 0.5);
            if (w->n_dims >= 2)
                *macs += w->ne[0] * w->ne[1] * n_used;
        }
    }
}
