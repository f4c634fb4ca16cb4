/* Iteration. Lists, dicts, strings and ranges iterate over a snapshot (they never change); generators are lazy,
 * as in Python, because their errors and their work must come only when somebody asks for the next item. */
#include "core/jinja/render.h"
#include "core/jinja/unicode.h"

struct jinja_iterator {
    struct jinja_value source; /* what is walked */
    uint64_t at;
    jinja_stage *stage; /* applied to each item; false drops it */
    void *state;
    struct jinja_iterator *inner; /* of a stage */
};

bool jinja_iterable(struct jinja_value v)
{
    switch (v.kind) {
    case JINJA_UNDEFINED:
    case JINJA_STRING:
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
    case JINJA_RANGE:
    case JINJA_VIEW:
    case JINJA_ITERATOR:
        return true;
    default:
        return false;
    }
}

struct jinja_iterator *jinja_iterate(struct jinja_render *r, struct jinja_value v)
{
    struct jinja_iterator *it;

    if (v.kind == JINJA_ITERATOR)
        return v.as.iterator;
    if (!jinja_iterable(v))
        jinja_error(&r->arena, "'%s' object is not iterable", jinja_type_name(v));
    it = jinja_calloc(&r->arena, 1, sizeof *it);
    it->source = v;
    return it;
}

struct jinja_value jinja_pair(struct jinja_render *r, struct jinja_value a, struct jinja_value b)
{
    struct jinja_value pair = jinja_array_new(&r->arena, JINJA_TUPLE, 2);

    pair.as.array->items[0] = a;
    pair.as.array->items[1] = b;
    pair.as.array->n = 2;
    return pair;
}

static bool step_entries(struct jinja_render *r, const struct jinja_dict *dict, enum jinja_view_kind what,
                         uint64_t *at, struct jinja_value *v)
{
    const struct jinja_entry *entry;

    if (*at >= dict->n)
        return false;
    entry = &dict->entries[(*at)++];
    *v = what == JINJA_KEYS     ? entry->key
         : what == JINJA_VALUES ? entry->value
                                : jinja_pair(r, entry->key, entry->value);
    return true;
}

static bool step_string(struct jinja_render *r, const struct jinja_string *s, uint64_t *at,
                        struct jinja_value *v)
{
    size_t used;

    if (*at >= s->n)
        return false;
    jinja_utf8_get(s->p + *at, &used);
    *v = jinja_string_of(&r->arena, s->p + *at, used);
    *at += used;
    return true;
}

static bool step_stage(struct jinja_render *r, struct jinja_iterator *it, struct jinja_value *v)
{
    bool there;

    jinja_enter(&r->arena);
    do {
        jinja_charge(&r->arena, 0);
        there = jinja_step(r, it->inner, v);
    } while (there && !it->stage(r, it->state, v));
    jinja_leave(&r->arena);
    return there;
}

bool jinja_step(struct jinja_render *r, struct jinja_iterator *it, struct jinja_value *v)
{
    const struct jinja_value *source = &it->source;

    if (it->stage)
        return step_stage(r, it, v);
    switch (source->kind) {
    case JINJA_LIST:
    case JINJA_TUPLE:
        if (it->at >= source->as.array->n)
            return false;
        *v = source->as.array->items[it->at++];
        return true;
    case JINJA_DICT:
        return step_entries(r, source->as.dict, JINJA_KEYS, &it->at, v);
    case JINJA_VIEW:
        return step_entries(r, source->as.view->dict, source->as.view->what, &it->at, v);
    case JINJA_STRING:
        return step_string(r, source->as.string, &it->at, v);
    case JINJA_RANGE:
        if (it->at >= source->as.range->n)
            return false;
        *v = jinja_int(source->as.range->start + (int64_t)it->at++ * source->as.range->step);
        return true;
    default: /* undefined is empty */
        return false;
    }
}

struct jinja_value jinja_iterator_of(struct jinja_render *r, struct jinja_array *array)
{
    struct jinja_iterator *it = jinja_calloc(&r->arena, 1, sizeof *it);

    it->source = (struct jinja_value){.kind = JINJA_LIST, .as.array = array};
    return (struct jinja_value){.kind = JINJA_ITERATOR, .as.iterator = it};
}

struct jinja_value jinja_lazy(struct jinja_render *r, struct jinja_value source, jinja_stage *stage,
                              void *state)
{
    struct jinja_iterator *inner = jinja_iterate(r, source), *it = jinja_calloc(&r->arena, 1, sizeof *it);

    it->inner = inner;
    it->stage = stage;
    it->state = state;
    return (struct jinja_value){.kind = JINJA_ITERATOR, .as.iterator = it};
}

struct jinja_value jinja_list_of(struct jinja_render *r, struct jinja_value v)
{
    int64_t n = jinja_length(r, v);
    struct jinja_iterator *it = jinja_iterate(r, v);
    struct jinja_value list, item;

    if (n > UINT32_MAX)
        jinja_fail(&r->arena, SHARPI_TEMPLATE_LIMIT, "a list has too many elements");
    list = jinja_array_new(&r->arena, JINJA_LIST, n > 0 ? (uint32_t)n : 0);
    while (jinja_step(r, it, &item)) {
        jinja_charge(&r->arena, 0);
        jinja_array_add(&r->arena, list.as.array, item);
    }
    return list;
}

int64_t jinja_length(struct jinja_render *r, struct jinja_value v)
{
    (void)r;
    switch (v.kind) {
    case JINJA_UNDEFINED:
        return 0;
    case JINJA_STRING:
        return (int64_t)v.as.string->n_points;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return v.as.array->n;
    case JINJA_DICT:
        return v.as.dict->n;
    case JINJA_RANGE:
        return (int64_t)v.as.range->n;
    case JINJA_VIEW:
        return v.as.view->dict->n;
    default:
        return -1;
    }
}

struct jinja_value jinja_range_new(struct jinja_render *r, int64_t start, int64_t stop, int64_t step)
{
    struct jinja_span *range = jinja_calloc(&r->arena, 1, sizeof *range);

    *range = (struct jinja_span){start, stop, step, 0};
    if (step > 0 && start < stop)
        range->n = ((uint64_t)stop - (uint64_t)start - 1) / (uint64_t)step + 1;
    else if (step < 0 && start > stop)
        range->n = ((uint64_t)start - (uint64_t)stop - 1) / (0 - (uint64_t)step) + 1;
    return (struct jinja_value){.kind = JINJA_RANGE, .as.range = range};
}
