/* Programs of the CUDA backend on paper: compiling needs no GPU, so sizes and launches of every fixture are checked anywhere. */
#include <stdlib.h>
#include <string.h>

#include <CUnit/Basic.h>

#include "fixtures.h"
#include "plugins/backend-cuda/kernels/matmul-internal.h"
#include "plugins/backend-cuda/program.h"

static struct sharpi_engine *engine;
static struct cuda_backend backend;
static struct matmul_context products = {.n_sms = 132, .has_bulk = 1, .overlap = 1, .shared_bytes = 232448};
static struct sharpi_device device;

/* A fixture placed on the CPU, for its graph and its cache's layout. */
static struct sharpi_model *place(const char *name, const char *kv, uint32_t chunk)
{
    struct sharpi_model_options options = {.size = sizeof options,
                                           .backend = "cpu",
                                           .kv = kv,
                                           .chunk = chunk,
                                           .context = 512,
                                           .max_sessions = 8};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_model *model = NULL;
    const char *shared = getenv("SHARPI_SHARED");
    char path[512];
    snprintf(path, sizeof path, "%s/fixtures/%s.gguf", shared ? shared : "../shared", name);
    if (sharpi_model_open(engine, path, 0, &model, &err) || sharpi_model_place(model, &options, 0, &err))
        fprintf(stderr, "%s: %s\n", name, err.text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(model);
    return model;
}

static struct sharpi_compile request_of(const struct sharpi_model *model)
{
    struct sharpi_compile request = {.size = sizeof request,
                                     .graph = sharpi_graph_view(model->graph),
                                     .max_tokens = model->chunk,
                                     .max_seqs = 8,
                                     .max_logits = model->chunk,
                                     .kv_layers = model->kv_layers,
                                     .n_classes = model->n_classes};
    request.end_op = request.graph->n_ops;
    return request;
}

static struct sharpi_program *compile(const struct sharpi_compile *request)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_program *program = NULL;
    if (cuda_compile(&device, request, &program, &err))
        fprintf(stderr, "%s\n", err.text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(program);
    return program;
}

/* ---- Memory */

static int lives_with(const struct cell *a, const struct cell *b)
{
    return a->made_step <= b->last_step && b->made_step <= a->last_step;
}

/* Cells that are needed in the same step lie apart, unless one was made in place of the other. */
static void check_arena(const struct flow *flow)
{
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < flow->n_cells; i++) {
        const struct cell *a = &flow->cells[i];
        uint64_t a_end = a->offset + a->stride * flow_rows(flow, a->rows);
        if (a->place != PLACE_ARENA || a->parent != (int32_t)i)
            continue;
        wrong += a_end > flow->arena_bytes;
        for (uint32_t k = i + 1; k < flow->n_cells; k++) {
            const struct cell *b = &flow->cells[k];
            uint64_t b_end = b->offset + b->stride * flow_rows(flow, b->rows);
            if (b->place == PLACE_ARENA && b->parent == (int32_t)k && a->storage != b->storage &&
                lives_with(a, b))
                wrong += a->offset < b_end && b->offset < a_end;
        }
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

static void each_fixture(void (*check)(const struct fixture *, struct sharpi_model *))
{
    for (uint32_t i = 0; i < n_fixtures; i++) {
        struct sharpi_model *model = place(fixtures[i].name, "bf16", 64);
        check(&fixtures[i], model);
        sharpi_model_free(model);
    }
}

static void check_memory(const struct fixture *f, struct sharpi_model *model)
{
    struct sharpi_compile request = request_of(model);
    struct sharpi_program *program = compile(&request);
    struct sharpi_program_memory memory = {.size = sizeof memory}, larger = {.size = sizeof larger};
    (void)f;
    check_arena(&program->flow);
    CU_ASSERT_EQUAL(cuda_program_memory(program, &memory), SHARPI_OK);
    CU_ASSERT(memory.weight_bytes >= program->weight_bytes && memory.weight_bytes % CUDA_MEMORY_UNIT == 0);
    CU_ASSERT(memory.scratch_bytes >= program->layout.n_bytes &&
              memory.scratch_bytes % CUDA_MEMORY_UNIT == 0);
    CU_ASSERT_EQUAL(memory.n_fallback_ops, 0);
    CU_ASSERT_EQUAL(device.used_bytes, 0); /* nothing was allocated */
    cuda_program_destroy(program);
    request.max_tokens = request.max_logits = 4096;
    program = compile(&request);
    CU_ASSERT_EQUAL(cuda_program_memory(program, &larger), SHARPI_OK);
    CU_ASSERT_EQUAL(larger.weight_bytes, memory.weight_bytes);
    CU_ASSERT(larger.scratch_bytes > memory.scratch_bytes);
    cuda_program_destroy(program);
}

static void cells_of_one_step_lie_apart(void)
{
    each_fixture(check_memory);
}

/* ---- Launches */

static void make_launches(struct sharpi_program *program)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    program_point(program);
    CU_ASSERT_EQUAL_FATAL(launches_make(program, &err), SHARPI_OK);
}

static void check_launches(const struct fixture *f, struct sharpi_model *model)
{
    struct sharpi_compile request = request_of(model);
    struct sharpi_program *program = compile(&request);
    uint32_t n = 0, most = f->mixture ? 16 : model->desc.ple_width ? 14 : 10;
    make_launches(program);
    for (uint32_t i = 0; i < program->n_launches; i++)
        n += program->launches[i].layer == 1;
    if (n > most)
        fprintf(stderr, "%s: %u launches in a layer\n", f->name, n);
    CU_ASSERT(n > 5 && n <= most);
    cuda_program_destroy(program);
}

static void a_layer_takes_few_launches(void)
{
    each_fixture(check_launches);
}

/* Products leave the activation to a row step only where they cannot do it; then the step exists without it too. */
static void glu_has_a_variant_without_it(void)
{
    struct sharpi_model *model = place("llama", "bf16", 64);
    struct sharpi_compile request = request_of(model);
    struct sharpi_program *program = compile(&request);
    uint32_t n = 0;
    make_launches(program);
    for (uint32_t i = 0; i < program->n_launches; i++) {
        const struct launch *launch = &program->launches[i];
        if (launch->glu_launch < 0)
            continue;
        CU_ASSERT(program->launches[launch->glu_launch].glu != 0);
        CU_ASSERT(launch->variants & VARIANT_GLU_DONE);
        CU_ASSERT_PTR_NOT_NULL(launch->steps[VARIANT_PLAIN]);
        n++;
    }
    CU_ASSERT_EQUAL(n, model->desc.n_layers);
    cuda_program_destroy(program);
    sharpi_model_free(model);
}

/* ---- Ranges */

/* The residual stream is carried from the first half of the layers to the second. */
static void halves_carry_what_crosses_them(void)
{
    struct sharpi_model *model = place("qwen3", "bf16", 64);
    struct sharpi_compile request = request_of(model);
    const struct sharpi_graph_view *graph = request.graph;
    struct sharpi_program *first, *second;
    uint32_t middle = 0;
    int32_t crossing = -1;
    while (graph->ops[middle]->layer < 1)
        middle++;
    for (uint32_t v = 0; v < graph->n_values; v++) {
        if (graph->values[v]->producer < (int32_t)middle && graph->values[v]->last_use >= (int32_t)middle)
            crossing = (int32_t)v;
    }
    CU_ASSERT_FATAL(crossing >= 0);
    request.end_op = middle;
    request.max_logits = 0;
    request.carry_out = &crossing;
    request.n_carry_out = 1;
    first = compile(&request);
    request = request_of(model);
    request.first_op = middle;
    request.carry_in = &crossing;
    request.n_carry_in = 1;
    second = compile(&request);
    make_launches(first);
    make_launches(second);
    CU_ASSERT_EQUAL(first->launches[first->n_launches - 1].kind, LAUNCH_COPY_OUT);
    CU_ASSERT(second->launches[0].kind == LAUNCH_COPY_IN || second->launches[1].kind == LAUNCH_COPY_IN);
    cuda_program_destroy(first);
    cuda_program_destroy(second);
    sharpi_model_free(model);
}

/* The device's parts when the experts of all layers but the last are on the host. */
static uint32_t compile_parts(const struct sharpi_model *model, const struct sharpi_ranges *ranges,
                              struct sharpi_program *parts[32])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < ranges->n; i++) {
        const struct sharpi_range *range = &ranges->items[i];
        struct sharpi_compile request = request_of(model);
        if (range->device)
            continue;
        request.first_op = range->first_op;
        request.end_op = range->end_op;
        request.carry_in = range->in;
        request.n_carry_in = range->n_in;
        request.carry_out = range->out;
        request.n_carry_out = range->n_out;
        CU_ASSERT_FATAL(n < 32);
        parts[n++] = compile(&request);
    }
    return n;
}

/* Parts are in one scratch, and what stays there between runs is in the same place for all of them, with and without a mixture. */
static void check_parts(const struct fixture *f, struct sharpi_model *model)
{
    struct sharpi_placement placement = {.ends = {model->desc.n_layers + 2},
                                         .n_expert_layers = model->desc.n_layers - 1};
    struct sharpi_program *parts[32];
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_ranges ranges;
    uint64_t sum = 0, most = 0;
    uint32_t n;
    if (!f->mixture)
        return;
    CU_ASSERT_EQUAL_FATAL(
        sharpi_ranges_init(&ranges, sharpi_graph_view(model->graph), &placement, 1, NULL, model->chunk, &err),
        SHARPI_OK);
    n = compile_parts(model, &ranges, parts);
    CU_ASSERT_EQUAL(n, model->desc.n_layers);
    for (uint32_t i = 0; i < n; i++) {
        const struct layout *l = &parts[i]->layout, *first = &parts[0]->layout;
        struct sharpi_program_memory memory = {.size = sizeof memory};
        CU_ASSERT_EQUAL(cuda_program_memory(parts[i], &memory), SHARPI_OK);
        sum += memory.scratch_bytes;
        most = l->n_bytes > most ? l->n_bytes : most;
        CU_ASSERT_PTR_EQUAL(parts[i]->shared, parts[0]->shared);
        CU_ASSERT(l->sequence == first->sequence && l->counts == first->counts &&
                  l->matmul == first->matmul && l->pages == first->pages && l->attention == first->attention);
        CU_ASSERT(l->arena >= l->attention + SHARPI_CUDA_COUNTER_BYTES);
        CU_ASSERT(program_host_bytes(parts[i]) <= parts[i]->shared->n_host_bytes);
    }
    CU_ASSERT_EQUAL(sum, cuda_rounded(most));
    for (uint32_t i = 0; i < n; i++)
        cuda_program_destroy(parts[i]);
    CU_ASSERT_PTR_NULL(device.scratch);
    sharpi_ranges_finish(&ranges);
}

static void parts_take_turns_in_scratch(void)
{
    each_fixture(check_parts);
}

/* The matrices of products become q8_0, which is all that a program on paper knows of them. */
static uint32_t quantize_weights(const struct sharpi_graph_view *graph)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < graph->n_ops; i++) {
        struct sharpi_tensor *w = (struct sharpi_tensor *)(uintptr_t)graph->ops[i]->w[0];
        if (graph->ops[i]->kind != SHARPI_OP_LINEAR || !w || w->ne[0] % 32)
            continue;
        w->type = SHARPI_TYPE_Q8_0;
        w->n_bytes = sharpi_row_bytes(w->type, w->ne[0]) * w->ne[1];
        n++;
    }
    return n;
}

/* Whether a product's output reaches this cell, through a GLU or not. */
static int comes_from_step(const struct flow *flow, const struct step *step, int32_t cell)
{
    for (uint32_t i = 0; i < step->n; i++) {
        const int32_t out = step_node(flow, step, i)->out;
        if (out == cell)
            return 1;
        for (uint32_t k = 0; k < flow->n_nodes; k++) {
            const struct node *glu = &flow->nodes[k];
            if (glu->kind == NODE_GLU && glu->out == cell && (glu->in[0] == out || glu->in[1] == out))
                return 1;
        }
    }
    return 0;
}

/* Codes that a product may write itself, in place of the step after it, lie apart from what it reads. The number of such codes. */
static uint32_t check_codes(const struct flow *flow)
{
    uint32_t n = 0, wrong = 0;
    for (uint32_t i = 0; i < flow->n_steps; i++) {
        const struct step *step = &flow->steps[i];
        for (uint32_t k = 0; k < flow->n_nodes && step->kind == STEP_MATMUL; k++) {
            const struct node *quantize = &flow->nodes[k];
            const struct cell *codes = &flow->cells[quantize->out];
            if (quantize->kind != NODE_QUANTIZE || quantize->index != ACT_Q8 ||
                !comes_from_step(flow, step, quantize->in[0]))
                continue;
            n++;
            for (uint32_t f = 0; f < ACT_COUNT; f++) {
                const struct cell *in = step->act[f] < 0 ? NULL : &flow->cells[step->act[f]];
                if (in && in->place == PLACE_ARENA)
                    wrong += in->offset < codes->offset + codes->stride * flow_rows(flow, codes->rows) &&
                             codes->offset < in->offset + in->stride * flow_rows(flow, in->rows);
            }
        }
    }
    CU_ASSERT_EQUAL(wrong, 0);
    return n;
}

/* The logits that experts are chosen from live as long as the experts' step, in which parts of a sequence choose anew. */
static void check_logits(const struct flow *flow)
{
    for (uint32_t i = 0; i < flow->n_nodes; i++) {
        const struct node *route = &flow->nodes[i];
        for (uint32_t k = 0; k < flow->n_nodes && route->kind == NODE_ROUTE; k++) {
            const struct node *experts = &flow->nodes[k];
            if (experts->kind == NODE_EXPERTS && experts->in[0] == route->out)
                CU_ASSERT(flow->cells[route->in[0]].last_step >= experts->step);
        }
    }
}

/* No block of a sequence writes what another may still read. The number of sequences. */
static uint32_t check_sequences(struct sharpi_program *program)
{
    uint32_t n = 0, n_conflicts = 0;
    program->weight_memory = (uint8_t *)(UINT64_C(1) << 52); /* made-up addresses */
    program->scratch = (uint8_t *)(UINT64_C(1) << 54);
    make_launches(program);
    program->weight_memory = program->scratch = NULL;
    for (uint32_t i = 0; i < program->n_launches; i++) {
        if (!program->launches[i].sequence)
            continue;
        n++;
        n_conflicts += sequence_conflicts(program->launches[i].sequence);
    }
    CU_ASSERT_EQUAL(n_conflicts, 0);
    return n;
}

static uint32_t n_codes, n_sequences;

static void check_quantized(const struct fixture *f, struct sharpi_model *model)
{
    struct sharpi_compile request = request_of(model);
    struct sharpi_program *program;
    (void)f;
    program = compile(&request);
    check_logits(&program->flow);
    n_sequences += check_sequences(program);
    cuda_program_destroy(program);
    CU_ASSERT(quantize_weights(request.graph) > 0);
    program = compile(&request);
    check_arena(&program->flow);
    n_codes += check_codes(&program->flow);
    n_sequences += check_sequences(program);
    cuda_program_destroy(program);
}

static void nothing_read_is_overwritten(void)
{
    each_fixture(check_quantized);
    CU_ASSERT(n_codes > 0);
    CU_ASSERT(n_sequences > 4 * n_fixtures); /* some mixtures of several types have none */
}

/* ---- Heads */

static int32_t always(const struct sharpi_kv_cuda_args *args)
{
    return args->n_heads > 0 && args->max_seq_tokens == 1;
}

/* Rows that attention makes heads of, and the angles, are there when it begins: nobody else writes over them. */
static void check_raw(const struct flow *flow, const struct attention *a, int32_t step)
{
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < 3; i++) {
        const struct cell *raw = a->paths[i].raw < 0 ? NULL : &flow->cells[a->paths[i].raw];
        if (a->paths[i].rope >= 0)
            wrong += flow->cells[flow->nodes[a->paths[i].rope].in[1]].last_step < step;
        wrong += raw && (raw->last_step < step || raw->place != PLACE_ARENA);
        for (uint32_t k = 0; raw && k < flow->n_nodes; k++) {
            const struct node *node = &flow->nodes[k];
            if (node->out >= 0 && node->out != a->paths[i].raw &&
                flow->cells[node->out].storage == raw->storage && node->step > raw->made_step &&
                node->step <= step)
                wrong += !paths_have(a->paths, (int32_t)k);
        }
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

/* Row steps before attentions that make heads themselves do something else or are left out. The number of the latter. */
static uint32_t count_left_out(struct sharpi_program *program)
{
    static const struct sharpi_kv_cuda kernels = {
        .size = sizeof kernels, .quantizes = always, .makes_heads = always};
    const struct run one_row = {.program = program, .n_tokens = 1, .n_seqs = 1, .max_seq_tokens = 1};
    uint32_t n = 0;
    for (uint32_t i = 0; i < program->n_attentions; i++)
        program->attentions[i].kernels = &kernels;
    check_sequences(program);
    for (uint32_t i = 0; i < program->n_launches; i++) {
        const struct launch *launch = &program->launches[i];
        if (launch->heads_of < 0)
            continue;
        CU_ASSERT_PTR_NOT_NULL(launch->steps[VARIANT_PLAIN]);
        n += !run_rows_step(&one_row, launch);
    }
    return n;
}

static void check_heads(const struct fixture *f, struct sharpi_model *model)
{
    struct sharpi_compile request = request_of(model);
    struct sharpi_program *program;
    uint32_t n = 0, n_left_out, wanted;
    CU_ASSERT(quantize_weights(request.graph) > 0);
    program = compile(&request);
    wanted = strcmp(f->name, "olmoe") ? program->n_attentions : 0; /* that norms whole rows */
    for (uint32_t i = 0; i < program->flow.n_nodes; i++) {
        const struct node *node = &program->flow.nodes[i];
        if (node->kind != NODE_ATTENTION || !program->attentions[node->index].can_make_heads)
            continue;
        check_raw(&program->flow, &program->attentions[node->index], node->step);
        n++;
    }
    CU_ASSERT_EQUAL(n, wanted);
    n_left_out = count_left_out(program);
    CU_ASSERT(model->desc.ple_width ? n_left_out > 0 : n_left_out == wanted);
    cuda_program_destroy(program);
}

static void attention_may_make_heads(void)
{
    each_fixture(check_heads);
}

static void ops_of_an_architecture_are_refused(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_custom_attr attr = {.size = sizeof attr, .name = "odd_op"};
    struct sharpi_op op = {.size = sizeof op, .kind = SHARPI_OP_CUSTOM, .attr = &attr};
    CU_ASSERT_EQUAL(cuda_supports(&backend, NULL, &op, NULL, &err), SHARPI_ENOTSUP);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "odd_op"));
}

static void logits_beyond_the_choice_are_refused(void)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_tensor tensor = {.type = SHARPI_TYPE_F16, .ne = {64, TOPK_MAX_VOCAB, 1, 1}};
    const struct sharpi_tensor *w = &tensor;
    struct sharpi_op op = {.size = sizeof op, .kind = SHARPI_OP_LOGITS, .w = {w}};
    CU_ASSERT_EQUAL(cuda_supports(&backend, NULL, &op, NULL, &err), SHARPI_OK);
    tensor.ne[1]++;
    CU_ASSERT_EQUAL(cuda_supports(&backend, NULL, &op, NULL, &err), SHARPI_ENOTSUP);
}

static void code_is_for_some_devices(void)
{
    static const struct {
        const char *archs;
        int major, minor, has;
    } cases[] = {
        {"80", 8, 0, 1},   {"80", 8, 9, 1},      {"86", 8, 0, 0},         {"80", 9, 0, 0},
        {"90", 9, 0, 1},   {"90", 8, 9, 0},      {"80 90", 12, 0, 0},     {"80 90 90-virtual", 12, 0, 1},
        {"120", 12, 1, 1}, {"120a", 12, 1, 0},   {"80-virtual", 9, 0, 1}, {"90-virtual", 8, 9, 0},
        {"", 9, 0, 0},     {"100 103", 10, 3, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CU_ASSERT_EQUAL(cuda_has_code(cases[i].archs, cases[i].major, cases[i].minor), cases[i].has);
}

int main(void)
{
    unsigned failures;
    int status;
    CU_pSuite suite;
    if ((status = fixtures_engine(NULL, &engine)))
        return status;
    backend.host = device.host = &engine->host;
    device.backend = &backend;
    device.matmul = &products;
    device.n_sms = 132;
    device.compute_major = 9;
    CU_initialize_registry();
    suite = CU_add_suite("cuda-compile", NULL, NULL);
    CU_add_test(suite, "cells of one step lie apart", cells_of_one_step_lie_apart);
    CU_add_test(suite, "a layer takes few launches", a_layer_takes_few_launches);
    CU_add_test(suite, "glu has a variant without it", glu_has_a_variant_without_it);
    CU_add_test(suite, "halves carry what crosses them", halves_carry_what_crosses_them);
    CU_add_test(suite, "parts take turns in scratch", parts_take_turns_in_scratch);
    CU_add_test(suite, "sequences and codes do not overwrite what is read", nothing_read_is_overwritten);
    CU_add_test(suite, "attention may make heads", attention_may_make_heads);
    CU_add_test(suite, "ops of an architecture are refused", ops_of_an_architecture_are_refused);
    CU_add_test(suite, "logits beyond the choice are refused", logits_beyond_the_choice_are_refused);
    CU_add_test(suite, "code is for some devices", code_is_for_some_devices);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    sharpi_engine_close(engine);
    return failures ? 1 : 0;
}
