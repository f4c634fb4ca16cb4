/* Numbers for Prometheus: what HTTP did, beside what the scheduler counts. */
#ifndef SHARPI_SERVER_METRICS_H
#define SHARPI_SERVER_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

#include "text.h"

enum { METRICS_ROUTES = 24, METRICS_STATUSES = 16 };

struct metrics {
    _Atomic uint64_t requests[METRICS_ROUTES][METRICS_STATUSES];
    _Atomic uint64_t disconnects; /* clients that went away before their answer was complete */
    _Atomic uint64_t timeouts;    /* connections closed for taking too long */
    _Atomic uint64_t key_reloads;
    _Atomic uint32_t connections;
};

struct server;

void metrics_count(struct metrics *metrics, uint32_t route, uint32_t status);
/* The whole page, text format 0.0.4. */
void metrics_print(struct server *server, struct text *out);

#endif
