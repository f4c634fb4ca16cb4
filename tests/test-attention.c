/* Attention of the CPU backend against a naive one in double precision, over everything that changes its
 * path: head sizes, groups, masks, rings, formats, chunk sizes, mixed batches, threads and instruction sets.
 * --bench measures instead. */
#include <math.h>

#include <CUnit/Basic.h>

#include "attention-bench.h"
#include "attention-world.h"
#include "plugins/backend-cpu/attention-kernels.h"

static struct kv_formats formats;

static enum cpu_isa best_isa(void)
{
    return cpu_isa_detect();
}

/* out [head_dim] of query head h at batch token `token`, position p of world sequence `seq`. */
static void naive(const struct world *world, uint32_t seq, uint32_t token, uint32_t p, uint32_t seq_end,
                  uint32_t h, double *out)
{
    const struct world_shape *shape = &world->shape;
    const uint32_t d = shape->head_dim, n = shape->n_kv_heads * d;
    const uint32_t g = h / (shape->n_heads / shape->n_kv_heads);
    const float *q = world->q + ((uint64_t)token * shape->n_heads + h) * d;
    const uint32_t low = shape->window && p + 1 > shape->window ? p + 1 - shape->window : 0;
    const uint32_t end = shape->not_causal ? seq_end : p + 1;
    double *s = malloc((end - low) * sizeof(double)), max = -INFINITY, sum = 0.0;

    for (uint32_t j = low; j < end; j++) {
        double dot = 0.0;
        for (uint32_t i = 0; i < d; i++)
            dot += (double)q[i] * (double)world->k_history[seq][(uint64_t)j * n + g * d + i];
        dot *= (double)world->plan.scale;
        s[j - low] =
            shape->softcap != 0.0f ? (double)shape->softcap * tanh(dot / (double)shape->softcap) : dot;
        max = fmax(max, s[j - low]);
    }
    if (world->sinks)
        sum = exp((double)world->sinks[h] - max);
    memset(out, 0, d * sizeof(double));
    for (uint32_t j = low; j < end; j++) {
        const double w = exp(s[j - low] - max);
        sum += w;
        for (uint32_t i = 0; i < d; i++)
            out[i] += w * (double)world->v_history[seq][(uint64_t)j * n + g * d + i];
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] /= sum;
    free(s);
}

/* Largest error of the step's output, relative to the largest element of its row; NaN counts as infinite.
 * Looks at every stride-th token, so that long chunks stay cheap, and always at the first and the last. */
static double step_error(const struct world *world, uint32_t stride)
{
    const uint32_t d = world->shape.head_dim;
    double reference[ATTENTION_MAX_HEAD_DIM], worst = 0.0;

    for (uint32_t s = 0; s < world->batch.n_seqs; s++) {
        const struct sharpi_batch_seq *seq = &world->seqs[s];
        for (uint32_t t = 0; t < seq->n_tokens; t++) {
            if (t % stride && t + 1 != seq->n_tokens)
                continue;
            for (uint32_t h = 0; h < world->shape.n_heads; h++) {
                const uint32_t token = seq->first_token + t;
                const float *out = world->out + ((uint64_t)token * world->shape.n_heads + h) * d;
                double error = 0.0, size = 0.0;
                naive(world, world->seq_index[s], token, seq->length + t, seq->length + seq->n_tokens, h,
                      reference);
                for (uint32_t i = 0; i < d; i++) {
                    const double e = fabs((double)out[i] - reference[i]);
                    error = e <= INFINITY ? fmax(error, e) : INFINITY;
                    size = fmax(size, fabs(reference[i]));
                }
                worst = fmax(worst, error / size);
            }
        }
    }
    return worst;
}

/* Runs steps of the given token counts [n_steps, n_seqs] on alternating numbers of threads; the largest
 * error. */
static double run_steps(const struct world_shape *shape, const uint32_t *steps, uint32_t n_steps,
                        uint32_t stride)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct world world;
    double worst = 0.0;

    CU_ASSERT_EQUAL_FATAL(world_init(&world, &formats, shape), 0);
    for (uint32_t i = 0; i < n_steps; i++) {
        const int32_t status = world_batch(&world, steps + i * shape->n_seqs, &err);
        CU_ASSERT_EQUAL(status, SHARPI_OK);
        if (status) {
            fprintf(stderr, "%s\n", err.text);
            break;
        }
        world_run(&world, 1 + i % shape->n_threads, 1);
        worst = fmax(worst, step_error(&world, stride));
        world_commit(&world);
    }
    world_free(&world);
    return worst;
}

static struct world_shape basic_shape(void)
{
    struct world_shape shape = {0};
    shape.format = "f32";
    shape.n_heads = 4;
    shape.n_kv_heads = 2;
    shape.head_dim = 64;
    shape.ring = 512;
    shape.n_seqs = 1;
    shape.max_length = 512;
    shape.n_threads = 4;
    shape.keep_history = 1;
    return shape;
}

#define FOR_EACH_ISA(isa) for (enum cpu_isa isa = CPU_ISA_SCALAR; isa <= best_isa(); isa++)

static void check(const char *what, const struct world_shape *shape, double error)
{
    if (!(error <= 1e-5))
        fprintf(stderr, "\n  %s: %s %s heads %u/%u dim %u window %u ring %u: error %g\n", what, shape->format,
                cpu_isa_name(shape->isa), shape->n_heads, shape->n_kv_heads, shape->head_dim, shape->window,
                shape->ring, error);
    CU_ASSERT(error <= 1e-5);
}

static void equals_naive_attention_for_every_head_size_and_group(void)
{
    static const uint32_t dims[] = {2, 6, 32, 64, 80, 128, 256, 512}, groups[] = {1, 2, 4, 8};
    static const uint32_t steps[] = {1, 70, 1, 17, 1, 1};
    FOR_EACH_ISA(isa)
    for (uint32_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (uint32_t j = 0; j < sizeof groups / sizeof groups[0]; j++) {
            struct world_shape shape = basic_shape();
            shape.isa = isa;
            shape.head_dim = dims[i];
            shape.n_heads = 2 * groups[j];
            check(__func__, &shape, run_steps(&shape, steps, 6, 13));
        }
}

static void equals_naive_attention_over_decoded_values_for_every_format(void)
{
    static const uint32_t dims[] = {32, 80, 128, 512};
    static const uint32_t steps[] = {130, 1, 5, 1, 33};
    FOR_EACH_ISA(isa)
    for (uint32_t f = 0; f < formats.n; f++)
        for (uint32_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
            for (uint32_t fallback = 0; fallback < 2; fallback++) {
                struct world_shape shape = basic_shape();
                shape.isa = isa;
                shape.format = formats.list[f].kv->name;
                shape.head_dim = dims[i];
                shape.use_fallback = fallback;
                check(__func__, &shape, run_steps(&shape, steps, 5, 13));
            }
}

static void softcap_and_sinks_and_masks_are_honoured(void)
{
    static const uint32_t steps[] = {100, 1, 60, 1, 3};
    FOR_EACH_ISA(isa)
    for (uint32_t bits = 0; bits < 16; bits++) {
        struct world_shape shape = basic_shape();
        shape.isa = isa;
        shape.softcap = bits & 1 ? 3.0f : 0.0f;
        shape.with_sinks = bits >> 1 & 1;
        shape.window = bits & 4 ? 33 : 0;
        shape.not_causal = bits >> 3 & 1;
        check(__func__, &shape, run_steps(&shape, steps, 5, 7));
    }
}

static void rings_wrap_many_times(void)
{
    static const uint32_t rings[] = {64, 128, 192};
    static const uint32_t chunks[] = {1, 48, 7, 49, 1, 1, 33, 40};
    FOR_EACH_ISA(isa)
    for (uint32_t f = 0; f < formats.n; f++)
        for (uint32_t i = 0; i < 3; i++) {
            struct world_shape shape = basic_shape();
            uint32_t steps[40], n = 0, length = 0;
            shape.isa = isa;
            shape.format = formats.list[f].kv->name;
            shape.window = 16;
            shape.ring = rings[i];
            shape.max_length = 900;
            while (n < 40 && length + 50 <= shape.max_length) {
                const uint32_t step = chunks[n % 8];
                steps[n++] = step;
                length += step;
            }
            check(__func__, &shape, run_steps(&shape, steps, n, 11));
        }
}

static void chunks_of_any_size_join_at_any_boundary(void)
{
    FOR_EACH_ISA(isa)
    for (uint32_t chunk = 1; chunk <= 200; chunk += 1 + chunk / 3) {
        struct world_shape shape = basic_shape();
        uint32_t steps[64], n = 0;
        shape.isa = isa;
        shape.format = "f16";
        shape.n_heads = 6;
        shape.head_dim = 32;
        for (uint32_t length = 0; n < 64 && length + chunk <= shape.max_length; length += chunk)
            steps[n++] = chunk;
        check(__func__, &shape, run_steps(&shape, steps, n, 9));
    }
}

static void sequences_mix_in_one_batch(void)
{
    static const uint32_t steps[][5] = {
        {100, 1, 0, 30, 0}, {1, 1, 200, 1, 0}, {1, 50, 1, 1, 7},
        {0, 1, 1, 90, 1},   {1, 1, 1, 1, 1},   {64, 0, 1, 0, 1},
    };
    FOR_EACH_ISA(isa)
    for (uint32_t f = 0; f < formats.n; f++) {
        struct world_shape shape = basic_shape();
        shape.isa = isa;
        shape.format = formats.list[f].kv->name;
        shape.n_heads = 8;
        shape.n_seqs = 5;
        shape.with_sinks = 1;
        check(__func__, &shape, run_steps(&shape, steps[0], 6, 17));
    }
}

/* One KV head's group that has more heads than a block has rows. */
static void huge_groups_are_cut_into_parts(void)
{
    static const uint32_t steps[] = {1, 9, 1};
    FOR_EACH_ISA(isa)
    {
        struct world_shape shape = basic_shape();
        shape.isa = isa;
        shape.n_heads = 202;
        shape.n_kv_heads = 2;
        shape.head_dim = 16;
        shape.with_sinks = 1;
        check(__func__, &shape, run_steps(&shape, steps, 3, 1));
    }
}

static double difference(const float *a, const float *b, uint64_t n)
{
    double size = 0.0, error = 0.0;
    for (uint64_t i = 0; i < n; i++) {
        const double e = fabs((double)a[i] - (double)b[i]);
        size = fmax(size, fabs((double)a[i]));
        error = e <= INFINITY ? fmax(error, e) : INFINITY;
    }
    return error / size;
}

static void result_does_not_depend_on_threads(void)
{
    FOR_EACH_ISA(isa)
    for (uint32_t f = 0; f < formats.n; f++) {
        struct world_shape shape = basic_shape();
        struct sharpi_error err = SHARPI_ERROR_INIT;
        struct world world;
        uint32_t long_prompt[] = {1900}, decode[] = {1};
        uint64_t n;
        float *one;

        shape.isa = isa;
        shape.format = formats.list[f].kv->name;
        shape.ring = shape.max_length = 2048;
        shape.n_threads = 7;
        shape.keep_history = 0;
        CU_ASSERT_EQUAL_FATAL(world_init(&world, &formats, &shape), 0);
        CU_ASSERT_EQUAL(world_batch(&world, long_prompt, &err), 0);
        world_run(&world, 2, 1);
        world_commit(&world);
        CU_ASSERT_EQUAL(world_batch(&world, decode, &err), 0);
        n = shape.n_heads * shape.head_dim;
        one = malloc(n * sizeof(float));
        world_run(&world, 1, 1);
        memcpy(one, world.out, n * sizeof(float));
        for (uint32_t nth = 2; nth <= shape.n_threads; nth++) {
            world_run(&world, nth, 0);
            CU_ASSERT(difference(one, world.out, n) <= 1e-5);
        }
        free(one);
        world_free(&world);
    }
}

/* The last tokens of a chunk, computed again as decode steps over the same cache. */
static void decode_equals_the_same_token_in_a_chunk(void)
{
    FOR_EACH_ISA(isa)
    for (uint32_t f = 0; f < formats.n; f++) {
        struct world_shape shape = basic_shape();
        struct sharpi_error err = SHARPI_ERROR_INIT;
        struct world world;
        uint32_t chunk[] = {150}, decode[] = {1};
        uint64_t n;
        float *in_chunk, *q;

        shape.isa = isa;
        shape.format = formats.list[f].kv->name;
        CU_ASSERT_EQUAL_FATAL(world_init(&world, &formats, &shape), 0);
        n = shape.n_heads * shape.head_dim;
        in_chunk = malloc(150 * n * sizeof(float));
        q = malloc(150 * n * sizeof(float));
        CU_ASSERT_EQUAL(world_batch(&world, chunk, &err), 0);
        world_run(&world, 3, 1);
        memcpy(in_chunk, world.out, 150 * n * sizeof(float));
        memcpy(q, world.q, 150 * n * sizeof(float));
        for (uint32_t t = 0; t < 150; t += 29) {
            world.length[0] = t;
            CU_ASSERT_EQUAL(world_batch(&world, decode, &err), 0);
            memcpy(world.q, q + t * n, n * sizeof(float));
            world_run(&world, 2, 0);
            CU_ASSERT(difference(in_chunk + t * n, world.out, n) <= 1e-5);
        }
        free(in_chunk);
        free(q);
        world_free(&world);
    }
}

static void batches_that_break_promises_are_refused(void)
{
    struct world_shape shape = basic_shape();
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct world world;
    uint32_t fits[] = {49}, too_many[] = {50}, one[] = {1};

    shape.window = 16;
    shape.ring = 64;
    CU_ASSERT_EQUAL_FATAL(world_init(&world, &formats, &shape), 0);
    world.length[0] = 300;
    CU_ASSERT_EQUAL(world_batch(&world, fits, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(world_batch(&world, too_many, &err), SHARPI_EBUG);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "at most 49 tokens"));
    world.tables[0] = -1;
    CU_ASSERT_EQUAL(world_batch(&world, one, &err), SHARPI_EBUG);
    world.tables[0] = 1;
    CU_ASSERT_EQUAL(world_batch(&world, one, &err), SHARPI_EBUG);
    world.tables[0] = 0;
    CU_ASSERT_EQUAL(world_batch(&world, one, &err), SHARPI_OK);
    world.seqs_of[0] = 1;
    CU_ASSERT_EQUAL(attention_check(&world.plan, &world.batch, &err), SHARPI_EBUG);
    world.seqs_of[0] = 0;
    world.seqs[0].first_token = 1;
    CU_ASSERT_EQUAL(attention_check(&world.plan, &world.batch, &err), SHARPI_EBUG);
    world_free(&world);
}

static void geometries_that_cannot_run_are_refused(void)
{
    static const uint32_t bad[][3] = {{4, 2, 514}, {4, 2, 3}, {3, 2, 64}, {4, 2, 0}};
    for (uint32_t i = 0; i < 4; i++) {
        struct sharpi_attention_attr attr = {0};
        struct sharpi_error err = SHARPI_ERROR_INIT;
        struct sharpi_kv_layer kv = {0};
        struct attention_plan plan;
        uint64_t bytes;
        kv.kv = formats.list[0].kv;
        kv.kv_ctx = formats.list[0].ctx;
        attr.n_heads = bad[i][0];
        attr.n_kv_heads = kv.n_kv_heads = bad[i][1];
        attr.head_dim = kv.head_dim = bad[i][2];
        kv.ring = 64;
        CU_ASSERT_EQUAL(attention_plan_init(&plan, CPU_ISA_SCALAR, &attr, &kv, 1, &bytes, &err),
                        SHARPI_ENOTSUP);
        CU_ASSERT(err.text[0] != 0);
    }
}

/* Units of the last place between f32 result and double reference. */
static double ulps(float x, double reference)
{
    return fabs((double)x - reference) / ldexp(1.0, ilogb(reference) - 23);
}

static void exp_is_within_two_ulps(void)
{
    FOR_EACH_ISA(isa)
    {
        struct world_shape shape = basic_shape();
        struct world world;
        double worst = 0.0;
        shape.isa = isa;
        CU_ASSERT_EQUAL_FATAL(world_init(&world, &formats, &shape), 0);
        for (float x = -87.2f; x < 87.9f; x += 0.00537f) {
            float y[ATTENTION_ALIGN];
            for (uint32_t i = 0; i < ATTENTION_ALIGN; i++)
                y[i] = x;
            world.plan.kernels->exp_row(y, ATTENTION_ALIGN);
            worst = fmax(worst, ulps(y[0], exp((double)x)));
        }
        if (!(worst < 2.0))
            fprintf(stderr, "exp on %s: %g ulps\n", cpu_isa_name(isa), worst);
        CU_ASSERT(worst < 2.0);
        float edge[ATTENTION_ALIGN] = {-INFINITY, -1000.0f, 0.0f};
        world.plan.kernels->exp_row(edge, ATTENTION_ALIGN);
        CU_ASSERT(edge[0] == 0.0f && edge[1] == 0.0f && edge[2] == 1.0f);
        world_free(&world);
    }
}

int main(int argc, char **argv)
{
    CU_pSuite suite;
    uint32_t failures;

    if (kv_formats_load_all(&formats))
        return 1;
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        attention_bench(&formats, argc > 2 ? (uint32_t)atoi(argv[2]) : 2);
        return 0;
    }
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    suite = CU_add_suite("attention", NULL, NULL);
    CU_ADD_TEST(suite, exp_is_within_two_ulps);
    CU_ADD_TEST(suite, equals_naive_attention_for_every_head_size_and_group);
    CU_ADD_TEST(suite, equals_naive_attention_over_decoded_values_for_every_format);
    CU_ADD_TEST(suite, softcap_and_sinks_and_masks_are_honoured);
    CU_ADD_TEST(suite, rings_wrap_many_times);
    CU_ADD_TEST(suite, chunks_of_any_size_join_at_any_boundary);
    CU_ADD_TEST(suite, sequences_mix_in_one_batch);
    CU_ADD_TEST(suite, huge_groups_are_cut_into_parts);
    CU_ADD_TEST(suite, result_does_not_depend_on_threads);
    CU_ADD_TEST(suite, decode_equals_the_same_token_in_a_chunk);
    CU_ADD_TEST(suite, batches_that_break_promises_are_refused);
    CU_ADD_TEST(suite, geometries_that_cannot_run_are_refused);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
