/* Tests of the CPU backend as the core uses it: compile, load, run, compared with the double-precision interpreter. */
#include <CUnit/Basic.h>

#include <stdlib.h>
#include <string.h>

#include <core/graph.h>
#include <plugins/backend-cpu/device.h>

#include "cpu-world.h"

#define MAX_TOKENS 130u

/* ---- One device with one program */

struct rig_options {
    uint32_t n_threads, repack;
    uint32_t first_op, end_op; /* 0, 0: all */
    const int32_t *taps, *carry_in, *carry_out;
    uint32_t n_taps, n_carry_in, n_carry_out;
};

struct rig {
    struct test_host *host;
    const struct world *world;
    struct sharpi_device *device;
    struct sharpi_program *program;
    struct sharpi_kv_layer kv[WORLD_LAYERS];
    struct sharpi_program_memory memory;
    uint64_t used_before_load;
};

static struct sharpi_error last_error;

static int32_t rig_alloc_cache(struct rig *rig)
{
    int32_t status = 0;
    for (uint32_t i = 0; i < WORLD_LAYERS && !status; i++) {
        struct sharpi_kv_layer *kv = &rig->kv[i];
        uint64_t n;
        if (!kv->kv)
            continue;
        n = kv->kv->row_bytes(NULL, (uint64_t)kv->n_kv_heads * kv->head_dim) * SHARPI_KV_PAGE * kv->n_pages;
        status = rig->host->backend->alloc(rig->device, n, &kv->k, &last_error);
        if (!status)
            status = rig->host->backend->alloc(rig->device, n, &kv->v, &last_error);
    }
    return status;
}

static void rig_close(struct rig *rig)
{
    const struct sharpi_backend *backend = rig->host->backend;
    backend->program_destroy(rig->program);
    for (uint32_t i = 0; i < WORLD_LAYERS && rig->device; i++) {
        backend->free(rig->device, rig->kv[i].k);
        backend->free(rig->device, rig->kv[i].v);
    }
    backend->device_close(rig->device);
    memset(rig, 0, sizeof *rig);
}

static int32_t rig_compile(struct rig *rig, const struct rig_options *options)
{
    struct sharpi_compile request = {.size = sizeof request,
                                     .first_op = options->first_op,
                                     .end_op = options->end_op ? options->end_op : rig->world->view->n_ops,
                                     .max_tokens = MAX_TOKENS,
                                     .max_seqs = WORLD_MAX_SEQS,
                                     .max_logits = MAX_TOKENS,
                                     .graph = rig->world->view,
                                     .kv_layers = rig->kv,
                                     .n_classes = 2,
                                     .n_carry_in = options->n_carry_in,
                                     .n_carry_out = options->n_carry_out,
                                     .n_taps = options->n_taps,
                                     .carry_in = options->carry_in,
                                     .carry_out = options->carry_out,
                                     .taps = options->taps};
    return rig->host->backend->compile(rig->device, &request, &rig->program, &last_error);
}

/* On failure everything is closed. */
static int32_t rig_open(struct rig *rig, struct test_host *host, const struct world *world,
                        const struct rig_options *options)
{
    struct sharpi_device_options device = {
        .size = sizeof device, .n_threads = options->n_threads, .repack = options->repack};
    int32_t status;
    memset(rig, 0, sizeof *rig);
    rig->host = host;
    rig->world = world;
    memcpy(rig->kv, world->kv, sizeof rig->kv);
    status = host->backend->device_open(host->ctx, 0, &device, &rig->device, &last_error);
    if (!status)
        status = rig_compile(rig, options);
    if (!status)
        status = rig_alloc_cache(rig);
    if (!status) {
        rig->memory.size = sizeof rig->memory;
        status = host->backend->program_memory(rig->program, &rig->memory);
        rig->used_before_load = rig->device->used_bytes;
    }
    if (!status)
        status = host->backend->load(rig->program, rig->kv, NULL, NULL, &last_error);
    if (status)
        rig_close(rig);
    return status;
}

/* ---- Batches: sequence s has all its pages, in a scattered order */

struct batch {
    struct sharpi_batch batch;
    struct sharpi_batch_seq seqs[WORLD_MAX_SEQS];
    struct sharpi_batch_class classes[2];
    int32_t tokens[MAX_TOKENS], positions[MAX_TOKENS], seqs_of[MAX_TOKENS], rows[MAX_TOKENS];
    int32_t pages[2][WORLD_MAX_SEQS * 8];
    float *logits, *taps[8], *carry_in[8], *carry_out[8];
};

static void batch_init(struct batch *b, const struct world *world)
{
    memset(b, 0, sizeof *b);
    b->batch = (struct sharpi_batch){.size = sizeof b->batch,
                                     .n_classes = 2,
                                     .tokens = b->tokens,
                                     .positions = b->positions,
                                     .seqs_of = b->seqs_of,
                                     .seqs = b->seqs,
                                     .classes = b->classes,
                                     .logit_rows = b->rows};
    for (uint32_t c = 0; c < 2; c++) {
        uint32_t ring = WORLD_CONTEXT;
        for (uint32_t i = 0; i < WORLD_LAYERS; i++)
            if (world->kv[i].kv && world->kv[i].class_index == c)
                ring = world->kv[i].ring;
        b->classes[c] = (struct sharpi_batch_class){b->pages[c], ring / SHARPI_KV_PAGE, ring};
    }
    b->logits = calloc(MAX_TOKENS * WORLD_VOCAB, sizeof *b->logits);
}

static void batch_free(struct batch *b)
{
    free(b->logits);
}

/* Adds tokens [first, first + n) of a sequence that uses `slot`; all of them want logits. */
static void batch_add(struct batch *b, uint32_t slot, const int32_t *tokens, uint32_t first, uint32_t n)
{
    uint32_t s = b->batch.n_seqs++, at = b->batch.n_tokens;
    b->seqs[s] = (struct sharpi_batch_seq){at, n, first, slot};
    for (uint32_t i = 0; i < n; i++) {
        b->tokens[at + i] = tokens[first + i];
        b->positions[at + i] = (int32_t)(first + i);
        b->seqs_of[at + i] = (int32_t)s;
        b->rows[at + i] = (int32_t)(at + i);
    }
    for (uint32_t c = 0; c < 2; c++)
        for (uint32_t p = 0; p < b->classes[c].stride; p++)
            b->pages[c][s * b->classes[c].stride + p] =
                (int32_t)((p + 1) % b->classes[c].stride * WORLD_MAX_SEQS + slot);
    b->batch.n_tokens += n;
    b->batch.n_logits = b->batch.n_tokens;
}

static void batch_clear(struct batch *b)
{
    b->batch.n_seqs = b->batch.n_tokens = b->batch.n_logits = 0;
}

static int32_t batch_run(struct batch *b, const struct rig *rig, uint32_t n_taps)
{
    struct sharpi_run_io io = {.size = sizeof io,
                               .n_taps = n_taps,
                               .logits = b->logits,
                               .taps = b->taps,
                               .carry_in = (const float *const *)b->carry_in,
                               .carry_out = b->carry_out};
    return rig->host->backend->run(rig->program, &b->batch, &io, &last_error);
}

/* Largest difference relative to the reference's root mean square. */
static double difference(const float *got, const double *want, uint64_t n)
{
    double sum = 0, worst = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += want[i] * want[i];
    for (uint64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        worst = !(d <= worst) ? d : worst; /* NaN counts */
    }
    return worst / sqrt(sum / (double)n + 1e-30);
}

/* ---- Fixture */

static struct test_host host;

static void random_tokens(int32_t *tokens, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)((seed = seed * 1664525u + 1013904223u) >> 8) % (int32_t)WORLD_VOCAB;
}

static const char *const isa_names[] = {"scalar", "avx2", "avx512", "avx512bf16"};

/* Restarts the plugin with another instruction set; 0 if the machine lacks it. */
static int use_isa(uint32_t isa)
{
    if (isa > (uint32_t)cpu_isa_detect())
        return 0;
    test_host_close(&host);
    host.isa = isa_names[isa];
    return test_host_open(&host, NULL) == 0;
}

static double tolerance(int32_t type)
{
    return type == SHARPI_TYPE_F32 || type == SHARPI_TYPE_F16 || type == SHARPI_TYPE_BF16 ? 2e-4 : 0.35;
}

/* Runs n tokens at once and compares all logits. */
static void check_whole(const struct world *world, const struct rig_options *options, const int32_t *tokens,
                        uint32_t n, const struct reference *reference, double limit)
{
    struct rig rig;
    struct batch batch;
    double d;
    int32_t status = rig_open(&rig, &host, world, options);
    CU_ASSERT_EQUAL_FATAL(status, SHARPI_OK);
    batch_init(&batch, world);
    batch_add(&batch, 1, tokens, 0, n);
    status = batch_run(&batch, &rig, 0);
    CU_ASSERT_EQUAL(status, SHARPI_OK);
    d = difference(batch.logits, reference->logits, (uint64_t)n * WORLD_VOCAB);
    CU_ASSERT(d < limit);
    if (!(d < limit) || status)
        printf("\n  n %u threads %u repack %u: difference %g, limit %g, %s\n", n, options->n_threads,
               options->repack, d, limit, last_error.text);
    batch_free(&batch);
    rig_close(&rig);
}

static void check_graph(int32_t graph, int32_t type, uint32_t all_sizes)
{
    static const uint32_t sizes[] = {1, 2, 3, 5, 17, 64, 65, 130};
    struct world_options options = {graph, type, 7};
    struct world world;
    int32_t tokens[MAX_TOKENS];
    struct reference reference = {0};
    CU_ASSERT_EQUAL_FATAL(world_create(&world, &host, &options), 0);
    random_tokens(tokens, MAX_TOKENS, 3);
    reference_run(&reference, &world, tokens, MAX_TOKENS);
    for (uint32_t isa = 0; isa < CPU_ISA_COUNT; isa++) {
        if (!use_isa(isa))
            continue;
        for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            struct rig_options rig = {.n_threads = 1 + i % 4, .repack = i / 2 % 2};
            if (all_sizes || sizes[i] == 3 || sizes[i] == 65)
                check_whole(&world, &rig, tokens, sizes[i], &reference, tolerance(type));
        }
    }
    reference_free(&reference);
    world_destroy(&world);
}

static void dense_graph_equals_interpreter(void)
{
    check_graph(WORLD_DENSE, SHARPI_TYPE_F32, 1);
    check_graph(WORLD_DENSE, SHARPI_TYPE_BF16, 0);
}

static void mixture_equals_interpreter(void)
{
    check_graph(WORLD_MIXTURE, SHARPI_TYPE_F32, 1);
}

static void every_kind_of_op_equals_interpreter(void)
{
    check_graph(WORLD_ALL, SHARPI_TYPE_F32, 1);
    check_graph(WORLD_ALL, SHARPI_TYPE_F16, 0);
}

static void quantized_weights_are_near_interpreter(void)
{
    static const int32_t types[] = {SHARPI_TYPE_Q8_0, SHARPI_TYPE_Q4_0, SHARPI_TYPE_Q4_K, SHARPI_TYPE_Q6_K};
    for (uint32_t i = 0; i < 4; i++)
        check_graph(WORLD_DENSE, types[i], 0);
}

/* ---- Batches */

struct scene {
    struct world world;
    struct rig rig;
    struct batch batch;
    int32_t tokens[2][MAX_TOKENS];
};

static void scene_open(struct scene *scene, int32_t graph, int32_t type, const struct rig_options *options)
{
    struct world_options world = {graph, type, 11};
    CU_ASSERT_EQUAL_FATAL(world_create(&scene->world, &host, &world), 0);
    CU_ASSERT_EQUAL_FATAL(rig_open(&scene->rig, &host, &scene->world, options), SHARPI_OK);
    batch_init(&scene->batch, &scene->world);
    random_tokens(scene->tokens[0], MAX_TOKENS, 5);
    random_tokens(scene->tokens[1], MAX_TOKENS, 6);
}

static void scene_close(struct scene *scene)
{
    batch_free(&scene->batch);
    rig_close(&scene->rig);
    world_destroy(&scene->world);
}

/* Runs a batch and compares the logits of its rows with those of positions [first, first + n) of a reference. */
static void check_rows(struct scene *scene, uint32_t row, const struct reference *reference, uint32_t first,
                       uint32_t n, double limit)
{
    double d = difference(scene->batch.logits + (uint64_t)row * WORLD_VOCAB,
                          reference->logits + (uint64_t)first * WORLD_VOCAB, (uint64_t)n * WORLD_VOCAB);
    CU_ASSERT(d < limit);
    if (!(d < limit))
        printf("\n  row %u, positions %u + %u: difference %g\n", row, first, n, d);
}

static void chunks_equal_the_whole(void)
{
    static const uint32_t chunks[] = {1, 63, 2, 1, 40, 23};
    struct rig_options options = {.n_threads = 3, .repack = 1};
    struct reference reference;
    struct scene s;
    uint32_t at = 0;
    scene_open(&s, WORLD_ALL, SHARPI_TYPE_F32, &options);
    reference_run(&reference, &s.world, s.tokens[0], MAX_TOKENS);
    for (uint32_t i = 0; i < sizeof chunks / sizeof *chunks; at += chunks[i++]) {
        batch_clear(&s.batch);
        batch_add(&s.batch, 2, s.tokens[0], at, chunks[i]);
        CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_OK);
        check_rows(&s, 0, &reference, at, chunks[i], 2e-4);
    }
    reference_free(&reference);
    scene_close(&s);
}

/* Prefill of one beside decode of another, then both decode. */
static void sequences_do_not_disturb_each_other(void)
{
    struct rig_options options = {.n_threads = 2, .repack = 1};
    struct reference reference[2];
    struct scene s;
    scene_open(&s, WORLD_ALL, SHARPI_TYPE_F32, &options);
    for (uint32_t i = 0; i < 2; i++)
        reference_run(&reference[i], &s.world, s.tokens[i], MAX_TOKENS);
    batch_add(&s.batch, 3, s.tokens[0], 0, 70);
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_OK);
    batch_clear(&s.batch);
    batch_add(&s.batch, 0, s.tokens[1], 0, 60);
    batch_add(&s.batch, 3, s.tokens[0], 70, 1);
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_OK);
    check_rows(&s, 0, &reference[1], 0, 60, 2e-4);
    check_rows(&s, 60, &reference[0], 70, 1, 2e-4);
    batch_clear(&s.batch);
    batch_add(&s.batch, 3, s.tokens[0], 71, 1);
    batch_add(&s.batch, 0, s.tokens[1], 60, 1);
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_OK);
    check_rows(&s, 0, &reference[0], 71, 1, 2e-4);
    check_rows(&s, 1, &reference[1], 60, 1, 2e-4);
    for (uint32_t i = 0; i < 2; i++)
        reference_free(&reference[i]);
    scene_close(&s);
}

static void only_wanted_rows_get_logits(void)
{
    struct rig_options options = {.n_threads = 2, .repack = 1};
    struct reference reference;
    struct scene s;
    uint64_t untouched = 0;
    scene_open(&s, WORLD_ALL, SHARPI_TYPE_F32, &options);
    reference_run(&reference, &s.world, s.tokens[0], MAX_TOKENS);
    batch_add(&s.batch, 0, s.tokens[0], 0, 20);
    s.batch.batch.n_logits = 0;
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_OK);
    for (uint32_t i = 0; i < MAX_TOKENS * WORLD_VOCAB; i++)
        untouched += s.batch.logits[i] == 0.0f;
    CU_ASSERT_EQUAL(untouched, MAX_TOKENS * WORLD_VOCAB);
    batch_clear(&s.batch);
    batch_add(&s.batch, 0, s.tokens[0], 20, 30);
    s.batch.rows[0] = 4;
    s.batch.rows[1] = 29;
    s.batch.batch.n_logits = 2;
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_OK);
    check_rows(&s, 0, &reference, 24, 1, 2e-4);
    check_rows(&s, 1, &reference, 49, 1, 2e-4);
    CU_ASSERT_EQUAL(s.batch.logits[2 * WORLD_VOCAB], 0.0f);
    reference_free(&reference);
    scene_close(&s);
}

static void given_embeddings_replace_the_table(void)
{
    struct rig_options options = {.n_threads = 2, .repack = 0};
    struct reference reference;
    struct scene s;
    float *rows;
    scene_open(&s, WORLD_DENSE, SHARPI_TYPE_F32, &options);
    reference_run(&reference, &s.world, s.tokens[0], 10);
    rows = calloc(10 * s.world.desc.width, sizeof *rows);
    for (uint32_t i = 0; i < 10 * s.world.desc.width; i++)
        rows[i] = (float)reference.values[s.world.view->ops[0]->out][i];
    batch_add(&s.batch, 0, s.tokens[1], 0, 10);
    s.batch.batch.embeddings = rows;
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_OK);
    check_rows(&s, 0, &reference, 0, 10, 2e-4);
    free(rows);
    reference_free(&reference);
    scene_close(&s);
}

/* ---- Taps and ranges */

static void taps_show_values_and_change_nothing(void)
{
    const uint32_t n = 37;
    struct rig_options options = {.n_threads = 3, .repack = 1}, tapped = options;
    struct reference reference;
    struct rig rig;
    struct scene s;
    int32_t taps[8] = {0}, n_taps = 0;
    float *plain;
    scene_open(&s, WORLD_ALL, SHARPI_TYPE_F32, &options);
    reference_run(&reference, &s.world, s.tokens[0], n);
    for (uint32_t i = 0; i < s.world.view->n_ops && n_taps < 4; i++)
        if (s.world.view->ops[i]->kind == SHARPI_OP_TAP)
            taps[n_taps++] = s.world.view->ops[i]->in[0];
    taps[n_taps++] = s.world.last_residual[0];
    taps[n_taps++] = s.world.last_residual[3];
    tapped.taps = taps;
    tapped.n_taps = (uint32_t)n_taps;
    batch_add(&s.batch, 1, s.tokens[0], 0, n);
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_OK);
    plain = s.batch.logits;
    s.batch.logits = calloc(MAX_TOKENS * WORLD_VOCAB, sizeof *plain);
    CU_ASSERT_EQUAL_FATAL(rig_open(&rig, &host, &s.world, &tapped), SHARPI_OK);
    for (int32_t i = 0; i < n_taps; i++)
        s.batch.taps[i] = calloc((uint64_t)n * s.world.view->values[taps[i]]->width, sizeof(float));
    CU_ASSERT_EQUAL(batch_run(&s.batch, &rig, (uint32_t)n_taps), SHARPI_OK);
    CU_ASSERT_EQUAL(memcmp(plain, s.batch.logits, n * WORLD_VOCAB * sizeof *plain), 0);
    for (int32_t i = 0; i < n_taps; i++) {
        double d = difference(s.batch.taps[i], reference.values[taps[i]],
                              (uint64_t)n * s.world.view->values[taps[i]]->width);
        CU_ASSERT(d < 2e-4);
        free(s.batch.taps[i]);
    }
    free(plain);
    rig_close(&rig);
    reference_free(&reference);
    scene_close(&s);
}

/* The model cut behind layer 1: values that cross are carried; layer 2 reads a cache of the first half, so that both share it. */
static void two_ranges_equal_one(void)
{
    const uint32_t n = 29;
    struct rig_options options = {.n_threads = 2, .repack = 1}, first = options, second = options;
    struct scene s;
    struct rig rig[2];
    int32_t carried[1];
    float *whole, *stream = calloc(MAX_TOKENS * 256, sizeof *stream);
    uint32_t cut;
    scene_open(&s, WORLD_DENSE, SHARPI_TYPE_Q4_K, &options);
    carried[0] = s.world.last_residual[1];
    cut = (uint32_t)s.world.view->values[carried[0]]->producer + 1;
    first.end_op = second.first_op = cut;
    first.carry_out = second.carry_in = carried;
    first.n_carry_out = second.n_carry_in = 1;
    batch_add(&s.batch, 1, s.tokens[0], 0, n);
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_OK);
    whole = s.batch.logits;
    s.batch.logits = calloc(MAX_TOKENS * WORLD_VOCAB, sizeof *whole);
    CU_ASSERT_EQUAL_FATAL(rig_open(&rig[0], &host, &s.world, &first), SHARPI_OK);
    CU_ASSERT_EQUAL_FATAL(rig_open(&rig[1], &host, &s.world, &second), SHARPI_OK);
    s.batch.carry_out[0] = s.batch.carry_in[0] = stream;
    CU_ASSERT_EQUAL(batch_run(&s.batch, &rig[0], 0), SHARPI_OK);
    CU_ASSERT_EQUAL(s.batch.logits[0], 0.0f);
    CU_ASSERT_EQUAL(batch_run(&s.batch, &rig[1], 0), SHARPI_OK);
    CU_ASSERT_EQUAL(memcmp(whole, s.batch.logits, n * WORLD_VOCAB * sizeof *whole), 0);
    free(whole);
    free(stream);
    rig_close(&rig[0]);
    rig_close(&rig[1]);
    scene_close(&s);
}

/* Programs of a device take turns in one scratch, as large as the largest wants it; one that comes when it is allocated and
 * too small for it has scratch of its own. What they said is what was allocated, and all is given back. */
static void programs_take_turns_in_scratch(void)
{
    const uint32_t ends[] = {3, 9, 0, 0};
    struct rig_options options = {.n_threads = 2, .repack = 1};
    struct scene s;
    struct rig rigs[4]; /* the first two are compiled, then loaded; then the whole twice */
    uint64_t said = 0, before;
    float *whole;
    scene_open(&s, WORLD_DENSE, SHARPI_TYPE_Q4_K, &options);
    batch_add(&s.batch, 1, s.tokens[0], 0, 29);
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_OK);
    whole = s.batch.logits;
    s.batch.logits = calloc(MAX_TOKENS * WORLD_VOCAB, sizeof *whole);
    host.backend->program_destroy(s.rig.program);
    s.rig.program = NULL;
    before = s.rig.device->used_bytes;
    for (uint32_t i = 0; i < 4; i++) {
        rigs[i] = s.rig;
        options.end_op = ends[i];
        CU_ASSERT_EQUAL_FATAL(rig_compile(&rigs[i], &options), SHARPI_OK);
        CU_ASSERT_EQUAL(host.backend->program_memory(rigs[i].program, &rigs[i].memory), SHARPI_OK);
        said += rigs[i].memory.weight_bytes + rigs[i].memory.scratch_bytes;
        for (uint32_t k = i > 1 ? i : 0; i && k <= i; k++) /* the first two together */
            CU_ASSERT_EQUAL_FATAL(host.backend->load(rigs[k].program, rigs[k].kv, NULL, NULL, &last_error),
                                  SHARPI_OK);
        if (i)
            CU_ASSERT_EQUAL(s.rig.device->used_bytes - before, said);
    }
    CU_ASSERT(rigs[2].memory.scratch_bytes > rigs[0].memory.scratch_bytes + rigs[1].memory.scratch_bytes);
    CU_ASSERT_EQUAL(rigs[3].memory.scratch_bytes, 0); /* there was room */
    for (uint32_t turn = 0; turn < 4; turn++) {
        memset(s.batch.logits, 0, MAX_TOKENS * WORLD_VOCAB * sizeof *whole);
        CU_ASSERT_EQUAL(batch_run(&s.batch, &rigs[2 + turn % 2], 0), SHARPI_OK);
        CU_ASSERT_EQUAL(memcmp(whole, s.batch.logits, 29 * WORLD_VOCAB * sizeof *whole), 0);
    }
    for (uint32_t i = 0; i < 4; i++)
        host.backend->program_destroy(rigs[i].program);
    CU_ASSERT_EQUAL(s.rig.device->used_bytes, before);
    free(whole);
    scene_close(&s);
}

/* ---- What can go wrong */

static void wrong_batches_are_refused(void)
{
    struct rig_options options = {.n_threads = 2, .repack = 1};
    struct scene s;
    scene_open(&s, WORLD_ALL, SHARPI_TYPE_F32, &options);
    batch_add(&s.batch, 0, s.tokens[0], 0, 9);
#define REFUSED(field, value, code)                                                                          \
    do {                                                                                                     \
        __typeof__(field) kept = (field);                                                                    \
        (field) = (value);                                                                                   \
        CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), code);                                               \
        (field) = kept;                                                                                      \
    } while (0)
    REFUSED(s.batch.batch.n_tokens, 0, SHARPI_EINVAL);
    REFUSED(s.batch.batch.n_tokens, MAX_TOKENS + 1, SHARPI_EINVAL);
    REFUSED(s.batch.batch.n_tokens, 8, SHARPI_EBUG);
    REFUSED(s.batch.batch.n_seqs, 0, SHARPI_EINVAL);
    REFUSED(s.batch.batch.n_seqs, WORLD_MAX_SEQS + 1, SHARPI_EINVAL);
    REFUSED(s.batch.batch.n_logits, MAX_TOKENS + 1, SHARPI_EINVAL);
    REFUSED(s.batch.batch.tokens, NULL, SHARPI_EINVAL);
    REFUSED(s.batch.batch.positions, NULL, SHARPI_EBUG);
    REFUSED(s.batch.tokens[8], (int32_t)WORLD_VOCAB, SHARPI_EINVAL);
    REFUSED(s.batch.tokens[0], -1, SHARPI_EINVAL);
    REFUSED(s.batch.positions[3], 9, SHARPI_EBUG);
    REFUSED(s.batch.positions[3], -1, SHARPI_EBUG);
    REFUSED(s.batch.seqs_of[3], 1, SHARPI_EBUG);
    REFUSED(s.batch.seqs[0].n_tokens, 10, SHARPI_EBUG);
    REFUSED(s.batch.rows[2], 9, SHARPI_EBUG);
    REFUSED(s.batch.rows[2], 1, SHARPI_EBUG);
    REFUSED(s.batch.pages[0][0], 1000, SHARPI_EBUG);
    REFUSED(s.batch.pages[1][0], -1, SHARPI_EBUG);
    REFUSED(s.batch.logits, NULL, SHARPI_EBUG);
#undef REFUSED
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 1), SHARPI_EBUG);
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_OK);
    scene_close(&s);
}

static void running_out_of_memory_anywhere_is_survived(void)
{
    struct world_options world_options = {WORLD_ALL, SHARPI_TYPE_F32, 1};
    struct rig_options options = {.n_threads = 2, .repack = 1};
    struct world world;
    struct rig rig;
    int64_t live = host.n_live;
    int32_t status = SHARPI_ENOMEM;
    uint32_t failures = 0;
    CU_ASSERT_EQUAL_FATAL(world_create(&world, &host, &world_options), 0);
    for (int64_t n = 0; status; n++) {
        host.allocs_left = n;
        status = rig_open(&rig, &host, &world, &options);
        host.allocs_left = -1;
        if (!status)
            break;
        failures++;
        CU_ASSERT_EQUAL_FATAL(status, SHARPI_ENOMEM);
        CU_ASSERT_EQUAL_FATAL(host.n_live, live);
    }
    CU_ASSERT(failures > 30);
    rig_close(&rig);
    CU_ASSERT_EQUAL(host.n_live, live);
    world_destroy(&world);
}

static void planned_bytes_are_allocated_bytes(void)
{
    struct rig_options options = {.n_threads = 2, .repack = 1};
    struct scene s;
    scene_open(&s, WORLD_ALL, SHARPI_TYPE_Q4_K, &options);
    CU_ASSERT_EQUAL(s.rig.device->used_bytes - s.rig.used_before_load,
                    s.rig.memory.weight_bytes + s.rig.memory.scratch_bytes);
    CU_ASSERT(s.rig.memory.mapped_bytes > 0);        /* tables, f32 matrices */
    CU_ASSERT_EQUAL(s.rig.memory.n_fallback_ops, 5); /* the custom op; four layers without cache kernels */
    scene_close(&s);
}

struct progress {
    uint64_t last, total, calls, cancel_at;
};

static int32_t count_progress(void *user, uint64_t done, uint64_t total)
{
    struct progress *p = user;
    CU_ASSERT(done >= p->last && done <= total);
    p->last = done;
    p->total = total;
    return ++p->calls == p->cancel_at;
}

static void loading_reports_progress_and_can_be_cancelled(void)
{
    struct rig_options options = {.n_threads = 2, .repack = 1};
    struct progress progress = {.cancel_at = 1},
                    all = {0}; /* how often it is called depends on the threads' luck */
    struct scene s;
    scene_open(&s, WORLD_ALL, SHARPI_TYPE_Q4_K, &options);
    host.backend->program_destroy(s.rig.program);
    CU_ASSERT_EQUAL_FATAL(rig_compile(&s.rig, &options), SHARPI_OK);
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_EBUG); /* not loaded */
    CU_ASSERT_EQUAL(host.backend->load(s.rig.program, s.rig.kv, count_progress, &progress, &last_error),
                    SHARPI_ECANCELLED);
    CU_ASSERT_EQUAL(s.rig.device->used_bytes, s.rig.used_before_load);
    CU_ASSERT_EQUAL(host.backend->load(s.rig.program, s.rig.kv, count_progress, &all, &last_error),
                    SHARPI_OK);
    CU_ASSERT_EQUAL(all.last, all.total);
    CU_ASSERT(all.total > 1000000);
    batch_add(&s.batch, 0, s.tokens[0], 0, 3);
    CU_ASSERT_EQUAL(batch_run(&s.batch, &s.rig, 0), SHARPI_OK);
    scene_close(&s);
}

static void settings_are_checked(void)
{
    static const char *const no_sizes[] = {"12 parsecs", "0", "-1", "GiB", "18446744073709551615KiB"};
    struct sharpi_device_options options = {.size = sizeof options, .n_threads = 1};
    struct sharpi_device *device;
    struct test_host other;
    test_host_init(&other);
    other.isa = "mmx";
    CU_ASSERT_EQUAL(test_host_open(&other, &last_error), SHARPI_EINVAL);
    other.isa = NULL;
    other.threads = "many";
    CU_ASSERT_EQUAL(test_host_open(&other, &last_error), SHARPI_EINVAL);
    other.threads = "3";
    for (size_t i = 0; i < sizeof no_sizes / sizeof *no_sizes; i++) {
        other.memory_limit = no_sizes[i];
        CU_ASSERT_EQUAL(test_host_open(&other, &last_error), SHARPI_EINVAL);
    }
    CU_ASSERT_EQUAL(other.n_live, 0);
    other.memory_limit = "1 MiB";
    CU_ASSERT_EQUAL_FATAL(test_host_open(&other, &last_error), SHARPI_OK);
    if (cpu_isa_detect() < CPU_ISA_AVX512BF16) {
        ((struct cpu_backend *)other.ctx)->isa_wanted = CPU_ISA_AVX512BF16;
        CU_ASSERT_EQUAL(other.backend->device_open(other.ctx, 0, &options, &device, &last_error),
                        SHARPI_ENOTSUP);
        ((struct cpu_backend *)other.ctx)->isa_wanted = -1;
    }
    CU_ASSERT_EQUAL_FATAL(other.backend->device_open(other.ctx, 0, &options, &device, &last_error),
                          SHARPI_OK);
    {
        void *memory;
        struct sharpi_device_info info = {.size = sizeof info};
        CU_ASSERT_EQUAL(other.backend->alloc(device, 2 << 20, &memory, &last_error), SHARPI_ENOMEM);
        CU_ASSERT_PTR_NULL(memory);
        CU_ASSERT_EQUAL(other.backend->device_info(other.ctx, 0, &info, &last_error), SHARPI_OK);
        CU_ASSERT_EQUAL(info.total_bytes, 1 << 20);
        CU_ASSERT_EQUAL(info.max_threads, 3);
    }
    other.backend->device_close(device);
    test_host_close(&other);
    CU_ASSERT_EQUAL(other.n_live, 0);
}

int main(void)
{
    static const struct {
        const char *name;
        CU_TestFunc function;
    } tests[] = {
#define TEST(function) {#function, function}
        TEST(dense_graph_equals_interpreter),
        TEST(mixture_equals_interpreter),
        TEST(every_kind_of_op_equals_interpreter),
        TEST(quantized_weights_are_near_interpreter),
        TEST(chunks_equal_the_whole),
        TEST(sequences_do_not_disturb_each_other),
        TEST(only_wanted_rows_get_logits),
        TEST(given_embeddings_replace_the_table),
        TEST(taps_show_values_and_change_nothing),
        TEST(two_ranges_equal_one),
        TEST(programs_take_turns_in_scratch),
        TEST(wrong_batches_are_refused),
        TEST(running_out_of_memory_anywhere_is_survived),
        TEST(planned_bytes_are_allocated_bytes),
        TEST(loading_reports_progress_and_can_be_cancelled),
        TEST(settings_are_checked),
    };
    CU_pSuite suite;
    unsigned failures;
    last_error = (struct sharpi_error)SHARPI_ERROR_INIT;
    test_host_init(&host);
    if (test_host_open(&host, NULL) || CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    suite = CU_add_suite("backend-cpu", NULL, NULL);
    for (uint32_t i = 0; suite && i < sizeof tests / sizeof *tests; i++) {
        if (!CU_add_test(suite, tests[i].name, tests[i].function))
            return 1;
    }
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    test_host_close(&host);
    return failures || !suite ? 1 : 0;
}
