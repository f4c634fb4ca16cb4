/* Reserve rules of the core, and devices and sizes as people write them. */
#include "plan.h"

#include <stdlib.h>
#include <string.h>

#include "settings.h"

#define GIB (UINT64_C(1) << 30)

uint64_t sharpi_reserve_dense(uint64_t device_total)
{
    return device_total / 3 > 2 * GIB ? device_total / 3 : 2 * GIB;
}

uint64_t sharpi_reserve_rule(const struct sharpi_offer *arch, const struct sharpi_model_desc *desc,
                             uint64_t device_total, uint32_t chunk)
{
    if (arch && SHARPI_HAS(arch->arch, kv_reserve_bytes))
        return arch->arch->kv_reserve_bytes(arch->ctx, desc, device_total, chunk);
    return sharpi_reserve_dense(device_total);
}

/* Per token: the residual stream and its copies, queries and attention output, keys and values, both halves of the FFN (of the
 * used experts), per-layer embeddings; f32. */
uint64_t sharpi_plan_chunk_bytes(const struct sharpi_model_desc *desc, uint32_t chunk)
{
    uint64_t head_dim = 0, kv_heads = 0, n_ff = 0, per_token;
    for (uint32_t i = 0; i < desc->n_layers; i++) {
        const struct sharpi_layer_desc *l = &desc->layers[i];
        head_dim = l->head_dim > head_dim ? l->head_dim : head_dim;
        kv_heads = l->n_kv_heads > kv_heads ? l->n_kv_heads : kv_heads;
        n_ff = l->n_ff > n_ff ? l->n_ff : n_ff;
    }
    per_token = 3ull * desc->width + 2ull * desc->n_heads * head_dim + 2 * kv_heads * head_dim + 2 * n_ff;
    if (desc->ple_width)
        per_token += 2ull * desc->n_layers * desc->ple_width + desc->ple_width + desc->width;
    per_token += (2ull * desc->n_ff_expert + desc->width) * desc->n_experts_used;
    if (per_token > UINT32_MAX / sizeof(float)) /* a plugin's nonsense must not wrap */
        per_token = UINT32_MAX / sizeof(float);
    return chunk * per_token * sizeof(float);
}

int32_t sharpi_parse_reserve(const char *text, struct sharpi_reserve *out)
{
    struct sharpi_reserve reserve = {SHARPI_RESERVE_RULE, 0};
    if (strcmp(text, "exact") == 0) {
        reserve.mode = SHARPI_RESERVE_EXACT;
    } else if (strcmp(text, "rule") != 0 && strcmp(text, "auto") != 0) {
        reserve.mode = SHARPI_RESERVE_BYTES;
        if (sharpi_parse_bytes(text, &reserve.bytes))
            return SHARPI_EINVAL;
    }
    *out = reserve;
    return SHARPI_OK;
}

static int32_t parse_free(const char *text, struct sharpi_plan_device *device)
{
    if (strncmp(text, "free=", 5) != 0 || sharpi_parse_bytes(text + 5, &device->free_bytes))
        return SHARPI_EINVAL;
    return device->free_bytes > device->total_bytes ? SHARPI_EINVAL : SHARPI_OK;
}

int32_t sharpi_plan_parse_device(const char *text, struct sharpi_plan_device *out, struct sharpi_error *err)
{
    const char *colon = strchr(text, ':');
    struct sharpi_plan_device device;
    char size[32];
    size_t n;
    memset(&device, 0, sizeof device);
    if (!colon || colon == text || (size_t)(colon - text) >= sizeof device.name)
        goto wrong;
    memcpy(device.name, text, (size_t)(colon - text));
    n = strcspn(colon + 1, ",");
    if (n >= sizeof size)
        goto wrong;
    memcpy(size, colon + 1, n);
    size[n] = 0;
    if (sharpi_parse_bytes(size, &device.total_bytes) || device.total_bytes == 0 ||
        device.total_bytes > UINT64_C(1) << 60)
        goto wrong;
    device.free_bytes = device.total_bytes;
    if (colon[1 + n] == ',' && parse_free(colon + 2 + n, &device))
        goto wrong;
    if (strcmp(device.name, "cpu") != 0)
        device.runtime_bytes = SHARPI_PLAN_RUNTIME;
    *out = device;
    return SHARPI_OK;
wrong:
    return sharpi_fail(err, SHARPI_EINVAL,
                       "device '%.80s': write NAME:SIZE or NAME:SIZE,free=SIZE with a free part that is no "
                       "larger, as in rtx4070ti:12282MiB; 'cpu' is the host",
                       text);
}

const char *sharpi_plan_size(uint64_t n_bytes, char *buffer)
{
    if (n_bytes >= GIB)
        snprintf(buffer, 24, "%.2f GiB", (double)n_bytes / (double)GIB);
    else if (n_bytes >= 1u << 20)
        snprintf(buffer, 24, "%.1f MiB", (double)n_bytes / (1 << 20));
    else
        snprintf(buffer, 24, "%llu bytes", (unsigned long long)n_bytes);
    return buffer;
}
