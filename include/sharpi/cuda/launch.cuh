/* Launches whose prologue may overlap the end of the kernel before (programmatic dependent launch, compute capability 9.0).
 *
 * Every kernel of such a chain calls launch_wait before it touches memory that a kernel before it writes or reads, and
 * launch_next early: that lets the next kernel's blocks start once all of this kernel's have.
 */
#ifndef SHARPI_CUDA_LAUNCH_CUH
#define SHARPI_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>
#include <stdint.h>

namespace sharpi
{

__device__ inline void launch_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void launch_next(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Shared memory that each of n_blocks on one multiprocessor may ask for, where a single one may ask for `most`: a block takes 1 KiB more than it
 * asks for, and a multiprocessor has that much more than one block can ask for. */
inline uint32_t shared_share(uint32_t most, uint32_t n_blocks)
{
    return (most + 1024) / n_blocks - 1024;
}

template <class... Args>
int launch(void (*kernel)(Args...), dim3 grid, uint32_t n_threads, uint32_t shared_bytes, cudaStream_t stream,
           bool overlaps, Args... args)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    void *pointers[] = {&args...};

    if (!grid.x || !grid.y)
        return cudaSuccess;
    config.gridDim = grid;
    config.blockDim = dim3(n_threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &attribute;
    config.numAttrs = overlaps;
    return cudaLaunchKernelExC(&config, (const void *)kernel, pointers);
}

} // namespace sharpi
#endif
