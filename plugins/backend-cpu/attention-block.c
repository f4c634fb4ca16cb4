/* One block of attention: online softmax over a range of pages.
 *
 * Few rows (decode): the format's own score and accumulate read the stored rows once for all of them, so the time is that of
 * reading the cache. Many rows (prefill): each page is decoded to a f32 tile once and multiplied with all rows.
 * Invariant: only slots of positions in [low, end) are read.
 */
#include <math.h>
#include <string.h>

#include "attention-internal.h"

/* Up to so many rows score and accumulate are faster than decoding a tile (measured: they decode again per 4 rows). */
#define MAX_DIRECT_ROWS 12u

/* The part of a page that a block reads: rows of positions [position, position + n). */
struct span {
    uint64_t position;
    uint64_t offset; /* bytes into the K or V buffer */
    uint32_t n;
};

static uint32_t round_up(uint32_t n)
{
    return (n + ATTENTION_ALIGN - 1) / ATTENTION_ALIGN * ATTENTION_ALIGN;
}

/* n rows' elements of the block's KV head as f32. */
static void load_rows(const struct attention_plan *plan, const struct attention_scratch *scratch, float *dst,
                      uint64_t dst_stride, const char *rows, uint32_t kv_head, uint32_t n)
{
    const uint64_t count = plan->kv.head_dim, first = kv_head * count;

    if (plan->format) {
        plan->format->load(dst, dst_stride, rows, plan->row_bytes, first, count, n);
        return;
    }
    for (uint32_t r = 0; r < n; r++) {
        plan->kv.kv->decode(plan->kv.kv_ctx, rows + r * plan->row_bytes, scratch->row,
                            plan->kv.n_kv_heads * count);
        memcpy(dst + r * dst_stride, scratch->row + first, count * sizeof(float));
    }
}

static uint32_t is_direct(const struct attention_plan *plan, uint32_t n_rows)
{
    return n_rows <= MAX_DIRECT_ROWS && plan->format && SHARPI_HAS(plan->format, score) &&
           SHARPI_HAS(plan->format, accumulate);
}

/* s[row, j] = q[row] . k[position j of the span] */
static void score_span(const struct attention_plan *plan, const struct attention_shape *shape,
                       const struct attention_scratch *scratch, const struct attention_block *block,
                       const struct span *span, uint32_t n_rows)
{
    const char *k = (const char *)plan->kv.k + span->offset;
    const uint64_t first = (uint64_t)block->kv_head * shape->head_dim;

    if (is_direct(plan, n_rows)) {
        plan->format->score(scratch->s, SHARPI_KV_PAGE, scratch->q, shape->width, n_rows, k, plan->row_bytes,
                            first, shape->head_dim, span->n);
        return;
    }
    for (uint32_t r = 0; r < span->n; r += ATTENTION_ALIGN) {
        const uint32_t n = span->n - r < ATTENTION_ALIGN ? span->n - r : ATTENTION_ALIGN;
        load_rows(plan, scratch, scratch->raw, shape->width, k + r * plan->row_bytes, block->kv_head, n);
        plan->kernels->transpose(scratch->tile + r, ATTENTION_K_STRIDE, scratch->raw, shape->width,
                                 ATTENTION_ALIGN, shape->width);
    }
    plan->kernels->product(scratch->s, SHARPI_KV_PAGE, scratch->q, shape->width, scratch->tile,
                           ATTENTION_K_STRIDE, n_rows, round_up(span->n), shape->head_dim, 0);
}

/* Scores to weights, row by row, under each row's mask. */
static void weigh_span(const struct attention_plan *plan, const struct attention_shape *shape, float *s,
                       struct attention_row *rows, float *acc, const struct attention_block *block,
                       const struct span *span)
{
    const uint64_t a = span->position;
    const uint32_t width = round_up(span->n);

    for (uint32_t r = 0; r < block->n_tokens * block->n_heads; r++) {
        const uint64_t p = block->position + r / block->n_heads;
        const uint64_t low = plan->window && p + 1 > plan->window ? p + 1 - plan->window : 0;
        const uint64_t end = plan->causal ? p + 1 : block->end;
        const uint32_t first = low > a ? (uint32_t)(low - a < span->n ? low - a : span->n) : 0;
        const uint32_t last = end > a ? (uint32_t)(end - a < span->n ? end - a : span->n) : 0;
        float *weights = s + (uint64_t)r * SHARPI_KV_PAGE;
        if (first < last)
            plan->kernels->softmax_row(weights, width, first, last, plan->softcap, &rows[r],
                                       acc + (uint64_t)r * shape->width, shape->width);
        else
            memset(weights, 0, width * sizeof(float));
    }
}

/* acc[row] += sum_j s[row, j] v[position j of the span] */
static void accumulate_span(const struct attention_plan *plan, const struct attention_shape *shape,
                            const struct attention_scratch *scratch, float *acc,
                            const struct attention_block *block, const struct span *span, uint32_t n_rows)
{
    const char *v = (const char *)plan->kv.v + span->offset;
    const uint64_t first = (uint64_t)block->kv_head * shape->head_dim;

    if (is_direct(plan, n_rows)) {
        plan->format->accumulate(acc, shape->width, scratch->s, SHARPI_KV_PAGE, n_rows, v, plan->row_bytes,
                                 first, shape->head_dim, span->n);
        return;
    }
    load_rows(plan, scratch, scratch->tile, shape->v_stride, v, block->kv_head, span->n);
    plan->kernels->product(acc, shape->width, scratch->s, SHARPI_KV_PAGE, scratch->tile, shape->v_stride,
                           n_rows, shape->width, span->n, 1);
}

static void gather_q(const struct attention_job *job, const struct attention_shape *shape, float *q,
                     const struct attention_block *block)
{
    const struct attention_plan *plan = job->plan;
    for (uint32_t t = 0; t < block->n_tokens; t++)
        for (uint32_t h = 0; h < block->n_heads; h++) {
            plan->kernels->scale_row(q,
                                     job->q + (block->token + t) * job->q_stride +
                                         (uint64_t)(block->head + h) * shape->head_dim,
                                     plan->scale, shape->head_dim);
            q += shape->width;
        }
}

void attention_store_row(const struct attention_job *job, uint32_t token, uint32_t head,
                         const struct attention_row *row, const float *acc)
{
    const struct attention_plan *plan = job->plan;
    const uint32_t head_dim = plan->kv.head_dim;
    float *out = job->out + token * job->out_stride + (uint64_t)head * head_dim;
    float factor = 1.0f / row->sum;

    if (plan->sinks) {
        /* a sink is one more score that has no value row: it only takes weight away */
        const float sink = plan->sinks[head], max = fmaxf(row->max, sink);
        const float shrink = expf(row->max - max);
        factor = shrink / (row->sum * shrink + expf(sink - max));
    }
    plan->kernels->scale_row(out, acc, factor, head_dim);
}

void attention_attend(const struct attention_job *job, const struct attention_shape *shape,
                      const struct attention_scratch *scratch, const struct attention_block *block)
{
    const struct attention_plan *plan = job->plan;
    const uint32_t n_rows = block->n_tokens * block->n_heads;
    struct attention_row *rows = block->is_partial ? block->partial.rows : scratch->rows;
    float *acc = block->is_partial ? block->partial.acc : scratch->acc;

    gather_q(job, shape, scratch->q, block);
    for (uint32_t r = 0; r < n_rows; r++) {
        rows[r].max = -INFINITY;
        rows[r].sum = 0.0f;
    }
    memset(acc, 0, (uint64_t)n_rows * shape->width * sizeof(float));

    for (uint64_t page = block->page; page < block->end_page; page++) {
        const uint64_t begin = page * SHARPI_KV_PAGE, end = begin + SHARPI_KV_PAGE;
        struct span span;
        span.position = begin > block->low ? begin : block->low;
        span.n = (uint32_t)((end < block->end ? end : block->end) - span.position);
        span.offset = attention_row_offset(plan, block->pages, span.position);
        score_span(plan, shape, scratch, block, &span, n_rows);
        weigh_span(plan, shape, scratch->s, rows, acc, block, &span);
        accumulate_span(plan, shape, scratch, acc, block, &span, n_rows);
    }
    if (block->is_partial)
        return;
    for (uint32_t r = 0; r < n_rows; r++)
        attention_store_row(job, block->token + r / block->n_heads, block->head + r % block->n_heads,
                            &rows[r], acc + (uint64_t)r * shape->width);
}
