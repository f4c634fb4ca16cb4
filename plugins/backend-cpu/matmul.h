/* Matrix products of the CPU backend: out[t, o] = sum_i w[o, i] * x[t, i], for every weight type, any number of rows.
 *
 * A `matrix` is a weight made ready for one ISA: either repacked (rows interleaved so that one vector register holds
 * the same columns of several rows) or used where it lies in the file mapping. Inputs are first brought into the
 * activation format that the matrix wants, once for all matrices that read them.
 *
 * Numerics: f32, f16 and bf16 weights multiply f32 activations and accumulate in f32. Quantized weights multiply int8
 * activations (ACT_Q8_32 or ACT_Q8_256) with int32 sums inside a block and f32 sums across blocks. Every ISA gives the
 * reference's result up to f32 rounding order.
 */
#ifndef SHARPI_BACKEND_CPU_MATMUL_H
#define SHARPI_BACKEND_CPU_MATMUL_H

#include <sharpi/plugin/tensor.h>

#include "isa.h"

enum act_format {
    ACT_F32 = 0,    /* plain floats */
    ACT_Q8_32 = 1,  /* int8 with one f32 scale (and block sum) per 32 elements */
    ACT_Q8_256 = 2, /* int8 with one f32 scale (and sums per 16 or 32) per 256 elements */
    ACT_COUNT
};

/* Bytes of one row of n elements, a multiple of 64. */
uint64_t act_row_bytes(enum act_format format, uint64_t n);
/* One row of n f32 to `format`. dst is 64-byte aligned. */
void act_quantize(enum cpu_isa isa, enum act_format format, void *dst, const float *src, uint64_t n);

/* One row of n elements of a weight type to f32 (embedding look-up, tests); scalar reference in dequant.c. */
void dequant_row(int32_t type, const void *src, float *dst, uint64_t n);

struct matmul_kernel; /* one weight type on one ISA: pack and multiply functions */

struct matrix {
    const struct matmul_kernel *kernel;
    const void *data; /* packed rows, or the file's rows when !packed */
    uint64_t n_in, n_out;
    uint64_t row_bytes; /* of the file's layout */
    int32_t type;
    uint32_t packed;
    enum act_format act; /* what multiply wants as input */
    uint32_t rows_unit;  /* rows are interleaved in groups of so many; slices begin at multiples of it */
};

/* Describes `tensor`'s 2-D matrix [ne0 = n_in, ne1 = n_out] (or expert e of a 3-D one) on `isa`; no data is touched and
 * tensor->data may be NULL. Sets *packed_bytes to what matrix_pack will fill (0: used from the mapping; also when
 * `repack` is 0). SHARPI_ENOTSUP if the type has no kernel. */
int32_t matrix_init(struct matrix *m, const struct sharpi_tensor *tensor, uint64_t expert, enum cpu_isa isa,
                    uint32_t repack, uint64_t *packed_bytes, struct sharpi_error *err);
/* Packs rows [first, first + count) (multiples of rows_unit, or up to n_out) from the file's layout at `src` (the
 * matrix's first row) into `dst` (64-byte aligned, packed_bytes long). Threads may pack disjoint row ranges at once. */
void matrix_pack(const struct matrix *m, void *dst, const void *src, uint64_t first, uint64_t count);

enum matmul_epilogue {
    MATMUL_STORE = 0, /* out = product (+ bias) */
    MATMUL_ADD = 1,   /* out += product (+ bias): the residual stream */
};

struct matmul_part {
    const struct matrix *w;
    const float *bias; /* [n_out] or NULL */
    const int32_t
        *in_rows; /* NULL: rows 0..n_rows-1 of the activations; else which row each output row reads (MoE) */
    float *out;   /* [n_rows, out_stride] */
    uint64_t out_stride; /* floats */
    uint32_t n_rows;
    int32_t epilogue;
};

/* Matrices that share an input, run as one: the work of all parts is one pool that the threads draw from. */
struct matmul_job {
    const struct matmul_part *parts;
    uint32_t n_parts;
    const void *act[ACT_COUNT];     /* activations per format that some part wants */
    uint64_t act_stride[ACT_COUNT]; /* bytes from row to row */
    uint32_t *next; /* shared work counter; 0 before the first thread enters (atomic inside) */
};

/* Called by all nth threads with the same job; returns when this thread finds no more work (no barrier inside). Threads write
 * disjoint outputs. `scratch` is this thread's own, matmul_scratch_bytes() long, 64-byte aligned. */
void matmul_run(const struct matmul_job *job, uint32_t ith, uint32_t nth, void *scratch);
uint64_t matmul_scratch_bytes(void);

#endif
