/* Launches of a mixture: routing, then gate and up, activation, down. Few tokens: pairs in token order, each pair reading its
 * expert. More: pairs sorted by expert.
 */
#include "program.h"

static int32_t *ints(const struct sharpi_program *program, uint64_t offset)
{
    return (int32_t *)(void *)(program->scratch + offset);
}

static const float *vector_data(const struct sharpi_program *program, int32_t vector)
{
    return vector >= 0 ? program->flow.vectors[vector].data : NULL;
}

struct moe_route run_route_args(const struct run *run, const struct launch *launch)
{
    const struct sharpi_program *program = run->program;
    const struct layout *l = &program->layout;
    const struct mixture *m = &program->mixtures[launch->index];
    const struct cell *logits = &program->flow.cells[m->logits];
    struct moe_route route = {.n_experts = m->attr->n_experts,
                              .n_used = m->attr->n_used,
                              .softmax_after = m->attr->softmax_after,
                              .renormalize = m->attr->renormalize,
                              .weight_scale = m->attr->weight_scale,
                              .logits = (const float *)(const void *)logits->base,
                              .logits_stride = logits->stride,
                              .bias = vector_data(program, m->bias),
                              .expert_scale = vector_data(program, m->scale),
                              .experts = ints(program, l->moe_experts),
                              .weights = (float *)(void *)(program->scratch + l->moe_weights),
                              .slots = ints(program, l->moe_slots),
                              .source = ints(program, l->moe_source),
                              .starts = ints(program, l->moe_starts),
                              .workspace = l->moe_bytes ? program->scratch + l->moe_workspace : NULL};
    return route;
}

int run_route(const struct run *run, const struct launch *launch)
{
    const struct sharpi_program *program = run->program;
    const struct moe_route route = run_route_args(run, launch);
    return moe_route_launch(&route, run_rows_batch(program).n_rows[SHARPI_ROWS_TOKENS], run->n_tokens,
                            program->device->overlap, run->stream);
}

/* Arguments that all products of the mixture have in common. */
static struct matmul_grouped_args grouped_args(const struct run *run, const struct mixture *m, int32_t sorted)
{
    const struct sharpi_program *program = run->program;
    const struct layout *l = &program->layout;
    struct matmul_grouped_args args = {.ctx = program->device->matmul,
                                       .n_parts = 1,
                                       .n_pairs = run->n_tokens * m->attr->n_used,
                                       .n_pairs_dev = ints(program, l->moe_starts) + m->attr->n_experts,
                                       .sorted = sorted,
                                       .workspace = program->scratch + l->matmul,
                                       .workspace_bytes = l->matmul_bytes,
                                       .stream = run->stream};
    if (sorted)
        args.starts = ints(program, l->moe_starts);
    else
        args.expert_of = ints(program, l->moe_experts);
    return args;
}

static int run_part(const struct run *run, const struct mixture *m, const struct cuda_matrix *matrix,
                    int32_t sorted, int32_t out)
{
    const struct flow *flow = &run->program->flow;
    struct matmul_grouped_args args = grouped_args(run, m, sorted);
    const struct cell *input = &flow->cells[m->input[matmul_grouped_act_format(matrix, sorted)]];
    args.act = input->base;
    args.act_stride = input->stride;
    args.in_divisor = m->attr->n_used;
    args.in_rows = sorted ? ints(run->program, run->program->layout.moe_source) : NULL;
    args.part[0].w = matrix;
    args.part[0].out = (float *)(void *)flow->cells[out].base;
    args.part[0].out_stride = m->hidden_row / sizeof(float);
    return matmul_grouped_launch(&args);
}

static struct matmul_grouped_args glu_args(const struct run *run, const struct mixture *m, int32_t sorted)
{
    const struct flow *flow = &run->program->flow;
    struct matmul_grouped_args args = grouped_args(run, m, sorted);
    const struct cell *input = &flow->cells[m->input[matmul_grouped_act_format(&m->gate, sorted)]];
    args.act = input->base;
    args.act_stride = input->stride;
    args.in_divisor = m->attr->n_used;
    args.in_rows = sorted ? ints(run->program, run->program->layout.moe_source) : NULL;
    args.n_parts = 2;
    args.glu = m->attr->activation;
    args.part[0].w = &m->gate;
    args.part[1].w = &m->up;
    args.part[0].out = (float *)(void *)flow->cells[m->hidden].base;
    args.part[0].out_stride = m->hidden_row / sizeof(float);
    return args;
}

static struct matmul_grouped_args down_args(const struct run *run, const struct mixture *m, int32_t sorted)
{
    const struct flow *flow = &run->program->flow;
    struct matmul_grouped_args args = grouped_args(run, m, sorted);
    enum act_format format = matmul_grouped_act_format(&m->down, sorted);
    args.act = format == ACT_F32 ? flow->cells[m->hidden].base : flow->cells[m->hidden_act[format]].base;
    args.act_stride = format == ACT_F32 ? m->hidden_row : m->act_row[format];
    args.in_divisor = 1;
    args.part[0].w = &m->down;
    args.part[0].out = (float *)(void *)flow->cells[m->output].base;
    args.part[0].out_stride = m->out_row / sizeof(float);
    return args;
}

/* Whether gate, up and activation are one launch. */
static int32_t fuses_glu(const struct mixture *m, int32_t sorted)
{
    return matmul_grouped_act_format(&m->gate, sorted) == matmul_grouped_act_format(&m->up, sorted) &&
           matmul_grouped_can_glu(&m->gate, &m->up, sorted);
}

int32_t run_experts_args(const struct run *run, const struct launch *launch, struct sequence_experts *experts)
{
    const struct mixture *m = &run->program->mixtures[launch->index];
    experts->up = glu_args(run, m, 0);
    experts->down = down_args(run, m, 0);
    return fuses_glu(m, 0);
}

int run_experts(const struct run *run, const struct launch *launch)
{
    const struct sharpi_program *program = run->program;
    const struct mixture *m = &program->mixtures[launch->index];
    int32_t sorted = experts_sorted(run->n_tokens);
    int32_t fused = fuses_glu(m, sorted);
    const struct rows_step *step = launch->steps[fused];
    struct matmul_grouped_args args;
    int error = 0;
    if (fused) {
        args = glu_args(run, m, sorted);
        error = matmul_grouped_launch(&args);
    } else {
        error = run_part(run, m, &m->gate, sorted, m->hidden);
        if (!error)
            error = run_part(run, m, &m->up, sorted, m->hidden_up);
    }
    if (!error && step) {
        struct rows_batch batch = run_rows_batch(program);
        error = rows_step_launch(step, &batch, run->n_tokens, program->device->n_sms,
                                 program->device->overlap, run->stream);
    }
    args = down_args(run, m, sorted);
    return error ? error : matmul_grouped_launch(&args);
}
