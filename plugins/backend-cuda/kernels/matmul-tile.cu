/* Launches the tile kernels: wgmma's where the device and the build have it, else mma.sync's; how many tokens a tile has, how
 * many stages fit. */
#include "matmul-wide.cuh"

enum { TILE_SIZES = 3, TILE_TOKENS_MOST = 128 };

static const struct tile_kernels *kernels_of(int32_t type)
{
    const struct tile_kernels *k = tile_kernels_4bit(type);
    if (!k)
        k = tile_kernels_k(type);
    return k ? k : tile_kernels_other(type);
}

static const struct wide_kernels *wide_of(int32_t type)
{
    const struct wide_kernels *k = wide_kernels_4bit(type);
    if (!k)
        k = wide_kernels_k(type);
    return k ? k : wide_kernels_other(type);
}

static uint32_t round_1024(size_t bytes)
{
    return (uint32_t)((bytes + 1023) / 1024 * 1024);
}

static uint32_t stages_that_fit(const struct matmul_context *ctx, int32_t type, int size)
{
    if (ctx->wide) {
        uint32_t room = (uint32_t)ctx->shared_bytes - round_1024(sizeof(struct wide_shared)) -
                        WIDE_WEIGHT_STAGES * wide_of(type)->weight_bytes;
        return min(room / wide_act_bytes(32 << size), (uint32_t)WIDE_MAX_STAGES);
    }
    const struct tile_kernels *k = kernels_of(type);
    uint32_t room =
        (uint32_t)ctx->shared_bytes - round_1024(sizeof(struct tile_shared)) - k->scratch_bytes[size];
    return min(room / k->stage_bytes[size], (uint32_t)TILE_MAX_STAGES);
}

static uint32_t dynamic_bytes(const struct matmul_context *ctx, int32_t type, int size, uint32_t n_stages)
{
    if (ctx->wide)
        return WIDE_WEIGHT_STAGES * wide_of(type)->weight_bytes + n_stages * wide_act_bytes(32 << size);
    return n_stages * kernels_of(type)->stage_bytes[size] + kernels_of(type)->scratch_bytes[size];
}

/* The wide kernels are empty, so without shared memory, in a build or on a device without sm_90a. */
extern "C" int matmul_tile_prepare(struct matmul_context *ctx)
{
    struct cudaFuncAttributes attributes;
    int e = (int)cudaFuncGetAttributes(&attributes, (const void *)wide_of(SHARPI_TYPE_Q4_0)->kernel[0]);

    if (e)
        return e;
    ctx->has_wide = attributes.sharedSizeBytes > 0;
    ctx->wide = ctx->has_wide;
#define PREPARE(TYPE)                                                                                        \
    for (int size = 0; size < TILE_SIZES; size++) {                                                          \
        e = (int)cudaFuncSetAttribute((const void *)kernels_of(TYPE)->kernel[size],                          \
                                      cudaFuncAttributeMaxDynamicSharedMemorySize,                           \
                                      ctx->shared_bytes - (int)round_1024(sizeof(struct tile_shared)));      \
        if (!e && ctx->has_wide)                                                                             \
            e = (int)cudaFuncSetAttribute((const void *)wide_of(TYPE)->kernel[size],                         \
                                          cudaFuncAttributeMaxDynamicSharedMemorySize,                       \
                                          ctx->shared_bytes - (int)round_1024(sizeof(struct wide_shared)));  \
        if (e)                                                                                               \
            return e;                                                                                        \
    }
    EACH_SLAB_TYPE(PREPARE)
    return 0;
}

extern "C" uint64_t matmul_tile_workspace_bytes(const struct matmul_context *ctx)
{
    return TILE_FLAG_BYTES + 2ull * (uint64_t)ctx->n_sms * WIDE_ROWS * TILE_TOKENS_MOST * sizeof(float);
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

static int tile_go(const struct matmul_context *ctx, tile_params *a, int32_t type, uint32_t tokens_per_tile,
                   uint64_t n_units, cudaStream_t stream)
{
    int size = pick_size(ctx, type, tokens_per_tile);
    uint32_t blocks = n_units < (uint64_t)ctx->n_sms ? (uint32_t)n_units : (uint32_t)ctx->n_sms;

    a->n_stages = stages_that_fit(ctx, type, size);
    if (a->n_stages == 0)
        return (int)cudaErrorInvalidConfiguration;
    void (*kernel)(tile_params) =
        (void (*)(tile_params))(ctx->wide ? wide_of(type)->kernel[size] : kernels_of(type)->kernel[size]);
    return launch_kernel(kernel, dim3(blocks),
                         dim3(ctx->wide ? (uint32_t)WIDE_THREADS : (uint32_t)TILE_THREADS),
                         dynamic_bytes(ctx, type, size, a->n_stages), stream, ctx->overlap, a);
}

static uint32_t groups_per_tile(const struct matmul_context *ctx)
{
    return ctx->wide ? (uint32_t)WIDE_GROUPS : (uint32_t)TILE_GROUPS;
}

extern "C" int matmul_tile_launch(const struct matmul_args *args)
{
    const struct cuda_matrix *m = args->part[0].w;
    uint32_t per_tile = groups_per_tile(args->ctx) / (args->glu ? 2 : 1);
    tile_params a = {};

    if (!kernels_of(m->type) || args->workspace_bytes < matmul_tile_workspace_bytes(args->ctx))
        return (int)cudaErrorInvalidValue;
    fill_shape(&a, m);
    a.tile_groups = groups_per_tile(args->ctx);
    a.n_parts = args->n_parts;
    for (uint32_t i = 0; i < args->n_parts; i++) {
        fill_part(&a.part[i], &args->part[i]);
        a.part[i].first_row_tile = args->glu ? 0 : a.n_row_tiles;
        if (!args->glu || i == 0)
            a.n_row_tiles += (a.part[i].n_groups + per_tile - 1) / per_tile;
    }
    uint32_t size = 32u << pick_size(args->ctx, m->type, args->n_rows);
    a.act = (const uint8_t *)args->act[ACT_BF16];
    a.act_stride = args->act_stride[ACT_BF16];
    a.n_rows_dev = args->n_rows_dev;
    a.n_rows = args->n_rows;
    a.n_token_tiles = (args->n_rows + size - 1) / size;
    a.flags = (uint32_t *)args->workspace;
    a.partial = (float *)((char *)args->workspace + TILE_FLAG_BYTES);
    a.glu = args->glu;
    a.glu_clamp = args->glu_clamp;
    return tile_go(args->ctx, &a, m->type, args->n_rows,
                   (uint64_t)a.n_row_tiles * a.n_token_tiles * a.n_slabs, args->stream);
}

extern "C" int matmul_tile_grouped_launch(const struct matmul_grouped_args *args)
{
    const struct cuda_matrix *m = args->part[0].w;
    uint32_t per_tile = groups_per_tile(args->ctx) / (args->glu ? 2 : 1);
    tile_params a = {};

    if (!kernels_of(m->type) || m->n_stack > TILE_MAX_EXPERTS)
        return (int)cudaErrorInvalidValue;
    fill_shape(&a, m);
    a.tile_groups = groups_per_tile(args->ctx);
    a.n_parts = args->n_parts;
    for (uint32_t i = 0; i < args->n_parts; i++)
        fill_part(&a.part[i], &args->part[i]);
    a.n_row_tiles = (a.part[0].n_groups + per_tile - 1) / per_tile;
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
    return tile_go(args->ctx, &a, m->type, average + average / 4, (uint64_t)args->n_pairs * a.n_row_tiles,
                   args->stream);
}
