/* How far two models' predictions are apart: KL divergence and agreement on the most likely token, over many rows. */
#ifndef SHARPI_CLI_DIVERGENCE_H
#define SHARPI_CLI_DIVERGENCE_H

#include <sharpi/plugin/tensor.h>

struct divergence {
    uint64_t n, capacity, n_same_top;
    float *values; /* KL divergence of each row, for quantiles */
    double saved_nll;
};

/* Adds one row: log-probabilities of the reference (which need not sum to 1, they are normalised here) and of the model,
 * and the token that the text has. */
int32_t divergence_add(struct divergence *d, float *reference, const float *model, uint32_t n_vocab,
                       int32_t token, struct sharpi_error *err);
/* Prints what was found, sorting the values. `model_nll`: sum of the model's negative log-probabilities of the same tokens. */
void divergence_print(struct divergence *d, double model_nll);
void divergence_free(struct divergence *d);

#endif
