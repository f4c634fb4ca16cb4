/* What every backend makes of a range of the graph before it looks at kernels: a data flow of nodes over cells, put into
 * steps, with memory for every cell. Pure arithmetic.
 *
 *   lower     (flow-lower.c)     ops become nodes: quantization, KV append, routing and copies get nodes of their own, an add
 *                                of a linear's result becomes the product's epilogue
 *   schedule  (flow-schedule.c)  nodes are put into steps: row nodes that can run row by row without waiting for other rows
 *                                become one step of chains, products that share an input become one step
 *   place     (flow-place.c)     every cell (a graph value or a helper of ours) gets its memory: local to its step when it
 *                                lives within one, else a piece of the arena, in place of an input where that is possible
 *
 * What differs from backend to backend is in struct flow_traits. A backend's program begins with its struct flow.
 *
 * Invariants: a cell has one producer; a step reads only what earlier steps (or, row by row, the same chain) wrote;
 * two cells that are live in one step overlap only if one was made in place of the other, row by row.
 */
#ifndef SHARPI_BACKEND_COMMON_FLOW_H
#define SHARPI_BACKEND_COMMON_FLOW_H

#include <sharpi/plugin/backend.h>

/* Formats of a product's input: 0 is the plain row of floats, the others are the backend's own. */
#define FLOW_MAX_FORMATS 4u
#define FLOW_MAX_HELPERS 6u

enum place {
    PLACE_NONE = 0, /* nothing uses it */
    PLACE_ARENA = 1,
    PLACE_LOCAL = 2,  /* one row, in the scratch of whoever runs the step's chain */
    PLACE_LOGITS = 3, /* io->logits, or the backend's buffer for it */
    PLACE_INPUT = 4,  /* written by the backend before the first step; made by no node */
};

/* A value of the graph (cell number = value handle) or a helper of ours (numbers after those). */
struct cell {
    int32_t place;  /* enum place */
    int32_t rows;   /* enum sharpi_rows: how many rows it has */
    uint32_t width; /* floats in a row; 0 for cells that are not rows of floats */
    int32_t parent; /* the cell of which this is a column range; itself otherwise */
    uint32_t column;
    uint64_t stride; /* bytes from row to row; 0 for PLACE_LOCAL once placed */
    uint64_t offset; /* bytes, in the arena or in the local scratch, column included */
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
    NODE_ATTENTION, /* in0 q; with traits.attention_appends in1 k, in2 v */
    NODE_EXPERTS,
    NODE_LOGIT_CAP,
};

struct node {
    int32_t kind; /* enum node_kind */
    int32_t layer;
    const struct sharpi_op *op; /* NULL for helpers without one */
    int32_t in[SHARPI_OP_MAX_INPUTS];
    int32_t out;
    int32_t helpers[FLOW_MAX_HELPERS]; /* more cells that it writes; -1 */
    int32_t residual;                  /* product: the cell that it adds into; -1 */
    int32_t vector;                    /* norm weight, bias ...; -1 */
    int32_t weight;                    /* product's or look-up's matrix; -1 */
    int32_t
        index; /* by kind: activation format, attention, rope table, mixture, entry of io; product: input value */
    uint32_t formats; /* product: in[] holds the input in these (bits), in their order */
    int32_t step;     /* -1 until scheduled */
};

/* A small f32 tensor, copied because it is read every step from many places. */
struct vector {
    const struct sharpi_tensor *tensor;
    float plus; /* added to each element: norms with add_one */
    uint64_t n, offset;
    const float *data; /* the backend's memory */
};

struct rope_table {
    struct sharpi_rope_attr attr;
    const struct sharpi_tensor *divisors;
    uint64_t offset; /* of double [n_rot / 2] in the weight memory */
    const double *frequencies;
    float magnitude;
    int32_t cell; /* [T]: cos [n_rot / 2], sin [n_rot / 2] */
};

struct chain {         /* row nodes that run one after the other on each row */
    uint32_t first, n; /* in the schedule */
    int32_t rows;
};

enum step_kind {
    STEP_ROWS = 1, /* chains that do not depend on each other */
    STEP_MATMUL,   /* products of one input value */
    STEP_SINGLE,   /* one node of any other kind */
};

struct step {
    int32_t kind; /* enum step_kind */
    int32_t rows;
    uint32_t first, n; /* nodes in the schedule */
    uint32_t first_chain, n_chains;
    int32_t act[FLOW_MAX_FORMATS]; /* product: cells of the input per format, -1 */
    uint64_t local_bytes;          /* of the scratch of one row */
};

struct flow;
struct lowering;

struct flow_traits {
    const char *topic;          /* of the log: "backend-cpu" */
    const char *name;           /* in messages: "the CPU backend" */
    uint64_t step_kinds;        /* bit n: row nodes of kind n take a whole step instead */
    uint64_t max_local;         /* bytes of local scratch that a row of a step may have */
    uint32_t max_best;          /* as sharpi_backend.max_best */
    uint32_t attention_appends; /* attention takes k and v itself: no NODE_APPEND */
    uint32_t early_formats;     /* bits: formats that attention and products may write themselves, early */
    uint32_t embeds_weights;    /* tables of NODE_EMBED are weights too */
    /* Attention may make its heads of products' rows itself (attention_paths), which then live until it is done. */
    uint32_t attention_makes_heads;
    uint64_t (*format_row_bytes)(uint32_t format, uint64_t n); /* a multiple of 64 */
    /* The weight's number and the input formats (bits) that its products may want. The same tensor again: the same number. */
    int32_t (*weight)(struct flow *flow, const struct sharpi_tensor *tensor, int32_t *out, uint32_t *formats,
                      struct sharpi_error *err);
    /* Adds attention number n; `sinks` is a vector's number or -1. */
    int32_t (*attention)(struct flow *flow, const struct sharpi_op *op, const struct sharpi_kv_layer *kv,
                         int32_t sinks, int32_t *out, struct sharpi_error *err);
    /* The rows of a SHARPI_OP_ROW_GATHER come with the batch: gives its cell a place, PLACE_INPUT. NULL: a row node makes them. */
    int32_t (*gather)(struct flow *flow, const struct sharpi_op *op, struct sharpi_error *err);
    /* All nodes of a mixture. */
    int32_t (*moe)(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err);
};

/* A page table and a window that some attention reads: the batch is checked once for each. */
struct cache_check {
    uint32_t kv_layer, window;
};

struct flow {
    const struct flow_traits *traits;
    const struct sharpi_host *host;
    struct sharpi_compile request; /* its arrays are copies of ours */
    uint32_t n_kv_layers;
    uint32_t needs_tokens; /* 1: token ids are looked up; 2: even when embeddings are given */
    uint64_t n_vocab;      /* of the logits */
    int32_t logits_cell;   /* -1: none */
    uint64_t n_table_rows; /* of the smallest table that token ids index */
    uint32_t n_fallback_ops;

    struct cell *cells;
    struct node *nodes;
    int32_t *schedule; /* node numbers in order of execution */
    struct chain *chains;
    struct step *steps;
    struct vector *vectors;
    struct rope_table *ropes;
    struct cache_check *checks;
    uint32_t n_cells, n_nodes, n_scheduled, n_chains, n_steps, n_vectors, n_ropes, n_checks, n_parts;
    uint32_t cap_cells, cap_nodes, cap_chains, cap_steps, cap_vectors, cap_ropes, cap_checks;
    uint64_t arena_bytes, local_bytes; /* local: the most of any step */
    struct sharpi_kv_layer *kv_layers;
};

/* ---- flow.c */

/* Checks the request and copies what the program keeps of it. `flow` is zeroed and is freed by flow_free in any case. */
int32_t flow_init(struct flow *flow, const struct flow_traits *traits, const struct sharpi_host *host,
                  const struct sharpi_compile *request, struct sharpi_error *err);
void flow_free(struct flow *flow);

/* Zeroed control memory; NULL with err filled. */
void *flow_alloc(const struct flow *flow, uint64_t n, uint64_t item_bytes, struct sharpi_error *err);
/* Makes room for one more item in *array. */
int32_t flow_grow(const struct flow *flow, void *array, uint32_t n, uint32_t *cap, uint64_t item_bytes,
                  struct sharpi_error *err);

static inline uint64_t flow_rows(const struct flow *flow, int32_t rows)
{
    return rows == SHARPI_ROWS_SELECTED ? flow->request.max_logits : flow->request.max_tokens;
}

static inline int32_t node_is_row(const struct flow *flow, const struct node *node)
{
    return node->kind <= NODE_LAST_ROW_KIND && !(flow->traits->step_kinds >> node->kind & 1);
}

static inline const struct node *step_node(const struct flow *flow, const struct step *step, uint32_t i)
{
    return &flow->nodes[flow->schedule[step->first + i]];
}

static inline uint64_t round64(uint64_t n)
{
    return (n + 63) & ~UINT64_C(63);
}

/* ---- flow-vectors.c: small tensors that the program keeps. Equal requests give equal numbers. */

int32_t vector_add(struct flow *flow, const struct sharpi_tensor *tensor, float plus, int32_t *out,
                   struct sharpi_error *err);
int32_t rope_add(struct flow *flow, const struct sharpi_rope_attr *attr, const struct sharpi_tensor *divisors,
                 int32_t *out, struct sharpi_error *err);
/* Gives out `n_bytes` of weight memory from *end on, every piece at a multiple of 64. */
int32_t flow_give_out(uint64_t *end, uint64_t n_bytes, uint64_t *offset, struct sharpi_error *err);
/* Offsets of vectors and rope tables from *end on. */
int32_t vectors_lay_out(struct flow *flow, uint64_t *end, struct sharpi_error *err);
/* Their contents, in the layout of offsets that begins at `first`: `memory` is what offset `first` stands for. */
void vectors_fill(const struct flow *flow, uint8_t *memory, uint64_t first);
/* Sets the pointers; `memory` is what offset 0 stands for. */
void vectors_point(struct flow *flow, const uint8_t *memory);
/* SHARPI_OK if all tensors of the range have data. */
int32_t flow_check_data(const struct flow *flow, struct sharpi_error *err);

/* ---- file.c */

/* Gives back the whole pages of [data, data + n_bytes) of the read-only file mapping: they come back if touched, as an
 * embedding table's rows are. */
void file_forget(const void *data, uint64_t n_bytes);

/* ---- batch-check.c: SHARPI_OK if the batch can be run; nothing in it is trusted before. */

int32_t batch_check(const struct flow *flow, const struct sharpi_batch *batch, const struct sharpi_run_io *io,
                    struct sharpi_error *err);
/* Whether every position that is written or seen lies in a held page with a number below n_pages, and inside the ring
 * (SHARPI_EBUG with the numbers if not). */
int32_t cache_check(const struct sharpi_kv_layer *kv, uint32_t window, const struct sharpi_batch *batch,
                    struct sharpi_error *err);

/* ---- The stages */

/* What the ops of the range do with a value; taps of the graph do not count. */
struct value_use {
    uint32_t n;
    int32_t last;         /* op */
    uint32_t is_external; /* tapped or carried out: written somewhere else too */
    uint32_t is_sliced;
};

struct lowering {
    struct flow *flow;
    const struct sharpi_graph_view *graph;
    struct value_use *uses; /* [n_values] */
    int32_t *act_cells;     /* [n_values, FLOW_MAX_FORMATS]: cell of the value in that format, -1 */
    int32_t *absorbed_by;   /* [n_ops]: the add that becomes this linear's epilogue, -1 */
};

/* flow-fuse.c: which linears an add absorbs; fills uses and absorbed_by. */
void find_uses(struct lowering *lowering);
void find_absorbed(struct lowering *lowering);

/* flow-lower.c */
int32_t flow_lower(struct flow *flow, struct sharpi_error *err);
/* A helper cell of `row_bytes`, shared. */
int32_t cell_add(struct flow *flow, int32_t rows, uint64_t row_bytes, int32_t *out, struct sharpi_error *err);
/* A node with all numbers -1; the pointer is good until the next one is added. NULL with err filled. */
struct node *node_add(struct flow *flow, int32_t kind, const struct sharpi_op *op, struct sharpi_error *err);
/* The cell that holds `value` in `format`, with the node that makes it when it is the first. */
int32_t quantized_cell(struct lowering *lowering, const struct sharpi_op *op, int32_t value, uint32_t format,
                       int32_t *out, struct sharpi_error *err);
/* The cells that hold `value` in each of `formats`, in[] from *n on. */
int32_t quantized_cells(struct lowering *lowering, const struct sharpi_op *op, int32_t value,
                        uint32_t formats, int32_t in[SHARPI_OP_MAX_INPUTS], uint32_t *n,
                        struct sharpi_error *err);

/* flow-heads.c: how an attention's q, k or v is made of a product's rows: each head normed, then turned by its position. */
struct heads_path {
    int32_t raw;        /* cell of the product's rows */
    int32_t norm, rope; /* nodes; -1: there is none */
};
/* Of q, k and v; raw -1 for k and v that are not there. 1 if attention can do it in place of these nodes: they work on whole heads, turn all
 * of them alike, and nobody else reads what they make. 0: not so, or there is nothing to do; paths are then of no use. */
int32_t attention_paths(const struct flow *flow, const struct node *attention, struct heads_path paths[3]);
/* Whether node number `node` is on one of them. */
int32_t paths_have(const struct heads_path paths[3], int32_t node);

/* flow-schedule.c, flow-place.c */
int32_t flow_schedule(struct flow *flow, struct sharpi_error *err);
int32_t flow_place(struct flow *flow, struct sharpi_error *err);

/* The cells that a node reads, its residual included, and those that it writes. Returns how many. */
#define NODE_MAX_CELLS 8
uint32_t node_reads(const struct node *node, int32_t cells[NODE_MAX_CELLS]);
uint32_t node_writes(const struct node *node, int32_t cells[NODE_MAX_CELLS]);

#endif
