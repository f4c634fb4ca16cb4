/* A small GGUF writer for tests; see gguf-build.h. */
#include "gguf-build.h"

#include <stdlib.h>
#include <string.h>

void build_free(struct build *b)
{
    free(b->bytes);
    memset(b, 0, sizeof *b);
}

static void reserve(struct build *b, uint64_t n)
{
    if (b->capacity - b->n >= n)
        return;
    b->capacity = 2 * (b->n + n) + 256;
    b->bytes = realloc(b->bytes, b->capacity);
    if (!b->bytes)
        abort();
}

void build_bytes(struct build *b, const void *bytes, uint64_t n)
{
    reserve(b, n);
    if (n)
        memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
}

void build_fill(struct build *b, int byte, uint64_t n)
{
    reserve(b, n);
    if (n)
        memset(b->bytes + b->n, byte, n);
    b->n += n;
}

void build_u8(struct build *b, uint8_t value)
{
    build_bytes(b, &value, sizeof value);
}

void build_u16(struct build *b, uint16_t value)
{
    build_bytes(b, &value, sizeof value);
}

void build_u32(struct build *b, uint32_t value)
{
    build_bytes(b, &value, sizeof value);
}

void build_u64(struct build *b, uint64_t value)
{
    build_bytes(b, &value, sizeof value);
}

void build_f32(struct build *b, float value)
{
    build_bytes(b, &value, sizeof value);
}

void build_f64(struct build *b, double value)
{
    build_bytes(b, &value, sizeof value);
}

void build_str(struct build *b, const char *text)
{
    build_u64(b, strlen(text));
    build_bytes(b, text, strlen(text));
}

void build_align(struct build *b, uint64_t alignment)
{
    build_fill(b, 0, (alignment - b->n % alignment) % alignment);
}

void build_header(struct build *b, uint32_t version, uint64_t n_tensors, uint64_t n_values)
{
    build_bytes(b, "GGUF", 4);
    build_u32(b, version);
    build_u64(b, n_tensors);
    build_u64(b, n_values);
}

void build_key(struct build *b, const char *key, uint32_t type)
{
    build_str(b, key);
    build_u32(b, type);
}

void build_array(struct build *b, const char *key, uint32_t elem_type, uint64_t n)
{
    build_key(b, key, SHARPI_GGUF_ARRAY);
    build_u32(b, elem_type);
    build_u64(b, n);
}

void build_value_u32(struct build *b, const char *key, uint32_t value)
{
    build_key(b, key, SHARPI_GGUF_U32);
    build_u32(b, value);
}

void build_value_str(struct build *b, const char *key, const char *value)
{
    build_key(b, key, SHARPI_GGUF_STRING);
    build_str(b, value);
}

void build_info(struct build *b, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type,
                uint64_t offset)
{
    build_str(b, name);
    build_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++)
        build_u64(b, ne[i]);
    build_u32(b, type);
    build_u64(b, offset);
}

void build_info_1d(struct build *b, const char *name, uint64_t n, uint32_t type, uint64_t offset)
{
    build_info(b, name, 1, &n, type, offset);
}

static void info_a(struct build *b, uint64_t offset)
{
    build_info(b, "a", 2, (const uint64_t[]){32, 2}, SHARPI_TYPE_F32, offset);
}

static void info_b(struct build *b, uint64_t offset)
{
    build_info_1d(b, "b", 64, SHARPI_TYPE_Q8_0, offset);
}

void build_small_model(struct build *b, uint32_t version)
{
    build_header(b, version, 2, 2);
    build_value_str(b, "general.architecture", "test");
    build_value_u32(b, "test.block_count", 2);
    info_a(b, 0);
    info_b(b, 256);
    build_align(b, 32);
    build_fill(b, 0x11, 256);
    build_fill(b, 0x22, 68);
}

void build_small_part(struct build *b, uint32_t no, uint32_t count)
{
    int has_a = no + 2 == count, has_b = no + 1 == count;
    build_header(b, 3, (uint64_t)(has_a || has_b), no == 0 ? 4 : 3);
    if (no == 0)
        build_value_str(b, "general.architecture", "test");
    build_key(b, "split.no", SHARPI_GGUF_U16);
    build_u16(b, (uint16_t)no);
    build_key(b, "split.count", SHARPI_GGUF_U16);
    build_u16(b, (uint16_t)count);
    build_key(b, "split.tensors.count", SHARPI_GGUF_I32);
    build_u32(b, 2);
    if (has_a)
        info_a(b, 0);
    if (has_b)
        info_b(b, 0);
    build_align(b, 32);
    build_fill(b, has_a ? 0x11 : 0x22, has_a ? 256 : has_b ? 68 : 0);
}

static void all_scalars(struct build *b)
{
    build_key(b, "u8", SHARPI_GGUF_U8);
    build_u8(b, 200);
    build_key(b, "i8", SHARPI_GGUF_I8);
    build_u8(b, (uint8_t)-100);
    build_key(b, "u16", SHARPI_GGUF_U16);
    build_u16(b, 60000);
    build_key(b, "i16", SHARPI_GGUF_I16);
    build_u16(b, (uint16_t)-30000);
    build_key(b, "u32", SHARPI_GGUF_U32);
    build_u32(b, 4000000000u);
    build_key(b, "i32", SHARPI_GGUF_I32);
    build_u32(b, (uint32_t)-2000000000);
    build_key(b, "f32", SHARPI_GGUF_F32);
    build_f32(b, 1.5f);
    build_key(b, "bool", SHARPI_GGUF_BOOL);
    build_u8(b, 1);
    build_value_str(b, "string", "text");
    build_key(b, "u64", SHARPI_GGUF_U64);
    build_u64(b, UINT64_MAX);
    build_key(b, "i64", SHARPI_GGUF_I64);
    build_u64(b, 1ull << 62);
    build_key(b, "f64", SHARPI_GGUF_F64);
    build_f64(b, -0.1);
}

static void all_arrays(struct build *b)
{
    build_array(b, "array.u8", SHARPI_GGUF_U8, 3);
    build_bytes(b, "\1\2\3", 3);
    build_array(b, "array.i32", SHARPI_GGUF_I32, 2);
    build_u32(b, 7);
    build_u32(b, (uint32_t)-7);
    build_array(b, "array.f32", SHARPI_GGUF_F32, 2);
    build_f32(b, 0.25f);
    build_f32(b, -2.0f);
    build_array(b, "array.bool", SHARPI_GGUF_BOOL, 3);
    build_bytes(b, "\1\0\1", 3);
    build_array(b, "array.string", SHARPI_GGUF_STRING, 3);
    build_str(b, "one");
    build_str(b, "");
    build_str(b, "three");
    build_array(b, "array.empty", SHARPI_GGUF_STRING, 0);
    build_array(b, "array.nested", SHARPI_GGUF_ARRAY, 2);
    build_u32(b, SHARPI_GGUF_STRING);
    build_u64(b, 2);
    build_str(b, "x");
    build_str(b, "yz");
    build_u32(b, SHARPI_GGUF_U16);
    build_u64(b, 1);
    build_u16(b, 9);
}

void build_all_values(struct build *b)
{
    build_header(b, 3, 0, 19);
    all_scalars(b);
    all_arrays(b);
}

void build_all_tensors(struct build *b, const int32_t *types, uint64_t n)
{
    uint64_t offset = 0;
    build_header(b, 3, n, 0);
    for (uint64_t i = 0; i < n; i++) {
        const struct sharpi_type_info *info = sharpi_type_info(types[i]);
        build_info(b, info->name, 3, (const uint64_t[]){256, 2, 1}, (uint32_t)types[i], offset);
        offset += (sharpi_row_bytes(types[i], 512) + 31) / 32 * 32;
    }
    build_align(b, 32);
    build_fill(b, 0x33, offset);
}

int build_save(const struct build *b, const char *path)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        return -1;
    int failed = b->n > 0 && fwrite(b->bytes, b->n, 1, file) != 1;
    return fclose(file) || failed ? -1 : 0;
}
