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

/* End of the items that share the tensor of item `i`. */
static uint32_t end_of_tensor(const struct sharpi_plan_weights *weights, uint32_t i)
{
    uint32_t end = i + 1;
    while (end < weights->n && weights->items[end].tensor == weights->items[i].tensor)
        end++;
    return end;
}

/* Experts of layer s - 1 stay on the host. */
static int32_t is_host_expert(const struct sharpi_plan_weight *w, uint32_t n_expert_layers)
{
    return w->use == SHARPI_USE_EXPERT && w->segment >= 1 && w->segment - 1 < n_expert_layers;
}

uint64_t sharpi_plan_device_weights(const struct sharpi_plan_weights *weights, uint32_t first, uint32_t end,
                                    uint32_t n_expert_layers)
{
    uint64_t sum = 0;
    for (uint32_t i = 0, next; i < weights->n; i = next) {
        int32_t used = 0;
        next = end_of_tensor(weights, i);
        for (uint32_t k = i; k < next; k++) {
            const struct sharpi_plan_weight *w = &weights->items[k];
            used |= w->use != SHARPI_USE_GATHER && w->segment >= first && w->segment < end &&
                    !is_host_expert(w, n_expert_layers);
        }
        if (used)
            sum = sharpi_plan_add(sum, weights->items[i].tensor->n_bytes);
    }
    return sum;
}

uint64_t sharpi_plan_host_weights(const struct sharpi_plan_weights *weights, uint32_t first,
                                  uint32_t n_expert_layers, uint64_t *mapped)
{
    uint64_t sum = 0;
    *mapped = 0;
    for (uint32_t i = 0, next; i < weights->n; i = next) {
        int32_t used = 0, gathered = 0;
        next = end_of_tensor(weights, i);
        for (uint32_t k = i; k < next; k++) {
            const struct sharpi_plan_weight *w = &weights->items[k];
            gathered |= w->use == SHARPI_USE_GATHER;
            used |=
                w->use != SHARPI_USE_GATHER && (w->segment >= first || is_host_expert(w, n_expert_layers));
        }
        if (used)
            sum = sharpi_plan_add(sum, weights->items[i].tensor->n_bytes);
        else if (gathered)
            *mapped = sharpi_plan_add(*mapped, weights->items[i].tensor->n_bytes);
    }
    return sum;
}

uint64_t sharpi_plan_tables_again(const struct sharpi_plan_weights *weights, uint32_t first, uint32_t end)
{
    uint64_t sum = 0;
    for (uint32_t i = 0, next; i < weights->n; i = next) {
        int32_t before = 0, within = 0;
        next = end_of_tensor(weights, i);
        for (uint32_t k = i; k < next; k++) {
            const struct sharpi_plan_weight *w = &weights->items[k];
            before |= w->use == SHARPI_USE_GATHER && w->segment < first;
            within |= w->use == SHARPI_USE_GATHER && w->segment >= first && w->segment < end;
        }
        if (before && within)
            sum = sharpi_plan_add(sum, weights->items[i].tensor->n_bytes);
    }
    return sum;
}
