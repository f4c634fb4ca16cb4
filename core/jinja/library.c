/* Finding filters, tests, methods and globals by name, and the global functions. */
#include "core/jinja/library.h"
#include "core/jinja/render.h"

#include <string.h>
#include <time.h>

enum { MAX_RANGE = 100000 }; /* jinja2's sandbox */

static const struct jinja_function *find(const struct jinja_function *table, size_t n,
                                         const struct jinja_string *name)
{
    for (size_t i = 0; i < n; i++)
        if (jinja_same_text(name, table[i].name, strlen(table[i].name)))
            return &table[i];
    return NULL;
}

const struct jinja_function *jinja_find_filter(const struct jinja_string *name)
{
    const struct jinja_function *found = find(jinja_text_filters, jinja_text_filters_n, name);

    if (!found)
        found = find(jinja_sequence_filters, jinja_sequence_filters_n, name);
    if (!found)
        found = find(jinja_stream_filters, jinja_stream_filters_n, name);
    if (!found)
        found = find(jinja_number_filters, jinja_number_filters_n, name);
    return found ? found : find(&jinja_tojson_filter, 1, name);
}

const struct jinja_function *jinja_find_test(const struct jinja_string *name)
{
    return find(jinja_tests, jinja_tests_n, name);
}

static bool one_of(const struct jinja_string *name, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (jinja_same_text(name, names[i], strlen(names[i])))
            return true;
    return false;
}

static struct jinja_value dict_get(struct jinja_render *r, struct jinja_value self,
                                   const struct jinja_value *argv, const struct jinja_args *args)
{
    struct jinja_value *found = jinja_dict_find(&r->arena, self.as.dict, argv[0]);

    (void)args;
    if (found)
        return *found;
    return argv[1].kind == JINJA_MISSING ? jinja_none() : argv[1];
}

static struct jinja_value make_view(struct jinja_render *r, struct jinja_value self,
                                    enum jinja_view_kind what)
{
    struct jinja_view *view = jinja_alloc(&r->arena, sizeof *view);

    *view = (struct jinja_view){self.as.dict, what};
    return (struct jinja_value){.kind = JINJA_VIEW, .as.view = view};
}

static struct jinja_value dict_keys(struct jinja_render *r, struct jinja_value self,
                                    const struct jinja_value *argv, const struct jinja_args *args)
{
    (void)argv, (void)args;
    return make_view(r, self, JINJA_KEYS);
}

static struct jinja_value dict_values(struct jinja_render *r, struct jinja_value self,
                                      const struct jinja_value *argv, const struct jinja_args *args)
{
    (void)argv, (void)args;
    return make_view(r, self, JINJA_VALUES);
}

static struct jinja_value dict_items(struct jinja_render *r, struct jinja_value self,
                                     const struct jinja_value *argv, const struct jinja_args *args)
{
    (void)argv, (void)args;
    return make_view(r, self, JINJA_ITEMS);
}

static struct jinja_value dict_copy(struct jinja_render *r, struct jinja_value self,
                                    const struct jinja_value *argv, const struct jinja_args *args)
{
    struct jinja_value copy = jinja_dict_new(&r->arena);

    (void)argv, (void)args;
    jinja_dict_copy(&r->arena, copy.as.dict, self.as.dict);
    return copy;
}

static struct jinja_value array_copy(struct jinja_render *r, struct jinja_value self,
                                     const struct jinja_value *argv, const struct jinja_args *args)
{
    (void)argv, (void)args;
    return jinja_list_of(r, self);
}

static struct jinja_value array_count(struct jinja_render *r, struct jinja_value self,
                                      const struct jinja_value *argv, const struct jinja_args *args)
{
    int64_t n = 0;

    (void)args;
    for (uint32_t i = 0; i < self.as.array->n; i++) {
        jinja_charge(&r->arena, 0);
        n += jinja_equal(&r->arena, self.as.array->items[i], argv[0]);
    }
    return jinja_int(n);
}

static struct jinja_value array_index(struct jinja_render *r, struct jinja_value self,
                                      const struct jinja_value *argv, const struct jinja_args *args)
{
    int64_t n = self.as.array->n;
    int64_t from = argv[1].kind ? jinja_need_int(r, argv[1], "start") : 0;
    int64_t to = argv[2].kind ? jinja_need_int(r, argv[2], "stop") : n;

    (void)args;
    from = from < -n ? 0 : from < 0 ? from + n : from;
    to = to < -n ? 0 : to < 0 ? to + n : to > n ? n : to;
    for (int64_t i = from; i < to; i++) {
        jinja_charge(&r->arena, 0);
        if (jinja_equal(&r->arena, self.as.array->items[i], argv[0]))
            return jinja_int(i);
    }
    jinja_error(&r->arena, "the value is not in the %s", jinja_type_name(self));
}

static struct jinja_value cycler_next(struct jinja_render *r, struct jinja_value self,
                                      const struct jinja_value *argv, const struct jinja_args *args)
{
    struct jinja_cycler *cycler = self.as.cycler;
    struct jinja_value v = cycler->items->items[cycler->position];

    (void)r, (void)argv, (void)args;
    cycler->position = (cycler->position + 1) % cycler->items->n;
    return v;
}

static struct jinja_value cycler_reset(struct jinja_render *r, struct jinja_value self,
                                       const struct jinja_value *argv, const struct jinja_args *args)
{
    (void)r, (void)argv, (void)args;
    self.as.cycler->position = 0;
    return jinja_none();
}

static struct jinja_value float_is_integer(struct jinja_render *r, struct jinja_value self,
                                           const struct jinja_value *argv, const struct jinja_args *args)
{
    (void)r, (void)argv, (void)args;
    return jinja_bool(self.as.real == __builtin_floor(self.as.real) && !__builtin_isinf(self.as.real));
}

const struct jinja_function *jinja_find_method(int32_t kind, const struct jinja_string *name, bool *changes)
{
    static const struct jinja_function dict[] = {{"get", "/key,default", dict_get, 1},
                                                 {"keys", "/", dict_keys, 0},
                                                 {"values", "/", dict_values, 0},
                                                 {"items", "/", dict_items, 0},
                                                 {"copy", "/", dict_copy, 0}};
    static const struct jinja_function array[] = {{"count", "/value", array_count, 1},
                                                  {"index", "/value,start,stop", array_index, 1},
                                                  {"copy", "/", array_copy, 0}};
    static const struct jinja_function cycler[] = {{"next", "/", cycler_next, 0},
                                                   {"reset", "/", cycler_reset, 0}};
    static const struct jinja_function real[] = {{"is_integer", "/", float_is_integer, 0}};
    static const char *const dict_changes[] = {"clear", "pop", "popitem", "setdefault", "update"};
    static const char *const list_changes[] = {"append", "clear", "pop",    "reverse",
                                               "insert", "sort",  "extend", "remove"};
    const struct jinja_function *found;

    *changes =
        (kind == JINJA_DICT && one_of(name, dict_changes, sizeof dict_changes / sizeof dict_changes[0])) ||
        (kind == JINJA_LIST && one_of(name, list_changes, sizeof list_changes / sizeof list_changes[0]));
    switch (kind) {
    case JINJA_DICT:
        return find(dict, sizeof dict / sizeof dict[0], name);
    case JINJA_LIST:
        return find(array, 3, name);
    case JINJA_TUPLE: /* which has no copy */
        return find(array, 2, name);
    case JINJA_CYCLER:
        return find(cycler, 2, name);
    case JINJA_FLOAT:
        return find(real, 1, name);
    case JINJA_STRING:
        found = find(jinja_string_methods, jinja_string_methods_n, name);
        return found ? found : find(jinja_string_methods2, jinja_string_methods2_n, name);
    default:
        return NULL;
    }
}

static struct jinja_value global_range(struct jinja_render *r, struct jinja_value self,
                                       const struct jinja_value *argv, const struct jinja_args *args)
{
    int64_t a = jinja_need_int(r, argv[0], "an argument of range()"), b = 0, step = 1;
    struct jinja_value range;

    (void)self, (void)args;
    if (argv[1].kind != JINJA_MISSING)
        b = jinja_need_int(r, argv[1], "an argument of range()");
    if (argv[2].kind != JINJA_MISSING)
        step = jinja_need_int(r, argv[2], "an argument of range()");
    if (step == 0)
        jinja_error(&r->arena, "range() arg 3 must not be zero");
    range = argv[1].kind == JINJA_MISSING ? jinja_range_new(r, 0, a, 1) : jinja_range_new(r, a, b, step);
    if (range.as.range->n > MAX_RANGE)
        jinja_error(&r->arena, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
                    MAX_RANGE);
    return range;
}

static void add_pairs(struct jinja_render *r, struct jinja_dict *dict, struct jinja_value pairs)
{
    struct jinja_iterator *it = jinja_iterate(r, pairs);
    struct jinja_value v;

    while (jinja_step(r, it, &v)) {
        struct jinja_value pair = jinja_list_of(r, v);
        if (pair.as.array->n != 2)
            jinja_error(&r->arena, "dictionary update sequence element has length %u; 2 is required",
                        pair.as.array->n);
        jinja_dict_put(&r->arena, dict, pair.as.array->items[0], pair.as.array->items[1]);
    }
}

static struct jinja_value global_dict(struct jinja_render *r, struct jinja_value self,
                                      const struct jinja_value *argv, const struct jinja_args *args)
{
    struct jinja_value dict = jinja_dict_new(&r->arena);

    (void)self, (void)argv;
    if (args->n > 1)
        jinja_error(&r->arena, "dict expected at most 1 argument, got %u", args->n);
    if (args->n && args->items[0].kind == JINJA_DICT)
        jinja_dict_copy(&r->arena, dict.as.dict, args->items[0].as.dict);
    else if (args->n)
        add_pairs(r, dict.as.dict, args->items[0]);
    for (uint32_t i = 0; i < args->n_named; i++)
        jinja_dict_put(&r->arena, dict.as.dict,
                       (struct jinja_value){.kind = JINJA_STRING, .as.string = args->named[i].name},
                       args->named[i].value);
    return dict;
}

static struct jinja_value global_namespace(struct jinja_render *r, struct jinja_value self,
                                           const struct jinja_value *argv, const struct jinja_args *args)
{
    struct jinja_value space = global_dict(r, self, argv, args);

    space.kind = JINJA_NAMESPACE;
    return space;
}

static struct jinja_value global_cycler(struct jinja_render *r, struct jinja_value self,
                                        const struct jinja_value *argv, const struct jinja_args *args)
{
    struct jinja_cycler *cycler = jinja_calloc(&r->arena, 1, sizeof *cycler);

    (void)self, (void)argv;
    if (args->n == 0 || args->n_named)
        jinja_error(&r->arena, "at least one item has to be provided");
    cycler->items = jinja_array_new(&r->arena, JINJA_LIST, args->n).as.array;
    for (uint32_t i = 0; i < args->n; i++)
        jinja_array_add(&r->arena, cycler->items, args->items[i]);
    return (struct jinja_value){.kind = JINJA_CYCLER, .as.cycler = cycler};
}

static struct jinja_value global_joiner(struct jinja_render *r, struct jinja_value self,
                                        const struct jinja_value *argv, const struct jinja_args *args)
{
    struct jinja_joiner *joiner = jinja_calloc(&r->arena, 1, sizeof *joiner);

    (void)self, (void)args;
    joiner->separator = argv[0].kind == JINJA_MISSING ? jinja_string_z(&r->arena, ", ") : argv[0];
    return (struct jinja_value){.kind = JINJA_JOINER, .as.joiner = joiner};
}

static struct jinja_value global_raise(struct jinja_render *r, struct jinja_value self,
                                       const struct jinja_value *argv, const struct jinja_args *args)
{
    struct jinja_value message = jinja_str(r, argv[0]);
    size_t n = message.as.string->n;

    (void)self, (void)args;
    if (n > 1000) {
        n = 1000;
        while (((unsigned char)message.as.string->p[n] & 0xC0) == 0x80)
            n--;
    }
    jinja_fail(&r->arena, SHARPI_TEMPLATE_RAISED, "%.*s", (int)n, message.as.string->p);
}

static struct jinja_value global_strftime_now(struct jinja_render *r, struct jinja_value self,
                                              const struct jinja_value *argv, const struct jinja_args *args)
{
    const struct jinja_string *format = jinja_need_string(r, argv[0], "the format of strftime_now()");
    char *text = jinja_alloc(&r->arena, format->n + 1), shown[1024];
    time_t now = r->has_time ? (time_t)r->time : time(NULL);
    struct tm tm = {0};
    size_t n;

    (void)self, (void)args;
    memcpy(text, format->p, format->n);
    text[format->n] = 0;
    if (!(r->has_time ? gmtime_r(&now, &tm) : localtime_r(&now, &tm)))
        jinja_error(&r->arena, "the time is out of range");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    n = strftime(shown, sizeof shown, text, &tm);
#pragma GCC diagnostic pop
    if (n == 0 && format->n)
        jinja_error(&r->arena, "strftime_now() shows nothing or more than %zu bytes", sizeof shown);
    return jinja_string_copy(&r->arena, shown, n);
}

const struct jinja_function *jinja_find_global(const struct jinja_string *name)
{
    static const struct jinja_function globals[] = {{"range", "/start,stop,step", global_range, 1},
                                                    {"dict", NULL, global_dict, 0},
                                                    {"namespace", NULL, global_namespace, 0},
                                                    {"cycler", NULL, global_cycler, 0},
                                                    {"joiner", "sep", global_joiner, 0},
                                                    {"raise_exception", "message", global_raise, 1},
                                                    {"strftime_now", "format", global_strftime_now, 1}};

    return find(globals, sizeof globals / sizeof globals[0], name);
}
