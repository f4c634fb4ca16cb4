/* Where a sequence's time goes. With -DSEQUENCE_TRACE (in CPPFLAGS and NVCCFLAGS) every block notes when it reaches which point of which
 * stage, and the last sequence that ended with heads, a layer's, is printed to stderr when the device is closed. Without it nothing of
 * this is compiled.
 */
#ifndef SHARPI_BACKEND_CUDA_SEQUENCE_TRACE_CUH
#define SHARPI_BACKEND_CUDA_SEQUENCE_TRACE_CUH

#include "sequence-stages.cuh"

/* The block asks for the stage; it may begin; its slabs are multiplied; those of all its warps; its results are stored. */
enum seq_point { SEQ_ASKS, SEQ_BEGINS, SEQ_MULTIPLIED, SEQ_SUMMED, SEQ_ENDS, SEQ_N_POINTS };

#ifdef SEQUENCE_TRACE
#include <stdio.h>

enum { SEQ_TRACE_BLOCKS = 256 };

typedef unsigned long long seq_times[SEQ_TRACE_BLOCKS][SEQUENCE_MAX_STAGES][SEQ_N_POINTS];
static __device__ seq_times seq_noted; /* nanoseconds of the global timer */

static __device__ __forceinline__ void seq_note(const seq_params &a, uint32_t stage, int point)
{
    unsigned long long now;
    if (threadIdx.x || blockIdx.x >= SEQ_TRACE_BLOCKS || a.stages[a.n_stages - 1].kind != SEQ_HEADS)
        return;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)::"memory");
    seq_noted[blockIdx.x][stage][point] = now;
}

/* Of all blocks that were there within the last 0.2 ms: first, mean and last, in us from the first point of all. */
static void seq_print_point(const seq_times &t, uint32_t stage, int point, unsigned long long begin)
{
    double first = 1e9, sum = 0, last = 0;
    int n = 0;
    for (int b = 0; b < SEQ_TRACE_BLOCKS; b++) {
        if (t[b][stage][point] < begin)
            continue;
        const double us = (double)(t[b][stage][point] - begin) / 1000;
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

extern "C" void sequence_trace_print(void)
{
    static seq_times t;
    unsigned long long end = 0, begin = ~0ull;
    const unsigned long long *all = &t[0][0][0];
    if (cudaMemcpyFromSymbol(t, seq_noted, sizeof t) != cudaSuccess)
        return;
    for (size_t i = 0; i < sizeof t / sizeof *all; i++)
        end = all[i] > end ? all[i] : end;
    for (size_t i = 0; i < sizeof t / sizeof *all; i++)
        begin = all[i] < begin && all[i] + 200000 > end ? all[i] : begin;
    fprintf(stderr, "stage: asks, begins, multiplied, summed, ends: blocks, first, mean, last (us)\n");
    for (uint32_t stage = 0; stage < SEQUENCE_MAX_STAGES; stage++) {
        fprintf(stderr, "%2u", stage);
        for (int point = 0; point < SEQ_N_POINTS; point++)
            seq_print_point(t, stage, point, begin);
        fprintf(stderr, "\n");
    }
}
#else
static __device__ __forceinline__ void seq_note(const seq_params &, uint32_t, int)
{
}
#endif
#endif
