/* AVX2: the table of kernels, and the walk over a group's slabs.
 *
 * There are no prefetch instructions: the hardware follows one stream a thread as fast as memory gives it, and they only
 * took time from the arithmetic.
 */
#include "matmul-avx2.h"

void avx2_multiply_packed(const struct matmul_kernel *kernel, const struct matmul_call *call)
{
    const struct avx2_variant *v = kernel->variant;
    const struct quant_type *q = quant_type_of(kernel->type);
    const uint8_t *w = call->w;
    int unpack = v->unpack && call->n_tokens > v->n_direct;
    const slab_fn *slabs = unpack ? v->tile : v->direct;
    for (uint64_t k = call->k; k < call->k + call->n; k += MATMUL_SLAB) {
        uint64_t n = call->k + call->n - k < MATMUL_SLAB ? call->k + call->n - k : MATMUL_SLAB;
        struct slab_in in = {.x = call->x, .n_in = call->n_in, .k = k, .nb = n / 32};
        uint64_t slab_bytes = pack_slab_bytes(q, n);
        const uint8_t *codes = w + pack_header_bytes(q, in.nb);
        if (unpack) {
            v->unpack(codes, in.nb, call->codes);
            codes = call->codes;
        }
        for (uint32_t t = 0; t < call->n_tokens; t += TILE_TOKENS, in.x += TILE_TOKENS) {
            uint32_t tokens = call->n_tokens - t < TILE_TOKENS ? call->n_tokens - t : TILE_TOKENS;
            slabs[tokens - 1](w, codes, &in, call->acc + t * MATMUL_GROUP);
        }
        w += slab_bytes;
    }
}

static const struct matmul_kernel kernels[] = {
    {SHARPI_TYPE_F32, 0, avx2_multiply_float, NULL},
    {SHARPI_TYPE_F16, 0, avx2_multiply_float, NULL},
    {SHARPI_TYPE_BF16, 0, avx2_multiply_float, NULL},
    {SHARPI_TYPE_Q4_0, 1, avx2_multiply_packed, &avx2_q4_0},
    {SHARPI_TYPE_Q4_1, 1, avx2_multiply_packed, &avx2_q4_1},
    {SHARPI_TYPE_Q5_0, 1, avx2_multiply_packed, &avx2_q5_0},
    {SHARPI_TYPE_Q5_1, 1, avx2_multiply_packed, &avx2_q5_1},
    {SHARPI_TYPE_Q8_0, 1, avx2_multiply_packed, &avx2_q8_0},
    {SHARPI_TYPE_IQ4_NL, 1, avx2_multiply_packed, &avx2_iq4_nl},
    {SHARPI_TYPE_MXFP4, 1, avx2_multiply_packed, &avx2_mxfp4},
    {SHARPI_TYPE_Q2_K, 1, avx2_multiply_packed, &avx2_q2_k},
    {SHARPI_TYPE_Q3_K, 1, avx2_multiply_packed, &avx2_q3_k},
    {SHARPI_TYPE_Q4_K, 1, avx2_multiply_packed, &avx2_q4_k},
    {SHARPI_TYPE_Q5_K, 1, avx2_multiply_packed, &avx2_q5_k},
    {SHARPI_TYPE_Q6_K, 1, avx2_multiply_packed, &avx2_q6_k},
    {SHARPI_TYPE_IQ4_XS, 1, avx2_multiply_packed, &avx2_iq4_xs},
};

const struct matmul_isa matmul_avx2 = {
    .kernels = kernels,
    .n_kernels = sizeof kernels / sizeof kernels[0],
    .quantize = {[ACT_Q8_32] = act_quantize_q8_32_avx2, [ACT_Q8_256] = act_quantize_q8_256_avx2},
};
