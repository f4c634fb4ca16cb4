/* Products with many activation rows on tensor cores (bf16 mma.sync), weights unpacked on the fly, for one weight type.
 *
 * A tile is 128 weight rows (8 groups; with glu 4 of gate and the same 4 of up) times NT activation rows. A block has 8 computing
 * warps and one that copies slabs and activations ahead through a ring. Warp w computes groups 2 (w % 4) and 2 (w % 4) + 1;
 * up to 64 tokens, warps 0-3 take the first half of a slab's columns and warps 4-7 the second, beyond, each half of the
 * tokens.
 *
 * Work is dealt out as slabs of tiles in equal, contiguous shares to as many blocks as there are SMs, so that small matrices
 * use all of them; a tile that is shared by several blocks is added up by the one that comes last, in the blocks' order.
 * Mixtures: whole tiles, found from the experts' row counts on the device.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_TILE_CUH
#define SHARPI_BACKEND_CUDA_MATMUL_TILE_CUH

#include "launch.h"
#include "matmul-decode.cuh"
#include "matmul-epilogue.cuh"
#include "matmul-internal.h"
#include "matmul-ring.cuh"

enum { TILE_GROUPS = 8, TILE_ROWS = 16 * TILE_GROUPS, TILE_WARPS = 8, TILE_THREADS = 32 * (TILE_WARPS + 1) };
enum { TILE_MAX_STAGES = 4, TILE_MAX_EXPERTS = 1024, TILE_FLAG_BYTES = 4096 };

struct tile_part {
    const uint8_t *data;
    const float *bias;
    float *out;
    uint64_t out_stride, group_bytes, stack_bytes;
    uint32_t n_out, n_groups, first_row_tile;
    int32_t epilogue;
};

struct tile_params {
    struct tile_part part[MATMUL_MAX_PARTS];
    const uint8_t *act;
    uint64_t act_stride;
    const int32_t *n_rows_dev;
    uint32_t *flags;
    float *partial; /* [2 * blocks][rows of a tile * NT] */
    uint32_t n_parts, n_rows, n_in, n_slabs, n_row_tiles, n_token_tiles;
    uint32_t slab_bytes, last_slab_bytes, n_stages, tile_groups;
    int32_t glu;
    float glu_clamp;
    const int32_t *starts, *in_rows, *out_rows; /* mixtures; starts NULL: none */
    uint32_t n_experts;
};

/* Bytes of a stage's weights and of an activation row in it (16 more than its data: rows begin in different banks). */
template <int TYPE> LAYOUT_FN uint32_t tile_weight_bytes()
{
    return TILE_GROUPS * slab_bytes(slab_layout_of(TYPE), slab_layout_of(TYPE).columns);
}
template <int TYPE> LAYOUT_FN uint32_t tile_act_stride()
{
    return slab_layout_of(TYPE).columns * 2 + 16;
}

struct tile_place {
    uint32_t part, row_tile; /* row_tile: within the part */
    uint32_t first_token, n_tokens, expert;
};

struct tile_shared {
    uint64_t full[TILE_MAX_STAGES], empty[TILE_MAX_STAGES];
    uint32_t last;
    uint32_t expert_tiles[TILE_MAX_EXPERTS + 1]; /* mixtures: token tiles of the experts before */
};

/* ---- Which work is whose ---- */

/* A block's way through its shares: tiles, and in them slabs [slab, end_slab). */
struct tile_walk {
    uint64_t next, end; /* units: slabs of tiles, or tiles (mixtures) */
    uint32_t tile, slab, end_slab;
};

static __device__ __forceinline__ bool tile_next(tile_walk &w, const tile_params &a)
{
    if (w.next >= w.end)
        return false;
    if (a.starts) {
        w.tile = (uint32_t)w.next;
        w.slab = 0;
        w.end_slab = a.n_slabs;
        w.next += gridDim.x;
        return true;
    }
    w.tile = (uint32_t)(w.next / a.n_slabs);
    w.slab = (uint32_t)(w.next - (uint64_t)w.tile * a.n_slabs);
    w.end_slab = (uint32_t)min((uint64_t)a.n_slabs, w.slab + (w.end - w.next));
    w.next += w.end_slab - w.slab;
    return true;
}

/* The block that owns unit `u` of `total`, in equal contiguous shares. */
static __device__ __forceinline__ uint32_t share_owner(uint64_t u, uint64_t total)
{
    return (uint32_t)(((u + 1) * gridDim.x - 1) / total);
}
static __device__ __forceinline__ uint64_t share_begin(uint64_t block, uint64_t total)
{
    return total * block / gridDim.x;
}

static __device__ __forceinline__ void tile_begin(tile_walk &w, const tile_params &a,
                                                  const tile_shared &shared)
{
    uint64_t total = (uint64_t)a.n_row_tiles * a.n_token_tiles * a.n_slabs;
    w.next = a.starts ? blockIdx.x : share_begin(blockIdx.x, total);
    w.end = a.starts ? (uint64_t)shared.expert_tiles[a.n_experts] * a.n_row_tiles
                     : share_begin(blockIdx.x + 1, total);
}

template <int NT>
static __device__ __forceinline__ tile_place tile_locate(const tile_params &a, const tile_shared &shared,
                                                         uint32_t tile, uint32_t n_rows)
{
    tile_place p = {};
    uint32_t row_tile, token_tile;
    if (a.starts) {
        uint32_t low = 0, high = a.n_experts; /* the last expert that begins at or before this tile */
        while (low + 1 < high) {
            uint32_t middle = (low + high) / 2;
            if (shared.expert_tiles[middle] * a.n_row_tiles <= tile)
                low = middle;
            else
                high = middle;
        }
        p.expert = low;
        uint32_t n = shared.expert_tiles[low + 1] - shared.expert_tiles[low],
                 in_expert = tile - shared.expert_tiles[low] * a.n_row_tiles;
        row_tile = in_expert / n;
        token_tile = in_expert - row_tile * n;
        p.first_token = a.starts[low] + token_tile * NT;
        n_rows = a.starts[low + 1];
    } else {
        row_tile = tile / a.n_token_tiles;
        token_tile = tile - row_tile * a.n_token_tiles;
        p.first_token = token_tile * NT;
    }
    p.n_tokens = p.first_token < n_rows ? min((uint32_t)NT, n_rows - p.first_token) : 0;
    while (!a.glu && p.part + 1 < a.n_parts && row_tile >= a.part[p.part + 1].first_row_tile)
        p.part++;
    p.row_tile = row_tile - a.part[p.part].first_row_tile;
    return p;
}

/* Part and group of a tile's slot 0 .. tile_groups - 1. */
static __device__ __forceinline__ uint32_t slot_part(const tile_params &a, const tile_place &p, uint32_t slot)
{
    return a.glu ? slot & 1 : p.part;
}
static __device__ __forceinline__ uint32_t slot_group(const tile_params &a, const tile_place &p,
                                                      uint32_t slot)
{
    return a.glu ? p.row_tile * (a.tile_groups / 2) + slot / 2 : p.row_tile * a.tile_groups + slot;
}

/* One warp: expert_tiles. */
template <int NT>
static __device__ void count_expert_tiles(const tile_params &a, tile_shared &shared, uint32_t lane)
{
    uint32_t each = (a.n_experts + 31) / 32, first = min(a.n_experts, lane * each),
             last = min(a.n_experts, first + each), sum = 0;
    for (uint32_t e = first; e < last; e++)
        sum += (uint32_t)(max(0, a.starts[e + 1] - a.starts[e]) + NT - 1) / NT;
    uint32_t before = sum;
    for (int step = 1; step < 32; step *= 2) {
        uint32_t other = __shfl_up_sync(~0u, before, step);
        if ((int)lane >= step)
            before += other;
    }
    before -= sum;
    for (uint32_t e = first; e < last; e++) {
        shared.expert_tiles[e] = before;
        before += (uint32_t)(max(0, a.starts[e + 1] - a.starts[e]) + NT - 1) / NT;
    }
    if (last == a.n_experts) /* several lanes may, with the same value */
        shared.expert_tiles[a.n_experts] = before;
}

/* ---- The copying warp ---- */

template <int TYPE>
static __device__ __forceinline__ void copy_weights(const tile_params &a, const tile_place &p, uint32_t slab,
                                                    uint8_t *stage, int lane)
{
    constexpr uint32_t most = slab_bytes(weight_type<TYPE>::layout, weight_type<TYPE>::columns);
    uint32_t bytes = slab + 1 < a.n_slabs ? a.slab_bytes : a.last_slab_bytes;
    for (uint32_t s = 0; s < TILE_GROUPS; s++) {
        const tile_part &part = a.part[slot_part(a, p, s)];
        uint32_t group = slot_group(a, p, s);
        if (group < part.n_groups)
            copy_warp<most>(stage + s * most,
                            part.data + p.expert * part.stack_bytes + group * part.group_bytes +
                                (uint64_t)slab * most,
                            bytes, lane);
    }
}

/* in_rows[i]: the source of the tile's row 32 i + lane. */
template <int TYPE, int NT>
static __device__ __forceinline__ void copy_activations(const tile_params &a, const tile_place &p,
                                                        uint32_t slab, const uint32_t in_rows[NT / 32],
                                                        uint8_t *stage, int lane)
{
    constexpr uint32_t columns = weight_type<TYPE>::columns, pieces = columns / 8, rows = 32 / pieces;
    const uint32_t bytes = min(columns, ((a.n_in + 63) & ~63u) - slab * columns) * 2, piece = lane % pieces;
    const uint32_t to = shared_address(stage + tile_weight_bytes<TYPE>()) + piece * 16;
    const uint8_t *from = a.act + (uint64_t)slab * columns * 2 + piece * 16;
#pragma unroll
    for (uint32_t i = 0; i < NT / 32; i++) {
#pragma unroll 8
        for (uint32_t n = 0; n < 32; n += rows) {
            uint32_t in_32 = n + lane / pieces, row = i * 32 + in_32,
                     source = __shfl_sync(~0u, in_rows[i], in_32);
            if (row < p.n_tokens && piece * 16 < bytes)
                copy_16(to + row * tile_act_stride<TYPE>(), from + source * a.act_stride);
        }
    }
}

template <int TYPE, int NT>
static __device__ __forceinline__ void copy_all(const tile_params &a, tile_shared &shared, tile_walk walk,
                                                uint8_t *stages, uint32_t n_rows, int lane)
{
    constexpr uint32_t stage_bytes = tile_weight_bytes<TYPE>() + NT * tile_act_stride<TYPE>();
    uint32_t stage = 0,
             parity = 1; /* a buffer's first release has parity 0; before it, waiting for 1 passes */
    while (tile_next(walk, a)) {
        tile_place p = tile_locate<NT>(a, shared, walk.tile, n_rows);
        uint32_t in_rows[NT / 32];
        if (p.n_tokens == 0)
            continue;
#pragma unroll
        for (int i = 0; i < NT / 32; i++) {
            in_rows[i] = p.first_token + min(32u * i + lane, p.n_tokens - 1);
            if (a.in_rows)
                in_rows[i] = (uint32_t)a.in_rows[in_rows[i]];
        }
        for (uint32_t slab = walk.slab; slab < walk.end_slab; slab++) {
            barrier_wait(&shared.empty[stage], parity);
            uint8_t *to = stages + stage * stage_bytes;
            copy_weights<TYPE>(a, p, slab, to, lane);
            copy_activations<TYPE, NT>(a, p, slab, in_rows, to, lane);
            barrier_arrive_copies(&shared.full[stage]);
            if (++stage == a.n_stages) {
                stage = 0;
                parity ^= 1;
            }
        }
    }
}

/* ---- The computing warps ---- */

/* Four 8 x 8 matrices of 16-bit elements; lanes 8 i .. 8 i + 7 give the rows of matrix i. */
static __device__ __forceinline__ void load_matrices(uint32_t r[4], const uint8_t *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* The fragment of a group's 16 rows x 16 columns (block, sub). */
template <int TYPE>
static __device__ __forceinline__ void weight_fragment(const uint8_t *slab, const lane_header<TYPE> &h,
                                                       int block, int sub, int lane, uint32_t f[4])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if constexpr (TYPE == SHARPI_TYPE_BF16) {
            uint2 p = lane_pairs(slab, block, r, sub, lane);
            f[r] = p.x;
            f[2 + r] = p.y;
        } else if constexpr (weight_type<TYPE>::has_codes) {
            lane_pairs_fast<TYPE>(slab, h, block, r, sub, lane, f[r], f[2 + r]);
        } else {
            float4 w = lane_weights<TYPE>(slab, h, block, r, sub, lane);
            f[r] = bf16_pair(w.x, w.y);
            f[2 + r] = bf16_pair(w.z, w.w);
        }
    }
}

/* One slab's blocks [BEGIN, END) for the warp's two groups and its NW tokens, whose first row of activations is `x`. */
template <int TYPE, int NW, int BEGIN, int END>
static __device__ __forceinline__ void slab_mma(const uint8_t *groups, const uint8_t *x, uint32_t n_columns,
                                                int lane, float acc[2][NW / 8][4])
{
    constexpr uint32_t bytes = slab_bytes(weight_type<TYPE>::layout, weight_type<TYPE>::columns);
    const lane_header<TYPE> h[2] = {lane_header_load<TYPE>(groups, lane),
                                    lane_header_load<TYPE>(groups + bytes, lane)};
    /* matrix i of load_matrices: columns 8 i of the block; its row: the token */
    const uint8_t *x_lane = x + (lane & 7) * tile_act_stride<TYPE>() + (lane >> 3) * 16;
#pragma unroll
    for (int b = BEGIN; b < END; b++) {
        if (b * 32 >= (int)n_columns)
            break;
        uint32_t w[2][2][4]; /* [group][sub] */
#pragma unroll
        for (int j = 0; j < 2; j++) {
            weight_fragment<TYPE>(groups + j * bytes, h[j], b, 0, lane, w[j][0]);
            weight_fragment<TYPE>(groups + j * bytes, h[j], b, 1, lane, w[j][1]);
        }
        const bool both = !weight_type<TYPE>::is_float || b * 32 + 16 < (int)n_columns;
#pragma unroll
        for (int n = 0; n < NW / 8; n++) {
            uint32_t f[4];
            load_matrices(f, x_lane + n * 8 * tile_act_stride<TYPE>() + b * 64);
            mma_bf16(acc[0][n], w[0][0], f[0], f[1]);
            mma_bf16(acc[1][n], w[1][0], f[0], f[1]);
            if (both) {
                mma_bf16(acc[0][n], w[0][1], f[2], f[3]);
                mma_bf16(acc[1][n], w[1][1], f[2], f[3]);
            }
        }
    }
}

/* Outputs of the warp's two groups for its tokens, from `token` (in the tile) on. */
template <int NW>
static __device__ void tile_store(const tile_params &a, const tile_place &p, uint32_t warp_slot,
                                  uint32_t token, int lane, float acc[2][NW / 8][4])
{
    const int g = lane >> 2, t = lane & 3;
    const tile_part &part = a.part[slot_part(a, p, warp_slot)];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const uint32_t first_row = slot_group(a, p, warp_slot + j) * 16 + g;
        if (a.glu && j == 1)
            break;
#pragma unroll
        for (int n = 0; n < NW / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t row = first_row + 8 * (i >> 1), in_tile = token + n * 8 + 2 * t + (i & 1);
                if (row >= part.n_out || in_tile >= p.n_tokens)
                    continue;
                uint64_t place = p.first_token + in_tile, bias_at = (uint64_t)p.expert * part.n_out + row;
                float value = acc[j][n][i] + (part.bias ? part.bias[bias_at] : 0.0f);
                if (a.glu)
                    value = gated(a.glu, a.glu_clamp, value,
                                  acc[1][n][i] + (a.part[1].bias ? a.part[1].bias[bias_at] : 0.0f));
                if (a.out_rows)
                    place = (uint64_t)a.out_rows[place];
                float *out = part.out + place * part.out_stride + row;
                *out = part.epilogue == MATMUL_ADD ? *out + value : value;
            }
        }
    }
}

static __device__ __forceinline__ void warps_barrier(uint32_t id, uint32_t n_threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}

/* Adds the accumulators of warps 4..7 to those of warps 0..3. scratch: 128 x NT / 2 floats. */
template <int NW>
static __device__ __forceinline__ void add_halves(float *scratch, uint32_t warp, int lane,
                                                  float acc[2][NW / 8][4])
{
    float4 *mine = (float4 *)scratch + (warp & 3) * 32 + lane;
#pragma unroll
    for (int j = 0; j < 2; j++) {
        if (warp >= 4)
#pragma unroll
            for (int n = 0; n < NW / 8; n++)
                mine[n * 128] = *(float4 *)acc[j][n];
        warps_barrier(1, 32 * TILE_WARPS);
        if (warp < 4)
#pragma unroll
            for (int n = 0; n < NW / 8; n++) {
                float4 v = mine[n * 128];
                acc[j][n][0] += v.x, acc[j][n][1] += v.y, acc[j][n][2] += v.z, acc[j][n][3] += v.w;
            }
        warps_barrier(1, 32 * TILE_WARPS);
    }
}

/* A tile that several blocks share: leaves this block's sums; true, with everybody's sums in acc, in the block that comes last.
 * Called by the threads that hold sums, n_threads of them. */
template <int NW, int NT>
static __device__ bool add_shares(const tile_params &a, tile_shared &shared, uint32_t tile, uint32_t thread,
                                  uint32_t n_threads, float acc[2][NW / 8][4])
{
    const uint64_t total = (uint64_t)a.n_row_tiles * a.n_token_tiles * a.n_slabs,
                   unit = (uint64_t)tile * a.n_slabs;
    const uint32_t first = share_owner(unit, total), last = share_owner(unit + a.n_slabs - 1, total);
    if (first == last)
        return true;
    for (uint32_t pass = 0; pass < 2; pass++) {
        uint32_t from = pass ? first : blockIdx.x, to = pass ? last : blockIdx.x;
        for (uint32_t c = from; c <= to; c++) {
            uint32_t slot = 2 * c + (share_begin(c, total) / a.n_slabs != tile);
            float4 *place = (float4 *)(a.partial + (uint64_t)slot * (a.tile_groups * 16 * NT)) + thread;
#pragma unroll
            for (int k = 0; k < 2 * NW / 8; k++) {
                float *mine = acc[k & 1][k >> 1];
                if (pass == 0) {
                    __stcg(place + k * n_threads, make_float4(mine[0], mine[1], mine[2], mine[3]));
                    mine[0] = mine[1] = mine[2] = mine[3] = 0;
                } else {
                    float4 v = __ldcg(place + k * n_threads);
                    mine[0] += v.x, mine[1] += v.y, mine[2] += v.z, mine[3] += v.w;
                }
            }
        }
        if (pass == 1)
            break;
        __threadfence();
        warps_barrier(2, n_threads);
        if (thread == 0) {
            shared.last = atomicAdd(&a.flags[first], 1) == last - first;
            if (shared.last)
                a.flags[first] = 0;
            __threadfence();
        }
        warps_barrier(2, n_threads);
        if (!shared.last)
            return false;
    }
    return true;
}

template <int TYPE, int NT>
static __device__ __forceinline__ void compute_all(const tile_params &a, tile_shared &shared, tile_walk walk,
                                                   uint8_t *stages, uint32_t n_rows, uint32_t warp, int lane)
{
    constexpr bool split_columns = NT <= 64;
    constexpr int NW = split_columns ? NT : NT / 2, blocks = (int)weight_type<TYPE>::blocks;
    constexpr uint32_t stage_bytes = tile_weight_bytes<TYPE>() + NT * tile_act_stride<TYPE>();
    const uint32_t slot = 2 * (warp & 3), upper = warp >> 2, token = split_columns ? 0 : upper * NW;
    const bool holds = !split_columns || !upper;
    float *scratch = (float *)(stages + (uint64_t)a.n_stages * stage_bytes);
    uint32_t stage = 0, parity = 0;

    while (tile_next(walk, a)) {
        tile_place p = tile_locate<NT>(a, shared, walk.tile, n_rows);
        float acc[2][NW / 8][4] = {};
        if (p.n_tokens == 0)
            continue;
        for (uint32_t slab = walk.slab; slab < walk.end_slab; slab++) {
            const uint8_t *in = stages + stage * stage_bytes, *x = in + tile_weight_bytes<TYPE>();
            const uint8_t *groups =
                in + slot * slab_bytes(weight_type<TYPE>::layout, weight_type<TYPE>::columns);
            uint32_t n_columns = min(weight_type<TYPE>::columns, a.n_in - slab * weight_type<TYPE>::columns);
            barrier_wait(&shared.full[stage], parity);
            x += token * tile_act_stride<TYPE>();
            if (!split_columns)
                slab_mma<TYPE, NW, 0, blocks>(groups, x, n_columns, lane, acc);
            else if (!upper)
                slab_mma<TYPE, NW, 0, blocks / 2>(groups, x, n_columns, lane, acc);
            else
                slab_mma<TYPE, NW, blocks / 2, blocks>(groups, x, n_columns, lane, acc);
            __syncwarp();
            if (lane == 0)
                barrier_arrive(&shared.empty[stage]);
            if (++stage == a.n_stages) {
                stage = 0;
                parity ^= 1;
            }
        }
        if constexpr (split_columns)
            add_halves<NW>(scratch, warp, lane, acc);
        if (holds && (a.starts || add_shares<NW, NT>(a, shared, walk.tile, warp * 32 + lane,
                                                     split_columns ? 128 : 256, acc)))
            tile_store<NW>(a, p, slot, token, lane, acc);
    }
}

template <int TYPE, int NT>
static __global__ void __launch_bounds__(TILE_THREADS, 1) tile_kernel(const __grid_constant__ tile_params a)
{
    extern __shared__ __align__(128) uint8_t stages[];
    __shared__ tile_shared shared;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    tile_walk walk = {};

    launch_next();
    if (threadIdx.x < a.n_stages) {
        barrier_init(&shared.full[threadIdx.x], 32);
        barrier_init(&shared.empty[threadIdx.x], TILE_WARPS);
    }
    launch_wait();
    uint32_t n_rows = a.n_rows_dev ? min(a.n_rows, (uint32_t)max(0, *a.n_rows_dev)) : a.n_rows;
    if (a.starts && warp == 0)
        count_expert_tiles<NT>(a, shared, lane);
    __syncthreads();
    tile_begin(walk, a, shared);
    if (warp == TILE_WARPS)
        copy_all<TYPE, NT>(a, shared, walk, stages, n_rows, (int)lane);
    else
        compute_all<TYPE, NT>(a, shared, walk, stages, n_rows, warp, (int)lane);
}

/* What the host picks from: the kernels of one type by tokens per tile (32, 64, 128), and their memory. */
struct tile_kernels {
    void (*kernel[3])(const tile_params);
    uint32_t stage_bytes[3], scratch_bytes[3];
};

#define TILE_KERNELS(TYPE)                                                                                   \
    {                                                                                                        \
        {tile_kernel<TYPE, 32>, tile_kernel<TYPE, 64>, tile_kernel<TYPE, 128>},                              \
            {tile_weight_bytes<TYPE>() + 32 * tile_act_stride<TYPE>(),                                       \
             tile_weight_bytes<TYPE>() + 64 * tile_act_stride<TYPE>(),                                       \
             tile_weight_bytes<TYPE>() + 128 * tile_act_stride<TYPE>()},                                     \
        {                                                                                                    \
            TILE_ROWS * 32 * 2, TILE_ROWS * 64 * 2, 0                                                        \
        }                                                                                                    \
    }

void tile_count_rows(struct tile_params *a, uint32_t per_tile);

const struct tile_kernels *tile_kernels_4bit(int32_t type);
const struct tile_kernels *tile_kernels_k(int32_t type);
const struct tile_kernels *tile_kernels_other(int32_t type);

#endif
