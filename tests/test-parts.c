/* Models in several parts, on the CPU and on its twin, a device with memory of its own that computes with the same kernels: whatever
 * lies where, the logits are those of one device, to the bit. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <CUnit/Basic.h>

#include "core/session.h"
#include "fixtures.h"
#include "plugins/backend-cpu/device.h"

#define MIB (UINT64_C(1) << 20)

enum { MAX_SETTINGS = 12, N_SEQS = 8 };

#define AUTO_CONTEXT UINT32_MAX

/* ---- An engine with the settings of one test, and a model */

struct world {
    struct sharpi_engine *engine;
    struct sharpi_model *model;
    struct sharpi_error err;
    char texts[MAX_SETTINGS][600];
    const char *settings[MAX_SETTINGS + 1];
    uint32_t n_settings;
};

static char log_text[8192];

static void keep_log(void *user, int32_t level, const char *topic, const char *message)
{
    size_t at = strlen(log_text);
    (void)user;
    if (level > 2 || at > sizeof log_text - 600)
        return;
    snprintf(log_text + at, sizeof log_text - at, "%d %s: %.500s\n", level, topic, message);
}

__attribute__((format(printf, 2, 3))) static void set(struct world *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(w->texts[w->n_settings], sizeof w->texts[0], format, args);
    va_end(args);
    w->settings[w->n_settings] = w->texts[w->n_settings];
    w->n_settings++;
}

static void start(struct world *w)
{
    const char *top = getenv("top_builddir");
    memset(w, 0, sizeof *w);
    w->err = (struct sharpi_error)SHARPI_ERROR_INIT;
    set(w,
        "plugins.load=backend-cpu arch-dense arch-gemma4 arch-moe kv-float kv-q8_0 "
        "%s/tests/plugins/.libs/backend-twin.so",
        top ? top : ".");
}

/* Loads with the settings so far. */
static int32_t load(struct world *w, const char *path, struct sharpi_model_options options)
{
    struct sharpi_engine_options engine = {.size = sizeof engine,
                                           .no_default_config = 1,
                                           .overrides = w->settings,
                                           .log = keep_log,
                                           .log_level = 2};
    int32_t status;
    options.size = sizeof options;
    options.kv = options.kv ? options.kv : "f32";
    options.context = options.context == AUTO_CONTEXT ? 0 : options.context ? options.context : 256;
    options.n_threads = 2;
    log_text[0] = 0;
    if (!w->engine && (status = sharpi_engine_open(&engine, &w->engine, &w->err)))
        return status;
    return sharpi_model_load(w->engine, path, &options, &w->model, &w->err);
}

static void stop(struct world *w)
{
    sharpi_model_free(w->model);
    sharpi_engine_close(w->engine);
    w->model = NULL;
    w->engine = NULL;
}

static void load_or_fail(struct world *w, const char *path, struct sharpi_model_options options)
{
    int32_t status = load(w, path, options);
    if (status)
        fprintf(stderr, "%s: %s\n", path, w->err.text);
    CU_ASSERT_EQUAL_FATAL(status, SHARPI_OK);
}

static void each_fixture(void (*check)(const struct fixture *, const struct fixture_data *))
{
    for (uint32_t i = 0; i < n_fixtures; i++) {
        struct fixture_data data;
        CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[i], &data), 0);
        check(&fixtures[i], &data);
        free(data.logits);
    }
}

/* Logits of the fixture's tokens on the CPU alone. */
static float *whole_logits(const struct fixture_data *data, struct sharpi_model_options options, uint32_t n,
                           uint32_t *n_layers)
{
    struct world w;
    float *logits;
    start(&w);
    set(&w, "model.device=cpu");
    load_or_fail(&w, data->model, options);
    CU_ASSERT_EQUAL(w.model->ranges.n, 1);
    *n_layers = w.model->desc.n_layers;
    logits = run_tokens(w.model, data->tokens, n);
    stop(&w);
    CU_ASSERT_PTR_NOT_NULL_FATAL(logits);
    return logits;
}

static void check_equal(const struct fixture *f, const char *what, uint32_t number, const float *a,
                        const float *b, uint64_t n)
{
    int same = a && memcmp(a, b, n * sizeof *a) == 0;
    CU_ASSERT(same);
    if (!same)
        fprintf(stderr, "%s: %s %u: logits differ by %g\n", f->name, what, number,
                a ? (double)max_difference(a, b, n) : -1.0);
}

/* What a device has given out: KV blocks in whole pages, weights and scratch as the programs said. */
static void check_used(const struct sharpi_model *model, uint32_t d)
{
    const struct sharpi_model_device *device = &model->devices[d];
    const struct sharpi_plan_part *p = &model->plan->parts[d];
    uint64_t kv = 0, rounded = 0;
    for (uint32_t i = 0; i < model->desc.n_layers; i++) {
        uint64_t n = sharpi_kv_layer_bytes(&model->kv_layers[i]);
        if (sharpi_model_layer_device(model, i) != device)
            continue;
        kv += 2 * sharpi_kv_block_bytes(&model->kv_layers[i], device->granularity);
        rounded += n ? 2 * memory_rounded(n) : 0;
    }
    CU_ASSERT_EQUAL(p->kv_bytes, kv);
    CU_ASSERT_EQUAL(device->kv_bytes, kv);
    CU_ASSERT_EQUAL(p->weight_bytes, device->memory.weight_bytes);
    CU_ASSERT_EQUAL(p->scratch_bytes, device->memory.scratch_bytes);
    CU_ASSERT_EQUAL(device->device ? device->device->used_bytes : 0,
                    rounded + p->weight_bytes + p->scratch_bytes);
}

/* ---- Layers */

/* -g N for every N: refused where a cache would be shared across the cut, the same logits elsewhere. */
static void check_split(const struct fixture *f, const struct fixture_data *data)
{
    static const char *const formats[] = {"f32", "bf16", "q8_0"};
    uint32_t n_layers, n_split = 0;
    for (uint32_t i = 0; i < 3; i++) {
        struct sharpi_model_options options = {.kv = formats[i], .chunk = i == 0 ? 7 : 64};
        float *whole = whole_logits(data, options, FIXTURE_TOKENS, &n_layers);
        for (uint32_t n = i ? n_layers / 2 : 0; n <= n_layers; n += i ? n_layers : 1) {
            struct world w;
            int32_t status;
            float *logits;
            start(&w);
            set(&w, "model.gpu-layers=%u", n);
            status = load(&w, data->model, options);
            if (status == SHARPI_EINVAL && strstr(w.err.text, "both must be on one side")) {
                stop(&w);
                continue;
            }
            CU_ASSERT_EQUAL_FATAL(status, SHARPI_OK);
            CU_ASSERT_EQUAL(w.model->ranges.n, n == 0 || n == n_layers ? 1 : 2);
            n_split += w.model->ranges.n > 1;
            logits = run_tokens(w.model, data->tokens, FIXTURE_TOKENS);
            check_equal(f, "layers on the device:", n, logits, whole,
                        (uint64_t)FIXTURE_TOKENS * FIXTURE_VOCAB);
            free(logits);
            stop(&w);
        }
        free(whole);
    }
    CU_ASSERT(n_split > 0);
}

static void layers_may_be_split_anywhere(void)
{
    each_fixture(check_split);
}

/* ---- Experts */

/* Scratch of a device does not grow with the number of its parts, as they take turns in it. */
static void check_scratch(const struct sharpi_model *model, uint64_t scratch[2])
{
    for (uint32_t d = 0; d < 2; d++) {
        const uint64_t n = model->plan->parts[d].scratch_bytes;
        CU_ASSERT(n > 0);
        if (!scratch[d])
            scratch[d] = n;
        CU_ASSERT(d ? n == scratch[d] : n <= scratch[d]); /* the first has all later layers in one part */
        check_used(model, d);
    }
}

static void check_experts(const struct fixture *f, const struct fixture_data *data)
{
    struct sharpi_model_options options = {.chunk = 48};
    uint64_t scratch[2] = {0, 0};
    uint32_t n_layers;
    float *whole;
    if (!f->mixture)
        return;
    whole = whole_logits(data, options, FIXTURE_TOKENS, &n_layers);
    for (uint32_t n = 1; n <= n_layers; n++) {
        for (uint32_t layers = n_layers / 2; layers <= n_layers; layers += n_layers - n_layers / 2) {
            struct world w;
            float *logits;
            start(&w);
            set(&w, "model.gpu-layers=%u", layers);
            if (n < n_layers)
                set(&w, "model.n-cpu-moe=%u", n);
            else
                set(&w, "model.cpu-moe=true");
            load_or_fail(&w, data->model, options);
            if (layers == n_layers) { /* device, experts, device, experts ... device */
                CU_ASSERT_EQUAL(w.model->ranges.n, 2 * n + 1);
                check_scratch(w.model, scratch);
            }
            logits = run_tokens(w.model, data->tokens, FIXTURE_TOKENS);
            check_equal(f, "experts on the CPU, layers:", n, logits, whole,
                        (uint64_t)FIXTURE_TOKENS * FIXTURE_VOCAB);
            free(logits);
            stop(&w);
        }
    }
    free(whole);
}

static void experts_may_lie_on_the_other_device(void)
{
    each_fixture(check_experts);
}

/* ---- Ops that the device lacks */

static void check_lacking(const struct fixture *f, const struct fixture_data *data)
{
    static const int32_t kinds[] = {SHARPI_OP_EMBED, SHARPI_OP_GLU, SHARPI_OP_ROPE, SHARPI_OP_LOGITS,
                                    SHARPI_OP_MOE_FFN};
    struct sharpi_model_options options = {.chunk = 48};
    uint32_t n_layers;
    float *whole = whole_logits(data, options, FIXTURE_TOKENS, &n_layers);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct world w;
        float *logits;
        start(&w);
        set(&w, "backend-twin.refused=%d", kinds[i]);
        load_or_fail(&w, data->model, options);
        if (kinds[i] == SHARPI_OP_EMBED || kinds[i] == SHARPI_OP_LOGITS)
            CU_ASSERT(w.model->host_ops != NULL); /* every model has them */
        CU_ASSERT_EQUAL(w.model->ranges.n > 1, w.model->host_ops != NULL);
        CU_ASSERT_EQUAL(strstr(log_text, "refuses ops of kind") != NULL, w.model->host_ops != NULL);
        check_used(w.model, 0);
        check_used(w.model, 1);
        logits = run_tokens(w.model, data->tokens, FIXTURE_TOKENS);
        check_equal(f, "refused kind", (uint32_t)kinds[i], logits, whole,
                    (uint64_t)FIXTURE_TOKENS * FIXTURE_VOCAB);
        free(logits);
        stop(&w);
    }
    free(whole);
}

static void what_a_device_lacks_runs_on_the_host(void)
{
    each_fixture(check_lacking);
}

/* ---- Cache formats that a device lacks */

/* A format holds for all devices: one that a device has no kernels for is refused with what it has, and is no alternative in the
 * plan; without a layer on that device it is fine. */
static void a_format_that_a_device_lacks_is_refused(void)
{
    struct fixture_data data;
    struct world w;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[5], &data), 0); /* gemma3: windows */
    for (uint32_t on_device = 0; on_device < 2; on_device++) {
        int32_t status;
        start(&w);
        set(&w, "model.gpu-layers=%u", on_device);
        set(&w, "backend-twin.refused_kv=q8_0");
        status = load(&w, data.model, (struct sharpi_model_options){.kv = "f32", .kv_swa = "q8_0"});
        CU_ASSERT_EQUAL(status, on_device ? SHARPI_ENOTSUP : SHARPI_OK);
        if (on_device) {
            CU_ASSERT_PTR_NOT_NULL(strstr(w.err.text, "layer 0 on twin0 with --kv q8_0: the twin has no"));
            CU_ASSERT_PTR_NOT_NULL(strstr(w.err.text, "Formats that twin0 has for it: f32, f16, bf16."));
        }
        stop(&w);
    }
    for (uint32_t refuses = 0; refuses < 2; refuses++) { /* what the plan compares with */
        uint32_t n = 0;
        start(&w);
        set(&w, "model.reserve=0");
        set(&w, "model.gpu-layers=7");
        set(&w, "backend-twin.memory_limit=20MiB");
        if (refuses)
            set(&w, "backend-twin.refused_kv=q8_0");
        load_or_fail(&w, data.model, (struct sharpi_model_options){.kv = "f32", .context = AUTO_CONTEXT});
        for (uint32_t i = 0; i < w.model->plan->rejected.n; i++)
            n += strstr(w.model->plan->rejected.lines[i], "kv = q8_0") != NULL;
        CU_ASSERT_EQUAL(n, !refuses);
        stop(&w);
    }
    free(data.logits);
}

/* Kernels that only the format's reference functions can stand in for: a line says so, once for all layers of a part, and each part
 * says what it uses. */
static void a_format_without_kernels_is_slow_and_said(void)
{
    const char *top = getenv("top_builddir");
    struct fixture_data data;
    struct world w;
    uint32_t n_layers, n_lines = 0;
    float *whole, *logits;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[0], &data), 0);
    whole = whole_logits(&data, (struct sharpi_model_options){.chunk = 48}, FIXTURE_TOKENS, &n_layers);
    start(&w);
    w.n_settings = 0;
    set(&w,
        "plugins.load=backend-cpu arch-dense kv-float %s/tests/plugins/.libs/backend-twin.so "
        "%s/tests/plugins/.libs/good.so",
        top ? top : ".", top ? top : ".");
    set(&w, "model.gpu-layers=1");
    load_or_fail(&w, data.model, (struct sharpi_model_options){.chunk = 48, .kv = "good-kv"});
    for (const char *at = log_text; (at = strstr(at, "good-kv has no kernels")); at++)
        n_lines++;
    CU_ASSERT_EQUAL(n_lines, 2);
    CU_ASSERT_EQUAL(w.model->memory.n_fallback_ops, n_layers);
    CU_ASSERT_PTR_NOT_NULL(strstr(log_text, "layer 0 on twin0 (KV good-kv)"));
    CU_ASSERT_PTR_NOT_NULL(strstr(log_text, "on cpu (KV good-kv)"));
    logits = run_tokens(w.model, data.tokens, FIXTURE_TOKENS);
    CU_ASSERT(max_difference(logits, whole, (uint64_t)FIXTURE_TOKENS * FIXTURE_VOCAB) < 1e-3);
    free(logits);
    free(whole);
    free(data.logits);
    stop(&w);
}

/* ---- Three devices, by a saved plan */

/* Writes a plan of two devices that hold [0, first) and [first, second) segments; the rest is the host's. */
static void save_plan(const struct fixture_data *data, const char *file, uint32_t first, uint32_t second)
{
    struct sharpi_plan_device devices[2];
    struct sharpi_plan_wishes wishes = {.n_devices = 2, .devices = devices};
    struct sharpi_model_options options = {.size = sizeof options, .context = 256, .kv = "f32", .chunk = 32};
    struct sharpi_plan *plan = NULL;
    struct world w;
    char *text = NULL;
    FILE *stream = fopen(file, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(stream);
    CU_ASSERT_EQUAL_FATAL(sharpi_plan_parse_device("a:8GiB", &devices[0], NULL), SHARPI_OK);
    CU_ASSERT_EQUAL_FATAL(sharpi_plan_parse_device("b:8GiB", &devices[1], NULL), SHARPI_OK);
    start(&w);
    load_or_fail(&w, data->model, options);
    CU_ASSERT_EQUAL_FATAL(sharpi_model_plan(w.model, &options, &wishes, &plan, &w.err), SHARPI_OK);
    plan->parts[0].end_segment = plan->parts[1].first_segment = first;
    plan->parts[1].end_segment = plan->parts[2].first_segment = second;
    CU_ASSERT_EQUAL_FATAL(sharpi_plan_json(plan, &text, &w.err), SHARPI_OK);
    fputs(text, stream);
    fclose(stream);
    free(text);
    sharpi_plan_free(plan);
    stop(&w);
}

static void three_devices_and_a_saved_plan(void)
{
    static const uint32_t ends[][2] = {{2, 3}, {2, 4}, {3, 4}, {2, 2}, {4, 6}};
    char file[] = "/tmp/sharpi-parts-XXXXXX";
    int fd = mkstemp(file);
    struct fixture_data data;
    uint32_t n_layers;
    float *whole;
    CU_ASSERT_FATAL(fd >= 0);
    close(fd);
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[5], &data), 0); /* gemma3: windows */
    whole = whole_logits(&data, (struct sharpi_model_options){.chunk = 32}, FIXTURE_TOKENS, &n_layers);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct world w;
        float *logits;
        uint32_t second = ends[i][1] < n_layers + 2 ? ends[i][1] : n_layers + 2;
        save_plan(&data, file, ends[i][0], second);
        start(&w);
        set(&w, "model.plan=%s", file);
        set(&w, "backend-twin.devices=2");
        load_or_fail(&w, data.model, (struct sharpi_model_options){.context = 0});
        CU_ASSERT_EQUAL(w.model->devices[0].n_parts, 1);
        CU_ASSERT_EQUAL(w.model->devices[1].n_parts, second > ends[i][0]);
        logits = run_tokens(w.model, data.tokens, FIXTURE_TOKENS);
        check_equal(&fixtures[5], "plan", (uint32_t)i, logits, whole,
                    (uint64_t)FIXTURE_TOKENS * FIXTURE_VOCAB);
        free(logits);
        stop(&w);
    }
    { /* more devices than there are */
        struct world w;
        save_plan(&data, file, 2, 3);
        start(&w);
        set(&w, "model.plan=%s", file);
        CU_ASSERT_EQUAL(load(&w, data.model, (struct sharpi_model_options){.context = 0}), SHARPI_ENOTSUP);
        CU_ASSERT_PTR_NOT_NULL(strstr(w.err.text, "this process has 1 device"));
        stop(&w);
    }
    remove(file);
    free(whole);
    free(data.logits);
}

/* ---- Batches, rings, taps */

/* Eight sequences of different lengths in one step, and one token more each. */
static void run_batch(struct sharpi_model *model, const struct fixture_data *data, float *logits[N_SEQS])
{
    struct sharpi_work work[N_SEQS];
    struct sharpi_error err = SHARPI_ERROR_INIT;
    for (uint32_t i = 0; i < N_SEQS; i++) {
        uint32_t n = 19 * i + 1;
        logits[i] = calloc((size_t)(n + 1) * FIXTURE_VOCAB, sizeof(float));
        work[i] = (struct sharpi_work){
            .tokens = data->tokens + 3 * i, .n_tokens = n, .want = 2, .logits = logits[i]};
        CU_ASSERT_EQUAL_FATAL(sharpi_session_create(model, &work[i].session, &err), SHARPI_OK);
    }
    CU_ASSERT_EQUAL(sharpi_step(model, work, N_SEQS, &err), SHARPI_OK);
    for (uint32_t i = 0; i < N_SEQS; i++) {
        work[i].tokens += work[i].n_tokens;
        work[i].logits += (size_t)work[i].n_tokens * FIXTURE_VOCAB;
        work[i].n_tokens = 1;
        work[i].want = i & 1; /* some rows only, so that steps without any occur below */
    }
    CU_ASSERT_EQUAL(sharpi_step(model, work, N_SEQS, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_step(model, work, 1, &err), SHARPI_OK); /* wants nothing */
    for (uint32_t i = 0; i < N_SEQS; i++)
        sharpi_session_free(work[i].session);
}

static void check_batches(const struct fixture *f, const struct fixture_data *data)
{
    struct sharpi_model_options options = {.chunk = 48, .headroom = 48, .max_sessions = N_SEQS, .kv = "q8_0"};
    float *one[N_SEQS], *two[N_SEQS];
    struct world w;
    start(&w);
    set(&w, "model.device=cpu");
    load_or_fail(&w, data->model, options);
    run_batch(w.model, data, one);
    stop(&w);
    start(&w);
    set(&w, "model.gpu-layers=1");
    if (f->mixture)
        set(&w, "model.cpu-moe=true");
    load_or_fail(&w, data->model, options);
    CU_ASSERT(w.model->ranges.n > 1);
    run_batch(w.model, data, two);
    stop(&w);
    for (uint32_t i = 0; i < N_SEQS; i++) {
        check_equal(f, "sequence", i, two[i], one[i], (uint64_t)(19 * i + 2) * FIXTURE_VOCAB);
        free(one[i]);
        free(two[i]);
    }
}

static void batches_of_eight_equal_one_device(void)
{
    each_fixture(check_batches);
}

/* Rings of one page that turn three times, in both parts. */
static void check_rings(const struct fixture *f, const struct fixture_data *data)
{
    struct sharpi_model_options options = {.chunk = 32, .headroom = 32, .kv = "bf16"};
    struct world w;
    uint32_t n_layers, wraps = 0;
    float *whole, *logits;
    if (!f->windowed)
        return;
    whole = whole_logits(data, options, 193, &n_layers);
    start(&w);
    set(&w, "model.gpu-layers=1");
    load_or_fail(&w, data->model, options);
    CU_ASSERT_EQUAL(w.model->ranges.n, 2);
    for (uint32_t c = 0; c < w.model->n_classes; c++)
        wraps += w.model->classes[c].ring < 193;
    CU_ASSERT(wraps > 0);
    logits = run_tokens(w.model, data->tokens, 193);
    check_equal(f, "ring", 1, logits, whole, 193 * FIXTURE_VOCAB);
    free(whole);
    free(logits);
    stop(&w);
}

static void rings_turn_in_both_parts(void)
{
    each_fixture(check_rings);
}

enum { N_TAPS = 4 };

/* Values of four taps for 50 tokens in chunks of 16; the model's parts go to *n. */
static void read_taps(const struct fixture_data *data, const char *setting, uint32_t *n, float *taps[N_TAPS],
                      uint32_t widths[N_TAPS])
{
    static const char *const names[] = {"blk.0.attn_out", "blk.0.out", "blk.1.ffn_out", "result_norm", NULL};
    struct sharpi_model_options options = {.chunk = 16, .taps = names};
    struct sharpi_session *session = NULL;
    float *logits = malloc(50 * FIXTURE_VOCAB * sizeof *logits);
    struct sharpi_work work = {
        .tokens = data->tokens, .n_tokens = 50, .want = 2, .logits = logits, .taps = taps};
    struct world w;
    start(&w);
    set(&w, "%s", setting);
    load_or_fail(&w, data->model, options);
    *n = w.model->ranges.n;
    for (uint32_t i = 0; i < N_TAPS; i++) {
        widths[i] = sharpi_graph_view(w.model->graph)->values[w.model->taps[i]]->width;
        taps[i] = calloc(50ull * widths[i], sizeof(float));
    }
    CU_ASSERT_EQUAL_FATAL(sharpi_session_create(w.model, &session, &w.err), SHARPI_OK);
    work.session = session;
    CU_ASSERT_EQUAL(sharpi_step(w.model, &work, 1, &w.err), SHARPI_OK);
    sharpi_session_free(session);
    free(logits);
    stop(&w);
}

static void check_taps(const struct fixture *f, const struct fixture_data *data)
{
    float *one[N_TAPS], *two[N_TAPS];
    uint32_t widths[N_TAPS], n;
    read_taps(data, "model.device=cpu", &n, one, widths);
    CU_ASSERT_EQUAL(n, 1);
    read_taps(data, "model.gpu-layers=1", &n, two, widths);
    CU_ASSERT_EQUAL(n, 2);
    for (uint32_t i = 0; i < N_TAPS; i++) {
        CU_ASSERT_NOT_EQUAL(one[i][49 * widths[i]], 0.0f);
        check_equal(f, "tap", i, two[i], one[i], 50ull * widths[i]);
        free(one[i]);
        free(two[i]);
    }
}

static void taps_are_read_from_either_part(void)
{
    each_fixture(check_taps);
}

/* A page of every layer, copied where it lies: a sequence whose table names the copy reads the same rows. */
static void pages_are_copied_on_their_devices(void)
{
    struct fixture_data data;
    struct world w;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[3], &data), 0);
    start(&w);
    set(&w, "model.gpu-layers=1");
    load_or_fail(&w, data.model, (struct sharpi_model_options){.max_sessions = 2});
    free(run_tokens(w.model, data.tokens, 64)); /* its page is free again, its rows are still there */
    for (int32_t from = 0; from < 2; from++) {
        const int32_t to = (int32_t)w.model->kv_layers[0].n_pages - 1;
        CU_ASSERT_EQUAL(sharpi_model_copy_page(w.model, 0, from, to, &w.err), SHARPI_OK);
        for (uint32_t i = 0; i < w.model->desc.n_layers; i++) {
            const struct sharpi_kv_layer *kv = &w.model->kv_layers[i];
            size_t n = sharpi_kv_layer_bytes(kv) / kv->n_pages;
            CU_ASSERT_EQUAL(memcmp((char *)kv->k + (size_t)from * n, (char *)kv->k + (size_t)to * n, n), 0);
            CU_ASSERT_EQUAL(memcmp((char *)kv->v + (size_t)from * n, (char *)kv->v + (size_t)to * n, n), 0);
        }
    }
    stop(&w);
    free(data.logits);
}

/* ---- Candidates from the device */

/* 20 tokens from a session; *untouched tells whether steps left the session's row of logits alone. */
static void generate(struct world *w, const struct sharpi_sampler_params *params, const int32_t *prompt,
                     int32_t made[20], int *untouched)
{
    struct sharpi_session *session = NULL;
    struct sharpi_sampler *sampler = NULL;
    CU_ASSERT_EQUAL_FATAL(sharpi_sampler_create(params, FIXTURE_VOCAB, &sampler, &w->err), SHARPI_OK);
    CU_ASSERT_EQUAL_FATAL(sharpi_session_create(w->model, &session, &w->err), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_session_feed(session, prompt, 12, &w->err), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_session_next(session, sampler, &made[0], &w->err), SHARPI_OK);
    memset(session->logits, 0xff, FIXTURE_VOCAB * sizeof(float));
    for (uint32_t i = 1; i < 20; i++) {
        int32_t status = sharpi_session_next(session, sampler, &made[i], &w->err);
        if (status)
            fprintf(stderr, "%s\n", w->err.text);
        CU_ASSERT_EQUAL_FATAL(status, SHARPI_OK);
    }
    *untouched = 1;
    for (uint32_t i = 0; i < FIXTURE_VOCAB; i++)
        *untouched &= session->logits[i] != session->logits[i];
    sharpi_session_free(session);
    sharpi_sampler_destroy(sampler);
}

static void a_device_may_find_the_highest_logits(void)
{
    static const int32_t top_k[] = {1, 40, 64, 65, 0};
    struct fixture_data data;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[5], &data), 0);
    for (size_t i = 0; i < sizeof top_k / sizeof *top_k; i++) {
        struct sharpi_sampler_params params;
        int32_t one[20], two[20];
        int untouched;
        struct world w;
        sharpi_sampler_params_init(&params);
        params.top_k = top_k[i];
        params.temperature = i ? 1.5f : 0.0f;
        params.seed = 5;
        start(&w);
        set(&w, "model.device=cpu");
        load_or_fail(&w, data.model, (struct sharpi_model_options){.chunk = 8});
        generate(&w, &params, data.tokens, one, &untouched);
        CU_ASSERT(!untouched); /* the CPU gives all logits */
        stop(&w);
        start(&w);
        set(&w, "model.device=twin");
        load_or_fail(&w, data.model, (struct sharpi_model_options){.chunk = 8});
        generate(&w, &params, data.tokens, two, &untouched);
        CU_ASSERT_EQUAL(untouched, top_k[i] > 0 && top_k[i] <= 64);
        CU_ASSERT_EQUAL(memcmp(one, two, sizeof one), 0);
        stop(&w);
    }
    free(data.logits);
}

/* ---- Memory */

/* Plans from the header alone, loads, and compares: part by part, and with what the devices have given out. */
static void check_memory(const struct fixture_data *data, const char *setting,
                         struct sharpi_model_options options)
{
    struct sharpi_model_info info = {.size = sizeof info};
    struct sharpi_model *planned = NULL;
    const struct sharpi_tensor *table;
    struct world w;
    start(&w);
    set(&w, "%s", setting);
    load_or_fail(&w, data->model, options);
    options.size = sizeof options;
    options.n_threads = 2;
    CU_ASSERT_EQUAL_FATAL(sharpi_model_open(w.engine, data->model, SHARPI_GGUF_HEADER_ONLY, &planned, &w.err),
                          SHARPI_OK);
    CU_ASSERT_EQUAL_FATAL(sharpi_model_place(planned, &options, 0, &w.err), SHARPI_OK);
    CU_ASSERT(w.model->ranges.n > 1);
    CU_ASSERT_EQUAL_FATAL(planned->plan->n_parts, 2);
    CU_ASSERT_EQUAL(planned->plan->context, w.model->context);
    CU_ASSERT_EQUAL(planned->plan->parts[1].carried_bytes, w.model->ranges.n_bytes);
    CU_ASSERT(w.model->ranges.n_bytes > 0);
    sharpi_model_get_info(w.model, &info);
    CU_ASSERT_EQUAL(planned->plan->parts[1].mapped_bytes, info.mapped_bytes);
    /* a table that layers on both devices look up is there once */
    table = sharpi_gguf_tensor(sharpi_model_file_gguf(w.model->file), "per_layer_token_embd.weight");
    CU_ASSERT_EQUAL(w.model->memory.mapped_bytes - info.mapped_bytes, table ? table->n_bytes : 0);
    for (uint32_t d = 0; d < 2; d++) {
        const struct sharpi_plan_part *a = &planned->plan->parts[d], *b = &w.model->plan->parts[d];
        CU_ASSERT_EQUAL(a->weight_bytes, b->weight_bytes);
        CU_ASSERT_EQUAL(a->scratch_bytes, b->scratch_bytes);
        CU_ASSERT_EQUAL(a->kv_bytes, b->kv_bytes);
        check_used(w.model, d);
    }
    sharpi_model_free(planned);
    stop(&w);
}

static void check_plan(const struct fixture *f, const struct fixture_data *data)
{
    struct sharpi_model_options options = {.kv = "q8_0", .context = 300, .max_sessions = 2};
    check_memory(data, f->windowed || f->mixture ? "model.gpu-layers=1" : "model.gpu-layers=2", options);
    options.no_repack = 1;
    options.chunk = 20;
    check_memory(data, "model.gpu-layers=1", options);
    if (f->mixture)
        check_memory(data, "model.n-cpu-moe=2", options);
}

/* Blocks of a device count in whole multiples, in the plan and when it is loaded again. */
static void a_device_with_coarse_blocks_is_priced_so(void)
{
    struct sharpi_model_options options = {.context = 200};
    char file[] = "/tmp/sharpi-parts-XXXXXX", *text = NULL;
    struct fixture_data data;
    uint64_t exact, coarse;
    struct world w;
    FILE *stream;
    int fd = mkstemp(file);
    CU_ASSERT_FATAL(fd >= 0);
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[3], &data), 0);
    start(&w);
    set(&w, "model.gpu-layers=2");
    set(&w, "backend-twin.granularity=1048576");
    load_or_fail(&w, data.model, options);
    coarse = w.model->plan->parts[0].kv_bytes;
    CU_ASSERT_EQUAL(coarse, 2ull * 2 * MIB); /* K and V of two layers */
    check_used(w.model, 0);
    check_used(w.model, 1);
    CU_ASSERT_EQUAL_FATAL(sharpi_plan_json(w.model->plan, &text, &w.err), SHARPI_OK);
    exact = w.model->plan->cache_bytes;
    CU_ASSERT(exact < coarse);
    stop(&w);
    stream = fdopen(fd, "w");
    fputs(text, stream);
    fclose(stream);
    free(text);
    start(&w); /* a device of another kind may take the plan */
    set(&w, "model.plan=%s", file);
    load_or_fail(&w, data.model, options);
    CU_ASSERT_EQUAL(sharpi_plan_kv_bytes(w.model->plan), exact);
    stop(&w);
    remove(file);
    free(data.logits);
}

static void parts_take_what_was_planned(void)
{
    each_fixture(check_plan);
}

/* Memory that opening a device takes is in the plan, which no limit may hide. */
static void what_opening_a_device_takes_is_counted(void)
{
    struct sharpi_model_options options = {.context = 4096, .kv = "f32"};
    struct fixture_data data;
    struct world w;
    uint64_t needed;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[0], &data), 0);
    start(&w);
    set(&w, "model.reserve=exact");
    set(&w, "backend-twin.memory_limit=2GiB");
    load_or_fail(&w, data.model, options);
    CU_ASSERT_EQUAL(w.model->plan->parts[0].runtime_bytes, 0);
    needed = w.model->plan->parts[0].needed_bytes;
    stop(&w);
    start(&w);
    set(&w, "model.reserve=exact");
    set(&w, "backend-twin.memory_limit=2GiB");
    set(&w, "backend-twin.runtime=100000000");
    load_or_fail(&w, data.model, options);
    CU_ASSERT_EQUAL(w.model->plan->parts[0].runtime_bytes, 100000000);
    CU_ASSERT_EQUAL(w.model->plan->parts[0].needed_bytes, needed + 100000000);
    CU_ASSERT_EQUAL(w.model->plan->parts[0].free_bytes, 2048ull * MIB); /* as before it was opened */
    CU_ASSERT_EQUAL(w.model->plan->parts[1].runtime_bytes, 0);
    stop(&w);
    free(data.logits);
}

/* Without a wish for the chunk it is the largest that there is room for. */
static void the_chunk_is_chosen_by_the_room(void)
{
    struct sharpi_model_options options = {.context = 4096, .kv = "f32"};
    struct fixture_data data;
    struct world w;
    uint64_t needed;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[0], &data), 0);
    start(&w);
    set(&w, "model.reserve=exact");
    load_or_fail(&w, data.model, options);
    CU_ASSERT_EQUAL(w.model->chunk, 2048);
    CU_ASSERT_EQUAL(w.model->plan->chunk, 2048);
    check_used(w.model, 0);
    needed = w.model->plan->parts[0].needed_bytes;
    stop(&w);
    start(&w); /* a byte too little */
    set(&w, "model.reserve=exact");
    set(&w, "backend-twin.memory_limit=%llu", (unsigned long long)needed - 1);
    load_or_fail(&w, data.model, options);
    CU_ASSERT_EQUAL(w.model->ranges.n, 1);
    CU_ASSERT_EQUAL(w.model->chunk, 1024);
    check_used(w.model, 0);
    stop(&w);
    start(&w);
    set(&w, "model.chunk=512");
    load_or_fail(&w, data.model, options);
    CU_ASSERT_EQUAL(w.model->chunk, 512);
    stop(&w);
    start(&w); /* the CPU alone */
    set(&w, "model.device=cpu");
    load_or_fail(&w, data.model, options);
    CU_ASSERT_EQUAL(w.model->chunk, 512);
    stop(&w);
    free(data.logits);
}

static void the_plan_splits_what_a_device_cannot_hold(void)
{
    struct sharpi_model_options options = {.context = 200};
    struct fixture_data data;
    struct world w;
    uint32_t n_layers;
    uint64_t needed;
    float *whole, *logits;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[0], &data), 0);
    whole = whole_logits(&data, options, FIXTURE_TOKENS, &n_layers);
    start(&w); /* a device with room for all gets all */
    set(&w, "model.reserve=64KiB");
    load_or_fail(&w, data.model, options);
    CU_ASSERT_EQUAL(w.model->ranges.n, 1);
    CU_ASSERT_EQUAL(w.model->devices[0].n_parts, 1);
    CU_ASSERT_STRING_EQUAL(w.model->backend_names, "twin");
    CU_ASSERT_PTR_NULL(w.model->devices[1].device); /* not opened, as it is not used */
    needed = w.model->plan->parts[0].needed_bytes;
    stop(&w);
    start(&w); /* one that is a little too small does not */
    set(&w, "model.reserve=64KiB");
    set(&w, "backend-twin.memory_limit=%llu", (unsigned long long)needed - 1);
    load_or_fail(&w, data.model, options);
    CU_ASSERT_EQUAL(w.model->ranges.n, 2);
    CU_ASSERT_EQUAL(sharpi_plan_short_bytes(w.model->plan), 0);
    CU_ASSERT(w.model->devices[0].device->used_bytes <= needed - 1);
    CU_ASSERT_STRING_EQUAL(w.model->backend_names, "twin+cpu");
    CU_ASSERT_PTR_NOT_NULL(strstr(log_text, "on the CPU, which is slower"));
    CU_ASSERT_PTR_NOT_NULL(strstr(log_text, "on twin0 (KV f32)"));
    logits = run_tokens(w.model, data.tokens, FIXTURE_TOKENS);
    check_equal(&fixtures[0], "automatic split", 0, logits, whole, (uint64_t)FIXTURE_TOKENS * FIXTURE_VOCAB);
    free(logits);
    stop(&w);
    free(whole);
    free(data.logits);
}

/* The twin has its share already when the CPU has no room: nothing stays behind. */
static void a_part_without_memory_frees_the_others(void)
{
    struct fixture_data data;
    struct world w;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[3], &data), 0);
    start(&w);
    set(&w, "model.gpu-layers=2");
    set(&w, "backend-cpu.memory_limit=128KiB");
    set(&w, "model.reserve=0");
    for (uint32_t i = 0; i < 2; i++) {
        int64_t before = w.engine ? w.engine->live_allocs : -1;
        CU_ASSERT_EQUAL(load(&w, data.model, (struct sharpi_model_options){.kv = "f32"}), SHARPI_ENOMEM);
        CU_ASSERT_PTR_NULL(w.model);
        CU_ASSERT(before < 0 || before == w.engine->live_allocs);
    }
    CU_ASSERT_PTR_NOT_NULL(strstr(w.err.text, "memory_limit"));
    stop(&w);
    start(&w); /* plugins' allocations fail one after the other */
    set(&w, "model.gpu-layers=2");
    load_or_fail(&w, data.model, (struct sharpi_model_options){.kv = "f32"});
    sharpi_model_free(w.model);
    w.model = NULL;
    for (int64_t n = 0; n < 100000 && !w.model; n += n < 40 ? 1 : 37) {
        int64_t before = w.engine->live_allocs;
        w.engine->allocs_left = n;
        if (load(&w, data.model, (struct sharpi_model_options){.kv = "f32"})) {
            CU_ASSERT_EQUAL(w.err.code, SHARPI_ENOMEM);
            CU_ASSERT_EQUAL(before, w.engine->live_allocs);
        }
        w.engine->allocs_left = -1;
    }
    CU_ASSERT_PTR_NOT_NULL(w.model);
    stop(&w);
    free(data.logits);
}

/* ---- Failures and refusals */

static int32_t fail_run(struct sharpi_program *program, const struct sharpi_batch *batch,
                        const struct sharpi_run_io *io, struct sharpi_error *err)
{
    (void)program, (void)batch, (void)io;
    return sharpi_fail(err, SHARPI_EDEVICE, "the second part is on fire");
}

static void a_failing_part_fails_the_step(void)
{
    struct sharpi_session *session = NULL;
    struct sharpi_backend broken;
    const struct sharpi_backend *sound;
    struct sharpi_offer *offer;
    struct fixture_data data;
    struct world w;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[3], &data), 0);
    start(&w);
    set(&w, "model.gpu-layers=2");
    load_or_fail(&w, data.model, (struct sharpi_model_options){.chunk = 32});
    CU_ASSERT_EQUAL_FATAL(sharpi_session_create(w.model, &session, &w.err), SHARPI_OK);
    CU_ASSERT_EQUAL(sharpi_session_feed(session, data.tokens, 40, &w.err), SHARPI_OK);
    offer = (struct sharpi_offer *)(uintptr_t)w.model->devices[1].offer;
    sound = offer->backend;
    broken = *sound;
    broken.run = fail_run;
    offer->backend = &broken;
    CU_ASSERT_EQUAL(sharpi_session_feed(session, data.tokens + 40, 60, &w.err), SHARPI_EDEVICE);
    CU_ASSERT_PTR_NOT_NULL(strstr(w.err.text, "on fire"));
    CU_ASSERT_EQUAL(sharpi_session_length(session), 40);
    offer->backend = sound;
    CU_ASSERT_EQUAL(sharpi_session_feed(session, data.tokens + 40, 60, &w.err), SHARPI_OK);
    CU_ASSERT(max_difference(sharpi_session_logits(session), data.logits + 99 * FIXTURE_VOCAB,
                             FIXTURE_VOCAB) <= 0.002f);
    sharpi_session_free(session);
    stop(&w);
    free(data.logits);
}

static void check_refused(const char *model, const char *setting, const char *other, int32_t status,
                          const char *text)
{
    struct world w;
    start(&w);
    set(&w, "%s", setting);
    set(&w, "%s", other);
    CU_ASSERT_EQUAL(load(&w, model, (struct sharpi_model_options){.chunk = 8}), status);
    CU_ASSERT_PTR_NOT_NULL(strstr(w.err.text, text));
    if (!strstr(w.err.text, text))
        fprintf(stderr, "%s, not '%s'\n", w.err.text, text);
    stop(&w);
}

/* The mixture of qwen3moe: 2 of 8 experts in each layer. */
static void experts_of_a_step_are_counted(void)
{
    uint64_t experts = 0, one, two, all, macs, same;
    struct fixture_data data;
    struct world w;
    const struct sharpi_graph_view *view;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[10], &data), 0);
    start(&w);
    load_or_fail(&w, data.model, (struct sharpi_model_options){.context = 64});
    view = sharpi_graph_view(w.model->graph);
    for (uint32_t i = 0; i < view->n_ops; i++) {
        const struct sharpi_op *op = view->ops[i];
        for (uint32_t k = 0; op->kind == SHARPI_OP_MOE_FFN && k < SHARPI_OP_MAX_WEIGHTS; k++)
            experts += op->w[k] && op->w[k]->ne[2] == 8 ? op->w[k]->n_bytes : 0;
    }
    CU_ASSERT(experts > 0);
    sharpi_graph_cost(w.model->graph, 1, &one, &macs);
    sharpi_graph_cost(w.model->graph, 2, &two, &same);
    sharpi_graph_cost(w.model->graph, 1000, &all, &same);
    CU_ASSERT_EQUAL(macs, same);
    CU_ASSERT_DOUBLE_EQUAL((double)(two - one), (double)experts * (2.0 / 8 - 4.0 / 64),
                           4096.0); /* and a row of the embedding */
    CU_ASSERT_DOUBLE_EQUAL((double)(all - one),
                           (double)experts * 6 / 8 + 999.0 * (double)(two - one - experts * 3 / 16), 4096.0);
    stop(&w);
    free(data.logits);
}

/* What a load with these settings of the twin leaves in use (NULL: only the CPU), and the one line that it logs. */
static void check_left_out(const char *model, uint32_t n_devices, uint32_t n_unusable, const char *used,
                           const char *line)
{
    const char *at;
    struct world w;
    start(&w);
    set(&w, "backend-twin.devices=%u", n_devices);
    set(&w, "backend-twin.unusable=%u", n_unusable);
    load_or_fail(&w, model, (struct sharpi_model_options){.context = 64});
    CU_ASSERT_EQUAL(w.model->n_devices, used ? 1 : 0);
    CU_ASSERT_STRING_EQUAL(w.model->devices[0].name, used ? used : "cpu");
    at = strstr(log_text, "going on without");
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    CU_ASSERT_EQUAL(strncmp(at, line, strlen(line)), 0);
    CU_ASSERT_PTR_NULL(strstr(at + 1, "going on without"));
    stop(&w);
}

static void devices_that_cannot_be_used_are_left_out(void)
{
    struct fixture_data data;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[0], &data), 0);
    check_left_out(data.model, 0, 0, NULL,
                   "going on without backend 'twin': [backend-twin] devices = 0. Where");
    check_left_out(data.model, 1, 1, NULL,
                   "going on without backend 'twin': [backend-twin] unusable = 1. Where");
    check_left_out(data.model, 2, 1, "twin1",
                   "going on without device twin:0: [backend-twin] unusable = 1\n");
    check_refused(data.model, "backend-twin.devices=0", "model.backend=twin", SHARPI_EDEVICE, "devices = 0");
    free(data.logits);
}

static void what_cannot_be_is_refused(void)
{
    const char *const any = "backend-twin.devices=2";
    struct fixture_data data, wide;
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[3], &data), 0);
    CU_ASSERT_EQUAL_FATAL(fixture_read(&fixtures[7], &wide), 0);
    check_refused(data.model, "model.gpu-layers=2", "model.device=cpu", SHARPI_EINVAL,
                  "no device with memory of its own");
    check_refused(data.model, "model.gpu-layers=2", "backend-twin.devices=0", SHARPI_EINVAL,
                  "no device with memory of its own");
    check_refused(data.model, any, "model.device=abacus", SHARPI_ENOENT, "'abacus' is not loaded");
    check_refused(data.model, any, "model.device=twin:2", SHARPI_ENOENT, "has 2, numbered from 0");
    check_refused(data.model, any, "model.device=twin twin:0", SHARPI_EINVAL, "listed twice");
    check_refused(data.model, any, "model.device=twin:x", SHARPI_EINVAL, "as in cuda:1");
    check_refused(data.model, "backend-twin.refused=7", "model.strict=true", SHARPI_ENOTSUP, "strict is on");
    check_refused(data.model, "backend-twin.refused=6", any, SHARPI_ENOTSUP, "refuses ops of kind 6");
    check_refused(data.model, any, "model.cpu-moe=1", SHARPI_EINVAL, "no experts");
    check_refused(wide.model, any, "model.gpu-layers=2", SHARPI_EINVAL, "both must be on one side");
    free(data.logits);
    free(wide.logits);
}

#define TEST(name)                                                                                           \
    {                                                                                                        \
#name, name                                                                                          \
    }

int main(void)
{
    static CU_TestInfo tests[] = {TEST(layers_may_be_split_anywhere),
                                  TEST(experts_may_lie_on_the_other_device),
                                  TEST(what_a_device_lacks_runs_on_the_host),
                                  TEST(a_format_that_a_device_lacks_is_refused),
                                  TEST(a_format_without_kernels_is_slow_and_said),
                                  TEST(three_devices_and_a_saved_plan),
                                  TEST(batches_of_eight_equal_one_device),
                                  TEST(rings_turn_in_both_parts),
                                  TEST(taps_are_read_from_either_part),
                                  TEST(a_device_may_find_the_highest_logits),
                                  TEST(pages_are_copied_on_their_devices),
                                  TEST(parts_take_what_was_planned),
                                  TEST(a_device_with_coarse_blocks_is_priced_so),
                                  TEST(what_opening_a_device_takes_is_counted),
                                  TEST(the_chunk_is_chosen_by_the_room),
                                  TEST(the_plan_splits_what_a_device_cannot_hold),
                                  TEST(a_part_without_memory_frees_the_others),
                                  TEST(a_failing_part_fails_the_step),
                                  TEST(experts_of_a_step_are_counted),
                                  TEST(devices_that_cannot_be_used_are_left_out),
                                  TEST(what_cannot_be_is_refused),
                                  CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"parts", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    unsigned failures;
    if (!fixtures_present()) {
        printf("skipped: no fixtures in SHARPI_SHARED\n");
        return 77;
    }
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
