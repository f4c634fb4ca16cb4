/* What a client sees of a choice: see output.h. */
#include "output.h"

#include <stdlib.h>
#include <string.h>

/* ---- Lists of log-probabilities */

int32_t token_probs_add(struct token_probs *probs, const struct token_prob *prob,
                        const struct sharpi_logprob *top)
{
    if (probs->n == probs->capacity) {
        uint32_t capacity = probs->capacity * 2 + 16;
        struct token_prob *bigger = realloc(probs->items, capacity * sizeof *bigger);
        if (!bigger)
            return SHARPI_ENOMEM;
        probs->items = bigger;
        probs->capacity = capacity;
    }
    if (prob->n_top > probs->tops_capacity - probs->n_tops) {
        uint32_t capacity = (probs->n_tops + prob->n_top) * 2;
        struct sharpi_logprob *bigger = realloc(probs->tops, capacity * sizeof *bigger);
        if (!bigger)
            return SHARPI_ENOMEM;
        probs->tops = bigger;
        probs->tops_capacity = capacity;
    }
    probs->items[probs->n] = *prob;
    probs->items[probs->n++].first_top = probs->n_tops;
    if (prob->n_top)
        memcpy(probs->tops + probs->n_tops, top, prob->n_top * sizeof *top);
    probs->n_tops += prob->n_top;
    return SHARPI_OK;
}

void token_probs_free(struct token_probs *probs)
{
    free(probs->items);
    free(probs->tops);
    memset(probs, 0, sizeof *probs);
}

static void clear(struct token_probs *probs)
{
    probs->n = probs->n_tops = 0;
}

/* ---- The way of a token */

/* Makes the pending tokens ready whose text is out: it ends at or before `released`, or begins before `cut`. */
static void release(struct output *o, uint64_t released, uint64_t cut)
{
    uint32_t n = 0;
    while (n < o->pending.n && (o->pending.items[n].end <= released || o->pending.items[n].begin < cut)) {
        const struct token_prob *prob = &o->pending.items[n++];
        if (token_probs_add(&o->probs, prob, prob->n_top ? o->pending.tops + prob->first_top : NULL))
            o->failed = 1;
    }
    if (n == o->pending.n) {
        clear(&o->pending);
    } else if (n) {
        uint32_t first = o->pending.items[n].first_top;
        memmove(o->pending.items, o->pending.items + n, (o->pending.n - n) * sizeof *o->pending.items);
        if (first)
            memmove(o->pending.tops, o->pending.tops + first,
                    (o->pending.n_tops - first) * sizeof *o->pending.tops);
        o->pending.n -= n;
        o->pending.n_tops -= first;
        for (uint32_t i = 0; i < o->pending.n; i++)
            o->pending.items[i].first_top -= first;
    }
}

static int32_t put_piece(void *user, int32_t is_reasoning, const char *text, uint64_t n,
                         struct sharpi_error *err)
{
    struct output *o = user;
    (void)err;
    if (is_reasoning)
        text_put(&o->thought, text, n);
    else
        stop_matcher_push(&o->matcher, text, n, &o->said);
    return SHARPI_OK;
}

int32_t output_init(struct output *o, const struct sharpi_tokenizer *tokenizer,
                    const struct stop_strings *stops, int32_t split, int32_t keep_probs, const char *prompt,
                    uint64_t n_prompt, struct sharpi_error *err)
{
    memset(o, 0, sizeof *o);
    o->tokenizer = tokenizer;
    o->split = split;
    o->keep_probs = keep_probs;
    stop_matcher_init(&o->matcher, stops);
    sharpi_reasoning_init(&o->splitter, prompt ? prompt : "", prompt ? n_prompt : 0, put_piece, o);
    return sharpi_detokenizer_create(tokenizer, 0, &o->detokenizer, err);
}

void output_free(struct output *o)
{
    sharpi_detokenizer_destroy(o->detokenizer);
    o->detokenizer = NULL;
    stop_matcher_free(&o->matcher);
    text_free(&o->said);
    text_free(&o->thought);
    token_probs_free(&o->pending);
    token_probs_free(&o->probs);
}

/* Control tokens have no text, but the marks of reasoning may be such tokens. */
static struct sharpi_str text_of(struct output *o, int32_t token)
{
    struct sharpi_str text = sharpi_detokenizer_push(o->detokenizer, token);
    if (o->split && sharpi_token_attr(o->tokenizer, token) == SHARPI_TOKEN_CONTROL) {
        struct sharpi_str name = sharpi_token_text(o->tokenizer, token);
        if (sharpi_reasoning_is_mark(name.data, name.n))
            return name;
    }
    return text;
}

static void pass_on(struct output *o, const char *text, uint64_t n)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    o->pushed += n;
    if (!o->split)
        stop_matcher_push(&o->matcher, text, n, &o->said);
    else if (sharpi_reasoning_push(&o->splitter, text, n, &err))
        o->failed = 1;
}

/* Probabilities are the answer's: those of reasoning and of its marks go nowhere. */
static void settle_probs(struct output *o)
{
    const struct sharpi_reasoning *r = &o->splitter;
    if (o->split &&
        (r->state == SHARPI_REASONING_INSIDE || (r->state == SHARPI_REASONING_START && r->after_block)))
        clear(&o->pending);
    else if (o->matcher.hit >= 0)
        release(o, 0, o->pushed - o->matcher.cut);
    else
        release(o, o->pushed - (o->split ? r->n_held : 0) - o->matcher.held.n, 0);
}

int32_t output_push(struct output *o, int32_t token, float logprob, const struct sharpi_logprob *top,
                    uint32_t n_top)
{
    int32_t inside = o->splitter.state == SHARPI_REASONING_INSIDE;
    struct sharpi_str text = text_of(o, token);
    struct token_prob prob = {.token = token, .logprob = logprob, .n_top = n_top, .begin = o->pushed};
    prob.end = o->pushed + text.n;
    if (o->keep_probs && token_probs_add(&o->pending, &prob, top))
        o->failed = 1;
    pass_on(o, text.data, text.n);
    o->reasoning_tokens += o->split && (inside || o->splitter.state == SHARPI_REASONING_INSIDE);
    settle_probs(o);
    o->failed |= o->said.failed | o->thought.failed;
    return o->failed || o->matcher.hit >= 0;
}

void output_end(struct output *o)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_str rest = sharpi_detokenizer_flush(o->detokenizer);
    if (o->matcher.hit >= 0)
        return;
    pass_on(o, rest.data, rest.n);
    if (o->split && sharpi_reasoning_end(&o->splitter, &err))
        o->failed = 1;
    if (o->matcher.hit < 0) {
        stop_matcher_end(&o->matcher, &o->said);
        release(o, o->pushed, 0);
    } else {
        release(o, 0, o->pushed - o->matcher.cut);
    }
    o->failed |= o->said.failed | o->thought.failed;
}
