/* Second stage of compiling: nodes into steps.
 *
 * The first node that is not yet scheduled decides what comes next. A row node opens a row step and draws in the row nodes
 * that can follow it without waiting for other rows; a product draws in other products of the same input. Anything drawn
 * in from further down keeps to the data flow: it was ready, so the order among steps stays correct.
 */
#include "flow.h"

/* How many nodes ahead are looked at: about two layers. */
#define WINDOW 64u

uint32_t node_reads(const struct node *node, int32_t cells[NODE_MAX_CELLS])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < SHARPI_OP_MAX_INPUTS; i++) {
        if (node->in[i] >= 0)
            cells[n++] = node->in[i];
    }
    if (node->residual >= 0)
        cells[n++] = node->residual;
    return n;
}

uint32_t node_writes(const struct node *node, int32_t cells[NODE_MAX_CELLS])
{
    uint32_t n = 0;
    if (node->out >= 0)
        cells[n++] = node->out;
    for (uint32_t i = 0; i < FLOW_MAX_HELPERS; i++) {
        if (node->helpers[i] >= 0)
            cells[n++] = node->helpers[i];
    }
    return n;
}

static struct cell *root_of(const struct flow *flow, int32_t cell)
{
    return &flow->cells[flow->cells[cell].parent];
}

/* True if the node may run in step `step`: its inputs come from earlier steps or, for row nodes, row by row from this one. */
static int32_t is_ready(const struct flow *flow, const struct node *node, int32_t step, int32_t *continues)
{
    int32_t cells[NODE_MAX_CELLS];
    uint32_t n = node_reads(node, cells);
    *continues = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct cell *cell = root_of(flow, cells[i]);
        int32_t row_by_row = node_is_row(flow, node) && node->kind != NODE_SELECT && !cell->is_shared;
        if (cell->place == PLACE_INPUT)
            continue;
        if (cell->made_step < 0 || cell->made_step > step || (cell->made_step == step && !row_by_row))
            return 0;
        *continues |= cell->made_step == step;
    }
    return 1;
}

static void schedule_node(struct flow *flow, uint32_t number, int32_t step)
{
    struct node *node = &flow->nodes[number];
    int32_t cells[NODE_MAX_CELLS];
    uint32_t n = node_writes(node, cells);
    node->step = step;
    for (uint32_t i = 0; i < n; i++) {
        root_of(flow, cells[i])->made_step = step;
        root_of(flow, cells[i])->row_made = node_is_row(flow, node);
    }
    flow->schedule[flow->n_scheduled++] = (int32_t)number;
}

static int32_t step_add(struct flow *flow, int32_t kind, const struct node *node, struct sharpi_error *err)
{
    struct step *step;
    int32_t cell = node->out >= 0 ? node->out : node->in[0];
    int32_t status = flow_grow(flow, &flow->steps, flow->n_steps, &flow->cap_steps, sizeof *step, err);
    if (status)
        return status;
    step = &flow->steps[flow->n_steps++];
    memset(step, 0, sizeof *step);
    step->kind = kind;
    step->rows = flow->cells[cell].rows;
    step->first = flow->n_scheduled;
    memset(step->act, -1, sizeof step->act);
    return SHARPI_OK;
}

static int32_t node_rows(const struct flow *flow, const struct node *node)
{
    return flow->cells[node->out >= 0 ? node->out : node->in[0]].rows;
}

/* ---- Row steps */

/* Nodes that touch a common cell belong to one chain; `chain` is [step->n] numbers of a node of the chain. */
static void find_chains(struct flow *flow, const struct step *step, uint32_t number, int32_t *chain)
{
    const int32_t *nodes = flow->schedule + step->first;
    for (uint32_t i = 0; i < step->n; i++) {
        const struct node *node = &flow->nodes[nodes[i]];
        int32_t cells[2 * NODE_MAX_CELLS];
        uint32_t n = node_reads(node, cells);
        chain[i] = (int32_t)i;
        if (node->kind == NODE_SELECT)
            n = 0;
        n += node_writes(node, cells + n);
        for (uint32_t c = 0; c < n; c++) {
            struct cell *cell = root_of(flow, cells[c]);
            if (cell->is_shared)
                continue;
            if (cell->chain_step == (int32_t)number + 1) {
                int32_t old = chain[i], joined = chain[cell->chain];
                for (uint32_t j = 0; j <= i; j++)
                    chain[j] = chain[j] == old ? joined : chain[j];
            }
            cell->chain_step = (int32_t)number + 1;
            cell->chain = (int32_t)i;
        }
    }
}

/* Sorts the step's nodes by chain, keeping their order inside one, and lists the chains. */
static int32_t make_chains(struct flow *flow, uint32_t number, struct sharpi_error *err)
{
    struct step *step = &flow->steps[number];
    int32_t chain[WINDOW], sorted[WINDOW];
    uint32_t n = 0;
    find_chains(flow, step, number, chain);
    step->first_chain = flow->n_chains;
    for (uint32_t i = 0; i < step->n; i++) {
        struct chain *made;
        int32_t wanted = chain[i], status;
        if (wanted < 0)
            continue;
        status = flow_grow(flow, &flow->chains, flow->n_chains, &flow->cap_chains, sizeof *made, err);
        if (status)
            return status;
        made = &flow->chains[flow->n_chains++];
        made->first = step->first + n;
        made->rows = node_rows(flow, &flow->nodes[flow->schedule[step->first + i]]);
        for (uint32_t j = i; j < step->n; j++) {
            if (chain[j] == wanted) {
                sorted[n++] = flow->schedule[step->first + j];
                chain[j] = -1;
            }
        }
        made->n = step->first + n - made->first;
    }
    memcpy(flow->schedule + step->first, sorted, n * sizeof *sorted);
    step->n_chains = flow->n_chains - step->first_chain;
    return SHARPI_OK;
}

/* A later layer's node is drawn in only if it goes on with this step's values: looking rows up or copying them long
 * before they are needed would only take memory. */
static int32_t belongs(const struct flow *flow, const struct node *first, const struct node *node,
                       int32_t number)
{
    int32_t continues;
    if (node->step >= 0 || !node_is_row(flow, node) || !is_ready(flow, node, number, &continues))
        return 0;
    return node == first || continues || node->layer == first->layer;
}

static int32_t schedule_rows(struct flow *flow, uint32_t first, struct sharpi_error *err)
{
    uint32_t number = flow->n_steps, end = flow->n_nodes;
    int32_t status = step_add(flow, STEP_ROWS, &flow->nodes[first], err);
    if (status)
        return status;
    if (end - first > WINDOW)
        end = first + WINDOW;
    for (uint32_t i = first; i < end; i++) {
        if (belongs(flow, &flow->nodes[first], &flow->nodes[i], (int32_t)number))
            schedule_node(flow, i, (int32_t)number);
    }
    flow->steps[number].n = flow->n_scheduled - flow->steps[number].first;
    return make_chains(flow, number, err);
}

/* ---- Products */

/* True if node `number` adds into a cell that an earlier node, which is not yet done or in this step, still reads. */
static int32_t residual_is_busy(const struct flow *flow, uint32_t first, uint32_t number, int32_t step)
{
    const struct node *node = &flow->nodes[number];
    for (uint32_t i = first; i < number && node->residual >= 0; i++) {
        const struct node *other = &flow->nodes[i];
        int32_t cells[NODE_MAX_CELLS];
        uint32_t n = node_reads(other, cells);
        if (other->step >= 0 && other->step < step)
            continue;
        for (uint32_t c = 0; c < n; c++) {
            if (flow->cells[cells[c]].parent == flow->cells[node->residual].parent)
                return 1;
        }
    }
    return 0;
}

static void set_inputs(struct step *step, const struct node *product)
{
    uint32_t n = 0;
    for (uint32_t f = 0; f < FLOW_MAX_FORMATS; f++) {
        if (product->formats >> f & 1)
            step->act[f] = product->in[n++];
    }
}

static int32_t schedule_products(struct flow *flow, uint32_t first, struct sharpi_error *err)
{
    const struct node *lead = &flow->nodes[first];
    uint32_t number = flow->n_steps, end = flow->n_nodes;
    struct step *step;
    int32_t continues, status = step_add(flow, STEP_MATMUL, lead, err);
    if (status)
        return status;
    step = &flow->steps[number];
    if (end - first > WINDOW)
        end = first + WINDOW;
    for (uint32_t i = first; i < end; i++) {
        const struct node *node = &flow->nodes[i];
        if (node->kind != NODE_MATMUL || node->step >= 0 || node->index != lead->index)
            continue;
        if (i != first && (!is_ready(flow, node, (int32_t)number, &continues) ||
                           residual_is_busy(flow, first, i, (int32_t)number)))
            continue;
        set_inputs(step, node);
        schedule_node(flow, i, (int32_t)number);
    }
    step->n = flow->n_scheduled - step->first;
    flow->n_parts += step->n;
    return SHARPI_OK;
}

/* ---- The rest */

static int32_t schedule_single(struct flow *flow, uint32_t first, struct sharpi_error *err)
{
    const struct node *node = &flow->nodes[first];
    int32_t status = step_add(flow, STEP_SINGLE, node, err);
    if (status)
        return status;
    schedule_node(flow, first, (int32_t)flow->n_steps - 1);
    flow->steps[flow->n_steps - 1].n = 1;
    return SHARPI_OK;
}

int32_t flow_schedule(struct flow *flow, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    flow->schedule = flow_alloc(flow, flow->n_nodes, sizeof *flow->schedule, err);
    if (!flow->schedule)
        return SHARPI_ENOMEM;
    for (uint32_t i = 0; i < flow->n_cells; i++)
        flow->cells[i].made_step = -1;
    for (uint32_t i = 0; i < flow->n_nodes && !status; i++) {
        const struct node *node = &flow->nodes[i];
        int32_t continues;
        if (node->step >= 0)
            continue;
        if (!is_ready(flow, node, (int32_t)flow->n_steps, &continues))
            return sharpi_fail(
                err, SHARPI_EBUG,
                "layer %d: an op reads a value that is neither made nor carried into its range", node->layer);
        if (node_is_row(flow, node))
            status = schedule_rows(flow, i, err);
        else if (node->kind == NODE_MATMUL)
            status = schedule_products(flow, i, err);
        else
            status = schedule_single(flow, i, err);
    }
    return status;
}
