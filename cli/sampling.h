/* The sampler's parameters as options, as settings and as /set of a chat: one table for all of them.
 *
 * Precedence: command line over environment over sharpi.ini's section [sampling] over the built-in default. The order of
 * the stages is a parameter too (--samplers, chain): "bias;penalties;dry;top_k;typical_p;top_p;min_p;xtc;temperature".
 */
#ifndef SHARPI_CLI_SAMPLING_H
#define SHARPI_CLI_SAMPLING_H

#include <sharpi/sampler.h>

#include "core/model.h"
#include "core/settings.h"
#include "options.h"

#define SAMPLING_MAX   24
#define SAMPLING_CHAIN 256

/* Options point into it: it must not move between sampling_init and sampling_free. */
struct sampling {
    struct sharpi_sampler_params params;
    const char *chain_text;           /* as written: stages separated by ';', ',' or blanks */
    char chain[SAMPLING_CHAIN];       /* as the sampler takes it */
    struct option_list bias_texts;    /* "ID+BIAS" */
    struct option_list breaker_texts; /* DRY; \n, \t and \\ mean what they do in C */
    struct sharpi_logit_bias bias[OPTION_LIST_MAX];
    int32_t *breakers;         /* ids, made when a sampler needs them first */
    char *owned[SAMPLING_MAX]; /* copies of texts that came with /set or from the settings */
    uint32_t given[SAMPLING_MAX];
    struct option options[SAMPLING_MAX + 1];
};

void sampling_init(struct sampling *s);
void sampling_free(struct sampling *s);

/* After the command line was parsed: takes what it left open from the settings, picks a random seed where there is none,
 * and checks all that needs no vocabulary. */
int32_t sampling_settle(struct sampling *s, const struct sharpi_settings *settings, struct sharpi_error *err);

/* "temp=0.2" of a chat's /set. On an error everything is as it was. */
int32_t sampling_set(struct sampling *s, const char *assignment, struct sharpi_error *err);
/* Value of the i-th parameter as text; its name, or NULL past the last. */
const char *sampling_describe(const struct sampling *s, uint32_t i, char *value, size_t n);

/* A sampler for the `answer`-th answer: all derive from one seed, yet do not repeat each other's random numbers. It has
 * accepted the `n` prompt tokens, for penalties count what was said before. */
int32_t sampling_create(struct sampling *s, const struct sharpi_model *model, uint32_t answer,
                        const int32_t *prompt, uint64_t n, struct sharpi_sampler **out,
                        struct sharpi_error *err);

#endif
