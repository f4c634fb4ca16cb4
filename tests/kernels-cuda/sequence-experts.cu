/* A mixture as stages of a sequence against the launches that they stand for, on the same random memory: a product into the residual, a
 * norm, router, choice of experts, their products, the weighted sum with residual and norm, and the next product.
 *
 * What both write must be equal up to the order of sums; the sequence's own results must have the same bits in every run.
 */
#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sharpi/plugin/graph.h>

#include "sequence-world.cuh"

int test_experts(int bench);

namespace
{

struct shape {
    const char *name;
    uint32_t width, n_ff, n_experts, n_used;
    int32_t type, type_up, type_down, activation;
    int softmax_after, renormalize;
    int stores_rows; /* no step that adds experts up follows */
    int moves_sum;   /* the residual goes where the hidden rows were */
};

/* All matrices and rows of a case; rows lie in one arena. */
struct mixture : sequence_world {
    const shape *s;
    cuda_matrix o, router, gate, up, down, q;
    float *residual, *x, *logits, *hidden, *rows, *made, *weights;
    uint8_t *in_codes, *codes, *hidden_codes, *next_codes;
    int32_t *experts;
    rows_step *norm, *quantize, *combine;
};

/* ---- Weights: random bits, with scales that a model could have */

void random_blocks(int32_t type, uint8_t *dst, uint64_t n)
{
    const struct sharpi_type_info *info = sharpi_type_info(type);
    for (uint64_t b = 0; b < n / info->block_elems; b++, dst += info->block_bytes) {
        const uint16_t d = half_of(0.001f + 0.002f * (float)(random_bits() & 255) / 255);
        const float f = ((float)(random_bits() & 0xffff) - 32767.5f) / 1e6f;
        for (uint32_t i = 0; i < info->block_bytes; i += 2) { /* all sizes are even */
            const uint16_t bits = (uint16_t)random_bits();
            memcpy(dst + i, &bits, 2);
        }
        if (type == SHARPI_TYPE_F32)
            memcpy(dst, &f, 4);
        else if (type == SHARPI_TYPE_BF16)
            dst[1] = (uint8_t)((dst[1] & 0x80) | 0x3c);
        else
            memcpy(type == SHARPI_TYPE_Q6_K ? dst + 208 : dst, &d, 2);
        if (type == SHARPI_TYPE_Q4_K)
            memcpy(dst + 2, &d, 2);
    }
}

cuda_matrix make_stack(int32_t type, uint64_t n_in, uint64_t n_out, uint32_t n_stack)
{
    cuda_matrix m;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const uint64_t file_bytes = sharpi_row_bytes(type, n_in) * n_out;
    uint8_t *file = (uint8_t *)malloc(file_bytes), *staging, *device;
    OK(cudaMalloc(&staging, file_bytes + 16));
    OK(cudaMalloc(&device, matrix_device_bytes(type, n_in, n_out, n_stack)));
    OK(matrix_init(&m, type, n_in, n_out, n_stack, device, &err));
    for (uint32_t i = 0; i < n_stack; i++) {
        random_blocks(type, file, n_in * n_out);
        OK(cudaMemcpy(staging, file, file_bytes, cudaMemcpyHostToDevice));
        OK(matrix_repack(&m, i, staging, 0, n_out, 0));
        OK(cudaDeviceSynchronize());
    }
    cudaFree(staging);
    free(file);
    return m;
}

/* ---- Memory and steps */

row_operand at(const void *p)
{
    row_operand r = {};
    r.base = (void *)p;
    return r;
}

row_op op_of(int kind, uint32_t width, row_operand in, row_operand out)
{
    row_op op = {};
    op.kind = kind;
    op.width = width;
    op.in[0] = in;
    op.out = out;
    op.scale = 1.0f;
    op.eps = 1e-6f;
    op.format = ACT_Q8;
    return op;
}

rows_step *make_step(const row_op *ops, uint32_t n, uint32_t factor)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    rows_step *step = (rows_step *)malloc(rows_step_bytes());
    rows_chain chain = {ops, n};
    if (rows_step_init(step, &chain, 1, SHARPI_ROWS_TOKENS, factor, &err)) {
        printf("experts: %s\n", err.text);
        exit(1);
    }
    return step;
}

uint64_t hidden_stride(const shape *s)
{
    return (act_row_bytes(ACT_Q8, s->n_ff) + 63) / 64 * 64;
}

void make_steps(mixture *m)
{
    const shape *s = m->s;
    row_op norm[2] = {op_of(ROW_RMS_NORM, s->width, at(m->residual), at(m->x)),
                      op_of(ROW_QUANTIZE, s->width, at(m->x), at(m->codes))};
    row_op quantize = op_of(ROW_QUANTIZE, s->n_ff, at(m->hidden), at(m->hidden_codes));
    row_operand sum = {}, normed = {};
    float *next = s->moves_sum ? m->hidden : m->residual;
    sum.local = 1;
    normed.local = 2;
    row_op combine[4] = {op_of(ROW_COMBINE, s->width, at(m->rows), sum),
                         op_of(ROW_ADD, s->width, sum, at(next)),
                         op_of(ROW_RMS_NORM, s->width, at(next), normed),
                         op_of(ROW_QUANTIZE, s->width, normed, at(m->next_codes))};
    norm[0].vector = combine[2].vector = (const float *)take(m, s->width * 4);
    quantize.in[0].stride = s->n_ff * 4;
    quantize.out.stride = (uint32_t)hidden_stride(s);
    combine[0].in[0].stride = s->width * 4;
    combine[0].n_used = s->n_used;
    combine[0].weights = m->weights;
    combine[1].in[1] = at(m->residual);
    m->norm = make_step(norm, 2, 1);
    m->quantize = make_step(&quantize, 1, s->n_used);
    m->combine = make_step(combine, 4, 1);
}

void make_mixture(mixture *m, const shape *s)
{
    const uint32_t d = s->width, k = s->n_used;
    m->s = s;
    m->used = 0;
    m->residual = (float *)take(m, d * 4);
    m->x = (float *)take(m, d * 4);
    m->logits = (float *)take(m, s->n_experts * 4);
    m->hidden = (float *)take(m, k * s->n_ff * 4);
    m->rows = (float *)take(m, k * d * 4);
    m->made = (float *)take(m, d * 4);
    m->weights = (float *)take(m, k * 4);
    m->experts = (int32_t *)take(m, k * 4);
    m->in_codes = take(m, act_row_bytes(ACT_Q8, d));
    m->codes = take(m, act_row_bytes(ACT_Q8, d));
    m->next_codes = take(m, act_row_bytes(ACT_Q8, d));
    m->hidden_codes = take(m, k * hidden_stride(s));
    m->o = make_stack(s->type, d, d, 1);
    m->router = make_stack(SHARPI_TYPE_F32, d, s->n_experts, 1);
    m->gate = make_stack(s->type, d, s->n_ff, s->n_experts);
    m->up = make_stack(s->type_up, d, s->n_ff, s->n_experts);
    m->down = make_stack(s->type_down, s->n_ff, d, s->n_experts);
    m->q = make_stack(s->type, d, d, 1);
    make_steps(m);
}

void free_mixture(mixture *m)
{
    const cuda_matrix *all[] = {&m->o, &m->router, &m->gate, &m->up, &m->down, &m->q};
    for (const cuda_matrix *w : all)
        cudaFree((void *)w->data);
    free(m->norm);
    free(m->quantize);
    free(m->combine);
}

/* ---- Launches */

matmul_args product_of(const mixture *m, const cuda_matrix *w, const float *x, const uint8_t *codes,
                       float *out, int32_t epilogue)
{
    matmul_args a = {};
    a.ctx = m->ctx;
    a.n_parts = 1;
    a.part[0].w = w;
    a.part[0].out = out;
    a.part[0].epilogue = epilogue;
    a.n_rows = 1;
    a.n_rows_dev = m->n_rows;
    a.act[ACT_F32] = x;
    a.act[ACT_Q8] = codes;
    return a;
}

moe_route route_of(const mixture *m)
{
    moe_route r = {};
    r.n_experts = m->s->n_experts;
    r.n_used = m->s->n_used;
    r.softmax_after = m->s->softmax_after;
    r.renormalize = m->s->renormalize;
    r.weight_scale = 1.5f;
    r.logits = m->logits;
    r.experts = m->experts;
    r.weights = m->weights;
    return r;
}

sequence_experts experts_of(const mixture *m)
{
    const shape *s = m->s;
    const int up_16 = s->type == SHARPI_TYPE_BF16, down_16 = s->type_down == SHARPI_TYPE_BF16;
    matmul_grouped_args a = {};
    sequence_experts e;
    a.ctx = m->ctx;
    a.n_pairs = a.in_divisor = s->n_used;
    a.expert_of = m->experts;
    e.up = e.down = a;
    e.up.n_parts = 2;
    e.up.part[0].w = &m->gate;
    e.up.part[1].w = &m->up;
    e.up.part[0].out = m->hidden;
    e.up.part[0].out_stride = s->n_ff;
    e.up.act = up_16 ? (const void *)m->x : m->codes;
    e.up.glu = s->activation;
    e.down.n_parts = e.down.in_divisor = 1;
    e.down.part[0].w = &m->down;
    e.down.part[0].out = m->rows;
    e.down.part[0].out_stride = s->width;
    e.down.act = down_16 ? (const void *)m->hidden : m->hidden_codes;
    e.down.act_stride = down_16 ? s->n_ff * 4 : hidden_stride(s);
    return e;
}

void launch_one_by_one(const mixture *m)
{
    const matmul_args o = product_of(m, &m->o, m->made, m->in_codes, m->residual, MATMUL_ADD),
                      router = product_of(m, &m->router, m->x, NULL, m->logits, MATMUL_STORE),
                      q = product_of(m, &m->q, NULL, m->next_codes, m->made, MATMUL_STORE);
    const moe_route route = route_of(m);
    const sequence_experts e = experts_of(m);
    OK(matmul_launch(&o));
    OK(rows_step_launch(m->norm, &m->batch, 1, 132, 0, 0));
    OK(matmul_launch(&router));
    OK(moe_route_launch(&route, m->n_rows, 1, 0, 0));
    OK(matmul_grouped_launch(&e.up));
    OK(rows_step_launch(m->quantize, &m->batch, 1, 132, 0, 0));
    OK(matmul_grouped_launch(&e.down));
    if (m->s->stores_rows)
        return;
    OK(rows_step_launch(m->combine, &m->batch, 1, 132, 0, 0));
    OK(matmul_launch(&q));
}

sequence *make_sequence(const mixture *m)
{
    const matmul_args o = product_of(m, &m->o, m->made, m->in_codes, m->residual, MATMUL_ADD),
                      router = product_of(m, &m->router, m->x, NULL, m->logits, MATMUL_STORE),
                      q = product_of(m, &m->q, NULL, m->next_codes, m->made, MATMUL_STORE);
    const moe_route route = route_of(m);
    const sequence_experts e = experts_of(m);
    sequence *s = (sequence *)malloc(sequence_bytes());
    sequence_begin(s, m->ctx);
    int ok = sequence_add_product(s, &o) && sequence_add_rows(s, m->norm, &m->batch) &&
             sequence_add_product(s, &router) && sequence_add_route(s, &route) && !sequence_is_whole(s) &&
             sequence_add_experts(s, &e) && sequence_is_whole(s);
    if (ok && !m->s->stores_rows)
        ok = sequence_add_rows(s, m->combine, &m->batch) && sequence_add_product(s, &q);
    if (ok && sequence_end(s, 1))
        return s;
    free(s);
    return NULL;
}

/* ---- Comparing */

/* Of n floats: the greatest difference by their root mean square. */
float difference(const mixture *m, const uint8_t *a, const uint8_t *b, const float *p, uint64_t n)
{
    const float *x = (const float *)(a + ((const uint8_t *)p - m->arena)),
                *y = (const float *)(b + ((const uint8_t *)p - m->arena));
    double squares = 0, most = 0;
    for (uint64_t i = 0; i < n; i++) {
        squares += (double)x[i] * x[i];
        most = fabs(x[i] - y[i]) <= most ? most : fabs(x[i] - y[i]);
    }
    return (float)(most / sqrt(squares / (double)n + 1e-30));
}

int check_equal(mixture *m, sequence *made)
{
    const shape *s = m->s;
    int bad = 0;
    begin(m, 1);
    launch_one_by_one(m);
    uint8_t *want = finish(m), *got = run_sequence(m, made, 1);
    const float d[] = {difference(m, want, got, m->logits, s->n_experts),
                       difference(m, want, got, m->weights, s->n_used),
                       difference(m, want, got, m->hidden, s->n_used * s->n_ff),
                       difference(m, want, got, m->residual, s->width),
                       s->stores_rows ? difference(m, want, got, m->rows, s->n_used * s->width)
                                      : difference(m, want, got, m->made, s->width)};
    for (float x : d)
        bad |= !(x < 2e-2f);
    bad |= memcmp(want + ((uint8_t *)m->experts - m->arena), got + ((uint8_t *)m->experts - m->arena),
                  s->n_used * 4) != 0;
    bad |= memcmp(want, m->initial, m->n_bytes) == 0;
    if (bad)
        printf("  logits %g weights %g hidden %g residual %g out %g\n", d[0], d[1], d[2], d[3], d[4]);
    bad |= check_repeats(m, made, got);
    free(want);
    free(got);
    return bad;
}

/* Of its dense products, and of the experts that a token uses. */
uint64_t weight_bytes(const mixture *m)
{
    uint64_t n = 0;
    for (const cuda_matrix *w : {&m->o, &m->router, &m->q})
        n += matrix_device_bytes(w->type, w->n_in, w->n_out, 1);
    for (const cuda_matrix *w : {&m->gate, &m->up, &m->down})
        n += m->s->n_used * matrix_device_bytes(w->type, w->n_in, w->n_out, 1);
    return n;
}

int check_shape(mixture *m, const shape *s, int bench)
{
    make_mixture(m, s);
    sequence *made = make_sequence(m);
    int bad = made ? check_equal(m, made) | check_no_rows(m, made) : m->has_bulk;
    printf("experts %s: %s\n", s->name, bad ? "FAILED" : made ? "ok" : "not on this device");
    if (bench && made && !bad)
        time_sequence(m, made, s->name, weight_bytes(m));
    free(made);
    free_mixture(m);
    return bad;
}

} // namespace

int test_experts(int bench)
{
    static const shape shapes[] = {
        {"8 of 128", 2048, 512, 128, 8, SHARPI_TYPE_Q4_K, SHARPI_TYPE_Q4_K, SHARPI_TYPE_Q6_K, SHARPI_ACT_SILU,
         0, 1, 0, 0},
        {"residual moves", 2048, 768, 16, 8, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_0,
         SHARPI_ACT_SILU, 0, 1, 0, 1},
        {"all added up later", 2048, 768, 24, 8, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_0,
         SHARPI_ACT_SILU, 0, 0, 1},
        {"wide", 4096, 1408, 9, 4, SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q8_0, SHARPI_ACT_GELU_TANH,
         0, 0, 0, 0},
        {"many used", 1024, 512, 32, 16, SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q8_0,
         SHARPI_ACT_SILU, 1, 0, 0, 0},
        {"2 of 350, 16 bits", 256, 64, 350, 2, SHARPI_TYPE_BF16, SHARPI_TYPE_BF16, SHARPI_TYPE_BF16,
         SHARPI_ACT_SILU, 0, 1, 1, 0},
        {"narrow", 64, 96, 3, 3, SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q8_0, SHARPI_ACT_SILU, 0, 1,
         0, 0},
        {"wide experts", 2048, 1024, 16, 8, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_0,
         SHARPI_ACT_SILU, 0, 1, 0, 0},
        {"gate q4_k, up q6_k", 2048, 512, 16, 8, SHARPI_TYPE_Q4_K, SHARPI_TYPE_Q6_K, SHARPI_TYPE_Q4_K,
         SHARPI_ACT_SILU, 0, 1, 0, 0},
    };
    mixture m = {};
    int bad = open_world(&m, 2 << 20);
    for (const shape &s : shapes)
        bad |= !bad && (s.width <= 256 || !is_small()) && check_shape(&m, &s, bench);
    return bad;
}
