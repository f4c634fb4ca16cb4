/* The CPU as a device: instruction set, threads, memory.
 *
 * Invariant: used_bytes is the sum of all live blocks and never exceeds memory_limit (when there is one).
 */
#ifndef SHARPI_BACKEND_CPU_DEVICE_H
#define SHARPI_BACKEND_CPU_DEVICE_H

#include <sharpi/plugin/backend.h>

#include "isa.h"

/* The plugin's own object, made by init. */
struct cpu_backend {
    const struct sharpi_host *host;
    int32_t isa_wanted;    /* enum cpu_isa, or -1: the best there is */
    uint32_t n_threads;    /* 0: one per core */
    uint64_t memory_limit; /* 0: none */
};

struct memory_block;
struct scratch;

struct sharpi_device {
    const struct cpu_backend *backend;
    const struct sharpi_host *host;
    struct sharpi_pool *pool;
    struct memory_block *blocks;
    struct scratch *scratch; /* of its programs; NULL without any */
    uint64_t memory_limit, used_bytes;
    enum cpu_isa isa;
    uint32_t n_threads;
    uint32_t repack;
};

/* ---- device.c */

uint32_t cpu_device_count(void *ctx, struct sharpi_error *err);
int32_t cpu_device_info(void *ctx, uint32_t index, struct sharpi_device_info *info, struct sharpi_error *err);
int32_t cpu_device_open(void *ctx, uint32_t index, const struct sharpi_device_options *options,
                        struct sharpi_device **out, struct sharpi_error *err);
void cpu_device_close(struct sharpi_device *device);

/* The instruction set that the backend's settings come to on this machine. */
int32_t cpu_choose_isa(const struct cpu_backend *backend, enum cpu_isa *isa, struct sharpi_error *err);

/* ---- machine.c: what the operating system says */

/* Physical cores that this process may run on, limited by the cgroup's CPU quota; at least 1. */
uint32_t machine_cores(void);
/* Memory and what of it is available, both limited by the cgroup. 0 when unknown. */
void machine_memory(uint64_t *total, uint64_t *available);
/* The processor's name, NUL-terminated. */
void machine_name(char *name, uint64_t n);

/* ---- memory.c: zeroed anonymous mappings, huge pages where they fit */

/* Bytes that a block of n_bytes really takes; what plans must count. */
uint64_t memory_rounded(uint64_t n_bytes);
/* 64-byte aligned at least; 2 MiB aligned from 2 MiB on. `what` names it in errors. 0 bytes give NULL and SHARPI_OK. */
int32_t memory_take(struct sharpi_device *device, uint64_t n_bytes, const char *what, void **out,
                    struct sharpi_error *err);
void memory_give(struct sharpi_device *device, void *memory);

int32_t cpu_alloc(struct sharpi_device *device, uint64_t n_bytes, void **out, struct sharpi_error *err);
int32_t cpu_copy(struct sharpi_device *device, void *dst, uint64_t dst_offset, const void *src,
                 uint64_t src_offset, uint64_t n_bytes, struct sharpi_error *err);
int32_t cpu_write(struct sharpi_device *device, void *dst, uint64_t dst_offset, const void *host_src,
                  uint64_t n_bytes, struct sharpi_error *err);
int32_t cpu_read(struct sharpi_device *device, void *host_dst, const void *src, uint64_t src_offset,
                 uint64_t n_bytes, struct sharpi_error *err);

#endif
