/* The tile kernel for Hopper: wgmma with the weights unpacked into the registers of its left operand.
 *
 * A block takes 64 weight rows (4 groups) per warpgroup, up to four, times NT activation rows. A warp owns a group: it copies
 * the group's slabs ahead into a ring of its own (before the kernel before has ended: weights do not change), makes their
 * scales, and unpacks 64 columns while the products of the 64 before run. Activations, 128 columns at a time as two squares in the
 * 128-byte swizzle, come through a ring for all warps that four more warps fill.
 *
 * The blocks of a cluster share a tile: each takes a part of the slabs, and the sums are exchanged through shared memory, a part of
 * the tile for each block, always added in the order of the blocks. Bytes from L2 per tile: its weights, and NT rows of activations.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_WIDE_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_WIDE_CUH

#include "matmul-tile.cuh"
#include "matmul-unpack.cuh"
#include "matmul-wgmma.cuh"

enum { WIDE_WARPS = 16, WIDE_COPIERS = 4 };
enum { WIDE_STEP = 64, WIDE_COLUMNS = 2 * WIDE_STEP, WIDE_MOST_ACTS = 8, WIDE_MOST_SPLIT = 8 };

template <int TYPE> LAYOUT_FN uint32_t wide_slab_bytes()
{
    return slab_bytes(slab_layout_of(TYPE), slab_layout_of(TYPE).columns);
}
LAYOUT_FN uint32_t wide_act_bytes(int tokens)
{
    return (uint32_t)tokens * WIDE_COLUMNS * 2;
}

/* Computing warps at most: beyond 64 tokens sums need more registers. */
LAYOUT_FN int wide_warps(int tokens)
{
    return tokens > 64 ? 12 : WIDE_WARPS;
}

struct wide_params {
    struct tile_params tile;
    uint32_t n_tiles;      /* dense */
    uint32_t n_split;      /* blocks of a cluster */
    uint32_t act_buffers;  /* buffers of the ring of activations */
    uint32_t slab_buffers; /* buffers of the rings of weights: 2 or 3 */
    uint32_t exchange;     /* where sums are exchanged: 0 in the rings' place, as a block has one tile */
};

struct wide_shared {
    uint64_t act_full[WIDE_MOST_ACTS], act_empty[WIDE_MOST_ACTS];
    tile_shared tile;
};

#if SHARPI_HAS_WGMMA

/* ---- Which tiles and slabs are this block's ---- */

struct wide_walk {
    uint32_t tile, step, n_tiles, first_slab, end_slab;
    tile_place place;
};

static __device__ __forceinline__ wide_walk wide_begin_walk(const wide_params &a, const tile_shared &shared)
{
    wide_walk w = {};
    const uint32_t rank = cluster_rank();
    w.tile = blockIdx.x / a.n_split;
    w.step = gridDim.x / a.n_split;
    w.n_tiles = a.tile.starts ? shared.expert_tiles[a.tile.n_experts] * a.tile.n_row_tiles : a.n_tiles;
    w.first_slab = a.tile.n_slabs * rank / a.n_split;
    w.end_slab = a.tile.n_slabs * (rank + 1) / a.n_split;
    return w;
}

/* The tile that w is at or the next one that has tokens. */
template <int NT>
static __device__ __forceinline__ bool wide_find(wide_walk &w, const tile_params &a,
                                                 const tile_shared &shared, uint32_t n_rows)
{
    for (; w.tile < w.n_tiles; w.tile += w.step) {
        w.place = tile_locate<NT>(a, shared, w.tile, n_rows);
        if (w.place.n_tokens)
            return true;
    }
    return false;
}

/* ---- Copying activations: the last four warps ---- */

/* Lane l of copier c copies piece l % 8 of rows 16 i + 4 c + l / 8, which are rows source[i] of the input. */
template <int NT>
static __device__ __forceinline__ void copy_step(const tile_params &a, uint32_t n_tokens, uint32_t column,
                                                 const uint32_t source[NT / 16], uint8_t *act,
                                                 uint32_t copier, int lane)
{
    const uint32_t piece = lane & 7, first = 4 * copier + (lane >> 3), to = shared_address(act);
    const uint8_t *from = a.act + column * 2 + piece * 16;
#pragma unroll
    for (uint32_t i = 0; i < NT / 16; i++) {
        const uint32_t row = 16 * i + first;
        if (row < n_tokens)
            copy_16(to + row * 128 + ((piece ^ (row & 7)) << 4), from + source[i] * a.act_stride);
    }
}

template <int TYPE, int NT>
static __device__ void wide_copy(const wide_params &a, wide_shared &shared, wide_walk walk, uint8_t *acts,
                                 uint32_t n_rows, uint32_t copier, int lane)
{
    constexpr uint32_t columns = weight_type<TYPE>::columns;
    ring_place ring = {};
    for (; wide_find<NT>(walk, a.tile, shared.tile, n_rows); walk.tile += walk.step) {
        const uint32_t n_tokens = walk.place.n_tokens, end = min(walk.end_slab * columns, a.tile.n_in);
        uint32_t source[NT / 16];
#pragma unroll
        for (uint32_t i = 0; i < NT / 16; i++) {
            source[i] = walk.place.first_token + min(16 * i + 4 * copier + (lane >> 3), n_tokens - 1);
            if (a.tile.in_rows)
                source[i] = (uint32_t)a.tile.in_rows[source[i]];
        }
        for (uint32_t column = walk.first_slab * columns; column < end; column += WIDE_COLUMNS) {
            barrier_wait(&shared.act_empty[ring.slot], ring.parity ^ 1);
            uint8_t *to = acts + ring.slot * wide_act_bytes(NT);
            copy_step<NT>(a.tile, n_tokens, column, source, to, copier, lane);
            if (column + WIDE_STEP < end)
                copy_step<NT>(a.tile, n_tokens, column + WIDE_STEP, source, to + wide_act_bytes(NT) / 2,
                              copier, lane);
            barrier_arrive_copies(&shared.act_full[ring.slot]);
            ring_step(ring, a.act_buffers);
        }
        if (a.n_split > 1) { /* as the computing warps do */
            cluster_barrier();
            cluster_barrier();
        }
    }
}

/* ---- Copying weights: each computing warp for itself ---- */

struct wide_feed {
    const uint8_t *next; /* the lane's first piece of the next slab */
    uint32_t tile, slab; /* of the next slab; slab = the walk's end_slab: the tile is done */
    uint32_t ring,
        place; /* shared addresses: the lane's first piece of the ring, and of where the next slab goes */
};

/* Turns to the next tile that has tokens; slab stays at the end if there is none. */
template <int TYPE, int NT>
static __device__ __forceinline__ void feed_tile(wide_feed &f, const wide_walk &walk, const tile_params &a,
                                                 const tile_shared &shared, uint32_t slot, uint32_t n_rows,
                                                 int lane)
{
    wide_walk w = walk;
    w.tile = f.tile;
    if (wide_find<NT>(w, a, shared, n_rows)) {
        const tile_part &part = a.part[slot_part(a, w.place, slot)];
        const uint32_t group =
            min(slot_group(a, w.place, slot), part.n_groups - 1); /* past the last: in vain */
        f.next = part.data + w.place.expert * part.stack_bytes + group * part.group_bytes +
                 (uint64_t)w.first_slab * wide_slab_bytes<TYPE>() + 16 * lane;
        f.slab = w.first_slab;
    }
    f.tile = w.tile + w.step;
}

/* Copies the next slab, if there is one; always one group of copies. */
template <int TYPE, int NT>
static __device__ __forceinline__ void feed_step(wide_feed &f, const wide_walk &walk, const wide_params &a,
                                                 const wide_shared &shared, uint32_t slot, uint32_t n_rows,
                                                 int lane)
{
    constexpr uint32_t most = wide_slab_bytes<TYPE>();
    if (f.slab == walk.end_slab && f.tile < walk.n_tiles)
        feed_tile<TYPE, NT>(f, walk, a.tile, shared.tile, slot, n_rows, lane);
    if (f.slab < walk.end_slab) {
        const uint32_t bytes = f.slab + 1 < a.tile.n_slabs ? most : a.tile.last_slab_bytes;
        if (bytes == most) {
#pragma unroll
            for (uint32_t i = 0; i < (most + 511) / 512; i++)
                if (most % 512 == 0 || i * 512 + 512 <= most || i * 512 + 16 * lane < most)
                    copy_16(f.place + i * 512, f.next + i * 512);
        } else {
            for (uint32_t i = 0; i + 16 * lane < bytes; i += 512)
                copy_16(f.place + i, f.next + i);
        }
        f.next += most;
        f.slab++;
    }
    copy_commit();
    f.place += most;
    if (f.place == f.ring + a.slab_buffers * most)
        f.place = f.ring;
}

template <int TYPE, int NT>
static __device__ __forceinline__ wide_feed feed_begin(const wide_walk &walk, const wide_params &a,
                                                       const wide_shared &shared, uint8_t *ring,
                                                       uint32_t slot, uint32_t n_rows, int lane)
{
    wide_feed f = {nullptr, walk.tile, walk.end_slab};
    f.ring = f.place = shared_address(ring) + 16 * lane;
    for (uint32_t i = 0; i < a.slab_buffers; i++)
        feed_step<TYPE, NT>(f, walk, a, shared, slot, n_rows, lane);
    return f;
}

/* ---- Computing ---- */

static __device__ __forceinline__ void fragment_clear(uint32_t f[4])
{
    f[0] = f[1] = f[2] = f[3] = 0;
}

/* One slab's products. `before`: the last buffer of activations that was used and not given back. */
template <int TYPE, int NT>
static __device__ __forceinline__ void wide_slab(const wide_params &a, wide_shared &shared,
                                                 const uint8_t *slab, uint32_t *table, const uint8_t *acts,
                                                 ring_place &ring, int &before, uint32_t n_columns, int lane,
                                                 float (&acc)[NT / 8][4])
{
    using W = weight_type<TYPE>;
    uint32_t w[2][2][2][4]; /* [step & 1][block][sub] */

    if constexpr (!W::is_float) {
        scale_table_fill<TYPE>(table, slab, lane);
        __syncwarp();
    }
#pragma unroll
    for (int step = 0; step < (int)W::columns / WIDE_STEP; step++) {
        const int now = step & 1;
        if (step * WIDE_STEP >= (int)n_columns)
            break;
        lane_bits<TYPE> bits;
        lane_bits_load<TYPE>(bits, slab, table, step, lane);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            step_fragment<TYPE>(bits, step, i >> 1, i & 1, w[now][i >> 1][i & 1]);
            if ((W::is_float || i >= 2) && step * WIDE_STEP + i * 16 >= (int)n_columns) /* not in memory */
                fragment_clear(w[now][i >> 1][i & 1]);
        }
        if (now == 0) {
            barrier_wait(&shared.act_full[ring.slot], ring.parity);
            wide_fence();
        }
        const uint64_t x = wide_descriptor(
            shared_address(acts + ring.slot * wide_act_bytes(NT) + now * (wide_act_bytes(NT) / 2)));
        wide_begin();
#pragma unroll
        for (int i = 0; i < 4; i++)
            wide_mma(acc, w[now][i >> 1][i & 1], x + 2 * i);
        wide_commit();
        wide_wait<1>();
        if (now == 0 && before >= 0 && lane == 0)
            barrier_arrive(&shared.act_empty[before]);
        if (now == 1 || (step + 1) * WIDE_STEP >= (int)n_columns) {
            before = (int)ring.slot;
            ring_step(ring, a.act_buffers);
        }
    }
    wide_wait<0>();
}

/* ---- Results ---- */

/* The lane's four outputs of a group's 16 rows and 8 tokens from `token` (in the tile) on; up: of the other part, with glu. */
static __device__ __forceinline__ void wide_store(const tile_params &a, const tile_place &p, uint32_t slot,
                                                  uint32_t token, int lane, const float v[4],
                                                  const float up[4])
{
    const tile_part &part = a.part[slot_part(a, p, slot)];
    const uint32_t row = slot_group(a, p, slot) * 16 + (lane >> 2);
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const uint32_t in_tile = token + 2 * (lane & 3) + j;
        uint64_t place = p.first_token + in_tile;
        if (in_tile >= p.n_tokens)
            break;
        if (a.out_rows)
            place = (uint64_t)a.out_rows[place];
        float *out = part.out + place * part.out_stride + row;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint64_t bias_at = (uint64_t)p.expert * part.n_out + row + 8 * r;
            float value = v[2 * r + j];
            if (row + 8 * r >= part.n_out)
                break;
            if (part.bias)
                value += part.bias[bias_at];
            if (a.glu)
                value = gated(a.glu, a.glu_clamp, value,
                              up[2 * r + j] + (a.part[1].bias ? a.part[1].bias[bias_at] : 0.0f));
            out[8 * r] = part.epilogue == MATMUL_ADD ? out[8 * r] + value : value;
        }
    }
}

/* The sums of all blocks of the cluster, in their order. */
static __device__ __forceinline__ void gather_sums(const float4 *mine, uint32_t n_split, float v[4])
{
    constexpr uint32_t at_once = 4;
    v[0] = v[1] = v[2] = v[3] = 0;
    for (uint32_t first = 0; first < n_split; first += at_once) {
        float4 x[at_once];
#pragma unroll
        for (uint32_t i = 0; i < at_once; i++)
            x[i] = first + i < n_split ? cluster_load(mine, first + i) : make_float4(0, 0, 0, 0);
#pragma unroll
        for (uint32_t i = 0; i < at_once; i++)
            v[0] += x[i].x, v[1] += x[i].y, v[2] += x[i].z, v[3] += x[i].w;
    }
}

/* Tiles that blocks or warps (glu) share: [slot][8 tokens][lane] of four sums. */
template <int NT>
static __device__ void wide_exchange(const wide_params &a, const tile_place &p, float4 *sums, uint32_t warp,
                                     uint32_t n_warps, int lane, float (&acc)[NT / 8][4])
{
    constexpr uint32_t octets = NT / 8;
    const uint32_t gated_by = a.tile.glu ? 2 : 1, total = n_warps / gated_by * octets;
    if (!a.exchange)
        warps_barrier(1, n_warps * 32); /* the rings are done with */
#pragma unroll
    for (uint32_t n = 0; n < octets; n++)
        sums[(warp * octets + n) * 32 + lane] = make_float4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
    if (a.n_split > 1)
        cluster_barrier();
    else
        warps_barrier(1, n_warps * 32);
    for (uint32_t i = warp * a.n_split + cluster_rank(); i < total; i += n_warps * a.n_split) {
        const uint32_t slot = i / octets * gated_by, n = i % octets;
        const float4 *mine = sums + (slot * octets + n) * 32 + lane;
        float v[4], up[4];
        if (n * 8 >= p.n_tokens)
            continue;
        gather_sums(mine, a.n_split, v);
        if (a.tile.glu)
            gather_sums(mine + octets * 32, a.n_split, up);
        wide_store(a.tile, p, slot, n * 8, lane, v, up);
    }
    if (a.n_split > 1)
        cluster_barrier_relaxed();
    else
        warps_barrier(1, n_warps * 32);
}

template <int TYPE, int NT>
static __device__ __forceinline__ void wide_compute(const wide_params &a, wide_shared &shared, wide_walk walk,
                                                    wide_feed &feed, uint8_t *memory, const uint8_t *acts,
                                                    uint8_t *slabs, uint32_t *table, uint32_t n_rows,
                                                    uint32_t warp, uint32_t n_warps, int lane)
{
    using W = weight_type<TYPE>;
    ring_place ring = {};
    uint32_t stage = 0;
    for (; wide_find<NT>(walk, a.tile, shared.tile, n_rows); walk.tile += walk.step) {
        float acc[NT / 8][4] = {};
        int before = -1;
        for (uint32_t slab = walk.first_slab; slab < walk.end_slab; slab++) {
            if (a.slab_buffers == 2)
                copy_wait(1);
            else
                copy_wait(2);
            __syncwarp();
            wide_slab<TYPE, NT>(a, shared, slabs + stage * wide_slab_bytes<TYPE>(), table, acts, ring, before,
                                min(W::columns, a.tile.n_in - slab * W::columns), lane, acc);
            __syncwarp();
            feed_step<TYPE, NT>(feed, walk, a, shared, warp, n_rows, lane);
            if (++stage == a.slab_buffers)
                stage = 0;
        }
        wide_wait<0>();
        if (before >= 0 && lane == 0)
            barrier_arrive(&shared.act_empty[before]);
        if (a.n_split > 1 || a.tile.glu) {
            wide_exchange<NT>(a, walk.place, (float4 *)(memory + a.exchange), warp, n_warps, lane, acc);
            continue;
        }
#pragma unroll
        for (int n = 0; n < NT / 8; n++)
            wide_store(a.tile, walk.place, warp, n * 8, lane, acc[n], nullptr);
    }
}

#endif

/* Shared memory: activations, then weights by warp, then scale words by warp, then perhaps the exchange. */
template <int TYPE, int NT>
static __global__ void __launch_bounds__(32 * (wide_warps(NT) + WIDE_COPIERS), 1)
    wide_kernel(const __grid_constant__ wide_params a)
{
#if SHARPI_HAS_WGMMA
    extern __shared__ __align__(1024) uint8_t memory[];
    __shared__ wide_shared shared;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x & 31, n_warps = blockDim.x / 32 - WIDE_COPIERS;
    uint8_t *slabs = memory + a.act_buffers * wide_act_bytes(NT),
            *tables = slabs + n_warps * a.slab_buffers * wide_slab_bytes<TYPE>();
    const bool early = !a.tile.starts && a.tile.n_token_tiles == 1;
    wide_feed feed = {};

    launch_next();
    if (threadIdx.x < a.act_buffers) {
        barrier_init(&shared.act_full[threadIdx.x], 32 * WIDE_COPIERS);
        barrier_init(&shared.act_empty[threadIdx.x], n_warps);
    }
    slabs += warp * a.slab_buffers * wide_slab_bytes<TYPE>();
    if (early && warp < n_warps)
        feed = feed_begin<TYPE, NT>(wide_begin_walk(a, shared.tile), a, shared, slabs, warp, a.tile.n_rows,
                                    (int)lane);
    launch_wait();
    const uint32_t n_rows =
        a.tile.n_rows_dev ? min(a.tile.n_rows, (uint32_t)max(0, *a.tile.n_rows_dev)) : a.tile.n_rows;
    if (a.tile.starts && warp == 0)
        count_expert_tiles<NT>(a.tile, shared.tile, lane);
    __syncthreads();
    const wide_walk walk = wide_begin_walk(a, shared.tile);
    if (warp >= n_warps) {
        /* the block has 96 registers a thread (128 for 128 tokens) to share out */
        asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
        wide_copy<TYPE, NT>(a, shared, walk, memory, n_rows, warp - n_warps, (int)lane);
    } else {
        if constexpr (NT > 64)
            asm volatile("setmaxnreg.inc.sync.aligned.u32 152;");
        else
            asm volatile("setmaxnreg.inc.sync.aligned.u32 112;");
        if (!early)
            feed = feed_begin<TYPE, NT>(walk, a, shared, slabs, warp, n_rows, (int)lane);
        wide_compute<TYPE, NT>(a, shared, walk, feed, memory, memory, slabs,
                               (uint32_t *)tables + warp * unpack_type<TYPE>::table_words, n_rows, warp,
                               n_warps, (int)lane);
        copy_wait(0);
    }
#endif
}

/* By tokens per tile (16, 32, 64, 128). */
struct wide_kernels {
    void (*kernel[4])(const wide_params);
    uint32_t slab_bytes, table_bytes; /* of a warp */
};

#define WIDE_KERNELS(TYPE)                                                                                   \
    {                                                                                                        \
        {wide_kernel<TYPE, 16>, wide_kernel<TYPE, 32>, wide_kernel<TYPE, 64>, wide_kernel<TYPE, 128>},       \
            wide_slab_bytes<TYPE>(), unpack_type<TYPE>::table_words * 4                                      \
    }

/* matmul-wide.cu. `tile` is filled but for the tiles of rows, which depend on what is chosen here; `tokens`: of a tile, about. */
int wide_prepare(struct matmul_context *ctx);
int wide_go(const struct matmul_context *ctx, struct tile_params *tile, int32_t type, uint32_t tokens,
            cudaStream_t stream);

const struct wide_kernels *wide_kernels_4bit(int32_t type);
const struct wide_kernels *wide_kernels_k(int32_t type);
const struct wide_kernels *wide_kernels_other(int32_t type);

#endif
