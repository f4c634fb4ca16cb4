/* UTF-8 and the character properties behind Python's str methods.
 *
 * All text inside the interpreter is valid UTF-8: sources and contexts are checked when they come in, and every
 * operation cuts between code points only. So the decoders here need not check.
 */
#ifndef SHARPI_JINJA_UNICODE_H
#define SHARPI_JINJA_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct jinja_range {
    uint32_t first, last;
};

/* first, first + step ... last map to themselves + delta. */
struct jinja_case_run {
    uint32_t first, last;
    int32_t step, delta;
};

/* One code point that maps to two or three (0 ends the list). */
struct jinja_case_special {
    uint32_t from, to[3];
};

extern const struct jinja_range jinja_alpha[], jinja_decimal[], jinja_digit[], jinja_numeric[],
    jinja_unprintable[], jinja_cased[], jinja_lowercase[], jinja_uppercase[];
extern const size_t jinja_alpha_n, jinja_decimal_n, jinja_digit_n, jinja_numeric_n, jinja_unprintable_n,
    jinja_cased_n, jinja_lowercase_n, jinja_uppercase_n;
extern const struct jinja_case_run jinja_to_upper[], jinja_to_lower[], jinja_to_title[];
extern const size_t jinja_to_upper_n, jinja_to_lower_n, jinja_to_title_n;
extern const struct jinja_case_special jinja_to_upper_special[], jinja_to_lower_special[],
    jinja_to_title_special[];
extern const size_t jinja_to_upper_special_n, jinja_to_lower_special_n, jinja_to_title_special_n;

/* Offset of the first byte that is no valid UTF-8 (surrogates and overlong forms included), or n if all is. */
size_t jinja_utf8_check(const char *p, size_t n);
/* Code point at p; *n_bytes is its length. */
uint32_t jinja_utf8_get(const char *p, size_t *n_bytes);
/* The code point that ends before p. */
uint32_t jinja_utf8_before(const char *p, size_t *n_bytes);
/* Writes up to 4 bytes, returns how many. */
size_t jinja_utf8_put(uint32_t c, char *out);
size_t jinja_utf8_count(const char *p, size_t n);
/* Byte offset of code point `index` <= count. */
size_t jinja_utf8_offset(const char *p, size_t n, size_t index);

bool jinja_is_alpha(uint32_t c);
bool jinja_is_decimal(uint32_t c); /* what int() reads */
bool jinja_is_digit(uint32_t c);   /* superscripts too */
bool jinja_is_numeric(uint32_t c); /* fractions too */
bool jinja_is_space(uint32_t c);
bool jinja_is_printable(uint32_t c);
bool jinja_is_cased(uint32_t c);
bool jinja_is_lower(uint32_t c);
bool jinja_is_upper(uint32_t c);
bool jinja_is_line_end(uint32_t c); /* what str.splitlines splits at */

/* Write one to three code points, return how many. */
size_t jinja_upper(uint32_t c, uint32_t out[3]);
size_t jinja_lower(uint32_t c, uint32_t out[3]);
size_t jinja_title(uint32_t c, uint32_t out[3]);

#endif
