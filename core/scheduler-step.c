/* One step: what it consists of, running it, and handing out what came of it.
 *
 * Every running sequence has at least one token that is not computed yet. Those with one are decodes and always take part;
 * the rest of the step's tokens goes to prompts. A batch that fails is run again sequence by sequence, so that only the
 * guilty one pays.
 */
#include <string.h>

#include "scheduler-internal.h"

/* ---- Planning */

static uint32_t left_of(const struct request *r)
{
    return r->n_tokens - sharpi_session_length(r->session);
}

/* Prompt tokens that a step beside n_decodes may have. */
static uint32_t prompt_budget(const struct sharpi_scheduler *s, uint32_t n_decodes)
{
    const struct sharpi_scheduler_stats *t = &s->stats;
    uint32_t most = s->model->chunk - n_decodes;
    double tokens;
    if (!n_decodes || !s->options.max_stall_ms)
        return most;
    if (t->prefill_token_s <= 0)
        return most < FIRST_CHUNK ? most : FIRST_CHUNK;
    tokens = s->options.max_stall_ms * 1e-3 / t->prefill_token_s;
    if (tokens < 1)
        return 1; /* however slow: prompts must come to an end */
    return tokens < most ? (uint32_t)tokens : most;
}

/* Tokens of the step's budget to a request. Each one of a mean embedding makes a row of logits too, of which there are few. */
static void give(struct sharpi_scheduler *s, struct request *r, uint32_t most, uint32_t *budget)
{
    const int32_t has_rows = r->what.kind == SHARPI_REQUEST_EMBED_MEAN;
    uint32_t n = left_of(r) - r->n_step;
    n = n < most ? n : most;
    n = n < *budget ? n : *budget;
    if (has_rows && n > s->embed_rows_left)
        n = s->embed_rows_left;
    r->n_step += n;
    *budget -= n;
    s->embed_rows_left -= has_rows ? n : 0;
}

/* The oldest prompt gets half of the budget for sure, the others the rest in the order of their start, and what they leave goes
 * to the oldest first: a short prompt does not wait for the end of a long one. */
static void share_out(struct sharpi_scheduler *s)
{
    struct request *r;
    uint32_t n_decodes = 0, budget;
    for (r = s->running.first; r; r = r->next) {
        r->n_step = left_of(r) == 1;
        n_decodes += r->n_step;
    }
    budget = prompt_budget(s, n_decodes);
    s->embed_rows_left = EMBED_ROWS;
    for (r = s->running.first; r && r->n_step; r = r->next)
        ;
    if (r)
        give(s, r, (budget + 1) / 2, &budget);
    for (r = s->running.first; r && budget; r = r->next) {
        if (r->n_step == 0)
            give(s, r, UINT32_MAX, &budget);
    }
    for (r = s->running.first; r && budget; r = r->next) {
        if (left_of(r) > 1)
            give(s, r, UINT32_MAX, &budget);
    }
}

/* How many of the highest logits are enough for the sampler, and the reader's logprobs; 0: all are needed. */
static uint32_t top_wanted(const struct sharpi_scheduler *s, const struct request *r)
{
    uint32_t k;
    if (r->embedding || s->options.observe || r->to_verify)
        return 0;
    k = sharpi_sampler_reach(r->sampler);
    return k && r->what.logprobs && r->what.n_top > k ? r->what.n_top : k;
}

static void add_work(struct sharpi_scheduler *s, struct request *r)
{
    struct sharpi_work *w = &s->work[s->n_work];
    uint32_t length = sharpi_session_length(r->session);
    *w = (struct sharpi_work){.session = r->session,
                              .tokens = r->tokens + length,
                              .n_tokens = r->n_step,
                              .want = length + r->n_step == r->n_tokens};
    if (r->what.kind == SHARPI_REQUEST_EMBED_MEAN) {
        w->want = 2;
        w->logits = s->embed_logits;
    }
    if (s->tap) { /* rows of their own, one after the other */
        s->taps[s->n_work] =
            s->n_work ? s->taps[s->n_work - 1] + (size_t)s->work[s->n_work - 1].n_tokens * s->tap_width
                      : s->tap;
        w->taps = &s->taps[s->n_work];
    }
    r->session->top_k = top_wanted(s, r);
    s->work_of[s->n_work++] = r;
}

/* Decodes stand first: they are short and their readers wait. */
static void plan(struct sharpi_scheduler *s)
{
    struct request *r;
    share_out(s);
    s->n_work = 0;
    for (r = s->running.first; r; r = r->next) {
        if (r->n_step && left_of(r) == 1)
            add_work(s, r);
    }
    for (r = s->running.first; r; r = r->next) {
        if (r->n_step && left_of(r) > 1)
            add_work(s, r);
    }
}

/* ---- What came of it */

static int32_t stops(const struct sharpi_scheduler *s, const struct request *r, int32_t token)
{
    uint32_t i;
    for (i = 0; i < r->what.n_stop_tokens; i++) {
        if (r->stop_tokens[i] == token)
            return 1;
    }
    return !r->what.ignore_end && sharpi_model_is_end(s->model, token);
}

static void count_token(struct sharpi_scheduler *s, struct request *r)
{
    double now = scheduler_now();
    if (r->usage.output_tokens == 0) {
        r->usage.times.first_token = now;
        histogram_add(&s->stats.ttft, sharpi_seconds_bounds, now - r->usage.times.queued);
    } else {
        histogram_add(&s->stats.inter_token, sharpi_seconds_bounds, now - r->last_token);
    }
    r->last_token = now;
    r->usage.output_tokens++;
    s->stats.output_tokens++;
}

/* Log-probabilities from all logits, or from the highest, of which the token is one. */
static void take_logprobs(struct sharpi_scheduler *s, const struct request *r, struct sharpi_event *event)
{
    const struct sharpi_session *session = r->session;
    uint32_t i;
    event->top = s->top;
    if (s->n_kept == 0) {
        event->n_top =
            (uint32_t)sharpi_logits_top(s->logits_copy, (int32_t)s->model->desc.n_vocab,
                                        (int32_t)r->what.n_top, s->top, event->token, &event->logprob);
        return;
    }
    for (i = 0; i < s->n_kept; i++) {
        struct sharpi_logprob p = {session->top_ids[i], session->top_logits[i] - session->top_log_sum};
        if (i < r->what.n_top)
            s->top[event->n_top++] = p;
        if (p.id == event->token)
            event->logprob = p.logprob;
    }
}

/* The token's event; ends the request when it was its last. */
static void put_out(struct sharpi_scheduler *s, struct request *r, int32_t token)
{
    struct sharpi_event event = {.kind = SHARPI_EVENT_TOKEN, .token = token};
    int32_t enough;
    if (r->what.logprobs)
        take_logprobs(s, r, &event);
    count_token(s, r);
    r->tokens[r->n_tokens++] = token; /* capacity: at most context, and below it here */
    enough = request_emit(s, r, &event);
    if (enough)
        request_finish(s, r, &s->running, SHARPI_FINISH_STOP, -1);
    else if ((r->what.max_tokens && r->usage.output_tokens >= r->what.max_tokens) ||
             r->n_tokens >= s->model->context)
        request_finish(s, r, &s->running, SHARPI_FINISH_LENGTH, -1);
}

static void look_at_logits(struct sharpi_scheduler *s, struct request *r)
{
    const uint32_t n_vocab = s->model->desc.n_vocab;
    const float *logits = r->session->logits;
    if (s->options.observe)
        s->options.observe(s->options.observe_user, r->id, r->n_tokens, logits, n_vocab);
    if (r->to_verify)
        scheduler_verify(s, r, logits);
    if (r->what.logprobs)
        memcpy(s->logits_copy, logits, n_vocab * sizeof *logits);
}

static void sample(struct sharpi_scheduler *s, struct request *r)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t token, status;
    s->n_kept = r->session->n_top;
    if (r->session->has_logits)
        look_at_logits(s, r);
    status = sharpi_session_sample(r->session, r->sampler, &token, &err);
    if (!status)
        status = sharpi_sampler_accept(r->sampler, token, &err);
    if (status)
        request_fail(s, r, &s->running, status, err.text);
    else if (stops(s, r, token))
        request_finish(s, r, &s->running, SHARPI_FINISH_STOP, token);
    else
        put_out(s, r, token);
}

/* Rows of the tap: one per row of logits that was asked for. */
static void take_embedding(struct sharpi_scheduler *s, struct request *r, const struct sharpi_work *work)
{
    uint32_t rows = work->want == 2 ? work->n_tokens : work->want, i, j;
    for (i = 0; i < rows; i++) {
        for (j = 0; j < s->tap_width; j++)
            r->embedding[j] +=
                work->taps[0][(size_t)i * s->tap_width + j] / (work->want == 2 ? (float)r->n_prompt : 1);
    }
}

static void count_wraps(struct sharpi_scheduler *s, uint32_t from, uint32_t to)
{
    uint32_t c;
    for (c = 0; c < s->model->n_classes; c++) {
        uint32_t ring = s->model->classes[c].ring;
        if (s->model->classes[c].window && to > from)
            s->stats.ring_wraps += (to - 1) / ring - (from ? (from - 1) / ring : 0);
    }
}

/* After the step: work item i's tokens are in the cache. */
static void deliver(struct sharpi_scheduler *s, uint32_t i)
{
    struct request *r = s->work_of[i];
    const struct sharpi_work *work = &s->work[i];
    uint32_t length = sharpi_session_length(r->session);
    count_wraps(s, length - work->n_tokens, length);
    if (length < r->n_tokens || r->usage.output_tokens == 0)
        s->stats.prefill_tokens += work->n_tokens;
    if (!r->what.no_reuse && !s->options.no_reuse)
        sharpi_prefix_add(s->tree, r->session->seq, r->tokens, &r->cursor);
    if (r->embedding)
        take_embedding(s, r, work);
    if (length < r->n_tokens)
        return;
    if (s->disk && r->usage.output_tokens == 0)
        scheduler_disk_save(s, r);
    if (r->embedding)
        request_finish(s, r, &s->running, SHARPI_FINISH_STOP, -1);
    else
        sample(s, r);
}

/* ---- Running */

static int32_t run(struct sharpi_scheduler *s, const struct sharpi_work *work, uint32_t n,
                   struct sharpi_error *err)
{
    int32_t status;
    atomic_store(&s->step_begin, scheduler_now());
    atomic_store(&s->in_step, 1);
    status = sharpi_step(s->model, work, n, err);
    atomic_store(&s->in_step, 0);
    atomic_store(&s->step_end, scheduler_now());
    s->stats.steps++;
    s->stats.failed_steps += status != 0;
    s->stats.fallbacks[SHARPI_FALLBACK_SLOW_OP] += s->model->memory.n_fallback_ops;
    return status;
}

/* Sequences whose ring a failed step has overwritten begin again. Before others run: their pages must be free to go. */
static void restart_lost(struct sharpi_scheduler *s)
{
    uint32_t i;
    for (i = 0; i < s->n_work; i++) {
        if (sharpi_session_length(s->work_of[i]->session) != s->lengths[i]) {
            request_preempt(s, s->work_of[i], 0);
            s->stats.fallbacks[SHARPI_FALLBACK_RESTARTED]++;
            s->work_of[i] = NULL;
        }
    }
}

static void run_one_by_one(struct sharpi_scheduler *s)
{
    uint32_t i;
    for (i = 0; i < s->n_work; i++) {
        struct sharpi_error err = SHARPI_ERROR_INIT;
        struct request *r = s->work_of[i];
        int32_t status;
        if (!r)
            continue;
        status = run(s, &s->work[i], 1, &err);
        if (status)
            request_fail(s, r, &s->running, status, err.text);
        else
            deliver(s, i);
    }
}

static void average(double *value, double now)
{
    *value = *value > 0 ? *value + (now > *value ? 0.5 : 0.2) * (now - *value) : now;
}

/* What max_stall_ms reckons with. Few tokens pay for the step's own costs and would make a token look dear; but when they look
 * cheap, what is remembered comes from a bad moment and has made them few. */
static void measure(struct sharpi_scheduler *s, uint32_t n_decodes, uint32_t n_tokens, double seconds)
{
    uint32_t n_prompt = n_tokens - n_decodes;
    if (n_prompt == 0) {
        average(&s->stats.decode_step_s, seconds);
    } else {
        double rest = n_decodes ? seconds - s->stats.decode_step_s : seconds;
        double now = (rest > 0 ? rest : seconds) / n_prompt;
        if (n_prompt >= FIRST_CHUNK / 2 || now < s->stats.prefill_token_s)
            average(&s->stats.prefill_token_s, now);
    }
}

static void count_step(struct sharpi_scheduler *s, double seconds)
{
    uint32_t i, n_tokens = 0, n_decodes = 0;
    for (i = 0; i < s->n_work; i++) {
        n_tokens += s->work[i].n_tokens;
        n_decodes +=
            s->work[i].n_tokens == 1 && s->work[i].want == 1; /* else a prompt's, whose share is small */
    }
    s->stats.last_batch_tokens = n_tokens;
    s->stats.last_batch_seqs = s->n_work;
    histogram_add(&s->stats.step, sharpi_seconds_bounds, seconds);
    histogram_add(&s->stats.batch_tokens, sharpi_lengths_bounds, n_tokens);
    histogram_add(&s->stats.batch_seqs, sharpi_lengths_bounds, s->n_work);
    measure(s, n_decodes, n_tokens, seconds);
}

void scheduler_step(struct sharpi_scheduler *s)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    double begin;
    int32_t status = SHARPI_OK;
    uint32_t i;
    do {
        plan(s);
    } while (s->n_work && !scheduler_make_room(s));
    if (s->n_work == 0)
        return;
    for (i = 0; i < s->n_work; i++)
        s->lengths[i] = sharpi_session_length(s->work[i].session);
    begin = scheduler_now();
    status = run(s, s->work, s->n_work, &err);
    if (!status) {
        count_step(s, scheduler_now() - begin);
        for (i = 0; i < s->n_work; i++)
            deliver(s, i);
        return;
    }
    sharpi_log_printf(&s->model->engine->log, SHARPI_LOG_WARN, "engine", "a step of %u sequences failed: %s",
                      s->n_work, err.text);
    if (s->n_work == 1) {
        request_fail(s, s->work_of[0], &s->running, status, err.text);
    } else {
        s->stats.fallbacks[SHARPI_FALLBACK_BATCH_SPLIT]++;
        restart_lost(s);
        run_one_by_one(s);
    }
}
