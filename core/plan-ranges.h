/* A placement as ranges of the graph's ops, one after the other, and the values that cross from one to another.
 *
 * Invariant: the ranges cover all ops in order, neighbours lie on different devices, and every value that a range uses is made in
 * it or in its `in` list. Values that cross have a place in one block of host memory; places of values that live at the same
 * time do not overlap.
 */
#ifndef SHARPI_CORE_PLAN_RANGES_H
#define SHARPI_CORE_PLAN_RANGES_H

#include "plan.h"

struct sharpi_range {
    uint32_t device; /* of the placement; n_devices: the host */
    uint32_t first_op, end_op;
    uint32_t n_in, n_out;
    int32_t *in;  /* values made before and used here: compile's carry_in */
    int32_t *out; /* values made here and used later: compile's carry_out */
};

struct sharpi_ranges {
    uint32_t n;
    struct sharpi_range *items;
    int32_t *values;   /* what the lists point into */
    uint64_t *offsets; /* [n_values] of values that cross, in bytes */
    uint64_t n_bytes;  /* for batches of `chunk` tokens */
};

/* `host_ops` [n_ops] marks ops that are the host's wherever their layer is; or NULL. Free with sharpi_ranges_finish, which a
 * zeroed one survives. Fails for lack of memory only. */
int32_t sharpi_ranges_init(struct sharpi_ranges *ranges, const struct sharpi_graph_view *graph,
                           const struct sharpi_placement *placement, uint32_t n_devices,
                           const uint8_t *host_ops, uint32_t chunk, struct sharpi_error *err);
void sharpi_ranges_finish(struct sharpi_ranges *ranges);

/* Where an op of the layer runs. */
uint32_t sharpi_placement_device(const struct sharpi_placement *placement, uint32_t n_devices, int32_t layer,
                                 int32_t op_kind);

#endif
