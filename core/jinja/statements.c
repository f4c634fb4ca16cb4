/* Statements: the tags of a template and the bodies between them. */
#include "core/jinja/parser.h"
#include "core/jinja/library.h"

#include <string.h>

/* What surrounds a body and comes back behind it. */
struct outside {
    uint32_t loops;
    bool soft;
};

static struct outside enter_frame(struct jinja_parser *ps)
{
    struct outside outside = {ps->loops, ps->soft};

    ps->soft = false;
    return outside;
}

static void leave_frame(struct jinja_parser *ps, struct outside outside)
{
    ps->loops = outside.loops;
    ps->soft = outside.soft;
}

static struct jinja_node *parse_statement(struct jinja_parser *ps);

/* Is the current token one of the names in `ends` (separated by blanks)? */
static bool at_end_tag(const struct jinja_parser *ps, const char *ends)
{
    const struct jinja_token *token = jinja_current(ps);
    size_t n;

    for (; token->kind == JINJA_T_NAME && ends && *ends; ends += n + (ends[n] == ' ')) {
        n = strcspn(ends, " ");
        if (token->n == n && memcmp(token->p, ends, n) == 0)
            return true;
    }
    return false;
}

static void add_data(struct jinja_parser *ps, struct jinja_node *owner, struct jinja_nodes *body)
{
    struct jinja_node *data = jinja_node_new(ps, JINJA_N_DATA);
    const struct jinja_token *token = jinja_next(ps);

    data->value = jinja_string_of(ps->arena, token->p, token->n);
    jinja_node_add(ps, owner, body, data);
}

static void add_output(struct jinja_parser *ps, struct jinja_node *owner, struct jinja_nodes *body)
{
    struct jinja_node *output = jinja_node_new(ps, JINJA_N_OUTPUT);

    jinja_next(ps);
    output->a = jinja_parse_tuple(ps, true, NULL);
    jinja_expect(ps, JINJA_T_VARIABLE_END, "'end of print statement'");
    jinja_node_add(ps, owner, body, jinja_node_done(ps, output));
}

/* Text and tags up to an end tag, at whose name the parser stops. */
static void parse_until(struct jinja_parser *ps, struct jinja_node *owner, struct jinja_nodes *body,
                        const char *ends)
{
    jinja_enter(ps->arena);
    while (jinja_current(ps)->kind != JINJA_T_EOF) {
        if (jinja_current(ps)->kind == JINJA_T_DATA) {
            add_data(ps, owner, body);
        } else if (jinja_current(ps)->kind == JINJA_T_VARIABLE_BEGIN) {
            add_output(ps, owner, body);
        } else {
            struct jinja_node *statement;
            jinja_next(ps);
            if (at_end_tag(ps, ends))
                break;
            statement = parse_statement(ps);
            jinja_node_add(ps, owner, body, statement);
            jinja_expect(ps, JINJA_T_BLOCK_END, "'end of statement block'");
        }
    }
    if (ends && jinja_current(ps)->kind == JINJA_T_EOF)
        jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX,
                   "Unexpected end of template. Jinja was looking for the following tags: %s; the innermost "
                   "block that needs to be closed started in line %u.",
                   ends, owner->line);
    jinja_leave(ps->arena);
}

/* The rest of an opening tag, then its body. */
static void parse_body(struct jinja_parser *ps, struct jinja_node *owner, struct jinja_nodes *body,
                       const char *ends)
{
    jinja_skip_op(ps, ':');
    jinja_expect(ps, JINJA_T_BLOCK_END, "'end of statement block'");
    parse_until(ps, owner, body, ends);
}

/* A body that nothing but its one end tag closes, in a scope of its own. */
static void parse_whole_body(struct jinja_parser *ps, struct jinja_node *owner, const char *end)
{
    struct outside outside = enter_frame(ps);

    parse_body(ps, owner, &owner->body, end);
    jinja_next(ps);
    leave_frame(ps, outside);
}

static struct jinja_node *parse_for(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_FOR);
    struct outside outside;

    jinja_next(ps);
    node->a = jinja_parse_target(ps, false, "in");
    if (!jinja_skip_name(ps, "in"))
        jinja_unexpected(ps, "'in'");
    node->b = jinja_parse_tuple(ps, false, "recursive");
    if (jinja_skip_name(ps, "if"))
        node->c = jinja_parse_expression(ps);
    node->op = jinja_skip_name(ps, "recursive");
    outside = enter_frame(ps);
    ps->loops++;
    parse_body(ps, node, &node->body, "endfor else");
    ps->loops--;
    if (jinja_skip_name(ps, "else"))
        parse_body(ps, node, &node->other, "endfor");
    jinja_next(ps);
    leave_frame(ps, outside);
    return jinja_node_done(ps, node);
}

static struct jinja_node *parse_if(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_IF), *branch;
    bool soft = ps->soft;

    ps->soft = true;
    do {
        branch = jinja_node_new(ps, JINJA_N_BRANCH);
        jinja_next(ps);
        branch->a = jinja_parse_tuple(ps, false, NULL);
        jinja_node_done(ps, branch);
        parse_body(ps, branch, &branch->body, "elif else endif");
        jinja_node_add(ps, node, &node->items, branch);
    } while (jinja_at_name(ps, "elif"));
    if (jinja_skip_name(ps, "else"))
        parse_body(ps, node, &node->other, "endif");
    jinja_next(ps);
    ps->soft = soft;
    return node;
}

static struct jinja_node *parse_set(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_SET);

    jinja_next(ps);
    node->a = jinja_parse_target(ps, true, NULL);
    if (jinja_skip_op(ps, '=')) {
        node->b = jinja_parse_tuple(ps, true, NULL);
        return jinja_node_done(ps, node);
    }
    node->kind = JINJA_N_SET_BLOCK;
    node->b = jinja_parse_filters(ps, NULL, false);
    parse_whole_body(ps, node, "endset");
    return jinja_node_done(ps, node);
}

/* Parameters of a macro or of a call block's caller. */
static void parse_signature(struct jinja_parser *ps, struct jinja_node *macro)
{
    jinja_expect_op(ps, '(');
    while (!jinja_at_op(ps, ')')) {
        struct jinja_node *parameter;
        if (macro->items.n)
            jinja_expect_op(ps, ',');
        parameter = jinja_node_new(ps, JINJA_N_NAME);
        parameter->name = jinja_expect_name(ps);
        if (jinja_skip_op(ps, '='))
            jinja_node_add(ps, macro, &macro->other, jinja_parse_expression(ps));
        else if (macro->other.n)
            jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "non-default argument follows default argument");
        jinja_node_add(ps, macro, &macro->items, parameter);
    }
    jinja_next(ps);
}

/* A declared parameter of a special name is an ordinary one; "caller" still must be given a default. */
static int32_t special_uses(struct jinja_parser *ps, const struct jinja_node *macro, int32_t uses)
{
    for (uint32_t i = 0; i < macro->items.n; i++) {
        const struct jinja_string *name = macro->items.items[i]->name;
        if (name == ps->names.varargs)
            uses &= ~JINJA_USES_VARARGS;
        if (name == ps->names.kwargs)
            uses &= ~JINJA_USES_KWARGS;
        if (name == ps->names.caller && uses & JINJA_USES_CALLER && i + macro->other.n < macro->items.n)
            jinja_fail(
                ps->arena, SHARPI_TEMPLATE_SYNTAX,
                "When defining macros or call blocks the special \"caller\" argument must be omitted or "
                "be given a default.");
    }
    return uses;
}

static void parse_macro_body(struct jinja_parser *ps, struct jinja_node *macro, const char *end)
{
    struct jinja_macro_frame frame = {ps->macro, 0};
    struct outside outside = enter_frame(ps);

    ps->loops = 0;
    ps->macro = &frame;
    parse_body(ps, macro, &macro->body, end);
    jinja_next(ps);
    ps->macro = frame.outer;
    macro->op = special_uses(ps, macro, frame.uses);
    leave_frame(ps, outside);
}

static struct jinja_node *parse_macro(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_MACRO);

    jinja_next(ps);
    node->name = jinja_expect_name(ps);
    parse_signature(ps, node);
    parse_macro_body(ps, node, "endmacro");
    return node;
}

static struct jinja_node *parse_call_block(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_CALL_BLOCK);
    struct jinja_node *macro = jinja_node_new(ps, JINJA_N_MACRO);

    jinja_next(ps);
    if (jinja_at_op(ps, '('))
        parse_signature(ps, macro);
    node->a = jinja_parse_expression(ps);
    if (node->a->kind != JINJA_N_CALL)
        jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "expected call");
    parse_macro_body(ps, macro, "endcall");
    node->b = macro;
    return jinja_node_done(ps, node);
}

static struct jinja_node *parse_filter_block(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_FILTER_BLOCK);

    jinja_next(ps);
    node->b = jinja_parse_filters(ps, NULL, true);
    parse_whole_body(ps, node, "endfilter");
    return jinja_node_done(ps, node);
}

static struct jinja_node *parse_with(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_WITH);

    jinja_next(ps);
    while (jinja_current(ps)->kind != JINJA_T_BLOCK_END && !jinja_at_op(ps, ':')) {
        if (node->items.n)
            jinja_expect_op(ps, ',');
        jinja_node_add(ps, node, &node->items, jinja_parse_target(ps, false, NULL));
        jinja_expect_op(ps, '=');
        jinja_node_add(ps, node, &node->items, jinja_parse_expression(ps));
    }
    parse_whole_body(ps, node, "endwith");
    return node;
}

static struct jinja_node *parse_block(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_BLOCK);
    uint32_t loops = ps->loops;

    jinja_next(ps);
    node->name = jinja_expect_name(ps);
    for (uint32_t i = 0; i < ps->blocks.n; i++)
        if (ps->blocks.items[i]->name == node->name)
            jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "block '%.*s' defined twice",
                       (int)(node->name->n < 100 ? node->name->n : 100), node->name->p);
    jinja_node_add(ps, node, &ps->blocks, node);
    node->height = 1;
    node->op = jinja_skip_name(ps, "scoped");
    jinja_skip_name(ps, "required");
    ps->loops = 0;
    parse_whole_body(ps, node, "endblock");
    ps->loops = loops;
    if (jinja_current(ps)->kind == JINJA_T_NAME &&
        jinja_same_text(node->name, jinja_current(ps)->p, jinja_current(ps)->n))
        jinja_next(ps);
    return node;
}

/* {% generation %}: marks what the model said, for training; here its body is simply text. */
static struct jinja_node *parse_generation(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_SCOPE);
    uint32_t loops = ps->loops;

    jinja_next(ps);
    ps->loops = 0;
    parse_whole_body(ps, node, "endgeneration");
    ps->loops = loops;
    return node;
}

static struct jinja_node *parse_print(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_SCOPE);

    jinja_next(ps);
    while (jinja_current(ps)->kind != JINJA_T_BLOCK_END) {
        struct jinja_node *output = jinja_node_new(ps, JINJA_N_OUTPUT);
        if (node->body.n)
            jinja_expect_op(ps, ',');
        output->a = jinja_parse_expression(ps);
        jinja_node_add(ps, node, &node->body, jinja_node_done(ps, output));
    }
    return node;
}

static struct jinja_node *parse_jump(struct jinja_parser *ps)
{
    struct jinja_node *node =
        jinja_node_new(ps, jinja_at_name(ps, "break") ? JINJA_N_BREAK : JINJA_N_CONTINUE);

    if (ps->loops == 0)
        jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "'%s' outside loop",
                   node->kind == JINJA_N_BREAK ? "break" : "continue");
    jinja_next(ps);
    return node;
}

/* include, import, from, extends: there are no other templates, so reaching one is an error. */
static struct jinja_node *parse_refused(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_REFUSED);

    node->name = jinja_expect_name(ps);
    jinja_parse_expression(ps);
    while (jinja_current(ps)->kind == JINJA_T_NAME || jinja_at_op(ps, ','))
        jinja_next(ps);
    return node;
}

static struct jinja_node *parse_autoescape(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_SCOPE), *value;

    jinja_next(ps);
    value = jinja_parse_expression(ps);
    if (value->kind != JINJA_N_CONST || value->value.kind != JINJA_BOOL || value->value.as.boolean)
        jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "autoescape can only be false in chat templates");
    parse_whole_body(ps, node, "endautoescape");
    return node;
}

static struct jinja_node *parse_statement(struct jinja_parser *ps)
{
    static const struct {
        const char *name;
        struct jinja_node *(*parse)(struct jinja_parser *ps);
    } tags[] = {{"if", parse_if},
                {"for", parse_for},
                {"set", parse_set},
                {"macro", parse_macro},
                {"call", parse_call_block},
                {"filter", parse_filter_block},
                {"with", parse_with},
                {"generation", parse_generation},
                {"break", parse_jump},
                {"continue", parse_jump},
                {"block", parse_block},
                {"print", parse_print},
                {"autoescape", parse_autoescape},
                {"include", parse_refused},
                {"import", parse_refused},
                {"from", parse_refused},
                {"extends", parse_refused}};
    const struct jinja_token *token = jinja_current(ps);

    if (token->kind != JINJA_T_NAME)
        jinja_unexpected(ps, "a tag name");
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++)
        if (jinja_at_name(ps, tags[i].name)) {
            struct jinja_node *node;
            jinja_enter(ps->arena);
            node = tags[i].parse(ps);
            jinja_leave(ps->arena);
            return node;
        }
    jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "Encountered unknown tag '%.*s'.",
               (int)(token->n < 100 ? token->n : 100), token->p);
}

struct jinja_node *jinja_parse(struct jinja_parser *ps)
{
    struct jinja_node *root = jinja_node_new(ps, JINJA_N_SCOPE);

    ps->names.loop = jinja_intern(ps, JINJA_LITERAL("loop"));
    ps->names.caller = jinja_intern(ps, JINJA_LITERAL("caller"));
    ps->names.varargs = jinja_intern(ps, JINJA_LITERAL("varargs"));
    ps->names.kwargs = jinja_intern(ps, JINJA_LITERAL("kwargs"));
    parse_until(ps, root, &root->body, NULL);
    for (uint32_t i = 0; i < ps->n_unknown; i++) {
        const struct jinja_unknown *unknown = &ps->unknown[i];
        if (unknown->soft)
            continue;
        ps->arena->line = unknown->node->line;
        ps->arena->column = 0;
        jinja_fail(
            ps->arena, SHARPI_TEMPLATE_SYNTAX, "No %s named '%.*s'.", unknown->is_test ? "test" : "filter",
            (int)(unknown->node->name->n < 100 ? unknown->node->name->n : 100), unknown->node->name->p);
    }
    return root;
}
