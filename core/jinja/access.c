/* object.name, object[index] and object[a:b:c], with the sandbox's rules: names that begin with an underscore and
 * methods that change their object give an undefined value whose use is an error. */
#include "core/jinja/library.h"
#include "core/jinja/render.h"
#include "core/jinja/unicode.h"

#include <string.h>

static struct jinja_value forbidden(struct jinja_render *r, struct jinja_value object,
                                    const struct jinja_string *name)
{
    struct jinja_undefined *undefined = jinja_calloc(&r->arena, 1, sizeof *undefined);

    undefined->name = (struct jinja_value){.kind = JINJA_STRING, .as.string = name};
    undefined->owner = jinja_type_name(object);
    undefined->forbidden = true;
    return (struct jinja_value){.kind = JINJA_UNDEFINED, .as.undefined = undefined};
}

/* Attributes that every Python object has. */
static bool is_dunder(const struct jinja_string *name)
{
    static const char *const known[] = {"__class__",  "__doc__",          "__init__",         "__dict__",
                                        "__module__", "__eq__",           "__str__",          "__repr__",
                                        "__hash__",   "__len__",          "__getattribute__", "__new__",
                                        "__reduce__", "__subclasshook__", "__dir__",          "__sizeof__"};

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (jinja_same_text(name, known[i], strlen(known[i])))
            return true;
    return false;
}

static struct jinja_value bind_method(struct jinja_render *r, struct jinja_value object,
                                      const struct jinja_function *function)
{
    struct jinja_method *method = jinja_alloc(&r->arena, sizeof *method);

    *method = (struct jinja_method){object, function};
    return (struct jinja_value){.kind = JINJA_METHOD, .as.method = method};
}

/* Python's getattr(); MISSING if there is none. */
static struct jinja_value attribute(struct jinja_render *r, struct jinja_value object,
                                    const struct jinja_string *name)
{
    const struct jinja_function *function;
    struct jinja_value *found;
    bool changes = false;

    if (object.kind == JINJA_NAMESPACE) {
        found = jinja_dict_find(&r->arena, object.as.dict,
                                (struct jinja_value){.kind = JINJA_STRING, .as.string = name});
        return found ? *found : (struct jinja_value){0};
    }
    if (object.kind == JINJA_LOOP)
        return jinja_loop_attribute(r, object.as.loop, object, name);
    if (object.kind == JINJA_MACRO)
        return jinja_macro_attribute(r, object.as.macro, name);
    if (object.kind == JINJA_TUPLE && object.as.array->is_group &&
        jinja_same_text(name, JINJA_LITERAL("grouper")))
        return object.as.array->items[0];
    if (object.kind == JINJA_TUPLE && object.as.array->is_group &&
        jinja_same_text(name, JINJA_LITERAL("list")))
        return object.as.array->items[1];
    if (object.kind == JINJA_CYCLER && jinja_same_text(name, JINJA_LITERAL("current")))
        return object.as.cycler->items->items[object.as.cycler->position];
    function = jinja_find_method(object.kind, name, &changes);
    if (changes || is_dunder(name))
        return forbidden(r, object, name);
    return function ? bind_method(r, object, function) : (struct jinja_value){0};
}

/* object[index] where the object has that; MISSING if not. */
static struct jinja_value subscript(struct jinja_render *r, struct jinja_value object,
                                    struct jinja_value index)
{
    struct jinja_value *found;
    int64_t i, n;

    if (object.kind == JINJA_DICT) {
        found = jinja_hashable(index) ? jinja_dict_find(&r->arena, object.as.dict, index) : NULL;
        return found ? *found : (struct jinja_value){0};
    }
    if ((index.kind != JINJA_INT && index.kind != JINJA_BOOL) ||
        (object.kind != JINJA_LIST && object.kind != JINJA_TUPLE && object.kind != JINJA_STRING &&
         object.kind != JINJA_RANGE))
        return (struct jinja_value){0};
    i = jinja_integer_of(index);
    n = jinja_length(r, object);
    if (i < 0)
        i += n;
    if (i < 0 || i >= n)
        return (struct jinja_value){0};
    if (object.kind == JINJA_RANGE)
        return jinja_int(object.as.range->start + i * object.as.range->step);
    if (object.kind != JINJA_STRING)
        return object.as.array->items[i];
    return jinja_slice_of(r, object, jinja_int(i), jinja_int(i + 1), jinja_none());
}

struct jinja_value jinja_get_attribute(struct jinja_render *r, struct jinja_value object,
                                       const struct jinja_string *name)
{
    struct jinja_value key = {.kind = JINJA_STRING, .as.string = name}, v;

    if (object.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, object);
    if (object.kind == JINJA_NAMESPACE && name->n && name->p[0] == '_')
        return forbidden(r, object, name);
    v = attribute(r, object, name);
    if (v.kind == JINJA_MISSING)
        v = subscript(r, object, key);
    return v.kind == JINJA_MISSING ? jinja_undefined_member(&r->arena, object, key) : v;
}

struct jinja_value jinja_get_item(struct jinja_render *r, struct jinja_value object, struct jinja_value index)
{
    struct jinja_value v;

    if (object.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, object);
    if (index.kind == JINJA_SLICE) /* inside a tuple of subscripts: nothing has that */
        jinja_error(&r->arena, "'%s' object cannot be sliced that way", jinja_type_name(object));
    v = subscript(r, object, index);
    if (v.kind == JINJA_MISSING && index.kind == JINJA_STRING)
        v = attribute(r, object, index.as.string);
    return v.kind == JINJA_MISSING ? jinja_undefined_member(&r->arena, object, index) : v;
}

/* A bound of a slice: none, or clipped to low..high. */
static int64_t bound(struct jinja_render *r, struct jinja_value v, int64_t n, int64_t otherwise, int64_t low,
                     int64_t high)
{
    int64_t i;

    if (v.kind == JINJA_NONE)
        return otherwise;
    if (v.kind == JINJA_UNDEFINED)
        jinja_error(&r->arena, "slice indices must be integers or None or have an __index__ method");
    i = jinja_need_int(r, v, "a slice index");
    if (i < 0)
        i = i < -n ? low : i + n;
    return i < low ? low : i > high ? high : i;
}

static struct jinja_value slice_string(struct jinja_render *r, const struct jinja_string *s, int64_t start,
                                       int64_t step, int64_t count)
{
    bool ascii = s->n == s->n_points;
    struct jinja_writer w;
    size_t at, used;

    jinja_charge(&r->arena, s->n);
    if (step == 1) {
        size_t from = ascii ? (size_t)start : jinja_utf8_offset(s->p, s->n, (size_t)start);
        size_t n = ascii ? (size_t)count : jinja_utf8_offset(s->p + from, s->n - from, (size_t)count);
        return jinja_string_of(&r->arena, s->p + from, n);
    }
    w = jinja_writer_new(r, (size_t)count);
    at = jinja_utf8_offset(s->p, s->n, (size_t)start);
    for (int64_t i = 0; i < count; i++) {
        jinja_utf8_get(s->p + at, &used);
        jinja_write(&w, s->p + at, used);
        if (i + 1 == count)
            break;
        for (int64_t k = 0; k < step; k++) {
            jinja_utf8_get(s->p + at, &used);
            at += used;
        }
        for (int64_t k = 0; k > step; k--) {
            jinja_utf8_before(s->p + at, &used);
            at -= used;
        }
    }
    return jinja_written(&w);
}

static struct jinja_value slice_array(struct jinja_render *r, struct jinja_value v, int64_t start,
                                      int64_t step, int64_t count)
{
    struct jinja_value part = jinja_array_new(&r->arena, v.kind, (uint32_t)count);

    jinja_charge(&r->arena, (uint64_t)count * 16);
    for (int64_t i = 0; i < count; i++)
        part.as.array->items[i] = v.as.array->items[start + i * step];
    part.as.array->n = (uint32_t)count;
    return part;
}

struct jinja_value jinja_slice_of(struct jinja_render *r, struct jinja_value object, struct jinja_value start,
                                  struct jinja_value stop, struct jinja_value step_value)
{
    int64_t step = step_value.kind == JINJA_NONE ? 1 : jinja_need_int(r, step_value, "a slice step");
    int64_t n = jinja_length(r, object), first, last, count = 0;

    if (object.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, object);
    if (object.kind != JINJA_STRING && object.kind != JINJA_LIST && object.kind != JINJA_TUPLE &&
        object.kind != JINJA_RANGE)
        jinja_error(&r->arena, "'%s' object cannot be sliced", jinja_type_name(object));
    if (step == 0)
        jinja_error(&r->arena, "slice step cannot be zero");
    if (step < -n - 1) /* further than the other end is all the same */
        step = -n - 1;
    if (step > n + 1)
        step = n + 1;
    first = bound(r, start, n, step > 0 ? 0 : n - 1, step > 0 ? 0 : -1, step > 0 ? n : n - 1);
    last = bound(r, stop, n, step > 0 ? n : -1, step > 0 ? 0 : -1, step > 0 ? n : n - 1);
    if (step > 0 && first < last)
        count = (last - first - 1) / step + 1;
    else if (step < 0 && first > last)
        count = (first - last - 1) / -step + 1;
    if (object.kind == JINJA_STRING)
        return jinja_string_marked(&r->arena, slice_string(r, object.as.string, first, step, count),
                                   object.as.string->markup);
    if (object.kind != JINJA_RANGE)
        return slice_array(r, object, first, step, count);
    return jinja_range_new(r, object.as.range->start + first * object.as.range->step,
                           object.as.range->start + last * object.as.range->step,
                           object.as.range->step * step);
}
