/* Launching kernels so that one's prologue overlaps its predecessor's end (programmatic dependent launch, sm_90 and later).
 *
 * A kernel launched with launch_kernel() may start before its predecessor in the stream has finished. So it must call
 * launch_wait() before its first access to memory that a predecessor writes or reads and this kernel writes; what it does
 * before that may touch only what no kernel of the stream writes (weights). It should call launch_next() early: this only lets
 * the next kernel start its own prologue. EVERY kernel of a chain must call launch_wait(), even if it needs nothing: a
 * kernel is complete, for its successor's launch_wait(), only when its own predecessors are.
 */
#ifndef SHARPI_BACKEND_CUDA_LAUNCH_H
#define SHARPI_BACKEND_CUDA_LAUNCH_H

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __CUDACC__

#include <sharpi/cuda/launch.cuh>

/* launch_wait: waits until all preceding kernels of the stream are complete and their writes visible.
 * launch_next: lets the next kernel of the stream begin once every block of this one has said so (or has ended). */
using sharpi::launch_next;
using sharpi::launch_wait;

/* Launches kernel(*params) where the kernel takes one struct by value. `overlap`: allow programmatic dependent launch (the device
 * must be of compute capability 9.0 or later). */
template <typename Params>
static inline int launch_kernel(void (*kernel)(Params), dim3 grid, dim3 block, size_t shared_bytes,
                                cudaStream_t stream, int overlap, const Params *params)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    void *arguments[] = {const_cast<Params *>(params)};

    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &attribute;
    config.numAttrs = overlap ? 1 : 0;
    return (int)cudaLaunchKernelExC(&config, (const void *)kernel, arguments);
}

#endif
#endif
