/* A program: a range of the graph as a list of launches on one stream.
 *
 *   compile  (compile.c)   ../backend-common/flow.h with this backend's weights, attentions and mixtures (moe.c)
 *   layout   (layout.c)    one block of weight memory, one of scratch: where everything lies in them
 *   launches (launches.c)  steps become launches with all their arguments; done at compile with made-up addresses, to
 *                          see that all of them can be done, and at load with the true ones
 *   sequences (sequences.c) runs of launches that are one kernel when a step has one row
 *   load     (load.c, upload.c)
 *   batch    (batch.c)     what changes between steps, in one copy
 *   run      (run.c)       launches everything, or replays the graph that was captured of it
 *
 * Invariant: nothing that a captured graph knows changes with the step: its launches read numbers of rows, positions
 * and page tables from device memory.
 */
#ifndef SHARPI_BACKEND_CUDA_PROGRAM_H
#define SHARPI_BACKEND_CUDA_PROGRAM_H

#include <sharpi/cuda/kv-cuda.h>

#include "../backend-common/flow.h"
#include "../backend-common/scratch.h"
#include "device.h"
#include "kernels/matmul.h"
#include "kernels/moe.h"
#include "kernels/rows.h"
#include "kernels/sequence.h"
#include "kernels/topk.h"

#define MAX_GRAPH_ROWS  128u /* most tokens of a step that is captured, and rows of logits on the device */
#define MIN_LOGITS_ROWS 16u
#define MAX_CLASSES     16u
#define N_BUCKETS       8u /* 1, 2, 4 .. 128 */
#define MAX_VARIANTS    16u

/* A matrix or the stack of a layer's expert matrices. */
struct weight {
    const struct sharpi_tensor *tensor;
    struct cuda_matrix matrix;
    uint64_t n_bytes, offset; /* in the program's weight memory */
};

struct attention {
    const struct sharpi_kv_cuda *kernels;
    struct sharpi_kv_cuda_args args;
    uint32_t kv_layer, layer;
    int32_t q, k, v, out; /* cells; k, v -1: no append */
    int32_t sinks;        /* vector or -1 */
    int32_t codes;        /* cell of `out` in ACT_Q8, which attention may write itself; -1 */
    /* Whether attention may make the heads of q, k and v itself, in place of the nodes on these paths. */
    uint32_t can_make_heads;
    struct heads_path paths[3];
};

/* One mixture. A token's expert rows lie in token-major order or, `sorted`, by expert. */
struct mixture {
    const struct sharpi_moe_attr *attr;
    struct cuda_matrix gate, up, down; /* gate and up may be halves of one tensor */
    int32_t gate_weight, up_weight, down_weight;
    int32_t logits, bias, scale;   /* cell; vectors or -1 */
    int32_t input[ACT_COUNT];      /* cells of the input per format that gate and up want, -1 */
    int32_t hidden, hidden_up;     /* [T]: n_used rows of n_ff */
    int32_t hidden_act[ACT_COUNT]; /* [T]: n_used rows in down's formats; -1 */
    int32_t output;                /* [T]: n_used rows [D] */
    uint64_t hidden_row, out_row;  /* bytes of one expert row */
    uint64_t act_row[ACT_COUNT];
    uint32_t width; /* D */
};

enum launch_kind {
    LAUNCH_ROWS = 1,
    LAUNCH_GATHER, /* unpacks gathered rows */
    LAUNCH_LOOKUP, /* rows of the token ids; skipped when the batch brings embeddings */
    LAUNCH_MATMUL,
    LAUNCH_ATTENTION,
    LAUNCH_ROUTE,
    LAUNCH_EXPERTS, /* up to three products and row steps, see run-moe.c */
    LAUNCH_COPY_IN,
    LAUNCH_COPY_OUT,
    LAUNCH_LOGITS, /* the output matrix, in pieces of logits_rows rows */
};

/* Variants of a row step: which of its ops other launches do, and in which order experts' rows lie. */
enum {
    VARIANT_PLAIN = 0,
    VARIANT_GLU_DONE = 1,
    VARIANT_UNSORTED = 2,
    VARIANT_CODES_DONE = 4,
    VARIANT_HEADS_DONE = 8
};

struct launch {
    int32_t kind; /* enum launch_kind */
    int32_t rows; /* enum sharpi_rows */
    int32_t layer;
    int32_t step;     /* of the flow */
    const char *what; /* for errors */
    int32_t index;    /* by kind: attention, mixture, entry of io */
    int32_t cell;     /* copies */
    uint32_t is_tap;
    uint32_t variants;          /* row steps: the bits that variants have */
    struct matmul_args product; /* products, logits; n_rows and rest are filled when it runs */
    int32_t glu, glu_launch; /* product: activation that can be fused; row step: whose product does it, -1 */
    int32_t codes_of; /* row step: the attention that may have written its output's ACT_Q8 itself, -1 */
    int32_t heads_of; /* row step: the attention that may make its heads itself, -1 */
    float glu_clamp;
    float scale;                           /* look-up */
    struct rows_step *steps[MAX_VARIANTS]; /* row steps, by variant; one of a mixture's hidden rows */
    /* The first of a run of launches that are one kernel when the step has one row: it, and how many they are. */
    struct sequence *sequence;
    uint32_t n_sequence;
};

/* Where things lie in scratch, in bytes. First the head, which stays from run to run and is alike in all programs of a model that
 * are on one device, as they take turns in one scratch: counters that kernels leave at zero (at the beginning of `matmul` and of
 * `attention`, and `sequence`), a table of numbers, page tables. */
struct layout {
    uint64_t arena, attention, matmul, topk, best, inputs, pages, embeddings, logits, sequence, n_bytes;
    uint64_t attention_bytes, matmul_bytes, moe_bytes;
    /* Of the inputs: what is copied before every step, from a host buffer of the same layout. */
    uint64_t step, tokens, positions, seqs_of, logit_rows, seqs, gathers, input_bytes;
    uint64_t class_pages[MAX_CLASSES]; /* from `pages` on */
    uint32_t page_stride[MAX_CLASSES]; /* entries */
    uint64_t page_bytes;
    /* Of a mixture's memory; mixtures run one after the other, so one serves all. */
    uint64_t counts; /* the numbers 0 .. MAX_GRAPH_ROWS, for launches over a known number of rows */
    uint64_t moe_experts, moe_weights, moe_slots, moe_source, moe_starts, moe_workspace;
};

/* The head of the inputs. */
struct step_head {
    struct sharpi_cuda_step step;
    int32_t has_embeddings;
    int32_t reserved[11];
};

/* Columns [first, end) of a table that stays in the file mapping. The host sends the tokens' rows as they are in the file; the
 * device unpacks them like a small matrix of its own. */
struct gather {
    const struct sharpi_tensor *table;
    float scale;
    uint64_t first, end;
    struct cuda_matrix matrix;  /* [end - first, rows]: one per token */
    uint64_t row_bytes;         /* in the file */
    uint64_t raw, packed, rows; /* in the inputs; in scratch; in scratch: f32 rows of end - first columns */
};

/* Which columns of a gather an op wants. */
struct gathered {
    int32_t cell;
    uint32_t gather;
    uint64_t first; /* column of the table */
};

struct graph_slot {
    cudaGraphExec_t exec;
    uint32_t uses;
    uint32_t n_best, max_length; /* that it was captured for */
    uint32_t is_broken;
};

/* What a step says about its rows of logits. */
enum { RESULT_NONE, RESULT_LOGITS, RESULT_BEST, N_RESULTS };

struct sharpi_program {
    struct flow flow; /* first */
    struct sharpi_device *device;
    uint32_t n_classes, max_length;
    uint32_t logits_rows; /* of logits that are on the device at a time: those of a decode step */

    struct weight *weights;
    struct attention *attentions;
    struct mixture *mixtures;
    struct gather *gathers;
    struct gathered *gathered;
    struct launch *launches;
    uint32_t n_weights, n_attentions, n_mixtures, n_gathers, n_gathered, n_launches;
    uint32_t cap_weights, cap_attentions, cap_mixtures, cap_gathers, cap_gathered, cap_launches;
    struct flow_traits traits;

    struct layout layout;
    float softcap; /* of the logits; 0: none */
    uint64_t weight_bytes, vector_offset, mapped_bytes, embedding_width;
    struct scratch *shared;           /* whose memory `scratch` is while the program is loaded */
    uint64_t added_bytes;             /* that this program made it larger by */
    uint8_t *weight_memory, *scratch; /* device; made-up addresses while compiling */
    uint8_t *host_inputs, *host_pages, *host_embeddings;  /* pinned */
    float *host_logits;                                   /* pinned, [logits_rows, n_vocab] */
    float **host_carry_in, **host_carry_out, **host_taps; /* pinned, [max_tokens, width] each */
    uint8_t *host_best;                                   /* pinned, as on the device */
    struct graph_slot graphs[N_BUCKETS][N_RESULTS];       /* by bucket of tokens; logits of none or of each */
    uint32_t loaded;
};

static inline struct sharpi_program *program_of(struct flow *flow)
{
    return (struct sharpi_program *)(void *)flow; /* its first member */
}

/* ---- compile.c */

int32_t cuda_supports(void *ctx, const struct sharpi_graph_view *graph, const struct sharpi_op *op,
                      const struct sharpi_kv_layer *kv, struct sharpi_error *err);
int32_t cuda_compile(struct sharpi_device *device, const struct sharpi_compile *request,
                     struct sharpi_program **out, struct sharpi_error *err);
int32_t cuda_program_memory(const struct sharpi_program *program, struct sharpi_program_memory *memory);
void cuda_program_destroy(struct sharpi_program *program);
int32_t weight_add(struct flow *flow, const struct sharpi_tensor *tensor, int32_t *out, uint32_t *formats,
                   struct sharpi_error *err);
/* The attention that may do this node's work, being on its paths; -1. */
int32_t heads_of(const struct sharpi_program *program, const struct node *node);
/* The input formats (bits) that products of `matrix` want for 1 to max_rows rows. */
uint32_t formats_of(const struct cuda_matrix *matrix, uint64_t max_rows);

/* ---- moe.c */

int32_t lower_moe(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err);

/* ---- layout.c */

int32_t program_lay_out(struct sharpi_program *program, struct sharpi_error *err);
/* Bytes of the best k candidates of n_rows rows: ids, logits, sums one after the other. */
uint64_t best_bytes(uint64_t n_rows, uint64_t k);
/* Sets the cells' bases, the matrices' data and everything else that is an address in weight memory or scratch. */
void program_point(struct sharpi_program *program);

/* ---- launches.c: the launches, with addresses from program_point. Made anew by each call. */

int32_t launches_make(struct sharpi_program *program, struct sharpi_error *err);
void launches_free(struct sharpi_program *program);

struct launch *launch_add(struct sharpi_program *program, int32_t kind, const struct node *node,
                          struct sharpi_error *err);

/* sequences.c: joins launches. */
int32_t sequences_make(struct sharpi_program *program, struct sharpi_error *err);

/* rows-make.c: the row steps of a flow step; `glu_launch`: the product before it that can do its glu, or -1. */
int32_t rows_make(struct sharpi_program *program, const struct step *step, int32_t glu_launch,
                  struct sharpi_error *err);
/* What is done to an expert's hidden rows between its products. */
int32_t rows_make_hidden(struct sharpi_program *program, struct launch *launch, const struct mixture *m,
                         struct sharpi_error *err);
/* Capping of logits. */
int32_t rows_make_cap(struct sharpi_program *program, struct launch *launch, float cap,
                      struct sharpi_error *err);

/* ---- load.c, upload.c */

/* Pinned memory that all programs in one scratch may have in common: [page tables, carried and tapped rows]. */
uint64_t program_host_bytes(const struct sharpi_program *program);

int32_t cuda_load(struct sharpi_program *program, const struct sharpi_kv_layer *kv_layers,
                  sharpi_progress_fn *progress, void *user, struct sharpi_error *err);
/* Weights to the device, through the scratch memory, with several threads. */
int32_t upload_weights(struct sharpi_program *program, sharpi_progress_fn *progress, void *user,
                       struct sharpi_error *err);
/* Scratch that upload_weights needs. */
uint64_t upload_bytes(const struct sharpi_program *program);
void program_unload(struct sharpi_program *program);

/* ---- batch.c */

/* Fills the pinned inputs; enqueues the copies of those that graphs do not copy. */
int32_t batch_stage(struct sharpi_program *program, const struct sharpi_batch *batch,
                    const struct sharpi_run_io *io, struct sharpi_error *err);

/* ---- run.c, run-moe.c */

/* A step in flight: upper bounds of what is launched. */
struct run {
    struct sharpi_program *program;
    const struct sharpi_batch *batch;
    uint32_t n_tokens, n_logits, n_seqs, max_seq_tokens; /* bounds: the bucket's, or exact */
    uint32_t max_length;         /* of a sequence, with this step; a power of two or the context */
    uint32_t n_best, wants_rows; /* best candidates, whole rows of logits, or both */
    uint32_t is_captured;
    cudaStream_t stream;
};

int32_t cuda_run(struct sharpi_program *program, const struct sharpi_batch *batch,
                 const struct sharpi_run_io *io, struct sharpi_error *err);
/* logits.c: rows [first, first + n) of the logits (n <= logits_rows) or their best candidates, made on the device and sent
 * to the pinned buffers; `count` says on the device how many truly. deliver_logits copies them from there. */
int launch_logits(const struct run *run, const struct launch *launch, uint32_t first, uint32_t n,
                  const int32_t *count);
int32_t send_logits(const struct run *run, uint32_t n, const int32_t *count, struct sharpi_error *err);
void deliver_logits(const struct run *run, const struct sharpi_run_io *io, uint32_t first, uint32_t n,
                    uint32_t bound);
/* The variant of a row step in this run; NULL: nothing is to be done. */
const struct rows_step *run_rows_step(const struct run *run, const struct launch *launch);
/* The arguments of a product in this run. */
struct matmul_args run_product(const struct run *run, const struct launch *launch);
int run_route(const struct run *run, const struct launch *launch);
int run_experts(const struct run *run, const struct launch *launch);
struct moe_route run_route_args(const struct run *run, const struct launch *launch);
/* The products of a mixture's experts for few tokens; 0: they are not just two. */
int32_t run_experts_args(const struct run *run, const struct launch *launch,
                         struct sequence_experts *experts);
struct rows_batch run_rows_batch(const struct sharpi_program *program);
/* Whether experts' rows are sorted in steps of so many tokens. */
static inline int32_t experts_sorted(uint32_t n_tokens)
{
    return n_tokens > MATMUL_GEMV_ROWS;
}

#endif
