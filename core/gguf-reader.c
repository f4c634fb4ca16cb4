/* Checked reads from a part of a GGUF file, and how names from it are shown in messages.
 *
 * Invariant: reader.at <= part.n_bytes; nothing is touched before it was compared with what is left.
 */
#include "gguf-internal.h"

#include <stdlib.h>
#include <string.h>

const char *sharpi_gguf_show(struct sharpi_str text, struct sharpi_gguf_shown *buffer)
{
    const uint64_t limit = sizeof buffer->text - 4;
    uint64_t n = text.n < limit ? text.n : limit;
    for (uint64_t i = 0; i < n; i++) /* a name must not be able to drive a terminal */
        buffer->text[i] = text.data[i] >= ' ' && text.data[i] < 0x7f ? text.data[i] : '?';
    strcpy(buffer->text + n, text.n > limit ? "..." : "");
    return buffer->text;
}

uint64_t sharpi_gguf_left(const struct sharpi_gguf_reader *reader)
{
    return reader->part->n_bytes - reader->at;
}

int32_t sharpi_gguf_need(const struct sharpi_gguf_reader *reader, uint64_t n_bytes, const char *what)
{
    if (n_bytes <= sharpi_gguf_left(reader))
        return 0;
    return sharpi_fail(
        reader->err, SHARPI_EFORMAT,
        "%s: the file ends inside %s: %llu bytes are needed at byte %llu, but the file has only %llu; "
        "it is truncated (an unfinished download?) or damaged: download it again",
        reader->part->shown, what, (unsigned long long)n_bytes, (unsigned long long)reader->at,
        (unsigned long long)reader->part->n_bytes);
}

int32_t sharpi_gguf_read_u32(struct sharpi_gguf_reader *reader, uint32_t *out, const char *what)
{
    int32_t status = sharpi_gguf_need(reader, sizeof *out, what);
    if (status)
        return status;
    memcpy(out, reader->part->bytes + reader->at, sizeof *out);
    reader->at += sizeof *out;
    return 0;
}

int32_t sharpi_gguf_read_u64(struct sharpi_gguf_reader *reader, uint64_t *out, const char *what)
{
    int32_t status = sharpi_gguf_need(reader, sizeof *out, what);
    if (status)
        return status;
    memcpy(out, reader->part->bytes + reader->at, sizeof *out);
    reader->at += sizeof *out;
    return 0;
}

int32_t sharpi_gguf_read_str(struct sharpi_gguf_reader *reader, struct sharpi_str *out, const char *what)
{
    uint64_t n = 0;
    int32_t status = sharpi_gguf_read_u64(reader, &n, what);
    if (!status && n > sharpi_gguf_left(reader))
        status = sharpi_fail(
            reader->err, SHARPI_EFORMAT,
            "%s: %s is a string of %llu bytes, but only %llu bytes of the file are left; the file is "
            "truncated or damaged: download it again",
            reader->part->shown, what, (unsigned long long)n, (unsigned long long)sharpi_gguf_left(reader));
    if (status)
        return status;
    out->data = (const char *)reader->part->bytes + reader->at;
    out->n = n;
    reader->at += n;
    return 0;
}

int32_t sharpi_gguf_grow(struct sharpi_gguf_reader *reader, void **items, uint64_t n, uint64_t item_bytes)
{
    if (n > 0 && (n < 16 || (n & (n - 1)) != 0))
        return 0; /* not at a capacity's end */
    uint64_t capacity = n ? 2 * n : 16;
    void *grown = capacity <= SIZE_MAX / item_bytes ? realloc(*items, capacity * item_bytes) : NULL;
    if (!grown)
        return sharpi_fail(reader->err, SHARPI_ENOMEM, "%s: no memory for a header of more than %llu entries",
                           reader->part->shown, (unsigned long long)n);
    *items = grown;
    return 0;
}
