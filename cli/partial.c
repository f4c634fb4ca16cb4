/* Files that are being fetched: see partial.h.
 *
 * Invariant: a file under its final name is complete, and has the known sum if there was one. Who holds the lock on the
 * partial file is the only one to write it.
 */
#include "partial.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 1 << 16 };

static int32_t fail_io(const char *what, const char *path, struct sharpi_error *err)
{
    return sharpi_fail(err, SHARPI_EIO, "cannot %s %s: %s", what, path, strerror(errno));
}

/* Reads all that is behind `fd` into the sum. */
static int32_t hash_all(int fd, const char *path, struct sha256_ctx *hash, uint64_t *n,
                        struct sharpi_error *err)
{
    uint8_t *block = malloc(BLOCK);
    ssize_t got = 0;
    if (!block)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to read %s", path);
    sha256_init(hash);
    for (*n = 0; (got = read(fd, block, BLOCK)) > 0; *n += (uint64_t)got)
        sha256_update(hash, (size_t)got, block);
    free(block);
    return got < 0 ? fail_io("read", path, err) : SHARPI_OK;
}

static void digits_of(struct sha256_ctx *hash, char digits[65])
{
    uint8_t sum[SHA256_DIGEST_SIZE];
    sha256_digest(hash, sizeof sum, sum);
    for (uint32_t i = 0; i < sizeof sum; i++)
        snprintf(digits + (size_t)2 * i, 3, "%02x", sum[i]);
}

int32_t file_sha256(const char *path, char digits[65], struct sharpi_error *err)
{
    struct sha256_ctx hash;
    uint64_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int32_t status = fd < 0 ? fail_io("open", path, err) : hash_all(fd, path, &hash, &n, err);
    if (fd >= 0)
        close(fd);
    if (!status)
        digits_of(&hash, digits);
    return status;
}

/* Opens and locks. Between the two another process may have moved the file to its final place: then it is not ours. */
static int32_t open_locked(struct partial *p, struct sharpi_error *err)
{
    struct stat mine, there;
    for (;;) {
        p->fd = open(p->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (p->fd < 0)
            return fail_io("create", p->path, err);
        if (flock(p->fd, LOCK_EX | LOCK_NB))
            return errno == EWOULDBLOCK
                       ? sharpi_fail(err, SHARPI_EINVAL, "%s is being fetched by another process", p->target)
                       : fail_io("lock", p->path, err);
        if (fstat(p->fd, &mine) == 0 && stat(p->path, &there) == 0 && mine.st_ino == there.st_ino &&
            mine.st_dev == there.st_dev)
            break;
        close(p->fd);
        p->fd = -1;
    }
    return S_ISREG(mine.st_mode) ? SHARPI_OK
                                 : sharpi_fail(err, SHARPI_EINVAL, "%s is not a regular file", p->path);
}

static void read_validator(struct partial *p)
{
    FILE *file = fopen(p->version_path, "r");
    if (file && fgets(p->validator, VALIDATOR_MAX, file))
        p->validator[strcspn(p->validator, "\r\n")] = '\0';
    if (file)
        fclose(file);
}

int32_t partial_open(struct partial *p, const char *target, int trusted, struct sharpi_error *err)
{
    int32_t status;
    *p = (struct partial){.fd = -1};
    p->target = strdup(target);
    if (!p->target || asprintf(&p->path, "%s.partial", target) < 0 ||
        asprintf(&p->version_path, "%s.partial.version", target) < 0) {
        status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for a path");
    } else if (!(status = open_locked(p, err))) {
        read_validator(p);
        status = hash_all(p->fd, p->path, &p->hash, &p->n, err);
        if (!status && p->n && !trusted && !p->validator[0])
            status = partial_restart(p, "", err);
    }
    if (status)
        partial_close(p);
    return status;
}

int32_t partial_write(struct partial *p, const void *data, size_t n, struct sharpi_error *err)
{
    const uint8_t *at = data;
    while (n > 0) {
        ssize_t done = write(p->fd, at, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return fail_io("write", p->path, err);
        sha256_update(&p->hash, (size_t)done, at);
        p->n += (uint64_t)done;
        at += done;
        n -= (size_t)done;
    }
    return SHARPI_OK;
}

int32_t partial_restart(struct partial *p, const char *validator, struct sharpi_error *err)
{
    FILE *file;
    if (ftruncate(p->fd, 0) || lseek(p->fd, 0, SEEK_SET) != 0)
        return fail_io("write", p->path, err);
    p->n = 0;
    sha256_init(&p->hash);
    snprintf(p->validator, sizeof p->validator, "%s", validator);
    unlink(p->version_path);
    /* Best effort: without the version a later run begins anew. */
    if (*validator && (file = fopen(p->version_path, "w"))) {
        fprintf(file, "%s\n", validator);
        fclose(file);
    }
    return SHARPI_OK;
}

int32_t partial_finish(struct partial *p, const char *sha256, struct sharpi_error *err)
{
    char digits[65];
    digits_of(&p->hash, digits);
    if (sha256 && strcasecmp(digits, sha256) != 0) {
        unlink(p->path);
        unlink(p->version_path);
        return sharpi_fail(
            err, SHARPI_EFORMAT,
            "what arrived is not the right file: its sha256 is %s, expected was %s; it was removed", digits,
            sha256);
    }
    if (fsync(p->fd))
        return fail_io("write", p->path, err);
    if (rename(p->path, p->target))
        return sharpi_fail(err, SHARPI_EIO, "cannot rename %s to %s: %s", p->path, p->target,
                           strerror(errno));
    unlink(p->version_path);
    return SHARPI_OK;
}

void partial_close(struct partial *p)
{
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
    free(p->target);
    free(p->path);
    free(p->version_path);
    p->target = p->path = p->version_path = NULL;
}
