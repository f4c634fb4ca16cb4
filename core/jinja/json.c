/* JSON in and out: the context becomes values, and `tojson` is Python's json.dumps, byte for byte. */
#include "core/jinja/number.h"
#include "core/jinja/render.h"
#include "core/jinja/unicode.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static struct jinja_value from_text(struct jinja_render *r, const char *p, size_t n)
{
    jinja_charge(&r->arena, n);
    if (jinja_utf8_check(p, n) != n)
        jinja_error(&r->arena, "the context has a string that is no valid UTF-8");
    return jinja_string_of(&r->arena, p, n);
}

static struct jinja_value from_object(struct jinja_render *r, json_t *json)
{
    struct jinja_value dict = jinja_dict_new(&r->arena);
    const char *key;
    json_t *value;

    json_object_foreach(json, key, value)
        jinja_dict_put(&r->arena, dict.as.dict, from_text(r, key, strlen(key)), jinja_from_json(r, value));
    return dict;
}

static struct jinja_value from_array(struct jinja_render *r, const json_t *json)
{
    size_t n = json_array_size(json);
    struct jinja_value list;

    if (n > UINT32_MAX / 2)
        jinja_fail(&r->arena, SHARPI_TEMPLATE_LIMIT, "an array of the context has too many elements");
    list = jinja_array_new(&r->arena, JINJA_LIST, (uint32_t)n);
    for (size_t i = 0; i < n; i++)
        jinja_array_add(&r->arena, list.as.array, jinja_from_json(r, json_array_get(json, i)));
    return list;
}

struct jinja_value jinja_from_json(struct jinja_render *r, const json_t *json)
{
    struct jinja_value v;

    jinja_charge(&r->arena, 0);
    jinja_enter(&r->arena);
    switch (json ? json_typeof(json) : JSON_NULL) {
    case JSON_OBJECT:
        v = from_object(r, (json_t *)(uintptr_t)json);
        break;
    case JSON_ARRAY:
        v = from_array(r, json);
        break;
    case JSON_STRING:
        v = from_text(r, json_string_value(json), json_string_length(json));
        break;
    case JSON_INTEGER:
        v = jinja_int(json_integer_value(json));
        break;
    case JSON_REAL:
        v = jinja_float(json_real_value(json));
        break;
    case JSON_TRUE:
        v = jinja_bool(true);
        break;
    case JSON_FALSE:
        v = jinja_bool(false);
        break;
    default:
        v = jinja_none();
    }
    jinja_leave(&r->arena);
    return v;
}

struct dump {
    struct jinja_writer w;
    bool ascii, sort, lines;
    const struct jinja_string *indent; /* of one level */
    const struct jinja_string *between, *colon;
    uint32_t level;
};

static void dump_value(struct dump *d, struct jinja_value v);

static void dump_escape(struct jinja_writer *w, uint32_t c)
{
    char text[16];

    if (c >= 0x10000)
        snprintf(text, sizeof text, "\\u%04" PRIx32 "\\u%04" PRIx32, 0xD800 + ((c - 0x10000) >> 10),
                 0xDC00 + ((c - 0x10000) & 0x3FF));
    else
        snprintf(text, sizeof text, "\\u%04" PRIx32, c);
    jinja_write_z(w, text);
}

static void dump_string(struct dump *d, const struct jinja_string *s)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    size_t used;

    jinja_charge(&d->w.r->arena, s->n);
    jinja_write_char(&d->w, '"');
    for (size_t i = 0; i < s->n; i += used) {
        uint32_t c = jinja_utf8_get(s->p + i, &used);
        const char *simple = c && c < 0x80 ? strchr(from, (int)c) : NULL;
        if (simple) {
            jinja_write_char(&d->w, '\\');
            jinja_write_char(&d->w, to[simple - from]);
        } else if (c < 32 || (d->ascii && c > 126)) {
            dump_escape(&d->w, c);
        } else {
            jinja_write(&d->w, s->p + i, used);
        }
    }
    jinja_write_char(&d->w, '"');
}

static void dump_number(struct dump *d, struct jinja_value v)
{
    char text[JINJA_NUMBER_ROOM];

    if (v.kind == JINJA_INT)
        jinja_write(&d->w, text, (size_t)snprintf(text, sizeof text, "%" PRId64, v.as.integer));
    else if (isnan(v.as.real))
        jinja_write_z(&d->w, "NaN");
    else if (isinf(v.as.real))
        jinja_write_z(&d->w, v.as.real < 0 ? "-Infinity" : "Infinity");
    else
        jinja_write(&d->w, text, jinja_format_double(v.as.real, text));
}

static void new_line(struct dump *d)
{
    if (!d->lines)
        return;
    jinja_write_char(&d->w, '\n');
    for (uint32_t i = 0; i < d->level; i++)
        jinja_write(&d->w, d->indent->p, d->indent->n);
}

static void dump_array(struct dump *d, const struct jinja_array *array)
{
    if (array->n == 0) {
        jinja_write_z(&d->w, "[]");
        return;
    }
    jinja_write_char(&d->w, '[');
    d->level++;
    for (uint32_t i = 0; i < array->n; i++) {
        if (i)
            jinja_write(&d->w, d->between->p, d->between->n);
        new_line(d);
        dump_value(d, array->items[i]);
    }
    d->level--;
    new_line(d);
    jinja_write_char(&d->w, ']');
}

static void dump_key(struct dump *d, struct jinja_value key)
{
    if (key.kind == JINJA_STRING) {
        dump_string(d, key.as.string);
        return;
    }
    if (key.kind != JINJA_NONE && !jinja_is_number(key))
        jinja_error(&d->w.r->arena, "keys must be str, int, float, bool or None, not %s",
                    jinja_type_name(key));
    jinja_write_char(&d->w, '"');
    dump_value(d, key);
    jinja_write_char(&d->w, '"');
}

/* The entries in the order of their keys. */
static const struct jinja_entry *sorted_entries(struct jinja_render *r, const struct jinja_dict *dict)
{
    struct jinja_value indices = jinja_array_new(&r->arena, JINJA_LIST, dict->n);
    struct jinja_value *keys = jinja_calloc(&r->arena, dict->n, sizeof *keys);
    struct jinja_entry *entries = jinja_calloc(&r->arena, dict->n, sizeof *entries);

    for (uint32_t i = 0; i < dict->n; i++) {
        keys[i] = dict->entries[i].key;
        jinja_array_add(&r->arena, indices.as.array, jinja_int(i));
    }
    indices = jinja_sorted(r, indices, keys, false);
    for (uint32_t i = 0; i < dict->n; i++)
        entries[i] = dict->entries[indices.as.array->items[i].as.integer];
    return entries;
}

static void dump_dict(struct dump *d, const struct jinja_dict *dict)
{
    const struct jinja_entry *entries = dict->entries;

    if (dict->n == 0) {
        jinja_write_z(&d->w, "{}");
        return;
    }
    if (d->sort)
        entries = sorted_entries(d->w.r, dict);
    jinja_write_char(&d->w, '{');
    d->level++;
    for (uint32_t i = 0; i < dict->n; i++) {
        if (i)
            jinja_write(&d->w, d->between->p, d->between->n);
        new_line(d);
        dump_key(d, entries[i].key);
        jinja_write(&d->w, d->colon->p, d->colon->n);
        dump_value(d, entries[i].value);
    }
    d->level--;
    new_line(d);
    jinja_write_char(&d->w, '}');
}

static void dump_value(struct dump *d, struct jinja_value v)
{
    jinja_enter(&d->w.r->arena);
    jinja_charge(&d->w.r->arena, 0);
    switch (v.kind) {
    case JINJA_NONE:
        jinja_write_z(&d->w, "null");
        break;
    case JINJA_BOOL:
        jinja_write_z(&d->w, v.as.boolean ? "true" : "false");
        break;
    case JINJA_INT:
    case JINJA_FLOAT:
        dump_number(d, v);
        break;
    case JINJA_STRING:
        dump_string(d, v.as.string);
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
        dump_array(d, v.as.array);
        break;
    case JINJA_DICT:
        dump_dict(d, v.as.dict);
        break;
    default:
        jinja_error(&d->w.r->arena, "Object of type %s is not JSON serializable", jinja_type_name(v));
    }
    jinja_leave(&d->w.r->arena);
}

static void set_indent(struct dump *d, struct jinja_value indent)
{
    struct jinja_render *r = d->w.r;
    struct jinja_value blank = jinja_string_z(&r->arena, " ");

    d->lines = indent.kind != JINJA_MISSING && indent.kind != JINJA_NONE;
    if (!d->lines)
        return;
    if (indent.kind != JINJA_STRING)
        indent = jinja_binary(r, '*', blank, jinja_int(jinja_need_int(r, indent, "the indent of tojson")));
    d->indent = indent.as.string;
}

static void set_separators(struct dump *d, struct jinja_value separators)
{
    struct jinja_render *r = d->w.r;
    struct jinja_value list;

    d->between = jinja_string_z(&r->arena, d->lines ? "," : ", ").as.string;
    d->colon = jinja_string_z(&r->arena, ": ").as.string;
    if (separators.kind == JINJA_MISSING || separators.kind == JINJA_NONE)
        return;
    list = jinja_list_of(r, separators);
    if (list.as.array->n != 2)
        jinja_error(&r->arena, "the separators of tojson must be two strings");
    d->between = jinja_need_string(r, list.as.array->items[0], "a separator of tojson");
    d->colon = jinja_need_string(r, list.as.array->items[1], "a separator of tojson");
}

static struct jinja_value filter_tojson(struct jinja_render *r, struct jinja_value self,
                                        const struct jinja_value *argv, const struct jinja_args *args)
{
    struct dump d = {.w = jinja_writer_new(r, 256)};

    (void)args;
    d.ascii = jinja_truth(r, argv[0]);
    d.sort = jinja_truth(r, argv[3]);
    set_indent(&d, argv[1]);
    set_separators(&d, argv[2]);
    dump_value(&d, self);
    return jinja_written(&d.w);
}

const struct jinja_function jinja_tojson_filter = {"tojson", "ensure_ascii,indent,separators,sort_keys",
                                                   filter_tojson, 0};
