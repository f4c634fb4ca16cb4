/* What the files of the CUDA matrix products share on the host. */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_INTERNAL_H
#define SHARPI_BACKEND_CUDA_MATMUL_INTERNAL_H

#include "matmul-layout.h"
#include "matmul.h"

struct matmul_blas; /* cublasLt, loaded at run time (matmul-blas.c) */

struct matmul_context {
    int device, n_sms;
    int has_bulk, overlap; /* the code has bulk copies; launches use programmatic dependent launch */
    int device_shared; /* most shared memory of a block: kernels' attribute, one for all contexts of a device */
    int shared_bytes; /* what launches use of it */
    int gemv_blocks; /* per SM, of a launch with few rows: one leaves no room for the next launch to begin early */
    int has_wide, wide;   /* the tile kernels on wgmma can be used */
    int wide_clusters[9]; /* by blocks of a cluster: how many clusters run at once */
    uint32_t wide_groups,
        wide_split;           /* 0, or what wide launches use instead of what they would choose (tests) */
    struct matmul_blas *blas; /* or NULL */
};

static inline int is_16_bit(int32_t type)
{
    return type == SHARPI_TYPE_F16 || type == SHARPI_TYPE_BF16;
}

#ifdef __cplusplus
extern "C" {
#endif

/* Each sets the attributes of its kernels: a cudaError_t. */
int matmul_gemv_prepare(const struct matmul_context *ctx);
int matmul_f32_prepare(void);
int matmul_tile_prepare(struct matmul_context *ctx); /* and finds out whether wgmma can be used */

/* Any number of rows up to MATMUL_GEMV_ROWS; parts of any mixture of types except f32. */
int matmul_gemv_launch(const struct matmul_args *args);
int matmul_gemv_grouped_launch(const struct matmul_grouped_args *args);
/* f32 weights, any number of rows; one part. */
int matmul_f32_launch(const struct matmul_args *args, const struct matmul_part *part);
int matmul_f32_grouped_launch(const struct matmul_grouped_args *args);
/* Tensor cores, ACT_BF16, any number of rows; parts of one type, not f32. */
int matmul_tile_launch(const struct matmul_args *args);
int matmul_tile_grouped_launch(const struct matmul_grouped_args *args);
uint64_t matmul_tile_workspace_bytes(const struct matmul_context *ctx);

/* Dequantization to bf16 and cublasLt (matmul-large.cu); one part. */
int matmul_large_is_better(const struct matmul_context *ctx, const struct cuda_matrix *m, uint32_t n_rows);
int matmul_large_launch(const struct matmul_args *args, const struct matmul_part *part);
uint64_t matmul_large_workspace_bytes(const struct matmul_context *ctx, uint32_t n_rows);

#ifdef __cplusplus
}
#endif
#endif
