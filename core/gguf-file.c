/* Opens GGUF models: maps the file, or all files of a split model, and has them parsed.
 *
 * Invariant: a part is mapped read-only and not populated, so opening touches only the headers. The mapping lives
 * until sharpi_gguf_close; a file that somebody shortens meanwhile raises SIGBUS on access, as with every mapped file.
 * Metadata of the model are those of the first part; of the others only split.* and general.alignment count.
 */
#include "gguf-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_SHOWN_PATH = 256,
    MAX_PARTS = 65535, /* split.count is a u16 in the format */
    MAX_PART_SUFFIX = 64,
};

/* What the split.* keys of one part say. count is 1 for a model in one file. */
struct split {
    uint64_t no; /* from 0 */
    uint64_t count;
    uint64_t n_tensors; /* of all parts; UINT64_MAX when not stated */
};

static int32_t set_path(struct sharpi_gguf_part *part, const char *path, struct sharpi_error *err)
{
    uint64_t n = strlen(path);
    part->path = strdup(path);
    if (!part->path)
        return sharpi_fail(err, SHARPI_ENOMEM, "%.256s: no memory to open the file", path);
    part->shown = part->path + (n > MAX_SHOWN_PATH ? n - MAX_SHOWN_PATH : 0);
    return 0;
}

static int32_t map_open_file(struct sharpi_gguf_part *part, int file, struct sharpi_error *err)
{
    struct stat stat;
    if (fstat(file, &stat))
        return sharpi_fail(err, SHARPI_EIO, "%s: cannot be examined: %s", part->shown, strerror(errno));
    if (S_ISDIR(stat.st_mode))
        return sharpi_fail(err, SHARPI_EFORMAT, "%s is a directory; give the path of a .gguf file in it",
                           part->shown);
    if (!S_ISREG(stat.st_mode))
        return sharpi_fail(
            err, SHARPI_EFORMAT,
            "%s is a pipe, socket or device; a model is mapped, so it must be a regular file: save it to one",
            part->shown);
    part->n_bytes = (uint64_t)stat.st_size;
    if (part->n_bytes == 0) /* cannot be mapped; sharpi_gguf_check_magic says it is empty */
        return 0;
    void *bytes = mmap(NULL, part->n_bytes, PROT_READ, MAP_PRIVATE, file, 0);
    if (bytes == MAP_FAILED)
        return sharpi_fail(err, SHARPI_EIO, "%s: %llu bytes cannot be mapped: %s%s", part->shown,
                           (unsigned long long)part->n_bytes, strerror(errno),
                           errno == ENOMEM ? "; raise the address space limit (ulimit -v)" : "");
    part->bytes = bytes;
    part->mapped = 1;
    return 0;
}

static int32_t map_file(struct sharpi_gguf_part *part, const char *path, struct sharpi_error *err)
{
    int32_t status = set_path(part, path, err);
    if (status)
        return status;
    /* O_NONBLOCK: opening a pipe must not wait for its writer. */
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 && (errno == ENOENT || errno == ENOTDIR))
        return sharpi_fail(err, SHARPI_ENOENT, "%s: no such file; check the path", part->shown);
    if (file < 0)
        return sharpi_fail(err, SHARPI_EIO, "%s: cannot be opened: %s", part->shown, strerror(errno));
    status = map_open_file(part, file, err);
    close(file);
    return status;
}

/* *out stays as it is when the key is absent. */
static int32_t split_key(const struct sharpi_gguf_part *part, const char *key, uint64_t *out,
                         struct sharpi_error *err)
{
    const struct sharpi_gguf_value *value = sharpi_gguf_header_find(&part->header, key);
    return value ? sharpi_gguf_value_u64(part, value, out, err) : 0;
}

static int32_t read_split(const struct sharpi_gguf_part *part, struct split *split, struct sharpi_error *err)
{
    *split = (struct split){UINT64_MAX, 1, UINT64_MAX};
    int32_t status = split_key(part, "split.count", &split->count, err);
    if (status)
        return status;
    if (split->count <= 1) {
        split->count = 1;
        split->no = 0;
        return 0;
    }
    status = split_key(part, "split.no", &split->no, err);
    if (!status)
        status = split_key(part, "split.tensors.count", &split->n_tensors, err);
    if (status)
        return status;
    if (split->count > MAX_PARTS)
        return sharpi_fail(err, SHARPI_EFORMAT,
                           "%s: split.count is %llu, the limit is %d; the file is damaged", part->shown,
                           (unsigned long long)split->count, MAX_PARTS);
    if (split->no == UINT64_MAX)
        return sharpi_fail(
            err, SHARPI_EFORMAT,
            "%s: split.count is %llu, but split.no is missing; the file was split wrongly: split it again",
            part->shown, (unsigned long long)split->count);
    if (split->no >= split->count)
        return sharpi_fail(
            err, SHARPI_EFORMAT,
            "%s: split.no is %llu, but split.count is %llu, so it can be at most %llu; the file is damaged",
            part->shown, (unsigned long long)split->no, (unsigned long long)split->count,
            (unsigned long long)split->count - 1);
    return 0;
}

static void part_suffix(char suffix[MAX_PART_SUFFIX], uint64_t no, uint64_t count)
{
    snprintf(suffix, MAX_PART_SUFFIX, "-%05llu-of-%05llu.gguf", (unsigned long long)no + 1,
             (unsigned long long)count);
}

static int is_named_as_part(const char *path, uint64_t no, uint64_t count)
{
    char suffix[MAX_PART_SUFFIX];
    part_suffix(suffix, no, count);
    uint64_t n = strlen(path), n_suffix = strlen(suffix);
    return n > n_suffix && strcmp(path + n - n_suffix, suffix) == 0;
}

/* Path of part `no`, from the path of any part. NULL without memory. */
static char *part_path(const char *path, uint64_t no, uint64_t count)
{
    char suffix[MAX_PART_SUFFIX];
    part_suffix(suffix, no, count);
    uint64_t n_suffix = strlen(suffix); /* the same for all parts: five digits, as count <= MAX_PARTS */
    char *other = strdup(path);
    if (other)
        memcpy(other + strlen(path) - n_suffix, suffix, n_suffix);
    return other;
}

static int32_t not_first(const struct sharpi_gguf_part *part, const struct split *split,
                         struct sharpi_error *err)
{
    int named = is_named_as_part(part->path, split->no, split->count);
    char *first = named ? part_path(part->path, 0, split->count) : NULL;
    uint64_t n = first ? strlen(first) : 0;
    int32_t status =
        sharpi_fail(err, SHARPI_EINVAL, "%s is part %llu of %llu of a split model; open part 1: %s",
                    part->shown, (unsigned long long)split->no + 1, (unsigned long long)split->count,
                    first ? first + (n > MAX_SHOWN_PATH ? n - MAX_SHOWN_PATH : 0)
                          : "the file whose name ends in -00001-of-...");
    free(first);
    return status;
}

static int32_t open_other_part(struct sharpi_gguf *gguf, uint64_t no, const struct split *split,
                               uint32_t flags, struct sharpi_error *err)
{
    struct sharpi_gguf_part *part = &gguf->parts[no];
    struct split own = {0};
    char *path = part_path(gguf->parts[0].path, no, split->count);
    if (!path)
        return sharpi_fail(err, SHARPI_ENOMEM, "%s: no memory to open part %llu", gguf->parts[0].shown,
                           (unsigned long long)no + 1);
    int32_t status = map_file(part, path, err);
    free(path);
    if (status == SHARPI_ENOENT)
        return sharpi_fail(
            err, SHARPI_ENOENT,
            "%s is missing: it is part %llu of the %llu parts of the model; put all parts into one folder",
            part->shown, (unsigned long long)no + 1, (unsigned long long)split->count);
    if (!status)
        status = sharpi_gguf_parse(part, flags, err);
    if (!status)
        status = read_split(part, &own, err);
    if (!status && (own.no != no || own.count != split->count))
        status =
            sharpi_fail(err, SHARPI_EFORMAT,
                        "%s: it is named as part %llu of %llu, but says it is part %llu of %llu (split.no, "
                        "split.count); the parts do not belong together: download the model again",
                        part->shown, (unsigned long long)no + 1, (unsigned long long)split->count,
                        (unsigned long long)own.no + 1, (unsigned long long)own.count);
    return status;
}

static int32_t check_split_tensors(const struct sharpi_gguf *gguf, const struct split *split,
                                   struct sharpi_error *err)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < gguf->n_parts; i++)
        n += gguf->parts[i].header.n_infos;
    if (split->n_tensors == UINT64_MAX || n == split->n_tensors)
        return 0;
    return sharpi_fail(
        err, SHARPI_EFORMAT,
        "%s: split.tensors.count is %llu, but the %u parts hold %llu tensors; the parts do not belong "
        "together: download the model again",
        gguf->parts[0].shown, (unsigned long long)split->n_tensors, (unsigned)gguf->n_parts,
        (unsigned long long)n);
}

static int32_t open_other_parts(struct sharpi_gguf *gguf, const struct split *split, uint32_t flags,
                                struct sharpi_error *err)
{
    char suffix[MAX_PART_SUFFIX];
    part_suffix(suffix, 0, split->count);
    if (!is_named_as_part(gguf->parts[0].path, 0, split->count))
        return sharpi_fail(
            err, SHARPI_EINVAL,
            "%s is part 1 of %llu of a split model, but its name does not end in %s, so the other parts "
            "cannot be found; give the parts their names back",
            gguf->parts[0].shown, (unsigned long long)split->count, suffix);
    for (uint64_t no = 1; no < split->count; no++) {
        struct sharpi_gguf_part *parts = realloc(gguf->parts, (no + 1) * sizeof *parts);
        if (!parts)
            return sharpi_fail(err, SHARPI_ENOMEM, "%s: no memory for part %llu", gguf->parts[0].shown,
                               (unsigned long long)no + 1);
        gguf->parts = parts;
        gguf->n_parts = (uint32_t)no + 1;
        memset(&parts[no], 0, sizeof parts[no]);
        int32_t status = open_other_part(gguf, no, split, flags, err);
        if (status)
            return status;
    }
    return check_split_tensors(gguf, split, err);
}

static struct sharpi_gguf *new_gguf(void)
{
    struct sharpi_gguf *gguf = calloc(1, sizeof *gguf);
    if (gguf)
        gguf->parts = calloc(1, sizeof *gguf->parts);
    if (!gguf || !gguf->parts) {
        free(gguf);
        return NULL;
    }
    gguf->n_parts = 1;
    return gguf;
}

/* Parses the first part, which is mapped or in memory, and goes on from there. */
static int32_t load(struct sharpi_gguf *gguf, uint32_t flags, struct sharpi_error *err)
{
    struct split split = {0};
    struct sharpi_gguf_part *first = &gguf->parts[0];
    int32_t status = sharpi_gguf_parse(first, flags, err);
    if (!status)
        status = read_split(first, &split, err);
    if (!status && split.no > 0)
        status = not_first(first, &split, err);
    if (!status && split.count > 1 && !first->mapped)
        status = sharpi_fail(
            err, SHARPI_ENOTSUP,
            "%s is part 1 of %llu of a split model, which cannot be opened from memory; open its file",
            first->shown, (unsigned long long)split.count);
    if (!status && split.count > 1)
        status = open_other_parts(gguf, &split, flags, err);
    return status ? status : sharpi_gguf_make_tensors(gguf, flags, err);
}

static int32_t finish(struct sharpi_gguf *gguf, int32_t status, struct sharpi_gguf **out)
{
    if (status)
        sharpi_gguf_close(gguf);
    else
        *out = gguf;
    return status;
}

int32_t sharpi_gguf_open(const char *path, uint32_t flags, struct sharpi_gguf **out, struct sharpi_error *err)
{
    *out = NULL;
    struct sharpi_gguf *gguf = new_gguf();
    if (!gguf)
        return sharpi_fail(err, SHARPI_ENOMEM, "%.256s: no memory to open the file", path);
    int32_t status = map_file(&gguf->parts[0], path, err);
    if (!status)
        status = load(gguf, flags, err);
    return finish(gguf, status, out);
}

int32_t sharpi_gguf_open_memory(const void *bytes, uint64_t n_bytes, const char *name, uint32_t flags,
                                struct sharpi_gguf **out, struct sharpi_error *err)
{
    *out = NULL;
    struct sharpi_gguf *gguf = new_gguf();
    if (!gguf)
        return sharpi_fail(err, SHARPI_ENOMEM, "%.256s: no memory to open the file", name);
    gguf->parts[0].bytes = bytes;
    gguf->parts[0].n_bytes = n_bytes;
    int32_t status = set_path(&gguf->parts[0], name, err);
    if (!status)
        status = load(gguf, flags, err);
    return finish(gguf, status, out);
}

void sharpi_gguf_close(struct sharpi_gguf *gguf)
{
    if (!gguf)
        return;
    for (uint32_t i = 0; i < gguf->n_parts; i++) {
        struct sharpi_gguf_part *part = &gguf->parts[i];
        sharpi_gguf_header_free(&part->header);
        if (part->mapped)
            munmap((void *)(uintptr_t)part->bytes, part->n_bytes);
        free(part->path);
    }
    sharpi_gguf_index_free(&gguf->tensor_index);
    free(gguf->parts);
    free(gguf->tensors);
    free(gguf->names);
    free(gguf);
}

void sharpi_gguf_forget_metadata(const struct sharpi_gguf *gguf)
{
    const uint64_t page = 4096;
    for (uint32_t i = 0; i < gguf->n_parts; i++) {
        const struct sharpi_gguf_part *part = &gguf->parts[i];
        uint64_t end = part->header.data_start < part->n_bytes ? part->header.data_start : part->n_bytes;
        if (part->mapped)
            madvise((void *)(uintptr_t)part->bytes, end / page * page, MADV_DONTNEED);
    }
}
