/* The planner's rules and search on models made up here: reserves, bytes of the cache, automatic context, placement. */
#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine.h"
#include "core/plan.h"

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)

enum { MAX_LAYERS = 48 };

static struct sharpi_engine *engine;

/* A model of equal layers, one tensor each, an input table and an output matrix. */
struct toy {
    struct sharpi_layer_desc layers[MAX_LAYERS];
    struct sharpi_model_desc desc;
    struct sharpi_tensor tensors[2 * MAX_LAYERS + 2];
    struct sharpi_plan_weight items[2 * MAX_LAYERS + 2];
    struct sharpi_plan_weights weights;
    struct sharpi_plan_device device, host;
    struct sharpi_plan_request request;
};

static struct sharpi_kv_format format(const char *name)
{
    const struct sharpi_offer *offer = sharpi_plugins_find(&engine->plugins, SHARPI_OFFER_KV, name);
    CU_ASSERT_PTR_NOT_NULL_FATAL(offer);
    return (struct sharpi_kv_format){offer->kv, offer->ctx};
}

static void use_format(struct toy *toy, const char *name)
{
    toy->request.formats.global = toy->request.formats.swa = format(name);
}

static void add_weight(struct toy *toy, uint32_t segment, int32_t use, uint64_t n_bytes)
{
    struct sharpi_tensor *tensor = &toy->tensors[toy->weights.n];
    tensor->n_bytes = n_bytes;
    toy->items[toy->weights.n++] = (struct sharpi_plan_weight){tensor, segment, use};
}

/* Dense: 8 KV heads of 128 in each layer, 100 MiB a layer, a table of 50 MiB, an output of 60 MiB, a card of 12 GiB. */
static void make_toy(struct toy *toy, uint32_t n_layers)
{
    memset(toy, 0, sizeof *toy);
    for (uint32_t i = 0; i < n_layers; i++)
        toy->layers[i] =
            (struct sharpi_layer_desc){.n_kv_heads = 8, .head_dim = 128, .kv_source = -1, .n_ff = 8192};
    toy->desc = (struct sharpi_model_desc){.size = sizeof toy->desc,
                                           .n_layers = n_layers,
                                           .width = 2048,
                                           .n_heads = 16,
                                           .n_vocab = 1000,
                                           .context_length = 262144,
                                           .mask_known = 1,
                                           .n_layers_described = n_layers,
                                           .layer_size = sizeof *toy->layers,
                                           .layers = toy->layers};
    toy->weights.items = toy->items;
    add_weight(toy, 0, SHARPI_USE_GATHER, 50 * MIB);
    for (uint32_t i = 0; i < n_layers; i++)
        add_weight(toy, i + 1, SHARPI_USE_PLAIN, 100 * MIB);
    add_weight(toy, n_layers + 1, SHARPI_USE_PLAIN, 60 * MIB);
    toy->device = (struct sharpi_plan_device){"card", 12 * GIB, 12 * GIB, 0, 0};
    toy->request = (struct sharpi_plan_request){.desc = &toy->desc,
                                                .weights = &toy->weights,
                                                .n_devices = 1,
                                                .devices = &toy->device,
                                                .chunk = 512,
                                                .headroom = 4096,
                                                .max_seqs = 1};
    strcpy(toy->request.host.name, "cpu");
    use_format(toy, "f32");
}

/* Five layers of six slide over 1024 positions. */
static void slide(struct toy *toy)
{
    for (uint32_t i = 0; i < toy->desc.n_layers; i++)
        toy->layers[i].window = i % 6 == 5 ? 0 : 1024;
}

/* Gives the card just enough for weights and `n_bytes` of KV, whatever the rules say. */
static void give_kv(struct toy *toy, uint64_t n_bytes)
{
    toy->request.reserve = (struct sharpi_reserve){SHARPI_RESERVE_BYTES, 0};
    toy->device.total_bytes = toy->device.free_bytes =
        sharpi_plan_device_weights(&toy->weights, 0, toy->desc.n_layers + 2, 0) + n_bytes;
}

static struct sharpi_plan *make(struct toy *toy)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_plan *plan = NULL;
    int32_t status = sharpi_plan_make(&toy->request, &plan, &err);
    if (status)
        fprintf(stderr, "%s\n", err.text);
    CU_ASSERT_EQUAL_FATAL(status, SHARPI_OK);
    return plan;
}

static uint32_t context_of(struct toy *toy, const char *kv)
{
    struct sharpi_plan *plan;
    uint32_t context;
    use_format(toy, kv);
    plan = make(toy);
    context = plan->context;
    sharpi_plan_free(plan);
    return context;
}

static int says(const struct sharpi_plan_text *text, const char *what)
{
    for (uint32_t i = 0; i < text->n; i++) {
        if (strstr(text->lines[i], what))
            return 1;
    }
    return 0;
}

/* ---- Reserve */

static const struct sharpi_offer *gemma4(void)
{
    const struct sharpi_offer *offer = sharpi_plugins_find(&engine->plugins, SHARPI_OFFER_ARCH, "gemma4");
    CU_ASSERT_PTR_NOT_NULL_FATAL(offer);
    return offer;
}

static void dense_reserve_is_a_third_and_at_least_2_gib(void)
{
    const struct sharpi_offer *qwen3 = sharpi_plugins_find(&engine->plugins, SHARPI_OFFER_ARCH, "qwen3");
    struct toy toy;
    make_toy(&toy, 4);
    CU_ASSERT_EQUAL(sharpi_reserve_dense(12 * GIB), 4 * GIB);
    CU_ASSERT_EQUAL(sharpi_reserve_dense(3 * GIB), 2 * GIB);
    CU_ASSERT_EQUAL(sharpi_reserve_dense(48 * GIB), 16 * GIB);
    CU_ASSERT_PTR_NOT_NULL_FATAL(qwen3);
    CU_ASSERT_EQUAL(sharpi_reserve_rule(qwen3, &toy.desc, 12 * GIB, 512), 4 * GIB);
    CU_ASSERT_EQUAL(sharpi_reserve_rule(NULL, &toy.desc, 48 * GIB, 512), 16 * GIB);
}

static void windowed_reserve_is_below_dense_and_grows_with_width(void)
{
    struct toy toy;
    uint64_t narrow, wide;
    make_toy(&toy, 12);
    slide(&toy);
    narrow = sharpi_reserve_rule(gemma4(), &toy.desc, 12 * GIB, 512);
    toy.desc.width *= 2;
    wide = sharpi_reserve_rule(gemma4(), &toy.desc, 12 * GIB, 512);
    CU_ASSERT(narrow < sharpi_reserve_dense(12 * GIB));
    CU_ASSERT_EQUAL(wide - narrow, 512ull * 3 * 2048 * 4);
}

/* Gemma 4 E4B: width 2560, 8 heads, 2 KV heads, head_dim 256 and 512, FFN 10240, per-layer embedding 256 in 42 layers. */
static void make_e4b(struct toy *toy)
{
    make_toy(toy, 42);
    slide(toy);
    toy->desc.width = 2560;
    toy->desc.n_heads = 8;
    toy->desc.ple_width = 256;
    for (uint32_t i = 0; i < 42; i++) {
        toy->layers[i].n_kv_heads = 2;
        toy->layers[i].head_dim = toy->layers[i].window ? 256 : 512;
        toy->layers[i].n_ff = 10240;
    }
}

static void windowed_reserve_has_the_exact_value_with_per_layer_embedding(void)
{
    struct toy toy;
    const uint64_t activations = 128450560; /* 512 * 4 * (7680 + 8192 + 2048 + 20480 + 21504 + 256 + 2560) */
    make_e4b(&toy);
    CU_ASSERT_EQUAL(sharpi_reserve_rule(gemma4(), &toy.desc, 12 * GIB, 512), 2 * GIB + activations);
    CU_ASSERT_EQUAL(sharpi_reserve_rule(gemma4(), &toy.desc, 48 * GIB, 512), 8 * GIB + activations);
    CU_ASSERT_EQUAL(sharpi_plan_chunk_bytes(&toy.desc, 512), activations);
}

static void windowed_reserve_is_never_above_dense(void)
{
    struct toy toy;
    make_e4b(&toy);
    for (uint64_t total = GIB / 4; total <= 96 * GIB; total += GIB / 4) {
        for (uint32_t chunk = 1; chunk <= 65536; chunk *= 4)
            CU_ASSERT(sharpi_reserve_rule(gemma4(), &toy.desc, total, chunk) <= sharpi_reserve_dense(total));
    }
}

static void pattern_without_window_falls_back_to_dense(void)
{
    struct toy toy;
    make_e4b(&toy);
    for (uint32_t i = 0; i < toy.desc.n_layers; i++)
        toy.layers[i].window = 0;
    CU_ASSERT_EQUAL(sharpi_reserve_rule(gemma4(), &toy.desc, 12 * GIB, 512), 4 * GIB);
}

static void reserve_exact_keeps_a_margin_and_buys_context(void)
{
    struct toy toy;
    struct sharpi_plan *rule, *exact;
    make_toy(&toy, 48);
    rule = make(&toy);
    toy.request.reserve.mode = SHARPI_RESERVE_EXACT;
    exact = make(&toy);
    CU_ASSERT_EQUAL(rule->parts[0].reserve_bytes, 4 * GIB);
    CU_ASSERT_EQUAL(exact->parts[0].reserve_bytes, 256 * MIB);
    CU_ASSERT_EQUAL(exact->parts[0].scratch_bytes, sharpi_plan_chunk_bytes(&toy.desc, 512));
    CU_ASSERT(exact->context > rule->context);
    CU_ASSERT(says(&rule->rejected, "reserve = exact: context"));
    sharpi_plan_free(rule);
    sharpi_plan_free(exact);
}

/* ---- Runtime: what the driver keeps */

static void exact_counts_the_runtime_of_devices_that_are_used(void)
{
    struct toy toy;
    struct sharpi_plan *without, *with;
    make_toy(&toy, 48);
    toy.request.reserve.mode = SHARPI_RESERVE_EXACT;
    toy.request.context = 8192;
    without = make(&toy);
    toy.device.runtime_bytes = 400 * MIB;
    with = make(&toy);
    CU_ASSERT_EQUAL(with->parts[0].runtime_bytes, 400 * MIB);
    CU_ASSERT_EQUAL(with->parts[0].needed_bytes, without->parts[0].needed_bytes + 400 * MIB);
    CU_ASSERT_EQUAL(with->parts[1].runtime_bytes, 0);
    sharpi_plan_free(with);
    toy.request.limit_layers = 1; /* none on the device */
    with = make(&toy);
    CU_ASSERT_EQUAL(with->parts[0].runtime_bytes, 0);
    CU_ASSERT_EQUAL(with->parts[0].needed_bytes, 0);
    sharpi_plan_free(with);
    sharpi_plan_free(without);
}

/* A page of a position costs 48 layers x 2 x 4096 bytes x 64 positions: the runtime takes just that much context. */
static void exact_context_pays_for_the_runtime(void)
{
    const uint64_t page = 48ull * 2 * 4096 * 64;
    struct toy toy;
    uint32_t without;
    make_toy(&toy, 48);
    toy.request.reserve.mode = SHARPI_RESERVE_EXACT;
    without = context_of(&toy, "f32");
    toy.device.runtime_bytes = 10 * page;
    CU_ASSERT_EQUAL(context_of(&toy, "f32"), without - 640);
}

static void the_reserve_has_room_for_runtime_and_scratch(void)
{
    struct sharpi_plan_measure measure = {.device = 0, .end_segment = 50, .scratch_bytes = 300 * MIB};
    struct toy toy;
    struct sharpi_plan *plan;
    make_toy(&toy, 48);
    toy.request.context = 4096;
    toy.request.measures = &measure;
    toy.request.n_measures = 1;
    measure.weight_bytes = 4860 * MIB;
    toy.request.reserve = (struct sharpi_reserve){SHARPI_RESERVE_BYTES, 700 * MIB};
    toy.device.runtime_bytes = 400 * MIB;
    plan = make(&toy); /* as much as was asked to be kept */
    CU_ASSERT_EQUAL(plan->parts[0].needed_bytes, 4860 * MIB + plan->parts[0].kv_bytes + 700 * MIB);
    sharpi_plan_free(plan);
    toy.device.runtime_bytes = 401 * MIB; /* more than that */
    plan = make(&toy);
    CU_ASSERT_EQUAL(plan->parts[0].needed_bytes, 4860 * MIB + plan->parts[0].kv_bytes + 701 * MIB);
    sharpi_plan_free(plan);
}

/* ---- Chunk */

/* Whether `larger`, made like `plan` but with this chunk and free memory, is taken in its place. */
static int32_t takes(struct toy *toy, const struct sharpi_plan *plan, uint32_t chunk)
{
    struct sharpi_plan *larger;
    int32_t yes;
    toy->request.chunk = chunk;
    larger = make(toy);
    yes = sharpi_plan_has_room(plan, larger);
    sharpi_plan_free(larger);
    toy->request.chunk = 512;
    return yes;
}

static void a_larger_chunk_must_cost_nothing(void)
{
    struct toy toy;
    struct sharpi_plan *plan;
    make_toy(&toy, 24);
    use_format(&toy, "q8_0");
    toy.device.total_bytes = toy.device.free_bytes = 48 * GIB;
    toy.request.reserve.mode = SHARPI_RESERVE_EXACT;
    plan = make(&toy);
    CU_ASSERT_EQUAL(plan->context_limit, SHARPI_CONTEXT_MODEL);
    CU_ASSERT_TRUE(takes(&toy, plan, 2048));
    CU_ASSERT_FALSE(takes(&toy, plan, 8192)); /* more than the headroom of rings */
    toy.device.free_bytes =
        plan->parts[0].needed_bytes; /* the chunk of 512 fits to the byte, and no larger one */
    CU_ASSERT_FALSE(takes(&toy, plan, 2048));
    toy.request.context = plan->context; /* nor where nothing else gives way */
    toy.request.placement = &plan->placement;
    CU_ASSERT_FALSE(takes(&toy, plan, 2048));
    sharpi_plan_free(plan);
    toy.request.placement = NULL;
    toy.request.context = 1000;
    plan = make(&toy);
    CU_ASSERT_TRUE(takes(&toy, plan, 1000));
    CU_ASSERT_FALSE(takes(&toy, plan, 1024)); /* no step is as long */
    sharpi_plan_free(plan);
}

/* Context that stops for lack of memory is not to share with scratch, and layers on the CPU are slow in any chunk. */
static void chunks_stay_small_where_memory_is_short(void)
{
    struct toy toy;
    struct sharpi_plan *plan;
    make_toy(&toy, 24);
    give_kv(&toy, GIB);
    plan = make(&toy);
    CU_ASSERT_EQUAL(plan->context_limit, SHARPI_CONTEXT_MEMORY);
    CU_ASSERT_FALSE(takes(&toy, plan, 1024));
    sharpi_plan_free(plan);
    make_toy(&toy, 24);
    toy.request.context = 4096;
    toy.request.limit_layers = 1;
    toy.request.n_device_layers = 20;
    plan = make(&toy);
    CU_ASSERT_FALSE(takes(&toy, plan, 1024));
    sharpi_plan_free(plan);
}

/* ---- Context */

static void bf16_buys_exactly_twice_the_context_of_f32(void)
{
    struct toy toy;
    uint32_t f32;
    make_toy(&toy, 24);
    give_kv(&toy, 24ull * 2 * 8 * 128 * 4 * 10048);
    f32 = context_of(&toy, "f32");
    CU_ASSERT_EQUAL(f32, 10048);
    CU_ASSERT_EQUAL(context_of(&toy, "bf16"), 2 * f32);
    CU_ASSERT_EQUAL(context_of(&toy, "f16"), 2 * f32);
}

static void a_pool_buys_context_for_parallel_sequences(void)
{
    const uint64_t position = 24ull * 2 * 8 * 128 * 4; /* bytes */
    struct toy toy;
    struct sharpi_plan *plan;
    make_toy(&toy, 24);
    give_kv(&toy, position * 40192);
    CU_ASSERT_EQUAL(context_of(&toy, "f32"), 40192);
    toy.request.max_seqs = 4;
    CU_ASSERT_EQUAL(context_of(&toy, "f32"), 40192 / 4);
    toy.request.pool = 20096;
    CU_ASSERT_EQUAL(context_of(&toy, "f32"), 40192); /* one alone may have it all */
    toy.request.context = 10048;                     /* each; the pool is two of them */
    plan = make(&toy);
    CU_ASSERT_EQUAL(plan->pool, 20096);
    CU_ASSERT_EQUAL(sharpi_plan_kv_bytes(plan), position * 20096);
    sharpi_plan_free(plan);
}

static void q8_0_buys_its_width_ratio(void)
{
    struct toy toy;
    double ratio;
    make_toy(&toy, 24);
    give_kv(&toy, 4 * GIB);
    ratio = (double)context_of(&toy, "q8_0") / context_of(&toy, "f32");
    CU_ASSERT(ratio > 3.75 && ratio < 3.77);
}

static void narrow_formats_buy_more_than_their_ratio_once_rings_saturate(void)
{
    struct toy toy;
    uint32_t f32, bf16, q8_0;
    make_toy(&toy, 24);
    slide(&toy);
    give_kv(&toy, GIB + GIB / 8);
    f32 = context_of(&toy, "f32");
    bf16 = context_of(&toy, "bf16");
    q8_0 = context_of(&toy, "q8_0");
    CU_ASSERT(f32 > 1024 + 4096); /* saturated */
    CU_ASSERT(bf16 > 2 * f32);
    CU_ASSERT(q8_0 > 4 * f32);
}

/* The closed form: global layers hold the context, the others their ring, borrowers nothing; pages of 64. */
static void kv_bytes_are_the_closed_form(void)
{
    static const struct {
        const char *name;
        uint64_t row;
    } formats[] = {{"f32", 8 * 128 * 4}, {"bf16", 8 * 128 * 2}, {"q8_0", 8 * 128 / 32 * 34}};
    struct toy toy;
    make_toy(&toy, 24);
    slide(&toy);
    for (uint32_t i = 18; i < 24; i++) /* borrow from 17 (global) and 16 */
        toy.layers[i].kv_source = toy.layers[i].window ? 16 : 17;
    toy.request.max_seqs = 3;
    for (size_t f = 0; f < 3; f++) {
        for (uint32_t context = 1; context < 20000; context = context * 3 + 7) {
            uint64_t paged = (context + 63) / 64 * 64, ring = paged < 5120 ? paged : 5120;
            struct sharpi_plan *plan;
            toy.request.context = context;
            use_format(&toy, formats[f].name);
            plan = make(&toy);
            CU_ASSERT_EQUAL(sharpi_plan_kv_bytes(plan), 3 * 2 * formats[f].row * (3 * paged + 15 * ring));
            sharpi_plan_free(plan);
        }
    }
}

static void one_more_token_does_not_fit(void)
{
    struct toy toy;
    struct sharpi_plan *plan, *more;
    make_toy(&toy, 24);
    for (int32_t windowed = 0; windowed < 2; windowed++) {
        if (windowed)
            slide(&toy);
        toy.request.context = 0;
        give_kv(&toy, GIB + 12345);
        plan = make(&toy);
        CU_ASSERT_EQUAL(plan->context_limit, SHARPI_CONTEXT_MEMORY);
        CU_ASSERT_EQUAL(sharpi_plan_short_bytes(plan), 0);
        CU_ASSERT(says(&plan->rejected, "card is short of"));
        toy.request.context = plan->context + 1;
        toy.request.placement = &plan->placement;
        more = make(&toy);
        CU_ASSERT(sharpi_plan_short_bytes(more) > 0);
        toy.request.placement = NULL;
        sharpi_plan_free(more);
        sharpi_plan_free(plan);
    }
}

static void context_has_a_floor_and_a_cap(void)
{
    struct toy toy;
    struct sharpi_plan *plan;
    make_toy(&toy, 24);
    toy.request.n_devices = 0;
    toy.request.host.total_bytes = toy.request.host.free_bytes = GIB;
    plan = make(&toy);
    CU_ASSERT_EQUAL(plan->context, SHARPI_PLAN_FLOOR);
    CU_ASSERT_EQUAL(plan->context_limit, SHARPI_CONTEXT_FLOOR);
    CU_ASSERT(sharpi_plan_short_bytes(plan) > 0);
    CU_ASSERT(says(&plan->notes, "the weights alone do not fit cpu"));
    sharpi_plan_free(plan);
    toy.desc.context_length = 300; /* below the floor: nothing may exceed it */
    plan = make(&toy);
    CU_ASSERT_EQUAL(plan->context, 300);
    sharpi_plan_free(plan);
    toy.request.host.total_bytes = toy.request.host.free_bytes = 64 * GIB;
    toy.desc.context_length = 262144;
    toy.request.context_cap = SHARPI_PLAN_CPU_CONTEXT;
    plan = make(&toy);
    CU_ASSERT_EQUAL(plan->context, SHARPI_PLAN_CPU_CONTEXT);
    CU_ASSERT_EQUAL(plan->context_limit, SHARPI_CONTEXT_CAP);
    sharpi_plan_free(plan);
}

static void asked_context_is_clamped_to_the_model(void)
{
    struct toy toy;
    struct sharpi_plan *plan;
    make_toy(&toy, 2);
    toy.request.context = 999999999;
    plan = make(&toy);
    CU_ASSERT_EQUAL(plan->context, 262144);
    CU_ASSERT(says(&plan->notes, "999999999"));
    sharpi_plan_free(plan);
}

static void parallel_sequences_share_the_memory(void)
{
    struct toy toy;
    uint32_t one;
    make_toy(&toy, 24);
    give_kv(&toy, 4 * GIB);
    one = context_of(&toy, "f32");
    toy.request.max_seqs = 4;
    CU_ASSERT_EQUAL(context_of(&toy, "f32"), one / 4 / 64 * 64);
}

/* ---- Placement */

static void layers_that_do_not_fit_go_to_the_host(void)
{
    struct toy toy;
    struct sharpi_plan *plan;
    make_toy(&toy, 48);
    toy.device.total_bytes = toy.device.free_bytes = 6 * GIB;
    plan = make(&toy);
    CU_ASSERT(plan->parts[0].end_segment > 2 && plan->parts[0].end_segment < 49);
    CU_ASSERT_EQUAL(plan->parts[1].first_segment, plan->parts[0].end_segment);
    CU_ASSERT_EQUAL(plan->parts[0].weight_bytes, (plan->parts[0].end_segment - 1) * 100 * MIB);
    CU_ASSERT_EQUAL(plan->parts[1].weight_bytes, (49 - plan->parts[0].end_segment) * 100 * MIB + 60 * MIB);
    CU_ASSERT_EQUAL(plan->parts[1].mapped_bytes, 50 * MIB);
    CU_ASSERT(plan->context >= SHARPI_PLAN_SPLIT_CONTEXT);
    CU_ASSERT(says(&plan->rejected, "everything on card"));
    CU_ASSERT_STRING_EQUAL(sharpi_plan_part_of(plan, 0)->name, "card");
    CU_ASSERT_STRING_EQUAL(sharpi_plan_part_of(plan, 47)->name, "cpu");
    sharpi_plan_free(plan);
}

static void a_split_never_separates_a_shared_cache(void)
{
    struct toy toy;
    make_toy(&toy, 48);
    for (uint32_t i = 20; i < 48; i++)
        toy.layers[i].kv_source = 19;
    use_format(&toy, "q8_0");
    for (uint64_t mib = 3 * 1024; mib < 8 * 1024; mib += 100) {
        struct sharpi_plan *plan;
        toy.device.total_bytes = toy.device.free_bytes = mib * MIB;
        plan = make(&toy);
        /* all, or an end at or before layer 19: segments 0 .. 19 */
        CU_ASSERT(plan->parts[0].end_segment >= 49 || plan->parts[0].end_segment <= 20);
        sharpi_plan_free(plan);
    }
}

static void a_replayed_placement_is_checked(void)
{
    static const uint32_t wrong[] = {1, 21, 30, 51, UINT32_MAX};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_placement placement = {.n_expert_layers = 0};
    struct sharpi_plan *plan = NULL;
    struct toy toy;
    make_toy(&toy, 48);
    for (uint32_t i = 20; i < 48; i++)
        toy.layers[i].kv_source = 19;
    toy.request.placement = &placement;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        placement.ends[0] = wrong[i];
        CU_ASSERT_EQUAL(sharpi_plan_make(&toy.request, &plan, &err), SHARPI_EINVAL);
    }
    placement.ends[0] = 20; /* layers 0 to 18 */
    plan = make(&toy);
    CU_ASSERT_EQUAL(plan->parts[1].first_segment, 20);
    sharpi_plan_free(plan);
}

static void several_devices_are_filled_in_order(void)
{
    struct toy toy;
    struct sharpi_plan *plan;
    struct sharpi_plan_device devices[3] = {
        {"a", 5 * GIB, 5 * GIB, 0, 0}, {"b", 4 * GIB, 4 * GIB, 0, 0}, {"c", 24 * GIB, 24 * GIB, 0, 0}};
    make_toy(&toy, 48);
    toy.request.devices = devices;
    toy.request.n_devices = 3;
    plan = make(&toy);
    CU_ASSERT_EQUAL(plan->n_parts, 4);
    CU_ASSERT(plan->parts[0].end_segment > 2);
    CU_ASSERT(plan->parts[1].end_segment > plan->parts[0].end_segment);
    CU_ASSERT_EQUAL(plan->parts[2].end_segment, 50);
    CU_ASSERT_EQUAL(plan->parts[3].first_segment, 50);
    CU_ASSERT_EQUAL(sharpi_plan_short_bytes(plan), 0);
    sharpi_plan_free(plan);
}

/* 48 layers of 20 MiB and 200 MiB of experts. */
static void make_mixture(struct toy *toy)
{
    make_toy(toy, 48);
    toy->desc.n_experts = 64;
    toy->desc.n_experts_used = 4;
    for (uint32_t i = 0; i < 48; i++) {
        toy->tensors[1 + i].n_bytes = 20 * MIB;
        add_weight(toy, i + 1, SHARPI_USE_EXPERT, 200 * MIB);
    }
}

static void experts_leave_the_device_before_layers_do(void)
{
    struct toy toy;
    struct sharpi_plan *plan;
    make_mixture(&toy);
    use_format(&toy, "q8_0");
    plan = make(&toy);
    CU_ASSERT_EQUAL(plan->parts[0].end_segment, 50);
    CU_ASSERT(plan->placement.n_expert_layers > 0 && plan->placement.n_expert_layers < 48);
    CU_ASSERT_EQUAL(plan->parts[1].weight_bytes, plan->placement.n_expert_layers * 200 * MIB);
    CU_ASSERT(says(&plan->rejected, "layer split"));
    sharpi_plan_free(plan);
    toy.request.n_expert_layers = SHARPI_PLAN_ALL_LAYERS; /* --cpu-moe */
    plan = make(&toy);
    CU_ASSERT_EQUAL(plan->parts[1].weight_bytes, 48 * 200 * MIB);
    CU_ASSERT_EQUAL(plan->parts[0].weight_bytes, 48 * 20 * MIB + 60 * MIB);
    sharpi_plan_free(plan);
}

static void experts_of_a_dense_model_are_refused(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_plan *plan = NULL;
    struct toy toy;
    make_toy(&toy, 4);
    toy.request.n_expert_layers = 2;
    CU_ASSERT_EQUAL(sharpi_plan_make(&toy.request, &plan, &err), SHARPI_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "no experts"));
}

static void a_tied_output_counts_once_on_the_device(void)
{
    struct toy toy;
    uint64_t mapped;
    make_toy(&toy, 4);
    toy.items[5].tensor = toy.items[0].tensor; /* the output is the table */
    {                                          /* neighbours, as sharpi_plan_weights_init sorts them */
        struct sharpi_plan_weight last = toy.items[5];
        memmove(&toy.items[2], &toy.items[1], 4 * sizeof *toy.items);
        toy.items[1] = last;
    }
    CU_ASSERT_EQUAL(sharpi_plan_device_weights(&toy.weights, 0, 6, 0), 450 * MIB);
    CU_ASSERT_EQUAL(sharpi_plan_host_weights(&toy.weights, 6, 0, &mapped), 0);
    CU_ASSERT_EQUAL(mapped, 50 * MIB);
}

/* ---- Text */

static void devices_are_described_by_name_and_size(void)
{
    static const char *const wrong[] = {"",
                                        "a",
                                        ":1GiB",
                                        "a:",
                                        "a:x",
                                        "a:0",
                                        "a:1GiB,",
                                        "a:1GiB,free=2GiB",
                                        "a:1GiB,used=1",
                                        "a:99999PiB",
                                        "a:18446744073709551615"};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_plan_device device;
    CU_ASSERT_EQUAL(sharpi_plan_parse_device("rtx4070ti:12282MiB", &device, &err), SHARPI_OK);
    CU_ASSERT_STRING_EQUAL(device.name, "rtx4070ti");
    CU_ASSERT_EQUAL(device.total_bytes, 12282 * MIB);
    CU_ASSERT_EQUAL(device.free_bytes, 12282 * MIB);
    CU_ASSERT_EQUAL(device.runtime_bytes, SHARPI_PLAN_RUNTIME);
    CU_ASSERT_EQUAL(sharpi_plan_parse_device("a:2GiB,free=1.5GiB", &device, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(device.free_bytes, 1536 * MIB);
    CU_ASSERT_EQUAL(sharpi_plan_parse_device("cpu:8GiB", &device, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(device.runtime_bytes, 0);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CU_ASSERT_EQUAL(sharpi_plan_parse_device(wrong[i], &device, &err), SHARPI_EINVAL);
}

static void reserves_are_rule_exact_or_a_size(void)
{
    struct sharpi_reserve reserve;
    CU_ASSERT(sharpi_parse_reserve("rule", &reserve) == 0 && reserve.mode == SHARPI_RESERVE_RULE);
    CU_ASSERT(sharpi_parse_reserve("exact", &reserve) == 0 && reserve.mode == SHARPI_RESERVE_EXACT);
    CU_ASSERT(sharpi_parse_reserve("3GiB", &reserve) == 0 && reserve.mode == SHARPI_RESERVE_BYTES);
    CU_ASSERT_EQUAL(reserve.bytes, 3 * GIB);
    CU_ASSERT_NOT_EQUAL(sharpi_parse_reserve("some", &reserve), 0);
}

static void a_plan_survives_json(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_plan *plan, *back = NULL;
    struct toy toy;
    char *text = NULL;
    make_mixture(&toy);
    slide(&toy);
    plan = make(&toy);
    CU_ASSERT_EQUAL_FATAL(sharpi_plan_json(plan, &text, &err), SHARPI_OK);
    CU_ASSERT_EQUAL_FATAL(sharpi_plan_read(text, strlen(text), "plan.json", &back, &err), SHARPI_OK);
    CU_ASSERT_EQUAL(back->context, plan->context);
    CU_ASSERT_EQUAL(back->context_limit, plan->context_limit);
    CU_ASSERT_EQUAL(back->headroom, plan->headroom);
    CU_ASSERT_STRING_EQUAL(back->kv_swa, "f32");
    CU_ASSERT_EQUAL(memcmp(&back->placement, &plan->placement, sizeof plan->placement), 0);
    CU_ASSERT_EQUAL_FATAL(back->n_parts, plan->n_parts);
    CU_ASSERT_EQUAL(memcmp(back->parts, plan->parts, plan->n_parts * sizeof *plan->parts), 0);
    sharpi_plan_free(back);
    sharpi_plan_free(plan);
    free(text);
}

/* Every cut and every changed byte of a plan's JSON is read or refused, and never more than that. */
static void broken_json_is_refused(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_plan *plan;
    struct toy toy;
    char *text = NULL;
    size_t n;
    make_toy(&toy, 4);
    plan = make(&toy);
    CU_ASSERT_EQUAL_FATAL(sharpi_plan_json(plan, &text, &err), SHARPI_OK);
    sharpi_plan_free(plan);
    n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        struct sharpi_plan *back = NULL;
        char kept = text[i];
        CU_ASSERT_NOT_EQUAL(sharpi_plan_read(text, i, "plan.json", &back, &err), SHARPI_OK);
        text[i] = '9';
        if (sharpi_plan_read(text, n, "plan.json", &back, &err) == SHARPI_OK)
            sharpi_plan_free(back);
        text[i] = kept;
    }
    free(text);
}

#define TEST(name)                                                                                           \
    {                                                                                                        \
#name, name                                                                                          \
    }

int main(void)
{
    static CU_TestInfo tests[] = {TEST(dense_reserve_is_a_third_and_at_least_2_gib),
                                  TEST(windowed_reserve_is_below_dense_and_grows_with_width),
                                  TEST(windowed_reserve_has_the_exact_value_with_per_layer_embedding),
                                  TEST(windowed_reserve_is_never_above_dense),
                                  TEST(pattern_without_window_falls_back_to_dense),
                                  TEST(reserve_exact_keeps_a_margin_and_buys_context),
                                  TEST(exact_counts_the_runtime_of_devices_that_are_used),
                                  TEST(exact_context_pays_for_the_runtime),
                                  TEST(the_reserve_has_room_for_runtime_and_scratch),
                                  TEST(a_larger_chunk_must_cost_nothing),
                                  TEST(chunks_stay_small_where_memory_is_short),
                                  TEST(bf16_buys_exactly_twice_the_context_of_f32),
                                  TEST(a_pool_buys_context_for_parallel_sequences),
                                  TEST(q8_0_buys_its_width_ratio),
                                  TEST(narrow_formats_buy_more_than_their_ratio_once_rings_saturate),
                                  TEST(kv_bytes_are_the_closed_form),
                                  TEST(one_more_token_does_not_fit),
                                  TEST(context_has_a_floor_and_a_cap),
                                  TEST(asked_context_is_clamped_to_the_model),
                                  TEST(parallel_sequences_share_the_memory),
                                  TEST(layers_that_do_not_fit_go_to_the_host),
                                  TEST(a_split_never_separates_a_shared_cache),
                                  TEST(a_replayed_placement_is_checked),
                                  TEST(several_devices_are_filled_in_order),
                                  TEST(experts_leave_the_device_before_layers_do),
                                  TEST(experts_of_a_dense_model_are_refused),
                                  TEST(a_tied_output_counts_once_on_the_device),
                                  TEST(devices_are_described_by_name_and_size),
                                  TEST(reserves_are_rule_exact_or_a_size),
                                  TEST(a_plan_survives_json),
                                  TEST(broken_json_is_refused),
                                  CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"plan", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    struct sharpi_engine_options options = {.size = sizeof options, .no_default_config = 1};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    unsigned failures;
    if (sharpi_engine_open(&options, &engine, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    sharpi_engine_close(engine);
    return failures != 0;
}
