/* Truth, equality, order, membership and hashing, as Python has them. */
#include "core/jinja/render.h"

#include <math.h>
#include <string.h>

bool jinja_truth(struct jinja_render *r, struct jinja_value v)
{
    (void)r;
    switch (v.kind) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v.as.boolean;
    case JINJA_INT:
        return v.as.integer != 0;
    case JINJA_FLOAT:
        return v.as.real != 0;
    case JINJA_STRING:
        return v.as.string->n != 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return v.as.array->n != 0;
    case JINJA_DICT:
        return v.as.dict->n != 0;
    case JINJA_RANGE:
        return v.as.range->n != 0;
    case JINJA_VIEW:
        return v.as.view->dict->n != 0;
    default:
        return true;
    }
}

/* -1, 0, 1, or 2 if one is NaN. Exact for integers that a double cannot hold. */
static int compare_numbers(struct jinja_value a, struct jinja_value b)
{
    double x, y;

    if (a.kind != JINJA_FLOAT && b.kind != JINJA_FLOAT) {
        int64_t i = jinja_integer_of(a), j = jinja_integer_of(b);
        return i < j ? -1 : i > j;
    }
    x = jinja_real_of(a);
    y = jinja_real_of(b);
    if (isnan(x) || isnan(y))
        return 2;
    if (x == y && a.kind != b.kind && fabs(x) >= 9007199254740992.0 && fabs(x) < 9.2e18) {
        int64_t i = a.kind == JINJA_FLOAT ? (int64_t)x : jinja_integer_of(a);
        int64_t j = b.kind == JINJA_FLOAT ? (int64_t)y : jinja_integer_of(b);
        return i < j ? -1 : i > j;
    }
    return x < y ? -1 : x > y;
}

static int compare_strings(const struct jinja_string *a, const struct jinja_string *b)
{
    size_t n = a->n < b->n ? a->n : b->n;
    int order = n ? memcmp(a->p, b->p, n) : 0;

    if (order == 0)
        return a->n < b->n ? -1 : a->n > b->n;
    return order < 0 ? -1 : 1;
}

static bool equal_arrays(struct jinja_arena *arena, const struct jinja_array *a, const struct jinja_array *b)
{
    bool equal = a->n == b->n;

    jinja_enter(arena);
    for (uint32_t i = 0; equal && a != b && i < a->n; i++) {
        jinja_charge(arena, 0);
        equal = jinja_equal(arena, a->items[i], b->items[i]);
    }
    jinja_leave(arena);
    return equal;
}

static bool equal_dicts(struct jinja_arena *arena, const struct jinja_dict *a, const struct jinja_dict *b)
{
    bool equal = a->n == b->n;

    jinja_enter(arena);
    for (uint32_t i = 0; equal && a != b && i < a->n; i++) {
        struct jinja_value *other = jinja_dict_find(arena, b, a->entries[i].key);
        jinja_charge(arena, 0);
        equal = other && jinja_equal(arena, a->entries[i].value, *other);
    }
    jinja_leave(arena);
    return equal;
}

bool jinja_same(struct jinja_value a, struct jinja_value b)
{
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case JINJA_NONE:
        return true;
    case JINJA_BOOL:
        return a.as.boolean == b.as.boolean;
    case JINJA_INT: /* CPython keeps one object for each small integer */
        return a.as.integer == b.as.integer && a.as.integer >= -5 && a.as.integer <= 256;
    case JINJA_FLOAT:
        return false;
    case JINJA_STRING:
        return compare_strings(a.as.string, b.as.string) == 0;
    default:
        return a.as.array == b.as.array;
    }
}

bool jinja_equal(struct jinja_arena *arena, struct jinja_value a, struct jinja_value b)
{
    if (jinja_is_number(a) && jinja_is_number(b))
        return compare_numbers(a, b) == 0;
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return true;
    case JINJA_STRING:
        if (a.as.string->n != b.as.string->n)
            return false;
        if (a.as.string->n >= 64)
            jinja_charge(arena, a.as.string->n);
        return compare_strings(a.as.string, b.as.string) == 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return equal_arrays(arena, a.as.array, b.as.array);
    case JINJA_DICT:
        return equal_dicts(arena, a.as.dict, b.as.dict);
    case JINJA_RANGE:
        return a.as.range->n == b.as.range->n &&
               (a.as.range->n == 0 || (a.as.range->start == b.as.range->start &&
                                       (a.as.range->n == 1 || a.as.range->step == b.as.range->step)));
    case JINJA_METHOD:
        return a.as.method->function == b.as.method->function &&
               a.as.method->self.kind == b.as.method->self.kind &&
               a.as.method->self.as.array == b.as.method->self.as.array;
    default:
        return a.as.array == b.as.array;
    }
}

static const char *op_text(int32_t op)
{
    return op == '<' ? "<" : op == '>' ? ">" : op == JINJA_OP_LE ? "<=" : ">=";
}

static bool holds(int32_t op, int order)
{
    if (order == 2)
        return false;
    return op == '<' ? order < 0 : op == '>' ? order > 0 : op == JINJA_OP_LE ? order <= 0 : order >= 0;
}

/* Lexicographic: the first elements that differ decide. */
static bool ordered_arrays(struct jinja_render *r, int32_t op, const struct jinja_array *a,
                           const struct jinja_array *b)
{
    uint32_t i = 0;
    bool result;

    jinja_enter(&r->arena);
    while (i < a->n && i < b->n && jinja_equal(&r->arena, a->items[i], b->items[i])) {
        jinja_charge(&r->arena, 0);
        i++;
    }
    if (i < a->n && i < b->n)
        result = jinja_ordered(r, op, a->items[i], b->items[i]);
    else
        result = holds(op, a->n < b->n ? -1 : a->n > b->n);
    jinja_leave(&r->arena);
    return result;
}

bool jinja_ordered(struct jinja_render *r, int32_t op, struct jinja_value a, struct jinja_value b)
{
    if (jinja_is_number(a) && jinja_is_number(b))
        return holds(op, compare_numbers(a, b));
    if (a.kind == JINJA_STRING && b.kind == JINJA_STRING) {
        jinja_charge(&r->arena, a.as.string->n < b.as.string->n ? a.as.string->n : b.as.string->n);
        return holds(op, compare_strings(a.as.string, b.as.string));
    }
    if (a.kind == b.kind && (a.kind == JINJA_LIST || a.kind == JINJA_TUPLE))
        return ordered_arrays(r, op, a.as.array, b.as.array);
    if (a.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, a);
    if (b.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, b);
    jinja_error(&r->arena, "'%s' not supported between instances of '%s' and '%s'", op_text(op),
                jinja_type_name(a), jinja_type_name(b));
}

static bool contains_text(struct jinja_render *r, const struct jinja_string *s, struct jinja_value part)
{
    if (part.kind != JINJA_STRING)
        jinja_error(&r->arena, "'in <string>' requires string as left operand, not %s",
                    jinja_type_name(part));
    jinja_charge(&r->arena, s->n);
    return part.as.string->n == 0 || memmem(s->p, s->n, part.as.string->p, part.as.string->n) != NULL;
}

static bool range_contains(const struct jinja_span *range, struct jinja_value v)
{
    int64_t i;

    if (v.kind == JINJA_FLOAT) {
        if (!(v.as.real == floor(v.as.real)) || fabs(v.as.real) > 9e15)
            return false;
        i = (int64_t)v.as.real;
    } else if (v.kind == JINJA_INT || v.kind == JINJA_BOOL) {
        i = jinja_integer_of(v);
    } else {
        return false;
    }
    if (range->step > 0 ? i < range->start || i >= range->stop : i > range->start || i <= range->stop)
        return false;
    return (i - range->start) % range->step == 0;
}

bool jinja_contains(struct jinja_render *r, struct jinja_value container, struct jinja_value item)
{
    struct jinja_iterator *it;
    struct jinja_value v;

    if (container.kind == JINJA_STRING)
        return contains_text(r, container.as.string, item);
    if (container.kind == JINJA_DICT)
        return jinja_dict_find(&r->arena, container.as.dict, item) != NULL;
    if (container.kind == JINJA_RANGE && container.as.range->n)
        return range_contains(container.as.range, item);
    if (!jinja_iterable(container))
        jinja_error(&r->arena, "argument of type '%s' is not iterable", jinja_type_name(container));
    it = jinja_iterate(r, container);
    while (jinja_step(r, it, &v)) {
        jinja_charge(&r->arena, 0);
        if (jinja_equal(&r->arena, v, item) || jinja_same(v, item))
            return true;
    }
    return false;
}

bool jinja_hashable(struct jinja_value v)
{
    if (v.kind == JINJA_TUPLE) /* its elements are checked when it is hashed */
        return true;
    return v.kind != JINJA_LIST && v.kind != JINJA_DICT && v.kind != JINJA_SLICE;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= UINT64_C(0xd6e8feb86659fd93);
    x ^= x >> 32;
    x *= UINT64_C(0xd6e8feb86659fd93);
    return x ^ x >> 32;
}

static uint64_t hash_text(struct jinja_arena *arena, const struct jinja_string *s)
{
    uint64_t hash = UINT64_C(14695981039346656037);

    if (s->n >= 64)
        jinja_charge(arena, s->n);
    for (size_t i = 0; i < s->n; i++)
        hash = (hash ^ (unsigned char)s->p[i]) * UINT64_C(1099511628211);
    return mix(hash);
}

uint64_t jinja_hash(struct jinja_arena *arena, struct jinja_value v)
{
    uint64_t hash = 7, bits;

    switch (v.kind) {
    case JINJA_STRING:
        return hash_text(arena, v.as.string);
    case JINJA_BOOL:
    case JINJA_INT:
        return mix((uint64_t)jinja_integer_of(v));
    case JINJA_FLOAT: /* equal numbers hash alike, whatever their type */
        if (v.as.real == floor(v.as.real) && fabs(v.as.real) < 9.2e18)
            return mix((uint64_t)(int64_t)v.as.real);
        memcpy(&bits, &v.as.real, sizeof bits);
        return mix(bits);
    case JINJA_TUPLE:
        jinja_enter(arena);
        for (uint32_t i = 0; i < v.as.array->n; i++) {
            jinja_charge(arena, 0);
            hash = mix(hash * 31 + jinja_hash(arena, v.as.array->items[i]));
        }
        jinja_leave(arena);
        return hash;
    case JINJA_LIST:
    case JINJA_DICT:
    case JINJA_SLICE:
        jinja_error(arena, "unhashable type: '%s'", jinja_type_name(v));
    case JINJA_NONE:
    case JINJA_UNDEFINED:
        return mix((uint64_t)v.kind);
    default:
        return mix((uint64_t)(uintptr_t)v.as.array);
    }
}
