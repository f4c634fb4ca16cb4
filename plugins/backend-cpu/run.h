/* Running a program: what the files of the executor share. All threads run all steps, with a barrier after each. */
#ifndef SHARPI_BACKEND_CPU_RUN_H
#define SHARPI_BACKEND_CPU_RUN_H

#include "program.h"

/* One run in flight. */
struct run {
    struct sharpi_program *program;
    const struct sharpi_batch *batch;
    const struct sharpi_run_io *io;
    int32_t status; /* first failure of a custom op (atomic) */
};

static inline uint8_t *thread_scratch(const struct sharpi_program *program, uint32_t ith)
{
    return program->scratch + program->flow.arena_bytes + program->attention_bytes +
           ith * program->thread_bytes;
}

static inline uint32_t run_rows(const struct run *run, int32_t rows)
{
    return rows == SHARPI_ROWS_SELECTED ? run->batch->n_logits : run->batch->n_tokens;
}

static inline uint8_t *cell_row(const struct cell *cell, uint8_t *local, uint32_t row)
{
    return cell->place == PLACE_LOCAL ? local + cell->offset : cell->base + row * cell->stride;
}

/* This thread's part [*first, *end) of n things. */
static inline void thread_share(uint64_t n, uint32_t ith, uint32_t nth, uint64_t *first, uint64_t *end)
{
    *first = n * ith / nth;
    *end = n * (ith + 1) / nth;
}

/* run-rows.c */
/* Chains of row nodes; with few rows the pairs of chain and row are dealt out one by one. */
void run_row_step(struct run *run, const struct step *step, uint32_t ith, uint32_t nth);

/* run-moe.c */
void route_row(const struct sharpi_moe_attr *attr, const float *logits, const float *expert_scale,
               void *routing);
void combine_row(const struct run *run, const struct mixture *mixture, float *out, uint32_t token);
void run_experts(struct run *run, struct mixture *mixture, uint32_t *counters, uint32_t ith, uint32_t nth);

#endif
