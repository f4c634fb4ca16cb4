/* Generations on their way to the client: waited for, or streamed as events. */
#include <stdlib.h>
#include <time.h>

#include "exchange.h"
#include "sse.h"

enum { BLOCK = 32768 };

static const double look_again = 0.2; /* seconds between looks at the client and at a shutdown */

struct stream {
    struct server *server;
    struct connection *tracked;
    struct reply *reply;
    char request_id[48];
    double last_said;
    int32_t begun, closed;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int32_t client_is_gone(struct exchange *x)
{
    if (!connection_is_gone(x->tracked))
        return 0;
    http_fail(&x->error, 499, NULL, NULL, "the client has gone");
    return 1;
}

/* ---- Whole answers */

static int32_t wait_for_all(struct exchange *x)
{
    struct reply *r = x->reply;
    while (!generation_wait_all(r->generation, look_again)) {
        if (client_is_gone(x))
            return -1;
        if (x->server->draining > 1)
            generation_cancel(r->generation);
    }
    for (uint32_t i = 0; i < r->n_choices; i++) {
        struct choice_news news;
        memset(&news, 0, sizeof news);
        generation_take(r->generation, i, &news);
        reply_note_end(r, i, &news);
        r->news[i] = news;
    }
    if (r->error.status) {
        x->error = r->error;
        return -1;
    }
    r->writer->whole(r);
    x->out = r->out;
    memset(&r->out, 0, sizeof r->out);
    return 0;
}

/* A request that fails at once gets a proper status instead of an event in a stream. */
static int32_t wait_for_first(struct exchange *x)
{
    struct choice_news failed;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    if (generation_wait(x->reply->generation, 1.0) < 0)
        return client_is_gone(x) ? -1 : 0;
    memset(&failed, 0, sizeof failed);
    if (!generation_has_failed(x->reply->generation, &failed))
        return 0;
    snprintf(err.text, sizeof err.text, "%s", failed.error);
    return http_fail_status(&x->error, failed.status, &err);
}

int32_t exchange_run_reply(struct exchange *x)
{
    return x->reply->request.stream ? wait_for_first(x) : wait_for_all(x);
}

/* ---- Streams */

static void put_error(struct stream *s)
{
    struct reply *r = s->reply;
    enum api_style style = r->writer->style;
    sse_json(&r->out, style == API_ANTHROPIC ? "error" : NULL,
             http_error_json(&r->error, style, s->request_id));
    generation_cancel(r->generation);
    s->closed = 1;
}

static void say_heartbeat(struct stream *s)
{
    double time = now();
    if (time - s->last_said < s->server->settings->heartbeat)
        return;
    s->last_said = time;
    if (s->begun)
        s->reply->writer->heartbeat(s->reply);
    else
        sse_comment(&s->reply->out, "waiting");
}

static void say_news(struct stream *s, uint32_t choice)
{
    struct reply *r = s->reply;
    struct choice_news news;
    memset(&news, 0, sizeof news);
    generation_take(r->generation, choice, &news);
    reply_note_end(r, choice, &news);
    if (!s->begun && !r->error.status) {
        r->writer->begin(r);
        s->begun = 1;
    }
    if (!r->error.status || news.said.n || news.thought.n)
        r->writer->say(r, choice, &news);
    choice_news_free(&news);
    if (r->error.status) {
        put_error(s);
    } else if (generation_is_done(r->generation)) {
        r->writer->close(r);
        s->closed = 1;
    }
    s->last_said = now();
}

static ssize_t read_stream(void *user, uint64_t position, char *buffer, size_t max)
{
    struct stream *s = user;
    struct text *out = &s->reply->out;
    uint64_t n;
    (void)position;
    connection_set(s->tracked, CONNECTION_BUSY);
    while (!out->n && !s->closed && !out->failed) {
        int32_t choice = generation_wait(s->reply->generation, look_again);
        if (s->server->draining > 1)
            generation_cancel(s->reply->generation);
        if (choice >= 0)
            say_news(s, (uint32_t)choice);
        else if (connection_is_gone(s->tracked))
            return MHD_CONTENT_READER_END_WITH_ERROR;
        else
            say_heartbeat(s);
    }
    connection_set(s->tracked, CONNECTION_WRITING);
    if (out->failed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (!out->n)
        return MHD_CONTENT_READER_END_OF_STREAM;
    n = out->n < max ? out->n : max;
    memcpy(buffer, out->data, n);
    text_drop(out, n);
    return (ssize_t)n;
}

static void free_stream(void *user)
{
    struct stream *s = user;
    reply_free(s->reply); /* which cancels what still runs: the client may have gone */
    free(s);
}

struct MHD_Response *exchange_stream_response(struct exchange *x)
{
    struct stream *s = calloc(1, sizeof *s);
    struct MHD_Response *response;
    if (!s)
        return NULL;
    s->server = x->server;
    s->tracked = x->tracked;
    s->reply = x->reply;
    s->last_said = now();
    snprintf(s->request_id, sizeof s->request_id, "%s", x->request_id);
    response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, s, free_stream);
    if (!response) {
        free(s);
        return NULL;
    }
    x->reply = NULL;
    return response;
}
