/* A mixture inside a sequence: the router's product, the choice of experts, and products whose weights are those of the chosen.
 *
 *   own norm a norm whose row every block makes for itself, in registers and, as ACT_Q8, in memory of its own: no barrier between it and
 *            the products that read it
 *   router   an f32 product of few rows; every block has its rows of weights in registers before it waits
 *   choice   every block makes it for itself from the logits, at the beginning of its first part in a product of experts: cheaper than
 *            a barrier; only then the filling warp knows where the next weights are
 *   gate, up a unit is 16 rows of one chosen expert; pairs (chosen expert, row) one after the other
 *   down     a unit is 16 rows of the output, its passes are the chosen experts; so a block has all that is added up to an output
 *
 * One mixture per sequence. Ties and NaN as in moe.h.
 */
#ifndef SHARPI_BACKEND_CUDA_SEQUENCE_EXPERTS_CUH
#define SHARPI_BACKEND_CUDA_SEQUENCE_EXPERTS_CUH

#include "matmul-gemv.cuh"
#include "matmul-ring.cuh"
#include "moe-order.cuh"
#include "sequence-stages.cuh"

/* ---- Own norms */

enum { SEQ_OWN_CHUNKS = 2 }; /* of a thread */

/* What can be loaded before the norm's input is there. */
static __device__ __forceinline__ void own_begin(const norms_params &p, float4 weight[SEQ_OWN_CHUNKS])
{
    load_chunks<SEQ_OWN_CHUNKS>(weight, p.weight2, p.chunks, SEQ_THREADS);
}

/* The normed row to `row` as ACT_Q8, and, where `stores`, to where the norm stores it for others. */
static __device__ __forceinline__ void own_store(const norms_params &p, const float4 x[SEQ_OWN_CHUNKS],
                                                 uint8_t *row, bool stores)
{
#pragma unroll
    for (int i = 0; i < SEQ_OWN_CHUNKS; i++) {
        const uint32_t c = threadIdx.x + (uint32_t)i * SEQ_THREADS;
        const bool exists = c < p.chunks;
        store_format(row, ACT_Q8, p.width, 4 * c, x[i], exists);
        if (stores && p.out && exists)
            *(float4 *)(p.out + 16 * c) = x[i];
        if (stores && p.codes)
            store_format(p.codes, ACT_Q8, p.width, 4 * c, x[i], exists);
    }
}

/* The row as it was before the norm. */
static __device__ __forceinline__ void own_load(const norms_params &p, float4 x[SEQ_OWN_CHUNKS], bool stores)
{
    load_chunks<SEQ_OWN_CHUNKS>(x, (const float *)p.in, p.chunks, SEQ_THREADS);
#pragma unroll
    for (int i = 0; i < SEQ_OWN_CHUNKS; i++) {
        const uint32_t c = threadIdx.x + (uint32_t)i * SEQ_THREADS;
        if (stores && p.sum && c < p.chunks)
            *(float4 *)(p.sum + 16 * c) = x[i];
    }
}

template <class Block>
static __device__ __forceinline__ void own_norm(const norms_params &p, const float4 weight[SEQ_OWN_CHUNKS],
                                                uint8_t *row, bool stores, float *part, const Block &block)
{
    float4 x[SEQ_OWN_CHUNKS];
    own_load(p, x, stores);
    fused_norm<SEQ_OWN_CHUNKS>(x, weight, p.weight2 != NULL, 1.0f / (float)p.width, p.eps2, part, block);
    own_store(p, x, row, stores);
}

/* ---- Router */

template <int NV>
static __device__ __forceinline__ void load_row_of(float4 x[NV], const float *row, uint32_t chunks)
{
    load_chunks<NV>(x, row, chunks, SEQ_THREADS);
}

static __device__ __forceinline__ float dot_chunk(float4 a, float4 b)
{
    return (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w);
}

/* Its norm and the first row's product in one sum over the block: (w, x * weight) times the norm's factor. A block without results for
 * others in its own row is counted before it makes that row. */
template <class Block>
static __device__ __forceinline__ void router_run(const seq_router &p, const norms_params &norm,
                                                  uint32_t n_blocks, uint32_t n_rows, float (*part)[32],
                                                  uint8_t *own_row, const Block &block)
{
    const uint32_t row = blockIdx.x, lane = threadIdx.x % 32;
    const bool stores = p.makes_row && row == n_blocks - 1 && n_rows;
    float4 w[SEQ_OWN_CHUNKS], x[SEQ_OWN_CHUNKS], weight[SEQ_OWN_CHUNKS];
    float squares = 0.0f, sum = 0.0f;
    load_row_of<SEQ_OWN_CHUNKS>(w, row < p.n_out ? p.weights + (uint64_t)row * p.n_in : NULL, p.n_in / 4);
    own_begin(norm, weight);
    block.wait();
    own_load(norm, x, stores);
#pragma unroll
    for (int i = 0; i < SEQ_OWN_CHUNKS; i++) {
        squares += dot4(x[i], 4);
        x[i] = norm.weight2 ? mul4(x[i], weight[i]) : x[i];
        sum += dot_chunk(w[i], x[i]);
    }
    squares = sum_warp(squares);
    sum = sum_warp(sum);
    if (lane == 0) {
        part[0][threadIdx.x / 32] = squares;
        part[1][threadIdx.x / 32] = sum;
    }
    block.sync();
    squares = sum_warp(lane < SEQ_WARPS ? part[0][lane] : 0.0f);
    sum = sum_warp(lane < SEQ_WARPS ? part[1][lane] : 0.0f);
    const float factor = rsqrtf(squares / (float)norm.width + norm.eps2);
    if (threadIdx.x == 0 && row < p.n_out && n_rows)
        p.out[row] = sum * factor;
#pragma unroll
    for (int i = 0; i < SEQ_OWN_CHUNKS; i++)
        x[i] = scale4(x[i], factor);
    for (uint32_t more = row + n_blocks; more < p.n_out; more += n_blocks) {
        load_row_of<SEQ_OWN_CHUNKS>(w, p.weights + (uint64_t)more * p.n_in, p.n_in / 4);
        block.sync();
        sum = sum_block(dot_chunk(w[0], x[0]) + dot_chunk(w[1], x[1]), part[0], block);
        if (threadIdx.x == 0 && n_rows)
            p.out[more] = sum;
    }
    if (!stores)
        block.count();
    if (p.makes_row)
        own_store(norm, x, own_row, stores);
    if (stores)
        block.count();
}

/* ---- Choice */

/* How many experts come before this one: those of a greater key, and those of the same and a lower number. Two lanes share an
 * expert. `keys`: up to a multiple of eight, zeros at the end. */
static __device__ __forceinline__ uint32_t rank_of(const uint32_t *keys, uint32_t n_experts, uint32_t expert,
                                                   uint32_t half)
{
    const uint32_t key = keys[expert < n_experts ? expert : 0];
    uint32_t rank = 0;
    for (uint32_t e = 4 * half; e < n_experts; e += 8) {
        const uint4 k = *(const uint4 *)(keys + e);
        rank += k.x > key || (k.x == key && e < expert);
        rank += k.y > key || (k.y == key && e + 1 < expert);
        rank += k.z > key || (k.z == key && e + 2 < expert);
        rank += k.w > key || (k.w == key && e + 3 < expert);
    }
    return rank + __shfl_xor_sync(~0u, rank, 1);
}

/* The weights of the chosen from their logits, by one warp. `values`: all logits, for a softmax over them. */
static __device__ __forceinline__ void weigh(const struct moe_route &r, const float *values,
                                             seq_choice *choice)
{
    const uint32_t lane = threadIdx.x % 32;
    const bool is_used = lane < r.n_used;
    const float greatest = choice->weight[0];
    float mine = is_used ? expf(choice->weight[lane] - greatest) : 0.0f, all = sum_warp(mine);
    if (!r.softmax_after && !r.renormalize) {
        all = 0.0f;
        for (uint32_t e = lane; e < r.n_experts; e += 32)
            all += expf(values[e] - greatest);
        all = sum_warp(all);
    }
    mine = mine / all * r.weight_scale;
    if (is_used)
        choice->weight[lane] = r.expert_scale ? mine * r.expert_scale[choice->expert[lane]] : mine;
}

/* Their logits lie where sums will be. */
enum { SEQ_MAX_EXPERTS = SEQ_WARPS * SEQ_MAX_SEGMENTS * 16 * 4 / 8 };

/* `memory`: of the block, 8 bytes per expert. Afterwards the chosen are in `choice`, and the filling warp knows: each thread has told it. The
 * weights follow before the block's next barrier. */
template <class Block>
static __device__ __forceinline__ void choose_experts(const struct moe_route &r, float *memory,
                                                      seq_choice *choice, const Block &block)
{
    uint32_t *keys = (uint32_t *)memory;
    const uint32_t padded = (r.n_experts + 7) & ~7u;
    float *values = memory + padded;
    for (uint32_t e = threadIdx.x; e < padded; e += SEQ_THREADS) {
        float value = 0.0f;
        if (e < r.n_experts)
            value = r.logits[e] + (r.bias ? r.bias[e] : 0.0f);
        keys[e] = e < r.n_experts ? order_key(value) : 0;
        values[e] = value;
    }
    block.sync();
    for (uint32_t first = 0; first < r.n_experts; first += SEQ_THREADS / 2) {
        const uint32_t expert = first + threadIdx.x / 2,
                       rank = rank_of(keys, r.n_experts, expert, threadIdx.x & 1);
        if (expert < r.n_experts && rank < r.n_used) {
            choice->expert[rank] = (int32_t)expert;
            choice->weight[rank] = values[expert];
        }
    }
    barrier_arrive(&choice->is_made);
    block.sync();
    if (threadIdx.x < 32)
        weigh(r, values, choice);
    if (!r.softmax_after && !r.renormalize)
        block.sync(); /* the memory is free again */
}

/* For what comes after the sequence. */
static __device__ __forceinline__ void store_choice(const struct moe_route &r, const seq_choice *choice)
{
    __syncwarp(); /* the weights are of the first warp's lanes */
    if (threadIdx.x >= r.n_used)
        return;
    r.experts[threadIdx.x] = choice->expert[threadIdx.x];
    r.weights[threadIdx.x] = choice->weight[threadIdx.x];
}

/* ---- Activations of down */

/* A slab's activations of an f32 row, each block of 32 columns as act_store_q8 makes it; four lanes have a block. */
static __device__ __forceinline__ void slab_quantize(act_fragment &x, const float *row, uint32_t n_in,
                                                     uint32_t slab, int lane)
{
    const uint32_t column = slab * 256 + (uint32_t)(lane >> 2) * 32 + 4 * (uint32_t)(lane & 3);
    const bool exists = column < n_in;
    const float4 a = exists ? *(const float4 *)(row + column) : zero4(),
                 b = exists ? *(const float4 *)(row + column + 16) : zero4();
    float amax = fmaxf(fmaxf(fmaxf(fabsf(a.x), fabsf(a.y)), fmaxf(fabsf(a.z), fabsf(a.w))),
                       fmaxf(fmaxf(fabsf(b.x), fabsf(b.y)), fmaxf(fabsf(b.z), fabsf(b.w))));
    amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 1));
    amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 2));
    const float2 scales = act_scales_q8(amax);
    x.word.x = act_codes_q8(a, scales.y);
    x.word.y = act_codes_q8(b, scales.y);
    int sum = __dp4a((int)x.word.x, 0x01010101, __dp4a((int)x.word.y, 0x01010101, 0));
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float scaled = scales.x * (float)sum;
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const int from = 8 * (lane & 3) + 4 * n; /* has block 2t + n */
        x.d[n] = make_float2(__shfl_sync(~0u, scales.x, from), __shfl_sync(~0u, scaled, from));
    }
}

#endif
