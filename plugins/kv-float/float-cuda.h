/* Tables of the float formats for the CUDA backend; only where the toolkit was found. */
#ifndef SHARPI_KV_FLOAT_CUDA_H
#define SHARPI_KV_FLOAT_CUDA_H

#include <sharpi/cuda/kv-cuda.h>

#ifdef __cplusplus
extern "C" {
#endif

extern const struct sharpi_kv_cuda kv_f32_cuda, kv_f16_cuda, kv_bf16_cuda;

#ifdef __cplusplus
}
#endif
#endif
