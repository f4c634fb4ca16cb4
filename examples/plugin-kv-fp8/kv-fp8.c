/* An example plugin: a KV-cache format. fp8_e4m3 stores an element in one byte: sign, 4 bits of exponent (bias 7), 3 of mantissa,
 * no infinities, largest magnitude 448 ("FP8 Formats for Deep Learning", 2022). A quarter of f32's memory, and coarse.
 *
 * Everything comes from the installed headers; nothing is linked. Two kernels are enough for the CPU: with `append` and `load` the
 * backend does attention itself; `score` and `accumulate` would only make it faster.
 */
#include <math.h>
#include <string.h>

#include <sharpi/plugin/kv.h>

static uint8_t fp8_of(float x)
{
    const uint8_t sign = signbit(x) ? 0x80 : 0;
    float magnitude = fabsf(x);
    int exponent;

    if (!(magnitude >=
          0x1p-10f)) /* rounds to zero; NaN too: one bad value must not spoil all later attention */
        return sign;
    if (magnitude > 448.0f)
        magnitude = 448.0f;
    if (magnitude <
        0x1p-6f) /* subnormal: steps of 2^-9; 8 of them are the smallest normal number, whose code is 8 */
        return (uint8_t)(sign | (uint8_t)lrintf(magnitude * 512.0f));
    exponent = ilogbf(magnitude);
    /* The mantissa with its leading one is 8 .. 16; 16 carries into the exponent, as it should. */
    return (uint8_t)(sign |
                     (uint8_t)(((exponent + 7) << 3) + (int)lrintf(ldexpf(magnitude, 3 - exponent)) - 8));
}

static float fp8_to(uint8_t code)
{
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    const float magnitude =
        exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : (float)mantissa * 0x1p-9f;
    return code & 0x80 ? -magnitude : magnitude;
}

static uint64_t row_bytes(void *ctx, uint64_t n)
{
    (void)ctx;
    return n;
}

static void append(void *row, const float *src, uint64_t n)
{
    uint8_t *codes = row;
    for (uint64_t i = 0; i < n; i++)
        codes[i] = fp8_of(src[i]);
}

static void load(float *dst, uint64_t dst_stride, const void *rows, uint64_t row_stride, uint64_t first,
                 uint64_t count, uint32_t n_rows)
{
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint8_t *codes = (const uint8_t *)rows + r * row_stride + first;
        for (uint64_t i = 0; i < count; i++)
            dst[r * dst_stride + i] = fp8_to(codes[i]);
    }
}

static void encode(void *ctx, void *row, const float *src, uint64_t n)
{
    (void)ctx;
    append(row, src, n);
}

static void decode(void *ctx, const void *row, float *dst, uint64_t n)
{
    (void)ctx;
    load(dst, n, row, n, 0, n, 1);
}

static const struct sharpi_kv_cpu cpu_kernels = {
    .size = (uint32_t)sizeof(struct sharpi_kv_cpu),
    .append = append,
    .load = load,
};

static const void *kernels(void *ctx, const char *backend, const char *variant)
{
    (void)ctx;
    (void)variant; /* plain C for every instruction set */
    return strcmp(backend, "cpu") == 0 ? &cpu_kernels : NULL;
}

static const struct sharpi_kv fp8 = {
    .size = (uint32_t)sizeof(struct sharpi_kv),
    .name = "fp8_e4m3",
    .summary = "8-bit floats with 3 bits of mantissa, 1 byte an element",
    .row_bytes = row_bytes,
    .encode = encode,
    .decode = decode,
    .kernels = kernels,
};

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config;
    (void)ctx;
    return host->register_kv(host, &fp8, NULL, err);
}

static const struct sharpi_plugin plugin = {
    SHARPI_PLUGIN_HEAD,
    .name = "kv-fp8",
    .version = "1.0",
    .license = "MIT",
    .summary = "example: KV cache of 8-bit floats, fp8_e4m3",
    .init = init,
};
SHARPI_PLUGIN_ENTRY(plugin)
