/* The experts of a mixture: token-expert pairs sorted by expert, one product per expert over its rows, and the weighted sum.
 *
 * The order of everything is fixed by the routing alone (experts ascending, tokens ascending, then each token's experts in the
 * order of their choice), so results do not depend on threads.
 */
#include "run.h"

static void choose_experts(const struct sharpi_moe_attr *attr, const float *score, int32_t *expert,
                           float *value)
{
    uint32_t n = 0;
    for (uint32_t e = 0; e < attr->n_experts; e++) {
        uint32_t at = n;
        while (at > 0 && (score[e] > value[at - 1])) /* a tie stays behind the lower number */
            at--;
        if (at == attr->n_used)
            continue;
        n = n < attr->n_used ? n + 1 : n;
        for (uint32_t i = n - 1; i > at; i--) {
            expert[i] = expert[i - 1];
            value[i] = value[i - 1];
        }
        expert[at] = (int32_t)e;
        value[at] = score[e];
    }
}

/* The softmax over all experts keeps their order, so the chosen are the same before and after it. */
void route_row(const struct sharpi_moe_attr *attr, const float *logits, const float *expert_scale,
               void *routing)
{
    int32_t *expert = routing;
    float *weight = (float *)(void *)(expert + attr->n_used), greatest, sum = 0, chosen = 0;
    choose_experts(attr, logits, expert, weight);
    greatest = weight[0];
    for (uint32_t e = 0; e < attr->n_experts && !attr->softmax_after; e++)
        sum += expf(logits[e] - greatest);
    for (uint32_t j = 0; j < attr->n_used; j++) {
        weight[j] = expf(weight[j] - greatest);
        chosen += weight[j];
    }
    if (attr->softmax_after || attr->renormalize)
        sum = chosen;
    for (uint32_t j = 0; j < attr->n_used; j++) {
        weight[j] = weight[j] / sum * attr->weight_scale;
        if (expert_scale)
            weight[j] *= expert_scale[expert[j]];
    }
}

static uint8_t *base_of(const struct run *run, int32_t cell)
{
    return run->program->flow.cells[cell].base;
}

static const int32_t *routing_of(const struct run *run, const struct mixture *m, uint32_t token)
{
    const struct cell *cell = &run->program->flow.cells[m->routing];
    return (const int32_t *)(const void *)(cell->base + token * cell->stride);
}

static int32_t *slots_of(const struct run *run, const struct mixture *m, uint32_t token)
{
    const struct cell *cell = &run->program->flow.cells[m->slots];
    return (int32_t *)(void *)(cell->base + token * cell->stride);
}

/* Counting sort of all (token, choice) pairs by expert. */
static void sort_rows(const struct run *run, const struct mixture *m)
{
    uint32_t n_used = m->attr->n_used, n = run->batch->n_tokens;
    int32_t *source = (int32_t *)(void *)base_of(run, m->source),
            *iota = (int32_t *)(void *)base_of(run, m->iota);
    memset(m->starts, 0, (m->attr->n_experts + 1ull) * sizeof *m->starts);
    for (uint32_t t = 0; t < n; t++) {
        const int32_t *expert = routing_of(run, m, t);
        for (uint32_t j = 0; j < n_used; j++)
            m->starts[expert[j] + 1]++;
    }
    for (uint32_t e = 0; e < m->attr->n_experts; e++)
        m->starts[e + 1] += m->starts[e];
    for (uint32_t t = 0; t < n; t++) {
        const int32_t *expert = routing_of(run, m, t);
        int32_t *slots = slots_of(run, m, t);
        for (uint32_t j = 0; j < n_used; j++) {
            uint32_t row = m->starts[expert[j]]++;
            slots[j] = (int32_t)row;
            source[row] = (int32_t)t;
            iota[row] = (int32_t)row;
        }
    }
    /* each start has moved to its end, which is the next one's start */
    memmove(m->starts + 1, m->starts, m->attr->n_experts * sizeof *m->starts);
    m->starts[0] = 0;
}

static struct matmul_part part_of(const struct run *run, int32_t weight, uint32_t expert,
                                  const int32_t *in_rows, uint8_t *out, uint64_t stride)
{
    struct matmul_part part = {.w = &run->program->weights[weight].matrices[expert],
                               .in_rows = in_rows,
                               .out = (float *)(void *)out,
                               .out_stride = stride / sizeof(float),
                               .epilogue = MATMUL_STORE};
    return part;
}

/* The products into `hidden`: a row is gate then up. */
static void plan_up(const struct run *run, struct mixture *m, uint32_t *counter)
{
    const int32_t *source = (const int32_t *)(const void *)base_of(run, m->source);
    uint32_t n = 0;
    for (uint32_t e = 0; e < m->attr->n_experts; e++) {
        uint32_t first = m->starts[e], count = m->starts[e + 1] - first, n_before = n;
        uint8_t *out = base_of(run, m->hidden) + first * m->hidden_row;
        if (count == 0)
            continue;
        if (m->gate_up >= 0) {
            m->parts[n++] = part_of(run, m->gate_up, e, source + first, out, m->hidden_row);
        } else {
            m->parts[n++] = part_of(run, m->gate, e, source + first, out, m->hidden_row);
            m->parts[n++] =
                part_of(run, m->up, e, source + first, out + m->attr->n_ff * sizeof(float), m->hidden_row);
        }
        for (uint32_t i = n_before; i < n; i++)
            m->parts[i].n_rows = count;
    }
    for (uint32_t f = 0; f < ACT_COUNT; f++) {
        if (m->input[f] >= 0) {
            m->up_job.act[f] = base_of(run, m->input[f]);
            m->up_job.act_stride[f] = run->program->flow.cells[m->input[f]].stride;
        }
    }
    m->up_job.parts = m->parts;
    m->up_job.n_parts = n;
    m->up_job.next = counter;
}

static void plan_down(const struct run *run, struct mixture *m, uint32_t *counter)
{
    const int32_t *iota = (const int32_t *)(const void *)base_of(run, m->iota);
    enum act_format format = run->program->weights[m->down].matrices[0].act;
    uint32_t n = 0;
    for (uint32_t e = 0; e < m->attr->n_experts; e++) {
        uint32_t first = m->starts[e], count = m->starts[e + 1] - first;
        if (count == 0)
            continue;
        m->parts[n] =
            part_of(run, m->down, e, iota + first, base_of(run, m->output) + first * m->out_row, m->out_row);
        m->parts[n++].n_rows = count;
    }
    m->down_job.act[format] = base_of(run, m->hidden_act);
    m->down_job.act_stride[format] = m->act_row;
    m->down_job.parts = m->parts;
    m->down_job.n_parts = n;
    m->down_job.next = counter;
}

/* act(gate) * up of this thread's expert rows, in down's format. */
static void activate_rows(const struct run *run, const struct mixture *m, uint32_t ith, uint32_t nth)
{
    const struct sharpi_program *program = run->program;
    enum act_format format = program->weights[m->down].matrices[0].act;
    uint64_t first, end;
    thread_share((uint64_t)run->batch->n_tokens * m->attr->n_used, ith, nth, &first, &end);
    for (uint64_t r = first; r < end; r++) {
        float *hidden = (float *)(void *)(base_of(run, m->hidden) + r * m->hidden_row);
        program->ops->glu(hidden, hidden, hidden + m->attr->n_ff, m->attr->n_ff, m->attr->activation);
        act_quantize(program->device->isa, format, base_of(run, m->hidden_act) + r * m->act_row, hidden,
                     m->attr->n_ff);
    }
}

static void barrier(const struct run *run, uint32_t nth)
{
    if (nth > 1)
        run->program->flow.host->pool_barrier(run->program->device->pool);
}

void run_experts(struct run *run, struct mixture *m, uint32_t *counters, uint32_t ith, uint32_t nth)
{
    void *scratch = thread_scratch(run->program, ith);
    if (ith == 0) {
        sort_rows(run, m);
        plan_up(run, m, &counters[0]);
    }
    barrier(run, nth);
    matmul_run(&m->up_job, ith, nth, scratch);
    barrier(run, nth);
    if (ith == 0)
        plan_down(run, m, &counters[1]);
    activate_rows(run, m, ith, nth);
    barrier(run, nth);
    matmul_run(&m->down_job, ith, nth, scratch);
}

void combine_row(const struct run *run, const struct mixture *m, float *out, uint32_t token)
{
    const float *weight = (const float *)(const void *)(routing_of(run, m, token) + m->attr->n_used);
    const int32_t *slots = slots_of(run, m, token);
    for (uint32_t j = 0; j < m->attr->n_used; j++) {
        const float *row =
            (const float *)(const void *)(base_of(run, m->output) + (uint64_t)slots[j] * m->out_row);
        if (j == 0)
            run->program->ops->scale(out, row, weight[j], m->width);
        else
            run->program->ops->add_scaled(out, row, weight[j], m->width);
    }
}
