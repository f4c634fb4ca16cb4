/* Choices between scheduler and connection: see generation.h. */
#include "generation.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "server.h"

struct choice {
    struct generation *generation;
    uint64_t id;
    int32_t in_scheduler; /* its last event has not come */
    int32_t changed;      /* there is something to take */
    int32_t taken;        /* the connection knows that it is finished */
    struct output output;
    struct choice_news end; /* what is known of its end; texts are in `output` */
};

struct generation {
    struct sharpi_scheduler *scheduler;
    pthread_mutex_t lock;
    pthread_cond_t news;
    uint32_t n_holders;
    uint32_t n_choices, next; /* who is looked at first */
    struct stop_strings stops;
    struct choice choices[];
};

void choice_news_free(struct choice_news *news)
{
    text_free(&news->said);
    text_free(&news->thought);
    token_probs_free(&news->probs);
    free(news->embedding);
    memset(news, 0, sizeof *news);
}

/* ---- Life */

static int32_t create(struct server *server, uint32_t n_choices, struct generation **out,
                      struct http_error *error)
{
    struct generation *g = calloc(1, sizeof *g + n_choices * sizeof *g->choices);
    pthread_condattr_t monotonic;
    if (!g) {
        http_fail(error, 503, "out_of_memory", NULL, "no memory for the request");
        return -1;
    }
    g->scheduler = server->scheduler;
    g->n_choices = n_choices;
    g->n_holders = 1;
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&g->news, &monotonic);
    pthread_condattr_destroy(&monotonic);
    for (uint32_t i = 0; i < n_choices; i++) {
        g->choices[i].generation = g;
        g->choices[i].end.stop_string = -1;
    }
    *out = g;
    return 0;
}

static void destroy(struct generation *g)
{
    for (uint32_t i = 0; i < g->n_choices; i++) {
        output_free(&g->choices[i].output);
        choice_news_free(&g->choices[i].end);
    }
    stop_strings_free(&g->stops);
    pthread_cond_destroy(&g->news);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

/* With the lock held, which is given back. */
static void let_go(struct generation *g)
{
    uint32_t left = --g->n_holders;
    pthread_mutex_unlock(&g->lock);
    if (!left)
        destroy(g);
}

/* ---- Events, on the scheduler's thread */

static int32_t take_token(struct choice *c, const struct sharpi_event *event)
{
    int32_t over = output_push(&c->output, event->token, event->logprob, event->top, event->n_top);
    if (c->output.matcher.hit >= 0)
        c->end.stop_string = c->output.matcher.hit;
    return over;
}

static void take_end(struct choice *c, const struct sharpi_event *event)
{
    struct choice_news *end = &c->end;
    if (c->output.detokenizer)
        output_end(&c->output);
    if (c->output.matcher.hit >= 0) /* held-back text may have completed one at the very end */
        end->stop_string = c->output.matcher.hit;
    end->finish = event->kind == SHARPI_EVENT_FINISHED ? event->finish : 0;
    end->status = event->status;
    snprintf(end->error, sizeof end->error, "%s", event->error ? event->error : "");
    if (event->embedding && event->kind == SHARPI_EVENT_FINISHED) {
        end->embedding = malloc(event->n_embedding * sizeof *end->embedding + 1);
        end->n_embedding = event->n_embedding;
        if (end->embedding)
            memcpy(end->embedding, event->embedding, event->n_embedding * sizeof *end->embedding);
    }
    if (c->output.failed || (end->n_embedding && !end->embedding)) {
        end->finish = 0;
        end->status = SHARPI_ENOMEM;
        snprintf(end->error, sizeof end->error, "no memory for the answer");
    }
    end->reasoning_tokens = c->output.reasoning_tokens;
    end->finished = 1;
}

static int32_t on_event(void *user, const struct sharpi_event *event)
{
    struct choice *c = user;
    struct generation *g = c->generation;
    int32_t is_last = event->kind == SHARPI_EVENT_FINISHED || event->kind == SHARPI_EVENT_FAILED, over = 0;
    pthread_mutex_lock(&g->lock);
    if (event->usage)
        c->end.usage = *event->usage;
    if (event->kind == SHARPI_EVENT_STARTED)
        c->end.started = 1;
    else if (event->kind == SHARPI_EVENT_TOKEN)
        over = take_token(c, event);
    else if (is_last)
        take_end(c, event);
    c->changed = 1;
    pthread_cond_signal(&g->news);
    if (is_last) {
        c->in_scheduler = 0;
        let_go(g);
    } else {
        pthread_mutex_unlock(&g->lock);
    }
    return over;
}

/* ---- Starting */

static int32_t check_length(const struct server *server, const struct gen_prompt *prompt,
                            struct http_error *error)
{
    if (prompt->n_tokens < server->context)
        return 0;
    return http_fail(
        error, 400, "context_length_exceeded", "messages",
        "the prompt has %llu tokens, the context of this server holds %u, the answer included; shorten "
        "the prompt",
        (unsigned long long)prompt->n_tokens, server->context);
}

static int32_t refused(int32_t status, const struct sharpi_error *err, struct http_error *error)
{
    if (status == SHARPI_EFULL)
        return http_fail(error, 503, "queue_full", NULL, "%s", err->text);
    return http_fail_status(error, status, err);
}

/* Its last event may come before this returns. */
static int32_t submit(struct generation *g, uint32_t i, struct sharpi_request *request,
                      struct http_error *error)
{
    struct choice *c = &g->choices[i];
    struct sharpi_error err = SHARPI_ERROR_INIT;
    uint64_t id = 0;
    int32_t status;
    request->event = on_event;
    request->user = c;
    pthread_mutex_lock(&g->lock);
    g->n_holders++;
    c->in_scheduler = 1;
    pthread_mutex_unlock(&g->lock);
    status = sharpi_scheduler_submit(g->scheduler, request, &id, &err);
    pthread_mutex_lock(&g->lock);
    c->id = id;
    if (!status) {
        pthread_mutex_unlock(&g->lock);
        return 0;
    }
    c->in_scheduler = 0;
    g->n_holders--; /* not the last: the connection holds it too */
    pthread_mutex_unlock(&g->lock);
    return refused(status, &err, error);
}

static int32_t start_choice(struct server *server, const struct gen_request *request, struct generation *g,
                            uint32_t i, struct http_error *error)
{
    const struct gen_prompt *prompt = &request->prompts[i / request->n];
    struct sharpi_sampler_params sampler = request->sampler;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_request r = {.size = sizeof r,
                               .kind = SHARPI_REQUEST_GENERATE,
                               .tokens = prompt->tokens,
                               .n_tokens = (uint32_t)prompt->n_tokens,
                               .max_tokens = request->max_tokens,
                               .sampler = &sampler,
                               .ignore_end = (uint32_t)request->ignore_end,
                               .logprobs = (uint32_t)request->logprobs,
                               .n_top = request->n_top,
                               .no_reuse = (uint32_t)request->no_reuse};
    int32_t status = output_init(&g->choices[i].output, server->model->tokenizer, &g->stops, request->split,
                                 request->logprobs, prompt->text, prompt->n_text, &err);
    if (status)
        return http_fail_status(error, status, &err);
    sampler.seed +=
        i % request->n * 0x9e3779b97f4a7c15u; /* choices must not repeat each other's random numbers */
    return submit(g, i, &r, error);
}

int32_t generation_start(struct server *server, struct gen_request *request, struct generation **out,
                         struct http_error *error)
{
    uint32_t n = request->n_prompts * request->n;
    struct generation *g = NULL;
    for (uint32_t i = 0; i < request->n_prompts; i++) {
        if (check_length(server, &request->prompts[i], error))
            return -1;
    }
    if (create(server, n, &g, error))
        return -1;
    g->stops = request->stops;
    request->stops.n = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (start_choice(server, request, g, i, error)) {
            generation_release(g);
            return -1;
        }
    }
    *out = g;
    return 0;
}

int32_t generation_embed(struct server *server, const struct gen_request *request, uint32_t kind,
                         struct generation **out, struct http_error *error)
{
    struct generation *g = NULL;
    if (create(server, request->n_prompts, &g, error))
        return -1;
    for (uint32_t i = 0; i < request->n_prompts; i++) {
        struct sharpi_request r = {.size = sizeof r, .kind = kind, .tokens = request->prompts[i].tokens};
        r.n_tokens = (uint32_t)request->prompts[i].n_tokens;
        if (check_length(server, &request->prompts[i], error) || submit(g, i, &r, error)) {
            generation_release(g);
            return -1;
        }
    }
    *out = g;
    return 0;
}

/* ---- The connection's side */

const char *generation_stop_string(const struct generation *g, int32_t index)
{
    return index >= 0 && (uint32_t)index < g->stops.n ? g->stops.items[index] : NULL;
}

static struct timespec deadline(double timeout_s)
{
    struct timespec t;
    int64_t ns = (int64_t)(timeout_s * 1e9);
    clock_gettime(CLOCK_MONOTONIC, &t);
    ns += t.tv_nsec;
    t.tv_sec += ns / 1000000000;
    t.tv_nsec = ns % 1000000000;
    return t;
}

static int32_t find_changed(const struct generation *g)
{
    for (uint32_t k = 0; k < g->n_choices; k++) {
        uint32_t i = (g->next + k) % g->n_choices;
        if (g->choices[i].changed)
            return (int32_t)i;
    }
    return -1;
}

int32_t generation_wait(struct generation *g, double timeout_s)
{
    struct timespec until = deadline(timeout_s);
    int32_t found, late = 0;
    pthread_mutex_lock(&g->lock);
    while ((found = find_changed(g)) < 0 && !late)
        late = pthread_cond_timedwait(&g->news, &g->lock, &until) != 0;
    if (found >= 0)
        g->next = (uint32_t)found + 1;
    pthread_mutex_unlock(&g->lock);
    return found;
}

static int32_t all_finished(const struct generation *g)
{
    for (uint32_t i = 0; i < g->n_choices; i++) {
        if (!g->choices[i].end.finished)
            return 0;
    }
    return 1;
}

int32_t generation_wait_all(struct generation *g, double timeout_s)
{
    struct timespec until = deadline(timeout_s);
    int32_t done, late = 0;
    pthread_mutex_lock(&g->lock);
    while (!(done = all_finished(g)) && !late)
        late = pthread_cond_timedwait(&g->news, &g->lock, &until) != 0;
    pthread_mutex_unlock(&g->lock);
    return done;
}

void generation_take(struct generation *g, uint32_t choice, struct choice_news *news)
{
    struct choice *c = &g->choices[choice];
    pthread_mutex_lock(&g->lock);
    *news = c->end;
    news->said = c->output.said;
    news->thought = c->output.thought;
    news->probs = c->output.probs;
    memset(&c->output.said, 0, sizeof c->output.said);
    memset(&c->output.thought, 0, sizeof c->output.thought);
    memset(&c->output.probs, 0, sizeof c->output.probs);
    c->end.embedding = NULL;
    c->changed = 0;
    c->taken = c->end.finished;
    pthread_mutex_unlock(&g->lock);
}

int32_t generation_is_done(struct generation *g)
{
    int32_t done = 1;
    pthread_mutex_lock(&g->lock);
    for (uint32_t i = 0; i < g->n_choices; i++)
        done &= g->choices[i].taken;
    pthread_mutex_unlock(&g->lock);
    return done;
}

int32_t generation_has_failed(struct generation *g, struct choice_news *news)
{
    int32_t failed = 0;
    pthread_mutex_lock(&g->lock);
    for (uint32_t i = 0; i < g->n_choices && !failed; i++) {
        const struct choice_news *end = &g->choices[i].end;
        failed = end->finished && !end->finish;
        news->status = end->status;
        memcpy(news->error, end->error, sizeof news->error);
    }
    pthread_mutex_unlock(&g->lock);
    return failed;
}

void generation_cancel(struct generation *g)
{
    for (uint32_t i = 0; i < g->n_choices; i++) {
        uint64_t id;
        int32_t runs;
        pthread_mutex_lock(&g->lock);
        id = g->choices[i].id;
        runs = g->choices[i].in_scheduler;
        pthread_mutex_unlock(&g->lock);
        if (runs)
            sharpi_scheduler_cancel(g->scheduler, id);
    }
}

void generation_release(struct generation *g)
{
    if (!g)
        return;
    generation_cancel(g);
    pthread_mutex_lock(&g->lock);
    let_go(g);
}
