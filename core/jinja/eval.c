/* Expressions. */
#include "core/jinja/library.h"
#include "core/jinja/render.h"

#include <stdio.h>

struct jinja_value jinja_lookup(struct jinja_render *r, const struct jinja_string *name)
{
    const struct jinja_function *function;
    struct jinja_value *found;

    for (struct jinja_scope *scope = r->scope; scope; scope = scope->outer)
        for (uint32_t i = scope->n; i-- > 0;)
            if (scope->items[i].name == name)
                return scope->items[i].value;
    found =
        jinja_dict_find(&r->arena, r->context, (struct jinja_value){.kind = JINJA_STRING, .as.string = name});
    if (found)
        return *found;
    function = jinja_find_global(name);
    if (function)
        return (struct jinja_value){.kind = JINJA_FUNCTION, .as.function = function};
    return jinja_undefined_name(&r->arena, name);
}

static struct jinja_value eval_items(struct jinja_render *r, int32_t kind, const struct jinja_nodes *items)
{
    struct jinja_value array = jinja_array_new(&r->arena, kind, items->n);

    for (uint32_t i = 0; i < items->n; i++)
        array.as.array->items[i] = jinja_eval(r, items->items[i]);
    array.as.array->n = items->n;
    return array;
}

static struct jinja_value eval_dict(struct jinja_render *r, const struct jinja_nodes *items)
{
    struct jinja_value dict = jinja_dict_new(&r->arena);

    for (uint32_t i = 0; i + 1 < items->n; i += 2) {
        struct jinja_value key = jinja_eval(r, items->items[i]);
        jinja_dict_put(&r->arena, dict.as.dict, key, jinja_eval(r, items->items[i + 1]));
    }
    return dict;
}

static struct jinja_value eval_unary(struct jinja_render *r, const struct jinja_node *node)
{
    struct jinja_value v = jinja_eval(r, node->a);

    if (node->op == '!')
        return jinja_bool(!jinja_truth(r, v));
    return jinja_negate(r, node->op, v);
}

static struct jinja_value eval_concat(struct jinja_render *r, const struct jinja_node *node)
{
    struct jinja_value joined = jinja_str(r, jinja_eval(r, node->items.items[0]));

    for (uint32_t i = 1; i < node->items.n; i++) {
        struct jinja_value part = jinja_str(r, jinja_eval(r, node->items.items[i]));
        joined = jinja_string_join(&r->arena, joined.as.string, part.as.string);
    }
    return joined;
}

static bool compare(struct jinja_render *r, int32_t op, struct jinja_value a, struct jinja_value b)
{
    switch (op) {
    case JINJA_OP_EQ:
        return jinja_equal(&r->arena, a, b);
    case JINJA_OP_NE:
        return !jinja_equal(&r->arena, a, b);
    case JINJA_OP_IN:
        return jinja_contains(r, b, a);
    case JINJA_OP_NOT_IN:
        return !jinja_contains(r, b, a);
    default:
        return jinja_ordered(r, op, a, b);
    }
}

static struct jinja_value eval_compare(struct jinja_render *r, const struct jinja_node *node)
{
    struct jinja_value left = jinja_eval(r, node->a);

    for (uint32_t i = 0; i < node->items.n; i++) {
        struct jinja_value right = jinja_eval(r, node->items.items[i]->a);
        if (!compare(r, node->items.items[i]->op, left, right))
            return jinja_bool(false);
        left = right;
    }
    return jinja_bool(true);
}

static struct jinja_value eval_cond(struct jinja_render *r, const struct jinja_node *node)
{
    char *hint;

    if (jinja_truth(r, jinja_eval(r, node->b)))
        return jinja_eval(r, node->a);
    if (node->c)
        return jinja_eval(r, node->c);
    hint = jinja_alloc(&r->arena, 128);
    snprintf(hint, 128,
             "the inline if-expression on line %u evaluated to false and no else section was defined.",
             node->line);
    return jinja_undefined_hint(&r->arena, hint);
}

static struct jinja_value eval_or_none(struct jinja_render *r, const struct jinja_node *node)
{
    return node ? jinja_eval(r, node) : jinja_none();
}

static struct jinja_value eval_item(struct jinja_render *r, const struct jinja_node *node)
{
    struct jinja_value object = jinja_eval(r, node->a);
    const struct jinja_node *slice = node->b;
    struct jinja_value start, stop, step;

    if (slice->kind != JINJA_N_SLICE)
        return jinja_get_item(r, object, jinja_eval(r, slice));
    start = eval_or_none(r, slice->a);
    stop = eval_or_none(r, slice->b);
    step = eval_or_none(r, slice->c);
    return jinja_slice_of(r, object, start, stop, step);
}

static struct jinja_value eval_filter(struct jinja_render *r, const struct jinja_node *node)
{
    const struct jinja_function *filter = jinja_find_filter(node->name);
    struct jinja_value self = node->a ? jinja_eval(r, node->a) : r->captured;
    struct jinja_args args = jinja_eval_args(r, node->call);

    if (!filter)
        jinja_error(&r->arena, "No filter named '%.*s'.", (int)(node->name->n < 100 ? node->name->n : 100),
                    node->name->p);
    return jinja_invoke(r, filter, self, &args);
}

static struct jinja_value eval_test(struct jinja_render *r, const struct jinja_node *node)
{
    const struct jinja_function *test = jinja_find_test(node->name);
    struct jinja_value self = jinja_eval(r, node->a);
    struct jinja_args args = jinja_eval_args(r, node->call);

    if (!test)
        jinja_error(&r->arena, "No test named '%.*s'.", (int)(node->name->n < 100 ? node->name->n : 100),
                    node->name->p);
    return jinja_invoke(r, test, self, &args);
}

static struct jinja_value eval_call(struct jinja_render *r, const struct jinja_node *node)
{
    struct jinja_value callee = jinja_eval(r, node->a);
    struct jinja_args args = jinja_eval_args(r, node->call);

    r->arena.line = node->line;
    return jinja_call(r, callee, &args);
}

static struct jinja_value eval_logic(struct jinja_render *r, const struct jinja_node *node)
{
    struct jinja_value left = jinja_eval(r, node->a);

    return jinja_truth(r, left) == (node->kind == JINJA_N_AND) ? jinja_eval(r, node->b) : left;
}

static struct jinja_value eval_binary(struct jinja_render *r, const struct jinja_node *node)
{
    struct jinja_value left = jinja_eval(r, node->a), right = jinja_eval(r, node->b);

    r->arena.line = node->line;
    return jinja_binary(r, node->op, left, right);
}

static struct jinja_value eval_kind(struct jinja_render *r, const struct jinja_node *node)
{
    switch (node->kind) {
    case JINJA_N_TUPLE:
        return eval_items(r, JINJA_TUPLE, &node->items);
    case JINJA_N_LIST:
        return eval_items(r, JINJA_LIST, &node->items);
    case JINJA_N_DICT:
        return eval_dict(r, &node->items);
    case JINJA_N_UNARY:
        return eval_unary(r, node);
    case JINJA_N_BINARY:
        return eval_binary(r, node);
    case JINJA_N_AND:
    case JINJA_N_OR:
        return eval_logic(r, node);
    case JINJA_N_CONCAT:
        return eval_concat(r, node);
    case JINJA_N_COMPARE:
        return eval_compare(r, node);
    case JINJA_N_COND:
        return eval_cond(r, node);
    case JINJA_N_GETATTR:
        return jinja_get_attribute(r, jinja_eval(r, node->a), node->name);
    case JINJA_N_GETITEM:
        return eval_item(r, node);
    case JINJA_N_SLICE: /* one of several subscripts, which nothing supports */
        return jinja_array_new(&r->arena, JINJA_SLICE, 0);
    case JINJA_N_CALL:
        return eval_call(r, node);
    case JINJA_N_FILTER:
        return eval_filter(r, node);
    case JINJA_N_TEST:
        return eval_test(r, node);
    default:
        jinja_error(&r->arena, "internal error: node %d is no expression", node->kind);
    }
}

struct jinja_value jinja_eval(struct jinja_render *r, const struct jinja_node *node)
{
    struct jinja_value v;

    if (node->kind == JINJA_N_CONST)
        return node->value;
    jinja_charge(&r->arena, 0);
    if (node->kind == JINJA_N_NAME)
        return jinja_lookup(r, node->name);
    jinja_enter(&r->arena);
    r->arena.line = node->line;
    v = eval_kind(r, node);
    jinja_leave(&r->arena);
    return v;
}
