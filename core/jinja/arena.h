/* Memory, limits and the one way out of compiling and rendering.
 *
 * Everything that a compilation or a rendering allocates lies in one arena that is freed as a whole, so nothing
 * owns anything and an error may leave from any depth: `jinja_fail` records the failure and longjmps to the
 * entry point. Code in between must hold no resource outside the arena.
 */
#ifndef SHARPI_JINJA_ARENA_H
#define SHARPI_JINJA_ARENA_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/jinja/jinja.h"

struct jinja_chunk;

struct jinja_arena {
    struct jinja_chunk *chunks; /* newest first */
    char *next, *end;           /* free part of the newest chunk */
    uint64_t used, limit;       /* bytes taken from malloc, and how many may be */
    uint64_t steps_left;
    uint32_t depth, max_depth;
    uint32_t line; /* of what is being parsed or evaluated, for failures */
    uint32_t column;
    struct sharpi_template_failure failure;
    jmp_buf out;
};

/* Never returns NULL; fails the compilation or rendering when the limit or memory is exhausted. */
void *jinja_alloc(struct jinja_arena *arena, size_t n_bytes);
/* n * size bytes, checked for overflow, zeroed. */
void *jinja_calloc(struct jinja_arena *arena, size_t n, size_t size);
/* Makes the newest allocation larger where it lies; false if it is not the newest or its chunk is full. */
bool jinja_extend(struct jinja_arena *arena, const void *block, size_t old_bytes, size_t new_bytes);
/* Gives back the unused end of the newest allocation, or does nothing if it is not the newest. */
void jinja_shrink(struct jinja_arena *arena, void *block, size_t old_bytes, size_t new_bytes);
/* A block for `n` >= *capacity elements with the old ones copied; capacity doubles. */
void *jinja_grow(struct jinja_arena *arena, void *block, uint32_t *capacity, size_t element_bytes);
void jinja_arena_free(struct jinja_arena *arena);

__attribute__((noreturn, format(printf, 3, 4))) void jinja_fail(struct jinja_arena *arena, int32_t kind,
                                                                const char *format, ...);
/* Takes steps off the budget: 1 plus one for every 64 bytes touched. */
void jinja_charge(struct jinja_arena *arena, uint64_t n_bytes);
/* Every recursive function brackets itself with these two. */
void jinja_enter(struct jinja_arena *arena);
static inline void jinja_leave(struct jinja_arena *arena)
{
    arena->depth--;
}

#endif
