/* Routes that generate: parse, start, and leave the rest to the reply. */
#include "handlers.h"

typedef int32_t parse_fn(const struct server *server, const json_t *body, struct gen_request *out,
                         struct http_error *error);

static int32_t generate(struct exchange *x, parse_fn *parse, const char *prefix)
{
    struct gen_request request = {.n = 1};
    char id[48];
    json_t *body = NULL;
    int32_t status = json_read_body(x->body.data, x->body.n, &body, &x->error);
    snprintf(id, sizeof id, "%s%s", prefix, x->request_id);
    if (!status)
        status = parse(x->server, body, &request, &x->error);
    json_decref(body);
    if (!status) {
        memcpy(x->ignored, request.ignored, sizeof x->ignored);
        status = reply_create(x->server, &request, id, &x->reply, &x->error);
    }
    gen_request_free(&request);
    return status;
}

int32_t handle_chat(struct exchange *x)
{
    return generate(x, parse_chat, "chatcmpl-");
}

int32_t handle_completions(struct exchange *x)
{
    return generate(x, parse_completions, "cmpl-");
}

int32_t handle_messages(struct exchange *x)
{
    return generate(x, parse_messages, "msg_");
}
