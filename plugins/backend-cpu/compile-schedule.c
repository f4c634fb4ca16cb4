/* Second stage of compiling: nodes into steps.
 *
 * The first node that is not yet scheduled decides what comes next. A row node opens a row step and draws in the row nodes
 * that can follow it without waiting for other rows; a product draws in other products of the same input. Anything drawn
 * in from further down keeps to the data flow: it was ready, so the order among steps stays correct.
 */
#include "compile.h"

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

uint32_t node_writes(const struct sharpi_program *program, const struct node *node,
                     int32_t cells[NODE_MAX_CELLS])
{
    uint32_t n = 0;
    if (node->out >= 0)
        cells[n++] = node->out;
    if (node->kind == NODE_EXPERTS) {
        const struct mixture *m = &program->mixtures[node->index];
        cells[n++] = m->hidden;
        cells[n++] = m->hidden_act;
        cells[n++] = m->slots;
        cells[n++] = m->source;
        cells[n++] = m->iota;
    }
    return n;
}

static struct cell *root_of(const struct sharpi_program *program, int32_t cell)
{
    return &program->cells[program->cells[cell].parent];
}

/* True if the node may run in step `step`: its inputs come from earlier steps or, for row nodes, row by row from this one. */
static int32_t is_ready(const struct sharpi_program *program, const struct node *node, int32_t step,
                        int32_t *continues)
{
    int32_t cells[NODE_MAX_CELLS];
    uint32_t n = node_reads(node, cells);
    *continues = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct cell *cell = root_of(program, cells[i]);
        int32_t row_by_row = node_is_row(node) && node->kind != NODE_SELECT && !cell->is_shared;
        if (cell->made_step < 0 || cell->made_step > step || (cell->made_step == step && !row_by_row))
            return 0;
        *continues |= cell->made_step == step;
    }
    return 1;
}

static void schedule_node(struct sharpi_program *program, uint32_t number, int32_t step)
{
    struct node *node = &program->nodes[number];
    int32_t cells[NODE_MAX_CELLS];
    uint32_t n = node_writes(program, node, cells);
    node->step = step;
    for (uint32_t i = 0; i < n; i++) {
        root_of(program, cells[i])->made_step = step;
        root_of(program, cells[i])->row_made = node_is_row(node);
    }
    program->schedule[program->n_scheduled++] = (int32_t)number;
}

static int32_t step_add(struct sharpi_program *program, int32_t kind, const struct node *node,
                        struct sharpi_error *err)
{
    struct step *step;
    int32_t cell = node->out >= 0 ? node->out : node->in[0];
    int32_t status =
        program_grow(program, &program->steps, program->n_steps, &program->cap_steps, sizeof *step, err);
    if (status)
        return status;
    step = &program->steps[program->n_steps++];
    memset(step, 0, sizeof *step);
    step->kind = kind;
    step->rows = program->cells[cell].rows;
    step->first = program->n_scheduled;
    memset(step->act, -1, sizeof step->act);
    return SHARPI_OK;
}

static int32_t node_rows(const struct sharpi_program *program, const struct node *node)
{
    return program->cells[node->out >= 0 ? node->out : node->in[0]].rows;
}

/* ---- Row steps */

/* Nodes that touch a common cell belong to one chain; `chain` is [step->n] numbers of a node of the chain. */
static void find_chains(struct sharpi_program *program, const struct step *step, uint32_t number,
                        int32_t *chain)
{
    const int32_t *nodes = program->schedule + step->first;
    for (uint32_t i = 0; i < step->n; i++) {
        const struct node *node = &program->nodes[nodes[i]];
        int32_t cells[2 * NODE_MAX_CELLS];
        uint32_t n = node_reads(node, cells);
        chain[i] = (int32_t)i;
        if (node->kind == NODE_SELECT)
            n = 0;
        n += node_writes(program, node, cells + n);
        for (uint32_t c = 0; c < n; c++) {
            struct cell *cell = root_of(program, cells[c]);
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
static int32_t make_chains(struct sharpi_program *program, uint32_t number, struct sharpi_error *err)
{
    struct step *step = &program->steps[number];
    int32_t chain[WINDOW], sorted[WINDOW];
    uint32_t n = 0;
    find_chains(program, step, number, chain);
    step->first_chain = program->n_chains;
    for (uint32_t i = 0; i < step->n; i++) {
        struct chain *made;
        int32_t wanted = chain[i], status;
        if (wanted < 0)
            continue;
        status = program_grow(program, &program->chains, program->n_chains, &program->cap_chains,
                              sizeof *made, err);
        if (status)
            return status;
        made = &program->chains[program->n_chains++];
        made->first = step->first + n;
        made->rows = node_rows(program, &program->nodes[program->schedule[step->first + i]]);
        for (uint32_t j = i; j < step->n; j++) {
            if (chain[j] == wanted) {
                sorted[n++] = program->schedule[step->first + j];
                chain[j] = -1;
            }
        }
        made->n = step->first + n - made->first;
    }
    memcpy(program->schedule + step->first, sorted, n * sizeof *sorted);
    step->n_chains = program->n_chains - step->first_chain;
    return SHARPI_OK;
}

/* A later layer's node is drawn in only if it goes on with this step's values: looking rows up or copying them long
 * before they are needed would only take memory. */
static int32_t belongs(const struct sharpi_program *program, const struct node *first,
                       const struct node *node, int32_t number)
{
    int32_t continues;
    if (node->step >= 0 || !node_is_row(node) || !is_ready(program, node, number, &continues))
        return 0;
    return node == first || continues || node->layer == first->layer;
}

static int32_t schedule_rows(struct sharpi_program *program, uint32_t first, struct sharpi_error *err)
{
    uint32_t number = program->n_steps, end = program->n_nodes;
    int32_t status = step_add(program, STEP_ROWS, &program->nodes[first], err);
    if (status)
        return status;
    if (end - first > WINDOW)
        end = first + WINDOW;
    for (uint32_t i = first; i < end; i++) {
        if (belongs(program, &program->nodes[first], &program->nodes[i], (int32_t)number))
            schedule_node(program, i, (int32_t)number);
    }
    program->steps[number].n = program->n_scheduled - program->steps[number].first;
    return make_chains(program, number, err);
}

/* ---- Products */

/* True if node `number` adds into a cell that an earlier node, which is not yet done or in this step, still reads. */
static int32_t residual_is_busy(const struct sharpi_program *program, uint32_t first, uint32_t number,
                                int32_t step)
{
    const struct node *node = &program->nodes[number];
    for (uint32_t i = first; i < number && node->residual >= 0; i++) {
        const struct node *other = &program->nodes[i];
        int32_t cells[NODE_MAX_CELLS];
        uint32_t n = node_reads(other, cells);
        if (other->step >= 0 && other->step < step)
            continue;
        for (uint32_t c = 0; c < n; c++) {
            if (program->cells[cells[c]].parent == program->cells[node->residual].parent)
                return 1;
        }
    }
    return 0;
}

static int32_t schedule_products(struct sharpi_program *program, uint32_t first, struct sharpi_error *err)
{
    const struct node *lead = &program->nodes[first];
    uint32_t number = program->n_steps, end = program->n_nodes;
    struct step *step;
    int32_t continues, status = step_add(program, STEP_MATMUL, lead, err);
    if (status)
        return status;
    step = &program->steps[number];
    if (end - first > WINDOW)
        end = first + WINDOW;
    for (uint32_t i = first; i < end; i++) {
        const struct node *node = &program->nodes[i];
        int32_t act;
        if (node->kind != NODE_MATMUL || node->step >= 0 || node->index != lead->index)
            continue;
        if (i != first && (!is_ready(program, node, (int32_t)number, &continues) ||
                           residual_is_busy(program, first, i, (int32_t)number)))
            continue;
        act = (int32_t)program->weights[node->weight].matrices[0].act;
        step->act[act] = node->in[0];
        schedule_node(program, i, (int32_t)number);
    }
    step->n = program->n_scheduled - step->first;
    program->n_parts += step->n;
    return SHARPI_OK;
}

/* ---- The rest */

static int32_t schedule_single(struct sharpi_program *program, uint32_t first, struct sharpi_error *err)
{
    const struct node *node = &program->nodes[first];
    int32_t kind = node->kind == NODE_ATTENTION ? STEP_ATTENTION
                   : node->kind == NODE_EXPERTS ? STEP_EXPERTS
                                                : STEP_LOGIT_CAP;
    int32_t status = step_add(program, kind, node, err);
    if (status)
        return status;
    schedule_node(program, first, (int32_t)program->n_steps - 1);
    program->steps[program->n_steps - 1].n = 1;
    return SHARPI_OK;
}

int32_t compile_schedule(struct sharpi_program *program, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    program->schedule = program_alloc(program, program->n_nodes, sizeof *program->schedule, err);
    if (!program->schedule)
        return SHARPI_ENOMEM;
    for (uint32_t i = 0; i < program->n_cells; i++)
        program->cells[i].made_step = -1;
    for (uint32_t i = 0; i < program->n_nodes && !status; i++) {
        const struct node *node = &program->nodes[i];
        int32_t continues;
        if (node->step >= 0)
            continue;
        if (!is_ready(program, node, (int32_t)program->n_steps, &continues))
            return sharpi_fail(
                err, SHARPI_EBUG,
                "layer %d: an op reads a value that is neither made nor carried into its range", node->layer);
        if (node_is_row(node))
            status = schedule_rows(program, i, err);
        else if (node->kind == NODE_MATMUL)
            status = schedule_products(program, i, err);
        else
            status = schedule_single(program, i, err);
    }
    return status;
}
