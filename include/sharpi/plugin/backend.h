/* Backends: devices, memory, and programs made from ranges of a graph.
 *
 * Life of a program:  compile (arithmetic only: sizes are final, no weight is touched, tensor data may be absent)
 *   -> load (allocates exactly what compile said, repacks or uploads weights)  -> run, step after step, without any
 *   allocation  -> destroy.
 * Threads: calls on one device come from one thread at a time; devices are independent.
 */
#ifndef SHARPI_PLUGIN_BACKEND_H
#define SHARPI_PLUGIN_BACKEND_H

#include <sharpi/plugin/graph.h>
#include <sharpi/plugin/kv.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sharpi_device;  /* an opened device, the backend's own */
struct sharpi_program; /* a compiled range of a graph, the backend's own */

struct sharpi_device_info {
    uint32_t size;
    uint32_t integrated; /* 1: memory is the host's */
    char name[64];       /* "AMD EPYC, avx2, 2 threads" */
    uint64_t total_bytes;
    uint64_t free_bytes;
    uint32_t max_threads;
    uint32_t reserved;
    uint64_t granularity; /* every block of device memory takes a multiple of it; 0: what is asked for */
};

struct sharpi_device_options {
    uint32_t size;
    uint32_t n_threads;    /* CPU: 0 = one per core */
    uint64_t memory_limit; /* bytes the device may offer; 0 = all */
    uint32_t repack;       /* 1: weights may be copied into the kernels' own layout; 0: used where they are */
    uint32_t reserved;
};

/* ---- Batch: all that changes between steps. Host memory, valid during run; a GPU backend copies it at once. */

struct sharpi_batch_seq {
    uint32_t first_token, n_tokens; /* this sequence's tokens: contiguous, ascending positions */
    uint32_t length;                /* positions in the cache before this step: the first token's position */
    uint32_t slot;                  /* stable number of the sequence, < max_seqs of the program */
};

struct sharpi_batch_class {
    const int32_t *pages; /* [n_seqs, stride]: page numbers, in slot order of the ring; -1 = not held */
    uint32_t stride;
    uint32_t ring; /* positions, = sharpi_kv_layer.ring of its layers */
};

struct sharpi_batch {
    uint32_t size;
    uint32_t n_tokens, n_seqs, n_logits, n_classes;
    uint32_t reserved;
    const int32_t *tokens;    /* [n_tokens] ids */
    const int32_t *positions; /* [n_tokens] */
    const int32_t *seqs_of;   /* [n_tokens] index into seqs */
    const struct sharpi_batch_seq *seqs;
    const struct sharpi_batch_class *classes;
    const int32_t *logit_rows; /* [n_logits] token indices, ascending: the rows of select_rows */
    const float *embeddings;   /* [n_tokens, D] instead of tokens, or NULL */
};

/* Where a run reads carried values and writes results. All host memory, f32. */
struct sharpi_run_io {
    uint32_t size;
    uint32_t n_taps;
    const float *const *carry_in; /* per entry of compile's carry_in: [rows, width] */
    float *const *carry_out;      /* likewise */
    float *logits;                /* [n_logits, n_vocab] when the range holds the logits op */
    float *const *taps;           /* per entry of compile's taps: [rows, width] */
    /* The best candidates of every row of logits, for backends with max_best > 0: then `logits` may be NULL, and is filled
     * too if it is not. */
    uint32_t n_best; /* k <= the backend's max_best and <= n_vocab; 0: not wanted */
    uint32_t reserved;
    int32_t *best_ids;   /* [n_logits, k] greatest logit first, of equal ones the lower id first */
    float *best_logits;  /* [n_logits, k] */
    float *best_log_sum; /* [n_logits] logarithm of the sum of exp(logit) over the whole row */
};

/* ---- Programs */

/* How far weights are loaded; called from load's thread. Return non-zero to cancel (SHARPI_ECANCELLED). */
typedef int32_t sharpi_progress_fn(void *user, uint64_t done_bytes, uint64_t total_bytes);

struct sharpi_compile {
    uint32_t size;
    uint32_t first_op, end_op; /* range of the graph's ops */
    uint32_t max_tokens;       /* of a batch */
    uint32_t max_seqs;
    uint32_t max_logits;
    const struct sharpi_graph_view *graph;
    const struct sharpi_kv_layer *kv_layers; /* [n_layers]; k and v still NULL */
    uint32_t n_classes;
    uint32_t n_carry_in, n_carry_out, n_taps;
    const int32_t *carry_in;  /* values made before the range and used in it */
    const int32_t *carry_out; /* values made in the range and used after it */
    const int32_t *taps;      /* values to write out on every run, for tools and tests; they stop fusion */
};

/* Bytes, exact: load allocates this and no more. */
struct sharpi_program_memory {
    uint32_t size;
    uint32_t n_fallback_ops; /* ops on a slower path than the backend's best, each one logged at compile */
    uint64_t weight_bytes;   /* device memory for weights (repacked or uploaded copies) */
    uint64_t mapped_bytes;   /* weights used in place from the file mapping */
    uint64_t scratch_bytes;
};

/* What a device can do at best, measured: the floors that `sharpi bench` compares with. 0 = not known. */
struct sharpi_rates {
    uint32_t size;
    uint32_t reserved;
    double read_bytes_per_s; /* reading memory far larger than the caches, all threads */
    double int8_ops_per_s;   /* int8 multiply-accumulates with 32-bit sums, two operations each */
    double f32_ops_per_s;    /* f32 fused multiply-adds, two operations each */
    double bf16_ops_per_s;   /* bf16 multiply-adds with f32 sums in large products, two operations each */
};

struct sharpi_backend {
    uint32_t size;
    uint32_t reserved;
    const char *name; /* "cpu", "cuda" */
    const char *summary;

    /* Number of devices, 0 with the reason in err when there are none (no driver). Required. */
    uint32_t (*device_count)(void *ctx, struct sharpi_error *err);
    /* What device `index` is and has now. Required. */
    int32_t (*device_info)(void *ctx, uint32_t index, struct sharpi_device_info *info,
                           struct sharpi_error *err);
    /* Required, like all below unless said. */
    int32_t (*device_open)(void *ctx, uint32_t index, const struct sharpi_device_options *options,
                           struct sharpi_device **out, struct sharpi_error *err);
    void (*device_close)(struct sharpi_device *device);

    /* Device memory for KV; zeroed. The pointer is the device's, opaque to the core. */
    int32_t (*alloc)(struct sharpi_device *device, uint64_t n_bytes, void **out, struct sharpi_error *err);
    void (*free)(struct sharpi_device *device, void *memory);
    /* Copies within the device (page copies), to it and from it. */
    int32_t (*copy)(struct sharpi_device *device, void *dst, uint64_t dst_offset, const void *src,
                    uint64_t src_offset, uint64_t n_bytes, struct sharpi_error *err);
    int32_t (*write)(struct sharpi_device *device, void *dst, uint64_t dst_offset, const void *host_src,
                     uint64_t n_bytes, struct sharpi_error *err);
    int32_t (*read)(struct sharpi_device *device, void *host_dst, const void *src, uint64_t src_offset,
                    uint64_t n_bytes, struct sharpi_error *err);

    /* Whether the device can run the op with this cache format (attention) and these weight types: SHARPI_OK, or SHARPI_ENOTSUP
     * with the reason. Needs no opened device. */
    int32_t (*supports)(void *ctx, const struct sharpi_graph_view *graph, const struct sharpi_op *op,
                        const struct sharpi_kv_layer *kv, struct sharpi_error *err);

    int32_t (*compile)(struct sharpi_device *device, const struct sharpi_compile *request,
                       struct sharpi_program **out, struct sharpi_error *err);
    int32_t (*program_memory)(const struct sharpi_program *program, struct sharpi_program_memory *memory);
    /* `kv_layers` as in compile, now with storage; the array is copied. `progress` may be NULL. */
    int32_t (*load)(struct sharpi_program *program, const struct sharpi_kv_layer *kv_layers,
                    sharpi_progress_fn *progress, void *user, struct sharpi_error *err);
    void (*program_destroy)(struct sharpi_program *program);
    /* One step: appends K/V for all tokens, computes, returns when io's memory is written. */
    int32_t (*run)(struct sharpi_program *program, const struct sharpi_batch *batch,
                   const struct sharpi_run_io *io, struct sharpi_error *err);
    /* Measures the device for a second or two. May be NULL. */
    int32_t (*measure)(struct sharpi_device *device, struct sharpi_rates *rates, struct sharpi_error *err);
    /* Most candidates that run can return instead of whole rows of logits (sharpi_run_io.n_best); 0: it cannot. */
    uint64_t max_best;
};

#ifdef __cplusplus
}
#endif
#endif
