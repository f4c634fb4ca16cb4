/* Checks that the tests of the GGUF reader share; see gguf-check.h. */
#include "gguf-check.h"

#include <CUnit/CUnit.h>
#include <string.h>

int succeeded(int32_t status, const struct sharpi_error *err)
{
    if (status)
        printf("    unexpected error %d: %s\n", status, err->text);
    return status == 0;
}

int says(const struct sharpi_error *err, const char *part)
{
    if (strstr(err->text, part))
        return 1;
    printf("    expected \"%s\" in: %s\n", part, err->text);
    return 0;
}

int is_filled(const struct sharpi_tensor *tensor, uint64_t n_bytes, uint8_t byte)
{
    const uint8_t *data = tensor->data;
    uint64_t n = 0;
    while (n < tensor->n_bytes && data[n] == byte)
        n++;
    return tensor->n_bytes == n_bytes && n == n_bytes;
}

void check_small_model(const struct sharpi_gguf *gguf)
{
    const struct sharpi_tensor *a = sharpi_gguf_tensor(gguf, "a"), *b = sharpi_gguf_tensor(gguf, "b");
    CU_ASSERT_EQUAL(sharpi_gguf_n_tensors(gguf), 2);
    CU_ASSERT_PTR_NOT_NULL_FATAL(a);
    CU_ASSERT_PTR_NOT_NULL_FATAL(b);
    CU_ASSERT_PTR_EQUAL(sharpi_gguf_tensor_at(gguf, 0), a);
    CU_ASSERT_PTR_EQUAL(sharpi_gguf_tensor_at(gguf, 1), b);
    CU_ASSERT_PTR_NULL(sharpi_gguf_tensor_at(gguf, 2));
    CU_ASSERT_PTR_NULL(sharpi_gguf_tensor(gguf, "c"));
    CU_ASSERT_PTR_NULL(sharpi_gguf_tensor(gguf, ""));
    CU_ASSERT_EQUAL(a->size, sizeof *a);
    CU_ASSERT_EQUAL(a->type, SHARPI_TYPE_F32);
    CU_ASSERT_EQUAL(a->n_dims, 2);
    CU_ASSERT(a->ne[0] == 32 && a->ne[1] == 2 && a->ne[2] == 1 && a->ne[3] == 1);
    CU_ASSERT_STRING_EQUAL(a->name, "a");
    CU_ASSERT(is_filled(a, 256, 0x11));
    CU_ASSERT_EQUAL(b->type, SHARPI_TYPE_Q8_0);
    CU_ASSERT(b->n_dims == 1 && b->ne[0] == 64 && b->ne[1] == 1);
    CU_ASSERT(is_filled(b, 68, 0x22));
}
