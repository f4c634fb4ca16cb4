/* Who is in which scratch: see scratch.h. */
#include "scratch.h"

#include <sharpi/plugin/host.h>
#include <string.h>

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static int32_t can_join(const struct scratch *scratch, const struct scratch_wish *wish)
{
    if (memcmp(scratch->head, wish->head, sizeof wish->head) != 0)
        return 0;
    return !scratch->n_loaded ||
           (wish->n_bytes <= scratch->n_bytes && wish->n_host_bytes <= scratch->n_host_bytes);
}

int32_t scratch_join(struct scratch **latest, const struct sharpi_host *host, const struct scratch_wish *wish,
                     struct scratch **out, uint64_t *before, struct sharpi_error *err)
{
    struct scratch *scratch = *latest;
    if (!scratch || !can_join(scratch, wish)) {
        scratch = host->alloc(host, sizeof *scratch, 0);
        if (!scratch)
            return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a program");
        memcpy(scratch->head, wish->head, sizeof wish->head);
        *latest = scratch;
    }
    *before = scratch->n_bytes;
    scratch->n_bytes = larger(scratch->n_bytes, wish->n_bytes);
    scratch->n_host_bytes = larger(scratch->n_host_bytes, wish->n_host_bytes);
    scratch->n_programs++;
    *out = scratch;
    return SHARPI_OK;
}

void scratch_leave(struct scratch **latest, const struct sharpi_host *host, struct scratch *scratch)
{
    if (!scratch || --scratch->n_programs)
        return;
    if (*latest == scratch)
        *latest = NULL;
    host->free(host, scratch);
}
