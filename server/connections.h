/* The open connections: what each is busy with and since when, so that slow ones can be ended.
 *
 * libmicrohttpd's own timeout counts a request that waits for the model as idle, and one that drips a byte a second as busy.
 * Here a thread looks at all connections twice a second and shuts those down that take too long for what they do.
 */
#ifndef SHARPI_SERVER_CONNECTIONS_H
#define SHARPI_SERVER_CONNECTIONS_H

#include <microhttpd.h>

#include "settings.h"

enum connection_state {
    CONNECTION_HEAD = 0,    /* idle, or its head is coming: idle_timeout */
    CONNECTION_BODY = 1,    /* body_timeout */
    CONNECTION_BUSY = 2,    /* we work: no limit */
    CONNECTION_WRITING = 3, /* the client reads: write_timeout */
};

struct connection;
struct connections;
struct metrics;

int32_t connections_create(const struct server_settings *settings, struct metrics *metrics,
                           struct connections **out, struct sharpi_error *err);
/* After the daemon was stopped. */
void connections_destroy(struct connections *all);

/* libmicrohttpd's notification. */
void connections_notify(void *all, struct MHD_Connection *mhd, void **context,
                        enum MHD_ConnectionNotificationCode code);

/* Of the calling thread's connection; NULL (no memory for it) is fine. */
struct connection *connection_of(struct MHD_Connection *mhd);
void connection_set(struct connection *connection, enum connection_state state);
/* 1 when the client has closed its side or the network broke. */
int32_t connection_is_gone(const struct connection *connection);

#endif
