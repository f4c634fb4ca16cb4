/* Row steps: everything a forward pass does to rows of f32 besides products and attention, as chains of small ops.
 *
 * A chain is a list of ops that run one after the other on each row. A step is one launch: up to ROWS_MAX_CHAINS chains
 * over the same kind of rows, each (row, chain) or (row, column range, chain) worked on by one thread block. The values
 * between the ops of a chain stay in registers or in the block's shared memory.
 *
 * Use: fill struct row_op's, rows_step_init once at load, rows_step_launch in every step (or once, when capturing).
 * An op may read what an earlier op of its chain wrote (same memory or same local number) and what earlier launches
 * wrote; chains of one step must not touch each other's outputs.
 *
 * Memory operands have as many rows as the launch's bound; those past the true number may be read, but are never written.
 * Widths may be any number; rows whose base and stride are multiples of 16 bytes move four floats at a time.
 */
#ifndef SHARPI_BACKEND_CUDA_ROWS_H
#define SHARPI_BACKEND_CUDA_ROWS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include <sharpi/plugin/graph.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ROWS_MAX_CHAINS 8u
#define ROWS_MAX_OPS    64u /* of a step */
#define ROWS_MAX_WIDTH                                                                                       \
    32768u /* of a row whose chain needs all of it at once (see rows_step_init); else 2^30 */

enum row_kind {
    ROW_EMBED =
        1, /* in0: looked-up rows in memory (matrix_gather_launch of matmul.h); or the batch's embeddings, if any */
    ROW_RMS_NORM, /* in0 / sqrt(mean(in0^2) + eps) [* vector [group]], by groups of `group` columns (0: the row) */
    ROW_ROPE_TABLE, /* cos [width / 2], sin [width / 2] of position * frequencies[j], times `scale`: width = n_rot */
    ROW_ROPE,       /* in0 turned by in1, a row made by ROW_ROPE_TABLE; heads of `group` columns */
    ROW_GLU,        /* activation(in0) * in1, both limited to +-limit first if limit > 0 */
    ROW_ACTIVATION, /* activation(in0) */
    ROW_ADD,        /* in0 + in1 */
    ROW_MUL,        /* in0 * in1 */
    ROW_MUL_VECTOR, /* in0 * vector [width] */
    ROW_SCALE,      /* in0 * scale [* vector [1]] */
    ROW_SOFTCAP,    /* limit * tanh(in0 / limit) */
    ROW_SELECT,     /* row logit_rows[r] of in0 (memory); for steps over selected rows */
    ROW_COPY,       /* in0; a slice is a copy from a base moved by `first` columns */
    ROW_QUANTIZE,   /* in0 in the activation format `format` of matmul.h, out in memory */
    ROW_COMBINE,    /* sum over j < n_used of weights[r, j] * row slots[r, j] of in0 (memory); slots NULL: row
                       r * n_used + j; see moe.h */
    ROW_KIND_END
};

/* Where rows lie: in memory (base of row 0, bytes from row to row) or, base NULL and local > 0, in the block: a value of
 * that number that lives inside this chain only. Both 0: no operand. */
struct row_operand {
    void *base;
    uint32_t stride;
    uint32_t local;
    uint32_t column; /* of a local that is read: the first column, a multiple of 4 */
};

struct row_op {
    int32_t kind;   /* enum row_kind */
    uint32_t width; /* columns of the result; of in0 for ROW_QUANTIZE */
    struct row_operand in[2], out;
    const float *vector;       /* device; rms_norm (add_one already added), mul_vector, scale */
    uint32_t group;            /* rms_norm: columns of a group; rope: head_dim; 0 = width */
    uint32_t n_rot;            /* rope */
    int32_t rope_mode;         /* enum sharpi_rope_mode */
    int32_t activation;        /* enum sharpi_activation */
    int32_t format;            /* quantize: enum act_format of matmul.h */
    uint32_t n_used;           /* combine */
    float eps, scale, limit;   /* scale must be set where it is used: 1 = none */
    const double *frequencies; /* device; rope table, [n_rot / 2] */
    const int32_t *slots;      /* combine: device, [T, n_used] contiguous */
    const float *weights;      /* combine: device, [T, n_used] contiguous */
    /* Only ROW_QUANTIZE: it is done in launches whose n_rows is within [min_rows, max_rows] (max_rows 0: no limit), so that
     * a value gets the format that the products of this number of rows want. */
    uint32_t min_rows, max_rows;
};

/* Fixed device addresses of what changes from step to step; contents are read by the kernels. */
struct rows_batch {
    const int32_t *n_rows[2];      /* by enum sharpi_rows: true numbers of tokens and of selected rows */
    const int32_t *tokens;         /* [T] */
    const int32_t *positions;      /* [T] */
    const int32_t *logit_rows;     /* [R] */
    const float *embeddings;       /* [T, embedding_stride bytes], or NULL if the batch never has them */
    const int32_t *has_embeddings; /* not 0: use them instead of tokens; NULL: never */
    uint64_t embedding_stride;     /* bytes */
};

struct rows_chain {
    const struct row_op *ops;
    uint32_t n_ops;
};

/* Host object, no device memory of its own: plain data, may be copied and dropped. Large (about 8 KB). */
struct rows_step;

uint64_t rows_step_bytes(void); /* sizeof(struct rows_step), for the caller to allocate (16-byte aligned) */

/* Checks and plans a step. `rows` is enum sharpi_rows; rows_factor rows per token or selected row (1; n_used for the rows
 * of a mixture's experts). May be called at compile time with made-up bases of the true alignment. A chain needs all of a
 * row at once if it has a norm over the whole width, or ops of several widths; then its width is limited. */
int32_t rows_step_init(struct rows_step *step, const struct rows_chain *chains, uint32_t n_chains,
                       int32_t rows, uint32_t rows_factor, struct sharpi_error *err);

/* Enqueues the step for at most n_rows tokens or selected rows (the bucket's bound; rows_factor not counted in);
 * *batch->n_rows[rows] is the true number. `n_sms`: the device's multiprocessors; `overlap`: 1 to let it begin before its
 * predecessor ends (launch.h; sm_90 and later). Returns a cudaError_t. */
int32_t rows_step_launch(const struct rows_step *step, const struct rows_batch *batch, uint32_t n_rows,
                         uint32_t n_sms, int32_t overlap, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
