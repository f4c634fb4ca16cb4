/* Numbers: histograms, the published copy, and the pulse. */
#include "scheduler-internal.h"

const double sharpi_seconds_bounds[SHARPI_HISTOGRAM_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05,
                                                                0.075, 0.1,    0.15,  0.2,  0.3,  0.5,  0.75,
                                                                1,     2.5,    5,     10,   30,   120};
const double sharpi_lengths_bounds[SHARPI_HISTOGRAM_BUCKETS] = {
    1,    2,    4,    8,    16,    32,    64,    128,    256,    512,
    1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 1048576};

void histogram_add(struct sharpi_histogram *h, const double *bounds, double value)
{
    uint32_t i;
    for (i = 0; i < SHARPI_HISTOGRAM_BUCKETS && value > bounds[i]; i++)
        ;
    h->counts[i]++;
    h->n++;
    h->sum += value;
}

static void gather(struct sharpi_scheduler *s)
{
    struct sharpi_scheduler_stats *t = &s->stats;
    struct sharpi_kv_counts counts;
    const struct request *r;
    uint32_t c, n = s->model->n_classes < SHARPI_STATS_CLASSES ? s->model->n_classes : SHARPI_STATS_CLASSES;
    t->queued = s->waiting.n;
    t->running = s->running.n;
    t->prefilling = 0;
    for (r = s->running.first; r; r = r->next)
        t->prefilling += sharpi_session_length(r->session) + 1 < r->n_tokens;
    t->n_classes = n;
    for (c = 0; c < n; c++) {
        sharpi_kv_pages_count(s->model->pages, c, &counts);
        t->classes[c] = (struct sharpi_class_stats){.window = s->model->classes[c].window,
                                                    .ring = s->model->classes[c].ring,
                                                    .n_pages = counts.n_pages,
                                                    .free = counts.free,
                                                    .active = counts.active,
                                                    .shared = counts.shared,
                                                    .cached = counts.cached};
    }
    t->page_copies = sharpi_kv_pages_copies(s->model->pages);
    t->evicted_pages = sharpi_prefix_tree_evicted(s->tree);
    t->kv_bytes = s->model->kv_bytes;
    t->weight_bytes = s->model->memory.weight_bytes;
    t->scratch_bytes = s->model->memory.scratch_bytes;
    if (s->disk)
        sharpi_prompt_cache_count(s->disk, &t->disk_saves, &t->disk_refused);
    t->fallbacks[SHARPI_FALLBACK_SAVED_PREFIX] = t->disk_refused + t->disk_not_taken;
}

void scheduler_publish(struct sharpi_scheduler *s)
{
    gather(s);
    pthread_mutex_lock(&s->lock);
    s->published = s->stats;
    s->published.queued += s->incoming.n;
    pthread_mutex_unlock(&s->lock);
}

void sharpi_scheduler_get_stats(struct sharpi_scheduler *scheduler, struct sharpi_scheduler_stats *stats)
{
    pthread_mutex_lock(&scheduler->lock);
    *stats = scheduler->published;
    stats->submitted = scheduler->n_submitted;
    stats->refused = scheduler->n_refused;
    pthread_mutex_unlock(&scheduler->lock);
}

void sharpi_scheduler_get_pulse(const struct sharpi_scheduler *scheduler,
                                struct sharpi_scheduler_pulse *pulse)
{
    pulse->in_step = (uint32_t)atomic_load(&scheduler->in_step);
    pulse->has_work = (uint32_t)atomic_load(&scheduler->has_work);
    pulse->step_begin = atomic_load(&scheduler->step_begin);
    pulse->step_end = atomic_load(&scheduler->step_end);
}
