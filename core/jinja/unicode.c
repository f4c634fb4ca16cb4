/* UTF-8 and character properties: see unicode.h. Final sigma is the one context rule; jinja_lower has no
 * context, so the caller knows it (text.c). */
#include "core/jinja/unicode.h"

/* Length of the sequence that lead byte c starts, 0 if it starts none, and the lowest code point it may hold. */
static size_t sequence_length(unsigned char c, uint32_t *least)
{
    if (c < 0x80) {
        *least = 0;
        return 1;
    }
    if (c >= 0xC2 && c < 0xE0) {
        *least = 0x80;
        return 2;
    }
    if (c >= 0xE0 && c < 0xF0) {
        *least = 0x800;
        return 3;
    }
    *least = 0x10000;
    return c >= 0xF0 && c < 0xF5 ? 4 : 0;
}

size_t jinja_utf8_check(const char *p, size_t n)
{
    size_t i = 0;

    while (i < n) {
        uint32_t least, c;
        size_t length = sequence_length((unsigned char)p[i], &least), used;

        if (length == 0 || length > n - i)
            return i;
        for (size_t k = 1; k < length; k++)
            if (((unsigned char)p[i + k] & 0xC0) != 0x80)
                return i;
        c = jinja_utf8_get(p + i, &used);
        if (c < least || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
            return i;
        i += length;
    }
    return n;
}

uint32_t jinja_utf8_get(const char *p, size_t *n_bytes)
{
    const unsigned char *u = (const unsigned char *)p;

    if (u[0] < 0x80) {
        *n_bytes = 1;
        return u[0];
    }
    if (u[0] < 0xE0) {
        *n_bytes = 2;
        return (u[0] & 0x1Fu) << 6 | (u[1] & 0x3Fu);
    }
    if (u[0] < 0xF0) {
        *n_bytes = 3;
        return (u[0] & 0x0Fu) << 12 | (u[1] & 0x3Fu) << 6 | (u[2] & 0x3Fu);
    }
    *n_bytes = 4;
    return (u[0] & 0x07u) << 18 | (u[1] & 0x3Fu) << 12 | (u[2] & 0x3Fu) << 6 | (u[3] & 0x3Fu);
}

uint32_t jinja_utf8_before(const char *p, size_t *n_bytes)
{
    size_t back = 1;

    while (((unsigned char)p[-(ptrdiff_t)back] & 0xC0) == 0x80)
        back++;
    return jinja_utf8_get(p - back, n_bytes);
}

size_t jinja_utf8_put(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

size_t jinja_utf8_count(const char *p, size_t n)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)p[i] & 0xC0) != 0x80;
    return count;
}

size_t jinja_utf8_offset(const char *p, size_t n, size_t index)
{
    size_t i = 0;

    for (; i < n; i++) {
        if (((unsigned char)p[i] & 0xC0) == 0x80)
            continue;
        if (index-- == 0)
            break;
    }
    return i;
}

static bool in_ranges(const struct jinja_range *ranges, size_t n, uint32_t c)
{
    size_t low = 0, high = n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c > ranges[middle].last)
            low = middle + 1;
        else if (c < ranges[middle].first)
            high = middle;
        else
            return true;
    }
    return false;
}

bool jinja_is_alpha(uint32_t c)
{
    return in_ranges(jinja_alpha, jinja_alpha_n, c);
}

bool jinja_is_decimal(uint32_t c)
{
    return in_ranges(jinja_decimal, jinja_decimal_n, c);
}

bool jinja_is_digit(uint32_t c)
{
    return in_ranges(jinja_digit, jinja_digit_n, c);
}

bool jinja_is_numeric(uint32_t c)
{
    return in_ranges(jinja_numeric, jinja_numeric_n, c);
}

bool jinja_is_printable(uint32_t c)
{
    return !in_ranges(jinja_unprintable, jinja_unprintable_n, c);
}

bool jinja_is_cased(uint32_t c)
{
    return in_ranges(jinja_cased, jinja_cased_n, c);
}

bool jinja_is_lower(uint32_t c)
{
    return in_ranges(jinja_lowercase, jinja_lowercase_n, c);
}

bool jinja_is_upper(uint32_t c)
{
    return in_ranges(jinja_uppercase, jinja_uppercase_n, c);
}

bool jinja_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

bool jinja_is_line_end(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

static uint32_t map_case(const struct jinja_case_run *runs, size_t n, uint32_t c)
{
    size_t low = 0, high = n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c > runs[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < n && c >= runs[low].first && (c - runs[low].first) % (uint32_t)runs[low].step == 0)
        return (uint32_t)((int32_t)c + runs[low].delta);
    return c;
}

static size_t convert(uint32_t c, uint32_t out[3], const struct jinja_case_special *specials,
                      size_t n_specials, const struct jinja_case_run *runs, size_t n_runs)
{
    for (size_t i = 0; c >= 0x80 && i < n_specials && specials[i].from <= c; i++) {
        size_t n = 0;
        if (specials[i].from != c)
            continue;
        for (; n < 3 && specials[i].to[n]; n++)
            out[n] = specials[i].to[n];
        return n;
    }
    out[0] = map_case(runs, n_runs, c);
    return 1;
}

size_t jinja_upper(uint32_t c, uint32_t out[3])
{
    return convert(c, out, jinja_to_upper_special, jinja_to_upper_special_n, jinja_to_upper,
                   jinja_to_upper_n);
}

size_t jinja_lower(uint32_t c, uint32_t out[3])
{
    return convert(c, out, jinja_to_lower_special, jinja_to_lower_special_n, jinja_to_lower,
                   jinja_to_lower_n);
}

size_t jinja_title(uint32_t c, uint32_t out[3])
{
    return convert(c, out, jinja_to_title_special, jinja_to_title_special_n, jinja_to_title,
                   jinja_to_title_n);
}
