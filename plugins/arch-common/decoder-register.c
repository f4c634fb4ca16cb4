/* Registering families and handing their calls on: see decoder.h. */
#include "decoder.h"

int32_t decoder_register(const struct sharpi_host *host, const struct sharpi_arch *archs,
                         const struct decoder_family *families, uint32_t n, void **ctx,
                         struct sharpi_error *err)
{
    struct decoder_arch *entries = host->alloc(host, sizeof *entries * n, 0);
    int32_t status = SHARPI_OK;
    uint32_t i;
    if (!entries)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %u architectures", n);
    for (i = 0; i < n && !status; i++) {
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

void decoder_unregister(void *ctx)
{
    struct decoder_arch *entries = ctx;
    entries->host->free(entries->host, entries);
}

int32_t decoder_arch_describe(void *ctx, const struct sharpi_model_file *file, struct sharpi_model_desc *desc,
                              struct sharpi_error *err)
{
    return decoder_describe(ctx, file, desc, err);
}

int32_t decoder_arch_build(void *ctx, const struct sharpi_model_file *file,
                           const struct sharpi_model_desc *desc, struct sharpi_builder *builder,
                           struct sharpi_error *err)
{
    struct decoder_params params;
    int32_t status = decoder_params(ctx, file, desc, &params, err);
    return status ? status : decoder_build(&params, file, desc, builder);
}

uint32_t decoder_expert_count(const struct decoder_arch *arch, const struct sharpi_model_file *file)
{
    uint64_t n = 0;
    if (arch->host->file_u64(file, ".expert_count", &n, NULL) || n > UINT32_MAX)
        return 0;
    return (uint32_t)n;
}
