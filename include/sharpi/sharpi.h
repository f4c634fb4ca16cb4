/* libsharpi: load a model, make sessions, feed tokens or text, step, sample.
 *
 *     struct sharpi_engine *engine;  sharpi_engine_open(NULL, &engine, &err);
 *     struct sharpi_model *model;    sharpi_model_load(engine, "m.gguf", NULL, &model, &err);
 *     struct sharpi_session *s;      sharpi_session_create(model, &s, &err);
 *     sharpi_session_feed_text(s, "Hello", 5, SHARPI_TEXT_SPECIAL, &err);
 *     while (sharpi_session_next(s, sampler, &token, &err) == 0 && !sharpi_model_is_end(model, token)) ...
 *
 * Objects: engine (configuration, plugins) > model (weights, KV pages) > session (one sequence). Destroy in reverse order;
 * destroying NULL is fine. Threads: a model and its sessions are used by one thread at a time; two models, or an engine's
 * read-only calls, may be used by several. Errors: every call that can fail returns enum sharpi_status and fills `err`, which may
 * be NULL. Nothing here prints, exits or aborts.
 */
#ifndef SHARPI_SHARPI_H
#define SHARPI_SHARPI_H

#include <sharpi/plugin/tensor.h>
#include <sharpi/sampler.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sharpi_engine;
struct sharpi_model;
struct sharpi_session;

SHARPI_API const char *sharpi_version(void);

/* ---- Engine: configuration and plugins */

typedef void sharpi_log_fn(void *user, int32_t level, const char *topic, const char *message);

struct sharpi_engine_options {
    uint32_t size;
    uint32_t no_default_config; /* 1: only `config_path` is read, not the system's and the user's files */
    const char *config_path; /* a sharpi.ini instead of the default ones' precedence; NULL = default search */
    const char *const *overrides; /* "section.key=value" strings, applied last; NULL-terminated; or NULL */
    sharpi_log_fn *log;           /* NULL: messages are dropped */
    void *log_user;
    int32_t log_level; /* enum sharpi_log_level of host.h; messages above are dropped */
    uint32_t reserved;
};

/* Reads the configuration and loads the plugins that it lists. NULL options: all defaults. */
SHARPI_API int32_t sharpi_engine_open(const struct sharpi_engine_options *options, struct sharpi_engine **out,
                                      struct sharpi_error *err);
SHARPI_API void sharpi_engine_close(struct sharpi_engine *engine);

/* ---- Model */

typedef int32_t sharpi_load_progress_fn(void *user, uint64_t done_bytes, uint64_t total_bytes);

struct sharpi_model_options {
    uint32_t size;
    uint32_t context; /* positions per session; 0 = as configured, else what memory allows (docs/memory.md) */
    uint32_t max_sessions; /* sequences with a cache at once; 0 = as configured, else 1 */
    uint32_t chunk; /* most tokens in a step; 0 = as configured, else 512, up to 2,048 where a GPU has room */
    uint32_t headroom;   /* positions kept beyond a window; 0 = as configured, else max(chunk, 4096) */
    uint32_t n_threads;  /* 0 = as configured, else one per core */
    uint32_t no_repack;  /* 1: weights are used from the file mapping */
    uint32_t full_cache; /* 1: windowed layers keep every position, no rings (to compare with) */
    const char *backend; /* whose devices: "cpu"; NULL = as configured, else those of all loaded ones */
    const char
        *kv; /* KV format for all layers: "f32", "f16", "bf16", "q8_0"; NULL = as configured, else f16 */
    const char *kv_global;   /* for layers without window, over `kv`; or NULL */
    const char *kv_swa;      /* for windowed layers, over `kv`; or NULL */
    const char *const *taps; /* values to read after each step ("blk.3.attn_out"), NULL-terminated; or NULL */
    sharpi_load_progress_fn *progress;
    void *progress_user;
};

struct sharpi_model_info {
    uint32_t size; /* set it to sizeof before the call: no more is written */
    uint32_t n_layers, width, n_heads, n_vocab;
    uint32_t context;       /* positions per session, as loaded */
    uint32_t context_model; /* what the model was made for */
    uint32_t max_sessions, chunk;
    uint32_t n_classes; /* KV classes */
    const char *arch, *backend, *name, *path;
    uint64_t file_bytes;
    uint64_t weight_bytes; /* allocated by the backend */
    uint64_t mapped_bytes; /* used from the file mapping */
    uint64_t kv_bytes;
    uint64_t scratch_bytes;
    uint64_t n_parameters;
    uint64_t step_weight_bytes; /* weight bytes that a decode step reads: the floor of decode time */
    uint64_t step_macs;         /* multiply-accumulates of one token in matrix products, attention aside */
};

SHARPI_API int32_t sharpi_model_load(struct sharpi_engine *engine, const char *path,
                                     const struct sharpi_model_options *options, struct sharpi_model **out,
                                     struct sharpi_error *err);
SHARPI_API void sharpi_model_free(struct sharpi_model *model);
SHARPI_API void sharpi_model_get_info(const struct sharpi_model *model, struct sharpi_model_info *info);

/* ---- Text. A model without a tokenizer answers SHARPI_ENOTSUP. */

enum sharpi_text_flags {
    SHARPI_TEXT_SPECIAL = 1, /* put BOS (and EOS) as the model's file asks */
    SHARPI_TEXT_PARSE = 2,   /* control tokens written in the text become their ids */
};

/* *tokens is a new array of *n ids: free() it. */
SHARPI_API int32_t sharpi_model_tokenize(const struct sharpi_model *model, const char *text, uint64_t n_bytes,
                                         uint32_t flags, int32_t **tokens, uint64_t *n,
                                         struct sharpi_error *err);
/* The chat template's rendering of one user turn (system may be NULL); *text is new and NUL-terminated: free() it. */
SHARPI_API int32_t sharpi_model_chat_prompt(const struct sharpi_model *model, const char *system,
                                            const char *user, char **text, struct sharpi_error *err);
SHARPI_API int32_t sharpi_model_has_chat_template(const struct sharpi_model *model);
/* 1 if the token ends an answer. */
SHARPI_API int32_t sharpi_model_is_end(const struct sharpi_model *model, int32_t token);

/* ---- Sessions */

SHARPI_API int32_t sharpi_session_create(struct sharpi_model *model, struct sharpi_session **out,
                                         struct sharpi_error *err);
SHARPI_API void sharpi_session_free(struct sharpi_session *session);
SHARPI_API uint32_t sharpi_session_length(const struct sharpi_session *session); /* positions in the cache */
/* Forgets positions from `length` on. SHARPI_ENOTSUP if a ring no longer holds the window before `length`. */
SHARPI_API int32_t sharpi_session_truncate(struct sharpi_session *session, uint32_t length,
                                           struct sharpi_error *err);

/* One sequence's share of a step. */
struct sharpi_work {
    struct sharpi_session *session;
    const int32_t *tokens;
    uint32_t n_tokens;
    uint32_t want;      /* 0: no logits; 1: of the last token; 2: of every token */
    float *logits;      /* [1 or n_tokens, n_vocab], or NULL: the last row is kept in the session */
    float *const *taps; /* per model option tap: [n_tokens, width], or NULL */
};

/* Runs all items, several sequences in one batch, in as many steps as the chunk asks for. A session may occur once. On error
 * every session is as long as before, or empty if a ring had already overwritten what it looked at. */
SHARPI_API int32_t sharpi_step(struct sharpi_model *model, const struct sharpi_work *work, uint32_t n_work,
                               struct sharpi_error *err);

/* The same for one session; the last token's logits stay in the session. */
SHARPI_API int32_t sharpi_session_feed(struct sharpi_session *session, const int32_t *tokens,
                                       uint32_t n_tokens, struct sharpi_error *err);
SHARPI_API int32_t sharpi_session_feed_text(struct sharpi_session *session, const char *text,
                                            uint64_t n_bytes, uint32_t flags, struct sharpi_error *err);
/* Logits after the last fed token, [n_vocab], valid until the next call; NULL before the first. */
SHARPI_API const float *sharpi_session_logits(const struct sharpi_session *session);
/* Samples a token from those logits, feeds it lazily at the next call, and returns it. */
SHARPI_API int32_t sharpi_session_next(struct sharpi_session *session, struct sharpi_sampler *sampler,
                                       int32_t *token, struct sharpi_error *err);
/* Text of a token as it continues this session's output: never half a UTF-8 character. *text is valid until the next call. */
SHARPI_API int32_t sharpi_session_text(struct sharpi_session *session, int32_t token, const char **text,
                                       uint64_t *n_bytes, struct sharpi_error *err);
/* What sharpi_session_text still holds back. */
SHARPI_API int32_t sharpi_session_text_end(struct sharpi_session *session, const char **text,
                                           uint64_t *n_bytes);

#ifdef __cplusplus
}
#endif
#endif
