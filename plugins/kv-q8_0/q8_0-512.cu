/* The tensor cores' attention for caches of q8_0, head_dim up to 512. */
#include "q8_0.cuh"

SHARPI_KV_CUDA_INSTANCE(kv_cuda_q8_0, 512)
