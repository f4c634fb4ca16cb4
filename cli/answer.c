/* Prefill and decode of one answer: see answer.h. */
#include "answer.h"

#include "command.h"

const char *answer_stop_name(enum answer_stop stop)
{
    static const char *const names[] = {[ANSWER_END] = "end",
                                        [ANSWER_LENGTH] = "length",
                                        [ANSWER_CONTEXT] = "context",
                                        [ANSWER_INTERRUPT] = "interrupt"};
    return names[stop];
}

double per_second(double n, double seconds)
{
    return seconds > 0 ? n / seconds : 0;
}

int32_t answer_check_fits(const struct sharpi_model *model, uint64_t n_prompt, const char *remedy,
                          struct sharpi_error *err)
{
    struct sharpi_model_info info = {.size = sizeof info};
    sharpi_model_get_info(model, &info);
    if (n_prompt < info.context)
        return SHARPI_OK;
    return sharpi_fail(err, SHARPI_EFULL, "the prompt has %llu tokens, the context %u positions%s",
                       (unsigned long long)n_prompt, info.context, remedy);
}

/* Feeds tokens[n] in chunks, with the logits of the last; stops between chunks after Ctrl-C. */
static int32_t prefill(struct answer *a, const int32_t *tokens, uint64_t n, struct sharpi_error *err)
{
    struct sharpi_model_info info = {.size = sizeof info};
    uint64_t done = 0;
    int32_t status = SHARPI_OK, noted;
    sharpi_model_get_info(a->model, &info);
    while (done < n && !status && !interrupted()) {
        uint32_t now = n - done < info.chunk ? (uint32_t)(n - done) : info.chunk;
        struct sharpi_work work = {
            .session = a->held->session, .tokens = tokens + done, .n_tokens = now, .want = done + now == n};
        status = sharpi_step(a->model, &work, 1, err);
        noted = held_note(a->held, tokens + done, status ? 0 : now, err);
        status = status ? status : noted;
        done += now;
    }
    return status;
}

/* Why no further token is to be made, or 0. */
static enum answer_stop stop_before(const struct answer *a, uint32_t context)
{
    if (interrupted())
        return ANSWER_INTERRUPT;
    if (a->n_predict && a->n_made == a->n_predict)
        return ANSWER_LENGTH;
    return sharpi_session_length(a->held->session) + 1 >= context ? ANSWER_CONTEXT : 0;
}

static int32_t decode(struct answer *a, struct sharpi_error *err)
{
    struct sharpi_session *session = a->held->session;
    struct sharpi_model_info info = {.size = sizeof info};
    int32_t status = SHARPI_OK, token, last = -1;
    const char *text;
    uint64_t n;
    sharpi_model_get_info(a->model, &info);
    while (!status && !(a->stop = stop_before(a, info.context))) {
        status = sharpi_session_next(session, a->sampler, &token, err);
        if (!status && last >= 0) /* which fed the one before */
            status = held_note(a->held, &last, 1, err);
        if (status)
            break;
        last = token;
        if (!a->ignore_end && sharpi_model_is_end(a->model, token)) {
            a->stop = ANSWER_END;
            break;
        }
        a->n_made++;
        status = sharpi_session_text(session, token, &text, &n, err);
        if (!status)
            status = a->put(a->user, token, text, n, err);
    }
    sharpi_session_text_end(session, &text, &n);
    return status ? status : a->put(a->user, -1, text, n, err);
}

int32_t answer_run(struct answer *a, const int32_t *tokens, uint64_t n, struct sharpi_error *err)
{
    double start = now_seconds(), between;
    int32_t status = held_rewind(a->held, tokens, n, &a->n_reused, err);
    a->n_prompt = n;
    a->n_made = 0;
    if (!status)
        status = prefill(a, tokens + a->n_reused, n - a->n_reused, err);
    between = now_seconds();
    a->prefill_seconds = between - start;
    if (!status)
        status = decode(a, err);
    a->decode_seconds = now_seconds() - between;
    return status;
}
