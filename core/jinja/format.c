/* The two ways in which Python formats text: "%-5s" % x and "{:<5}".format(x). Both end in one number and one text
 * formatter that works from a spec. */
#include "core/jinja/number.h"
#include "core/jinja/render.h"
#include "core/jinja/unicode.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST_PRECISION = 300 };

struct spec {
    uint32_t fill; /* 0: not given */
    char align;    /* one of < > = ^, or 0 */
    char sign;     /* '+', ' ' or 0 */
    bool alternate;
    char group;               /* ',' or '_' or 0 */
    int64_t width, precision; /* precision -1: not given */
    char type;
};

static void write_fill(struct jinja_writer *w, uint32_t c, int64_t n)
{
    for (; n > 0; n--) {
        jinja_charge(&w->r->arena, 0);
        jinja_write_point(w, c);
    }
}

/* head (a sign or prefix), then body, padded to the width. */
static void write_padded(struct jinja_writer *w, const struct spec *spec, char standard, const char *head,
                         const char *body, size_t n)
{
    int64_t used = (int64_t)(strlen(head) + jinja_utf8_count(body, n));
    int64_t room = spec->width > used ? spec->width - used : 0, left = 0;
    uint32_t fill = spec->fill ? spec->fill : ' ';
    char align = spec->align ? spec->align : standard;

    if (align == '>')
        left = room;
    else if (align == '^')
        left = room / 2;
    if (align != '=')
        write_fill(w, fill, left);
    jinja_write_z(w, head);
    if (align == '=')
        write_fill(w, fill, room);
    jinja_write(w, body, n);
    if (align != '=')
        write_fill(w, fill, room - left);
}

static void write_text(struct jinja_writer *w, const struct spec *spec, const struct jinja_string *s,
                       char standard)
{
    size_t n = s->n;

    if (spec->precision >= 0 && (uint64_t)spec->precision < s->n_points)
        n = jinja_utf8_offset(s->p, s->n, (size_t)spec->precision);
    write_padded(w, spec, standard, "", s->p, n);
}

static size_t print_integer(char *out, uint64_t value, unsigned base, bool upper)
{
    const char *digits = upper ? "0123456789ABCDEF" : "0123456789abcdef";
    char text[72];
    size_t n = 0;

    do
        text[n++] = digits[value % base];
    while (value /= base);
    for (size_t i = 0; i < n; i++)
        out[i] = text[n - 1 - i];
    return n;
}

/* Separators into the whole part of `body`. */
static size_t group_digits(const char *body, size_t n, char separator, size_t every, char *out)
{
    size_t whole = 0, m = 0;

    while (whole < n && body[whole] != '.' && body[whole] != 'e' && body[whole] != 'E')
        whole++;
    for (size_t i = 0; i < n; i++) {
        if (i && i < whole && (whole - i) % every == 0)
            out[m++] = separator;
        out[m++] = body[i];
    }
    return m;
}

static void write_signed(struct jinja_writer *w, const struct spec *spec, bool negative, const char *prefix,
                         const char *body, size_t n, size_t every)
{
    char head[8], grouped[1200];

    snprintf(head, sizeof head, "%s%s",
             negative            ? "-"
             : spec->sign == '+' ? "+"
             : spec->sign == ' ' ? " "
                                 : "",
             prefix);
    if (spec->group) {
        n = group_digits(body, n, spec->group, every, grouped);
        body = grouped;
    }
    write_padded(w, spec, '>', head, body, n);
}

static void write_integer(struct jinja_writer *w, const struct spec *spec, int64_t value)
{
    char type = spec->type | 32, text[80];
    unsigned base = type == 'x' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
    char prefix[3] = {'0', spec->type, 0};
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    size_t n = print_integer(text, magnitude, base, spec->type == 'X');

    write_signed(w, spec, value < 0, spec->alternate && base != 10 ? prefix : "", text, n,
                 base == 10 ? 3 : 4);
}

static size_t print_general(char *text, size_t room, const struct spec *spec, double value)
{
    int precision = spec->precision < 0 ? 6 : (int)spec->precision;
    char type = spec->type;
    size_t n;

    switch (type) {
    case 'e':
        return jinja_print_double(text, room, spec->alternate ? "%#.*e" : "%.*e", precision, value);
    case 'E':
        return jinja_print_double(text, room, spec->alternate ? "%#.*E" : "%.*E", precision, value);
    case 'g':
    case 'n':
        return jinja_print_double(text, room, spec->alternate ? "%#.*g" : "%.*g", precision ? precision : 1,
                                  value);
    case 'G':
        return jinja_print_double(text, room, spec->alternate ? "%#.*G" : "%.*G", precision ? precision : 1,
                                  value);
    case '%':
        n = jinja_print_double(text, room - 1, "%.*f", precision, value * 100);
        text[n++] = '%';
        return n;
    case 0:
        if (spec->precision < 0)
            return jinja_format_double(value, text);
        n = jinja_print_double(text, room - 3, "%.*g", precision ? precision : 1, value);
        if (!memchr(text, '.', n) && !memchr(text, 'e', n) && !memchr(text, 'n', n)) {
            text[n++] = '.';
            text[n++] = '0';
        }
        return n;
    default:
        return jinja_print_double(text, room, spec->alternate ? "%#.*f" : "%.*f", precision, value);
    }
}

static void write_real(struct jinja_writer *w, const struct spec *spec, double value)
{
    char text[900];
    size_t n;

    if (spec->precision > MOST_PRECISION)
        jinja_error(&w->r->arena, "a precision of more than %d digits", MOST_PRECISION);
    n = print_general(text, sizeof text, spec, fabs(value));
    write_signed(w, spec, signbit(value) && !isnan(value), "", text, n, 3);
}

/* ---- "%..." % args */

struct percent {
    struct jinja_render *r;
    const struct jinja_string *format;
    size_t at;
    struct jinja_value args; /* a tuple, or one value */
    uint32_t used;
    bool markup;
};

static char peek_char(const struct percent *f)
{
    if (f->at >= f->format->n)
        jinja_error(&f->r->arena, "incomplete format");
    return f->format->p[f->at];
}

static struct jinja_value next_arg(struct percent *f)
{
    if (f->args.kind == JINJA_TUPLE ? f->used >= f->args.as.array->n : f->used > 0)
        jinja_error(&f->r->arena, "not enough arguments for format string");
    return f->args.kind == JINJA_TUPLE ? f->args.as.array->items[f->used++] : (f->used++, f->args);
}

static struct jinja_value named_arg(struct percent *f)
{
    size_t start = ++f->at;
    struct jinja_value key, *found;

    while (peek_char(f) != ')')
        f->at++;
    key = jinja_string_of(&f->r->arena, f->format->p + start, f->at++ - start);
    if (f->args.kind != JINJA_DICT)
        jinja_error(&f->r->arena, "format requires a mapping");
    found = jinja_dict_find(&f->r->arena, f->args.as.dict, key);
    if (!found)
        jinja_error(&f->r->arena, "format key not found");
    return *found;
}

static int64_t percent_number(struct percent *f)
{
    int64_t n = 0;

    if (peek_char(f) == '*') {
        f->at++;
        return jinja_need_int(f->r, next_arg(f), "*");
    }
    while (peek_char(f) >= '0' && peek_char(f) <= '9') {
        if (n > INT32_MAX)
            jinja_error(&f->r->arena, "width too big");
        n = n * 10 + (f->format->p[f->at++] - '0');
    }
    return n;
}

static void percent_flags(struct percent *f, struct spec *spec)
{
    for (; peek_char(f) && strchr("#0- +", peek_char(f)); f->at++) {
        char c = peek_char(f);
        if (c == '#')
            spec->alternate = true;
        else if (c == '0' && spec->align != '<')
            spec->fill = '0', spec->align = '=';
        else if (c == '-')
            spec->fill = 0, spec->align = '<';
        else if (c == '+' || (c == ' ' && !spec->sign))
            spec->sign = c;
    }
}

static void percent_integer(struct percent *f, struct jinja_writer *w, struct spec *spec,
                            struct jinja_value v)
{
    char text[MOST_PRECISION + 80], prefix[3] = {'0', spec->type, 0};
    bool decimal = strchr("diu", spec->type) != NULL;
    unsigned base = decimal ? 10 : spec->type == 'o' ? 8 : 16;
    int64_t value;
    size_t n, zeros = 0;

    if (v.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&f->r->arena, v);
    if (decimal && v.kind == JINJA_FLOAT && fabs(v.as.real) < 9.2e18)
        v = jinja_int((int64_t)v.as.real);
    if (v.kind != JINJA_INT && v.kind != JINJA_BOOL)
        jinja_error(&f->r->arena,
                    decimal ? "%%%c format: a real number is required, not %s"
                            : "%%%c format: an integer is required, not %s",
                    spec->type, jinja_type_name(v));
    if (spec->precision > MOST_PRECISION)
        jinja_error(&f->r->arena, "a precision of more than %d digits", MOST_PRECISION);
    value = jinja_integer_of(v);
    n = print_integer(text, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, base, spec->type == 'X');
    if (spec->precision > (int64_t)n) {
        zeros = (size_t)spec->precision - n;
        memmove(text + zeros, text, n);
        memset(text, '0', zeros);
    }
    spec->group = 0;
    write_signed(w, spec, value < 0, spec->alternate && !decimal ? prefix : "", text, n + zeros, 3);
}

static void percent_text(struct percent *f, struct jinja_writer *w, struct spec *spec, struct jinja_value v)
{
    if (spec->type == 'r' || spec->type == 'a')
        v = jinja_repr(f->r, v);
    else if (!f->markup)
        v = jinja_str(f->r, v);
    if (f->markup)
        v = jinja_escape(f->r, v);
    if (spec->align == '=')
        spec->fill = 0, spec->align = 0;
    write_text(w, spec, v.as.string, '>');
}

static void percent_char(struct percent *f, struct jinja_writer *w, struct spec *spec, struct jinja_value v)
{
    char text[4];
    size_t n;
    int64_t c;

    spec->precision = -1;
    if (v.kind == JINJA_STRING && v.as.string->n_points == 1) {
        write_text(w, spec, v.as.string, '>');
        return;
    }
    if (v.kind == JINJA_STRING)
        jinja_error(&f->r->arena, "%%c requires int or char");
    c = jinja_need_int(f->r, v, "%c");
    if (c < 0 || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
        jinja_error(&f->r->arena, "%%c arg not in range(0x110000)");
    n = jinja_utf8_put((uint32_t)c, text);
    write_padded(w, spec, '>', "", text, n);
}

static void percent_one(struct percent *f, struct jinja_writer *w)
{
    struct spec spec = {.precision = -1};
    struct jinja_value v = {0};
    size_t start = f->at;

    if (peek_char(f) == '(')
        v = named_arg(f);
    percent_flags(f, &spec);
    spec.width = percent_number(f);
    if (spec.width < 0) {
        spec.width = spec.width < -INT32_MAX ? INT32_MAX : -spec.width;
        spec.align = '<';
        spec.fill = 0;
    }
    if (peek_char(f) == '.') {
        f->at++;
        spec.precision = percent_number(f);
        if (spec.precision < 0)
            spec.precision = 0;
    }
    while (peek_char(f) == 'h' || peek_char(f) == 'l' || peek_char(f) == 'L')
        f->at++;
    spec.type = peek_char(f);
    f->at++;
    if (spec.type == '%') { /* takes an argument unless it is a plain %% */
        if (f->at - start > 1 && v.kind == JINJA_MISSING)
            next_arg(f);
        jinja_write_char(w, '%');
        return;
    }
    if (!spec.type || !strchr("diuoxXeEfFgGcrsa", spec.type))
        jinja_error(&f->r->arena, "unsupported format character at index %zu", f->at - 1);
    if (v.kind == JINJA_MISSING)
        v = next_arg(f);
    if (strchr("rsa", spec.type))
        percent_text(f, w, &spec, v);
    else if (spec.type == 'c')
        percent_char(f, w, &spec, v);
    else if (strchr("diuoxX", spec.type))
        percent_integer(f, w, &spec, v);
    else if (jinja_is_number(v))
        write_real(w, &spec, jinja_real_of(v));
    else if (v.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&f->r->arena, v);
    else
        jinja_error(&f->r->arena, "must be real number, not %s", jinja_type_name(v));
}

/* What Python takes for a mapping here need not be used up. */
static bool is_subscripted(struct jinja_value v)
{
    return v.kind == JINJA_DICT || v.kind == JINJA_LIST || v.kind == JINJA_RANGE || v.kind == JINJA_UNDEFINED;
}

struct jinja_value jinja_percent(struct jinja_render *r, struct jinja_value format, struct jinja_value args)
{
    struct percent f = {.r = r, .format = format.as.string, .args = args, .markup = format.as.string->markup};
    struct jinja_writer w = jinja_writer_new(r, f.format->n);

    jinja_charge(&r->arena, f.format->n);
    while (f.at < f.format->n) {
        const char *start = f.format->p + f.at;
        const char *next = memchr(start, '%', f.format->n - f.at);
        size_t n = next ? (size_t)(next - start) : f.format->n - f.at;

        jinja_write(&w, start, n);
        f.at += n;
        if (next) {
            f.at++;
            percent_one(&f, &w);
        }
    }
    if (args.kind == JINJA_TUPLE ? f.used < args.as.array->n : f.used == 0 && !is_subscripted(args))
        jinja_error(&r->arena, "not all arguments converted during string formatting");
    return jinja_string_marked(&r->arena, jinja_written(&w), f.markup);
}

/* ---- "{...}".format(args) */

struct braces {
    struct jinja_render *r;
    const struct jinja_args *args;
    int64_t next; /* automatic number; -1 once fields are numbered by hand */
    bool markup;
};

static struct jinja_value braces_format(struct braces *f, const char *p, size_t n, int depth);

static bool all_digits(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] < '0' || p[i] > '9')
            return false;
    return n > 0;
}

static struct jinja_value numbered_arg(struct braces *f, const char *p, size_t n)
{
    int64_t index;

    if (n == 0) {
        if (f->next < 0)
            jinja_error(&f->r->arena,
                        "cannot switch from manual field specification to automatic field numbering");
        index = f->next++;
    } else {
        if (f->next > 0)
            jinja_error(&f->r->arena,
                        "cannot switch from automatic field numbering to manual field specification");
        f->next = -1;
        if (!jinja_parse_integer(p, n, 10, &index))
            index = INT64_MAX;
    }
    if (index >= (int64_t)f->args->n)
        jinja_error(&f->r->arena, "Replacement index %lld out of range for positional args tuple",
                    (long long)index);
    return f->args->items[index];
}

static struct jinja_value first_arg(struct braces *f, const char *p, size_t n)
{
    if (n == 0 || all_digits(p, n))
        return numbered_arg(f, p, n);
    for (uint32_t i = 0; i < f->args->n_named; i++)
        if (jinja_same_text(f->args->named[i].name, p, n))
            return f->args->named[i].value;
    jinja_error(&f->r->arena, "format() has no argument '%.*s'", (int)(n < 100 ? n : 100), p);
}

/* name.attribute[item]... */
static struct jinja_value field_value(struct braces *f, const char *p, size_t n)
{
    size_t at = 0;
    struct jinja_value v;

    while (at < n && p[at] != '.' && p[at] != '[')
        at++;
    v = first_arg(f, p, at);
    while (at < n) {
        size_t start = at + 1, end = start;
        struct jinja_value key;
        bool item = p[at] == '[';

        while (end < n && (item ? p[end] != ']' : p[end] != '.' && p[end] != '['))
            end++;
        if (end == start || (item && end == n))
            jinja_error(&f->r->arena, "Empty attribute in format string");
        key = jinja_string_of(&f->r->arena, p + start, end - start);
        if (item && all_digits(p + start, end - start)) {
            int64_t index;
            if (!jinja_parse_integer(p + start, end - start, 10, &index))
                jinja_error(&f->r->arena, "Too many decimal digits in format string");
            key = jinja_int(index);
        }
        v = item ? jinja_get_item(f->r, v, key) : jinja_get_attribute(f->r, v, key.as.string);
        at = item ? end + 1 : end;
    }
    return v;
}

static bool is_align(uint32_t c)
{
    return c == '<' || c == '>' || c == '=' || c == '^';
}

static int64_t spec_number(struct braces *f, const char *p, size_t n, size_t *at)
{
    int64_t value = 0;

    for (; *at < n && p[*at] >= '0' && p[*at] <= '9'; ++*at) {
        value = value * 10 + (p[*at] - '0');
        if (value > INT32_MAX)
            jinja_error(&f->r->arena, "Too many decimal digits in format string");
    }
    return value;
}

static struct spec parse_spec(struct braces *f, const char *p, size_t n)
{
    struct spec spec = {.precision = -1};
    size_t at = 0, used = 0;
    uint32_t first = n ? jinja_utf8_get(p, &used) : 0;

    if (n > used && is_align((unsigned char)p[used])) {
        spec.fill = first;
        spec.align = p[used];
        at = used + 1;
    } else if (n && is_align(first)) {
        spec.align = p[at++];
    }
    if (at < n && (p[at] == '+' || p[at] == '-' || p[at] == ' ')) {
        spec.sign = p[at] == '-' ? 0 : p[at];
        at++;
    }
    if (at < n && p[at] == '#')
        spec.alternate = at++ < n;
    if (at < n && p[at] == '0') {
        at++;
        if (!spec.fill)
            spec.fill = '0';
        if (!spec.align)
            spec.align = '=';
    }
    spec.width = spec_number(f, p, n, &at);
    if (at < n && (p[at] == ',' || p[at] == '_'))
        spec.group = p[at++];
    if (at < n && p[at] == '.') {
        size_t digits = ++at;
        spec.precision = spec_number(f, p, n, &at);
        if (at == digits)
            jinja_error(&f->r->arena, "Format specifier missing precision");
    }
    if (at < n)
        spec.type = p[at++];
    if (at < n)
        jinja_error(&f->r->arena, "Invalid format specifier");
    return spec;
}

static void format_value(struct braces *f, struct jinja_writer *w, struct jinja_value v, const char *p,
                         size_t n)
{
    struct spec spec = parse_spec(f, p, n);
    bool integer = v.kind == JINJA_INT || (v.kind == JINJA_BOOL && n);
    const char *types = v.kind == JINJA_STRING ? "s" : integer ? "bcdoxXneEfFgG%" : "eEfFgGn%";

    if (n == 0) {
        v = f->markup ? jinja_escape(f->r, v) : jinja_str(f->r, v);
        write_text(w, &spec, v.as.string, '<');
        return;
    }
    if (v.kind != JINJA_STRING && v.kind != JINJA_FLOAT && !integer)
        jinja_error(&f->r->arena, "unsupported format string passed to %s.__format__", jinja_type_name(v));
    if (spec.type && !strchr(types, spec.type))
        jinja_error(&f->r->arena, "Unknown format code '%c' for object of type '%s'",
                    spec.type > 32 && spec.type < 127 ? spec.type : '?', jinja_type_name(v));
    if (v.kind == JINJA_STRING) {
        if (spec.align == '=' && spec.fill != '0')
            jinja_error(&f->r->arena, "'=' alignment not allowed in string format specifier");
        if (spec.align == '=')
            spec.align = '<';
        write_text(w, &spec, f->markup ? jinja_escape(f->r, v).as.string : v.as.string, '<');
    } else if (integer && spec.type == 'c') {
        percent_char(&(struct percent){.r = f->r}, w, &spec, jinja_int(jinja_integer_of(v)));
    } else if (integer && (!spec.type || strchr("bdoxXn", spec.type))) {
        if (spec.precision >= 0)
            jinja_error(&f->r->arena, "Precision not allowed in integer format specifier");
        write_integer(w, &spec, jinja_integer_of(v));
    } else {
        write_real(w, &spec, jinja_real_of(v));
    }
}

/* One {field}; p..n is what stands between the braces. */
static void format_field(struct braces *f, struct jinja_writer *w, const char *p, size_t n, int depth)
{
    size_t name = 0, spec;
    char conversion = 0;
    struct jinja_value v, text;

    while (name < n && p[name] != '!' && p[name] != ':') {
        if (p[name] == '[')
            while (name < n && p[name] != ']')
                name++;
        name += name < n;
    }
    spec = name;
    if (spec < n && p[spec] == '!') {
        conversion = spec + 1 < n ? p[spec + 1] : 0;
        spec += 2;
        if ((conversion != 'r' && conversion != 's' && conversion != 'a') || (spec < n && p[spec] != ':'))
            jinja_error(&f->r->arena, "Unknown conversion specifier in format string");
    }
    v = field_value(f, p, name);
    if (conversion)
        v = conversion == 's' ? jinja_str(f->r, v) : jinja_repr(f->r, v);
    if (spec >= n) {
        format_value(f, w, v, "", 0);
        return;
    }
    text = braces_format(f, p + spec + 1, n - spec - 1, depth + 1);
    format_value(f, w, v, text.as.string->p, text.as.string->n);
}

/* Offset of the brace that closes the field which begins at p[0]. */
static size_t field_end(struct braces *f, const char *p, size_t n)
{
    size_t open = 1;

    for (size_t i = 0; i < n; i++) {
        open += p[i] == '{';
        open -= p[i] == '}';
        if (open == 0)
            return i;
    }
    jinja_error(&f->r->arena, "expected '}' before end of string");
}

static struct jinja_value braces_format(struct braces *f, const char *p, size_t n, int depth)
{
    struct jinja_writer w = jinja_writer_new(f->r, n);

    if (depth > 1 && memchr(p, '{', n))
        jinja_error(&f->r->arena, "Max string recursion exceeded");
    jinja_charge(&f->r->arena, n);
    for (size_t i = 0; i < n; i++) {
        if (p[i] != '{' && p[i] != '}') {
            jinja_write_char(&w, p[i]);
        } else if (i + 1 < n && p[i + 1] == p[i] && depth == 0) {
            jinja_write_char(&w, p[i++]);
        } else if (p[i] == '}') {
            jinja_error(&f->r->arena, "Single '}' encountered in format string");
        } else {
            size_t end = field_end(f, p + i + 1, n - i - 1);
            format_field(f, &w, p + i + 1, end, depth);
            i += end + 1;
        }
    }
    return jinja_written(&w);
}

struct jinja_value jinja_str_format(struct jinja_render *r, const struct jinja_string *format,
                                    const struct jinja_args *args)
{
    struct braces f = {.r = r, .args = args, .markup = format->markup};

    return braces_format(&f, format->p, format->n, 0);
}
