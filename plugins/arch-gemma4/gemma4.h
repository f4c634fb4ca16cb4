/* Gemma 4: what the file says, beyond the model description. */
#ifndef SHARPI_ARCH_GEMMA4_H
#define SHARPI_ARCH_GEMMA4_H

#include <sharpi/plugin/arch-read.h>

struct gemma4_params {
    float eps, softcap;
    float theta, theta_local; /* of global and of sliding layers */
};

int32_t gemma4_describe(const struct sharpi_reader *r, struct sharpi_model_desc *desc);
int32_t gemma4_params(const struct sharpi_reader *r, struct gemma4_params *params);
int32_t gemma4_build(const struct sharpi_reader *r, const struct sharpi_model_desc *desc,
                     const struct gemma4_params *params, struct sharpi_builder *b);

/* Bytes to keep free of KV: min(max(total/3, 2 GiB), max(2 GiB, total/6) + W), W one prefill chunk's activations. Windowed
 * KV saturates, so less is enough than for a model whose KV grows without end. */
uint64_t gemma4_reserve(const struct sharpi_model_desc *desc, uint64_t device_total, uint32_t chunk);

#endif
