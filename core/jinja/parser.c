/* Expressions. The grammar and its precedences are jinja2's: or, and, not, comparison, + -, ~, * / // %, ** (left
 * associative, unlike Python's), unary, postfix, then filters and tests, which bind to the unary expression. */
#include "core/jinja/parser.h"
#include "core/jinja/library.h"

#include <string.h>

struct jinja_node *jinja_node_new(struct jinja_parser *ps, int32_t kind)
{
    struct jinja_node *node = jinja_calloc(ps->arena, 1, sizeof *node);

    node->kind = kind;
    node->line = jinja_current(ps)->line;
    node->height = 1;
    return node;
}

static void raise_height(struct jinja_parser *ps, struct jinja_node *node, const struct jinja_node *child)
{
    if (child && child->height >= node->height)
        node->height = child->height + 1;
    if (node->height > JINJA_MAX_HEIGHT)
        jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "nested deeper than %d levels", JINJA_MAX_HEIGHT);
}

void jinja_node_add(struct jinja_parser *ps, struct jinja_node *parent, struct jinja_nodes *list,
                    struct jinja_node *child)
{
    if (list->n == list->capacity)
        list->items = jinja_grow(ps->arena, list->items, &list->capacity, sizeof(struct jinja_node *));
    list->items[list->n++] = child;
    raise_height(ps, parent, child);
}

struct jinja_node *jinja_node_done(struct jinja_parser *ps, struct jinja_node *node)
{
    raise_height(ps, node, node->a);
    raise_height(ps, node, node->b);
    raise_height(ps, node, node->c);
    return node;
}

static uint64_t text_hash(const char *p, size_t n)
{
    uint64_t hash = UINT64_C(14695981039346656037);

    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)p[i]) * UINT64_C(1099511628211);
    return hash;
}

static void intern_grow(struct jinja_parser *ps)
{
    const struct jinja_string **old = ps->interned;
    uint32_t n_old = ps->n_slots;

    ps->n_slots = n_old ? n_old * 2 : 64;
    ps->interned = jinja_calloc(ps->arena, ps->n_slots, sizeof *ps->interned);
    for (uint32_t i = 0; i < n_old; i++) {
        uint64_t slot;
        if (!old[i])
            continue;
        for (slot = text_hash(old[i]->p, old[i]->n); ps->interned[slot & (ps->n_slots - 1)]; slot++)
            ;
        ps->interned[slot & (ps->n_slots - 1)] = old[i];
    }
}

const struct jinja_string *jinja_intern(struct jinja_parser *ps, const char *p, size_t n)
{
    uint64_t slot;

    if (ps->n_interned * 2 >= ps->n_slots)
        intern_grow(ps);
    for (slot = text_hash(p, n);; slot++) {
        const struct jinja_string **found = &ps->interned[slot & (ps->n_slots - 1)];
        if (!*found) {
            *found = jinja_string_of(ps->arena, p, n).as.string;
            ps->n_interned++;
            return *found;
        }
        jinja_charge(ps->arena, 0);
        if (jinja_same_text(*found, p, n))
            return *found;
    }
}

static void note_line(struct jinja_parser *ps)
{
    ps->arena->line = jinja_current(ps)->line;
    ps->arena->column = jinja_current(ps)->column;
}

const struct jinja_token *jinja_next(struct jinja_parser *ps)
{
    const struct jinja_token *token = jinja_current(ps);

    if (token->kind != JINJA_T_EOF)
        ps->at++;
    note_line(ps);
    return token;
}

bool jinja_at_op(const struct jinja_parser *ps, int32_t op)
{
    const struct jinja_token *token = jinja_current(ps);

    return token->kind == JINJA_T_OPERATOR && token->op == op;
}

static bool is_name(const struct jinja_token *token, const char *name)
{
    return token->kind == JINJA_T_NAME && token->n == strlen(name) && memcmp(token->p, name, token->n) == 0;
}

bool jinja_at_name(const struct jinja_parser *ps, const char *name)
{
    return is_name(jinja_current(ps), name);
}

bool jinja_skip_op(struct jinja_parser *ps, int32_t op)
{
    bool there = jinja_at_op(ps, op);

    if (there)
        jinja_next(ps);
    return there;
}

bool jinja_skip_name(struct jinja_parser *ps, const char *name)
{
    bool there = jinja_at_name(ps, name);

    if (there)
        jinja_next(ps);
    return there;
}

static const char *describe_op(int32_t op, char room[2])
{
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};

    if (op >= JINJA_OP_FLOORDIV && op <= JINJA_OP_LE)
        return two[op - JINJA_OP_FLOORDIV];
    room[0] = (char)op;
    room[1] = 0;
    return room;
}

void jinja_unexpected(struct jinja_parser *ps, const char *expected)
{
    static const char *const kinds[] = {"end of template",
                                        "template data / text",
                                        "begin of print statement",
                                        "end of print statement",
                                        "begin of statement block",
                                        "end of statement block",
                                        NULL,
                                        "string",
                                        "integer",
                                        "float"};
    const struct jinja_token *token = jinja_current(ps);
    char room[2];

    note_line(ps);
    if (token->kind == JINJA_T_NAME)
        jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "expected %s, got '%.*s'", expected,
                   (int)(token->n < 60 ? token->n : 60), token->p);
    jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "expected %s, got '%s'", expected,
               token->kind == JINJA_T_OPERATOR ? describe_op(token->op, room) : kinds[token->kind]);
}

void jinja_expect_op(struct jinja_parser *ps, int32_t op)
{
    char room[2], text[16];

    if (jinja_skip_op(ps, op))
        return;
    text[0] = '\'';
    strcpy(text + 1, describe_op(op, room));
    strcat(text, "'");
    jinja_unexpected(ps, text);
}

void jinja_expect(struct jinja_parser *ps, int32_t kind, const char *what)
{
    if (jinja_current(ps)->kind != kind)
        jinja_unexpected(ps, what);
    jinja_next(ps);
}

const struct jinja_string *jinja_expect_name(struct jinja_parser *ps)
{
    const struct jinja_token *token = jinja_current(ps);

    jinja_expect(ps, JINJA_T_NAME, "a name");
    return jinja_intern(ps, token->p, token->n);
}

/* The name of a filter or a test may have dots. */
static const struct jinja_string *dotted_name(struct jinja_parser *ps)
{
    const struct jinja_string *name = jinja_expect_name(ps);

    while (jinja_skip_op(ps, '.')) {
        const struct jinja_string *part = jinja_expect_name(ps);
        char *text = jinja_alloc(ps->arena, name->n + 1 + part->n);
        memcpy(text, name->p, name->n);
        text[name->n] = '.';
        memcpy(text + name->n + 1, part->p, part->n);
        name = jinja_intern(ps, text, name->n + 1 + part->n);
    }
    return name;
}

static void note_unknown(struct jinja_parser *ps, const struct jinja_node *node, bool is_test)
{
    if (is_test ? jinja_find_test(node->name) != NULL : jinja_find_filter(node->name) != NULL)
        return;
    if (ps->n_unknown == ps->unknown_capacity)
        ps->unknown = jinja_grow(ps->arena, ps->unknown, &ps->unknown_capacity, sizeof *ps->unknown);
    ps->unknown[ps->n_unknown++] = (struct jinja_unknown){node, is_test, ps->soft};
}

static void add_keyword(struct jinja_parser *ps, struct jinja_node *owner, struct jinja_keyword keyword)
{
    struct jinja_call *call = owner->call;

    for (uint32_t i = 0; i < call->n_keywords; i++) {
        jinja_charge(ps->arena, 0);
        if (call->keywords[i].name == keyword.name)
            jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "keyword argument repeated: %.*s",
                       (int)(keyword.name->n < 100 ? keyword.name->n : 100), keyword.name->p);
    }
    if (call->n_keywords == call->keyword_capacity)
        call->keywords = jinja_grow(ps->arena, call->keywords, &call->keyword_capacity, sizeof keyword);
    call->keywords[call->n_keywords++] = keyword;
    raise_height(ps, owner, keyword.value);
}

static void parse_argument(struct jinja_parser *ps, struct jinja_node *owner)
{
    struct jinja_call *call = owner->call;
    const struct jinja_token *ahead =
        jinja_current(ps)->kind == JINJA_T_EOF ? jinja_current(ps) : jinja_current(ps) + 1;
    bool bad;

    if (jinja_skip_op(ps, '*')) {
        bad = call->more_args || call->more_keywords;
        call->more_args = jinja_parse_expression(ps);
        raise_height(ps, owner, call->more_args);
    } else if (jinja_skip_op(ps, JINJA_OP_POW)) {
        bad = call->more_keywords != NULL;
        call->more_keywords = jinja_parse_expression(ps);
        raise_height(ps, owner, call->more_keywords);
    } else if (jinja_current(ps)->kind == JINJA_T_NAME && ahead->kind == JINJA_T_OPERATOR &&
               ahead->op == '=') {
        struct jinja_keyword keyword;
        bad = call->more_keywords != NULL;
        keyword.name = jinja_expect_name(ps);
        jinja_next(ps);
        keyword.value = jinja_parse_expression(ps);
        add_keyword(ps, owner, keyword);
    } else {
        bad = call->more_args || call->more_keywords || call->n_keywords;
        jinja_node_add(ps, owner, &call->args, jinja_parse_expression(ps));
    }
    if (bad)
        jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "invalid syntax for function call expression");
}

static void parse_call_args(struct jinja_parser *ps, struct jinja_node *owner)
{
    bool comma = false;

    owner->call = jinja_calloc(ps->arena, 1, sizeof *owner->call);
    jinja_expect_op(ps, '(');
    while (!jinja_at_op(ps, ')')) {
        if (comma) {
            jinja_expect_op(ps, ',');
            if (jinja_at_op(ps, ')'))
                break;
        }
        parse_argument(ps, owner);
        comma = true;
    }
    jinja_next(ps);
}

static struct jinja_node *parse_subscribed(struct jinja_parser *ps)
{
    struct jinja_node *slice, *first = NULL;

    if (!jinja_at_op(ps, ':')) {
        first = jinja_parse_expression(ps);
        if (!jinja_at_op(ps, ':'))
            return first;
    }
    jinja_next(ps);
    slice = jinja_node_new(ps, JINJA_N_SLICE);
    slice->a = first;
    if (!jinja_at_op(ps, ':') && !jinja_at_op(ps, ']') && !jinja_at_op(ps, ','))
        slice->b = jinja_parse_expression(ps);
    if (jinja_skip_op(ps, ':') && !jinja_at_op(ps, ']') && !jinja_at_op(ps, ','))
        slice->c = jinja_parse_expression(ps);
    return jinja_node_done(ps, slice);
}

static struct jinja_node *parse_subscript(struct jinja_parser *ps, struct jinja_node *object)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_GETITEM), *tuple;

    node->a = object;
    if (jinja_skip_op(ps, '.')) {
        const struct jinja_token *token = jinja_current(ps);
        if (token->kind == JINJA_T_NAME) {
            node->kind = JINJA_N_GETATTR;
            node->name = jinja_expect_name(ps);
            return jinja_node_done(ps, node);
        }
        jinja_expect(ps, JINJA_T_INTEGER, "name or number");
        node->b = jinja_node_new(ps, JINJA_N_CONST);
        node->b->value = jinja_int(token->integer);
        return jinja_node_done(ps, node);
    }
    jinja_next(ps);
    tuple = jinja_node_new(ps, JINJA_N_TUPLE);
    while (!jinja_at_op(ps, ']')) {
        if (tuple->items.n)
            jinja_expect_op(ps, ',');
        jinja_node_add(ps, tuple, &tuple->items, parse_subscribed(ps));
    }
    jinja_next(ps);
    node->b = tuple->items.n == 1 ? tuple->items.items[0] : tuple;
    return jinja_node_done(ps, node);
}

static struct jinja_node *parse_call(struct jinja_parser *ps, struct jinja_node *callee)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_CALL);

    node->a = callee;
    parse_call_args(ps, node);
    return jinja_node_done(ps, node);
}

static struct jinja_node *parse_postfix(struct jinja_parser *ps, struct jinja_node *node)
{
    for (;;) {
        if (jinja_at_op(ps, '.') || jinja_at_op(ps, '['))
            node = parse_subscript(ps, node);
        else if (jinja_at_op(ps, '('))
            node = parse_call(ps, node);
        else
            return node;
    }
}

static struct jinja_node *parse_list(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_LIST);

    jinja_next(ps);
    while (!jinja_at_op(ps, ']')) {
        if (node->items.n)
            jinja_expect_op(ps, ',');
        if (jinja_at_op(ps, ']'))
            break;
        jinja_node_add(ps, node, &node->items, jinja_parse_expression(ps));
    }
    jinja_next(ps);
    return node;
}

static struct jinja_node *parse_dict(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_DICT);

    jinja_next(ps);
    while (!jinja_at_op(ps, '}')) {
        if (node->items.n)
            jinja_expect_op(ps, ',');
        if (jinja_at_op(ps, '}'))
            break;
        jinja_node_add(ps, node, &node->items, jinja_parse_expression(ps));
        jinja_expect_op(ps, ':');
        jinja_node_add(ps, node, &node->items, jinja_parse_expression(ps));
    }
    jinja_next(ps);
    return node;
}

/* Adjacent string literals are one. */
static struct jinja_node *parse_strings(struct jinja_parser *ps)
{
    struct jinja_node *node = jinja_node_new(ps, JINJA_N_CONST);
    const struct jinja_token *token = jinja_next(ps);

    node->value = jinja_string_of(ps->arena, token->p, token->n);
    while (jinja_current(ps)->kind == JINJA_T_STRING) {
        token = jinja_next(ps);
        node->value = jinja_string_join(ps->arena, node->value.as.string,
                                        jinja_string_of(ps->arena, token->p, token->n).as.string);
    }
    /* A constant is shared by renderings, so none may grow it in place. */
    node->value = jinja_string_of(ps->arena, node->value.as.string->p, node->value.as.string->n);
    return node;
}

static void note_use(struct jinja_parser *ps, const struct jinja_string *name)
{
    int32_t use = name == ps->names.caller    ? JINJA_USES_CALLER
                  : name == ps->names.varargs ? JINJA_USES_VARARGS
                  : name == ps->names.kwargs  ? JINJA_USES_KWARGS
                                              : 0;

    for (struct jinja_macro_frame *macro = ps->macro; use && macro; macro = macro->outer)
        macro->uses |= use;
}

static bool constant_name(const struct jinja_token *token, struct jinja_value *value)
{
    if (is_name(token, "true") || is_name(token, "True"))
        *value = jinja_bool(true);
    else if (is_name(token, "false") || is_name(token, "False"))
        *value = jinja_bool(false);
    else if (is_name(token, "none") || is_name(token, "None"))
        *value = jinja_none();
    else
        return false;
    return true;
}

/* members: `name.attribute` is a target of assignment. */
static struct jinja_node *parse_primary(struct jinja_parser *ps, bool members)
{
    const struct jinja_token *token = jinja_current(ps);
    struct jinja_node *node;

    if (token->kind == JINJA_T_STRING)
        return parse_strings(ps);
    if (jinja_at_op(ps, '['))
        return parse_list(ps);
    if (jinja_at_op(ps, '{'))
        return parse_dict(ps);
    if (jinja_skip_op(ps, '(')) {
        node = jinja_parse_tuple(ps, true, "("); /* "(": marks explicit parentheses */
        jinja_expect_op(ps, ')');
        return node;
    }
    node = jinja_node_new(ps, JINJA_N_CONST);
    if (token->kind == JINJA_T_INTEGER)
        node->value = jinja_int(token->integer);
    else if (token->kind == JINJA_T_FLOAT)
        node->value = jinja_float(token->real);
    else if (token->kind != JINJA_T_NAME)
        jinja_unexpected(ps, "an expression");
    else if (!constant_name(token, &node->value)) {
        node->kind = JINJA_N_NAME;
        node->name = jinja_intern(ps, token->p, token->n);
        note_use(ps, node->name);
    }
    jinja_next(ps);
    if (members && token->kind == JINJA_T_NAME && node->kind == JINJA_N_NAME && jinja_skip_op(ps, '.')) {
        node->kind = JINJA_N_MEMBER;
        node->value = (struct jinja_value){.kind = JINJA_STRING, .as.string = jinja_expect_name(ps)};
    }
    return node;
}

struct jinja_node *jinja_parse_filters(struct jinja_parser *ps, struct jinja_node *node, bool at_name)
{
    while (at_name || jinja_skip_op(ps, '|')) {
        struct jinja_node *filter = jinja_node_new(ps, JINJA_N_FILTER);
        filter->a = node;
        filter->name = dotted_name(ps);
        if (jinja_at_op(ps, '('))
            parse_call_args(ps, filter);
        note_unknown(ps, filter, false);
        node = jinja_node_done(ps, filter);
        at_name = false;
    }
    return node;
}

/* After `is name`: one argument may follow without parentheses. */
static bool at_bare_argument(const struct jinja_parser *ps)
{
    const struct jinja_token *token = jinja_current(ps);

    if (token->kind == JINJA_T_NAME)
        return !is_name(token, "else") && !is_name(token, "or") && !is_name(token, "and");
    return token->kind == JINJA_T_STRING || token->kind == JINJA_T_INTEGER || token->kind == JINJA_T_FLOAT ||
           jinja_at_op(ps, '[') || jinja_at_op(ps, '{');
}

static struct jinja_node *parse_test(struct jinja_parser *ps, struct jinja_node *node)
{
    struct jinja_node *test, *negation;
    bool negated;

    jinja_next(ps);
    negated = jinja_skip_name(ps, "not");
    test = jinja_node_new(ps, JINJA_N_TEST);
    test->a = node;
    test->name = dotted_name(ps);
    if (jinja_at_op(ps, '(')) {
        parse_call_args(ps, test);
    } else if (at_bare_argument(ps)) {
        if (jinja_at_name(ps, "is"))
            jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "You cannot chain multiple tests with is");
        test->call = jinja_calloc(ps->arena, 1, sizeof *test->call);
        jinja_node_add(ps, test, &test->call->args, parse_postfix(ps, parse_primary(ps, false)));
    }
    note_unknown(ps, test, true);
    jinja_node_done(ps, test);
    if (!negated)
        return test;
    negation = jinja_node_new(ps, JINJA_N_UNARY);
    negation->op = '!';
    negation->a = test;
    return jinja_node_done(ps, negation);
}

static struct jinja_node *parse_unary(struct jinja_parser *ps, bool with_filters)
{
    struct jinja_node *node;

    jinja_enter(ps->arena);
    if (jinja_at_op(ps, '-') || jinja_at_op(ps, '+')) {
        node = jinja_node_new(ps, JINJA_N_UNARY);
        node->op = jinja_next(ps)->op;
        node->a = parse_unary(ps, false);
        jinja_node_done(ps, node);
    } else {
        node = parse_primary(ps, false);
    }
    node = parse_postfix(ps, node);
    while (with_filters) {
        if (jinja_at_op(ps, '|'))
            node = jinja_parse_filters(ps, node, false);
        else if (jinja_at_name(ps, "is"))
            node = parse_test(ps, node);
        else if (jinja_at_op(ps, '('))
            node = parse_call(ps, node);
        else
            break;
    }
    jinja_leave(ps->arena);
    return node;
}

static struct jinja_node *binary(struct jinja_parser *ps, int32_t kind, int32_t op, struct jinja_node *left,
                                 struct jinja_node *right)
{
    struct jinja_node *node = jinja_node_new(ps, kind);

    node->op = op;
    node->a = left;
    node->b = right;
    return jinja_node_done(ps, node);
}

static struct jinja_node *parse_pow(struct jinja_parser *ps)
{
    struct jinja_node *left = parse_unary(ps, true);

    while (jinja_skip_op(ps, JINJA_OP_POW))
        left = binary(ps, JINJA_N_BINARY, JINJA_OP_POW, left, parse_unary(ps, true));
    return left;
}

static struct jinja_node *parse_product(struct jinja_parser *ps)
{
    struct jinja_node *left = parse_pow(ps);

    while (jinja_at_op(ps, '*') || jinja_at_op(ps, '/') || jinja_at_op(ps, JINJA_OP_FLOORDIV) ||
           jinja_at_op(ps, '%')) {
        int32_t op = jinja_next(ps)->op;
        left = binary(ps, JINJA_N_BINARY, op, left, parse_pow(ps));
    }
    return left;
}

static struct jinja_node *parse_concat(struct jinja_parser *ps)
{
    struct jinja_node *first = parse_product(ps), *node;

    if (!jinja_at_op(ps, '~'))
        return first;
    node = jinja_node_new(ps, JINJA_N_CONCAT);
    jinja_node_add(ps, node, &node->items, first);
    while (jinja_skip_op(ps, '~'))
        jinja_node_add(ps, node, &node->items, parse_product(ps));
    return node;
}

static struct jinja_node *parse_sum(struct jinja_parser *ps)
{
    struct jinja_node *left = parse_concat(ps);

    while (jinja_at_op(ps, '+') || jinja_at_op(ps, '-')) {
        int32_t op = jinja_next(ps)->op;
        left = binary(ps, JINJA_N_BINARY, op, left, parse_concat(ps));
    }
    return left;
}

/* The comparison operator at hand, past which the parser moves, or 0. */
static int32_t comparison(struct jinja_parser *ps)
{
    static const int32_t ops[] = {JINJA_OP_EQ, JINJA_OP_NE, '<', JINJA_OP_LE, '>', JINJA_OP_GE};

    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (jinja_skip_op(ps, ops[i]))
            return ops[i];
    if (jinja_skip_name(ps, "in"))
        return JINJA_OP_IN;
    if (!jinja_at_name(ps, "not") || !is_name(jinja_current(ps) + 1, "in"))
        return 0;
    jinja_next(ps);
    jinja_next(ps);
    return JINJA_OP_NOT_IN;
}

static struct jinja_node *parse_compare(struct jinja_parser *ps)
{
    struct jinja_node *first = parse_sum(ps), *node = NULL;
    int32_t op;

    while ((op = comparison(ps)) != 0) {
        struct jinja_node *operand = jinja_node_new(ps, JINJA_N_OPERAND);
        operand->op = op;
        operand->a = parse_sum(ps);
        jinja_node_done(ps, operand);
        if (!node) {
            node = jinja_node_new(ps, JINJA_N_COMPARE);
            node->a = first;
            jinja_node_done(ps, node);
        }
        jinja_node_add(ps, node, &node->items, operand);
    }
    return node ? node : first;
}

static struct jinja_node *parse_not(struct jinja_parser *ps)
{
    struct jinja_node *node;

    if (!jinja_at_name(ps, "not"))
        return parse_compare(ps);
    jinja_enter(ps->arena);
    node = jinja_node_new(ps, JINJA_N_UNARY);
    jinja_next(ps);
    node->op = '!';
    node->a = parse_not(ps);
    jinja_leave(ps->arena);
    return jinja_node_done(ps, node);
}

static struct jinja_node *parse_and(struct jinja_parser *ps)
{
    struct jinja_node *left = parse_not(ps);

    while (jinja_skip_name(ps, "and"))
        left = binary(ps, JINJA_N_AND, 0, left, parse_not(ps));
    return left;
}

static struct jinja_node *parse_or(struct jinja_parser *ps)
{
    struct jinja_node *left = parse_and(ps);

    while (jinja_skip_name(ps, "or"))
        left = binary(ps, JINJA_N_OR, 0, left, parse_and(ps));
    return left;
}

struct jinja_node *jinja_parse_expression(struct jinja_parser *ps)
{
    uint32_t first_unknown = ps->n_unknown;
    struct jinja_node *node;

    jinja_enter(ps->arena);
    node = parse_or(ps);
    while (jinja_skip_name(ps, "if")) {
        struct jinja_node *cond = jinja_node_new(ps, JINJA_N_COND);
        cond->a = node;
        cond->b = parse_or(ps);
        if (jinja_skip_name(ps, "else"))
            cond->c = jinja_parse_expression(ps);
        node = jinja_node_done(ps, cond);
        for (uint32_t i = first_unknown; i < ps->n_unknown; i++)
            ps->unknown[i].soft = true;
    }
    jinja_leave(ps->arena);
    return node;
}

static bool tuple_end(const struct jinja_parser *ps, const char *end)
{
    const struct jinja_token *token = jinja_current(ps);

    return token->kind == JINJA_T_VARIABLE_END || token->kind == JINJA_T_BLOCK_END || jinja_at_op(ps, ')') ||
           (end && is_name(token, end));
}

/* what: 'e' expression, 'o' expression without a condition, 't' target, 'm' target with members */
static struct jinja_node *parse_items(struct jinja_parser *ps, char what, const char *end)
{
    struct jinja_node *tuple = jinja_node_new(ps, JINJA_N_TUPLE);
    bool is_tuple = false;

    while (!tuple_end(ps, end)) {
        jinja_node_add(ps, tuple, &tuple->items,
                       what == 'e'   ? jinja_parse_expression(ps)
                       : what == 'o' ? parse_or(ps)
                                     : parse_primary(ps, what == 'm'));
        if (!jinja_at_op(ps, ','))
            break;
        jinja_next(ps);
        is_tuple = true;
    }
    if (!is_tuple && tuple->items.n)
        return tuple->items.items[0];
    if (!is_tuple && !(end && end[0] == '('))
        jinja_unexpected(ps, "an expression");
    return tuple;
}

struct jinja_node *jinja_parse_tuple(struct jinja_parser *ps, bool conditional, const char *end)
{
    return parse_items(ps, conditional ? 'e' : 'o', end);
}

static void check_target(struct jinja_parser *ps, const struct jinja_node *node)
{
    if (node->kind == JINJA_N_TUPLE) {
        for (uint32_t i = 0; i < node->items.n; i++)
            check_target(ps, node->items.items[i]);
    } else if (node->kind != JINJA_N_NAME && node->kind != JINJA_N_MEMBER) {
        jinja_fail(ps->arena, SHARPI_TEMPLATE_SYNTAX, "can't assign to this expression");
    }
}

struct jinja_node *jinja_parse_target(struct jinja_parser *ps, bool members, const char *end)
{
    struct jinja_node *node = parse_items(ps, members ? 'm' : 't', end);

    check_target(ps, node);
    return node;
}
