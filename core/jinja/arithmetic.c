/* The operators + - * / // % ** on values. Integers have 64 bits; a result that needs more is an error. */
#include "core/jinja/render.h"

#include <math.h>
#include <string.h>

static const char *op_text(int32_t op)
{
    switch (op) {
    case '+':
        return "+";
    case '-':
        return "-";
    case '*':
        return "*";
    case '/':
        return "/";
    case '%':
        return "%";
    case JINJA_OP_FLOORDIV:
        return "//";
    default:
        return "** or pow()";
    }
}

int64_t jinja_need_int(struct jinja_render *r, struct jinja_value v, const char *what)
{
    if (v.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, v);
    if (v.kind != JINJA_INT && v.kind != JINJA_BOOL)
        jinja_error(&r->arena, "%s must be an integer, not '%s'", what, jinja_type_name(v));
    return jinja_integer_of(v);
}

const struct jinja_string *jinja_need_string(struct jinja_render *r, struct jinja_value v, const char *what)
{
    if (v.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, v);
    if (v.kind != JINJA_STRING)
        jinja_error(&r->arena, "%s must be a string, not '%s'", what, jinja_type_name(v));
    return v.as.string;
}

static __attribute__((noreturn)) void overflow(struct jinja_render *r)
{
    jinja_error(&r->arena, "integer overflow: the result needs more than 64 bits");
}

static int64_t floor_divide(struct jinja_render *r, int64_t a, int64_t b)
{
    int64_t q;

    if (b == 0)
        jinja_error(&r->arena, "integer division or modulo by zero");
    if (a == INT64_MIN && b == -1)
        overflow(r);
    q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}

static int64_t integer_power(struct jinja_render *r, int64_t base, int64_t exponent)
{
    int64_t result = 1;

    while (exponent) {
        if (exponent & 1 && __builtin_mul_overflow(result, base, &result))
            overflow(r);
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base))
            overflow(r);
    }
    return result;
}

static struct jinja_value float_binary(struct jinja_render *r, int32_t op, double a, double b)
{
    double m;

    if (b == 0 && (op == '/' || op == JINJA_OP_FLOORDIV || op == '%'))
        jinja_error(&r->arena, op == '/' ? "float division by zero" : "float floor division by zero");
    switch (op) {
    case '+':
        return jinja_float(a + b);
    case '-':
        return jinja_float(a - b);
    case '*':
        return jinja_float(a * b);
    case '/':
        return jinja_float(a / b);
    case JINJA_OP_POW:
        if (a == 0 && b < 0)
            jinja_error(&r->arena, "0.0 cannot be raised to a negative power");
        if (a < 0 && b != floor(b))
            jinja_error(&r->arena, "a negative number to a fractional power is complex");
        return jinja_float(pow(a, b));
    default: /* // and %: the remainder has the sign of the divisor */
        m = fmod(a, b);
        if (m != 0 && (m < 0) != (b < 0))
            m += b;
        if (op == '%')
            return jinja_float(m == 0 ? copysign(0, b) : m);
        m = (a - m) / b;
        return jinja_float(floor(m) + (m - floor(m) > 0.5));
    }
}

static struct jinja_value integer_binary(struct jinja_render *r, int32_t op, int64_t a, int64_t b)
{
    int64_t result;
    bool over = false;

    switch (op) {
    case '+':
        over = __builtin_add_overflow(a, b, &result);
        break;
    case '-':
        over = __builtin_sub_overflow(a, b, &result);
        break;
    case '*':
        over = __builtin_mul_overflow(a, b, &result);
        break;
    case '/':
        if (b == 0)
            jinja_error(&r->arena, "division by zero");
        return jinja_float((double)a / (double)b);
    case JINJA_OP_FLOORDIV:
        result = floor_divide(r, a, b);
        break;
    case '%':
        if (b == -1)
            return jinja_int(0);
        result = a - floor_divide(r, a, b) * b;
        break;
    default:
        if (b < 0)
            return float_binary(r, op, (double)a, (double)b);
        result = integer_power(r, a, b);
    }
    if (over)
        overflow(r);
    return jinja_int(result);
}

static struct jinja_value concat_arrays(struct jinja_render *r, int32_t kind, const struct jinja_array *a,
                                        const struct jinja_array *b)
{
    struct jinja_value joined;

    if (a->n > UINT32_MAX - b->n)
        jinja_fail(&r->arena, SHARPI_TEMPLATE_LIMIT, "a list has too many elements");
    jinja_charge(&r->arena, ((uint64_t)a->n + b->n) * 16);
    joined = jinja_array_new(&r->arena, kind, a->n + b->n);
    if (a->n)
        memcpy(joined.as.array->items, a->items, a->n * sizeof *a->items);
    if (b->n)
        memcpy(joined.as.array->items + a->n, b->items, b->n * sizeof *b->items);
    joined.as.array->n = a->n + b->n;
    return joined;
}

/* Markup escapes what plain text is added to it, on either side. */
static struct jinja_value concat_strings(struct jinja_render *r, struct jinja_value a, struct jinja_value b)
{
    bool markup = a.as.string->markup || b.as.string->markup;
    struct jinja_value joined;

    if (markup) {
        a = jinja_escape(r, a);
        b = jinja_escape(r, b);
    }
    joined = jinja_string_join(&r->arena, a.as.string, b.as.string);
    return jinja_string_marked(&r->arena, joined, markup);
}

static struct jinja_value repeat_string(struct jinja_render *r, const struct jinja_string *s, int64_t times)
{
    struct jinja_writer w;
    size_t n;

    if (times <= 0 || s->n == 0)
        return jinja_string_of(&r->arena, "", 0);
    if (__builtin_mul_overflow(s->n, (uint64_t)times, &n) || n > r->arena.limit)
        jinja_fail(&r->arena, SHARPI_TEMPLATE_LIMIT, "a text repeated %lld times is too long",
                   (long long)times);
    w = jinja_writer_new(r, n);
    jinja_charge(&r->arena, n);
    for (int64_t i = 0; i < times; i++) {
        memcpy(w.p + w.n, s->p, s->n);
        w.n += s->n;
    }
    return jinja_string_marked(&r->arena, jinja_written(&w), s->markup);
}

static struct jinja_value repeat_array(struct jinja_render *r, struct jinja_value v, int64_t times)
{
    const struct jinja_array *array = v.as.array;
    struct jinja_value result;
    uint64_t n;

    if (times <= 0 || array->n == 0)
        return jinja_array_new(&r->arena, v.kind, 0);
    if (__builtin_mul_overflow((uint64_t)times, (uint64_t)array->n, &n) || n > r->arena.limit / 16)
        jinja_fail(&r->arena, SHARPI_TEMPLATE_LIMIT, "a list repeated %lld times is too long",
                   (long long)times);
    jinja_charge(&r->arena, n * 16);
    result = jinja_array_new(&r->arena, v.kind, (uint32_t)n);
    for (uint64_t i = 0; i < n; i++)
        result.as.array->items[i] = array->items[i % array->n];
    result.as.array->n = (uint32_t)n;
    return result;
}

static bool is_integer(struct jinja_value v)
{
    return v.kind == JINJA_INT || v.kind == JINJA_BOOL;
}

static struct jinja_value repeat(struct jinja_render *r, struct jinja_value v, struct jinja_value times)
{
    if (v.kind == JINJA_STRING)
        return repeat_string(r, v.as.string, jinja_integer_of(times));
    return repeat_array(r, v, jinja_integer_of(times));
}

static bool is_sequence(struct jinja_value v)
{
    return v.kind == JINJA_STRING || v.kind == JINJA_LIST || v.kind == JINJA_TUPLE;
}

struct jinja_value jinja_binary(struct jinja_render *r, int32_t op, struct jinja_value a,
                                struct jinja_value b)
{
    if (is_integer(a) && is_integer(b))
        return integer_binary(r, op, jinja_integer_of(a), jinja_integer_of(b));
    if (jinja_is_number(a) && jinja_is_number(b))
        return float_binary(r, op, jinja_real_of(a), jinja_real_of(b));
    if (op == '%' && a.kind == JINJA_STRING)
        return jinja_percent(r, a, b);
    if (a.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, a);
    if (b.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, b);
    if (op == '+' && a.kind == JINJA_STRING && b.kind == JINJA_STRING)
        return concat_strings(r, a, b);
    if (op == '+' && a.kind == b.kind && (a.kind == JINJA_LIST || a.kind == JINJA_TUPLE))
        return concat_arrays(r, a.kind, a.as.array, b.as.array);
    if (op == '*' && is_sequence(a) && is_integer(b))
        return repeat(r, a, b);
    if (op == '*' && is_sequence(b) && is_integer(a))
        return repeat(r, b, a);
    if (op == '+' && is_sequence(a))
        jinja_error(&r->arena, "can only concatenate %s (not \"%s\") to %s", jinja_type_name(a),
                    jinja_type_name(b), jinja_type_name(a));
    jinja_error(&r->arena, "unsupported operand type(s) for %s: '%s' and '%s'", op_text(op),
                jinja_type_name(a), jinja_type_name(b));
}

struct jinja_value jinja_negate(struct jinja_render *r, int32_t op, struct jinja_value a)
{
    if (a.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, a);
    if (a.kind == JINJA_FLOAT)
        return op == '-' ? jinja_float(-a.as.real) : a;
    if (!is_integer(a))
        jinja_error(&r->arena, "bad operand type for unary %c: '%s'", (char)op, jinja_type_name(a));
    return op == '-' ? integer_binary(r, '-', 0, jinja_integer_of(a)) : jinja_int(jinja_integer_of(a));
}
