/* The tile kernel of matmul-tile.cuh for Hopper: tiles of 256 weight rows (16 groups) times NT activation rows on wgmma.
 *
 * Two warpgroups compute, each warp two groups: it unpacks weights into the registers of wgmma's left operand while the products
 * before still run. The right operand, 64 columns of activations, comes from a ring in shared memory in the 128-byte swizzle. Four
 * warps copy ahead.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_WIDE_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_WIDE_CUH

#include "matmul-tile.cuh"
#include "matmul-wgmma.cuh"

enum { WIDE_GROUPS = 16, WIDE_ROWS = 16 * WIDE_GROUPS, WIDE_THREADS = 384, WIDE_COLUMNS = 64 };
enum { WIDE_WEIGHT_STAGES = 2, WIDE_MAX_STAGES = 8 }; /* of weights, of activations */

template <int TYPE> LAYOUT_FN uint32_t wide_weight_bytes()
{
    return WIDE_GROUPS * slab_bytes(slab_layout_of(TYPE), slab_layout_of(TYPE).columns);
}
LAYOUT_FN uint32_t wide_act_bytes(int tokens)
{
    return (uint32_t)tokens * WIDE_COLUMNS * 2;
}

struct wide_shared {
    uint64_t weights_full[WIDE_WEIGHT_STAGES], weights_empty[WIDE_WEIGHT_STAGES];
    uint64_t act_full[WIDE_MAX_STAGES], act_empty[WIDE_MAX_STAGES];
    tile_shared tile;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* A place in a ring of n buffers; use: wait full with parity, fill: wait empty with parity ^ 1. */
struct ring_place {
    uint32_t stage, parity;
};
static __device__ __forceinline__ void ring_step(ring_place &r, uint32_t n)
{
    if (++r.stage == n) {
        r.stage = 0;
        r.parity ^= 1;
    }
}

/* ---- Copying: each of four warps a quarter of the groups and of the tokens ---- */

/* Lane l of copying warp `part` copies piece l % 8 of rows 16 i + 4 part + l / 8. */
template <int TYPE, int NT>
static __device__ __forceinline__ void wide_copy_activations(const tile_params &a, const tile_place &p,
                                                             uint32_t column, const uint32_t source[NT / 16],
                                                             uint8_t *act, uint32_t part, int lane)
{
    const uint32_t piece = lane & 7, first = 4 * part + (lane >> 3), to = shared_address(act);
    const uint8_t *from = a.act + column * 2 + piece * 16;
#pragma unroll
    for (uint32_t i = 0; i < NT / 16; i++) {
        uint32_t row = 16 * i + first;
        if (row < p.n_tokens)
            copy_16(to + row * 128 + ((piece ^ (row & 7)) << 4), from + source[i] * a.act_stride);
    }
}

template <int TYPE>
static __device__ __forceinline__ void wide_copy_weights(const tile_params &a, const tile_place &p,
                                                         uint32_t slab, uint8_t *weights, uint32_t copier,
                                                         int lane)
{
    constexpr uint32_t most = slab_bytes(weight_type<TYPE>::layout, weight_type<TYPE>::columns);
    const uint32_t bytes = slab + 1 < a.n_slabs ? most : a.last_slab_bytes;
#pragma unroll
    for (uint32_t i = 0; i < WIDE_GROUPS / 4; i++) {
        const uint32_t s = copier * (WIDE_GROUPS / 4) + i, group = slot_group(a, p, s);
        const tile_part &part = a.part[slot_part(a, p, s)];
        if (group < part.n_groups)
            copy_warp<most>(weights + s * most,
                            part.data + p.expert * part.stack_bytes + group * part.group_bytes +
                                (uint64_t)slab * most,
                            bytes, lane);
    }
}

template <int TYPE, int NT>
static __device__ void wide_copy(const tile_params &a, wide_shared &shared, tile_walk walk, uint8_t *weights,
                                 uint8_t *act, uint32_t n_rows, uint32_t copier, int lane)
{
    constexpr uint32_t columns = weight_type<TYPE>::columns;
    ring_place weight_ring = {}, ring = {};
    while (tile_next(walk, a)) {
        tile_place p = tile_locate<NT>(a, shared.tile, walk.tile, n_rows);
        uint32_t source[NT / 16];
        if (p.n_tokens == 0)
            continue;
#pragma unroll
        for (uint32_t i = 0; i < NT / 16; i++) {
            source[i] = p.first_token + min(16 * i + 4 * copier + (lane >> 3), p.n_tokens - 1);
            if (a.in_rows)
                source[i] = (uint32_t)a.in_rows[source[i]];
        }
        for (uint32_t slab = walk.slab; slab < walk.end_slab; slab++) {
            barrier_wait(&shared.weights_empty[weight_ring.stage], weight_ring.parity ^ 1);
            wide_copy_weights<TYPE>(a, p, slab, weights + weight_ring.stage * wide_weight_bytes<TYPE>(),
                                    copier, lane);
            barrier_arrive_copies(&shared.weights_full[weight_ring.stage]);
            ring_step(weight_ring, WIDE_WEIGHT_STAGES);
            const uint32_t end = min((slab + 1) * columns, a.n_in);
            for (uint32_t column = slab * columns; column < end; column += WIDE_COLUMNS) {
                barrier_wait(&shared.act_empty[ring.stage], ring.parity ^ 1);
                wide_copy_activations<TYPE, NT>(a, p, column, source, act + ring.stage * wide_act_bytes(NT),
                                                copier, lane);
                barrier_arrive_copies(&shared.act_full[ring.stage]);
                ring_step(ring, a.n_stages);
            }
        }
    }
}

/* ---- Computing ---- */

/* A slab's products. `ring` is of activations. */
template <int TYPE, int NT>
static __device__ __forceinline__ void wide_slab(const tile_params &a, wide_shared &shared,
                                                 const uint8_t *groups, const uint8_t *act, ring_place &ring,
                                                 uint32_t n_columns, int lane, float (&acc)[2][NT / 8][4])
{
    using W = weight_type<TYPE>;
    constexpr uint32_t bytes = slab_bytes(W::layout, W::columns);
    const lane_header<TYPE> h[2] = {lane_header_load<TYPE>(groups, lane),
                                    lane_header_load<TYPE>(groups + bytes, lane)};
    uint32_t w[2][2][2][4]; /* [step & 1][group][sub] */
    uint32_t before = 0;

#pragma unroll
    for (int b = 0; b < (int)W::blocks; b++) {
        if (b * 32 >= (int)n_columns)
            break;
        const bool both = !W::is_float || b * 32 + 16 < (int)n_columns;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            weight_fragment<TYPE>(groups + j * bytes, h[j], b, 0, lane, w[b & 1][j][0]);
            weight_fragment<TYPE>(groups + j * bytes, h[j], b, 1, lane, w[b & 1][j][1]);
        }
        if (b % 2 == 0) {
            barrier_wait(&shared.act_full[ring.stage], ring.parity);
            wide_fence();
        }
        const uint64_t x =
            wide_descriptor(shared_address(act + ring.stage * wide_act_bytes(NT)) + (b & 1) * 64);
        wide_begin();
        wide_mma(acc[0], w[b & 1][0][0], x);
        wide_mma(acc[1], w[b & 1][1][0], x);
        if (both) {
            wide_mma(acc[0], w[b & 1][0][1], x + 2);
            wide_mma(acc[1], w[b & 1][1][1], x + 2);
        }
        wide_commit();
        wide_wait<1>();
        if (b % 2 == 0 && b > 0 && lane == 0) /* the columns before these are done with */
            barrier_arrive(&shared.act_empty[before]);
        if (b % 2 == 1 || (b + 1) * 32 >= (int)n_columns) {
            before = ring.stage;
            ring_step(ring, a.n_stages);
        }
    }
    wide_wait<0>();
    if (lane == 0)
        barrier_arrive(&shared.act_empty[before]);
}

template <int TYPE, int NT>
static __device__ __forceinline__ void wide_compute(const tile_params &a, wide_shared &shared, tile_walk walk,
                                                    const uint8_t *weights, const uint8_t *act,
                                                    uint32_t n_rows, uint32_t warp, int lane)
{
    using W = weight_type<TYPE>;
    ring_place weight_ring = {}, act_ring = {};
    while (tile_next(walk, a)) {
        tile_place p = tile_locate<NT>(a, shared.tile, walk.tile, n_rows);
        float acc[2][NT / 8][4] = {};
        if (p.n_tokens == 0)
            continue;
        for (uint32_t slab = walk.slab; slab < walk.end_slab; slab++) {
            const uint8_t *groups = weights + weight_ring.stage * wide_weight_bytes<TYPE>() +
                                    2 * warp * slab_bytes(W::layout, W::columns);
            barrier_wait(&shared.weights_full[weight_ring.stage], weight_ring.parity);
            wide_slab<TYPE, NT>(a, shared, groups, act, act_ring, min(W::columns, a.n_in - slab * W::columns),
                                lane, acc);
            __syncwarp();
            if (lane == 0)
                barrier_arrive(&shared.weights_empty[weight_ring.stage]);
            ring_step(weight_ring, WIDE_WEIGHT_STAGES);
        }
        if (a.starts || add_shares<NT, NT>(a, shared.tile, walk.tile, warp * 32 + lane, 256, acc))
            tile_store<NT>(a, p, 2 * warp, 0, lane, acc);
    }
}

#endif

template <int TYPE, int NT>
static __global__ void __launch_bounds__(WIDE_THREADS, 1) wide_kernel(const __grid_constant__ tile_params a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(1024) uint8_t wide_stages[];
    __shared__ wide_shared shared;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    uint8_t *act = wide_stages, *weights = wide_stages + a.n_stages * wide_act_bytes(NT);
    tile_walk walk = {};

    launch_next();
    if (threadIdx.x < a.n_stages) {
        barrier_init(&shared.act_full[threadIdx.x], 128);
        barrier_init(&shared.act_empty[threadIdx.x], 8);
    }
    if (threadIdx.x < WIDE_WEIGHT_STAGES) {
        barrier_init(&shared.weights_full[threadIdx.x], 128);
        barrier_init(&shared.weights_empty[threadIdx.x], 8);
    }
    launch_wait();
    uint32_t n_rows = a.n_rows_dev ? min(a.n_rows, (uint32_t)max(0, *a.n_rows_dev)) : a.n_rows;
    if (a.starts && warp == 0)
        count_expert_tiles<NT>(a, shared.tile, lane);
    __syncthreads();
    tile_begin(walk, a, shared.tile);
    if (warp >= 8) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
        wide_copy<TYPE, NT>(a, shared, walk, weights, act, n_rows, warp - 8, (int)lane);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 216;");
        wide_compute<TYPE, NT>(a, shared, walk, weights, act, n_rows, warp, (int)lane);
    }
#endif
}

/* By tokens per tile (32, 64, 128). */
struct wide_kernels {
    void (*kernel[3])(const tile_params);
    uint32_t weight_bytes;
};

#define WIDE_KERNELS(TYPE)                                                                                   \
    {                                                                                                        \
        {wide_kernel<TYPE, 32>, wide_kernel<TYPE, 64>, wide_kernel<TYPE, 128>}, wide_weight_bytes<TYPE>()    \
    }

const struct wide_kernels *wide_kernels_4bit(int32_t type);
const struct wide_kernels *wide_kernels_k(int32_t type);
const struct wide_kernels *wide_kernels_other(int32_t type);

#endif
