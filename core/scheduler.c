/* The scheduler's thread, its door to other threads, and its life: see scheduler.h. */
#include "scheduler.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scheduler-internal.h"

double scheduler_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

const char *sharpi_reuse_limit_text(uint32_t limit)
{
    static const char *const texts[] = {
        [SHARPI_REUSE_ALL] = "all but the last token, which has to be computed",
        [SHARPI_REUSE_NONE_YET] = "no earlier sequence begins like this one",
        [SHARPI_REUSE_DIVERGES] = "the tokens differ from there on",
        [SHARPI_REUSE_WINDOW] = "more is known, but a windowed layer's pages before that point are gone",
        [SHARPI_REUSE_OFF] = "reuse is switched off",
    };
    return limit < sizeof texts / sizeof *texts ? texts[limit] : "?";
}

const char *sharpi_fallback_name(uint32_t fallback)
{
    static const char *const names[] = {
        [SHARPI_FALLBACK_SLOW_OP] = "slow_op",         [SHARPI_FALLBACK_BATCH_SPLIT] = "batch_split",
        [SHARPI_FALLBACK_RESTARTED] = "restarted",     [SHARPI_FALLBACK_PREEMPTED] = "preempted",
        [SHARPI_FALLBACK_WINDOW_LOST] = "window_lost", [SHARPI_FALLBACK_SAVED_PREFIX] = "saved_prefix",
        [SHARPI_FALLBACK_MISMATCH] = "reuse_mismatch",
    };
    return fallback < sizeof names / sizeof *names ? names[fallback] : "?";
}

/* ---- The thread */

static void sweep_cancelled(struct sharpi_scheduler *s, struct request_list *list, int32_t all)
{
    struct request *r, *next;
    for (r = list->first; r; r = next) {
        next = r->next;
        if (all || atomic_load(&r->cancelled))
            request_finish(s, r, list, SHARPI_FINISH_CANCELLED, -1);
    }
}

static void wait_a_moment(struct sharpi_scheduler *s)
{
    double until = scheduler_now() + 0.02;
    struct timespec at = {.tv_sec = (time_t)until};
    at.tv_nsec = (long)((until - (double)at.tv_sec) * 1e9);
    pthread_cond_timedwait(&s->wake, &s->lock, &at);
}

/* Waits for something to do. 0: it is time to end. */
static int32_t take_incoming(struct sharpi_scheduler *s)
{
    struct request *r;
    int32_t closing;
    pthread_mutex_lock(&s->lock);
    while (!s->closing && !s->incoming.first && !s->waiting.first && !s->running.first) {
        atomic_store(&s->has_work, 0);
        pthread_cond_wait(&s->wake, &s->lock);
    }
    if (s->stalled && !s->closing && !s->incoming.first) /* all that wait do so for a file */
        wait_a_moment(s);
    atomic_store(&s->has_work, 1);
    while ((r = s->incoming.first)) {
        list_take(&s->incoming, r);
        list_append(&s->waiting, r);
    }
    closing = (int32_t)s->closing;
    pthread_mutex_unlock(&s->lock);
    return !closing;
}

static void *scheduler_main(void *user)
{
    struct sharpi_scheduler *s = user;
    while (take_incoming(s)) {
        sweep_cancelled(s, &s->running, 0);
        sweep_cancelled(s, &s->waiting, 0);
        scheduler_admit(s);
        scheduler_step(s);
        scheduler_publish(s);
    }
    sweep_cancelled(s, &s->running, 1);
    sweep_cancelled(s, &s->waiting, 1);
    return NULL;
}

/* ---- Other threads */

int32_t sharpi_scheduler_submit(struct sharpi_scheduler *scheduler, const struct sharpi_request *request,
                                uint64_t *id, struct sharpi_error *err)
{
    struct sharpi_scheduler *s = scheduler;
    struct request *r = NULL;
    int32_t status = request_create(s, request, &r, err);
    pthread_mutex_lock(&s->lock);
    s->n_submitted++;
    if (!status && (s->draining || s->closing))
        status = sharpi_fail(err, SHARPI_ECANCELLED, "shutting down: no new requests");
    else if (!status && s->refuse_all)
        status = sharpi_fail(err, SHARPI_EBUG,
                             "the KV page accounts do not add up (the log says more): no new requests");
    else if (!status && s->published.queued + s->incoming.n >= s->options.max_queued)
        status = sharpi_fail(err, SHARPI_EFULL, "%u requests are waiting already, the limit is %u; try later",
                             s->published.queued, s->options.max_queued);
    if (status) {
        s->n_refused++;
    } else {
        r->id = ++s->next_id;
        *id = r->id;
        r->next_live = s->live;
        s->live = r;
        s->n_live++;
        list_append(&s->incoming, r);
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (status)
        request_free(r);
    return status;
}

void sharpi_scheduler_cancel(struct sharpi_scheduler *scheduler, uint64_t id)
{
    struct request *r;
    pthread_mutex_lock(&scheduler->lock);
    for (r = scheduler->live; r && r->id != id; r = r->next_live)
        ;
    if (r)
        atomic_store(&r->cancelled, 1);
    pthread_mutex_unlock(&scheduler->lock);
}

uint32_t sharpi_scheduler_drain(struct sharpi_scheduler *scheduler, double timeout_s)
{
    double until = scheduler_now() + timeout_s;
    struct timespec at = {.tv_sec = (time_t)until};
    uint32_t left;
    at.tv_nsec = (long)((until - (double)at.tv_sec) * 1e9);
    pthread_mutex_lock(&scheduler->lock);
    scheduler->draining = 1;
    while (scheduler->n_live &&
           pthread_cond_timedwait(&scheduler->all_done, &scheduler->lock, &at) != ETIMEDOUT)
        ;
    left = scheduler->n_live;
    pthread_mutex_unlock(&scheduler->lock);
    return left;
}

/* ---- Creation */

static int32_t take_options(struct sharpi_scheduler *s, const struct sharpi_scheduler_options *options,
                            struct sharpi_error *err)
{
    const uint32_t sessions = s->model->max_sessions;
    struct sharpi_scheduler_options *o = &s->options;
    *o = (struct sharpi_scheduler_options){.size = sizeof *o};
    if (options)
        memcpy(o, options, options->size < sizeof *o ? options->size : sizeof *o);
    if (!o->max_queued)
        o->max_queued = 1024;
    if (o->verify_reuse && sessions < 2)
        return sharpi_fail(
            err, SHARPI_EINVAL,
            "verify_reuse computes beside the running sequences and needs a model loaded for 2 "
            "sequences at least (max_sessions)");
    s->max_running = sessions - (o->verify_reuse ? 1 : 0);
    if (o->max_running && o->max_running < s->max_running)
        s->max_running = o->max_running;
    if (s->max_running > s->model->chunk) /* each takes one token of a step */
        s->max_running = s->model->chunk;
    return SHARPI_OK;
}

/* The tap that embeddings are read from, if the model was loaded with it alone. */
static int32_t create_tap(struct sharpi_scheduler *s, struct sharpi_error *err)
{
    const struct sharpi_model *model = s->model;
    const struct sharpi_value *value;
    if (model->n_taps == 0)
        return SHARPI_OK;
    value = sharpi_graph_view(model->graph)->values[model->taps[0]];
    if (model->n_taps != 1 || model->taps[0] != sharpi_graph_tap(model->graph, "result_norm", err))
        return sharpi_fail(err, SHARPI_EINVAL,
                           "the model was loaded with taps; the scheduler can use \"result_norm\" alone, for "
                           "embeddings");
    s->tap_width = value->width;
    s->tap = malloc((size_t)model->chunk * s->tap_width * sizeof *s->tap);
    s->taps = calloc(s->max_running, sizeof *s->taps);
    s->embed_logits = malloc((size_t)EMBED_ROWS * model->desc.n_vocab * sizeof *s->embed_logits);
    return s->tap && s->taps && s->embed_logits ? SHARPI_OK
                                                : sharpi_fail(err, SHARPI_ENOMEM, "no memory for embeddings");
}

static int32_t create_parts(struct sharpi_scheduler *s, struct sharpi_error *err)
{
    int32_t status = create_tap(s, err);
    uint32_t i;
    if (status)
        return status;
    s->sessions = calloc(s->max_running, sizeof *s->sessions);
    s->work = calloc(s->max_running, sizeof *s->work);
    s->work_of = calloc(s->max_running, sizeof *s->work_of);
    s->lengths = calloc(s->max_running, sizeof *s->lengths);
    s->logits_copy = malloc(s->model->desc.n_vocab * sizeof *s->logits_copy);
    if (!s->sessions || !s->work || !s->work_of || !s->lengths || !s->logits_copy)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a scheduler of %u sequences", s->max_running);
    for (i = 0; i < s->max_running && !status; i++) {
        status = sharpi_session_create(s->model, &s->sessions[i], err);
        s->n_idle_sessions += !status;
    }
    if (!status && s->options.verify_reuse)
        status = sharpi_session_create(s->model, &s->verifier, err);
    return status ? status : scheduler_disk_open(s, err);
}

static int32_t create_thread(struct sharpi_scheduler *s, struct sharpi_error *err)
{
    pthread_condattr_t attr;
    int failed = pthread_mutex_init(&s->lock, NULL) || pthread_condattr_init(&attr);
    if (failed)
        return sharpi_fail(err, SHARPI_ENOMEM, "no lock for the scheduler");
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    failed = pthread_cond_init(&s->wake, &attr) || pthread_cond_init(&s->all_done, &attr);
    pthread_condattr_destroy(&attr);
    s->has_lock = !failed;
    scheduler_publish(s);
    failed = failed || pthread_create(&s->thread, NULL, scheduler_main, s);
    s->has_thread = !failed;
    return failed ? sharpi_fail(err, SHARPI_ENOMEM, "no thread for the scheduler") : SHARPI_OK;
}

static void free_sessions(struct sharpi_scheduler *s)
{
    uint32_t i;
    for (i = 0; s->sessions && i < s->max_running; i++)
        sharpi_session_free(s->sessions[i]);
    sharpi_session_free(s->verifier);
}

int32_t sharpi_scheduler_create(struct sharpi_model *model, const struct sharpi_scheduler_options *options,
                                struct sharpi_scheduler **out, struct sharpi_error *err)
{
    struct sharpi_scheduler *s = calloc(1, sizeof *s);
    int32_t status;
    if (!s)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a scheduler");
    s->model = model;
    if ((status = take_options(s, options, err)) || (status = scheduler_pages_open(s, err)) ||
        (status = create_parts(s, err)) || (status = create_thread(s, err))) {
        sharpi_scheduler_destroy(s);
        return status;
    }
    *out = s;
    return SHARPI_OK;
}

void sharpi_scheduler_destroy(struct sharpi_scheduler *scheduler)
{
    struct sharpi_scheduler *s = scheduler;
    if (!s)
        return;
    if (s->has_thread) {
        pthread_mutex_lock(&s->lock);
        s->closing = 1;
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    sharpi_prompt_cache_close(s->disk);
    free_sessions(s);
    sharpi_prefix_tree_destroy(s->tree);
    sharpi_kv_pages_limit(s->model->pages, 0);
    if (s->has_lock) {
        pthread_cond_destroy(&s->wake);
        pthread_cond_destroy(&s->all_done);
        pthread_mutex_destroy(&s->lock);
    }
    free(s->work);
    free(s->work_of);
    free(s->lengths);
    free(s->sessions);
    free(s->logits_copy);
    free(s->embed_logits);
    free(s->tap);
    free(s->taps);
    free(s);
}
