/* A stable merge sort with Python's < on keys; `reverse` keeps equal items in their order, as Python does. */
#include "core/jinja/render.h"

#include <string.h>

struct sort {
    struct jinja_render *r;
    const struct jinja_value *keys;
    bool reverse;
};

/* Must item b come before item a, which stands left of it? */
static bool swap_needed(const struct sort *s, uint32_t a, uint32_t b)
{
    jinja_charge(&s->r->arena, 0);
    if (s->reverse)
        return jinja_ordered(s->r, '<', s->keys[a], s->keys[b]);
    return jinja_ordered(s->r, '<', s->keys[b], s->keys[a]);
}

static void merge(const struct sort *s, const uint32_t *from, uint32_t *to, uint32_t start, uint32_t middle,
                  uint32_t end)
{
    uint32_t a = start, b = middle;

    for (uint32_t i = start; i < end; i++) {
        if (b == end || (a < middle && !swap_needed(s, from[a], from[b])))
            to[i] = from[a++];
        else
            to[i] = from[b++];
    }
}

struct jinja_value jinja_sorted(struct jinja_render *r, struct jinja_value items,
                                const struct jinja_value *keys, bool reverse)
{
    uint32_t n = items.as.array->n;
    uint32_t *order = jinja_calloc(&r->arena, n, sizeof *order),
             *other = jinja_calloc(&r->arena, n, sizeof *other);
    struct jinja_value sorted = jinja_array_new(&r->arena, JINJA_LIST, n);
    struct sort s = {r, keys, reverse};

    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    for (uint64_t width = 1; width < n; width *= 2) {
        uint32_t *swap = order;
        for (uint64_t start = 0; start < n; start += 2 * width) {
            uint64_t middle = start + width < n ? start + width : n;
            uint64_t end = start + 2 * width < n ? start + 2 * width : n;
            merge(&s, order, other, (uint32_t)start, (uint32_t)middle, (uint32_t)end);
        }
        order = other;
        other = swap;
    }
    for (uint32_t i = 0; i < n; i++)
        jinja_array_add(&r->arena, sorted.as.array, items.as.array->items[order[i]]);
    return sorted;
}
