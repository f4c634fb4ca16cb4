/* Routing of mixtures: one warp per token chooses experts; pairs are sorted by counting, with a bit mask of tokens per
 * expert and block, so that every pair's place follows from the choices alone.
 *
 * Up to MOE_ONE_LAUNCH tokens are one block. More: blocks of as many tokens count (and choose), one block adds the counts up,
 * blocks place their pairs. Bytes moved: logits once, a few bytes per pair and 4 bytes per (expert, block).
 */
#include "moe.h"

#include "launch.h"
#include "moe-order.cuh"

#define TOKENS 32u /* of a block: bits of a mask */

static_assert(TOKENS == MOE_ONE_LAUNCH, "one block routes what one launch may");

struct route_params {
    struct moe_route r;
    const int32_t *n_tokens;
    uint32_t n_blocks;
    int32_t *counts; /* [n_blocks, n_experts]: pairs, later the first sorted row */
    uint32_t *masks; /* [n_blocks, n_experts]: tokens of the block that chose the expert */
};

static __device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

/* Token t by one warp. Lane l has experts l, l + 32, ... in registers. */
template <int PER_LANE> static __device__ void choose(const struct moe_route &r, uint32_t t)
{
    const float *logits = (const float *)((const uint8_t *)r.logits + t * r.logits_stride);
    const uint32_t lane = threadIdx.x % 32;
    float value[PER_LANE], greatest = 0.0f, sum = 0.0f, mine = 0.0f, chosen;
    int32_t my_expert = 0;
    uint32_t left = 0; /* bits of the experts of this lane that are not chosen yet */
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        uint32_t e = lane + 32 * (uint32_t)i;
        value[i] = 0.0f;
        if (e < r.n_experts) {
            value[i] = logits[e] + (r.bias ? r.bias[e] : 0.0f);
            left |= 1u << i;
        }
    }
    for (uint32_t j = 0; j < r.n_used; j++) {
        uint32_t best = 0, best_expert = UINT32_MAX;
        float best_value = 0.0f;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            uint32_t key = order_key(value[i]);
            if (left >> i & 1 && (best_expert == UINT32_MAX || key > best)) {
                best = key;
                best_expert = lane + 32 * (uint32_t)i;
                best_value = value[i];
            }
        }
        uint32_t top = __reduce_max_sync(0xffffffffu, best);
        uint32_t expert = __reduce_min_sync(0xffffffffu, best == top ? best_expert : UINT32_MAX);
        best_value = __shfl_sync(0xffffffffu, best_value, (int)(expert % 32));
        if (expert % 32 == lane)
            left &= ~(1u << (expert / 32));
        if (j == 0)
            greatest = best_value;
        if (j == lane) {
            my_expert = (int32_t)expert;
            mine = best_value;
        }
    }
    mine = lane < r.n_used ? expf(mine - greatest) : 0.0f;
    chosen = warp_sum(mine);
    if (!r.softmax_after && !r.renormalize) {
#pragma unroll
        for (int i = 0; i < PER_LANE; i++)
            sum += lane + 32 * (uint32_t)i < r.n_experts ? expf(value[i] - greatest) : 0.0f;
        chosen = warp_sum(sum);
    }
    if (lane < r.n_used) {
        mine = mine / chosen * r.weight_scale;
        r.weights[t * r.n_used + lane] = r.expert_scale ? mine * r.expert_scale[my_expert] : mine;
        r.experts[t * r.n_used + lane] = my_expert;
    }
    __syncwarp();
}

/* Places of the block's pairs: mask[e] has the block's tokens that chose e, first[e] the place of the first of them. */
static __device__ void place_pairs(const struct moe_route &r, uint32_t first_token, uint32_t n_tokens,
                                   const uint32_t *mask, const int32_t *first)
{
    for (uint32_t p = threadIdx.x; p < n_tokens * r.n_used; p += blockDim.x) {
        uint32_t t = p / r.n_used;
        uint64_t pair = (uint64_t)first_token * r.n_used + p;
        int32_t e = r.experts[pair], place = first[e] + __popc(mask[e] & ((1u << t) - 1));
        r.slots[pair] = place;
        r.source[place] = (int32_t)(first_token + t);
        if (r.row_expert)
            r.row_expert[place] = e;
    }
}

/* Sums of all lower experts' counts (exclusive), for up to 512 experts and threads; returns the total. */
static __device__ int32_t scan_experts(int32_t *count, uint32_t n_experts)
{
    __shared__ int32_t warps[MOE_MAX_EXPERTS / 32];
    const uint32_t e = threadIdx.x, lane = e % 32;
    int32_t own = e < n_experts ? count[e] : 0, sum = own, before = 0, total = 0;
    for (int d = 1; d < 32; d *= 2) {
        int32_t other = __shfl_up_sync(0xffffffffu, sum, d);
        sum += lane >= (uint32_t)d ? other : 0;
    }
    if (lane == 31 && e / 32 < MOE_MAX_EXPERTS / 32)
        warps[e / 32] = sum;
    __syncthreads();
    for (uint32_t w = 0; w < MOE_MAX_EXPERTS / 32 && w < blockDim.x / 32; w++) {
        before += w < e / 32 ? warps[w] : 0;
        total += warps[w];
    }
    if (e < n_experts)
        count[e] = before + sum - own;
    __syncthreads();
    return total;
}

/* Chooses for this block's tokens and notes in mask[] which of them chose each expert. */
template <int PER_LANE>
static __device__ void choose_block(const struct moe_route &r, uint32_t first_token, uint32_t n_tokens,
                                    uint32_t *mask)
{
    for (uint32_t e = threadIdx.x; e < r.n_experts; e += blockDim.x)
        mask[e] = 0;
    for (uint32_t t = threadIdx.x / 32; t < n_tokens; t += blockDim.x / 32)
        choose<PER_LANE>(r, first_token + t);
    __syncthreads();
    if (!r.slots)
        return;
    for (uint32_t p = threadIdx.x; p < n_tokens * r.n_used; p += blockDim.x)
        atomicOr(&mask[r.experts[(uint64_t)first_token * r.n_used + p]], 1u << (p / r.n_used));
    __syncthreads();
}

static __device__ __forceinline__ uint32_t tokens_of_block(const route_params &p)
{
    uint32_t n = (uint32_t)*p.n_tokens, first = blockIdx.x * TOKENS;
    return first >= n ? 0 : n - first < TOKENS ? n - first : TOKENS;
}

template <int PER_LANE>
static __global__ void __launch_bounds__(1024) route_one(const __grid_constant__ route_params p)
{
    __shared__ uint32_t mask[MOE_MAX_EXPERTS];
    __shared__ int32_t first[MOE_MAX_EXPERTS];
    int32_t total;
    launch_next();
    launch_wait();
    uint32_t n = tokens_of_block(p);
    choose_block<PER_LANE>(p.r, 0, n, mask);
    if (!p.r.slots)
        return;
    for (uint32_t e = threadIdx.x; e < p.r.n_experts; e += blockDim.x)
        first[e] = __popc(mask[e]);
    __syncthreads();
    total = scan_experts(first, p.r.n_experts);
    for (uint32_t e = threadIdx.x; e < p.r.n_experts; e += blockDim.x)
        p.r.starts[e] = first[e];
    if (threadIdx.x == 0)
        p.r.starts[p.r.n_experts] = total;
    place_pairs(p.r, 0, n, mask, first);
}

template <int PER_LANE>
static __global__ void __launch_bounds__(512) route_count(const __grid_constant__ route_params p)
{
    __shared__ uint32_t mask[MOE_MAX_EXPERTS];
    launch_next();
    launch_wait();
    choose_block<PER_LANE>(p.r, blockIdx.x * TOKENS, tokens_of_block(p), mask);
    if (!p.r.slots)
        return;
    for (uint32_t e = threadIdx.x; e < p.r.n_experts; e += blockDim.x) {
        p.counts[blockIdx.x * p.r.n_experts + e] = __popc(mask[e]);
        p.masks[blockIdx.x * p.r.n_experts + e] = mask[e];
    }
}

/* Counts to places: one thread per expert goes through the blocks. */
static __global__ void __launch_bounds__(MOE_MAX_EXPERTS) route_add_up(const __grid_constant__ route_params p)
{
    __shared__ int32_t first[MOE_MAX_EXPERTS];
    const uint32_t e = threadIdx.x;
    int32_t sum = 0;
    launch_next();
    launch_wait();
    if (e < p.r.n_experts) {
#pragma unroll 8
        for (uint32_t b = 0; b < p.n_blocks; b++)
            sum += p.counts[b * p.r.n_experts + e];
        first[e] = sum;
    }
    __syncthreads();
    sum = scan_experts(first, p.r.n_experts);
    if (e == 0)
        p.r.starts[p.r.n_experts] = sum;
    if (e >= p.r.n_experts)
        return;
    sum = first[e];
    p.r.starts[e] = sum;
#pragma unroll 8
    for (uint32_t b = 0; b < p.n_blocks; b++) {
        int32_t count = p.counts[b * p.r.n_experts + e];
        p.counts[b * p.r.n_experts + e] = sum;
        sum += count;
    }
}

static __global__ void __launch_bounds__(256) route_place(const __grid_constant__ route_params p)
{
    launch_next();
    launch_wait();
    place_pairs(p.r, blockIdx.x * TOKENS, tokens_of_block(p), p.masks + blockIdx.x * p.r.n_experts,
                p.counts + blockIdx.x * p.r.n_experts);
}

/* ---- Launch */

extern "C" uint64_t moe_workspace_bytes(uint32_t n_experts, uint32_t max_tokens)
{
    return (max_tokens + TOKENS - 1ull) / TOKENS * n_experts * 8;
}

template <int PER_LANE>
static int32_t launch_route(const route_params *p, uint32_t n_tokens, int32_t overlap, cudaStream_t stream)
{
    int32_t status;
    if (n_tokens <= MOE_ONE_LAUNCH) {
        uint32_t threads =
            32 * n_tokens < p->r.n_experts && p->r.slots ? (p->r.n_experts + 31) / 32 * 32 : 32 * n_tokens;
        return launch_kernel(route_one<PER_LANE>, dim3(1), dim3(threads), 0, stream, overlap, p);
    }
    status = launch_kernel(route_count<PER_LANE>, dim3(p->n_blocks), dim3(512), 0, stream, overlap, p);
    if (status || !p->r.slots)
        return status;
    status =
        launch_kernel(route_add_up, dim3(1), dim3((p->r.n_experts + 31) / 32 * 32), 0, stream, overlap, p);
    if (status)
        return status;
    return launch_kernel(route_place, dim3(p->n_blocks), dim3(256), 0, stream, overlap, p);
}

extern "C" int32_t moe_route_launch(const struct moe_route *route, const int32_t *n_tokens_dev,
                                    uint32_t n_tokens, int32_t overlap, cudaStream_t stream)
{
    route_params p = {};
    if (n_tokens == 0)
        return cudaSuccess;
    if (route->n_experts == 0 || route->n_experts > MOE_MAX_EXPERTS || route->n_used == 0 ||
        route->n_used > MOE_MAX_USED || route->n_used > route->n_experts ||
        (n_tokens > MOE_ONE_LAUNCH && route->slots && !route->workspace))
        return cudaErrorInvalidValue;
    p.r = *route;
    p.n_tokens = n_tokens_dev;
    p.n_blocks = (n_tokens + TOKENS - 1) / TOKENS;
    p.counts = (int32_t *)route->workspace;
    p.masks = (uint32_t *)route->workspace + (uint64_t)p.n_blocks * route->n_experts;
    if (route->n_experts <= 128)
        return launch_route<4>(&p, n_tokens, overlap, stream);
    if (route->n_experts <= 256)
        return launch_route<8>(&p, n_tokens, overlap, stream);
    return launch_route<16>(&p, n_tokens, overlap, stream);
}
