/* From tokens to the syntax tree. */
#ifndef SHARPI_JINJA_PARSER_H
#define SHARPI_JINJA_PARSER_H

#include "core/jinja/lexer.h"
#include "core/jinja/node.h"

/* Names that the interpreter itself looks up; interned first so that a pointer tells them. */
struct jinja_names {
    const struct jinja_string *loop, *caller, *varargs, *kwargs;
};

struct jinja_unknown {
    const struct jinja_node *node;
    bool is_test, soft;
};

struct jinja_macro_frame {
    struct jinja_macro_frame *outer;
    int32_t uses;
};

struct jinja_parser {
    struct jinja_arena *arena;
    struct jinja_tokens tokens;
    uint32_t at;
    const struct jinja_string **interned;
    uint32_t n_interned, n_slots;
    struct jinja_names names;
    struct jinja_macro_frame *macro; /* innermost macro whose body is being parsed */
    uint32_t loops;                  /* enclosing loops that break and continue may leave */
    bool soft;                       /* inside an if: an unknown filter fails only when reached */
    struct jinja_unknown *unknown;   /* filters and tests that do not exist */
    uint32_t n_unknown, unknown_capacity;
    struct jinja_nodes blocks; /* to refuse two of one name */
};

enum { JINJA_MAX_HEIGHT = 400 };

/* The whole template, as a SCOPE node. */
struct jinja_node *jinja_parse(struct jinja_parser *ps);

/* Shared by the two halves, expressions (parser.c) and statements (statements.c). */
struct jinja_node *jinja_node_new(struct jinja_parser *ps, int32_t kind);
/* Adds a child to a list of `parent`. */
void jinja_node_add(struct jinja_parser *ps, struct jinja_node *parent, struct jinja_nodes *list,
                    struct jinja_node *child);
/* Sets the height from a, b and c; call when they are in place. Returns node. */
struct jinja_node *jinja_node_done(struct jinja_parser *ps, struct jinja_node *node);
const struct jinja_string *jinja_intern(struct jinja_parser *ps, const char *p, size_t n);

static inline const struct jinja_token *jinja_current(const struct jinja_parser *ps)
{
    return &ps->tokens.items[ps->at];
}
const struct jinja_token *jinja_next(struct jinja_parser *ps); /* returns the one it passes */
bool jinja_at_op(const struct jinja_parser *ps, int32_t op);
bool jinja_at_name(const struct jinja_parser *ps, const char *name);
bool jinja_skip_op(struct jinja_parser *ps, int32_t op);
bool jinja_skip_name(struct jinja_parser *ps, const char *name);
void jinja_expect_op(struct jinja_parser *ps, int32_t op);
void jinja_expect(struct jinja_parser *ps, int32_t kind, const char *what);
const struct jinja_string *jinja_expect_name(struct jinja_parser *ps);
__attribute__((noreturn)) void jinja_unexpected(struct jinja_parser *ps, const char *expected);

struct jinja_node *jinja_parse_expression(struct jinja_parser *ps);
/* An expression or a tuple without parentheses. `conditional`: may hold `x if y`. `end` is a name that ends the
 * tuple besides the end of the tag, or NULL. */
struct jinja_node *jinja_parse_tuple(struct jinja_parser *ps, bool conditional, const char *end);
/* What may stand left of `=` (members: of a namespace too) or after `for`. */
struct jinja_node *jinja_parse_target(struct jinja_parser *ps, bool members, const char *end);
/* A chain of filters around `node`; at_name: the current token is the first filter's name. */
struct jinja_node *jinja_parse_filters(struct jinja_parser *ps, struct jinja_node *node, bool at_name);

#endif
