/* The float formats' tables for CUDA, and what they need besides the tensor-core kernels. */
#include "float-cuda.h"
#include "float.cuh"

SHARPI_KV_CUDA_EXTERN(kv_cuda_f16)
SHARPI_KV_CUDA_EXTERN(kv_cuda_bf16)

const struct sharpi_kv_cuda kv_f32_cuda = SHARPI_KV_CUDA_TABLE(kv_cuda_f32);
const struct sharpi_kv_cuda kv_f16_cuda = SHARPI_KV_CUDA_TABLE(kv_cuda_f16);
const struct sharpi_kv_cuda kv_bf16_cuda = SHARPI_KV_CUDA_TABLE(kv_cuda_bf16);
