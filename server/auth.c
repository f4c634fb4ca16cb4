/* API keys: see auth.h. */
#include "auth.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BLANKS " \t\r\n,"

/* ---- Reading */

struct key_list {
    uint32_t n;
    struct api_key *items;
};

static int32_t add_key(struct key_list *list, const char *text, size_t n, const char *from,
                       struct sharpi_error *err)
{
    struct api_key *bigger;
    if (n >= API_KEY_BYTES)
        return sharpi_fail(err, SHARPI_EINVAL, "%s: a key has %zu bytes, at most %d are possible", from, n,
                           API_KEY_BYTES - 1);
    if (list->n == API_KEYS_MAX)
        return sharpi_fail(err, SHARPI_EINVAL, "%s: more than %d keys", from, API_KEYS_MAX);
    bigger = realloc(list->items, (list->n + 1) * sizeof *bigger);
    if (!bigger)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for API keys");
    list->items = bigger;
    memset(&bigger[list->n], 0, sizeof *bigger);
    memcpy(bigger[list->n++].text, text, n);
    return SHARPI_OK;
}

static int32_t add_words(struct key_list *list, const char *text, const char *from, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    while (!status && *(text += strspn(text, BLANKS))) {
        size_t n = strcspn(text, BLANKS);
        status = add_key(list, text, n, from, err);
        text += n;
    }
    return status;
}

static int32_t read_lines(struct key_list *list, FILE *file, const char *path, struct sharpi_error *err)
{
    char line[4096];
    uint32_t before = list->n;
    int32_t status = SHARPI_OK;
    while (!status && fgets(line, sizeof line, file)) {
        line[strcspn(line, "#")] = 0;
        status = add_words(list, line, path, err);
    }
    if (!status && ferror(file))
        status = sharpi_fail(err, SHARPI_EIO, "cannot read the API keys in %s: %s", path, strerror(errno));
    if (!status && list->n == before)
        status = sharpi_fail(err, SHARPI_EINVAL,
                             "%s holds no API key: put one a line, or leave the file out to serve everybody",
                             path);
    return status;
}

static int32_t read_file(struct key_list *list, const char *path, struct sharpi_error *err)
{
    FILE *file = fopen(path, "re");
    int32_t status;
    if (!file)
        return sharpi_fail(err, SHARPI_EIO, "cannot open the API keys in %s: %s", path, strerror(errno));
    status = read_lines(list, file, path, err);
    fclose(file);
    return status;
}

int32_t api_keys_reload(struct api_keys *keys, struct sharpi_error *err)
{
    struct key_list list = {0, NULL};
    struct api_key *old;
    int32_t status = keys->file ? read_file(&list, keys->file, err) : SHARPI_OK;
    if (!status && keys->given)
        status = add_words(&list, keys->given, "SHARPI_API_KEY", err);
    if (status) {
        free(list.items);
        return status;
    }
    pthread_mutex_lock(&keys->lock);
    old = keys->items;
    keys->items = list.items;
    keys->n = list.n;
    pthread_mutex_unlock(&keys->lock);
    free(old);
    return SHARPI_OK;
}

int32_t api_keys_init(struct api_keys *keys, const char *file, const char *given, struct sharpi_error *err)
{
    memset(keys, 0, sizeof *keys);
    if (pthread_mutex_init(&keys->lock, NULL))
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for a lock");
    keys->file = file;
    keys->given = given;
    return api_keys_reload(keys, err);
}

void api_keys_free(struct api_keys *keys)
{
    free(keys->items);
    keys->items = NULL;
    keys->n = 0;
    pthread_mutex_destroy(&keys->lock);
}

uint32_t api_keys_count(struct api_keys *keys)
{
    uint32_t n;
    pthread_mutex_lock(&keys->lock);
    n = keys->n;
    pthread_mutex_unlock(&keys->lock);
    return n;
}

/* ---- Checking */

static int32_t is_equal(const struct api_key *a, const struct api_key *b)
{
    volatile uint8_t difference = 0;
    for (uint32_t i = 0; i < API_KEY_BYTES; i++)
        difference = (uint8_t)(difference | (a->text[i] ^ b->text[i]));
    return difference == 0;
}

static int32_t is_known(struct api_keys *keys, const char *text)
{
    struct api_key candidate;
    size_t n = text ? strlen(text) : 0;
    volatile int32_t found = 0;
    memset(&candidate, 0, sizeof candidate);
    if (n == 0 || n >= API_KEY_BYTES)
        return 0;
    memcpy(candidate.text, text, n);
    for (uint32_t i = 0; i < keys->n; i++)
        found = found | is_equal(&candidate, &keys->items[i]);
    return found;
}

int32_t api_keys_allow(struct api_keys *keys, const char *authorization, const char *x_api_key)
{
    const char *bearer = NULL;
    int32_t allowed;
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0)
        bearer = authorization + 7 + strspn(authorization + 7, " ");
    pthread_mutex_lock(&keys->lock);
    allowed = keys->n == 0;
    if (!allowed)
        allowed = is_known(keys, bearer) | is_known(keys, x_api_key);
    pthread_mutex_unlock(&keys->lock);
    return allowed;
}
