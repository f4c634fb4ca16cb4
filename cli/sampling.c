/* Sampling parameters from the command line, the settings and /set: see sampling.h. */
#include "sampling.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "core/nearest.h"

/* Where an option's value is, as an offset into struct sampling. */
#define PARAMETER(member) offsetof(struct sampling, params.member)
#define MEMBER(member)    offsetof(struct sampling, member)

struct parameter {
    const char *name, *setting; /* setting: its key in [sampling] where that is not the name; "" = none */
    int32_t kind;
    size_t value;
    const char *argument, *help;
};

static const struct parameter parameters[] = {
    {"temp", NULL, OPTION_FLOAT, PARAMETER(temperature), "T", "temperature, 0 = greedy (0.8)"},
    {"top-k", NULL, OPTION_INT, PARAMETER(top_k), "K", "keep the K most likely, 0 = off (40)"},
    {"top-p", NULL, OPTION_FLOAT, PARAMETER(top_p), "P",
     "keep the smallest set of probability P, 1 = off (0.95)"},
    {"min-p", NULL, OPTION_FLOAT, PARAMETER(min_p), "P",
     "drop what is less likely than P times the best, 0 = off (0.05)"},
    {"typical", NULL, OPTION_FLOAT, PARAMETER(typical_p), "P", "locally typical sampling, 1 = off (1)"},
    {"min-keep", NULL, OPTION_INT, PARAMETER(min_keep), "N",
     "top-p, min-p, typical and XTC leave at least N (1)"},
    {"repeat-penalty", NULL, OPTION_FLOAT, PARAMETER(repeat_penalty), "R",
     "penalty on seen tokens, 1 = off (1)"},
    {"repeat-last-n", NULL, OPTION_INT, PARAMETER(penalty_last_n), "N",
     "tokens that penalties look back, 0 = off, -1 = all (64)"},
    {"frequency-penalty", NULL, OPTION_FLOAT, PARAMETER(frequency_penalty), "X",
     "subtracted per occurrence (0)"},
    {"presence-penalty", NULL, OPTION_FLOAT, PARAMETER(presence_penalty), "X", "subtracted once (0)"},
    {"dry-multiplier", NULL, OPTION_FLOAT, PARAMETER(dry_multiplier), "X",
     "DRY penalty on repeated sequences, 0 = off (0)"},
    {"dry-base", NULL, OPTION_FLOAT, PARAMETER(dry_base), "X", "its growth per repeated token (1.75)"},
    {"dry-allowed-length", NULL, OPTION_INT, PARAMETER(dry_allowed_length), "N",
     "repeats this long are penalised (2)"},
    {"dry-last-n", NULL, OPTION_INT, PARAMETER(dry_last_n), "N", "tokens that DRY searches, -1 = all (-1)"},
    {"dry-breaker", "", OPTION_LIST, MEMBER(breaker_texts), "TEXT",
     "text that ends a repeat, several times (\\n : \" *)"},
    {"xtc-probability", NULL, OPTION_FLOAT, PARAMETER(xtc_probability), "P",
     "chance that XTC drops the top choices, 0 = off (0)"},
    {"xtc-threshold", NULL, OPTION_FLOAT, PARAMETER(xtc_threshold), "P",
     "choices at least this likely are top (0.1)"},
    {"logit-bias", NULL, OPTION_LIST, MEMBER(bias_texts), "ID+BIAS",
     "add to a token's logit: 15+2.5, 15-inf; several times"},
    {"samplers", "chain", OPTION_STRING, MEMBER(chain_text), "CHAIN",
     "stages in order, what is not named is off"},
    {"seed", NULL, OPTION_U64, PARAMETER(seed), "N", "same seed, same text (default: random)"},
};
enum { N_PARAMETERS = sizeof parameters / sizeof *parameters };
_Static_assert(N_PARAMETERS <= SAMPLING_MAX, "table size");

static const char *const default_breakers[] = {"\n", ":", "\"", "*"};

void sampling_init(struct sampling *s)
{
    memset(s, 0, sizeof *s);
    sharpi_sampler_params_init(&s->params);
    s->chain_text = SHARPI_SAMPLER_CHAIN;
    for (uint32_t i = 0; i < N_PARAMETERS; i++) {
        const struct parameter *p = &parameters[i];
        s->options[i] =
            (struct option){p->name, 0, p->kind, p->argument, p->help, (char *)s + p->value, &s->given[i]};
    }
}

static void forget_breakers(struct sampling *s)
{
    free(s->breakers);
    s->breakers = NULL;
    s->params.dry_breakers = NULL;
    s->params.n_dry_breakers = 0;
}

void sampling_free(struct sampling *s)
{
    forget_breakers(s);
    for (uint32_t i = 0; i < N_PARAMETERS; i++)
        free(s->owned[i]);
}

/* ---- Texts to values */

/* "15+2.5", "15-inf" */
static int32_t parse_bias(const char *text, struct sharpi_logit_bias *out, struct sharpi_error *err)
{
    char digits[16], *end;
    size_t n = strcspn(text, "+-");
    uint64_t id;
    snprintf(digits, sizeof digits, "%.*s", (int)(n < sizeof digits ? n : 0), text);
    if (sharpi_parse_uint(digits, &id) == 0 && id <= INT32_MAX && text[n]) {
        out->id = (int32_t)id;
        out->bias = strtof(text + n, &end);
        if (!*end && end > text + n + 1)
            return SHARPI_OK;
    }
    return sharpi_fail(err, SHARPI_EINVAL,
                       "logit bias '%s' is not ID+BIAS or ID-BIAS, as 15+2.5 or 15-inf is", text);
}

static int32_t parse_chain(struct sampling *s, struct sharpi_error *err)
{
    char *at = s->chain;
    if (strlen(s->chain_text) >= sizeof s->chain)
        return sharpi_fail(err, SHARPI_EINVAL, "the chain of samplers is longer than %d bytes",
                           SAMPLING_CHAIN - 1);
    strcpy(s->chain, s->chain_text);
    while ((at = strpbrk(at, " ,\t")))
        *at = ';';
    s->params.chain = s->chain;
    return SHARPI_OK;
}

/* Texts of lists and chain to what the sampler takes, and a try: a sampler of one token checks every range. */
static int32_t check(struct sampling *s, struct sharpi_error *err)
{
    struct sharpi_sampler_params params;
    struct sharpi_sampler *sampler = NULL;
    int32_t status = parse_chain(s, err);
    for (uint32_t i = 0; i < s->bias_texts.n && !status; i++)
        status = parse_bias(s->bias_texts.items[i], &s->bias[i], err);
    if (status)
        return status;
    s->params.bias = s->bias;
    s->params.n_bias = s->bias_texts.n;
    params = s->params;
    params.n_bias = params.n_dry_breakers = 0;
    status = sharpi_sampler_create(&params, 1, &sampler, err);
    sharpi_sampler_destroy(sampler);
    return status;
}

/* A list given as one text: items separated by blanks, which replace what is there. Takes over `text`. */
static int32_t split_list(struct option_list *list, char *text, struct sharpi_error *err)
{
    char *save = NULL, *item = strtok_r(text, " \t", &save);
    list->n = 0;
    for (; item; item = strtok_r(NULL, " \t", &save)) {
        if (list->n == OPTION_LIST_MAX)
            return sharpi_fail(err, SHARPI_EINVAL, "more than %d items", OPTION_LIST_MAX);
        list->items[list->n++] = item;
    }
    return SHARPI_OK;
}

/* Sets the i-th parameter from a text of unknown lifetime. */
static int32_t assign(struct sampling *s, uint32_t i, const char *text, struct sharpi_error *err)
{
    char *copy = strdup(text);
    int32_t status;
    if (!copy)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %s", parameters[i].name);
    status = parameters[i].kind == OPTION_LIST ? split_list(s->options[i].value, copy, err)
                                               : option_set(&s->options[i], copy, err);
    if (status) {
        free(copy);
        return status;
    }
    free(s->owned[i]);
    s->owned[i] = copy;
    return SHARPI_OK;
}

/* ---- Settings */

static int32_t take_setting(struct sampling *s, uint32_t i, const struct sharpi_settings *settings,
                            struct sharpi_error *err)
{
    const char *key = parameters[i].setting ? parameters[i].setting : parameters[i].name;
    const char *value = *key ? sharpi_settings_string(settings, "sampling", key, NULL) : NULL;
    struct sharpi_error inner = SHARPI_ERROR_INIT;
    int32_t status;
    if (s->given[i] || !value)
        return SHARPI_OK;
    status = assign(s, i, value, &inner);
    if (status)
        return sharpi_fail(err, status, "%s: [sampling] %s: %s",
                           sharpi_settings_origin(settings, "sampling", key), key, inner.text);
    s->given[i] = 1;
    return SHARPI_OK;
}

static uint64_t random_seed(void)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed)
        seed = (uint64_t)time(NULL) * 0x9e3779b97f4a7c15u;
    return seed >> 11; /* 53 bits: a JSON reader that knows doubles only can repeat it */
}

int32_t sampling_settle(struct sampling *s, const struct sharpi_settings *settings, struct sharpi_error *err)
{
    for (uint32_t i = 0; i < N_PARAMETERS; i++) {
        int32_t status = take_setting(s, i, settings, err);
        if (status)
            return status;
        if (parameters[i].value == PARAMETER(seed) && !s->given[i])
            s->params.seed = random_seed();
    }
    return check(s, err);
}

/* ---- /set */

static int32_t unknown_parameter(const char *name, struct sharpi_error *err)
{
    const char *names[N_PARAMETERS], *nearest;
    for (uint32_t i = 0; i < N_PARAMETERS; i++)
        names[i] = parameters[i].name;
    nearest = sharpi_nearest(name, names, N_PARAMETERS);
    if (nearest)
        return sharpi_fail(err, SHARPI_EINVAL, "no parameter '%s'; did you mean '%s'?", name, nearest);
    return sharpi_fail(err, SHARPI_EINVAL, "no parameter '%s'; /set lists them", name);
}

int32_t sampling_set(struct sampling *s, const char *assignment, struct sharpi_error *err)
{
    struct sampling before = *s;
    char name[64];
    size_t n = strcspn(assignment, "= ");
    const char *value = assignment + n + strspn(assignment + n, "= ");
    uint32_t i = 0;
    int32_t status;
    snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), assignment);
    while (i < N_PARAMETERS && sharpi_edit_distance(parameters[i].name, name) != 0)
        i++;
    if (i == N_PARAMETERS)
        return unknown_parameter(name, err);
    if (!*value && parameters[i].kind != OPTION_LIST)
        return sharpi_fail(err, SHARPI_EINVAL, "%s needs a value: /set %s=%s", parameters[i].name,
                           parameters[i].name, parameters[i].argument);
    s->owned[i] = NULL; /* the old text stays until the new one is good */
    status = assign(s, i, value, err);
    if (!status)
        status = check(s, err);
    if (status) {
        free(s->owned[i]);
        *s = before;
        return status;
    }
    free(before.owned[i]);
    if (parameters[i].value == MEMBER(breaker_texts))
        forget_breakers(s);
    return SHARPI_OK;
}

const char *sampling_describe(const struct sampling *s, uint32_t i, char *value, size_t n)
{
    const struct option *o = &s->options[i];
    const struct option_list *list;
    size_t used = 0;
    if (i >= N_PARAMETERS)
        return NULL;
    *value = 0;
    switch (o->kind) {
    case OPTION_FLOAT:
        snprintf(value, n, "%g", (double)*(const float *)o->value);
        break;
    case OPTION_INT:
        snprintf(value, n, "%d", *(const int32_t *)o->value);
        break;
    case OPTION_U64:
        snprintf(value, n, "%llu", (unsigned long long)*(const uint64_t *)o->value);
        break;
    case OPTION_STRING:
        snprintf(value, n, "%s", *(const char *const *)o->value);
        break;
    default:
        list = o->value;
        for (uint32_t k = 0; k < list->n && used < n; k++)
            used += (size_t)snprintf(value + used, n - used, "%s%s", k ? " " : "", list->items[k]);
    }
    return o->name;
}

/* ---- Samplers */

/* \n, \t, \\ of an option's text. */
static char *unescape(const char *text)
{
    char *out = strdup(text), *to = out;
    if (!out)
        return NULL;
    for (; *text; text++) {
        if (*text == '\\' && text[1]) {
            text++;
            *to++ = *text == 'n' ? '\n' : *text == 't' ? '\t' : *text;
        } else {
            *to++ = *text;
        }
    }
    *to = 0;
    return out;
}

static int32_t make_breakers(struct sampling *s, const struct sharpi_tokenizer *tokenizer,
                             struct sharpi_error *err)
{
    char *texts[OPTION_LIST_MAX] = {NULL};
    uint32_t n = s->breaker_texts.n, i;
    int32_t status = SHARPI_OK;
    uint64_t n_ids = 0;
    if (s->breakers || s->params.dry_multiplier <= 0.0f || !tokenizer)
        return SHARPI_OK;
    for (i = 0; i < n && !status; i++) {
        texts[i] = unescape(s->breaker_texts.items[i]);
        if (!texts[i])
            status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for --dry-breaker");
    }
    if (!status)
        status =
            n ? sharpi_sampler_breakers(tokenizer, (const char *const *)texts, n, &s->breakers, &n_ids, err)
              : sharpi_sampler_breakers(tokenizer, default_breakers,
                                        sizeof default_breakers / sizeof *default_breakers, &s->breakers,
                                        &n_ids, err);
    for (i = 0; i < n; i++)
        free(texts[i]);
    if (!status) {
        s->params.dry_breakers = s->breakers;
        s->params.n_dry_breakers = n_ids;
    }
    return status;
}

int32_t sampling_create(struct sampling *s, const struct sharpi_model *model, uint32_t answer,
                        const int32_t *prompt, uint64_t n, struct sharpi_sampler **out,
                        struct sharpi_error *err)
{
    struct sharpi_sampler_params params;
    int32_t status = make_breakers(s, model->tokenizer, err);
    *out = NULL;
    if (status)
        return status;
    params = s->params;
    params.seed += answer * 0x9e3779b97f4a7c15u;
    status = sharpi_sampler_create(&params, (int32_t)model->desc.n_vocab, out, err);
    for (uint64_t i = 0; i < n && !status; i++)
        status = sharpi_sampler_accept(*out, prompt[i], err);
    if (status) {
        sharpi_sampler_destroy(*out);
        *out = NULL;
    }
    return status;
}
