/* The warps' rings of slabs in shared memory, and the warp that fills them: all slabs that a warp will use in the whole sequence, in
 * order, whatever stage the block is in. Lane l of the filling warp serves warp l.
 *
 * A slot takes one bulk copy, of a slab or of two small ones that follow each other; its barrier `full` waits for the copy, `empty` for
 * the reader. No more than a few of a ring's copies are under way at a time: enough for full bandwidth, few enough that other loads need
 * not queue behind them for long. While kernels before this one still run, attention as a rule, whose loads wait for each other, a
 * few of the whole block's.
 */
#ifndef SHARPI_BACKEND_CUDA_SEQUENCE_RING_CUH
#define SHARPI_BACKEND_CUDA_SEQUENCE_RING_CUH

#include "matmul-ring.cuh"
#include "sequence-stages.cuh"
#include "sequence-trace.cuh"

struct seq_ring {
    uint8_t *slots;
    uint64_t *full, *empty; /* a barrier per slot */
    uint32_t slot_bytes, n_slots;
    uint32_t slot, parity; /* of the slot that is used next */
    uint32_t lane;
#ifdef SEQUENCE_TRACE
    uint32_t turn, n_noted;
#endif
};

/* ---- Reading */

/* The slot's address in shared memory, once it has been waited for. */
static __device__ __forceinline__ uint32_t ring_again(const seq_ring &r)
{
    return shared_address(r.slots) + r.slot * r.slot_bytes;
}

static __device__ __forceinline__ uint32_t ring_wait(seq_ring &r)
{
#ifdef SEQUENCE_TRACE
    seq_note_slot(r.turn, threadIdx.x, r.n_noted, SEQ_WANTED);
#endif
    barrier_wait(r.full + r.slot, r.parity);
#ifdef SEQUENCE_TRACE
    seq_note_slot(r.turn, threadIdx.x, r.n_noted++, SEQ_GOT);
#endif
    return ring_again(r);
}

/* The warp has read the slot's slabs. Each lane says so for itself: that takes no longer than one lane after __syncwarp(), an order that
 * compute-sanitizer's racecheck does not see. */
static __device__ __forceinline__ void ring_next(seq_ring &r)
{
    barrier_arrive(r.empty + r.slot);
    if (++r.slot == r.n_slots) {
        r.slot = 0;
        r.parity ^= 1;
    }
}

/* ---- Filling */

/* The next slabs to be copied. */
struct seq_fill {
    const uint8_t *at;
    uint32_t stage, number; /* (unit, pass) of the block's in that stage */
    uint32_t left;          /* slabs of it that are the warp's; 0: no more slabs at all */
    uint32_t more;          /* of the warp's in this stage, after those */
    uint32_t slab_bytes, tail_bytes, together;
    bool waits; /* for the choice of experts */
};

/* Whether the phase of this parity is complete. */
static __device__ __forceinline__ bool barrier_passed(uint64_t *barrier, uint32_t parity)
{
    uint32_t done;
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return done;
}

/* Points at slab `slab` of (unit, pass) `number`. */
template <bool MOE>
static __device__ __forceinline__ void fill_locate(seq_fill &f, const seq_params &a, const seq_product &p,
                                                   uint32_t first_unit, uint32_t slab,
                                                   const seq_choice *choice)
{
    const seq_segment s = segment_of<MOE>(p, first_unit, f.number);
    const seq_part &part = p.part[s.part];
    f.left = min(p.n_slabs - slab, f.more);
    f.more -= f.left;
    f.slab_bytes = part.slab_bytes;
    f.together = part.together;
    f.tail_bytes = slab + f.left == p.n_slabs ? part.last_slab_bytes : part.slab_bytes;
    f.at = part.data + (uint64_t)s.group * part.group_bytes + slab * part.slab_bytes;
    if (MOE && p.n_pairs)
        f.at += (uint32_t)choice->expert[s.pair] *
                (p.pair_units ? a.mixture.up_bytes[s.pass] : a.mixture.down_bytes);
}

/* Goes on to the next (unit, pass), in this stage or a later one. */
template <bool MOE>
static __device__ __forceinline__ void fill_go_on(seq_fill &f, const seq_params &a, const seq_units *units,
                                                  uint32_t warp, seq_choice *choice)
{
    uint32_t slab = 0;
    f.number++;
    while (f.more == 0) {
        if (++f.stage >= a.n_stages)
            return;
        const seq_stage &s = a.stages[f.stage];
        if (!is_product(s))
            continue;
        const seq_range r = range_of(slabs_of(s.product, units[f.stage].n), warp);
        if (MOE) {
            f.waits = s.product.n_pairs && r.end > r.first && !barrier_passed(&choice->is_made, 0);
            if (f.waits) {
                f.stage--;
                return;
            }
        }
        f.more = r.end - r.first;
        f.number = MOE ? small_quotient(r.first, s.product.n_slabs) : r.first / s.product.n_slabs;
        slab = r.first - f.number * s.product.n_slabs;
    }
    fill_locate<MOE>(f, a, a.stages[f.stage].product, units[f.stage].first, slab, choice);
}

static __device__ __forceinline__ uint64_t read_once_policy(void)
{
    uint64_t policy = 0;
#if __CUDA_ARCH__ >= 900
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
    return policy;
}

/* Weights are read once a step: what is read again stays in the L2. */
static __device__ __forceinline__ void copy_bulk(uint8_t *to, const uint8_t *from, uint32_t bytes,
                                                 uint64_t *barrier, uint64_t policy)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
                 "[%1], %2, [%3], %4;" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
                 : "memory");
#endif
}

#ifdef SEQUENCE_RACECHECK
/* compute-sanitizer takes copies that several lanes begin together for one lane's: here each lane waits for all slots that are copied to,
 * which are empty by now. */
static __device__ __forceinline__ void show_waits(const seq_ring &r, const ring_place &next, bool copies)
{
    for (uint32_t lanes = __ballot_sync(~0u, copies); lanes; lanes &= lanes - 1) {
        const int lane = __ffs((int)lanes) - 1;
        uint64_t *empty = (uint64_t *)__shfl_sync(~0u, (unsigned long long)(r.empty + next.slot), lane);
        barrier_wait(empty, __shfl_sync(~0u, next.parity, lane));
    }
}
#endif

/* The whole life of the filling warp: `r` is this lane's ring. has_entered: barrier, the kernels before are complete. */
template <bool MOE>
static __device__ __forceinline__ void fill_rings(const seq_params &a, const seq_units *units, seq_ring &r,
                                                  uint64_t *has_entered, seq_choice *choice)
{
    bool is_early = true;
    const uint64_t policy = read_once_policy();
    seq_fill f = {nullptr, ~0u, 0, 0, 0, 0, 0, 0, false};
    ring_place next = {0, 1}, oldest = {0, 0}; /* a new barrier has passed the phase before its first */
    uint32_t under_way = 0;
    if (r.lane < SEQ_WARPS)
        fill_go_on<MOE>(f, a, units, r.lane, choice);
    while (__any_sync(~0u, f.left > 0 || (MOE && f.waits))) {
        if (MOE && f.waits)
            fill_go_on<MOE>(f, a, units, r.lane, choice);
        const bool room = f.left && barrier_passed(r.empty + next.slot, next.parity);
        if (under_way && barrier_passed(r.full + oldest.slot, oldest.parity)) {
            ring_step(oldest, r.n_slots);
            under_way--;
        }
        bool copies = room && under_way < a.n_under_way;
        if (is_early) {
            const uint32_t before = __popc(__ballot_sync(~0u, copies) & ((1u << r.lane) - 1)),
                           all = __reduce_add_sync(~0u, under_way);
            copies = copies && all + before < a.n_early;
            is_early = __any_sync(~0u, !barrier_passed(has_entered, 0));
        }
#ifdef SEQUENCE_RACECHECK
        show_waits(r, next, copies);
#endif
        if (copies) {
            const uint32_t n = min(f.together, f.left),
                           bytes = n * f.slab_bytes - (n == f.left ? f.slab_bytes - f.tail_bytes : 0);
            copy_bulk(r.slots + next.slot * r.slot_bytes, f.at, bytes, r.full + next.slot, policy);
#ifdef SEQUENCE_TRACE
            seq_note_copy(r.turn, r.lane, r.n_noted++, f.stage);
#endif
            ring_step(next, r.n_slots);
            under_way++;
            f.at += n * f.slab_bytes;
            f.left -= n;
            if (f.left == 0)
                fill_go_on<MOE>(f, a, units, r.lane, choice);
        }
        if (!__any_sync(~0u, copies))
            __nanosleep(20);
    }
}

#endif
