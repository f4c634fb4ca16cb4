/* verify_reuse: the prompt of a request that began with a reused prefix is computed again, cold, and the logits compared. */
#include <math.h>

#include "scheduler-internal.h"

/* Computes the tokens in the verifier's own session. 0 when there are no pages for it, or the step failed. */
static int32_t run_cold(struct sharpi_scheduler *s, const struct request *r)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    uint32_t at, chunk = s->model->chunk;
    for (at = 0; at < r->n_tokens; at += chunk) {
        uint32_t left = r->n_tokens - at;
        struct sharpi_work work = {.session = s->verifier,
                                   .tokens = r->tokens + at,
                                   .n_tokens = left < chunk ? left : chunk,
                                   .want = left <= chunk,
                                   .taps = s->tap ? &s->tap : NULL};
        if (sharpi_step(s->model, &work, 1, &err)) {
            sharpi_log_printf(&s->model->engine->log, SHARPI_LOG_WARN, "engine",
                              "reuse of request %llu could not be verified: %s", (unsigned long long)r->id,
                              err.text);
            return 0;
        }
    }
    return 1;
}

void scheduler_verify(struct sharpi_scheduler *s, struct request *r, const float *logits)
{
    uint32_t i, n = s->model->desc.n_vocab;
    float largest = 0, difference = 0, tolerance = s->options.verify_tolerance;
    r->to_verify = 0;
    if (run_cold(s, r)) {
        for (i = 0; i < n; i++) {
            float d = fabsf(s->verifier->logits[i] - logits[i]);
            if (!(d <= difference))
                difference = isnan(d) ? INFINITY : d;
            largest = fmaxf(largest, fabsf(logits[i]));
        }
        if (tolerance <= 0)
            tolerance = 0.1f * largest;
        s->stats.verify_runs++;
        if (!(difference <= tolerance)) {
            s->stats.verify_mismatches++;
            s->stats.fallbacks[SHARPI_FALLBACK_MISMATCH]++;
            sharpi_log_printf(
                &s->model->engine->log, SHARPI_LOG_WARN, "engine",
                "request %llu: %u of %u tokens were reused, and logits differ by %g from a cold run "
                "(tolerance %g, largest logit %g)",
                (unsigned long long)r->id, r->usage.reused_tokens, r->n_tokens, (double)difference,
                (double)tolerance, (double)largest);
        }
    }
    sharpi_session_truncate(s->verifier, 0, NULL);
}
