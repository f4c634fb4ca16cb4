/* q8_0's table for the CUDA backend; only where the toolkit was found. */
#ifndef SHARPI_KV_Q8_0_CUDA_H
#define SHARPI_KV_Q8_0_CUDA_H

#include <sharpi/cuda/kv-cuda.h>

#ifdef __cplusplus
extern "C" {
#endif

extern const struct sharpi_kv_cuda kv_q8_0_cuda;

#ifdef __cplusplus
}
#endif
#endif
