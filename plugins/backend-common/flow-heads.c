/* How the heads that attention reads come about: products' rows whose heads are normed, turned, both or neither. See flow.h. */
#include "flow.h"

static uint32_t count_reads(const struct flow *flow, int32_t cell)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < flow->n_nodes; i++) {
        int32_t cells[NODE_MAX_CELLS];
        uint32_t n = node_reads(&flow->nodes[i], cells);
        for (uint32_t c = 0; c < n; c++)
            count += cells[c] == cell;
    }
    return count;
}

/* The node that makes the cell if it is of this kind, else -1. */
static int32_t find_maker(const struct flow *flow, int32_t cell, int32_t kind)
{
    for (uint32_t i = 0; i < flow->n_nodes; i++) {
        if (flow->nodes[i].out == cell && flow->nodes[i].kind == kind)
            return (int32_t)i;
    }
    return -1;
}

static int32_t has_one_reader(const struct flow *flow, int32_t cell)
{
    return !flow->cells[cell].has_views && count_reads(flow, cell) == 1;
}

static int32_t norms_heads(const struct node *norm, uint32_t head_dim)
{
    const struct sharpi_rms_norm_attr *attr = norm->op->attr;
    return attr->group == head_dim;
}

static int32_t turns_heads(const struct node *rope, uint32_t head_dim)
{
    const struct sharpi_rope_attr *attr = rope->op->attr;
    return attr->head_dim == head_dim && attr->n_rot == head_dim &&
           (attr->mode == SHARPI_ROPE_NORM || attr->mode == SHARPI_ROPE_NEOX);
}

static int32_t turn_alike(const struct node *a, const struct node *b)
{
    const struct sharpi_rope_attr *a_attr = a->op->attr, *b_attr = b->op->attr;
    return a->in[1] == b->in[1] && a_attr->mode == b_attr->mode;
}

/* A product's rows, whole ones, that stay as it made them: no other product adds into them. */
static int32_t is_raw(const struct flow *flow, int32_t cell)
{
    for (uint32_t i = 0; i < flow->n_nodes; i++) {
        if (flow->nodes[i].residual == cell)
            return 0;
    }
    return flow->cells[cell].parent == cell && find_maker(flow, cell, NODE_MATMUL) >= 0;
}

static int32_t find_path(const struct flow *flow, int32_t cell, uint32_t head_dim, struct heads_path *path)
{
    path->rope = find_maker(flow, cell, NODE_ROPE);
    if (path->rope >= 0) {
        if (!has_one_reader(flow, cell) || !turns_heads(&flow->nodes[path->rope], head_dim))
            return 0;
        cell = flow->nodes[path->rope].in[0];
    }
    path->norm = find_maker(flow, cell, NODE_RMS_NORM);
    if (path->norm >= 0) {
        if (!has_one_reader(flow, cell) || !norms_heads(&flow->nodes[path->norm], head_dim))
            return 0;
        cell = flow->nodes[path->norm].in[0];
    }
    path->raw = cell;
    return is_raw(flow, cell);
}

int32_t attention_paths(const struct flow *flow, const struct node *attention, struct heads_path paths[3])
{
    const struct sharpi_attention_attr *attr = attention->op->attr;
    const struct node *turn = NULL;
    uint32_t n_made = 0;
    for (uint32_t i = 0; i < 3; i++) {
        paths[i] = (struct heads_path){-1, -1, -1};
        if (attention->in[i] < 0)
            continue;
        if (!find_path(flow, attention->in[i], attr->head_dim, &paths[i]))
            return 0;
        n_made += paths[i].norm >= 0 || paths[i].rope >= 0;
        if (paths[i].rope < 0)
            continue;
        if (turn && !turn_alike(turn, &flow->nodes[paths[i].rope]))
            return 0;
        turn = &flow->nodes[paths[i].rope];
    }
    return n_made > 0;
}

int32_t paths_have(const struct heads_path paths[3], int32_t node)
{
    for (uint32_t i = 0; i < 3; i++) {
        if (paths[i].norm == node || paths[i].rope == node)
            return 1;
    }
    return 0;
}
