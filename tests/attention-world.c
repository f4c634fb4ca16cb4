/* Sequences, page tables and threads for test-attention. Memory that no position was written to reads as NaN
 * in every format, so a kernel that reads a slot it should not poisons its result. */
#include <math.h>
#include <pthread.h>

#include "attention-world.h"

static uint64_t random_state = 0x9e3779b97f4a7c15u;

uint32_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

float random_float(void)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < 4; i++)
        sum += (float)(random_bits() >> 8) * 0x1p-24f - 0.5f;
    return sum * 1.7f;
}

static void *aligned(uint64_t n_bytes)
{
    return aligned_alloc(64, (n_bytes + 64) / 64 * 64);
}

static void deal_pages(struct world *world)
{
    const uint32_t per_seq = world->shape.ring / SHARPI_KV_PAGE, n = per_seq * world->shape.n_seqs;
    for (uint32_t i = 0; i < n; i++)
        world->tables[i] = (int32_t)i;
    for (uint32_t i = n; i > 1; i--) {
        const uint32_t j = random_bits() % i;
        const int32_t page = world->tables[i - 1];
        world->tables[i - 1] = world->tables[j];
        world->tables[j] = page;
    }
}

static void fill_layer(struct world *world)
{
    const struct world_shape *shape = &world->shape;
    world->no_kernels = *world->format.kv;
    world->no_kernels.kernels = NULL;
    world->kv.size = (uint32_t)sizeof world->kv;
    world->kv.kv = shape->use_fallback ? &world->no_kernels : world->format.kv;
    world->kv.kv_ctx = world->format.ctx;
    world->kv.n_kv_heads = shape->n_kv_heads;
    world->kv.head_dim = shape->head_dim;
    world->kv.ring = shape->ring;
    world->kv.n_pages = shape->ring / SHARPI_KV_PAGE * shape->n_seqs;
}

static void allocate(struct world *world, uint64_t max_tokens)
{
    const struct world_shape *shape = &world->shape;
    const uint64_t n = (uint64_t)shape->n_kv_heads * shape->head_dim,
                   n_q = (uint64_t)shape->n_heads * shape->head_dim;
    const uint64_t page_bytes = SHARPI_KV_PAGE * world->plan.row_bytes;

    world->scratch = aligned(world->scratch_bytes);
    world->k_pages = aligned(world->kv.n_pages * page_bytes);
    world->v_pages = aligned(world->kv.n_pages * page_bytes);
    memset(world->k_pages, 0xff, world->kv.n_pages * page_bytes);
    memset(world->v_pages, 0xff, world->kv.n_pages * page_bytes);
    memset(world->scratch, 0xff, world->scratch_bytes);
    world->tables = malloc(world->kv.n_pages * sizeof(int32_t));
    world->batch_tables = malloc(world->kv.n_pages * sizeof(int32_t));
    world->seqs_of = malloc(max_tokens * sizeof(int32_t));
    world->q = malloc(max_tokens * n_q * sizeof(float));
    world->out = malloc(max_tokens * n_q * sizeof(float));
    world->k = malloc(max_tokens * n * sizeof(float));
    world->v = malloc(max_tokens * n * sizeof(float));
    for (uint32_t i = 0; i < shape->n_seqs && shape->keep_history; i++) {
        world->k_history[i] = malloc(shape->max_length * n * sizeof(float));
        world->v_history[i] = malloc(shape->max_length * n * sizeof(float));
    }
    if (shape->with_sinks) {
        world->sinks = malloc(shape->n_heads * sizeof(float));
        for (uint32_t h = 0; h < shape->n_heads; h++)
            world->sinks[h] = 2.0f * random_float();
    }
}

int world_init(struct world *world, const struct kv_formats *formats, const struct world_shape *shape)
{
    struct sharpi_attention_attr attr = {0};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const struct kv_format *format = kv_formats_find(formats, shape->format);

    memset(world, 0, sizeof *world);
    world->shape = *shape;
    world->format = *format;
    fill_layer(world);
    attr.size = (uint32_t)sizeof attr;
    attr.n_heads = shape->n_heads;
    attr.n_kv_heads = shape->n_kv_heads;
    attr.head_dim = shape->head_dim;
    attr.scale = 1.0f / sqrtf((float)shape->head_dim);
    attr.softcap = shape->softcap;
    attr.window = shape->window;
    attr.causal = !shape->not_causal;
    if (attention_plan_init(&world->plan, shape->isa, &attr, &world->kv, shape->n_threads,
                            &world->scratch_bytes, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    allocate(world, shape->max_length * (uint64_t)shape->n_seqs);
    deal_pages(world);
    world->plan.kv.k = world->k_pages;
    world->plan.kv.v = world->v_pages;
    world->plan.sinks = world->sinks;
    return 0;
}

void world_free(struct world *world)
{
    for (uint32_t i = 0; i < WORLD_MAX_SEQS; i++) {
        free(world->k_history[i]);
        free(world->v_history[i]);
    }
    free(world->scratch);
    free(world->k_pages);
    free(world->v_pages);
    free(world->tables);
    free(world->batch_tables);
    free(world->seqs_of);
    free(world->q);
    free(world->k);
    free(world->v);
    free(world->out);
    free(world->sinks);
    memset(world, 0, sizeof *world);
}

/* What the cache will hold of new tokens: encoded and decoded. */
static void remember(struct world *world, uint32_t seq, uint32_t token, uint32_t position)
{
    const uint64_t n = (uint64_t)world->shape.n_kv_heads * world->shape.head_dim;
    const struct kv_format *format = &world->format;
    void *row = malloc(world->plan.row_bytes);
    format->kv->encode(format->ctx, row, world->k + token * n, n);
    format->kv->decode(format->ctx, row, world->k_history[seq] + position * n, n);
    format->kv->encode(format->ctx, row, world->v + token * n, n);
    format->kv->decode(format->ctx, row, world->v_history[seq] + position * n, n);
    free(row);
}

static void fill_tokens(struct world *world)
{
    const uint64_t n = (uint64_t)world->shape.n_kv_heads * world->shape.head_dim;
    const uint64_t n_q = (uint64_t)world->shape.n_heads * world->shape.head_dim;
    for (uint64_t i = 0; i < world->batch.n_tokens * n_q; i++)
        world->q[i] = 2.0f * random_float();
    for (uint64_t i = 0; i < world->batch.n_tokens * n; i++) {
        world->k[i] = 2.0f * random_float();
        world->v[i] = random_float();
    }
    for (uint32_t s = 0; s < world->batch.n_seqs && world->shape.keep_history; s++)
        for (uint32_t t = 0; t < world->seqs[s].n_tokens; t++)
            remember(world, world->seq_index[s], world->seqs[s].first_token + t, world->seqs[s].length + t);
}

int32_t world_batch(struct world *world, const uint32_t *n_tokens, struct sharpi_error *err)
{
    struct sharpi_batch *batch = &world->batch;
    const uint32_t stride = world->shape.ring / SHARPI_KV_PAGE;

    memset(batch, 0, sizeof *batch);
    batch->size = (uint32_t)sizeof *batch;
    for (uint32_t i = 0; i < world->shape.n_seqs; i++) {
        struct sharpi_batch_seq *seq = &world->seqs[batch->n_seqs];
        if (!n_tokens[i])
            continue;
        seq->first_token = batch->n_tokens;
        seq->n_tokens = n_tokens[i];
        seq->length = world->length[i];
        seq->slot = i;
        for (uint32_t t = 0; t < n_tokens[i]; t++)
            world->seqs_of[batch->n_tokens++] = (int32_t)batch->n_seqs;
        memcpy(world->batch_tables + batch->n_seqs * stride, world->tables + i * stride,
               stride * sizeof(int32_t));
        world->seq_index[batch->n_seqs++] = i;
    }
    world->class_of.pages = world->batch_tables;
    world->class_of.stride = stride;
    world->class_of.ring = world->shape.ring;
    batch->n_classes = 1;
    batch->seqs_of = world->seqs_of;
    batch->seqs = world->seqs;
    batch->classes = &world->class_of;
    fill_tokens(world);
    return attention_check(&world->plan, batch, err);
}

struct worker {
    const struct attention_job *job;
    pthread_t thread;
    pthread_barrier_t *barrier;
    uint32_t ith, nth, append;
};

static void wait_barrier(void *user)
{
    pthread_barrier_wait(user);
}

static void *work(void *arg)
{
    const struct worker *worker = arg;
    const uint32_t n = worker->job->batch->n_tokens;
    const uint32_t first = (uint32_t)((uint64_t)n * worker->ith / worker->nth);
    const uint32_t end = (uint32_t)((uint64_t)n * (worker->ith + 1) / worker->nth);

    if (worker->append)
        attention_append(worker->job, first, end - first);
    wait_barrier(worker->barrier);
    attention_run(worker->job, worker->ith, worker->nth);
    return NULL;
}

void world_run(struct world *world, uint32_t nth, uint32_t append)
{
    const uint64_t n = (uint64_t)world->shape.n_kv_heads * world->shape.head_dim;
    const uint64_t n_q = (uint64_t)world->shape.n_heads * world->shape.head_dim;
    struct worker workers[64];
    pthread_barrier_t barrier;
    uint32_t next = 0;
    struct attention_job job = {
        &world->plan, &world->batch, world->k,       world->v, world->q,     world->out, n, n,
        n_q,          n_q,           world->scratch, &next,    wait_barrier, &barrier};

    pthread_barrier_init(&barrier, NULL, nth);
    memset(world->out, 0xff, world->batch.n_tokens * n_q * sizeof(float));
    for (uint32_t i = nth; i-- > 0;) {
        workers[i] = (struct worker){&job, 0, &barrier, i, nth, append};
        if (i)
            pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        else
            work(&workers[0]);
    }
    for (uint32_t i = 1; i < nth; i++)
        pthread_join(workers[i].thread, NULL);
    pthread_barrier_destroy(&barrier);
}

void world_commit(struct world *world)
{
    for (uint32_t s = 0; s < world->batch.n_seqs; s++)
        world->length[world->seq_index[s]] += world->seqs[s].n_tokens;
}
