/* Splitting reasoning from answers: see reasoning.h. */
#include "reasoning.h"

#include <string.h>

static const struct {
    const char *opening, *closing;
} marks[] = {
    {"<think>", "</think>"},
    {"[THINK]", "[/THINK]"},
    {"<|channel>thought", "<channel|>"},
};
enum { N_MARKS = sizeof marks / sizeof *marks };

static uint64_t leading_space(const char *text, uint64_t n)
{
    uint64_t i = 0;
    while (i < n && strchr(" \t\r\n", text[i]) && text[i])
        i++;
    return i;
}

static int32_t ends_with(const char *text, uint64_t n, const char *end)
{
    uint64_t n_end = strlen(end);
    return n >= n_end && memcmp(text + n - n_end, end, n_end) == 0;
}

void sharpi_reasoning_init(struct sharpi_reasoning *r, const char *prompt, uint64_t n_prompt,
                           sharpi_reasoning_put_fn *put, void *user)
{
    memset(r, 0, sizeof *r);
    r->put = put;
    r->user = user;
    while (n_prompt && strchr(" \t\r\n", prompt[n_prompt - 1]))
        n_prompt--;
    for (uint32_t i = 0; i < N_MARKS; i++) {
        if (ends_with(prompt, n_prompt, marks[i].opening)) {
            r->state = SHARPI_REASONING_INSIDE;
            r->closing = marks[i].closing;
        }
    }
}

int32_t sharpi_reasoning_is_mark(const char *text, uint64_t n)
{
    for (uint32_t i = 0; i < N_MARKS && n > 1; i++) {
        if (n <= strlen(marks[i].opening) && memcmp(text, marks[i].opening, n) == 0)
            return 1;
        if (n == strlen(marks[i].closing) && memcmp(text, marks[i].closing, n) == 0)
            return 1;
    }
    return 0;
}

static int32_t put_held(struct sharpi_reasoning *r, uint32_t n, struct sharpi_error *err)
{
    int32_t status = n ? r->put(r->user, r->state == SHARPI_REASONING_INSIDE, r->held, n, err) : SHARPI_OK;
    memmove(r->held, r->held + n, r->n_held - n);
    r->n_held -= n;
    return status;
}

/* The held text has one byte more, before anything was answered: it opens a block, may still do so, or is the answer. */
static int32_t step_start(struct sharpi_reasoning *r, struct sharpi_error *err)
{
    uint64_t space = leading_space(r->held, r->n_held), n = r->n_held - space;
    for (uint32_t i = 0; i < N_MARKS && n; i++) {
        uint64_t n_mark = strlen(marks[i].opening);
        if (n > n_mark || memcmp(r->held + space, marks[i].opening, n) != 0)
            continue;
        if (n == n_mark) {
            r->state = SHARPI_REASONING_INSIDE;
            r->closing = marks[i].closing;
            r->n_held = 0;
        }
        if (r->n_held < SHARPI_REASONING_HOLD)
            return SHARPI_OK;
    }
    if (!n && r->n_held < SHARPI_REASONING_HOLD)
        return SHARPI_OK;
    if (r->after_block) {
        memmove(r->held, r->held + space, n);
        r->n_held = (uint32_t)n;
    }
    if (r->n_held)
        r->state = SHARPI_REASONING_ANSWER;
    return put_held(r, r->n_held, err);
}

/* The same within a block: held is always the beginning of the closing mark, the rest is passed on. */
static int32_t step_inside(struct sharpi_reasoning *r, struct sharpi_error *err)
{
    uint64_t n_mark = strlen(r->closing);
    uint32_t skip = 0;
    while (skip < r->n_held &&
           (r->n_held - skip > n_mark || memcmp(r->held + skip, r->closing, r->n_held - skip) != 0))
        skip++;
    if (skip == 0 && r->n_held == n_mark) {
        r->state = SHARPI_REASONING_START;
        r->after_block = 1;
        r->n_held = 0;
    }
    return put_held(r, skip, err);
}

int32_t sharpi_reasoning_push(struct sharpi_reasoning *r, const char *text, uint64_t n,
                              struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    for (uint64_t i = 0; i < n && !status; i++) {
        if (r->state == SHARPI_REASONING_ANSWER)
            return r->put(r->user, 0, text + i, n - i, err);
        r->held[r->n_held++] = text[i];
        status = r->state == SHARPI_REASONING_START ? step_start(r, err) : step_inside(r, err);
    }
    return status;
}

int32_t sharpi_reasoning_end(struct sharpi_reasoning *r, struct sharpi_error *err)
{
    if (r->state == SHARPI_REASONING_START && leading_space(r->held, r->n_held) == r->n_held)
        r->n_held = 0;
    return put_held(r, r->n_held, err);
}
