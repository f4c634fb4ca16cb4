/* Filters that make text. */
#include "core/jinja/library.h"
#include "core/jinja/render.h"
#include "core/jinja/unicode.h"

#include <string.h>

#define FILTER(name)                                                                                         \
    static struct jinja_value filter_##name(struct jinja_render *r, struct jinja_value self,                 \
                                            const struct jinja_value *argv, const struct jinja_args *args)

/* As a filter on soft_str(value): markup stays markup. */
static struct jinja_value keep_mark(struct jinja_render *r, const struct jinja_string *from,
                                    struct jinja_value v)
{
    return jinja_string_marked(&r->arena, v, from->markup);
}

FILTER(upper)
{
    const struct jinja_string *s = jinja_soft_str(r, self).as.string;

    (void)argv, (void)args;
    return keep_mark(r, s, jinja_str_upper(r, s));
}

FILTER(lower)
{
    const struct jinja_string *s = jinja_soft_str(r, self).as.string;

    (void)argv, (void)args;
    return keep_mark(r, s, jinja_str_lower(r, s));
}

FILTER(capitalize)
{
    const struct jinja_string *s = jinja_soft_str(r, self).as.string;

    (void)argv, (void)args;
    return keep_mark(r, s, jinja_str_capitalize(r, s));
}

static bool starts_word(uint32_t c)
{
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || jinja_is_space(c);
}

/* jinja2 has its own idea of words: they begin after blanks, hyphens and opening brackets. */
FILTER(title)
{
    const struct jinja_string *s = jinja_soft_str(r, self).as.string;
    struct jinja_writer w = jinja_writer_new(r, s->n);
    bool first = true;
    size_t used;

    (void)argv, (void)args;
    jinja_charge(&r->arena, s->n);
    for (size_t i = 0; i < s->n; i += used) {
        uint32_t c = jinja_utf8_get(s->p + i, &used), out[3];
        size_t n = first ? jinja_upper(c, out) : jinja_lower(c, out);
        for (size_t k = 0; k < n; k++)
            jinja_write_point(&w, out[k]);
        first = starts_word(c);
    }
    return jinja_written(&w);
}

FILTER(trim)
{
    const struct jinja_string *s = jinja_soft_str(r, self).as.string, *chars = NULL;

    (void)args;
    if (argv[0].kind != JINJA_MISSING && argv[0].kind != JINJA_NONE)
        chars = jinja_need_string(r, argv[0], "the argument of trim");
    return jinja_str_strip(r, s, chars, true, true);
}

FILTER(string)
{
    (void)argv, (void)args;
    return jinja_soft_str(r, self);
}

FILTER(safe)
{
    (void)argv, (void)args;
    return jinja_string_marked(&r->arena, jinja_soft_str(r, self), true);
}

FILTER(escape)
{
    (void)argv, (void)args;
    return jinja_escape(r, self);
}

FILTER(forceescape)
{
    (void)argv, (void)args;
    return jinja_escape(r, jinja_str(r, self));
}

FILTER(replace)
{
    const struct jinja_string *s = jinja_str(r, self).as.string, *from = jinja_str(r, argv[0]).as.string;
    int64_t count = -1;

    (void)args;
    if (argv[2].kind != JINJA_MISSING && argv[2].kind != JINJA_NONE)
        count = jinja_need_int(r, argv[2], "the count of replace");
    return jinja_str_replace(r, s, from, jinja_str(r, argv[1]).as.string, count);
}

FILTER(center)
{
    const struct jinja_string *s = jinja_soft_str(r, self).as.string;
    int64_t width = argv[0].kind == JINJA_MISSING ? 80 : jinja_need_int(r, argv[0], "the width of center");

    (void)args;
    return keep_mark(r, s, jinja_str_center(r, s, width, jinja_string_z(&r->arena, " ").as.string));
}

FILTER(format)
{
    struct jinja_value values;

    (void)argv;
    self = jinja_soft_str(r, self);
    if (args->n && args->n_named)
        jinja_error(&r->arena, "can't handle positional and keyword arguments at the same time");
    if (args->n_named) {
        values = jinja_dict_new(&r->arena);
        for (uint32_t i = 0; i < args->n_named; i++)
            jinja_dict_put(&r->arena, values.as.dict,
                           (struct jinja_value){.kind = JINJA_STRING, .as.string = args->named[i].name},
                           args->named[i].value);
    } else {
        values = jinja_array_new(&r->arena, JINJA_TUPLE, args->n);
        for (uint32_t i = 0; i < args->n; i++)
            jinja_array_add(&r->arena, values.as.array, args->items[i]);
    }
    return jinja_percent(r, self, values);
}

static struct jinja_value indentation(struct jinja_render *r, struct jinja_value width)
{
    if (width.kind == JINJA_STRING)
        return width;
    return jinja_binary(r, '*', jinja_string_z(&r->arena, " "),
                        width.kind == JINJA_MISSING ? jinja_int(4) : width);
}

FILTER(indent)
{
    bool first = jinja_truth(r, argv[1]), blank = jinja_truth(r, argv[2]);
    struct jinja_value by = indentation(r, argv[0]), lines;
    const struct jinja_string *s = jinja_need_string(r, self, "what indent gets");
    struct jinja_writer w = jinja_writer_new(r, s->n);

    (void)args;
    if (s->markup)
        by = jinja_string_marked(&r->arena, by, true);
    lines = jinja_str_lines(
        r, jinja_string_join(&r->arena, s, jinja_string_z(&r->arena, "\n").as.string).as.string, false);
    for (uint32_t i = 0; i < lines.as.array->n; i++) {
        const struct jinja_string *line = lines.as.array->items[i].as.string;
        if (i)
            jinja_write_char(&w, '\n');
        if (i == 0 ? first : blank || line->n)
            jinja_write(&w, by.as.string->p, by.as.string->n);
        jinja_write(&w, line->p, line->n);
    }
    return keep_mark(r, s, jinja_written(&w));
}

FILTER(truncate)
{
    const struct jinja_string *end;
    int64_t length =
        argv[0].kind == JINJA_MISSING ? 255 : jinja_need_int(r, argv[0], "the length of truncate");
    bool killwords = jinja_truth(r, argv[1]);
    struct jinja_value tail = argv[2].kind == JINJA_MISSING ? jinja_string_z(&r->arena, "...") : argv[2];
    struct jinja_value cut;
    int64_t leeway = 5, blank, n;

    (void)args;
    end = jinja_need_string(r, tail, "the end of truncate");
    if (argv[3].kind != JINJA_MISSING && argv[3].kind != JINJA_NONE)
        leeway = jinja_need_int(r, argv[3], "the leeway of truncate");
    if (length < (int64_t)end->n_points)
        jinja_error(&r->arena, "expected length >= %zu, got %lld", end->n_points, (long long)length);
    if (leeway < 0)
        jinja_error(&r->arena, "expected leeway >= 0, got %lld", (long long)leeway);
    n = jinja_length(r, self);
    if (n >= 0 && n <= (leeway > INT64_MAX - length ? INT64_MAX : length + leeway))
        return self;
    jinja_need_string(r, self, "what truncate gets");
    cut = jinja_slice_of(r, self, jinja_int(0), jinja_int(length - (int64_t)end->n_points), jinja_none());
    if (!killwords) {
        blank = jinja_str_find(r, cut.as.string, jinja_string_z(&r->arena, " ").as.string, 0,
                               cut.as.string->n, true);
        if (blank >= 0)
            cut = jinja_str_part(r, cut.as.string, 0, (size_t)blank);
    }
    return jinja_binary(r, '+', cut, tail);
}

FILTER(wordcount)
{
    const struct jinja_string *s = jinja_soft_str(r, self).as.string;
    bool inside = false;
    int64_t n = 0;
    size_t used;

    (void)argv, (void)args;
    jinja_charge(&r->arena, s->n);
    for (size_t i = 0; i < s->n; i += used) {
        uint32_t c = jinja_utf8_get(s->p + i, &used);
        bool word = c == '_' || jinja_is_alpha(c) || jinja_is_numeric(c);
        n += word && !inside;
        inside = word;
    }
    return jinja_int(n);
}

static void write_quoted(struct jinja_writer *w, struct jinja_value v, bool query)
{
    static const char hex[] = "0123456789ABCDEF";
    const struct jinja_string *s = jinja_str(w->r, v).as.string;

    jinja_charge(&w->r->arena, s->n);
    for (size_t i = 0; i < s->n; i++) {
        unsigned char c = (unsigned char)s->p[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     (c && strchr("_.-~", c)) || (c == '/' && !query);
        if (plain || (c == ' ' && query)) {
            jinja_write_char(w, plain ? (char)c : '+');
        } else {
            jinja_write_char(w, '%');
            jinja_write_char(w, hex[c >> 4]);
            jinja_write_char(w, hex[c & 15]);
        }
    }
}

FILTER(urlencode)
{
    struct jinja_writer w = jinja_writer_new(r, 64);
    struct jinja_iterator *it;
    struct jinja_value v;

    (void)argv, (void)args;
    if (self.kind == JINJA_STRING || !jinja_iterable(self)) {
        write_quoted(&w, self, false);
        return jinja_written(&w);
    }
    if (self.kind == JINJA_DICT) {
        struct jinja_view *view = jinja_calloc(&r->arena, 1, sizeof *view);
        *view = (struct jinja_view){self.as.dict, JINJA_ITEMS};
        self = (struct jinja_value){.kind = JINJA_VIEW, .as.view = view};
    }
    it = jinja_iterate(r, self);
    while (jinja_step(r, it, &v)) {
        struct jinja_array *pair = jinja_list_of(r, v).as.array;
        if (pair->n != 2)
            jinja_error(&r->arena, "urlencode needs pairs, not %u values", pair->n);
        if (w.n)
            jinja_write_char(&w, '&');
        write_quoted(&w, pair->items[0], true);
        jinja_write_char(&w, '=');
        write_quoted(&w, pair->items[1], true);
    }
    return jinja_written(&w);
}

/* Cuts out everything from `open` to `close`, again and again. */
static struct jinja_value cut_between(struct jinja_render *r, const struct jinja_string *s, const char *open,
                                      const char *close)
{
    struct jinja_writer w = jinja_writer_new(r, s->n);
    size_t at = 0;
    const char *from, *to;

    while ((from = memmem(s->p + at, s->n - at, open, strlen(open))) != NULL &&
           (to = memmem(from, s->n - (size_t)(from - s->p), close, strlen(close))) != NULL) {
        jinja_write(&w, s->p + at, (size_t)(from - s->p) - at);
        at = (size_t)(to - s->p) + strlen(close);
    }
    jinja_write(&w, s->p + at, s->n - at);
    return jinja_written(&w);
}

static struct jinja_value unescape_entities(struct jinja_render *r, const struct jinja_string *s)
{
    static const char *const entities[][2] = {{"&lt;", "<"},   {"&gt;", ">"},    {"&#39;", "'"},
                                              {"&#34;", "\""}, {"&quot;", "\""}, {"&amp;", "&"}};

    for (size_t i = 0; i < sizeof entities / sizeof entities[0]; i++)
        s = jinja_str_replace(r, s, jinja_string_z(&r->arena, entities[i][0]).as.string,
                              jinja_string_z(&r->arena, entities[i][1]).as.string, -1)
                .as.string;
    return (struct jinja_value){.kind = JINJA_STRING, .as.string = s};
}

FILTER(striptags)
{
    struct jinja_writer w = jinja_writer_new(r, 64);
    const struct jinja_string *s = jinja_str(r, self).as.string;
    bool blank = false;
    size_t used;

    (void)argv, (void)args;
    jinja_charge(&r->arena, s->n);
    s = cut_between(r, s, "<!--", "-->").as.string;
    s = cut_between(r, s, "<", ">").as.string;
    for (size_t i = 0; i < s->n; i += used) {
        bool space = jinja_is_space(jinja_utf8_get(s->p + i, &used));
        if (!space && blank && w.n)
            jinja_write_char(&w, ' ');
        if (!space)
            jinja_write(&w, s->p + i, used);
        blank = space;
    }
    return unescape_entities(r, jinja_written(&w).as.string);
}

const struct jinja_function jinja_text_filters[] = {
    {"upper", "/", filter_upper, 0},
    {"lower", "/", filter_lower, 0},
    {"capitalize", "/", filter_capitalize, 0},
    {"title", "/", filter_title, 0},
    {"trim", "chars", filter_trim, 0},
    {"string", "/", filter_string, 0},
    {"safe", "/", filter_safe, 0},
    {"e", "/", filter_escape, 0},
    {"escape", "/", filter_escape, 0},
    {"forceescape", "/", filter_forceescape, 0},
    {"replace", "old,new,count", filter_replace, 2},
    {"center", "width", filter_center, 0},
    {"format", NULL, filter_format, 0},
    {"indent", "width,first,blank", filter_indent, 0},
    {"truncate", "length,killwords,end,leeway", filter_truncate, 0},
    {"wordcount", "/", filter_wordcount, 0},
    {"urlencode", "/", filter_urlencode, 0},
    {"striptags", "/", filter_striptags, 0},
};
const size_t jinja_text_filters_n = sizeof jinja_text_filters / sizeof jinja_text_filters[0];
