/* What runs bodies with values bound to names: macros and for loops.
 *
 * A macro sees the scope in which it was defined, as that scope is when it is called. A loop gives each round a
 * fresh scope; so `set` in a loop lasts until the end of the round. */
#include "core/jinja/render.h"

#include <string.h>

struct jinja_macro {
    const struct jinja_node *node;
    struct jinja_scope *scope;
};

struct jinja_loop {
    const struct jinja_node *node;
    struct jinja_scope *outer; /* in which the loop stands */
    struct jinja_value iterable;
    struct jinja_iterator *iterator;
    struct jinja_value before, current, after; /* after: MISSING, or already taken from the iterator */
    struct jinja_value changed;
    int64_t index0, length; /* length -1: not known yet */
    uint32_t depth0;
};

/* State of `for x in y if test`. */
struct filter_stage {
    const struct jinja_node *node;
    struct jinja_scope *scope;
};

struct jinja_value jinja_macro_new(struct jinja_render *r, const struct jinja_node *node)
{
    struct jinja_macro *macro = jinja_alloc(&r->arena, sizeof *macro);

    *macro = (struct jinja_macro){node, r->scope};
    return (struct jinja_value){.kind = JINJA_MACRO, .as.macro = macro};
}

const struct jinja_string *jinja_macro_name(const struct jinja_macro *macro)
{
    return macro->node->name;
}

struct jinja_value jinja_macro_attribute(struct jinja_render *r, const struct jinja_macro *macro,
                                         const struct jinja_string *name)
{
    struct jinja_value list;

    if (jinja_same_text(name, JINJA_LITERAL("name")))
        return macro->node->name ? (struct jinja_value){.kind = JINJA_STRING, .as.string = macro->node->name}
                                 : jinja_none();
    if (jinja_same_text(name, JINJA_LITERAL("caller")))
        return jinja_bool(macro->node->op & JINJA_USES_CALLER);
    if (jinja_same_text(name, JINJA_LITERAL("catch_kwargs")))
        return jinja_bool(macro->node->op & JINJA_USES_KWARGS);
    if (jinja_same_text(name, JINJA_LITERAL("catch_varargs")))
        return jinja_bool(macro->node->op & JINJA_USES_VARARGS);
    if (!jinja_same_text(name, JINJA_LITERAL("arguments")))
        return (struct jinja_value){0};
    list = jinja_array_new(&r->arena, JINJA_TUPLE, macro->node->items.n);
    for (uint32_t i = 0; i < macro->node->items.n; i++)
        jinja_array_add(
            &r->arena, list.as.array,
            (struct jinja_value){.kind = JINJA_STRING, .as.string = macro->node->items.items[i]->name});
    return list;
}

/* Takes the named argument out of args; MISSING if it is not among them. */
static struct jinja_value take_named(struct jinja_args *args, const struct jinja_string *name)
{
    for (uint32_t i = 0; i < args->n_named; i++) {
        struct jinja_value v = args->named[i].value;
        if (!jinja_same_text(args->named[i].name, name->p, name->n))
            continue;
        memmove(&args->named[i], &args->named[i + 1], (args->n_named - i - 1) * sizeof *args->named);
        args->n_named--;
        return v;
    }
    return (struct jinja_value){0};
}

static struct jinja_value missing_parameter(struct jinja_render *r, const struct jinja_string *name)
{
    struct jinja_writer w = jinja_writer_new(r, name->n + 40);

    jinja_write_z(&w, "parameter '");
    jinja_write(&w, name->p, name->n);
    jinja_write_z(&w, "' was not provided");
    jinja_write_char(&w, 0);
    return jinja_undefined_hint(&r->arena, w.p);
}

/* A default is evaluated in the macro's scope, where earlier parameters are already set. */
static void bind_parameters(struct jinja_render *r, const struct jinja_node *node, struct jinja_args *args)
{
    uint32_t n = node->items.n, first_default = n - node->other.n;

    for (uint32_t i = 0; i < n; i++) {
        const struct jinja_string *name = node->items.items[i]->name;
        struct jinja_value v = i < args->n ? args->items[i] : take_named(args, name);

        if (v.kind == JINJA_MISSING)
            v = i >= first_default ? jinja_eval(r, node->other.items[i - first_default])
                                   : missing_parameter(r, name);
        jinja_define(r, r->scope, name, v);
    }
}

static bool declares(const struct jinja_node *node, const struct jinja_string *name)
{
    for (uint32_t i = 0; i < node->items.n; i++)
        if (node->items.items[i]->name == name)
            return true;
    return false;
}

static void bind_special(struct jinja_render *r, const struct jinja_node *node, struct jinja_args *args)
{
    const struct jinja_names *names = r->names;
    struct jinja_value v;

    if (node->op & JINJA_USES_CALLER && !declares(node, names->caller)) {
        v = take_named(args, names->caller);
        if (v.kind == JINJA_MISSING || v.kind == JINJA_NONE)
            v = jinja_undefined_hint(&r->arena, "No caller defined");
        jinja_define(r, r->scope, names->caller, v);
    }
    if (node->op & JINJA_USES_KWARGS) {
        v = jinja_dict_new(&r->arena);
        for (uint32_t i = 0; i < args->n_named; i++)
            jinja_dict_put(&r->arena, v.as.dict,
                           (struct jinja_value){.kind = JINJA_STRING, .as.string = args->named[i].name},
                           args->named[i].value);
        args->n_named = 0;
        jinja_define(r, r->scope, names->kwargs, v);
    }
    if (node->op & JINJA_USES_VARARGS) {
        v = jinja_array_new(&r->arena, JINJA_TUPLE, 0);
        for (uint32_t i = node->items.n; i < args->n; i++)
            jinja_array_add(&r->arena, v.as.array, args->items[i]);
        jinja_define(r, r->scope, names->varargs, v);
    }
}

static void check_rest(struct jinja_render *r, const struct jinja_node *node, const struct jinja_args *args)
{
    int n = node->name ? (int)(node->name->n < 100 ? node->name->n : 100) : 6;
    const char *name = node->name ? node->name->p : "caller";

    if (args->n_named && args->named[0].name == r->names->caller)
        jinja_error(&r->arena,
                    "macro '%.*s' was invoked with two values for the special caller argument. This is most "
                    "likely a bug.",
                    n, name);
    if (args->n_named)
        jinja_error(&r->arena, "macro '%.*s' takes no keyword argument '%.*s'", n, name,
                    (int)(args->named[0].name->n < 100 ? args->named[0].name->n : 100),
                    args->named[0].name->p);
    if (args->n > node->items.n && !(node->op & JINJA_USES_VARARGS))
        jinja_error(&r->arena, "macro '%.*s' takes not more than %u argument(s)", n, name, node->items.n);
}

struct jinja_value jinja_macro_call(struct jinja_render *r, struct jinja_macro *macro,
                                    const struct jinja_args *given)
{
    struct jinja_scope *saved = r->scope, *scope = jinja_calloc(&r->arena, 1, sizeof *scope);
    struct jinja_args args = *given;
    struct jinja_value text;
    size_t mark;

    jinja_enter(&r->arena);
    scope->outer = macro->scope;
    r->scope = scope;
    bind_parameters(r, macro->node, &args);
    bind_special(r, macro->node, &args);
    check_rest(r, macro->node, &args);
    mark = r->text.n_bytes;
    jinja_exec(r, &macro->node->body);
    text = jinja_capture(r, mark);
    r->scope = saved;
    jinja_leave(&r->arena);
    return text;
}

/* jinja_stage: keeps the items for which the loop's test holds. */
static bool loop_filter(struct jinja_render *r, void *state, struct jinja_value *v)
{
    struct filter_stage *stage = state;
    struct jinja_scope *saved = r->scope;
    bool keep;

    stage->scope->n = 0;
    r->scope = stage->scope;
    jinja_assign(r, stage->node->a, *v);
    keep = jinja_truth(r, jinja_eval(r, stage->node->c));
    r->scope = saved;
    return keep;
}

static bool loop_next(struct jinja_render *r, struct jinja_loop *loop)
{
    struct jinja_value v = loop->after;

    if (v.kind != JINJA_MISSING)
        loop->after = (struct jinja_value){0};
    else if (!jinja_step(r, loop->iterator, &v))
        return false;
    loop->index0++;
    loop->before = loop->current;
    loop->current = v;
    return true;
}

/* Runs the loop over `iterable`, in the current scope. */
static enum jinja_flow run_loop(struct jinja_render *r, const struct jinja_node *node,
                                struct jinja_value iterable, uint32_t depth0)
{
    struct jinja_scope *outer = r->scope, *scope = jinja_calloc(&r->arena, 1, sizeof *scope);
    struct jinja_loop *loop = jinja_calloc(&r->arena, 1, sizeof *loop);
    enum jinja_flow flow = JINJA_GO_ON;
    bool finished = false; /* a round reached the end of the body: what jinja2 asks before running `else` */

    if (node->c) {
        struct filter_stage *stage = jinja_calloc(&r->arena, 1, sizeof *stage);
        stage->node = node;
        stage->scope = jinja_calloc(&r->arena, 1, sizeof *stage->scope);
        stage->scope->outer = outer;
        iterable = jinja_lazy(r, iterable, loop_filter, stage);
    }
    loop->node = node;
    loop->outer = outer;
    loop->iterable = iterable;
    loop->iterator = jinja_iterate(r, iterable);
    loop->index0 = loop->length = -1;
    loop->depth0 = depth0;
    scope->outer = outer;
    r->scope = scope;
    while (flow != JINJA_DO_BREAK && loop_next(r, loop)) {
        jinja_charge(&r->arena, 0);
        scope->n = 0;
        jinja_define(r, scope, r->names->loop, (struct jinja_value){.kind = JINJA_LOOP, .as.loop = loop});
        jinja_assign(r, node->a, loop->current);
        flow = jinja_exec(r, &node->body);
        finished |= flow == JINJA_GO_ON;
    }
    scope->n = 0;
    flow = finished ? JINJA_GO_ON : jinja_exec(r, &node->other);
    r->scope = outer;
    return flow;
}

enum jinja_flow jinja_exec_for(struct jinja_render *r, const struct jinja_node *node)
{
    return run_loop(r, node, jinja_eval(r, node->b), 0);
}

/* loop(items) of a recursive loop: its body over the given items, as text. */
struct jinja_value jinja_loop_call(struct jinja_render *r, struct jinja_loop *loop,
                                   const struct jinja_args *args)
{
    struct jinja_scope *saved = r->scope;
    size_t mark = r->text.n_bytes;
    struct jinja_value text;

    if (!loop->node->op)
        jinja_error(&r->arena, "The loop must have the 'recursive' marker to be called recursively.");
    if (args->n != 1 || args->n_named)
        jinja_error(&r->arena, "loop() takes one argument, the items to loop over");
    jinja_enter(&r->arena);
    r->scope = loop->outer;
    run_loop(r, loop->node, args->items[0], loop->depth0 + 1);
    text = jinja_capture(r, mark);
    r->scope = saved;
    jinja_leave(&r->arena);
    return text;
}

static bool peek(struct jinja_render *r, struct jinja_loop *loop)
{
    if (loop->after.kind == JINJA_MISSING && !jinja_step(r, loop->iterator, &loop->after))
        loop->after = (struct jinja_value){0};
    return loop->after.kind != JINJA_MISSING;
}

/* A generator must be read to its end to be counted; what is read is kept. */
static int64_t loop_length(struct jinja_render *r, struct jinja_loop *loop)
{
    struct jinja_value rest;

    if (loop->length >= 0)
        return loop->length;
    loop->length = jinja_length(r, loop->iterable);
    if (loop->length < 0) {
        rest = jinja_list_of(r, (struct jinja_value){.kind = JINJA_ITERATOR, .as.iterator = loop->iterator});
        loop->iterator = jinja_iterate(r, rest);
        loop->length = rest.as.array->n + loop->index0 + 1 + (loop->after.kind != JINJA_MISSING);
    }
    return loop->length;
}

static struct jinja_value loop_cycle(struct jinja_render *r, struct jinja_value self,
                                     const struct jinja_value *argv, const struct jinja_args *args)
{
    (void)argv;
    if (args->n == 0)
        jinja_error(&r->arena, "no items for cycling given");
    return args->items[self.as.loop->index0 % args->n];
}

static struct jinja_value loop_changed(struct jinja_render *r, struct jinja_value self,
                                       const struct jinja_value *argv, const struct jinja_args *args)
{
    struct jinja_loop *loop = self.as.loop;
    struct jinja_value now = jinja_array_new(&r->arena, JINJA_TUPLE, args->n);

    (void)argv;
    for (uint32_t i = 0; i < args->n; i++)
        jinja_array_add(&r->arena, now.as.array, args->items[i]);
    if (loop->changed.kind == JINJA_TUPLE && jinja_equal(&r->arena, loop->changed, now))
        return jinja_bool(false);
    loop->changed = now;
    return jinja_bool(true);
}

static const struct jinja_function loop_methods[] = {{"cycle", NULL, loop_cycle, 0},
                                                     {"changed", NULL, loop_changed, 0}};

static struct jinja_value loop_item(struct jinja_render *r, struct jinja_loop *loop, bool next)
{
    if (!next)
        return loop->index0 > 0 ? loop->before : jinja_undefined_hint(&r->arena, "there is no previous item");
    return peek(r, loop) ? loop->after : jinja_undefined_hint(&r->arena, "there is no next item");
}

struct jinja_value jinja_loop_attribute(struct jinja_render *r, struct jinja_loop *loop,
                                        struct jinja_value self, const struct jinja_string *name)
{
    static const char *const names[] = {"index",     "index0", "first",  "last",     "length",  "revindex",
                                        "revindex0", "depth",  "depth0", "previtem", "nextitem"};
    size_t which = 0;

    for (size_t i = 0; i < sizeof loop_methods / sizeof loop_methods[0]; i++)
        if (jinja_same_text(name, loop_methods[i].name, strlen(loop_methods[i].name))) {
            struct jinja_method *method = jinja_alloc(&r->arena, sizeof *method);
            *method = (struct jinja_method){self, &loop_methods[i]};
            return (struct jinja_value){.kind = JINJA_METHOD, .as.method = method};
        }
    while (which < sizeof names / sizeof names[0] &&
           !jinja_same_text(name, names[which], strlen(names[which])))
        which++;
    switch (which) {
    case 0:
        return jinja_int(loop->index0 + 1);
    case 1:
        return jinja_int(loop->index0);
    case 2:
        return jinja_bool(loop->index0 == 0);
    case 3:
        return jinja_bool(!peek(r, loop));
    case 4:
        return jinja_int(loop_length(r, loop));
    case 5:
        return jinja_int(loop_length(r, loop) - loop->index0);
    case 6:
        return jinja_int(loop_length(r, loop) - loop->index0 - 1);
    case 7:
        return jinja_int((int64_t)loop->depth0 + 1);
    case 8:
        return jinja_int(loop->depth0);
    case 9:
    case 10:
        return loop_item(r, loop, which == 10);
    default:
        return (struct jinja_value){0};
    }
}
