/* Responses: headers, gzip, error documents. */
#include <stdlib.h>
#include <string.h>

#include "exchange.h"
#include "gzip.h"
#include "json-memory.h"
#include "origin.h"

enum { WORTH_PACKING = 1024 };

static void make_error(struct exchange *x)
{
    text_free(&x->out);
    x->content_type = NULL;
    x->status = x->error.status;
    json_memory_failed(); /* what the request ran out of; the error document is small */
    text_put_json(&x->out, http_error_json(&x->error, x->style, x->request_id));
    text_puts(&x->out, "\n");
}

/* Gives the text away; NULL without memory. */
static struct MHD_Response *from_text(struct text *text)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(text->n, text->n ? text->data : (void *)(uintptr_t) "",
                                        text->n ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (response && text->n)
        memset(text, 0, sizeof *text);
    return response;
}

static struct MHD_Response *whole_response(struct exchange *x)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct text packed = {0};
    struct MHD_Response *response;
    if (x->out.n >= WORTH_PACKING && gzip_is_accepted(exchange_header(x, MHD_HTTP_HEADER_ACCEPT_ENCODING)) &&
        !gzip_pack(x->out.data, x->out.n, &packed, &err)) {
        response = from_text(&packed);
        text_free(&packed);
        if (response)
            MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_ENCODING, "gzip");
    } else {
        text_free(&packed);
        response = from_text(&x->out);
    }
    if (response)
        MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, MHD_HTTP_HEADER_ACCEPT_ENCODING);
    return response;
}

static void add_headers(const struct exchange *x, struct MHD_Response *response, int32_t is_stream)
{
    const char *type = x->content_type ? x->content_type : "application/json";
    if (x->status != MHD_HTTP_NO_CONTENT)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                                is_stream ? "text/event-stream" : type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, is_stream ? "no-cache" : "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "request-id", x->request_id);
    MHD_add_response_header(response, "x-request-id", x->request_id);
    if (is_stream)
        MHD_add_response_header(response, "X-Accel-Buffering", "no"); /* proxies, pass it on at once */
    if (x->ignored[0])
        MHD_add_response_header(response, "sharpi-ignored-fields", x->ignored);
    if (x->nonce[0]) {
        char policy[PAGE_POLICY];
        page_policy(policy, x->nonce);
        MHD_add_response_header(response, "Content-Security-Policy", policy);
        MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
        MHD_add_response_header(response, "X-Frame-Options", "DENY");
    }
    if (x->status == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (x->status == MHD_HTTP_SERVICE_UNAVAILABLE)
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    if (x->status == MHD_HTTP_METHOD_NOT_ALLOWED && x->allow)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, x->allow);
    if (x->server->draining)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    origin_add_headers(x, response);
}

/* ---- Without memory */

#define SPARE_TEXT "the server has no memory for an answer now; try again later"

static const char *const spare_texts[2] = {
    [API_OPENAI] = "{\"error\":{\"message\":\"" SPARE_TEXT
                   "\",\"type\":\"server_error\",\"param\":null,\"code\":\"out_of_memory\"}}\n",
    [API_ANTHROPIC] =
        "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"" SPARE_TEXT "\"}}\n",
};

int32_t spares_create(struct MHD_Response *spares[2], struct sharpi_error *err)
{
    for (uint32_t i = 0; i < 2; i++) {
        spares[i] = MHD_create_response_from_buffer(strlen(spare_texts[i]), (void *)(uintptr_t)spare_texts[i],
                                                    MHD_RESPMEM_PERSISTENT);
        if (!spares[i] ||
            !MHD_add_response_header(spares[i], MHD_HTTP_HEADER_CONTENT_TYPE, "application/json") ||
            !MHD_add_response_header(spares[i], MHD_HTTP_HEADER_RETRY_AFTER, "1") ||
            !MHD_add_response_header(spares[i], MHD_HTTP_HEADER_CACHE_CONTROL, "no-store"))
            return sharpi_fail(err, SHARPI_ENOMEM, "no memory for responses");
    }
    return SHARPI_OK;
}

void spares_destroy(struct MHD_Response *spares[2])
{
    for (uint32_t i = 0; i < 2; i++) {
        if (spares[i])
            MHD_destroy_response(spares[i]);
        spares[i] = NULL;
    }
}

enum MHD_Result spare_respond(const struct server *server, struct MHD_Connection *connection,
                              enum api_style style)
{
    return MHD_queue_response(connection, MHD_HTTP_SERVICE_UNAVAILABLE,
                              server->spares[style == API_ANTHROPIC ? API_ANTHROPIC : API_OPENAI]);
}

static enum MHD_Result without_memory(struct exchange *x)
{
    x->status = x->error.status = MHD_HTTP_SERVICE_UNAVAILABLE;
    connection_set(x->tracked, CONNECTION_WRITING);
    return spare_respond(x->server, x->connection, x->style);
}

enum MHD_Result exchange_respond(struct exchange *x)
{
    struct MHD_Response *response;
    enum MHD_Result result;
    int32_t is_stream = !x->error.status && x->reply && x->reply->request.stream;
    if (x->error.status)
        make_error(x);
    if (x->out.failed)
        return without_memory(x); /* not even an error document */
    response = is_stream ? exchange_stream_response(x) : whole_response(x);
    if (!response)
        return without_memory(x);
    add_headers(x, response, is_stream);
    connection_set(x->tracked, CONNECTION_WRITING);
    result = MHD_queue_response(x->connection, x->status, response);
    MHD_destroy_response(response);
    return result;
}
