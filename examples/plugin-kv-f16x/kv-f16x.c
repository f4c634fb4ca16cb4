/* Example plugin: a KV-cache format, "f16x": IEEE half precision with the high byte first.
 *
 * The byte order is the twist that makes it a format of its own: no kernel of another plugin can read it, so whatever attention
 * computes came through the functions below. The numbers are those of "f16"; `make check` compares the logits.
 *
 * A format is a row of n floats <-> row_bytes(n) bytes. The core owns the pages that rows live in and never looks inside; a backend
 * asks `kernels` for its own table. With encode and decode alone every format works on a backend that can use them, slowly; with
 * append and load the CPU backend does attention at its own speed; score and accumulate, not here, save the copy that load makes.
 *
 * Threads: all functions may be called from several threads at once, for different rows. They keep no state.
 */
#include <math.h>
#include <string.h>

#include <sharpi/plugin/kv.h>

/* Round to nearest, ties to even; too large becomes infinity; NaN stays NaN. */
static uint16_t half_of(float x)
{
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    const float magnitude = fabsf(x);
    int exponent;

    if (magnitude != magnitude)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 65520.0f) /* half way between the largest number, 65504, and what would be the next */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude <
        0x1p-14f) /* subnormal: so many units of 2^-24; 1024 of them are the smallest normal number */
        return (uint16_t)(sign | (uint16_t)lrintf(magnitude * 0x1p24f));
    exponent = ilogbf(magnitude); /* -14 .. 15 */
    /* 1024 .. 2048 units of the last place: 2048 carries into the exponent, as it should. */
    return (uint16_t)(sign |
                      (((exponent + 15) << 10) + (int)lrintf(ldexpf(magnitude, 10 - exponent)) - 1024));
}

static float half_to(uint16_t half)
{
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    float magnitude;
    if (exponent == 31)
        magnitude = mantissa ? NAN : INFINITY;
    else
        magnitude = exponent ? ldexpf((float)(1024 + mantissa), exponent - 25) : (float)mantissa * 0x1p-24f;
    return half & 0x8000 ? -magnitude : magnitude;
}

static uint64_t row_bytes(void *ctx, uint64_t n)
{
    (void)ctx;
    return 2 * n;
}

/* ---- The CPU's kernels */

/* src [n] -> row [row_bytes(n)]. n = n_kv_heads * head_dim, the heads one after the other. */
static void append(void *row, const float *src, uint64_t n)
{
    uint8_t *bytes = row;
    for (uint64_t i = 0; i < n; i++) {
        const uint16_t half = half_of(src[i]);
        bytes[2 * i] = (uint8_t)(half >> 8);
        bytes[2 * i + 1] = (uint8_t)half;
    }
}

/* dst [n_rows, dst_stride] = elements [first, first + count) of n_rows rows that lie row_stride bytes apart: one KV head of
 * consecutive positions. Strides of dst count floats. */
static void load(float *dst, uint64_t dst_stride, const void *rows, uint64_t row_stride, uint64_t first,
                 uint64_t count, uint32_t n_rows)
{
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint8_t *bytes = (const uint8_t *)rows + r * row_stride + 2 * first;
        for (uint64_t i = 0; i < count; i++)
            dst[r * dst_stride + i] = half_to((uint16_t)(bytes[2 * i] << 8 | bytes[2 * i + 1]));
    }
}

static const struct sharpi_kv_cpu cpu_kernels = {
    .size = (uint32_t)sizeof(struct sharpi_kv_cpu),
    .append = append,
    .load = load,
};

/* `variant` is the best instruction set that the backend will use ("scalar", "avx2", "avx512" ...): a faster table for one of
 * them, compiled with that set's flags, would be chosen here. */
static const void *kernels(void *ctx, const char *backend, const char *variant)
{
    (void)ctx;
    (void)variant;
    return strcmp(backend, "cpu") == 0 ? &cpu_kernels : NULL;
}

/* ---- The reference: what the format means, whatever the backend */

static void encode(void *ctx, void *row, const float *src, uint64_t n)
{
    (void)ctx;
    append(row, src, n);
}

static void decode(void *ctx, const void *row, float *dst, uint64_t n)
{
    (void)ctx;
    load(dst, n, row, row_bytes(ctx, n), 0, n, 1);
}

static const struct sharpi_kv format = {
    .size = (uint32_t)sizeof(struct sharpi_kv),
    .name = "f16x", /* what --kv and [model] kv take */
    .summary = "example: half precision, high byte first, 2 bytes an element",
    .row_bytes = row_bytes,
    /* .check is absent: any number of heads and any head size will do. A format of blocks refuses others there. */
    .encode = encode,
    .decode = decode,
    .kernels = kernels,
};

static int32_t init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                    struct sharpi_error *err)
{
    (void)config;
    (void)ctx; /* no state, so no fini; NULL is what the functions above get as ctx */
    return host->register_kv(host, &format, NULL, err);
}

static const struct sharpi_plugin plugin = {
    SHARPI_PLUGIN_HEAD,
    .name = "kv-f16x",
    .version = "1.0",
    .license = "MIT",
    .summary = "example: the KV cache format 'f16x'",
    .init = init,
};
SHARPI_PLUGIN_ENTRY(plugin)
