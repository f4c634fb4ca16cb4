/* One block of attention: online softmax over a range of pages.
 *
 * Few rows (decode): the format's own score and accumulate read the stored rows once for all of them, so the
 * time is that of reading the cache. Many rows (prefill): each page is decoded to a f32 tile once and
 * multiplied with all rows. Invariant: only slots of positions in [low, end) are read.
 */
#include <math.h>
#include <string.h>

#include "attention-internal.h"

/* Up to so many rows score and accumulate are faster than decoding a tile (measured: they decode again per 4
 * rows). */
#define MAX_DIRECT_ROWS 12u

/* Rows of K or V between prefetches: few enough for the requests in flight, and the unit of a transpose. */
#define STEP       ATTENTION_ALIGN
#define CACHE_LINE 64u

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

/* Asks for the block's elements of n rows, early enough for them to be in L2 when their turn comes: pages lie
 * anywhere, so the hardware does not foresee them. Only a hint: formats may arrange rows otherwise. */
static void prefetch_rows(const struct attention_plan *plan, const struct attention_block *block,
                          const char *rows, uint32_t n)
{
    const uint64_t first = plan->row_bytes * block->kv_head / plan->kv.n_kv_heads;
    const uint64_t end = plan->row_bytes * (block->kv_head + block->n_kv_heads) / plan->kv.n_kv_heads;
    for (uint32_t r = 0; r < n; r++, rows += plan->row_bytes)
        for (uint64_t i = first; i < end; i += CACHE_LINE)
            __builtin_prefetch(rows + i, 0, 2);
}

static uint32_t is_direct(const struct attention_plan *plan, uint32_t n_rows)
{
    return n_rows <= MAX_DIRECT_ROWS && plan->format && SHARPI_HAS(plan->format, score) &&
           SHARPI_HAS(plan->format, accumulate);
}

/* Everything that the steps below need; rows of KV head i (of the block's) begin at row i * rows_per_head. */
struct work {
    const struct attention_plan *plan;
    const struct attention_shape *shape;
    const struct attention_scratch *scratch;
    const struct attention_block *block;
    struct attention_row *rows;
    float *acc;
    uint32_t rows_per_head;
    uint32_t n_rows;
};

/* Rows of a page in the step that begins at row r. */
static uint32_t step_rows(const struct span *span, uint32_t r)
{
    return span->n <= r ? 0 : span->n - r < STEP ? span->n - r : STEP;
}

/* s[row, j] = q[row] . k[position j of the span], rows as they are stored: a few rows of all heads at a time,
 * so that memory is read in order. Fetches V, which comes next. */
static void score_direct(const struct work *w, const struct span *span)
{
    const struct attention_plan *plan = w->plan;
    const uint64_t d = w->shape->head_dim;

    for (uint32_t r = 0; r < span->n; r += STEP) {
        const uint64_t offset = span->offset + r * plan->row_bytes;
        const uint32_t n = step_rows(span, r);
        prefetch_rows(plan, w->block, (const char *)plan->kv.v + offset, n);
        for (uint32_t g = 0; g < w->block->n_kv_heads; g++)
            plan->format->score(w->scratch->s + (uint64_t)g * w->rows_per_head * SHARPI_KV_PAGE + r,
                                SHARPI_KV_PAGE,
                                w->scratch->q + (uint64_t)g * w->rows_per_head * w->shape->width,
                                w->shape->width, w->rows_per_head, (const char *)plan->kv.k + offset,
                                plan->row_bytes, (w->block->kv_head + g) * d, d, n);
    }
}

/* acc[row] += sum_j s[row, j] v[position j of the span], likewise. Fetches K of the span after it. */
static void accumulate_direct(const struct work *w, const struct span *span, const struct span *next)
{
    const struct attention_plan *plan = w->plan;
    const uint64_t d = w->shape->head_dim;

    for (uint32_t r = 0; r < SHARPI_KV_PAGE; r += STEP) {
        const char *v = (const char *)plan->kv.v + span->offset + r * plan->row_bytes;
        const uint32_t n = step_rows(span, r);
        prefetch_rows(plan, w->block, (const char *)plan->kv.k + next->offset + r * plan->row_bytes,
                      step_rows(next, r));
        for (uint32_t g = 0; g < w->block->n_kv_heads && n; g++)
            plan->format->accumulate(
                w->acc + (uint64_t)g * w->rows_per_head * w->shape->width, w->shape->width,
                w->scratch->s + (uint64_t)g * w->rows_per_head * SHARPI_KV_PAGE + r, SHARPI_KV_PAGE,
                w->rows_per_head, v, plan->row_bytes, (w->block->kv_head + g) * d, d, n);
    }
}

/* The same by way of a tile of KV head g (of the block's), K transposed. */
static void score_dense(const struct work *w, const struct span *span, uint32_t g)
{
    const struct attention_plan *plan = w->plan;
    const struct attention_scratch *scratch = w->scratch;
    const uint32_t width = w->shape->width;

    for (uint32_t r = 0; r < span->n; r += STEP) {
        const char *k = (const char *)plan->kv.k + span->offset + r * plan->row_bytes;
        load_rows(plan, scratch, scratch->raw, width, k, w->block->kv_head + g, step_rows(span, r));
        plan->kernels->transpose(scratch->tile + r, ATTENTION_K_STRIDE, scratch->raw, width, STEP, width);
    }
    plan->kernels->product(scratch->s + (uint64_t)g * w->rows_per_head * SHARPI_KV_PAGE, SHARPI_KV_PAGE,
                           scratch->q + (uint64_t)g * w->rows_per_head * width, width, scratch->tile,
                           ATTENTION_K_STRIDE, w->rows_per_head, round_up(span->n), w->shape->head_dim, 0);
}

static void accumulate_dense(const struct work *w, const struct span *span, uint32_t g)
{
    const struct attention_plan *plan = w->plan;
    const struct attention_scratch *scratch = w->scratch;
    const uint32_t width = w->shape->width;

    load_rows(plan, scratch, scratch->tile, w->shape->v_stride, (const char *)plan->kv.v + span->offset,
              w->block->kv_head + g, span->n);
    plan->kernels->product(w->acc + (uint64_t)g * w->rows_per_head * width, width,
                           scratch->s + (uint64_t)g * w->rows_per_head * SHARPI_KV_PAGE, SHARPI_KV_PAGE,
                           scratch->tile, w->shape->v_stride, w->rows_per_head, width, span->n, 1);
}

/* Scores to weights, row by row, under each row's mask. */
static void weigh_span(const struct work *w, const struct span *span)
{
    const struct attention_plan *plan = w->plan;
    const uint64_t a = span->position;
    const uint32_t width = round_up(span->n);

    for (uint32_t r = 0; r < w->n_rows; r++) {
        const uint64_t p = w->block->position + r % w->rows_per_head / w->block->n_heads;
        const uint64_t low = plan->window && p + 1 > plan->window ? p + 1 - plan->window : 0;
        const uint64_t end = plan->causal ? p + 1 : w->block->end;
        const uint32_t first = low > a ? (uint32_t)(low - a < span->n ? low - a : span->n) : 0;
        const uint32_t last = end > a ? (uint32_t)(end - a < span->n ? end - a : span->n) : 0;
        float *weights = w->scratch->s + (uint64_t)r * SHARPI_KV_PAGE;
        if (first < last)
            plan->kernels->softmax_row(weights, width, first, last, plan->softcap, &w->rows[r],
                                       w->acc + (uint64_t)r * w->shape->width, w->shape->width);
        else
            memset(weights, 0, width * sizeof(float));
    }
}

/* Token (of the batch) and query head of the block's row r. */
static struct attention_place place_of(const struct attention_plan *plan, const struct attention_block *block,
                                       uint32_t r)
{
    const uint32_t group = plan->n_heads / plan->kv.n_kv_heads;
    const uint32_t rows_per_head = block->n_tokens * block->n_heads, in_head = r % rows_per_head;
    const struct attention_place place = {block->token + in_head / block->n_heads,
                                          (block->kv_head + r / rows_per_head) * group +
                                              block->first_in_group + in_head % block->n_heads};
    return place;
}

static void gather_q(const struct attention_job *job, const struct work *w)
{
    const uint32_t d = w->shape->head_dim;
    for (uint32_t r = 0; r < w->n_rows; r++) {
        const struct attention_place place = place_of(w->plan, w->block, r);
        w->plan->kernels->scale_row(w->scratch->q + (uint64_t)r * w->shape->width,
                                    job->q + place.token * job->q_stride + (uint64_t)place.head * d,
                                    w->plan->scale, d);
    }
}

void attention_store_row(const struct attention_job *job, const struct attention_block *block, uint32_t r,
                         const struct attention_row *row, const float *acc)
{
    const struct attention_plan *plan = job->plan;
    const struct attention_place place = place_of(plan, block, r);
    const uint32_t head_dim = plan->kv.head_dim;
    float *out = job->out + place.token * job->out_stride + (uint64_t)place.head * head_dim;
    float factor = 1.0f / row->sum;

    if (plan->sinks) {
        /* a sink is one more score that has no value row: it only takes weight away */
        const float sink = plan->sinks[place.head], max = fmaxf(row->max, sink);
        const float shrink = expf(row->max - max);
        factor = shrink / (row->sum * shrink + expf(sink - max));
    }
    plan->kernels->scale_row(out, acc, factor, head_dim);
}

/* What the block reads of a page; nothing (n = 0) past its last one. */
static struct span span_at(const struct attention_plan *plan, const struct attention_block *block,
                           uint64_t page)
{
    const uint64_t begin = page * SHARPI_KV_PAGE, end = begin + SHARPI_KV_PAGE;
    struct span span = {0};

    if (page < block->end_page) {
        span.position = begin > block->low ? begin : block->low;
        span.n = (uint32_t)((end < block->end ? end : block->end) - span.position);
        span.offset = attention_row_offset(plan, block->pages, span.position);
    }
    return span;
}

static void attend_span(const struct work *w, const struct span *span, const struct span *next)
{
    if (is_direct(w->plan, w->rows_per_head)) {
        score_direct(w, span);
        weigh_span(w, span);
        accumulate_direct(w, span, next);
        return;
    }
    for (uint32_t g = 0; g < w->block->n_kv_heads; g++)
        score_dense(w, span, g);
    weigh_span(w, span);
    for (uint32_t g = 0; g < w->block->n_kv_heads; g++)
        accumulate_dense(w, span, g);
}

void attention_attend(const struct attention_job *job, const struct attention_shape *shape,
                      const struct attention_scratch *scratch, const struct attention_block *block)
{
    const uint32_t rows_per_head = block->n_tokens * block->n_heads;
    const struct work w = {job->plan,
                           shape,
                           scratch,
                           block,
                           block->is_partial ? block->partial.rows : scratch->rows,
                           block->is_partial ? block->partial.acc : scratch->acc,
                           rows_per_head,
                           rows_per_head * block->n_kv_heads};
    struct span next = span_at(job->plan, block, block->page);

    gather_q(job, &w);
    for (uint32_t r = 0; r < w.n_rows; r++) {
        w.rows[r].max = -INFINITY;
        w.rows[r].sum = 0.0f;
    }
    memset(w.acc, 0, (uint64_t)w.n_rows * shape->width * sizeof(float));
    for (uint64_t page = block->page; page < block->end_page; page++) {
        const struct span span = next;
        next = span_at(job->plan, block, page + 1);
        attend_span(&w, &span, &next);
    }
    for (uint32_t r = 0; r < w.n_rows && !block->is_partial; r++)
        attention_store_row(job, block, r, &w.rows[r], w.acc + (uint64_t)r * shape->width);
}
