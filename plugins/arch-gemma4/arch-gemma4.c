/* arch-gemma4: Gemma 4 text models, E2B to 31B and the 26B mixture. The plugin entry. */
#include "gemma4.h"

static int32_t describe(void *ctx, const struct sharpi_model_file *file, struct sharpi_model_desc *desc,
                        struct sharpi_error *err)
{
    const struct sharpi_reader r = {ctx, file, err};
    return gemma4_describe(&r, desc);
}

static int32_t build(void *ctx, const struct sharpi_model_file *file, const struct sharpi_model_desc *desc,
                     struct sharpi_builder *builder, struct sharpi_error *err)
{
    const struct sharpi_reader r = {ctx, file, err};
    struct gemma4_params params;
    int32_t status = gemma4_params(&r, &params);
    return status ? status : gemma4_build(&r, desc, &params, builder);
}

static uint64_t reserve(void *ctx, const struct sharpi_model_desc *desc, uint64_t device_total,
                        uint32_t chunk)
{
    (void)ctx;
    return gemma4_reserve(desc, device_total, chunk);
}

static const struct sharpi_arch arch = {
    .size = sizeof arch,
    .name = "gemma4",
    .summary = "Gemma 4, text part",
    .describe = describe,
    .build = build,
    .kv_reserve_bytes = reserve,
};

/* The host table is all the context that the functions need. */
static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config;
    (void)ctx;
    return host->register_arch(host, &arch, (void *)(uintptr_t)host, err);
}

static const struct sharpi_plugin plugin = {
    SHARPI_PLUGIN_HEAD,
    .name = "arch-gemma4",
    .version = "1.0",
    .license = "MIT",
    .summary = "Gemma 4: E2B, E4B, 12B, 31B, 26B-A4B",
    .init = init,
};
SHARPI_PLUGIN_ENTRY(plugin)
