/* What a request that cannot be answered is told, in the shape of the API that it used.
 *
 * OpenAI:    {"error": {"message", "type", "param", "code"}}
 * Anthropic: {"type": "error", "error": {"type", "message"}, "request_id"}
 */
#ifndef SHARPI_SERVER_HTTP_ERROR_H
#define SHARPI_SERVER_HTTP_ERROR_H

#include <jansson.h>

#include <sharpi/plugin/tensor.h>

enum api_style { API_OPENAI = 0, API_ANTHROPIC = 1 };

struct http_error {
    uint32_t status;  /* of HTTP; 0 = none */
    const char *code; /* a machine-readable word that lives for ever: "context_length_exceeded"; or NULL */
    char param[96];   /* the field that is wrong: "messages[2].content"; or "" */
    char message[1016];
};

/* Fills `error` and returns -1, so that a parser can return it. */
__attribute__((format(printf, 5, 6))) int32_t http_fail(struct http_error *error, uint32_t status,
                                                        const char *code, const char *param,
                                                        const char *format, ...);
/* The same from the library's status and text: what the client did wrong is 4xx, what we lack 503. */
int32_t http_fail_status(struct http_error *error, int32_t status, const struct sharpi_error *err);

/* NULL without memory. `request_id` may be NULL. */
json_t *http_error_json(const struct http_error *error, enum api_style style, const char *request_id);
/* The word for the kind of error: "invalid_request_error", "authentication_error" ... */
const char *http_error_type(uint32_t status, enum api_style style);

#endif
