/* Making values, and the dictionary. */
#include "core/jinja/render.h"
#include "core/jinja/unicode.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { SMALL_DICT = 8, SMALL_TEXT = 128 };

/* The bytes of a string that may grow: the string that ends at `used` may append. */
struct jinja_buffer {
    char *data;
    size_t used, capacity;
};

static struct jinja_value make_string(struct jinja_arena *arena, struct jinja_string s)
{
    struct jinja_string *string = jinja_alloc(arena, sizeof *string);

    *string = s;
    return (struct jinja_value){.kind = JINJA_STRING, .as.string = string};
}

struct jinja_value jinja_string_of(struct jinja_arena *arena, const char *p, size_t n)
{
    return make_string(arena, (struct jinja_string){.p = p, .n = n, .n_points = jinja_utf8_count(p, n)});
}

struct jinja_value jinja_string_copy(struct jinja_arena *arena, const char *p, size_t n)
{
    char *copy = jinja_alloc(arena, n ? n : 1);

    if (n)
        memcpy(copy, p, n);
    return jinja_string_of(arena, copy, n);
}

struct jinja_value jinja_string_z(struct jinja_arena *arena, const char *literal)
{
    return jinja_string_of(arena, literal, strlen(literal));
}

struct jinja_value jinja_string_marked(struct jinja_arena *arena, struct jinja_value s, bool markup)
{
    struct jinja_string copy = *s.as.string;

    if (copy.markup == markup)
        return s;
    copy.markup = markup;
    copy.buffer = NULL;
    return make_string(arena, copy);
}

static struct jinja_value append_new(struct jinja_arena *arena, struct jinja_string joined,
                                     const struct jinja_string *a, const struct jinja_string *b)
{
    size_t n = a->n + b->n;
    char *data;

    if (n >= SMALL_TEXT) {
        joined.buffer = jinja_alloc(arena, sizeof *joined.buffer);
        data = jinja_alloc(arena, n * 2);
        *joined.buffer = (struct jinja_buffer){data, n, n * 2};
    } else {
        joined.buffer = NULL;
        data = jinja_alloc(arena, n ? n : 1);
    }
    memcpy(data, a->p, a->n);
    memcpy(data + a->n, b->p, b->n);
    joined.p = data;
    jinja_charge(arena, n);
    return make_string(arena, joined);
}

struct jinja_value jinja_string_join(struct jinja_arena *arena, const struct jinja_string *a,
                                     const struct jinja_string *b)
{
    struct jinja_string joined = {.n = a->n + b->n, .n_points = a->n_points + b->n_points};
    struct jinja_buffer *buffer = a->buffer;

    if (!buffer || a->p + a->n != buffer->data + buffer->used || buffer->capacity - buffer->used < b->n)
        return append_new(arena, joined, a, b);
    memcpy(buffer->data + buffer->used, b->p, b->n);
    buffer->used += b->n;
    joined.p = a->p;
    joined.buffer = buffer;
    jinja_charge(arena, b->n);
    return make_string(arena, joined);
}

bool jinja_string_is(struct jinja_value v, const char *literal)
{
    return v.kind == JINJA_STRING && jinja_same_text(v.as.string, literal, strlen(literal));
}

struct jinja_value jinja_array_new(struct jinja_arena *arena, int32_t kind, uint32_t capacity)
{
    struct jinja_array *array = jinja_calloc(arena, 1, sizeof *array);

    if (capacity)
        array->items = jinja_alloc(arena, (size_t)capacity * sizeof *array->items);
    array->capacity = capacity;
    return (struct jinja_value){.kind = kind, .as.array = array};
}

void jinja_array_add(struct jinja_arena *arena, struct jinja_array *array, struct jinja_value v)
{
    if (array->n == array->capacity)
        array->items = jinja_grow(arena, array->items, &array->capacity, sizeof *array->items);
    array->items[array->n++] = v;
}

struct jinja_value jinja_dict_new(struct jinja_arena *arena)
{
    struct jinja_dict *dict = jinja_calloc(arena, 1, sizeof *dict);

    return (struct jinja_value){.kind = JINJA_DICT, .as.dict = dict};
}

/* Index of the entry, or n if there is none. Long probes cost steps, so colliding keys cannot stall us. */
static uint32_t find_entry(struct jinja_arena *arena, const struct jinja_dict *dict, struct jinja_value key,
                           uint64_t hash)
{
    if (!dict->n_slots) {
        for (uint32_t i = 0; i < dict->n; i++)
            if (dict->entries[i].hash == hash && jinja_equal(arena, dict->entries[i].key, key))
                return i;
        return dict->n;
    }
    for (uint64_t slot = hash;; slot++) {
        uint32_t index = dict->slots[slot & (dict->n_slots - 1)];
        if (index == 0)
            return dict->n;
        if (dict->entries[index - 1].hash == hash && jinja_equal(arena, dict->entries[index - 1].key, key))
            return index - 1;
        jinja_charge(arena, 0);
    }
}

struct jinja_value *jinja_dict_find(struct jinja_arena *arena, const struct jinja_dict *dict,
                                    struct jinja_value key)
{
    uint32_t index = find_entry(arena, dict, key, jinja_hash(arena, key));

    return index < dict->n ? &dict->entries[index].value : NULL;
}

static void put_slot(struct jinja_dict *dict, uint32_t index)
{
    uint64_t slot = dict->entries[index].hash;

    while (dict->slots[slot & (dict->n_slots - 1)])
        slot++;
    dict->slots[slot & (dict->n_slots - 1)] = index + 1;
}

static void grow_slots(struct jinja_arena *arena, struct jinja_dict *dict)
{
    dict->n_slots = dict->n_slots ? dict->n_slots * 2 : SMALL_DICT * 4;
    dict->slots = jinja_calloc(arena, dict->n_slots, sizeof *dict->slots);
    for (uint32_t i = 0; i < dict->n; i++)
        put_slot(dict, i);
}

void jinja_dict_put(struct jinja_arena *arena, struct jinja_dict *dict, struct jinja_value key,
                    struct jinja_value value)
{
    uint64_t hash = jinja_hash(arena, key);
    uint32_t index = find_entry(arena, dict, key, hash);

    if (index < dict->n) {
        dict->entries[index].value = value;
        return;
    }
    if (dict->n == dict->capacity)
        dict->entries = jinja_grow(arena, dict->entries, &dict->capacity, sizeof *dict->entries);
    dict->entries[dict->n++] = (struct jinja_entry){key, value, hash};
    if (dict->n > SMALL_DICT && dict->n * 2 > dict->n_slots)
        grow_slots(arena, dict);
    else if (dict->n_slots)
        put_slot(dict, dict->n - 1);
}

void jinja_dict_copy(struct jinja_arena *arena, struct jinja_dict *to, const struct jinja_dict *from)
{
    for (uint32_t i = 0; i < from->n; i++) {
        jinja_charge(arena, 0);
        jinja_dict_put(arena, to, from->entries[i].key, from->entries[i].value);
    }
}

static struct jinja_value make_undefined(struct jinja_arena *arena, struct jinja_undefined what)
{
    struct jinja_undefined *undefined = jinja_alloc(arena, sizeof *undefined);

    *undefined = what;
    return (struct jinja_value){.kind = JINJA_UNDEFINED, .as.undefined = undefined};
}

struct jinja_value jinja_undefined_hint(struct jinja_arena *arena, const char *hint)
{
    return make_undefined(arena, (struct jinja_undefined){.hint = hint});
}

struct jinja_value jinja_undefined_name(struct jinja_arena *arena, const struct jinja_string *name)
{
    return make_undefined(
        arena, (struct jinja_undefined){.name = {.kind = JINJA_STRING, .as.string = name}, .owner = NULL});
}

struct jinja_value jinja_undefined_member(struct jinja_arena *arena, struct jinja_value owner,
                                          struct jinja_value name)
{
    const char *type = jinja_type_name(owner);

    return make_undefined(arena, (struct jinja_undefined){.name = name, .owner = type});
}

const char *jinja_type_name(struct jinja_value v)
{
    static const char *const names[] = {"missing",   "Undefined",   "NoneType", "bool",
                                        "int",       "float",       "str",      "list",
                                        "tuple",     "dict",        "range",    NULL,
                                        "generator", "Namespace",   "function", "builtin_function_or_method",
                                        "Macro",     "LoopContext", "Cycler",   "Joiner",
                                        "slice"};
    static const char *const views[] = {"dict_keys", "dict_values", "dict_items"};

    return v.kind == JINJA_VIEW ? views[v.as.view->what] : names[v.kind];
}

void jinja_error(struct jinja_arena *arena, const char *format, ...)
{
    char text[900];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    jinja_fail(arena, SHARPI_TEMPLATE_RUNTIME, "%s", text);
}

/* "dict object", as jinja2 says it in messages about what an object lacks. */
static const char *owner_text(const char *type, char *room, size_t size)
{
    if (strcmp(type, "NoneType") == 0)
        return "None";
    if (strcmp(type, "Namespace") == 0 || strcmp(type, "Cycler") == 0 || strcmp(type, "Joiner") == 0)
        snprintf(room, size, "jinja2.utils.%s object", type);
    else if (strcmp(type, "Macro") == 0 || strcmp(type, "LoopContext") == 0)
        snprintf(room, size, "jinja2.runtime.%s object", type);
    else
        snprintf(room, size, "%s object", type);
    return room;
}

void jinja_error_undefined(struct jinja_arena *arena, struct jinja_value v)
{
    const struct jinja_undefined *u = v.as.undefined;
    char room[80];
    int n;

    if (u->hint)
        jinja_error(arena, "%s", u->hint);
    if (u->name.kind != JINJA_STRING) {
        if (u->name.kind == JINJA_INT)
            jinja_error(arena, "%s has no element %lld", owner_text(u->owner, room, sizeof room),
                        (long long)u->name.as.integer);
        jinja_error(arena, "%s has no element of type '%s'", owner_text(u->owner, room, sizeof room),
                    jinja_type_name(u->name));
    }
    n = (int)(u->name.as.string->n < 200 ? u->name.as.string->n : 200);
    if (u->forbidden)
        jinja_error(arena, "access to attribute '%.*s' of '%s' object is unsafe.", n, u->name.as.string->p,
                    u->owner);
    if (!u->owner)
        jinja_error(arena, "'%.*s' is undefined", n, u->name.as.string->p);
    jinja_error(arena, "'%s' has no attribute '%.*s'", owner_text(u->owner, room, sizeof room), n,
                u->name.as.string->p);
}
