/* What the files of the planner share: the price of a placement, and the search for one. */
#ifndef SHARPI_CORE_PLAN_INTERNAL_H
#define SHARPI_CORE_PLAN_INTERNAL_H

#include "plan.h"

static inline uint64_t sharpi_plan_add(uint64_t a, uint64_t b) /* stops at the top */
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static inline uint32_t sharpi_plan_segments(const struct sharpi_plan_request *request)
{
    return request->desc->n_layers + 2;
}

/* First segment of device `d`; of the host for d = n_devices. */
static inline uint32_t sharpi_plan_first(const struct sharpi_placement *placement, uint32_t d)
{
    return d ? placement->ends[d - 1] : 0;
}

/* Segments that the devices should hold together: all, or as many as the user said. */
static inline uint32_t sharpi_plan_target(const struct sharpi_plan_request *request)
{
    if (!request->limit_layers || request->n_device_layers >= request->desc->n_layers)
        return sharpi_plan_segments(request);
    return request->n_device_layers ? request->n_device_layers + 1 : 0;
}

/* Whether a device may end before segment `end`: a whole number of layers, and none after it reads the cache of one before. */
int32_t sharpi_plan_may_cut(const struct sharpi_plan_request *request, uint32_t end);

/* The cache for a context. Finish it. */
int32_t sharpi_plan_layout(const struct sharpi_plan_request *request, uint32_t context,
                           struct sharpi_kv_layout *layout, struct sharpi_error *err);

/* Prices what device `d` (the host for d = n_devices) holds. Fails for lack of memory only. */
int32_t sharpi_plan_price(const struct sharpi_plan_request *request, const struct sharpi_placement *placement,
                          const struct sharpi_kv_layout *layout, uint32_t d, struct sharpi_plan_part *part,
                          struct sharpi_error *err);

/* Bytes that are missing anywhere at this context, 0 when all fits; *where gets the device that misses most. SHARPI_ENOMEM only
 * when the planner itself has no memory. */
int32_t sharpi_plan_short(const struct sharpi_plan_request *request, const struct sharpi_placement *placement,
                          uint32_t context, uint64_t *missing, uint32_t *where, struct sharpi_error *err);

/* Gives each device in turn as many segments as fit with this context, experts of the first n_expert_layers aside. With a
 * number of layers that the user wants the last device takes what is missing, whether it fits or not. */
int32_t sharpi_plan_fill(const struct sharpi_plan_request *request, uint32_t context,
                         uint32_t n_expert_layers, struct sharpi_placement *placement,
                         struct sharpi_error *err);

/* The largest context in [low, high] that fits; `low` is taken without a look. With `refill` the placement may change along
 * with the context as long as the devices hold everything. */
int32_t sharpi_plan_grow(const struct sharpi_plan_request *request, struct sharpi_placement *placement,
                         int32_t refill, uint32_t low, uint32_t high, uint32_t *context,
                         struct sharpi_error *err);

#endif
