/* Values of templates: Python's objects, as far as templates can see them.
 *
 * A value is 16 bytes and copied; what it points to lies in the arena of the rendering (or of the template, for
 * constants) and never changes once a template can see it, except namespaces, loops, iterators, cyclers and
 * joiners. That is Python's immutable sandbox: lists and dicts have no mutating methods.
 */
#ifndef SHARPI_JINJA_VALUE_H
#define SHARPI_JINJA_VALUE_H

#include "core/jinja/arena.h"

enum jinja_kind {
    JINJA_MISSING = 0, /* argument not given, variable not set; no template ever holds one */
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_DICT,
    JINJA_RANGE,
    JINJA_VIEW, /* dict.keys(), values(), items() */
    JINJA_ITERATOR,
    JINJA_NAMESPACE,
    JINJA_FUNCTION, /* range, dict, namespace, raise_exception ... */
    JINJA_METHOD,   /* a method bound to its object */
    JINJA_MACRO,
    JINJA_LOOP,
    JINJA_CYCLER,
    JINJA_JOINER,
    JINJA_SLICE, /* only between evaluating [a:b:c] and using it */
};

struct jinja_buffer;
struct jinja_iterator;
struct jinja_macro;
struct jinja_loop;
struct jinja_function;
struct jinja_method;

/* `n` bytes of UTF-8, `n_points` code points. markup: HTML-safe text as `|safe` and `|escape` make it, to which
 * `+` and `%` add escaped text only. buffer: where the bytes lie if they may grow in place, else NULL. */
struct jinja_string {
    const char *p;
    size_t n, n_points;
    struct jinja_buffer *buffer;
    bool markup;
};

struct jinja_value {
    int32_t kind; /* enum jinja_kind */
    union {
        bool boolean;
        int64_t integer;
        double real;
        const struct jinja_string *string;
        struct jinja_array *array; /* list, tuple, slice */
        struct jinja_dict *dict;   /* dict, namespace */
        struct jinja_span *range;
        struct jinja_view *view;
        const struct jinja_undefined *undefined;
        struct jinja_iterator *iterator;
        struct jinja_macro *macro;
        struct jinja_loop *loop;
        const struct jinja_function *function;
        struct jinja_method *method;
        struct jinja_cycler *cycler;
        struct jinja_joiner *joiner;
    } as;
};

struct jinja_array {
    struct jinja_value *items;
    uint32_t n, capacity;
    bool is_group; /* a tuple (grouper, list) of the groupby filter, with these as attributes */
};

struct jinja_entry {
    struct jinja_value key, value;
    uint64_t hash;
};

/* Insertion-ordered; `slots` (0: empty, else 1 + entry) exists from 9 entries on. */
struct jinja_dict {
    struct jinja_entry *entries;
    uint32_t n, capacity;
    uint32_t *slots, n_slots;
};

struct jinja_span {
    int64_t start, stop, step;
    uint64_t n;
};

enum jinja_view_kind { JINJA_KEYS, JINJA_VALUES, JINJA_ITEMS };

struct jinja_view {
    struct jinja_dict *dict;
    enum jinja_view_kind what;
};

/* What is undefined: `hint` says it, or `name` of nothing (owner_kind MISSING) or of an object of that kind. */
struct jinja_undefined {
    const char *hint;
    struct jinja_value name;
    const char *owner; /* "dict object", or NULL */
    bool forbidden;    /* the sandbox's answer */
};

struct jinja_cycler {
    struct jinja_array *items;
    uint32_t position;
};

struct jinja_joiner {
    struct jinja_value separator;
    bool used;
};

#define JINJA_LITERAL(text) (text), sizeof(text) - 1

static inline struct jinja_value jinja_none(void)
{
    return (struct jinja_value){.kind = JINJA_NONE};
}

static inline struct jinja_value jinja_bool(bool b)
{
    return (struct jinja_value){.kind = JINJA_BOOL, .as.boolean = b};
}

static inline struct jinja_value jinja_int(int64_t i)
{
    return (struct jinja_value){.kind = JINJA_INT, .as.integer = i};
}

static inline struct jinja_value jinja_float(double f)
{
    return (struct jinja_value){.kind = JINJA_FLOAT, .as.real = f};
}

static inline bool jinja_is_number(struct jinja_value v)
{
    return v.kind == JINJA_INT || v.kind == JINJA_FLOAT || v.kind == JINJA_BOOL;
}

/* Of an int or a bool, which Python counts among the integers. */
static inline int64_t jinja_integer_of(struct jinja_value v)
{
    return v.kind == JINJA_BOOL ? v.as.boolean : v.as.integer;
}

static inline double jinja_real_of(struct jinja_value v)
{
    return v.kind == JINJA_FLOAT ? v.as.real : (double)jinja_integer_of(v);
}

/* Strings. The first borrows p for as long as the arena lives. */
struct jinja_value jinja_string_of(struct jinja_arena *arena, const char *p, size_t n);
struct jinja_value jinja_string_copy(struct jinja_arena *arena, const char *p, size_t n);
struct jinja_value jinja_string_z(struct jinja_arena *arena, const char *literal);
/* The same bytes with or without the markup mark. */
struct jinja_value jinja_string_marked(struct jinja_arena *arena, struct jinja_value s, bool markup);
/* a + b, growing a's bytes in place where they end their buffer: repeated appending is linear. */
struct jinja_value jinja_string_join(struct jinja_arena *arena, const struct jinja_string *a,
                                     const struct jinja_string *b);
bool jinja_string_is(struct jinja_value v, const char *literal);
static inline bool jinja_same_text(const struct jinja_string *s, const char *p, size_t n)
{
    return s->n == n && __builtin_memcmp(s->p, p, n) == 0;
}

struct jinja_value jinja_array_new(struct jinja_arena *arena, int32_t kind, uint32_t capacity);
void jinja_array_add(struct jinja_arena *arena, struct jinja_array *array, struct jinja_value v);

struct jinja_value jinja_dict_new(struct jinja_arena *arena);
/* NULL if the key is not there; fails for a key that Python cannot hash. */
struct jinja_value *jinja_dict_find(struct jinja_arena *arena, const struct jinja_dict *dict,
                                    struct jinja_value key);
void jinja_dict_put(struct jinja_arena *arena, struct jinja_dict *dict, struct jinja_value key,
                    struct jinja_value value);
void jinja_dict_copy(struct jinja_arena *arena, struct jinja_dict *to, const struct jinja_dict *from);

/* An undefined value that is printed as nothing and whose use fails with `hint`. */
struct jinja_value jinja_undefined_hint(struct jinja_arena *arena, const char *hint);
struct jinja_value jinja_undefined_name(struct jinja_arena *arena, const struct jinja_string *name);
struct jinja_value jinja_undefined_member(struct jinja_arena *arena, struct jinja_value owner,
                                          struct jinja_value name);

/* Python's type(v).__name__: "str", "NoneType" ... */
const char *jinja_type_name(struct jinja_value v);

/* Fails with "TypeError: ..." or the message of an undefined value. */
__attribute__((noreturn, format(printf, 2, 3))) void jinja_error(struct jinja_arena *arena,
                                                                 const char *format, ...);
__attribute__((noreturn)) void jinja_error_undefined(struct jinja_arena *arena, struct jinja_value v);

#endif
