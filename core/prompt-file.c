/* Reading and writing saved prefixes: see prompt-file.h. Nothing in a file is believed before its checksum and its size are. */
#include "prompt-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { FILE_VERSION = 1, MOST_STAMP = 1 << 20, BLOCK = 1 << 16 };

struct head {
    char magic[8];
    uint32_t version;
    uint32_t crc; /* of the header with 0 here, and of all before the bytes */
    uint32_t n_stamp, n_classes, n_tokens;
    uint32_t bytes_crc;
    uint64_t n_bytes, n_packed;
};

static const char magic[8] = {'S', 'H', 'A', 'R', 'P', 'I', 'K', 'V'};

/* zlib counts in 32 bits. */
static uint32_t crc_of(uint32_t crc, const void *data, uint64_t n)
{
    const uint8_t *at = data;
    while (n) {
        uInt part = n < (1u << 30) ? (uInt)n : 1u << 30;
        crc = (uint32_t)crc32(crc, at, part);
        at += part;
        n -= part;
    }
    return crc;
}

static FILE *open_file(const char *path, uint64_t *n_bytes, struct sharpi_error *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    FILE *file = NULL;
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        file = fdopen(fd, "rb");
    if (!file) {
        sharpi_fail(err, SHARPI_EIO, "%s cannot be opened: %s", path,
                    fd < 0 ? strerror(errno) : "no plain file");
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    *n_bytes = (uint64_t)st.st_size;
    return file;
}

static int32_t broken(struct sharpi_error *err, const char *path, const char *what)
{
    return sharpi_fail(err, SHARPI_EFORMAT, "%s is broken: %s", path, what);
}

/* ---- Reading */

static int32_t check_head(const struct head *h, const char *path, uint64_t file_bytes,
                          const struct sharpi_prompt_cache_options *o, struct sharpi_error *err)
{
    uint64_t rest;
    if (memcmp(h->magic, magic, sizeof magic))
        return broken(err, path, "it does not begin like a saved prefix");
    if (h->version != FILE_VERSION)
        return sharpi_fail(err, SHARPI_ENOTSUP, "%s is of version %u, this program reads %d", path,
                           h->version, FILE_VERSION);
    if (h->n_stamp > MOST_STAMP || h->n_tokens == 0)
        return broken(err, path, "its sizes cannot be");
    if (h->n_stamp != strlen(o->stamp) || h->n_classes != o->n_classes || h->n_tokens > o->max_tokens)
        return sharpi_fail(err, SHARPI_ENOTSUP, "%s is of another model, cache format or context", path);
    rest = sizeof *h + h->n_stamp + 4ull * h->n_classes + 4ull * h->n_tokens;
    if (file_bytes < rest || file_bytes - rest != h->n_packed)
        return broken(err, path, "it is shorter or longer than it says");
    return SHARPI_OK;
}

/* Stamp, first pages and tokens, after a header that was checked. */
static int32_t read_rest(FILE *file, struct head *h, const char *path,
                         const struct sharpi_prompt_cache_options *o, struct prompt_file *out,
                         struct sharpi_error *err)
{
    uint32_t expected = h->crc, crc, *first = out->data.first;
    char *stamp = malloc(h->n_stamp + 1);
    int32_t status = SHARPI_OK;
    out->tokens = malloc(h->n_tokens * sizeof *out->tokens);
    if (!stamp || !out->tokens) {
        status = sharpi_fail(err, SHARPI_ENOMEM, "no memory to read %s", path);
    } else if (fread(stamp, 1, h->n_stamp, file) != h->n_stamp ||
               fread(first, sizeof *first, h->n_classes, file) != h->n_classes ||
               fread(out->tokens, sizeof *out->tokens, h->n_tokens, file) != h->n_tokens) {
        status = sharpi_fail(err, SHARPI_EIO, "%s cannot be read", path);
    } else {
        h->crc = 0;
        crc = crc_of(crc_of(0, h, sizeof *h), stamp, h->n_stamp);
        crc = crc_of(crc, first, sizeof *first * h->n_classes);
        crc = crc_of(crc, out->tokens, sizeof *out->tokens * h->n_tokens);
        if (crc != expected)
            status = broken(err, path, "the checksum of its header does not agree");
        else if (memcmp(stamp, o->stamp, h->n_stamp))
            status =
                sharpi_fail(err, SHARPI_ENOTSUP, "%s is of another model, cache format or context", path);
    }
    free(stamp);
    return status;
}

int32_t prompt_file_read_head(const char *path, const struct sharpi_prompt_cache_options *options,
                              struct prompt_file *out, struct sharpi_error *err)
{
    struct head h;
    uint64_t file_bytes = 0;
    FILE *file = open_file(path, &file_bytes, err);
    int32_t status;
    memset(out, 0, sizeof *out);
    if (!file)
        return SHARPI_EIO;
    if (fread(&h, sizeof h, 1, file) != 1)
        status = broken(err, path, "it is shorter than a header");
    else if (!(status = check_head(&h, path, file_bytes, options, err)))
        status = read_rest(file, &h, path, options, out, err);
    fclose(file);
    if (status) {
        free(out->tokens);
        out->tokens = NULL;
        return status;
    }
    out->data.n_tokens = h.n_tokens;
    out->data.tokens = out->tokens;
    out->data.n_bytes = h.n_bytes;
    out->offset = file_bytes - h.n_packed;
    out->n_packed = h.n_packed;
    out->crc = h.bytes_crc;
    return SHARPI_OK;
}

/* Inflates the rest of the file into exactly n bytes. */
static int32_t inflate_all(FILE *file, const char *path, uint8_t *to, uint64_t n, struct sharpi_error *err)
{
    uint8_t in[BLOCK];
    z_stream z = {.next_in = in};
    uint64_t done = 0;
    int code = inflateInit(&z) == Z_OK ? Z_OK : Z_MEM_ERROR;
    while (code == Z_OK) {
        uint64_t room = n - done;
        if (z.avail_in == 0) {
            z.next_in = in;
            z.avail_in = (uInt)fread(in, 1, sizeof in, file);
        }
        z.next_out = to + done;
        z.avail_out = room < BLOCK * 64u ? (uInt)room : BLOCK * 64u;
        room = z.avail_out;
        code = inflate(
            &z, Z_NO_FLUSH); /* Z_BUF_ERROR without input or room: the stream is too short or too long */
        done += room - z.avail_out;
    }
    inflateEnd(&z);
    if (code == Z_MEM_ERROR)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to unpack %s", path);
    return code == Z_STREAM_END && done == n ? SHARPI_OK : broken(err, path, "its bytes do not unpack");
}

int32_t prompt_file_read_bytes(const char *path, struct prompt_file *file, struct sharpi_error *err)
{
    uint64_t file_bytes = 0;
    FILE *f = open_file(path, &file_bytes, err);
    int32_t status = SHARPI_OK;
    uint8_t *bytes;
    if (!f)
        return SHARPI_EIO;
    bytes = malloc(file->data.n_bytes + 1);
    if (!bytes)
        status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for %s: %llu bytes", path,
                             (unsigned long long)file->data.n_bytes);
    else if (fseeko(f, (off_t)file->offset, SEEK_SET))
        status = sharpi_fail(err, SHARPI_EIO, "%s cannot be read", path);
    else if (!(status = inflate_all(f, path, bytes, file->data.n_bytes, err)) &&
             crc_of(0, bytes, file->data.n_bytes) != file->crc)
        status = broken(err, path, "the checksum of its bytes does not agree");
    fclose(f);
    if (status)
        free(bytes);
    else
        file->data.bytes = bytes;
    return status;
}

/* ---- Writing */

static int32_t deflate_all(FILE *file, const uint8_t *bytes, uint64_t n, uint64_t *n_packed)
{
    uint8_t out[BLOCK];
    z_stream z = {.next_in = NULL};
    int code = deflateInit(&z, 1); /* speed: most of it is noise of floats */
    *n_packed = 0;
    while (code == Z_OK) {
        if (z.avail_in == 0) {
            z.next_in = (Bytef *)(uintptr_t)bytes;
            z.avail_in = n < (1u << 30) ? (uInt)n : 1u << 30;
            bytes += z.avail_in;
            n -= z.avail_in;
        }
        z.next_out = out;
        z.avail_out = sizeof out;
        code = deflate(&z, n ? Z_NO_FLUSH : Z_FINISH);
        if (fwrite(out, 1, sizeof out - z.avail_out, file) != sizeof out - z.avail_out)
            code = Z_ERRNO;
        *n_packed += sizeof out - z.avail_out;
    }
    deflateEnd(&z);
    return code == Z_STREAM_END ? 0 : -1;
}

static int32_t write_all(FILE *file, const char *stamp, uint32_t n_classes,
                         const struct sharpi_prompt_data *data, uint64_t *n_written)
{
    struct head h = {.version = FILE_VERSION,
                     .n_stamp = (uint32_t)strlen(stamp),
                     .n_classes = n_classes,
                     .n_tokens = data->n_tokens,
                     .bytes_crc = crc_of(0, data->bytes, data->n_bytes),
                     .n_bytes = data->n_bytes};
    uint32_t crc;
    memcpy(h.magic, magic, sizeof magic);
    if (fwrite(&h, sizeof h, 1, file) != 1 || fwrite(stamp, 1, h.n_stamp, file) != h.n_stamp ||
        fwrite(data->first, sizeof *data->first, n_classes, file) != n_classes ||
        fwrite(data->tokens, sizeof *data->tokens, data->n_tokens, file) != data->n_tokens ||
        deflate_all(file, data->bytes, data->n_bytes, &h.n_packed))
        return -1;
    crc = crc_of(crc_of(0, &h, sizeof h), stamp, h.n_stamp);
    crc = crc_of(crc, data->first, sizeof *data->first * n_classes);
    h.crc = crc_of(crc, data->tokens, sizeof *data->tokens * data->n_tokens);
    *n_written = (uint64_t)ftello(file);
    return fseeko(file, 0, SEEK_SET) || fwrite(&h, sizeof h, 1, file) != 1 || fflush(file) ? -1 : 0;
}

int32_t prompt_file_write(const char *path, const char *stamp, uint32_t n_classes,
                          const struct sharpi_prompt_data *data, uint64_t *n_written,
                          struct sharpi_error *err)
{
    char temporary[4096];
    FILE *file;
    int fd, failed;
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >= sizeof temporary)
        return sharpi_fail(err, SHARPI_EINVAL, "%s: the path is too long", path);
    fd = mkostemp(temporary, O_CLOEXEC); /* 0600: prompts are private */
    file = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (!file) {
        int code = errno;
        if (fd >= 0) {
            close(fd);
            unlink(temporary);
        }
        return sharpi_fail(err, SHARPI_EIO, "%s cannot be written: %s", path, strerror(code));
    }
    failed = write_all(file, stamp, n_classes, data, n_written);
    failed = fclose(file) || failed || rename(temporary, path);
    if (failed) {
        int32_t status = sharpi_fail(err, SHARPI_EIO, "%s cannot be written: %s", path, strerror(errno));
        unlink(temporary);
        return status;
    }
    return SHARPI_OK;
}
