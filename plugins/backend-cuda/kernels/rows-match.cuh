/* Which steps have a fused kernel (rows-fused.cuh), and with what parameters. Anything that does not fit exactly is left to the
 * chain kernel.
 */
#ifndef SHARPI_BACKEND_CUDA_ROWS_MATCH_CUH
#define SHARPI_BACKEND_CUDA_ROWS_MATCH_CUH

#include "rows-fused.cuh"

/* The ops of a chain that run in this launch. */
struct match_chain {
    const rows_dev_op *ops[ROWS_MAX_OPS];
    uint32_t n, at;
};

struct match_launch {
    const struct rows_step *step;
    fused_rows rows;
    uint32_t n_rows; /* factor counted in */
};

static uint32_t divide_up(uint64_t a, uint32_t b)
{
    return (uint32_t)((a + b - 1) / b);
}

static match_chain chain_of(const struct rows_step *step, uint32_t number, uint32_t n_rows)
{
    const rows_plan_chain *chain = &step->chains[number];
    match_chain m;
    m.n = m.at = 0;
    for (uint32_t i = 0; i < chain->n_ops; i++) {
        const rows_dev_op *op = &step->ops[chain->first_op + i];
        if (n_rows >= op->min_rows && n_rows <= op->max_rows)
            m.ops[m.n++] = op;
    }
    return m;
}

/* The next op if it is of this kind, takes the last result (or memory, if it is the first) and can be moved by fours. */
static const rows_dev_op *next_op(const match_chain *m, int kind)
{
    const rows_dev_op *op = m->at < m->n ? m->ops[m->at] : NULL;
    uint8_t aligned = ROWS_ALIGNED_IN0 | ROWS_ALIGNED_IN1 | ROWS_ALIGNED_OUT;
    if (!op || op->kind != kind || op->sync || (op->aligned & aligned) != aligned || op->width % 4 ||
        op->width != m->ops[0]->width || op->store & ROWS_STORE_SHARED)
        return NULL;
    if (op->vector && op->kind != ROW_SCALE && !(op->aligned & ROWS_ALIGNED_VECTOR))
        return NULL;
    return op->source0 == (m->at == 0 ? ROWS_MEMORY : ROWS_ACC) ? op : NULL;
}

/* A format at the end of a chain. */
static const rows_dev_op *last_format(match_chain *m)
{
    const rows_dev_op *op = next_op(m, ROW_QUANTIZE);
    if (op)
        m->at++;
    return op;
}

/* ---- Norms */

static const rows_dev_op *row_norm(const match_chain *m)
{
    const rows_dev_op *op = next_op(m, ROW_RMS_NORM);
    return op && op->group == op->width ? op : NULL;
}

static void match_residual(match_chain *m, norms_params *p)
{
    const rows_dev_op *op = row_norm(m);
    if (op && !op->store && m->at + 1 < m->n && m->ops[m->at + 1]->kind == ROW_ADD) {
        p->has_norm1 = 1;
        p->weight1 = op->vector;
        p->eps1 = op->eps;
        m->at++;
    }
    op = next_op(m, ROW_ADD);
    if (op && op->source1 == ROWS_MEMORY) {
        p->add = op->in1;
        p->add_stride = op->stride1;
        p->sum = op->store ? op->out : NULL;
        p->sum_stride = op->stride_out;
        m->at++;
    }
    op = next_op(m, ROW_SCALE);
    if (op && !p->sum) {
        p->has_scale = 1;
        p->scale = op->scale;
        p->scale_by = op->vector;
        p->sum = op->store ? op->out : NULL;
        p->sum_stride = op->stride_out;
        m->at++;
    }
}

static bool match_norms_chain(const match_launch *l, uint32_t number, norms_params *p)
{
    match_chain m = chain_of(l->step, number, l->n_rows / l->step->rows_factor);
    const rows_dev_op *op;
    if (m.n == 0)
        return false;
    *p = {};
    p->rows = l->rows;
    p->width = m.ops[0]->width;
    p->chunks = p->width / 4;
    p->in = m.ops[0]->in0;
    p->in_stride = m.ops[0]->stride0;
    op = next_op(&m, ROW_COMBINE);
    if (op && !op->store) {
        p->n_used = op->n;
        p->slots = (const int32_t *)op->extra;
        p->weights = op->weights;
        m.at++;
    }
    match_residual(&m, p);
    op = row_norm(&m);
    if (op) {
        p->has_norm2 = 1;
        p->weight2 = op->vector;
        p->eps2 = op->eps;
        p->out = op->store ? op->out : NULL;
        p->out_stride = op->stride_out;
        m.at++;
    }
    if (!p->has_norm1 && !p->has_norm2)
        return false;
    op = last_format(&m);
    if (op) {
        p->codes = op->out;
        p->codes_stride = op->stride_out;
        p->format = op->format;
    }
    return m.at == m.n && p->chunks <= 8192;
}

static bool match_norms(const match_launch *l, norms_params *p)
{
    return l->step->n_chains == 1 && match_norms_chain(l, 0, p);
}

/* ---- Heads */

/* A second norm of the chain's input, after all else. */
static void match_second_norm(match_chain *m, const rows_dev_op *norm, const rows_dev_op *last,
                              heads_chain *c)
{
    const rows_dev_op *op = m->at < m->n ? m->ops[m->at] : NULL;
    if (!op || !norm || op->kind != ROW_RMS_NORM || op->sync || op->source0 != ROWS_MEMORY ||
        op->in0 != norm->in0 || op->stride0 != norm->stride0 || op->width != norm->width ||
        op->group != norm->group || op->eps != norm->eps || op->store != ROWS_STORE_MEMORY ||
        !(op->aligned & ROWS_ALIGNED_OUT) || (op->vector && !(op->aligned & ROWS_ALIGNED_VECTOR)))
        return;
    c->out2 = op->out;
    c->out2_stride = op->stride_out;
    c->weight2 = op->vector;
    m->at++;
}

static bool match_heads_chain(match_chain *m, uint32_t *head_dim, heads_chain *c)
{
    const rows_dev_op *norm = next_op(m, ROW_RMS_NORM), *turn, *last;
    m->at += norm ? 1 : 0;
    turn = next_op(m, ROW_ROPE);
    m->at += turn ? 1 : 0;
    last = turn ? turn : norm;
    match_second_norm(m, norm, last, c);
    if (!last || m->at != m->n || !last->store || (turn && turn->n != turn->group) ||
        (norm && turn && norm->group != turn->group) || (*head_dim && *head_dim != last->group))
        return false;
    if (norm && turn && norm->store && (norm->out != turn->out || norm->stride_out != turn->stride_out))
        return false;
    *head_dim = last->group;
    c->in = m->ops[0]->in0;
    c->in_stride = m->ops[0]->stride0;
    c->out = last->out;
    c->out_stride = last->stride_out;
    c->n_heads = last->width / last->group;
    c->has_norm = norm != NULL;
    c->weight = norm ? norm->vector : NULL;
    c->eps = norm ? norm->eps : 0.0f;
    c->table = turn ? turn->in1 : NULL;
    c->table_stride = turn ? turn->stride1 : 0;
    c->is_neox = turn && turn->mode == SHARPI_ROPE_NEOX;
    return true;
}

/* One chain may be norms instead. */
static bool match_heads(const match_launch *l, heads_params *p, uint32_t *head_dim)
{
    *p = {};
    p->rows = l->rows;
    p->n_rows = l->n_rows;
    *head_dim = 0;
    for (uint32_t c = 0; c < l->step->n_chains; c++) {
        match_chain m = chain_of(l->step, c, l->n_rows / l->step->rows_factor);
        heads_chain chain = {};
        if (m.n && match_heads_chain(&m, head_dim, &chain))
            p->chains[p->n_chains++] = chain;
        else if (!p->has_norms && match_norms_chain(l, c, &p->norms) && !p->norms.n_used &&
                 p->norms.chunks <= HEADS_NORMS)
            p->has_norms = 1;
        else
            return false;
    }
    return *head_dim == 64 || *head_dim == 128 || *head_dim == 256 || *head_dim == 512;
}

/* ---- Glu */

static bool match_glu(const match_launch *l, glu_params *p)
{
    match_chain m = chain_of(l->step, 0, l->n_rows / l->step->rows_factor);
    const rows_dev_op *op;
    if (l->step->n_chains != 1 || m.n == 0)
        return false;
    *p = {};
    p->rows = l->rows;
    p->width = m.ops[0]->width;
    p->chunks = p->width / 4;
    p->gate = m.ops[0]->in0;
    p->gate_stride = m.ops[0]->stride0;
    op = next_op(&m, ROW_GLU);
    if (op && op->source1 == ROWS_MEMORY) {
        p->up = op->in1;
        p->up_stride = op->stride1;
        p->activation = op->activation;
        p->limit = op->limit;
        p->out = op->store ? op->out : NULL;
        p->out_stride = op->stride_out;
        m.at++;
    }
    op = last_format(&m);
    if (op) {
        p->codes = op->out;
        p->codes_stride = op->stride_out;
        p->format = op->format;
    }
    return m.at == m.n;
}

#endif
