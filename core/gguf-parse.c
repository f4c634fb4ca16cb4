/* Parses the header of one GGUF file: counts, metadata, alignment; the tensor descriptions are in gguf-tensors.c.
 *
 * Invariant: values that were parsed lie inside the part, keys are unique and non-empty, bools are 0 or 1, every string
 * and element of an array was walked once. Nothing is copied: values point into the file.
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
#include "gguf-internal.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "GGUF is read in place, so the machine must be little-endian");

enum {
    MAX_ARRAY_DEPTH = 4,
    MAX_KEY_BYTES = 65535, /* of the format */
    MIN_VALUE_BYTES = 14,  /* key length, one character, type, one byte */
    MIN_INFO_BYTES = 33,   /* name length, one character, dimensions, one of them, type, offset */
    DEFAULT_ALIGNMENT = 32,
    MIN_ALIGNMENT = 8,
    MAX_ALIGNMENT = 1 << 20,
};

static int32_t skip_array(struct sharpi_gguf_reader *reader, uint32_t type, uint64_t n, int depth,
                          const char *what);

/* What an array element takes at least; 0 for unknown types. */
static uint64_t min_element_bytes(uint32_t type)
{
    if (type == SHARPI_GGUF_STRING)
        return 8;
    if (type == SHARPI_GGUF_ARRAY)
        return 12;
    return sharpi_gguf_type_bytes(type);
}

static int32_t unknown_type(const struct sharpi_gguf_reader *reader, uint32_t type, const char *what)
{
    return sharpi_fail(
        reader->err, SHARPI_EFORMAT,
        "%s: %s has type number %u, the format knows 0 to %d; the file is damaged, or newer than this "
        "version of sharpi",
        reader->part->shown, what, (unsigned)type, SHARPI_GGUF_F64);
}

static int32_t check_bools(struct sharpi_gguf_reader *reader, uint64_t n, const char *what)
{
    const uint8_t *bools = reader->part->bytes + reader->at;
    for (uint64_t i = 0; i < n; i++) {
        if (bools[i] > 1)
            return sharpi_fail(
                reader->err, SHARPI_EFORMAT,
                "%s: %s is or holds a bool with byte %u, the format allows 0 and 1; the file is damaged",
                reader->part->shown, what, bools[i]);
    }
    return 0;
}

static int32_t read_array_head(struct sharpi_gguf_reader *reader, uint32_t *type, uint64_t *n,
                               const char *what)
{
    int32_t status = sharpi_gguf_read_u32(reader, type, what);
    if (!status)
        status = sharpi_gguf_read_u64(reader, n, what);
    if (status)
        return status;
    uint64_t least = min_element_bytes(*type);
    if (least == 0)
        return unknown_type(reader, *type, what);
    if (*n > sharpi_gguf_left(reader) / least)
        return sharpi_fail(
            reader->err, SHARPI_EFORMAT,
            "%s: %s is an array of %llu elements of type %s, but the %llu bytes left in the file hold at "
            "most %llu; the file is truncated or damaged: download it again",
            reader->part->shown, what, (unsigned long long)*n, sharpi_gguf_type_name(*type),
            (unsigned long long)sharpi_gguf_left(reader),
            (unsigned long long)(sharpi_gguf_left(reader) / least));
    return 0;
}

static int32_t skip_nested(struct sharpi_gguf_reader *reader, int depth, const char *what)
{
    uint32_t type = 0;
    uint64_t n = 0;
    if (depth > MAX_ARRAY_DEPTH)
        return sharpi_fail(reader->err, SHARPI_EFORMAT,
                           "%s: %s nests arrays more than %d deep, the limit of sharpi", reader->part->shown,
                           what, MAX_ARRAY_DEPTH);
    int32_t status = read_array_head(reader, &type, &n, what);
    return status ? status : skip_array(reader, type, n, depth, what);
}

static int32_t skip_string(struct sharpi_gguf_reader *reader, const char *what)
{
    struct sharpi_str ignored;
    return sharpi_gguf_read_str(reader, &ignored, what);
}

/* Moves over the n elements of an array, checking each. read_array_head compared n with the file. */
static int32_t skip_array(struct sharpi_gguf_reader *reader, uint32_t type, uint64_t n, int depth,
                          const char *what)
{
    int32_t status = 0;
    if (type == SHARPI_GGUF_STRING || type == SHARPI_GGUF_ARRAY) {
        for (uint64_t i = 0; i < n && !status; i++)
            status =
                type == SHARPI_GGUF_STRING ? skip_string(reader, what) : skip_nested(reader, depth + 1, what);
        return status;
    }
    if (type == SHARPI_GGUF_BOOL)
        status = check_bools(reader, n, what);
    reader->at += n * sharpi_gguf_type_bytes(type);
    return status;
}

static int32_t read_scalar(struct sharpi_gguf_reader *reader, struct sharpi_gguf_value *value,
                           const char *what)
{
    uint64_t n_bytes = sharpi_gguf_type_bytes(value->type);
    if (n_bytes == 0)
        return unknown_type(reader, value->type, what);
    int32_t status = sharpi_gguf_need(reader, n_bytes, what);
    if (!status && value->type == SHARPI_GGUF_BOOL)
        status = check_bools(reader, 1, what);
    if (status)
        return status;
    value->data = reader->part->bytes + reader->at;
    value->n_bytes = n_bytes;
    reader->at += n_bytes;
    return 0;
}

static int32_t read_content(struct sharpi_gguf_reader *reader, struct sharpi_gguf_value *value,
                            const char *what)
{
    value->n = 1;
    if (value->type == SHARPI_GGUF_STRING) {
        struct sharpi_str string;
        int32_t status = sharpi_gguf_read_str(reader, &string, what);
        if (status)
            return status;
        value->data = string.data;
        value->n_bytes = string.n;
        return 0;
    }
    if (value->type != SHARPI_GGUF_ARRAY)
        return read_scalar(reader, value, what);
    int32_t status = read_array_head(reader, &value->elem_type, &value->n, what);
    if (status)
        return status;
    uint64_t start = reader->at;
    status = skip_array(reader, value->elem_type, value->n, 1, what);
    value->data = reader->part->bytes + start;
    value->n_bytes = reader->at - start;
    return status;
}

static int32_t check_key(const struct sharpi_gguf_reader *reader, struct sharpi_str key, uint64_t index)
{
    struct sharpi_gguf_shown shown;
    if (key.n == 0)
        return sharpi_fail(reader->err, SHARPI_EFORMAT,
                           "%s: metadata entry %llu has an empty key; the file is damaged",
                           reader->part->shown, (unsigned long long)index);
    if (key.n > MAX_KEY_BYTES)
        return sharpi_fail(
            reader->err, SHARPI_EFORMAT,
            "%s: the key of metadata entry %llu ('%s') has %llu bytes, the limit of the format is %d; the "
            "file is damaged",
            reader->part->shown, (unsigned long long)index, sharpi_gguf_show(key, &shown),
            (unsigned long long)key.n, MAX_KEY_BYTES);
    if (memchr(key.data, 0, key.n))
        return sharpi_fail(
            reader->err, SHARPI_EFORMAT,
            "%s: the key of metadata entry %llu ('%s') contains a NUL byte; the file is damaged",
            reader->part->shown, (unsigned long long)index, sharpi_gguf_show(key, &shown));
    return 0;
}

static int32_t read_value(struct sharpi_gguf_reader *reader, struct sharpi_gguf_value *value, uint64_t index)
{
    char what[160];
    struct sharpi_gguf_shown shown;
    memset(value, 0, sizeof *value);
    snprintf(what, sizeof what, "the key of metadata entry %llu", (unsigned long long)index);
    int32_t status = sharpi_gguf_read_str(reader, &value->key, what);
    if (!status)
        status = check_key(reader, value->key, index);
    if (status)
        return status;
    snprintf(what, sizeof what, "the value of key '%s'", sharpi_gguf_show(value->key, &shown));
    status = sharpi_gguf_read_u32(reader, &value->type, what);
    return status ? status : read_content(reader, value, what);
}

static int32_t read_values(struct sharpi_gguf_reader *reader, struct sharpi_gguf_header *header, uint64_t n)
{
    while (header->n_values < n) {
        void *values = header->values;
        int32_t status = sharpi_gguf_grow(reader, &values, header->n_values, sizeof *header->values);
        header->values = values;
        if (!status)
            status = read_value(reader, &header->values[header->n_values], header->n_values);
        if (status)
            return status;
        header->n_values++;
    }
    return 0;
}

static int32_t index_keys(const struct sharpi_gguf_reader *reader, struct sharpi_gguf_header *header)
{
    if (sharpi_gguf_index_init(&header->keys, header->n_values))
        return sharpi_fail(reader->err, SHARPI_ENOMEM, "%s: no memory for an index of %llu metadata keys",
                           reader->part->shown, (unsigned long long)header->n_values);
    for (uint64_t i = 0; i < header->n_values; i++) {
        uint64_t item = i;
        struct sharpi_gguf_shown shown;
        if (!sharpi_gguf_index_add(&header->keys, header->values[i].key, &item))
            return sharpi_fail(
                reader->err, SHARPI_EFORMAT,
                "%s: key '%s' occurs twice, as metadata entries %llu and %llu; the file is damaged or was "
                "edited wrongly: remove one",
                reader->part->shown, sharpi_gguf_show(header->values[i].key, &shown),
                (unsigned long long)item, (unsigned long long)i);
    }
    return 0;
}

static int32_t find_alignment(const struct sharpi_gguf_reader *reader, struct sharpi_gguf_header *header)
{
    const struct sharpi_gguf_value *value = sharpi_gguf_header_find(header, "general.alignment");
    header->alignment = DEFAULT_ALIGNMENT;
    if (!value)
        return 0;
    int32_t status = sharpi_gguf_value_u64(reader->part, value, &header->alignment, reader->err);
    if (status)
        return status;
    uint64_t a = header->alignment;
    if (a < MIN_ALIGNMENT || a > MAX_ALIGNMENT || (a & (a - 1)) != 0)
        return sharpi_fail(
            reader->err, SHARPI_EFORMAT,
            "%s: general.alignment is %llu; it must be a power of two from %d to %d: the file is damaged "
            "or was written wrongly",
            reader->part->shown, (unsigned long long)a, MIN_ALIGNMENT, MAX_ALIGNMENT);
    return 0;
}

static int32_t check_count(const struct sharpi_gguf_reader *reader, uint64_t n, uint64_t least,
                           const char *what)
{
    uint64_t most = sharpi_gguf_left(reader) / least;
    if (n <= most)
        return 0;
    return sharpi_fail(
        reader->err, SHARPI_EFORMAT,
        "%s: the header promises %llu %s, but the %llu bytes after it hold at most %llu; the file is "
        "truncated or damaged: download it again",
        reader->part->shown, (unsigned long long)n, what, (unsigned long long)sharpi_gguf_left(reader),
        (unsigned long long)most);
}

int32_t sharpi_gguf_parse(struct sharpi_gguf_part *part, uint32_t flags, struct sharpi_error *err)
{
    struct sharpi_gguf_reader reader = {part, 4, err};
    struct sharpi_gguf_header *header = &part->header;
    uint64_t n_tensors = 0, n_values = 0;
    int32_t status = sharpi_gguf_check_magic(part, err);
    if (!status)
        status = sharpi_gguf_read_u32(&reader, &header->version, "the GGUF header");
    if (!status)
        status = sharpi_gguf_read_u64(&reader, &n_tensors, "the GGUF header");
    if (!status)
        status = sharpi_gguf_read_u64(&reader, &n_values, "the GGUF header");
    if (!status)
        status = check_count(&reader, n_values, MIN_VALUE_BYTES, "metadata entries");
    if (!status)
        status = check_count(&reader, n_tensors, MIN_INFO_BYTES, "tensors");
    if (!status)
        status = read_values(&reader, header, n_values);
    if (!status)
        status = index_keys(&reader, header);
    if (!status)
        status = find_alignment(&reader, header);
    return status ? status : sharpi_gguf_parse_infos(&reader, header, n_tensors, flags);
}

const struct sharpi_gguf_value *sharpi_gguf_header_find(const struct sharpi_gguf_header *header,
                                                        const char *key)
{
    uint64_t item = 0;
    struct sharpi_str name = {key, strlen(key)};
    return sharpi_gguf_index_find(&header->keys, name, &item) ? &header->values[item] : NULL;
}

void sharpi_gguf_header_free(struct sharpi_gguf_header *header)
{
    free(header->values);
    free(header->infos);
    sharpi_gguf_index_free(&header->keys);
    memset(header, 0, sizeof *header);
}
