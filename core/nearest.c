/* See nearest.h. Optimal string alignment distance, three rows at a time. */
#include "nearest.h"

#include <stddef.h>
#include <string.h>

enum { MAX_NAME = 63 };

/* ASCII only: the result must not depend on the locale. */
static char fold(char c)
{
    if (c >= 'A' && c <= 'Z')
        return (char)(c - 'A' + 'a');
    return c == '_' ? '-' : c;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

uint32_t sharpi_edit_distance(const char *a, const char *b)
{
    size_t n_a = strnlen(a, MAX_NAME + 1), n_b = strnlen(b, MAX_NAME + 1);
    uint32_t rows[3][MAX_NAME + 1];
    if (n_a > MAX_NAME || n_b > MAX_NAME)
        return UINT32_MAX;
    for (uint32_t j = 0; j <= n_b; j++)
        rows[0][j] = j;
    for (uint32_t i = 1; i <= n_a; i++) {
        uint32_t *row = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = i;
        for (uint32_t j = 1; j <= n_b; j++) {
            char x = fold(a[i - 1]), y = fold(b[j - 1]);
            row[j] = smaller(smaller(row[j - 1], above[j]) + 1, above[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == fold(b[j - 2]) && fold(a[i - 2]) == y)
                row[j] = smaller(row[j], above2[j - 2] + 1);
        }
    }
    return rows[n_a % 3][n_b];
}

const char *sharpi_nearest(const char *name, const char *const *names, uint32_t n)
{
    const char *best = NULL;
    uint32_t best_distance = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t distance = names[i] ? sharpi_edit_distance(name, names[i]) : UINT32_MAX;
        if (distance < best_distance) {
            best = names[i];
            best_distance = distance;
        }
    }
    if (!best)
        return NULL;
    size_t n_a = strlen(name), n_b = strlen(best), limit = (n_a > n_b ? n_a : n_b) / 3;
    return best_distance <= (limit ? limit : 1) ? best : NULL;
}
