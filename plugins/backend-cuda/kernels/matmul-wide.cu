/* Launches the wgmma kernels of matmul-wide.cuh: how many weight rows a block takes, and how many blocks share a tile. */
#include "matmul-wide.cuh"

#include "launch.h"

enum { WIDE_SIZES = 4, WIDE_FEW_ACTS = 2, WIDE_SHARED = 227 << 10 };

static const struct wide_kernels *kernels_of(int32_t type)
{
    const struct wide_kernels *k = wide_kernels_4bit(type);
    if (!k)
        k = wide_kernels_k(type);
    return k ? k : wide_kernels_other(type);
}

static int room_of(const struct matmul_context *ctx)
{
    return ctx->device_shared - (int)((sizeof(struct wide_shared) + 1023) / 1024 * 1024);
}

/* ---- Launching ---- */

/* How many clusters of each size run at once: some SMs are left over. */
static int count_clusters(struct matmul_context *ctx)
{
    cudaLaunchAttribute attribute = {};
    cudaLaunchConfig_t config = {};

    ctx->wide_clusters[1] = ctx->n_sms;
    for (uint32_t split = 2; split <= WIDE_MOST_SPLIT; split++) {
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = split;
        attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
        config.attrs = &attribute;
        config.numAttrs = 1;
        config.gridDim = dim3(split * (uint32_t)ctx->n_sms);
        config.blockDim = dim3(32 * (WIDE_WARPS + WIDE_COPIERS));
        config.dynamicSmemBytes = (size_t)room_of(ctx);
        int e = (int)cudaOccupancyMaxActiveClusters(
            &ctx->wide_clusters[split], (const void *)kernels_of(SHARPI_TYPE_Q4_0)->kernel[2], &config);
        if (e)
            return e;
    }
    return 0;
}

/* The kernels are empty, so without shared memory, in a build or on a device without sm_90a. */
int wide_prepare(struct matmul_context *ctx)
{
    struct cudaFuncAttributes attributes;
    int e = (int)cudaFuncGetAttributes(&attributes, (const void *)kernels_of(SHARPI_TYPE_Q4_0)->kernel[0]);

    if (e)
        return e;
    ctx->has_wide = ctx->wide = attributes.sharedSizeBytes > 0 && ctx->shared_bytes >= WIDE_SHARED;
    if (!ctx->has_wide)
        return 0;
#define PREPARE(TYPE)                                                                                        \
    for (int size = 0; size < WIDE_SIZES; size++) {                                                          \
        e = (int)cudaFuncSetAttribute((const void *)kernels_of(TYPE)->kernel[size],                          \
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, room_of(ctx));            \
        if (e)                                                                                               \
            return e;                                                                                        \
    }
    EACH_SLAB_TYPE(PREPARE)
    return count_clusters(ctx);
}

/* ---- Choosing ---- */

struct wide_plan {
    uint32_t groups, n_split, n_tiles, n_rounds, act_buffers, slab_buffers, exchange, shared_bytes;
};

/* Buffers and places in shared memory of a block of p->groups warps; 0 if they do not fit. */
static int lay_out(const struct matmul_context *ctx, int32_t type, const struct tile_params *a, int tokens,
                   struct wide_plan *p)
{
    const struct wide_kernels *k = kernels_of(type);
    const uint32_t own = (a->n_slabs + p->n_split - 1) / p->n_split, acts = wide_act_bytes(tokens),
                   exchange = p->n_split > 1 || a->glu ? p->groups * 16 * (uint32_t)tokens * 4 : 0,
                   apart = p->n_rounds > 1 ? exchange : 0, fixed = p->groups * k->table_bytes + apart,
                   room = (uint32_t)room_of(ctx);

    for (uint32_t slabs = p->n_rounds > 1 || own > 3 ? 3 : own < 2 ? 2 : own; slabs >= 2; slabs--) {
        const uint32_t weights = fixed + slabs * p->groups * k->slab_bytes;
        if (weights + (slabs > 2 && tokens <= 64 ? 2 : 1) * WIDE_FEW_ACTS * acts > room)
            continue;
        p->slab_buffers = slabs;
        p->act_buffers = min((room - weights) / acts, (uint32_t)WIDE_MOST_ACTS);
        p->shared_bytes = weights + p->act_buffers * acts;
        p->exchange = apart ? p->shared_bytes - apart : 0;
        p->shared_bytes = max(p->shared_bytes, exchange);
        return p->shared_bytes <= room;
    }
    return 0;
}

/* About how long, in slabs of a block of 16 groups, as measured on an H200 with 64 rows: smaller blocks compute less well; every
 * block more that shares a tile costs a little, and before another tile such blocks cannot copy ahead. */
static double cost_of(const struct tile_params *a, const struct wide_plan *p)
{
    static const double of_slab[] = {0, 0.6, 0.66, 0.8, 1};
    const double shared = p->n_split > 1 ? 0.15 * p->n_split * p->n_rounds + 2.5 * (p->n_rounds - 1) : 0;
    return p->n_rounds * ((a->n_slabs + p->n_split - 1) / p->n_split) * of_slab[p->groups / 4] + shared;
}

static int try_plan(const struct matmul_context *ctx, int32_t type, struct tile_params *a, int tokens,
                    uint32_t groups, uint32_t split, struct wide_plan *best)
{
    struct wide_plan p = {};
    p.groups = groups;
    p.n_split = split;
    tile_count_rows(a, groups);
    p.n_tiles = a->n_row_tiles * a->n_token_tiles;
    p.n_rounds = (p.n_tiles + (uint32_t)ctx->wide_clusters[split] - 1) / (uint32_t)ctx->wide_clusters[split];
    if (a->starts)
        p.n_rounds = 2; /* as many as it may be */
    if (!lay_out(ctx, type, a, tokens, &p))
        return 0;
    if (!best->groups || cost_of(a, &p) < cost_of(a, best))
        *best = p;
    return 1;
}

static struct wide_plan choose(const struct matmul_context *ctx, int32_t type, struct tile_params *a,
                               int tokens)
{
    struct wide_plan best = {};
    for (uint32_t groups = (uint32_t)wide_warps(tokens); groups >= 4; groups -= 4) {
        if (ctx->wide_groups && ctx->wide_groups != groups)
            continue;
        if (a->starts) {
            if (!best.groups)
                try_plan(ctx, type, a, tokens, groups, 1, &best);
            continue;
        }
        for (uint32_t split = 1; split <= WIDE_MOST_SPLIT && split <= a->n_slabs; split++) {
            if ((ctx->wide_split && ctx->wide_split != split) || !ctx->wide_clusters[split])
                continue;
            try_plan(ctx, type, a, tokens, groups, split, &best);
        }
    }
    return best;
}

int wide_go(const struct matmul_context *ctx, struct tile_params *tile, int32_t type, uint32_t tokens,
            cudaStream_t stream)
{
    const int size = tokens <= 16 ? 0 : tokens <= 32 ? 1 : tokens <= 64 ? 2 : 3;
    wide_params a = {};

    tile->n_token_tiles = (tile->n_rows + (16u << size) - 1) / (16u << size);
    const struct wide_plan p = choose(ctx, type, tile, 16 << size);
    if (!p.groups)
        return (int)cudaErrorInvalidConfiguration;
    tile_count_rows(tile, p.groups);
    a.tile = *tile;
    a.n_tiles = p.n_tiles;
    a.n_split = p.n_split;
    a.act_buffers = p.act_buffers;
    a.slab_buffers = p.slab_buffers;
    a.exchange = p.exchange;
    uint64_t most = tile->starts ? (uint64_t)tile->n_rows * tile->n_row_tiles : p.n_tiles;
    uint32_t clusters = (uint32_t)ctx->wide_clusters[p.n_split];
    return launch_clusters(
        kernels_of(type)->kernel[size], dim3((most < clusters ? (uint32_t)most : clusters) * p.n_split),
        dim3(32 * (p.groups + WIDE_COPIERS)), p.n_split, p.shared_bytes, stream, ctx->overlap, &a);
}
