/* Which launches are one kernel when a step has one row: runs of products and row steps over the tokens' rows.
 *
 * Invariant: a sequence does exactly what its launches do, in their order; with more rows they are launched one by one.
 */
#include "program.h"

/* 1: the launch became stages of the sequence, or is nothing to do for one row; 0: it must be launched. */
static int append(struct sequence *sequence, const struct run *one_row, const struct launch *launch)
{
    const struct rows_batch batch = run_rows_batch(one_row->program);
    struct matmul_args product;
    struct moe_route route;
    struct sequence_experts experts;
    const struct rows_step *step;
    if (launch->rows != SHARPI_ROWS_TOKENS)
        return 0;
    if (launch->kind == LAUNCH_MATMUL) {
        product = run_product(one_row, launch);
        return sequence_add_product(sequence, &product);
    }
    if (launch->kind == LAUNCH_ROUTE) {
        route = run_route_args(one_row, launch);
        return sequence_add_route(sequence, &route);
    }
    if (launch->kind == LAUNCH_EXPERTS)
        return run_experts_args(one_row, launch, &experts) && sequence_add_experts(sequence, &experts);
    if (launch->kind != LAUNCH_ROWS)
        return 0;
    step = run_rows_step(one_row, launch);
    return step ? sequence_add_rows(sequence, step, &batch) : 1;
}

/* As many launches from `first` on as are one sequence, but none from `end` on. */
static uint32_t gather_until(struct sequence *sequence, const struct run *one_row, uint32_t first,
                             uint32_t end, uint32_t *n_products)
{
    const struct sharpi_program *program = one_row->program;
    uint32_t i = first;
    *n_products = 0;
    sequence_begin(sequence, program->device->matmul);
    while (i < end && append(sequence, one_row, &program->launches[i]))
        *n_products += program->launches[i++].kind == LAUNCH_MATMUL;
    return i - first;
}

static int is_nothing(const struct run *one_row, const struct launch *launch)
{
    return launch->kind == LAUNCH_ROWS && !run_rows_step(one_row, launch);
}

/* The longest sequence that begins with launch `first` and ends with one that does something: the number of its launches, products
 * among them. */
static uint32_t gather(struct sequence *sequence, const struct run *one_row, uint32_t first,
                       uint32_t *n_products)
{
    uint32_t n = gather_until(sequence, one_row, first, one_row->program->n_launches, n_products);
    while (!sequence_is_whole(sequence))
        n = gather_until(sequence, one_row, first, first + n - 1, n_products);
    while (n && is_nothing(one_row, &one_row->program->launches[first + n - 1]))
        n--;
    return n;
}

/* The last step that reads these codes, or the norm's row that they are made of. */
static int32_t last_reader(const struct flow *flow, const struct step *step, const struct node *quantize)
{
    const struct cell *cells = flow->cells;
    int32_t last = cells[cells[quantize->out].parent].last_step;
    for (uint32_t i = 0; i < step->n; i++) {
        const struct node *node = step_node(flow, step, i);
        const int32_t row = node->out >= 0 ? cells[cells[node->out].parent].last_step : -1;
        if (node->kind == NODE_RMS_NORM && node->out == quantize->in[0] && row > last)
            last = row;
    }
    return last;
}

/* Whether all that read what these launches' row steps make for products are among them. */
static int is_closed(const struct sharpi_program *program, uint32_t first, uint32_t n)
{
    const struct flow *flow = &program->flow;
    const struct launch *launches = program->launches, *end = &launches[first + n];
    const int32_t is_cut = first + n < program->n_launches && end->step == end[-1].step;
    for (const struct launch *l = &launches[first]; l < end; l++) {
        const struct step *step = &flow->steps[l->step];
        for (uint32_t i = 0; l->kind == LAUNCH_ROWS && i < step->n; i++) {
            const struct node *node = step_node(flow, step, i);
            if (node->kind == NODE_QUANTIZE && last_reader(flow, step, node) > end[-1].step - is_cut)
                return 0;
        }
    }
    return 1;
}

int32_t sequences_make(struct sharpi_program *program, struct sharpi_error *err)
{
    const struct run one_row = {
        .program = program, .n_tokens = 1, .n_logits = 1, .n_seqs = 1, .max_seq_tokens = 1};
    struct sequence *sequence = NULL;
    uint32_t n = 1, n_products;
    for (uint32_t i = 0; i < program->n_launches; i += n) {
        if (!sequence)
            sequence = flow_alloc(&program->flow, 1, sequence_bytes(), err);
        if (!sequence)
            return SHARPI_ENOMEM;
        n = gather(sequence, &one_row, i, &n_products);
        if (n >= 2 && n_products && sequence_end(sequence, is_closed(program, i, n))) {
            program->launches[i].sequence = sequence;
            program->launches[i].n_sequence = n;
            sequence = NULL;
        }
        n = n ? n : 1;
    }
    if (sequence)
        program->device->host->free(program->device->host, sequence);
    return SHARPI_OK;
}
