/* Numbers, sizes and switches as people write them. Independent of the locale. */
#include <string.h>

#include "settings.h"

/* Leading digits; returns what follows them, or NULL when there are none or they do not fit. */
static const char *digits(const char *text, uint64_t *out)
{
    uint64_t value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value))
            return NULL;
    }
    *out = value;
    return at > text ? at : NULL;
}

int32_t sharpi_parse_uint(const char *text, uint64_t *out)
{
    uint64_t value;
    const char *end = digits(text, &value);
    if (!end || *end)
        return SHARPI_EINVAL;
    *out = value;
    return SHARPI_OK;
}

/* Bytes of a unit; 0 if there is no such unit. A bare K, M, G, T is binary, as memory sizes are. */
static uint64_t unit_bytes(const char *unit)
{
    static const struct {
        char name[4];
        uint64_t bytes;
    } units[] = {
        {"", 1},
        {"B", 1},
        {"K", 1ull << 10},
        {"M", 1ull << 20},
        {"G", 1ull << 30},
        {"T", 1ull << 40},
        {"KiB", 1ull << 10},
        {"MiB", 1ull << 20},
        {"GiB", 1ull << 30},
        {"TiB", 1ull << 40},
        {"kB", 1000},
        {"KB", 1000},
        {"MB", 1000000},
        {"GB", 1000000000},
        {"TB", 1000000000000},
    };
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(unit, units[i].name) == 0)
            return units[i].bytes;
    }
    return 0;
}

int32_t sharpi_parse_bytes(const char *text, uint64_t *out)
{
    uint64_t whole, unit, part = 0, scale = 1;
    const char *at = digits(text, &whole);
    if (!at)
        return SHARPI_EINVAL;
    if (*at == '.') {
        const char *start = at + 1;
        at = digits(start, &part);
        if (!at || at - start > 6)
            return SHARPI_EINVAL;
        for (; start < at; start++)
            scale *= 10;
    }
    while (*at == ' ')
        at++;
    unit = unit_bytes(at);
    if (unit == 0 || (scale > 1 && unit == 1) || __builtin_mul_overflow(whole, unit, &whole))
        return SHARPI_EINVAL;
    /* part < 10^6 and unit <= 2^40, so the product fits. */
    if (__builtin_add_overflow(whole, part * unit / scale, out))
        return SHARPI_EINVAL;
    return SHARPI_OK;
}

int32_t sharpi_parse_bool(const char *text, int32_t *out)
{
    static const char *const names[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (int32_t i = 0; i < 8; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = i % 2;
            return SHARPI_OK;
        }
    }
    return SHARPI_EINVAL;
}
