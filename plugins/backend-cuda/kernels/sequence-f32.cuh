/* Products with f32 weights as stages of a sequence, in f32 throughout: routers, gates and projections of per-layer embeddings.
 *
 * A unit is one weight row, so that even 256 rows are work for every multiprocessor, and a slab is SEQ_F32_COLUMNS of its columns
 * as they lie in the file's layout. Otherwise it is dealt, carried by the rings and added up like any product's. What an output is
 * multiplied with by the step that follows, act(output) * times, is done here.
 */
#ifndef SHARPI_BACKEND_CUDA_SEQUENCE_F32_CUH
#define SHARPI_BACKEND_CUDA_SEQUENCE_F32_CUH

#include "sequence-product.cuh"

enum { SEQ_F32_CHUNKS = SEQ_F32_COLUMNS / 128 }; /* of four columns, of a lane */

static_assert(slabs_together(4 * SEQ_F32_COLUMNS) == 2, "f32_slabs");

/* The lane's part of a slab's product with the input. The slab is the first in its slot, or the second, and perhaps the slot's last. */
static __device__ __forceinline__ float f32_slab(const seq_product &p, seq_warp &w, uint32_t slab,
                                                 bool second, bool last)
{
    const float *act = (const float *)p.act;
    const uint32_t column = slab * SEQ_F32_COLUMNS + 4 * w.ring.lane;
    float4 x[SEQ_F32_CHUNKS];
    float sum = 0.0f;
#pragma unroll
    for (uint32_t k = 0; k < SEQ_F32_CHUNKS; k++)
        x[k] = column + 128 * k < p.n_in ? load4_now(act + column + 128 * k) : zero4();
    const uint32_t at = second ? ring_again(w.ring) + 4 * SEQ_F32_COLUMNS : ring_wait(w.ring);
    const float4 *weights = (const float4 *)__cvta_shared_to_generic(at) + w.ring.lane;
#pragma unroll
    for (uint32_t k = 0; k < SEQ_F32_CHUNKS; k++) {
        if (column + 128 * k < p.n_in) { /* what lies past the row's end may be anything */
            const float4 v = weights[32 * k];
            sum += v.x * x[k].x + v.y * x[k].y + v.z * x[k].z + v.w * x[k].w;
        }
    }
    if (last)
        ring_next(w.ring);
    return sum;
}

/* The warp's slabs; one sum for each row that they touch goes to its deposits. */
static __device__ __forceinline__ void f32_slabs(const seq_product &p, seq_warp &w, seq_units units)
{
    const seq_range range = range_of(slabs_of(p, units.n), w.number);
    asm volatile("mov.u32 %0, %laneid;" : "=r"(w.ring.lane)); /* as in product_slabs */
    float *sums = w.sums + w.number * SEQ_MAX_SEGMENTS * 16;
    uint32_t slab = range.first % p.n_slabs, left = range.end - range.first;
    if (left == 0 && w.ring.lane == 0) /* others add it up */
        sums[0] = 0.0f;
    for (; left; slab = 0, sums += 16) {
        const uint32_t n = min(p.n_slabs - slab, left);
        float sum = 0.0f;
        for (uint32_t i = 0; i < n; i++)
            sum += f32_slab(p, w, slab + i, i & 1, (i & 1) || i + 1 == n);
        sum = sum_warp(sum);
        if (w.ring.lane == 0)
            sums[0] = sum;
        left -= n;
    }
}

/* Output number `number` of the block's. */
static __device__ __forceinline__ seq_output f32_output_of(const seq_product &p, seq_units units,
                                                           uint32_t number)
{
    const seq_segment s = segment_of<false>(p, units.first, number);
    seq_output o = {s.part, s.group, {0, 0}};
    if (number < units.n)
        o.sums[0] = sums_at(p, slabs_of(p, units.n), number, 0);
    else
        o.row = ~0u;
    return o;
}

/* A thread stores at most one output: fits() leaves a block fewer rows than it has threads. */
template <class Block>
static __device__ __forceinline__ void f32_run(const seq_product &p, seq_warp &w, seq_units units,
                                               uint32_t n_rows, const Block &block)
{
    const seq_output o = f32_output_of(p, units, threadIdx.x);
    const bool stores = n_rows && threadIdx.x < units.n;
    block.wait();
    const float before = output_before(p, o), factor = stores && p.times ? load_now(p.times + o.row) : 0.0f;
    f32_slabs(p, w, units);
    block.sync();
    if (!stores)
        return;
    const float value = store_output(p, w.sums, o, output_place(p, o), before, 1.0f);
    if (p.times)
        p.made[o.row] = gated(p.glu, p.glu_clamp, value, factor);
}

#endif
