/* For tests of the CPU backend: a host table, a random model graph with all kinds of ops, page tables, and an interpreter of the
 * same graph in double precision.
 */
#ifndef SHARPI_TESTS_CPU_WORLD_H
#define SHARPI_TESTS_CPU_WORLD_H

#include <sharpi/plugin/arch.h>
#include <sharpi/plugin/backend.h>

#define WORLD_CONTEXT  192u
#define WORLD_WINDOW   40u
#define WORLD_HEADROOM 128u
#define WORLD_MAX_SEQS 4u
#define WORLD_LAYERS   4u
#define WORLD_VOCAB    96u

/* ---- Host (cpu-host.c) */

struct test_host {
    struct sharpi_host host; /* first */
    const struct sharpi_backend *backend;
    void *ctx;
    int64_t allocs_left; /* -1: no limit; 0: the next one fails */
    int64_t n_live;
    uint32_t n_warnings;
    const char *isa, *threads, *memory_limit; /* the ini section */
};

/* Calls the plugin's init. */
int32_t test_host_open(struct test_host *test, struct sharpi_error *err);
void test_host_init(struct test_host *test);
void test_host_close(struct test_host *test);

/* ---- Model (cpu-model.c) */

enum world_graph {
    WORLD_DENSE,   /* what a decoder of today is, four times */
    WORLD_MIXTURE, /* likewise with experts */
    WORLD_ALL,     /* every kind of op, shared caches, windows, odd orders */
};

struct world_options {
    int32_t graph;       /* enum world_graph */
    int32_t weight_type; /* enum sharpi_type of matrices */
    uint32_t seed;
};

struct world {
    struct sharpi_model_desc desc;
    struct sharpi_layer_desc layers[WORLD_LAYERS];
    struct sharpi_graph *graph;
    const struct sharpi_graph_view *view;
    struct sharpi_kv_layer kv[WORLD_LAYERS];
    struct sharpi_tensor *tensors[256];
    uint32_t n_tensors;
    uint8_t *file; /* a mapping, as a model file's is */
    uint64_t file_bytes, file_used;
    uint64_t random;
    int32_t last_residual[WORLD_LAYERS]; /* the residual stream behind each layer */
};

/* 0, or -1 with a line on stderr. */
int world_create(struct world *world, struct test_host *host, const struct world_options *options);
void world_destroy(struct world *world);
float world_random(struct world *world); /* uniform in [-1, 1) */

/* The graph over one whole sequence: values[v] is [n, width] for each value of the graph, logits [n, vocab]. */
struct reference {
    double **values;
    double *logits;
    uint32_t n_values;
};
void reference_run(struct reference *reference, const struct world *world, const int32_t *tokens, uint32_t n);
void reference_free(struct reference *reference);

#endif
