/* Helpers of test-matmul.c and bench-matmul.c. */
#include "test-matmul.h"

#include <pthread.h>
#include <sys/mman.h>

#include "tests/data/dequant-blocks.h"

static _Thread_local uint64_t random_state = 0x9e3779b97f4a7c15;

uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 24);
}

void random_floats(float *dst, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        dst[i] = (float)(int32_t)random_u32() * 0x1p-31f;
}

/* Where a block has its f16 scales; -1: none. */
static void scale_offsets(int32_t type, int32_t at[2])
{
    at[0] = 0;
    at[1] = -1;
    switch (type) {
    case SHARPI_TYPE_Q4_1:
    case SHARPI_TYPE_Q5_1:
    case SHARPI_TYPE_Q4_K:
    case SHARPI_TYPE_Q5_K:
        at[1] = 2;
        break;
    case SHARPI_TYPE_Q2_K:
        at[0] = 80;
        at[1] = 82;
        break;
    case SHARPI_TYPE_Q3_K:
        at[0] = 108;
        break;
    case SHARPI_TYPE_Q6_K:
        at[0] = 208;
        break;
    default:
        break;
    }
}

static void put_random_scales(int32_t type, uint8_t *block)
{
    int32_t at[2];
    scale_offsets(type, at);
    if (type == SHARPI_TYPE_MXFP4) {
        block[0] = (uint8_t)(110 + random_u32() % 20);
        return;
    }
    for (uint32_t i = 0; i < 2 && at[i] >= 0; i++) {
        uint16_t bits = (uint16_t)((random_u32() & 0x83ff) | (8 + random_u32() % 6) << 10);
        memcpy(block + at[i], &bits, sizeof bits);
    }
}

static void random_float_weights(int32_t type, uint8_t *dst, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        float f;
        uint32_t u;
        random_floats(&f, 1);
        memcpy(&u, &f, sizeof u);
        uint16_t half = (uint16_t)((random_u32() & 0x83ff) | (9 + random_u32() % 7) << 10),
                 high = (uint16_t)(u >> 16);
        if (type == SHARPI_TYPE_F32)
            memcpy(dst + 4 * i, &f, 4);
        else
            memcpy(dst + 2 * i, type == SHARPI_TYPE_F16 ? &half : &high, 2);
    }
}

void random_weights(int32_t type, uint8_t *dst, uint64_t n)
{
    const struct sharpi_type_info *info = sharpi_type_info(type);
    if (info->block_elems == 1) {
        random_float_weights(type, dst, n);
        return;
    }
    for (uint64_t i = 0; i < n; i += info->block_elems, dst += info->block_bytes) {
        for (uint32_t k = 0; k < info->block_bytes; k++)
            dst[k] = (uint8_t)random_u32();
        put_random_scales(type, dst);
    }
}

void fill_codes(int32_t type, uint8_t *dst, uint64_t n, uint8_t byte)
{
    const struct sharpi_type_info *info = sharpi_type_info(type);
    for (uint64_t i = 0; i < n; i += info->block_elems, dst += info->block_bytes) {
        memset(dst, byte, info->block_bytes);
        put_random_scales(type, dst);
    }
}

uint64_t act_block(int32_t type)
{
    return sharpi_type_info(type)->block_elems;
}

void guarded_alloc(struct guarded *g, uint64_t n)
{
    uint64_t page = 4096, whole = (n + page - 1) / page * page;
    g->n_bytes = whole + page;
    g->data = NULL;
    g->pages = mmap(NULL, g->n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->pages == MAP_FAILED)
        return;
    madvise(g->pages, whole, MADV_HUGEPAGE);
    mprotect((uint8_t *)g->pages + whole, page, PROT_NONE);
    g->data = (uint8_t *)g->pages + whole - n;
}

void guarded_free(struct guarded *g)
{
    if (g->data)
        munmap(g->pages, g->n_bytes);
    g->data = NULL;
}

int prepare_matrix(struct prepared *p, int32_t type, const void *weights, uint64_t n_in, uint64_t n_out,
                   enum cpu_isa isa, uint32_t repack)
{
    struct sharpi_tensor tensor = {.size = sizeof tensor,
                                   .type = type,
                                   .n_dims = 2,
                                   .ne = {n_in, n_out, 1, 1},
                                   .n_bytes = n_out * sharpi_row_bytes(type, n_in),
                                   .name = "test",
                                   .data = weights};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    uint64_t packed_bytes = 0;
    memset(p, 0, sizeof *p);
    if (matrix_init(&p->matrix, &tensor, 0, isa, repack, &packed_bytes, &err) != SHARPI_OK) {
        printf("%s\n", err.text);
        return 0;
    }
    if (packed_bytes == 0)
        return 1;
    guarded_alloc(&p->memory, packed_bytes);
    if (!p->memory.data)
        return 0;
    uint64_t half = n_out / 2 / p->matrix.rows_unit * p->matrix.rows_unit;
    matrix_pack(&p->matrix, p->memory.data, weights, half, n_out - half);
    matrix_pack(&p->matrix, p->memory.data, weights, 0, half);
    p->matrix.data = p->memory.data;
    return 1;
}

void free_prepared(struct prepared *p)
{
    guarded_free(&p->memory);
}

struct worker {
    const struct matmul_job *job;
    uint32_t ith, nth;
    pthread_t thread;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    void *scratch = aligned_alloc(64, matmul_scratch_bytes());
    if (scratch)
        matmul_run(w->job, w->ith, w->nth, scratch);
    free(scratch);
    return NULL;
}

void run_job(const struct matmul_job *job, uint32_t nth)
{
    struct worker workers[8];
    *job->next = 0;
    for (uint32_t i = 0; i < nth; i++) {
        workers[i] = (struct worker){.job = job, .ith = i, .nth = nth};
        if (i > 0)
            pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    work(&workers[0]);
    for (uint32_t i = 1; i < nth; i++)
        pthread_join(workers[i].thread, NULL);
}
