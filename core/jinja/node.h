/* The syntax tree of a template. Nodes lie in the template's arena and are immutable after parsing.
 *
 * One struct serves all kinds; the comment of a kind says which members it uses. */
#ifndef SHARPI_JINJA_NODE_H
#define SHARPI_JINJA_NODE_H

#include "core/jinja/value.h"

enum jinja_node_kind {
    /* expressions */
    JINJA_N_CONST,   /* value */
    JINJA_N_NAME,    /* name */
    JINJA_N_TUPLE,   /* items; also a target of assignment */
    JINJA_N_LIST,    /* items */
    JINJA_N_DICT,    /* items: key, value, key, value ... */
    JINJA_N_UNARY,   /* op ('-', '+', '!' for not), a */
    JINJA_N_BINARY,  /* a op b */
    JINJA_N_AND,     /* a, b */
    JINJA_N_OR,      /* a, b */
    JINJA_N_CONCAT,  /* items */
    JINJA_N_COMPARE, /* a, then items: OPERAND nodes */
    JINJA_N_OPERAND, /* op, a */
    JINJA_N_COND,    /* a if b else c; c may be NULL */
    JINJA_N_GETATTR, /* a, name */
    JINJA_N_GETITEM, /* a, b */
    JINJA_N_SLICE,   /* a, b, c: each may be NULL */
    JINJA_N_CALL,    /* a, call */
    JINJA_N_FILTER,  /* a (NULL: the text captured by a block), name, call */
    JINJA_N_TEST,    /* a, name, call */
    JINJA_N_MEMBER,  /* target of assignment: name.value */

    /* statements */
    JINJA_N_DATA,      /* value: text */
    JINJA_N_OUTPUT,    /* a */
    JINJA_N_FOR,       /* a target, b iterable, c test or NULL, body, other (else), op: recursive */
    JINJA_N_IF,        /* items: BRANCH nodes, other (else) */
    JINJA_N_BRANCH,    /* a test, body */
    JINJA_N_SET,       /* a target, b */
    JINJA_N_SET_BLOCK, /* a target, b filter or NULL, body */
    JINJA_N_MACRO, /* name, items: parameter NAMEs, other: defaults of the last ones, body, op: JINJA_USES_* */
    JINJA_N_CALL_BLOCK,   /* a the CALL; b a MACRO node that is the caller */
    JINJA_N_FILTER_BLOCK, /* b, body */
    JINJA_N_WITH,         /* items: target, value, target, value ...; body */
    JINJA_N_SCOPE,        /* body in a scope of its own */
    JINJA_N_BLOCK,        /* body in a scope below the outermost one */
    JINJA_N_BREAK,
    JINJA_N_CONTINUE,
    JINJA_N_REFUSED, /* name: a statement that needs other templates */
};

/* Special names that a macro's body mentions: only then does it take more arguments than it declares. */
enum { JINJA_USES_CALLER = 1, JINJA_USES_VARARGS = 2, JINJA_USES_KWARGS = 4 };

struct jinja_node;

struct jinja_nodes {
    struct jinja_node **items;
    uint32_t n, capacity;
};

struct jinja_keyword {
    const struct jinja_string *name;
    struct jinja_node *value;
};

struct jinja_call {
    struct jinja_nodes args;
    struct jinja_keyword *keywords;
    uint32_t n_keywords, keyword_capacity;
    struct jinja_node *more_args, *more_keywords; /* *x and **x */
};

struct jinja_node {
    int32_t kind, op;
    uint32_t line;
    uint32_t height; /* of the tree below, bounded so that evaluation cannot recurse without bound */
    struct jinja_value value;
    const struct jinja_string *name; /* interned: equal names of a template are equal pointers */
    struct jinja_node *a, *b, *c;
    struct jinja_nodes items, body, other;
    struct jinja_call *call;
};

#endif
