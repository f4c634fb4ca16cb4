/* libFuzzer target: opens the input as a GGUF file, and when that succeeds reads everything the interface offers.
 *
 * What must hold: no crash, no leak, and every slice that is handed out can be read.
 */
#include "core/gguf.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static volatile uint8_t sink;

/* Reads both ends and some of the middle, so that a slice outside of the input is noticed. */
static void touch(const void *data, uint64_t n)
{
    const uint8_t *bytes = data;
    for (uint64_t i = 0; i < n; i += n / 8 + 1)
        sink ^= bytes[i];
    if (n)
        sink ^= bytes[n - 1];
}

static void read_array(const struct sharpi_gguf *gguf, const struct sharpi_gguf_value *value, const char *key,
                       struct sharpi_error *err)
{
    uint64_t u = 0, n = 0;
    double f = 0;
    struct sharpi_str *strings = NULL;
    for (uint64_t i = 0; i <= value->n && i < 64; i++) {
        sharpi_gguf_array_u64(gguf, value, i, &u, err);
        sharpi_gguf_array_f64(gguf, value, i, &f, err);
    }
    sharpi_gguf_array_u64(gguf, value, value->n ? value->n - 1 : 0, &u, err);
    if (sharpi_gguf_strings(gguf, key, &strings, &n, err) != 0)
        return;
    for (uint64_t i = 0; i < n; i++)
        touch(strings[i].data, strings[i].n);
    free(strings);
}

static void read_value(const struct sharpi_gguf *gguf, const struct sharpi_gguf_value *value,
                       struct sharpi_error *err)
{
    uint64_t u = 0;
    double f = 0;
    struct sharpi_str string;
    char *key = malloc(value->key.n + 1);
    if (!key)
        abort();
    memcpy(key, value->key.data, value->key.n);
    key[value->key.n] = 0;
    touch(value->data, value->n_bytes);
    if (sharpi_gguf_find(gguf, key) != value)
        abort();
    sharpi_gguf_u64(gguf, key, &u, err);
    sharpi_gguf_f64(gguf, key, &f, err);
    if (sharpi_gguf_string(gguf, key, &string, err) == 0)
        touch(string.data, string.n);
    read_array(gguf, value, key, err);
    free(key);
}

static void read_all(const struct sharpi_gguf *gguf, uint32_t flags, struct sharpi_error *err)
{
    for (uint64_t i = 0; i < sharpi_gguf_n_values(gguf); i++)
        read_value(gguf, sharpi_gguf_value_at(gguf, i), err);
    for (uint64_t i = 0; i < sharpi_gguf_n_tensors(gguf); i++) {
        const struct sharpi_tensor *tensor = sharpi_gguf_tensor_at(gguf, i);
        if (sharpi_gguf_tensor(gguf, tensor->name) != tensor || tensor->n_bytes == 0 ||
            !tensor->data != (flags != 0))
            abort();
        if (tensor->data)
            touch(tensor->data, tensor->n_bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    for (uint32_t flags = 0; flags <= SHARPI_GGUF_HEADER_ONLY; flags++) {
        struct sharpi_error err = SHARPI_ERROR_INIT;
        struct sharpi_gguf *gguf = NULL;
        int32_t status = sharpi_gguf_open_memory(bytes, n_bytes, "input", flags, &gguf, &err);
        if ((status != 0) != (gguf == NULL) || (status != 0 && !err.text[0]))
            abort();
        if (gguf)
            read_all(gguf, flags, &err);
        sharpi_gguf_close(gguf);
    }
    return 0;
}
