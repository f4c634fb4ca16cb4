/* sharpi bench: prefill and decode speed over lengths and depths, beside the floors of the hardware.
 *
 * Each number is the median of the repetitions. GB/s counts the weights of one step and the cache rows that attention reads;
 * GOP/s counts two operations per multiply-accumulate in matrix products and attention. The floors are what the backend
 * measured on this machine just before. Decoding is greedy: a step ends with the id of the highest logit.
 */
#include <stdlib.h>
#include <string.h>

#include "bench-text.h"
#include "command.h"
#include "core/session.h"

#define MAX_LIST 16

struct bench {
    struct common common;
    const char *prefill, *decode, *depths;
    uint32_t repetitions, json, batch;
    uint32_t n_prefill, n_decode, n_depths;
    uint32_t prefill_list[MAX_LIST], decode_list[MAX_LIST], depth_list[MAX_LIST];
};

struct result {
    uint32_t decode, n, depth, batch;
    double median, best, worst; /* tokens/s */
    double gb_per_s, gop_per_s;
};

/* "512,4096" to numbers. */
static int32_t parse_list(const char *name, const char *text, uint32_t *list, uint32_t *n,
                          struct sharpi_error *err)
{
    char part[32];
    uint64_t value;
    for (*n = 0; *text; (*n)++) {
        size_t length = strcspn(text, ",");
        snprintf(part, sizeof part, "%.*s", (int)(length < 31 ? length : 31), text);
        if (*n == MAX_LIST || sharpi_parse_uint(part, &value) || value > 1u << 20)
            return sharpi_fail(err, SHARPI_EINVAL,
                               "--%s: '%s' is not a list of up to %d numbers such as 128,512", name, part,
                               MAX_LIST);
        list[*n] = (uint32_t)value;
        text += length + (text[length] == ',');
    }
    return SHARPI_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Bytes and multiply-accumulates of attention for tokens at positions [from, from + n) of one sequence; a step reads each
 * visible row once. */
static void attention_cost(const struct sharpi_model *model, uint64_t from, uint64_t n, uint32_t per_step,
                           double *bytes, double *macs)
{
    uint32_t i;
    uint64_t p;
    for (i = 0; i < model->desc.n_layers; i++) {
        const struct sharpi_layer_desc *l = &model->desc.layers[i];
        const struct sharpi_kv_layer *kv = &model->kv_layers[l->kv_source < 0 ? i : (uint32_t)l->kv_source];
        double row = 2.0 * (double)kv->kv->row_bytes(kv->kv_ctx, (uint64_t)kv->n_kv_heads * kv->head_dim);
        for (p = from; p < from + n; p++) {
            uint64_t seen = l->window && l->window < p + 1 ? l->window : p + 1;
            *macs += 2.0 * (double)seen * l->head_dim * model->desc.n_heads;
            if ((p - from) % per_step == 0)
                *bytes += row * (double)seen;
        }
    }
}

/* Arbitrary tokens, other ones for each session: equal rows would choose equal experts, whose weights are then read once for all. */
static void make_tokens(const struct sharpi_model *model, int32_t *tokens, uint64_t n, uint32_t *seed)
{
    for (uint64_t i = 0; i < n; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        tokens[i] = (int32_t)((*seed >> 8) % model->desc.n_vocab);
    }
}

/* Feeds n tokens to every session, `per_step` at a time; the same ones in each repetition. */
static int32_t feed(struct sharpi_model *model, struct sharpi_session **sessions, uint32_t batch, uint32_t n,
                    uint32_t per_step, struct sharpi_error *err)
{
    int32_t *tokens = malloc((size_t)per_step * batch * sizeof *tokens);
    struct sharpi_work *work = calloc(batch, sizeof *work);
    uint32_t done, i, seed = 12345;
    int32_t status = tokens && work ? SHARPI_OK : sharpi_fail(err, SHARPI_ENOMEM, "no memory for a batch");
    for (done = 0; done < n && !status && !interrupted(); done += per_step) {
        uint32_t now = n - done < per_step ? n - done : per_step;
        make_tokens(model, tokens, (uint64_t)now * batch, &seed);
        for (i = 0; i < batch; i++)
            work[i] = (struct sharpi_work){
                .session = sessions[i], .tokens = tokens + (uint64_t)i * now, .n_tokens = now, .want = 1};
        status = sharpi_step(model, work, batch, err);
    }
    free(work);
    free(tokens);
    return status;
}

static int32_t measure(const struct bench *b, struct sharpi_model *model, struct result *r,
                       struct sharpi_error *err)
{
    struct sharpi_session **sessions = calloc(r->batch, sizeof *sessions);
    double *rates = calloc(b->repetitions, sizeof *rates), bytes = 0, macs = 0, seconds;
    uint64_t step_bytes, step_macs, n_steps = r->decode ? r->n : (r->n + model->chunk - 1) / model->chunk;
    const uint32_t per_step = r->decode ? r->batch : r->n < model->chunk ? r->n : model->chunk;
    uint32_t i, k;
    int32_t status =
        sessions && rates ? SHARPI_OK : sharpi_fail(err, SHARPI_ENOMEM, "no memory for a measurement");
    for (i = 0; i < r->batch && !status; i++)
        status = sharpi_session_create(model, &sessions[i], err);
    for (i = 0; i < r->batch && !status; i++)
        sessions[i]->top_k = r->decode;
    for (k = 0; k < b->repetitions && !status && !interrupted(); k++) {
        for (i = 0; i < r->batch && !status; i++)
            status = sharpi_session_truncate(sessions[i], 0, err);
        if (!status)
            status = feed(model, sessions, r->batch, r->depth, model->chunk, err);
        seconds = now_seconds();
        if (!status)
            status = feed(model, sessions, r->batch, r->n, r->decode ? 1 : r->n, err);
        rates[k] = (double)r->n * r->batch / (now_seconds() - seconds);
    }
    if (!status) {
        qsort(rates, b->repetitions, sizeof *rates, by_value);
        r->worst = rates[0];
        r->median = 0.5 * (rates[(b->repetitions - 1) / 2] + rates[b->repetitions / 2]);
        r->best = rates[b->repetitions - 1];
        sharpi_graph_cost(model->graph, per_step, &step_bytes, &step_macs);
        attention_cost(model, r->depth, r->n, r->decode ? 1 : model->chunk, &bytes, &macs);
        bytes = (bytes * r->batch + (double)step_bytes * (double)n_steps) / (r->n * (double)r->batch);
        macs = macs / r->n + (double)step_macs;
        if (!r->decode) /* the output matrix runs for the last token only */
            macs -= (double)model->desc.width * model->desc.n_vocab * (1.0 - 1.0 / r->n);
        r->gb_per_s = bytes * r->median * 1e-9;
        r->gop_per_s = 2.0 * macs * r->median * 1e-9;
    }
    for (i = 0; sessions && i < r->batch; i++)
        sharpi_session_free(sessions[i]);
    free(sessions);
    free(rates);
    return status;
}

/* The rate of the unit that multiplies matrices: bf16 where it has units for that, which is where it is measured. */
static double peak_rate(const struct sharpi_rates *rates)
{
    return 1e-9 * (rates->bf16_ops_per_s > 0 ? rates->bf16_ops_per_s : rates->int8_ops_per_s);
}

static void print_result(const struct bench *b, const struct result *r, const struct sharpi_rates *rates,
                         int first)
{
    double bandwidth = rates->read_bytes_per_s * 1e-9, peak = peak_rate(rates);
    char test[64];
    snprintf(test, sizeof test, "%s %u%s", r->decode ? "decode" : "prefill", r->n, "");
    if (r->batch > 1)
        snprintf(test, sizeof test, "%s %u x %u", r->decode ? "decode" : "prefill", r->batch, r->n);
    if (b->json) {
        printf(
            "%s    {\"test\": \"%s\", \"tokens\": %u, \"depth\": %u, \"batch\": %u, \"tokens_per_s\": %.3f, "
            "\"min\": %.3f, \"max\": %.3f, \"gb_per_s\": %.3f, \"gop_per_s\": %.3f}",
            first ? "" : ",\n", r->decode ? "decode" : "prefill", r->n, r->depth, r->batch, r->median,
            r->worst, r->best, r->gb_per_s, r->gop_per_s);
        return;
    }
    printf("| %-16s | %6u | %9.2f | %9.2f | %9.2f | %7.2f | %4.0f%% | %8.1f | %4.0f%% |\n", test, r->depth,
           r->median, r->worst, r->best, r->gb_per_s, bandwidth > 0 ? 100 * r->gb_per_s / bandwidth : 0.0,
           r->gop_per_s, peak > 0 ? 100 * r->gop_per_s / peak : 0.0);
    fflush(stdout);
}

/* Which part lies where, for a model in several. */
static void print_parts(const struct sharpi_model *model)
{
    for (uint32_t i = 0; i < model->plan->n_parts; i++) {
        char what[SHARPI_PLAN_PART_TEXT], cache[80];
        sharpi_plan_describe_part(model->plan, &model->plan->parts[i], what);
        sharpi_model_describe_cache(model, &model->devices[i], cache, sizeof cache);
        if (*what)
            printf("on %s: %s%s\n", model->devices[i].name, what, cache);
    }
}

static void print_head(const struct bench *b, const struct sharpi_model *model,
                       const struct sharpi_rates *rates)
{
    struct sharpi_model_info info = {.size = sizeof info};
    struct sharpi_device_info device = {.size = sizeof device};
    sharpi_model_get_info(model, &info);
    model->backend->device_info(model->backend_offer->ctx, sharpi_model_layer_device(model, 0)->index,
                                &device, NULL);
    if (b->json) {
        printf("{\n  \"model\": \"%s\", \"arch\": \"%s\", \"parameters\": %llu, \"device\": \"%s\",\n"
               "  \"read_gb_per_s\": %.2f, \"int8_gop_per_s\": %.1f, \"f32_gop_per_s\": %.1f, "
               "\"bf16_gop_per_s\": %.1f,\n  "
               "\"results\": [\n",
               info.path, info.arch, (unsigned long long)info.n_parameters, device.name,
               rates->read_bytes_per_s * 1e-9, rates->int8_ops_per_s * 1e-9, rates->f32_ops_per_s * 1e-9,
               rates->bf16_ops_per_s * 1e-9);
        return;
    }
    printf("%s: %s, %.2f G parameters, %.2f GB of weights per decode step\n", info.path, info.arch,
           (double)info.n_parameters * 1e-9, (double)info.step_weight_bytes * 1e-9);
    if (model->ranges.n > 1)
        print_parts(model);
    else if (rates->bf16_ops_per_s > 0)
        printf("%s: reads %.1f GB/s, bf16 %.0f GOP/s\n", device.name, rates->read_bytes_per_s * 1e-9,
               rates->bf16_ops_per_s * 1e-9);
    else
        printf("%s: reads %.1f GB/s, int8 %.0f GOP/s, f32 %.0f GOP/s\n", device.name,
               rates->read_bytes_per_s * 1e-9, rates->int8_ops_per_s * 1e-9, rates->f32_ops_per_s * 1e-9);
    printf("memory: weights %.1f MB, in place %.1f MB, KV %.1f MB, scratch %.1f MB\n",
           (double)info.weight_bytes * 1e-6, (double)info.mapped_bytes * 1e-6, (double)info.kv_bytes * 1e-6,
           (double)info.scratch_bytes * 1e-6);
    printf("decode is greedy: each step ends with the id of the highest logit\n\n");
    printf("| test             |  depth |  tokens/s |       min |       max |    GB/s | floor |    GOP/s | "
           "floor |\n"
           "|------------------|-------:|----------:|----------:|----------:|--------:|------:|---------:|---"
           "---:|\n");
    fflush(stdout);
}

static int32_t run_bench(const struct bench *b, struct sharpi_model *model, struct sharpi_error *err)
{
    struct sharpi_rates rates = {.size = sizeof rates};
    struct result r = {.batch = 1};
    uint32_t d, i, first = 1;
    int32_t status = SHARPI_OK;
    if (model->ranges.n == 1 && SHARPI_HAS(model->backend, measure)) /* no floors for a mix of devices */
        status = model->backend->measure(model->device, &rates, err);
    if (status)
        return status;
    print_head(b, model, &rates);
    for (d = 0; d < b->n_depths; d++) {
        for (i = 0; i < b->n_prefill + b->n_decode && !status && !interrupted(); i++) {
            r.decode = i >= b->n_prefill;
            r.n = r.decode ? b->decode_list[i - b->n_prefill] : b->prefill_list[i];
            r.depth = b->depth_list[d];
            r.batch = r.decode ? b->batch : 1;
            if (r.n == 0)
                continue;
            status = measure(b, model, &r, err);
            if (!status)
                print_result(b, &r, &rates, (int)first);
            first = 0;
        }
    }
    if (b->json)
        printf("\n  ]\n}\n");
    return status;
}

/* The smallest context that all tests fit. */
static uint32_t needed_context(const struct bench *b)
{
    uint32_t longest = 0, deepest = 0, i;
    for (i = 0; i < b->n_prefill; i++)
        longest = b->prefill_list[i] > longest ? b->prefill_list[i] : longest;
    for (i = 0; i < b->n_decode; i++)
        longest = b->decode_list[i] > longest ? b->decode_list[i] : longest;
    for (i = 0; i < b->n_depths; i++)
        deepest = b->depth_list[i] > deepest ? b->depth_list[i] : deepest;
    return longest + deepest;
}

static int bench_command(int argc, char **argv)
{
    struct bench b = {.prefill = "512", .decode = "64", .depths = "0", .repetitions = 3, .batch = 1};
    struct sharpi_model_options extra = {.size = sizeof extra};
    struct sharpi_engine *engine = NULL;
    struct sharpi_model *model = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const char *args[1];
    uint32_t n_args;
    int32_t status;
    int code;
    const struct option own[] = {
        {"prefill", 'p', OPTION_STRING, "N,...", "prompt lengths (512)", &b.prefill, NULL},
        {"decode", 'n', OPTION_STRING, "N,...", "tokens to decode (64)", &b.decode, NULL},
        {"depth", 'd', OPTION_STRING, "N,...", "tokens already in the cache (0)", &b.depths, NULL},
        {"batch", 'b', OPTION_UINT, "N", "sequences that decode together (1)", &b.batch, NULL},
        {"repeat", 'r', OPTION_UINT, "N", "repetitions of each test (3)", &b.repetitions, NULL},
        {"json", 0, OPTION_FLAG, NULL, "JSON instead of a table", &b.json, NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, b.common.model_options, b.common.engine_options, NULL};
    if (argc > 1 && strcmp(argv[1], "text") == 0)
        return bench_text_command(argc - 1, argv + 1);
    common_init(&b.common);
    code = parse_command("bench", "sharpi bench -m FILE [OPTIONS]",
                         "Measures prefill and decode speed. 'sharpi bench text' measures tokenizer and "
                         "sampler: see its own --help.",
                         tables, argc, argv, args, 1, &n_args);
    if (code >= 0)
        return code;
    if (n_args)
        b.common.model = args[0];
    if (parse_list("prefill", b.prefill, b.prefill_list, &b.n_prefill, &err) ||
        parse_list("decode", b.decode, b.decode_list, &b.n_decode, &err) ||
        parse_list("depth", b.depths, b.depth_list, &b.n_depths, &err))
        return fail_usage("bench", &err);
    if (b.batch == 0 || b.batch > 256 || b.repetitions == 0 || b.repetitions > 1000) {
        sharpi_fail(&err, SHARPI_EINVAL, "--batch must be 1 to 256 and --repeat 1 to 1000");
        return fail_usage("bench", &err);
    }
    catch_interrupt();
    if (!b.common.context)
        b.common.context = needed_context(&b);
    extra.max_sessions = b.batch;
    status = open_engine(&b.common, &engine, &err);
    if (!status)
        status = load_model(&b.common, engine, &extra, &model, &err);
    if (!status)
        status = run_bench(&b, model, &err);
    sharpi_model_free(model);
    sharpi_engine_close(engine);
    if (interrupted())
        return EXIT_INTERRUPT;
    return status ? fail("bench", &err) : EXIT_OK;
}

const struct command command_bench = {"bench", "prefill and decode speed beside the hardware's floors",
                                      bench_command};
