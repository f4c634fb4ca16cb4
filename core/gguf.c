/* What an opened GGUF model answers: metadata in file order and by key, conversions, tensors.
 *
 * All values were checked when the file was opened (gguf-parse.c), so the functions here only convert.
 */
#include "gguf-internal.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    uint64_t n_bytes;
} types[] = {
    [SHARPI_GGUF_U8] = {"u8", 1},         [SHARPI_GGUF_I8] = {"i8", 1},
    [SHARPI_GGUF_U16] = {"u16", 2},       [SHARPI_GGUF_I16] = {"i16", 2},
    [SHARPI_GGUF_U32] = {"u32", 4},       [SHARPI_GGUF_I32] = {"i32", 4},
    [SHARPI_GGUF_F32] = {"f32", 4},       [SHARPI_GGUF_BOOL] = {"bool", 1},
    [SHARPI_GGUF_STRING] = {"string", 0}, [SHARPI_GGUF_ARRAY] = {"array", 0},
    [SHARPI_GGUF_U64] = {"u64", 8},       [SHARPI_GGUF_I64] = {"i64", 8},
    [SHARPI_GGUF_F64] = {"f64", 8},
};

const char *sharpi_gguf_type_name(uint32_t type)
{
    return type < sizeof types / sizeof types[0] ? types[type].name : "unknown";
}

uint64_t sharpi_gguf_type_bytes(uint32_t type)
{
    return type < sizeof types / sizeof types[0] ? types[type].n_bytes : 0;
}

/* A number as the file holds it. */
struct number {
    enum { NOT_A_NUMBER, UNSIGNED, SIGNED, FLOAT } kind;
    uint64_t u;
    int64_t i;
    double f;
};

/* clang-format off */
static struct number read_number(uint32_t type, const void *data)
{
    struct number number = {NOT_A_NUMBER, 0, 0, 0};
    union { uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; uint64_t u64; int64_t i64;
            float f32; double f64; } raw = {0};
    memcpy(&raw, data, sharpi_gguf_type_bytes(type));
    switch (type) {
    case SHARPI_GGUF_BOOL:
    case SHARPI_GGUF_U8:  number.kind = UNSIGNED; number.u = raw.u8; break;
    case SHARPI_GGUF_U16: number.kind = UNSIGNED; number.u = raw.u16; break;
    case SHARPI_GGUF_U32: number.kind = UNSIGNED; number.u = raw.u32; break;
    case SHARPI_GGUF_U64: number.kind = UNSIGNED; number.u = raw.u64; break;
    case SHARPI_GGUF_I8:  number.kind = SIGNED; number.i = raw.i8; break; /* NOLINT(bugprone-signed-char-misuse): a number, not a character */
    case SHARPI_GGUF_I16: number.kind = SIGNED; number.i = raw.i16; break;
    case SHARPI_GGUF_I32: number.kind = SIGNED; number.i = raw.i32; break;
    case SHARPI_GGUF_I64: number.kind = SIGNED; number.i = raw.i64; break;
    case SHARPI_GGUF_F32: number.kind = FLOAT; number.f = (double)raw.f32; break;
    case SHARPI_GGUF_F64: number.kind = FLOAT; number.f = raw.f64; break;
    default: break;
    }
    return number;
}
/* clang-format on */

/* Says that `value` is no `wanted`. */
static int32_t wrong_type(const struct sharpi_gguf_part *part, const struct sharpi_gguf_value *value,
                          const char *wanted, struct sharpi_error *err)
{
    struct sharpi_gguf_shown shown;
    int array = value->type == SHARPI_GGUF_ARRAY;
    return sharpi_fail(
        err, SHARPI_EFORMAT,
        "%s: key '%s' has type %s%s where %s is needed; the file was written wrongly: convert it again",
        part->shown, sharpi_gguf_show(value->key, &shown), array ? "array of " : "",
        sharpi_gguf_type_name(array ? value->elem_type : value->type), wanted);
}

static int32_t number_u64(const struct sharpi_gguf_part *part, const struct sharpi_gguf_value *value,
                          struct number number, uint64_t *out, struct sharpi_error *err)
{
    struct sharpi_gguf_shown shown;
    if (number.kind != UNSIGNED && number.kind != SIGNED)
        return wrong_type(part, value, "an integer", err);
    if (number.kind == SIGNED && number.i < 0)
        return sharpi_fail(
            err, SHARPI_EFORMAT,
            "%s: key '%s' holds %lld where an integer of at least 0 is needed; the file was written "
            "wrongly: convert it again",
            part->shown, sharpi_gguf_show(value->key, &shown), (long long)number.i);
    *out = number.kind == SIGNED ? (uint64_t)number.i : number.u;
    return 0;
}

static int32_t number_f64(const struct sharpi_gguf_part *part, const struct sharpi_gguf_value *value,
                          struct number number, double *out, struct sharpi_error *err)
{
    if (number.kind == NOT_A_NUMBER)
        return wrong_type(part, value, "a number", err);
    *out = number.kind == FLOAT ? number.f : number.kind == SIGNED ? (double)number.i : (double)number.u;
    return 0;
}

int32_t sharpi_gguf_value_u64(const struct sharpi_gguf_part *part, const struct sharpi_gguf_value *value,
                              uint64_t *out, struct sharpi_error *err)
{
    return number_u64(part, value, read_number(value->type, value->data), out, err);
}

const char *sharpi_gguf_path(const struct sharpi_gguf *gguf)
{
    return gguf->parts[0].path;
}

uint32_t sharpi_gguf_version(const struct sharpi_gguf *gguf)
{
    return gguf->parts[0].header.version;
}

uint64_t sharpi_gguf_file_bytes(const struct sharpi_gguf *gguf)
{
    uint64_t n_bytes = 0;
    for (uint32_t i = 0; i < gguf->n_parts; i++)
        n_bytes += gguf->parts[i].n_bytes;
    return n_bytes;
}

uint64_t sharpi_gguf_n_values(const struct sharpi_gguf *gguf)
{
    return gguf->parts[0].header.n_values;
}

const struct sharpi_gguf_value *sharpi_gguf_value_at(const struct sharpi_gguf *gguf, uint64_t index)
{
    const struct sharpi_gguf_header *header = &gguf->parts[0].header;
    return index < header->n_values ? &header->values[index] : NULL;
}

const struct sharpi_gguf_value *sharpi_gguf_find(const struct sharpi_gguf *gguf, const char *key)
{
    return sharpi_gguf_header_find(&gguf->parts[0].header, key);
}

int32_t sharpi_gguf_u64(const struct sharpi_gguf *gguf, const char *key, uint64_t *out,
                        struct sharpi_error *err)
{
    const struct sharpi_gguf_value *value = sharpi_gguf_find(gguf, key);
    return value ? sharpi_gguf_value_u64(&gguf->parts[0], value, out, err) : SHARPI_ENOENT;
}

int32_t sharpi_gguf_f64(const struct sharpi_gguf *gguf, const char *key, double *out,
                        struct sharpi_error *err)
{
    const struct sharpi_gguf_value *value = sharpi_gguf_find(gguf, key);
    if (!value)
        return SHARPI_ENOENT;
    return number_f64(&gguf->parts[0], value, read_number(value->type, value->data), out, err);
}

int32_t sharpi_gguf_string(const struct sharpi_gguf *gguf, const char *key, struct sharpi_str *out,
                           struct sharpi_error *err)
{
    const struct sharpi_gguf_value *value = sharpi_gguf_find(gguf, key);
    if (!value)
        return SHARPI_ENOENT;
    if (value->type != SHARPI_GGUF_STRING)
        return wrong_type(&gguf->parts[0], value, "a string", err);
    out->data = value->data;
    out->n = value->n_bytes;
    return 0;
}

int32_t sharpi_gguf_strings(const struct sharpi_gguf *gguf, const char *key, struct sharpi_str **out,
                            uint64_t *n, struct sharpi_error *err)
{
    const struct sharpi_gguf_value *value = sharpi_gguf_find(gguf, key);
    if (!value)
        return SHARPI_ENOENT;
    if (value->type != SHARPI_GGUF_ARRAY || value->elem_type != SHARPI_GGUF_STRING)
        return wrong_type(&gguf->parts[0], value, "an array of strings", err);
    struct sharpi_str *strings = malloc((value->n + 1) * sizeof *strings);
    if (!strings)
        return sharpi_fail(err, SHARPI_ENOMEM, "%s: no memory for the %llu strings of '%s'",
                           gguf->parts[0].shown, (unsigned long long)value->n, key);
    const char *at = value->data;
    for (uint64_t i = 0; i < value->n; i++) {
        memcpy(&strings[i].n, at, sizeof strings[i].n);
        strings[i].data = at + sizeof strings[i].n;
        at = strings[i].data + strings[i].n;
    }
    *out = strings;
    *n = value->n;
    return 0;
}

/* Reads element `index` of an array of numbers. */
static int32_t read_element(const struct sharpi_gguf *gguf, const struct sharpi_gguf_value *array,
                            uint64_t index, struct number *out, struct sharpi_error *err)
{
    struct sharpi_gguf_shown shown;
    uint64_t n_bytes = sharpi_gguf_type_bytes(array->elem_type);
    if (array->type != SHARPI_GGUF_ARRAY || n_bytes == 0)
        return wrong_type(&gguf->parts[0], array, "an array of numbers", err);
    if (index >= array->n)
        return sharpi_fail(err, SHARPI_EINVAL, "%s: key '%s' has %llu elements, there is no element %llu",
                           gguf->parts[0].shown, sharpi_gguf_show(array->key, &shown),
                           (unsigned long long)array->n, (unsigned long long)index);
    *out = read_number(array->elem_type, (const char *)array->data + index * n_bytes);
    return 0;
}

int32_t sharpi_gguf_array_u64(const struct sharpi_gguf *gguf, const struct sharpi_gguf_value *array,
                              uint64_t index, uint64_t *out, struct sharpi_error *err)
{
    struct number number;
    int32_t status = read_element(gguf, array, index, &number, err);
    return status ? status : number_u64(&gguf->parts[0], array, number, out, err);
}

int32_t sharpi_gguf_array_f64(const struct sharpi_gguf *gguf, const struct sharpi_gguf_value *array,
                              uint64_t index, double *out, struct sharpi_error *err)
{
    struct number number;
    int32_t status = read_element(gguf, array, index, &number, err);
    return status ? status : number_f64(&gguf->parts[0], array, number, out, err);
}

uint64_t sharpi_gguf_n_tensors(const struct sharpi_gguf *gguf)
{
    return gguf->n_tensors;
}

const struct sharpi_tensor *sharpi_gguf_tensor_at(const struct sharpi_gguf *gguf, uint64_t index)
{
    return index < gguf->n_tensors ? &gguf->tensors[index] : NULL;
}

const struct sharpi_tensor *sharpi_gguf_tensor(const struct sharpi_gguf *gguf, const char *name)
{
    uint64_t item = 0;
    struct sharpi_str wanted = {name, strlen(name)};
    return sharpi_gguf_index_find(&gguf->tensor_index, wanted, &item) ? &gguf->tensors[item] : NULL;
}
