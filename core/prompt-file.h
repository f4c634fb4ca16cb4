/* The format of a saved prefix:
 *     header | stamp | first page per class, u32 each | tokens, i32 each | the bytes, a zlib stream
 * in the machine's byte order; the magic number tells another one. */
#ifndef SHARPI_CORE_PROMPT_FILE_H
#define SHARPI_CORE_PROMPT_FILE_H

#include "prompt-cache.h"

/* What stands before the bytes; tokens: free(). */
struct prompt_file {
    struct sharpi_prompt_data data; /* bytes NULL; n_bytes as the file says */
    int32_t *tokens;
    uint64_t offset;   /* of the zlib stream */
    uint64_t n_packed; /* its length: all of the rest */
    uint32_t crc;      /* of the bytes */
};

/* SHARPI_EFORMAT: broken. SHARPI_ENOTSUP: another stamp, or too long to be of use. SHARPI_EIO. */
int32_t prompt_file_read_head(const char *path, const struct sharpi_prompt_cache_options *options,
                              struct prompt_file *out, struct sharpi_error *err);
/* Fills file->data.bytes with a new buffer of n_bytes. */
int32_t prompt_file_read_bytes(const char *path, struct prompt_file *file, struct sharpi_error *err);
/* Writes beside `path` and renames. *n_written gets the file's size. */
int32_t prompt_file_write(const char *path, const char *stamp, uint32_t n_classes,
                          const struct sharpi_prompt_data *data, uint64_t *n_written,
                          struct sharpi_error *err);

#endif
