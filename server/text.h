/* A growing text. Out of memory is remembered instead of reported at each step: whoever uses the text at the end looks at
 * `failed`, and until then nothing is written any more.
 */
#ifndef SHARPI_SERVER_TEXT_H
#define SHARPI_SERVER_TEXT_H

#include <jansson.h>

#include <sharpi/plugin/tensor.h>

/* Begins as all zeros; text_free ends it. `data` is NUL-terminated once something was put. */
struct text {
    char *data;
    uint64_t n, capacity;
    int32_t failed;
};

void text_put(struct text *text, const char *data, uint64_t n);
void text_puts(struct text *text, const char *string);
__attribute__((format(printf, 2, 3))) void text_printf(struct text *text, const char *format, ...);
/* The compact form of `json`, which is released; NULL (what jansson gives without memory) is a failure,
 * and so is one that lacks parts because memory ran out. */
void text_put_json(struct text *text, json_t *json);
/* Drops the first n bytes. */
void text_drop(struct text *text, uint64_t n);
void text_free(struct text *text); /* and makes it empty again */

#endif
