/* Where a sequence's time goes. With -DSEQUENCE_TRACE (in CPPFLAGS and NVCCFLAGS) every block notes when it reaches which point of which
 * stage, and block TRACED_BLOCK when its first warp's slabs were copied and used. The last sequences that go from one attention to the next,
 * one a layer, are printed to stderr when the device is closed. Without it nothing of this is compiled.
 */
#ifndef SHARPI_BACKEND_CUDA_SEQUENCE_TRACE_CUH
#define SHARPI_BACKEND_CUDA_SEQUENCE_TRACE_CUH

#include "sequence-stages.cuh"

/* The block asks for the stage; it may begin; its slabs are multiplied; those of all its warps; its results are stored. */
enum seq_point { SEQ_ASKS, SEQ_BEGINS, SEQ_MULTIPLIED, SEQ_SUMMED, SEQ_ENDS, SEQ_N_POINTS };
/* The block begins to run; the kernels before are complete. */
enum seq_entry { SEQ_ENTERS, SEQ_ENTERED, SEQ_N_ENTRIES };
/* A slot's copy is begun; its reader asks for it; has it. */
enum seq_slab_point { SEQ_COPIED, SEQ_WANTED, SEQ_GOT, SEQ_N_SLAB_POINTS };

#ifdef SEQUENCE_TRACE
#include <stdio.h>

enum { SEQ_TRACE_BLOCKS = 256, SEQ_TRACE_SLOTS = 160, SEQ_TRACED_BLOCK = 5 };

typedef unsigned long long seq_time; /* nanoseconds of the global timer */

struct seq_times {
    seq_time stages[SEQ_TRACE_BLOCKS][SEQUENCE_MAX_STAGES][SEQ_N_POINTS];
    seq_time entries[SEQ_TRACE_BLOCKS][SEQ_N_ENTRIES];
    seq_time slots[SEQ_TRACE_SLOTS][SEQ_N_SLAB_POINTS];
    uint32_t slot_stages[SEQ_TRACE_SLOTS];
};
static __device__ seq_times seq_noted[SEQ_TRACE_LAUNCHES];

static __device__ __forceinline__ seq_time seq_now(void)
{
    seq_time now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)::"memory");
    return now;
}

/* A layer's sequence ends with heads, or with a product where attention makes these. */
static __device__ __forceinline__ bool seq_is_noted(const seq_params &a)
{
    const seq_stage &last = a.stages[a.n_stages - 1];
    return threadIdx.x == 0 && blockIdx.x < SEQ_TRACE_BLOCKS && a.n_stages >= 4 &&
           (last.kind == SEQ_HEADS || is_product(last));
}

static __device__ __forceinline__ void seq_note(const seq_params &a, uint32_t stage, int point)
{
    if (seq_is_noted(a))
        seq_noted[a.turn].stages[blockIdx.x][stage][point] = seq_now();
}

static __device__ __forceinline__ void seq_note_entry(const seq_params &a, int point)
{
    if (seq_is_noted(a))
        seq_noted[a.turn].entries[blockIdx.x][point] = seq_now();
}

/* By the lanes of the warp that reads or fills. */
static __device__ __forceinline__ void seq_note_slot(uint32_t turn, uint32_t lane, uint32_t slot, int point)
{
    if (blockIdx.x == SEQ_TRACED_BLOCK && lane == 0 && slot < SEQ_TRACE_SLOTS)
        seq_noted[turn].slots[slot][point] = seq_now();
}

static __device__ __forceinline__ void seq_note_copy(uint32_t turn, uint32_t lane, uint32_t slot,
                                                     uint32_t stage)
{
    seq_note_slot(turn, lane, slot, SEQ_COPIED);
    if (blockIdx.x == SEQ_TRACED_BLOCK && lane == 0 && slot < SEQ_TRACE_SLOTS)
        seq_noted[turn].slot_stages[slot] = stage;
}

/* Of n times `stride` apart, those in [begin, end): first, mean and last, in us from begin. */
static void seq_print_times(const seq_time *t, uint32_t stride, seq_time begin, seq_time end)
{
    double first = 1e9, sum = 0, last = 0;
    int n = 0;
    for (int b = 0; b < SEQ_TRACE_BLOCKS; b++) {
        const seq_time at = t[b * stride];
        if (at < begin || at >= end)
            continue;
        const double us = (double)(at - begin) / 1000;
        first = us < first ? us : first;
        last = us > last ? us : last;
        sum += us;
        n++;
    }
    if (n)
        fprintf(stderr, " | %3d %6.1f %6.1f %6.1f", n, first, sum / n, last);
    else
        fprintf(stderr, " | %24s", "");
}

static void seq_print_launch(const seq_times &t, seq_time begin, seq_time end)
{
    fprintf(stderr, "enters, entered");
    for (int point = 0; point < SEQ_N_ENTRIES; point++)
        seq_print_times(&t.entries[0][point], SEQ_N_ENTRIES, begin, end);
    fprintf(stderr, "\nstage: asks, begins, multiplied, summed, ends: blocks, first, mean, last (us)\n");
    for (uint32_t stage = 0; stage < SEQUENCE_MAX_STAGES; stage++) {
        fprintf(stderr, "%2u", stage);
        for (int point = 0; point < SEQ_N_POINTS; point++)
            seq_print_times(&t.stages[0][stage][point], SEQUENCE_MAX_STAGES * SEQ_N_POINTS, begin, end);
        fprintf(stderr, "\n");
    }
    for (int i = 0; i < SEQ_TRACE_SLOTS; i++) {
        const seq_time *at = t.slots[i];
        if (at[SEQ_COPIED] >= begin && at[SEQ_COPIED] < end)
            fprintf(stderr, "slot %3d stage %2u: copied %.1f, wanted %.2f, got %.2f\n", i, t.slot_stages[i],
                    (double)(at[SEQ_COPIED] - begin) / 1000, (double)(at[SEQ_WANTED] - begin) / 1000,
                    (double)(at[SEQ_GOT] - begin) / 1000);
    }
}

extern "C" void sequence_trace_print(void)
{
    static seq_times t[SEQ_TRACE_LAUNCHES];
    uint32_t order[SEQ_TRACE_LAUNCHES], n = 0; /* by when they were entered, without those that were not noted */
    if (cudaMemcpyFromSymbol(t, seq_noted, sizeof t) != cudaSuccess)
        return;
    for (uint32_t k = 0; k < SEQ_TRACE_LAUNCHES; k++) {
        uint32_t at = n;
        if (t[k].entries[0][SEQ_ENTERS] == 0)
            continue;
        for (; at && t[order[at - 1]].entries[0][SEQ_ENTERS] > t[k].entries[0][SEQ_ENTERS]; at--)
            order[at] = order[at - 1];
        order[at] = k;
        n++;
    }
    for (uint32_t i = 0; i < n; i++) /* up to when the next one really begins */
        seq_print_launch(t[order[i]], t[order[0]].entries[0][SEQ_ENTERS] - 5000,
                         i + 1 < n ? t[order[i + 1]].entries[0][SEQ_ENTERED] : ~0ull);
}
#else
static __device__ __forceinline__ void seq_note(const seq_params &, uint32_t, int)
{
}
static __device__ __forceinline__ void seq_note_entry(const seq_params &, int)
{
}
#endif
#endif
