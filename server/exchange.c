/* From a request's head to its response: see exchange.h. */
#include "exchange.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <sharpi/plugin/host.h>

#include "gzip.h"
#include "origin.h"

/* All bodies together: a few of the largest, or many of the usual ones. */
static uint64_t all_bodies_limit(const struct server *server)
{
    uint64_t several = server->settings->max_body * 8;
    return several > (UINT64_C(256) << 20) ? several : UINT64_C(256) << 20;
}

const char *exchange_header(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

/* ---- The head */

static void name_request(struct exchange *x)
{
    uint64_t id = x->server->next_id++;
    id = (id ^ id >> 30) * 0xbf58476d1ce4e5b9u; /* splitmix64: not countable from outside */
    id = (id ^ id >> 27) * 0x94d049bb133111ebu;
    snprintf(x->request_id, sizeof x->request_id, "%016llx", (unsigned long long)(id ^ id >> 31));
}

static int32_t check_route(struct exchange *x, const char *method)
{
    x->is_head = strcmp(method, "HEAD") == 0;
    x->route = route_find(x->is_head ? "GET" : method, x->path, &x->path_rest, &x->allow);
    if (x->route)
        x->style = x->route->style;
    else if (strncmp(x->path, "/v1/messages", 12) == 0)
        x->style = API_ANTHROPIC;
    if (x->route)
        return 0;
    if (x->allow)
        return http_fail(&x->error, 405, NULL, NULL, "%s does not take %.16s, it takes %s", x->path, method,
                         x->allow);
    return http_fail(&x->error, 404, "not_found", NULL,
                     "there is nothing at %s; docs/server.md lists what there is", x->path);
}

static int32_t check_key(struct exchange *x)
{
    if (x->route->open || api_keys_allow(&x->server->keys, exchange_header(x, MHD_HTTP_HEADER_AUTHORIZATION),
                                         exchange_header(x, "x-api-key")))
        return 0;
    return http_fail(&x->error, 401, "invalid_api_key", NULL,
                     "no valid API key: send one as 'Authorization: Bearer KEY' or 'x-api-key: KEY'");
}

static int32_t check_size(struct exchange *x)
{
    const char *length = exchange_header(x, MHD_HTTP_HEADER_CONTENT_LENGTH);
    uint64_t n;
    if (!length || sharpi_parse_uint(length, &n) || n <= x->server->settings->max_body)
        return 0;
    return http_fail(&x->error, 413, "body_too_large", NULL,
                     "the body has %llu bytes, at most %llu are taken (max-body)", (unsigned long long)n,
                     (unsigned long long)x->server->settings->max_body);
}

static int32_t check_head(struct exchange *x, const char *method)
{
    if (strcmp(method, "OPTIONS") == 0)
        return origin_check(x);
    if (check_route(x, method) || origin_check(x) || check_key(x))
        return -1;
    if (x->server->draining && !x->route->open)
        return http_fail(&x->error, 503, "shutting_down", NULL, "the server is shutting down");
    return check_size(x);
}

static enum MHD_Result begin(struct server *server, struct MHD_Connection *connection, const char *url,
                             const char *method, void **context)
{
    struct exchange *x = calloc(1, sizeof *x);
    if (!x) {
        metrics_count(&server->metrics, route_number(NULL), MHD_HTTP_SERVICE_UNAVAILABLE);
        return spare_respond(server, connection,
                             strncmp(url, "/v1/messages", 12) == 0 ? API_ANTHROPIC : API_OPENAI);
    }
    *context = x;
    server->active++;
    x->server = server;
    x->connection = connection;
    x->tracked = connection_of(connection);
    x->status = MHD_HTTP_OK;
    snprintf(x->path, sizeof x->path, "%s", url);
    name_request(x);
    connection_set(x->tracked, CONNECTION_BODY);
    x->refused = check_head(x, method) != 0;
    if (strcmp(method, "OPTIONS") == 0 && !x->refused)
        x->status = MHD_HTTP_NO_CONTENT;
    if (x->error.status == MHD_HTTP_CONTENT_TOO_LARGE)
        return exchange_respond(x); /* before the body: it is not worth reading */
    return MHD_YES;
}

/* ---- The body */

static void refuse_body(struct exchange *x)
{
    x->refused = 1;
    x->server->body_bytes -= x->body.n;
    text_free(&x->body);
}

/* A refused body is read all the same, within limits: a client that is still sending would not read our answer. */
static enum MHD_Result receive(struct exchange *x, const char *data, size_t n)
{
    uint64_t limit = x->server->settings->max_body;
    x->n_received += n;
    if (x->n_received > limit + (limit < (4u << 20) ? 4u << 20 : limit))
        return MHD_NO;
    if (x->refused)
        return MHD_YES;
    if (x->n_received > limit) {
        refuse_body(x);
        http_fail(&x->error, 413, "body_too_large", NULL, "the body has more than %llu bytes (max-body)",
                  (unsigned long long)limit);
        return MHD_YES;
    }
    if (x->server->body_bytes + n > all_bodies_limit(x->server)) {
        refuse_body(x);
        http_fail(&x->error, 503, "busy", NULL,
                  "the requests of all clients together are too large now; try again later");
        return MHD_YES;
    }
    x->server->body_bytes += n;
    text_put(&x->body, data, n);
    if (x->body.failed) {
        x->server->body_bytes -= n;
        refuse_body(x);
        http_fail(&x->error, 503, "out_of_memory", NULL, "no memory for the body");
    }
    return MHD_YES;
}

static int32_t unpack_body(struct exchange *x)
{
    const char *encoding = exchange_header(x, MHD_HTTP_HEADER_CONTENT_ENCODING);
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct text plain = {0};
    int32_t status;
    if (!encoding || !*encoding || strcasecmp(encoding, "identity") == 0)
        return 0;
    if (strcasecmp(encoding, "gzip") != 0 && strcasecmp(encoding, "deflate") != 0)
        return http_fail(&x->error, 415, "unsupported_encoding", NULL,
                         "Content-Encoding '%.40s' is not known here; gzip and deflate are", encoding);
    status =
        gzip_unpack(x->body.data ? x->body.data : "", x->body.n, x->server->settings->max_body, &plain, &err);
    if (status) {
        text_free(&plain);
        return http_fail(&x->error,
                         status == SHARPI_EFULL    ? 413
                         : status == SHARPI_ENOMEM ? 503
                                                   : 400,
                         "bad_encoding", NULL, "%s", err.text);
    }
    x->server->body_bytes -= x->body.n;
    x->server->body_bytes += plain.n;
    text_free(&x->body);
    x->body = plain;
    return 0;
}

static enum MHD_Result finish(struct exchange *x)
{
    connection_set(x->tracked, CONNECTION_BUSY);
    if (!x->refused && x->status == MHD_HTTP_OK && !unpack_body(x) && !x->route->handle(x) && x->reply)
        exchange_run_reply(x);
    if (x->out.failed && !x->error.status)
        http_fail(&x->error, 503, "out_of_memory", NULL, "no memory for the answer");
    if (x->error.status == 499) /* nobody is there any more */
        return MHD_NO;
    return exchange_respond(x);
}

enum MHD_Result exchange_access(void *server, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *upload, size_t *n_upload,
                                void **context)
{
    struct exchange *x = *context;
    size_t n = *n_upload;
    (void)version;
    if (!x)
        return begin(server, connection, url, method, context);
    *n_upload = 0;
    return n ? receive(x, upload, n) : finish(x);
}

void exchange_completed(void *server, struct MHD_Connection *connection, void **context,
                        enum MHD_RequestTerminationCode why)
{
    struct server *s = server;
    struct exchange *x = *context;
    connection_set(connection_of(connection), CONNECTION_HEAD);
    if (!x)
        return;
    if (x->error.status)
        x->status = x->error.status;
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK && why != MHD_REQUEST_TERMINATED_DAEMON_SHUTDOWN) {
        s->metrics.disconnects++;
        if (!x->error.status)
            x->status = 499;
    }
    metrics_count(&s->metrics, route_number(x->route), x->status);
    sharpi_log_printf(&s->model->engine->log, SHARPI_LOG_DEBUG, "server", "%s %s %u", x->request_id, x->path,
                      x->status);
    s->body_bytes -= x->body.n;
    text_free(&x->body);
    text_free(&x->out);
    reply_free(x->reply);
    free(x);
    *context = NULL;
    s->active--;
}
