/* What changes between steps, on its way to the device: a pinned copy of the inputs, which a step's first launch (captured or
 * not) sends in one piece, and the page tables, of which only what changed since the last step is sent.
 */
#include "program.h"

/* The tokens' rows of a table, as they are in the file. */
static void gather_rows(struct sharpi_program *program, const struct gather *g,
                        const struct sharpi_batch *batch)
{
    const struct sharpi_type_info *type = sharpi_type_info(g->table->type);
    const uint64_t table_row = sharpi_row_bytes(g->table->type, g->table->ne[0]);
    const uint8_t *first = (const uint8_t *)g->table->data + g->first / type->block_elems * type->block_bytes;
    uint8_t *raw = program->host_inputs + g->raw;
    for (uint32_t t = 0; t < batch->n_tokens && batch->tokens; t++)
        memcpy(raw + t * g->row_bytes, first + (uint64_t)batch->tokens[t] * table_row, g->row_bytes);
}

static void stage_inputs(struct sharpi_program *program, const struct sharpi_batch *batch)
{
    const struct layout *l = &program->layout;
    uint8_t *inputs = program->host_inputs;
    struct step_head *head = (struct step_head *)(void *)(inputs + l->step);
    uint64_t bytes = batch->n_tokens * sizeof(int32_t);
    head->step.n_tokens = batch->n_tokens;
    head->step.n_seqs = batch->n_seqs;
    head->step.n_logits = batch->n_logits;
    if (batch->tokens)
        memcpy(inputs + l->tokens, batch->tokens, bytes);
    memcpy(inputs + l->positions, batch->positions, bytes);
    memcpy(inputs + l->seqs_of, batch->seqs_of, bytes);
    if (batch->n_logits)
        memcpy(inputs + l->logit_rows, batch->logit_rows, batch->n_logits * sizeof(int32_t));
    memcpy(inputs + l->seqs, batch->seqs, batch->n_seqs * sizeof *batch->seqs);
    for (uint32_t i = 0; i < program->n_gathers; i++)
        gather_rows(program, &program->gathers[i], batch);
}

/* Sends what differs from the device's copy of a sequence's row. */
static cudaError_t stage_row(struct sharpi_program *program, uint64_t offset, const int32_t *pages,
                             uint32_t n)
{
    int32_t *known = (int32_t *)(void *)(program->host_pages + offset);
    uint32_t first = 0, end = n;
    cudaError_t error;
    while (first < end && known[first] == pages[first])
        first++;
    while (end > first && known[end - 1] == pages[end - 1])
        end--;
    if (first == end)
        return cudaSuccess;
    memcpy(known + first, pages + first, (end - first) * sizeof *known);
    error = cudaMemcpyAsync(program->scratch + program->layout.pages + offset + first * sizeof *known,
                            known + first, (end - first) * sizeof *known, cudaMemcpyHostToDevice,
                            program->device->stream);
    if (error) /* nobody knows what is there now: no page has such a number */
        memset(known + first, 0x80, (end - first) * sizeof *known);
    return error;
}

static cudaError_t stage_pages(struct sharpi_program *program, const struct sharpi_batch *batch)
{
    const struct layout *l = &program->layout;
    cudaError_t error = cudaSuccess;
    for (uint32_t c = 0; c < program->n_classes && c < batch->n_classes; c++) {
        const struct sharpi_batch_class *class_of = &batch->classes[c];
        uint32_t n = class_of->stride < l->page_stride[c] ? class_of->stride : l->page_stride[c];
        for (uint32_t s = 0; s < batch->n_seqs && !error; s++)
            error = stage_row(program, l->class_pages[c] + (uint64_t)s * l->page_stride[c] * sizeof(int32_t),
                              class_of->pages + (uint64_t)s * class_of->stride, n);
    }
    return error;
}

int32_t batch_stage(struct sharpi_program *program, const struct sharpi_batch *batch,
                    const struct sharpi_run_io *io, struct sharpi_error *err)
{
    const struct sharpi_compile *request = &program->flow.request;
    cudaError_t error;
    stage_inputs(program, batch);
    for (uint32_t i = 0; i < request->n_carry_in; i++) {
        const struct cell *cell = &program->flow.cells[request->carry_in[i]];
        uint64_t rows = cell->rows == SHARPI_ROWS_SELECTED ? batch->n_logits : batch->n_tokens;
        memcpy(program->host_carry_in[i], io->carry_in[i], rows * cell->width * sizeof(float));
    }
    error = stage_pages(program, batch);
    if (!error && batch->embeddings && program->embedding_width)
        error = cudaMemcpyAsync(program->scratch + program->layout.embeddings, batch->embeddings,
                                batch->n_tokens * program->embedding_width * sizeof(float),
                                cudaMemcpyHostToDevice, program->device->stream);
    return error ? cuda_fail(err, (int)error, "sending the batch") : SHARPI_OK;
}
