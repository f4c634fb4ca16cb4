/* Matrix products of the CUDA backend: out[t, o] = sum_i w[o, i] * x[t, i], for every weight type, any number of rows.
 *
 * A `cuda_matrix` is a weight in its device layout (matmul-layout.cuh): the file's bits rearranged, once at upload, so
 * that every load of every kernel is 16 bytes wide and lands where a tensor-core fragment wants it. The inputs are
 * first brought into the activation format that the matrix wants at this number of rows (matmul_act_format), once
 * for all matrices that read them; matmul-act.cuh has the device functions that write the formats.
 *
 * Numerics: f32 weights multiply f32 activations exactly (f32 products and sums, no TF32). f16 and bf16 weights multiply
 * f32 activations up to MATMUL_GEMV_ROWS rows. Quantized weights multiply int8 activations (ACT_Q8) up to MATMUL_GEMV_ROWS
 * rows. Beyond, both multiply bf16 activations with bf16 weights and f32 sums; weights are rounded from the exact f32 value, on
 * Hopper up to 384 rows computed from scales that are rounded to bf16 first.
 * Results do not depend on timing: every sum has a fixed order.
 *
 * No launcher synchronises or allocates; all can be captured in a graph. They return a cudaError_t as int, 0 on success.
 */
#ifndef SHARPI_BACKEND_CUDA_MATMUL_H
#define SHARPI_BACKEND_CUDA_MATMUL_H

#include <cuda_runtime_api.h>
#include <sharpi/plugin/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MATMUL_GEMV_ROWS 8 /* rows up to which activations are ACT_Q8 / ACT_F32; beyond, ACT_BF16 */
#define MATMUL_MAX_PARTS 4
#define MATMUL_GROUP     16 /* rows of a matrix that are stored together */

/* ---- Activations ---- */

/* How the rows of an input lie in memory; n = n_in. Rows begin act_row_bytes() or a larger multiple of 16 apart.
 * ACT_F32:  float[n].
 * ACT_Q8:   int8 codes[n], then float2 {d, d * sum of codes} [n / 32]; n is a multiple of 32. A value is d * code,
 *           d = amax / 127. In each block of 32, the eight 4-byte words of codes are stored in the order 0 4 1 5 2 6 3 7.
 * ACT_BF16: bf16[n rounded up to 64], zeros past n. In each 16 columns, the eight pairs are stored in the order
 *           0 2 4 6 1 3 5 7. (A product does not care, if both sides are stored alike.) */
enum act_format { ACT_F32 = 0, ACT_Q8 = 1, ACT_BF16 = 2, ACT_COUNT = 3 };

static inline uint64_t act_row_bytes(enum act_format format, uint64_t n)
{
    if (format == ACT_F32)
        return (n * 4 + 15) & ~(uint64_t)15;
    if (format == ACT_Q8)
        return (n + n / 4 + 15) & ~(uint64_t)15;
    return (n + 63) / 64 * 128;
}

/* `src`: f32 rows, src_stride floats apart. Converts rows [0, n_rows) (of those, only the first *n_rows_dev when
 * n_rows_dev is not NULL) of n elements. */
int act_convert_launch(enum act_format format, void *dst, uint64_t dst_stride, const float *src,
                       uint64_t src_stride, uint64_t n, uint32_t n_rows, const int32_t *n_rows_dev,
                       cudaStream_t stream);

/* ---- Weights ---- */

struct cuda_matrix {
    const void *data; /* device, 256-byte aligned, matrix_device_bytes() long */
    uint64_t n_in, n_out;
    uint64_t stack_bytes; /* from one matrix of the stack to the next */
    uint32_t n_stack;     /* experts; 1 = a plain matrix */
    int32_t type;         /* enum sharpi_type */
};

/* Exact bytes of the device layout of n_stack matrices [n_in, n_out]; 0 if the type is not supported, n_in is not a whole
 * number of blocks, or the size overflows. The file's bits per weight, up to the rounding of n_out to 16 and n_in to
 * 64 or so, and q3_k's 110-byte block, which takes 112. */
uint64_t matrix_device_bytes(int32_t type, uint64_t n_in, uint64_t n_out, uint32_t n_stack);
/* Fills *m; `data` may be NULL (planning). SHARPI_ENOTSUP with a reason. */
int32_t matrix_init(struct cuda_matrix *m, int32_t type, uint64_t n_in, uint64_t n_out, uint32_t n_stack,
                    const void *data, struct sharpi_error *err);
/* The rows [first, first + n_out) of every matrix of the stack as a matrix of its own (gate and up stored as one tensor);
 * first is a multiple of MATMUL_GROUP. */
struct cuda_matrix matrix_rows(const struct cuda_matrix *m, uint64_t first, uint64_t n_out);

/* Rearranges file rows [first_row, first_row + n_rows) of matrix `stack` from staging_dev (row first_row is at its start, 16-byte
 * aligned, rows contiguous as in the file) to their final place. first_row is a multiple of MATMUL_GROUP; n_rows too, or
 * the rest. */
int matrix_repack(const struct cuda_matrix *m, uint32_t stack, const void *staging_dev, uint64_t first_row,
                  uint64_t n_rows, cudaStream_t stream);
/* Rows to f32 in natural order, bit for bit what the CPU's dequant_row gives: out[i] = scale * row(ids[i]); ids NULL: rows
 * first_row + i. Rows with an id outside the matrix give zeros. Embedding look-up from a repacked table, tests. */
int matrix_gather_launch(const struct cuda_matrix *m, const int32_t *ids, uint64_t first_row, uint32_t n_rows,
                         const int32_t *n_rows_dev, float scale, float *out, uint64_t out_stride,
                         cudaStream_t stream);

/* ---- Context: what is made once per device, at load time ---- */

struct
    matmul_context; /* SM count, kernel attributes, cublasLt handle, workspace and algorithms if it could be loaded */

struct matmul_options {
    int device;       /* the current one */
    int overlap;      /* launches may begin before the one before them has ended, where the code can */
    int blas;         /* try to load libcublasLt */
    int shared_bytes; /* shared memory that a block may use; 0: what the device has */
};

/* *has_blas (NULL: not wanted) says whether libcublasLt was loaded. */
int32_t matmul_context_create(struct matmul_context **out, const struct matmul_options *options,
                              int *has_blas, struct sharpi_error *err);
void matmul_context_destroy(struct matmul_context *ctx);

/* The activation format that matmul_launch wants for n_rows (the bucket's upper bound). */
enum act_format matmul_act_format(const struct cuda_matrix *m, uint32_t n_rows);

/* ---- Products ---- */

enum matmul_epilogue {
    MATMUL_STORE = 0, /* out = product (+ bias) */
    MATMUL_ADD = 1,   /* out += product (+ bias): the residual stream */
};

struct matmul_part {
    const struct cuda_matrix *w; /* read during the call only */
    const float *bias;           /* device [n_out] or NULL */
    float *out;                  /* device [n_rows, out_stride] */
    uint64_t out_stride;         /* floats */
    int32_t epilogue;            /* enum matmul_epilogue */
};

/* Matrices that share their input rows. Parts have the same n_in. */
struct matmul_args {
    struct matmul_context *ctx;
    uint32_t n_parts;
    struct matmul_part part[MATMUL_MAX_PARTS];
    const void *act[ACT_COUNT];     /* per format that some part wants */
    uint64_t act_stride[ACT_COUNT]; /* bytes from row to row, multiple of 16 */
    uint32_t n_rows;                /* upper bound: the bucket */
    const int32_t *n_rows_dev; /* device; NULL: n_rows. Output rows past it hold nothing afterwards: large
                                   products write them, others do not */
    int32_t glu;     /* 0, or an enum sharpi_activation: n_parts == 2, part[0].out = act(gate) * up, where
                        matmul_can_glu(); biases go in before, part[1].out is not used */
    float glu_clamp; /* 0 = none: gate and up are limited to +-clamp */
    void *
        workspace; /* matmul_workspace_bytes(); zeroed once after allocation, then left alone; one stream at a time */
    uint64_t workspace_bytes;
    cudaStream_t stream;
};

/* Bytes that matmul_launch and matmul_grouped_launch need for matrices like these at up to n_rows rows. Take the
 * largest over all calls; it is bounded (about 150 MiB) whatever the matrix. */
uint64_t matmul_workspace_bytes(const struct matmul_context *ctx, const struct cuda_matrix *m,
                                uint32_t n_rows);
/* Whether gate and up can be computed and activated in one launch at this number of rows. */
int matmul_can_glu(const struct matmul_context *ctx, const struct cuda_matrix *gate,
                   const struct cuda_matrix *up, uint32_t n_rows);
int matmul_launch(const struct matmul_args *args);

/* ---- Mixtures ----
 *
 * Row p of n_pairs (token, expert) pairs: out[out_row(p)] = w[expert(p)] * x[in_row(p)].
 * Few pairs (MATMUL_GEMV_ROWS tokens times k): expert_of[p] gives the expert of pair p, in any order;
 * in_row = p / in_divisor (k for gate and up, where pairs are token-major; 1 for down), out_row = p.
 * Many: pairs sorted by expert; expert e has the sorted places [starts[e], starts[e + 1]); in_row = in_rows[place] (NULL: place),
 * out_row = out_rows[place] (NULL: place). An expert outside 0..n_stack-1 is skipped. */
struct matmul_grouped_args {
    struct matmul_context *ctx;
    uint32_t n_parts; /* 1, or 2 with glu: gate, up; each a stack of experts, plain STORE, no bias needed */
    struct matmul_part part[2]; /* bias: [n_stack, n_out] or NULL */
    const void *act;            /* in matmul_grouped_act_format() */
    uint64_t act_stride;
    uint32_t n_pairs;           /* upper bound */
    const int32_t *n_pairs_dev; /* NULL: n_pairs */
    int32_t sorted;             /* 0: expert_of, in_divisor; 1: starts, in_rows, out_rows */
    const int32_t *expert_of;
    uint32_t in_divisor;
    const int32_t *starts, *in_rows, *out_rows;
    int32_t glu;
    float glu_clamp;
    void *workspace;
    uint64_t workspace_bytes;
    cudaStream_t stream;
};

/* ACT_Q8 or ACT_F32 when not sorted, ACT_BF16 when sorted (f32 weights: ACT_F32). */
enum act_format matmul_grouped_act_format(const struct cuda_matrix *m, int32_t sorted);
/* Always fuses glu when not sorted; when sorted, if both types are equal and not f32. */
int matmul_grouped_can_glu(const struct cuda_matrix *gate, const struct cuda_matrix *up, int32_t sorted);
int matmul_grouped_launch(const struct matmul_grouped_args *args);

#ifdef __cplusplus
}
#endif
#endif
