/* Steps become launches: all arguments that do not change from run to run, and which activations products can do on the way.
 *
 * Invariant: launches run in the order of the list, each after the one before it is complete.
 */
#include "program.h"

struct launch *launch_add(struct sharpi_program *program, int32_t kind, const struct node *node,
                          struct sharpi_error *err)
{
    struct launch *launch;
    if (flow_grow(&program->flow, &program->launches, program->n_launches, &program->cap_launches,
                  sizeof *launch, err))
        return NULL;
    launch = &program->launches[program->n_launches++];
    memset(launch, 0, sizeof *launch);
    launch->kind = kind;
    launch->layer = node->layer;
    launch->step = node->step;
    launch->rows = program->flow.cells[node->out >= 0 ? node->out : node->in[0]].rows;
    launch->index = node->index;
    launch->cell = launch->glu_launch = launch->codes_of = launch->heads_of = -1;
    return launch;
}

static void free_launch(const struct sharpi_host *host, struct launch *launch)
{
    for (uint32_t i = 0; i < MAX_VARIANTS; i++) {
        if (launch->steps[i])
            host->free(host, launch->steps[i]);
    }
    if (launch->sequence)
        host->free(host, launch->sequence);
}

void launches_free(struct sharpi_program *program)
{
    for (uint32_t i = 0; i < program->n_launches; i++)
        free_launch(program->device->host, &program->launches[i]);
    program->n_launches = 0;
}

/* ---- Products */

static struct matmul_part part_of(const struct sharpi_program *program, const struct node *node)
{
    const struct cell *out = &program->flow.cells[node->out];
    struct matmul_part part = {.w = &program->weights[node->weight].matrix,
                               .bias = node->vector >= 0 ? program->flow.vectors[node->vector].data : NULL,
                               .out = (float *)(void *)out->base,
                               .out_stride = out->stride / sizeof(float),
                               .epilogue = node->residual >= 0 ? MATMUL_ADD : MATMUL_STORE};
    return part;
}

static void fill_inputs(const struct sharpi_program *program, const struct step *step,
                        struct matmul_args *product)
{
    product->ctx = program->device->matmul;
    product->workspace = program->scratch + program->layout.matmul;
    product->workspace_bytes = program->layout.matmul_bytes;
    for (uint32_t f = 0; f < ACT_COUNT; f++) {
        if (step->act[f] < 0)
            continue;
        product->act[f] = program->flow.cells[step->act[f]].base;
        product->act_stride[f] = program->flow.cells[step->act[f]].stride;
    }
}

/* The output matrix, with the cap that follows it. */
static int32_t make_logits(struct sharpi_program *program, const struct step *step, const struct node *node,
                           struct sharpi_error *err)
{
    const struct sharpi_logits_attr *attr = node->op->attr;
    struct launch *launch = launch_add(program, LAUNCH_LOGITS, node, err);
    if (!launch)
        return SHARPI_ENOMEM;
    launch->what = "the output matrix";
    program->softcap = attr->softcap;
    fill_inputs(program, step, &launch->product);
    launch->product.n_parts = 1;
    launch->product.part[0] = part_of(program, node);
    return attr->softcap > 0.0f ? rows_make_cap(program, launch, attr->softcap, err) : SHARPI_OK;
}

/* The glu of `rows` whose inputs are two products of `step` that nobody else reads. NULL if there is none. */
static const struct node *find_glu(const struct sharpi_program *program, const struct step *step,
                                   const struct step *rows, const struct node **gate, const struct node **up)
{
    const struct flow *flow = &program->flow;
    for (uint32_t i = 0; i < rows->n; i++) {
        const struct node *glu = step_node(flow, rows, i);
        int32_t position = (int32_t)(rows->first + i);
        if (glu->kind != NODE_GLU || flow->cells[glu->in[0]].last_position != position ||
            flow->cells[glu->in[1]].last_position != position)
            continue;
        *gate = *up = NULL;
        for (uint32_t k = 0; k < step->n; k++) {
            const struct node *product = step_node(flow, step, k);
            if (product->residual >= 0 || flow->cells[product->out].has_views)
                continue;
            *gate = product->out == glu->in[0] ? product : *gate;
            *up = product->out == glu->in[1] ? product : *up;
        }
        if (*gate && *up)
            return glu;
    }
    return NULL;
}

/* A cell that only one node of the program reads. */
static uint32_t count_readers(const struct flow *flow, const struct step *step, int32_t cell)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < step->n; i++) {
        const struct node *node = step_node(flow, step, i);
        int32_t cells[NODE_MAX_CELLS];
        uint32_t n_cells = node_reads(node, cells);
        for (uint32_t c = 0; c < n_cells; c++)
            n += cells[c] == cell;
    }
    return n;
}

/* The pair as one launch that may do the activation too. */
static int32_t make_glu(struct sharpi_program *program, const struct step *step, const struct node *glu,
                        const struct node *gate, const struct node *up, struct sharpi_error *err)
{
    const struct sharpi_glu_attr *attr = glu->op->attr;
    struct launch *launch = launch_add(program, LAUNCH_MATMUL, gate, err);
    if (!launch)
        return SHARPI_ENOMEM;
    launch->what = "gate and up";
    fill_inputs(program, step, &launch->product);
    launch->product.n_parts = 2;
    launch->product.part[0] = part_of(program, gate);
    launch->product.part[1] = part_of(program, up);
    launch->glu = attr->activation;
    launch->glu_clamp = attr->clamp;
    return SHARPI_OK;
}

/* `next`: the step after it, or NULL. */
static int32_t make_products(struct sharpi_program *program, const struct step *step, const struct step *next,
                             int32_t *glu_launch, struct sharpi_error *err)
{
    const struct flow *flow = &program->flow;
    const struct node *gate = NULL, *up = NULL, *glu = NULL;
    struct launch *launch = NULL;
    *glu_launch = -1;
    if (next && next->kind == STEP_ROWS)
        glu = find_glu(program, step, next, &gate, &up);
    if (glu && count_readers(flow, next, gate->out) == 1 && count_readers(flow, next, up->out) == 1) {
        *glu_launch = (int32_t)program->n_launches;
        if (make_glu(program, step, glu, gate, up, err))
            return SHARPI_ENOMEM;
    }
    for (uint32_t i = 0; i < step->n; i++) {
        const struct node *node = step_node(flow, step, i);
        int32_t status;
        if (*glu_launch >= 0 && (node == gate || node == up))
            continue;
        if (node->out == flow->logits_cell) {
            if ((status = make_logits(program, step, node, err)))
                return status;
            continue;
        }
        if (!launch || launch->product.n_parts == MATMUL_MAX_PARTS) {
            launch = launch_add(program, LAUNCH_MATMUL, node, err);
            if (!launch)
                return SHARPI_ENOMEM;
            launch->what = "a matrix product";
            fill_inputs(program, step, &launch->product);
        }
        launch->product.part[launch->product.n_parts++] = part_of(program, node);
    }
    return SHARPI_OK;
}

/* ---- The rest */

static int32_t make_single(struct sharpi_program *program, const struct step *step, struct sharpi_error *err)
{
    const struct node *node = step_node(&program->flow, step, 0);
    int32_t kind = 0, status;
    const char *what = NULL;
    struct launch *launch;
    switch (node->kind) {
    case NODE_SLICE:
        return rows_make(program, step, -1, err);
    case NODE_LOGIT_CAP:
        return SHARPI_OK; /* with the logits */
    case NODE_ATTENTION:
        kind = LAUNCH_ATTENTION;
        what = "attention";
        break;
    case NODE_ROUTE:
        kind = LAUNCH_ROUTE;
        what = "the choice of experts";
        break;
    case NODE_EXPERTS:
        kind = LAUNCH_EXPERTS;
        what = "the experts";
        break;
    case NODE_COPY_IN:
        kind = LAUNCH_COPY_IN;
        what = "a copy of carried rows";
        break;
    default: /* NODE_COPY_CARRY, NODE_COPY_TAP */
        kind = LAUNCH_COPY_OUT;
        what = node->kind == NODE_COPY_CARRY ? "a copy of carried rows" : "a copy of tapped rows";
    }
    launch = launch_add(program, kind, node, err);
    if (!launch)
        return SHARPI_ENOMEM;
    launch->what = what;
    launch->cell = node->kind == NODE_COPY_IN ? node->out : node->in[0];
    launch->is_tap = node->kind == NODE_COPY_TAP;
    status = SHARPI_OK;
    if (kind == LAUNCH_EXPERTS)
        status = rows_make_hidden(program, launch, &program->mixtures[node->index], err);
    return status;
}

/* Gathered rows are unpacked before everything else. */
static int32_t make_gathers(struct sharpi_program *program, struct sharpi_error *err)
{
    for (uint32_t i = 0; i < program->n_gathers; i++) {
        struct launch *launch = launch_add(program, LAUNCH_GATHER, &program->flow.nodes[0], err);
        if (!launch)
            return SHARPI_ENOMEM;
        launch->rows = SHARPI_ROWS_TOKENS;
        launch->index = (int32_t)i;
        launch->what = "the look-up of per-layer rows";
    }
    return SHARPI_OK;
}

int32_t launches_make(struct sharpi_program *program, struct sharpi_error *err)
{
    const struct flow *flow = &program->flow;
    int32_t glu_launch = -1, status = SHARPI_OK;
    launches_free(program);
    status = make_gathers(program, err);
    for (uint32_t i = 0; i < flow->n_steps && !status; i++) {
        const struct step *step = &flow->steps[i];
        const struct step *next = i + 1 < flow->n_steps ? step + 1 : NULL;
        if (step->kind == STEP_MATMUL) {
            status = make_products(program, step, next, &glu_launch, err);
            continue;
        }
        if (step->kind == STEP_ROWS)
            status = rows_make(program, step, glu_launch, err);
        else
            status = make_single(program, step, err);
        glu_launch = -1;
    }
    return status ? status : sequences_make(program, err);
}
