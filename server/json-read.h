/* Reading a request's JSON: bounded before it is parsed, typed when it is read, errors that name the field.
 *
 * A field that is absent or null leaves its variable as it is. All return 0, or -1 with `error` filled.
 */
#ifndef SHARPI_SERVER_JSON_READ_H
#define SHARPI_SERVER_JSON_READ_H

#include <jansson.h>
#include <string.h>

#include "http-error.h"

enum {
    JSON_MAX_VALUES = 1 << 21, /* of a body: some hundred bytes each once parsed */
    JSON_MAX_DEPTH = 128,
};

/* Parses a body that must be an object. */
int32_t json_read_body(const char *data, uint64_t n, json_t **out, struct http_error *error);

int32_t json_read_bool(const json_t *object, const char *key, int32_t *out, struct http_error *error);
int32_t json_read_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                      struct http_error *error);
int32_t json_read_number(const json_t *object, const char *key, double min, double max, double *out,
                         struct http_error *error);
/* The string belongs to `object`. */
int32_t json_read_string(const json_t *object, const char *key, const char **out, uint64_t *n,
                         struct http_error *error);
/* Whether the field is there and not null. */
int32_t json_given(const json_t *object, const char *key);
/* "object", "array" ... for messages. */
const char *json_type_name(const json_t *value);

/* A string of bytes that may not be UTF-8: what is wrong becomes U+FFFD. NULL without memory. */
json_t *json_clean(const char *data, uint64_t n);

#endif
