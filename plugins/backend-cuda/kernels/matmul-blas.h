/* cublasLt, loaded at run time: large products of bf16 or f32 with f32 sums. */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_BLAS_H
#define SHARPI_BACKEND_CUDA_MATMUL_BLAS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct matmul_blas;

/* The library, loaded; NULL if it is missing. Whoever holds it makes matmul_blas_open quick. */
void *matmul_blas_library(void);
void matmul_blas_library_close(void *library); /* NULL is fine */

/* NULL if the library, or a function of it, is missing. */
struct matmul_blas *matmul_blas_open(void);
void matmul_blas_close(struct matmul_blas *blas);

struct matmul_blas_call {
    const void *w, *x;   /* [n_out, w_stride], [n_rows, x_stride]: both bf16, or both f32 */
    float *out;          /* [n_rows, out_stride] */
    const float *bias;   /* [n_out] or NULL */
    int32_t is_f32, add; /* add: out += */
    uint64_t n_in, n_out, n_rows;
    uint64_t w_stride, x_stride, out_stride; /* elements */
    void *workspace;
    cudaStream_t stream;
};

#define MATMUL_BLAS_WORKSPACE (32u << 20)

/* 0, a cudaError_t, or -1 if cublasLt knows no way (the caller then uses its own kernels). */
int matmul_blas_run(struct matmul_blas *blas, const struct matmul_blas_call *call);

#ifdef __cplusplus
}
#endif
#endif
