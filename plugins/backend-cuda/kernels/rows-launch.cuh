/* Launches of the fused kernels (rows-fused.cuh). */
#ifndef SHARPI_BACKEND_CUDA_ROWS_LAUNCH_CUH
#define SHARPI_BACKEND_CUDA_ROWS_LAUNCH_CUH

#include "rows-match.cuh"

#define ROWS_NO_MATCH -1
#define NORMS_FEW                                                                                            \
    512u /* chunks that few rows leave to one chunk a thread; more warps wait longer for each other */

struct fused_launch {
    match_launch match;
    uint32_t n_sms;
    int32_t overlap;
    cudaStream_t stream;
};

template <int NV> static int32_t launch_norms_by(const fused_launch *l, const norms_params *p)
{
    dim3 block(divide_up(divide_up(p->width, 64) * 16, 32 * NV) * 32);
    if (p->n_used)
        return launch_kernel(norms_kernel<NV, true>, dim3(l->match.n_rows), block, 0, l->stream, l->overlap,
                             p);
    return launch_kernel(norms_kernel<NV, false>, dim3(l->match.n_rows), block, 0, l->stream, l->overlap, p);
}

static int32_t launch_norms(const fused_launch *l, const norms_params *p)
{
    const uint32_t chunks = divide_up(p->width, 64) * 16;
    const bool few = l->match.n_rows <= 2 * l->n_sms;
    if (chunks <= (few ? NORMS_FEW : 256u))
        return launch_norms_by<1>(l, p);
    if (chunks <= (few ? 2 * NORMS_FEW : 512u))
        return launch_norms_by<2>(l, p);
    return chunks <= 4096 ? launch_norms_by<4>(l, p) : ROWS_NO_MATCH;
}

static int32_t launch_heads(const fused_launch *l, heads_params *p, uint32_t head_dim)
{
    uint32_t lanes = head_dim == 64 ? 16 : 32, n_blocks = 0;
    for (uint32_t c = 0; c < p->n_chains; c++) {
        p->chains[c].first_block = n_blocks;
        n_blocks += divide_up((uint64_t)l->match.n_rows * p->chains[c].n_heads, HEADS_THREADS / lanes);
    }
    p->norms_block = n_blocks;
    n_blocks += p->has_norms ? l->match.n_rows : 0;
    switch (head_dim) {
    case 64:
        return launch_kernel(heads_kernel<1, 16>, dim3(n_blocks), dim3(HEADS_THREADS), 0, l->stream,
                             l->overlap, p);
    case 128:
        return launch_kernel(heads_kernel<1, 32>, dim3(n_blocks), dim3(HEADS_THREADS), 0, l->stream,
                             l->overlap, p);
    case 256:
        return launch_kernel(heads_kernel<2, 32>, dim3(n_blocks), dim3(HEADS_THREADS), 0, l->stream,
                             l->overlap, p);
    default:
        return launch_kernel(heads_kernel<4, 32>, dim3(n_blocks), dim3(HEADS_THREADS), 0, l->stream,
                             l->overlap, p);
    }
}

template <int NV> static int32_t launch_glu_by(const fused_launch *l, glu_params *p)
{
    p->splits = divide_up(divide_up(p->width, 64) * 16, GLU_THREADS * NV);
    dim3 grid(p->splits * l->match.n_rows), block(GLU_THREADS);
    if (p->activation == SHARPI_ACT_SILU)
        return launch_kernel(glu_kernel<NV, SHARPI_ACT_SILU>, grid, block, 0, l->stream, l->overlap, p);
    if (p->activation == SHARPI_ACT_GELU_TANH)
        return launch_kernel(glu_kernel<NV, SHARPI_ACT_GELU_TANH>, grid, block, 0, l->stream, l->overlap, p);
    return launch_kernel(glu_kernel<NV, 0>, grid, block, 0, l->stream, l->overlap, p);
}

static int32_t launch_glu(const fused_launch *l, glu_params *p)
{
    const bool few = (uint64_t)l->match.n_rows * p->chunks < 4ull * l->n_sms * GLU_THREADS;
    return few ? launch_glu_by<1>(l, p) : launch_glu_by<4>(l, p);
}

/* Launches the step by a fused kernel; ROWS_NO_MATCH if there is none for it. */
static int32_t launch_fused(const fused_launch *l)
{
    union {
        norms_params norms;
        heads_params heads;
        glu_params glu;
    } p;
    uint32_t head_dim;
    if (match_norms(&l->match, &p.norms))
        return launch_norms(l, &p.norms);
    if (match_glu(&l->match, &p.glu))
        return launch_glu(l, &p.glu);
    if (match_heads(&l->match, &p.heads, &head_dim))
        return launch_heads(l, &p.heads, head_dim);
    return ROWS_NO_MATCH;
}

#endif
