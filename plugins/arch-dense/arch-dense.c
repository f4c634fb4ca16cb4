/* arch-dense: llama, qwen2, qwen3, gemma2 and gemma3 decoders without experts.
 *
 * The forward pass is in arch-common; here are the families' table and the plugin entry.
 */
#include "plugins/arch-common/decoder.h"

static const struct decoder_family families[] = {
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
    const struct decoder_arch *arch = ctx;
    uint32_t n_experts = decoder_expert_count(arch, file);
    if (n_experts == 0)
        return 1;
    sharpi_fail(err, SHARPI_ENOTSUP, "%s: %u experts; arch-dense runs models without experts, load arch-moe",
                arch->host->file_path(file), n_experts);
    return 0;
}

static const struct sharpi_arch archs[N_FAMILIES] = {
    DECODER_ARCH("llama", "Llama 1 to 3.3, Mistral and their kin", probe),
    DECODER_ARCH("qwen2", "Qwen 1.5, 2 and 2.5", probe),
    DECODER_ARCH("qwen3", "Qwen 3", probe),
    DECODER_ARCH("gemma2", "Gemma 2", probe),
    DECODER_ARCH("gemma3", "Gemma 3, text part", probe),
};

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config;
    return decoder_register(host, archs, families, N_FAMILIES, ctx, err);
}

static const struct sharpi_plugin plugin = {
    SHARPI_PLUGIN_HEAD,
    .name = "arch-dense",
    .version = "1.0",
    .license = "MIT",
    .summary = "dense decoders: llama, qwen2, qwen3, gemma2, gemma3",
    .init = init,
    .fini = decoder_unregister,
};
SHARPI_PLUGIN_ENTRY(plugin)
