/* Reading JSON: see json-read.h. */
#include "json-read.h"

#include "core/tokenizer-internal.h"
#include "json-memory.h"
#include "text.h"

/* A value takes some hundred bytes once parsed, while "[]," is three: so values are counted, by their separators, before
 * the parser allocates any. */
static int32_t check_size(const char *data, uint64_t n, struct http_error *error)
{
    uint64_t n_values = 0, i;
    int32_t depth = 0, in_string = 0;
    for (i = 0; i < n; i++) {
        char c = data[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = 0;
            continue;
        }
        in_string = c == '"';
        n_values += c == ',' || c == ':' || c == '[' || c == '{';
        depth += (c == '[' || c == '{') - (c == ']' || c == '}');
        if (depth > JSON_MAX_DEPTH)
            return http_fail(error, 400, "invalid_json", NULL, "the body is nested deeper than %d levels",
                             JSON_MAX_DEPTH);
        if (n_values > JSON_MAX_VALUES)
            return http_fail(error, 413, "too_many_values", NULL,
                             "the body has more than %d values; send text instead of token ids",
                             JSON_MAX_VALUES);
    }
    return 0;
}

int32_t json_read_body(const char *data, uint64_t n, json_t **out, struct http_error *error)
{
    json_error_t why;
    json_t *value;
    *out = NULL;
    if (n == 0)
        return http_fail(error, 400, "invalid_json", NULL, "the body is empty; send a JSON object");
    if (check_size(data, n, error))
        return -1;
    json_memory_failed();
    value = json_loadb(data, n, JSON_ALLOW_NUL | JSON_DECODE_ANY, &why);
    if (!value && (json_memory_failed() || json_error_code(&why) == json_error_out_of_memory))
        return http_fail(error, 503, "out_of_memory", NULL, "no memory to read a body of %llu bytes",
                         (unsigned long long)n);
    if (!value)
        return http_fail(error, 400, "invalid_json", NULL, "the body is not JSON: line %d, column %d: %s",
                         why.line, why.column, why.text);
    if (!json_is_object(value)) {
        http_fail(error, 400, "invalid_json", NULL, "the body is %s, must be an object",
                  json_type_name(value));
        json_decref(value);
        return -1;
    }
    *out = value;
    return 0;
}

const char *json_type_name(const json_t *value)
{
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

int32_t json_given(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value);
}

static int32_t wrong_type(const char *key, const json_t *value, const char *wanted, struct http_error *error)
{
    return http_fail(error, 400, "invalid_type", key, "'%s' is %s, must be %s", key, json_type_name(value),
                     wanted);
}

int32_t json_read_bool(const json_t *object, const char *key, int32_t *out, struct http_error *error)
{
    const json_t *value = json_object_get(object, key);
    if (!json_given(object, key))
        return 0;
    if (!json_is_boolean(value))
        return wrong_type(key, value, "true or false", error);
    *out = json_is_true(value);
    return 0;
}

int32_t json_read_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                      struct http_error *error)
{
    const json_t *value = json_object_get(object, key);
    double number;
    int64_t whole;
    if (!json_given(object, key))
        return 0;
    if (!json_is_number(value))
        return wrong_type(key, value, "a whole number", error);
    number = json_number_value(value);
    if (json_is_integer(value))
        whole = json_integer_value(value);
    else if (number >= -9e15 && number <= 9e15 && number == (double)(int64_t)number)
        whole = (int64_t)number;
    else
        return wrong_type(key, value, "a whole number", error);
    if (whole < min || whole > max)
        return http_fail(error, 400, "out_of_range", key, "'%s' is %lld, must be from %lld to %lld", key,
                         (long long)whole, (long long)min, (long long)max);
    *out = whole;
    return 0;
}

int32_t json_read_number(const json_t *object, const char *key, double min, double max, double *out,
                         struct http_error *error)
{
    const json_t *value = json_object_get(object, key);
    double number;
    if (!json_given(object, key))
        return 0;
    if (!json_is_number(value))
        return wrong_type(key, value, "a number", error);
    number = json_number_value(value);
    if (!(number >= min && number <= max))
        return http_fail(error, 400, "out_of_range", key, "'%s' is %g, must be from %g to %g", key, number,
                         min, max);
    *out = number;
    return 0;
}

int32_t json_read_string(const json_t *object, const char *key, const char **out, uint64_t *n,
                         struct http_error *error)
{
    const json_t *value = json_object_get(object, key);
    if (!json_given(object, key))
        return 0;
    if (!json_is_string(value))
        return wrong_type(key, value, "a string", error);
    *out = json_string_value(value);
    if (n)
        *n = json_string_length(value);
    return 0;
}

json_t *json_clean(const char *data, uint64_t n)
{
    struct text clean = {0};
    uint64_t at = 0;
    json_t *string;
    if (utf8_valid_prefix(data, n) == n)
        return json_stringn(data, n);
    while (at < n && !clean.failed) {
        uint64_t valid = utf8_valid_prefix(data + at, n - at);
        text_put(&clean, data + at, valid);
        at += valid;
        if (at < n)
            text_puts(&clean, "\xef\xbf\xbd");
        at++;
    }
    string = clean.failed ? NULL : json_stringn(clean.data, clean.n);
    text_free(&clean);
    return string;
}
