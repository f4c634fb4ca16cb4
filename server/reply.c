/* What all answers share: see reply.h. */
#include "reply.h"

#include <stdlib.h>
#include <time.h>

#include "server.h"

static const struct reply_writer *writer_of(enum api_kind api)
{
    return api == API_CHAT ? &reply_chat : api == API_COMPLETIONS ? &reply_completions : &reply_messages;
}

int32_t reply_create(struct server *server, struct gen_request *request, const char *request_id,
                     struct reply **out, struct http_error *error)
{
    struct reply *r = calloc(1, sizeof *r);
    uint32_t n = request->n_prompts * request->n;
    if (r) {
        r->news = calloc(n, sizeof *r->news);
        r->choices = calloc(n, sizeof *r->choices);
    }
    if (!r || !r->news || !r->choices) {
        reply_free(r);
        return http_fail(error, 503, "out_of_memory", NULL, "no memory for the request");
    }
    r->writer = writer_of(request->api);
    r->server = server;
    r->n_choices = n;
    r->created = time(NULL);
    snprintf(r->id, sizeof r->id, "%s", request_id);
    r->request = *request;
    memset(request, 0, sizeof *request);
    if (generation_start(server, &r->request, &r->generation, error)) {
        reply_free(r);
        return -1;
    }
    *out = r;
    return 0;
}

void reply_free(struct reply *r)
{
    if (!r)
        return;
    generation_release(r->generation);
    for (uint32_t i = 0; r->news && i < r->n_choices; i++)
        choice_news_free(&r->news[i]);
    free(r->news);
    free(r->choices);
    text_free(&r->out);
    gen_request_free(&r->request);
    free(r);
}

void reply_note_end(struct reply *r, uint32_t choice, const struct choice_news *news)
{
    struct choice_news *kept = &r->news[choice];
    struct sharpi_error err = SHARPI_ERROR_INIT;
    kept->started = news->started;
    kept->finished = news->finished;
    kept->finish = news->finish;
    kept->status = news->status;
    kept->stop_string = news->stop_string;
    kept->reasoning_tokens = news->reasoning_tokens;
    kept->usage = news->usage;
    if (!news->finished || r->error.status)
        return;
    snprintf(err.text, sizeof err.text, "%s", news->error);
    if (news->finish == 0)
        http_fail_status(&r->error, news->status, &err);
    else if (news->finish == SHARPI_FINISH_CANCELLED)
        http_fail(&r->error, 503, "cancelled", NULL, "the server is shutting down: the answer was cut off");
}

/* ---- Usage */

json_t *reply_usage(const struct reply *r)
{
    uint64_t prompt = 0, cached = 0, output = 0, reasoning = 0;
    for (uint32_t i = 0; i < r->n_choices; i++) {
        const struct choice_news *news = &r->news[i];
        output += news->usage.output_tokens;
        reasoning += news->reasoning_tokens;
        if (i % r->request.n == 0) { /* choices of one prompt share it */
            prompt += news->usage.prompt_tokens;
            cached += news->usage.reused_tokens;
        }
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}, s:{s:I}}", "prompt_tokens", (json_int_t)prompt,
                     "completion_tokens", (json_int_t)output, "total_tokens", (json_int_t)(prompt + output),
                     "prompt_tokens_details", "cached_tokens", (json_int_t)cached,
                     "completion_tokens_details", "reasoning_tokens", (json_int_t)reasoning);
}

static double span_ms(double from, double to)
{
    return from > 0 && to > from ? (to - from) * 1e3 : 0;
}

json_t *reply_report(const struct reply *r)
{
    const struct sharpi_request_usage *u = &r->news[0].usage;
    return json_pack("{s:I, s:I, s:I, s:s, s:I, s:I, s:f, s:f, s:f, s:I}", "reused_tokens",
                     (json_int_t)u->reused_tokens, "known_tokens", (json_int_t)u->known_tokens, "disk_tokens",
                     (json_int_t)u->disk_tokens, "reuse", sharpi_reuse_limit_text(u->reuse_limit),
                     "preemptions", (json_int_t)u->preemptions, "seed", (json_int_t)r->request.sampler.seed,
                     "queue_ms", span_ms(u->times.queued, u->times.started), "first_token_ms",
                     span_ms(u->times.queued, u->times.first_token), "total_ms",
                     span_ms(u->times.queued, u->times.finished), "context", (json_int_t)r->server->context);
}

const char *reply_finish_reason(const struct choice_news *news)
{
    return news->finish == SHARPI_FINISH_LENGTH ? "length" : "stop";
}

/* ---- Log-probabilities */

/* What the token stands for in a text; a control token: its name. */
static struct sharpi_str token_bytes(const struct reply *r, int32_t token)
{
    const struct sharpi_tokenizer *t = r->server->model->tokenizer;
    struct sharpi_str piece = sharpi_token_piece(t, token);
    if (piece.n)
        return piece;
    piece = sharpi_token_text(t, token);
    return piece.data ? piece : (struct sharpi_str){"", 0};
}

json_t *token_json_text(const struct reply *r, int32_t token)
{
    struct sharpi_str s = token_bytes(r, token);
    return json_clean(s.data, s.n);
}

json_t *token_json_bytes(const struct reply *r, int32_t token)
{
    struct sharpi_str s = token_bytes(r, token);
    json_t *list = json_array();
    for (uint64_t i = 0; list && i < s.n; i++)
        json_array_append_new(list, json_integer((unsigned char)s.data[i]));
    return list;
}

double json_logprob(float logprob)
{
    return logprob > -9999.0f ? (double)logprob : -9999.0; /* a NaN too */
}
