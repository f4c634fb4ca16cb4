/* Values as text: str(), repr() and HTML escaping, and the writer that builds strings. */
#include "core/jinja/number.h"
#include "core/jinja/render.h"
#include "core/jinja/unicode.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct jinja_writer jinja_writer_new(struct jinja_render *r, size_t capacity)
{
    struct jinja_writer w = {.r = r, .capacity = capacity < 32 ? 32 : (capacity + 15) & ~(size_t)15};

    w.p = jinja_alloc(&r->arena, w.capacity);
    return w;
}

static void make_room(struct jinja_writer *w, size_t n)
{
    size_t capacity = w->capacity * 2;
    char *p;

    if (n > SIZE_MAX / 4 - w->n)
        jinja_fail(&w->r->arena, SHARPI_TEMPLATE_LIMIT, "a text grew beyond all limits");
    while (capacity < w->n + n)
        capacity *= 2;
    if (!jinja_extend(&w->r->arena, w->p, w->capacity, capacity)) {
        p = jinja_alloc(&w->r->arena, capacity);
        memcpy(p, w->p, w->n);
        w->p = p;
    }
    w->capacity = capacity;
}

void jinja_write(struct jinja_writer *w, const char *p, size_t n)
{
    if (n > w->capacity - w->n)
        make_room(w, n);
    if (n)
        memcpy(w->p + w->n, p, n);
    w->n += n;
    if (n >= 64)
        jinja_charge(&w->r->arena, n);
}

void jinja_write_z(struct jinja_writer *w, const char *text)
{
    jinja_write(w, text, strlen(text));
}

void jinja_write_char(struct jinja_writer *w, char c)
{
    if (w->n == w->capacity)
        make_room(w, 1);
    w->p[w->n++] = c;
}

void jinja_write_point(struct jinja_writer *w, uint32_t c)
{
    if (w->capacity - w->n < 4)
        make_room(w, 4);
    w->n += jinja_utf8_put(c, w->p + w->n);
}

void jinja_write_escaped(struct jinja_writer *w, const struct jinja_string *s)
{
    jinja_charge(&w->r->arena, s->n);
    for (size_t i = 0; i < s->n; i++) {
        char c = s->p[i];
        const char *entity = c == '&'    ? "&amp;"
                             : c == '<'  ? "&lt;"
                             : c == '>'  ? "&gt;"
                             : c == '\'' ? "&#39;"
                             : c == '"'  ? "&#34;"
                                         : NULL;
        if (entity)
            jinja_write_z(w, entity);
        else
            jinja_write_char(w, c);
    }
}

struct jinja_value jinja_written(struct jinja_writer *w)
{
    jinja_shrink(&w->r->arena, w->p, w->capacity, w->n ? w->n : 1);
    return jinja_string_of(&w->r->arena, w->p, w->n);
}

/* Python quotes with ' unless the text has ' and no ". */
static void write_quoted(struct jinja_writer *w, const struct jinja_string *s)
{
    char quote = memchr(s->p, '\'', s->n) && !memchr(s->p, '"', s->n) ? '"' : '\'';
    char code[16];
    size_t used;

    jinja_charge(&w->r->arena, s->n);
    jinja_write_char(w, quote);
    for (size_t i = 0; i < s->n; i += used) {
        uint32_t c = jinja_utf8_get(s->p + i, &used);
        const char *simple = c == '\\'   ? "\\\\"
                             : c == '\n' ? "\\n"
                             : c == '\r' ? "\\r"
                             : c == '\t' ? "\\t"
                                         : NULL;
        if (c == (unsigned char)quote) {
            jinja_write_char(w, '\\');
            jinja_write_char(w, quote);
        } else if (simple) {
            jinja_write_z(w, simple);
        } else if (c < 0x7F ? c >= 32 : jinja_is_printable(c)) {
            jinja_write(w, s->p + i, used);
        } else {
            snprintf(code, sizeof code,
                     c < 0x100     ? "\\x%02" PRIx32
                     : c < 0x10000 ? "\\u%04" PRIx32
                                   : "\\U%08" PRIx32,
                     c);
            jinja_write_z(w, code);
        }
    }
    jinja_write_char(w, quote);
}

static void write_items(struct jinja_writer *w, const struct jinja_array *array, const char *open,
                        const char *close)
{
    jinja_write_z(w, open);
    for (uint32_t i = 0; i < array->n; i++) {
        if (i)
            jinja_write_z(w, ", ");
        jinja_write_repr(w, array->items[i]);
    }
    jinja_write_z(w, close);
}

static void write_dict(struct jinja_writer *w, const struct jinja_dict *dict)
{
    jinja_write_char(w, '{');
    for (uint32_t i = 0; i < dict->n; i++) {
        if (i)
            jinja_write_z(w, ", ");
        jinja_write_repr(w, dict->entries[i].key);
        jinja_write_z(w, ": ");
        jinja_write_repr(w, dict->entries[i].value);
    }
    jinja_write_char(w, '}');
}

static void write_view(struct jinja_writer *w, const struct jinja_view *view)
{
    static const char *const opens[] = {"dict_keys([", "dict_values([", "dict_items(["};

    jinja_write_z(w, opens[view->what]);
    for (uint32_t i = 0; i < view->dict->n; i++) {
        const struct jinja_entry *entry = &view->dict->entries[i];
        jinja_write_z(w, i ? ", " : "");
        if (view->what == JINJA_ITEMS)
            jinja_write_char(w, '(');
        if (view->what != JINJA_VALUES)
            jinja_write_repr(w, entry->key);
        if (view->what == JINJA_ITEMS)
            jinja_write_z(w, ", ");
        if (view->what != JINJA_KEYS)
            jinja_write_repr(w, entry->value);
        if (view->what == JINJA_ITEMS)
            jinja_write_char(w, ')');
    }
    jinja_write_z(w, "])");
}

static void write_range(struct jinja_writer *w, const struct jinja_span *range)
{
    char text[96];

    if (range->step == 1)
        snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ")", range->start, range->stop);
    else
        snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", range->start, range->stop,
                 range->step);
    jinja_write_z(w, text);
}

static void write_macro(struct jinja_writer *w, const struct jinja_macro *macro)
{
    const struct jinja_string *name = jinja_macro_name(macro);

    jinja_write_z(w, "<Macro ");
    if (name)
        write_quoted(w, name);
    else
        jinja_write_z(w, "anonymous");
    jinja_write_char(w, '>');
}

/* Objects without a text of their own; Python adds an address, which we do not have. */
static void write_object(struct jinja_writer *w, struct jinja_value v)
{
    if (v.kind == JINJA_METHOD) {
        jinja_write_z(w, "<built-in method ");
        jinja_write_z(w, v.as.method->function->name);
        jinja_write_z(w, " of ");
        jinja_write_z(w, jinja_type_name(v.as.method->self));
        jinja_write_z(w, " object>");
        return;
    }
    jinja_write_char(w, '<');
    jinja_write_z(w, jinja_type_name(v));
    if (v.kind == JINJA_FUNCTION) {
        jinja_write_char(w, ' ');
        jinja_write_z(w, v.as.function->name);
    } else {
        jinja_write_z(w, " object");
    }
    jinja_write_char(w, '>');
}

static void write_number(struct jinja_writer *w, struct jinja_value v)
{
    char text[JINJA_NUMBER_ROOM];

    if (v.kind == JINJA_FLOAT)
        jinja_write(w, text, jinja_format_double(v.as.real, text));
    else
        jinja_write(w, text, (size_t)snprintf(text, sizeof text, "%" PRId64, v.as.integer));
}

static void write_container(struct jinja_writer *w, struct jinja_value v)
{
    jinja_enter(&w->r->arena);
    jinja_charge(&w->r->arena, 0);
    if (v.kind == JINJA_LIST)
        write_items(w, v.as.array, "[", "]");
    else if (v.kind == JINJA_TUPLE)
        write_items(w, v.as.array, "(", v.as.array->n == 1 ? ",)" : ")");
    else if (v.kind == JINJA_DICT)
        write_dict(w, v.as.dict);
    else if (v.kind == JINJA_VIEW)
        write_view(w, v.as.view);
    else {
        jinja_write_z(w, "<Namespace ");
        write_dict(w, v.as.dict);
        jinja_write_char(w, '>');
    }
    jinja_leave(&w->r->arena);
}

void jinja_write_repr(struct jinja_writer *w, struct jinja_value v)
{
    switch (v.kind) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
        jinja_write_z(w, "Undefined");
        break;
    case JINJA_NONE:
        jinja_write_z(w, "None");
        break;
    case JINJA_BOOL:
        jinja_write_z(w, v.as.boolean ? "True" : "False");
        break;
    case JINJA_INT:
    case JINJA_FLOAT:
        write_number(w, v);
        break;
    case JINJA_STRING:
        jinja_write_z(w, v.as.string->markup ? "Markup(" : "");
        write_quoted(w, v.as.string);
        jinja_write_z(w, v.as.string->markup ? ")" : "");
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
    case JINJA_VIEW:
    case JINJA_NAMESPACE:
        write_container(w, v);
        break;
    case JINJA_RANGE:
        write_range(w, v.as.range);
        break;
    case JINJA_MACRO:
        write_macro(w, v.as.macro);
        break;
    default:
        write_object(w, v);
    }
}

void jinja_write_str(struct jinja_writer *w, struct jinja_value v)
{
    if (v.kind == JINJA_STRING)
        jinja_write(w, v.as.string->p, v.as.string->n);
    else if (v.kind != JINJA_UNDEFINED && v.kind != JINJA_MISSING)
        jinja_write_repr(w, v);
}

struct jinja_value jinja_soft_str(struct jinja_render *r, struct jinja_value v)
{
    struct jinja_writer w;

    if (v.kind == JINJA_STRING)
        return v;
    w = jinja_writer_new(r, 0);
    jinja_write_str(&w, v);
    return jinja_written(&w);
}

struct jinja_value jinja_str(struct jinja_render *r, struct jinja_value v)
{
    return jinja_string_marked(&r->arena, jinja_soft_str(r, v), false);
}

struct jinja_value jinja_repr(struct jinja_render *r, struct jinja_value v)
{
    struct jinja_writer w = jinja_writer_new(r, 0);

    jinja_write_repr(&w, v);
    return jinja_written(&w);
}

struct jinja_value jinja_escape(struct jinja_render *r, struct jinja_value v)
{
    struct jinja_writer w;

    v = jinja_soft_str(r, v);
    if (v.as.string->markup)
        return v;
    w = jinja_writer_new(r, v.as.string->n);
    jinja_write_escaped(&w, v.as.string);
    return jinja_string_marked(&r->arena, jinja_written(&w), true);
}
