/* Memory, limits and failures: see arena.h. A chunk is never moved, so pointers into the arena stay valid. */
#include "core/jinja/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CHUNK_BYTES = 16 << 10, MOST_CHUNK_BYTES = 1 << 20 };

struct jinja_chunk {
    struct jinja_chunk *next;
    size_t n_bytes;
    _Alignas(16) char data[];
};

void jinja_fail(struct jinja_arena *arena, int32_t kind, const char *format, ...)
{
    struct sharpi_template_failure *failure = &arena->failure;
    va_list args;

    failure->kind = kind;
    failure->line = arena->line;
    failure->column = arena->column;
    va_start(args, format);
    vsnprintf(failure->message, sizeof failure->message, format, args);
    va_end(args);
    longjmp(arena->out, 1);
}

/* Small first, so that a short template costs little; then larger, so that a long one needs few. */
static size_t chunk_size(const struct jinja_arena *arena, size_t n_bytes)
{
    size_t size = FIRST_CHUNK_BYTES;

    while (size < MOST_CHUNK_BYTES && size < arena->used / 2)
        size *= 2;
    if (size < n_bytes)
        size = n_bytes;
    if (size > arena->limit - arena->used && n_bytes <= arena->limit - arena->used)
        size = n_bytes;
    return size;
}

static void add_chunk(struct jinja_arena *arena, size_t n_bytes)
{
    size_t size = chunk_size(arena, n_bytes);
    struct jinja_chunk *chunk;

    if (size > arena->limit - arena->used)
        jinja_fail(arena, SHARPI_TEMPLATE_LIMIT, "the template needs more than %llu bytes of memory",
                   (unsigned long long)arena->limit);
    chunk = malloc(sizeof *chunk + size);
    if (!chunk)
        jinja_fail(arena, SHARPI_TEMPLATE_NO_MEMORY, "out of memory for %zu bytes", size);
    chunk->next = arena->chunks;
    chunk->n_bytes = size;
    arena->chunks = chunk;
    arena->used += size;
    arena->next = chunk->data;
    arena->end = chunk->data + size;
}

void *jinja_alloc(struct jinja_arena *arena, size_t n_bytes)
{
    char *block;

    if (n_bytes > SIZE_MAX / 2)
        jinja_fail(arena, SHARPI_TEMPLATE_LIMIT, "the template needs more than %llu bytes of memory",
                   (unsigned long long)arena->limit);
    n_bytes = (n_bytes + 15) & ~(size_t)15;
    if (n_bytes > (size_t)(arena->end - arena->next))
        add_chunk(arena, n_bytes);
    block = arena->next;
    arena->next += n_bytes;
    return block;
}

void *jinja_calloc(struct jinja_arena *arena, size_t n, size_t size)
{
    void *block;

    if (size && n > SIZE_MAX / 2 / size)
        n = SIZE_MAX / 2 / size; /* more than any limit: fails below */
    block = jinja_alloc(arena, n * size);
    memset(block, 0, n * size);
    return block;
}

bool jinja_extend(struct jinja_arena *arena, const void *block, size_t old_bytes, size_t new_bytes)
{
    const char *start = block;

    if (new_bytes > SIZE_MAX / 2)
        return false;
    old_bytes = (old_bytes + 15) & ~(size_t)15;
    new_bytes = (new_bytes + 15) & ~(size_t)15;
    if (start + old_bytes != arena->next || new_bytes < old_bytes ||
        new_bytes - old_bytes > (size_t)(arena->end - arena->next))
        return false;
    arena->next += new_bytes - old_bytes;
    return true;
}

void jinja_shrink(struct jinja_arena *arena, void *block, size_t old_bytes, size_t new_bytes)
{
    char *start = block;

    old_bytes = (old_bytes + 15) & ~(size_t)15;
    new_bytes = (new_bytes + 15) & ~(size_t)15;
    if (start + old_bytes == arena->next && new_bytes < old_bytes)
        arena->next = start + new_bytes;
}

void *jinja_grow(struct jinja_arena *arena, void *block, uint32_t *capacity, size_t element_bytes)
{
    uint32_t old = *capacity, new = old ? old * 2 : 8;
    void *grown;

    if (old > UINT32_MAX / 4)
        jinja_fail(arena, SHARPI_TEMPLATE_LIMIT, "a list has more than %u elements", old);
    grown = jinja_alloc(arena, (size_t) new *element_bytes);
    if (old)
        memcpy(grown, block, (size_t)old * element_bytes);
    *capacity = new;
    return grown;
}

void jinja_arena_free(struct jinja_arena *arena)
{
    struct jinja_chunk *chunk = arena->chunks;

    while (chunk) {
        struct jinja_chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
    arena->chunks = NULL;
    arena->next = arena->end = NULL;
}

void jinja_charge(struct jinja_arena *arena, uint64_t n_bytes)
{
    uint64_t steps = 1 + n_bytes / 64;

    if (steps > arena->steps_left)
        jinja_fail(arena, SHARPI_TEMPLATE_LIMIT, "the template takes too many steps: is a loop without end?");
    arena->steps_left -= steps;
}

void jinja_enter(struct jinja_arena *arena)
{
    if (arena->depth >= arena->max_depth)
        jinja_fail(arena, SHARPI_TEMPLATE_LIMIT, "more than %u levels of nesting", arena->max_depth);
    arena->depth++;
}
