/* A product as a stage: every warp takes its range of the block's slabs from its ring, leaves one sum per weight row and (unit,
 * pass) in shared memory, and when all have, the block adds them up in the order of the columns and stores the outputs.
 */
#ifndef SHARPI_BACKEND_CUDA_SEQUENCE_PRODUCT_CUH
#define SHARPI_BACKEND_CUDA_SEQUENCE_PRODUCT_CUH

#include "matmul-epilogue.cuh"
#include "matmul-gemv.cuh"
#include "sequence-experts.cuh"
#include "sequence-ring.cuh"
#include "sequence-trace.cuh"

/* What a warp carries from stage to stage. */
struct seq_warp {
    seq_ring ring;
    uint32_t number;
    float *sums;        /* of the block: [warp][SEQ_MAX_SEGMENTS][16] */
    seq_choice *choice; /* of experts, in shared memory */
    uint8_t *row;       /* the block's own, ACT_Q8 */
    float *part;        /* for a sum over the block */
    bool has_choice, quantizes;
};

/* A barrier of all warps but the filling one. */
static __device__ __forceinline__ void sync_readers(void)
{
    asm volatile("bar.sync 1, %0;" ::"r"((uint32_t)SEQ_THREADS) : "memory");
}

/* The next N slabs' activations: ACT_Q8, or made of an f32 row. */
template <int N, bool MOE>
static __device__ __forceinline__ void segment_load(act_fragment x[N], const seq_warp &w,
                                                    const gemv_input &in, const gemv_lane<1> &l,
                                                    act_walk &walk)
{
    if (MOE && w.quantizes) {
#pragma unroll
        for (int i = 0; i < N; i++)
            slab_quantize(x[i], (const float *)in.act, in.n_in, walk.slab++, l.lane);
    } else {
        act_next<N>(x, walk, l);
    }
}

/* Slabs [slab, slab + n) of a group. Two that share a slot are multiplied side by side. */
template <int TYPE, bool MOE>
static __device__ __forceinline__ void segment_quantized(seq_warp &w, const gemv_input &in, uint32_t slab,
                                                         uint32_t n, float acc[2][2])
{
    constexpr uint32_t bytes = slab_bytes(weight_type<TYPE>::layout, weight_type<TYPE>::columns);
    const gemv_lane<1> l = gemv_lane_of<1>(in, (int)w.ring.lane);
    act_walk walk = act_walk_from(l, slab);
    act_fragment x[2], next[2];
    if (n == 1 || slabs_together(bytes) == 1)
        segment_load<1, MOE>(x, w, in, l, walk);
    else
        segment_load<2, MOE>(x, w, in, l, walk);
    if constexpr (slabs_together(bytes) == 2) {
        for (; n > 1; n -= 2) {
            const uint32_t at = ring_wait(w.ring);
            if (n > 3)
                segment_load<2, MOE>(next, w, in, l, walk);
            else if (n == 3)
                segment_load<1, MOE>(next, w, in, l, walk);
            slab_dot_one<TYPE>(at, x[0], l.lane, acc);
            slab_dot_one<TYPE>(at + bytes, x[1], l.lane, acc);
            ring_next(w.ring);
            x[0] = next[0];
            x[1] = next[1];
        }
    }
    for (; n > 0; n--) {
        const uint32_t at = ring_wait(w.ring);
        if (n > 1)
            segment_load<1, MOE>(next, w, in, l, walk);
        slab_dot_one<TYPE>(at, x[0], l.lane, acc);
        ring_next(w.ring);
        x[0] = next[0];
    }
}

template <int TYPE>
static __device__ __forceinline__ void segment_float(seq_warp &w, const gemv_input &in, uint32_t slab,
                                                     uint32_t n, float acc[2][1])
{
    const int t = (int)w.ring.lane & 3;
    for (uint32_t i = slab; i < slab + n; i++) {
        float4 x[8];
        if (i * 128 + 128 <= in.n_in) {
#pragma unroll
            for (int p = 0; p < 8; p++)
                x[p] = *(const float4 *)(in.act + (i * 128 + p * 16 + 4 * t) * 4);
        }
        const uint8_t *at = (const uint8_t *)__cvta_shared_to_generic(ring_wait(w.ring));
        dot_float<TYPE, GEMV_FLOAT>(at, i, x, in.act, in.n_in, (int)w.ring.lane, acc);
        ring_next(w.ring);
    }
}

template <int MODE, int SET, bool MOE>
static __device__ __forceinline__ void run_segment(const seq_part &part, seq_warp &w, const gemv_input &in,
                                                   uint32_t slab, uint32_t n, float acc[2][mode_sums(MODE)])
{
#define RUN_QUANTIZED(TYPE)                                                                                  \
    case TYPE:                                                                                               \
        if constexpr (in_set(TYPE, SET))                                                                     \
            segment_quantized<TYPE, MOE>(w, in, slab, n, acc);                                               \
        break;
#define RUN_FLOAT(TYPE)                                                                                      \
    case TYPE:                                                                                               \
        if constexpr (in_set(TYPE, SET))                                                                     \
            segment_float<TYPE>(w, in, slab, n, acc);                                                        \
        break;
    if constexpr (MODE == GEMV_Q1) {
        switch (part.type) {
            EACH_QUANTIZED_TYPE(RUN_QUANTIZED)
        }
    } else {
        switch (part.type) {
            RUN_FLOAT(SHARPI_TYPE_F16)
            RUN_FLOAT(SHARPI_TYPE_BF16)
        }
    }
}

/* Where the sums of a (unit, pass) are: in the first warp's deposit `first`, then in the first deposits of n more warps. */
static __device__ __forceinline__ uint32_t sums_at(const seq_product &p, uint32_t n_slabs, uint32_t number,
                                                   uint32_t row)
{
    const uint32_t slab = number * p.n_slabs, first = warp_of(n_slabs, slab),
                   n = warp_of(n_slabs, slab + p.n_slabs - 1) - first;
    const uint32_t segment = number - range_of(n_slabs, first).first / p.n_slabs;
    return n << 16 | ((first * SEQ_MAX_SEGMENTS + segment) * 16 + row);
}

static __device__ __forceinline__ float sum_at(const float *sums, uint32_t at)
{
    const uint32_t n = at >> 16;
    at &= 0xffff;
    float sum = sums[at];
    const float *more = sums + at / (SEQ_MAX_SEGMENTS * 16) * (SEQ_MAX_SEGMENTS * 16) + at % 16;
#pragma unroll
    for (uint32_t k = 1; k < SEQ_WARPS; k++)
        sum += k <= n ? more[k * SEQ_MAX_SEGMENTS * 16] : 0.0f;
    return sum;
}

/* An output of the block's. */
struct seq_output {
    uint32_t part, row; /* row at or past the part's end: none */
    uint32_t sums[2];   /* of both passes */
    uint32_t pair;      /* experts */
};

template <bool MOE>
static __device__ __forceinline__ seq_output output_of(const seq_product &p, seq_units units, uint32_t number)
{
    const uint32_t unit = number / 16, row = number % 16, n_slabs = slabs_of(p, units.n);
    const seq_segment s = segment_of<MOE>(p, units.first, unit * p.n_passes);
    seq_output o = {s.part, s.group * 16 + row, {0, 0}, 0};
    if (unit >= units.n) {
        o.row = ~0u;
        return o;
    }
    o.sums[0] = sums_at(p, n_slabs, unit * p.n_passes, row);
    if (p.n_passes == 2)
        o.sums[1] = sums_at(p, n_slabs, unit * 2 + 1, row);
    return o;
}

/* What storing an output wants to know of its part; read before the block's sums are waited for. */
struct seq_place {
    const float *bias;
    float *out;
    uint8_t *codes;
    uint32_t n_out;
};

static __device__ __forceinline__ seq_place output_place(const seq_product &p, const seq_output &o)
{
    const seq_part &part = p.part[o.part];
    seq_place place = {part.bias, part.out, p.codes, part.n_out};
    asm volatile("" : "+l"(place.bias), "+l"(place.out), "+l"(place.codes), "+r"(place.n_out));
    return place;
}

/* What is added to the output; loaded early. */
static __device__ __forceinline__ float output_before(const seq_product &p, const seq_output &o)
{
    const seq_part &part = p.part[o.part];
    return o.row < part.n_out && part.epilogue == MATMUL_ADD ? part.out[o.row] : 0.0f;
}

/* Stores an output and returns what it is. factor: of the norm before. */
static __device__ __forceinline__ float store_output(const seq_product &p, const float *sums,
                                                     const seq_output &o, const seq_place &place,
                                                     float before, float factor)
{
    if (o.row >= place.n_out)
        return 0.0f;
    float value = factor * sum_at(sums, o.sums[0]);
    if (place.bias)
        value += place.bias[o.row];
    if (p.n_passes == 2) {
        float up = factor * sum_at(sums, o.sums[1]);
        if (p.part[1].bias)
            up += p.part[1].bias[o.row];
        value = gated(p.glu, p.glu_clamp, value, up);
    }
    place.out[o.row] = before + value;
    return before + value;
}

/* A warp's 32 outputs from column `column` - lane on as a block of ACT_Q8 (matmul-act.cuh). */
static __device__ __forceinline__ void store_codes(const seq_product &p, uint32_t column, float value)
{
    float amax = fabsf(value);
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, step));
    const float2 scales = act_scales_q8(amax);
    const int code = __float2int_rn(value * scales.y), sum = __reduce_add_sync(~0u, code);
    const uint32_t word = (column & 31) >> 2, place = (word & 3) * 2 + (word >> 2);
    p.codes[(column & ~31u) + place * 4 + (column & 3)] = (uint8_t)code;
    if ((column & 31) == 0)
        ((float2 *)(p.codes + p.part[0].n_out))[column >> 5] = make_float2(scales.x, scales.x * (float)sum);
}

/* ---- Norms whose factor is applied late. A row's codes do not change when it is multiplied by a number. So the product before a norm makes
 * them, of its outputs times the norm's weight, and the product after it applies 1 / sqrt(mean of squares + eps): there is no stage in
 * between. */

static __device__ __forceinline__ float *squares_of(const seq_params &a, uint32_t norm)
{
    return a.squares + (norm - 1) * SEQ_MAX_SQUARES;
}

/* What the output in `column` is multiplied with before it becomes a code; loaded early. */
static __device__ __forceinline__ float code_weight(const seq_product &p, uint32_t column)
{
    return p.code_weight && column < p.part[0].n_out ? p.code_weight[column] : 1.0f;
}

/* A warp's 32 outputs from column `column` - lane on, as codes and perhaps for the norm after. */
static __device__ __forceinline__ void store_codes_of(const seq_params &a, const seq_product &p,
                                                      uint32_t column, float value, float weight)
{
    store_codes(p, column, value * weight);
    if (!p.norm_after)
        return;
    value = sum_warp(value * value);
    if (column % 32 == 0)
        squares_of(a, p.norm_after)[column / 32] = value;
}

/* This thread's of the squares; there is one for each at most. */
static __device__ __forceinline__ float norm_square(const seq_params &a, const seq_product &p)
{
    return p.norm_before && threadIdx.x < p.n_in / 32 ? load_now(squares_of(a, p.norm_before) + threadIdx.x)
                                                      : 0.0f;
}

/* What the factor wants to know; read before the block's sums are waited for. */
struct seq_norm {
    uint32_t exists;
    float eps, share;
};

static __device__ __forceinline__ seq_norm norm_of(const seq_product &p)
{
    seq_norm n = {p.norm_before, p.norm_eps, p.norm_share};
    asm volatile("" : "+r"(n.exists), "+f"(n.eps), "+f"(n.share));
    return n;
}

/* Before a barrier of the block, and after it the factor. */
static __device__ __forceinline__ void norm_tell(const seq_norm &n, seq_warp &w, float square)
{
    if (!n.exists)
        return;
    square = sum_warp(square);
    if (threadIdx.x % 32 == 0)
        w.part[threadIdx.x / 32] = square;
}

static __device__ __forceinline__ float norm_factor(const seq_norm &n, const seq_warp &w)
{
    float sums[2] = {};
    if (!n.exists)
        return 1.0f;
#pragma unroll
    for (uint32_t i = 0; i < SEQ_WARPS; i++)
        sums[i % 2] += w.part[i];
    return rsqrtf((sums[0] + sums[1]) * n.share + n.eps);
}

/* Where the warp's slabs begin: (unit, pass) `number`, slab `slab` of it; n of them. */
struct seq_begin {
    uint32_t number, slab, n;
};

static __device__ __forceinline__ seq_begin begin_of(const seq_product &p, seq_units units, uint32_t warp)
{
    const seq_range range = range_of(slabs_of(p, units.n), warp);
    const uint32_t number = range.first / p.n_slabs;
    return {number, range.first - number * p.n_slabs, range.end - range.first};
}

/* The warp's slabs; its sums go to its deposits. */
template <int MODE, int SET, bool MOE>
static __device__ __forceinline__ void product_slabs(const seq_params &a, const seq_product &p, seq_warp &w,
                                                     seq_units units, const seq_begin &begin)
{
    gemv_input in = {p.act, 0, p.n_in, 1};
    /* read here, so that nothing that follows from it is kept in registers through other stages */
    asm volatile("mov.u32 %0, %laneid;" : "=r"(w.ring.lane));
    float *sums = w.sums + w.number * SEQ_MAX_SEGMENTS * 16;
    uint32_t number = begin.number, slab = begin.slab, left = begin.n;

    if (left == 0 && w.ring.lane < 16) /* others add them up */
        sums[w.ring.lane] = 0.0f;
    for (; left; number++, slab = 0, sums += 16) {
        const uint32_t n = min(p.n_slabs - slab, left);
        const seq_segment s = segment_of<MOE>(p, units.first, number);
        float acc[2][mode_sums(MODE)] = {};
        if (MOE && !p.act)
            in.act = w.row;
        else if (MOE && p.n_pairs && !p.pair_units)
            in.act = p.act + s.pair * a.mixture.hidden_stride * 4;
        run_segment<MODE, SET, MOE>(p.part[s.part], w, in, slab, n, acc);
        deposit<MODE>(sums, acc, (int)w.ring.lane);
        left -= n;
    }
}

/* ---- Products of experts */

/* Number i of a block's outputs. Gate and up: 16 rows of a unit. Down: sixteen lanes have an output, each the sum of one expert. */
static __device__ __forceinline__ seq_output experts_output_of(const seq_product &p, seq_units units,
                                                               uint32_t i)
{
    if (p.pair_units) {
        seq_output o = output_of<true>(p, units, i);
        o.pair = small_quotient(units.first + i / 16, p.pair_units);
        return o;
    }
    const uint32_t unit = i / 256, row = i / 16 % 16;
    seq_output o = {0, (units.first + unit) * 16 + row, {0, 0}, i % 16};
    if (unit >= units.n)
        o.row = ~0u;
    else if (o.pair < p.n_pairs)
        o.sums[0] = sums_at(p, slabs_of(p, units.n), unit * p.n_pairs + o.pair, row);
    return o;
}

/* What is added to an output; loaded early. */
static __device__ __forceinline__ float experts_before(const seq_product &p, const seq_mixture &m,
                                                       const seq_output &o)
{
    return !p.pair_units && m.add && o.pair == 0 && o.row < p.part[0].n_out ? load_now(m.add + o.row) : 0.0f;
}

/* All lanes of a warp together. factor: of the norm before. */
static __device__ __forceinline__ void store_of_experts(const seq_product &p, const seq_mixture &m,
                                                        const seq_warp &w, const seq_output &o, float before,
                                                        float factor, uint32_t n_rows)
{
    const bool exists = o.row < p.part[0].n_out && o.pair < p.n_pairs && n_rows;
    float value = exists ? factor * sum_at(w.sums, o.sums[0]) : 0.0f;
    if (p.pair_units) {
        if (exists)
            p.part[0].out[o.pair * m.hidden_stride + o.row] =
                gated(p.glu, p.glu_clamp, value, factor * sum_at(w.sums, o.sums[1]));
        return;
    }
    if (m.combines) {
        value *= exists ? w.choice->weight[o.pair] : 0.0f;
#pragma unroll
        for (int d = 8; d > 0; d /= 2)
            value += __shfl_xor_sync(~0u, value, d);
    }
    if (exists && (!m.combines || o.pair == 0))
        p.part[0].out[o.pair * m.output_stride + o.row] = before + value;
}

/* Before a product of experts: the block's first chooses them. */
template <int MODE, class Block>
static __device__ __forceinline__ void experts_begin(const seq_product &p, seq_warp &w, seq_units units,
                                                     uint32_t n_rows, const Block &block)
{
    const seq_mixture &m = block.a.mixture;
    if (!w.has_choice)
        choose_experts(m.route, w.sums, w.choice, block);
    w.has_choice = true;
    if (p.pair_units && units.first == 0 && threadIdx.x < 32 && n_rows) /* one block's */
        store_choice(m.route, w.choice);
    w.quantizes = MODE == GEMV_Q1 && !p.pair_units;
}

static __device__ __forceinline__ void experts_end(const seq_product &p, const seq_mixture &m, seq_warp &w,
                                                   seq_units units, seq_output o, float before, float factor,
                                                   uint32_t n_rows)
{
    const uint32_t n = units.n * (p.pair_units ? 16 : 256);
    w.quantizes = false;
    for (uint32_t first = 0; first < n; first += SEQ_THREADS) { /* the same for all lanes */
        if (first) {
            o = experts_output_of(p, units, first + threadIdx.x);
            before = experts_before(p, m, o);
        }
        store_of_experts(p, m, w, o, before, factor, n_rows);
    }
}

/* ---- Any product */

/* Waits, and makes the block's own row if there is one. */
template <bool MOE, class Block>
static __device__ __forceinline__ void product_wait(const seq_stage &s, seq_warp &w, bool stores,
                                                    const Block &block)
{
    if (!MOE || !s.own) {
        block.wait();
        return;
    }
    const norms_params &p = block.a.own[s.own - 1];
    float4 weight[SEQ_OWN_CHUNKS];
    own_begin(p, weight);
    block.wait();
    own_norm(p, weight, w.row, stores, w.part, block);
    block.sync();
}

template <int MODE, int SET, bool MOE, class Block>
static __device__ __forceinline__ void product_run(const seq_stage &s, seq_warp &w, seq_units units,
                                                   uint32_t n_rows, const Block &block)
{
    const seq_product &p = s.product;
    seq_output o =
        MOE && p.n_pairs ? experts_output_of(p, units, threadIdx.x) : output_of<MOE>(p, units, threadIdx.x);
    const seq_begin begin = begin_of(p, units, w.number);
    float weight = code_weight(p, units.first * 16 + threadIdx.x);
    product_wait<MOE>(s, w, units.first == 0 && n_rows, block);
    const float square = norm_square(block.a, p);
    float before = MOE && p.n_pairs ? experts_before(p, block.a.mixture, o) : output_before(p, o);
    if (MOE && p.n_pairs)
        experts_begin<MODE>(p, w, units, n_rows, block);
    product_slabs<MODE, SET, MOE>(block.a, p, w, units, begin);
    block.note(SEQ_MULTIPLIED);
    seq_place place = output_place(p, o);
    const seq_norm norm = norm_of(p);
    norm_tell(norm, w, square);
    block.sync();
    block.note(SEQ_SUMMED);
    const float factor = norm_factor(norm, w);
    if (MOE && p.n_pairs) {
        experts_end(p, block.a.mixture, w, units, o, before, factor, n_rows);
        return;
    }
    for (uint32_t i = threadIdx.x; n_rows && i < units.n * 16; i += SEQ_THREADS) {
        if (i >= SEQ_THREADS) { /* seldom */
            o = output_of<MOE>(p, units, i);
            place = output_place(p, o);
            before = output_before(p, o);
            weight = code_weight(p, units.first * 16 + i);
        }
        const float value = store_output(p, w.sums, o, place, before, factor);
        if (place.codes)
            store_codes_of(block.a, p, units.first * 16 + i, value, weight);
    }
}

#endif
