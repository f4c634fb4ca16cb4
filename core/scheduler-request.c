/* One request: its copy of what was asked, its events, its end. */
#include <stdlib.h>
#include <string.h>

#include "scheduler-internal.h"

/* ---- Lists */

void list_append(struct request_list *list, struct request *r)
{
    r->next = NULL;
    r->previous = list->last;
    if (list->last)
        list->last->next = r;
    else
        list->first = r;
    list->last = r;
    list->n++;
}

void list_prepend(struct request_list *list, struct request *r)
{
    r->previous = NULL;
    r->next = list->first;
    if (list->first)
        list->first->previous = r;
    else
        list->last = r;
    list->first = r;
    list->n++;
}

void list_take(struct request_list *list, struct request *r)
{
    if (r->previous)
        r->previous->next = r->next;
    else
        list->first = r->next;
    if (r->next)
        r->next->previous = r->previous;
    else
        list->last = r->previous;
    r->next = r->previous = NULL;
    list->n--;
}

/* ---- Creation */

static int32_t is_embedding(const struct sharpi_request *what)
{
    return what->kind == SHARPI_REQUEST_EMBED_LAST || what->kind == SHARPI_REQUEST_EMBED_MEAN;
}

static int32_t check_kind(const struct sharpi_scheduler *s, const struct sharpi_request *what,
                          struct sharpi_error *err)
{
    if (what->kind != SHARPI_REQUEST_GENERATE && !is_embedding(what))
        return sharpi_fail(err, SHARPI_EINVAL, "request kind %u is unknown", what->kind);
    if (is_embedding(what) && !s->tap)
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "embeddings are the final norm's values, and this model was loaded without them: load "
            "it with the tap \"result_norm\"");
    if (!what->event)
        return sharpi_fail(err, SHARPI_EINVAL, "a request without event function");
    if (what->n_top > SHARPI_TOP_MOST)
        return sharpi_fail(err, SHARPI_EINVAL, "%u most likely tokens are asked for, %u are the limit",
                           what->n_top, SHARPI_TOP_MOST);
    return SHARPI_OK;
}

static int32_t check_tokens(const struct sharpi_scheduler *s, const struct sharpi_request *what,
                            struct sharpi_error *err)
{
    const uint32_t n_vocab = s->model->desc.n_vocab, context = s->model->context;
    uint32_t i;
    if (what->n_tokens == 0)
        return sharpi_fail(err, SHARPI_EINVAL, "the prompt has no tokens");
    if (what->n_tokens > context || (what->n_tokens == context && !is_embedding(what)))
        return sharpi_fail(
            err, SHARPI_EINVAL,
            "the prompt has %u tokens, the context of %u has no room for it and an answer; shorten "
            "the prompt or serve with a larger context (-c)",
            what->n_tokens, context);
    for (i = 0; i < what->n_tokens; i++) {
        if (what->tokens[i] < 0 || (uint32_t)what->tokens[i] >= n_vocab)
            return sharpi_fail(err, SHARPI_EINVAL, "token %u of the prompt is %d, the vocabulary has %u", i,
                               what->tokens[i], n_vocab);
    }
    return scheduler_never_fits(s, what->n_tokens + 1, err);
}

static int32_t create_sampler(struct request *r, const struct sharpi_request *what, uint32_t n_vocab,
                              struct sharpi_error *err)
{
    struct sharpi_sampler_params greedy;
    int32_t status;
    uint32_t i;
    sharpi_sampler_params_init(&greedy);
    greedy.temperature = 0;
    status =
        sharpi_sampler_create(what->sampler ? what->sampler : &greedy, (int32_t)n_vocab, &r->sampler, err);
    for (i = 0; i < what->n_tokens && !status; i++)
        status = sharpi_sampler_accept(r->sampler, what->tokens[i], err);
    return status;
}

static int32_t copy_parts(const struct sharpi_scheduler *s, const struct sharpi_request *what,
                          struct request *r, struct sharpi_error *err)
{
    const uint32_t context = s->model->context;
    uint64_t most = what->max_tokens ? what->max_tokens : context;
    most += what->n_tokens;
    r->capacity = most < context ? (uint32_t)most : context;
    r->tokens = malloc(r->capacity * sizeof *r->tokens);
    r->stop_tokens = malloc((what->n_stop_tokens + 1) * sizeof *r->stop_tokens);
    if (is_embedding(what))
        r->embedding = calloc(s->tap_width, sizeof *r->embedding);
    if (!r->tokens || !r->stop_tokens || (is_embedding(what) && !r->embedding))
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a request of %u tokens", what->n_tokens);
    memcpy(r->tokens, what->tokens, what->n_tokens * sizeof *r->tokens);
    if (what->n_stop_tokens)
        memcpy(r->stop_tokens, what->stop_tokens, what->n_stop_tokens * sizeof *r->stop_tokens);
    return is_embedding(what) ? SHARPI_OK : create_sampler(r, what, s->model->desc.n_vocab, err);
}

int32_t request_create(struct sharpi_scheduler *s, const struct sharpi_request *what, struct request **out,
                       struct sharpi_error *err)
{
    struct sharpi_request own = {.size = sizeof own};
    struct request *r;
    int32_t status;
    memcpy(&own, what, what->size < sizeof own ? what->size : sizeof own);
    what = &own;
    if ((status = check_kind(s, what, err)) || (status = check_tokens(s, what, err)))
        return status;
    r = calloc(1, sizeof *r);
    if (!r)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a request");
    r->what = *what;
    r->n_tokens = r->n_prompt = what->n_tokens;
    atomic_init(&r->cancelled, 0);
    status = copy_parts(s, what, r, err);
    if (status) {
        request_free(r);
        return status;
    }
    r->what.tokens = r->what.stop_tokens = NULL;
    r->what.sampler = NULL;
    r->usage.prompt_tokens = what->n_tokens;
    r->usage.times.queued = scheduler_now();
    *out = r;
    return SHARPI_OK;
}

void request_free(struct request *r)
{
    if (!r)
        return;
    sharpi_sampler_destroy(r->sampler);
    free(r->embedding);
    free(r->stop_tokens);
    free(r->tokens);
    free(r);
}

/* ---- Events */

int32_t request_emit(struct sharpi_scheduler *s, struct request *r, struct sharpi_event *event)
{
    (void)s;
    event->id = r->id;
    event->usage = &r->usage;
    if (event->kind != SHARPI_EVENT_FINISHED)
        event->stop_token = -1;
    return r->what.event(r->what.user, event);
}

/* The request is nobody's any more: a cancel with its id finds nothing. */
static void forget(struct sharpi_scheduler *s, struct request *r)
{
    struct request **at;
    pthread_mutex_lock(&s->lock);
    for (at = &s->live; *at != r; at = &(*at)->next_live)
        ;
    *at = r->next_live;
    pthread_mutex_unlock(&s->lock);
}

static void end(struct sharpi_scheduler *s, struct request *r, struct request_list *list,
                struct sharpi_event *event)
{
    const struct sharpi_request_times *t = &r->usage.times;
    r->usage.times.finished = scheduler_now();
    request_release(s, r, event->kind == SHARPI_EVENT_FINISHED);
    list_take(list, r);
    histogram_add(&s->stats.request, sharpi_seconds_bounds, t->finished - t->queued);
    histogram_add(&s->stats.output_length, sharpi_lengths_bounds, r->usage.output_tokens);
    scheduler_check_accounts(s);
    scheduler_publish(s); /* who has the last event sees it counted */
    forget(s, r);
    request_emit(s, r, event);
    request_free(r);
    pthread_mutex_lock(&s->lock);
    if (--s->n_live == 0)
        pthread_cond_broadcast(&s->all_done);
    pthread_mutex_unlock(&s->lock);
}

void request_finish(struct sharpi_scheduler *s, struct request *r, struct request_list *list, uint32_t finish,
                    int32_t stop_token)
{
    struct sharpi_event event = {.kind = SHARPI_EVENT_FINISHED, .finish = finish, .stop_token = stop_token};
    if (finish != SHARPI_FINISH_CANCELLED) {
        event.embedding = r->embedding;
        event.n_embedding = r->embedding ? s->tap_width : 0;
    }
    s->stats.finished_stop += finish == SHARPI_FINISH_STOP;
    s->stats.finished_length += finish == SHARPI_FINISH_LENGTH;
    s->stats.cancelled += finish == SHARPI_FINISH_CANCELLED;
    end(s, r, list, &event);
}

void request_fail(struct sharpi_scheduler *s, struct request *r, struct request_list *list, int32_t status,
                  const char *text)
{
    struct sharpi_event event = {.kind = SHARPI_EVENT_FAILED, .status = status, .error = text};
    int32_t kind = -status;
    s->stats.failed++;
    s->stats.errors[kind > 0 && kind < (int32_t)SHARPI_STATS_ERRORS ? kind : 0]++;
    sharpi_log_printf(&s->model->engine->log, SHARPI_LOG_WARN, "engine", "request %llu failed: %s",
                      (unsigned long long)r->id, text);
    end(s, r, list, &event);
}
