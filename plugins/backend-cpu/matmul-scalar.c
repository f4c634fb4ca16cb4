/* The reference of the matrix products: plain C, straight from the file's layout, the same integer sums as every ISA. */
#include "matmul-internal.h"

/* sum over a 32-block of value * activation code. */
static int32_t dot_32(const int8_t *values, const int8_t *x)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < 32; i++)
        sum += (int32_t)values[i] * x[i];
    return sum;
}

static float product_32(const struct quant_type *q, const struct quant_block *b, const int8_t *values,
                        const void *x, uint64_t n_in, uint64_t k)
{
    float d = act_scales(x, n_in)[k / 32];
    float product = quant_d(q, b->d) * d * (float)dot_32(values, (const int8_t *)x + k);
    if (q->has_min)
        product -= f16_to_f32(b->dmin) * d * (float)act_sums32(x, n_in)[k / 32];
    return product;
}

static float product_256(const struct quant_type *q, const struct quant_block *b, const int8_t *values,
                         const void *x, uint64_t n_in, uint64_t k)
{
    const int8_t *codes = (const int8_t *)x + k;
    const int16_t *sums = act_sums_by_16(x, n_in) + k / 16;
    int32_t sum = 0, min_sum = 0;
    for (uint32_t s = 0; s < 16; s++) {
        int32_t sub = 0;
        for (uint32_t i = 16 * s; i < 16 * s + 16; i++)
            sub += (int32_t)values[i] * codes[i];
        sum += b->scale[s] * sub;
        if (q->has_min)
            min_sum += b->min[s] * sums[s];
    }
    float d = act_scales(x, n_in)[k / 256], product = quant_d(q, b->d) * d * (float)sum;
    return q->has_min ? product - f16_to_f32(b->dmin) * d * (float)min_sum : product;
}

static void multiply_quantized(const struct matmul_kernel *kernel, const struct matmul_call *c)
{
    const struct quant_type *q = quant_type_of(kernel->type);
    uint32_t elems = quant_block_elems(q);
    struct quant_block b;
    int8_t values[256];
    for (uint32_t row = 0; row < c->n_rows; row++) {
        const uint8_t *p = c->w + row * c->row_bytes;
        for (uint64_t k = c->k; k < c->k + c->n; k += elems) {
            quant_unpack(q, p + sharpi_row_bytes(q->type, k), &b);
            for (uint32_t i = 0; i < elems; i++)
                values[i] = (int8_t)quant_value(q, b.code[i]);
            for (uint32_t t = 0; t < c->n_tokens; t++)
                c->acc[t * MATMUL_GROUP + row] += elems == 32
                                                      ? product_32(q, &b, values, c->x[t], c->n_in, k)
                                                      : product_256(q, &b, values, c->x[t], c->n_in, k);
        }
    }
}

/* Eight sums side by side: nearer to what vector kernels round, and to the exact sum, than one. */
static float dot_floats(const float *w, const float *x, uint64_t n)
{
    float lanes[8] = {0};
    for (uint64_t i = 0; i < n; i++)
        lanes[i & 7] += w[i] * x[i];
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

static void multiply_float(const struct matmul_kernel *kernel, const struct matmul_call *c)
{
    uint64_t elem_bytes = sharpi_type_info(kernel->type)->block_bytes;
    float values[256];
    for (uint32_t row = 0; row < c->n_rows; row++) {
        const uint8_t *p = c->w + row * c->row_bytes;
        for (uint64_t k = c->k; k < c->k + c->n; k += 256) {
            uint64_t n = c->k + c->n - k < 256 ? c->k + c->n - k : 256;
            dequant_row(kernel->type, p + k * elem_bytes, values, n);
            for (uint32_t t = 0; t < c->n_tokens; t++)
                c->acc[t * MATMUL_GROUP + row] +=
                    dot_floats(values, (const float *)(const void *)c->x[t] + k, n);
        }
    }
}

static const struct matmul_kernel kernels[] = {
    {SHARPI_TYPE_F32, 0, multiply_float, NULL},        {SHARPI_TYPE_F16, 0, multiply_float, NULL},
    {SHARPI_TYPE_BF16, 0, multiply_float, NULL},       {SHARPI_TYPE_Q4_0, 0, multiply_quantized, NULL},
    {SHARPI_TYPE_Q4_1, 0, multiply_quantized, NULL},   {SHARPI_TYPE_Q5_0, 0, multiply_quantized, NULL},
    {SHARPI_TYPE_Q5_1, 0, multiply_quantized, NULL},   {SHARPI_TYPE_Q8_0, 0, multiply_quantized, NULL},
    {SHARPI_TYPE_IQ4_NL, 0, multiply_quantized, NULL}, {SHARPI_TYPE_MXFP4, 0, multiply_quantized, NULL},
    {SHARPI_TYPE_Q2_K, 0, multiply_quantized, NULL},   {SHARPI_TYPE_Q3_K, 0, multiply_quantized, NULL},
    {SHARPI_TYPE_Q4_K, 0, multiply_quantized, NULL},   {SHARPI_TYPE_Q5_K, 0, multiply_quantized, NULL},
    {SHARPI_TYPE_Q6_K, 0, multiply_quantized, NULL},   {SHARPI_TYPE_IQ4_XS, 0, multiply_quantized, NULL},
};

const struct matmul_isa matmul_scalar = {.kernels = kernels, .n_kernels = sizeof kernels / sizeof kernels[0]};
