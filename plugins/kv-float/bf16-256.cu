/* The tensor cores' attention for caches of bf16, head_dim up to 256. */
#include "float.cuh"

SHARPI_KV_CUDA_INSTANCE(kv_cuda_bf16, 256)
