/* Every kernel of the matrix products against the plain C reference and against exact products, on random weights, odd
 * sizes, with guarded memory around what may be read and written. With --bench: speed of every type instead.
 */
#include "test-matmul.h"

#include <CUnit/Basic.h>

static const int32_t types[] = {
    SHARPI_TYPE_F32,  SHARPI_TYPE_F16,    SHARPI_TYPE_BF16,   SHARPI_TYPE_Q4_0,
    SHARPI_TYPE_Q4_1, SHARPI_TYPE_Q5_0,   SHARPI_TYPE_Q5_1,   SHARPI_TYPE_Q8_0,
    SHARPI_TYPE_Q2_K, SHARPI_TYPE_Q3_K,   SHARPI_TYPE_Q4_K,   SHARPI_TYPE_Q5_K,
    SHARPI_TYPE_Q6_K, SHARPI_TYPE_IQ4_NL, SHARPI_TYPE_IQ4_XS, SHARPI_TYPE_MXFP4,
};
#define N_TYPES (sizeof types / sizeof types[0])

/* One product and how it is asked for. */
struct product_case {
    int32_t type;
    enum cpu_isa isa;
    uint32_t repack, nth, gather, add, bias;
    uint64_t n_in, n_out;
    uint32_t n_rows;
};

/* Inputs of a case: weights end at a page that cannot be read, and so do the activations. */
struct fixture {
    struct guarded weights, x;
    float *bias, *before; /* [n_out], [n_rows, n_out] */
    int32_t *in_rows;
    uint32_t n_inputs;
};

static int make_fixture(struct fixture *f, const struct product_case *c)
{
    f->n_inputs = c->gather ? c->n_rows / 2 + 3 : c->n_rows;
    guarded_alloc(&f->weights, c->n_out * sharpi_row_bytes(c->type, c->n_in));
    guarded_alloc(&f->x, f->n_inputs * c->n_in * sizeof(float));
    f->bias = calloc(c->n_out, sizeof(float));
    f->before = calloc(c->n_rows * c->n_out, sizeof(float));
    f->in_rows = calloc(c->n_rows, sizeof(int32_t));
    if (!f->weights.data || !f->x.data || !f->bias || !f->before || !f->in_rows)
        return 0;
    random_weights(c->type, f->weights.data, c->n_in * c->n_out);
    random_floats((float *)(void *)f->x.data, f->n_inputs * c->n_in);
    random_floats(f->bias, c->n_out);
    random_floats(f->before, c->n_rows * c->n_out);
    for (uint32_t i = 0; i < c->n_rows; i++)
        f->in_rows[i] = (int32_t)(c->gather ? random_u32() % f->n_inputs : i);
    return 1;
}

static void free_fixture(struct fixture *f)
{
    guarded_free(&f->weights);
    guarded_free(&f->x);
    free(f->bias);
    free(f->before);
    free(f->in_rows);
}

/* Runs the case's product into out [n_rows, n_out + 3], whose three columns after each row must stay. */
static void run_product(const struct product_case *c, const struct fixture *f, enum cpu_isa isa, float *out)
{
    uint64_t stride = c->n_out + 3;
    struct prepared w;
    CU_ASSERT_FATAL(prepare_matrix(&w, c->type, f->weights.data, c->n_in, c->n_out, isa, c->repack));
    struct guarded act;
    uint64_t act_bytes = act_row_bytes(w.matrix.act, c->n_in);
    guarded_alloc(&act, f->n_inputs * act_bytes);
    for (uint32_t i = 0; i < f->n_inputs; i++)
        act_quantize(isa, w.matrix.act, act.data + i * act_bytes, (float *)(void *)f->x.data + i * c->n_in,
                     c->n_in);
    for (uint64_t i = 0; i < c->n_rows * stride; i++)
        out[i] = i % stride < c->n_out ? f->before[i / stride * c->n_out + i % stride] : 12345.0f;

    /* The same product in three parts of the job: the second goes to waste, the third has no rows. */
    float *waste = malloc(c->n_rows * c->n_out * sizeof *waste);
    struct matmul_part parts[3] = {{
        .w = &w.matrix,
        .bias = c->bias ? f->bias : NULL,
        .in_rows = c->gather ? f->in_rows : NULL,
        .out = out,
        .out_stride = stride,
        .n_rows = c->n_rows,
        .epilogue = c->add ? MATMUL_ADD : MATMUL_STORE,
    }};
    parts[1] = parts[2] = parts[0];
    parts[1].out = waste;
    parts[1].out_stride = c->n_out;
    parts[1].epilogue = MATMUL_STORE;
    parts[2].n_rows = 0;
    uint32_t next = 0;
    struct matmul_job job = {.parts = parts, .n_parts = 3, .next = &next};
    job.act[w.matrix.act] = act.data;
    job.act_stride[w.matrix.act] = act_bytes;
    run_job(&job, c->nth);
    free(waste);
    guarded_free(&act);
    free_prepared(&w);
}

struct limits {
    double exact, scale, activation_error;
};

/* The exact product for one output, sum |w x|, and how far rounding the activations to int8 may move it. */
static struct limits exact_product(const struct product_case *c, const struct fixture *f, const float *w,
                                   uint32_t row)
{
    const float *x = (const float *)(const void *)f->x.data + (uint64_t)f->in_rows[row] * c->n_in;
    uint64_t block = act_block(c->type);
    struct limits l = {0};
    for (uint64_t i = 0; i < c->n_in; i += block) {
        double amax = 0, weight = 0;
        for (uint64_t k = i; k < i + block && k < c->n_in; k++) {
            l.exact += (double)w[k] * x[k];
            l.scale += fabs((double)w[k] * x[k]);
            weight += fabs((double)w[k]);
            amax = fmax(amax, fabs((double)x[k]));
        }
        l.activation_error += block > 1 ? weight * amax / 127 * 0.501 : 0;
    }
    return l;
}

static int compare(const struct product_case *c, const struct fixture *f, const float *out,
                   const float *reference)
{
    uint64_t stride = c->n_out + 3, row_bytes = sharpi_row_bytes(c->type, c->n_in);
    float *w = malloc(c->n_in * sizeof *w);
    int bad = 0;
    for (uint64_t o = 0; o < stride && bad < 3; o++) {
        if (o < c->n_out)
            dequant_row(c->type, f->weights.data + o * row_bytes, w, c->n_in);
        for (uint32_t t = 0; t < c->n_rows && bad < 3; t++) {
            double got = out[t * stride + o];
            if (o >= c->n_out) {
                bad += got != 12345.0;
                continue;
            }
            struct limits l = exact_product(c, f, w, t);
            double extra = (c->bias ? f->bias[o] : 0) + (c->add ? f->before[t * c->n_out + o] : 0);
            double rounding = 4e-6 * (l.scale + fabs(extra)) + l.activation_error * 1e-4;
            int wrong = !(fabs(got - reference[t * stride + o]) <= rounding) ||
                        !(fabs(got - (l.exact + extra)) <= rounding + l.activation_error);
            if (wrong)
                printf("\n  %s %s repack %u, %llu x %llu, %u rows: [%u, %llu] is %g, reference %g, exact %g "
                       "+- %g",
                       sharpi_type_info(c->type)->name, cpu_isa_name(c->isa), c->repack,
                       (unsigned long long)c->n_in, (unsigned long long)c->n_out, c->n_rows, t,
                       (unsigned long long)o, got, (double)reference[t * stride + o], l.exact + extra,
                       rounding + l.activation_error);
            bad += wrong;
        }
    }
    free(w);
    return bad == 0;
}

static void check_case(const struct product_case *c)
{
    struct fixture f;
    uint64_t n = c->n_rows * (c->n_out + 3);
    float *out = malloc(n * sizeof *out), *reference = malloc(n * sizeof *reference);
    CU_ASSERT_FATAL(out && reference && make_fixture(&f, c));
    run_product(c, &f, CPU_ISA_SCALAR, reference);
    run_product(c, &f, c->isa, out);
    CU_ASSERT(compare(c, &f, out, reference));
    free_fixture(&f);
    free(out);
    free(reference);
}

static void check_sizes(int32_t type, enum cpu_isa isa, uint32_t repack)
{
    static const uint32_t outs[] = {1, 7, 16, 33, 100}, rows[] = {1, 2, 3, 4, 5, 6, 13, 65};
    uint32_t block = sharpi_type_info(type)->block_elems, unit = block == 1 ? 37 : block;
    for (uint32_t i = 0; i < 8; i++)
        for (uint32_t o = 0; o < 5; o++) {
            uint64_t n_in = unit * (1 + (i * 5 + o) % 11);
            struct product_case c = {type,  isa,          repack, 1 + i % 3, i & 1,
                                     o & 1, (i >> 1) & 1, n_in,   outs[o],   rows[i]};
            check_case(&c);
        }
}

static void every_kernel_equals_the_reference_and_the_exact_product(void)
{
    for (uint32_t i = 0; i < N_TYPES; i++)
        for (int32_t isa = 0; isa <= (int32_t)cpu_isa_detect(); isa++)
            for (uint32_t repack = 0; repack < 2; repack++)
                check_sizes(types[i], (enum cpu_isa)isa, repack);
}

static void large_matrices_are_dealt_out_completely(void)
{
    static const int32_t some[] = {SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q4_K, SHARPI_TYPE_BF16};
    for (uint32_t i = 0; i < 3; i++) {
        struct product_case c = {some[i], cpu_isa_detect(), 1, 3, 0, 0, 0, 512, 5003, 3};
        check_case(&c);
        c.n_out = 1031;
        c.n_rows = 130;
        check_case(&c);
    }
}

/* Codes and activations of the largest magnitude: where int16 sums would saturate if they could. */
static void extreme_codes_do_not_saturate(void)
{
    for (uint32_t i = 3; i < N_TYPES; i++)
        for (uint32_t fill = 0; fill < 4; fill++) {
            static const uint8_t bytes[] = {0xff, 0x00, 0x80, 0x7f};
            struct product_case c = {types[i], cpu_isa_detect(), 1, 1, 0, 0, 0, 512, 17, 5};
            struct fixture f;
            float out[5 * 20], reference[5 * 20];
            CU_ASSERT_FATAL(make_fixture(&f, &c));
            fill_codes(c.type, f.weights.data, c.n_in * c.n_out, bytes[fill]);
            float *x = (float *)(void *)f.x.data;
            for (uint64_t k = 0; k < 5 * c.n_in; k++)
                x[k] = k / c.n_in < 2 ? 1.0f : k / c.n_in < 4 ? -1.0f : k & 1 ? 1.0f : -1.0f;
            run_product(&c, &f, CPU_ISA_SCALAR, reference);
            run_product(&c, &f, c.isa, out);
            CU_ASSERT(compare(&c, &f, out, reference));
            free_fixture(&f);
        }
}

static void activations_are_the_same_on_every_isa(void)
{
    static const float scales[] = {1, 1e-3f, 1e20f, 1e-31f, 1e-38f, 0};
    enum { N = 1536 };
    float *x = malloc(N * sizeof *x);
    uint64_t bytes = act_row_bytes(ACT_Q8_32, N) + act_row_bytes(ACT_Q8_256, N);
    uint8_t *a = aligned_alloc(64, bytes), *b = aligned_alloc(64, bytes);
    for (uint32_t s = 0; s < 6; s++)
        for (int32_t isa = 1; isa <= (int32_t)cpu_isa_detect(); isa++)
            for (int32_t format = 0; format < ACT_COUNT; format++) {
                random_floats(x, N);
                for (uint32_t i = 0; i < N; i++)
                    x[i] = i % 7 == 0 ? 0.5f * scales[s] : x[i] * scales[s];
                uint64_t n = format == ACT_F32 ? N / 4 : N;
                memset(a, 0, bytes);
                memset(b, 0, bytes);
                act_quantize(CPU_ISA_SCALAR, (enum act_format)format, a, x, n);
                act_quantize((enum cpu_isa)isa, (enum act_format)format, b, x, n);
                CU_ASSERT(memcmp(a, b, act_row_bytes((enum act_format)format, n)) == 0);
            }
    free(x);
    free(a);
    free(b);
}

static void not_a_number_shows_in_the_result(void)
{
    for (int32_t isa = 0; isa <= (int32_t)cpu_isa_detect(); isa++)
        for (uint32_t i = 0; i < N_TYPES; i++) {
            struct product_case c = {types[i], (enum cpu_isa)isa, 1, 1, 0, 0, 0, 512, 16, 1};
            struct fixture f;
            float out[19];
            CU_ASSERT_FATAL(make_fixture(&f, &c));
            ((float *)(void *)f.x.data)[77] = NAN;
            run_product(&c, &f, c.isa, out);
            CU_ASSERT(isnan(out[0]) && isnan(out[15]));
            free_fixture(&f);
        }
}

static void impossible_matrices_are_refused(void)
{
    struct sharpi_tensor t = {
        .size = sizeof t, .type = SHARPI_TYPE_Q4_K, .n_dims = 2, .ne = {512, 8, 1, 1}, .name = "w"};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct matrix m;
    uint64_t bytes;
    CU_ASSERT_EQUAL(matrix_init(&m, &t, 0, cpu_isa_detect(), 1, &bytes, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(matrix_init(&m, &t, 1, cpu_isa_detect(), 1, &bytes, &err), SHARPI_EINVAL);
    t.ne[0] = 500;
    CU_ASSERT_EQUAL(matrix_init(&m, &t, 0, cpu_isa_detect(), 1, &bytes, &err), SHARPI_EINVAL);
    t.ne[0] = 1ull << 62;
    CU_ASSERT_EQUAL(matrix_init(&m, &t, 0, cpu_isa_detect(), 1, &bytes, &err), SHARPI_EINVAL);
    t.ne[0] = 512;
    t.ne[1] = UINT64_MAX;
    CU_ASSERT_EQUAL(matrix_init(&m, &t, 0, cpu_isa_detect(), 1, &bytes, &err), SHARPI_EINVAL);
    t.type = 4;
    CU_ASSERT_EQUAL(matrix_init(&m, &t, 0, cpu_isa_detect(), 1, &bytes, &err), SHARPI_ENOTSUP);
}

static void isa_names_go_both_ways(void)
{
    for (int32_t i = 0; i < CPU_ISA_COUNT; i++)
        CU_ASSERT_EQUAL(cpu_isa_by_name(cpu_isa_name((enum cpu_isa)i)), i);
    CU_ASSERT_EQUAL(cpu_isa_by_name("sse9"), -1);
}

/* Expected values in tests/data/dequant-blocks.h come from the numpy code of the gguf Python package. */
static void blocks_become_the_floats_of_the_format(void)
{
    for (uint32_t i = 0; i < n_dequant_examples; i++) {
        const struct dequant_example *e = &dequant_examples[i];
        float out[512];
        dequant_row(e->type, e->bytes, out, e->n);
        for (uint32_t k = 0; k < e->n; k++)
            CU_ASSERT(fabsf(out[k] - e->floats[k]) <= 1e-6f * fabsf(e->floats[k]));
    }
    CU_ASSERT(n_dequant_examples >= N_TYPES - 1);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench_matmul(argc > 2 ? argv[2] : NULL);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("matmul", NULL, NULL);
    CU_ADD_TEST(suite, isa_names_go_both_ways);
    CU_ADD_TEST(suite, blocks_become_the_floats_of_the_format);
    CU_ADD_TEST(suite, activations_are_the_same_on_every_isa);
    CU_ADD_TEST(suite, every_kernel_equals_the_reference_and_the_exact_product);
    CU_ADD_TEST(suite, large_matrices_are_dealt_out_completely);
    CU_ADD_TEST(suite, extreme_codes_do_not_saturate);
    CU_ADD_TEST(suite, not_a_number_shows_in_the_result);
    CU_ADD_TEST(suite, impossible_matrices_are_refused);
    CU_basic_run_tests();
    int failed = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed ? 1 : 0;
}
