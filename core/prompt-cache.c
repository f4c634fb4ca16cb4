/* The index of saved prefixes and the thread that reads and writes them: see prompt-cache.h.
 *
 * The index (names, tokens) belongs to the caller's thread; an entry's `state` and `file.data.bytes`, and the jobs, are
 * guarded by the lock.
 */
#include "prompt-cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "prompt-file.h"

enum state { STATE_IDLE, STATE_WANTED, STATE_LOADED, STATE_BAD };
enum { NAME_DIGITS = 16, MOST_ENTRIES = 4096 };

struct entry {
    struct prompt_file file;
    uint64_t file_bytes;
    int64_t age; /* of the file, seconds of the clock: the lowest goes first */
    int32_t state;
    char name[NAME_DIGITS + 4]; /* 0123456789abcdef.kv */
};

struct save {
    struct save *next;
    struct entry *entry; /* becomes part of the index when it is written */
};

struct sharpi_prompt_cache {
    struct sharpi_prompt_cache_options options;
    char *dir, *stamp;
    struct entry **entries; /* [MOST_ENTRIES] */
    uint32_t n_entries;

    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_t thread;
    uint32_t has_thread, has_lock, closing;
    struct entry *wanted; /* to be read next, one at a time */
    struct save *saves, *written;
    uint64_t n_saved, n_refused, n_pending;
};

static void entry_free(struct entry *entry)
{
    if (!entry)
        return;
    free(entry->file.tokens);
    free(entry->file.data.bytes);
    free(entry);
}

static int32_t path_of(const struct sharpi_prompt_cache *cache, const char *name, char *path, size_t n)
{
    return (size_t)snprintf(path, n, "%s/%s", cache->dir, name) < n ? SHARPI_OK : SHARPI_EINVAL;
}

static void warn(struct sharpi_prompt_cache *cache, const char *text)
{
    sharpi_log_printf(cache->options.log, SHARPI_LOG_WARN, "prompt-cache", "%s", text);
}

/* ---- The folder */

static int32_t is_our_name(const char *name)
{
    return strspn(name, "0123456789abcdef") == NAME_DIGITS && strcmp(name + NAME_DIGITS, ".kv") == 0;
}

static void index_file(struct sharpi_prompt_cache *cache, const char *name)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct entry *entry = calloc(1, sizeof *entry);
    struct stat st;
    char path[4096];
    if (!entry || path_of(cache, name, path, sizeof path) || stat(path, &st)) {
        free(entry);
        return;
    }
    memcpy(entry->name, name, sizeof entry->name);
    entry->file_bytes = (uint64_t)st.st_size;
    entry->age = (int64_t)st.st_mtime;
    if (prompt_file_read_head(path, &cache->options, &entry->file, &err)) {
        cache->n_refused++;
        warn(cache, err.text);
        free(entry);
        return;
    }
    cache->entries[cache->n_entries++] = entry;
}

static int32_t index_folder(struct sharpi_prompt_cache *cache, struct sharpi_error *err)
{
    DIR *dir = opendir(cache->dir);
    const struct dirent *file;
    if (!dir)
        return sharpi_fail(err, SHARPI_EIO, "prompt_cache_dir %s cannot be read: %s", cache->dir,
                           strerror(errno));
    while ((file = readdir(dir)) && cache->n_entries < MOST_ENTRIES) {
        if (is_our_name(file->d_name))
            index_file(cache, file->d_name);
    }
    closedir(dir);
    return SHARPI_OK;
}

static void remove_entry(struct sharpi_prompt_cache *cache, uint32_t i)
{
    char path[4096];
    if (path_of(cache, cache->entries[i]->name, path, sizeof path) == 0)
        unlink(path);
    entry_free(cache->entries[i]);
    cache->entries[i] = cache->entries[--cache->n_entries];
}

static int32_t state_of(struct sharpi_prompt_cache *cache, const struct entry *entry)
{
    int32_t state;
    pthread_mutex_lock(&cache->lock);
    state = entry->state;
    pthread_mutex_unlock(&cache->lock);
    return state;
}

/* Removes the oldest files until the rest is small enough; those being read stay. */
static void trim(struct sharpi_prompt_cache *cache)
{
    while (1) {
        uint64_t sum = 0;
        uint32_t i, oldest = UINT32_MAX;
        for (i = 0; i < cache->n_entries; i++) {
            const struct entry *e = cache->entries[i];
            sum += e->file_bytes;
            if (state_of(cache, e) == STATE_IDLE &&
                (oldest == UINT32_MAX || e->age < cache->entries[oldest]->age))
                oldest = i;
        }
        if (oldest == UINT32_MAX || (sum <= cache->options.max_bytes && cache->n_entries < MOST_ENTRIES))
            return;
        remove_entry(cache, oldest);
    }
}

/* ---- The thread */

static void read_wanted(struct sharpi_prompt_cache *cache, struct entry *entry)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct prompt_file file = entry->file;
    char path[4096];
    int32_t status = path_of(cache, entry->name, path, sizeof path);
    if (!status)
        status = prompt_file_read_bytes(path, &file, &err);
    if (status)
        warn(cache, err.text);
    else
        utimensat(AT_FDCWD, path, NULL, 0); /* used now: the oldest goes first */
    pthread_mutex_lock(&cache->lock);
    entry->file.data.bytes = status ? NULL : file.data.bytes;
    entry->state = status ? STATE_BAD : STATE_LOADED;
    cache->n_refused += status != 0;
    pthread_mutex_unlock(&cache->lock);
    if (cache->options.wake)
        cache->options.wake(cache->options.user);
}

static void write_save(struct sharpi_prompt_cache *cache, struct save *save)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct entry *entry = save->entry;
    char path[4096];
    int32_t status = path_of(cache, entry->name, path, sizeof path);
    if (!status)
        status = prompt_file_write(path, cache->stamp, cache->options.n_classes, &entry->file.data,
                                   &entry->file_bytes, &err);
    free(entry->file.data.bytes);
    free(entry->file.tokens);
    memset(&entry->file, 0, sizeof entry->file);
    if (!status) /* what was written is indexed like any other file */
        status = prompt_file_read_head(path, &cache->options, &entry->file, &err);
    if (status)
        warn(cache, err.text);
    pthread_mutex_lock(&cache->lock);
    if (!status) {
        save->next = cache->written;
        cache->written = save;
        cache->n_saved++;
        save = NULL;
    }
    cache->n_pending--;
    pthread_mutex_unlock(&cache->lock);
    if (save) {
        entry_free(save->entry);
        free(save);
    }
}

static void *cache_main(void *user)
{
    struct sharpi_prompt_cache *cache = user;
    pthread_mutex_lock(&cache->lock);
    while (1) {
        struct entry *wanted = cache->wanted;
        struct save *save = cache->saves;
        if (!wanted && !save && cache->closing)
            break;
        if (!wanted && !save) {
            pthread_cond_wait(&cache->work, &cache->lock);
            continue;
        }
        if (wanted)
            cache->wanted = NULL;
        else
            cache->saves = save->next;
        pthread_mutex_unlock(&cache->lock);
        if (wanted)
            read_wanted(cache, wanted);
        else
            write_save(cache, save);
        pthread_mutex_lock(&cache->lock);
    }
    pthread_mutex_unlock(&cache->lock);
    return NULL;
}

/* ---- Opening */

int32_t sharpi_prompt_cache_open(const struct sharpi_prompt_cache_options *options,
                                 struct sharpi_prompt_cache **out, struct sharpi_error *err)
{
    struct sharpi_prompt_cache *cache = calloc(1, sizeof *cache);
    int32_t status = SHARPI_OK;
    if (!cache)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for the prompt cache");
    cache->options = *options;
    cache->dir = strdup(options->dir);
    cache->stamp = strdup(options->stamp);
    cache->options.dir = cache->dir;
    cache->options.stamp = cache->stamp;
    cache->entries = calloc(MOST_ENTRIES, sizeof *cache->entries);
    if (!cache->dir || !cache->stamp || !cache->entries)
        status = sharpi_fail(err, SHARPI_ENOMEM, "no memory for the prompt cache");
    if (!status)
        status = index_folder(cache, err);
    if (!status) {
        cache->has_lock = !pthread_mutex_init(&cache->lock, NULL) && !pthread_cond_init(&cache->work, NULL);
        if (cache->has_lock)
            trim(cache);
        cache->has_thread = cache->has_lock && !pthread_create(&cache->thread, NULL, cache_main, cache);
        if (!cache->has_thread)
            status = sharpi_fail(err, SHARPI_ENOMEM, "no thread for the prompt cache");
    }
    if (status) {
        sharpi_prompt_cache_close(cache);
        return status;
    }
    *out = cache;
    return SHARPI_OK;
}

static void free_saves(struct save *save)
{
    struct save *next;
    for (; save; save = next) {
        next = save->next;
        entry_free(save->entry);
        free(save);
    }
}

void sharpi_prompt_cache_close(struct sharpi_prompt_cache *cache)
{
    uint32_t i;
    if (!cache)
        return;
    if (cache->has_thread) {
        pthread_mutex_lock(&cache->lock);
        cache->closing = 1;
        pthread_cond_signal(&cache->work);
        pthread_mutex_unlock(&cache->lock);
        pthread_join(cache->thread, NULL);
    }
    if (cache->has_lock) {
        pthread_cond_destroy(&cache->work);
        pthread_mutex_destroy(&cache->lock);
    }
    free_saves(cache->saves);
    free_saves(cache->written);
    for (i = 0; cache->entries && i < cache->n_entries; i++)
        entry_free(cache->entries[i]);
    free(cache->entries);
    free(cache->stamp);
    free(cache->dir);
    free(cache);
}

void sharpi_prompt_cache_count(struct sharpi_prompt_cache *cache, uint64_t *saves, uint64_t *refused)
{
    pthread_mutex_lock(&cache->lock);
    *saves = cache->n_saved;
    *refused = cache->n_refused;
    pthread_mutex_unlock(&cache->lock);
}

/* ---- Finding, loading, saving */

/* Files that were written meanwhile join the index. */
static void take_written(struct sharpi_prompt_cache *cache)
{
    struct save *save, *next;
    uint32_t i;
    pthread_mutex_lock(&cache->lock);
    save = cache->written;
    cache->written = NULL;
    pthread_mutex_unlock(&cache->lock);
    for (; save; save = next) {
        next = save->next;
        for (i = 0; i < cache->n_entries && strcmp(cache->entries[i]->name, save->entry->name); i++)
            ;
        if (i < cache->n_entries || cache->n_entries == MOST_ENTRIES)
            entry_free(save->entry); /* the same file again */
        else
            cache->entries[cache->n_entries++] = save->entry;
        free(save);
        trim(cache);
    }
}

uint32_t sharpi_prompt_cache_n(struct sharpi_prompt_cache *cache)
{
    take_written(cache);
    return cache->n_entries;
}

uint32_t sharpi_prompt_cache_common(struct sharpi_prompt_cache *cache, uint32_t i, const int32_t *tokens,
                                    uint32_t n_tokens, struct sharpi_prompt_data *data)
{
    const struct entry *entry = i < cache->n_entries ? cache->entries[i] : NULL;
    uint32_t n, same;
    if (!entry || state_of(cache, entry) == STATE_BAD)
        return 0;
    n = entry->file.data.n_tokens < n_tokens ? entry->file.data.n_tokens : n_tokens;
    for (same = 0; same < n && entry->file.tokens[same] == tokens[same]; same++)
        ;
    data->n_tokens = entry->file.data.n_tokens;
    memcpy(data->first, entry->file.data.first, sizeof data->first);
    data->tokens = entry->file.tokens;
    data->n_bytes = entry->file.data.n_bytes;
    data->bytes = NULL;
    return same;
}

static void drop_bytes(struct entry *entry)
{
    if (entry->state == STATE_LOADED) {
        free(entry->file.data.bytes);
        entry->file.data.bytes = NULL;
        entry->state = STATE_IDLE;
    }
}

/* Sends the thread to read; bytes of others, for whom nobody came, go. */
static void want(struct sharpi_prompt_cache *cache, struct entry *entry)
{
    for (uint32_t i = 0; i < cache->n_entries; i++)
        drop_bytes(cache->entries[i]);
    entry->state = STATE_WANTED;
    entry->age = (int64_t)time(NULL);
    cache->wanted = entry;
    pthread_cond_signal(&cache->work);
}

int32_t sharpi_prompt_cache_load(struct sharpi_prompt_cache *cache, uint32_t i, uint64_t n_bytes,
                                 struct sharpi_prompt_data *data)
{
    struct entry *entry = cache->entries[i];
    int32_t status = SHARPI_EFULL;
    pthread_mutex_lock(&cache->lock);
    if (entry->file.data.n_bytes != n_bytes && entry->state == STATE_IDLE) {
        entry->state = STATE_BAD;
        cache->n_refused++;
    }
    if (entry->state == STATE_IDLE && !cache->wanted) {
        want(cache, entry);
    } else if (entry->state == STATE_LOADED) {
        *data = entry->file.data;
        status = SHARPI_OK;
    } else if (entry->state == STATE_BAD) {
        status = SHARPI_EFORMAT;
    }
    pthread_mutex_unlock(&cache->lock);
    return status;
}

void sharpi_prompt_cache_unload(struct sharpi_prompt_cache *cache, uint32_t i)
{
    pthread_mutex_lock(&cache->lock);
    drop_bytes(cache->entries[i]);
    pthread_mutex_unlock(&cache->lock);
}

/* FNV-1a over the tokens: a name, not a proof. */
static void name_of(const struct sharpi_prompt_cache *cache, const struct sharpi_prompt_data *data,
                    char *name)
{
    const char *stamp = cache->stamp;
    uint64_t hash = 1469598103934665603u;
    uint32_t i;
    for (; *stamp; stamp++)
        hash = (hash ^ (uint8_t)*stamp) * 1099511628211u;
    for (i = 0; i < data->n_tokens; i++)
        hash = (hash ^ (uint32_t)data->tokens[i]) * 1099511628211u;
    snprintf(name, NAME_DIGITS + 4, "%016llx.kv", (unsigned long long)hash);
}

void sharpi_prompt_cache_save(struct sharpi_prompt_cache *cache, const struct sharpi_prompt_data *data)
{
    enum { MOST_PENDING = 2 }; /* they hold memory */
    struct save *save = calloc(1, sizeof *save);
    struct entry *entry = calloc(1, sizeof *entry);
    int32_t *tokens = malloc(data->n_tokens * sizeof *tokens);
    int32_t queued = 0;
    if (save && entry && tokens) {
        memcpy(tokens, data->tokens, data->n_tokens * sizeof *tokens);
        entry->file.data = *data;
        entry->file.data.tokens = entry->file.tokens = tokens;
        entry->age = (int64_t)time(NULL);
        name_of(cache, data, entry->name);
        save->entry = entry;
        pthread_mutex_lock(&cache->lock);
        if (cache->n_pending < MOST_PENDING) {
            cache->n_pending++;
            save->next = cache->saves;
            cache->saves = save;
            queued = 1;
            pthread_cond_signal(&cache->work);
        }
        pthread_mutex_unlock(&cache->lock);
    }
    if (!queued) {
        free(save);
        free(entry);
        free(tokens);
        free(data->bytes);
    }
}
