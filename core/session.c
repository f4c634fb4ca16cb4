/* Steps: work items of several sessions packed into batches of at most one chunk of tokens.
 *
 * Invariant: a session's length counts computed positions only; a step that fails takes its tokens back.
 */
#include "session.h"

#include <stdlib.h>
#include <string.h>

#include "model-parts.h"

int32_t sharpi_session_create(struct sharpi_model *model, struct sharpi_session **out,
                              struct sharpi_error *err)
{
    struct sharpi_session *session = calloc(1, sizeof *session);
    int32_t status;
    if (!session)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a session");
    session->model = model;
    session->pending = -1;
    session->logits = malloc(model->desc.n_vocab * sizeof *session->logits);
    status = session->logits
                 ? sharpi_kv_seq_create(model->pages, &session->seq, err)
                 : sharpi_fail(err, SHARPI_ENOMEM, "no memory for %u logits", model->desc.n_vocab);
    if (status) {
        sharpi_session_free(session);
        return status;
    }
    *out = session;
    return SHARPI_OK;
}

void sharpi_session_free(struct sharpi_session *session)
{
    if (!session)
        return;
    sharpi_kv_seq_destroy(session->seq);
    sharpi_detokenizer_destroy(session->detokenizer);
    free(session->logits);
    free(session);
}

uint32_t sharpi_session_length(const struct sharpi_session *session)
{
    return sharpi_kv_seq_length(session->seq);
}

int32_t sharpi_session_truncate(struct sharpi_session *session, uint32_t length, struct sharpi_error *err)
{
    int32_t status = sharpi_kv_seq_truncate(session->seq, length, err);
    if (!status) {
        session->has_logits = session->n_top = 0;
        session->pending = -1;
    }
    return status;
}

/* ---- Steps */

/* How far an item of sharpi_step has come. */
struct progress {
    uint32_t fed;          /* tokens computed */
    uint32_t now;          /* tokens in the running step */
    uint32_t start_length; /* of the session, before sharpi_step */
    uint32_t n_logits;     /* rows in the running step */
};

static uint32_t wanted_rows(const struct sharpi_work *work, const struct progress *p)
{
    if (work->want == 2)
        return p->now;
    return work->want == 1 && p->fed + p->now == work->n_tokens ? 1 : 0;
}

static int32_t check_work(const struct sharpi_model *model, const struct sharpi_work *work, uint32_t n_work,
                          struct sharpi_error *err)
{
    uint32_t i, j;
    if (n_work > model->max_sessions)
        return sharpi_fail(err, SHARPI_EINVAL, "%u sequences in a step, the model was loaded for %u", n_work,
                           model->max_sessions);
    for (i = 0; i < n_work; i++) {
        if (work[i].session->model != model)
            return sharpi_fail(err, SHARPI_EINVAL, "item %u belongs to another model", i);
        for (j = 0; j < i; j++) {
            if (work[j].session == work[i].session)
                return sharpi_fail(err, SHARPI_EINVAL, "items %u and %u are the same session", j, i);
        }
        if (work[i].want == 2 && !work[i].logits)
            return sharpi_fail(err, SHARPI_EINVAL, "item %u wants all logits and has no room for them", i);
        if (model->n_taps && !work[i].taps)
            return sharpi_fail(err, SHARPI_EINVAL,
                               "the model was loaded with taps: item %u has no room for them", i);
        if (work[i].n_tokens > model->context - sharpi_session_length(work[i].session))
            return sharpi_fail(
                err, SHARPI_EFULL,
                "%u tokens after %u do not fit the context of %u; shorten the prompt or load with a "
                "larger context (-c)",
                work[i].n_tokens, sharpi_session_length(work[i].session), model->context);
        for (j = 0; j < work[i].n_tokens; j++) {
            if (work[i].tokens[j] < 0 || (uint32_t)work[i].tokens[j] >= model->desc.n_vocab)
                return sharpi_fail(err, SHARPI_EINVAL, "token %u is %d, the vocabulary has %u", j,
                                   work[i].tokens[j], model->desc.n_vocab);
        }
    }
    return SHARPI_OK;
}

/* Fills the model's step arrays with as many tokens as fit; items in order, so that short ones (decodes) should come
 * first. Extends the sequences. */
static int32_t pack(struct sharpi_model *model, const struct sharpi_work *work, uint32_t n_work,
                    struct progress *progress, struct sharpi_batch *batch, struct sharpi_error *err)
{
    uint32_t i, j, c;
    int32_t status;
    memset(batch, 0, sizeof *batch);
    for (i = 0; i < n_work; i++)
        progress[i].now = progress[i].n_logits = 0;
    for (i = 0; i < n_work && batch->n_tokens < model->chunk; i++) {
        struct progress *p = &progress[i];
        struct sharpi_kv_seq *seq = work[i].session->seq;
        struct sharpi_batch_seq *s = &model->step_seqs[batch->n_seqs];
        uint32_t length = sharpi_kv_seq_length(seq), left = work[i].n_tokens - p->fed;
        uint32_t now = left < model->chunk - batch->n_tokens ? left : model->chunk - batch->n_tokens;
        if (now == 0)
            continue;
        if ((status = sharpi_kv_seq_extend(seq, now, err)))
            return status;
        p->now = now;
        p->n_logits = wanted_rows(&work[i], p);
        *s = (struct sharpi_batch_seq){.first_token = batch->n_tokens,
                                       .n_tokens = now,
                                       .length = length,
                                       .slot = sharpi_kv_seq_slot(seq)};
        for (j = 0; j < now; j++) {
            uint32_t t = batch->n_tokens + j;
            model->step_tokens[t] = work[i].tokens[p->fed + j];
            model->step_positions[t] = (int32_t)(length + j);
            model->step_seqs_of[t] = (int32_t)batch->n_seqs;
            if (now - j <= p->n_logits)
                model->step_logit_rows[batch->n_logits++] = (int32_t)t;
        }
        for (c = 0; c < model->n_classes; c++) {
            uint32_t stride = model->step_classes[c].stride;
            memcpy(model->step_tables[c] + (size_t)batch->n_seqs * stride, sharpi_kv_seq_table(seq, c),
                   stride * sizeof(int32_t));
        }
        batch->n_tokens += now;
        batch->n_seqs++;
    }
    batch->size = sizeof *batch;
    batch->n_classes = model->n_classes;
    batch->tokens = model->step_tokens;
    batch->positions = model->step_positions;
    batch->seqs_of = model->step_seqs_of;
    batch->seqs = model->step_seqs;
    batch->classes = model->step_classes;
    batch->logit_rows = model->step_logit_rows;
    return SHARPI_OK;
}

static int32_t reserve_logits(struct sharpi_model *model, uint64_t n_rows, struct sharpi_error *err)
{
    float *bigger;
    if (n_rows <= model->logits_rows)
        return SHARPI_OK;
    bigger = realloc(model->logits, n_rows * model->desc.n_vocab * sizeof *bigger);
    if (!bigger)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %llu rows of logits",
                           (unsigned long long)n_rows);
    model->logits = bigger;
    model->logits_rows = n_rows;
    return SHARPI_OK;
}

static float *destination(const struct sharpi_work *work, const struct progress *p, uint32_t n_vocab)
{
    if (!work->logits)
        return work->session->logits;
    return work->logits + (work->want == 2 ? (size_t)p->fed * n_vocab : 0);
}

/* How many of the highest logits the step's rows are wanted as; 0 when some item wants all of its row. */
static uint32_t choose_top(const struct sharpi_model *model, const struct sharpi_work *work, uint32_t n_work,
                           const struct progress *progress)
{
    uint32_t k = 0;
    for (uint32_t i = 0; i < n_work; i++) {
        const uint32_t wanted = work[i].session->top_k;
        if (!progress[i].n_logits)
            continue;
        if (!wanted || work[i].want != 1 || work[i].logits || wanted > SHARPI_TOP_MAX ||
            wanted > model->desc.n_vocab)
            return 0;
        k = wanted > k ? wanted : k;
    }
    return k;
}

static void deliver(const struct sharpi_model *model, const struct sharpi_work *work, uint32_t n_work,
                    const struct progress *progress, const float *logits)
{
    const size_t n_vocab = model->desc.n_vocab;
    for (uint32_t i = 0; i < n_work; i++) {
        const struct progress *p = &progress[i];
        float *to = destination(&work[i], p, model->desc.n_vocab);
        const float *last = logits + (p->n_logits ? p->n_logits - 1 : 0) * n_vocab;
        if (p->n_logits) {
            if (to != logits)
                memcpy(to, logits, p->n_logits * n_vocab * sizeof *to);
            if (to != work[i].session->logits)
                memcpy(work[i].session->logits, last, n_vocab * sizeof *last);
            work[i].session->has_logits = 1;
        }
        logits += p->n_logits * n_vocab;
    }
}

static void deliver_top(const struct sharpi_work *work, uint32_t n_work, const struct progress *progress,
                        const struct sharpi_results *r)
{
    size_t row = 0;
    for (uint32_t i = 0; i < n_work; i++) {
        struct sharpi_session *session = work[i].session;
        if (!progress[i].n_logits)
            continue;
        session->n_top = session->top_k;
        memcpy(session->top_ids, r->top_ids + row * r->top_k, session->n_top * sizeof *session->top_ids);
        memcpy(session->top_logits, r->top_logits + row * r->top_k,
               session->n_top * sizeof *session->top_logits);
        session->top_log_sum = r->top_sums[row++];
    }
}

/* ---- Taps: one sequence's rows go where they belong at once, several sequences' by way of a buffer. */

/* Rows of the value that item i has in the running step. */
static uint32_t tap_rows(const struct sharpi_value *v, const struct progress *p)
{
    return v->rows == SHARPI_ROWS_SELECTED ? p->n_logits : p->now;
}

/* Where they go: after those of the steps before. */
static float *tap_place(const struct sharpi_value *v, const struct sharpi_work *work,
                        const struct progress *p, uint32_t tap)
{
    const int32_t is_last_alone = v->rows == SHARPI_ROWS_SELECTED && work->want != 2;
    return work->taps[tap] + (is_last_alone ? 0 : (size_t)p->fed * v->width);
}

static const struct sharpi_value *tap_value(const struct sharpi_model *model, uint32_t tap)
{
    return sharpi_graph_view(model->graph)->values[model->taps[tap]];
}

/* *rows is new: free() it when the step has ended. */
static int32_t point_taps(struct sharpi_model *model, const struct sharpi_work *work, uint32_t n_work,
                          const struct progress *progress, uint32_t n_tokens, float **rows,
                          struct sharpi_error *err)
{
    size_t width = 0;
    for (uint32_t i = 0; i < model->n_taps; i++)
        width += tap_value(model, i)->width;
    if (n_work > 1 && width) {
        *rows = calloc(n_tokens, width * sizeof **rows);
        if (!*rows)
            return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the taps of %u tokens", n_tokens);
    }
    for (uint32_t i = 0, at = 0; i < model->n_taps; i++) {
        const struct sharpi_value *v = tap_value(model, i);
        model->tap_pointers[i] = *rows ? *rows + (size_t)at * n_tokens : tap_place(v, work, progress, i);
        at += v->width;
    }
    return SHARPI_OK;
}

static void deliver_taps(const struct sharpi_model *model, const struct sharpi_work *work, uint32_t n_work,
                         const struct progress *progress)
{
    for (uint32_t tap = 0; tap < model->n_taps; tap++) {
        const struct sharpi_value *v = tap_value(model, tap);
        const float *row = model->tap_pointers[tap];
        for (uint32_t i = 0; i < n_work; i++) {
            const size_t n = (size_t)tap_rows(v, &progress[i]) * v->width;
            if (n)
                memcpy(tap_place(v, &work[i], &progress[i], tap), row, n * sizeof *row);
            row += n;
        }
    }
}

/* Room for what the step leaves. */
static int32_t prepare_results(struct sharpi_model *model, const struct sharpi_work *work, uint32_t n_work,
                               const struct progress *progress, const struct sharpi_batch *batch,
                               struct sharpi_results *results, float **tap_rows, struct sharpi_error *err)
{
    const uint32_t n_logits = (uint32_t)batch->n_logits;
    int32_t status = SHARPI_OK;
    *results = (struct sharpi_results){.top_k = choose_top(model, work, n_work, progress),
                                       .taps = model->tap_pointers,
                                       .top_ids = model->top_ids,
                                       .top_logits = model->top_logits,
                                       .top_sums = model->top_sums};
    if (n_work == 1 && n_logits)
        results->logits = destination(work, progress, model->desc.n_vocab); /* no copy for one sequence */
    else if (!sharpi_parts_find_top(model, results->top_k))
        status = reserve_logits(model, n_logits, err);
    if (!results->logits)
        results->logits = model->logits;
    return status ? status : point_taps(model, work, n_work, progress, batch->n_tokens, tap_rows, err);
}

static int32_t run_step(struct sharpi_model *model, const struct sharpi_work *work, uint32_t n_work,
                        struct progress *progress, struct sharpi_error *err)
{
    struct sharpi_batch batch;
    struct sharpi_results results;
    float *tap_rows = NULL; /* of several sequences */
    int32_t status;
    if ((status = pack(model, work, n_work, progress, &batch, err)) ||
        (status = prepare_results(model, work, n_work, progress, &batch, &results, &tap_rows, err)) ||
        (status = sharpi_parts_run(model, &batch, &results, err))) {
        free(tap_rows);
        return status;
    }
    if (tap_rows)
        deliver_taps(model, work, n_work, progress);
    free(tap_rows);
    for (uint32_t i = 0; i < n_work; i++) {
        if (progress[i].now)
            work[i].session->has_logits = work[i].session->n_top = 0;
    }
    if (results.top_k)
        deliver_top(work, n_work, progress, &results);
    else
        deliver(model, work, n_work, progress, results.logits);
    for (uint32_t i = 0; i < n_work; i++)
        progress[i].fed += progress[i].now;
    return SHARPI_OK;
}

int32_t sharpi_step(struct sharpi_model *model, const struct sharpi_work *work, uint32_t n_work,
                    struct sharpi_error *err)
{
    struct progress *progress;
    uint32_t i, left = 0;
    int32_t status = check_work(model, work, n_work, err);
    if (status)
        return status;
    progress = calloc(n_work + 1, sizeof *progress);
    if (!progress)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a step of %u sequences", n_work);
    for (i = 0; i < n_work; i++) {
        progress[i].start_length = sharpi_session_length(work[i].session);
        left += work[i].n_tokens > 0;
    }
    while (left && !status) {
        status = run_step(model, work, n_work, progress, err);
        for (i = 0, left = 0; i < n_work; i++)
            left += progress[i].fed < work[i].n_tokens;
    }
    for (i = 0; status && i < n_work; i++) {
        sharpi_kv_seq_rollback(work[i].session->seq, progress[i].start_length);
        work[i].session->has_logits = work[i].session->n_top = 0;
    }
    free(progress);
    return status;
}

/* ---- One session */

/* Feeds what sharpi_session_next sampled last. */
static int32_t feed_pending(struct sharpi_session *session, struct sharpi_error *err)
{
    int32_t token = session->pending;
    struct sharpi_work work = {.session = session, .tokens = &token, .n_tokens = 1, .want = 1};
    int32_t status;
    if (token < 0)
        return SHARPI_OK;
    status = sharpi_step(session->model, &work, 1, err);
    if (!status)
        session->pending = -1;
    return status;
}

int32_t sharpi_session_feed(struct sharpi_session *session, const int32_t *tokens, uint32_t n_tokens,
                            struct sharpi_error *err)
{
    struct sharpi_work work = {.session = session, .tokens = tokens, .n_tokens = n_tokens, .want = 1};
    int32_t status = feed_pending(session, err);
    return status ? status : sharpi_step(session->model, &work, 1, err);
}

int32_t sharpi_session_feed_text(struct sharpi_session *session, const char *text, uint64_t n_bytes,
                                 uint32_t flags, struct sharpi_error *err)
{
    int32_t *tokens = NULL, status;
    uint64_t n;
    status = sharpi_model_tokenize(session->model, text, n_bytes, flags, &tokens, &n, err);
    if (!status && n > UINT32_MAX)
        status = sharpi_fail(err, SHARPI_EFULL, "a text of %llu tokens", (unsigned long long)n);
    if (!status)
        status = sharpi_session_feed(session, tokens, (uint32_t)n, err);
    free(tokens);
    return status;
}

const float *sharpi_session_logits(const struct sharpi_session *session)
{
    return session->has_logits && session->pending < 0 ? session->logits : NULL;
}

int32_t sharpi_session_sample(struct sharpi_session *session, struct sharpi_sampler *sampler, int32_t *token,
                              struct sharpi_error *err)
{
    const uint32_t reach = sharpi_sampler_reach(sampler);
    if (session->has_logits)
        *token = sharpi_sampler_sample(sampler, session->logits, (int32_t)session->model->desc.n_vocab);
    else if (!session->n_top)
        return sharpi_fail(err, SHARPI_EINVAL,
                           "nothing was fed to this session; there is nothing to continue");
    else if (!reach || reach > session->n_top)
        return sharpi_fail(err, SHARPI_EBUG, "the step kept the highest %u logits, the sampler looks at more",
                           session->n_top);
    else
        *token = sharpi_sampler_sample_top(sampler, session->top_ids, session->top_logits, session->n_top);
    session->has_logits = session->n_top = 0; /* the sampler may have changed them */
    if (*token < 0)
        return sharpi_fail(err, SHARPI_EBUG, "no token has a probability: the logits are not numbers");
    return SHARPI_OK;
}

int32_t sharpi_session_next(struct sharpi_session *session, struct sharpi_sampler *sampler, int32_t *token,
                            struct sharpi_error *err)
{
    int32_t status;
    session->top_k = sharpi_sampler_reach(sampler);
    status = feed_pending(session, err);
    session->top_k = 0;
    if (status || (status = sharpi_session_sample(session, sampler, token, err)))
        return status;
    session->pending = *token;
    return sharpi_sampler_accept(sampler, *token, err);
}

int32_t sharpi_session_text(struct sharpi_session *session, int32_t token, const char **text,
                            uint64_t *n_bytes, struct sharpi_error *err)
{
    struct sharpi_str s;
    if (!session->model->tokenizer)
        return sharpi_fail(err, SHARPI_ENOTSUP, "%s", session->model->tokenizer_error.text);
    if (!session->detokenizer) {
        int32_t status = sharpi_detokenizer_create(session->model->tokenizer, 0, &session->detokenizer, err);
        if (status)
            return status;
    }
    s = sharpi_detokenizer_push(session->detokenizer, token);
    *text = s.data;
    *n_bytes = s.n;
    return SHARPI_OK;
}

int32_t sharpi_session_text_end(struct sharpi_session *session, const char **text, uint64_t *n_bytes)
{
    struct sharpi_str s = {"", 0};
    if (session->detokenizer)
        s = sharpi_detokenizer_flush(session->detokenizer);
    *text = s.data;
    *n_bytes = s.n;
    return SHARPI_OK;
}
