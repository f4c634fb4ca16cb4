/* Saved prefixes: files of KV pages that survive a restart. This part knows files; what is in the bytes the caller knows.
 *
 * A file NAME.kv holds a stamp (which model, which formats), tokens, and the pages' bytes, compressed; everything has a
 * checksum. Reading and writing is done by a thread of its own. Files are only trusted as far as they were checked: a corrupt
 * one, or one of another model, is named once in the log and left alone.
 *
 * Invariant: an entry's tokens were checked when it was indexed; its bytes are checked on each load and have exactly the
 * expected size.
 */
#ifndef SHARPI_CORE_PROMPT_CACHE_H
#define SHARPI_CORE_PROMPT_CACHE_H

#include "log.h"

#define SHARPI_PROMPT_CLASSES 16u

struct sharpi_prompt_cache;

struct sharpi_prompt_cache_options {
    const char *dir;     /* must exist */
    const char *stamp;   /* what a file must agree with, as text */
    uint64_t max_bytes;  /* oldest files are removed above it */
    uint32_t max_tokens; /* longest prefix that can be of use */
    uint32_t n_classes;  /* at most SHARPI_PROMPT_CLASSES */
    struct sharpi_log *log;
    void (*wake)(void *user); /* a load is done; from the cache's thread */
    void *user;
};

/* A prefix in memory. `first` says per class from which page on the bytes hold it. */
struct sharpi_prompt_data {
    uint32_t n_tokens;
    uint32_t first[SHARPI_PROMPT_CLASSES];
    const int32_t *tokens;
    uint64_t n_bytes;
    uint8_t *bytes;
};

int32_t sharpi_prompt_cache_open(const struct sharpi_prompt_cache_options *options,
                                 struct sharpi_prompt_cache **out, struct sharpi_error *err);
/* Finishes saving first. NULL is fine. */
void sharpi_prompt_cache_close(struct sharpi_prompt_cache *cache);
void sharpi_prompt_cache_count(struct sharpi_prompt_cache *cache, uint64_t *saves, uint64_t *refused);

/* All calls below: one thread. */

/* How many of the tokens file `i` has in common; *data without bytes. 0 when there is no file i or it is bad. */
uint32_t sharpi_prompt_cache_common(struct sharpi_prompt_cache *cache, uint32_t i, const int32_t *tokens,
                                    uint32_t n_tokens, struct sharpi_prompt_data *data);
uint32_t sharpi_prompt_cache_n(struct sharpi_prompt_cache *cache);

/* Reads file i, whose bytes must be `n_bytes`. SHARPI_OK: *data has them until sharpi_prompt_cache_unload. SHARPI_EFULL: not yet,
 * `wake` will be called. Other: it cannot be read. */
int32_t sharpi_prompt_cache_load(struct sharpi_prompt_cache *cache, uint32_t i, uint64_t n_bytes,
                                 struct sharpi_prompt_data *data);
void sharpi_prompt_cache_unload(struct sharpi_prompt_cache *cache, uint32_t i);

/* Writes a file, later. Takes data->bytes over (malloc) whatever happens. */
void sharpi_prompt_cache_save(struct sharpi_prompt_cache *cache, const struct sharpi_prompt_data *data);

#endif
