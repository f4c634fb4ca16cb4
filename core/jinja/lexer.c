/* The lexer. It follows jinja2's regular expressions rule by rule, because templates are written against their
 * exact effect on white space: `-` strips all white space on its side, `+` keeps it, a block or comment tag eats
 * one newline after it and the blanks before it on its line; a variable tag does neither. */
#include "core/jinja/lexer.h"
#include "core/jinja/number.h"
#include "core/jinja/unicode.h"

#include <string.h>

struct lexer {
    struct jinja_arena *arena;
    const char *p; /* the source with newlines normalised */
    size_t n, at;
    size_t counted; /* up to where `line` is right */
    uint32_t line;
    size_t line_start;
    bool line_starting; /* the last match ended with a newline */
    struct jinja_tokens tokens;
    char *open; /* expected closing brackets */
    uint32_t n_open, open_capacity;
};

/* Brings line and column of the arena to offset `at`, where errors are reported. */
static void locate(struct lexer *lx, size_t at)
{
    for (; lx->counted < at; lx->counted++)
        if (lx->p[lx->counted] == '\n') {
            lx->line++;
            lx->line_start = lx->counted + 1;
        }
    lx->arena->line = lx->line;
    lx->arena->column = at >= lx->line_start ? (uint32_t)(at - lx->line_start + 1) : 1;
}

static __attribute__((noreturn)) void fail_at(struct lexer *lx, size_t at, const char *message)
{
    locate(lx, at);
    jinja_fail(lx->arena, SHARPI_TEMPLATE_SYNTAX, "%s", message);
}

static struct jinja_token *add(struct lexer *lx, int32_t kind, size_t at)
{
    struct jinja_tokens *tokens = &lx->tokens;
    struct jinja_token *token;

    locate(lx, at);
    if (tokens->n == tokens->capacity)
        tokens->items = jinja_grow(lx->arena, tokens->items, &tokens->capacity, sizeof *tokens->items);
    token = &tokens->items[tokens->n++];
    *token = (struct jinja_token){.kind = kind, .line = lx->arena->line, .column = lx->arena->column};
    return token;
}

/* \r\n and \r become \n, and one newline at the end goes away, as jinja2 does by default. */
static void normalise(struct lexer *lx, const char *source, size_t n)
{
    char *p = jinja_alloc(lx->arena, n + 1);
    size_t m = 0;

    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r') {
            p[m++] = '\n';
            i += i + 1 < n && source[i + 1] == '\n';
        } else {
            p[m++] = source[i];
        }
    }
    if (m && p[m - 1] == '\n')
        m--;
    p[m] = 0;
    lx->p = p;
    lx->n = m;
}

static bool starts(const struct lexer *lx, size_t at, const char *text)
{
    size_t n = strlen(text);

    return n <= lx->n - at && memcmp(lx->p + at, text, n) == 0;
}

static size_t skip_space(const struct lexer *lx, size_t at)
{
    size_t used;

    while (at < lx->n && jinja_is_space(jinja_utf8_get(lx->p + at, &used)))
        at += used;
    return at;
}

static void set_position(struct lexer *lx, size_t at)
{
    lx->line_starting = at > 0 && lx->p[at - 1] == '\n';
    lx->at = at;
}

/* If a tag that closes with `close` ends at `at`, the offset behind it and the white space it eats, else 0. */
static size_t tag_end(const struct lexer *lx, size_t at, const char *close, bool block)
{
    if (starts(lx, at, "-") && starts(lx, at + 1, close))
        return skip_space(lx, at + 3);
    if (block && starts(lx, at, "+") && starts(lx, at + 1, close))
        return at + 3;
    if (!starts(lx, at, close))
        return 0;
    at += 2;
    return block && at < lx->n && lx->p[at] == '\n' ? at + 1 : at;
}

/* If `at` is at a tag that holds only `word` (raw, endraw), the offset behind it, else 0. For endraw the end of
 * the tag trims like a block's; for raw only a minus trims. */
static size_t word_tag(const struct lexer *lx, size_t at, const char *word, bool block)
{
    if (!starts(lx, at, "{%"))
        return 0;
    at += 2;
    if (at < lx->n && (lx->p[at] == '-' || lx->p[at] == '+'))
        at++;
    at = skip_space(lx, at);
    if (!starts(lx, at, word))
        return 0;
    at = skip_space(lx, at + strlen(word));
    return tag_end(lx, at, "%}", block);
}

/* Text before a tag: `sign` is the character after the tag's opening. */
static void add_data(struct lexer *lx, size_t from, size_t to, char sign, bool variable)
{
    const char *p = lx->p;
    struct jinja_token *token;
    size_t used;

    if (sign == '-') {
        while (to > from && jinja_is_space(jinja_utf8_before(p + to, &used)))
            to -= used;
    } else if (sign != '+' && !variable) {
        size_t blank = to;

        while (blank > from && p[blank - 1] != '\n' && jinja_is_space(jinja_utf8_before(p + blank, &used)))
            blank -= used;
        if (blank == from ? lx->line_starting : p[blank - 1] == '\n')
            to = blank;
    }
    if (to == from)
        return;
    token = add(lx, JINJA_T_DATA, from);
    token->p = p + from;
    token->n = to - from;
}

static char sign_at(const struct lexer *lx, size_t at)
{
    return at < lx->n && (lx->p[at] == '-' || lx->p[at] == '+') ? lx->p[at] : 0;
}

static void lex_comment(struct lexer *lx, size_t at)
{
    if (at == lx->n) { /* a quirk of jinja2: nothing behind the opening is no error */
        lx->at = at;
        return;
    }
    for (size_t i = at; i < lx->n; i++) {
        size_t end = tag_end(lx, i, "#}", true);
        if (end) {
            set_position(lx, end);
            return;
        }
    }
    fail_at(lx, at, "Missing end of comment tag");
}

static void lex_raw(struct lexer *lx, size_t at)
{
    set_position(lx, at);
    if (at == lx->n)
        return;
    for (size_t i = at; i < lx->n; i++) {
        size_t end = word_tag(lx, i, "endraw", true);
        if (end) {
            add_data(lx, at, i, sign_at(lx, i + 2), false);
            set_position(lx, end);
            return;
        }
    }
    fail_at(lx, at, "Missing end of raw directive");
}

/* Reads digits with single underscores between them into `text`; returns the offset behind. */
static size_t digits(const struct lexer *lx, size_t at, const char *set, char *text, size_t *n, size_t room)
{
    while (at < lx->n) {
        size_t digit = lx->p[at] == '_' && *n ? at + 1 : at;

        if (digit >= lx->n || !lx->p[digit] || !strchr(set, lx->p[digit]))
            break;
        if (*n < room)
            text[*n] = lx->p[digit];
        ++*n;
        at = digit + 1;
    }
    return at;
}

static const char *const decimal = "0123456789";

static bool digit_at(const struct lexer *lx, size_t at)
{
    return at < lx->n && lx->p[at] >= '0' && lx->p[at] <= '9';
}

/* The float that starts at `at`: returns the offset behind, or 0 if it is none. */
static size_t lex_float(struct lexer *lx, size_t at)
{
    char text[400];
    size_t n = 0, whole, end = digits(lx, at, decimal, text, &n, sizeof text);
    bool real = false;

    if (at > 0 && lx->p[at - 1] == '.')
        return 0;
    if (end < lx->n && lx->p[end] == '.' && digit_at(lx, end + 1)) {
        if (n < sizeof text)
            text[n] = '.';
        n++;
        real = true;
        /* `digits` takes an underscore only after a digit of its own, so start anew. */
        whole = 0;
        end = digits(lx, end + 1, decimal, text + (n < sizeof text ? n : 0), &whole,
                     n < sizeof text ? sizeof text - n : 0);
        n += whole;
    }
    if (end < lx->n && (lx->p[end] == 'e' || lx->p[end] == 'E')) {
        size_t sign = end + 1 < lx->n && (lx->p[end + 1] == '-' || lx->p[end + 1] == '+');
        size_t first = end + 1 + sign;

        if (digit_at(lx, first) && n + 2 < sizeof text) {
            text[n++] = 'e';
            if (sign)
                text[n++] = lx->p[end + 1];
            whole = 0;
            end = digits(lx, first, decimal, text + n, &whole, sizeof text - n);
            n += whole;
            real = true;
        }
    }
    if (!real)
        return 0;
    if (n >= sizeof text)
        fail_at(lx, at, "number too long");
    add(lx, JINJA_T_FLOAT, at)->real = jinja_parse_double(text, n);
    return end;
}

static size_t lex_integer(struct lexer *lx, size_t at)
{
    static const struct {
        char letter;
        int base;
        const char *set;
    } bases[] = {{'b', 2, "01"}, {'o', 8, "01234567"}, {'x', 16, "0123456789abcdefABCDEF"}};
    char text[80];
    size_t n = 0, end;
    int base = 10;
    int64_t value;

    for (size_t i = 0; lx->p[at] == '0' && i < 3; i++) {
        size_t first = at + 2;
        if (first < lx->n && (lx->p[at + 1] | 32) == bases[i].letter) {
            first += lx->p[first] == '_';
            end = digits(lx, first, bases[i].set, text, &n, sizeof text);
            base = bases[i].base;
            if (n)
                goto value;
            base = 10;
        }
    }
    end = digits(lx, at, lx->p[at] == '0' ? "0" : decimal, text, &n, sizeof text);
value:
    if (n > sizeof text || !jinja_parse_integer(text, n, base, &value))
        fail_at(lx, at, "integer does not fit 64 bits");
    add(lx, JINJA_T_INTEGER, at)->integer = value;
    return end;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One escape whose backslash is at p[i]; writes to out, returns the offset behind it. */
static size_t unescape(struct lexer *lx, size_t i, size_t end, char *out, size_t *n)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    char c = lx->p[i + 1];
    const char *simple = c ? strchr(from, c) : NULL;
    size_t width = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0, at = i + 2;
    uint32_t code = 0;

    if (simple) {
        out[(*n)++] = to[simple - from];
        return at;
    }
    if (c == '\n')
        return at;
    if (c >= '0' && c <= '7') {
        for (at = i + 1; at < end && at < i + 4 && lx->p[at] >= '0' && lx->p[at] <= '7'; at++)
            code = code * 8 + (uint32_t)(lx->p[at] - '0');
    } else if (width) {
        for (; width; width--, at++) {
            if (at >= end || hex_digit(lx->p[at]) < 0)
                fail_at(lx, i, c == 'x' ? "truncated \\xXX escape" : "truncated \\uXXXX escape");
            code = code << 4 | (uint32_t)hex_digit(lx->p[at]);
        }
    } else if (c == 'N') {
        fail_at(lx, i, "character names (\\N{...}) are not supported; write the character itself");
    } else {
        out[(*n)++] = '\\';
        return i + 1;
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        fail_at(lx, i, "escape is no Unicode character");
    *n += jinja_utf8_put(code, out + *n);
    return at;
}

static size_t lex_string(struct lexer *lx, size_t at)
{
    char quote = lx->p[at];
    size_t end = at + 1, n = 0;
    struct jinja_token *token;
    char *out;

    while (end < lx->n && lx->p[end] != quote)
        end += lx->p[end] == '\\' ? 2 : 1;
    if (end >= lx->n)
        fail_at(lx, at, "string without end");
    out = jinja_alloc(lx->arena, end - at);
    for (size_t i = at + 1; i < end;) {
        if (lx->p[i] == '\\')
            i = unescape(lx, i, end, out, &n);
        else
            out[n++] = lx->p[i++];
    }
    token = add(lx, JINJA_T_STRING, at);
    token->p = out;
    token->n = n;
    return end + 1;
}

static size_t lex_name(struct lexer *lx, size_t at)
{
    size_t end = at, used;
    struct jinja_token *token;

    while (end < lx->n) {
        uint32_t c = jinja_utf8_get(lx->p + end, &used);
        if (c != '_' && !jinja_is_alpha(c) && !jinja_is_numeric(c))
            break;
        end += used;
    }
    if (end == at)
        return 0;
    token = add(lx, JINJA_T_NAME, at);
    token->p = lx->p + at;
    token->n = end - at;
    return end;
}

static void balance(struct lexer *lx, size_t at, char c)
{
    if (c == '(' || c == '[' || c == '{') {
        if (lx->n_open == lx->open_capacity)
            lx->open = jinja_grow(lx->arena, lx->open, &lx->open_capacity, 1);
        lx->open[lx->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        locate(lx, at);
        if (lx->n_open == 0)
            jinja_fail(lx->arena, SHARPI_TEMPLATE_SYNTAX, "unexpected '%c'", c);
        if (lx->open[--lx->n_open] != c)
            jinja_fail(lx->arena, SHARPI_TEMPLATE_SYNTAX, "unexpected '%c', expected '%c'", c,
                       lx->open[lx->n_open]);
    }
}

static size_t lex_operator(struct lexer *lx, size_t at)
{
    static const struct {
        const char *text;
        int32_t op;
    } two[] = {{"//", JINJA_OP_FLOORDIV}, {"**", JINJA_OP_POW}, {"==", JINJA_OP_EQ},
               {"!=", JINJA_OP_NE},       {">=", JINJA_OP_GE},  {"<=", JINJA_OP_LE}};
    char c = lx->p[at];

    for (size_t i = 0; i < sizeof two / sizeof two[0]; i++)
        if (starts(lx, at, two[i].text)) {
            add(lx, JINJA_T_OPERATOR, at)->op = two[i].op;
            return at + 2;
        }
    if (!c || !strchr("+-/*%~[](){}><=.:|,;", c)) {
        locate(lx, at);
        if ((unsigned char)c < 0x80 && (unsigned char)c > 32)
            jinja_fail(lx->arena, SHARPI_TEMPLATE_SYNTAX, "unexpected char '%c'", c);
        jinja_fail(lx->arena, SHARPI_TEMPLATE_SYNTAX, "unexpected character in a tag");
    }
    balance(lx, at, c);
    add(lx, JINJA_T_OPERATOR, at)->op = (unsigned char)c;
    return at + 1;
}

/* The inside of {% %} or {{ }}, up to and including its end. */
static void lex_tag(struct lexer *lx, size_t at, bool block)
{
    while (at < lx->n) {
        size_t end = lx->n_open ? 0 : tag_end(lx, at, block ? "%}" : "}}", block);
        char c = lx->p[at];

        if (end) {
            add(lx, block ? JINJA_T_BLOCK_END : JINJA_T_VARIABLE_END, at);
            set_position(lx, end);
            return;
        }
        jinja_charge(lx->arena, 1);
        end = skip_space(lx, at);
        if (end > at)
            at = end;
        else if (c >= '0' && c <= '9')
            at = (end = lex_float(lx, at)) ? end : lex_integer(lx, at);
        else if (c == '\'' || c == '"')
            at = lex_string(lx, at);
        else
            at = (end = lex_name(lx, at)) ? end : lex_operator(lx, at);
    }
    set_position(lx, at);
}

/* One piece of text and the tag behind it. */
static void lex_piece(struct lexer *lx)
{
    size_t from = lx->at, at = from, raw;
    char open;

    while (at < lx->n && !(lx->p[at] == '{' && at + 1 < lx->n && memchr("%{#", lx->p[at + 1], 3)))
        at++;
    if (at == lx->n) {
        add_data(lx, from, at, '+', false);
        lx->at = at;
        return;
    }
    open = lx->p[at + 1];
    add_data(lx, from, at, sign_at(lx, at + 2), open == '{');
    raw = word_tag(lx, at, "raw", false);
    if (raw) {
        lex_raw(lx, raw);
        return;
    }
    locate(lx, at);
    if (open != '#')
        add(lx, open == '%' ? JINJA_T_BLOCK_BEGIN : JINJA_T_VARIABLE_BEGIN, at);
    at += 2 + (sign_at(lx, at + 2) != 0);
    if (open == '#')
        lex_comment(lx, at);
    else
        lex_tag(lx, at, open == '%');
}

struct jinja_tokens jinja_tokenize(struct jinja_arena *arena, const char *source, size_t n)
{
    struct lexer lx = {.arena = arena, .line = 1, .line_starting = true};

    normalise(&lx, source, n);
    while (lx.at < lx.n) {
        lx.n_open = 0;
        lex_piece(&lx);
    }
    add(&lx, JINJA_T_EOF, lx.n);
    return lx.tokens;
}
