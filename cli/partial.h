/* A file that is being fetched: NAME.partial beside its final place, locked, hashed as it grows, kept for a later run. */
#ifndef SHARPI_CLI_PARTIAL_H
#define SHARPI_CLI_PARTIAL_H

#include <nettle/sha2.h>

#include <sharpi/plugin/tensor.h>

enum { VALIDATOR_MAX = 256 };

struct partial {
    int fd; /* -1 when closed */
    uint64_t n;
    struct sha256_ctx hash; /* of the n bytes */
    /* What the server called this version of the file (ETag or date), kept in NAME.partial.version, so that a later run does
     * not join parts of two versions. "" = not known. */
    char validator[VALIDATOR_MAX];
    char *target, *path, *version_path;
};

/* Opens or makes it. What is there is kept (and read, for its hash) when its version is known or `trusted`: somebody will
 * compare the whole with a known sum. */
int32_t partial_open(struct partial *p, const char *target, int trusted, struct sharpi_error *err);
int32_t partial_write(struct partial *p, const void *data, size_t n, struct sharpi_error *err);
/* From nothing, as the version that the server calls `validator`. */
int32_t partial_restart(struct partial *p, const char *validator, struct sharpi_error *err);
/* Compares with `sha256` (or NULL) and moves the file to its place. A wrong sum removes it: continuing would not help. */
int32_t partial_finish(struct partial *p, const char *sha256, struct sharpi_error *err);
void partial_close(struct partial *p);

/* The sum of a whole file, 64 digits and NUL. */
int32_t file_sha256(const char *path, char digits[65], struct sharpi_error *err);

#endif
