/* Device memory: anonymous mappings, zeroed by the kernel, huge pages for whatever is large enough.
 *
 * Weights and KV are streamed once per step; with 4 KiB pages the TLB misses cost a good part of the bandwidth.
 * Invariant: a block is in the device's list from memory_take until memory_give.
 */
#include "device.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE  (UINT64_C(2) << 20)
#define SMALL_PAGE UINT64_C(4096)

struct memory_block {
    struct memory_block *next;
    void *memory;
    uint64_t n_bytes;
};

uint64_t memory_rounded(uint64_t n_bytes)
{
    uint64_t page = n_bytes >= HUGE_PAGE ? HUGE_PAGE : SMALL_PAGE;
    return n_bytes > UINT64_MAX - page ? UINT64_MAX : (n_bytes + page - 1) / page * page;
}

/* n_bytes (rounded) of zeroes, aligned to a huge page from one huge page on; NULL when there are none. */
static void *map_aligned(uint64_t n_bytes)
{
    uint64_t slack = n_bytes >= HUGE_PAGE ? HUGE_PAGE : 0, head;
    uint8_t *map;
    if (n_bytes > UINT64_MAX / 4)
        return NULL;
    map = mmap(NULL, n_bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
               0);
    if (map == MAP_FAILED)
        return NULL;
    if (!slack)
        return map;
    head = (HUGE_PAGE - (uintptr_t)map % HUGE_PAGE) % HUGE_PAGE;
    if (head)
        munmap(map, head);
    munmap(map + head + n_bytes, slack - head);
    madvise(map + head, n_bytes, MADV_HUGEPAGE); /* advice: a kernel without it is slower, not wrong */
    return map + head;
}

int32_t memory_take(struct sharpi_device *device, uint64_t n_bytes, const char *what, void **out,
                    struct sharpi_error *err)
{
    uint64_t rounded = memory_rounded(n_bytes), total = 0, available = 0;
    struct memory_block *block;
    *out = NULL;
    if (n_bytes == 0)
        return SHARPI_OK;
    if (device->memory_limit && rounded > device->memory_limit - device->used_bytes)
        return sharpi_fail(err, SHARPI_ENOMEM,
                           "the CPU's memory_limit of %llu bytes has %llu left, %s needs %llu; raise the "
                           "limit or use a smaller context",
                           (unsigned long long)device->memory_limit,
                           (unsigned long long)(device->memory_limit - device->used_bytes), what,
                           (unsigned long long)rounded);
    /* Memory is promised generously by the kernel, and the process killed later: refuse what cannot fit. */
    machine_memory(&total, &available);
    if (total && rounded > total)
        return sharpi_fail(err, SHARPI_ENOMEM, "%s needs %llu bytes, the machine has %llu", what,
                           (unsigned long long)rounded, (unsigned long long)total);
    block = device->host->alloc(device->host, sizeof *block, 0);
    if (block)
        block->memory = map_aligned(rounded);
    if (!block || !block->memory) {
        if (block)
            device->host->free(device->host, block);
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %s: %llu bytes", what,
                           (unsigned long long)rounded);
    }
    block->n_bytes = rounded;
    block->next = device->blocks;
    device->blocks = block;
    device->used_bytes += rounded;
    *out = block->memory;
    return SHARPI_OK;
}

void memory_give(struct sharpi_device *device, void *memory)
{
    struct memory_block **link;
    for (link = &device->blocks; memory && *link; link = &(*link)->next) {
        struct memory_block *block = *link;
        if (block->memory != memory)
            continue;
        *link = block->next;
        device->used_bytes -= block->n_bytes;
        munmap(block->memory, block->n_bytes);
        device->host->free(device->host, block);
        return;
    }
}

int32_t cpu_alloc(struct sharpi_device *device, uint64_t n_bytes, void **out, struct sharpi_error *err)
{
    return memory_take(device, n_bytes ? n_bytes : 1, "the KV cache", out, err);
}

int32_t cpu_copy(struct sharpi_device *device, void *dst, uint64_t dst_offset, const void *src,
                 uint64_t src_offset, uint64_t n_bytes, struct sharpi_error *err)
{
    (void)device;
    (void)err;
    memmove((uint8_t *)dst + dst_offset, (const uint8_t *)src + src_offset, n_bytes);
    return SHARPI_OK;
}

int32_t cpu_write(struct sharpi_device *device, void *dst, uint64_t dst_offset, const void *host_src,
                  uint64_t n_bytes, struct sharpi_error *err)
{
    return cpu_copy(device, dst, dst_offset, host_src, 0, n_bytes, err);
}

int32_t cpu_read(struct sharpi_device *device, void *host_dst, const void *src, uint64_t src_offset,
                 uint64_t n_bytes, struct sharpi_error *err)
{
    return cpu_copy(device, host_dst, 0, src, src_offset, n_bytes, err);
}
