/* A program: a range of the graph as a list of steps, each run by all threads with a barrier after it.
 *
 * Compiling has three stages, one file each, all pure arithmetic:
 *   lower     (compile-lower.c)     ops become nodes: quantization, KV append, routing and copies get nodes of their own, an add
 *                                   of a linear's result becomes the product's epilogue
 *   schedule  (compile-schedule.c)  nodes are put into steps: row nodes that can run row by row without waiting for other rows
 *                                   become one step, products that share an input become one step
 *   place     (compile-place.c)     every cell (a graph value or a helper of ours) gets its memory: a buffer of the thread when it
 *                                   lives within one step, else a piece of the arena, in place of an input where that is possible
 *
 * Invariants: a cell has one producer; a step reads only what earlier steps (or, row by row, the same chain) wrote;
 * two cells that are live in one step overlap only if one was made in place of the other, row by row.
 */
#ifndef SHARPI_BACKEND_CPU_PROGRAM_H
#define SHARPI_BACKEND_CPU_PROGRAM_H

#include "attention.h"
#include "device.h"
#include "matmul.h"
#include "ops.h"

enum place {
    PLACE_NONE = 0, /* nothing uses it */
    PLACE_ARENA = 1,
    PLACE_LOCAL = 2,  /* one row, in the thread's scratch */
    PLACE_LOGITS = 3, /* io->logits */
};

/* A value of the graph (cell number = value handle) or a helper of ours (numbers after those). */
struct cell {
    int32_t place;  /* enum place */
    int32_t rows;   /* enum sharpi_rows: how many rows it has */
    uint32_t width; /* floats in a row; 0 for cells that are not rows of floats */
    int32_t parent; /* the cell of which this is a column range; itself otherwise */
    uint32_t column;
    uint64_t stride; /* bytes from row to row; 0 for PLACE_LOCAL once placed */
    uint64_t offset; /* bytes, in the arena or in a thread's scratch, column included */
    uint8_t *base;   /* first row, not for PLACE_LOCAL; set by load, for logits by run */

    /* Compile time only; of the parent, children included. */
    uint32_t has_views;
    uint32_t is_shared; /* helper, read from any row: only by later steps than its maker's */
    uint32_t is_kept;   /* value of which some reader reads any row: never overwritten in place */
    int32_t made_step, last_step;
    int32_t last_position; /* of the last use, in the schedule */
    int32_t row_made;      /* made by a row node */
    int32_t storage;
    int32_t chain_step, chain; /* scheduler's marks */
};

enum node_kind {
    /* Row nodes: work on one row at a time. */
    NODE_EMBED = 1,
    NODE_ROW_GATHER,
    NODE_RMS_NORM,
    NODE_ROPE_TABLE, /* cos and sin of a row's position */
    NODE_ROPE,       /* in1: the table */
    NODE_GLU,
    NODE_ACTIVATION,
    NODE_ADD,
    NODE_MUL,
    NODE_MUL_VECTOR,
    NODE_SCALE,
    NODE_SOFTCAP,
    NODE_SELECT,
    NODE_SLICE, /* only where a view would not be aligned */
    NODE_CUSTOM,
    NODE_QUANTIZE, /* to the activation format `index` */
    NODE_APPEND,   /* in0 k, in1 v into the cache of attention `index` */
    NODE_ROUTE,    /* router logits to chosen experts and weights */
    NODE_COMBINE,  /* in0 the experts' outputs, in1 routing, in2 where each output lies */
    NODE_COPY_IN,  /* from io->carry_in[index] */
    NODE_COPY_CARRY,
    NODE_COPY_TAP,
    NODE_LAST_ROW_KIND = NODE_COPY_TAP,
    /* Nodes that take a whole step. */
    NODE_MATMUL,
    NODE_ATTENTION,
    NODE_EXPERTS,
    NODE_LOGIT_CAP,
};

struct node {
    int32_t kind; /* enum node_kind */
    int32_t layer;
    const struct sharpi_op *op; /* NULL for helpers without one */
    int32_t in[SHARPI_OP_MAX_INPUTS];
    int32_t out;
    int32_t residual; /* product: the cell that it adds into; -1 */
    int32_t vector;   /* norm weight, bias ...; -1 */
    int32_t weight;   /* product's matrix; -1 */
    int32_t index;    /* by kind: activation format, attention, rope table, mixture, entry of io */
    int32_t step;     /* -1 until scheduled */
};

/* A matrix or the stack of a layer's expert matrices. */
struct weight {
    const struct sharpi_tensor *tensor;
    struct matrix *matrices; /* [n] */
    uint32_t n;
    uint64_t packed_bytes; /* of one matrix, a multiple of 64; 0: used from the mapping */
    uint64_t offset;       /* in the program's weight memory */
    uint32_t left;         /* load: chunks still to pack (atomic) */
};

/* A small f32 tensor, copied because it is read every step from many places. */
struct vector {
    const struct sharpi_tensor *tensor;
    float plus; /* added to each element: norms with add_one */
    uint64_t n, offset;
    const float *data;
};

struct rope_table {
    struct sharpi_rope_attr attr;
    const struct sharpi_tensor *divisors;
    uint64_t offset; /* of double [n_rot / 2] in the weight memory */
    const double *frequencies;
    float magnitude;
    int32_t cell; /* [T]: cos [n_rot / 2], sin [n_rot / 2] */
};

struct attention {
    struct attention_plan plan;
    uint32_t kv_layer, layer;
    int32_t q, k, v, out; /* cells; k, v -1: no append */
    int32_t sinks;        /* vector or -1 */
    uint32_t check;       /* first of its class and window: checks the batch for all of them */
    struct attention_job job;
};

/* One mixture: experts' rows are sorted by expert, so that each expert is one product. */
struct mixture {
    const struct sharpi_moe_attr *attr;
    int32_t gate, up, gate_up, down; /* weights, -1 */
    int32_t input[ACT_COUNT];        /* cells of the input per format that gate and up want, -1 */
    int32_t hidden;                  /* [T]: n_used rows [gate, up] */
    int32_t hidden_act;              /* [T]: n_used rows in down's format */
    int32_t output;                  /* [T]: n_used rows [D] */
    int32_t routing, slots; /* [T]: n_used experts (int32), n_used weights (f32); n_used sorted rows */
    int32_t source, iota;   /* [T]: token of each sorted row; 0, 1, 2 ... */
    uint64_t hidden_row, act_row, out_row; /* bytes of one expert row */
    uint32_t width;                        /* D */
    uint32_t *starts;                      /* [n_experts + 1] first sorted row of each expert */
    struct matmul_part *parts;             /* [2 n_experts] */
    struct matmul_job up_job, down_job;
};

struct chain {         /* row nodes that run one after the other on each row */
    uint32_t first, n; /* in the schedule */
    int32_t rows;
};

enum step_kind { STEP_ROWS = 1, STEP_MATMUL, STEP_ATTENTION, STEP_EXPERTS, STEP_LOGIT_CAP };

struct step {
    int32_t kind; /* enum step_kind */
    int32_t rows;
    uint32_t first, n; /* nodes in the schedule */
    uint32_t first_chain, n_chains;
    uint32_t first_part;
    int32_t act[ACT_COUNT]; /* product: cells of the input per format, -1 */
    uint64_t local_bytes;   /* of thread scratch */
    struct matmul_job job;
};

struct sharpi_program {
    struct sharpi_device *device;
    const struct sharpi_host *host;
    const struct row_ops *ops;
    struct sharpi_compile request; /* its arrays are copies of ours */
    uint32_t n_kv_layers;
    uint32_t needs_tokens; /* 1: token ids are looked up; 2: even when embeddings are given */
    uint64_t n_vocab;      /* of the logits */
    uint64_t n_table_rows; /* of the smallest table that token ids index */
    uint32_t n_fallback_ops;

    struct cell *cells;
    struct node *nodes;
    int32_t *schedule; /* node numbers in order of execution */
    struct chain *chains;
    struct step *steps;
    struct weight *weights;
    struct vector *vectors;
    struct rope_table *ropes;
    struct attention *attentions;
    struct mixture *mixtures;
    struct matmul_part *parts;
    uint32_t n_cells, n_nodes, n_scheduled, n_chains, n_steps, n_weights, n_vectors, n_ropes, n_attentions,
        n_mixtures, n_parts;
    uint32_t cap_cells, cap_nodes, cap_chains, cap_steps, cap_weights, cap_vectors, cap_ropes, cap_attentions,
        cap_mixtures;

    uint64_t weight_bytes, mapped_bytes, arena_bytes, thread_bytes, attention_bytes;
    uint8_t *weight_memory, *scratch; /* scratch: arena, attention, threads */
    uint32_t *counters;               /* work counters of the steps, two each; zeroed before every run */
    struct sharpi_kv_layer *kv_layers;
    uint32_t loaded;
};

/* ---- compile.c */

int32_t cpu_supports(void *ctx, const struct sharpi_graph_view *graph, const struct sharpi_op *op,
                     const struct sharpi_kv_layer *kv, struct sharpi_error *err);
int32_t cpu_compile(struct sharpi_device *device, const struct sharpi_compile *request,
                    struct sharpi_program **out, struct sharpi_error *err);
int32_t cpu_program_memory(const struct sharpi_program *program, struct sharpi_program_memory *memory);
void cpu_program_destroy(struct sharpi_program *program);

/* Zeroed control memory of the program's; NULL with err filled. */
void *program_alloc(const struct sharpi_program *program, uint64_t n, uint64_t item_bytes,
                    struct sharpi_error *err);
/* Makes room for one more item in *array. */
int32_t program_grow(const struct sharpi_program *program, void *array, uint32_t n, uint32_t *cap,
                     uint64_t item_bytes, struct sharpi_error *err);

static inline uint64_t program_rows(const struct sharpi_program *program, int32_t rows)
{
    return rows == SHARPI_ROWS_SELECTED ? program->request.max_logits : program->request.max_tokens;
}

/* Arena, attention's scratch, and one piece per thread. */
static inline uint64_t program_scratch_bytes(const struct sharpi_program *program)
{
    return program->arena_bytes + program->attention_bytes +
           program->device->n_threads * program->thread_bytes;
}

static inline int32_t node_is_row(const struct node *node)
{
    return node->kind <= NODE_LAST_ROW_KIND;
}

static inline uint64_t round64(uint64_t n)
{
    return (n + 63) & ~UINT64_C(63);
}

/* ---- load.c, run.c */

int32_t cpu_load(struct sharpi_program *program, const struct sharpi_kv_layer *kv_layers,
                 sharpi_progress_fn *progress, void *user, struct sharpi_error *err);
int32_t cpu_run(struct sharpi_program *program, const struct sharpi_batch *batch,
                const struct sharpi_run_io *io, struct sharpi_error *err);

#endif
