/* arch-moe: decoders whose feed-forward part is a mixture of experts: qwen3moe, olmoe, and llama files with experts (Mixtral).
 *
 * The forward pass is in arch-common; here are the families' table and the plugin entry.
 */
#include "plugins/arch-common/decoder.h"

static const struct decoder_family families[] = {
    {.name = "qwen3moe", .rope_mode = SHARPI_ROPE_NEOX, .activation = SHARPI_ACT_SILU, .experts = 1},
    {.name = "olmoe",
     .rope_mode = SHARPI_ROPE_NEOX,
     .activation = SHARPI_ACT_SILU,
     .experts = 1,
     .raw_weights = 1,
     .whole_qk_norm = 1},
    {.name = "llama",
     .rope_mode = SHARPI_ROPE_NORM,
     .activation = SHARPI_ACT_SILU,
     .experts = 1,
     .windowed = 1},
};
#define N_FAMILIES (sizeof families / sizeof *families)

static int32_t probe(void *ctx, const struct sharpi_model_file *file, struct sharpi_error *err)
{
    const struct decoder_arch *arch = ctx;
    if (decoder_expert_count(arch, file) > 0)
        return 1;
    sharpi_fail(err, SHARPI_ENOTSUP, "%s: no experts; arch-moe runs mixtures of experts, load arch-dense",
                arch->host->file_path(file));
    return 0;
}

static const struct sharpi_arch archs[N_FAMILIES] = {
    DECODER_ARCH("qwen3moe", "Qwen 3 mixtures of experts", probe),
    DECODER_ARCH("olmoe", "OLMoE", probe),
    DECODER_ARCH("llama", "Mixtral and other llama files with experts", probe),
};

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config;
    return decoder_register(host, archs, families, N_FAMILIES, ctx, err);
}

static const struct sharpi_plugin plugin = {
    SHARPI_PLUGIN_HEAD,
    .name = "arch-moe",
    .version = "1.0",
    .license = "MIT",
    .summary = "mixtures of experts: qwen3moe, olmoe, mixtral",
    .init = init,
    .fini = decoder_unregister,
};
SHARPI_PLUGIN_ENTRY(plugin)
