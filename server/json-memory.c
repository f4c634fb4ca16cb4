/* jansson's allocations: see json-memory.h. */
#include "json-memory.h"

#include <jansson.h>
#include <stdlib.h>

static _Thread_local int32_t failed;

static void *allocate(size_t n)
{
    void *memory = malloc(n);
    if (!memory)
        failed = 1;
    return memory;
}

void json_memory_watch(void)
{
    json_set_alloc_funcs(allocate, free);
}

int32_t json_memory_failed(void)
{
    int32_t was = failed;
    failed = 0;
    return was;
}
