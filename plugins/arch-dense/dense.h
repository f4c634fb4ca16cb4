/* The dense decoder families, told apart by one table row each. */
#ifndef SHARPI_ARCH_DENSE_H
#define SHARPI_ARCH_DENSE_H

#include <sharpi/plugin/arch.h>

/* What the families differ in that no metadata key tells. */
struct dense_family {
    const char *name;
    int32_t rope_mode;
    int32_t activation;
    uint32_t scale_embedding; /* x * sqrt(D) */
    uint32_t sandwich_norms;  /* norms after attention and FFN, before they are added */
    uint32_t windowed;        /* honours attention.sliding_window */
    uint32_t global_every;    /* default pattern: layer i is global iff (i + 1) % global_every == 0 */
    uint32_t local_rope;      /* windowed layers have a rope base of their own, never scaled */
    uint32_t big_layers;      /* the size (number of layers) whose attention scale is 1/sqrt(D/H) */
};

/* Everything that build needs beyond the model description. */
struct dense_params {
    const struct sharpi_host *host;
    const struct dense_family *family;
    float eps;
    float attention_scale;
    float attention_softcap, final_softcap;
    float embedding_scale;
    struct sharpi_rope_attr rope, rope_local; /* of global and of windowed layers; n_heads is set per use */
};

struct dense_arch; /* one registered architecture: family and host */

struct dense_arch {
    const struct sharpi_host *host;
    const struct dense_family *family;
};

int32_t dense_describe(const struct dense_arch *arch, const struct sharpi_model_file *file,
                       struct sharpi_model_desc *desc, struct sharpi_error *err);
int32_t dense_params(const struct dense_arch *arch, const struct sharpi_model_file *file,
                     const struct sharpi_model_desc *desc, struct dense_params *params,
                     struct sharpi_error *err);
int32_t dense_build(const struct dense_params *params, const struct sharpi_model_file *file,
                    const struct sharpi_model_desc *desc, struct sharpi_builder *b, struct sharpi_error *err);

#endif
