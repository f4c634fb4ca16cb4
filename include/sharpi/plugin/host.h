/* What the core offers to a plugin. One table for all plugins, valid from init until after fini.
 *
 * Threads: every function may be called from any thread, except register_* which belong to init.
 */
#ifndef SHARPI_PLUGIN_HOST_H
#define SHARPI_PLUGIN_HOST_H

#include <sharpi/plugin/plugin.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sharpi_arch;
struct sharpi_backend;
struct sharpi_kv;
struct sharpi_model_file; /* a GGUF file's metadata and tensors, opaque */
struct sharpi_graph;      /* see graph.h */
struct sharpi_op;
struct sharpi_pool; /* a pool of threads */

enum sharpi_log_level {
    SHARPI_LOG_ERROR = 0,
    SHARPI_LOG_WARN = 1, /* something to act on */
    SHARPI_LOG_INFO = 2, /* what a user wants to read once at start */
    SHARPI_LOG_DEBUG = 3,
};

/* Work of one thread: called with ith = 0 .. nth-1, once for each. */
typedef void sharpi_task_fn(void *arg, uint32_t ith, uint32_t nth);

struct sharpi_host {
    uint32_t size;
    uint32_t abi_minor; /* of the core */
    const char *version;

    /* One line of text without newline; `topic` is the plugin's name. */
    void (*log)(const struct sharpi_host *host, int32_t level, const char *topic, const char *message);

    /* Zeroed memory aligned to `alignment` (a power of two, 0 = 16); NULL when there is none. Freed with host->free.
     * Tests make these fail on purpose. */
    void *(*alloc)(const struct sharpi_host *host, uint64_t n_bytes, uint64_t alignment);
    void (*free)(const struct sharpi_host *host, void *memory);

    /* Offer a table. `ctx` is passed to each of its functions. Required members are checked here and named in the error;
     * two plugins may offer the same architecture name (sharpi_arch.probe decides per file), but not the same backend
     * or KV format. Only during init. */
    int32_t (*register_backend)(const struct sharpi_host *host, const struct sharpi_backend *backend,
                                void *ctx, struct sharpi_error *err);
    int32_t (*register_arch)(const struct sharpi_host *host, const struct sharpi_arch *arch, void *ctx,
                             struct sharpi_error *err);
    int32_t (*register_kv)(const struct sharpi_host *host, const struct sharpi_kv *kv, void *ctx,
                           struct sharpi_error *err);

    /* Value of a key of the plugin's ini section, command line and environment already applied; NULL when not set, or set to auto.
     * The string lives as long as the plugin. */
    const char *(*config_get)(const struct sharpi_config *config, const char *key);

    /* Metadata of a model file. Keys that begin with '.' get the architecture in front: ".block_count" is
     * "llama.block_count" in a llama file. SHARPI_ENOENT when absent (*out and err untouched), SHARPI_EFORMAT when
     * the type does not fit. Integers of any width and bool convert to u64 (negative: SHARPI_EFORMAT), numbers to f64. */
    int32_t (*file_u64)(const struct sharpi_model_file *file, const char *key, uint64_t *out,
                        struct sharpi_error *err);
    int32_t (*file_f64)(const struct sharpi_model_file *file, const char *key, double *out,
                        struct sharpi_error *err);
    /* The string as a NUL-terminated copy that lives as long as the file. */
    int32_t (*file_string)(const struct sharpi_model_file *file, const char *key, const char **out,
                           struct sharpi_error *err);
    /* Element `index` of an array, converted; a scalar answers every index with its value ("or array" keys).
     * *n (may be NULL) gets the array's length, or 0 for a scalar. */
    int32_t (*file_array_u64)(const struct sharpi_model_file *file, const char *key, uint64_t index,
                              uint64_t *out, uint64_t *n, struct sharpi_error *err);
    int32_t (*file_array_f64)(const struct sharpi_model_file *file, const char *key, uint64_t index,
                              double *out, uint64_t *n, struct sharpi_error *err);
    /* Tensor of that exact name, or NULL. Lives as long as the file. */
    const struct sharpi_tensor *(*file_tensor)(const struct sharpi_model_file *file, const char *name);
    /* Zeroed memory that lives as long as the file: model descriptions. NULL when there is none. */
    void *(*file_alloc)(const struct sharpi_model_file *file, uint64_t n_bytes);
    /* general.architecture and the path, for messages. */
    const char *(*file_arch)(const struct sharpi_model_file *file);
    const char *(*file_path)(const struct sharpi_model_file *file);

    /* Adds an op to a graph and returns the handle of its output value (>= 0; ops without output return 0), or a
     * negative status with err filled. Shapes of inputs and weights are checked; the error names op, layer and tensor.
     * Use the sharpi_g_* helpers of graph.h instead of calling this. */
    int32_t (*graph_add)(struct sharpi_graph *graph, const struct sharpi_op *op, struct sharpi_error *err);

    /* Threads. The pool has n_threads - 1 workers; the caller of pool_run is thread 0. Workers spin briefly between
     * runs, then sleep. pool_run calls task for every thread and returns when all returned; one run at a time.
     * pool_barrier, inside a task only, returns when all threads of the run have come. */
    int32_t (*pool_create)(const struct sharpi_host *host, uint32_t n_threads, struct sharpi_pool **out,
                           struct sharpi_error *err);
    void (*pool_destroy)(struct sharpi_pool *pool);
    uint32_t (*pool_threads)(const struct sharpi_pool *pool);
    void (*pool_run)(struct sharpi_pool *pool, sharpi_task_fn *task, void *arg);
    void (*pool_barrier)(struct sharpi_pool *pool);
};

#ifdef __cplusplus
}
#endif
#endif
