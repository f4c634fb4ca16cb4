/* The plugin kv-float: caches of plain floats, f32, f16 and bf16, for any geometry.
 *
 * f16 keeps IEEE's rules, so values of 65520 and more become infinity: models with such keys want bf16.
 */
#include <sharpi/plugin/kv.h>

#include "half.h"
#include "kv-float.h"
#ifdef HAVE_CUDA
#include "float-cuda.h"
#endif

/* Numbers of the kernel tables below. */
enum { LEVEL_SCALAR, LEVEL_AVX2, LEVEL_AVX512, LEVEL_COUNT };

/* What distinguishes the three formats; each one's registered ctx. */
struct format {
    uint32_t elem_bytes;
    const struct sharpi_kv_cpu *cpu[LEVEL_COUNT]; /* NULL: not compiled */
    const void *cuda;                             /* struct sharpi_kv_cuda, likewise */
};

static uint64_t float_row_bytes(void *ctx, uint64_t n)
{
    return n * ((const struct format *)ctx)->elem_bytes;
}

static void float_encode(void *ctx, void *row, const float *src, uint64_t n)
{
    ((const struct format *)ctx)->cpu[LEVEL_SCALAR]->append(row, src, n);
}

static void float_decode(void *ctx, const void *row, float *dst, uint64_t n)
{
    ((const struct format *)ctx)->cpu[LEVEL_SCALAR]->load(dst, n, row, 0, 0, n, 1);
}

/* The strongest table not above the variant; names that this version does not know get the scalar one. */
static const void *float_kernels(void *ctx, const char *backend, const char *variant)
{
    const struct format *format = ctx;
    uint32_t level = LEVEL_SCALAR;

    if (strcmp(backend, "cuda") == 0)
        return format->cuda;
    if (strcmp(backend, "cpu") != 0)
        return NULL;
    if (strcmp(variant, "avx2") == 0)
        level = LEVEL_AVX2;
    else if (strcmp(variant, "avx512") == 0 || strcmp(variant, "avx512bf16") == 0)
        level = LEVEL_AVX512;
    while (!format->cpu[level])
        level--;
    return format->cpu[level];
}

#ifdef HAVE_AVX2
#define IF_AVX2(table) &table
#else
#define IF_AVX2(table) NULL
#endif
#ifdef HAVE_AVX512
#define IF_AVX512(table) &table
#else
#define IF_AVX512(table) NULL
#endif

#ifdef HAVE_CUDA
#define IF_CUDA(table) &table
#else
#define IF_CUDA(table) NULL
#endif

static const struct format format_f32 = {
    4, {&kv_f32_c, IF_AVX2(kv_f32_avx2), IF_AVX512(kv_f32_avx512)}, IF_CUDA(kv_f32_cuda)};
static const struct format format_f16 = {
    2, {&kv_f16_c, IF_AVX2(kv_f16_avx2), IF_AVX512(kv_f16_avx512)}, IF_CUDA(kv_f16_cuda)};
static const struct format format_bf16 = {
    2, {&kv_bf16_c, IF_AVX2(kv_bf16_avx2), IF_AVX512(kv_bf16_avx512)}, IF_CUDA(kv_bf16_cuda)};

#define FLOAT_KV(format_name, about)                                                                         \
    {                                                                                                        \
        .size = (uint32_t)sizeof(struct sharpi_kv), .name = format_name, .summary = about,                   \
        .row_bytes = float_row_bytes, .encode = float_encode, .decode = float_decode,                        \
        .kernels = float_kernels                                                                             \
    }

static const struct sharpi_kv kv_f32 = FLOAT_KV("f32", "32-bit floats, 4 bytes an element");
static const struct sharpi_kv kv_f16 = FLOAT_KV("f16", "IEEE half precision, 2 bytes an element");
static const struct sharpi_kv kv_bf16 = FLOAT_KV("bf16", "bfloat16, 2 bytes an element");

static int32_t float_init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                          struct sharpi_error *err)
{
    int32_t status;
    (void)config;
    (void)ctx;
    /* the contexts are constant: the cast only fits the table's type */
    status = host->register_kv(host, &kv_f32, (void *)(uintptr_t)&format_f32, err);
    if (!status)
        status = host->register_kv(host, &kv_f16, (void *)(uintptr_t)&format_f16, err);
    if (!status)
        status = host->register_kv(host, &kv_bf16, (void *)(uintptr_t)&format_bf16, err);
    return status;
}

static const struct sharpi_plugin kv_float_plugin = {
    SHARPI_PLUGIN_HEAD,
    .name = "kv-float",
    .version = "0.1.0",
    .license = "MIT",
    .summary = "KV caches of plain floats: f32, f16, bf16",
    .init = float_init,
};

SHARPI_PLUGIN_ENTRY(kv_float_plugin)
