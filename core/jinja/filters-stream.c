/* Filters that apply other filters and tests to each item, lazily, and those about attributes and defaults. */
#include "core/jinja/library.h"
#include "core/jinja/render.h"

#define FILTER(name)                                                                                         \
    static struct jinja_value filter_##name(struct jinja_render *r, struct jinja_value self,                 \
                                            const struct jinja_value *argv, const struct jinja_args *args)

/* What map and select do with an item. */
struct stream {
    struct jinja_args args;  /* of the filter or test, its name taken off */
    struct jinja_value name; /* MISSING: no test, just truth */
    struct jinja_value attribute, otherwise;
    bool reject;
};

static struct jinja_value named(const struct jinja_args *args, const char *name)
{
    for (uint32_t i = 0; i < args->n_named; i++)
        if (jinja_same_text(args->named[i].name, name, __builtin_strlen(name)))
            return args->named[i].value;
    return (struct jinja_value){0};
}

/* An empty source runs nothing, so nothing is wrong with its arguments either. */
static struct jinja_value make_stream(struct jinja_render *r, struct jinja_value source, jinja_stage *stage,
                                      struct stream stream)
{
    struct stream *state = jinja_alloc(&r->arena, sizeof *state);

    *state = stream;
    return jinja_lazy(r, source, stage, state);
}

static struct jinja_value nothing(struct jinja_render *r)
{
    return jinja_iterator_of(r, jinja_array_new(&r->arena, JINJA_LIST, 0).as.array);
}

static void take_name(struct jinja_args *args, struct jinja_value *name)
{
    *name = args->n ? args->items[0] : (struct jinja_value){0};
    if (args->n) {
        args->items++;
        args->n--;
    }
}

static bool map_attribute(struct jinja_render *r, void *state, struct jinja_value *v)
{
    const struct stream *stream = state;

    *v = jinja_attribute_path(r, *v, stream->attribute, stream->otherwise);
    return true;
}

static bool map_filter(struct jinja_render *r, void *state, struct jinja_value *v)
{
    const struct stream *stream = state;
    const struct jinja_string *name = jinja_need_string(r, stream->name, "the filter that map applies");
    const struct jinja_function *filter = jinja_find_filter(name);

    if (!filter)
        jinja_error(&r->arena, "No filter named '%.*s'.", (int)(name->n < 100 ? name->n : 100), name->p);
    *v = jinja_invoke(r, filter, *v, &stream->args);
    return true;
}

FILTER(map)
{
    struct stream stream = {.args = *args};

    (void)argv;
    if (!jinja_truth(r, self))
        return nothing(r);
    stream.attribute = named(args, "attribute");
    if (args->n == 0 && stream.attribute.kind != JINJA_MISSING) {
        stream.otherwise = named(args, "default");
        if (args->n_named > 1u + (stream.otherwise.kind != JINJA_MISSING))
            jinja_error(&r->arena, "map got an unexpected keyword argument");
        return make_stream(r, self, map_attribute, stream);
    }
    if (args->n == 0)
        jinja_error(&r->arena, "map requires a filter argument");
    take_name(&stream.args, &stream.name);
    return make_stream(r, self, map_filter, stream);
}

static bool select_stage(struct jinja_render *r, void *state, struct jinja_value *v)
{
    const struct stream *stream = state;
    struct jinja_value none = {0}, tested = jinja_attribute_path(r, *v, stream->attribute, none);
    const struct jinja_function *test;
    const struct jinja_string *name;

    if (stream->name.kind == JINJA_MISSING)
        return jinja_truth(r, tested) != stream->reject;
    name = jinja_need_string(r, stream->name, "the test that select applies");
    test = jinja_find_test(name);
    if (!test)
        jinja_error(&r->arena, "No test named '%.*s'.", (int)(name->n < 100 ? name->n : 100), name->p);
    return jinja_truth(r, jinja_invoke(r, test, tested, &stream->args)) != stream->reject;
}

static struct jinja_value select_items(struct jinja_render *r, struct jinja_value self,
                                       const struct jinja_args *args, bool attribute, bool reject)
{
    struct stream stream = {.args = *args, .reject = reject};

    if (!jinja_truth(r, self))
        return nothing(r);
    if (attribute && args->n == 0)
        jinja_error(&r->arena, "Missing parameter for attribute name");
    if (attribute)
        take_name(&stream.args, &stream.attribute);
    take_name(&stream.args, &stream.name);
    return make_stream(r, self, select_stage, stream);
}

FILTER(select)
{
    (void)argv;
    return select_items(r, self, args, false, false);
}

FILTER(reject)
{
    (void)argv;
    return select_items(r, self, args, false, true);
}

FILTER(selectattr)
{
    (void)argv;
    return select_items(r, self, args, true, false);
}

FILTER(rejectattr)
{
    (void)argv;
    return select_items(r, self, args, true, true);
}

FILTER(default)
{
    (void)args;
    if (self.kind != JINJA_UNDEFINED && !(jinja_truth(r, argv[1]) && !jinja_truth(r, self)))
        return self;
    return argv[0].kind == JINJA_MISSING ? jinja_string_of(&r->arena, "", 0) : argv[0];
}

/* Attributes only: unlike `.`, this never looks into a mapping. */
FILTER(attr)
{
    const struct jinja_string *name = jinja_need_string(r, argv[0], "the name of attr");
    struct jinja_value plain = self;

    (void)args;
    if (self.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, self);
    if (self.kind == JINJA_DICT) { /* an empty one has the same methods and no items */
        struct jinja_value empty = jinja_dict_new(&r->arena), found = jinja_get_attribute(r, empty, name);
        if (found.kind != JINJA_METHOD)
            return found;
    }
    return jinja_get_attribute(r, plain, name);
}

const struct jinja_function jinja_stream_filters[] = {
    {"map", NULL, filter_map, 0},
    {"select", NULL, filter_select, 0},
    {"reject", NULL, filter_reject, 0},
    {"selectattr", NULL, filter_selectattr, 0},
    {"rejectattr", NULL, filter_rejectattr, 0},
    {"default", "default_value,boolean", filter_default, 0},
    {"d", "default_value,boolean", filter_default, 0},
    {"attr", "name", filter_attr, 1},
};
const size_t jinja_stream_filters_n = sizeof jinja_stream_filters / sizeof jinja_stream_filters[0];
