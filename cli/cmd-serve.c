/* sharpi serve: a model behind HTTP. Options, signals, and the order of starting and ending; the rest is in server/. */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "core/chat-template.h"
#include "core/engine.h"
#include "core/scheduler.h"
#include "sampling.h"
#include "server/server.h"

static const char about[] =
    "Serves a model to programs written for OpenAI's and Anthropic's APIs, and a chat page to browsers.\n\n"
    "SIGTERM or Ctrl-C: no new requests, running ones get --shutdown-timeout to finish. SIGHUP: API keys are "
    "read again.\n"
    "Keys also come from the environment variable SHARPI_API_KEY. docs/server.md has examples.";

enum { MAX_TEMPLATE = 4 << 20, DEFAULT_PARALLEL = 4 };

struct serve {
    struct common common;
    struct sampling sampling;
    struct server_settings settings;
    const char *listen, *host, *template, *api_key_file, *tls_cert, *tls_key, *cors, *alias,
        *prompt_cache_dir;
    uint32_t port, has_port, parallel, max_queued, has_max_queued, max_stall_ms, has_max_stall,
        shutdown_timeout, has_shutdown_timeout;
    uint32_t embeddings, verify_reuse, no_reuse;

    char address[300]; /* of --host and --port */
    char *template_text;
    uint64_t n_template_text;
    struct sharpi_engine *engine;
    struct sharpi_model *model;
    struct sharpi_scheduler *scheduler;
    struct server *server;
};

/* ---- What was asked for */

static uint32_t setting(const struct serve *s, const char *key, uint32_t given, uint32_t value,
                        uint32_t fallback)
{
    return given ? value : (uint32_t)sharpi_settings_uint(s->engine->settings, "server", key, fallback);
}

/* --host and --port change their part of the address; an IPv6 address gets its brackets. */
static int32_t settle_address(struct serve *s, struct sharpi_error *err)
{
    const char *listen = s->settings.listen, *colon = strrchr(listen, ':');
    char port[16];
    int n_host;
    if (s->listen)
        s->settings.listen = s->listen;
    if (!s->host && !s->has_port)
        return SHARPI_OK;
    if (s->listen)
        return sharpi_fail(err, SHARPI_EINVAL, "--listen says it all; leave --host and --port out");
    if (s->port > 65535)
        return sharpi_fail(err, SHARPI_EINVAL, "--port is %u, at most 65535 is possible", s->port);
    snprintf(port, sizeof port, "%s", colon && !strchr(colon, ']') ? colon + 1 : "8080");
    if (s->has_port)
        snprintf(port, sizeof port, "%u", s->port);
    if (s->host)
        n_host = snprintf(s->address, sizeof s->address,
                          strchr(s->host, ':') && *s->host != '[' ? "[%s]:%s" : "%s:%s", s->host, port);
    else
        n_host = snprintf(s->address, sizeof s->address, "%.*s:%s", colon ? (int)(colon - listen) : 9,
                          colon ? listen : "127.0.0.1", port);
    if (n_host < 0 || n_host >= (int)sizeof s->address)
        return sharpi_fail(err, SHARPI_EINVAL, "--host is longer than any name");
    s->settings.listen = s->address;
    return SHARPI_OK;
}

static int32_t settle(struct serve *s, struct sharpi_error *err)
{
    struct server_settings *settings = &s->settings;
    server_settings_read(settings, s->engine->settings);
    settings->api_keys_file = s->api_key_file ? s->api_key_file : settings->api_keys_file;
    settings->tls_cert = s->tls_cert ? s->tls_cert : settings->tls_cert;
    settings->tls_key = s->tls_key ? s->tls_key : settings->tls_key;
    settings->cors = s->cors ? s->cors : settings->cors;
    settings->alias = s->alias ? s->alias : settings->alias;
    if (s->has_shutdown_timeout)
        settings->shutdown_timeout = s->shutdown_timeout;
    if (settle_address(s, err))
        return SHARPI_EINVAL;
    return server_settings_check(settings, err);
}

static int32_t read_template(struct serve *s, struct sharpi_error *err)
{
    const char *builtin = s->template ? sharpi_chat_template_builtin(s->template) : NULL;
    if (!s->template)
        return SHARPI_OK;
    if (!builtin)
        return read_file(s->template, MAX_TEMPLATE, &s->template_text, &s->n_template_text, err);
    s->template_text = strdup(builtin);
    s->n_template_text = strlen(builtin);
    return s->template_text ? SHARPI_OK : sharpi_fail(err, SHARPI_ENOMEM, "no memory for a chat template");
}

/* ---- Starting */

static int32_t load(struct serve *s, struct sharpi_error *err)
{
    static const char *const taps[] = {"result_norm", NULL};
    struct sharpi_model_options options = {.size = sizeof options};
    uint32_t verify =
        s->verify_reuse || sharpi_settings_bool(s->engine->settings, "server", "verify-reuse", 0);
    s->parallel = setting(s, "parallel", s->parallel, s->parallel, DEFAULT_PARALLEL);
    options.max_sessions = s->parallel + (verify ? 1 : 0); /* the cold run needs a sequence of its own */
    if (!s->embeddings)
        s->embeddings = (uint32_t)sharpi_settings_bool(s->engine->settings, "server", "embeddings", 0);
    if (s->embeddings)
        options.taps = taps;
    return load_model(&s->common, s->engine, &options, &s->model, err);
}

static int32_t start_scheduler(struct serve *s, struct sharpi_error *err)
{
    const struct sharpi_settings *settings = s->engine->settings;
    struct sharpi_scheduler_options options = {.size = sizeof options, .max_running = s->parallel};
    options.max_queued = setting(s, "max-queued", s->has_max_queued, s->max_queued, 0);
    options.max_stall_ms = setting(s, "max-stall-ms", s->has_max_stall, s->max_stall_ms, 0);
    options.no_reuse = s->no_reuse;
    options.verify_reuse = s->verify_reuse || sharpi_settings_bool(settings, "server", "verify-reuse", 0);
    options.prompt_cache_dir = s->prompt_cache_dir
                                   ? s->prompt_cache_dir
                                   : sharpi_settings_string(settings, "server", "prompt-cache-dir", NULL);
    options.prompt_cache_bytes = sharpi_settings_bytes(settings, "server", "prompt-cache-bytes", 0);
    return sharpi_scheduler_create(s->model, &options, &s->scheduler, err);
}

static int32_t has_seed(const struct sampling *sampling)
{
    const struct option *o = sampling->options;
    while (o->name && strcmp(o->name, "seed") != 0)
        o++;
    return o->name && *o->given;
}

static int32_t start(struct serve *s, struct sharpi_error *err)
{
    struct server_parts parts;
    int32_t status = open_engine(&s->common, &s->engine, err);
    if (!status)
        status = settle(s, err);
    if (!status)
        status = sampling_settle(&s->sampling, s->engine->settings, err);
    if (!status)
        status = read_template(s, err);
    if (!status)
        status = load(s, err);
    if (!status)
        status = start_scheduler(s, err);
    if (status)
        return status;
    parts = (struct server_parts){.settings = &s->settings,
                                  .model = s->model,
                                  .scheduler = s->scheduler,
                                  .sampling = &s->sampling.params,
                                  .seed_given = has_seed(&s->sampling),
                                  .embeddings = (int32_t)s->embeddings,
                                  .template_source = s->template_text,
                                  .n_template_source = s->n_template_text,
                                  .template_name = s->template};
    return server_start(&parts, &s->server, err);
}

/* ---- Running */

static volatile sig_atomic_t hangup;

static void on_hangup(int signal_number)
{
    (void)signal_number;
    hangup = 1;
}

static void reload_keys(struct serve *s)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    hangup = 0;
    if (api_keys_reload(&s->server->keys, &err)) {
        fprintf(stderr, "sharpi serve: the old API keys stay: %s\n", err.text);
        return;
    }
    s->server->metrics.key_reloads++;
    if (!s->common.quiet)
        fprintf(stderr, "sharpi serve: %u API keys read again\n", api_keys_count(&s->server->keys));
}

static void greet(struct serve *s)
{
    struct sharpi_model_info info = {.size = sizeof info};
    sharpi_model_get_info(s->model, &info);
    if (s->server->prompt_missing.text[0])
        fprintf(stderr, "warning: no chat: %s\n", s->server->prompt_missing.text);
    if (!s->server->loopback && !api_keys_count(&s->server->keys))
        fprintf(stderr,
                "warning: everybody who reaches %s may use it: no API keys were given (--api-key-file)\n",
                s->server->address);
    if (!s->common.quiet)
        fprintf(stderr, "%s (%s, %s), context %u, %u at once%s\n", s->server->model_id, info.arch,
                info.backend, info.context, s->parallel, s->embeddings ? ", embeddings" : "");
    printf("listening on %s\n", s->server->address);
    fflush(stdout);
}

static void wait_for_the_end(struct serve *s)
{
    struct sigaction action = {.sa_handler = on_hangup};
    sigaction(SIGHUP, &action, NULL);
    while (!interrupted()) {
        if (hangup)
            reload_keys(s);
        poll(NULL, 0, 200); /* a signal for this thread ends it early; for another one it is seen soon */
    }
    if (!s->common.quiet)
        fprintf(stderr, "sharpi serve: ending; a second Ctrl-C ends at once\n");
}

static int run_serve(struct serve *s)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t status = start(s, &err);
    int code = EXIT_OK;
    if (!status) {
        greet(s);
        wait_for_the_end(s);
        server_stop(s->server, s->settings.shutdown_timeout);
    } else {
        code = interrupted() ? EXIT_INTERRUPT : fail("serve", &err);
    }
    sharpi_scheduler_destroy(s->scheduler);
    server_free(s->server);
    sharpi_model_free(s->model);
    sharpi_engine_close(s->engine);
    free(s->template_text);
    return code;
}

static int serve_main(int argc, char **argv)
{
    struct serve s = {.port = 0};
    uint32_t n_args;
    int code;
    sampling_init(&s.sampling);
    common_init(&s.common);
    const struct option own[] = {
        {"listen", 0, OPTION_STRING, "ADDRESS", "127.0.0.1:8080 (default), :8080 for all, unix:/path",
         &s.listen, NULL},
        {"host", 0, OPTION_STRING, "NAME", "the address without the port", &s.host, NULL},
        {"port", 0, OPTION_UINT, "N", "the port (8080); 0: any that is free", &s.port, &s.has_port},
        {"parallel", 0, OPTION_UINT, "N", "requests that run at once (4); others wait", &s.parallel, NULL},
        {"max-queued", 0, OPTION_UINT, "N", "requests that may wait (1024)", &s.max_queued,
         &s.has_max_queued},
        {"max-stall-ms", 0, OPTION_UINT, "MS", "a prompt may delay running answers so long per step",
         &s.max_stall_ms, &s.has_max_stall},
        {"api-key-file", 0, OPTION_STRING, "FILE", "ask for one of these API keys", &s.api_key_file, NULL},
        {"tls-cert", 0, OPTION_STRING, "FILE", "certificate for https (PEM)", &s.tls_cert, NULL},
        {"tls-key", 0, OPTION_STRING, "FILE", "its key (PEM)", &s.tls_key, NULL},
        {"cors", 0, OPTION_STRING, "ORIGINS", "web pages that may ask: 'https://a.example ...' or '*'",
         &s.cors, NULL},
        {"alias", 0, OPTION_STRING, "NAMES", "more names for the model; '*' takes any", &s.alias, NULL},
        {"template", 0, OPTION_STRING, "NAME|FILE", "chat template: chatml, gemma, llama2, llama3 or a file",
         &s.template, NULL},
        {"embeddings", 0, OPTION_FLAG, NULL, "serve embeddings too", &s.embeddings, NULL},
        {"prompt-cache-dir", 0, OPTION_STRING, "DIR", "keep computed prompts in files", &s.prompt_cache_dir,
         NULL},
        {"verify-reuse", 0, OPTION_FLAG, NULL, "compute reused prompts again and compare", &s.verify_reuse,
         NULL},
        {"no-reuse", 0, OPTION_FLAG, NULL, "compute every prompt from its start", &s.no_reuse, NULL},
        {"shutdown-timeout", 0, OPTION_UINT, "S", "seconds for running requests at the end (30)",
         &s.shutdown_timeout, &s.has_shutdown_timeout},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, s.common.model_options, s.sampling.options, s.common.engine_options,
                                     NULL};
    code =
        parse_command("serve", "sharpi serve -m FILE [OPTIONS]", about, tables, argc, argv, NULL, 0, &n_args);
    if (code >= 0)
        return code;
    catch_interrupt();
    code = run_serve(&s);
    sampling_free(&s.sampling);
    return code;
}

const struct command command_serve = {"serve", "answer programs and browsers over HTTP", serve_main};
