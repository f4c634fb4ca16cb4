/* Sequences against the launches that they stand for: the same stages on the same random memory, once one by one and once as one
 * kernel. Everything in memory must be equal afterwards up to the order of sums, and what no stage writes exactly.
 *
 * The stages are a layer's: norm, q/k/v, heads, (quantize) o into the residual, norms, gate and up, down; with `gate_width` what
 * Gemma 4 adds: norms beside the heads, norm into the residual, products with f32 weights down to that width and up again;
 * `norms`: PLAIN: o and down add to the residual themselves, so that only a norm is between two products; CODES: nobody reads a normed
 * row but as codes. Their factors may be applied late.
 */
#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sharpi/plugin/graph.h>

#include "sequence-world.cuh"

int test_sequence(int bench);

namespace
{

struct shape {
    const char *name;
    uint32_t width, n_ff, head_dim, n_heads, n_kv_heads;
    int32_t type, type_v; /* of v: a product of two types */
    int32_t activation;
    int bias, has_rope;
    uint32_t gate_width; /* 0: no such products */
    int overlap;         /* the hidden row's codes are where gate and up read theirs */
    int norms;
};

enum { STORED, PLAIN, CODES };

struct layer : sequence_world {
    cuda_matrix q, k, v, o, gate, up, down, narrow, widen, other;
    rows_step *steps[7];
    matmul_args products[6];
    uint32_t n_launches;
    int norms;
    row_operand rows[9], codes[3]; /* results, and what is not compared where norms' factors are late */
};

/* ---- Weights: random bits, with scales that a model could have */

void random_rows(int32_t type, uint8_t *dst, uint64_t n_in, uint64_t n_rows)
{
    const struct sharpi_type_info *info = sharpi_type_info(type);
    const uint64_t n_blocks = n_in / info->block_elems * n_rows;
    for (uint64_t b = 0; b < n_blocks; b++, dst += info->block_bytes) {
        uint16_t d = half_of(0.0005f + 0.002f * (float)(random_bits() & 255) / 255);
        for (uint32_t i = 0; i < info->block_bytes; i++)
            dst[i] = (uint8_t)random_bits();
        switch (type) {
        case SHARPI_TYPE_F32: /* +-2^-7 .. 2^-5 */
            dst[3] = (uint8_t)((dst[3] & 0x80) | 0x3c);
            break;
        case SHARPI_TYPE_BF16: /* +-2^-7 .. 2^-4 */
            dst[1] = (uint8_t)((dst[1] & 0x80) | 0x3c);
            break;
        case SHARPI_TYPE_F16:
            dst[1] = (uint8_t)((dst[1] & 0x83) | 0x24);
            break;
        case SHARPI_TYPE_Q6_K:
            memcpy(dst + 208, &d, 2);
            break;
        case SHARPI_TYPE_Q4_K:
        case SHARPI_TYPE_Q4_1:
            memcpy(dst + 2, &d, 2); /* fall through */
        default:
            memcpy(dst, &d, 2);
        }
    }
}

cuda_matrix make_matrix(int32_t type, uint64_t n_in, uint64_t n_out)
{
    cuda_matrix m;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const uint64_t file_bytes = sharpi_row_bytes(type, n_in) * n_out;
    uint8_t *file = (uint8_t *)malloc(file_bytes), *staging, *device;
    random_rows(type, file, n_in, n_out);
    OK(cudaMalloc(&staging, file_bytes + 16));
    OK(cudaMalloc(&device, matrix_device_bytes(type, n_in, n_out, 1)));
    OK(cudaMemcpy(staging, file, file_bytes, cudaMemcpyHostToDevice));
    OK(matrix_init(&m, type, n_in, n_out, 1, device, &err));
    OK(matrix_repack(&m, 0, staging, 0, n_out, 0));
    OK(cudaDeviceSynchronize());
    cudaFree(staging);
    free(file);
    return m;
}

row_operand take_row(layer *l, uint64_t n_bytes)
{
    row_operand r = {};
    r.base = take(l, n_bytes);
    r.stride = (uint32_t)((n_bytes + 63) / 64 * 64);
    return r;
}

/* ---- Stages */

row_op op_of(int kind, uint32_t width, row_operand in, row_operand out)
{
    row_op op = {};
    op.kind = kind;
    op.width = width;
    op.in[0] = in;
    op.out = out;
    op.scale = 1.0f;
    op.eps = 1e-6f;
    return op;
}

row_op norm_of(layer *l, uint32_t width, uint32_t group, row_operand in, row_operand out)
{
    row_op op = op_of(ROW_RMS_NORM, width, in, out);
    op.group = group;
    op.vector = (const float *)take(l, (group ? group : width) * 4);
    return op;
}

row_op format_of(uint32_t width, row_operand in, row_operand out)
{
    row_op op = op_of(ROW_QUANTIZE, width, in, out);
    op.format = ACT_Q8;
    return op;
}

rows_step *make_step(const rows_chain *chains, uint32_t n)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    rows_step *step = (rows_step *)malloc(rows_step_bytes());
    if (rows_step_init(step, chains, n, SHARPI_ROWS_TOKENS, 1, &err)) {
        printf("sequence: %s\n", err.text);
        exit(1);
    }
    return step;
}

matmul_args product_of(layer *l, const row_operand *f32, const row_operand *q8)
{
    matmul_args a = {};
    a.ctx = l->ctx;
    a.n_rows = 1;
    a.n_rows_dev = l->n_rows;
    a.act[ACT_F32] = f32->base;
    a.act[ACT_Q8] = q8->base;
    a.act_stride[ACT_F32] = f32->stride;
    a.act_stride[ACT_Q8] = q8->stride;
    return a;
}

void add_part(layer *l, matmul_args *a, const cuda_matrix *w, row_operand out, int bias, int32_t epilogue)
{
    matmul_part *p = &a->part[a->n_parts++];
    p->w = w;
    p->out = (float *)out.base;
    p->out_stride = out.stride / 4;
    p->bias = bias ? (const float *)take(l, w->n_out * 4) : NULL;
    p->epilogue = epilogue;
}

/* norm(residual) as codes. */
rows_step *make_norm(layer *l, uint32_t width, row_operand residual, row_operand codes)
{
    row_operand local = {};
    local.local = 1;
    row_op ops[2] = {norm_of(l, width, 0, residual, local), format_of(width, local, codes)};
    rows_chain chain = {ops, 2};
    return make_step(&chain, 1);
}

/* residual += norm(in); x = norm(residual), also as codes, or only so. */
rows_step *make_norms(layer *l, const shape *s, row_operand in, row_operand residual, row_operand x,
                      row_operand codes)
{
    const uint32_t width = s->width;
    row_operand normed = {};
    normed.local = 2;
    if (s->norms == PLAIN)
        return make_norm(l, width, residual, codes);
    x = s->norms == CODES ? normed : x;
    row_operand local = {};
    local.local = 1;
    row_op ops[4] = {norm_of(l, width, 0, in, local), op_of(ROW_ADD, width, local, residual),
                     norm_of(l, width, 0, residual, x), format_of(width, x, codes)};
    ops[1].in[1] = residual;
    rows_chain chain = {ops, 4};
    return make_step(&chain, 1);
}

/* times = (norm(a row) + a row) * scale, in ops[0..2]. */
rows_chain make_times(layer *l, uint32_t width, row_operand times, row_op *ops)
{
    row_operand normed = {}, sum = {};
    normed.local = 1;
    sum.local = 2;
    ops[0] = norm_of(l, width, 0, take_row(l, width * 4), normed);
    ops[1] = op_of(ROW_ADD, width, normed, sum);
    ops[1].in[1] = take_row(l, width * 4);
    ops[2] = op_of(ROW_SCALE, width, sum, times);
    ops[2].scale = 0.7f;
    return {ops, 3};
}

/* `times`: a chain beside the heads makes it. */
rows_step *make_heads(layer *l, const shape *s, row_operand q, row_operand k, row_operand times)
{
    row_operand table = take_row(l, s->head_dim * 4);
    row_op ops[7] = {norm_of(l, s->n_heads * s->head_dim, s->head_dim, q, q),
                     op_of(ROW_ROPE, s->n_heads * s->head_dim, q, q),
                     norm_of(l, s->n_kv_heads * s->head_dim, s->head_dim, k, k),
                     op_of(ROW_ROPE, s->n_kv_heads * s->head_dim, k, k)};
    for (int i = 1; i < 4; i += 2) {
        ops[i].in[1] = table;
        ops[i].group = ops[i].n_rot = s->head_dim;
        ops[i].rope_mode = SHARPI_ROPE_NEOX;
    }
    rows_chain chains[3] = {{ops, s->has_rope ? 2u : 1u}, {ops + 2, s->has_rope ? 2u : 1u}};
    if (s->gate_width)
        chains[2] = make_times(l, s->gate_width, times, ops + 4);
    return make_step(chains, s->gate_width ? 3 : 2);
}

/* residual += norm(in) */
rows_step *make_add(layer *l, uint32_t width, row_operand in, row_operand residual)
{
    row_operand local = {};
    local.local = 1;
    row_op ops[2] = {norm_of(l, width, 0, in, local), op_of(ROW_ADD, width, local, residual)};
    ops[1].in[1] = residual;
    rows_chain chain = {ops, 2};
    return make_step(&chain, 1);
}

rows_step *make_glu(const shape *s, row_operand gate, row_operand times, row_operand out)
{
    row_op op = op_of(ROW_GLU, s->gate_width, gate, out);
    op.in[1] = times;
    op.activation = s->activation;
    op.limit = s->bias ? 0.5f : 0.0f;
    rows_chain chain = {&op, 1};
    return make_step(&chain, 1);
}

/* made = widen (act(narrow residual) * times); with bias a second matrix of the same input, so that the activation stays a stage. */
void make_gated(layer *l, const shape *s, row_operand residual, row_operand made, row_operand times)
{
    const uint32_t n = s->gate_width;
    row_operand gate = take_row(l, n * 4), hidden = take_row(l, n * 4), other = take_row(l, 28);
    const row_operand rows[3] = {gate, hidden, other};
    memcpy(l->rows + 6, rows, sizeof rows);
    l->narrow = make_matrix(SHARPI_TYPE_F32, s->width, n);
    l->widen = make_matrix(SHARPI_TYPE_F32, n, s->width);
    l->other = make_matrix(SHARPI_TYPE_F32, s->width, 7);
    l->steps[5] = make_add(l, s->width, made, residual);
    l->products[4] = product_of(l, &residual, &residual);
    add_part(l, &l->products[4], &l->narrow, gate, s->bias, MATMUL_STORE);
    if (s->bias)
        add_part(l, &l->products[4], &l->other, other, 0, MATMUL_ADD);
    l->steps[6] = make_glu(s, gate, times, hidden);
    l->products[5] = product_of(l, &hidden, &hidden);
    add_part(l, &l->products[5], &l->widen, made, 0, MATMUL_ADD);
}

void make_layer(layer *l, const shape *s)
{
    const uint32_t d = s->width, wide = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    row_operand residual = take_row(l, d * 4), made = take_row(l, d * 4), x = take_row(l, d * 4),
                codes = take_row(l, act_row_bytes(ACT_Q8, s->overlap ? s->n_ff : d)),
                q = take_row(l, wide * 4), k = take_row(l, kv * 4), v = take_row(l, kv * 4),
                q_codes = take_row(l, act_row_bytes(ACT_Q8, wide)), hidden = take_row(l, s->n_ff * 4),
                hidden_codes = s->overlap ? codes : take_row(l, act_row_bytes(ACT_Q8, s->n_ff)),
                times = take_row(l, s->gate_width * 4);
    row_op quantize = format_of(wide, q, q_codes), quantize_hidden = format_of(s->n_ff, hidden, hidden_codes);
    rows_chain one = {&quantize, 1}, two = {&quantize_hidden, 1};
    l->q = make_matrix(s->type, d, wide);
    l->k = make_matrix(s->type, d, kv);
    l->v = make_matrix(s->type_v, d, kv);
    l->o = make_matrix(s->type, wide, d);
    l->gate = make_matrix(s->type, d, s->n_ff);
    l->up = make_matrix(s->type, d, s->n_ff);
    l->down = make_matrix(s->type_v, s->n_ff, d);
    const row_operand rows[6] = {residual, made, q, k, v, hidden},
                      all_codes[3] = {codes, q_codes, hidden_codes};
    l->norms = s->norms;
    memcpy(l->rows, rows, sizeof rows);
    memcpy(l->codes, all_codes, sizeof all_codes);
    l->steps[0] = make_norms(l, s, made, residual, x, codes);
    l->products[0] = product_of(l, &x, &codes);
    add_part(l, &l->products[0], &l->q, q, s->bias, MATMUL_STORE);
    add_part(l, &l->products[0], &l->k, k, s->bias, MATMUL_STORE);
    add_part(l, &l->products[0], &l->v, v, 0, MATMUL_STORE);
    l->steps[1] = make_heads(l, s, q, k, times);
    l->steps[2] = make_step(&one, 1);
    l->products[1] = product_of(l, &q, &q_codes);
    add_part(l, &l->products[1], &l->o, residual, 0, MATMUL_ADD);
    l->steps[3] = make_norms(l, s, made, residual, x, codes);
    l->products[2] = product_of(l, &x, &codes);
    add_part(l, &l->products[2], &l->gate, hidden, s->bias, MATMUL_STORE);
    add_part(l, &l->products[2], &l->up, hidden, s->bias, MATMUL_STORE);
    l->products[2].glu = s->activation;
    l->steps[4] = make_step(&two, 1);
    l->products[3] = product_of(l, &hidden, &hidden_codes);
    add_part(l, &l->products[3], &l->down, s->norms == PLAIN ? residual : made, 0,
             s->norms == PLAIN ? MATMUL_ADD : MATMUL_STORE);
    if (s->gate_width)
        make_gated(l, s, residual, made, times);
    l->n_launches = s->gate_width ? 13 : 9;
}

/* In order: steps 0, products 0, steps 1 .. */
const int launches[13] = {0, ~0, 1, 2, ~1, 3, ~2, 4, ~3, 5, ~4, 6, ~5};

void launch_one_by_one(const layer *l)
{
    for (uint32_t i = 0; i < l->n_launches; i++) {
        if (launches[i] < 0)
            OK(matmul_launch(&l->products[~launches[i]]));
        else
            OK(rows_step_launch(l->steps[launches[i]], &l->batch, 1, 132, 0, 0));
    }
}

sequence *make_sequence(const layer *l)
{
    sequence *s = (sequence *)malloc(sequence_bytes());
    int ok = 1;
    sequence_begin(s, l->ctx);
    for (uint32_t i = 0; i < l->n_launches; i++)
        ok &= launches[i] < 0 ? sequence_add_product(s, &l->products[~launches[i]])
                              : sequence_add_rows(s, l->steps[launches[i]], &l->batch);
    if (ok && sequence_end(s, 1))
        return s;
    free(s);
    return NULL;
}

/* ---- Comparing */

/* Words that differ by more than rounding does. Codes are words of four bytes that may differ by one. */
uint64_t count_different(const float *a, const float *b, uint64_t n_words)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < n_words; i++) {
        const int8_t *x = (const int8_t *)(a + i), *y = (const int8_t *)(b + i);
        int bytes = 1;
        for (int k = 0; k < 4; k++)
            bytes &= abs(x[k] - y[k]) <= 1;
        n += !bytes && !(fabsf(a[i] - b[i]) <= 2e-2f * (1.0f + fabsf(a[i])));
    }
    return n;
}

/* In the arena. */
uint64_t at(const layer *l, row_operand row)
{
    return (uint64_t)((const uint8_t *)row.base - l->arena);
}

/* A code that is rounded the other way moves all that follows a little: rows by their root mean square. Then made equal. */
int rows_differ(const layer *l, row_operand row, const uint8_t *want, uint8_t *got)
{
    const float *a = (const float *)(want + at(l, row)), *b = (const float *)(got + at(l, row));
    const uint64_t n = row.stride / 4;
    double difference = 0, all = 0;
    for (uint64_t i = 0; i < n; i++) {
        difference += (double)(a[i] - b[i]) * (a[i] - b[i]);
        all += (double)a[i] * a[i];
    }
    memcpy(got + at(l, row), want + at(l, row), row.stride);
    if (!(difference > 4e-4 * all) && all > 0)
        return 0;
    printf("  row at %llu: differs by %g of %g\n", (unsigned long long)at(l, row), sqrt(difference),
           sqrt(all));
    return 1;
}

int check_equal(layer *l, sequence *s)
{
    begin(l, 1);
    launch_one_by_one(l);
    uint8_t *want = finish(l), *got = run_sequence(l, s, 1);
    int bad = check_repeats(l, s, got);
    for (const row_operand &row : l->rows)
        bad |= l->norms && row.base && rows_differ(l, row, want, got);
    for (const row_operand &row : l->codes)
        if (l->norms)
            memcpy(got + at(l, row), want + at(l, row), row.stride);
    const uint64_t n = count_different((const float *)want, (const float *)got, l->n_bytes / 4);
    bad |= n != 0;
    if (bad)
        printf("  %llu of %llu words differ\n", (unsigned long long)n, (unsigned long long)(l->used / 4));
    bad |= memcmp(want, l->initial, l->n_bytes) == 0;
    free(want);
    free(got);
    return bad;
}

/* Many launches in a row, as in a step: counters must be zero whenever one begins. */
int check_counters(layer *l, sequence *s)
{
    uint8_t counters[SEQUENCE_COUNTER_BYTES];
    int bad = 0;
    begin(l, 1);
    for (int i = 0; i < (is_short() ? 3 : 200); i++)
        OK(sequence_launch(s, l->n_rows, l->counters, 0, 0));
    OK(cudaDeviceSynchronize());
    OK(cudaMemcpy(counters, l->counters, sizeof counters, cudaMemcpyDeviceToHost));
    for (uint32_t i = 0; i < sizeof counters; i++)
        bad |= counters[i] != 0;
    if (bad)
        printf("  counters are left\n");
    return bad;
}

void free_layer(layer *l)
{
    cuda_matrix *m[] = {&l->q,  &l->k,    &l->v,      &l->o,     &l->gate,
                        &l->up, &l->down, &l->narrow, &l->widen, &l->other};
    for (cuda_matrix *w : m) {
        cudaFree((void *)w->data);
        *w = {};
    }
    for (rows_step *&step : l->steps) {
        free(step);
        step = NULL;
    }
}

/* Weights of all its products. */
uint64_t weight_bytes(const layer *l, const shape *s)
{
    uint64_t n = 0;
    for (int i = 0; i < (s->gate_width ? 6 : 4); i++)
        for (uint32_t part = 0; part < l->products[i].n_parts; part++) {
            const cuda_matrix *w = l->products[i].part[part].w;
            n += matrix_device_bytes(w->type, w->n_in, w->n_out, 1);
        }
    return n;
}

int check_shape(layer *l, const shape *s, int bench)
{
    sequence *made;
    int bad = 0;
    l->used = 0;
    memset(l->rows, 0, sizeof l->rows);
    make_layer(l, s);
    made = make_sequence(l);
    if (made)
        bad = check_equal(l, made) | check_no_rows(l, made) | check_counters(l, made);
    bad |= !made && l->has_bulk;
    printf("sequence %s: %s\n", s->name, bad ? "FAILED" : made ? "ok" : "not on this device");
    if (bench && made && !bad)
        time_sequence(l, made, s->name, weight_bytes(l, s));
    free(made);
    free_layer(l);
    return bad;
}

} // namespace

int test_sequence(int bench)
{
    static const shape shapes[] = {
        {"q4_0", 3840, 15360, 256, 16, 8, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_0, SHARPI_ACT_GELU_TANH, 0, 1},
        {"q4_0, codes in one place", 3840, 15360, 256, 16, 8, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_0,
         SHARPI_ACT_GELU_TANH, 0, 1, 0, 1},
        {"q4_k q6_k", 2048, 6144, 128, 32, 4, SHARPI_TYPE_Q4_K, SHARPI_TYPE_Q6_K, SHARPI_ACT_SILU, 1, 1},
        {"q8_0", 2560, 10240, 256, 8, 2, SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q8_0, SHARPI_ACT_GELU_TANH, 0, 0},
        {"q8_0, part of a slab", 2560, 1472, 256, 8, 2, SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q8_0,
         SHARPI_ACT_GELU_TANH, 0, 0, 0, 0, CODES},
        {"bf16", 1024, 3072, 64, 16, 8, SHARPI_TYPE_BF16, SHARPI_TYPE_F16, SHARPI_ACT_SILU, 1, 1},
        {"16-bit and quantized", 1024, 3072, 64, 16, 8, SHARPI_TYPE_Q8_0, SHARPI_TYPE_BF16, SHARPI_ACT_SILU,
         0, 1},
        {"one block's worth", 64, 96, 64, 2, 1, SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q4_1, SHARPI_ACT_SILU, 0, 1},
        {"odd widths", 352, 1056, 128, 3, 1, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q8_0, SHARPI_ACT_GELU_ERF, 1, 1},
        {"q8_0, gated by f32", 2560, 10240, 256, 8, 2, SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q8_0,
         SHARPI_ACT_GELU_TANH, 0, 1, 256},
        {"f32 and others", 352, 1056, 128, 3, 1, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q8_0, SHARPI_ACT_SILU, 1, 1,
         36},
        {"f32 and 16-bit", 576, 1088, 64, 9, 3, SHARPI_TYPE_BF16, SHARPI_TYPE_F32, SHARPI_ACT_GELU_TANH, 0, 1,
         128},
        {"f32 of one block", 64, 96, 64, 2, 1, SHARPI_TYPE_F16, SHARPI_TYPE_F32, SHARPI_ACT_SILU, 0, 1, 4},
        {"plain q4_k q6_k", 4096, 12288, 128, 32, 8, SHARPI_TYPE_Q4_K, SHARPI_TYPE_Q6_K, SHARPI_ACT_SILU, 1,
         1, 0, 0, PLAIN},
        {"plain q4_0, codes in one place", 1056, 2112, 64, 12, 3, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_0,
         SHARPI_ACT_GELU_TANH, 0, 1, 0, 1, PLAIN},
        {"plain q8_0 of one block", 64, 96, 64, 2, 1, SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q8_0, SHARPI_ACT_SILU, 0,
         0, 0, 0, PLAIN},
        {"codes of q4_0", 3840, 15360, 256, 16, 8, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_0, SHARPI_ACT_GELU_TANH,
         0, 1, 0, 0, CODES},
        {"codes of q8_0, gated by f32", 2560, 10240, 256, 8, 2, SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q8_0,
         SHARPI_ACT_GELU_TANH, 0, 1, 256, 0, CODES},
        {"codes in one place", 352, 1056, 128, 3, 1, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q8_0, SHARPI_ACT_GELU_ERF,
         1, 1, 0, 1, CODES},
    };
    layer l = {};
    int bad = open_world(&l, 4 << 20);
    for (const shape &s : shapes)
        bad |= !bad && (s.width <= 352 || !is_small()) && check_shape(&l, &s, bench);
    return bad;
}
