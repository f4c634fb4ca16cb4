/* The end of a step: rows of logits or their best candidates, from the device's buffer to the caller.
 *
 * The device holds program->logits_rows rows at a time; steps that want more are served in pieces.
 */
#include "program.h"

int launch_logits(const struct run *run, const struct launch *launch, uint32_t first, uint32_t n,
                  const int32_t *count)
{
    const struct sharpi_program *program = run->program;
    struct matmul_args args = launch->product;
    int error;
    for (uint32_t f = 0; f < ACT_COUNT; f++) {
        if (args.act[f])
            args.act[f] = (const uint8_t *)args.act[f] + first * args.act_stride[f];
    }
    /* The rows are in the format of all of them together: a last piece of few rows must not want another one. `count` is
     * what is computed. */
    args.n_rows = run->n_logits > MATMUL_GEMV_ROWS && n <= MATMUL_GEMV_ROWS ? MATMUL_GEMV_ROWS + 1 : n;
    args.n_rows_dev = count;
    args.stream = run->stream;
    error = matmul_launch(&args);
    if (!error && launch->steps[0] && run->wants_rows) {
        struct rows_batch batch = run_rows_batch(program);
        batch.n_rows[SHARPI_ROWS_SELECTED] = count;
        error = rows_step_launch(launch->steps[0], &batch, n, program->device->n_sms,
                                 program->device->overlap, run->stream);
    }
    return error;
}

static cudaError_t send_best(const struct run *run, uint32_t n, const int32_t *count)
{
    const struct sharpi_program *program = run->program;
    const struct cell *cell = &program->flow.cells[program->flow.logits_cell];
    uint8_t *best = program->scratch + program->layout.best;
    uint64_t values = (uint64_t)n * run->n_best;
    struct topk_job job = {.logits = (const float *)(const void *)cell->base,
                           .stride = cell->stride,
                           .n_vocab = (uint32_t)program->flow.n_vocab,
                           .k = run->n_best,
                           .softcap = run->wants_rows ? 0.0f : program->softcap, /* else done already */
                           .ids = (int32_t *)(void *)best,
                           .values = (float *)(void *)best + values,
                           .lse = (float *)(void *)best + 2 * values,
                           .workspace = program->scratch + program->layout.topk};
    cudaError_t error = (cudaError_t)topk_launch(&job, count, n, program->device->overlap, run->stream);
    return error ? error
                 : cudaMemcpyAsync(program->host_best, best, best_bytes(n, run->n_best),
                                   cudaMemcpyDeviceToHost, run->stream);
}

static cudaError_t send_rows(const struct run *run, uint32_t n)
{
    const struct flow *flow = &run->program->flow;
    const struct cell *cell = &flow->cells[flow->logits_cell];
    uint64_t bytes = flow->n_vocab * sizeof(float);
    return cudaMemcpy2DAsync(run->program->host_logits, bytes, cell->base, cell->stride, bytes, n,
                             cudaMemcpyDeviceToHost, run->stream);
}

int32_t send_logits(const struct run *run, uint32_t n, const int32_t *count, struct sharpi_error *err)
{
    cudaError_t error = run->n_best ? send_best(run, n, count) : cudaSuccess;
    if (!error && run->wants_rows)
        error = send_rows(run, n);
    return error ? cuda_fail(err, (int)error,
                             run->n_best ? "finding the best candidates" : "copying the logits")
                 : SHARPI_OK;
}

void deliver_logits(const struct run *run, const struct sharpi_run_io *io, uint32_t first, uint32_t n,
                    uint32_t bound)
{
    const struct sharpi_program *program = run->program;
    const uint64_t n_vocab = program->flow.n_vocab, k = run->n_best;
    const int32_t *ids = (const int32_t *)(const void *)program->host_best;
    const float *values = (const float *)(const void *)program->host_best + bound * k;
    if (run->wants_rows)
        memcpy(io->logits + first * n_vocab, program->host_logits, n * n_vocab * sizeof(float));
    if (!k)
        return;
    memcpy(io->best_ids + first * k, ids, n * k * sizeof *ids);
    memcpy(io->best_logits + first * k, values, n * k * sizeof *values);
    memcpy(io->best_log_sum + first, values + bound * k, n * sizeof *values);
}
