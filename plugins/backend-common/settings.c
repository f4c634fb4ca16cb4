/* See settings.h. */
#include "settings.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* 0 if it is no size, and for 0, which would be no memory at all. */
static uint64_t parse_bytes(const char *text)
{
    static const struct {
        const char *name;
        uint32_t shift;
    } units[] = {{"", 0},     {"B", 0},  {"K", 10},   {"KiB", 10}, {"M", 20},
                 {"MiB", 20}, {"G", 30}, {"GiB", 30}, {"T", 40},   {"TiB", 40}};
    char *end;
    uint64_t n;
    if (!isdigit((unsigned char)*text))
        return 0;
    errno = 0;
    n = strtoull(text, &end, 10);
    while (*end == ' ')
        end++;
    for (size_t i = 0; i < sizeof units / sizeof *units && !errno; i++) {
        if (strcmp(end, units[i].name) == 0)
            return n > UINT64_MAX >> units[i].shift ? 0 : n << units[i].shift;
    }
    return 0;
}

int32_t setting_size(const char *section, const char *key, const char *value, uint64_t *n_bytes,
                     struct sharpi_error *err)
{
    if (value && !(*n_bytes = parse_bytes(value)))
        return sharpi_fail(err, SHARPI_EINVAL, "[%s] %s = %s: must be a size such as 12GiB", section, key,
                           value);
    return SHARPI_OK;
}
