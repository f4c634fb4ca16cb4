/* Errors of requests: see http-error.h. */
#include "http-error.h"

#include <stdarg.h>
#include <stdio.h>

#include "json-read.h"

int32_t http_fail(struct http_error *error, uint32_t status, const char *code, const char *param,
                  const char *format, ...)
{
    va_list list;
    error->status = status;
    error->code = code;
    snprintf(error->param, sizeof error->param, "%s", param ? param : "");
    va_start(list, format);
    vsnprintf(error->message, sizeof error->message, format, list);
    va_end(list);
    return -1;
}

int32_t http_fail_status(struct http_error *error, int32_t status, const struct sharpi_error *err)
{
    const char *text = err && err->text[0] ? err->text : "the server has no reason to give";
    switch (status) {
    case SHARPI_EINVAL:
        return http_fail(error, 400, NULL, NULL, "%s", text);
    case SHARPI_EFULL:
        return http_fail(error, 400, "context_length_exceeded", NULL, "%s", text);
    case SHARPI_ENOTSUP:
    case SHARPI_ENOENT:
        return http_fail(error, 400, "unsupported", NULL, "%s", text);
    case SHARPI_ENOMEM:
        return http_fail(error, 503, "out_of_memory", NULL, "%s", text);
    case SHARPI_ECANCELLED:
        return http_fail(error, 503, "cancelled", NULL, "%s", text);
    default:
        return http_fail(error, 500, "engine_error", NULL, "%s", text);
    }
}

static const struct {
    uint32_t status;
    const char *openai, *anthropic;
} kinds[] = {
    {400, "invalid_request_error", "invalid_request_error"},
    {401, "invalid_request_error", "authentication_error"},
    {403, "invalid_request_error", "permission_error"},
    {404, "invalid_request_error", "not_found_error"},
    {413, "invalid_request_error", "request_too_large"},
    {429, "rate_limit_exceeded", "rate_limit_error"},
    {503, "server_error", "overloaded_error"},
};

const char *http_error_type(uint32_t status, enum api_style style)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (kinds[i].status == status)
            return style == API_ANTHROPIC ? kinds[i].anthropic : kinds[i].openai;
    }
    if (status < 500)
        return "invalid_request_error";
    return style == API_ANTHROPIC ? "api_error" : "server_error";
}

json_t *http_error_json(const struct http_error *error, enum api_style style, const char *request_id)
{
    const char *type = http_error_type(error->status, style);
    json_t *message = json_clean(error->message, strlen(error->message));
    json_t *param = error->param[0] ? json_clean(error->param, strlen(error->param)) : json_null();
    if (style == API_ANTHROPIC) {
        json_decref(param);
        return json_pack("{s:s, s:{s:s, s:o}, s:s*}", "type", "error", "error", "type", type, "message",
                         message, "request_id", request_id);
    }
    return json_pack("{s:{s:o, s:s, s:o, s:s?}}", "error", "message", message, "type", type, "param", param,
                     "code", error->code);
}
