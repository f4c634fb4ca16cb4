/* Which values are used where, and which linears end in an add: y = x + linear(h) adds into x's memory if x is not needed
 * afterwards, so that the residual stream is read and written once.
 */
#include "flow.h"

void find_uses(struct lowering *lowering)
{
    const struct sharpi_compile *request = &lowering->flow->request;
    for (uint32_t i = request->first_op; i < request->end_op; i++) {
        const struct sharpi_op *op = lowering->graph->ops[i];
        if (op->kind == SHARPI_OP_TAP)
            continue;
        for (uint32_t k = 0; k < SHARPI_OP_MAX_INPUTS; k++) {
            if (op->in[k] < 0)
                continue;
            lowering->uses[op->in[k]].n++;
            lowering->uses[op->in[k]].last = (int32_t)i;
            lowering->uses[op->in[k]].is_sliced |= op->kind == SHARPI_OP_SLICE;
        }
    }
    for (uint32_t i = 0; i < request->n_taps; i++)
        lowering->uses[request->taps[i]].is_external = 1;
    for (uint32_t i = 0; i < request->n_carry_out; i++)
        lowering->uses[request->carry_out[i]].is_external = 1;
}

/* True if `product` can be added into `into` by op number `add`: the product is read by nobody else, and nobody needs `into`
 * after the add, itself or through a slice. */
static int32_t can_absorb(const struct lowering *lowering, int32_t product, int32_t into, uint32_t add)
{
    const struct sharpi_compile *request = &lowering->flow->request;
    const struct value_use *uses = lowering->uses;
    int32_t maker = lowering->graph->values[product]->producer;
    int32_t into_maker = lowering->graph->values[into]->producer;
    if (maker < (int32_t)request->first_op || maker >= (int32_t)add || product == into)
        return 0;
    if (lowering->graph->ops[maker]->kind != SHARPI_OP_LINEAR || lowering->graph->ops[maker]->in[0] == into)
        return 0;
    if (uses[product].n != 1 || uses[product].is_external)
        return 0;
    if (uses[into].last != (int32_t)add || uses[into].is_sliced)
        return 0;
    if (into_maker >= 0 && lowering->graph->ops[into_maker]->kind == SHARPI_OP_ROW_GATHER)
        return 0; /* it may be an input, which has no storage to take over */
    return into_maker < 0 || lowering->graph->ops[into_maker]->kind != SHARPI_OP_SLICE;
}

void find_absorbed(struct lowering *lowering)
{
    const struct sharpi_compile *request = &lowering->flow->request;
    for (uint32_t i = request->first_op; i < request->end_op; i++) {
        const struct sharpi_op *op = lowering->graph->ops[i];
        int32_t a = op->in[0], b = op->in[1];
        if (op->kind != SHARPI_OP_ADD)
            continue;
        if (can_absorb(lowering, b, a, i))
            lowering->absorbed_by[lowering->graph->values[b]->producer] = (int32_t)i;
        else if (can_absorb(lowering, a, b, i))
            lowering->absorbed_by[lowering->graph->values[a]->producer] = (int32_t)i;
    }
}
