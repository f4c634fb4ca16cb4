/* Plan equals reality: what the CPU backend allocates for a loaded model is what was planned from the file's header, to the byte. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fixtures.h"
#include "plan-world.h"
#include "plugins/backend-cpu/device.h"

#define MIB (UINT64_C(1) << 20)

static struct sharpi_engine *engine;

/* The backend's table with an alloc that counts. */
static struct sharpi_backend counting;
static const struct sharpi_backend *real;
static uint64_t asked_bytes, rounded_bytes;

static int32_t count_alloc(struct sharpi_device *device, uint64_t n_bytes, void **out,
                           struct sharpi_error *err)
{
    asked_bytes += n_bytes;
    rounded_bytes += memory_rounded(n_bytes);
    return real->alloc(device, n_bytes, out, err);
}

static void count_allocations(struct sharpi_engine *of)
{
    for (uint32_t i = 0; i < of->plugins.n_offers; i++) {
        struct sharpi_offer *offer = &of->plugins.offers[i];
        if (offer->kind != SHARPI_OFFER_BACKEND || strcmp(offer->name, "cpu") != 0)
            continue;
        real = offer->backend;
        counting = *real;
        counting.alloc = count_alloc;
        offer->backend = &counting;
    }
}

static struct sharpi_model *load(struct sharpi_engine *with, const char *path,
                                 const struct sharpi_model_options *options)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_model *model = NULL;
    int32_t status;
    asked_bytes = rounded_bytes = 0;
    status = sharpi_model_load(with, path, options, &model, &err);
    if (status)
        fprintf(stderr, "%s: %s\n", path, err.text);
    CU_ASSERT_EQUAL_FATAL(status, SHARPI_OK);
    return model;
}

static uint64_t file_bytes(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 ? (uint64_t)status.st_size : 0;
}

static void check_model(const char *path, const struct sharpi_model_options *options)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_model *planned = NULL, *loaded = load(engine, path, options);
    const struct sharpi_plan_part *p;
    struct sharpi_model_info info = {.size = sizeof info};
    CU_ASSERT_EQUAL_FATAL(sharpi_model_open(engine, path, SHARPI_GGUF_HEADER_ONLY, &planned, &err),
                          SHARPI_OK);
    CU_ASSERT_EQUAL_FATAL(sharpi_model_place(planned, options, 0, &err), SHARPI_OK);
    CU_ASSERT_EQUAL_FATAL(planned->plan->n_parts, 1);
    p = &planned->plan->parts[0];
    sharpi_model_get_info(loaded, &info);
    CU_ASSERT_EQUAL(info.context, planned->plan->context);
    CU_ASSERT_EQUAL(asked_bytes, p->kv_bytes);
    CU_ASSERT_EQUAL(info.kv_bytes, p->kv_bytes);
    CU_ASSERT_EQUAL(info.weight_bytes, p->weight_bytes);
    CU_ASSERT_EQUAL(info.mapped_bytes, p->mapped_bytes);
    CU_ASSERT(p->mapped_bytes <= file_bytes(path)); /* what many layers look up is there once */
    CU_ASSERT_EQUAL(info.scratch_bytes, p->scratch_bytes);
    /* What the device has given out: KV blocks in whole pages, weights and scratch as the program said. */
    CU_ASSERT_EQUAL(loaded->device->used_bytes, rounded_bytes + p->weight_bytes + p->scratch_bytes);
    sharpi_model_free(planned);
    sharpi_model_free(loaded);
}

static void fixtures_take_what_was_planned(void)
{
    static const char *const formats[] = {"f32", "bf16", "q8_0"};
    for (uint32_t i = 0; i < n_fixtures; i++) {
        struct sharpi_model_options options = {.size = sizeof options, .kv = formats[i % 3]};
        struct fixture_data data;
        CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[i], &data), 0);
        free(data.logits);
        options.max_sessions = 1 + i % 3;
        options.no_repack = i & 1;
        check_model(data.model, &options);
        options.context = 300 + 17 * i;
        options.chunk = 1 + 13 * i;
        options.full_cache = i & 1;
        options.no_repack = !options.no_repack;
        check_model(data.model, &options);
    }
}

static void real_geometries_take_what_was_planned(void)
{
    static const struct {
        const char *name;
        uint32_t n_layers;
    } models[] = {{"qwen3-0.6b", 2}, {"olmoe-1b-7b", 1}, {"gemma4-e2b", 10}};
    struct sharpi_model_options options = {.size = sizeof options, .kv = "q8_0", .context = 8192};
    if (!synth_present()) {
        printf("(left out: needs $SHARPI_SHARED/tools/synth_gguf.py, python3 and numpy) ");
        return;
    }
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        options.no_repack = i == 2; /* its tables are large */
        check_model(synth(models[i].name, models[i].n_layers, 1), &options);
    }
}

/* A memory_limit makes a small machine of this one: the context shrinks to what fits, and that fits. */
static void automatic_context_keeps_to_a_memory_limit(void)
{
    static const char *const overrides[] = {"backend-cpu.memory_limit=16MiB", "model.reserve=8MiB", NULL};
    struct sharpi_model_options options = {.size = sizeof options, .kv = "f32"};
    struct sharpi_engine *small = open_world(overrides);
    struct fixture_data data;
    struct sharpi_model *model;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[0], &data), 0);
    free(data.logits);
    model = load(small, data.model, &options);
    CU_ASSERT_EQUAL(model->plan->context_limit, SHARPI_CONTEXT_MEMORY);
    CU_ASSERT(model->context < model->desc.context_length);
    CU_ASSERT_EQUAL(model->context, model->plan->context);
    CU_ASSERT_EQUAL(model->plan->parts[0].total_bytes, 16 * MIB);
    CU_ASSERT_EQUAL(sharpi_plan_short_bytes(model->plan), 0);
    CU_ASSERT(model->device->used_bytes <= 16 * MIB);
    sharpi_model_free(model);
    sharpi_engine_close(small);
}

/* Writes a plan for a described card, or for this machine, and loads with it. */
static int32_t load_with_plan(const char *model_path, const char *card, struct sharpi_model **model,
                              struct sharpi_error *err)
{
    char file[] = "/tmp/sharpi-plan-XXXXXX", setting[64];
    const char *overrides[] = {setting, NULL};
    struct sharpi_model_options options = {.size = sizeof options, .context = 777, .kv = "q8_0"};
    struct sharpi_plan_device device;
    struct sharpi_plan_wishes wishes = {.n_devices = 1, .devices = &device};
    struct sharpi_model *planned = NULL;
    struct sharpi_engine *with;
    char *text = NULL;
    int fd = mkstemp(file);
    int32_t status;
    FILE *stream = fd < 0 ? NULL : fdopen(fd, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(stream);
    CU_ASSERT_EQUAL_FATAL(sharpi_model_open(engine, model_path, SHARPI_GGUF_HEADER_ONLY, &planned, err), 0);
    if (card) {
        CU_ASSERT_EQUAL_FATAL(sharpi_plan_parse_device(card, &device, err), SHARPI_OK);
        CU_ASSERT_EQUAL_FATAL(sharpi_model_plan(planned, &options, &wishes, &planned->plan, err), SHARPI_OK);
    } else {
        CU_ASSERT_EQUAL_FATAL(sharpi_model_place(planned, &options, 0, err), SHARPI_OK);
    }
    CU_ASSERT_EQUAL_FATAL(sharpi_plan_json(planned->plan, &text, err), SHARPI_OK);
    fputs(text, stream);
    fclose(stream);
    free(text);
    sharpi_model_free(planned);
    snprintf(setting, sizeof setting, "model.plan=%s", file);
    with = open_world(overrides);
    status = sharpi_model_load(with, model_path, NULL, model, err);
    remove(file);
    if (status)
        sharpi_engine_close(with);
    return status;
}

static void a_saved_plan_fixes_the_sizes(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_model *model = NULL;
    struct sharpi_engine *with;
    struct fixture_data data;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[3], &data), 0);
    free(data.logits);
    CU_ASSERT_EQUAL_FATAL(load_with_plan(data.model, NULL, &model, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(model->context, 777);
    CU_ASSERT_STRING_EQUAL(model->kv_layers[0].kv->name, "q8_0");
    with = model->engine;
    sharpi_model_free(model);
    sharpi_engine_close(with);
}

static void a_plan_for_a_card_is_refused_on_the_cpu(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_model *model = NULL;
    struct fixture_data data;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[3], &data), 0);
    free(data.logits);
    CU_ASSERT_EQUAL(load_with_plan(data.model, "rtx4070ti:12282MiB", &model, &err), SHARPI_ENOTSUP);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "on rtx4070ti"));
}

#define TEST(name)                                                                                           \
    {                                                                                                        \
#name, name                                                                                          \
    }

int main(void)
{
    static CU_TestInfo tests[] = {TEST(fixtures_take_what_was_planned),
                                  TEST(real_geometries_take_what_was_planned),
                                  TEST(automatic_context_keeps_to_a_memory_limit),
                                  TEST(a_saved_plan_fixes_the_sizes),
                                  TEST(a_plan_for_a_card_is_refused_on_the_cpu),
                                  CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"plan-cpu", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    unsigned failures;
    if (!fixtures_present()) {
        printf("skipped: no fixtures in SHARPI_SHARED\n");
        return 77;
    }
    engine = open_world(NULL);
    count_allocations(engine);
    if (!real) {
        fprintf(stderr, "the CPU backend is not loaded\n");
        return 1;
    }
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    sharpi_engine_close(engine);
    synth_clean();
    return failures != 0;
}
