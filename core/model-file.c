/* See model-file.h. The arena is a list of blocks, freed together; its lock makes file_alloc safe on a file that is
 * otherwise read-only. */
#include "model-file.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_KEY = 256 };

struct block {
    struct block *next;
    _Alignas(64) char bytes[];
};

struct arena {
    pthread_mutex_t lock;
    struct block *blocks;
};

struct sharpi_model_file {
    struct sharpi_gguf *gguf;
    struct arena *arena;
    const char *arch;
};

void *sharpi_model_file_alloc(const struct sharpi_model_file *file, uint64_t n_bytes)
{
    struct block *block;
    uint64_t total;
    /* aligned_alloc wants a multiple of the alignment. */
    if (__builtin_add_overflow(n_bytes, sizeof *block + 63, &total) || total > PTRDIFF_MAX)
        return NULL;
    total &= ~(uint64_t)63;
    block = aligned_alloc(64, total);
    if (!block)
        return NULL;
    memset(block, 0, total);
    pthread_mutex_lock(&file->arena->lock);
    block->next = file->arena->blocks;
    file->arena->blocks = block;
    pthread_mutex_unlock(&file->arena->lock);
    return block->bytes;
}

static struct arena *arena_create(void)
{
    struct arena *arena = calloc(1, sizeof *arena);
    if (arena && pthread_mutex_init(&arena->lock, NULL) != 0) {
        free(arena);
        return NULL;
    }
    return arena;
}

static void arena_destroy(struct arena *arena)
{
    if (!arena)
        return;
    while (arena->blocks) {
        struct block *next = arena->blocks->next;
        free(arena->blocks);
        arena->blocks = next;
    }
    pthread_mutex_destroy(&arena->lock);
    free(arena);
}

static int32_t read_arch(struct sharpi_model_file *file, struct sharpi_error *err)
{
    int32_t status = sharpi_model_file_string(file, "general.architecture", &file->arch, err);
    if (status == SHARPI_ENOENT || (!status && !*file->arch))
        return sharpi_fail(
            err, SHARPI_EFORMAT,
            "%.200s: no general.architecture: not a model, or a part of one that is not the first",
            sharpi_gguf_path(file->gguf));
    return status;
}

int32_t sharpi_model_file_adopt(struct sharpi_gguf *gguf, struct sharpi_model_file **out,
                                struct sharpi_error *err)
{
    struct sharpi_model_file *file = calloc(1, sizeof *file);
    int32_t status;
    *out = NULL;
    if (!file) {
        sharpi_gguf_close(gguf);
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a model file");
    }
    file->gguf = gguf;
    file->arena = arena_create();
    status =
        file->arena ? read_arch(file, err) : sharpi_fail(err, SHARPI_ENOMEM, "no memory for a model file");
    if (status)
        sharpi_model_file_close(file);
    else
        *out = file;
    return status;
}

int32_t sharpi_model_file_open(const char *path, uint32_t flags, struct sharpi_model_file **out,
                               struct sharpi_error *err)
{
    struct sharpi_gguf *gguf;
    int32_t status = sharpi_gguf_open(path, flags, &gguf, err);
    *out = NULL;
    return status ? status : sharpi_model_file_adopt(gguf, out, err);
}

void sharpi_model_file_close(struct sharpi_model_file *file)
{
    if (!file)
        return;
    arena_destroy(file->arena);
    sharpi_gguf_close(file->gguf);
    free(file);
}

const struct sharpi_gguf *sharpi_model_file_gguf(const struct sharpi_model_file *file)
{
    return file->gguf;
}

/* ---- Metadata */

/* The key with the architecture in front when it begins with '.'; `buffer` has MAX_KEY bytes. NULL when it is too
 * long to be in any file. */
static const char *full_key(const struct sharpi_model_file *file, const char *key, char *buffer)
{
    if (key[0] != '.')
        return key;
    return snprintf(buffer, MAX_KEY, "%s%s", file->arch, key) < MAX_KEY ? buffer : NULL;
}

int32_t sharpi_model_file_u64(const struct sharpi_model_file *file, const char *key, uint64_t *out,
                              struct sharpi_error *err)
{
    char buffer[MAX_KEY];
    const char *full = full_key(file, key, buffer);
    return full ? sharpi_gguf_u64(file->gguf, full, out, err) : SHARPI_ENOENT;
}

int32_t sharpi_model_file_f64(const struct sharpi_model_file *file, const char *key, double *out,
                              struct sharpi_error *err)
{
    char buffer[MAX_KEY];
    const char *full = full_key(file, key, buffer);
    return full ? sharpi_gguf_f64(file->gguf, full, out, err) : SHARPI_ENOENT;
}

int32_t sharpi_model_file_string(const struct sharpi_model_file *file, const char *key, const char **out,
                                 struct sharpi_error *err)
{
    char buffer[MAX_KEY], *copy;
    const char *full = full_key(file, key, buffer);
    struct sharpi_str value;
    int32_t status = full ? sharpi_gguf_string(file->gguf, full, &value, err) : SHARPI_ENOENT;
    if (status)
        return status;
    if (memchr(value.data, '\0', value.n))
        return sharpi_fail(err, SHARPI_EFORMAT, "%.200s: %s has a NUL byte", sharpi_model_file_path(file),
                           full);
    copy = sharpi_model_file_alloc(file, value.n + 1);
    if (!copy)
        return sharpi_fail(err, SHARPI_ENOMEM, "%.200s: no memory for %s", sharpi_model_file_path(file),
                           full);
    memcpy(copy, value.data, value.n);
    *out = copy;
    return SHARPI_OK;
}

/* The value of `key`, and in *n its length as an array, 0 for a scalar. NULL when absent. */
static const struct sharpi_gguf_value *find_array(const struct sharpi_model_file *file, const char *key,
                                                  uint64_t *n)
{
    char buffer[MAX_KEY];
    const char *full = full_key(file, key, buffer);
    const struct sharpi_gguf_value *value = full ? sharpi_gguf_find(file->gguf, full) : NULL;
    if (value && n)
        *n = value->type == SHARPI_GGUF_ARRAY ? value->n : 0;
    return value;
}

int32_t sharpi_model_file_array_u64(const struct sharpi_model_file *file, const char *key, uint64_t index,
                                    uint64_t *out, uint64_t *n, struct sharpi_error *err)
{
    const struct sharpi_gguf_value *value = find_array(file, key, n);
    if (!value)
        return SHARPI_ENOENT;
    if (value->type != SHARPI_GGUF_ARRAY)
        return sharpi_model_file_u64(file, key, out, err);
    return sharpi_gguf_array_u64(file->gguf, value, index, out, err);
}

int32_t sharpi_model_file_array_f64(const struct sharpi_model_file *file, const char *key, uint64_t index,
                                    double *out, uint64_t *n, struct sharpi_error *err)
{
    const struct sharpi_gguf_value *value = find_array(file, key, n);
    if (!value)
        return SHARPI_ENOENT;
    if (value->type != SHARPI_GGUF_ARRAY)
        return sharpi_model_file_f64(file, key, out, err);
    return sharpi_gguf_array_f64(file->gguf, value, index, out, err);
}

const struct sharpi_tensor *sharpi_model_file_tensor(const struct sharpi_model_file *file, const char *name)
{
    return sharpi_gguf_tensor(file->gguf, name);
}

const char *sharpi_model_file_arch(const struct sharpi_model_file *file)
{
    return file->arch;
}

const char *sharpi_model_file_path(const struct sharpi_model_file *file)
{
    return sharpi_gguf_path(file->gguf);
}
