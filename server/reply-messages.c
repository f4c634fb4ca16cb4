/* POST /v1/messages: the answer, Anthropic's. Reasoning is a block "thinking" before the block "text". */
#include "reply.h"
#include "server.h"
#include "sse.h"

enum { BLOCK_NONE = 0, BLOCK_THINKING = 1, BLOCK_TEXT = 2 };

static const char *stop_reason(const struct choice_news *news)
{
    if (news->stop_string >= 0)
        return "stop_sequence";
    return news->finish == SHARPI_FINISH_LENGTH ? "max_tokens" : "end_turn";
}

/* What was read from the cache is not counted as input again. */
static json_t *usage_json(const struct reply *r, uint32_t output_tokens)
{
    const struct sharpi_request_usage *u = &r->news[0].usage;
    return json_pack("{s:I, s:I, s:I, s:I}", "input_tokens",
                     (json_int_t)(u->prompt_tokens - u->reused_tokens), "cache_creation_input_tokens",
                     (json_int_t)0, "cache_read_input_tokens", (json_int_t)u->reused_tokens, "output_tokens",
                     (json_int_t)output_tokens);
}

static json_t *message_json(const struct reply *r, json_t *content, json_t *reason, json_t *sequence,
                            uint32_t n)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o}", "id", r->id, "type", "message", "role",
                     "assistant", "model", r->server->model_id, "content", content, "stop_reason", reason,
                     "stop_sequence", sequence, "usage", usage_json(r, n));
}

static json_t *stop_sequence(const struct reply *r, const struct choice_news *news)
{
    const char *text = generation_stop_string(r->generation, news->stop_string);
    return text ? json_string(text) : json_null();
}

static void whole(struct reply *r)
{
    const struct choice_news *news = &r->news[0];
    json_t *content = json_array(), *message;
    if (news->thought.n)
        json_array_append_new(content,
                              json_pack("{s:s, s:s%, s:s}", "type", "thinking", "thinking",
                                        news->thought.data, (size_t)news->thought.n, "signature", ""));
    if (news->said.n)
        json_array_append_new(content, json_pack("{s:s, s:s%, s:n}", "type", "text", "text", news->said.data,
                                                 (size_t)news->said.n, "citations"));
    message = message_json(r, content, json_string(stop_reason(news)), stop_sequence(r, news),
                           news->usage.output_tokens);
    json_object_set_new(message, "sharpi", reply_report(r));
    text_put_json(&r->out, message);
}

/* ---- Stream */

static void put(struct reply *r, const char *type, json_t *event)
{
    if (event)
        json_object_set_new(event, "type", json_string(type));
    sse_json(&r->out, type, event);
}

static void begin(struct reply *r)
{
    put(r, "message_start",
        json_pack("{s:o}", "message", message_json(r, json_array(), json_null(), json_null(), 0)));
    put(r, "ping", json_object());
}

static void end_block(struct reply *r)
{
    struct reply_choice *c = &r->choices[0];
    json_int_t index = (json_int_t)c->n_blocks - 1;
    if (c->block == BLOCK_THINKING) /* clients send thinking back together with a signature */
        put(r, "content_block_delta",
            json_pack("{s:I, s:{s:s, s:s}}", "index", index, "delta", "type", "signature_delta", "signature",
                      ""));
    if (c->block != BLOCK_NONE)
        put(r, "content_block_stop", json_pack("{s:I}", "index", index));
    c->block = BLOCK_NONE;
}

static void in_block(struct reply *r, int32_t block, const struct text *text)
{
    struct reply_choice *c = &r->choices[0];
    int32_t thinking = block == BLOCK_THINKING;
    const char *word = thinking ? "thinking" : "text";
    if (!text->n)
        return;
    if (c->block != block) {
        json_t *start = json_pack("{s:s, s:s}", "type", word, word, "");
        end_block(r);
        if (thinking && start)
            json_object_set_new(start, "signature", json_string(""));
        put(r, "content_block_start",
            json_pack("{s:I, s:o}", "index", (json_int_t)c->n_blocks, "content_block", start));
        c->n_blocks++;
        c->block = block;
    }
    put(r, "content_block_delta",
        json_pack("{s:I, s:{s:s, s:s%}}", "index", (json_int_t)c->n_blocks - 1, "delta", "type",
                  thinking ? "thinking_delta" : "text_delta", word, text->data, (size_t)text->n));
}

static void say(struct reply *r, uint32_t i, struct choice_news *news)
{
    (void)i;
    in_block(r, BLOCK_THINKING, &news->thought);
    in_block(r, BLOCK_TEXT, &news->said);
}

static void close_stream(struct reply *r)
{
    const struct choice_news *news = &r->news[0];
    end_block(r);
    put(r, "message_delta",
        json_pack("{s:{s:s, s:o}, s:o, s:o}", "delta", "stop_reason", stop_reason(news), "stop_sequence",
                  stop_sequence(r, news), "usage", usage_json(r, news->usage.output_tokens), "sharpi",
                  reply_report(r)));
    put(r, "message_stop", json_object());
}

static void heartbeat(struct reply *r)
{
    put(r, "ping", json_object());
}

const struct reply_writer reply_messages = {whole, begin, say, close_stream, heartbeat, API_ANTHROPIC};
