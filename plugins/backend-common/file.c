/* The model file's mapping. */
#include "flow.h"

#include <sys/mman.h>

void file_forget(const void *data, uint64_t n_bytes)
{
    const uintptr_t page = 4096;
    uintptr_t first = ((uintptr_t)data + page - 1) / page * page,
              end = ((uintptr_t)data + n_bytes) / page * page;
    if (end > first)
        madvise((void *)first, end - first, MADV_DONTNEED);
}
