/* Growing texts: see text.h. */
#include "text.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "json-memory.h"

static int32_t make_room(struct text *text, uint64_t n)
{
    uint64_t capacity;
    char *bigger;
    if (text->failed)
        return SHARPI_ENOMEM;
    if (text->data && n < text->capacity - text->n)
        return SHARPI_OK;
    if (n > INT64_MAX / 4 || text->n > INT64_MAX / 4) {
        text->failed = 1;
        return SHARPI_ENOMEM;
    }
    capacity = (text->n + n) * 3 / 2 + 128;
    bigger = realloc(text->data, capacity);
    if (!bigger) {
        text->failed = 1;
        return SHARPI_ENOMEM;
    }
    text->data = bigger;
    text->capacity = capacity;
    return SHARPI_OK;
}

void text_put(struct text *text, const char *data, uint64_t n)
{
    if (make_room(text, n))
        return;
    if (n)
        memcpy(text->data + text->n, data, n);
    text->n += n;
    text->data[text->n] = 0;
}

void text_puts(struct text *text, const char *string)
{
    text_put(text, string, strlen(string));
}

void text_printf(struct text *text, const char *format, ...)
{
    va_list list;
    char *line;
    int n;
    va_start(list, format);
    n = vasprintf(&line, format, list);
    va_end(list);
    if (n < 0) {
        text->failed = 1;
        return;
    }
    text_put(text, line, (uint64_t)n);
    free(line);
}

static int put_part(const char *data, size_t n, void *text)
{
    text_put(text, data, n);
    return ((struct text *)text)->failed ? -1 : 0;
}

void text_put_json(struct text *text, json_t *json)
{
    if (!json || json_memory_failed() ||
        json_dump_callback(json, put_part, text, JSON_COMPACT | JSON_REAL_PRECISION(9)))
        text->failed = 1;
    json_decref(json);
}

void text_drop(struct text *text, uint64_t n)
{
    if (n >= text->n) {
        text->n = 0;
        return;
    }
    memmove(text->data, text->data + n, text->n - n);
    text->n -= n;
    text->data[text->n] = 0;
}

void text_free(struct text *text)
{
    free(text->data);
    memset(text, 0, sizeof *text);
}
