/* One step of the engine: checks the batch, fills in what depends on it, and runs all steps in one parallel region. */
#include "run.h"

enum { LONG_PROMPT = 64 };

static void run_logit_cap(const struct run *run, const struct step *step, uint32_t ith, uint32_t nth)
{
    const struct sharpi_program *program = run->program;
    const struct node *node = &program->flow.nodes[program->flow.schedule[step->first]];
    const struct sharpi_logits_attr *attr = node->op->attr;
    uint64_t n = run->batch->n_logits * program->flow.n_vocab, first, end;
    const uint64_t piece =
        1024; /* a whole number of cache lines, and the same elements for any number of threads */
    thread_share((n + piece - 1) / piece, ith, nth, &first, &end);
    for (uint64_t i = first * piece; i < end * piece && i < n; i += piece)
        program->ops->softcap(run->io->logits + i, run->io->logits + i, attr->softcap,
                              (uint32_t)(n - i < piece ? n - i : piece));
}

static void run_step(struct run *run, uint32_t number, uint32_t ith, uint32_t nth)
{
    struct sharpi_program *program = run->program;
    struct step *step = &program->flow.steps[number];
    const struct node *node = &program->flow.nodes[program->flow.schedule[step->first]];
    if (step->kind == STEP_ROWS)
        run_row_step(run, step, ith, nth);
    else if (step->kind == STEP_MATMUL)
        matmul_run(&program->products[number].job, ith, nth, thread_scratch(program, ith));
    else if (node->kind == NODE_ATTENTION)
        attention_run(&program->attentions[node->index].job, ith, nth);
    else if (node->kind == NODE_EXPERTS)
        run_experts(run, &program->mixtures[node->index], &program->counters[2 * number], ith, nth);
    else /* NODE_LOGIT_CAP */
        run_logit_cap(run, step, ith, nth);
}

/* Steps over selected rows are left out of batches that select none. */
static int32_t is_empty(const struct run *run, const struct step *step)
{
    return step->kind != STEP_ROWS && run_rows(run, step->rows) == 0;
}

static void run_task(void *arg, uint32_t ith, uint32_t nth)
{
    struct run *run = arg;
    const struct sharpi_program *program = run->program;
    for (uint32_t i = 0; i < program->flow.n_steps; i++) {
        if (is_empty(run, &program->flow.steps[i]))
            continue;
        run_step(run, i, ith, nth);
        if (nth > 1 && i + 1 < program->flow.n_steps)
            program->flow.host->pool_barrier(program->device->pool);
    }
}

static void prepare(struct run *run)
{
    struct sharpi_program *program = run->program;
    memset(program->counters, 0, 2ull * program->flow.n_steps * sizeof *program->counters);
    for (uint32_t i = 0; i < program->flow.n_cells; i++) {
        if (program->flow.cells[i].place == PLACE_LOGITS)
            program->flow.cells[i].base = (uint8_t *)run->io->logits;
    }
    for (uint32_t s = 0; s < program->flow.n_steps; s++) {
        const struct step *step = &program->flow.steps[s];
        for (uint32_t i = 0; step->kind == STEP_MATMUL && i < step->n; i++) {
            const struct node *node = &program->flow.nodes[program->flow.schedule[step->first + i]];
            struct matmul_part *part = &program->parts[program->products[s].first_part + i];
            part->n_rows = run_rows(run, step->rows);
            part->out = (float *)(void *)program->flow.cells[node->out].base;
        }
        if (step->kind == STEP_SINGLE && step_node(&program->flow, step, 0)->kind == NODE_ATTENTION) {
            struct attention_job *job = &program->attentions[step_node(&program->flow, step, 0)->index].job;
            job->batch = run->batch;
            job->next = program->products[s].job.next;
        }
    }
}

/* A long prompt maps much of an embedding table, since the system maps whole neighbourhoods of a row. Rows of the next
 * tokens come back from the page cache; a table that a product reads in place stays. */
static void forget_tables(const struct sharpi_program *program)
{
    for (uint32_t i = 0; i < program->flow.n_nodes; i++) {
        const struct node *node = &program->flow.nodes[i];
        uint32_t w = 0;
        if (node->kind != NODE_EMBED && node->kind != NODE_ROW_GATHER)
            continue;
        while (w < program->n_weights &&
               (program->weights[w].tensor != node->op->w[0] || program->weights[w].packed_bytes))
            w++;
        if (w == program->n_weights)
            file_forget(node->op->w[0]->data, node->op->w[0]->n_bytes);
    }
}

int32_t cpu_run(struct sharpi_program *program, const struct sharpi_batch *batch,
                const struct sharpi_run_io *io, struct sharpi_error *err)
{
    struct run run = {.program = program, .batch = batch, .io = io};
    int32_t status;
    if (!program->loaded)
        return sharpi_fail(err, SHARPI_EBUG, "the program is not loaded");
    if ((status = batch_check(&program->flow, batch, io, err)))
        return status;
    prepare(&run);
    program->flow.host->pool_run(program->device->pool, run_task, &run);
    if (batch->n_tokens >= LONG_PROMPT)
        forget_tables(program);
    if (run.status)
        return sharpi_fail(err, run.status, "a custom op of the architecture failed with status %d",
                           run.status);
    return SHARPI_OK;
}
