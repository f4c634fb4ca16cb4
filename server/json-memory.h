/* Whether jansson ran out of memory: it reports that as a syntax error when it reads, and not at all when a value is put into an
 * object. So its allocations go through here, which notes a failure for the calling thread.
 */
#ifndef SHARPI_SERVER_JSON_MEMORY_H
#define SHARPI_SERVER_JSON_MEMORY_H

#include <stdint.h>

/* For the whole process, once, before other threads use jansson. Memory stays malloc's. */
void json_memory_watch(void);
/* 1 if an allocation of the calling thread failed since it asked last. */
int32_t json_memory_failed(void);

#endif
