/* arch-dense: llama, qwen2, qwen3, gemma2 and gemma3 decoders without experts.
 *
 * describe.c reads the metadata, build.c states the forward pass; here are the families' table and the plugin entry.
 */
#include "dense.h"

#include <stdlib.h>

static const struct dense_family families[] = {
    {.name = "llama",
     .rope_mode = SHARPI_ROPE_NORM,
     .activation = SHARPI_ACT_SILU,
     .windowed = 1,
     .global_every = 0},
    {.name = "qwen2", .rope_mode = SHARPI_ROPE_NEOX, .activation = SHARPI_ACT_SILU},
    {.name = "qwen3", .rope_mode = SHARPI_ROPE_NEOX, .activation = SHARPI_ACT_SILU},
    {.name = "gemma2",
     .rope_mode = SHARPI_ROPE_NEOX,
     .activation = SHARPI_ACT_GELU_TANH,
     .scale_embedding = 1,
     .sandwich_norms = 1,
     .windowed = 1,
     .global_every = 2,
     .big_layers = 46},
    {.name = "gemma3",
     .rope_mode = SHARPI_ROPE_NEOX,
     .activation = SHARPI_ACT_GELU_TANH,
     .scale_embedding = 1,
     .sandwich_norms = 1,
     .windowed = 1,
     .global_every = 6,
     .local_rope = 1,
     .big_layers = 62},
};
#define N_FAMILIES (sizeof families / sizeof *families)

static int32_t probe(void *ctx, const struct sharpi_model_file *file, struct sharpi_error *err)
{
    const struct dense_arch *arch = ctx;
    uint64_t n_experts = 0;
    int32_t status = arch->host->file_u64(file, ".expert_count", &n_experts, err);
    if (status && status != SHARPI_ENOENT)
        return 0;
    if (n_experts) {
        sharpi_fail(err, SHARPI_ENOTSUP,
                    "%s: %llu experts; arch-dense runs models without experts, load arch-moe",
                    arch->host->file_path(file), (unsigned long long)n_experts);
        return 0;
    }
    return 1;
}

static int32_t describe(void *ctx, const struct sharpi_model_file *file, struct sharpi_model_desc *desc,
                        struct sharpi_error *err)
{
    return dense_describe(ctx, file, desc, err);
}

static int32_t build(void *ctx, const struct sharpi_model_file *file, const struct sharpi_model_desc *desc,
                     struct sharpi_builder *builder, struct sharpi_error *err)
{
    struct dense_params params;
    int32_t status = dense_params(ctx, file, desc, &params, err);
    return status ? status : dense_build(&params, file, desc, builder, err);
}

#define DENSE_ARCH(arch_name, text)                                                                          \
    {                                                                                                        \
        .size = sizeof(struct sharpi_arch), .name = arch_name, .summary = text, .probe = probe,              \
        .describe = describe, .build = build                                                                 \
    }

static const struct sharpi_arch archs[N_FAMILIES] = {
    DENSE_ARCH("llama", "Llama 1 to 3.3, Mistral and their kin"),
    DENSE_ARCH("qwen2", "Qwen 1.5, 2 and 2.5"),
    DENSE_ARCH("qwen3", "Qwen 3"),
    DENSE_ARCH("gemma2", "Gemma 2"),
    DENSE_ARCH("gemma3", "Gemma 3, text part"),
};

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    struct dense_arch *entries = host->alloc(host, sizeof *entries * N_FAMILIES, 0);
    int32_t status = SHARPI_OK;
    size_t i;
    (void)config;
    if (!entries)
        return sharpi_fail(err, SHARPI_ENOMEM, "arch-dense: no memory");
    for (i = 0; i < N_FAMILIES && !status; i++) {
        entries[i].host = host;
        entries[i].family = &families[i];
        status = host->register_arch(host, &archs[i], &entries[i], err);
    }
    if (status) {
        host->free(host, entries);
        return status;
    }
    *ctx = entries;
    return SHARPI_OK;
}

static void fini(void *ctx)
{
    struct dense_arch *entries = ctx;
    entries->host->free(entries->host, entries);
}

static const struct sharpi_plugin plugin = {
    SHARPI_PLUGIN_HEAD,
    .name = "arch-dense",
    .version = "1.0",
    .license = "MIT",
    .summary = "dense decoders: llama, qwen2, qwen3, gemma2, gemma3",
    .init = init,
    .fini = fini,
};
SHARPI_PLUGIN_ENTRY(plugin)
