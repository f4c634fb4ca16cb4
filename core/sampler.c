/* The sampler's outside: parameters, state, and running the chain.
 *
 * Invariant: everything is allocated at creation except the history, so sampling cannot fail for want of memory.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sampler-internal.h"
#include "tokenizer.h"

/* Blackman and Vigna's xoshiro256**, seeded through splitmix64 as they advise. */
static void rng_seed(struct rng *rng, uint64_t seed)
{
    for (int32_t i = 0; i < 4; i++) {
        uint64_t z = seed += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        rng->s[i] = z ^ z >> 31;
    }
}

static uint64_t rotate(uint64_t x, int32_t by)
{
    return x << by | x >> (64 - by);
}

double rng_uniform(struct rng *rng)
{
    uint64_t *s = rng->s;
    uint64_t result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

void sharpi_sampler_params_init(struct sharpi_sampler_params *params)
{
    *params = (struct sharpi_sampler_params){
        .temperature = 0.8f,
        .top_k = 40,
        .top_p = 0.95f,
        .min_p = 0.05f,
        .typical_p = 1,
        .xtc_threshold = 0.1f,
        .min_keep = 1,
        .penalty_last_n = 64,
        .repeat_penalty = 1,
        .dry_base = 1.75f,
        .dry_allowed_length = 2,
        .dry_last_n = -1,
    };
}

static int32_t check_range(const char *name, float value, float low, float high, struct sharpi_error *err)
{
    if (value >= low && value <= high)
        return SHARPI_OK;
    return sharpi_fail(err, SHARPI_EINVAL, "%s = %g is out of range: %g to %g", name, (double)value,
                       (double)low, (double)high);
}

static int32_t check_least(const char *name, int32_t value, int32_t low, struct sharpi_error *err)
{
    return value >= low
               ? SHARPI_OK
               : sharpi_fail(err, SHARPI_EINVAL, "%s = %d is out of range: %d at least", name, value, low);
}

static int32_t check_params(const struct sharpi_sampler_params *p, struct sharpi_error *err)
{
    const struct {
        const char *name;
        float value, low, high;
    } ranges[] = {
        {"temperature", p->temperature, 0, 1e6f},
        {"top_p", p->top_p, 0, 1},
        {"min_p", p->min_p, 0, 1},
        {"typical_p", p->typical_p, 0, 1},
        {"xtc_probability", p->xtc_probability, 0, 1},
        {"xtc_threshold", p->xtc_threshold, 0, 1},
        {"repeat_penalty", p->repeat_penalty, 1e-6f, 1e6f},
        {"frequency_penalty", p->frequency_penalty, -1e6f, 1e6f},
        {"presence_penalty", p->presence_penalty, -1e6f, 1e6f},
        {"dry_multiplier", p->dry_multiplier, 0, 1e6f},
        {"dry_base", p->dry_base, 1, 1e6f},
    };
    int32_t status = SHARPI_OK;
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0] && status == SHARPI_OK; i++)
        status = check_range(ranges[i].name, ranges[i].value, ranges[i].low, ranges[i].high, err);
    if (status == SHARPI_OK)
        status = check_least("top_k", p->top_k, 0, err);
    if (status == SHARPI_OK)
        status = check_least("min_keep", p->min_keep, 0, err);
    if (status == SHARPI_OK)
        status = check_least("penalty_last_n", p->penalty_last_n, -1, err);
    if (status == SHARPI_OK)
        status = check_least("dry_last_n", p->dry_last_n, -1, err);
    return status == SHARPI_OK ? check_least("dry_allowed_length", p->dry_allowed_length, 1, err) : status;
}

static int32_t check_ids(const struct sharpi_sampler_params *p, int32_t n_vocab, struct sharpi_error *err)
{
    for (uint64_t i = 0; i < p->n_bias; i++) {
        const struct sharpi_logit_bias *b = &p->bias[i];
        if (b->id < 0 || b->id >= n_vocab)
            return sharpi_fail(err, SHARPI_EINVAL,
                               "logit bias: token %d is not in the vocabulary of %d tokens", b->id, n_vocab);
        if (b->bias != b->bias || b->bias == INFINITY)
            return sharpi_fail(err, SHARPI_EINVAL, "logit bias of token %d is %g: it must be finite or -inf",
                               b->id, (double)b->bias);
    }
    for (uint64_t i = 0; i < p->n_dry_breakers; i++) {
        if (p->dry_breakers[i] < 0 || p->dry_breakers[i] >= n_vocab)
            return sharpi_fail(err, SHARPI_EINVAL,
                               "DRY breaker: token %d is not in the vocabulary of %d tokens",
                               p->dry_breakers[i], n_vocab);
    }
    return SHARPI_OK;
}

static int32_t allocate_part(struct part *part, size_t n)
{
    part->keys = malloc(n * sizeof *part->keys);
    part->weights = malloc(n * sizeof *part->weights);
    part->at = malloc(n * sizeof *part->at);
    return part->keys && part->weights && part->at;
}

static int32_t allocate(struct sharpi_sampler *s, struct sharpi_error *err)
{
    size_t n = (size_t)s->n_vocab;
    s->counts = calloc(n, sizeof *s->counts);
    s->repeats = calloc(n, sizeof *s->repeats);
    s->list_logits = malloc(n * sizeof *s->list_logits);
    s->list_ids = malloc(n * sizeof *s->list_ids);
    s->maxima = malloc((n / BLOCK + 1) * sizeof *s->maxima);
    s->sums = malloc((n / BLOCK + 1) * sizeof *s->sums);
    int32_t parts = allocate_part(&s->parts[0], n) && allocate_part(&s->parts[1], n);
    s->bias = malloc(s->params.n_bias * sizeof *s->bias + 1);
    s->is_breaker = s->params.n_dry_breakers > 0 ? calloc(n, 1) : NULL;
    if (!s->counts || !s->repeats || !s->list_logits || !s->list_ids || !s->maxima || !s->sums || !parts ||
        !s->bias || (s->params.n_dry_breakers > 0 && !s->is_breaker))
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a sampler over %d tokens", s->n_vocab);
    return SHARPI_OK;
}

int32_t sharpi_sampler_create(const struct sharpi_sampler_params *params, int32_t n_vocab,
                              struct sharpi_sampler **out, struct sharpi_error *err)
{
    *out = NULL;
    int32_t status = n_vocab > 0
                         ? check_params(params, err)
                         : sharpi_fail(err, SHARPI_EINVAL, "a sampler over %d tokens cannot be", n_vocab);
    if (status == SHARPI_OK)
        status = check_ids(params, n_vocab, err);
    if (status != SHARPI_OK)
        return status;
    struct sharpi_sampler *s = calloc(1, sizeof *s);
    if (!s)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a sampler");
    s->params = *params;
    s->n_vocab = n_vocab;
    status = allocate(s, err);
    if (status == SHARPI_OK)
        status =
            chain_parse(params->chain ? params->chain : SHARPI_SAMPLER_CHAIN, s->chain, &s->n_chain, err);
    if (status != SHARPI_OK) {
        sharpi_sampler_destroy(s);
        return status;
    }
    for (uint64_t i = 0; i < params->n_bias; i++)
        s->bias[i] = params->bias[i];
    for (uint64_t i = 0; i < params->n_dry_breakers; i++)
        s->is_breaker[params->dry_breakers[i]] = 1;
    s->params.bias = s->bias;
    s->params.dry_breakers = NULL;
    s->params.chain = NULL;
    rng_seed(&s->rng, params->seed);
    *out = s;
    return SHARPI_OK;
}

void sharpi_sampler_destroy(struct sharpi_sampler *sampler)
{
    if (!sampler)
        return;
    free(sampler->bias);
    free(sampler->is_breaker);
    free(sampler->history);
    free(sampler->lengths);
    free(sampler->counts);
    free(sampler->repeats);
    free(sampler->list_logits);
    free(sampler->list_ids);
    for (int32_t i = 0; i < 2; i++) {
        free(sampler->parts[i].keys);
        free(sampler->parts[i].weights);
        free(sampler->parts[i].at);
    }
    free(sampler->maxima);
    free(sampler->sums);
    free(sampler);
}

static int32_t grow_history(struct sharpi_sampler *s, int64_t needed, struct sharpi_error *err)
{
    if (needed <= s->history_capacity)
        return SHARPI_OK;
    int64_t capacity = needed + needed / 2 + 256;
    if (capacity > INT32_MAX)
        return sharpi_fail(err, SHARPI_EFULL, "a sampler remembers %d tokens at most", INT32_MAX);
    int32_t *history = realloc(s->history, (size_t)capacity * sizeof *history);
    if (history)
        s->history = history;
    int32_t *lengths = realloc(s->lengths, (size_t)capacity * sizeof *lengths);
    if (lengths)
        s->lengths = lengths;
    if (!history || !lengths)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to remember %lld tokens", (long long)capacity);
    s->history_capacity = capacity;
    return SHARPI_OK;
}

int32_t sharpi_sampler_accept(struct sharpi_sampler *sampler, int32_t id, struct sharpi_error *err)
{
    struct sharpi_sampler *s = sampler;
    if (id < 0 || id >= s->n_vocab)
        return sharpi_fail(err, SHARPI_EINVAL, "token %d is not in the vocabulary of %d tokens", id,
                           s->n_vocab);
    int32_t status = grow_history(s, s->n_history + 1, err);
    if (status != SHARPI_OK)
        return status;
    s->history[s->n_history++] = id;
    int64_t leaving = s->n_history - 1 - s->params.penalty_last_n;
    s->counts[id]++;
    if (s->params.penalty_last_n >= 0 && leaving >= 0)
        s->counts[s->history[leaving]]--;
    return SHARPI_OK;
}

void sharpi_sampler_reset(struct sharpi_sampler *sampler)
{
    for (int64_t i = 0; i < sampler->n_history; i++)
        sampler->counts[sampler->history[i]] = 0;
    sampler->n_history = 0;
    rng_seed(&sampler->rng, sampler->params.seed);
}

int32_t sharpi_sampler_clone(const struct sharpi_sampler *sampler, struct sharpi_sampler **out,
                             struct sharpi_error *err)
{
    struct sharpi_sampler *s = calloc(1, sizeof *s);
    size_t n = (size_t)sampler->n_vocab;
    *out = NULL;
    if (!s)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a sampler");
    s->params = sampler->params;
    s->n_vocab = sampler->n_vocab;
    s->n_chain = sampler->n_chain;
    s->rng = sampler->rng;
    memcpy(s->chain, sampler->chain, sizeof s->chain);
    int32_t status = allocate(s, err);
    if (status == SHARPI_OK)
        status = grow_history(s, sampler->n_history, err);
    if (status != SHARPI_OK) {
        sharpi_sampler_destroy(s);
        return status;
    }
    if (s->is_breaker)
        memcpy(s->is_breaker, sampler->is_breaker, n);
    if (sampler->n_history > 0)
        memcpy(s->history, sampler->history, (size_t)sampler->n_history * sizeof *s->history);
    s->n_history = sampler->n_history;
    for (int64_t i = 0; i < s->n_history; i++) /* only pages that are used */
        s->counts[s->history[i]] = sampler->counts[s->history[i]];
    memcpy(s->bias, sampler->bias, s->params.n_bias * sizeof *s->bias);
    s->params.bias = s->bias;
    *out = s;
    return SHARPI_OK;
}

int32_t stage_changes_logits(enum stage stage)
{
    return stage == STAGE_BIAS || stage == STAGE_PENALTIES || stage == STAGE_DRY;
}

int32_t sample_view(struct sharpi_sampler *sampler, float *logits, const int32_t *ids, int32_t n)
{
    struct view v = {.logits = logits, .ids = ids, .n = n, .maxima = sampler->maxima, .scale = {.factor = 1}};
    static void (*const stages[N_STAGES])(struct sharpi_sampler *, struct view *) = {
        [STAGE_BIAS] = apply_bias,
        [STAGE_PENALTIES] = apply_penalties,
        [STAGE_DRY] = apply_dry,
        [STAGE_TOP_K] = apply_top_k,
        [STAGE_TYPICAL_P] = apply_typical_p,
        [STAGE_TOP_P] = apply_top_p,
        [STAGE_MIN_P] = apply_min_p,
        [STAGE_XTC] = apply_xtc,
        [STAGE_TEMPERATURE] = apply_temperature,
    };
    int32_t greedy = sampler->params.temperature == 0;
    for (int32_t i = 0; i < sampler->n_chain; i++) {
        const enum stage stage = sampler->chain[i];
        if (stage_is_off(&sampler->params, stage) || (greedy && !stage_changes_logits(stage)))
            continue;
        if (stage != STAGE_TEMPERATURE)
            view_cut_tail(&v);
        stages[stage](sampler, &v);
    }
    return greedy ? draw_highest(&v) : draw(sampler, &v);
}

int32_t sharpi_sampler_sample(struct sharpi_sampler *sampler, float *logits, int32_t n_vocab)
{
    return n_vocab > sampler->n_vocab || n_vocab <= 0 ? -1 : sample_view(sampler, logits, NULL, n_vocab);
}

static int32_t contains(struct sharpi_str piece, const char *text, size_t n)
{
    return n > 0 && piece.n >= n && memmem(piece.data, piece.n, text, n) != NULL;
}

int32_t sharpi_sampler_breakers(const struct sharpi_tokenizer *tokenizer, const char *const *strings,
                                uint64_t n_strings, int32_t **out, uint64_t *n, struct sharpi_error *err)
{
    struct sharpi_tokens ids = SHARPI_TOKENS_INIT;
    int32_t status = SHARPI_OK, n_tokens = sharpi_tokenizer_n_tokens(tokenizer);
    for (int32_t id = 0; id < n_tokens && status == SHARPI_OK; id++) {
        struct sharpi_str piece = sharpi_token_piece(tokenizer, id);
        uint64_t k = 0;
        while (k < n_strings && !contains(piece, strings[k], strlen(strings[k])))
            k++;
        if (k < n_strings)
            status = sharpi_tokens_push(&ids, id, err);
    }
    if (status != SHARPI_OK)
        sharpi_tokens_free(&ids);
    *out = ids.ids;
    *n = ids.n;
    return status;
}
