/* Methods of str that search, split, join, replace and format. */
#include "core/jinja/library.h"
#include "core/jinja/render.h"
#include "core/jinja/unicode.h"

#include <string.h>

#define METHOD(name)                                                                                         \
    static struct jinja_value str_##name(struct jinja_render *r, struct jinja_value self,                    \
                                         const struct jinja_value *argv, const struct jinja_args *args)

static struct jinja_value list_add(struct jinja_render *r, struct jinja_value list,
                                   const struct jinja_string *s, size_t from, size_t to)
{
    jinja_array_add(&r->arena, list.as.array, jinja_str_part(r, s, from, to));
    return list;
}

static size_t skip_spaces(const struct jinja_string *s, size_t at, bool spaces)
{
    size_t used;

    while (at < s->n && jinja_is_space(jinja_utf8_get(s->p + at, &used)) == spaces)
        at += used;
    return at;
}

static size_t skip_spaces_back(const struct jinja_string *s, size_t at, bool spaces)
{
    size_t used;

    while (at > 0 && jinja_is_space(jinja_utf8_before(s->p + at, &used)) == spaces)
        at -= used;
    return at;
}

/* At runs of white space, none of which is left at either end. */
static struct jinja_value split_spaces(struct jinja_render *r, const struct jinja_string *s, int64_t most)
{
    struct jinja_value list = jinja_array_new(&r->arena, JINJA_LIST, 0);
    size_t at = skip_spaces(s, 0, true);

    for (; at < s->n && most != 0; most--) {
        size_t end = skip_spaces(s, at, false);
        list_add(r, list, s, at, end);
        at = skip_spaces(s, end, true);
    }
    return at < s->n ? list_add(r, list, s, at, most == 0 ? s->n : skip_spaces_back(s, s->n, true)) : list;
}

static struct jinja_value split_at(struct jinja_render *r, const struct jinja_string *s,
                                   const struct jinja_string *separator, int64_t most)
{
    struct jinja_value list = jinja_array_new(&r->arena, JINJA_LIST, 0);
    size_t at = 0;
    const char *found;

    while (most != 0 && (found = memmem(s->p + at, s->n - at, separator->p, separator->n)) != NULL) {
        list_add(r, list, s, at, (size_t)(found - s->p));
        at = (size_t)(found - s->p) + separator->n;
        most--;
    }
    return list_add(r, list, s, at, s->n);
}

static struct jinja_value reversed(struct jinja_value list)
{
    struct jinja_array *array = list.as.array;

    for (uint32_t i = 0; i < array->n / 2; i++) {
        struct jinja_value v = array->items[i];
        array->items[i] = array->items[array->n - 1 - i];
        array->items[array->n - 1 - i] = v;
    }
    return list;
}

static struct jinja_value rsplit_spaces(struct jinja_render *r, const struct jinja_string *s, int64_t most)
{
    struct jinja_value list = jinja_array_new(&r->arena, JINJA_LIST, 0);
    size_t end = skip_spaces_back(s, s->n, true);

    for (; end > 0 && most != 0; most--) {
        size_t start = skip_spaces_back(s, end, false);
        list_add(r, list, s, start, end);
        end = skip_spaces_back(s, start, true);
    }
    if (end > 0)
        list_add(r, list, s, 0, end);
    return reversed(list);
}

static struct jinja_value rsplit_at(struct jinja_render *r, const struct jinja_string *s,
                                    const struct jinja_string *separator, int64_t most)
{
    struct jinja_value list = jinja_array_new(&r->arena, JINJA_LIST, 0);
    size_t end = s->n;
    int64_t found;

    while (most != 0 && (found = jinja_str_find(r, s, separator, 0, end, true)) >= 0) {
        list_add(r, list, s, (size_t)found + separator->n, end);
        end = (size_t)found;
        most--;
    }
    list_add(r, list, s, 0, end);
    return reversed(list);
}

static struct jinja_value split(struct jinja_render *r, struct jinja_value self,
                                const struct jinja_value *argv, bool right)
{
    int64_t most = argv[1].kind == JINJA_MISSING ? -1 : jinja_need_int(r, argv[1], "maxsplit");
    const struct jinja_string *separator;

    jinja_charge(&r->arena, self.as.string->n);
    if (argv[0].kind == JINJA_MISSING || argv[0].kind == JINJA_NONE)
        return right ? rsplit_spaces(r, self.as.string, most) : split_spaces(r, self.as.string, most);
    separator = jinja_need_string(r, argv[0], "a separator");
    if (separator->n == 0)
        jinja_error(&r->arena, "empty separator");
    return right ? rsplit_at(r, self.as.string, separator, most)
                 : split_at(r, self.as.string, separator, most);
}

METHOD(split)
{
    (void)args;
    return split(r, self, argv, false);
}

METHOD(rsplit)
{
    (void)args;
    return split(r, self, argv, true);
}

METHOD(splitlines)
{
    (void)args;
    return jinja_str_lines(r, self.as.string, jinja_truth(r, argv[0]));
}

static struct jinja_value partition(struct jinja_render *r, const struct jinja_string *s,
                                    struct jinja_value by, bool right)
{
    const struct jinja_string *separator = jinja_need_string(r, by, "a separator");
    struct jinja_value parts = jinja_array_new(&r->arena, JINJA_TUPLE, 3);
    int64_t found;
    size_t at, end;

    if (separator->n == 0)
        jinja_error(&r->arena, "empty separator");
    found = jinja_str_find(r, s, separator, 0, s->n, right);
    at = found >= 0 ? (size_t)found : right ? 0 : s->n;
    end = found >= 0 ? at + separator->n : at;
    list_add(r, parts, s, 0, at);
    list_add(r, parts, s, at, end);
    return list_add(r, parts, s, end, s->n);
}

METHOD(partition)
{
    (void)args;
    return partition(r, self.as.string, argv[0], false);
}

METHOD(rpartition)
{
    (void)args;
    return partition(r, self.as.string, argv[0], true);
}

METHOD(join)
{
    const struct jinja_string *s = self.as.string;
    struct jinja_iterator *it = jinja_iterate(r, argv[0]);
    struct jinja_writer w = jinja_writer_new(r, 64);
    struct jinja_value v;

    (void)args;
    for (uint64_t i = 0; jinja_step(r, it, &v); i++) {
        jinja_charge(&r->arena, s->n);
        if (i)
            jinja_write(&w, s->p, s->n);
        if (s->markup)
            v = jinja_escape(r, v);
        if (v.kind != JINJA_STRING)
            jinja_error(&r->arena, "sequence item %llu: expected str instance, %s found",
                        (unsigned long long)i, jinja_type_name(v));
        jinja_write(&w, v.as.string->p, v.as.string->n);
    }
    return jinja_written(&w);
}

METHOD(replace)
{
    int64_t count = argv[2].kind == JINJA_MISSING ? -1 : jinja_need_int(r, argv[2], "the count of replace");
    const struct jinja_string *from = jinja_need_string(r, argv[0], "the first argument of replace");
    const struct jinja_string *to = jinja_need_string(r, argv[1], "the second argument of replace");

    (void)args;
    if (self.as.string->markup)
        to = jinja_escape(r, argv[1]).as.string;
    return jinja_str_replace(r, self.as.string, from, to, count);
}

/* Optional start and end of a search, in characters as Python counts, to bytes. False if the range is empty in a
 * way that not even an empty text is found in. */
static bool search_range(struct jinja_render *r, const struct jinja_string *s, const struct jinja_value *argv,
                         size_t *from, size_t *to)
{
    int64_t n = (int64_t)s->n_points, a = 0, b = n;

    if (argv[0].kind != JINJA_MISSING && argv[0].kind != JINJA_NONE)
        a = jinja_need_int(r, argv[0], "start");
    if (argv[1].kind != JINJA_MISSING && argv[1].kind != JINJA_NONE)
        b = jinja_need_int(r, argv[1], "end");
    a = a < -n ? 0 : a < 0 ? a + n : a;
    b = b < -n ? 0 : b < 0 ? b + n : b > n ? n : b;
    if (a > b)
        return false;
    jinja_charge(&r->arena, s->n);
    *from = jinja_utf8_offset(s->p, s->n, (size_t)a);
    *to = jinja_utf8_offset(s->p, s->n, (size_t)b);
    return true;
}

static struct jinja_value find(struct jinja_render *r, struct jinja_value self,
                               const struct jinja_value *argv, bool last, bool must)
{
    const struct jinja_string *s = self.as.string,
                              *part = jinja_need_string(r, argv[0], "what is searched for");
    size_t from, to;
    int64_t found = -1;

    if (search_range(r, s, argv + 1, &from, &to))
        found = jinja_str_find(r, s, part, from, to, last);
    if (found < 0 && must)
        jinja_error(&r->arena, "substring not found");
    return jinja_int(found < 0 ? -1 : (int64_t)jinja_utf8_count(s->p, (size_t)found));
}

METHOD(find)
{
    (void)args;
    return find(r, self, argv, false, false);
}

METHOD(rfind)
{
    (void)args;
    return find(r, self, argv, true, false);
}

METHOD(index)
{
    (void)args;
    return find(r, self, argv, false, true);
}

METHOD(rindex)
{
    (void)args;
    return find(r, self, argv, true, true);
}

METHOD(count)
{
    const struct jinja_string *s = self.as.string, *part = jinja_need_string(r, argv[0], "what is counted");
    size_t from, to;
    int64_t n = 0;
    const char *at;

    (void)args;
    if (!search_range(r, s, argv + 1, &from, &to))
        return jinja_int(0);
    if (part->n == 0)
        return jinja_int((int64_t)jinja_utf8_count(s->p + from, to - from) + 1);
    jinja_charge(&r->arena, to - from);
    while ((at = memmem(s->p + from, to - from, part->p, part->n)) != NULL) {
        from = (size_t)(at - s->p) + part->n;
        n++;
    }
    return jinja_int(n);
}

static bool affix_matches(const struct jinja_string *s, size_t from, size_t to,
                          const struct jinja_string *affix, bool end)
{
    if (affix->n > to - from)
        return false;
    return memcmp(end ? s->p + to - affix->n : s->p + from, affix->p, affix->n) == 0;
}

static struct jinja_value has_affix(struct jinja_render *r, struct jinja_value self,
                                    const struct jinja_value *argv, bool end)
{
    const struct jinja_string *s = self.as.string;
    size_t from, to;
    bool found = false;

    if (argv[0].kind != JINJA_TUPLE && argv[0].kind != JINJA_STRING) {
        if (argv[0].kind == JINJA_UNDEFINED)
            jinja_error(&r->arena, "%s first arg must be str or a tuple of str, not Undefined",
                        end ? "endswith" : "startswith");
        jinja_error(&r->arena, "%s first arg must be str or a tuple of str, not %s",
                    end ? "endswith" : "startswith", jinja_type_name(argv[0]));
    }
    if (!search_range(r, s, argv + 1, &from, &to))
        return jinja_bool(false);
    if (argv[0].kind == JINJA_STRING)
        return jinja_bool(affix_matches(s, from, to, argv[0].as.string, end));
    for (uint32_t i = 0; !found && i < argv[0].as.array->n; i++)
        found = affix_matches(s, from, to, jinja_need_string(r, argv[0].as.array->items[i], "an affix"), end);
    return jinja_bool(found);
}

METHOD(startswith)
{
    (void)args;
    return has_affix(r, self, argv, false);
}

METHOD(endswith)
{
    (void)args;
    return has_affix(r, self, argv, true);
}

METHOD(removeprefix)
{
    const struct jinja_string *s = self.as.string, *affix = jinja_need_string(r, argv[0], "a prefix");

    (void)args;
    return jinja_str_part(r, s, affix_matches(s, 0, s->n, affix, false) ? affix->n : 0, s->n);
}

METHOD(removesuffix)
{
    const struct jinja_string *s = self.as.string, *affix = jinja_need_string(r, argv[0], "a suffix");

    (void)args;
    return jinja_str_part(r, s, 0, affix_matches(s, 0, s->n, affix, true) ? s->n - affix->n : s->n);
}

METHOD(format)
{
    (void)argv;
    return jinja_str_format(r, self.as.string, args);
}

METHOD(format_map)
{
    struct jinja_args named = {0};

    (void)args;
    if (argv[0].kind != JINJA_DICT)
        jinja_error(&r->arena, "format_map() needs a mapping, not %s", jinja_type_name(argv[0]));
    named.named = jinja_calloc(&r->arena, (size_t)argv[0].as.dict->n + 1, sizeof *named.named);
    for (uint32_t i = 0; i < argv[0].as.dict->n; i++)
        if (argv[0].as.dict->entries[i].key.kind == JINJA_STRING)
            named.named[named.n_named++] = (struct jinja_named){argv[0].as.dict->entries[i].key.as.string,
                                                                argv[0].as.dict->entries[i].value};
    return jinja_str_format(r, self.as.string, &named);
}

const struct jinja_function jinja_string_methods2[] = {
    {"split", "sep,maxsplit", str_split, 0},
    {"rsplit", "sep,maxsplit", str_rsplit, 0},
    {"splitlines", "keepends", str_splitlines, 0},
    {"partition", "/sep", str_partition, 1},
    {"rpartition", "/sep", str_rpartition, 1},
    {"join", "/iterable", str_join, 1},
    {"replace", "/old,new,count", str_replace, 2},
    {"find", "/sub,start,end", str_find, 1},
    {"rfind", "/sub,start,end", str_rfind, 1},
    {"index", "/sub,start,end", str_index, 1},
    {"rindex", "/sub,start,end", str_rindex, 1},
    {"count", "/sub,start,end", str_count, 1},
    {"startswith", "/prefix,start,end", str_startswith, 1},
    {"endswith", "/suffix,start,end", str_endswith, 1},
    {"removeprefix", "/prefix", str_removeprefix, 1},
    {"removesuffix", "/suffix", str_removesuffix, 1},
    {"format", NULL, str_format, 0},
    {"format_map", "/mapping", str_format_map, 1},
};
const size_t jinja_string_methods2_n = sizeof jinja_string_methods2 / sizeof jinja_string_methods2[0];
