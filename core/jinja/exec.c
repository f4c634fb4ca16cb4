/* Statements. Text goes to one buffer; what a macro or a block captures is its tail, cut off when done. */
#include "core/jinja/library.h"
#include "core/jinja/render.h"

#include <stdlib.h>
#include <string.h>

void jinja_output(struct jinja_render *r, const char *p, size_t n)
{
    struct sharpi_template_text *text = &r->text;
    size_t capacity = text->capacity ? text->capacity : 1024;
    char *grown;

    if (n > r->max_text || text->n_bytes > r->max_text - n)
        jinja_fail(&r->arena, SHARPI_TEMPLATE_LIMIT, "the output is longer than %llu bytes",
                   (unsigned long long)r->max_text);
    jinja_charge(&r->arena, n);
    if (text->n_bytes + n + 1 > text->capacity) {
        while (capacity < text->n_bytes + n + 1)
            capacity *= 2;
        grown = realloc(text->data, capacity);
        if (!grown)
            jinja_fail(&r->arena, SHARPI_TEMPLATE_NO_MEMORY, "out of memory for %zu bytes of output",
                       capacity);
        text->data = grown;
        text->capacity = capacity;
    }
    if (n)
        memcpy(text->data + text->n_bytes, p, n);
    text->n_bytes += n;
    text->data[text->n_bytes] = 0;
}

struct jinja_value jinja_capture(struct jinja_render *r, size_t mark)
{
    size_t n = r->text.n_bytes - mark;
    struct jinja_value s = jinja_string_copy(&r->arena, n ? r->text.data + mark : "", n);

    r->text.n_bytes = mark;
    return s;
}

static void output_value(struct jinja_render *r, struct jinja_value v)
{
    v = jinja_soft_str(r, v);
    jinja_output(r, v.as.string->p, v.as.string->n);
}

void jinja_define(struct jinja_render *r, struct jinja_scope *scope, const struct jinja_string *name,
                  struct jinja_value value)
{
    for (uint32_t i = 0; i < scope->n; i++)
        if (scope->items[i].name == name) {
            scope->items[i].value = value;
            return;
        }
    if (scope->n == scope->capacity)
        scope->items = jinja_grow(&r->arena, scope->items, &scope->capacity, sizeof *scope->items);
    scope->items[scope->n++] = (struct jinja_variable){name, value};
}

static void assign_member(struct jinja_render *r, const struct jinja_node *target, struct jinja_value value)
{
    struct jinja_value object = jinja_lookup(r, target->name);

    if (object.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, object);
    if (object.kind != JINJA_NAMESPACE)
        jinja_error(&r->arena, "cannot assign attribute on non-namespace object");
    jinja_dict_put(&r->arena, object.as.dict, target->value, value);
}

static void assign_tuple(struct jinja_render *r, const struct jinja_nodes *targets, struct jinja_value value)
{
    struct jinja_iterator *it;
    struct jinja_value *values = jinja_calloc(&r->arena, (size_t)targets->n + 1, sizeof *values), extra;

    if (!jinja_iterable(value))
        jinja_error(&r->arena, "cannot unpack non-iterable %s object", jinja_type_name(value));
    it = jinja_iterate(r, value);
    for (uint32_t i = 0; i < targets->n; i++)
        if (!jinja_step(r, it, &values[i]))
            jinja_error(&r->arena, "not enough values to unpack (expected %u, got %u)", targets->n, i);
    if (jinja_step(r, it, &extra))
        jinja_error(&r->arena, "too many values to unpack (expected %u)", targets->n);
    for (uint32_t i = 0; i < targets->n; i++)
        jinja_assign(r, targets->items[i], values[i]);
}

void jinja_assign(struct jinja_render *r, const struct jinja_node *target, struct jinja_value value)
{
    if (target->kind == JINJA_N_NAME)
        jinja_define(r, r->scope, target->name, value);
    else if (target->kind == JINJA_N_MEMBER)
        assign_member(r, target, value);
    else
        assign_tuple(r, &target->items, value);
}

static enum jinja_flow exec_if(struct jinja_render *r, const struct jinja_node *node)
{
    for (uint32_t i = 0; i < node->items.n; i++) {
        const struct jinja_node *branch = node->items.items[i];
        r->arena.line = branch->line;
        if (jinja_truth(r, jinja_eval(r, branch->a)))
            return jinja_exec(r, &branch->body);
    }
    return jinja_exec(r, &node->other);
}

/* A body in a new scope below `outer`. */
static enum jinja_flow exec_scoped(struct jinja_render *r, const struct jinja_nodes *body,
                                   struct jinja_scope *outer)
{
    struct jinja_scope *saved = r->scope, *scope = jinja_calloc(&r->arena, 1, sizeof *scope);
    enum jinja_flow flow;

    scope->outer = outer;
    r->scope = scope;
    flow = jinja_exec(r, body);
    r->scope = saved;
    return flow;
}

/* {% set x %}...{% endset %} and {% filter f %}...{% endfilter %} */
static enum jinja_flow exec_captured(struct jinja_render *r, const struct jinja_node *node)
{
    struct jinja_scope *saved = r->scope, *scope = jinja_calloc(&r->arena, 1, sizeof *scope);
    size_t mark = r->text.n_bytes;
    struct jinja_value outer = r->captured, text;
    enum jinja_flow flow;

    scope->outer = saved;
    r->scope = scope;
    flow = jinja_exec(r, &node->body);
    text = jinja_capture(r, mark);
    if (flow == JINJA_GO_ON && node->b) {
        r->captured = text;
        text = jinja_eval(r, node->b);
        r->captured = outer;
    }
    r->scope = saved;
    if (flow != JINJA_GO_ON)
        return flow;
    if (node->kind == JINJA_N_SET_BLOCK)
        jinja_assign(r, node->a, text);
    else
        output_value(r, text);
    return flow;
}

static enum jinja_flow exec_with(struct jinja_render *r, const struct jinja_node *node)
{
    struct jinja_scope *saved = r->scope, *scope = jinja_calloc(&r->arena, 1, sizeof *scope);
    enum jinja_flow flow;

    scope->outer = saved;
    for (uint32_t i = 0; i + 1 < node->items.n; i += 2) {
        struct jinja_value value = jinja_eval(r, node->items.items[i + 1]);
        r->scope = scope;
        jinja_assign(r, node->items.items[i], value);
        r->scope = saved;
    }
    r->scope = scope;
    flow = jinja_exec(r, &node->body);
    r->scope = saved;
    return flow;
}

static void exec_call_block(struct jinja_render *r, const struct jinja_node *node)
{
    struct jinja_value callee = jinja_eval(r, node->a->a);
    struct jinja_args args = jinja_eval_args(r, node->a->call);
    struct jinja_named *named = jinja_calloc(&r->arena, (size_t)args.n_named + 1, sizeof *named);

    if (args.n_named)
        memcpy(named, args.named, args.n_named * sizeof *named);
    named[args.n_named++] = (struct jinja_named){r->names->caller, jinja_macro_new(r, node->b)};
    args.named = named;
    r->arena.line = node->line;
    output_value(r, jinja_call(r, callee, &args));
}

static enum jinja_flow exec_statement(struct jinja_render *r, const struct jinja_node *node)
{
    r->arena.line = node->line;
    switch (node->kind) {
    case JINJA_N_OUTPUT:
        output_value(r, jinja_eval(r, node->a));
        return JINJA_GO_ON;
    case JINJA_N_FOR:
        return jinja_exec_for(r, node);
    case JINJA_N_IF:
        return exec_if(r, node);
    case JINJA_N_SET:
        jinja_assign(r, node->a, jinja_eval(r, node->b));
        return JINJA_GO_ON;
    case JINJA_N_SET_BLOCK:
    case JINJA_N_FILTER_BLOCK:
        return exec_captured(r, node);
    case JINJA_N_MACRO:
        jinja_define(r, r->scope, node->name, jinja_macro_new(r, node));
        return JINJA_GO_ON;
    case JINJA_N_CALL_BLOCK:
        exec_call_block(r, node);
        return JINJA_GO_ON;
    case JINJA_N_WITH:
        return exec_with(r, node);
    case JINJA_N_SCOPE:
        return exec_scoped(r, &node->body, r->scope);
    case JINJA_N_BLOCK:
        return exec_scoped(r, &node->body, node->op ? r->scope : r->top);
    case JINJA_N_BREAK:
        return JINJA_DO_BREAK;
    case JINJA_N_CONTINUE:
        return JINJA_DO_CONTINUE;
    default:
        jinja_error(&r->arena, "'%.*s' needs other templates, and a chat template has none",
                    node->name ? (int)node->name->n : 0, node->name ? node->name->p : "");
    }
}

enum jinja_flow jinja_exec(struct jinja_render *r, const struct jinja_nodes *body)
{
    enum jinja_flow flow = JINJA_GO_ON;

    jinja_enter(&r->arena);
    for (uint32_t i = 0; flow == JINJA_GO_ON && i < body->n; i++) {
        const struct jinja_node *node = body->items[i];
        jinja_charge(&r->arena, 0);
        if (node->kind == JINJA_N_DATA)
            jinja_output(r, node->value.as.string->p, node->value.as.string->n);
        else
            flow = exec_statement(r, node);
    }
    jinja_leave(&r->arena);
    return flow;
}
