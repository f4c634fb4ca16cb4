/* What a KV-cache format gives the CUDA backend: append and attention, from kernels(ctx, "cuda", variant).
 *
 * Plain C. A format gets these functions by instantiating <sharpi/cuda/attention.cuh>. All functions that take a stream
 * only enqueue: no synchronisation, no allocation, so they may be captured in a graph. What changes from step to step
 * (counts, sequences, lengths, page tables) lies in device memory, behind pointers that stay; a captured launch
 * serves every step inside the bounds max_tokens, max_seqs and max_seq_tokens that it was made for.
 *
 * Storage. The page of K or V that kv.h describes is arranged here as one tile per KV head:
 * [n_kv_heads][tile_bytes], tile_bytes = SHARPI_KV_PAGE * row_bytes / n_kv_heads, each tile in the format's own order
 * (attention.cuh), made so that it can be copied to shared memory as it is. Sizes are those of kv.h and a page stays the
 * unit that is copied or shared; but a page saved from this backend can be read by this backend only.
 *
 * Rows past the step's n_tokens: q, k, v are not read, out is not written, nothing is appended.
 */
#ifndef SHARPI_CUDA_KV_CUDA_H
#define SHARPI_CUDA_KV_CUDA_H

#include <sharpi/plugin/backend.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SHARPI_CUDA_COUNTER_BYTES 4096

/* At the head of the backend's device copy of a batch; written before every step. */
struct sharpi_cuda_step {
    uint32_t n_tokens, n_seqs, n_logits;
    uint32_t reserved;
};

/* What makes heads of q's, k's or v's rows: an RMS norm of each head, x / sqrt(mean(x^2) + eps) * weight, then a rotation by the token's
 * position. Either may be missing. */
struct sharpi_kv_cuda_heads {
    const float *weight; /* [head_dim]; NULL: ones */
    float eps;
    uint32_t has_norm, turns;
    uint32_t reserved;
};

/* One attention op. Pointers are the device's and 16-byte aligned unless said; strides are in floats. */
struct sharpi_kv_cuda_args {
    uint32_t size;

    /* The op: struct sharpi_attention_attr's numbers. */
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t window, causal;
    float scale, softcap;

    /* The cache that is read (kv_layer's) and, when k is not NULL, appended to. */
    uint32_t ring;        /* positions */
    uint32_t page_stride; /* entries of a sequence's row of `pages` */
    void *k_cache, *v_cache;
    const int32_t *pages; /* [max_seqs, page_stride] of the layer's class */

    /* The step. Positions follow from seqs: token t of sequence s has seqs[s].length + t - seqs[s].first_token. */
    const struct sharpi_cuda_step *step;
    const struct sharpi_batch_seq *seqs; /* [max_seqs]; the first step->n_seqs count */
    const int32_t *seqs_of;              /* [max_tokens] */

    /* Rows, f32, with strides that are multiples of 4; k and v NULL: nothing is appended. Sinks: [n_heads] or NULL. */
    const float *q, *k, *v, *sinks;
    float *out; /* must not overlap q */
    uint64_t q_stride, k_stride, v_stride, out_stride;

    /* Upper bounds of the steps that this launch serves. */
    uint32_t max_tokens, max_seqs;
    uint32_t max_seq_tokens; /* of one sequence; 1: decode only, which has its own launch */
    uint32_t max_length;     /* positions of a sequence, the step's own included */

    uint32_t n_sms; /* the device's multiprocessors */
    /* 8, 9, ...: the device's compute capability, or what the backend's code was compiled for if that is less than 9 */
    uint32_t compute_major;
    /* scratch_bytes. The first SHARPI_CUDA_COUNTER_BYTES are zero before the first launch and every launch leaves them
     * zero (blocks count there which of them comes last); the rest is free for others' use between launches. */
    void *scratch;
    /* 1: programmatic dependent launch (compute capability 9.0): the kernel before in the stream lets these start early, and
     * these wait for its end themselves. What `step`, `seqs`, `seqs_of` and `pages` point to must then have been written
     * by a copy before the chain's first kernel. */
    uint32_t overlaps;

    /* Optional, only where quantizes() says yes: each row of `out`, n = n_heads * head_dim values, as the activations that
     * products of a few rows with quantized weights read. Row t begins at out_q8 + t * out_q8_stride bytes (both multiples
     * of 16): int8 codes[n], then float2 {d, d * sum of codes} [n / 32]. For every 32 values d = amax / 127 (0 if amax <
     * 1e-30), code = round(value * (127 / amax)); a block's eight 4-byte words of codes lie in the order 0 4 1 5 2 6 3 7.
     * `out` may then be NULL: only the codes are written. */
    void *out_q8;
    uint64_t out_q8_stride;

    /* Optional, only where makes_heads() says yes. has_heads: q, k and v are rows as products made them, and heads[0] makes q's heads of
     * them, [1] k's, [2] v's, before anything is appended. Row t of the table, which starts at table + t * table_stride floats (a multiple of
     * 4), is for token t: cos [head_dim / 2], then sin [head_dim / 2]. Angle i turns elements (i, i + head_dim / 2) of a head if is_neox,
     * else (2 i, 2 i + 1). The table may have been written by a kernel before. */
    uint32_t has_heads, is_neox;
    struct sharpi_kv_cuda_heads heads[3];
    const float *table; /* NULL where nothing turns */
    uint64_t table_stride;

    uint32_t shared_bytes; /* shared memory that a block may use; 0: not known */
};

struct sharpi_kv_cuda {
    uint32_t size;
    uint32_t reserved;
    /* SHARPI_OK, or SHARPI_ENOTSUP with the rule, the value and the remedy. Needs no device. */
    int32_t (*check)(uint32_t layer, uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim,
                     struct sharpi_error *err);
    /* Scratch that attention needs with these args; no pointer is looked at. Does not shrink when a bound grows, so the
     * largest bucket's scratch serves all. */
    uint64_t (*scratch_bytes)(const struct sharpi_kv_cuda_args *args);
    /* Appends the step's k and v (if any), then out = attention. `stream` is a cudaStream_t, the result a cudaError_t. */
    int32_t (*attention)(const struct sharpi_kv_cuda_args *args, void *stream);
    /* Host: where element `first` of position row `row` lies is the format's own matter; these turn one whole page of K
     * or V (host copies) into kv.h's rows and back, for tests and tools. */
    void (*page_to_rows)(void *rows, const void *page, uint32_t n_kv_heads, uint32_t head_dim);
    void (*page_from_rows)(void *page, const void *rows, uint32_t n_kv_heads, uint32_t head_dim);
    /* Optional: 1 if a launch with these args (out_q8 aside, no pointer is looked at) would write out_q8: here, launches of up to
     * 8 rows (tokens times query heads) per KV head, head_dim a multiple of 32 up to 256. A launch with out_q8 set where this
     * says 0 is an error. */
    int32_t (*quantizes)(const struct sharpi_kv_cuda_args *args);
    /* Optional: 1 if a launch with these args would make heads; neither max_length nor any pointer matters, but whether k is there. Here:
     * launches as for out_q8 with one token of each sequence and head_dim 64, 128 or, with is_neox, 256. has_heads where this says 0 is
     * an error. */
    int32_t (*makes_heads)(const struct sharpi_kv_cuda_args *args);
};

#ifdef __cplusplus
}
#endif
#endif
