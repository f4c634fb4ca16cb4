/* Attention's plan, checks and append: all that is not arithmetic over pages.
 *
 * Invariant: sizes of scratch are computed here and nowhere else, so what the planner counts is what run
 * uses.
 */
#include <string.h>

#include "../backend-common/flow.h"
#include "attention-internal.h"

/* Rows of a block: enough for a decoded K/V page to be used often, few enough for q, acc and one tile to stay
 * in L2. */
#define MAX_ROWS          96u
#define MIN_ROWS          48u
#define MAX_Q_FLOATS      24576u
#define SPLITS_PER_THREAD 6u /* what attention-run.c may make of partials */

static uint32_t round_up(uint32_t n, uint32_t unit)
{
    return (n + unit - 1) / unit * unit;
}

void attention_shape_init(struct attention_shape *shape, const struct attention_plan *plan)
{
    const uint32_t group = plan->n_heads / plan->kv.n_kv_heads;
    uint32_t max_rows;

    shape->head_dim = plan->kv.head_dim;
    shape->width = round_up(shape->head_dim, ATTENTION_ALIGN);
    shape->v_stride = shape->width / ATTENTION_ALIGN % 2 ? shape->width : shape->width + ATTENTION_ALIGN;
    max_rows = MAX_Q_FLOATS / shape->width;
    max_rows = max_rows > MAX_ROWS ? MAX_ROWS : max_rows < MIN_ROWS ? MIN_ROWS : max_rows;
    shape->parts_per_group = (group + max_rows - 1) / max_rows;
    shape->heads_per_block = (group + shape->parts_per_group - 1) / shape->parts_per_group;
    shape->parts_per_group = (group + shape->heads_per_block - 1) / shape->heads_per_block;
    shape->tokens_per_block = max_rows / shape->heads_per_block;
    shape->max_rows = shape->tokens_per_block * shape->heads_per_block;
    shape->max_partials = plan->max_threads > 1 ? SPLITS_PER_THREAD * plan->max_threads : 0;

    const uint64_t row_floats = round_up(2 * shape->max_rows, ATTENTION_ALIGN);
    const uint64_t k_tile = (uint64_t)shape->width * ATTENTION_K_STRIDE;
    const uint64_t v_tile = (uint64_t)SHARPI_KV_PAGE * shape->v_stride;
    const uint64_t n_row = plan->format ? 0 : (uint64_t)plan->kv.n_kv_heads * shape->head_dim;
    shape->partial_floats = row_floats + (uint64_t)shape->max_rows * shape->width;
    shape->thread_floats = shape->partial_floats +
                           (uint64_t)shape->max_rows * (shape->width + SHARPI_KV_PAGE) +
                           (k_tile > v_tile ? k_tile : v_tile) + (uint64_t)ATTENTION_ALIGN * shape->width +
                           (n_row + ATTENTION_ALIGN - 1) / ATTENTION_ALIGN * ATTENTION_ALIGN;
}

void attention_scratch_at(struct attention_scratch *scratch, const struct attention_shape *shape,
                          void *memory, uint32_t ith)
{
    const uint64_t rows = shape->max_rows;
    float *p = (float *)memory + ith * shape->thread_floats;

    scratch->rows = (struct attention_row *)p;
    p += round_up(2 * shape->max_rows, ATTENTION_ALIGN);
    scratch->acc = p;
    p += rows * shape->width;
    scratch->q = p;
    p += rows * shape->width;
    scratch->s = p;
    p += rows * SHARPI_KV_PAGE;
    scratch->raw = p;
    p += (uint64_t)ATTENTION_ALIGN * shape->width;
    scratch->tile = p;
    const uint64_t k_tile = (uint64_t)shape->width * ATTENTION_K_STRIDE;
    const uint64_t v_tile = (uint64_t)SHARPI_KV_PAGE * shape->v_stride;
    scratch->row = p + (k_tile > v_tile ? k_tile : v_tile);
}

struct attention_partial attention_partial_at(const struct attention_shape *shape, void *memory,
                                              uint32_t max_threads, uint64_t index)
{
    float *p = (float *)memory + max_threads * shape->thread_floats + index * shape->partial_floats;
    struct attention_partial partial = {(struct attention_row *)p,
                                        p + round_up(2 * shape->max_rows, ATTENTION_ALIGN)};
    return partial;
}

static const struct attention_kernels *kernels_of(enum cpu_isa isa)
{
#ifdef HAVE_AVX512
    if (isa >= CPU_ISA_AVX512)
        return &attention_kernels_avx512;
#endif
#ifdef HAVE_AVX2
    if (isa >= CPU_ISA_AVX2)
        return &attention_kernels_avx2;
#endif
    (void)isa;
    return &attention_kernels_c;
}

/* The format's kernels, or NULL when it has none that are complete. */
static const struct sharpi_kv_cpu *format_of(const struct sharpi_kv_layer *kv, enum cpu_isa isa)
{
    const struct sharpi_kv_cpu *format;
    if (!SHARPI_HAS(kv->kv, kernels))
        return NULL;
    format = kv->kv->kernels(kv->kv_ctx, "cpu", cpu_isa_name(isa));
    return format && SHARPI_HAS(format, append) && SHARPI_HAS(format, load) ? format : NULL;
}

static int32_t check_geometry(const struct sharpi_attention_attr *attr, const struct sharpi_kv_layer *kv,
                              struct sharpi_error *err)
{
    const uint32_t layer = attr->layer;
    if (!kv->kv || !kv->n_kv_heads || kv->n_kv_heads != attr->n_kv_heads || kv->head_dim != attr->head_dim)
        return sharpi_fail(
            err, SHARPI_EINVAL, "attention of layer %u has %u KV heads of %u, its cache (layer %u) %u of %u",
            layer, attr->n_kv_heads, attr->head_dim, attr->kv_layer, kv->n_kv_heads, kv->head_dim);
    if (!attr->n_heads || attr->n_heads % attr->n_kv_heads)
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "attention of layer %u: %u heads are not a multiple of its %u KV heads", layer,
                           attr->n_heads, attr->n_kv_heads);
    if (attr->head_dim < 2 || attr->head_dim % 2 || attr->head_dim > ATTENTION_MAX_HEAD_DIM)
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "attention of layer %u: head_dim %u is not an even number from 2 to %u", layer,
                           attr->head_dim, ATTENTION_MAX_HEAD_DIM);
    if (!kv->ring || kv->ring % SHARPI_KV_PAGE)
        return sharpi_fail(err, SHARPI_EINVAL, "KV cache of layer %u: %u positions are not a multiple of %u",
                           attr->kv_layer, kv->ring, SHARPI_KV_PAGE);
    if ((uint64_t)kv->n_kv_heads * kv->head_dim > 1u << 24 || attr->n_heads > 1u << 20)
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "attention of layer %u: %u heads over %u KV heads of %u are too many", layer,
                           attr->n_heads, kv->n_kv_heads, kv->head_dim);
    return SHARPI_OK;
}

int32_t attention_plan_init(struct attention_plan *plan, enum cpu_isa isa,
                            const struct sharpi_attention_attr *attr, const struct sharpi_kv_layer *kv,
                            uint32_t n_threads, uint64_t *scratch_bytes, struct sharpi_error *err)
{
    struct attention_shape shape;
    int32_t status = check_geometry(attr, kv, err);

    if (status)
        return status;
    if (!n_threads || n_threads > 1u << 14)
        return sharpi_fail(err, SHARPI_EINVAL, "attention on %u threads; the limit is %u", n_threads,
                           1u << 14);
    memset(plan, 0, sizeof *plan);
    plan->kernels = kernels_of(isa);
    plan->format = format_of(kv, isa);
    plan->kv = *kv;
    plan->n_heads = attr->n_heads;
    plan->window = attr->window;
    plan->causal = attr->causal;
    plan->scale = attr->scale;
    plan->softcap = attr->softcap;
    plan->max_threads = n_threads;
    plan->row_bytes = kv->kv->row_bytes(kv->kv_ctx, (uint64_t)kv->n_kv_heads * kv->head_dim);
    attention_shape_init(&shape, plan);
    *scratch_bytes =
        (n_threads * shape.thread_floats + shape.max_partials * shape.partial_floats) * sizeof(float);
    return SHARPI_OK;
}

int32_t attention_check(const struct attention_plan *plan, const struct sharpi_batch *batch,
                        struct sharpi_error *err)
{
    return cache_check(&plan->kv, plan->window, batch, err);
}

void attention_append(const struct attention_job *job, uint32_t first, uint32_t count)
{
    const struct attention_plan *plan = job->plan;
    const struct sharpi_batch_class *class_of = &job->batch->classes[plan->kv.class_index];
    const uint64_t n = (uint64_t)plan->kv.n_kv_heads * plan->kv.head_dim;

    for (uint32_t t = first; t < first + count; t++) {
        const uint32_t s = (uint32_t)job->batch->seqs_of[t];
        const struct sharpi_batch_seq *seq = &job->batch->seqs[s];
        const uint64_t position = (uint64_t)seq->length + (t - seq->first_token);
        const uint64_t offset =
            attention_row_offset(plan, class_of->pages + (uint64_t)s * class_of->stride, position);
        void *k = (char *)plan->kv.k + offset, *v = (char *)plan->kv.v + offset;
        if (plan->format) {
            plan->format->append(k, job->k + t * job->k_stride, n);
            plan->format->append(v, job->v + t * job->v_stride, n);
        } else {
            plan->kv.kv->encode(plan->kv.kv_ctx, k, job->k + t * job->k_stride, n);
            plan->kv.kv->encode(plan->kv.kv_ctx, v, job->v + t * job->v_stride, n);
        }
    }
}
