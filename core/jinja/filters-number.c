/* Filters on numbers: abs, float, int, round, filesizeformat. */
#include "core/jinja/library.h"
#include "core/jinja/number.h"
#include "core/jinja/render.h"

#include <math.h>
#include <stdio.h>

static struct jinja_value filter_abs(struct jinja_render *r, struct jinja_value self,
                                     const struct jinja_value *argv, const struct jinja_args *args)
{
    (void)argv, (void)args;
    if (self.kind == JINJA_FLOAT)
        return jinja_float(fabs(self.as.real));
    if (!jinja_is_number(self))
        jinja_error(&r->arena, "bad operand type for abs(): '%s'", jinja_type_name(self));
    return jinja_integer_of(self) < 0 ? jinja_negate(r, '-', self) : jinja_int(jinja_integer_of(self));
}

static struct jinja_value filter_float(struct jinja_render *r, struct jinja_value self,
                                       const struct jinja_value *argv, const struct jinja_args *args)
{
    double value;

    (void)args;
    if (self.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, self);
    if (jinja_is_number(self))
        return jinja_float(jinja_real_of(self));
    if (self.kind == JINJA_STRING && jinja_read_double(self.as.string->p, self.as.string->n, &value))
        return jinja_float(value);
    return argv[0].kind == JINJA_MISSING ? jinja_float(0) : argv[0];
}

static bool fits(double value)
{
    return value > -9223372036854775809.0 && value < 9223372036854775808.0;
}

/* int(float): cut towards zero. */
static struct jinja_value cut(struct jinja_render *r, double value)
{
    if (!fits(value))
        jinja_error(&r->arena, "cannot convert this float to a 64-bit integer");
    return jinja_int((int64_t)value);
}

static struct jinja_value int_of_text(struct jinja_render *r, const struct jinja_string *s, int64_t base,
                                      struct jinja_value otherwise)
{
    int64_t integer;
    double real;
    int read;

    if (base == 1 || base < 0 || base > 36)
        return otherwise;
    read = jinja_read_integer(s->p, s->n, (int)base, &integer);
    if (read < 0)
        jinja_error(&r->arena, "integer overflow: the number needs more than 64 bits");
    if (read > 0)
        return jinja_int(integer);
    if (!jinja_read_double(s->p, s->n, &real) || isnan(real) || isinf(real))
        return otherwise;
    return cut(r, real);
}

static struct jinja_value filter_int(struct jinja_render *r, struct jinja_value self,
                                     const struct jinja_value *argv, const struct jinja_args *args)
{
    struct jinja_value otherwise = argv[0].kind == JINJA_MISSING ? jinja_int(0) : argv[0];
    int64_t base = argv[1].kind == JINJA_MISSING ? 10 : jinja_need_int(r, argv[1], "the base of int");

    (void)args;
    if (self.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, self);
    if (self.kind == JINJA_STRING)
        return int_of_text(r, self.as.string, base, otherwise);
    if (self.kind == JINJA_FLOAT)
        return isnan(self.as.real) ? otherwise : cut(r, self.as.real);
    return jinja_is_number(self) ? jinja_int(jinja_integer_of(self)) : otherwise;
}

/* Python's round(): half to even, on the exact value of the double. */
static double round_real(double value, int64_t precision)
{
    char text[800];
    double scale;

    if (!isfinite(value) || precision > 323)
        return value;
    if (precision < -308)
        return copysign(0, value);
    if (precision >= 0) {
        size_t n = jinja_print_double(text, sizeof text, "%.*f", (int)precision, value);
        return jinja_parse_double(text, n < JINJA_NUMBER_ROOM ? n : JINJA_NUMBER_ROOM);
    }
    scale = pow(10, (double)-precision);
    return nearbyint(value / scale) * scale;
}

static int64_t round_integer(struct jinja_render *r, int64_t value, int64_t precision)
{
    int64_t scale = 1, rest, low;

    if (precision >= 0)
        return value;
    if (precision < -18)
        return 0;
    for (; precision < 0; precision++)
        scale *= 10;
    rest = value % scale;
    if (rest < 0)
        rest += scale;
    low = jinja_binary(r, '-', jinja_int(value), jinja_int(rest)).as.integer;
    if (rest > scale - rest || (rest == scale - rest && (low / scale) % 2 != 0))
        low = jinja_binary(r, '+', jinja_int(low), jinja_int(scale)).as.integer;
    return low;
}

static struct jinja_value filter_round(struct jinja_render *r, struct jinja_value self,
                                       const struct jinja_value *argv, const struct jinja_args *args)
{
    int64_t precision =
        argv[0].kind == JINJA_MISSING ? 0 : jinja_need_int(r, argv[0], "the precision of round");
    bool up = jinja_string_is(argv[1], "ceil");
    double scale;

    (void)args;
    if (argv[1].kind != JINJA_MISSING && !up && !jinja_string_is(argv[1], "floor") &&
        !jinja_string_is(argv[1], "common"))
        jinja_error(&r->arena, "method must be common, ceil or floor");
    if (self.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, self);
    if (!jinja_is_number(self))
        jinja_error(&r->arena, "type %s doesn't define __round__ method", jinja_type_name(self));
    if (argv[1].kind == JINJA_MISSING || jinja_string_is(argv[1], "common")) {
        if (self.kind != JINJA_FLOAT)
            return jinja_int(round_integer(r, jinja_integer_of(self), precision));
        return jinja_float(round_real(self.as.real, precision));
    }
    scale = pow(10, (double)precision);
    return jinja_float((up ? ceil(jinja_real_of(self) * scale) : floor(jinja_real_of(self) * scale)) / scale);
}

static struct jinja_value filter_filesizeformat(struct jinja_render *r, struct jinja_value self,
                                                const struct jinja_value *argv, const struct jinja_args *args)
{
    static const char *const decimal[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
    static const char *const binary[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"};
    bool is_binary = jinja_truth(r, argv[0]);
    double base = is_binary ? 1024 : 1000, bytes, unit;
    char text[400];
    size_t n, i = 0;

    (void)args;
    if (self.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, self);
    if (jinja_is_number(self))
        bytes = jinja_real_of(self);
    else if (self.kind != JINJA_STRING || !jinja_read_double(self.as.string->p, self.as.string->n, &bytes))
        jinja_error(&r->arena, "filesizeformat needs a number, not '%s'", jinja_type_name(self));
    if (!isfinite(bytes))
        jinja_error(&r->arena, "filesizeformat needs a finite number");
    if (bytes == 1)
        return jinja_string_z(&r->arena, "1 Byte");
    if (bytes < base) {
        n = (size_t)snprintf(text, sizeof text, "%.0f Bytes", trunc(bytes) + 0.0);
        return jinja_string_copy(&r->arena, text, n);
    }
    for (unit = base * base; i < 7 && bytes >= unit; i++)
        unit *= base;
    n = jinja_print_double(text, sizeof text - 8, "%.*f", 1, base * bytes / unit);
    n += (size_t)snprintf(text + n, sizeof text - n, " %s", (is_binary ? binary : decimal)[i]);
    return jinja_string_copy(&r->arena, text, n < sizeof text ? n : sizeof text - 1);
}

const struct jinja_function jinja_number_filters[] = {
    {"abs", "/", filter_abs, 0},
    {"float", "default", filter_float, 0},
    {"int", "default,base", filter_int, 0},
    {"round", "precision,method", filter_round, 0},
    {"filesizeformat", "binary", filter_filesizeformat, 0},
};
const size_t jinja_number_filters_n = sizeof jinja_number_filters / sizeof jinja_number_filters[0];
