/* What `sharpi serve` was told: section [server] of the configuration, with the command line over it.
 */
#ifndef SHARPI_SERVER_SETTINGS_H
#define SHARPI_SERVER_SETTINGS_H

#include "core/settings.h"

/* Texts belong to the configuration or the command line and outlive the server. */
struct server_settings {
    const char *listen; /* "127.0.0.1:8080", "[::1]:8080", ":8080" (every address), "unix:/run/sharpi.sock" */
    const char *api_keys_file; /* one key a line; NULL = none */
    const char *api_keys;      /* from the environment: keys separated by blanks or commas; NULL = none */
    const char *tls_cert, *tls_key; /* PEM files, both or none */
    const char *cors;  /* origins that may ask from a browser, separated by blanks; "*" = any; NULL = none */
    const char *alias; /* names of the model, separated by blanks; "*" = any; NULL = its file's name */
    uint64_t max_body; /* bytes, also when unpacked */
    uint32_t max_connections;
    uint32_t max_choices;      /* n times prompts of a request */
    uint32_t idle_timeout;     /* seconds that a connection may take for the next request's head */
    uint32_t body_timeout;     /* for its body */
    uint32_t write_timeout;    /* a client that reads nothing for so long has gone */
    uint32_t shutdown_timeout; /* for running requests after SIGTERM */
    uint32_t hang_timeout;     /* a step that takes longer is reported by /health */
    uint32_t heartbeat;        /* a stream says something at least so often */
};

/* Values of [server], defaults where there are none. */
void server_settings_read(struct server_settings *out, const struct sharpi_settings *settings);
/* What contradicts itself. */
int32_t server_settings_check(const struct server_settings *settings, struct sharpi_error *err);

/* A word of a list separated by blanks or commas: moves *list past it; *n = 0 at the end. */
const char *list_next(const char **list, uint64_t *n);
int32_t list_has(const char *list, const char *word, uint64_t n);

#endif
