/* Row kernels of each instruction set against the plain C ones and libm, at odd sizes, in place, with guards behind the rows. */
#include <CUnit/Basic.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sharpi/plugin/graph.h>

#include <plugins/backend-cpu/ops.h>

#define MAX_N 300u
#define GUARD 1234.5f

static const uint32_t sizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 255, 256, 300};

static float random_float(float range)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return ((float)(state >> 8) / 8388608.0f - 1.0f) * range;
}

struct rows {
    float x[MAX_N], w[MAX_N], want[MAX_N], got[MAX_N + 1];
};

static void fill(struct rows *r, float range, uint32_t n)
{
    for (uint32_t i = 0; i < MAX_N; i++) {
        r->x[i] = random_float(range);
        r->w[i] = random_float(2);
        r->want[i] = r->got[i] = random_float(1);
    }
    r->got[n] = GUARD;
}

/* Everywhere within `limit` of the larger of 1e-6 and the wanted value. */
static void check(const struct rows *r, uint32_t n, double limit, const char *what)
{
    for (uint32_t i = 0; i < n; i++) {
        double size = fabs((double)r->want[i]) > 1e-6 ? fabs((double)r->want[i]) : 1e-6;
        double d = fabs((double)r->got[i] - (double)r->want[i]) / size;
        if (!(d <= limit)) {
            printf("\n  %s n %u element %u of x %g: %.9g, must be %.9g\n", what, n, i, (double)r->x[i],
                   (double)r->got[i], (double)r->want[i]);
            CU_FAIL("difference");
            return;
        }
    }
    if (n < MAX_N)
        CU_ASSERT_EQUAL(r->got[n], GUARD);
}

/* Each function once into other memory and once in place, for every ISA and size. */
typedef void op_fn(const struct row_ops *ops, float *y, const float *x, const float *w, uint32_t n);

static void for_all(op_fn *op, float range, double limit, const char *what)
{
    struct rows r;
    for (int32_t isa = CPU_ISA_AVX2; isa <= (int32_t)cpu_isa_detect(); isa++) {
        const struct row_ops *ops = row_ops_for((enum cpu_isa)isa);
        for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            uint32_t n = sizes[i];
            fill(&r, range, n);
            op(&row_ops_c, r.want, r.x, r.w, n);
            op(ops, r.got, r.x, r.w, n);
            check(&r, n, limit, what);
            fill(&r, range, n);
            memcpy(r.got, r.x, n * sizeof *r.x);
            memcpy(r.want, r.x, n * sizeof *r.x);
            op(&row_ops_c, r.want, r.want, r.w, n);
            op(ops, r.got, r.got, r.w, n);
            check(&r, n, limit, what);
        }
    }
}

static void norm_weighted(const struct row_ops *ops, float *y, const float *x, const float *w, uint32_t n)
{
    ops->rms_norm(y, x, w, n, 1e-6f);
}
static void norm_plain(const struct row_ops *ops, float *y, const float *x, const float *w, uint32_t n)
{
    (void)w;
    ops->rms_norm(y, x, NULL, n, 1e-6f);
}
static void add(const struct row_ops *ops, float *y, const float *x, const float *w, uint32_t n)
{
    ops->add(y, x, w, n);
}
static void mul(const struct row_ops *ops, float *y, const float *x, const float *w, uint32_t n)
{
    ops->mul(y, x, w, n);
}
static void scale(const struct row_ops *ops, float *y, const float *x, const float *w, uint32_t n)
{
    ops->scale(y, x, w[0], n);
}
static void add_scaled(const struct row_ops *ops, float *y, const float *x, const float *w, uint32_t n)
{
    memcpy(y, x, n * sizeof *y);
    ops->add_scaled(y, w, 0.75f, n);
}
static void softcap(const struct row_ops *ops, float *y, const float *x, const float *w, uint32_t n)
{
    (void)w;
    ops->softcap(y, x, 30.0f, n);
}
#define ACTIVATION(name, which)                                                                              \
    static void act_##name(const struct row_ops *ops, float *y, const float *x, const float *w, uint32_t n)  \
    {                                                                                                        \
        (void)w;                                                                                             \
        ops->activate(y, x, n, which);                                                                       \
    }                                                                                                        \
    static void glu_##name(const struct row_ops *ops, float *y, const float *x, const float *w, uint32_t n)  \
    {                                                                                                        \
        ops->glu(y, x, w, n, which);                                                                         \
    }
ACTIVATION(silu, SHARPI_ACT_SILU)
ACTIVATION(gelu_tanh, SHARPI_ACT_GELU_TANH)
ACTIVATION(gelu_erf, SHARPI_ACT_GELU_ERF)
ACTIVATION(relu2, SHARPI_ACT_RELU2)

static void rope_neox(const struct row_ops *ops, float *y, const float *x, const float *w, uint32_t n)
{
    ops->rope(y, x, w, w + n / 2, n & ~1u, 1);
    if (n & 1)
        y[n - 1] = x[n - 1];
}
static void rope_norm(const struct row_ops *ops, float *y, const float *x, const float *w, uint32_t n)
{
    ops->rope(y, x, w, w + n / 2, n & ~1u, 0);
    if (n & 1)
        y[n - 1] = x[n - 1];
}

static void arithmetic_equals_plain_c(void)
{
    for_all(add, 3, 1e-6, "add");
    for_all(mul, 3, 1e-6, "mul");
    for_all(scale, 3, 1e-6, "scale");
    for_all(add_scaled, 3, 2e-6, "add_scaled");
}

static void norms_equal_plain_c(void)
{
    for_all(norm_weighted, 3, 2e-6, "rms_norm");
    for_all(norm_weighted, 3e-4f, 2e-6, "rms_norm of little");
    for_all(norm_plain, 1e4f, 2e-6, "rms_norm without weight");
}

static void rotation_equals_plain_c(void)
{
    for_all(rope_neox, 3, 4e-6, "rope neox");
    for_all(rope_norm, 3, 4e-6, "rope norm");
}

static void activations_are_near_libm(void)
{
    for_all(act_silu, 10, 1e-6, "silu");
    for_all(glu_silu, 3, 2e-6, "silu glu");
    for_all(act_silu, 80, 2e-6, "silu of much");
    for_all(act_gelu_erf, 5, 1e-6, "gelu_erf");
    for_all(glu_gelu_erf, 5, 1e-6, "gelu_erf glu");
    for_all(act_relu2, 10, 1e-6, "relu2");
    for_all(glu_relu2, 10, 1e-6, "relu2 glu");
    for_all(softcap, 10, 1e-6, "softcap");
    for_all(softcap, 1000, 1e-6, "softcap of much");
}

/* libm's own tanh form cancels for negative x, so double is the reference; both versions, absolute error. */
static void gelu_tanh_is_near_double(void)
{
    float x[MAX_N], y[MAX_N], one[MAX_N];
    for (int32_t isa = CPU_ISA_SCALAR; isa <= (int32_t)cpu_isa_detect(); isa++) {
        for (uint32_t round = 0; round < 50; round++) {
            for (uint32_t i = 0; i < MAX_N; i++) {
                x[i] = random_float(round % 2 ? 1.0f : 12.0f);
                one[i] = 1;
            }
            if (round % 4 < 2)
                act_gelu_tanh(row_ops_for((enum cpu_isa)isa), y, x, NULL, MAX_N);
            else
                glu_gelu_tanh(row_ops_for((enum cpu_isa)isa), y, x, one, MAX_N);
            for (uint32_t i = 0; i < MAX_N; i++) {
                double z = (double)x[i], u = sqrt(2 / 3.14159265358979323846) * (z + 0.044715 * z * z * z);
                double want = 0.5 * z * (1 + tanh(u)), size = fabs(want) > 1 ? fabs(want) : 1;
                CU_ASSERT_FATAL(fabs((double)y[i] - want) <= 1e-6 * size);
            }
        }
    }
}

static void extremes_do_not_become_nan(void)
{
    static const float x[] = {0.0f, -0.0f, 1e-40f, -1e-40f, 88.0f, -88.0f, 1000.0f, -1000.0f, 1e10f, -1e10f};
    float y[10];
    for (int32_t isa = CPU_ISA_SCALAR; isa <= (int32_t)cpu_isa_detect(); isa++) {
        for (int32_t a = SHARPI_ACT_SILU; a <= SHARPI_ACT_RELU2; a++) {
            row_ops_for((enum cpu_isa)isa)->activate(y, x, 10, a);
            for (uint32_t i = 0; i < 10; i++)
                CU_ASSERT(isfinite(y[i]));
            CU_ASSERT(fabsf(y[7]) < 1e-20f);
            CU_ASSERT(a == SHARPI_ACT_RELU2 || y[6] == 1000.0f);
        }
        row_ops_for((enum cpu_isa)isa)->softcap(y, x, 30, 10);
        CU_ASSERT(y[8] == 30.0f && y[9] == -30.0f && y[0] == 0.0f);
    }
}

/* ---- Speed */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void bench_one(const char *isa, const char *what, op_fn *op, const struct row_ops *ops, float *x,
                      uint32_t n)
{
    double best = 1e30;
    for (uint32_t round = 0; round < 20; round++) {
        double start = seconds();
        for (uint32_t i = 0; i < 20; i++)
            op(ops, x + 2 * n, x, x + n, n);
        best = seconds() - start < best ? seconds() - start : best;
    }
    printf("%-8s %-10s %6.3f ns an element\n", isa, what, best / 20 / n * 1e9);
}

static int bench(void)
{
    const uint32_t n = 6144;
    float *x = calloc(3ull * n, sizeof *x);
    for (uint32_t i = 0; i < 3 * n; i++)
        x[i] = random_float(4);
    for (int32_t isa = CPU_ISA_SCALAR; isa <= (int32_t)cpu_isa_detect(); isa++) {
        const struct row_ops *ops = row_ops_for((enum cpu_isa)isa);
        const char *name = cpu_isa_name((enum cpu_isa)isa);
        bench_one(name, "rms_norm", norm_weighted, ops, x, n);
        bench_one(name, "silu glu", glu_silu, ops, x, n);
        bench_one(name, "gelu glu", glu_gelu_tanh, ops, x, n);
        bench_one(name, "erf glu", glu_gelu_erf, ops, x, n);
        bench_one(name, "softcap", softcap, ops, x, n);
        bench_one(name, "rope", rope_neox, ops, x, n);
        bench_one(name, "add", add, ops, x, n);
    }
    free(x);
    return 0;
}

int main(int argc, char **argv)
{
    CU_pSuite suite;
    unsigned failures;
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        return bench();
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    suite = CU_add_suite("ops", NULL, NULL);
    if (!suite || !CU_ADD_TEST(suite, arithmetic_equals_plain_c) ||
        !CU_ADD_TEST(suite, norms_equal_plain_c) || !CU_ADD_TEST(suite, rotation_equals_plain_c) ||
        !CU_ADD_TEST(suite, activations_are_near_libm) || !CU_ADD_TEST(suite, gelu_tanh_is_near_double) ||
        !CU_ADD_TEST(suite, extremes_do_not_become_nan))
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
