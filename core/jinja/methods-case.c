/* Methods of str about characters: case, classes of characters, stripping, padding. */
#include "core/jinja/library.h"
#include "core/jinja/render.h"
#include "core/jinja/unicode.h"

#include <string.h>

#define METHOD(name)                                                                                         \
    static struct jinja_value str_##name(struct jinja_render *r, struct jinja_value self,                    \
                                         const struct jinja_value *argv, const struct jinja_args *args)

METHOD(upper)
{
    (void)argv, (void)args;
    return jinja_str_upper(r, self.as.string);
}

METHOD(lower)
{
    (void)argv, (void)args;
    return jinja_str_lower(r, self.as.string);
}

METHOD(capitalize)
{
    (void)argv, (void)args;
    return jinja_str_capitalize(r, self.as.string);
}

/* 't': title, 's': swap case */
static struct jinja_value change_case(struct jinja_render *r, const struct jinja_string *s, char how)
{
    struct jinja_writer w = jinja_writer_new(r, s->n);
    bool inside = false;
    size_t used;

    jinja_charge(&r->arena, s->n);
    for (size_t i = 0; i < s->n; i += used) {
        uint32_t c = jinja_utf8_get(s->p + i, &used), out[3];
        bool up = how == 't' ? !inside : jinja_is_lower(c);
        size_t n = how == 't' && up ? jinja_title(c, out) : up ? jinja_upper(c, out) : jinja_lower(c, out);
        for (size_t k = 0; k < n; k++)
            jinja_write_point(&w, out[k]);
        inside = jinja_is_cased(c);
    }
    return jinja_written(&w);
}

METHOD(title)
{
    (void)argv, (void)args;
    return change_case(r, self.as.string, 't');
}

METHOD(swapcase)
{
    (void)argv, (void)args;
    return change_case(r, self.as.string, 's');
}

static bool all(struct jinja_render *r, const struct jinja_string *s, bool (*test)(uint32_t c))
{
    size_t used;

    jinja_charge(&r->arena, s->n);
    for (size_t i = 0; i < s->n; i += used)
        if (!test(jinja_utf8_get(s->p + i, &used)))
            return false;
    return s->n > 0;
}

static bool is_alnum(uint32_t c)
{
    return jinja_is_alpha(c) || jinja_is_decimal(c) || jinja_is_digit(c) || jinja_is_numeric(c);
}

#define CLASS_METHOD(name, test)                                                                             \
    METHOD(name)                                                                                             \
    {                                                                                                        \
        (void)r, (void)argv, (void)args;                                                                     \
        return jinja_bool(test);                                                                             \
    }

CLASS_METHOD(isalpha, all(r, self.as.string, jinja_is_alpha))
CLASS_METHOD(isdigit, all(r, self.as.string, jinja_is_digit))
CLASS_METHOD(isdecimal, all(r, self.as.string, jinja_is_decimal))
CLASS_METHOD(isnumeric, all(r, self.as.string, jinja_is_numeric))
CLASS_METHOD(isalnum, all(r, self.as.string, is_alnum))
CLASS_METHOD(isspace, all(r, self.as.string, jinja_is_space))
CLASS_METHOD(isprintable, self.as.string->n == 0 || all(r, self.as.string, jinja_is_printable))
CLASS_METHOD(islower, jinja_str_is_lower(self.as.string))
CLASS_METHOD(isupper, jinja_str_is_upper(self.as.string))
CLASS_METHOD(isascii, self.as.string->n == self.as.string->n_points)

METHOD(istitle)
{
    const struct jinja_string *s = self.as.string;
    bool inside = false, cased = false;
    size_t used;

    (void)argv, (void)args;
    jinja_charge(&r->arena, s->n);
    for (size_t i = 0; i < s->n; i += used) {
        uint32_t c = jinja_utf8_get(s->p + i, &used);
        if (jinja_is_cased(c) && jinja_is_lower(c) != inside)
            return jinja_bool(false);
        inside = jinja_is_cased(c);
        cased |= inside;
    }
    return jinja_bool(cased);
}

static struct jinja_value strip(struct jinja_render *r, struct jinja_value self, struct jinja_value chars,
                                bool left, bool right)
{
    const struct jinja_string *set = NULL;

    if (chars.kind != JINJA_MISSING && chars.kind != JINJA_NONE)
        set = jinja_need_string(r, chars, "the argument of strip");
    return jinja_str_strip(r, self.as.string, set, left, right);
}

METHOD(strip)
{
    (void)args;
    return strip(r, self, argv[0], true, true);
}

METHOD(lstrip)
{
    (void)args;
    return strip(r, self, argv[0], true, false);
}

METHOD(rstrip)
{
    (void)args;
    return strip(r, self, argv[0], false, true);
}

static struct jinja_value pad(struct jinja_render *r, struct jinja_value self, const struct jinja_value *argv,
                              char where)
{
    const struct jinja_string *s = self.as.string;
    int64_t width = jinja_need_int(r, argv[0], "a width");
    int64_t room = width > (int64_t)s->n_points ? width - (int64_t)s->n_points : 0;
    struct jinja_value blank = argv[1].kind == JINJA_MISSING ? jinja_string_z(&r->arena, " ") : argv[1];
    const struct jinja_string *fill = jinja_need_string(r, blank, "a fill character");

    if (where == 'c')
        return jinja_str_center(r, s, width, fill);
    return jinja_str_pad(r, s, where == 'r' ? room : 0, where == 'r' ? 0 : room, fill);
}

METHOD(center)
{
    (void)args;
    return pad(r, self, argv, 'c');
}

METHOD(ljust)
{
    (void)args;
    return pad(r, self, argv, 'l');
}

METHOD(rjust)
{
    (void)args;
    return pad(r, self, argv, 'r');
}

METHOD(zfill)
{
    const struct jinja_string *s = self.as.string;
    int64_t room = jinja_need_int(r, argv[0], "a width") - (int64_t)s->n_points;
    struct jinja_writer w = jinja_writer_new(r, s->n);
    size_t sign = s->n && (s->p[0] == '-' || s->p[0] == '+');

    (void)args;
    jinja_write(&w, s->p, sign);
    for (; room > 0; room--) {
        jinja_charge(&r->arena, 0);
        jinja_write_char(&w, '0');
    }
    jinja_write(&w, s->p + sign, s->n - sign);
    return jinja_written(&w);
}

METHOD(expandtabs)
{
    int64_t width = argv[0].kind == JINJA_MISSING ? 8 : jinja_need_int(r, argv[0], "a tab size"), column = 0;
    const struct jinja_string *s = self.as.string;
    struct jinja_writer w = jinja_writer_new(r, s->n);
    size_t used;

    (void)args;
    jinja_charge(&r->arena, s->n);
    for (size_t i = 0; i < s->n; i += used) {
        uint32_t c = jinja_utf8_get(s->p + i, &used);
        int64_t blanks = c == '\t' && width > 0 ? width - column % width : 0;
        for (int64_t k = 0; k < blanks; k++) {
            jinja_charge(&r->arena, 0);
            jinja_write_char(&w, ' ');
        }
        if (c != '\t')
            jinja_write(&w, s->p + i, used);
        column = c == '\n' || c == '\r' ? 0 : column + (c == '\t' ? blanks : 1);
    }
    return jinja_written(&w);
}

const struct jinja_function jinja_string_methods[] = {
    {"upper", "/", str_upper, 0},
    {"lower", "/", str_lower, 0},
    {"casefold", "/", str_lower, 0}, /* the same but for a few letters such as the German sharp s */
    {"capitalize", "/", str_capitalize, 0},
    {"title", "/", str_title, 0},
    {"swapcase", "/", str_swapcase, 0},
    {"strip", "/chars", str_strip, 0},
    {"lstrip", "/chars", str_lstrip, 0},
    {"rstrip", "/chars", str_rstrip, 0},
    {"center", "/width,fillchar", str_center, 1},
    {"ljust", "/width,fillchar", str_ljust, 1},
    {"rjust", "/width,fillchar", str_rjust, 1},
    {"zfill", "/width", str_zfill, 1},
    {"expandtabs", "tabsize", str_expandtabs, 0},
    {"isalpha", "/", str_isalpha, 0},
    {"isdigit", "/", str_isdigit, 0},
    {"isdecimal", "/", str_isdecimal, 0},
    {"isnumeric", "/", str_isnumeric, 0},
    {"isalnum", "/", str_isalnum, 0},
    {"isspace", "/", str_isspace, 0},
    {"isprintable", "/", str_isprintable, 0},
    {"islower", "/", str_islower, 0},
    {"isupper", "/", str_isupper, 0},
    {"istitle", "/", str_istitle, 0},
    {"isascii", "/", str_isascii, 0},
};
const size_t jinja_string_methods_n = sizeof jinja_string_methods / sizeof jinja_string_methods[0];
