/* The scheduler: many requests on one model, in shared steps, by one thread of its own.
 *
 *     sharpi_scheduler_create(model, &options, &scheduler, &err);      the model now belongs to the scheduler's thread
 *     sharpi_scheduler_submit(scheduler, &request, &id, &err);         any thread; copies what it needs
 *       -> request.event(user, event) from the scheduler's thread: STARTED, TOKEN ..., then FINISHED or FAILED, which is the last
 *     sharpi_scheduler_cancel(scheduler, id);                          any thread; FINISHED (CANCELLED) follows at the next step
 *     sharpi_scheduler_destroy(scheduler);                             cancels what is left, joins the thread
 *
 * Every step takes all decodes first, then as much of the waiting prompts as the token budget allows. A prompt's known prefix
 * is taken from the page cache, whoever computed it. When pages run out, cached ones go first, then the newest sequence is
 * put back into the queue and resumes later without its reader noticing anything but the pause.
 *
 * Invariants: after a successful submit exactly one last event comes, whatever happens. Between steps the references to every
 * page add up (else new requests are refused, SHARPI_EBUG). A step that fails costs only the requests that cause it.
 */
#ifndef SHARPI_CORE_SCHEDULER_H
#define SHARPI_CORE_SCHEDULER_H

#include "model.h"

struct sharpi_scheduler;

struct sharpi_scheduler_options {
    uint32_t size;
    uint32_t max_running;   /* sequences in a step; 0 = the model's max_sessions; never more */
    uint32_t max_queued;    /* requests that wait; 0 = 1024. More are refused with SHARPI_EFULL */
    uint32_t max_stall_ms;  /* a prompt may delay running decodes this long per step; 0 = a whole chunk */
    uint32_t no_reuse;      /* 1: nothing is taken from or kept in the page cache */
    uint32_t verify_reuse;  /* 1: a reused prefix is computed again, cold, and the logits compared; needs one
                                  session more than max_running */
    float verify_tolerance; /* largest logit difference that is no mismatch; 0 = 0.1 x the largest |logit|:
                               attention of few rows sums in another order than that of many, and int8
                               activations make half of that of it */
    uint32_t max_pages;     /* pages per class that may be in use, to try out small caches; 0 = all */
    const char *prompt_cache_dir; /* prefixes saved across restarts; NULL = none; the folder must exist */
    uint64_t prompt_cache_bytes;  /* oldest files go when they hold more than this; 0 = 4 GiB */
    uint32_t prompt_cache_min;    /* shortest prefix worth a file, tokens; 0 = 256 */
    uint32_t reserved;
    /* Sees the logits of every row before sampling, on the scheduler's thread: for tests and tools. `position` is the number
     * of tokens read so far. May be NULL. */
    void (*observe)(void *user, uint64_t id, uint32_t position, const float *logits, uint32_t n_vocab);
    void *observe_user;
};

/* ---- Requests */

enum sharpi_request_kind {
    SHARPI_REQUEST_GENERATE = 0,
    SHARPI_REQUEST_EMBED_LAST = 1, /* the final norm's value of the last token */
    SHARPI_REQUEST_EMBED_MEAN = 2, /* its mean over all tokens */
};

enum sharpi_event_kind {
    SHARPI_EVENT_STARTED = 1,  /* has a sequence and pages; not repeated after a preemption */
    SHARPI_EVENT_TOKEN = 2,    /* one generated token; a stop token is not reported as one */
    SHARPI_EVENT_FINISHED = 3, /* last */
    SHARPI_EVENT_FAILED = 4,   /* last */
};

enum sharpi_finish {
    SHARPI_FINISH_STOP = 1,      /* a stop token, or the event function said so */
    SHARPI_FINISH_LENGTH = 2,    /* max_tokens, or the context is full */
    SHARPI_FINISH_CANCELLED = 3, /* sharpi_scheduler_cancel, or shutdown */
};

/* Why no more of a prompt was taken from the cache. */
enum sharpi_reuse_limit {
    SHARPI_REUSE_ALL = 0,      /* everything but the last token, which has to be computed for its logits */
    SHARPI_REUSE_NONE_YET = 1, /* no earlier sequence begins like this one */
    SHARPI_REUSE_DIVERGES = 2, /* the tokens differ from there on */
    SHARPI_REUSE_WINDOW = 3,   /* more is known, but a windowed layer's pages before that point are gone */
    SHARPI_REUSE_OFF = 4,      /* no_reuse, of the scheduler or the request */
};
/* "the tokens differ from there on": for reports. */
const char *sharpi_reuse_limit_text(uint32_t limit);

/* Seconds of CLOCK_MONOTONIC. 0 = has not happened. */
struct sharpi_request_times {
    double queued, started, first_token, finished;
};

struct sharpi_request_usage {
    uint32_t prompt_tokens;
    uint32_t reused_tokens; /* of the prompt, from the cache, at the first start */
    uint32_t reuse_limit;   /* enum sharpi_reuse_limit */
    uint32_t known_tokens; /* how much of the prompt the cache had seen; more than reused with REUSE_WINDOW */
    uint32_t disk_tokens;  /* of the reused ones, read from prompt_cache_dir */
    uint32_t output_tokens; /* TOKEN events */
    uint32_t preemptions;
    uint32_t reserved;
    struct sharpi_request_times times;
};

/* Everything is valid during the call only. */
struct sharpi_event {
    uint32_t kind;   /* enum sharpi_event_kind */
    uint32_t finish; /* FINISHED: enum sharpi_finish */
    uint64_t id;
    /* TOKEN */
    int32_t token;
    uint32_t n_top;
    float logprob;      /* of the token before sampling changed the logits; 0 unless logprobs were wanted */
    int32_t stop_token; /* FINISHED by a stop token: which; else -1 */
    const struct sharpi_logprob *top; /* [n_top] highest first */
    /* FINISHED of an embedding */
    const float *embedding; /* [n_embedding], not normalized */
    uint32_t n_embedding;
    /* FAILED */
    int32_t status; /* enum sharpi_status */
    const char *error;
    const struct sharpi_request_usage *usage; /* always */
};

/* Runs on the scheduler's thread, between steps: be quick. Of the scheduler it may call sharpi_scheduler_cancel and
 * sharpi_scheduler_submit. Non-zero after a TOKEN ends the request with FINISHED (STOP) at once, without another step: how a stop
 * string is found. */
typedef int32_t sharpi_event_fn(void *user, const struct sharpi_event *event);

/* Copied by submit, with all it points to. */
struct sharpi_request {
    uint32_t size;
    uint32_t kind; /* enum sharpi_request_kind */
    const int32_t *tokens;
    uint32_t n_tokens;
    uint32_t max_tokens;                         /* to generate; 0 = as many as the context holds */
    const struct sharpi_sampler_params *sampler; /* NULL = greedy */
    const int32_t *stop_tokens;                  /* besides the model's own ends */
    uint32_t n_stop_tokens;
    uint32_t ignore_end; /* 1: the model's own end tokens are tokens like others */
    uint32_t logprobs;   /* 1: the token's logprob and the n_top most likely */
    uint32_t n_top;      /* at most SHARPI_TOP_MOST */
    uint32_t no_reuse;   /* 1: computed from the start, and leaves nothing behind */
    uint32_t reserved;
    sharpi_event_fn *event; /* required */
    void *user;
};

#define SHARPI_TOP_MOST 32u

/* SHARPI_EINVAL: a request that can never work: empty, unknown tokens, bad sampler, longer than the context or all pages (the
 * text has the numbers). SHARPI_EFULL: the queue is full, try later. SHARPI_ENOMEM. SHARPI_ENOTSUP: embeddings of a model
 * that was not loaded with the tap "result_norm". SHARPI_ECANCELLED: shutting down. SHARPI_EBUG: the page accounts do not add
 * up. On an error no event follows. */
int32_t sharpi_scheduler_submit(struct sharpi_scheduler *scheduler, const struct sharpi_request *request,
                                uint64_t *id, struct sharpi_error *err);
/* An id that is finished or unknown is fine. */
void sharpi_scheduler_cancel(struct sharpi_scheduler *scheduler, uint64_t id);

/* ---- The scheduler */

/* `model` must outlive it and have no sessions of others. NULL options: defaults. */
int32_t sharpi_scheduler_create(struct sharpi_model *model, const struct sharpi_scheduler_options *options,
                                struct sharpi_scheduler **out, struct sharpi_error *err);
/* Refuses new requests from now on (SHARPI_ECANCELLED) and waits until the others are done, at most `timeout_s`. Returns how
 * many are left. */
uint32_t sharpi_scheduler_drain(struct sharpi_scheduler *scheduler, double timeout_s);
/* Cancels what is left (their last events come), joins. NULL is fine. */
void sharpi_scheduler_destroy(struct sharpi_scheduler *scheduler);

/* ---- What is going on */

/* Counts of values up to each bound, and above the last: Prometheus' buckets before they are summed up. */
#define SHARPI_HISTOGRAM_BUCKETS 20
struct sharpi_histogram {
    uint64_t counts[SHARPI_HISTOGRAM_BUCKETS + 1];
    uint64_t n;
    double sum;
};
extern const double
    sharpi_seconds_bounds[SHARPI_HISTOGRAM_BUCKETS]; /* ttft, inter_token, queue, step, request */
extern const double
    sharpi_lengths_bounds[SHARPI_HISTOGRAM_BUCKETS]; /* prompt and output lengths, batch sizes */

struct sharpi_class_stats {
    uint32_t window, ring, n_pages;
    uint32_t free;
    uint32_t active; /* held by one or more running sequences; each page counts once */
    uint32_t shared; /* of those, held by two or more */
    uint32_t cached; /* held by the page cache alone: given up when others need them */
};

/* What did not go the fast way, or not the way that was asked for. */
enum sharpi_fallback {
    SHARPI_FALLBACK_SLOW_OP = 0, /* ops that a backend ran on a slower path than its best, once per step */
    SHARPI_FALLBACK_BATCH_SPLIT = 1,  /* steps of several sequences that failed and were run one by one */
    SHARPI_FALLBACK_RESTARTED = 2,    /* sequences begun anew after such a step had overwritten their ring */
    SHARPI_FALLBACK_PREEMPTED = 3,    /* sequences put back into the queue for want of pages */
    SHARPI_FALLBACK_WINDOW_LOST = 4,  /* prompts partly computed again: a windowed layer's pages were gone */
    SHARPI_FALLBACK_SAVED_PREFIX = 5, /* saved prefixes ignored: broken, foreign, or no room for them */
    SHARPI_FALLBACK_MISMATCH = 6,     /* reused prefixes whose logits were not a cold run's (verify_reuse) */
    SHARPI_FALLBACK_COUNT = 7
};
/* "slow_op": for labels. */
const char *sharpi_fallback_name(uint32_t fallback);

#define SHARPI_STATS_CLASSES 8u
#define SHARPI_STATS_ERRORS  12u
struct sharpi_scheduler_stats {
    /* Counters */
    uint64_t submitted, refused, finished_stop, finished_length, cancelled, failed;
    uint64_t errors[SHARPI_STATS_ERRORS]; /* failed requests by -enum sharpi_status */
    uint64_t steps, failed_steps;
    uint64_t prompt_tokens;     /* of started requests */
    uint64_t prefix_hit_tokens; /* of those, taken from the cache */
    uint64_t prefill_tokens;    /* computed, again after preemptions too */
    uint64_t output_tokens;
    uint64_t preemptions;
    uint64_t ring_wraps;    /* times that a ring went round, over all sequences and classes */
    uint64_t page_copies;   /* pages copied before a write because others held them */
    uint64_t evicted_pages; /* of the page cache */
    uint64_t verify_runs, verify_mismatches;
    uint64_t disk_loads, disk_saves,
        disk_refused; /* prompt_cache_dir: files taken, written, found broken or foreign */
    uint64_t disk_hit_tokens, disk_not_taken; /* files that there was no room for in the page cache */
    uint64_t accounting_errors;
    uint64_t fallbacks[SHARPI_FALLBACK_COUNT];
    /* Gauges */
    uint32_t queued, running, prefilling; /* running includes prefilling */
    uint32_t n_classes;
    struct sharpi_class_stats
        classes[SHARPI_STATS_CLASSES]; /* the first n_classes, SHARPI_STATS_CLASSES at most */
    uint64_t kv_bytes, weight_bytes, scratch_bytes;
    uint32_t last_batch_tokens, last_batch_seqs;
    double prefill_token_s, decode_step_s; /* as measured lately; what max_stall_ms reckons with */
    /* Histograms */
    struct sharpi_histogram ttft, inter_token, queue, step, request; /* seconds */
    struct sharpi_histogram prompt_length, output_length, batch_tokens, batch_seqs;
};
/* Any thread; a consistent state between two steps. */
void sharpi_scheduler_get_stats(struct sharpi_scheduler *scheduler, struct sharpi_scheduler_stats *stats);

/* Watchdog, any thread, no lock. Times of CLOCK_MONOTONIC in seconds. */
struct sharpi_scheduler_pulse {
    uint32_t in_step;            /* 1: a step began and has not returned */
    uint32_t has_work;           /* requests running or waiting */
    double step_begin, step_end; /* of the last ones; 0 = none yet */
};
void sharpi_scheduler_get_pulse(const struct sharpi_scheduler *scheduler,
                                struct sharpi_scheduler_pulse *pulse);

#endif
