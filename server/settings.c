/* Settings of the server: see settings.h. */
#include "settings.h"

#include <stdlib.h>
#include <string.h>

static uint32_t number(const struct sharpi_settings *settings, const char *key, uint32_t fallback)
{
    return (uint32_t)sharpi_settings_uint(settings, "server", key, fallback);
}

void server_settings_read(struct server_settings *out, const struct sharpi_settings *settings)
{
    const char *keys = secure_getenv("SHARPI_API_KEY");
    out->listen = sharpi_settings_string(settings, "server", "listen", "127.0.0.1:8080");
    out->api_keys_file = sharpi_settings_string(settings, "server", "api-keys-file", NULL);
    out->api_keys = keys && *keys ? keys : NULL;
    out->tls_cert = sharpi_settings_string(settings, "server", "tls-cert", NULL);
    out->tls_key = sharpi_settings_string(settings, "server", "tls-key", NULL);
    out->cors = sharpi_settings_string(settings, "server", "cors", NULL);
    out->alias = sharpi_settings_string(settings, "server", "alias", NULL);
    out->max_body = sharpi_settings_bytes(settings, "server", "max-body", 16u << 20);
    out->max_connections = number(settings, "max-connections", 256);
    out->max_choices = number(settings, "max-choices", 64);
    out->idle_timeout = number(settings, "idle-timeout", 60);
    out->body_timeout = number(settings, "body-timeout", 60);
    out->write_timeout = number(settings, "write-timeout", 60);
    out->shutdown_timeout = number(settings, "shutdown-timeout", 30);
    out->hang_timeout = number(settings, "hang-timeout", 60);
    out->heartbeat = number(settings, "heartbeat", 10);
}

int32_t server_settings_check(const struct server_settings *settings, struct sharpi_error *err)
{
    if (!settings->tls_cert != !settings->tls_key)
        return sharpi_fail(err, SHARPI_EINVAL, "TLS needs a certificate and its key: %s is missing",
                           settings->tls_cert ? "tls-key (--tls-key)" : "tls-cert (--tls-cert)");
    if (settings->max_body < 1024)
        return sharpi_fail(err, SHARPI_EINVAL, "max-body is %llu bytes, at least 1024 are needed",
                           (unsigned long long)settings->max_body);
    if (settings->heartbeat >= settings->write_timeout)
        return sharpi_fail(err, SHARPI_EINVAL,
                           "heartbeat (%u s) must be shorter than write-timeout (%u s): without it a waiting "
                           "client would be taken for a dead one",
                           settings->heartbeat, settings->write_timeout);
    return SHARPI_OK;
}

const char *list_next(const char **list, uint64_t *n)
{
    const char *word = *list ? *list + strspn(*list, " \t,") : "";
    *n = strcspn(word, " \t,");
    *list = word + *n;
    return word;
}

int32_t list_has(const char *list, const char *word, uint64_t n)
{
    uint64_t length;
    const char *item;
    while ((item = list_next(&list, &length)), length) {
        if (length == n && memcmp(item, word, n) == 0)
            return 1;
    }
    return 0;
}
