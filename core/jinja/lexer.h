/* From template text to tokens, with jinja2's whitespace rules (trim_blocks and lstrip_blocks on). */
#ifndef SHARPI_JINJA_LEXER_H
#define SHARPI_JINJA_LEXER_H

#include "core/jinja/value.h"

enum jinja_token_kind {
    JINJA_T_EOF,
    JINJA_T_DATA, /* text outside of tags */
    JINJA_T_VARIABLE_BEGIN,
    JINJA_T_VARIABLE_END,
    JINJA_T_BLOCK_BEGIN,
    JINJA_T_BLOCK_END,
    JINJA_T_NAME,
    JINJA_T_STRING, /* unescaped */
    JINJA_T_INTEGER,
    JINJA_T_FLOAT,
    JINJA_T_OPERATOR, /* op says which */
};

/* Operators of two characters; the others are their character. */
enum jinja_operator {
    JINJA_OP_FLOORDIV = 256,
    JINJA_OP_POW,
    JINJA_OP_EQ,
    JINJA_OP_NE,
    JINJA_OP_GE,
    JINJA_OP_LE,
    JINJA_OP_IN, /* these two are made by the parser */
    JINJA_OP_NOT_IN,
};

struct jinja_token {
    int32_t kind, op;
    uint32_t line, column;
    const char *p; /* data, name, string */
    size_t n;
    int64_t integer;
    double real;
};

struct jinja_tokens {
    struct jinja_token *items; /* the last one is JINJA_T_EOF */
    uint32_t n, capacity;
};

/* Fails with line and column for what is no template. `source` must be valid UTF-8; texts of tokens lie in the
 * arena. */
struct jinja_tokens jinja_tokenize(struct jinja_arena *arena, const char *source, size_t n);

#endif
