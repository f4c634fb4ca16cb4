/* Operations on strings that filters and methods share: case, stripping, replacing, padding, lines. */
#include "core/jinja/library.h"
#include "core/jinja/render.h"
#include "core/jinja/unicode.h"

#include <string.h>

typedef size_t convert_case(uint32_t c, uint32_t out[3]);

static void write_case(struct jinja_writer *w, uint32_t c, convert_case *convert)
{
    uint32_t out[3];
    size_t n = convert(c, out);

    for (size_t i = 0; i < n; i++)
        jinja_write_point(w, out[i]);
}

/* A capital sigma at the end of a word has a small letter of its own. */
static bool is_final_sigma(const struct jinja_string *s, size_t at)
{
    size_t used;

    return at > 0 && jinja_is_cased(jinja_utf8_before(s->p + at, &used)) &&
           (at + 2 >= s->n || !jinja_is_cased(jinja_utf8_get(s->p + at + 2, &used)));
}

static void write_lower(struct jinja_writer *w, const struct jinja_string *s, size_t at, uint32_t c)
{
    if (c == 0x3A3 && is_final_sigma(s, at))
        jinja_write_point(w, 0x3C2);
    else
        write_case(w, c, jinja_lower);
}

struct jinja_value jinja_str_upper(struct jinja_render *r, const struct jinja_string *s)
{
    struct jinja_writer w = jinja_writer_new(r, s->n);
    size_t used;

    jinja_charge(&r->arena, s->n);
    for (size_t i = 0; i < s->n; i += used)
        write_case(&w, jinja_utf8_get(s->p + i, &used), jinja_upper);
    return jinja_written(&w);
}

struct jinja_value jinja_str_lower(struct jinja_render *r, const struct jinja_string *s)
{
    struct jinja_writer w = jinja_writer_new(r, s->n);
    size_t used;

    jinja_charge(&r->arena, s->n);
    for (size_t i = 0; i < s->n; i += used)
        write_lower(&w, s, i, jinja_utf8_get(s->p + i, &used));
    return jinja_written(&w);
}

struct jinja_value jinja_str_capitalize(struct jinja_render *r, const struct jinja_string *s)
{
    struct jinja_writer w = jinja_writer_new(r, s->n);
    size_t used;

    jinja_charge(&r->arena, s->n);
    for (size_t i = 0; i < s->n; i += used) {
        uint32_t c = jinja_utf8_get(s->p + i, &used);
        if (i == 0)
            write_case(&w, c, jinja_title);
        else
            write_lower(&w, s, i, c);
    }
    return jinja_written(&w);
}

bool jinja_str_is_lower(const struct jinja_string *s)
{
    bool cased = false;
    size_t used;

    for (size_t i = 0; i < s->n; i += used) {
        uint32_t c = jinja_utf8_get(s->p + i, &used);
        if (jinja_is_cased(c) && !jinja_is_lower(c))
            return false;
        cased |= jinja_is_lower(c);
    }
    return cased;
}

bool jinja_str_is_upper(const struct jinja_string *s)
{
    bool cased = false;
    size_t used;

    for (size_t i = 0; i < s->n; i += used) {
        uint32_t c = jinja_utf8_get(s->p + i, &used);
        if (jinja_is_cased(c) && !jinja_is_upper(c))
            return false;
        cased |= jinja_is_upper(c);
    }
    return cased;
}

struct jinja_value jinja_str_part(struct jinja_render *r, const struct jinja_string *s, size_t from,
                                  size_t to)
{
    if (to - from >= 64)
        jinja_charge(&r->arena, to - from);
    return jinja_string_marked(&r->arena, jinja_string_of(&r->arena, s->p + from, to - from), s->markup);
}

static bool is_stripped(uint32_t c, const struct jinja_string *chars)
{
    size_t used;

    if (!chars)
        return jinja_is_space(c);
    for (size_t i = 0; i < chars->n; i += used)
        if (jinja_utf8_get(chars->p + i, &used) == c)
            return true;
    return false;
}

struct jinja_value jinja_str_strip(struct jinja_render *r, const struct jinja_string *s,
                                   const struct jinja_string *chars, bool left, bool right)
{
    size_t from = 0, to = s->n, used;

    while (left && from < to && is_stripped(jinja_utf8_get(s->p + from, &used), chars)) {
        jinja_charge(&r->arena, chars ? chars->n : 0);
        from += used;
    }
    while (right && to > from && is_stripped(jinja_utf8_before(s->p + to, &used), chars)) {
        jinja_charge(&r->arena, chars ? chars->n : 0);
        to -= used;
    }
    return jinja_str_part(r, s, from, to);
}

int64_t jinja_str_find(struct jinja_render *r, const struct jinja_string *s, const struct jinja_string *part,
                       size_t from, size_t to, bool last)
{
    const char *found;

    if (from > to || to > s->n || part->n > to - from)
        return -1;
    jinja_charge(&r->arena, to - from);
    if (!last) {
        found = part->n ? memmem(s->p + from, to - from, part->p, part->n) : s->p + from;
        return found ? found - s->p : -1;
    }
    for (size_t at = to - part->n;; at--) {
        if (memcmp(s->p + at, part->p, part->n) == 0)
            return (int64_t)at;
        if (at == from)
            return -1;
        if (part->n > 16)
            jinja_charge(&r->arena, 0);
    }
}

/* Between all characters, as Python does for an empty `from`. */
static struct jinja_value insert_everywhere(struct jinja_render *r, const struct jinja_string *s,
                                            const struct jinja_string *to, int64_t count)
{
    struct jinja_writer w = jinja_writer_new(r, s->n);
    size_t used, i = 0;

    while (count != 0 && i <= s->n) {
        jinja_charge(&r->arena, to->n);
        jinja_write(&w, to->p, to->n);
        count--;
        if (i == s->n)
            return jinja_written(&w);
        jinja_utf8_get(s->p + i, &used);
        jinja_write(&w, s->p + i, used);
        i += used;
    }
    jinja_write(&w, s->p + i, s->n - i);
    return jinja_written(&w);
}

struct jinja_value jinja_str_replace(struct jinja_render *r, const struct jinja_string *s,
                                     const struct jinja_string *from, const struct jinja_string *to,
                                     int64_t count)
{
    struct jinja_writer w;
    size_t at = 0;
    const char *found;

    jinja_charge(&r->arena, s->n);
    if (from->n == 0)
        return insert_everywhere(r, s, to, count);
    w = jinja_writer_new(r, s->n);
    while (count != 0 && (found = memmem(s->p + at, s->n - at, from->p, from->n)) != NULL) {
        jinja_charge(&r->arena, to->n);
        jinja_write(&w, s->p + at, (size_t)(found - s->p) - at);
        jinja_write(&w, to->p, to->n);
        at = (size_t)(found - s->p) + from->n;
        count--;
    }
    jinja_write(&w, s->p + at, s->n - at);
    return jinja_written(&w);
}

static void write_fill(struct jinja_writer *w, const struct jinja_string *fill, int64_t n)
{
    for (; n > 0; n--) {
        jinja_charge(&w->r->arena, 0);
        jinja_write(w, fill->p, fill->n);
    }
}

struct jinja_value jinja_str_pad(struct jinja_render *r, const struct jinja_string *s, int64_t left,
                                 int64_t right, const struct jinja_string *fill)
{
    struct jinja_writer w;

    if (left <= 0 && right <= 0)
        return jinja_str_part(r, s, 0, s->n);
    if (fill->n_points != 1)
        jinja_error(&r->arena, "The fill character must be exactly one character long");
    w = jinja_writer_new(r, s->n);
    write_fill(&w, fill, left);
    jinja_write(&w, s->p, s->n);
    write_fill(&w, fill, right);
    return jinja_written(&w);
}

struct jinja_value jinja_str_center(struct jinja_render *r, const struct jinja_string *s, int64_t width,
                                    const struct jinja_string *fill)
{
    int64_t room = width > (int64_t)s->n_points ? width - (int64_t)s->n_points : 0;
    int64_t left = room / 2 + (room & width & 1); /* Python's rounding */

    return jinja_str_pad(r, s, left, room - left, fill);
}

struct jinja_value jinja_str_lines(struct jinja_render *r, const struct jinja_string *s, bool keep_ends)
{
    struct jinja_value list = jinja_array_new(&r->arena, JINJA_LIST, 0);
    size_t start = 0, used;

    jinja_charge(&r->arena, s->n);
    for (size_t i = 0; i < s->n;) {
        uint32_t c = jinja_utf8_get(s->p + i, &used);
        size_t end = i;
        i += used;
        if (!jinja_is_line_end(c))
            continue;
        if (c == '\r' && i < s->n && s->p[i] == '\n')
            i++;
        jinja_array_add(&r->arena, list.as.array, jinja_str_part(r, s, start, keep_ends ? i : end));
        start = i;
    }
    if (start < s->n)
        jinja_array_add(&r->arena, list.as.array, jinja_str_part(r, s, start, s->n));
    return list;
}
