/* Which tensors a graph uses where, and what a range of its segments weighs. */
#include "plan-internal.h"

#include <stdlib.h>

static int32_t use_of(const struct sharpi_op *op)
{
    switch (op->kind) {
    case SHARPI_OP_EMBED:
    case SHARPI_OP_ROW_GATHER:
        return SHARPI_USE_GATHER;
    case SHARPI_OP_MOE_FFN:
        return SHARPI_USE_EXPERT; /* router and scales go with the op */
    default:
        return SHARPI_USE_PLAIN;
    }
}

static int compare(const void *a, const void *b)
{
    const struct sharpi_plan_weight *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->tensor, q = (uintptr_t)y->tensor;
    if (p != q)
        return p < q ? -1 : 1;
    return x->segment < y->segment ? -1 : x->segment > y->segment;
}

int32_t sharpi_plan_weights_init(struct sharpi_plan_weights *weights, const struct sharpi_graph_view *graph,
                                 struct sharpi_error *err)
{
    uint32_t n = 0, i, k;
    weights->n = 0;
    weights->items = calloc((size_t)graph->n_ops * SHARPI_OP_MAX_WEIGHTS + 1, sizeof *weights->items);
    if (!weights->items)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to plan for %u ops", graph->n_ops);
    for (i = 0; i < graph->n_ops; i++) {
        const struct sharpi_op *op = graph->ops[i];
        for (k = 0; k < SHARPI_OP_MAX_WEIGHTS; k++) {
            if (op->w[k])
                weights->items[n++] =
                    (struct sharpi_plan_weight){op->w[k], (uint32_t)(op->layer + 1), use_of(op)};
        }
    }
    weights->n = n;
    qsort(weights->items, n, sizeof *weights->items, compare);
    return SHARPI_OK;
}

void sharpi_plan_weights_finish(struct sharpi_plan_weights *weights)
{
    free(weights->items);
    weights->items = NULL;
    weights->n = 0;
}

/* Experts of layer s - 1 stay on the host. */
static int32_t is_host_expert(const struct sharpi_plan_weight *w, uint32_t n_expert_layers)
{
    return w->use == SHARPI_USE_EXPERT && w->segment >= 1 && w->segment - 1 < n_expert_layers;
}

enum {
    HELD = 1,        /* in segments [first, end), other than as a host's expert */
    HOST_EXPERT = 2, /* anywhere */
    LOOKED_UP = 4,   /* in segments [first, end) */
    LOOKED_UP_BEFORE = 8,
};

/* How the tensor of item *i is used, seen from segments [first, end). Moves *i to the next tensor. */
static uint32_t uses_of(const struct sharpi_plan_weights *weights, uint32_t *i, uint32_t first, uint32_t end,
                        uint32_t n_expert_layers)
{
    const struct sharpi_tensor *tensor = weights->items[*i].tensor;
    uint32_t uses = 0;
    for (; *i < weights->n && weights->items[*i].tensor == tensor; ++*i) {
        const struct sharpi_plan_weight *w = &weights->items[*i];
        const int32_t within = w->segment >= first && w->segment < end;
        if (w->use == SHARPI_USE_GATHER)
            uses |= within ? LOOKED_UP : w->segment < first ? LOOKED_UP_BEFORE : 0;
        else if (is_host_expert(w, n_expert_layers))
            uses |= HOST_EXPERT;
        else
            uses |= within ? HELD : 0;
    }
    return uses;
}

uint64_t sharpi_plan_device_weights(const struct sharpi_plan_weights *weights, uint32_t first, uint32_t end,
                                    uint32_t n_expert_layers)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < weights->n;) {
        const uint64_t n_bytes = weights->items[i].tensor->n_bytes;
        if (uses_of(weights, &i, first, end, n_expert_layers) & HELD)
            sum = sharpi_plan_add(sum, n_bytes);
    }
    return sum;
}

uint64_t sharpi_plan_host_weights(const struct sharpi_plan_weights *weights, uint32_t first,
                                  uint32_t n_expert_layers, uint64_t *mapped)
{
    uint64_t sum = 0;
    *mapped = 0;
    for (uint32_t i = 0; i < weights->n;) {
        const uint64_t n_bytes = weights->items[i].tensor->n_bytes;
        const uint32_t uses = uses_of(weights, &i, first, UINT32_MAX, n_expert_layers);
        if (uses & (HELD | HOST_EXPERT))
            sum = sharpi_plan_add(sum, n_bytes);
        else if (uses)
            *mapped = sharpi_plan_add(*mapped, n_bytes);
    }
    return sum;
}

uint64_t sharpi_plan_tables_again(const struct sharpi_plan_weights *weights, uint32_t first, uint32_t end)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < weights->n;) {
        const uint64_t n_bytes = weights->items[i].tensor->n_bytes;
        const uint32_t uses = uses_of(weights, &i, first, end, 0);
        if (uses & LOOKED_UP && uses & LOOKED_UP_BEFORE)
            sum = sharpi_plan_add(sum, n_bytes);
    }
    return sum;
}
