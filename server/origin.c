/* Origins: see origin.h. */
#include "origin.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

const char *origin_host(const char *text, uint64_t *n)
{
    const char *host = strstr(text, "://");
    host = host ? host + 3 : text;
    if (*host == '[') {
        *n = strcspn(++host, "]");
        return host;
    }
    *n = strcspn(host, ":/");
    return host;
}

int32_t origin_is_local(const char *host, uint64_t n)
{
    char name[64];
    struct in6_addr address;
    if (n >= sizeof name)
        return 0;
    memcpy(name, host, n);
    name[n] = 0;
    return strcasecmp(name, "localhost") == 0 || inet_pton(AF_INET, name, &address) == 1 ||
           inet_pton(AF_INET6, name, &address) == 1;
}

static int32_t is_allowed(const struct server *server, const char *origin)
{
    const char *list = server->settings->cors;
    return list && (list_has(list, "*", 1) || list_has(list, origin, strlen(origin)));
}

/* The page that we served ourselves: its origin is what it asked us as. */
static int32_t is_own(const char *origin, const char *host)
{
    const char *place = strstr(origin, "://");
    return place && host && strcasecmp(place + 3, host) == 0;
}

/* A name on the list of origins is one that the operator knows. */
static int32_t is_known_host(const struct server *server, const char *host, uint64_t n)
{
    const char *list = server->settings->cors, *item;
    uint64_t length, n_item;
    while ((item = list_next(&list, &length)), length) {
        const char *name = origin_host(item, &n_item);
        if (n_item > length - (uint64_t)(name - item))
            n_item = length - (uint64_t)(name - item);
        if ((n_item == n && strncasecmp(name, host, n) == 0) || (length == 1 && *item == '*'))
            return 1;
    }
    return 0;
}

int32_t origin_check(struct exchange *x)
{
    const char *origin = exchange_header(x, MHD_HTTP_HEADER_ORIGIN),
               *host = exchange_header(x, MHD_HTTP_HEADER_HOST);
    uint64_t n = 0;
    const char *name = host ? origin_host(host, &n) : NULL;
    if (x->server->loopback && name && n && !origin_is_local(name, n) && !is_known_host(x->server, name, n) &&
        api_keys_count(&x->server->keys) == 0)
        return http_fail(
            &x->error, 403, "unknown_host", NULL,
            "the host '%.80s' is not this machine's name for itself; use localhost, ask for API keys, or "
            "put its origin into cors",
            host);
    if (!origin || is_own(origin, host) || is_allowed(x->server, origin))
        return 0;
    return http_fail(&x->error, 403, "origin_not_allowed", NULL,
                     "pages of '%.80s' may not ask this server; cors (--cors) lists those that may", origin);
}

void origin_add_headers(const struct exchange *x, struct MHD_Response *response)
{
    const char *origin = exchange_header(x, MHD_HTTP_HEADER_ORIGIN);
    const char *wanted = exchange_header(x, "Access-Control-Request-Headers");
    if (!x->server->settings->cors || !origin)
        return;
    MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, "Origin");
    if (!is_allowed(x->server, origin))
        return;
    MHD_add_response_header(response, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    MHD_add_response_header(response, "Access-Control-Expose-Headers", "request-id, sharpi-ignored-fields");
    if (x->status != MHD_HTTP_NO_CONTENT)
        return;
    MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    MHD_add_response_header(response, "Access-Control-Allow-Headers",
                            wanted ? wanted : "Authorization, Content-Type, x-api-key");
    MHD_add_response_header(response, "Access-Control-Max-Age", "600");
}
