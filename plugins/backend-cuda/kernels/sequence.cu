/* The sequence kernel: stages of a decode step with one row, between which weights go on streaming.
 *
 * A launch per stage leaves the memory idle at every end and beginning, for longer than small products take. Here one block per
 * multiprocessor walks through all stages, and each warp's ring of slabs (sequence-ring.cuh) is filled ahead across them: while
 * one block computes a norm and the others wait for it, up to 200 KiB per multiprocessor of the next products' weights
 * arrive. Moves what the stages' own kernels move.
 *
 * Between stages: every block with a part in stage s counts itself in counter s when it is done with it, and waits for all that
 * have a part in stage s - 1 before it begins its own part of s. As each stage has at least one block, a stage begins when all
 * stages before it are complete.
 *
 * A mixture's stages and norms that blocks do for themselves: sequence-experts.cuh; they have kernels of their own (MOE), so that others'
 * stay as small as they are.
 *
 * Blocks wait for each other, so all must be resident together. There is at most one per multiprocessor and it fits there alone. A block
 * waits for others only after launch_wait(), when all earlier kernels of the stream are gone; later ones can begin only when every block
 * of this one has called launch_next(), that is, is resident. Kernels of other streams end some time, unless they are sequences too: of
 * those the caller runs one at a time on a device, or all as cooperative launches, of which the device starts all blocks or none, but only
 * when the kernel before has ended.
 *
 * Counters are zero before and after every launch: a block's filling warp counts it out after its last wait, and the last one out
 * clears all of them (by then nobody waits any more, and everybody that counts has been counted: the last stage's blocks waited for
 * it).
 * Nothing depends on how many rows there are; with none, nothing is stored.
 *
 * Compute capability 9.0 and later (bulk copies); elsewhere sequence_end says no, and the kernel is never launched.
 */
#include "sequence-f32.cuh"
#include "sequence-trace.cuh"

#include "launch.h"

struct seq_shared {
    float sums[SEQ_WARPS * SEQ_MAX_SEGMENTS * 16];
    uint64_t full[SEQ_WARPS][SEQ_MAX_SLOTS], empty[SEQ_WARPS][SEQ_MAX_SLOTS];
    uint64_t has_entered,
        has_waited; /* barriers: the kernels before are complete; the block has waited for the last time */
    float part[2][32];
    seq_choice choice;
    seq_units units[SEQUENCE_MAX_STAGES]; /* the block's, of products */
};

enum { SEQ_FIXED_BYTES = (sizeof(seq_shared) + 127) / 128 * 128 };

/* ---- Barriers */

static __device__ __forceinline__ uint32_t *counter_of(const seq_params &a, uint32_t stage)
{
    return a.counters + stage * (SEQUENCE_COUNTER_STRIDE / 4);
}

/* All of this block's work of the stage before is done and visible. */
static __device__ __forceinline__ void arrive(const seq_params &a, uint32_t stage)
{
    sync_readers();
    if (threadIdx.x == 0)
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter_of(a, stage)) : "memory");
}

/* The readers of a block in a stage, as row steps want them. wait(): until all that have a part in the stage before have arrived, and before
 * the block's first stage until the kernels before are complete. */
struct seq_block {
    static constexpr int registers = SEQ_REGISTERS;
    const seq_params &a;
    uint32_t stage;
    bool is_first, is_last;
    uint64_t *has_entered, *has_waited;
    __device__ __forceinline__ uint32_t n_threads() const
    {
        return SEQ_THREADS;
    }
    __device__ __forceinline__ void sync() const
    {
        sync_readers();
    }
    /* The block's part in the stage is done. */
    __device__ __forceinline__ void count() const
    {
        if (stage + 1 < a.n_stages)
            arrive(a, stage);
    }
    __device__ __forceinline__ void note(int point) const
    {
        seq_note(a, stage, point);
    }
    __device__ __forceinline__ void wait() const
    {
        note(SEQ_ASKS);
        if (is_first) {
            launch_wait();
            if (threadIdx.x == 0)
                barrier_arrive(has_entered);
            seq_note_entry(a, SEQ_ENTERED);
        }
        if (threadIdx.x == 0) {
            if (stage > 0) {
                const uint32_t expected = a.stages[stage - 1].n_blocks;
                uint32_t seen;
                do {
                    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                                 : "=r"(seen)
                                 : "l"(counter_of(a, stage - 1))
                                 : "memory");
                } while (seen < expected);
            }
            if (is_last)
                barrier_arrive(has_waited);
        }
        if (stage > 0)
            sync_readers();
        note(SEQ_BEGINS);
    }
};

/* ---- Stages */

static __device__ __forceinline__ bool has_part(const seq_params &a, const seq_shared *shared, uint32_t stage)
{
    const seq_stage &s = a.stages[stage];
    return is_product(s) ? shared->units[stage].n > 0 : blockIdx.x < s.n_blocks;
}

static __device__ __forceinline__ void run_norms(const norms_params &p, float (*part)[32],
                                                 const seq_block &block)
{
    if (p.n_used)
        norms_row<2, true>(p, 0, part, block);
    else if (p.chunks <= 2 * SEQ_THREADS)
        norms_row<2, false>(p, 0, part, block);
    else if (p.chunks <= 3 * SEQ_THREADS)
        norms_row<3, false>(p, 0, part, block);
    else
        norms_row<4, false>(p, 0, part, block);
}

template <int NV, int LANES>
static __device__ __forceinline__ void run_heads_of(const seq_heads &p, const seq_block &block)
{
    const uint32_t head = (blockIdx.x * SEQ_THREADS + threadIdx.x) / LANES;
    uint32_t c = 0;
    while (c + 1 < p.n_chains && head >= p.chains[c + 1].first_block)
        c++;
    heads_unit<NV, LANES>(p.chains[c], p.rows, 1, head - p.chains[c].first_block, block);
}

static __device__ __forceinline__ void run_heads(const seq_heads &p, const seq_block &block)
{
    switch (p.head_dim) {
    case 64:
        run_heads_of<1, 16>(p, block);
        break;
    case 128:
        run_heads_of<1, 32>(p, block);
        break;
    case 256:
        run_heads_of<2, 32>(p, block);
        break;
    default:
        run_heads_of<4, 32>(p, block);
    }
}

static __device__ __forceinline__ void run_glu(const glu_params &p, const seq_block &block)
{
    const uint32_t first = blockIdx.x * SEQ_THREADS + threadIdx.x;
    if (p.activation == SHARPI_ACT_SILU)
        glu_chunks<1, SHARPI_ACT_SILU>(p, 0, first, SEQ_THREADS, block);
    else if (p.activation == SHARPI_ACT_GELU_TANH)
        glu_chunks<1, SHARPI_ACT_GELU_TANH>(p, 0, first, SEQ_THREADS, block);
    else
        glu_chunks<1, 0>(p, 0, first, SEQ_THREADS, block);
}

template <int SET, bool MOE>
static __device__ __forceinline__ void run_stage(const seq_stage &s, seq_warp &w, seq_shared *shared,
                                                 uint32_t n_rows, const seq_block &block)
{
    switch (s.kind) {
    case SEQ_PRODUCT:
        if constexpr (SET != SEQ_SET_16_BIT)
            product_run<GEMV_Q1, SET, MOE>(s, w, shared->units[block.stage], n_rows, block);
        break;
    case SEQ_PRODUCT_16_BIT:
        if constexpr (SET >= SEQ_SET_16_BIT)
            product_run<GEMV_FLOAT, SET, MOE>(s, w, shared->units[block.stage], n_rows, block);
        break;
    case SEQ_PRODUCT_F32:
        f32_run(s.product, w, shared->units[block.stage], n_rows, block);
        break;
    case SEQ_HEADS:
        if (blockIdx.x < s.heads.n_blocks) {
            run_heads(s.heads, block);
            break;
        } /* fall through */
    case SEQ_NORMS:
        run_norms(s.kind == SEQ_NORMS ? s.norms : s.heads.norms, shared->part, block);
        break;
    case SEQ_ROUTER:
        if constexpr (MOE)
            router_run(s.router, block.a.own[s.own - 1], s.n_blocks, n_rows, shared->part, w.row, block);
        break;
    default:
        run_glu(s.glu, block);
    }
}

/* The first and last stage in which this block has a part; n_stages: none. */
struct seq_span {
    uint32_t first, last;
};

static __device__ __forceinline__ seq_span find_span(const seq_params &a, const seq_shared *shared)
{
    seq_span span = {a.n_stages, a.n_stages};
    for (uint32_t i = 0; i < a.n_stages; i++) {
        if (!has_part(a, shared, i))
            continue;
        span.first = min(span.first, i);
        span.last = i;
    }
    return span;
}

template <int SET, bool MOE>
static __device__ __forceinline__ void run_stages(const seq_params &a, seq_shared *shared,
                                                  const seq_ring &ring)
{
    const seq_span span = find_span(a, shared);
    const uint32_t n_rows = (uint32_t)*a.n_rows; /* older than the step's first kernel */
    seq_warp w = {ring,
                  threadIdx.x / 32,
                  shared->sums,
                  &shared->choice,
                  a.rows + blockIdx.x * a.row_bytes,
                  shared->part[0],
                  false,
                  false};
    if (span.last == a.n_stages)
        seq_block{a, 0, true, true, &shared->has_entered, &shared->has_waited}.wait();
    for (uint32_t i = 0; i < a.n_stages; i++) {
        if (!has_part(a, shared, i))
            continue;
        const seq_block block = {
            a, i, i == span.first, i == span.last, &shared->has_entered, &shared->has_waited};
        run_stage<SET, MOE>(a.stages[i], w, shared, n_rows, block);
        block.note(SEQ_ENDS);
        if (!MOE || a.stages[i].kind != SEQ_ROUTER) /* which does that itself */
            block.count();
    }
}

/* The block waits no more. */
static __device__ __forceinline__ void count_out(const seq_params &a, seq_shared *shared)
{
    barrier_wait(&shared->has_waited, 0);
    if (atomicAdd(counter_of(a, SEQUENCE_MAX_STAGES), 1) != gridDim.x - 1)
        return;
    for (uint32_t i = 0; i < a.n_stages; i++)
        *counter_of(a, i) = 0;
    *counter_of(a, SEQUENCE_MAX_STAGES) = 0;
}

#if __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1204
#define SEQ_BOUNDS __maxnreg__(SEQ_REGISTERS)
#else /* attention finds no room then */
#define SEQ_BOUNDS __launch_bounds__(SEQ_THREADS + 32, 1)
#endif

template <int SET, bool MOE>
static __global__ void SEQ_BOUNDS sequence_kernel(const __grid_constant__ seq_params a)
{
    extern __shared__ __align__(128) uint8_t memory[];
    seq_shared *shared = (seq_shared *)memory;
    const bool fills = threadIdx.x >= SEQ_THREADS;
    const uint32_t lane = threadIdx.x % 32, number = fills ? min(lane, SEQ_WARPS - 1u) : threadIdx.x / 32;
    seq_ring ring = {memory + SEQ_FIXED_BYTES + number * a.n_slots * a.slot_bytes,
                     shared->full[number],
                     shared->empty[number],
                     a.slot_bytes,
                     a.n_slots,
                     0,
                     0,
                     lane};
#ifdef SEQUENCE_TRACE
    ring.turn = a.turn;
#endif
    seq_note_entry(a, SEQ_ENTERS);
    launch_next();
    if (threadIdx.x < a.n_stages && is_product(a.stages[threadIdx.x]))
        shared->units[threadIdx.x] = units_of(a.stages[threadIdx.x].product, blockIdx.x, gridDim.x);
    if (fills && lane < SEQ_WARPS) {
        for (uint32_t i = 0; i < a.n_slots; i++) {
            barrier_init(ring.full + i, 1);
            barrier_init(ring.empty + i, 32);
        }
        if (lane == 0) {
            barrier_init(&shared->has_entered, 1);
            barrier_init(&shared->has_waited, 1);
        }
        if (MOE && lane == 0)
            barrier_init(&shared->choice.is_made, SEQ_THREADS);
#if __CUDA_ARCH__ >= 900
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
    }
    __syncthreads();
    if (fills) {
        fill_rings<MOE>(a, shared->units, ring, &shared->has_entered, &shared->choice);
        if (lane == 0)
            count_out(a, shared);
        return;
    }
    run_stages<SET, MOE>(a, shared, ring);
}

/* ---- Host: stages */

enum { SEQ_MAX_BLOCKS = 1024 };

struct sequence {
    seq_params params;
    const struct matmul_context *ctx;
    uint32_t shared_bytes, n_blocks;
    uint32_t has_route, has_experts;
    int set;                       /* enum seq_set */
    uint32_t load[SEQ_MAX_BLOCKS]; /* slabs of each block so far, for rotations; only the first n_blocks */
};

extern "C" uint64_t sequence_bytes(void)
{
    return sizeof(struct sequence);
}

extern "C" void sequence_begin(struct sequence *sequence, const struct matmul_context *ctx)
{
    *sequence = {};
    sequence->ctx = ctx;
    sequence->n_blocks = min(ctx->n_sms, (int)SEQ_MAX_BLOCKS);
}

/* The stage that products with weights of this type are. */
static int kind_of(int32_t type)
{
    return type == SHARPI_TYPE_F32 ? SEQ_PRODUCT_F32 : is_16_bit(type) ? SEQ_PRODUCT_16_BIT : SEQ_PRODUCT;
}

static uint32_t slab_columns(int kind)
{
    return kind == SEQ_PRODUCT_F32 ? SEQ_F32_COLUMNS : kind == SEQ_PRODUCT_16_BIT ? 128 : 256;
}

static uint32_t unit_rows(int kind)
{
    return kind == SEQ_PRODUCT_F32 ? 1 : MATMUL_GROUP;
}

/* As group_bytes() and slab_bytes() of the units' weights. */
static uint64_t unit_bytes(int32_t type, uint64_t n_in)
{
    return type == SHARPI_TYPE_F32 ? 4 * n_in : group_bytes(slab_layout_of(type), n_in);
}

static uint32_t bytes_of_slab(int32_t type, uint32_t columns)
{
    return type == SHARPI_TYPE_F32 ? 4 * columns : slab_bytes(slab_layout_of(type), columns);
}

static void fill_part(seq_part *to, const struct matmul_part *part)
{
    const struct cuda_matrix *m = part->w;
    const uint32_t columns = slab_columns(kind_of(m->type)), tail = (uint32_t)(m->n_in % columns);
    to->data = (const uint8_t *)m->data;
    to->bias = part->bias;
    to->out = part->out;
    to->group_bytes = (uint32_t)unit_bytes(m->type, m->n_in);
    to->n_out = (uint32_t)m->n_out;
    to->slab_bytes = (uint16_t)bytes_of_slab(m->type, columns);
    to->last_slab_bytes = (uint16_t)bytes_of_slab(m->type, tail ? tail : columns);
    to->together = (uint16_t)slabs_together(to->slab_bytes);
    to->type = (int16_t)m->type;
    to->epilogue = (int16_t)part->epilogue;
}

/* The parts of one kind; false: none. */
static bool fill_product(seq_product *p, const struct matmul_args *args, int kind)
{
    *p = {};
    for (uint32_t i = 0; i < args->n_parts; i++) {
        const struct cuda_matrix *m = args->part[i].w;
        if (kind_of(m->type) != kind)
            continue;
        seq_part *part = &p->part[p->n_parts++];
        fill_part(part, &args->part[i]);
        part->first_unit = p->n_units;
        if (!args->glu || p->n_parts == 1)
            p->n_units += divide_up(m->n_out, unit_rows(kind));
        p->n_in = (uint32_t)m->n_in;
    }
    p->unit_step = 1;
    p->act = (const uint8_t *)args->act[kind == SEQ_PRODUCT ? ACT_Q8 : ACT_F32];
    p->n_passes = args->glu ? 2 : 1;
    p->n_slabs = divide_up(p->n_in, slab_columns(kind));
    p->glu = args->glu;
    p->glu_clamp = args->glu_clamp;
    return p->n_parts > 0;
}

/* Whether the kernel's arithmetic has room for it. */
static bool fits(const seq_product *p, uint32_t n_blocks)
{
    const uint64_t units = (p->n_units + n_blocks - 1) / n_blocks + 1,
                   slabs = units * p->n_passes * p->n_slabs;
    const uint64_t most = (slabs + SEQ_WARPS - 1) / SEQ_WARPS; /* of a warp */
    return slabs < 1u << 24 && p->n_units < (1u << 31) / n_blocks && p->act &&
           (most + p->n_slabs - 2) / p->n_slabs + 1 <= SEQ_MAX_SEGMENTS;
}

/* Chooses which blocks have a unit more, so that after this product the busiest block has as little to do as possible. */
static void rotate(struct sequence *sequence, seq_product *p)
{
    const uint32_t n = sequence->n_blocks;
    uint32_t slabs[SEQ_MAX_BLOCKS], best = 0, least = ~0u;
    p->rotation = 0;
    for (uint32_t place = 0; place < n; place++)
        slabs[place] = slabs_of(*p, units_of(*p, place, n).n);
    for (uint32_t r = 0; r < n; r++) {
        uint32_t most = 0;
        for (uint32_t b = 0; b < n; b++)
            most = max(most, sequence->load[b] + slabs[b + r < n ? b + r : b + r - n]);
        if (most < least) {
            least = most;
            best = r;
        }
    }
    p->rotation = best;
    for (uint32_t b = 0; b < n; b++)
        sequence->load[b] += slabs[b + best < n ? b + best : b + best - n];
}

static void add_product(struct sequence *sequence, const seq_product *p, int kind)
{
    seq_params *a = &sequence->params;
    seq_stage *s = &a->stages[a->n_stages++];
    s->kind = kind;
    s->product = *p;
    for (uint32_t i = 0; i < p->n_parts; i++)
        a->slot_bytes = max(a->slot_bytes, (uint32_t)p->part[i].slab_bytes * p->part[i].together);
}

/* f32 rows are copied and multiplied by fours, and activate no pairs. */
static bool can_be_f32(const struct matmul_args *args, const struct cuda_matrix *m)
{
    return m->n_in % 4 == 0 && !args->glu;
}

extern "C" int sequence_add_product(struct sequence *sequence, const struct matmul_args *args)
{
    enum { N_KINDS = SEQ_PRODUCT_F32 + 1 };
    seq_product p[N_KINDS];
    bool has[N_KINDS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < args->n_parts; i++) {
        const struct cuda_matrix *m = args->part[i].w;
        if (m->n_stack != 1 || (m->type == SHARPI_TYPE_F32 && !can_be_f32(args, m)))
            return 0;
    }
    for (int kind = 0; kind < N_KINDS; kind++) {
        has[kind] = fill_product(&p[kind], args, kind);
        if (has[kind] && !fits(&p[kind], sequence->n_blocks))
            return 0;
        n += has[kind];
    }
    if (n == 0 || sequence->params.n_stages + n > SEQUENCE_MAX_STAGES)
        return 0;
    for (int kind = 0; kind < N_KINDS; kind++) {
        if (has[kind])
            add_product(sequence, &p[kind], kind);
    }
    return 1;
}

extern "C" int sequence_add_route(struct sequence *sequence, const struct moe_route *route)
{
    if (sequence->has_route || route->n_experts > SEQ_MAX_EXPERTS || route->n_used > MOE_MAX_USED ||
        route->n_used > route->n_experts)
        return 0;
    sequence->has_route = 1;
    sequence->params.mixture.route = *route;
    return 1;
}

/* The parts of a grouped product, read from `act`; false: it is none that a sequence does. */
static bool fill_experts(seq_product *p, const struct matmul_grouped_args *args, const void *act)
{
    const int kind = kind_of(args->part[0].w->type);
    struct matmul_args plain = {};
    plain.n_parts = args->n_parts;
    plain.glu = args->glu;
    plain.glu_clamp = args->glu_clamp;
    plain.act[kind == SEQ_PRODUCT ? ACT_Q8 : ACT_F32] = act;
    for (uint32_t i = 0; i < args->n_parts; i++) {
        plain.part[i] = args->part[i];
        if (kind_of(args->part[i].w->type) != kind || args->part[i].bias)
            return false;
    }
    return kind != SEQ_PRODUCT_F32 && fill_product(p, &plain, kind);
}

extern "C" int sequence_add_experts(struct sequence *sequence, const struct sequence_experts *experts)
{
    seq_params *a = &sequence->params;
    seq_mixture *m = &a->mixture;
    const struct matmul_grouped_args *up = &experts->up, *down = &experts->down;
    const uint32_t n_pairs = m->route.n_used;
    seq_product p[2];
    if (!sequence->has_route || sequence->has_experts || !up->glu || up->n_parts != 2 || down->n_parts != 1 ||
        a->n_stages + 2 > SEQUENCE_MAX_STAGES || down->part[0].w->n_in % 32 || up->part[0].out_stride % 4 ||
        !fill_experts(&p[0], up, up->act) || !fill_experts(&p[1], down, up->part[0].out))
        return 0;
    p[0].n_pairs = p[1].n_pairs = p[1].n_passes = n_pairs;
    p[0].pair_units = p[0].n_units;
    p[0].n_units *= n_pairs;
    m->up_bytes[0] = up->part[0].w->stack_bytes;
    m->up_bytes[1] = up->part[1].w->stack_bytes;
    m->down_bytes = down->part[0].w->stack_bytes;
    m->hidden_stride = (uint32_t)up->part[0].out_stride;
    m->output_stride = (uint32_t)down->part[0].out_stride;
    for (const seq_product &q : p) {
        if (!fits(&q, sequence->n_blocks) || slabs_of(q, q.n_units) >= 1u << 20)
            return 0;
    }
    add_product(sequence, &p[0], kind_of(up->part[0].w->type));
    add_product(sequence, &p[1], kind_of(down->part[0].w->type));
    sequence->has_experts = 1;
    return 1;
}

extern "C" int sequence_is_whole(const struct sequence *sequence)
{
    return sequence->has_route == sequence->has_experts;
}

/* Stand for memory of the sequence's own, which is known when it is launched: 0 a row for sums, 1 and more the codes of norms whose
 * factor is applied late. */
static uint8_t *own_place(uint32_t number)
{
    return (uint8_t *)((uint64_t)(number + 1) << 20);
}

/* Where down stores the sum of residual and experts: where the norms would, or in a row of the sequence's if blocks may still be reading
 * something there. */
static float *place_of_sum(const seq_mixture *m, const seq_product *down, const norms_params *p)
{
    const uint64_t bytes = p->width * 4ull;
    if (!overlap(p->sum, bytes, down->act, 4ull * m->hidden_stride * down->n_pairs) &&
        (p->sum == p->add || !overlap(p->sum, bytes, p->add, bytes)))
        return (float *)p->sum;
    return bytes <= SEQUENCE_SUM_BYTES ? (float *)own_place(0) : NULL;
}

/* Whether norms begin with the weighted sum of what the last product, down, has made. */
static bool begins_with_sum(const struct sequence *sequence, const norms_params *p)
{
    const seq_params *a = &sequence->params;
    if (!p->n_used || !a->n_stages || !is_product(a->stages[a->n_stages - 1]))
        return false;
    const seq_product *down = &a->stages[a->n_stages - 1].product;
    return p->n_used == down->n_pairs && !down->pair_units && !p->slots &&
           p->weights == a->mixture.route.weights && (const float *)p->in == down->part[0].out &&
           p->width == down->part[0].n_out;
}

/* Down adds up itself, and adds the residual. */
static void join_sum(struct sequence *sequence, norms_params *p)
{
    seq_mixture *m = &sequence->params.mixture;
    seq_product *down = &sequence->params.stages[sequence->params.n_stages - 1].product;
    float *place = p->add && p->sum && !p->has_norm1 && !p->has_scale ? place_of_sum(m, down, p) : NULL;
    m->combines = 1;
    p->n_used = 0;
    if (!place)
        return;
    m->add = (const float *)p->add;
    down->part[0].out = place;
    p->in = (const uint8_t *)place;
    p->add = NULL;
    p->sum = place == (float *)p->sum ? NULL : p->sum;
}

/* A step that only turns the last product's outputs into ACT_Q8 is done by the product itself, unless it would write where blocks may
 * still be reading. */
static bool join_format(struct sequence *sequence, const match_launch *l)
{
    seq_params *a = &sequence->params;
    seq_stage *last = a->n_stages ? &a->stages[a->n_stages - 1] : NULL;
    glu_params p;
    if (!last || !is_product(*last) || last->kind == SEQ_PRODUCT_F32 || !match_glu(l, &p) || p.up || p.out ||
        p.format != ACT_Q8)
        return false;
    seq_product *product = &last->product;
    if (product->codes || product->n_pairs || product->n_parts != product->n_passes || p.width % 32 ||
        p.width != product->part[0].n_out || (const float *)p.gate != product->part[0].out ||
        overlap(product->act, input_bytes(*last), p.codes, act_row_bytes(ACT_Q8, p.width)))
        return false;
    product->codes = p.codes;
    product->unit_step = 2;
    return true;
}

/* An activation of the last product's outputs, times what lies in memory, is done by the product itself if its weights are f32. */
static bool join_glu(struct sequence *sequence, const match_launch *l)
{
    seq_params *a = &sequence->params;
    seq_stage *last = a->n_stages ? &a->stages[a->n_stages - 1] : NULL;
    glu_params p;
    if (!last || last->kind != SEQ_PRODUCT_F32 || !match_glu(l, &p) || !p.up || !p.out || p.codes)
        return false;
    seq_product *product = &last->product;
    if (product->times || product->n_parts != 1 || p.width != product->part[0].n_out ||
        (const float *)p.gate != product->part[0].out ||
        overlap(product->act, input_bytes(*last), p.out, 4ull * p.width))
        return false;
    product->times = (const float *)p.up;
    product->made = (float *)p.out;
    product->glu = p.activation;
    product->glu_clamp = p.limit;
    return true;
}

static bool fill_heads(seq_stage *s, const match_launch *l)
{
    heads_params p;
    seq_heads *to = &s->heads;
    uint32_t head_dim;
    if (!match_heads(l, &p, &head_dim) || p.n_chains > SEQ_MAX_CHAINS)
        return false;
    *to = {};
    to->norms = p.norms;
    to->rows = p.rows;
    to->n_chains = p.n_chains;
    to->head_dim = head_dim;
    for (uint32_t c = 0; c < p.n_chains; c++) {
        to->chains[c] = p.chains[c];
        to->chains[c].first_block = to->n_heads;
        to->n_heads += p.chains[c].n_heads;
    }
    to->n_blocks = divide_up(to->n_heads * (head_dim == 64 ? 16ull : 32ull), SEQ_THREADS);
    s->kind = SEQ_HEADS;
    s->n_blocks = to->n_blocks + p.has_norms;
    return true;
}

static bool fill_norms(const struct sequence *sequence, seq_stage *s, const match_launch *l)
{
    if (!match_norms(l, &s->norms))
        return false;
    const bool sums = s->norms.n_used && !begins_with_sum(sequence, &s->norms);
    if (divide_up(s->norms.width, 64) * 16 > (sums ? 2u : 4u) * SEQ_THREADS)
        return false;
    s->kind = SEQ_NORMS;
    s->n_blocks = 1;
    return true;
}

static bool fill_glu(seq_stage *s, const match_launch *l)
{
    if (!match_glu(l, &s->glu))
        return false;
    s->kind = SEQ_GLU;
    s->n_blocks = divide_up(divide_up(s->glu.width, 64) * 16, SEQ_THREADS);
    return true;
}

/* Formats that other numbers of rows want may be all there is. */
static bool has_no_ops(const match_launch *l)
{
    uint32_t n = 0;
    for (uint32_t c = 0; c < l->step->n_chains; c++)
        n += chain_of(l->step, c, l->n_rows).n;
    return n == 0;
}

extern "C" int sequence_add_rows(struct sequence *sequence, const struct rows_step *step,
                                 const struct rows_batch *batch)
{
    const match_launch l = {step, {batch->n_rows[step->rows], 1}, 1};
    seq_params *a = &sequence->params;
    if (step->rows_factor != 1)
        return 0;
    if (has_no_ops(&l) || join_format(sequence, &l) || join_glu(sequence, &l))
        return 1;
    if (a->n_stages == SEQUENCE_MAX_STAGES)
        return 0;
    seq_stage s = {};
    if ((!fill_norms(sequence, &s, &l) && !fill_glu(&s, &l) && !fill_heads(&s, &l)) ||
        s.n_blocks > sequence->n_blocks)
        return 0;
    if (s.kind == SEQ_NORMS && begins_with_sum(sequence, &s.norms))
        join_sum(sequence, &s.norms);
    a->stages[a->n_stages++] = s;
    return 1;
}

/* Bytes of a multiprocessor's copies at a time; while kernels before still run. */
enum { SEQ_UNDER_WAY = 96 << 10, SEQ_EARLY = 56 << 10 };

/* The smallest set that has all types. */
static int choose_set(const seq_params *a)
{
    for (int set = 0; set < SEQ_SET_ALL; set++) {
        bool has_all = true;
        for (uint32_t i = 0; i < a->n_stages; i++) {
            for (uint32_t k = 0; is_product(a->stages[i]) && k < a->stages[i].product.n_parts; k++)
                has_all = has_all && in_set(a->stages[i].product.part[k].type, set);
        }
        if (has_all)
            return set;
    }
    return SEQ_SET_ALL;
}

/* ---- Host: norms that blocks do for themselves */

/* Just a norm, of which others than its readers need nothing that lies where some blocks may still be reading. */
static bool can_be_own(const norms_params *p, const void *out, uint64_t out_bytes)
{
    const uint64_t bytes = p->width * 4ull;
    return p->has_norm2 && !p->has_norm1 && !p->has_scale && !p->n_used && !p->add && p->format == ACT_Q8 &&
           p->width % 32 == 0 && p->chunks <= SEQ_OWN_CHUNKS * SEQ_THREADS &&
           !overlap(p->in, bytes, p->out, bytes) && !overlap(p->in, bytes, p->codes, bytes) &&
           !overlap(p->in, bytes, p->sum, bytes) && !overlap(p->in, bytes, out, out_bytes);
}

/* Whether the stage is a router that reads the norm's f32 row. */
static bool is_router_of(const norms_params *p, const seq_stage *s)
{
    const seq_product *r = &s->product;
    return s->kind == SEQ_PRODUCT_F32 && r->n_parts == 1 && !r->times && !r->part[0].bias &&
           r->part[0].epilogue == MATMUL_STORE && p->out && r->act == p->out && r->n_in == p->width &&
           can_be_own(p, r->part[0].out, r->part[0].n_out * 4ull);
}

static bool is_product_of(const norms_params *p, const seq_stage *s)
{
    if (s->kind != SEQ_PRODUCT || s->product.n_pairs || !p->codes || s->product.act != p->codes ||
        overlap(p->in, p->width * 4ull, s->product.codes, s->product.part[0].n_out * 4ull))
        return false;
    for (uint32_t i = 0; i < s->product.n_parts; i++) {
        if (!can_be_own(p, s->product.part[i].out, s->product.part[i].n_out * 4ull))
            return false;
    }
    return true;
}

/* The norms become the beginning of the next stage. */
static void make_own(struct sequence *sequence, seq_stage *s, const norms_params *norms, bool makes_row)
{
    seq_params *a = &sequence->params;
    a->own[a->n_own++] = *norms;
    a->row_bytes = SEQUENCE_ROW_BYTES;
    s->own = a->n_own;
    if (s->kind == SEQ_PRODUCT) {
        s->product.act = NULL;
        return;
    }
    const seq_part part = s->product.part[0];
    s->kind = SEQ_ROUTER;
    s->n_blocks = makes_row ? sequence->n_blocks : min(part.n_out, sequence->n_blocks);
    s->router = {(const float *)part.data, part.out, norms->width, part.n_out, makes_row};
}

/* Norms that blocks can do for themselves. Experts right after a router that has made their row read that. */
static void join_norms(struct sequence *sequence)
{
    seq_params *a = &sequence->params;
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_stages; i++, n++) {
        const seq_stage s = a->stages[i];
        seq_stage *to = &a->stages[n];
        const seq_stage *next = i + 1 < a->n_stages && a->n_own < SEQ_MAX_OWN ? &a->stages[i + 1] : NULL;
        if (s.kind == SEQ_NORMS && next && (is_router_of(&s.norms, next) || is_product_of(&s.norms, next))) {
            *to = a->stages[++i];
            make_own(sequence, to, &s.norms, true);
            continue;
        }
        *to = s;
        if (n && to->kind == SEQ_PRODUCT && to[-1].kind == SEQ_ROUTER && to[-1].router.makes_row &&
            to->product.act == a->own[to[-1].own - 1].codes)
            to->product.act = NULL;
    }
    a->n_stages = n;
}

/* ---- Host: norms whose factor is applied late */

static bool is_norm_only(const norms_params *p)
{
    return p->has_norm2 && !p->has_norm1 && !p->has_scale && !p->n_used && !p->add && !p->sum && p->codes &&
           p->format == ACT_Q8 && p->width % 32 == 0 && p->width / 32 <= SEQ_MAX_SQUARES;
}

/* Whether nothing is lost if the product's blocks have pairs of units: about as many are busy, and none has more to do. Or it is short. */
static bool can_pair(const struct sequence *sequence, const seq_product *p)
{
    const uint32_t n = sequence->n_blocks, pairs = p->n_units / 2;
    return p->n_units <= n / 4 ||
           (2 * divide_up(pairs, n) <= divide_up(p->n_units, n) && pairs * 8 >= min(p->n_units, n) * 7);
}

/* Whether the product can make the norm's codes of what it stores. */
static bool makes_codes(const struct sequence *sequence, const seq_stage *s, const norms_params *p)
{
    const seq_product *q = &s->product;
    return is_product(*s) && s->kind != SEQ_PRODUCT_F32 && q->n_parts == 1 && q->n_passes == 1 &&
           !q->n_pairs && !q->codes && (const uint8_t *)q->part[0].out == p->in &&
           q->part[0].n_out == p->width && can_pair(sequence, q);
}

/* Whether the stages after the norm are products of its codes; a router of its row may come first. */
static bool has_readers(const seq_params *a, uint32_t norm)
{
    const norms_params *p = &a->stages[norm].norms;
    const uint32_t router = p->out != NULL, first = norm + 1 + router;
    return first < a->n_stages && a->stages[first].kind == SEQ_PRODUCT &&
           a->stages[first].product.act == p->codes &&
           (!router || (a->n_own < SEQ_MAX_OWN && a->stages[first].product.n_pairs &&
                        is_router_of(p, &a->stages[norm + 1])));
}

/* Where a stage writes codes of `width` columns; NULL. */
static const uint8_t *codes_of(const seq_stage *s, uint32_t *width)
{
    *width = is_product(*s) ? s->product.part[0].n_out : s->kind == SEQ_GLU ? s->glu.width : s->norms.width;
    if (is_product(*s))
        return s->product.codes;
    return s->kind == SEQ_GLU ? s->glu.codes : s->kind == SEQ_NORMS ? s->norms.codes : NULL;
}

/* The products beside a norm do it: there is no stage then. Its codes lie in memory of the sequence's, as what others read may still
 * lie where they would. */
static void carry_norms(struct sequence *sequence)
{
    seq_params *a = &sequence->params;
    norms_params norm = {}; /* the last; codes NULL once a stage overwrites what they stand for */
    uint32_t n = 0, n_carried = 0, width;
    for (uint32_t i = 0; i < a->n_stages; i++) {
        const seq_stage s = a->stages[i];
        if (s.kind == SEQ_NORMS && n && n_carried < SEQ_MAX_CARRIED && is_norm_only(&s.norms) &&
            has_readers(a, i) && makes_codes(sequence, &a->stages[n - 1], &s.norms)) {
            seq_product *before = &a->stages[n - 1].product;
            norm = s.norms;
            before->norm_after = ++n_carried;
            before->codes = own_place(n_carried);
            before->code_weight = norm.weight2;
            before->unit_step = 2;
            if (norm.out)
                make_own(sequence, &a->stages[i + 1], &norm, false);
            continue;
        }
        seq_stage *to = &a->stages[n++];
        *to = s;
        if (norm.codes && s.kind == SEQ_PRODUCT && s.product.act == norm.codes) {
            to->product.act = own_place(n_carried);
            to->product.norm_before = n_carried;
            to->product.norm_eps = norm.eps2;
            to->product.norm_share = 1.0f / (float)norm.width;
        }
        const uint8_t *codes = codes_of(&s, &width);
        if (codes &&
            overlap(codes, act_row_bytes(ACT_Q8, width), norm.codes, act_row_bytes(ACT_Q8, norm.width)))
            norm.codes = NULL;
    }
    a->n_stages = n;
}

extern "C" uint64_t sequence_memory_bytes(const struct matmul_context *ctx)
{
    return SEQUENCE_COUNTER_BYTES + SEQUENCE_SQUARES_BYTES +
           (uint64_t)min(ctx->n_sms, (int)SEQ_MAX_BLOCKS) * SEQUENCE_ROW_BYTES + SEQUENCE_SUM_BYTES +
           SEQ_MAX_CARRIED * SEQUENCE_CODES_BYTES;
}

extern "C" int sequence_end(struct sequence *sequence, int is_closed)
{
    seq_params *a = &sequence->params;
    if (is_closed)
        carry_norms(sequence);
    if (sequence->has_experts)
        join_norms(sequence);
    const uint32_t shared = (uint32_t)sequence->ctx->shared_bytes, fixed = SEQ_FIXED_BYTES + SEQ_SPARE_BYTES;
    if (!sequence->ctx->has_bulk || a->slot_bytes == 0 || shared <= fixed)
        return 0;
    a->n_slots = (shared - fixed) / SEQ_WARPS / a->slot_bytes;
    a->n_under_way = max(1u, (SEQ_UNDER_WAY + SEQ_WARPS * a->slot_bytes / 2) / (SEQ_WARPS * a->slot_bytes));
    a->n_early = max(1u, SEQ_EARLY / a->slot_bytes);
    a->n_slots = min(a->n_slots, (uint32_t)SEQ_MAX_SLOTS);
    if (sequence->has_experts) /* whose weights cannot be copied ahead: all at once then */
        a->n_under_way = a->n_slots;
    sequence->shared_bytes = SEQ_FIXED_BYTES + SEQ_WARPS * a->n_slots * a->slot_bytes;
    for (uint32_t i = 0; i < a->n_stages; i++) {
        seq_stage *s = &a->stages[i];
        if (is_product(*s)) {
            s->n_blocks = min(s->product.n_units / s->product.unit_step, sequence->n_blocks);
            rotate(sequence, &s->product);
        }
    }
    sequence->set = choose_set(a);
    return a->n_slots >= 2 && !(sequence->has_experts && sequence->set == SEQ_SET_ALL);
}

/* ---- Host: launch */

typedef void (*sequence_fn)(seq_params);

template <bool MOE> static sequence_fn kernel_of(int set)
{
    switch (set) {
    case SEQ_SET_Q4_0:
        return sequence_kernel<SEQ_SET_Q4_0, MOE>;
    case SEQ_SET_Q8_0:
        return sequence_kernel<SEQ_SET_Q8_0, MOE>;
    case SEQ_SET_K:
        return sequence_kernel<SEQ_SET_K, MOE>;
    case SEQ_SET_16_BIT:
        return sequence_kernel<SEQ_SET_16_BIT, MOE>;
    default: /* with mixtures it would need more of a stack than the device keeps */
        if constexpr (MOE)
            return NULL;
        else
            return sequence_kernel<SEQ_SET_ALL, MOE>;
    }
}

extern "C" int sequence_prepare(const struct matmul_context *ctx)
{
    for (int set = 0; set < 2 * SEQ_N_SETS - 1; set++) {
        const void *kernel =
            (const void *)(set < SEQ_N_SETS ? kernel_of<false>(set) : kernel_of<true>(set - SEQ_N_SETS));
        int e =
            (int)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, ctx->device_shared);
        if (!e)
            e = (int)cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                          cudaSharedmemCarveoutMaxShared);
        if (e)
            return e;
    }
    return 0;
}

/* The true address in place of own_place(number). */
static void place_own(seq_params *a, uint32_t number, uint8_t *row)
{
    const uint8_t *place = own_place(number);
    for (uint32_t i = 0; i < a->n_stages; i++) {
        seq_stage *s = &a->stages[i];
        if (s->kind == SEQ_NORMS && s->norms.in == place)
            s->norms.in = row;
        if (!is_product(*s))
            continue;
        seq_product *p = &s->product;
        p->part[0].out = (const uint8_t *)p->part[0].out == place ? (float *)row : p->part[0].out;
        p->act = p->act == place ? row : p->act;
        p->codes = p->codes == place ? row : p->codes;
    }
    for (uint32_t i = 0; i < a->n_own; i++)
        a->own[i].in = a->own[i].in == place ? row : a->own[i].in;
}

extern "C" int sequence_launch(const struct sequence *sequence, const int32_t *n_rows_dev, void *counters,
                               int cooperative, cudaStream_t stream)
{
    seq_params params = sequence->params;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attributes[2] = {};
    void *arguments[] = {&params};
    params.n_rows = n_rows_dev;
#ifdef SEQUENCE_TRACE
    static uint32_t n_launches;
    params.turn = n_launches++ % SEQ_TRACE_LAUNCHES;
#endif
    params.counters = (uint32_t *)counters;
    params.squares = (float *)((uint8_t *)counters + SEQUENCE_COUNTER_BYTES);
    params.rows = (uint8_t *)counters + SEQUENCE_COUNTER_BYTES + SEQUENCE_SQUARES_BYTES;
    uint8_t *own = params.rows + (uint64_t)sequence->n_blocks * SEQUENCE_ROW_BYTES;
    place_own(&params, 0, own);
    for (uint32_t i = 0; i < SEQ_MAX_CARRIED; i++)
        place_own(&params, 1 + i, own + SEQUENCE_SUM_BYTES + i * SEQUENCE_CODES_BYTES);
    config.gridDim = dim3(sequence->n_blocks);
    config.blockDim = dim3(SEQ_THREADS + 32);
    config.dynamicSmemBytes = sequence->shared_bytes;
    config.stream = stream;
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = sequence->ctx->overlap;
    attributes[1].id = cudaLaunchAttributeCooperative;
    attributes[1].val.cooperative = 1;
    config.attrs = attributes;
    config.numAttrs = cooperative ? 2 : 1;
    return (int)cudaLaunchKernelExC(&config,
                                    (const void *)(sequence->has_experts ? kernel_of<true>(sequence->set)
                                                                         : kernel_of<false>(sequence->set)),
                                    arguments);
}
