/* A program: a range of the graph as a list of steps, each run by all threads with a barrier after it.
 *
 * Compiling is what ../backend-common/flow.h describes, with this backend's weights, attentions and mixtures.
 */
#ifndef SHARPI_BACKEND_CPU_PROGRAM_H
#define SHARPI_BACKEND_CPU_PROGRAM_H

#include "../backend-common/flow.h"
#include "../backend-common/scratch.h"
#include "attention.h"
#include "device.h"
#include "matmul.h"
#include "ops.h"

/* A matrix or the stack of a layer's expert matrices. */
struct weight {
    const struct sharpi_tensor *tensor;
    struct matrix *matrices; /* [n] */
    uint32_t n;
    uint64_t packed_bytes; /* of one matrix, a multiple of 64; 0: used from the mapping */
    uint64_t offset;       /* in the program's weight memory */
    uint32_t left;         /* load: chunks still to pack (atomic) */
};

struct attention {
    struct attention_plan plan;
    uint32_t kv_layer, layer;
    int32_t q, k, v, out; /* cells; k, v -1: no append */
    int32_t sinks;        /* vector or -1 */
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

/* A step of products: parts that draw from one pool of work. */
struct product {
    uint32_t first_part;
    struct matmul_job job;
};

struct sharpi_program {
    struct flow flow; /* first */
    struct sharpi_device *device;
    const struct row_ops *ops;

    struct weight *weights;
    struct attention *attentions;
    struct mixture *mixtures;
    struct matmul_part *parts;
    struct product *products; /* [n_steps], of the steps that are products */
    uint32_t n_weights, n_attentions, n_mixtures;
    uint32_t cap_weights, cap_attentions, cap_mixtures;

    uint64_t weight_bytes, mapped_bytes, thread_bytes, attention_bytes;
    struct scratch *shared;           /* whose memory `scratch` is while the program is loaded */
    uint64_t added_bytes;             /* that this program made it larger by */
    uint8_t *weight_memory, *scratch; /* scratch: arena, attention, threads */
    uint32_t *counters;               /* work counters of the steps, two each; zeroed before every run */
    uint32_t loaded;
};

/* ---- compile.c */

int32_t cpu_supports(void *ctx, const struct sharpi_graph_view *graph, const struct sharpi_op *op,
                     const struct sharpi_kv_layer *kv, struct sharpi_error *err);
int32_t cpu_compile(struct sharpi_device *device, const struct sharpi_compile *request,
                    struct sharpi_program **out, struct sharpi_error *err);
int32_t cpu_program_memory(const struct sharpi_program *program, struct sharpi_program_memory *memory);
void cpu_program_destroy(struct sharpi_program *program);

/* Arena, attention's scratch, and one piece per thread. */
static inline uint64_t program_scratch_bytes(const struct sharpi_program *program)
{
    return program->flow.arena_bytes + program->attention_bytes +
           program->device->n_threads * program->thread_bytes;
}

/* ---- load.c, run.c */

void program_unload(struct sharpi_program *program);
int32_t cpu_load(struct sharpi_program *program, const struct sharpi_kv_layer *kv_layers,
                 sharpi_progress_fn *progress, void *user, struct sharpi_error *err);
int32_t cpu_run(struct sharpi_program *program, const struct sharpi_batch *batch,
                const struct sharpi_run_io *io, struct sharpi_error *err);

#endif
