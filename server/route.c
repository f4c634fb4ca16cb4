/* Which path does what. */
#include <string.h>

#include "handlers.h"

static const struct route routes[] = {
    {"POST", "/v1/chat/completions", API_OPENAI, 0, handle_chat},
    {"POST", "/v1/completions", API_OPENAI, 0, handle_completions},
    {"POST", "/v1/messages", API_ANTHROPIC, 0, handle_messages},
    {"POST", "/v1/messages/count_tokens", API_ANTHROPIC, 0, handle_count_tokens},
    {"POST", "/v1/embeddings", API_OPENAI, 0, handle_embeddings},
    {"GET", "/v1/models", API_OPENAI, 0, handle_models},
    {"GET", "/v1/models/*", API_OPENAI, 0, handle_model},
    {"POST", "/tokenize", API_OPENAI, 0, handle_tokenize},
    {"POST", "/detokenize", API_OPENAI, 0, handle_detokenize},
    {"POST", "/apply-template", API_OPENAI, 0, handle_apply_template},
    {"GET", "/health", API_OPENAI, 1, handle_health},
    {"GET", "/metrics", API_OPENAI, 0, handle_metrics},
    {"GET", "/plan", API_OPENAI, 0, handle_plan},
    {"GET", "/", API_OPENAI, 1, handle_page},
};

enum { N_ROUTES = sizeof routes / sizeof *routes };
_Static_assert((int)N_ROUTES < (int)METRICS_ROUTES, "room for every route and for none");

static int32_t matches(const struct route *route, const char *path, const char **rest)
{
    size_t n = strlen(route->path) - 1;
    if (route->path[n] != '*')
        return strcmp(route->path, path) == 0;
    *rest = path + n;
    return strncmp(route->path, path, n) == 0 && path[n];
}

const struct route *route_find(const char *method, const char *path, const char **rest,
                               const char **wrong_method)
{
    *wrong_method = NULL;
    for (uint32_t i = 0; i < N_ROUTES; i++) {
        if (!matches(&routes[i], path, rest))
            continue;
        if (strcmp(routes[i].method, method) == 0)
            return &routes[i];
        *wrong_method = routes[i].method;
    }
    return NULL;
}

uint32_t route_number(const struct route *route)
{
    return route ? (uint32_t)(route - routes) : N_ROUTES;
}

const struct route *route_at(uint32_t i)
{
    return i < N_ROUTES ? &routes[i] : NULL;
}
