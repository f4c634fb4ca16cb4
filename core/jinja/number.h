/* Numbers as text, the way Python reads and writes them, independent of the process's locale. */
#ifndef SHARPI_JINJA_NUMBER_H
#define SHARPI_JINJA_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JINJA_NUMBER_ROOM = 400 };

/* repr(float): the shortest digits that read back as the same number. Returns the length. */
size_t jinja_format_double(double value, char out[JINJA_NUMBER_ROOM]);
/* printf with one double, with '.' as the decimal point. Returns the length, cut to the room. */
size_t jinja_print_double(char *out, size_t room, const char *format, int precision, double value);
/* A float literal without white space; also "inf", "nan" and their long forms with jinja_read_double only. */
double jinja_parse_double(const char *p, size_t n);
/* Python's float(text): white space around, underscores between digits, inf and nan. */
bool jinja_read_double(const char *p, size_t n, double *value);
/* Digits of the base only; false on overflow or none. */
bool jinja_parse_integer(const char *p, size_t n, int base, int64_t *value);
/* Python's int(text, base): sign, white space, prefix, underscores. 1: read, 0: no integer, -1: too large. */
int jinja_read_integer(const char *p, size_t n, int base, int64_t *value);

#endif
