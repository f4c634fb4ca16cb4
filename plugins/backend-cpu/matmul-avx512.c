/* AVX-512: the table of kernels, and the walk over a group's slabs. */
#include "matmul-avx512.h"

void avx512_multiply_packed(const struct matmul_kernel *kernel, const struct matmul_call *call)
{
    const struct avx512_variant *v = kernel->variant;
    const struct quant_type *q = quant_type_of(kernel->type);
    struct slab_in in = {
        .w = call->w, .x = call->x, .n_in = call->n_in, .n_tokens = call->n_tokens, .acc = call->acc};
    uint64_t end = call->k + call->n;
    for (in.k = call->k; in.k < end; in.k += MATMUL_SLAB) {
        uint64_t n = end - in.k < MATMUL_SLAB ? end - in.k : MATMUL_SLAB;
        in.nb = n / 32;
        v->slab(&in);
        in.w += pack_slab_bytes(q, n);
    }
}

static const struct matmul_kernel kernels[] = {
    {SHARPI_TYPE_F32, 0, avx512_multiply_float, NULL},
    {SHARPI_TYPE_F16, 0, avx512_multiply_float, NULL},
    {SHARPI_TYPE_BF16, 0, avx512_multiply_float, NULL},
    {SHARPI_TYPE_Q4_0, 1, avx512_multiply_packed, &avx512_q4_0},
    {SHARPI_TYPE_Q4_1, 1, avx512_multiply_packed, &avx512_q4_1},
    {SHARPI_TYPE_Q5_0, 1, avx512_multiply_packed, &avx512_q5_0},
    {SHARPI_TYPE_Q5_1, 1, avx512_multiply_packed, &avx512_q5_1},
    {SHARPI_TYPE_Q8_0, 1, avx512_multiply_packed, &avx512_q8_0},
    {SHARPI_TYPE_IQ4_NL, 1, avx512_multiply_packed, &avx512_iq4_nl},
    {SHARPI_TYPE_MXFP4, 1, avx512_multiply_packed, &avx512_mxfp4},
    {SHARPI_TYPE_Q2_K, 1, avx512_multiply_packed, &avx512_q2_k},
    {SHARPI_TYPE_Q3_K, 1, avx512_multiply_packed, &avx512_q3_k},
    {SHARPI_TYPE_Q4_K, 1, avx512_multiply_packed, &avx512_q4_k},
    {SHARPI_TYPE_Q5_K, 1, avx512_multiply_packed, &avx512_q5_k},
    {SHARPI_TYPE_Q6_K, 1, avx512_multiply_packed, &avx512_q6_k},
    {SHARPI_TYPE_IQ4_XS, 1, avx512_multiply_packed, &avx512_iq4_xs},
};

const struct matmul_isa matmul_avx512 = {
    .kernels = kernels,
    .n_kernels = sizeof kernels / sizeof kernels[0],
    .quantize = {[ACT_Q8_32] = act_quantize_q8_32_avx512, [ACT_Q8_256] = act_quantize_q8_256_avx512},
};
