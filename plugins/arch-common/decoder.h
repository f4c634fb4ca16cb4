/* Decoder families that share one forward pass, told apart by one table row each: what arch-dense and arch-moe are made of.
 * (A source folder, not a plugin: each of the two links these files.)
 */
#ifndef SHARPI_ARCH_COMMON_DECODER_H
#define SHARPI_ARCH_COMMON_DECODER_H

#include <sharpi/plugin/arch-read.h>

/* What the families differ in that no metadata key tells. */
struct decoder_family {
    const char *name;
    int32_t rope_mode;
    int32_t activation;
    uint32_t scale_embedding; /* x * sqrt(D) */
    uint32_t sandwich_norms;  /* norms after attention and FFN, before they are added */
    uint32_t windowed;        /* honours attention.sliding_window */
    uint32_t global_every;    /* default pattern: layer i is global iff (i + 1) % global_every == 0 */
    uint32_t local_rope;      /* windowed layers have a rope base of their own, never scaled */
    uint32_t big_layers;      /* the size (number of layers) whose attention scale is 1/sqrt(D/H) */
    uint32_t experts;         /* the FFN is a mixture */
    uint32_t raw_weights;     /* mixture: the chosen probabilities are not renormalized */
    uint32_t whole_qk_norm;   /* the q/k norm runs over all heads together */
};

/* Everything that build needs beyond the model description. */
struct decoder_params {
    const struct sharpi_host *host;
    const struct decoder_family *family;
    float eps;
    float attention_scale;
    float attention_softcap, final_softcap;
    float embedding_scale;
    uint32_t renormalize; /* mixture */
    float expert_scale;
    struct sharpi_rope_attr rope, rope_local; /* of global and of windowed layers; n_heads is set per use */
};

struct decoder_arch { /* one registered architecture: the ctx of its table */
    const struct sharpi_host *host;
    const struct decoder_family *family;
};

int32_t decoder_describe(const struct decoder_arch *arch, const struct sharpi_model_file *file,
                         struct sharpi_model_desc *desc, struct sharpi_error *err);
int32_t decoder_params(const struct decoder_arch *arch, const struct sharpi_model_file *file,
                       const struct sharpi_model_desc *desc, struct decoder_params *params,
                       struct sharpi_error *err);
int32_t decoder_build(const struct decoder_params *params, const struct sharpi_model_file *file,
                      const struct sharpi_model_desc *desc, struct sharpi_builder *b);

/* Registers one table per family; *ctx gets what decoder_unregister frees. `archs` and `families` have n entries. */
int32_t decoder_register(const struct sharpi_host *host, const struct sharpi_arch *archs,
                         const struct decoder_family *families, uint32_t n, void **ctx,
                         struct sharpi_error *err);
void decoder_unregister(void *ctx);

/* sharpi_arch.describe and .build, for the tables. */
int32_t decoder_arch_describe(void *ctx, const struct sharpi_model_file *file, struct sharpi_model_desc *desc,
                              struct sharpi_error *err);
int32_t decoder_arch_build(void *ctx, const struct sharpi_model_file *file,
                           const struct sharpi_model_desc *desc, struct sharpi_builder *builder,
                           struct sharpi_error *err);
/* .expert_count of the file, 0 when absent or wrong. */
uint32_t decoder_expert_count(const struct decoder_arch *arch, const struct sharpi_model_file *file);

#define DECODER_ARCH(arch_name, text, probe_function)                                                        \
    {                                                                                                        \
        .size = sizeof(struct sharpi_arch), .name = arch_name, .summary = text, .probe = probe_function,     \
        .describe = decoder_arch_describe, .build = decoder_arch_build                                       \
    }

#endif
