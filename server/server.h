/* The HTTP server: what all its parts share.
 *
 * Threads: libmicrohttpd gives each connection a thread of its own, which reads the request, checks and tokenizes it, hands it
 * to the scheduler and then waits for what comes out; the scheduler's thread only appends to the request's mailbox. So a slow
 * or dead client costs a thread and its bounded mailbox, never a step. One more thread looks after idle connections.
 *
 * Invariant: model, tokenizer, template and settings do not change while the server runs.
 */
#ifndef SHARPI_SERVER_SERVER_H
#define SHARPI_SERVER_SERVER_H

#include <stdatomic.h>

#include <sharpi/sampler.h>

#include "auth.h"
#include "core/model.h"
#include "core/scheduler.h"
#include "http-error.h"
#include "metrics.h"
#include "prompt.h"
#include "settings.h"

struct connections;

struct server {
    const struct server_settings *settings;
    struct sharpi_model *model;
    struct sharpi_scheduler *scheduler;
    const struct sharpi_sampler_params *sampling; /* for what a request leaves open */
    int32_t seed_given;                           /* of those: else each request gets a random one */
    int32_t embeddings;                           /* the model was loaded for them */
    uint32_t context;                             /* positions of a sequence */
    char model_id[128];
    int64_t started_at;                      /* seconds since 1970 */
    struct prompt_template *prompt_template; /* NULL: the model has none, prompt_missing says so */
    struct sharpi_error prompt_missing;
    int32_t *breakers; /* of DRY, where a request names none */
    uint64_t n_breakers;
    struct api_keys keys;
    struct metrics metrics;
    struct connections *connections;
    _Atomic uint64_t body_bytes; /* of requests being read or answered */
    _Atomic uint64_t next_id;
    _Atomic uint32_t active;  /* requests whose response is not sent to the end */
    _Atomic int32_t draining; /* no new requests */
    struct MHD_Daemon *daemon;
    struct MHD_Response
        *spares[2];    /* by API style: 503 for who comes when there is no memory for a response */
    int32_t loopback;  /* only this machine can connect */
    char address[160]; /* where it listens, as a URL */
};

struct server_parts {
    const struct server_settings *settings;
    struct sharpi_model *model;
    struct sharpi_scheduler *scheduler; /* belongs to the caller, who destroys it after the server */
    const struct sharpi_sampler_params *sampling;
    int32_t seed_given;
    int32_t embeddings;
    const char *template_source; /* instead of the model's chat template; or NULL */
    uint64_t n_template_source;
    const char *template_name; /* for messages */
};

/* Listens and answers from then on. */
int32_t server_start(const struct server_parts *parts, struct server **out, struct sharpi_error *err);
/* New requests are refused, running ones get `timeout_s` to finish and are cancelled then; connections end. */
void server_stop(struct server *server, double timeout_s);
void server_free(struct server *server); /* after server_stop; NULL is fine */

#endif
