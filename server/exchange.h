/* One HTTP request and its response.
 *
 * A route's function reads `body` and fills either `out` (the whole response) or `reply` (a generation, which is then streamed
 * or waited for). It may block: each connection has a thread.
 */
#ifndef SHARPI_SERVER_EXCHANGE_H
#define SHARPI_SERVER_EXCHANGE_H

#include <microhttpd.h>

#include "connections.h"
#include "page.h"
#include "reply.h"
#include "server.h"

struct route;

struct exchange {
    struct server *server;
    struct MHD_Connection *connection;
    struct connection *tracked;
    const struct route *route; /* NULL: there is none for this path */
    const char *path_rest;     /* of a route that ends in '*': what stands there */
    char request_id[48];
    char path[256];
    enum api_style style;
    int32_t is_head;
    int32_t refused; /* `error` was known before the body came, which is read and thrown away */
    struct http_error error;
    struct text body;
    uint64_t n_received; /* bytes of body, also of one that is thrown away */

    uint32_t status;
    const char *content_type; /* of `out`; NULL = application/json */
    struct text out;
    struct reply *reply;
    char ignored[GEN_IGNORED_BYTES]; /* fields that nothing was done about */
    const char *allow;               /* of a 405 */
    char nonce[PAGE_NONCE];          /* of the chat page, else "" */
};

struct route {
    const char *method, *path; /* a path that ends in '*' stands for all that begin so */
    enum api_style style;
    int32_t open;                          /* no API key is asked for */
    int32_t (*handle)(struct exchange *x); /* 0, or -1 with x->error */
};

/* NULL when there is no such path; `*wrong_method`: the path is there, for another method. */
const struct route *route_find(const char *method, const char *path, const char **rest,
                               const char **wrong_method);
/* Its number for metrics; that of "none" for NULL. */
uint32_t route_number(const struct route *route);
/* Path of the i-th, method too; NULL behind the last. */
const struct route *route_at(uint32_t i);

/* Callbacks of libmicrohttpd. */
enum MHD_Result exchange_access(void *server, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *upload, size_t *n_upload,
                                void **context);
void exchange_completed(void *server, struct MHD_Connection *connection, void **context,
                        enum MHD_RequestTerminationCode why);

/* Headers, encoding, error document: hands the response to libmicrohttpd (respond.c). */
enum MHD_Result exchange_respond(struct exchange *x);
/* Responses of which all requests may have the same one, made while there is memory; destroyed with the server. */
int32_t spares_create(struct MHD_Response *spares[2], struct sharpi_error *err);
void spares_destroy(struct MHD_Response *spares[2]);
enum MHD_Result spare_respond(const struct server *server, struct MHD_Connection *connection,
                              enum api_style style);
/* Runs x->reply to its end, or to its first event when it streams (stream.c). -1 with x->error. */
int32_t exchange_run_reply(struct exchange *x);
/* A response that reads from x->reply, which it takes over. */
struct MHD_Response *exchange_stream_response(struct exchange *x);

const char *exchange_header(const struct exchange *x, const char *name);

#endif
