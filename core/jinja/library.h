/* Everything that templates call by name: filters, tests, methods and global functions. */
#ifndef SHARPI_JINJA_LIBRARY_H
#define SHARPI_JINJA_LIBRARY_H

#include "core/jinja/render.h"

/* NULL if there is none. */
const struct jinja_function *jinja_find_filter(const struct jinja_string *name);
const struct jinja_function *jinja_find_test(const struct jinja_string *name);
const struct jinja_function *jinja_find_global(const struct jinja_string *name);
/* A method of that kind of value; *changes: it exists in Python but would change the object. */
const struct jinja_function *jinja_find_method(int32_t kind, const struct jinja_string *name, bool *changes);

extern const struct jinja_function jinja_text_filters[], jinja_sequence_filters[], jinja_stream_filters[],
    jinja_number_filters[], jinja_tests[], jinja_string_methods[], jinja_string_methods2[];
extern const size_t jinja_text_filters_n, jinja_sequence_filters_n, jinja_stream_filters_n,
    jinja_number_filters_n, jinja_tests_n, jinja_string_methods_n, jinja_string_methods2_n;

/* Shared by filters. The value at `path` ("a.b.0", an int, or NONE for the item itself). */
struct jinja_value jinja_attribute_path(struct jinja_render *r, struct jinja_value item,
                                        struct jinja_value path, struct jinja_value otherwise);
/* Strings in lower case, other values as they are. */
struct jinja_value jinja_fold_case(struct jinja_render *r, struct jinja_value v);

/* Shared by filters and methods (text-case.c, text-search.c). */
struct jinja_value jinja_str_upper(struct jinja_render *r, const struct jinja_string *s);
struct jinja_value jinja_str_lower(struct jinja_render *r, const struct jinja_string *s);
struct jinja_value jinja_str_capitalize(struct jinja_render *r, const struct jinja_string *s);
/* chars NULL: white space. */
struct jinja_value jinja_str_strip(struct jinja_render *r, const struct jinja_string *s,
                                   const struct jinja_string *chars, bool left, bool right);
struct jinja_value jinja_str_replace(struct jinja_render *r, const struct jinja_string *s,
                                     const struct jinja_string *from, const struct jinja_string *to,
                                     int64_t count);
struct jinja_value jinja_str_pad(struct jinja_render *r, const struct jinja_string *s, int64_t left,
                                 int64_t right, const struct jinja_string *fill);
struct jinja_value jinja_str_center(struct jinja_render *r, const struct jinja_string *s, int64_t width,
                                    const struct jinja_string *fill);
struct jinja_value jinja_str_lines(struct jinja_render *r, const struct jinja_string *s, bool keep_ends);
/* A part of s, which shares its bytes. */
struct jinja_value jinja_str_part(struct jinja_render *r, const struct jinja_string *s, size_t from,
                                  size_t to);
bool jinja_str_is_lower(const struct jinja_string *s);
bool jinja_str_is_upper(const struct jinja_string *s);
/* Byte offset of the first (or last) occurrence at or after `from`, or -1. */
int64_t jinja_str_find(struct jinja_render *r, const struct jinja_string *s, const struct jinja_string *part,
                       size_t from, size_t to, bool last);

#endif
