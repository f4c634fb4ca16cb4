/* POST /v1/chat/completions: the answer. */
#include "reply.h"
#include "server.h"
#include "sse.h"

/* ---- Parts */

static json_t *one_prob(const struct reply *r, int32_t token, float logprob)
{
    return json_pack("{s:o, s:f, s:o}", "token", token_json_text(r, token), "logprob", json_logprob(logprob),
                     "bytes", token_json_bytes(r, token));
}

/* {"content": [...], "refusal": null}, or null when they were not asked for. */
static json_t *probs_json(const struct reply *r, const struct token_probs *probs)
{
    json_t *content;
    if (!r->request.logprobs)
        return json_null();
    content = json_array();
    for (uint32_t i = 0; content && i < probs->n; i++) {
        const struct token_prob *p = &probs->items[i];
        json_t *item = one_prob(r, p->token, p->logprob), *tops = json_array();
        for (uint32_t k = 0; tops && k < p->n_top; k++) {
            const struct sharpi_logprob *top = &probs->tops[p->first_top + k];
            json_array_append_new(tops, one_prob(r, top->id, top->logprob));
        }
        json_object_set_new(item, "top_logprobs", tops);
        json_array_append_new(content, item);
    }
    return json_pack("{s:o, s:n}", "content", content, "refusal");
}

static json_t *finish_json(const struct choice_news *news)
{
    return news->finished ? json_string(reply_finish_reason(news)) : json_null();
}

/* ---- Whole */

static json_t *choice_json(const struct reply *r, uint32_t i)
{
    const struct choice_news *news = &r->news[i];
    json_t *message = json_pack("{s:s, s:s%, s:n}", "role", "assistant", "content",
                                news->said.n ? news->said.data : "", (size_t)news->said.n, "refusal");
    if (message && news->thought.n)
        json_object_set_new(message, "reasoning_content", json_stringn(news->thought.data, news->thought.n));
    return json_pack("{s:I, s:o, s:o, s:s}", "index", (json_int_t)i, "message", message, "logprobs",
                     probs_json(r, &news->probs), "finish_reason", reply_finish_reason(news));
}

static void whole(struct reply *r)
{
    json_t *choices = json_array();
    for (uint32_t i = 0; choices && i < r->n_choices; i++)
        json_array_append_new(choices, choice_json(r, i));
    text_put_json(&r->out,
                  json_pack("{s:s, s:s, s:I, s:s, s:o, s:o, s:o}", "id", r->id, "object", "chat.completion",
                            "created", (json_int_t)r->created, "model", r->server->model_id, "choices",
                            choices, "usage", reply_usage(r), "sharpi", reply_report(r)));
}

/* ---- Stream */

static void put_chunk(struct reply *r, json_t *choices, json_t *usage)
{
    json_t *chunk =
        json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", r->id, "object", "chat.completion.chunk", "created",
                  (json_int_t)r->created, "model", r->server->model_id, "choices", choices);
    if (r->request.include_usage && chunk)
        json_object_set_new(chunk, "usage", usage ? usage : json_null());
    sse_json(&r->out, NULL, chunk);
}

static void put_delta(struct reply *r, uint32_t i, json_t *delta, json_t *probs, json_t *finish)
{
    put_chunk(r,
              json_pack("[{s:I, s:o, s:o, s:o}]", "index", (json_int_t)i, "delta", delta, "logprobs", probs,
                        "finish_reason", finish),
              NULL);
}

static void say(struct reply *r, uint32_t i, struct choice_news *news)
{
    json_t *delta = json_object();
    if (!r->choices[i].begun) {
        r->choices[i].begun = 1;
        put_delta(r, i, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), json_null(),
                  json_null());
    }
    if (news->thought.n && delta)
        json_object_set_new(delta, "reasoning_content", json_stringn(news->thought.data, news->thought.n));
    if (news->said.n && delta)
        json_object_set_new(delta, "content", json_stringn(news->said.data, news->said.n));
    if (json_object_size(delta) || news->probs.n)
        put_delta(r, i, delta, probs_json(r, &news->probs), json_null());
    else
        json_decref(delta);
    if (news->finished)
        put_delta(r, i, json_object(), json_null(), finish_json(news));
}

static void begin(struct reply *r)
{
    (void)r; /* each choice begins by itself */
}

static void close_stream(struct reply *r)
{
    if (r->request.include_usage) {
        json_t *chunk =
            json_pack("{s:s, s:s, s:I, s:s, s:[], s:o, s:o}", "id", r->id, "object", "chat.completion.chunk",
                      "created", (json_int_t)r->created, "model", r->server->model_id, "choices", "usage",
                      reply_usage(r), "sharpi", reply_report(r));
        sse_json(&r->out, NULL, chunk);
    }
    sse_text(&r->out, "[DONE]");
}

static void heartbeat(struct reply *r)
{
    sse_comment(&r->out, "waiting");
}

const struct reply_writer reply_chat = {whole, begin, say, close_stream, heartbeat, API_OPENAI};
