/* A pool of threads for kernels: short parallel regions, many thousand a second.
 *
 * Invariant: outside pool_run no worker touches a task; a worker spins and yields for some 50 us after its last work and
 * then sleeps, so an idle pool costs nothing. Waiting always gives the core away after a bounded spin, so more
 * threads than cores get slower but never stuck.
 */
#ifndef SHARPI_CORE_POOL_H
#define SHARPI_CORE_POOL_H

#include <sharpi/plugin/host.h>

int32_t sharpi_pool_create(uint32_t n_threads, struct sharpi_pool **out, struct sharpi_error *err);
void sharpi_pool_destroy(struct sharpi_pool *pool); /* NULL is fine */
uint32_t sharpi_pool_threads(const struct sharpi_pool *pool);
void sharpi_pool_run(struct sharpi_pool *pool, sharpi_task_fn *task, void *arg);
void sharpi_pool_barrier(struct sharpi_pool *pool);

#endif
