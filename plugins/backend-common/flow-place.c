/* Third stage of compiling: memory for every cell. See flow.h.
 *
 * A storage is a piece of the arena that lives from the step that first writes it to the last step that reads it, both
 * included; cells made in place share one. Storages that live in a common step never overlap.
 */
#include "flow.h"

struct storage {
    uint64_t n_bytes, offset;
    int32_t first_step, last_step;
};

struct placing {
    struct flow *flow;
    struct storage *storages;
    uint32_t *live; /* storages that are live, by offset */
    uint32_t n_storages, n_live;
};

static struct cell *root_of(const struct flow *flow, int32_t cell)
{
    return &flow->cells[flow->cells[cell].parent];
}

/* The logits that experts were chosen from stay until these are done: every part of their work may choose anew. */
static void keep_logits(struct flow *flow, const struct node *experts)
{
    for (uint32_t i = 0; i < flow->n_nodes; i++) {
        const struct node *route = &flow->nodes[i];
        if (route->kind == NODE_ROUTE && route->out == experts->in[0])
            root_of(flow, route->in[0])->last_step = experts->step;
    }
}

static void note_use(struct flow *flow, int32_t number, int32_t step, int32_t position)
{
    struct cell *cell = root_of(flow, number);
    cell->last_step = step > cell->last_step ? step : cell->last_step;
    cell->last_position = position;
}

/* What attention may make heads of stays until it is done. Only nodes that do nothing then may write over it. */
static void keep_rows(struct flow *flow, const struct node *attention, int32_t position)
{
    struct heads_path paths[3];
    if (!attention_paths(flow, attention, paths))
        return;
    for (uint32_t i = 0; i < 3; i++) {
        const int32_t raw = paths[i].raw, last = raw < 0 ? -1 : flow->cells[raw].last_position;
        if (raw >= 0)
            note_use(flow, raw, attention->step, paths_have(paths, flow->schedule[last]) ? last : position);
        if (paths[i].rope >= 0)
            note_use(flow, flow->nodes[paths[i].rope].in[1], attention->step, position);
    }
}

static void find_last_uses(struct flow *flow)
{
    for (uint32_t i = 0; i < flow->n_cells; i++) {
        flow->cells[i].last_step = flow->cells[i].made_step;
        flow->cells[i].last_position = -1;
        flow->cells[i].storage = -1;
    }
    for (uint32_t i = 0; i < flow->n_scheduled; i++) {
        const struct node *node = &flow->nodes[flow->schedule[i]];
        int32_t cells[NODE_MAX_CELLS];
        uint32_t n = node_reads(node, cells);
        for (uint32_t c = 0; c < n; c++)
            note_use(flow, cells[c], node->step, (int32_t)i);
        if (node->kind == NODE_EXPERTS)
            keep_logits(flow, node);
        if (node->kind == NODE_ATTENTION && flow->traits->attention_makes_heads)
            keep_rows(flow, node, (int32_t)i);
    }
}

/* How many of the node's first inputs its output may be written over. */
static uint32_t overwritable_inputs(const struct node *node)
{
    switch (node->kind) {
    case NODE_RMS_NORM:
    case NODE_ROPE:
    case NODE_ACTIVATION:
    case NODE_MUL_VECTOR:
    case NODE_SCALE:
    case NODE_SOFTCAP:
        return 1;
    case NODE_GLU:
    case NODE_ADD:
    case NODE_MUL:
        return 2;
    default:
        return 0;
    }
}

/* An input that `out` may take the place of: nobody reads it after this node. NULL if there is none. */
static const struct cell *find_overwritable(const struct flow *flow, const struct node *node,
                                            const struct cell *out, int32_t place, int32_t position)
{
    uint32_t n = overwritable_inputs(node);
    for (uint32_t i = 0; i < n; i++) {
        const struct cell *in = &flow->cells[node->in[i]];
        if (in->parent == node->in[i] && !in->has_views && !in->is_shared && !in->is_kept &&
            in->place == place && in->width == out->width && in->rows == out->rows &&
            in->last_position == position)
            return in;
    }
    return NULL;
}

static int32_t has_local_room(const struct flow *flow, const struct node *node, const struct cell *cell)
{
    uint64_t used = flow->steps[node->step].local_bytes;
    return used <= flow->traits->max_local && cell->stride <= flow->traits->max_local - used;
}

static void place_local(struct placing *placing, const struct node *node, struct cell *cell, int32_t position)
{
    struct step *step = &placing->flow->steps[node->step];
    const struct cell *over = find_overwritable(placing->flow, node, cell, PLACE_LOCAL, position);
    cell->place = PLACE_LOCAL;
    cell->offset = over ? over->offset : step->local_bytes;
    if (!over)
        step->local_bytes += cell->stride;
}

static int32_t place_in_arena(struct placing *placing, const struct node *node, struct cell *cell,
                              int32_t position, struct sharpi_error *err)
{
    struct flow *flow = placing->flow;
    const struct cell *over = node->residual >= 0
                                  ? root_of(flow, node->residual)
                                  : find_overwritable(flow, node, cell, PLACE_ARENA, position);
    struct storage *storage;
    cell->place = PLACE_ARENA;
    if (over) {
        cell->storage = over->storage;
        storage = &placing->storages[cell->storage];
        storage->last_step = cell->last_step > storage->last_step ? cell->last_step : storage->last_step;
        return SHARPI_OK;
    }
    cell->storage = (int32_t)placing->n_storages;
    storage = &placing->storages[placing->n_storages++];
    storage->first_step = cell->made_step;
    storage->last_step = cell->last_step;
    if (__builtin_mul_overflow(cell->stride, flow_rows(flow, cell->rows), &storage->n_bytes) ||
        storage->n_bytes > UINT64_MAX / 4)
        return sharpi_fail(err, SHARPI_EINVAL, "activations of %llu rows are too large; use a smaller batch",
                           (unsigned long long)flow_rows(flow, cell->rows));
    return SHARPI_OK;
}

/* What a product's output becomes by a GLU; -1: there is none. */
static int32_t activated_cell(const struct flow *flow, const struct node *product)
{
    for (uint32_t i = 0; i < flow->n_nodes; i++) {
        const struct node *glu = &flow->nodes[i];
        if (glu->kind == NODE_GLU && (glu->in[0] == product->out || glu->in[1] == product->out))
            return glu->out;
    }
    return -1;
}

/* Formats of the output of attention or a product that it may write itself: their memory is theirs from its step on, as it writes them
 * while its inputs are still read. */
static int32_t place_formats(struct placing *placing, const struct node *maker, int32_t position,
                             struct sharpi_error *err)
{
    struct flow *flow = placing->flow;
    const int32_t activated = maker->kind == NODE_MATMUL ? activated_cell(flow, maker) : -1;
    int32_t status = SHARPI_OK;
    for (uint32_t i = 0; i < flow->n_nodes && !status; i++) {
        const struct node *node = &flow->nodes[i];
        struct cell *cell;
        if (node->kind != NODE_QUANTIZE || !(flow->traits->early_formats >> node->index & 1) ||
            (node->in[0] != maker->out && node->in[0] != activated))
            continue;
        cell = &flow->cells[node->out];
        if (cell->storage >= 0)
            continue;
        cell->made_step = maker->step;
        status = place_in_arena(placing, node, cell, position, err);
    }
    return status;
}

static int32_t place_node(struct placing *placing, int32_t position, struct sharpi_error *err)
{
    struct flow *flow = placing->flow;
    const struct node *node = &flow->nodes[flow->schedule[position]];
    int32_t cells[NODE_MAX_CELLS], status = SHARPI_OK;
    uint32_t n = node_writes(node, cells);
    if ((node->kind == NODE_ATTENTION || node->kind == NODE_MATMUL) && flow->traits->early_formats)
        status = place_formats(placing, node, position, err);
    for (uint32_t i = 0; i < n && !status; i++) {
        struct cell *cell = root_of(flow, cells[i]);
        if (cell->place == PLACE_LOGITS || cell->storage >= 0)
            continue;
        if (cell->row_made && !cell->is_shared && cell->last_step == cell->made_step &&
            has_local_room(flow, node, cell))
            place_local(placing, node, cell, position);
        else
            status = place_in_arena(placing, node, cell, position, err);
    }
    return status;
}

/* ---- The arena */

static void drop_dead(struct placing *placing, int32_t step)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < placing->n_live; i++) {
        if (placing->storages[placing->live[i]].last_step >= step)
            placing->live[n++] = placing->live[i];
    }
    placing->n_live = n;
}

/* Lowest gap among the live storages. */
static int32_t find_room(struct placing *placing, uint32_t number, struct sharpi_error *err)
{
    struct storage *storage = &placing->storages[number];
    uint32_t at = 0;
    uint64_t end = 0;
    drop_dead(placing, storage->first_step);
    for (; at < placing->n_live; at++) {
        const struct storage *other = &placing->storages[placing->live[at]];
        if (other->offset >= end && other->offset - end >= storage->n_bytes)
            break;
        end = other->offset + other->n_bytes > end ? other->offset + other->n_bytes : end;
    }
    memmove(placing->live + at + 1, placing->live + at, (placing->n_live - at) * sizeof *placing->live);
    placing->live[at] = number;
    placing->n_live++;
    storage->offset = end;
    end += storage->n_bytes;
    if (end > UINT64_MAX / 4)
        return sharpi_fail(err, SHARPI_EINVAL, "activations are too large; use a smaller batch");
    if (end > placing->flow->arena_bytes)
        placing->flow->arena_bytes = end;
    return SHARPI_OK;
}

/* Copies the parents' places to slices and storages' to cells. */
static void finish_cells(const struct placing *placing)
{
    struct flow *flow = placing->flow;
    for (uint32_t i = 0; i < flow->n_cells; i++) {
        struct cell *cell = &flow->cells[i];
        if (cell->storage >= 0)
            cell->offset = placing->storages[cell->storage].offset;
        if (cell->place == PLACE_LOCAL)
            cell->stride = 0;
    }
    for (uint32_t i = 0; i < flow->n_cells; i++) {
        struct cell *cell = &flow->cells[i];
        const struct cell *root = &flow->cells[cell->parent];
        if (cell == root)
            continue;
        cell->place = root->place;
        cell->stride = root->stride;
        cell->offset = root->offset + cell->column * sizeof(float);
    }
}

static int32_t place_all(struct placing *placing, struct sharpi_error *err)
{
    struct flow *flow = placing->flow;
    int32_t status = SHARPI_OK;
    find_last_uses(flow);
    for (uint32_t i = 0; i < flow->n_scheduled && !status; i++)
        status = place_node(placing, (int32_t)i, err);
    for (uint32_t i = 0; i < placing->n_storages && !status; i++)
        status = find_room(placing, i, err);
    if (status)
        return status;
    finish_cells(placing);
    for (uint32_t i = 0; i < flow->n_steps; i++) {
        if (flow->steps[i].local_bytes > flow->local_bytes)
            flow->local_bytes = flow->steps[i].local_bytes;
    }
    flow->local_bytes = round64(flow->local_bytes);
    return SHARPI_OK;
}

int32_t flow_place(struct flow *flow, struct sharpi_error *err)
{
    const struct sharpi_host *host = flow->host;
    struct placing placing = {.flow = flow};
    int32_t status = SHARPI_ENOMEM;
    placing.storages = flow_alloc(flow, flow->n_cells, sizeof *placing.storages, err);
    placing.live = flow_alloc(flow, flow->n_cells + 1ull, sizeof *placing.live, err);
    if (placing.storages && placing.live)
        status = place_all(&placing, err);
    if (placing.storages)
        host->free(host, placing.storages);
    if (placing.live)
        host->free(host, placing.live);
    return status;
}
