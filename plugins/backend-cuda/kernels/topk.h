/* The best candidates of logits rows, so that sampling does not copy whole rows of the vocabulary to the host.
 *
 * Per row: the k greatest logits with their ids, greatest first, of equal ones the lower id first, and the logarithm of
 * the sum of exp(logit) over the row. With softcap > 0 all of it is of softcap * tanh(logit / softcap). A NaN is below everything.
 */
#ifndef SHARPI_BACKEND_CUDA_TOPK_H
#define SHARPI_BACKEND_CUDA_TOPK_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TOPK_MAX       256u
#define TOPK_MAX_VOCAB (512u << 10)

struct topk_job {
    const float *logits; /* device; row r at byte r * stride */
    uint64_t stride;
    uint32_t n_vocab;
    uint32_t k; /* 1 .. TOPK_MAX, at most n_vocab */
    float softcap;
    int32_t *ids;  /* device, [R, k] out */
    float *values; /* device, [R, k] out */
    float *lse;    /* device, [R] out */
    void *workspace;
};

uint64_t topk_workspace_bytes(uint32_t n_vocab, uint32_t max_rows);

/* For at most n_rows rows, *n_rows_dev of them true (NULL: all). `overlap`: as for rows_step_launch. Returns a cudaError_t. */
int32_t topk_launch(const struct topk_job *job, const int32_t *n_rows_dev, uint32_t n_rows, int32_t overlap,
                    cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
