#include "code.h"

#include <cuda_runtime.h>

/* All files of the plugin are compiled for the same list. */
static __global__ void any_kernel(void)
{
}

extern "C" int code_compute_major(int *major)
{
    struct cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, (const void *)any_kernel);
    if (!error)
        *major = attributes.ptxVersion / 10;
    return (int)error;
}
