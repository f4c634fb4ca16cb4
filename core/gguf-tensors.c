/* Tensor descriptions of a GGUF file, and the tensors of a model made from those of all its parts.
 *
 * Invariant: a tensor's dimensions, element count, byte count and end in the file are exact and fit 63 bits; its rows are
 * whole blocks; tensors of one part do not overlap; names are unique over all parts. What lies between tensors or
 * after the last is nobody's business.
 */
#include "gguf-internal.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_NAME_BYTES = 255 }; /* the format says 64; longer ones are about */

/* Names of the element types of the public GGUF list that sharpi_type_info() lacks, for messages. */
static const char *foreign_type_name(uint32_t type)
{
    static const char *const names[] = {
        [4] = "q4_2, withdrawn",
        [5] = "q4_3, withdrawn",
        [9] = "q8_1",
        [15] = "q8_k",
        [16] = "iq2_xxs",
        [17] = "iq2_xs",
        [18] = "iq3_xxs",
        [19] = "iq1_s",
        [21] = "iq3_s",
        [22] = "iq2_s",
        [24] = "i8",
        [25] = "i16",
        [26] = "i32",
        [27] = "i64",
        [28] = "f64",
        [29] = "iq1_m",
        [31] = "q4_0_4_4",
        [32] = "q4_0_4_8",
        [33] = "q4_0_8_8",
        [34] = "tq1_0",
        [35] = "tq2_0",
        [36] = "iq4_nl_4_4",
        [37] = "iq4_nl_4_8",
        [38] = "iq4_nl_8_8",
        [40] = "nvfp4",
    };
    return type < sizeof names / sizeof names[0] ? names[type] : NULL;
}

static int32_t check_name(const struct sharpi_gguf_reader *reader, struct sharpi_str name, uint64_t index)
{
    struct sharpi_gguf_shown shown;
    if (name.n == 0)
        return sharpi_fail(reader->err, SHARPI_EFORMAT,
                           "%s: tensor %llu has an empty name; the file is damaged", reader->part->shown,
                           (unsigned long long)index);
    if (name.n > MAX_NAME_BYTES)
        return sharpi_fail(
            reader->err, SHARPI_EFORMAT,
            "%s: the name of tensor %llu ('%s') has %llu bytes, the limit is %d; the file is damaged",
            reader->part->shown, (unsigned long long)index, sharpi_gguf_show(name, &shown),
            (unsigned long long)name.n, MAX_NAME_BYTES);
    if (memchr(name.data, 0, name.n))
        return sharpi_fail(reader->err, SHARPI_EFORMAT,
                           "%s: the name of tensor %llu ('%s') contains a NUL byte; the file is damaged",
                           reader->part->shown, (unsigned long long)index, sharpi_gguf_show(name, &shown));
    return 0;
}

static int32_t check_type(const struct sharpi_gguf_reader *reader, const struct sharpi_gguf_info *info,
                          const char *name)
{
    if (info->type <= INT32_MAX && sharpi_type_info((int32_t)info->type))
        return 0;
    const char *type_name = foreign_type_name(info->type);
    return sharpi_fail(
        reader->err, SHARPI_ENOTSUP,
        "%s: tensor '%s' has element type %u (%s), which this version of sharpi cannot read; use a file "
        "quantized as q8_0, q6_k, q5_k, q4_k or another supported type",
        reader->part->shown, name, (unsigned)info->type, type_name ? type_name : "unknown");
}

/* Fills info->n_bytes; refuses sizes beyond 63 bits. */
static int32_t measure(const struct sharpi_gguf_reader *reader, struct sharpi_gguf_info *info,
                       const char *name)
{
    const struct sharpi_type_info *type = sharpi_type_info((int32_t)info->type);
    uint64_t n = 1, n_bytes = 0;
    int overflow = 0;
    for (int i = 0; i < 4; i++)
        overflow |= __builtin_mul_overflow(n, info->ne[i], &n);
    overflow |= __builtin_mul_overflow(n / type->block_elems, (uint64_t)type->block_bytes, &n_bytes);
    if (overflow || n > INT64_MAX || n_bytes > INT64_MAX)
        return sharpi_fail(
            reader->err, SHARPI_EFORMAT,
            "%s: tensor '%s' has dimensions [%llu, %llu, %llu, %llu], more elements or bytes than 63 bits "
            "count; the file is damaged",
            reader->part->shown, name, (unsigned long long)info->ne[0], (unsigned long long)info->ne[1],
            (unsigned long long)info->ne[2], (unsigned long long)info->ne[3]);
    if (info->ne[0] % type->block_elems != 0)
        return sharpi_fail(
            reader->err, SHARPI_EFORMAT,
            "%s: tensor '%s' has rows of %llu elements, but type %s is stored in blocks of %u; the file is "
            "damaged or was written wrongly",
            reader->part->shown, name, (unsigned long long)info->ne[0], type->name,
            (unsigned)type->block_elems);
    info->n_bytes = n_bytes;
    return 0;
}

static int32_t read_shape(struct sharpi_gguf_reader *reader, struct sharpi_gguf_info *info, const char *name,
                          const char *what)
{
    int32_t status = sharpi_gguf_read_u32(reader, &info->n_dims, what);
    if (status)
        return status;
    if (info->n_dims < 1 || info->n_dims > 4)
        return sharpi_fail(reader->err, SHARPI_EFORMAT,
                           "%s: tensor '%s' has %u dimensions, 1 to 4 are allowed; the file is damaged",
                           reader->part->shown, name, (unsigned)info->n_dims);
    for (uint32_t i = 0; i < 4; i++) {
        info->ne[i] = 1;
        status = i < info->n_dims ? sharpi_gguf_read_u64(reader, &info->ne[i], what) : 0;
        if (status)
            return status;
        if (info->ne[i] == 0)
            return sharpi_fail(
                reader->err, SHARPI_EFORMAT,
                "%s: dimension %u of tensor '%s' is 0, it must be at least 1; the file is damaged",
                reader->part->shown, (unsigned)i, name);
    }
    return 0;
}

static int32_t read_info(struct sharpi_gguf_reader *reader, struct sharpi_gguf_info *info, uint64_t index,
                         uint64_t alignment)
{
    char what[160];
    struct sharpi_gguf_shown shown;
    snprintf(what, sizeof what, "the name of tensor %llu", (unsigned long long)index);
    int32_t status = sharpi_gguf_read_str(reader, &info->name, what);
    if (!status)
        status = check_name(reader, info->name, index);
    if (status)
        return status;
    const char *name = sharpi_gguf_show(info->name, &shown);
    snprintf(what, sizeof what, "the description of tensor '%s'", name);
    status = read_shape(reader, info, name, what);
    if (!status)
        status = sharpi_gguf_read_u32(reader, &info->type, what);
    if (!status)
        status = sharpi_gguf_read_u64(reader, &info->offset, what);
    if (!status)
        status = check_type(reader, info, name);
    if (!status)
        status = measure(reader, info, name);
    if (!status && info->offset % alignment != 0)
        status = sharpi_fail(
            reader->err, SHARPI_EFORMAT,
            "%s: the data of tensor '%s' begins at offset %llu, which is not a multiple of the "
            "alignment %llu; the file is damaged or was written wrongly",
            reader->part->shown, name, (unsigned long long)info->offset, (unsigned long long)alignment);
    return status;
}

static int32_t check_end(const struct sharpi_gguf_reader *reader, const struct sharpi_gguf_header *header,
                         const struct sharpi_gguf_info *info, uint32_t flags)
{
    struct sharpi_gguf_shown shown;
    uint64_t end = 0;
    int overflow = __builtin_add_overflow(header->data_start, info->offset, &end);
    overflow |= __builtin_add_overflow(end, info->n_bytes, &end);
    if (overflow || end > INT64_MAX)
        return sharpi_fail(
            reader->err, SHARPI_EFORMAT,
            "%s: tensor '%s' at offset %llu with %llu bytes ends beyond 63 bits; the file is damaged",
            reader->part->shown, sharpi_gguf_show(info->name, &shown), (unsigned long long)info->offset,
            (unsigned long long)info->n_bytes);
    if (end > reader->part->n_bytes && !(flags & SHARPI_GGUF_HEADER_ONLY))
        return sharpi_fail(
            reader->err, SHARPI_EFORMAT,
            "%s: the data of tensor '%s' ends at byte %llu, but the file has only %llu; it is truncated "
            "(an unfinished download?): download it again",
            reader->part->shown, sharpi_gguf_show(info->name, &shown), (unsigned long long)end,
            (unsigned long long)reader->part->n_bytes);
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    uint64_t x = (*(const struct sharpi_gguf_info *const *)a)->offset;
    uint64_t y = (*(const struct sharpi_gguf_info *const *)b)->offset;
    return (x > y) - (x < y);
}

static int32_t check_overlap(const struct sharpi_gguf_reader *reader, const struct sharpi_gguf_header *header)
{
    uint64_t n = header->n_infos;
    const struct sharpi_gguf_info **sorted = calloc(n + 1, sizeof *sorted);
    if (!sorted)
        return sharpi_fail(reader->err, SHARPI_ENOMEM, "%s: no memory to check %llu tensors",
                           reader->part->shown, (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++)
        sorted[i] = &header->infos[i];
    qsort(sorted, n, sizeof *sorted, by_offset);
    int32_t status = 0;
    for (uint64_t i = 1; i < n && !status; i++) {
        struct sharpi_gguf_shown before, after;
        if (sorted[i - 1]->offset + sorted[i - 1]->n_bytes > sorted[i]->offset)
            status = sharpi_fail(
                reader->err, SHARPI_EFORMAT,
                "%s: tensors '%s' (offset %llu, %llu bytes) and '%s' (offset %llu) overlap; the file "
                "is damaged or was written wrongly",
                reader->part->shown, sharpi_gguf_show(sorted[i - 1]->name, &before),
                (unsigned long long)sorted[i - 1]->offset, (unsigned long long)sorted[i - 1]->n_bytes,
                sharpi_gguf_show(sorted[i]->name, &after), (unsigned long long)sorted[i]->offset);
    }
    free(sorted);
    return status;
}

int32_t sharpi_gguf_parse_infos(struct sharpi_gguf_reader *reader, struct sharpi_gguf_header *header,
                                uint64_t n, uint32_t flags)
{
    while (header->n_infos < n) {
        void *infos = header->infos;
        int32_t status = sharpi_gguf_grow(reader, &infos, header->n_infos, sizeof *header->infos);
        header->infos = infos;
        if (!status)
            status = read_info(reader, &header->infos[header->n_infos], header->n_infos, header->alignment);
        if (status)
            return status;
        header->n_infos++;
    }
    header->data_start = (reader->at + header->alignment - 1) / header->alignment * header->alignment;
    for (uint64_t i = 0; i < n; i++) {
        int32_t status = check_end(reader, header, &header->infos[i], flags);
        if (status)
            return status;
    }
    return check_overlap(reader, header);
}

/* Makes tensor `item` from `info`; `*names` is where its name goes. */
static int32_t make_tensor(struct sharpi_gguf *gguf, const struct sharpi_gguf_part *part,
                           const struct sharpi_gguf_info *info, uint64_t item, char **names, uint32_t flags,
                           struct sharpi_error *err)
{
    struct sharpi_tensor *tensor = &gguf->tensors[item];
    struct sharpi_gguf_shown shown;
    uint64_t older = item;
    struct sharpi_str name = {*names, info->name.n};
    memcpy(*names, info->name.data, info->name.n);
    *names += info->name.n + 1; /* calloc wrote the NUL */
    if (!sharpi_gguf_index_add(&gguf->tensor_index, name, &older))
        return sharpi_fail(
            err, SHARPI_EFORMAT,
            "%s: tensor '%s' occurs twice, as tensors %llu and %llu of the model; the file is damaged%s",
            part->shown, sharpi_gguf_show(name, &shown), (unsigned long long)older, (unsigned long long)item,
            gguf->n_parts > 1 ? " or its parts do not belong together" : "");
    tensor->size = sizeof *tensor;
    tensor->type = (int32_t)info->type;
    tensor->n_dims = info->n_dims;
    memcpy(tensor->ne, info->ne, sizeof tensor->ne);
    tensor->n_bytes = info->n_bytes;
    tensor->name = name.data;
    tensor->data =
        flags & SHARPI_GGUF_HEADER_ONLY ? NULL : part->bytes + part->header.data_start + info->offset;
    return 0;
}

int32_t sharpi_gguf_make_tensors(struct sharpi_gguf *gguf, uint32_t flags, struct sharpi_error *err)
{
    uint64_t n = 0, name_bytes = 0, item = 0;
    for (uint32_t p = 0; p < gguf->n_parts; p++) {
        const struct sharpi_gguf_header *header = &gguf->parts[p].header;
        n += header->n_infos;
        for (uint64_t i = 0; i < header->n_infos; i++)
            name_bytes += header->infos[i].name.n + 1;
    }
    gguf->tensors = calloc(n + 1, sizeof *gguf->tensors);
    gguf->names = calloc(name_bytes + 1, 1);
    if (!gguf->tensors || !gguf->names || sharpi_gguf_index_init(&gguf->tensor_index, n))
        return sharpi_fail(err, SHARPI_ENOMEM, "%s: no memory for %llu tensors", gguf->parts[0].shown,
                           (unsigned long long)n);
    char *names = gguf->names;
    for (uint32_t p = 0; p < gguf->n_parts; p++) {
        struct sharpi_gguf_header *header = &gguf->parts[p].header;
        for (uint64_t i = 0; i < header->n_infos; i++, item++) {
            int32_t status = make_tensor(gguf, &gguf->parts[p], &header->infos[i], item, &names, flags, err);
            if (status)
                return status;
        }
        free(header->infos);
        header->infos = NULL;
    }
    gguf->n_tensors = n;
    return 0;
}
