/* See plan-ranges.h. */
#include "plan-ranges.h"

#include <stdlib.h>
#include <string.h>

uint32_t sharpi_placement_device(const struct sharpi_placement *placement, uint32_t n_devices, int32_t layer,
                                 int32_t op_kind)
{
    const uint32_t segment = (uint32_t)(layer + 1);
    uint32_t d = 0;
    if (op_kind == SHARPI_OP_MOE_FFN && layer >= 0 && (uint32_t)layer < placement->n_expert_layers)
        return n_devices;
    while (d < n_devices && segment >= placement->ends[d])
        d++;
    return d;
}

/* What is known of the graph's values while ranges are made; ranges by index, -1 = none. */
struct value_use {
    int32_t made, last; /* ranges that make it and use it last */
    int32_t listed;     /* range whose `in` list it is in already */
};

/* ---- Cutting */

/* A tap names a value and computes nothing: it never begins a range. */
static void cut(struct sharpi_ranges *ranges, const struct sharpi_graph_view *graph,
                const struct sharpi_placement *placement, uint32_t n_devices, const uint8_t *host_ops)
{
    for (uint32_t i = 0; i < graph->n_ops; i++) {
        const struct sharpi_op *op = graph->ops[i];
        uint32_t device = host_ops && host_ops[i]
                              ? n_devices
                              : sharpi_placement_device(placement, n_devices, op->layer, op->kind);
        struct sharpi_range *last = ranges->n ? &ranges->items[ranges->n - 1] : NULL;
        if (!last || (last->device != device && op->kind != SHARPI_OP_TAP)) {
            last = &ranges->items[ranges->n++];
            *last = (struct sharpi_range){.device = device, .first_op = i};
        }
        last->end_op = i + 1;
    }
}

/* ---- Values that cross */

/* Fills the `in` lists, which take n_ops * SHARPI_OP_MAX_INPUTS values at most. */
static int32_t *list_inputs(struct sharpi_ranges *ranges, const struct sharpi_graph_view *graph,
                            struct value_use *uses, int32_t *next)
{
    for (uint32_t r = 0; r < ranges->n; r++) {
        struct sharpi_range *range = &ranges->items[r];
        range->in = next;
        for (uint32_t i = range->first_op; i < range->end_op; i++) {
            const struct sharpi_op *op = graph->ops[i];
            for (uint32_t k = 0; k < SHARPI_OP_MAX_INPUTS && op->kind != SHARPI_OP_TAP; k++) {
                struct value_use *use = op->in[k] >= 0 ? &uses[op->in[k]] : NULL;
                if (!use)
                    continue;
                use->last = (int32_t)r;
                if (use->made != (int32_t)r && use->listed != (int32_t)r) {
                    use->listed = (int32_t)r;
                    range->in[range->n_in++] = op->in[k];
                }
            }
            if (op->out >= 0)
                uses[op->out].made = uses[op->out].last = (int32_t)r;
        }
        next += range->n_in;
    }
    return next;
}

/* Fills the `out` lists, which take n_values at most. */
static void list_outputs(struct sharpi_ranges *ranges, const struct sharpi_graph_view *graph,
                         const struct value_use *uses, int32_t *next)
{
    for (uint32_t r = 0; r < ranges->n; r++) {
        struct sharpi_range *range = &ranges->items[r];
        range->out = next;
        for (uint32_t i = range->first_op; i < range->end_op; i++) {
            int32_t out = graph->ops[i]->out;
            if (out >= 0 && uses[out].last > (int32_t)r)
                range->out[range->n_out++] = out;
        }
        next += range->n_out;
    }
}

/* ---- Places of values that cross: the lowest gap among those that live, from the range that makes one to the last that uses it */

struct place {
    uint64_t offset, end;
    int32_t last;
};

static uint32_t drop_dead(struct place *live, uint32_t n, int32_t range)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (live[i].last >= range)
            live[kept++] = live[i];
    }
    return kept;
}

static uint64_t find_room(struct place *live, uint32_t n, uint64_t n_bytes, int32_t last)
{
    uint64_t offset = 0;
    uint32_t at = 0;
    while (at < n && live[at].offset - offset < n_bytes)
        offset = live[at++].end;
    memmove(live + at + 1, live + at, (n - at) * sizeof *live);
    live[at] = (struct place){offset, offset + n_bytes, last};
    return offset;
}

/* Widths and chunks are 32 bits, and so is the number of values: sums stay far below 2^63 unless a graph is nonsense, whose
 * programs do not compile. */
static void lay_out(struct sharpi_ranges *ranges, const struct sharpi_graph_view *graph,
                    const struct value_use *uses, struct place *live, uint32_t chunk)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < ranges->n; r++) {
        const struct sharpi_range *range = &ranges->items[r];
        n = drop_dead(live, n, (int32_t)r);
        for (uint32_t i = 0; i < range->n_out; i++) {
            const int32_t value = range->out[i];
            uint64_t n_bytes = (uint64_t)graph->values[value]->width * chunk * sizeof(float), end;
            n_bytes = (n_bytes + 63) / 64 * 64;
            ranges->offsets[value] = find_room(live, n++, n_bytes, uses[value].last);
            end = ranges->offsets[value] + n_bytes;
            ranges->n_bytes = end > ranges->n_bytes ? end : ranges->n_bytes;
        }
    }
}

int32_t sharpi_ranges_init(struct sharpi_ranges *ranges, const struct sharpi_graph_view *graph,
                           const struct sharpi_placement *placement, uint32_t n_devices,
                           const uint8_t *host_ops, uint32_t chunk, struct sharpi_error *err)
{
    const size_t n_inputs = (size_t)graph->n_ops * SHARPI_OP_MAX_INPUTS;
    struct value_use *uses = calloc((size_t)graph->n_values + 1, sizeof *uses);
    struct place *live = malloc(((size_t)graph->n_values + 1) * sizeof *live);
    memset(ranges, 0, sizeof *ranges);
    ranges->items = calloc((size_t)graph->n_ops + 1, sizeof *ranges->items);
    ranges->values = malloc((n_inputs + graph->n_values + 1) * sizeof *ranges->values);
    ranges->offsets = calloc((size_t)graph->n_values + 1, sizeof *ranges->offsets);
    if (!uses || !live || !ranges->items || !ranges->values || !ranges->offsets) {
        free(uses);
        free(live);
        sharpi_ranges_finish(ranges);
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to cut a graph of %u ops", graph->n_ops);
    }
    for (uint32_t i = 0; i < graph->n_values; i++)
        uses[i] = (struct value_use){-1, -1, -1};
    cut(ranges, graph, placement, n_devices, host_ops);
    list_outputs(ranges, graph, uses, list_inputs(ranges, graph, uses, ranges->values));
    lay_out(ranges, graph, uses, live, chunk);
    free(uses);
    free(live);
    return SHARPI_OK;
}

void sharpi_ranges_finish(struct sharpi_ranges *ranges)
{
    free(ranges->items);
    free(ranges->values);
    free(ranges->offsets);
    memset(ranges, 0, sizeof *ranges);
}
