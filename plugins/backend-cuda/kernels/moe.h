/* Mixture of experts on the device: choice of experts per token and the sort of (token, choice) pairs by expert. The products are
 * matmul.h's grouped ones, the weighted sum is ROW_COMBINE of rows.h, so that norms and adds join it.
 *
 * The order of everything is fixed by the routing alone: experts ascending, tokens ascending. A token's experts are in the
 * order of their choice: greatest logit first, of equal ones the lower number first.
 */
#ifndef SHARPI_BACKEND_CUDA_MOE_H
#define SHARPI_BACKEND_CUDA_MOE_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_MAX_EXPERTS 512u
#define MOE_MAX_USED    16u

/* All pointers are device memory. T = n_tokens bound, k = n_used. */
struct moe_route {
    uint32_t n_experts, n_used;
    uint32_t softmax_after, renormalize; /* as in struct sharpi_moe_attr */
    float weight_scale;
    const float *logits; /* row t at byte t * logits_stride */
    uint64_t logits_stride;
    const float *bias;         /* [n_experts] or NULL: added to the logits */
    const float *expert_scale; /* [n_experts] or NULL: factor on the chosen weights, last */
    int32_t *experts;          /* [T, k] out: chosen experts */
    float *weights;            /* [T, k] out */
    /* The sort; slots NULL: none (products of few tokens take the pairs as they are), the rest is not written then. */
    int32_t *slots;      /* [T, k] out: sorted row of each pair */
    int32_t *source;     /* [T * k] out: token of each sorted row */
    int32_t *row_expert; /* [T * k] out: expert of each sorted row; may be NULL */
    int32_t *starts;     /* [n_experts + 1] out: first sorted row of each expert; the last: number of pairs */
    void *workspace;     /* moe_workspace_bytes; may be NULL for at most MOE_ONE_LAUNCH tokens */
};

#define MOE_ONE_LAUNCH 32u /* up to so many tokens routing and sort are one launch */

uint64_t moe_workspace_bytes(uint32_t n_experts, uint32_t max_tokens);

/* Routes and sorts for at most n_tokens tokens, *n_tokens_dev of them true. Returns a cudaError_t (cudaErrorInvalidValue for
 * sizes over the limits). `overlap`: as for rows_step_launch. */
int32_t moe_route_launch(const struct moe_route *route, const int32_t *n_tokens_dev, uint32_t n_tokens,
                         int32_t overlap, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
