/* Filters on sequences and mappings. */
#include "core/jinja/library.h"
#include "core/jinja/number.h"
#include "core/jinja/render.h"
#include "core/jinja/unicode.h"

#include <string.h>

#define FILTER(name)                                                                                         \
    static struct jinja_value filter_##name(struct jinja_render *r, struct jinja_value self,                 \
                                            const struct jinja_value *argv, const struct jinja_args *args)

struct jinja_value jinja_fold_case(struct jinja_render *r, struct jinja_value v)
{
    return v.kind == JINJA_STRING ? jinja_str_lower(r, v.as.string) : v;
}

static struct jinja_value part_key(struct jinja_render *r, const char *p, size_t n)
{
    int64_t index;
    bool digits = n > 0;

    for (size_t i = 0; i < n; i++)
        digits = digits && p[i] >= '0' && p[i] <= '9';
    if (digits && jinja_parse_integer(p, n, 10, &index))
        return jinja_int(index);
    return jinja_string_of(&r->arena, p, n);
}

struct jinja_value jinja_attribute_path(struct jinja_render *r, struct jinja_value item,
                                        struct jinja_value path, struct jinja_value otherwise)
{
    const char *p, *end;

    if (path.kind == JINJA_NONE || path.kind == JINJA_MISSING)
        return item;
    if (path.kind != JINJA_STRING)
        return jinja_get_item(r, item, path);
    p = path.as.string->p;
    end = p + path.as.string->n;
    for (;;) {
        const char *dot = memchr(p, '.', (size_t)(end - p));
        size_t n = (size_t)((dot ? dot : end) - p);

        jinja_charge(&r->arena, 0);
        item = jinja_get_item(r, item, part_key(r, p, n));
        if (item.kind == JINJA_UNDEFINED && otherwise.kind != JINJA_MISSING && otherwise.kind != JINJA_NONE)
            item = otherwise;
        if (!dot)
            return item;
        p = dot + 1;
    }
}

FILTER(length)
{
    int64_t n = jinja_length(r, self);

    (void)argv, (void)args;
    if (n < 0)
        jinja_error(&r->arena, "object of type '%s' has no len()", jinja_type_name(self));
    return jinja_int(n);
}

FILTER(list)
{
    (void)argv, (void)args;
    return jinja_list_of(r, self);
}

FILTER(first)
{
    struct jinja_value v;

    (void)argv, (void)args;
    if (jinja_step(r, jinja_iterate(r, self), &v))
        return v;
    return jinja_undefined_hint(&r->arena, "No first item, sequence was empty.");
}

static struct jinja_value reversed_list(struct jinja_render *r, struct jinja_value v)
{
    struct jinja_array *array = jinja_list_of(r, v).as.array;

    for (uint32_t i = 0; i < array->n / 2; i++) {
        struct jinja_value item = array->items[i];
        array->items[i] = array->items[array->n - 1 - i];
        array->items[array->n - 1 - i] = item;
    }
    return (struct jinja_value){.kind = JINJA_LIST, .as.array = array};
}

FILTER(last)
{
    struct jinja_array *array;

    (void)argv, (void)args;
    if (self.kind == JINJA_ITERATOR || !jinja_iterable(self))
        jinja_error(&r->arena, "'%s' object is not reversible", jinja_type_name(self));
    if (self.kind == JINJA_STRING && self.as.string->n)
        return jinja_str(r, jinja_get_item(r, self, jinja_int(-1)));
    if ((self.kind == JINJA_LIST || self.kind == JINJA_TUPLE) && self.as.array->n)
        return self.as.array->items[self.as.array->n - 1];
    array = jinja_list_of(r, self).as.array;
    if (array->n)
        return array->items[array->n - 1];
    return jinja_undefined_hint(&r->arena, "No last item, sequence was empty.");
}

FILTER(reverse)
{
    (void)argv, (void)args;
    if (self.kind == JINJA_STRING)
        return jinja_slice_of(r, self, jinja_none(), jinja_none(), jinja_int(-1));
    if (!jinja_iterable(self))
        jinja_error(&r->arena, "argument must be iterable");
    if (self.kind == JINJA_ITERATOR)
        return reversed_list(r, self);
    return jinja_iterator_of(r, reversed_list(r, self).as.array);
}

FILTER(join)
{
    struct jinja_writer w = jinja_writer_new(r, 64);
    struct jinja_iterator *it = jinja_iterate(r, self);
    const struct jinja_string *between =
        argv[0].kind == JINJA_MISSING ? NULL : jinja_str(r, argv[0]).as.string;
    struct jinja_value v, none = {0};
    bool first = true;

    (void)args;
    while (jinja_step(r, it, &v)) {
        jinja_charge(&r->arena, 0);
        if (argv[1].kind != JINJA_MISSING && argv[1].kind != JINJA_NONE)
            v = jinja_attribute_path(r, v, argv[1], none);
        if (!first && between)
            jinja_write(&w, between->p, between->n);
        jinja_write_str(&w, v);
        first = false;
    }
    return jinja_written(&w);
}

FILTER(items)
{
    struct jinja_view *view;

    (void)argv, (void)args;
    if (self.kind == JINJA_UNDEFINED)
        return jinja_iterator_of(r, jinja_array_new(&r->arena, JINJA_LIST, 0).as.array);
    if (self.kind != JINJA_DICT)
        jinja_error(&r->arena, "Can only get item pairs from a mapping.");
    view = jinja_calloc(&r->arena, 1, sizeof *view);
    *view = (struct jinja_view){self.as.dict, JINJA_ITEMS};
    return jinja_iterator_of(
        r, jinja_list_of(r, (struct jinja_value){.kind = JINJA_VIEW, .as.view = view}).as.array);
}

FILTER(dictsort)
{
    bool sensitive = jinja_truth(r, argv[0]), by_value = jinja_string_is(argv[1], "value");
    struct jinja_value pairs, *keys;

    (void)args;
    if (!by_value && argv[1].kind != JINJA_MISSING && !jinja_string_is(argv[1], "key"))
        jinja_error(&r->arena, "You can only sort by either \"key\" or \"value\"");
    if (self.kind == JINJA_UNDEFINED)
        jinja_error_undefined(&r->arena, self);
    if (self.kind != JINJA_DICT)
        jinja_error(&r->arena, "'%s' object has no attribute 'items'", jinja_type_name(self));
    pairs = jinja_array_new(&r->arena, JINJA_LIST, self.as.dict->n);
    keys = jinja_calloc(&r->arena, self.as.dict->n, sizeof *keys);
    for (uint32_t i = 0; i < self.as.dict->n; i++) {
        const struct jinja_entry *entry = &self.as.dict->entries[i];
        jinja_array_add(&r->arena, pairs.as.array, jinja_pair(r, entry->key, entry->value));
        keys[i] = by_value ? entry->value : entry->key;
        if (!sensitive)
            keys[i] = jinja_fold_case(r, keys[i]);
    }
    return jinja_sorted(r, pairs, keys, jinja_truth(r, argv[2]));
}

/* "a,b.c" gives a list of values; without attributes the list of the item alone. */
static struct jinja_value sort_key(struct jinja_render *r, struct jinja_value item,
                                   struct jinja_value attribute, bool sensitive)
{
    struct jinja_value key = jinja_array_new(&r->arena, JINJA_LIST, 1), none = {0}, v;
    const char *p, *end;

    if (attribute.kind != JINJA_STRING) {
        v = jinja_attribute_path(r, item, attribute, none);
        jinja_array_add(&r->arena, key.as.array, sensitive ? v : jinja_fold_case(r, v));
        return key;
    }
    p = attribute.as.string->p;
    end = p + attribute.as.string->n;
    for (;;) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        struct jinja_value path = jinja_string_of(&r->arena, p, (size_t)((comma ? comma : end) - p));

        v = jinja_attribute_path(r, item, path, none);
        jinja_array_add(&r->arena, key.as.array, sensitive ? v : jinja_fold_case(r, v));
        if (!comma)
            return key;
        p = comma + 1;
    }
}

FILTER(sort)
{
    struct jinja_value list = jinja_list_of(r, self), *keys;
    bool sensitive = jinja_truth(r, argv[1]);

    (void)args;
    keys = jinja_calloc(&r->arena, list.as.array->n, sizeof *keys);
    for (uint32_t i = 0; i < list.as.array->n; i++)
        keys[i] = sort_key(r, list.as.array->items[i], argv[2], sensitive);
    return jinja_sorted(r, list, keys, jinja_truth(r, argv[0]));
}

static struct jinja_value item_key(struct jinja_render *r, struct jinja_value item,
                                   struct jinja_value attribute, bool sensitive, struct jinja_value otherwise)
{
    struct jinja_value key = jinja_attribute_path(r, item, attribute, otherwise);

    return sensitive ? key : jinja_fold_case(r, key);
}

FILTER(unique)
{
    struct jinja_value seen = jinja_dict_new(&r->arena), out = jinja_array_new(&r->arena, JINJA_LIST, 0), v;
    struct jinja_value none = {0};
    struct jinja_iterator *it = jinja_iterate(r, self);
    bool sensitive = jinja_truth(r, argv[0]);

    (void)args;
    while (jinja_step(r, it, &v)) {
        struct jinja_value key = item_key(r, v, argv[1], sensitive, none);
        jinja_charge(&r->arena, 0);
        if (jinja_dict_find(&r->arena, seen.as.dict, key))
            continue;
        jinja_dict_put(&r->arena, seen.as.dict, key, jinja_none());
        jinja_array_add(&r->arena, out.as.array, v);
    }
    return jinja_iterator_of(r, out.as.array);
}

static struct jinja_value extreme(struct jinja_render *r, struct jinja_value self,
                                  const struct jinja_value *argv, int32_t op)
{
    struct jinja_iterator *it = jinja_iterate(r, self);
    bool sensitive = jinja_truth(r, argv[0]);
    struct jinja_value best, best_key, v, none = {0};

    if (!jinja_step(r, it, &best))
        return jinja_undefined_hint(&r->arena, "No aggregated item, sequence was empty.");
    best_key = item_key(r, best, argv[1], sensitive, none);
    while (jinja_step(r, it, &v)) {
        struct jinja_value key = item_key(r, v, argv[1], sensitive, none);
        if (!jinja_ordered(r, op, key, best_key))
            continue;
        best = v;
        best_key = key;
    }
    return best;
}

FILTER(min)
{
    (void)args;
    return extreme(r, self, argv, '<');
}

FILTER(max)
{
    (void)args;
    return extreme(r, self, argv, '>');
}

FILTER(sum)
{
    struct jinja_value total = argv[1].kind == JINJA_MISSING ? jinja_int(0) : argv[1], v, none = {0};
    struct jinja_iterator *it = jinja_iterate(r, self);

    (void)args;
    if (total.kind == JINJA_STRING)
        jinja_error(&r->arena, "sum() can't sum strings [use ''.join(seq) instead]");
    while (jinja_step(r, it, &v))
        total = jinja_binary(r, '+', total, jinja_attribute_path(r, v, argv[0], none));
    return total;
}

FILTER(batch)
{
    struct jinja_value out = jinja_array_new(&r->arena, JINJA_LIST, 0), row = {0}, v;
    int64_t size = jinja_need_int(r, argv[0], "the size of batch");
    struct jinja_iterator *it = jinja_iterate(r, self);

    (void)args;
    while (jinja_step(r, it, &v)) {
        if (row.kind == JINJA_MISSING || row.as.array->n == size) {
            if (row.kind == JINJA_MISSING && size == 0)
                jinja_array_add(&r->arena, out.as.array, jinja_array_new(&r->arena, JINJA_LIST, 0));
            row = jinja_array_new(&r->arena, JINJA_LIST, 0);
            jinja_array_add(&r->arena, out.as.array, row);
        }
        jinja_array_add(&r->arena, row.as.array, v);
    }
    if (row.kind && argv[1].kind != JINJA_MISSING && argv[1].kind != JINJA_NONE)
        while (row.as.array->n < size) {
            jinja_charge(&r->arena, 0);
            jinja_array_add(&r->arena, row.as.array, argv[1]);
        }
    return jinja_iterator_of(r, out.as.array);
}

FILTER(slice)
{
    struct jinja_array *array = jinja_list_of(r, self).as.array;
    struct jinja_value out = jinja_array_new(&r->arena, JINJA_LIST, 0);
    int64_t slices = jinja_need_int(r, argv[0], "the number of slices"), at = 0;

    (void)args;
    if (slices == 0)
        jinja_error(&r->arena, "integer division or modulo by zero");
    for (int64_t i = 0; i < slices; i++) {
        struct jinja_value part = jinja_array_new(&r->arena, JINJA_LIST, 0);
        int64_t n = array->n / slices + (i < array->n % slices);

        jinja_charge(&r->arena, 0);
        for (int64_t k = 0; k < n; k++)
            jinja_array_add(&r->arena, part.as.array, array->items[at++]);
        if (argv[1].kind != JINJA_MISSING && argv[1].kind != JINJA_NONE && i >= array->n % slices)
            jinja_array_add(&r->arena, part.as.array, argv[1]);
        jinja_array_add(&r->arena, out.as.array, part);
    }
    return jinja_iterator_of(r, out.as.array);
}

FILTER(groupby)
{
    struct jinja_value list = jinja_list_of(r, self), *keys, none = {0};
    struct jinja_value out = jinja_array_new(&r->arena, JINJA_LIST, 0), group = none, last = none;
    bool sensitive = jinja_truth(r, argv[2]);

    (void)args;
    keys = jinja_calloc(&r->arena, list.as.array->n, sizeof *keys);
    for (uint32_t i = 0; i < list.as.array->n; i++)
        keys[i] = item_key(r, list.as.array->items[i], argv[0], sensitive, argv[1]);
    list = jinja_sorted(r, list, keys, false);
    for (uint32_t i = 0; i < list.as.array->n; i++) {
        struct jinja_value item = list.as.array->items[i],
                           key = item_key(r, item, argv[0], sensitive, argv[1]);
        if (i == 0 || !jinja_equal(&r->arena, key, last)) {
            struct jinja_value shown = sensitive ? key : jinja_attribute_path(r, item, argv[0], argv[1]),
                               pair;
            group = jinja_array_new(&r->arena, JINJA_LIST, 0);
            pair = jinja_pair(r, shown, group);
            pair.as.array->is_group = true;
            jinja_array_add(&r->arena, out.as.array, pair);
            last = key;
        }
        jinja_array_add(&r->arena, group.as.array, item);
    }
    return out;
}

const struct jinja_function jinja_sequence_filters[] = {
    {"length", "/", filter_length, 0},
    {"count", "/", filter_length, 0},
    {"list", "/", filter_list, 0},
    {"first", "/", filter_first, 0},
    {"last", "/", filter_last, 0},
    {"reverse", "/", filter_reverse, 0},
    {"join", "d,attribute", filter_join, 0},
    {"items", "/", filter_items, 0},
    {"dictsort", "case_sensitive,by,reverse", filter_dictsort, 0},
    {"sort", "reverse,case_sensitive,attribute", filter_sort, 0},
    {"unique", "case_sensitive,attribute", filter_unique, 0},
    {"min", "case_sensitive,attribute", filter_min, 0},
    {"max", "case_sensitive,attribute", filter_max, 0},
    {"sum", "attribute,start", filter_sum, 0},
    {"batch", "linecount,fill_with", filter_batch, 1},
    {"slice", "slices,fill_with", filter_slice, 1},
    {"groupby", "attribute,default,case_sensitive", filter_groupby, 1},
};
const size_t jinja_sequence_filters_n = sizeof jinja_sequence_filters / sizeof jinja_sequence_filters[0];
