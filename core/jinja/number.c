/* Numbers as text: see number.h. */
#include "core/jinja/number.h"
#include "core/jinja/unicode.h"

#include <ctype.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t jinja_print_double(char *out, size_t room, const char *format, int precision, double value)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int n = snprintf(out, room, format, precision, value);
#pragma GCC diagnostic pop
    const char *point = localeconv()->decimal_point;
    char *at;

    if (n < 0)
        return 0;
    if (strcmp(point, ".") != 0 && (at = strstr(out, point)) != NULL) {
        size_t width = strlen(point);
        *at = '.';
        memmove(at + 1, at + width, strlen(at + width) + 1);
        n -= (int)width - 1;
    }
    return (size_t)n < room ? (size_t)n : room - 1;
}

double jinja_parse_double(const char *p, size_t n)
{
    char text[JINJA_NUMBER_ROOM + 8];
    locale_t c;
    double value;

    if (n >= sizeof text)
        return (double)NAN;
    memcpy(text, p, n);
    text[n] = 0;
    c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c)
        return strtod(text, NULL);
    value = strtod_l(text, NULL, c);
    freelocale(c);
    return value;
}

/* digits d1 d2 ... with the point behind the first, times 10^exponent, in Python's choice of notation */
static size_t arrange(char *out, const char *digits, int n_digits, int exponent)
{
    size_t n = 0;

    if (exponent < -4 || exponent >= 16) {
        out[n++] = digits[0];
        if (n_digits > 1) {
            out[n++] = '.';
            memcpy(out + n, digits + 1, (size_t)n_digits - 1);
            n += (size_t)n_digits - 1;
        }
        return n + (size_t)sprintf(out + n, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    }
    if (exponent < 0) {
        memcpy(out, "0.000000", 8);
        n = (size_t)(1 - exponent);
        memcpy(out + n, digits, (size_t)n_digits);
        return n + (size_t)n_digits;
    }
    for (int i = 0; i <= exponent || i < n_digits; i++) {
        if (i == exponent + 1)
            out[n++] = '.';
        out[n++] = i < n_digits ? digits[i] : '0';
    }
    if (n_digits <= exponent + 1) {
        out[n++] = '.';
        out[n++] = '0';
    }
    return n;
}

size_t jinja_format_double(double value, char out[JINJA_NUMBER_ROOM])
{
    char text[64], digits[32] = "0";
    size_t n = 0;
    int n_digits = 0;
    const char *e;

    if (isnan(value))
        return (size_t)sprintf(out, "nan");
    if (signbit(value))
        out[n++] = '-';
    value = fabs(value);
    if (isinf(value))
        return n + (size_t)sprintf(out + n, "inf");
    for (int precision = 0; precision <= 17; precision++) {
        size_t used = jinja_print_double(text, sizeof text, "%.*e", precision, value);
        if (jinja_parse_double(text, used) == value)
            break;
    }
    e = strchr(text, 'e');
    for (const char *p = text; p < e; p++)
        if (isdigit((unsigned char)*p))
            digits[n_digits++] = *p;
    while (n_digits > 1 && digits[n_digits - 1] == '0')
        n_digits--;
    return n + arrange(out + n, digits, n_digits, atoi(e + 1));
}

bool jinja_parse_integer(const char *p, size_t n, int base, int64_t *value)
{
    int64_t v = 0;

    for (size_t i = 0; i < n; i++) {
        int digit = p[i] >= '0' && p[i] <= '9' ? p[i] - '0' : (p[i] | 32) - 'a' + 10;
        if (__builtin_mul_overflow(v, (int64_t)base, &v) || __builtin_add_overflow(v, (int64_t)digit, &v))
            return false;
    }
    *value = v;
    return n > 0;
}

static void trim_space(const char **p, size_t *n)
{
    size_t used;

    while (*n && jinja_is_space(jinja_utf8_get(*p, &used))) {
        *p += used;
        *n -= used;
    }
    while (*n && jinja_is_space(jinja_utf8_before(*p + *n, &used)))
        *n -= used;
}

/* Drops underscores between digits; 0 if one stands elsewhere or nothing is left. */
static size_t without_underscores(const char *p, size_t n, char *out, size_t room)
{
    size_t m = 0;

    for (size_t i = 0; i < n; i++) {
        if (p[i] == '_') {
            if (i == 0 || i + 1 == n || !isalnum((unsigned char)p[i - 1]) ||
                !isalnum((unsigned char)p[i + 1]))
                return 0;
            continue;
        }
        if (m == room)
            return 0;
        out[m++] = p[i];
    }
    return m;
}

bool jinja_read_double(const char *p, size_t n, double *value)
{
    char text[JINJA_NUMBER_ROOM];
    size_t at = 0, digits = 0;

    trim_space(&p, &n);
    n = without_underscores(p, n, text, sizeof text - 1);
    text[n] = 0;
    if (n && (text[0] == '-' || text[0] == '+'))
        at++;
    if (!strcasecmp(text + at, "inf") || !strcasecmp(text + at, "infinity")) {
        *value = text[0] == '-' ? -(double)INFINITY : (double)INFINITY;
        return true;
    }
    if (!strcasecmp(text + at, "nan")) {
        *value = (double)NAN;
        return true;
    }
    for (; isdigit((unsigned char)text[at]); at++)
        digits++;
    if (text[at] == '.')
        for (at++; isdigit((unsigned char)text[at]); at++)
            digits++;
    if (digits && (text[at] | 32) == 'e') {
        at++;
        at += text[at] == '-' || text[at] == '+';
        digits = 0;
        for (; isdigit((unsigned char)text[at]); at++)
            digits++;
    }
    if (!digits || at != n)
        return false;
    *value = jinja_parse_double(text, n);
    return true;
}

static int prefix_base(const char *p, size_t n)
{
    char c = n > 1 && p[0] == '0' ? (char)(p[1] | 32) : 0;

    return c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
}

int jinja_read_integer(const char *p, size_t n, int base, int64_t *value)
{
    char text[JINJA_NUMBER_ROOM];
    bool negative;
    int prefix;

    trim_space(&p, &n);
    negative = n && p[0] == '-';
    if (n && (p[0] == '-' || p[0] == '+')) {
        p++;
        n--;
    }
    prefix = prefix_base(p, n);
    if (prefix && (base == 0 || base == prefix)) {
        base = prefix;
        p += 2;
        n -= 2;
        if (n && p[0] == '_') {
            p++;
            n--;
        }
    }
    n = without_underscores(p, n, text, sizeof text);
    if (base == 0) {
        base = 10;
        for (size_t i = 1; n && text[0] == '0' && i < n; i++)
            if (text[i] != '0')
                return 0;
    }
    for (size_t i = 0; i < n; i++) {
        int digit = isdigit((unsigned char)text[i])   ? text[i] - '0'
                    : isalpha((unsigned char)text[i]) ? (text[i] | 32) - 'a' + 10
                                                      : 99;
        if (digit >= base)
            return 0;
    }
    if (!n)
        return 0;
    if (!jinja_parse_integer(text, n, base, value))
        return -1;
    if (negative)
        *value = -*value;
    return 1;
}
