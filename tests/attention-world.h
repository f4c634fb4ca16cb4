/* For test-attention: sequences with their caches, and steps over them on several threads. */
#ifndef SHARPI_TESTS_ATTENTION_WORLD_H
#define SHARPI_TESTS_ATTENTION_WORLD_H

#include "kv-plugins.h"
#include "plugins/backend-cpu/attention.h"

#define WORLD_MAX_SEQS 8u

/* What to build. */
struct world_shape {
    const char *format;
    enum cpu_isa isa;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t window, ring; /* ring: positions per sequence, a multiple of SHARPI_KV_PAGE */
    uint32_t n_seqs, max_length;
    uint32_t n_threads;
    uint32_t with_sinks;
    uint32_t keep_history; /* decoded K/V of every position, for the naive attention */
    uint32_t use_fallback; /* hide the format's kernels, so that encode and decode are used */
    uint32_t not_causal;
    float softcap;
};

/* All sequences share one buffer of pages, dealt out in random order. */
struct world {
    struct world_shape shape;
    struct kv_format format;
    struct sharpi_kv no_kernels;
    struct attention_plan plan;
    struct sharpi_kv_layer kv;
    float *sinks;
    void *scratch, *k_pages, *v_pages;
    uint64_t scratch_bytes;
    int32_t *tables; /* [WORLD_MAX_SEQS, ring / SHARPI_KV_PAGE] */
    uint32_t length[WORLD_MAX_SEQS];
    float *k_history[WORLD_MAX_SEQS], *v_history[WORLD_MAX_SEQS]; /* [max_length, n_kv_heads * head_dim] */
    /* the last step */
    struct sharpi_batch batch;
    struct sharpi_batch_seq seqs[WORLD_MAX_SEQS];
    struct sharpi_batch_class class_of;
    int32_t *seqs_of, *batch_tables;
    uint32_t seq_index[WORLD_MAX_SEQS]; /* batch's sequence -> world's */
    float *q, *k, *v, *out;
};

/* 0, or -1 with a line on stderr. */
int world_init(struct world *world, const struct kv_formats *formats, const struct world_shape *shape);
void world_free(struct world *world);

/* Random numbers: uniform bits, and values of a roughly normal distribution. */
uint32_t random_bits(void);
float random_float(void);

/* A step's input: n_tokens[i] new random tokens of sequence i (0: not in the batch). Checks the batch and
 * returns the status. */
int32_t world_batch(struct world *world, const uint32_t *n_tokens, struct sharpi_error *err);
/* Appends (unless the cache already holds them) and attends on nth threads, then counts the tokens as stored.
 */
void world_run(struct world *world, uint32_t nth, uint32_t append);
void world_commit(struct world *world);

#endif
