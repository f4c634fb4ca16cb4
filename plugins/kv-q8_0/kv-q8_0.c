/* The plugin kv-q8_0: a cache of 8-bit integers, 34 bytes for 32 elements. The block is described in q8_0.h.
 */
#include <string.h>

#include "q8_0.h"
#ifdef HAVE_CUDA
#include "q8_0-cuda.h"
#endif

static uint64_t q8_0_row_bytes(void *ctx, uint64_t n)
{
    (void)ctx;
    return n / Q8_0_ELEMS * sizeof(struct q8_0_block);
}

static int32_t q8_0_check(void *ctx, uint32_t layer, uint32_t n_kv_heads, uint32_t head_dim,
                          struct sharpi_error *err)
{
    const uint64_t n = (uint64_t)n_kv_heads * head_dim;
    (void)ctx;
    if (n % Q8_0_ELEMS == 0)
        return SHARPI_OK;
    return sharpi_fail(
        err, SHARPI_ENOTSUP,
        "q8_0 KV needs KV heads x head_dim to be a multiple of %u; layer %u has %llu; use kv = bf16",
        Q8_0_ELEMS, layer, (unsigned long long)n);
}

static void q8_0_encode(void *ctx, void *row, const float *src, uint64_t n)
{
    (void)ctx;
    q8_0_encode_row(row, src, n);
}

static void q8_0_decode(void *ctx, const void *row, float *dst, uint64_t n)
{
    (void)ctx;
    q8_0_decode_part(row, 0, n, dst);
}

/* The strongest table not above the variant; names that this version does not know get the scalar one. */
static const void *q8_0_kernels(void *ctx, const char *backend, const char *variant)
{
    (void)ctx;
#ifdef HAVE_CUDA
    if (strcmp(backend, "cuda") == 0)
        return &kv_q8_0_cuda;
#endif
    if (strcmp(backend, "cpu") != 0)
        return NULL;
#ifdef HAVE_AVX512
    if (strcmp(variant, "avx512") == 0 || strcmp(variant, "avx512bf16") == 0)
        return &kv_q8_0_avx512;
#endif
#ifdef HAVE_AVX2
    if (strncmp(variant, "avx", 3) == 0) /* avx2 and the levels that include it */
        return &kv_q8_0_avx2;
#endif
    (void)variant;
    return &kv_q8_0_c;
}

static const struct sharpi_kv kv_q8_0 = {
    .size = (uint32_t)sizeof(struct sharpi_kv),
    .name = "q8_0",
    .summary = "8-bit integers with a scale per 32, 1.0625 bytes an element",
    .row_bytes = q8_0_row_bytes,
    .check = q8_0_check,
    .encode = q8_0_encode,
    .decode = q8_0_decode,
    .kernels = q8_0_kernels,
};

static int32_t q8_0_init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                         struct sharpi_error *err)
{
    (void)config;
    (void)ctx;
    return host->register_kv(host, &kv_q8_0, NULL, err);
}

static const struct sharpi_plugin kv_q8_0_plugin = {
    SHARPI_PLUGIN_HEAD,
    .name = "kv-q8_0",
    .version = "0.1.0",
    .license = "MIT",
    .summary = "KV cache of 8-bit integers: q8_0",
    .init = q8_0_init,
};

SHARPI_PLUGIN_ENTRY(kv_q8_0_plugin)
