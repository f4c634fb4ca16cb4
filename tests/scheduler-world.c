/* See scheduler-world.h. */
#include "scheduler-world.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static int32_t on_event(void *user, const struct sharpi_event *event)
{
    struct answer *a = user;
    int32_t enough = 0;
    uint64_t cancel = 0;
    pthread_mutex_lock(&lock);
    a->usage = *event->usage;
    switch (event->kind) {
    case SHARPI_EVENT_STARTED:
        a->started++;
        break;
    case SHARPI_EVENT_TOKEN:
        if (a->n < ANSWER_MOST) {
            a->tokens[a->n] = event->token;
            a->logprobs[a->n] = event->n_top ? event->top[0].logprob : event->logprob;
        }
        a->n++;
        enough = a->stop_after && a->n >= a->stop_after;
        cancel = a->cancel_in ? event->id : 0;
        break;
    case SHARPI_EVENT_FAILED:
        a->status = event->status;
        snprintf(a->error, sizeof a->error, "%s", event->error);
        a->done++;
        break;
    default:
        a->finish = event->finish;
        a->stop_token = event->stop_token;
        a->n_embedding = event->n_embedding;
        if (event->n_embedding && event->n_embedding <= 1024)
            memcpy(a->embedding, event->embedding, event->n_embedding * sizeof(float));
        a->done++;
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    if (cancel)
        sharpi_scheduler_cancel(a->cancel_in, cancel);
    return enough;
}

int32_t answer_ask(struct sharpi_scheduler *s, struct sharpi_request request, struct answer *answer)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    uint64_t id = 0;
    int32_t status;
    request.size = sizeof request;
    request.event = on_event;
    request.user = answer;
    status = sharpi_scheduler_submit(s, &request, &id, &err);
    pthread_mutex_lock(&lock);
    answer->id = id;
    if (status) {
        answer->status = status;
        answer->done = 1;
        snprintf(answer->error, sizeof answer->error, "%.255s", err.text);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

static int wait_for(struct answer *answer, uint32_t n)
{
    struct timespec until;
    int ready;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 400; /* a busy machine, sanitizers */
    pthread_mutex_lock(&lock);
    while (!answer->done && answer->n < n) {
        if (pthread_cond_timedwait(&changed, &lock, &until) == ETIMEDOUT)
            break;
    }
    ready = answer->done || answer->n >= n;
    pthread_mutex_unlock(&lock);
    return ready;
}

int answer_wait(struct answer *answer)
{
    return wait_for(answer, UINT32_MAX);
}

int answer_wait_tokens(struct answer *answer, uint32_t n)
{
    return wait_for(answer, n);
}

void watch_observe(void *user, uint64_t id, uint32_t position, const float *logits, uint32_t n_vocab)
{
    struct watch *w = user;
    struct watched *row = &w->rows[w->n];
    if (w->n == sizeof w->rows / sizeof *w->rows)
        return;
    *row = (struct watched){.id = id, .position = position, .logits = malloc(n_vocab * sizeof(float))};
    if (!row->logits)
        return;
    memcpy(row->logits, logits, n_vocab * sizeof(float));
    w->n_vocab = n_vocab;
    w->n++;
}

const float *watch_find(const struct watch *watch, uint64_t id, uint32_t position)
{
    for (uint32_t i = 0; i < watch->n; i++) {
        if (watch->rows[i].id == id && watch->rows[i].position == position)
            return watch->rows[i].logits;
    }
    return NULL;
}

void watch_clear(struct watch *watch)
{
    for (uint32_t i = 0; i < watch->n; i++)
        free(watch->rows[i].logits);
    watch->n = 0;
}
