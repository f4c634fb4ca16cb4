/* GET /metrics. */
#include "metrics.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "exchange.h"

static const uint32_t statuses[] = {200, 204, 400, 401, 403, 404, 405, 413, 415, 429, 499, 500, 503};
enum { N_STATUSES = sizeof statuses / sizeof *statuses };
_Static_assert((int)N_STATUSES < (int)METRICS_STATUSES, "room for the others");

void metrics_count(struct metrics *metrics, uint32_t route, uint32_t status)
{
    uint32_t i = 0;
    while (i < N_STATUSES && statuses[i] != status)
        i++;
    metrics->requests[route][i]++;
}

/* ---- Format */

static void head(struct text *out, const char *name, const char *type, const char *help)
{
    text_printf(out, "# HELP sharpi_%s %s\n# TYPE sharpi_%s %s\n", name, help, name, type);
}

static void counter(struct text *out, const char *name, const char *help, uint64_t value)
{
    head(out, name, "counter", help);
    text_printf(out, "sharpi_%s %llu\n", name, (unsigned long long)value);
}

static void gauge(struct text *out, const char *name, const char *help, double value)
{
    head(out, name, "gauge", help);
    text_printf(out, "sharpi_%s %.9g\n", name, value);
}

static void histogram(struct text *out, const char *name, const char *help, const struct sharpi_histogram *h,
                      const double *bounds)
{
    uint64_t sum = 0;
    head(out, name, "histogram", help);
    for (uint32_t i = 0; i < SHARPI_HISTOGRAM_BUCKETS; i++) {
        sum += h->counts[i];
        text_printf(out, "sharpi_%s_bucket{le=\"%g\"} %llu\n", name, bounds[i], (unsigned long long)sum);
    }
    text_printf(out, "sharpi_%s_bucket{le=\"+Inf\"} %llu\nsharpi_%s_sum %.9g\nsharpi_%s_count %llu\n", name,
                (unsigned long long)h->n, name, h->sum, name, (unsigned long long)h->n);
}

/* ---- Groups */

static void print_http(const struct server *server, struct text *out)
{
    const struct metrics *m = &server->metrics;
    head(out, "http_requests_total", "counter",
         "Requests by path and status; 499: the client went away first.");
    for (uint32_t r = 0; r < METRICS_ROUTES; r++) {
        const struct route *route = route_at(r);
        for (uint32_t s = 0; s <= N_STATUSES; s++) {
            char status[16] = "other";
            if (!m->requests[r][s])
                continue;
            if (s < N_STATUSES)
                snprintf(status, sizeof status, "%u", statuses[s]);
            text_printf(out, "sharpi_http_requests_total{path=\"%s\",status=\"%s\"} %llu\n",
                        route ? route->path : "none", status, (unsigned long long)m->requests[r][s]);
        }
    }
    counter(out, "http_disconnects_total", "Clients that went away before their answer was complete.",
            m->disconnects);
    counter(out, "http_timeouts_total", "Connections closed for taking too long.", m->timeouts);
    counter(out, "http_key_reloads_total", "Times that the API keys were read again.", m->key_reloads);
    gauge(out, "http_connections", "Open connections.", m->connections);
    gauge(out, "http_body_bytes", "Bytes of request bodies held.", (double)server->body_bytes);
}

static const char *const error_kinds[SHARPI_STATS_ERRORS] = {"none",   "invalid",     "out_of_memory", "io",
                                                             "format", "unsupported", "not_found",     "abi",
                                                             "full",   "cancelled",   "device",        "bug"};

static void print_counters(const struct sharpi_scheduler_stats *s, struct text *out)
{
    counter(out, "requests_submitted_total", "Requests that the scheduler took.", s->submitted);
    counter(out, "requests_refused_total", "Requests that it did not take.", s->refused);
    head(out, "requests_finished_total", "counter", "Requests by how they ended.");
    text_printf(out,
                "sharpi_requests_finished_total{reason=\"stop\"} %llu\n"
                "sharpi_requests_finished_total{reason=\"length\"} %llu\n"
                "sharpi_requests_finished_total{reason=\"cancelled\"} %llu\n"
                "sharpi_requests_finished_total{reason=\"failed\"} %llu\n",
                (unsigned long long)s->finished_stop, (unsigned long long)s->finished_length,
                (unsigned long long)s->cancelled, (unsigned long long)s->failed);
    head(out, "request_errors_total", "counter", "Failed requests by kind of error.");
    for (uint32_t i = 1; i < SHARPI_STATS_ERRORS; i++)
        text_printf(out, "sharpi_request_errors_total{kind=\"%s\"} %llu\n", error_kinds[i],
                    (unsigned long long)s->errors[i]);
    counter(out, "steps_total", "Steps of the model.", s->steps);
    counter(out, "failed_steps_total", "Steps that failed.", s->failed_steps);
    counter(out, "prompt_tokens_total", "Tokens of started prompts.", s->prompt_tokens);
    counter(out, "prefix_hit_tokens_total", "Of those, taken from the cache.", s->prefix_hit_tokens);
    counter(out, "disk_hit_tokens_total", "Of those, from the prompt cache's files.", s->disk_hit_tokens);
    counter(out, "prefill_tokens_total", "Prompt tokens computed, again after preemptions.",
            s->prefill_tokens);
    counter(out, "output_tokens_total", "Tokens generated.", s->output_tokens);
    counter(out, "preemptions_total", "Sequences put back for want of pages.", s->preemptions);
    counter(out, "ring_wraps_total", "Times that a windowed layer's ring went round.", s->ring_wraps);
    counter(out, "page_copies_total", "Pages copied before a write because others held them.",
            s->page_copies);
    counter(out, "evicted_pages_total", "Pages that the page cache gave up.", s->evicted_pages);
    counter(out, "verify_runs_total", "Reused prefixes that were computed again and compared.",
            s->verify_runs);
    counter(out, "verify_mismatches_total", "Of those, the ones that differed.", s->verify_mismatches);
    counter(out, "prompt_cache_loads_total", "Files of saved prefixes read.", s->disk_loads);
    counter(out, "prompt_cache_saves_total", "Files of saved prefixes written.", s->disk_saves);
    counter(out, "prompt_cache_refused_total", "Files of saved prefixes found broken or foreign.",
            s->disk_refused);
    head(out, "fallbacks_total", "counter",
         "What did not go the fast way, or not the way that was asked for.");
    for (uint32_t i = 0; i < SHARPI_FALLBACK_COUNT; i++)
        text_printf(out, "sharpi_fallbacks_total{kind=\"%s\"} %llu\n", sharpi_fallback_name(i),
                    (unsigned long long)s->fallbacks[i]);
    counter(out, "accounting_errors_total", "Times that page references did not add up.",
            s->accounting_errors);
}

static void print_pages(const struct sharpi_scheduler_stats *s, struct text *out)
{
    head(out, "pages", "gauge",
         "KV pages per class of layers (window 0: whole context) by what they are used for.");
    for (uint32_t i = 0; i < s->n_classes && i < SHARPI_STATS_CLASSES; i++) {
        const struct sharpi_class_stats *c = &s->classes[i];
        text_printf(out,
                    "sharpi_pages{class=\"%u\",window=\"%u\",use=\"total\"} %u\n"
                    "sharpi_pages{class=\"%u\",window=\"%u\",use=\"free\"} %u\n"
                    "sharpi_pages{class=\"%u\",window=\"%u\",use=\"active\"} %u\n"
                    "sharpi_pages{class=\"%u\",window=\"%u\",use=\"shared\"} %u\n"
                    "sharpi_pages{class=\"%u\",window=\"%u\",use=\"cached\"} %u\n",
                    i, c->window, c->n_pages, i, c->window, c->free, i, c->window, c->active, i, c->window,
                    c->shared, i, c->window, c->cached);
    }
}

/* Resident memory; 0 where the system does not say. */
static double resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    unsigned long long total, resident = 0;
    if (!file)
        return 0;
    if (fscanf(file, "%llu %llu", &total, &resident) != 2)
        resident = 0;
    fclose(file);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static void print_gauges(const struct server *server, const struct sharpi_scheduler_stats *s,
                         struct text *out)
{
    struct sharpi_model_info info = {.size = sizeof info};
    const struct sharpi_plan *plan = server->model->plan;
    sharpi_model_get_info(server->model, &info);
    gauge(out, "requests_queued", "Requests that wait.", s->queued);
    gauge(out, "requests_running", "Requests with a sequence.", s->running);
    gauge(out, "requests_prefilling", "Of those, the ones whose prompt is not computed yet.", s->prefilling);
    gauge(out, "batch_tokens_last", "Tokens in the last step.", s->last_batch_tokens);
    gauge(out, "batch_sequences_last", "Sequences in the last step.", s->last_batch_seqs);
    gauge(out, "prefill_token_seconds", "Time of a prompt token, as measured lately.", s->prefill_token_s);
    gauge(out, "decode_step_seconds", "Time of a decode step, as measured lately.", s->decode_step_s);
    head(out, "memory_bytes", "gauge", "Memory by consumer.");
    text_printf(out,
                "sharpi_memory_bytes{consumer=\"kv\"} %llu\nsharpi_memory_bytes{consumer=\"weights\"} %llu\n"
                "sharpi_memory_bytes{consumer=\"weights_mapped\"} "
                "%llu\nsharpi_memory_bytes{consumer=\"scratch\"} %llu\n"
                "sharpi_memory_bytes{consumer=\"process_resident\"} %.0f\n",
                (unsigned long long)s->kv_bytes, (unsigned long long)s->weight_bytes,
                (unsigned long long)info.mapped_bytes, (unsigned long long)s->scratch_bytes,
                resident_bytes());
    gauge(out, "plan_notes",
          "Things of the memory plan that the operator should know, slower paths among them: GET /plan.",
          plan ? plan->notes.n : 0);
    gauge(out, "context_positions", "Positions of a sequence.", info.context);
    gauge(out, "start_time_seconds", "When the server started, Unix time.", (double)server->started_at);
}

static void print_histograms(const struct sharpi_scheduler_stats *s, struct text *out)
{
    histogram(out, "time_to_first_token_seconds", "From submission to the first token.", &s->ttft,
              sharpi_seconds_bounds);
    histogram(out, "inter_token_seconds", "Between tokens of a request.", &s->inter_token,
              sharpi_seconds_bounds);
    histogram(out, "queue_seconds", "From submission to the start.", &s->queue, sharpi_seconds_bounds);
    histogram(out, "step_seconds", "Steps of the model.", &s->step, sharpi_seconds_bounds);
    histogram(out, "request_seconds", "Whole requests.", &s->request, sharpi_seconds_bounds);
    histogram(out, "prompt_length_tokens", "Lengths of prompts.", &s->prompt_length, sharpi_lengths_bounds);
    histogram(out, "output_length_tokens", "Lengths of answers.", &s->output_length, sharpi_lengths_bounds);
    histogram(out, "batch_tokens", "Tokens in a step.", &s->batch_tokens, sharpi_lengths_bounds);
    histogram(out, "batch_sequences", "Sequences in a step.", &s->batch_seqs, sharpi_lengths_bounds);
}

void metrics_print(struct server *server, struct text *out)
{
    struct sharpi_scheduler_stats stats;
    memset(&stats, 0, sizeof stats);
    sharpi_scheduler_get_stats(server->scheduler, &stats);
    print_http(server, out);
    print_counters(&stats, out);
    print_pages(&stats, out);
    print_gauges(server, &stats, out);
    print_histograms(&stats, out);
}
