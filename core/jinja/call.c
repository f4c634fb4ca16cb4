/* Calls: evaluating arguments, binding them to the parameters of a built-in function, and calling what is
 * callable. */
#include "core/jinja/library.h"
#include "core/jinja/render.h"

#include <string.h>

enum { MOST_PARAMETERS = 8 };

static void add_named(struct jinja_render *r, struct jinja_args *args, uint32_t *capacity,
                      const struct jinja_string *name, struct jinja_value value)
{
    for (uint32_t i = 0; i < args->n_named; i++)
        if (jinja_same_text(args->named[i].name, name->p, name->n))
            jinja_error(&r->arena, "got multiple values for keyword argument '%.*s'",
                        (int)(name->n < 100 ? name->n : 100), name->p);
    jinja_charge(&r->arena, args->n_named);
    if (args->n_named == *capacity)
        args->named = jinja_grow(&r->arena, args->named, capacity, sizeof *args->named);
    args->named[args->n_named++] = (struct jinja_named){name, value};
}

static void spread_args(struct jinja_render *r, struct jinja_args *args, uint32_t *capacity,
                        struct jinja_value more)
{
    struct jinja_iterator *it = jinja_iterate(r, more);
    struct jinja_value v;

    while (jinja_step(r, it, &v)) {
        jinja_charge(&r->arena, 0);
        if (args->n == *capacity)
            args->items = jinja_grow(&r->arena, args->items, capacity, sizeof *args->items);
        args->items[args->n++] = v;
    }
}

static void spread_named(struct jinja_render *r, struct jinja_args *args, uint32_t *capacity,
                         struct jinja_value more)
{
    if (more.kind != JINJA_DICT)
        jinja_error(&r->arena, "argument after ** must be a mapping, not %s", jinja_type_name(more));
    for (uint32_t i = 0; i < more.as.dict->n; i++) {
        const struct jinja_entry *entry = &more.as.dict->entries[i];
        add_named(r, args, capacity, jinja_need_string(r, entry->key, "a keyword"), entry->value);
    }
}

struct jinja_args jinja_eval_args(struct jinja_render *r, const struct jinja_call *call)
{
    struct jinja_args args = {0};
    uint32_t capacity, named_capacity;

    if (!call)
        return args;
    capacity = call->args.n;
    named_capacity = call->n_keywords;
    args.items = jinja_alloc(&r->arena, ((size_t)capacity + 1) * sizeof *args.items);
    args.named = jinja_alloc(&r->arena, ((size_t)named_capacity + 1) * sizeof *args.named);
    for (; args.n < call->args.n; args.n++)
        args.items[args.n] = jinja_eval(r, call->args.items[args.n]);
    for (uint32_t i = 0; i < call->n_keywords; i++)
        add_named(r, &args, &named_capacity, call->keywords[i].name, jinja_eval(r, call->keywords[i].value));
    if (call->more_args)
        spread_args(r, &args, &capacity, jinja_eval(r, call->more_args));
    if (call->more_keywords)
        spread_named(r, &args, &named_capacity, jinja_eval(r, call->more_keywords));
    return args;
}

/* Position of `name` in "a,b,c", or -1; with name NULL, how many there are. */
static int parameter(const char *parameters, const struct jinja_string *name)
{
    int index = 0;

    while (*parameters) {
        size_t n = strcspn(parameters, ",");
        if (name && jinja_same_text(name, parameters, n))
            return index;
        parameters += n + (parameters[n] == ',');
        index++;
    }
    return name ? -1 : index;
}

static void bind(struct jinja_render *r, const struct jinja_function *function, const struct jinja_args *args,
                 struct jinja_value argv[MOST_PARAMETERS])
{
    const char *parameters = function->parameters;
    bool unnamed = parameters[0] == '/';
    int n = parameter(parameters + unnamed, NULL);

    if (args->n > (uint32_t)n)
        jinja_error(&r->arena, "%s() takes at most %d argument(s) (%u given)", function->name, n, args->n);
    for (uint32_t i = 0; i < args->n; i++)
        argv[i] = args->items[i];
    for (uint32_t i = 0; i < args->n_named; i++) {
        const struct jinja_string *name = args->named[i].name;
        int index = unnamed ? -1 : parameter(parameters, name), length = (int)(name->n < 100 ? name->n : 100);

        if (index < 0)
            jinja_error(&r->arena, "%s() got an unexpected keyword argument '%.*s'", function->name, length,
                        name->p);
        if (argv[index].kind != JINJA_MISSING)
            jinja_error(&r->arena, "%s() got multiple values for argument '%.*s'", function->name, length,
                        name->p);
        argv[index] = args->named[i].value;
    }
    for (int i = 0; i < function->n_required; i++)
        if (argv[i].kind == JINJA_MISSING)
            jinja_error(&r->arena, "%s() is missing required argument %d of (%s)", function->name, i + 1,
                        parameters + unnamed);
}

struct jinja_value jinja_invoke(struct jinja_render *r, const struct jinja_function *function,
                                struct jinja_value self, const struct jinja_args *args)
{
    struct jinja_value argv[MOST_PARAMETERS] = {{0}}, result;

    if (function->parameters)
        bind(r, function, args, argv);
    jinja_enter(&r->arena);
    result = function->call(r, self, argv, args);
    jinja_leave(&r->arena);
    return result;
}

/* What a method of markup returns is markup again, parts of a list included. */
static struct jinja_value call_method(struct jinja_render *r, const struct jinja_method *method,
                                      const struct jinja_args *args)
{
    struct jinja_value v = jinja_invoke(r, method->function, method->self, args);

    if (method->self.kind != JINJA_STRING || !method->self.as.string->markup)
        return v;
    if (v.kind == JINJA_STRING)
        return jinja_string_marked(&r->arena, v, true);
    for (uint32_t i = 0; (v.kind == JINJA_LIST || v.kind == JINJA_TUPLE) && i < v.as.array->n; i++)
        v.as.array->items[i] = jinja_string_marked(&r->arena, v.as.array->items[i], true);
    return v;
}

struct jinja_value jinja_call(struct jinja_render *r, struct jinja_value callee,
                              const struct jinja_args *args)
{
    switch (callee.kind) {
    case JINJA_UNDEFINED:
        jinja_error_undefined(&r->arena, callee);
    case JINJA_MACRO:
        return jinja_macro_call(r, callee.as.macro, args);
    case JINJA_FUNCTION:
        return jinja_invoke(r, callee.as.function, jinja_none(), args);
    case JINJA_METHOD:
        return call_method(r, callee.as.method, args);
    case JINJA_LOOP:
        return jinja_loop_call(r, callee.as.loop, args);
    case JINJA_JOINER:
        if (callee.as.joiner->used)
            return callee.as.joiner->separator;
        callee.as.joiner->used = true;
        return jinja_string_of(&r->arena, "", 0);
    default:
        jinja_error(&r->arena, "'%s' object is not callable", jinja_type_name(callee));
    }
}
