/* Who gets pages: admission, reuse of known prefixes, preemption, and the always-on check of the accounts.
 *
 * Reckoning: pages that only the cache holds count as free, since it gives them up. A request is admitted when all pages of
 * its tokens and one more are there beside what the running sequences still need for theirs; what they generate later may run
 * out, and then the newest goes back into the queue.
 */
#include <string.h>

#include "scheduler-internal.h"

static int32_t copy_page(void *user, uint32_t c, int32_t from, int32_t to, struct sharpi_error *err)
{
    const struct sharpi_scheduler *s = user;
    return sharpi_model_copy_page(s->model, c, from, to, err);
}

int32_t scheduler_pages_open(struct sharpi_scheduler *s, struct sharpi_error *err)
{
    struct sharpi_kv_hooks hooks = {.user = s, .copy = copy_page};
    sharpi_kv_pages_limit(s->model->pages, s->options.max_pages);
    return sharpi_prefix_tree_create(s->model->pages, &hooks, &s->tree, err);
}

/* ---- Reckoning */

static uint32_t pages_for(const struct sharpi_model *model, uint32_t c, uint32_t n_tokens)
{
    uint32_t pages = (n_tokens + SHARPI_KV_PAGE - 1) / SHARPI_KV_PAGE;
    uint32_t entries = model->classes[c].ring / SHARPI_KV_PAGE;
    return pages < entries ? pages : entries;
}

static uint32_t available(const struct sharpi_scheduler *s, uint32_t c)
{
    struct sharpi_kv_counts counts;
    sharpi_kv_pages_count(s->model->pages, c, &counts);
    return counts.free + counts.cached;
}

int32_t scheduler_never_fits(const struct sharpi_scheduler *s, uint32_t n_tokens, struct sharpi_error *err)
{
    uint32_t c;
    if (n_tokens > s->model->context)
        n_tokens = s->model->context;
    for (c = 0; c < s->model->n_classes; c++) {
        uint32_t need = pages_for(s->model, c, n_tokens), most = sharpi_kv_pages_most(s->model->pages, c);
        if (need > most)
            return sharpi_fail(
                err, SHARPI_EINVAL,
                "%u tokens need %u KV pages of %u positions and the cache has %u; shorten the prompt "
                "or serve with a larger context",
                n_tokens, need, SHARPI_KV_PAGE, most);
    }
    return SHARPI_OK;
}

/* Pages that running sequences will take for tokens that they already have. */
static uint32_t promised(const struct sharpi_scheduler *s, uint32_t c)
{
    const struct request *r;
    uint32_t sum = 0;
    for (r = s->running.first; r; r = r->next) {
        uint32_t all = pages_for(s->model, c, r->n_tokens + 1);
        uint32_t held = sharpi_kv_seq_held(r->session->seq, c);
        sum += all > held ? all - held : 0;
    }
    return sum;
}

static int32_t has_room(const struct sharpi_scheduler *s, const struct request *r,
                        const struct sharpi_prefix_match *match)
{
    uint32_t c;
    if (!s->running.first)
        return 1; /* it fits alone: submit made sure */
    for (c = 0; c < s->model->n_classes; c++) {
        uint32_t need = pages_for(s->model, c, r->n_tokens + 1);
        uint32_t there = sharpi_prefix_match_active(s->tree, match, c); /* others pay for them */
        need = need > there ? need - there : 0;
        if (need + promised(s, c) > available(s, c))
            return 0;
    }
    return 1;
}

/* ---- Sessions come and go */

void request_release(struct sharpi_scheduler *s, struct request *r, int32_t keep)
{
    if (!r->session)
        return;
    if (keep && !r->what.no_reuse && !s->options.no_reuse)
        sharpi_prefix_finish(s->tree, r->session->seq, r->tokens, &r->cursor);
    else
        sharpi_prefix_leave(&r->cursor);
    sharpi_session_truncate(r->session, 0, NULL); /* to 0 always works */
    s->sessions[s->n_idle_sessions++] = r->session;
    r->session = NULL;
}

void request_preempt(struct sharpi_scheduler *s, struct request *r, int32_t keep)
{
    request_release(s, r, keep);
    list_take(&s->running, r);
    list_prepend(&s->waiting, r);
    r->usage.preemptions++;
    s->stats.preemptions++;
}

/* ---- Reuse */

static uint32_t reuse_limit(const struct request *r, const struct sharpi_prefix_match *match, uint32_t most)
{
    if (match->length >= most)
        return SHARPI_REUSE_ALL;
    if (match->known == 0)
        return SHARPI_REUSE_NONE_YET;
    if (match->length < match->known && match->length < r->n_prompt)
        return SHARPI_REUSE_WINDOW;
    return SHARPI_REUSE_DIVERGES;
}

static int32_t reuses(const struct sharpi_scheduler *s, const struct request *r)
{
    return !s->options.no_reuse && !r->what.no_reuse && r->what.kind != SHARPI_REQUEST_EMBED_MEAN;
}

/* 0: a file is being read, which may have more. */
static int32_t find_prefix(struct sharpi_scheduler *s, struct request *r, struct sharpi_prefix_match *match)
{
    int32_t status;
    *match = (struct sharpi_prefix_match){.known = 0};
    if (!reuses(s, r))
        return 1;
    sharpi_prefix_match(s->tree, r->tokens, r->n_tokens, r->n_tokens - 1, match);
    if (!s->disk || r->disk_done)
        return 1;
    status = scheduler_disk_load(s, r, match->length);
    r->disk_done = status != SHARPI_EFULL;
    if (status == SHARPI_OK) {
        uint32_t before = match->length;
        sharpi_prefix_match(s->tree, r->tokens, r->n_tokens, r->n_tokens - 1, match);
        r->usage.disk_tokens = match->length > before ? match->length - before : 0;
        s->stats.disk_hit_tokens += r->usage.disk_tokens;
    }
    return r->disk_done != 0;
}

static uint32_t common_prefix(const struct request *a, const struct request *b)
{
    uint32_t n = a->n_tokens < b->n_prompt ? a->n_tokens : b->n_prompt, i;
    for (i = 0; i < n && a->tokens[i] == b->tokens[i]; i++)
        ;
    return i;
}

/* Whether a running sequence is just computing more of this prompt than is known: then waiting costs less than doing it twice. */
static int32_t is_being_computed(const struct sharpi_scheduler *s, const struct request *r, uint32_t known)
{
    const struct request *other;
    if (!reuses(s, r))
        return 0;
    for (other = s->running.first; other; other = other->next) {
        uint32_t length = sharpi_session_length(other->session), shared;
        if (length + 1 >= other->n_prompt || other->what.no_reuse)
            continue;
        shared = common_prefix(r, other) / SHARPI_KV_PAGE * SHARPI_KV_PAGE;
        if (shared > known && shared > length)
            return 1;
    }
    return 0;
}

/* ---- Admission */

static void count_start(struct sharpi_scheduler *s, struct request *r,
                        const struct sharpi_prefix_match *match)
{
    struct sharpi_request_usage *u = &r->usage;
    uint32_t most = r->n_prompt - 1;
    u->times.started = scheduler_now();
    u->known_tokens = match->known;
    u->reused_tokens = match->length;
    u->reuse_limit = reuses(s, r) ? reuse_limit(r, match, most) : SHARPI_REUSE_OFF;
    s->stats.fallbacks[SHARPI_FALLBACK_WINDOW_LOST] += u->reuse_limit == SHARPI_REUSE_WINDOW;
    s->stats.prompt_tokens += r->n_prompt;
    s->stats.prefix_hit_tokens += u->reused_tokens;
    histogram_add(&s->stats.queue, sharpi_seconds_bounds, u->times.started - u->times.queued);
    histogram_add(&s->stats.prompt_length, sharpi_lengths_bounds, r->n_prompt);
}

static void start(struct sharpi_scheduler *s, struct request *r, const struct sharpi_prefix_match *match)
{
    struct sharpi_event event = {.kind = SHARPI_EVENT_STARTED};
    struct sharpi_error err = SHARPI_ERROR_INIT;
    int32_t first = !r->was_started, status;
    r->session = s->sessions[--s->n_idle_sessions];
    r->order = ++s->next_order;
    r->was_started = 1;
    list_take(&s->waiting, r);
    list_append(&s->running, r);
    status = sharpi_prefix_fork(s->tree, match, r->session->seq, &r->cursor, &err);
    r->cursor.keep_at = r->n_prompt;
    r->to_verify = s->verifier && match->length > 0;
    if (first)
        count_start(s, r, match);
    if (status)
        request_fail(s, r, &s->running, status, err.text);
    else if (first)
        request_emit(s, r, &event);
}

/* First come, first served; who only waits for a prefix that is being computed is passed by. */
void scheduler_admit(struct sharpi_scheduler *s)
{
    enum { MOST_PASSED = 16 };
    struct request *r, *next;
    uint32_t passed = 0;
    for (r = s->waiting.first; r && s->n_idle_sessions && passed < MOST_PASSED; r = next) {
        struct sharpi_prefix_match match;
        next = r->next;
        if (!find_prefix(s, r, &match) || is_being_computed(s, r, match.length)) {
            passed++;
            continue;
        }
        if (!has_room(s, r, &match))
            break;
        start(s, r, &match);
    }
    s->stalled = s->waiting.first && !s->running.first;
}

/* ---- Running out */

/* The class in which the planned step asks for more than there is, or n_classes. */
static uint32_t short_class(const struct sharpi_scheduler *s)
{
    uint32_t c, i, need;
    for (c = 0; c < s->model->n_classes; c++) {
        for (i = 0, need = 0; i < s->n_work; i++)
            need += sharpi_kv_seq_need(s->work[i].session->seq, s->work[i].n_tokens, c);
        if (need > available(s, c))
            return c;
    }
    return c;
}

int32_t scheduler_make_room(struct sharpi_scheduler *s)
{
    struct request *r, *newest = s->running.first;
    uint32_t c = short_class(s);
    if (c == s->model->n_classes || !newest)
        return 1;
    for (r = newest->next; r; r = r->next) {
        if (r->order > newest->order)
            newest = r;
    }
    if (s->running.n > 1) {
        request_preempt(s, newest, 1);
        s->stats.fallbacks[SHARPI_FALLBACK_PREEMPTED]++;
    } else if (newest->n_tokens > newest->n_prompt) {
        request_finish(s, newest, &s->running, SHARPI_FINISH_LENGTH, -1); /* it has filled the cache alone */
    } else {
        char text[160];
        snprintf(text, sizeof text, "the prompt of %u tokens does not fit the %u KV pages of window %u",
                 newest->n_tokens, available(s, c), s->model->classes[c].window);
        request_fail(s, newest, &s->running, SHARPI_EFULL, text);
    }
    return 0;
}

/* ---- Accounts */

void scheduler_check_accounts(struct sharpi_scheduler *s)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    if (s->accounts_broken ||
        (!sharpi_kv_pages_check(s->model->pages, &err) && !sharpi_prefix_tree_check(s->tree, &err)))
        return;
    s->accounts_broken = 1;
    s->stats.accounting_errors++;
    sharpi_log_printf(&s->model->engine->log, SHARPI_LOG_ERROR, "engine",
                      "%s; requests that run go on, new ones are refused until a restart", err.text);
    pthread_mutex_lock(&s->lock);
    s->refuse_all = 1;
    pthread_mutex_unlock(&s->lock);
}
