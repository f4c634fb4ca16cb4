/* What a placement costs, device by device, and how to fill devices: see plan-internal.h. */
#include "plan-internal.h"
#include "plan-ranges.h"

#include <string.h>

int32_t sharpi_plan_layout(const struct sharpi_plan_request *request, uint32_t context,
                           struct sharpi_kv_layout *layout, struct sharpi_error *err)
{
    const struct sharpi_kv_shape shape = {context, request->full_cache ? context : request->headroom,
                                          request->max_seqs, request->pool};
    return sharpi_kv_layout_init(layout, request->desc, &request->formats, &shape, err);
}

static uint64_t kv_bytes(const struct sharpi_plan_request *request, const struct sharpi_kv_layout *layout,
                         uint32_t first_segment, uint32_t end_segment, uint64_t granularity)
{
    uint32_t n = request->desc->n_layers;
    uint32_t first = first_segment ? first_segment - 1 : 0;
    uint32_t end = end_segment ? end_segment - 1 : 0;
    return first < end ? sharpi_kv_layout_bytes(layout, first, end < n ? end : n, granularity) : 0;
}

static const struct sharpi_plan_measure *find_measure(const struct sharpi_plan_request *request,
                                                      const struct sharpi_placement *placement, uint32_t d)
{
    const uint32_t end = d < request->n_devices ? placement->ends[d] : sharpi_plan_segments(request);
    for (uint32_t i = 0; i < request->n_measures; i++) {
        const struct sharpi_plan_measure *m = &request->measures[i];
        if (m->device == d && m->first_segment == sharpi_plan_first(placement, d) && m->end_segment == end &&
            m->n_expert_layers == placement->n_expert_layers)
            return m;
    }
    return NULL;
}

/* Whether anything is computed there. */
static int32_t is_used(const struct sharpi_plan_request *request, const struct sharpi_placement *placement,
                       uint32_t d)
{
    if (d < request->n_devices)
        return sharpi_plan_first(placement, d) < placement->ends[d];
    return sharpi_plan_first(placement, d) < sharpi_plan_segments(request) || placement->n_expert_layers ||
           (request->host_ops && request->n_devices);
}

int32_t sharpi_plan_measured(const struct sharpi_plan_request *request,
                             const struct sharpi_placement *placement)
{
    for (uint32_t d = 0; d <= request->n_devices; d++) {
        if (is_used(request, placement, d) && !find_measure(request, placement, d))
            return 0;
    }
    return 1;
}

static void price_weights(const struct sharpi_plan_request *request, const struct sharpi_placement *placement,
                          uint32_t d, struct sharpi_plan_part *part)
{
    const struct sharpi_plan_measure *measure = find_measure(request, placement, d);
    if (d < request->n_devices) {
        part->weight_bytes = measure
                                 ? measure->weight_bytes
                                 : sharpi_plan_device_weights(request->weights, part->first_segment,
                                                              part->end_segment, placement->n_expert_layers);
    } else if (sharpi_plan_measured(request, placement)) {
        part->weight_bytes = measure ? measure->weight_bytes : 0;
        for (uint32_t i = 0; i <= d; i++) {
            measure = find_measure(request, placement, i);
            part->mapped_bytes = sharpi_plan_add(part->mapped_bytes, measure ? measure->mapped_bytes : 0);
        }
    } else {
        part->weight_bytes = sharpi_plan_host_weights(request->weights, part->first_segment,
                                                      placement->n_expert_layers, &part->mapped_bytes);
    }
}

static int32_t price_carried(const struct sharpi_plan_request *request,
                             const struct sharpi_placement *placement, struct sharpi_plan_part *part,
                             struct sharpi_error *err)
{
    struct sharpi_ranges ranges;
    int32_t status;
    if (!request->graph || !request->n_devices)
        return SHARPI_OK;
    status = sharpi_ranges_init(&ranges, request->graph, placement, request->n_devices, request->host_ops,
                                request->chunk, err);
    part->carried_bytes = ranges.n_bytes;
    sharpi_ranges_finish(&ranges);
    return status;
}

/* What is kept free of KV: the reserve, or scratch and runtime where these are more. */
static uint64_t price_kept(const struct sharpi_plan_request *request,
                           const struct sharpi_plan_measure *measure, struct sharpi_plan_part *part)
{
    const int32_t is_exact = request->reserve.mode == SHARPI_RESERVE_EXACT;
    uint64_t taken;
    part->scratch_bytes = measure                   ? measure->scratch_bytes
                          : is_exact && !part->host ? sharpi_plan_chunk_bytes(request->desc, request->chunk)
                                                    : 0;
    taken = sharpi_plan_add(part->scratch_bytes, part->runtime_bytes);
    if (part->host && !part->total_bytes) /* a host of unknown size: nothing to keep free of */
        return taken;
    if (is_exact) {
        part->reserve_bytes = SHARPI_PLAN_MARGIN;
        return sharpi_plan_add(part->reserve_bytes, taken);
    }
    part->reserve_bytes =
        request->reserve.mode == SHARPI_RESERVE_BYTES
            ? request->reserve.bytes
            : sharpi_reserve_rule(request->arch, request->desc, part->total_bytes, request->chunk);
    return part->reserve_bytes > taken ? part->reserve_bytes : taken;
}

int32_t sharpi_plan_price(const struct sharpi_plan_request *request, const struct sharpi_placement *placement,
                          const struct sharpi_kv_layout *layout, uint32_t d, struct sharpi_plan_part *part,
                          struct sharpi_error *err)
{
    const int32_t host = d == request->n_devices;
    const struct sharpi_plan_device *device = host ? &request->host : &request->devices[d];
    uint64_t kept = 0;
    int32_t status = SHARPI_OK;
    memset(part, 0, sizeof *part);
    memcpy(part->name, device->name, sizeof part->name);
    part->host = host != 0;
    part->total_bytes = device->total_bytes;
    part->free_bytes = device->free_bytes;
    part->granularity = device->granularity;
    part->first_segment = sharpi_plan_first(placement, d);
    part->end_segment = host ? sharpi_plan_segments(request) : placement->ends[d];
    part->n_expert_layers = host ? placement->n_expert_layers : 0;
    part->kv_bytes = kv_bytes(request, layout, part->first_segment, part->end_segment, device->granularity);
    price_weights(request, placement, d, part);
    if (host)
        status = price_carried(request, placement, part, err);
    /* Without a layer the CPU only looks up embeddings, and a device is not used at all: no reserve. */
    if (is_used(request, placement, d)) {
        part->runtime_bytes = device->runtime_bytes;
        kept = price_kept(request, find_measure(request, placement, d), part);
    }
    part->needed_bytes = sharpi_plan_add(
        sharpi_plan_add(sharpi_plan_add(part->weight_bytes, part->mapped_bytes), part->carried_bytes),
        sharpi_plan_add(part->kv_bytes, kept));
    if ((!host || part->total_bytes) && part->needed_bytes > part->free_bytes)
        part->short_bytes = part->needed_bytes - part->free_bytes;
    return status;
}

/* The cache for a context, or *countable = 0 when it is beyond counting. */
static int32_t try_layout(const struct sharpi_plan_request *request, uint32_t context,
                          struct sharpi_kv_layout *layout, int32_t *countable, struct sharpi_error *err)
{
    int32_t status = sharpi_plan_layout(request, context, layout, NULL);
    *countable = status == SHARPI_OK;
    if (status && status != SHARPI_EINVAL)
        return sharpi_fail(err, status, "no memory to plan for %u layers", request->desc->n_layers);
    return SHARPI_OK;
}

int32_t sharpi_plan_short(const struct sharpi_plan_request *request, const struct sharpi_placement *placement,
                          uint32_t context, uint64_t *missing, uint32_t *where, struct sharpi_error *err)
{
    struct sharpi_kv_layout layout;
    struct sharpi_plan_part part;
    int32_t countable, status = try_layout(request, context, &layout, &countable, err);
    *missing = countable ? 0 : UINT64_MAX;
    *where = 0;
    for (uint32_t d = 0; d <= request->n_devices && countable && !status; d++) {
        status = sharpi_plan_price(request, placement, &layout, d, &part, err);
        if (!status && part.short_bytes > *missing) {
            *missing = part.short_bytes;
            *where = d;
        }
    }
    sharpi_kv_layout_finish(&layout);
    return status;
}

int32_t sharpi_plan_may_cut(const struct sharpi_plan_request *request, uint32_t end)
{
    const struct sharpi_model_desc *desc = request->desc;
    if (end < 2)
        return end == 0;
    for (uint32_t layer = end - 1; layer < desc->n_layers; layer++) {
        int32_t source = desc->layers[layer].kv_source;
        if (source >= 0 && (uint32_t)source < end - 1)
            return 0;
    }
    return 1;
}

static int32_t fill_device(const struct sharpi_plan_request *request, const struct sharpi_kv_layout *layout,
                           uint32_t d, struct sharpi_placement *placement, struct sharpi_error *err)
{
    const uint32_t first = sharpi_plan_first(placement, d), target = sharpi_plan_target(request);
    const int32_t must = request->limit_layers && d + 1 == request->n_devices;
    struct sharpi_plan_part part;
    uint32_t best = first, end;
    int32_t status;
    placement->ends[d] = target;
    if (must || first == target)
        return SHARPI_OK;
    /* all at once: the bytes of programs that were compiled for it count */
    status = sharpi_plan_price(request, placement, layout, d, &part, err);
    if (status || !part.short_bytes)
        return status;
    for (end = first + 1; end < target; end++) {
        if (!sharpi_plan_may_cut(request, end))
            continue;
        placement->ends[d] = end;
        if ((status = sharpi_plan_price(request, placement, layout, d, &part, err)) || part.short_bytes)
            break;
        best = end;
    }
    placement->ends[d] = best;
    return status;
}

int32_t sharpi_plan_fill(const struct sharpi_plan_request *request, uint32_t context,
                         uint32_t n_expert_layers, struct sharpi_placement *placement,
                         struct sharpi_error *err)
{
    struct sharpi_kv_layout layout;
    int32_t countable, status = try_layout(request, context, &layout, &countable, err);
    memset(placement, 0, sizeof *placement);
    placement->n_expert_layers = n_expert_layers;
    for (uint32_t d = 0; d < request->n_devices && countable && !status; d++)
        status = fill_device(request, &layout, d, placement, err);
    sharpi_kv_layout_finish(&layout);
    return status;
}

/* Whether the context fits, in *placement as it is or filled anew. */
static int32_t fits(const struct sharpi_plan_request *request, struct sharpi_placement *placement,
                    int32_t refill, uint32_t context, int32_t *yes, struct sharpi_error *err)
{
    uint64_t missing;
    uint32_t where;
    int32_t status = SHARPI_OK;
    if (refill)
        status = sharpi_plan_fill(request, context, placement->n_expert_layers, placement, err);
    if (!status)
        status = sharpi_plan_short(request, placement, context, &missing, &where, err);
    *yes = !status && !missing &&
           (!refill || sharpi_plan_first(placement, request->n_devices) == sharpi_plan_target(request));
    return status;
}

int32_t sharpi_plan_grow(const struct sharpi_plan_request *request, struct sharpi_placement *placement,
                         int32_t refill, uint32_t low, uint32_t high, uint32_t *context,
                         struct sharpi_error *err)
{
    struct sharpi_placement best = *placement, trial = *placement;
    int32_t status = SHARPI_OK, yes;
    while (low < high && !status) {
        uint32_t middle = low + (high - low + 1) / 2;
        status = fits(request, &trial, refill, middle, &yes, err);
        if (yes) {
            low = middle;
            best = trial;
        } else {
            high = middle - 1;
        }
    }
    *context = low;
    *placement = best;
    return status;
}
