/* API keys: who may ask. No keys at all means that everybody may.
 *
 * Invariant: comparing takes as long whatever a wrong key looks like: every key, padded to its full length, is looked at to
 * the end. Keys can be exchanged while requests are checked (SIGHUP).
 */
#ifndef SHARPI_SERVER_AUTH_H
#define SHARPI_SERVER_AUTH_H

#include <pthread.h>

#include <sharpi/plugin/tensor.h>

enum { API_KEYS_MAX = 4096, API_KEY_BYTES = 256 };

struct api_key {
    char text[API_KEY_BYTES]; /* zeros behind it */
};

struct api_keys {
    pthread_mutex_t lock;
    const char *file, *given; /* where they come from; NULL = not from there */
    uint32_t n;
    struct api_key *items;
};

/* Reads the file (one key a line, '#' begins a comment) and the text (separated by blanks or commas). A file without any
 * key is an error: it would open the server to everybody. */
int32_t api_keys_init(struct api_keys *keys, const char *file, const char *given, struct sharpi_error *err);
void api_keys_free(struct api_keys *keys);
/* Reads them again; on an error the old ones stay. */
int32_t api_keys_reload(struct api_keys *keys, struct sharpi_error *err);
uint32_t api_keys_count(struct api_keys *keys);

/* Whether one of the headers carries a key; each may be NULL. 1 too when there are no keys. */
int32_t api_keys_allow(struct api_keys *keys, const char *authorization, const char *x_api_key);

#endif
