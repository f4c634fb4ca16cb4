/* Scratch memory that the programs of a device take turns in.
 *
 * A device runs one program at a time, and nothing in scratch outlives a run but what all of its programs leave alike (the head).
 * So the parts of a model on one device need the most that one of them wants, not the sum: with experts on the CPU there are
 * as many parts as layers.
 *
 * Invariants: the programs in one scratch have the same head; n_bytes does not change once memory is allocated; what each program
 * added to it adds up to what is allocated.
 */
#ifndef SHARPI_BACKEND_COMMON_SCRATCH_H
#define SHARPI_BACKEND_COMMON_SCRATCH_H

#include <sharpi/plugin/backend.h>

struct scratch {
    uint64_t n_bytes;           /* of the program that wants most */
    uint64_t n_host_bytes;      /* likewise, of memory that the host and the device exchange */
    uint64_t head[2];           /* where what stays between runs lies; the backend's own numbers */
    void *memory, *host_memory; /* NULL until a program is loaded */
    uint32_t n_programs, n_loaded;
};

/* What a program wants. */
struct scratch_wish {
    uint64_t n_bytes, n_host_bytes;
    uint64_t head[2];
};

/* Joins *latest, the device's, or begins another one there when that is allocated and too small, or has another head. *before: the
 * bytes that it had. */
int32_t scratch_join(struct scratch **latest, const struct sharpi_host *host, const struct scratch_wish *wish,
                     struct scratch **out, uint64_t *before, struct sharpi_error *err);
/* The program is destroyed; it must not be loaded. NULL is fine. */
void scratch_leave(struct scratch **latest, const struct sharpi_host *host, struct scratch *scratch);

#endif
