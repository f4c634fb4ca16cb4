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

/* Launches kernel(*params) where the kernel takes one struct by value, in clusters of n_cluster blocks along x. `overlap`: allow
 * programmatic dependent launch. Clusters of more than one block and overlap need compute capability 9.0 or later. */
template <typename Params>
static inline int launch_clusters(void (*kernel)(Params), dim3 grid, dim3 block, uint32_t n_cluster,
                                  size_t shared_bytes, cudaStream_t stream, int overlap, const Params *params)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attributes[2] = {};
    void *arguments[] = {const_cast<Params *>(params)};

    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    if (n_cluster > 1) {
        attributes[0].id = cudaLaunchAttributeClusterDimension;
        attributes[0].val.clusterDim.x = n_cluster;
        attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
        config.numAttrs = 1;
    }
    if (overlap) {
        attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    return (int)cudaLaunchKernelExC(&config, (const void *)kernel, arguments);
}

template <typename Params>
static inline int launch_kernel(void (*kernel)(Params), dim3 grid, dim3 block, size_t shared_bytes,
                                cudaStream_t stream, int overlap, const Params *params)
{
    return launch_clusters(kernel, grid, block, 1, shared_bytes, stream, overlap, params);
}

#endif
#endif
