/* A plan as JSON, and back. What is read is untrusted: every number is checked against its range. */
#include "plan-internal.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { PLAN_VERSION = 1 };

static const char *const limit_names[] = {"", "asked", "model", "cap", "memory", "floor"};
enum { N_LIMITS = sizeof limit_names / sizeof *limit_names };

/* ---- Writing. A failed allocation gives NULL, which jansson refuses to put anywhere, so the last step notices. */

static json_t *bytes_json(uint64_t n)
{
    return json_integer(n > INT64_MAX ? INT64_MAX : (json_int_t)n);
}

static json_t *text_json(const struct sharpi_plan_text *text)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < text->n; i++)
        json_array_append_new(list, json_string(text->lines[i]));
    return list;
}

static json_t *class_json(const struct sharpi_plan_class *c)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:s, s:o}", "window", (json_int_t)c->window, "positions",
                     (json_int_t)c->ring, "layers", (json_int_t)c->n_layers, "borrowing",
                     (json_int_t)c->n_borrowing, "format", c->format, "bytes", bytes_json(c->kv_bytes));
}

static json_t *part_json(const struct sharpi_plan *plan, const struct sharpi_plan_part *p)
{
    uint32_t first = p->first_segment ? p->first_segment - 1 : 0,
             end = p->end_segment ? p->end_segment - 1 : 0;
    end = end < plan->n_layers ? end : plan->n_layers;
    first = first < end ? first : end;
    return json_pack("{s:s, s:b, s:o, s:o, s:o, s:I, s:I, s:b, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, "
                     "s:o, s:o, s:o}",
                     "name", p->name, "host", (int)p->host, "total_bytes", bytes_json(p->total_bytes),
                     "free_bytes", bytes_json(p->free_bytes), "granularity", bytes_json(p->granularity),
                     "first_layer", (json_int_t)first, "n_layers", (json_int_t)(end - first), "output",
                     p->first_segment < p->end_segment && p->end_segment == plan->n_segments, "first_segment",
                     (json_int_t)p->first_segment, "end_segment", (json_int_t)p->end_segment, "expert_layers",
                     (json_int_t)p->n_expert_layers, "weight_bytes", bytes_json(p->weight_bytes),
                     "mapped_bytes", bytes_json(p->mapped_bytes), "carried_bytes",
                     bytes_json(p->carried_bytes), "kv_bytes", bytes_json(p->kv_bytes), "scratch_bytes",
                     bytes_json(p->scratch_bytes), "runtime_bytes", bytes_json(p->runtime_bytes),
                     "reserve_bytes", bytes_json(p->reserve_bytes), "needed_bytes",
                     bytes_json(p->needed_bytes), "short_bytes", bytes_json(p->short_bytes));
}

static json_t *reserve_json(const struct sharpi_reserve *reserve)
{
    if (reserve->mode == SHARPI_RESERVE_BYTES)
        return bytes_json(reserve->bytes);
    return json_string(reserve->mode == SHARPI_RESERVE_EXACT ? "exact" : "rule");
}

/* Text that is not UTF-8 (a file's name may be anything) is left out. */
static json_t *string_json(const char *text)
{
    json_t *string = json_string(text ? text : "");
    return string ? string : json_string("");
}

int32_t sharpi_plan_json(const struct sharpi_plan *plan, char **out, struct sharpi_error *err)
{
    json_t *classes = json_array(), *devices = json_array(), *root;
    for (uint32_t i = 0; i < plan->n_classes; i++)
        json_array_append_new(classes, class_json(&plan->classes[i]));
    for (uint32_t i = 0; i < plan->n_parts; i++)
        json_array_append_new(devices, part_json(plan, &plan->parts[i]));
    root = json_pack("{s:i, s:{s:o, s:o, s:o, s:I, s:I, s:o}, s:I, s:s, s:I, s:I, s:I, s:I, s:b, "
                     "s:{s:s, s:s}, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
                     "sharpi_plan", PLAN_VERSION, "model", "name", string_json(plan->model_name), "arch",
                     string_json(plan->model_arch), "path", string_json(plan->model_path), "layers",
                     (json_int_t)plan->n_layers, "context", (json_int_t)plan->context_model, "weight_bytes",
                     bytes_json(plan->model_weight_bytes), "context", (json_int_t)plan->context,
                     "context_limit", limit_names[plan->context_limit], "chunk", (json_int_t)plan->chunk,
                     "headroom", (json_int_t)plan->headroom, "parallel", (json_int_t)plan->max_seqs, "pool",
                     (json_int_t)plan->pool, "full_cache", (int)plan->full_cache, "kv", "global",
                     plan->kv_global, "swa", plan->kv_swa, "reserve", reserve_json(&plan->reserve),
                     "cache_bytes", bytes_json(plan->cache_bytes), "short_bytes",
                     bytes_json(sharpi_plan_short_bytes(plan)), "classes", classes, "devices", devices,
                     "notes", text_json(&plan->notes), "rejected", text_json(&plan->rejected));
    *out = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    return *out ? SHARPI_OK : sharpi_fail(err, SHARPI_ENOMEM, "no memory to write a plan");
}

/* ---- Reading */

struct reading {
    const char *path;
    struct sharpi_error *err;
    int32_t status; /* the first error sticks */
};

static uint64_t read_number(struct reading *r, const json_t *object, const char *key, uint64_t min,
                            uint64_t max)
{
    const json_t *value = json_object_get(object, key);
    json_int_t n = json_is_true(value) ? 1 : json_integer_value(value);
    if (r->status)
        return min;
    if (!json_is_integer(value) && !json_is_boolean(value))
        r->status = sharpi_fail(r->err, SHARPI_EFORMAT, "%s: not a plan: '%s' is missing or not a number",
                                r->path, key);
    else if (n < 0 || (uint64_t)n < min || (uint64_t)n > max)
        r->status = sharpi_fail(r->err, SHARPI_EFORMAT, "%s: %s = %lld: outside %llu to %llu", r->path, key,
                                (long long)n, (unsigned long long)min, (unsigned long long)max);
    return r->status ? min : (uint64_t)n;
}

static void read_string(struct reading *r, const json_t *object, const char *key, char *out, size_t n)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (r->status)
        return;
    if (!text || strlen(text) >= n)
        r->status = sharpi_fail(r->err, SHARPI_EFORMAT,
                                "%s: not a plan: '%s' is missing or not a name of at "
                                "most %zu bytes",
                                r->path, key, n - 1);
    else
        strcpy(out, text);
}

static void read_reserve(struct reading *r, const json_t *root, struct sharpi_reserve *reserve)
{
    const json_t *value = json_object_get(root, "reserve");
    const char *text = json_string_value(value);
    if (r->status)
        return;
    if (!text) {
        reserve->mode = SHARPI_RESERVE_BYTES;
        reserve->bytes = read_number(r, root, "reserve", 0, INT64_MAX);
    } else if (sharpi_parse_reserve(text, reserve)) {
        r->status = sharpi_fail(r->err, SHARPI_EFORMAT, "%s: reserve '%.40s' is not rule, exact or a size",
                                r->path, text);
    }
}

static void read_part(struct reading *r, const json_t *object, const struct sharpi_plan *plan,
                      struct sharpi_plan_part *p)
{
    read_string(r, object, "name", p->name, sizeof p->name);
    p->host = (uint32_t)read_number(r, object, "host", 0, 1);
    p->total_bytes = read_number(r, object, "total_bytes", 0, UINT64_C(1) << 60);
    p->free_bytes = read_number(r, object, "free_bytes", 0, p->total_bytes);
    p->granularity = read_number(r, object, "granularity", 0, UINT64_C(1) << 40);
    p->first_segment = (uint32_t)read_number(r, object, "first_segment", 0, plan->n_segments);
    p->end_segment = (uint32_t)read_number(r, object, "end_segment", p->first_segment, plan->n_segments);
    p->n_expert_layers = (uint32_t)read_number(r, object, "expert_layers", 0, plan->n_layers);
    p->weight_bytes = read_number(r, object, "weight_bytes", 0, INT64_MAX);
    p->mapped_bytes = read_number(r, object, "mapped_bytes", 0, INT64_MAX);
    p->carried_bytes = read_number(r, object, "carried_bytes", 0, INT64_MAX);
    p->kv_bytes = read_number(r, object, "kv_bytes", 0, INT64_MAX);
    p->scratch_bytes = read_number(r, object, "scratch_bytes", 0, INT64_MAX);
    if (json_object_get(object, "runtime_bytes")) /* plans of 0.1.0 have none */
        p->runtime_bytes = read_number(r, object, "runtime_bytes", 0, INT64_MAX);
    p->reserve_bytes = read_number(r, object, "reserve_bytes", 0, INT64_MAX);
    p->needed_bytes = read_number(r, object, "needed_bytes", 0, INT64_MAX);
    p->short_bytes = read_number(r, object, "short_bytes", 0, INT64_MAX);
}

/* Devices in order, each beginning where the one before ends; the host last. */
static void read_parts(struct reading *r, const json_t *root, struct sharpi_plan *plan)
{
    const json_t *list = json_object_get(root, "devices");
    const size_t n = json_array_size(list);
    if (r->status)
        return;
    if (n == 0 || n > SHARPI_PLAN_MAX_DEVICES + 1u) {
        r->status = sharpi_fail(r->err, SHARPI_EFORMAT, "%s: %zu devices; a plan has 1 to %d", r->path, n,
                                SHARPI_PLAN_MAX_DEVICES + 1);
        return;
    }
    plan->parts = calloc(n, sizeof *plan->parts);
    if (!plan->parts) {
        r->status = sharpi_fail(r->err, SHARPI_ENOMEM, "no memory for a plan");
        return;
    }
    plan->n_parts = (uint32_t)n;
    for (uint32_t i = 0; i < n && !r->status; i++) {
        struct sharpi_plan_part *p = &plan->parts[i];
        read_part(r, json_array_get(list, i), plan, p);
        if (!r->status &&
            (p->first_segment != (i ? plan->parts[i - 1].end_segment : 0) || (p->host != 0) != (i + 1 == n) ||
             (!p->host && !p->total_bytes) || (i + 1 == n && p->end_segment != plan->n_segments)))
            r->status = sharpi_fail(r->err, SHARPI_EFORMAT,
                                    "%s: devices must hold all layers in order, the host last", r->path);
        if (i + 1 < n)
            plan->placement.ends[i] = p->end_segment;
        plan->placement.n_expert_layers = p->n_expert_layers;
    }
}

static void read_limit(struct reading *r, const json_t *root, struct sharpi_plan *plan)
{
    char name[16] = "";
    read_string(r, root, "context_limit", name, sizeof name);
    for (int32_t i = 1; i < N_LIMITS && !r->status; i++) {
        if (strcmp(name, limit_names[i]) == 0)
            plan->context_limit = i;
    }
    if (!r->status && !plan->context_limit)
        r->status = sharpi_fail(r->err, SHARPI_EFORMAT, "%s: context_limit '%s' is unknown", r->path, name);
}

static void read_root(struct reading *r, const json_t *root, struct sharpi_plan *plan)
{
    const json_t *model = json_object_get(root, "model"), *kv = json_object_get(root, "kv");
    read_number(r, root, "sharpi_plan", PLAN_VERSION, PLAN_VERSION);
    plan->n_layers = (uint32_t)read_number(r, model, "layers", 1, 65536);
    plan->n_segments = plan->n_layers + 2;
    plan->context_model = (uint32_t)read_number(r, model, "context", 1, UINT32_MAX);
    plan->model_weight_bytes = read_number(r, model, "weight_bytes", 0, INT64_MAX);
    plan->cache_bytes = read_number(r, root, "cache_bytes", 0, INT64_MAX);
    plan->context = (uint32_t)read_number(r, root, "context", 1, plan->context_model);
    plan->chunk = (uint32_t)read_number(r, root, "chunk", 1, UINT32_MAX);
    plan->headroom = (uint32_t)read_number(r, root, "headroom", 1, UINT32_MAX);
    plan->max_seqs = (uint32_t)read_number(r, root, "parallel", 1, 65536);
    if (json_object_get(root, "pool")) /* plans of earlier versions have none */
        plan->pool = (uint32_t)read_number(r, root, "pool", 0, UINT32_MAX);
    plan->full_cache = (uint32_t)read_number(r, root, "full_cache", 0, 1);
    read_string(r, kv, "global", plan->kv_global, sizeof plan->kv_global);
    read_string(r, kv, "swa", plan->kv_swa, sizeof plan->kv_swa);
    read_limit(r, root, plan);
    read_reserve(r, root, &plan->reserve);
    read_parts(r, root, plan);
}

int32_t sharpi_plan_read(const char *text, uint64_t n, const char *path, struct sharpi_plan **out,
                         struct sharpi_error *err)
{
    struct reading r = {path, err, SHARPI_OK};
    struct sharpi_plan *plan = calloc(1, sizeof *plan);
    json_error_t where;
    json_t *root;
    if (!plan)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a plan");
    root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &where);
    if (!root)
        r.status = sharpi_fail(err, SHARPI_EFORMAT, "%s:%d: not JSON: %s", path, where.line, where.text);
    else
        read_root(&r, root, plan);
    json_decref(root);
    if (r.status)
        sharpi_plan_free(plan);
    else
        *out = plan;
    return r.status;
}
