/* The server's life: everything is made ready, then it listens; at the end the other way round. */
#include "server.h"

#include <microhttpd.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <sharpi/plugin/host.h>

#include "connections.h"
#include "exchange.h"
#include "json-memory.h"
#include "listen.h"

enum { HEAD_BYTES = 65536, MAX_PEM = 1 << 20 };

/* ---- Parts */

/* The file's name without folder and ".gguf". */
static void name_model(struct server *s)
{
    struct sharpi_model_info info = {.size = sizeof info};
    const char *slash, *name;
    size_t n;
    sharpi_model_get_info(s->model, &info);
    slash = strrchr(info.path, '/');
    name = slash ? slash + 1 : info.path;
    n = strlen(name);
    if (n > 5 && strcmp(name + n - 5, ".gguf") == 0)
        n -= 5;
    snprintf(s->model_id, sizeof s->model_id, "%.*s", (int)(n < 127 ? n : 127), name);
    for (char *c = s->model_id; *c; c++) {
        if ((unsigned char)*c < 0x21 || (unsigned char)*c > 0x7e || *c == '"' || *c == '\\')
            *c = '_';
    }
    s->context = info.context;
}

/* A model without chat template serves everything but chats. */
static int32_t make_template(struct server *s, const struct server_parts *parts, struct sharpi_error *err)
{
    int32_t status = prompt_template_create(s->model, parts->template_source, parts->n_template_source,
                                            parts->template_name ? parts->template_name : s->model_id,
                                            &s->prompt_template, &s->prompt_missing);
    if (!status || (!parts->template_source && (status == SHARPI_ENOENT || status == SHARPI_ENOTSUP)))
        return SHARPI_OK;
    return sharpi_fail(err, status, "%s", s->prompt_missing.text);
}

static int32_t make_breakers(struct server *s, struct sharpi_error *err)
{
    static const char *const usual[] = {"\n", ":", "\"", "*"};
    if (!s->model->tokenizer)
        return SHARPI_OK;
    return sharpi_sampler_breakers(s->model->tokenizer, usual, sizeof usual / sizeof *usual, &s->breakers,
                                   &s->n_breakers, err);
}

static int32_t make_parts(struct server *s, const struct server_parts *parts, struct sharpi_error *err)
{
    uint64_t seed = (uint64_t)time(NULL) * 0x9e3779b97f4a7c15u;
    int32_t status;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) < 0)
        seed ^= (uint64_t)getpid();
    s->next_id = seed;
    s->settings = parts->settings;
    s->model = parts->model;
    s->scheduler = parts->scheduler;
    s->sampling = parts->sampling;
    s->seed_given = parts->seed_given;
    s->embeddings = parts->embeddings;
    s->started_at = time(NULL);
    name_model(s);
    status = make_template(s, parts, err);
    if (!status)
        status = make_breakers(s, err);
    if (!status)
        status = connections_create(s->settings, &s->metrics, &s->connections, err);
    return status;
}

/* ---- libmicrohttpd */

__attribute__((format(printf, 2, 0))) static void log_line(void *user, const char *format, va_list list)
{
    struct server *s = user;
    char line[512];
    vsnprintf(line, sizeof line, format, list);
    line[strcspn(line, "\n")] = 0;
    sharpi_log_text(&s->model->engine->log, SHARPI_LOG_DEBUG, "http", line);
}

static int32_t read_pem(const char *path, char **out, struct sharpi_error *err)
{
    FILE *file = fopen(path, "re");
    char *text = calloc(1, MAX_PEM);
    size_t n;
    *out = text;
    if (!file || !text) {
        if (file)
            fclose(file);
        return sharpi_fail(err, SHARPI_EIO, "cannot open %s", path);
    }
    n = fread(text, 1, MAX_PEM - 1, file);
    fclose(file);
    return n && n < MAX_PEM - 1 && strstr(text, "-----BEGIN ")
               ? SHARPI_OK
               : sharpi_fail(err, SHARPI_EFORMAT, "%s is no PEM file (\"-----BEGIN ...\")", path);
}

struct tls {
    char *cert, *key;
};

static int32_t read_tls(const struct server_settings *settings, struct tls *tls, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    if (!settings->tls_cert)
        return SHARPI_OK;
    if (MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
        return sharpi_fail(err, SHARPI_ENOTSUP, "this libmicrohttpd was built without TLS");
    status = read_pem(settings->tls_cert, &tls->cert, err);
    return status ? status : read_pem(settings->tls_key, &tls->key, err);
}

/* The options end early without TLS. */
static void start_daemon(struct server *s, int fd, const struct tls *tls)
{
    struct MHD_OptionItem secure[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, tls->cert},
                                      {MHD_OPTION_HTTPS_MEM_KEY, 0, tls->key},
                                      {MHD_OPTION_END, 0, NULL}};
    unsigned int flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL |
                         MHD_USE_ITC | MHD_USE_ERROR_LOG;
    if (tls->cert)
        flags |= MHD_USE_TLS;
    s->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, exchange_access, s, MHD_OPTION_EXTERNAL_LOGGER, log_line, s,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned int)s->settings->max_connections,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEAD_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, 0u,
        MHD_OPTION_NOTIFY_COMPLETED, exchange_completed, s, MHD_OPTION_NOTIFY_CONNECTION, connections_notify,
        s->connections, tls->cert ? MHD_OPTION_ARRAY : MHD_OPTION_END, secure, MHD_OPTION_END);
}

static int32_t open_door(struct server *s, struct sharpi_error *err)
{
    struct tls tls = {NULL, NULL};
    char where[128] = "";
    int fd = -1;
    int32_t status = read_tls(s->settings, &tls, err);
    if (!status)
        status = listen_open(s->settings->listen, &fd, where, &s->loopback, err);
    if (!status) {
        snprintf(s->address, sizeof s->address, "%s%s%s", strncmp(where, "unix:", 5) == 0 ? "" : "http",
                 strncmp(where, "unix:", 5) == 0 ? ""
                 : tls.cert                      ? "s://"
                                                 : "://",
                 where);
        start_daemon(s, fd, &tls);
        if (!s->daemon) {
            listen_close(fd, s->settings->listen);
            status = sharpi_fail(err, SHARPI_EIO, "cannot start the HTTP server on %s%s", where,
                                 tls.cert ? ": are certificate and key a pair?" : "");
        }
    }
    free(tls.cert);
    free(tls.key);
    return status;
}

int32_t server_start(const struct server_parts *parts, struct server **out, struct sharpi_error *err)
{
    struct server *s = calloc(1, sizeof *s);
    int32_t status;
    if (!s)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the server");
    json_memory_watch();
    status = api_keys_init(&s->keys, parts->settings->api_keys_file, parts->settings->api_keys, err);
    if (!status)
        status = spares_create(s->spares, err);
    if (!status)
        status = make_parts(s, parts, err);
    if (!status)
        status = open_door(s, err);
    if (status) {
        server_free(s);
        return status;
    }
    *out = s;
    return SHARPI_OK;
}

/* ---- The end */

/* What was generated is still on its way to the clients. */
static void wait_for_responses(const struct server *s)
{
    for (uint32_t i = 0; i < 500 && s->active; i++)
        poll(NULL, 0, 10);
}

void server_stop(struct server *s, double timeout_s)
{
    if (!s || !s->daemon)
        return;
    s->draining = 1;
    listen_close(MHD_quiesce_daemon(s->daemon), s->settings->listen);
    sharpi_scheduler_drain(s->scheduler, timeout_s);
    s->draining = 2; /* whoever still waits cancels what it waits for */
    sharpi_scheduler_drain(s->scheduler, 10);
    wait_for_responses(s);
    MHD_stop_daemon(s->daemon);
    s->daemon = NULL;
}

void server_free(struct server *s)
{
    if (!s)
        return;
    connections_destroy(s->connections);
    spares_destroy(s->spares);
    prompt_template_destroy(s->prompt_template);
    free(s->breakers);
    api_keys_free(&s->keys);
    free(s);
}
