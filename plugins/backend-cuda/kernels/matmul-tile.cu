/* Launches the tile kernels: wgmma's (matmul-wide.cu) where the device and the build have it, else mma.sync's; how many tokens a
 * tile has, how many stages fit. */
#include "matmul-wide.cuh"

enum { TILE_SIZES = 3, TILE_TOKENS_MOST = 128 };

static const struct tile_kernels *kernels_of(int32_t type)
{
    const struct tile_kernels *k = tile_kernels_4bit(type);
    if (!k)
        k = tile_kernels_k(type);
    return k ? k : tile_kernels_other(type);
}

static uint32_t round_1024(size_t bytes)
{
    return (uint32_t)((bytes + 1023) / 1024 * 1024);
}

static uint32_t stages_that_fit(const struct matmul_context *ctx, int32_t type, int size)
{
    const struct tile_kernels *k = kernels_of(type);
    uint32_t room =
        (uint32_t)ctx->shared_bytes - round_1024(sizeof(struct tile_shared)) - k->scratch_bytes[size];
    return min(room / k->stage_bytes[size], (uint32_t)TILE_MAX_STAGES);
}

extern "C" int matmul_tile_prepare(struct matmul_context *ctx)
{
    int e;
#define PREPARE(TYPE)                                                                                        \
    for (int size = 0; size < TILE_SIZES; size++) {                                                          \
        e = (int)cudaFuncSetAttribute((const void *)kernels_of(TYPE)->kernel[size],                          \
                                      cudaFuncAttributeMaxDynamicSharedMemorySize,                           \
                                      ctx->device_shared - (int)round_1024(sizeof(struct tile_shared)));     \
        if (e)                                                                                               \
            return e;                                                                                        \
    }
    EACH_SLAB_TYPE(PREPARE)
    return wide_prepare(ctx);
}

extern "C" uint64_t matmul_tile_workspace_bytes(const struct matmul_context *ctx)
{
    return TILE_FLAG_BYTES + 2ull * (uint64_t)ctx->n_sms * TILE_ROWS * TILE_TOKENS_MOST * sizeof(float);
}

/* The smallest tile that holds `tokens`, or the largest; smaller if a device has little shared memory. */
static int pick_size(const struct matmul_context *ctx, int32_t type, uint32_t tokens)
{
    int size = tokens <= 32 ? 0 : tokens <= 64 ? 1 : 2;
    while (size > 0 && stages_that_fit(ctx, type, size) == 0)
        size--;
    return size;
}

static void fill_part(tile_part *to, const struct matmul_part *part)
{
    const struct cuda_matrix *m = part->w;
    to->data = (const uint8_t *)m->data;
    to->bias = part->bias;
    to->out = part->out;
    to->out_stride = part->out_stride;
    to->group_bytes = group_bytes(slab_layout_of(m->type), m->n_in);
    to->stack_bytes = m->stack_bytes;
    to->n_out = (uint32_t)m->n_out;
    to->n_groups = (uint32_t)((m->n_out + 15) / 16);
    to->epilogue = part->epilogue;
}

static void fill_shape(tile_params *a, const struct cuda_matrix *m)
{
    struct slab_layout l = slab_layout_of(m->type);
    uint32_t tail = (uint32_t)(m->n_in % l.columns);
    a->n_in = (uint32_t)m->n_in;
    a->n_slabs = (uint32_t)((m->n_in + l.columns - 1) / l.columns);
    a->slab_bytes = slab_bytes(l, l.columns);
    a->last_slab_bytes = slab_bytes(l, tail ? tail : l.columns);
}

/* Tiles of weight rows, `per_tile` groups each (with glu of both parts together). */
void tile_count_rows(struct tile_params *a, uint32_t per_tile)
{
    a->tile_groups = per_tile;
    a->n_row_tiles = 0;
    for (uint32_t i = 0; i < (a->glu ? 1 : a->n_parts); i++) {
        uint32_t groups = a->part[i].n_groups * (a->glu ? 2 : 1);
        a->part[i].first_row_tile = a->n_row_tiles;
        a->n_row_tiles += (groups + per_tile - 1) / per_tile;
    }
}

static int tile_go(const struct matmul_context *ctx, struct tile_params *a, int32_t type, uint32_t tokens,
                   cudaStream_t stream)
{
    const int size = pick_size(ctx, type, tokens);

    if (ctx->wide)
        return wide_go(ctx, a, type, tokens, stream);
    tile_count_rows(a, TILE_GROUPS);
    a->n_token_tiles = (a->n_rows + (32u << size) - 1) / (32u << size);
    a->n_stages = stages_that_fit(ctx, type, size);
    if (a->n_stages == 0)
        return (int)cudaErrorInvalidConfiguration;
    uint64_t n_units = (uint64_t)a->n_row_tiles * (a->starts ? a->n_rows : a->n_token_tiles * a->n_slabs);
    return launch_kernel(
        (void (*)(tile_params))kernels_of(type)->kernel[size],
        dim3(n_units < (uint64_t)ctx->n_sms ? (uint32_t)n_units : (uint32_t)ctx->n_sms), dim3(TILE_THREADS),
        a->n_stages * kernels_of(type)->stage_bytes[size] + kernels_of(type)->scratch_bytes[size], stream,
        ctx->overlap, a);
}

extern "C" int matmul_tile_launch(const struct matmul_args *args)
{
    const struct cuda_matrix *m = args->part[0].w;
    tile_params a = {};

    if (!kernels_of(m->type) || args->workspace_bytes < matmul_tile_workspace_bytes(args->ctx))
        return (int)cudaErrorInvalidValue;
    fill_shape(&a, m);
    a.n_parts = args->n_parts;
    for (uint32_t i = 0; i < args->n_parts; i++)
        fill_part(&a.part[i], &args->part[i]);
    a.act = (const uint8_t *)args->act[ACT_BF16];
    a.act_stride = args->act_stride[ACT_BF16];
    a.n_rows_dev = args->n_rows_dev;
    a.n_rows = args->n_rows;
    a.flags = (uint32_t *)args->workspace;
    a.partial = (float *)((char *)args->workspace + TILE_FLAG_BYTES);
    a.glu = args->glu;
    a.glu_clamp = args->glu_clamp;
    return tile_go(args->ctx, &a, m->type, args->n_rows, args->stream);
}

extern "C" int matmul_tile_grouped_launch(const struct matmul_grouped_args *args)
{
    const struct cuda_matrix *m = args->part[0].w;
    tile_params a = {};

    if (!kernels_of(m->type) || m->n_stack > TILE_MAX_EXPERTS)
        return (int)cudaErrorInvalidValue;
    fill_shape(&a, m);
    a.n_parts = args->n_parts;
    for (uint32_t i = 0; i < args->n_parts; i++)
        fill_part(&a.part[i], &args->part[i]);
    a.act = (const uint8_t *)args->act;
    a.act_stride = args->act_stride;
    a.n_rows_dev = args->n_pairs_dev;
    a.n_rows = args->n_pairs;
    a.glu = args->glu;
    a.glu_clamp = args->glu_clamp;
    a.starts = args->starts;
    a.in_rows = args->in_rows;
    a.out_rows = args->out_rows;
    a.n_experts = m->n_stack;
    uint32_t average = (args->n_pairs + m->n_stack - 1) / m->n_stack;
    return tile_go(args->ctx, &a, m->type, average + average / 4, args->stream);
}
