/* q8_0's table for CUDA, and what it needs besides the tensor-core kernels. */
#include "q8_0-cuda.h"
#include "q8_0.cuh"

SHARPI_KV_CUDA_EXTERN(kv_cuda_q8_0)

const struct sharpi_kv_cuda kv_q8_0_cuda = SHARPI_KV_CUDA_TABLE(kv_cuda_q8_0);
