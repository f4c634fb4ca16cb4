/* Finding a plan: first where the layers go, then how much context that leaves, then what it comes to. See plan.h. */
#include "plan-internal.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- Texts and facts of a plan */

void sharpi_plan_say(struct sharpi_plan_text *text, const char *format, ...)
{
    char line[512], **lines = realloc(text->lines, (text->n + 1) * sizeof *lines);
    va_list args;
    if (!lines)
        return;
    text->lines = lines;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    text->lines[text->n] = strdup(line);
    text->n += text->lines[text->n] != NULL;
}

static void free_text(struct sharpi_plan_text *text)
{
    for (uint32_t i = 0; i < text->n; i++)
        free(text->lines[i]);
    free(text->lines);
}

void sharpi_plan_free(struct sharpi_plan *plan)
{
    if (!plan)
        return;
    free_text(&plan->rejected);
    free_text(&plan->notes);
    free(plan->parts);
    free(plan->classes);
    free(plan->model_name);
    free(plan->model_arch);
    free(plan->model_path);
    free(plan);
}

const struct sharpi_plan_part *sharpi_plan_part_of(const struct sharpi_plan *plan, uint32_t layer)
{
    for (uint32_t i = 0; i < plan->n_parts; i++) {
        if (layer + 1 >= plan->parts[i].first_segment && layer + 1 < plan->parts[i].end_segment)
            return &plan->parts[i];
    }
    return NULL;
}

uint64_t sharpi_plan_kv_bytes(const struct sharpi_plan *plan)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < plan->n_parts; i++)
        sum = sharpi_plan_add(sum, plan->parts[i].kv_bytes);
    return sum;
}

uint64_t sharpi_plan_short_bytes(const struct sharpi_plan *plan)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < plan->n_parts; i++)
        most = plan->parts[i].short_bytes > most ? plan->parts[i].short_bytes : most;
    return most;
}

static int32_t is_whole(const struct sharpi_plan *plan) /* the host computes nothing */
{
    return plan->n_parts > 1 && plan->parts[plan->n_parts - 2].end_segment == plan->n_segments &&
           !plan->placement.n_expert_layers;
}

int32_t sharpi_plan_has_room(const struct sharpi_plan *plan, const struct sharpi_plan *larger)
{
    return is_whole(plan) && is_whole(larger) &&
           (plan->context_limit == SHARPI_CONTEXT_ASKED || plan->context_limit == SHARPI_CONTEXT_MODEL) &&
           larger->context == plan->context && larger->chunk <= plan->context &&
           larger->chunk <= larger->headroom && sharpi_plan_short_bytes(larger) == 0 &&
           memcmp(&larger->placement, &plan->placement, sizeof plan->placement) == 0;
}

/* ---- Where the layers go */

struct search {
    const struct sharpi_plan_request *request;
    struct sharpi_plan *plan;
    uint32_t cap;       /* of the context */
    uint32_t n_experts; /* layers whose experts the user wants on the host */
    int32_t refill;     /* everything is on the devices, which may share it anew for another context */
};

static int32_t is_complete(const struct search *s)
{
    return sharpi_plan_first(&s->plan->placement, s->request->n_devices) == sharpi_plan_target(s->request);
}

static uint32_t layers_on_devices(const struct search *s)
{
    uint32_t end = sharpi_plan_first(&s->plan->placement, s->request->n_devices);
    uint32_t n = s->request->desc->n_layers;
    return end == 0 ? 0 : end - 1 < n ? end - 1 : n;
}

/* Fills the devices and tells whether they hold all, and the host its share. */
static int32_t try_all(struct search *s, uint32_t context, uint32_t n_experts, int32_t *yes,
                       struct sharpi_error *err)
{
    uint64_t missing;
    uint32_t where;
    int32_t status = sharpi_plan_fill(s->request, context, n_experts, &s->plan->placement, err);
    if (!status)
        status = sharpi_plan_short(s->request, &s->plan->placement, context, &missing, &where, err);
    *yes = !status && is_complete(s) && !missing;
    return status;
}

/* Why not everything (that the user wants there) can be on the device(s). */
static int32_t reject_all(struct search *s, uint32_t context, struct sharpi_error *err)
{
    struct sharpi_placement whole = {.n_expert_layers = s->n_experts};
    const uint32_t target = sharpi_plan_target(s->request);
    const char *name = s->request->devices[0].name;
    struct sharpi_kv_layout layout;
    struct sharpi_plan_part part;
    char what[32] = "everything", weights[24], kv[24], reserve[24], missing[24];
    uint32_t possible = 0;
    int32_t status;
    if (s->request->n_devices > 1) {
        sharpi_plan_say(&s->plan->rejected,
                        "everything on the devices: with a context of %u they hold %u of %u layers", context,
                        layers_on_devices(s), s->request->desc->n_layers);
        return SHARPI_OK;
    }
    if ((status = sharpi_plan_layout(s->request, context, &layout, err)))
        return status;
    whole.ends[0] = target;
    status = sharpi_plan_price(s->request, &whole, &layout, 0, &part, err);
    sharpi_kv_layout_finish(&layout);
    if (status || !part.short_bytes) /* then it is the host that is full */
        return status;
    if (target < sharpi_plan_segments(s->request))
        snprintf(what, sizeof what, "%u layers", target - 1);
    sharpi_plan_say(&s->plan->rejected,
                    "%s on %s: weights %s, KV %s for a context of %u and %s kept free are %s more "
                    "than it has",
                    what, name, sharpi_plan_size(part.weight_bytes, weights),
                    sharpi_plan_size(part.kv_bytes, kv), context,
                    sharpi_plan_size(part.needed_bytes - part.weight_bytes - part.kv_bytes, reserve),
                    sharpi_plan_size(part.short_bytes, missing));
    status = sharpi_plan_grow(s->request, &whole, 0, 0, context, &possible, err);
    if (!status && possible)
        sharpi_plan_say(&s->plan->rejected, "%s on %s with a smaller context: -c %u would fit", what, name,
                        possible);
    return status;
}

/* A mixture whose experts are too much: attention and caches stay on the device, experts of the first layers do not. They are
 * most of the weights and few of them are read per token. */
static int32_t try_experts(struct search *s, uint32_t context, int32_t *yes, struct sharpi_error *err)
{
    const uint32_t n_layers = s->request->desc->n_layers;
    uint32_t low = s->n_experts, high = n_layers;
    int32_t status = try_all(s, context, high, yes, err);
    if (status || !*yes) {
        if (!status)
            sharpi_plan_say(&s->plan->rejected,
                            "all experts on the CPU: the rest does not fit the devices either");
        return status;
    }
    while (low + 1 < high && !status) {
        uint32_t middle = low + (high - low) / 2;
        int32_t enough;
        status = try_all(s, context, middle, &enough, err);
        if (enough)
            high = middle;
        else
            low = middle;
    }
    if (!status)
        status = try_all(s, context, high, yes, err);
    return status;
}

/* What a layer split would have been, where experts on the host are better. */
static int32_t reject_split(struct search *s, uint32_t context, struct sharpi_error *err)
{
    struct sharpi_placement split;
    uint32_t end;
    int32_t status = sharpi_plan_fill(s->request, context, s->n_experts, &split, err);
    if (status)
        return status;
    end = sharpi_plan_first(&split, s->request->n_devices);
    sharpi_plan_say(&s->plan->rejected,
                    "layer split: %u of %u layers on the devices; with experts on the CPU all attention and "
                    "KV stay there",
                    end ? end - 1 : 0, s->request->desc->n_layers);
    return SHARPI_OK;
}

static int32_t try_split(struct search *s, uint32_t context, int32_t *yes, struct sharpi_error *err)
{
    uint64_t missing = 0;
    uint32_t where;
    int32_t status = sharpi_plan_fill(s->request, context, s->n_experts, &s->plan->placement, err);
    if (!status)
        status = sharpi_plan_short(s->request, &s->plan->placement, context, &missing, &where, err);
    *yes = !status && !missing;
    return status;
}

/* Everything on the devices if `whole` positions fit there; else experts or layers on the host, leaving room for `split`
 * positions. *low gets what the placement has room for; *yes = 0 when the host cannot take what the devices leave. */
static int32_t place(struct search *s, uint32_t whole, uint32_t split, uint32_t *low, int32_t *yes,
                     struct sharpi_error *err)
{
    int32_t status = try_all(s, whole, s->n_experts, yes, err);
    *low = whole;
    s->refill = status || *yes;
    if (status || *yes)
        return status;
    *low = split;
    status = reject_all(s, whole, err);
    if (!status && s->request->desc->n_experts && !s->n_experts) {
        status = try_experts(s, split, yes, err);
        s->refill = *yes;
        if (status || *yes)
            return status ? status : reject_split(s, split, err);
    }
    return status ? status : try_split(s, split, yes, err);
}

static int32_t check_placement(const struct search *s, struct sharpi_error *err)
{
    const struct sharpi_placement *p = &s->plan->placement;
    const uint32_t n = s->request->n_devices, n_segments = sharpi_plan_segments(s->request);
    if (p->n_expert_layers && (!s->request->desc->n_experts || !n))
        return sharpi_fail(err, SHARPI_EINVAL, "the placement has experts of %u layers on the CPU, but %s",
                           p->n_expert_layers,
                           n ? "the model has no experts" : "everything else is there too");
    for (uint32_t d = 0; d < n; d++) {
        uint32_t first = sharpi_plan_first(p, d);
        if (p->ends[d] < first || p->ends[d] > n_segments || (p->ends[d] != first && p->ends[d] < 2))
            return sharpi_fail(err, SHARPI_EINVAL, "device %u cannot hold segments %u to %u of %u", d, first,
                               p->ends[d], n_segments);
        for (uint32_t i = 0; i < s->request->desc->n_layers; i++) {
            int32_t source = s->request->desc->layers[i].kv_source;
            if (source >= 0 && (uint32_t)source + 1 < p->ends[d] && i + 1 >= p->ends[d])
                return sharpi_fail(err, SHARPI_EINVAL,
                                   "layer %u reads the cache of layer %d: both must be on one device", i,
                                   source);
        }
    }
    return SHARPI_OK;
}

/* ---- How much context */

static void explain_short(struct search *s, uint32_t context, uint64_t missing, uint32_t where)
{
    const struct sharpi_plan_request *r = s->request;
    const char *name = where < r->n_devices ? r->devices[where].name : r->host.name;
    struct sharpi_placement placement = s->plan->placement;
    uint32_t possible = 0;
    char size[24];
    sharpi_plan_size(missing, size);
    if (sharpi_plan_grow(r, &placement, 0, 0, context, &possible, NULL) == SHARPI_OK && possible > 0)
        sharpi_plan_say(&s->plan->notes,
                        "a context of %u is %s more than %s can give with its reserve kept; -c %u would fit",
                        context, size, name, possible);
    else
        sharpi_plan_say(&s->plan->notes,
                        "the weights alone do not fit %s with its reserve kept; a context of %u is %s too "
                        "much",
                        name, context, size);
}

/* After the context was found automatically: what stopped it. */
static int32_t explain_limit(struct search *s, struct sharpi_error *err)
{
    struct sharpi_plan *plan = s->plan;
    uint64_t missing;
    uint32_t where, next = plan->context + 1;
    char size[24];
    int32_t status = sharpi_plan_short(s->request, &plan->placement, plan->context, &missing, &where, err);
    if (status)
        return status;
    if (missing) {
        plan->context_limit = SHARPI_CONTEXT_FLOOR;
        explain_short(s, plan->context, missing, where);
        return SHARPI_OK;
    }
    if (plan->context == s->cap) {
        plan->context_limit = s->cap < plan->context_model ? SHARPI_CONTEXT_CAP : SHARPI_CONTEXT_MODEL;
        return SHARPI_OK;
    }
    plan->context_limit = SHARPI_CONTEXT_MEMORY;
    status = sharpi_plan_short(s->request, &plan->placement, next, &missing, &where, err);
    if (!status)
        sharpi_plan_say(&plan->rejected, "a context of %u: %s is short of %s", next,
                        where < s->request->n_devices ? s->request->devices[where].name
                                                      : s->request->host.name,
                        sharpi_plan_size(missing, size));
    return status;
}

static uint32_t at_most(uint32_t value, uint32_t limit)
{
    return value < limit ? value : limit;
}

static int32_t find_automatic(struct search *s, struct sharpi_error *err)
{
    const uint32_t floor = at_most(SHARPI_PLAN_FLOOR, s->cap);
    const uint32_t whole = at_most(SHARPI_PLAN_WHOLE_CONTEXT, s->cap);
    const uint32_t split = at_most(SHARPI_PLAN_SPLIT_CONTEXT, s->cap);
    uint32_t low = floor;
    int32_t status = SHARPI_OK, yes = 0;
    if (!s->request->placement && s->request->n_devices) {
        status = place(s, whole, split, &low, &yes, err);
        if (!status && !yes) { /* the host is full too */
            low = floor;
            status = try_split(s, floor, &yes, err);
        }
    }
    if (!status)
        status =
            sharpi_plan_grow(s->request, &s->plan->placement, s->refill, low, s->cap, &s->plan->context, err);
    return status ? status : explain_limit(s, err);
}

static int32_t find_asked(struct search *s, struct sharpi_error *err)
{
    struct sharpi_plan *plan = s->plan;
    uint64_t missing;
    uint32_t where, low;
    int32_t status = SHARPI_OK, yes = 0;
    plan->context = s->request->context;
    plan->context_limit = SHARPI_CONTEXT_ASKED;
    if (plan->context > plan->context_model) {
        sharpi_plan_say(&plan->notes,
                        "a context of %u was asked for; the model was made for %u, which is used",
                        plan->context, plan->context_model);
        plan->context = plan->context_model;
        plan->context_limit = SHARPI_CONTEXT_MODEL;
    }
    if (!s->request->placement && s->request->n_devices)
        status = place(s, plan->context, plan->context, &low, &yes, err);
    if (!status)
        status = sharpi_plan_short(s->request, &plan->placement, plan->context, &missing, &where, err);
    if (!status && missing)
        explain_short(s, plan->context, missing, where);
    return status;
}

/* ---- What it comes to */

static int32_t write_parts(struct search *s, const struct sharpi_kv_layout *layout, struct sharpi_error *err)
{
    struct sharpi_plan *plan = s->plan;
    plan->parts = calloc(s->request->n_devices + 1u, sizeof *plan->parts);
    if (!plan->parts)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a plan");
    plan->n_parts = s->request->n_devices + 1;
    for (uint32_t d = 0; d < plan->n_parts; d++) {
        int32_t status = sharpi_plan_price(s->request, &plan->placement, layout, d, &plan->parts[d], err);
        if (status)
            return status;
    }
    return SHARPI_OK;
}

static int32_t write_classes(struct search *s, const struct sharpi_kv_layout *layout,
                             struct sharpi_error *err)
{
    struct sharpi_plan *plan = s->plan;
    plan->classes = calloc(layout->n_classes, sizeof *plan->classes);
    if (!plan->classes)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a plan");
    plan->n_classes = layout->n_classes;
    plan->cache_bytes = 0;
    for (uint32_t i = 0; i < layout->n_layers; i++) {
        const struct sharpi_kv_layer *kv = &layout->layers[i];
        struct sharpi_plan_class *class = &plan->classes[kv->class_index];
        class->window = layout->classes[kv->class_index].window;
        class->ring = kv->ring;
        class->n_layers += kv->kv != NULL;
        class->n_borrowing += kv->kv == NULL;
        class->kv_bytes = sharpi_plan_add(class->kv_bytes, sharpi_kv_layout_bytes(layout, i, i + 1, 0));
        plan->cache_bytes = sharpi_plan_add(plan->cache_bytes, sharpi_kv_layout_bytes(layout, i, i + 1, 0));
        if (kv->kv)
            snprintf(class->format, sizeof class->format, "%s", kv->kv->name);
    }
    return SHARPI_OK;
}

static int32_t write_plan(struct search *s, struct sharpi_error *err)
{
    const struct sharpi_plan_request *r = s->request;
    struct sharpi_kv_layout layout;
    int32_t status = sharpi_plan_layout(r, s->plan->context, &layout, err);
    if (status)
        return status;
    status = write_parts(s, &layout, err);
    if (!status)
        status = write_classes(s, &layout, err);
    sharpi_kv_layout_finish(&layout);
    s->plan->chunk = r->chunk;
    snprintf(s->plan->kv_global, sizeof s->plan->kv_global, "%s", r->formats.global.kv->name);
    snprintf(s->plan->kv_swa, sizeof s->plan->kv_swa, "%s", r->formats.swa.kv->name);
    return status;
}

/* -g: the layers that the user wants on the devices must be ones that can be there without the rest. */
static int32_t check_limit(const struct sharpi_plan_request *r, struct sharpi_error *err)
{
    const uint32_t target = sharpi_plan_target(r), n = sharpi_plan_segments(r);
    uint32_t fewer = target, more = target;
    if (!r->limit_layers || target == n || sharpi_plan_may_cut(r, target))
        return SHARPI_OK;
    while (fewer && !sharpi_plan_may_cut(r, fewer))
        fewer--;
    while (more < n && !sharpi_plan_may_cut(r, more))
        more++;
    return sharpi_fail(
        err, SHARPI_EINVAL,
        "%u layers on the devices (--gpu-layers): a later layer reads the cache of one of these, "
        "and both must be on one side; the nearest that can be are %u and %u",
        r->n_device_layers, fewer ? fewer - 1 : 0, more < n ? more - 1 : r->desc->n_layers);
}

static int32_t start(struct search *s, struct sharpi_error *err)
{
    const struct sharpi_plan_request *r = s->request;
    struct sharpi_plan *plan = s->plan;
    if (r->n_devices > SHARPI_PLAN_MAX_DEVICES)
        return sharpi_fail(err, SHARPI_EINVAL, "%u devices; a plan is for at most %d", r->n_devices,
                           SHARPI_PLAN_MAX_DEVICES);
    if (r->n_expert_layers && !r->desc->n_experts)
        return sharpi_fail(err, SHARPI_EINVAL,
                           "experts on the CPU were asked for (--cpu-moe), but the model has no experts");
    plan->context_model = r->desc->context_length;
    plan->chunk = r->chunk;
    plan->headroom = r->headroom;
    plan->max_seqs = r->max_seqs;
    plan->pool = r->pool;
    plan->full_cache = r->full_cache;
    plan->n_layers = r->desc->n_layers;
    plan->n_segments = sharpi_plan_segments(r);
    plan->reserve = r->reserve;
    s->n_experts = r->n_expert_layers < r->desc->n_layers ? r->n_expert_layers : r->desc->n_layers;
    s->cap = plan->context_model;
    if (r->context_cap && r->context_cap < s->cap)
        s->cap = r->context_cap;
    plan->placement.n_expert_layers = r->n_devices ? s->n_experts : 0;
    if (!r->placement)
        return r->n_devices ? check_limit(r, err) : SHARPI_OK;
    plan->placement = *r->placement;
    return check_placement(s, err);
}

static int32_t make(const struct sharpi_plan_request *request, struct sharpi_plan **out,
                    struct sharpi_error *err)
{
    struct search s = {.request = request};
    int32_t status;
    s.plan = calloc(1, sizeof *s.plan);
    if (!s.plan)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a plan");
    status = start(&s, err);
    if (!status)
        status = request->context ? find_asked(&s, err) : find_automatic(&s, err);
    if (!status)
        status = write_plan(&s, err);
    if (status)
        sharpi_plan_free(s.plan);
    else
        *out = s.plan;
    return status;
}

int32_t sharpi_plan_update(struct sharpi_plan *plan, const struct sharpi_plan_request *request,
                           struct sharpi_error *err)
{
    struct search s = {.request = request, .plan = plan};
    free(plan->parts);
    free(plan->classes);
    plan->parts = NULL;
    plan->classes = NULL;
    plan->n_parts = plan->n_classes = 0;
    return write_plan(&s, err);
}

/* ---- What else there was */

/* ", layers 0 to 29 on the devices" when that is not so in `plan`. */
static const char *difference(const struct sharpi_plan_request *request, const struct sharpi_plan *plan,
                              const struct sharpi_plan *other, char *text, size_t n)
{
    uint32_t end = sharpi_plan_first(&other->placement, request->n_devices);
    text[0] = 0;
    if (other->placement.n_expert_layers != plan->placement.n_expert_layers)
        snprintf(text, n, ", experts of %u layers on the CPU", other->placement.n_expert_layers);
    else if (end != sharpi_plan_first(&plan->placement, request->n_devices))
        snprintf(text, n, ", %u layers on the devices", end > 1 ? at_most(end - 1, plan->n_layers) : 0);
    return text;
}

static void compare_formats(const struct sharpi_plan_request *request, struct sharpi_plan *plan)
{
    for (uint32_t i = 0; i < request->n_other_formats; i++) {
        const struct sharpi_kv_format *format = &request->other_formats[i];
        struct sharpi_plan_request other = *request;
        struct sharpi_plan *better = NULL;
        char where[80];
        if (format->kv == request->formats.global.kv && format->kv == request->formats.swa.kv)
            continue;
        other.formats.global = other.formats.swa = *format;
        if (make(&other, &better, NULL) == SHARPI_OK && better->context != plan->context)
            sharpi_plan_say(&plan->rejected, "kv = %s: context %u instead of %u%s", format->kv->name,
                            better->context, plan->context,
                            difference(request, plan, better, where, sizeof where));
        sharpi_plan_free(better);
    }
}

static void compare_reserve(const struct sharpi_plan_request *request, struct sharpi_plan *plan)
{
    struct sharpi_plan_request other = *request;
    struct sharpi_plan *exact = NULL;
    char where[80];
    other.reserve.mode = SHARPI_RESERVE_EXACT;
    if (make(&other, &exact, NULL) == SHARPI_OK && exact->context > plan->context)
        sharpi_plan_say(&plan->rejected,
                        "reserve = exact: context %u%s; for a device that nothing else uses, as it leaves "
                        "little free",
                        exact->context, difference(request, plan, exact, where, sizeof where));
    sharpi_plan_free(exact);
}

int32_t sharpi_plan_make(const struct sharpi_plan_request *request, struct sharpi_plan **out,
                         struct sharpi_error *err)
{
    int32_t status = make(request, out, err);
    if (status || request->context || request->placement)
        return status;
    compare_formats(request, *out);
    if (request->reserve.mode == SHARPI_RESERVE_RULE && (*out)->context_limit == SHARPI_CONTEXT_MEMORY)
        compare_reserve(request, *out);
    return SHARPI_OK;
}
