/* Kernels for the chains that nearly every model's layers are made of, chosen at launch in place of the chain kernel of rows.cu:
 *
 *   norms: in or a weighted sum of experts' rows; [rms_norm], [+ residual], [* scale], stored; [rms_norm], stored or in an
 *          activation format
 *   heads: rms_norm per head and/or rope, of q, k and v side by side; one or half a warp per head. Two norms of the same
 *          row (v made of k's product) are one chain with two results. A chain that is norms of narrow rows may stand beside them
 *   glu:   act(gate) * up, stored or in an activation format; or only a format
 *
 * Same results as the chain kernel up to the order of sums. Inputs are loaded before the true number of rows is known; norm
 * weights before the predecessor has ended.
 */
#ifndef SHARPI_BACKEND_CUDA_ROWS_FUSED_CUH
#define SHARPI_BACKEND_CUDA_ROWS_FUSED_CUH

#include "rows-ops.cuh"

#include "launch.h"

/* What a fused launch's blocks need to find their rows. */
struct fused_rows {
    const int32_t *n_rows;
    uint32_t factor;
};

static __device__ __forceinline__ bool row_exists(const fused_rows &rows, uint32_t row)
{
    return row < (uint32_t)*rows.n_rows * rows.factor;
}

/* Columns of a row in an activation format; `exists` is uniform over groups of eight lanes. */
static __device__ __forceinline__ void store_format(uint8_t *row, int format, uint32_t width, uint32_t column,
                                                    float4 x, bool exists)
{
    if (format == ACT_Q8) { /* lanes without columns come along: chunks need not wait for each other */
        act_store_q8(row, width, column, x, 0xffffffffu, exists);
    } else if (format == ACT_BF16) {
        if (exists)
            act_store_bf16(row, column, x);
    } else if (exists) {
        *(float4 *)((float *)row + column) = x;
    }
}

/* A block of a kernel of its own. wait() returns when the predecessor's results can be read. */
struct launched_block : own_block {
    static constexpr int registers = 64; /* of a thread */
    __device__ __forceinline__ void wait() const
    {
        launch_wait();
    }
};

/* ---- Norms */

struct norms_params {
    fused_rows rows;
    uint32_t width, chunks; /* width / 4 */
    const uint8_t *in, *add;
    const float *weight1, *weight2, *scale_by;
    uint8_t *sum, *out, *codes;
    uint32_t in_stride, add_stride, sum_stride, out_stride, codes_stride;
    float eps1, eps2, scale;
    uint8_t has_norm1, has_norm2, has_scale, format;
    uint32_t n_used; /* not 0, SUM: in is what experts made */
    const int32_t *slots;
    const float *weights;
};

template <int NV, class Block>
static __device__ __forceinline__ void fused_norm(float4 x[NV], const float4 weight[NV], bool has_weight,
                                                  float share, float eps, float *part, const Block &block)
{
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < NV; i++)
        sum += dot4(x[i], 4);
    sum = rsqrtf(sum_block(sum, part, block) * share + eps);
#pragma unroll
    for (int i = 0; i < NV; i++)
        x[i] = has_weight ? mul4(scale4(x[i], sum), weight[i]) : scale4(x[i], sum);
}

template <int NV>
static __device__ __forceinline__ void load_chunks(float4 x[NV], const float *row, uint32_t chunks,
                                                   uint32_t n_threads)
{
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t c = threadIdx.x + (uint32_t)i * n_threads;
        x[i] = row && c < chunks ? load4_now(row + 4 * c) : zero4();
    }
}

/* As ROW_COMBINE of rows.h. */
template <int NV>
static __device__ __forceinline__ void load_sum(float4 x[NV], const norms_params &p, uint32_t row,
                                                uint32_t n_threads)
{
    uint64_t first = (uint64_t)row * p.n_used;
#pragma unroll
    for (int i = 0; i < NV; i++)
        x[i] = zero4();
#pragma unroll 4
    for (uint32_t j = 0; j < p.n_used; j++) {
        uint32_t slot = p.slots ? (uint32_t)p.slots[first + j] : (uint32_t)first + j;
        float weight = p.weights[first + j];
        const float *from = row_at(p.in, p.in_stride, slot);
#pragma unroll
        for (int i = 0; i < NV; i++) {
            uint32_t c = threadIdx.x + (uint32_t)i * n_threads;
            if (c < p.chunks)
                x[i] = add4(x[i], scale4(*(const float4 *)(from + 4 * c), weight));
        }
    }
}

/* A row in an activation format, by the whole block. The format is asked once, so that chunks need not wait for each other. */
template <int NV>
static __device__ __forceinline__ void store_codes(const norms_params &p, uint32_t row, const float4 x[NV],
                                                   uint32_t n_threads)
{
    uint8_t *to = p.codes + (uint64_t)row * p.codes_stride;
    const uint32_t padded = p.format == ACT_BF16 ? (p.chunks + 15) / 16 * 16 : p.chunks;
    if (p.format == ACT_Q8) {
        const act_q8<NV> q(x, ~0u);
        uint32_t column = 4 * threadIdx.x;
        const uint32_t word = (column & 31) >> 2;
#pragma unroll
        for (int i = 0; i < NV; i++, column += 4 * n_threads)
            q.store(to, p.width, column >> 5, word, i, column < p.width);
        return;
    }
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t c = threadIdx.x + (uint32_t)i * n_threads;
        store_format(to, p.format, p.width, 4 * c, c < p.chunks ? x[i] : zero4(), c < padded);
    }
}

/* One row by the whole block. Up to two chunks a thread the weights of both norms are loaded early, of three the first's; beyond there
 * are no registers for it, but in blocks that have many: there one more. */
template <int NV, bool SUM, class Block>
static __device__ __forceinline__ void norms_row(const norms_params &p, uint32_t row, float (*part)[32],
                                                 const Block &block)
{
    const uint32_t n_threads = block.n_threads();
    constexpr int more_chunks = Block::registers > 64;
    constexpr bool early = NV <= 3 + more_chunks, apart = NV <= 2 + more_chunks;
    const float *add = p.add ? row_at(p.add, p.add_stride, row) : NULL;
    float4 x[NV], more[NV], weight1[NV], other[apart ? NV : 1];
    float4 *weight2 = apart ? other : weight1;
    if (apart)
        load_chunks<NV>(weight2, p.weight2, p.chunks, n_threads);
    if (early)
        load_chunks<NV>(weight1, p.has_norm1 || apart ? p.weight1 : p.weight2, p.chunks, n_threads);
    const float factor = p.scale_by ? load_now(p.scale_by) : 1.0f, share = 1.0f / (float)p.width;
    block.wait();
    if (!SUM)
        load_chunks<NV>(x, row_at(p.in, p.in_stride, row), p.chunks, n_threads);
    if (early)
        load_chunks<NV>(more, add, p.chunks, n_threads);
    if (!row_exists(p.rows, row))
        return;
    if (SUM) /* slots of rows that do not exist lead anywhere */
        load_sum<NV>(x, p, row, n_threads);
    if (p.has_norm1) {
        if (!early)
            load_chunks<NV>(weight1, p.weight1, p.chunks, n_threads);
        fused_norm<NV>(x, weight1, p.weight1 != NULL, share, p.eps1, part[0], block);
    }
    if (!apart && (p.has_norm1 || !early))
        load_chunks<NV>(weight2, p.weight2, p.chunks, n_threads);
    if (!early)
        load_chunks<NV>(more, add, p.chunks, n_threads);
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t c = threadIdx.x + (uint32_t)i * n_threads;
        x[i] = p.add ? add4(x[i], more[i]) : x[i];
        x[i] = p.has_scale ? scale4(x[i], p.scale * factor) : x[i];
        if (p.sum && c < p.chunks)
            *(float4 *)(p.sum + (uint64_t)row * p.sum_stride + 16 * c) = x[i];
    }
    if (p.has_norm2)
        fused_norm<NV>(x, weight2, p.weight2 != NULL, share, p.eps2, part[1], block);
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t c = threadIdx.x + (uint32_t)i * n_threads;
        if (p.out && c < p.chunks)
            *(float4 *)(p.out + (uint64_t)row * p.out_stride + 16 * c) = x[i];
    }
    if (p.codes)
        store_codes<NV>(p, row, x, n_threads);
}

template <int NV, bool SUM>
static __global__ void __launch_bounds__(1024) norms_kernel(const __grid_constant__ norms_params p)
{
    __shared__ float part[2][32];
    launch_next();
    norms_row<NV, SUM>(p, blockIdx.x, part, launched_block());
}

/* ---- Heads */

struct heads_chain {
    const uint8_t *in, *table;     /* table NULL: no rope */
    uint8_t *out, *out2;           /* out2 NULL: one result */
    const float *weight, *weight2; /* NULL: none */
    uint32_t in_stride, out_stride, out2_stride, table_stride, n_heads, first_block;
    float eps;
    uint8_t has_norm, is_neox;
};

#define HEADS_THREADS 128u
#define HEADS_NORMS   (2 * HEADS_THREADS) /* chunks of a row of norms beside heads */

struct heads_params {
    fused_rows rows;
    uint32_t n_chains, n_rows;
    uint32_t has_norms, norms_block; /* the first block that has a row of norms */
    heads_chain chains[ROWS_MAX_CHAINS];
    norms_params norms;
};

/* cos and sin for chunk c of a head of HEAD columns, (c0 c0 c1 c1) where pairs are neighbours. */
template <int HEAD>
static __device__ __forceinline__ void load_turns(const float *table, bool is_neox, uint32_t c,
                                                  float4 *cosines, float4 *sines)
{
    if (is_neox) {
        uint32_t j = 4 * c % (HEAD / 2);
        *cosines = load4_now(table + j);
        *sines = load4_now(table + HEAD / 2 + j);
        return;
    }
    float2 a = *(const float2 *)(table + 2 * c), b = *(const float2 *)(table + HEAD / 2 + 2 * c);
    *cosines = make_float4(a.x, a.x, a.y, a.y);
    *sines = make_float4(b.x, b.x, b.y, b.y);
}

/* Columns of a head; `from` NULL: zeros. */
template <int NV, int LANES>
static __device__ __forceinline__ void load_head(float4 x[NV], const float *from, uint32_t lane)
{
#pragma unroll
    for (int i = 0; i < NV; i++)
        x[i] = from ? load4_now(from + 4 * (lane + LANES * i)) : zero4();
}

/* Head `unit` (of all rows') of HEAD = 4 * LANES * NV columns by LANES lanes, NV chunks each. */
template <int NV, int LANES, class Block>
static __device__ __forceinline__ void heads_unit(const heads_chain &chain, const fused_rows &rows,
                                                  uint32_t n_rows, uint32_t unit, const Block &block)
{
    const int HEAD = 4 * LANES * NV;
    const uint32_t lane = threadIdx.x % LANES;
    const bool in_bound = unit < n_rows * chain.n_heads;
    const uint32_t row = in_bound ? unit / chain.n_heads : 0, head = in_bound ? unit % chain.n_heads : 0;
    float4 x[NV], weight[NV], cosines[NV], sines[NV];
    if (NV <= 2)
        load_head<NV, LANES>(weight, chain.weight, lane);
    block.wait();
    load_head<NV, LANES>(x, row_at(chain.in, chain.in_stride, row) + head * HEAD, lane);
#pragma unroll
    for (int i = 0; i < NV; i++) {
        if (chain.table)
            load_turns<HEAD>(row_at(chain.table, chain.table_stride, row), chain.is_neox, lane + LANES * i,
                             &cosines[i], &sines[i]);
    }
    const bool exists = in_bound && row_exists(rows, row);
    if (chain.has_norm) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < NV; i++)
            sum += dot4(x[i], 4);
#pragma unroll
        for (int d = LANES / 2; d > 0; d /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, d);
        sum = rsqrtf(sum / (float)HEAD + chain.eps);
        if (NV > 2)
            load_head<NV, LANES>(weight, chain.weight, lane);
#pragma unroll
        for (int i = 0; i < NV; i++) {
            float4 normed = scale4(x[i], sum);
            x[i] = chain.weight ? mul4(normed, weight[i]) : normed;
            if (chain.out2 && exists) {
                uint32_t column = 4 * (lane + LANES * i);
                if (chain.weight2)
                    normed = mul4(normed, *(const float4 *)(chain.weight2 + column));
                *(float4 *)(chain.out2 + (uint64_t)row * chain.out2_stride + 4 * (head * HEAD + column)) =
                    normed;
            }
        }
    }
    if (chain.table) {
        float4 turned[NV];
#pragma unroll
        for (int i = 0; i < NV; i++) {
            float4 partner = make_float4(-x[i].y, x[i].x, -x[i].w, x[i].z);
            bool second = true;
            if (NV == 1) {
                float4 other = shuffle4(x[i], LANES / 2);
                partner = chain.is_neox ? other : partner;
                second = chain.is_neox ? lane >= LANES / 2 : true;
            } else if (chain.is_neox) {
                partner = x[i ^ (NV / 2)];
                second = i >= NV / 2;
            }
            turned[i] = turn4(x[i], partner, cosines[i], sines[i], second);
        }
#pragma unroll
        for (int i = 0; i < NV; i++)
            x[i] = turned[i];
    }
    if (!exists)
        return;
    float *out = (float *)(chain.out + (uint64_t)row * chain.out_stride) + head * HEAD;
#pragma unroll
    for (int i = 0; i < NV; i++)
        *(float4 *)(out + 4 * (lane + LANES * i)) = x[i];
}

template <int NV, int LANES>
static __global__ void __launch_bounds__(HEADS_THREADS) heads_kernel(const __grid_constant__ heads_params p)
{
    __shared__ float part[2][32];
    uint32_t k = 0;
    while (k + 1 < p.n_chains && blockIdx.x >= p.chains[k + 1].first_block)
        k++;
    launch_next();
    if (blockIdx.x >= p.norms_block) {
        norms_row<2, false>(p.norms, blockIdx.x - p.norms_block, part, launched_block());
        return;
    }
    heads_unit<NV, LANES>(p.chains[k], p.rows, p.n_rows,
                          (blockIdx.x - p.chains[k].first_block) * (HEADS_THREADS / LANES) +
                              threadIdx.x / LANES,
                          launched_block());
}

/* ---- Glu */

struct glu_params {
    fused_rows rows;
    uint32_t width, chunks, splits;
    const uint8_t *gate, *up; /* up NULL: no glu */
    uint8_t *out, *codes;
    uint32_t gate_stride, up_stride, out_stride, codes_stride;
    float limit;
    int32_t activation;
    uint8_t format;
};

#define GLU_THREADS 128u

template <int ACT> static __device__ __forceinline__ float fused_activate(float z, int activation)
{
    if (ACT == SHARPI_ACT_SILU)
        return __fdividef(z, 1.0f + __expf(-z));
    if (ACT == SHARPI_ACT_GELU_TANH)
        return __fdividef(z, 1.0f + __expf(-1.5957691216f * (z + 0.044715f * z * z * z)));
    return activate(z, activation);
}

/* Chunks first, first + stride .. of a row; a thread. */
template <int NV, int ACT, class Block>
static __device__ __forceinline__ void glu_chunks(const glu_params &p, uint32_t row, uint32_t first,
                                                  uint32_t stride, const Block &block)
{
    const uint32_t padded = p.format == ACT_BF16 ? (p.chunks + 15) / 16 * 16 : p.chunks;
    const float *gate = row_at(p.gate, p.gate_stride, row),
                *up = p.up ? row_at(p.up, p.up_stride, row) : NULL;
    float4 x[NV], y[NV];
    block.wait();
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t c = first + (uint32_t)i * stride;
        x[i] = c < p.chunks ? load4_now(gate + 4 * c) : zero4();
        y[i] = up && c < p.chunks ? load4_now(up + 4 * c) : zero4();
    }
    if (!row_exists(p.rows, row))
        return;
#pragma unroll
    for (int i = 0; i < NV; i++) {
        uint32_t c = first + (uint32_t)i * stride;
        if (up) {
            if (p.limit > 0.0f) {
                x[i] = make_float4(limited(x[i].x, p.limit), limited(x[i].y, p.limit),
                                   limited(x[i].z, p.limit), limited(x[i].w, p.limit));
                y[i] = make_float4(limited(y[i].x, p.limit), limited(y[i].y, p.limit),
                                   limited(y[i].z, p.limit), limited(y[i].w, p.limit));
            }
            x[i] = make_float4(fused_activate<ACT>(x[i].x, p.activation) * y[i].x,
                               fused_activate<ACT>(x[i].y, p.activation) * y[i].y,
                               fused_activate<ACT>(x[i].z, p.activation) * y[i].z,
                               fused_activate<ACT>(x[i].w, p.activation) * y[i].w);
        }
        if (p.out && c < p.chunks)
            *(float4 *)(p.out + (uint64_t)row * p.out_stride + 16 * c) = x[i];
        if (p.codes)
            store_format(p.codes + (uint64_t)row * p.codes_stride, p.format, p.width, 4 * c,
                         c < p.chunks ? x[i] : zero4(), c < padded);
    }
}

template <int NV, int ACT>
static __global__ void __launch_bounds__(GLU_THREADS) glu_kernel(const __grid_constant__ glu_params p)
{
    launch_next();
    glu_chunks<NV, ACT>(p, blockIdx.x / p.splits, blockIdx.x % p.splits * GLU_THREADS * NV + threadIdx.x,
                        GLU_THREADS, launched_block());
}

#endif
