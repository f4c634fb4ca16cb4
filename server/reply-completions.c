/* POST /v1/completions: the answer. */
#include "reply.h"
#include "server.h"
#include "sse.h"

/* The most likely of a token's place by text: of two that read the same, the likelier. */
static json_t *tops_json(const struct reply *r, const struct token_probs *probs, const struct token_prob *p)
{
    json_t *map = json_object();
    for (uint32_t k = 0; map && k < p->n_top; k++) {
        const struct sharpi_logprob *top = &probs->tops[p->first_top + k];
        json_t *text = token_json_text(r, top->id);
        if (text && !json_object_get(map, json_string_value(text)))
            json_object_set_new(map, json_string_value(text), json_real(json_logprob(top->logprob)));
        json_decref(text);
    }
    return map;
}

/* `offset`: where the generated text begins in the whole one. */
static json_t *probs_json(const struct reply *r, const struct token_probs *probs, uint64_t offset)
{
    json_t *tokens, *logprobs, *tops, *offsets;
    if (!r->request.logprobs)
        return json_null();
    tokens = json_array();
    logprobs = json_array();
    tops = json_array();
    offsets = json_array();
    for (uint32_t i = 0; i < probs->n; i++) {
        const struct token_prob *p = &probs->items[i];
        json_array_append_new(tokens, token_json_text(r, p->token));
        json_array_append_new(logprobs, json_real(json_logprob(p->logprob)));
        json_array_append_new(tops, tops_json(r, probs, p));
        json_array_append_new(offsets, json_integer((json_int_t)(offset + p->begin)));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", logprobs, "top_logprobs",
                     tops, "text_offset", offsets);
}

static const struct gen_prompt *prompt_of(const struct reply *r, uint32_t i)
{
    return &r->request.prompts[i / r->request.n];
}

static uint64_t echo_bytes(const struct reply *r, uint32_t i)
{
    return r->request.echo ? prompt_of(r, i)->n_text : 0;
}

/* Prompts are what the client sent: decoded ids need not be UTF-8. */
static json_t *text_json(const struct reply *r, uint32_t i, int32_t with_prompt, const struct text *said)
{
    struct text all = {0};
    json_t *text;
    if (with_prompt)
        text_put(&all, prompt_of(r, i)->text, prompt_of(r, i)->n_text);
    if (said->n)
        text_put(&all, said->data, said->n);
    text = all.failed ? NULL : json_clean(all.n ? all.data : "", all.n);
    text_free(&all);
    return text;
}

static json_t *choice_json(const struct reply *r, uint32_t i, int32_t with_prompt,
                           const struct choice_news *news)
{
    return json_pack("{s:I, s:o, s:o, s:o}", "index", (json_int_t)i, "text",
                     text_json(r, i, with_prompt, &news->said), "logprobs",
                     probs_json(r, &news->probs, echo_bytes(r, i)), "finish_reason",
                     news->finished ? json_string(reply_finish_reason(news)) : json_null());
}

static json_t *document(const struct reply *r, json_t *choices)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", r->id, "object", "text_completion", "created",
                     (json_int_t)r->created, "model", r->server->model_id, "choices", choices);
}

static void whole(struct reply *r)
{
    json_t *choices = json_array(), *all;
    for (uint32_t i = 0; choices && i < r->n_choices; i++)
        json_array_append_new(choices, choice_json(r, i, r->request.echo, &r->news[i]));
    all = document(r, choices);
    json_object_set_new(all, "usage", reply_usage(r));
    json_object_set_new(all, "sharpi", reply_report(r));
    text_put_json(&r->out, all);
}

static void begin(struct reply *r)
{
    (void)r;
}

static void say(struct reply *r, uint32_t i, struct choice_news *news)
{
    int32_t with_prompt = r->request.echo && !r->choices[i].begun;
    if (!with_prompt && !news->said.n && !news->probs.n && !news->finished)
        return;
    r->choices[i].begun = 1;
    sse_json(&r->out, NULL, document(r, json_pack("[o]", choice_json(r, i, with_prompt, news))));
}

static void close_stream(struct reply *r)
{
    if (r->request.include_usage) {
        json_t *last = document(r, json_array());
        json_object_set_new(last, "usage", reply_usage(r));
        json_object_set_new(last, "sharpi", reply_report(r));
        sse_json(&r->out, NULL, last);
    }
    sse_text(&r->out, "[DONE]");
}

static void heartbeat(struct reply *r)
{
    sse_comment(&r->out, "waiting");
}

const struct reply_writer reply_completions = {whole, begin, say, close_stream, heartbeat, API_OPENAI};
