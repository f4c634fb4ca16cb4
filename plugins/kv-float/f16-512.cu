/* The tensor cores' attention for caches of f16, head_dim up to 512. */
#include "float.cuh"

SHARPI_KV_CUDA_INSTANCE(kv_cuda_f16, 512)
