/* Stop strings: see stops.h. */
#include "stops.h"

#include <stdlib.h>
#include <string.h>

int32_t stop_strings_add(struct stop_strings *strings, const char *text, uint64_t n, struct sharpi_error *err)
{
    char *copy;
    if (strings->n == STOPS_MAX)
        return sharpi_fail(err, SHARPI_EINVAL, "more than %d stop strings", STOPS_MAX);
    if (n == 0)
        return sharpi_fail(err, SHARPI_EINVAL, "a stop string is empty");
    if (n > STOP_MAX_BYTES)
        return sharpi_fail(err, SHARPI_EINVAL, "a stop string has %llu bytes, the limit is %d",
                           (unsigned long long)n, STOP_MAX_BYTES);
    copy = malloc(n + 1);
    if (!copy)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for stop strings");
    memcpy(copy, text, n);
    copy[n] = 0;
    strings->items[strings->n] = copy;
    strings->sizes[strings->n++] = n;
    return SHARPI_OK;
}

void stop_strings_free(struct stop_strings *strings)
{
    while (strings->n)
        free(strings->items[--strings->n]);
}

void stop_matcher_init(struct stop_matcher *matcher, const struct stop_strings *strings)
{
    memset(matcher, 0, sizeof *matcher);
    matcher->strings = strings;
    matcher->hit = -1;
}

void stop_matcher_free(struct stop_matcher *matcher)
{
    text_free(&matcher->held);
}

/* The stop string that is complete first, of several the longest: so it does not matter how the text is cut into pieces. */
static int32_t find_first(const struct stop_matcher *matcher, uint64_t *at)
{
    const struct stop_strings *strings = matcher->strings;
    uint64_t first_end = UINT64_MAX;
    int32_t found = -1;
    for (uint32_t i = 0; i < strings->n; i++) {
        const char *place = memmem(matcher->held.data, matcher->held.n, strings->items[i], strings->sizes[i]);
        uint64_t begin = place ? (uint64_t)(place - matcher->held.data) : 0, end = begin + strings->sizes[i];
        if (!place || end > first_end || (end == first_end && begin >= *at))
            continue;
        found = (int32_t)i;
        first_end = end;
        *at = begin;
    }
    return found;
}

/* Length of the longest end of the held text that is the beginning of a stop string. */
static uint64_t possible_start(const struct stop_matcher *matcher)
{
    const struct stop_strings *strings = matcher->strings;
    uint64_t longest = 0;
    for (uint32_t i = 0; i < strings->n; i++) {
        uint64_t n = strings->sizes[i] - 1;
        if (n > matcher->held.n)
            n = matcher->held.n;
        while (n > longest && memcmp(matcher->held.data + matcher->held.n - n, strings->items[i], n) != 0)
            n--;
        longest = n > longest ? n : longest;
    }
    return longest;
}

void stop_matcher_push(struct stop_matcher *matcher, const char *piece, uint64_t n, struct text *out)
{
    uint64_t pass = 0;
    if (matcher->hit >= 0)
        return;
    if (!matcher->strings->n) {
        text_put(out, piece, n);
        return;
    }
    text_put(&matcher->held, piece, n);
    if (matcher->held.failed) {
        out->failed = 1;
        return;
    }
    matcher->hit = find_first(matcher, &pass);
    if (matcher->hit < 0)
        pass = matcher->held.n - possible_start(matcher);
    else
        matcher->cut = matcher->held.n - pass;
    text_put(out, matcher->held.data, pass);
    text_drop(&matcher->held, matcher->hit < 0 ? pass : matcher->held.n);
}

void stop_matcher_end(struct stop_matcher *matcher, struct text *out)
{
    if (matcher->held.n)
        text_put(out, matcher->held.data, matcher->held.n);
    matcher->held.n = 0;
}
