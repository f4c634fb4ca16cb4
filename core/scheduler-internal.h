/* What the files of the scheduler share.
 *
 * Who owns what: `lock` guards the part of struct sharpi_scheduler below it and the `cancelled` flags; everything else
 * belongs to the scheduler's thread. No callback runs under the lock.
 */
#ifndef SHARPI_CORE_SCHEDULER_INTERNAL_H
#define SHARPI_CORE_SCHEDULER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "prefix-tree.h"
#include "prompt-cache.h"
#include "scheduler.h"
#include "session.h"

struct request {
    struct request *next, *previous; /* in the list of its state */
    struct request *next_live;       /* in the list of all, under the lock */
    uint64_t id;
    struct sharpi_request what; /* tokens, sampler and stop_tokens are NULL: kept below */
    int32_t *tokens;            /* [capacity] prompt and output */
    uint32_t n_tokens, n_prompt, capacity;
    int32_t *stop_tokens;
    struct sharpi_sampler *sampler;
    float *embedding; /* sum of rows, [width] */
    atomic_int cancelled;

    struct sharpi_session *session; /* while it runs */
    struct sharpi_prefix_cursor cursor;
    uint64_t order;  /* of its start: the newest is preempted first */
    uint32_t n_step; /* tokens in the step that is planned */
    uint32_t was_started, to_verify;
    uint32_t disk_done; /* nothing more is to be expected from files */
    double last_token;
    struct sharpi_request_usage usage;
};

struct request_list {
    struct request *first, *last;
    uint32_t n;
};

struct sharpi_scheduler {
    struct sharpi_model *model;
    struct sharpi_scheduler_options options;
    uint32_t max_running;
    struct sharpi_prefix_tree *tree;
    struct sharpi_prompt_cache *disk; /* NULL without */
    struct sharpi_session **sessions; /* [max_running], those not in use first */
    uint32_t n_idle_sessions;
    struct sharpi_session *verifier;
    struct request_list waiting, running;
    struct sharpi_work *work; /* [max_running] the step, and whose it is */
    struct request **work_of;
    uint32_t *lengths; /* of their sessions before the step */
    uint32_t n_work;
    uint64_t next_order;
    float *logits_copy;  /* [n_vocab] for logprobs and verify_reuse */
    float *embed_logits; /* [EMBED_ROWS, n_vocab] nobody reads them */
    float *tap;          /* [chunk, width] */
    float **taps;        /* [max_running] where the rows of each work item begin there */
    uint32_t tap_width;
    uint32_t embed_rows_left; /* in the step that is planned */
    struct sharpi_logprob top[SHARPI_TOP_MOST];
    uint32_t n_kept; /* highest logits that the row being sampled consists of; 0 = all logits */
    struct sharpi_scheduler_stats stats;
    int32_t accounts_broken;
    uint32_t stalled; /* requests wait and none runs */

    atomic_int in_step, has_work;
    _Atomic double step_begin, step_end;

    pthread_mutex_t lock;
    pthread_cond_t wake, all_done;
    pthread_t thread;
    uint32_t has_thread, has_lock;
    struct request_list incoming;
    struct request *live;
    uint32_t n_live;
    uint64_t next_id;
    uint32_t draining, closing, refuse_all;
    struct sharpi_scheduler_stats published;
    uint64_t n_submitted, n_refused;
};

enum {
    EMBED_ROWS = 32,  /* tokens per step of mean embeddings: each makes a row of logits too */
    FIRST_CHUNK = 16, /* tokens of the first prompt beside running decodes, before anything was measured */
};

double scheduler_now(void);

/* scheduler-request.c */
int32_t request_create(struct sharpi_scheduler *s, const struct sharpi_request *what, struct request **out,
                       struct sharpi_error *err);
void request_free(struct request *r);
void list_append(struct request_list *list, struct request *r);
void list_prepend(struct request_list *list, struct request *r);
void list_take(struct request_list *list, struct request *r);
/* Last events. They give back what the request holds, take it out of its list and free it. */
void request_finish(struct sharpi_scheduler *s, struct request *r, struct request_list *list, uint32_t finish,
                    int32_t stop_token);
void request_fail(struct sharpi_scheduler *s, struct request *r, struct request_list *list, int32_t status,
                  const char *text);
/* Non-zero: the reader has enough. */
int32_t request_emit(struct sharpi_scheduler *s, struct request *r, struct sharpi_event *event);

/* scheduler-pages.c: admission, reuse, preemption */
int32_t scheduler_pages_open(struct sharpi_scheduler *s, struct sharpi_error *err);
void scheduler_admit(struct sharpi_scheduler *s);
/* Makes the planned step fit the pages; preempts, and fails what cannot go on. 0: the plan must be made anew. */
int32_t scheduler_make_room(struct sharpi_scheduler *s);
/* Takes the session away; the pages go to the cache when `keep`. */
void request_release(struct sharpi_scheduler *s, struct request *r, int32_t keep);
/* Back to the front of the queue. */
void request_preempt(struct sharpi_scheduler *s, struct request *r, int32_t keep);
int32_t scheduler_never_fits(const struct sharpi_scheduler *s, uint32_t n_tokens, struct sharpi_error *err);
void scheduler_check_accounts(struct sharpi_scheduler *s);

/* scheduler-step.c */
void scheduler_step(struct sharpi_scheduler *s);

/* scheduler-verify.c: a cold run's logits beside those of a reused prefix */
void scheduler_verify(struct sharpi_scheduler *s, struct request *r, const float *logits);

/* scheduler-disk.c: prefixes saved in files */
int32_t scheduler_disk_open(struct sharpi_scheduler *s, struct sharpi_error *err);
/* Puts a saved prefix that is longer than `known` into the page cache. SHARPI_EFULL: it is being read, ask again; others than
 * SHARPI_OK: there is none. */
int32_t scheduler_disk_load(struct sharpi_scheduler *s, const struct request *r, uint32_t known);
/* Saves the prompt of a sequence that has just computed it. */
void scheduler_disk_save(struct sharpi_scheduler *s, const struct request *r);

/* scheduler-stats.c */
void histogram_add(struct sharpi_histogram *h, const double *bounds, double value);
void scheduler_publish(struct sharpi_scheduler *s);

#endif
