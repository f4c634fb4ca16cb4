/* What rows-plan.c tells rows.cu: a step as the kernel reads it from its parameters.
 *
 * A row is seen as chunks of four columns; within a block, chunk c belongs to thread c % threads in every op. So a thread
 * reads in one op only what it wrote itself in another, and barriers are needed only where an op mixes columns. The
 * result of an op stays in its thread's registers (the accumulator) for the next one.
 *
 * Shared memory is slots of one tile (the block's columns): locals that are read later than by the next op, one slot for
 * ops that exchange columns, and slots for what is fetched ahead.
 */
#ifndef SHARPI_BACKEND_CUDA_ROWS_INTERNAL_H
#define SHARPI_BACKEND_CUDA_ROWS_INTERNAL_H

#include "rows.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ROWS_NO_SLOT    255u
#define ROWS_MAX_SHARED (96u << 10) /* what every chip since sm_80 gives a block */
#define ROWS_FEW_OPS    20u         /* steps of at most so many ops have a kernel with smaller parameters */

enum rows_source {
    ROWS_NONE = 0,
    ROWS_ACC = 1, /* the previous op's result */
    ROWS_MEMORY = 2,
    ROWS_SHARED = 3,
};

enum rows_store { ROWS_STORE_MEMORY = 1, ROWS_STORE_SHARED = 2 };

enum rows_aligned { /* what may be moved 16 bytes at a time */
                    ROWS_ALIGNED_IN0 = 1,
                    ROWS_ALIGNED_IN1 = 2,
                    ROWS_ALIGNED_OUT = 4,
                    ROWS_ALIGNED_VECTOR = 8,
};

enum rows_method {
    ROWS_NORM_ROW = 0,      /* one group: the row */
    ROWS_NORM_LANES = 1,    /* groups of 1, 2, 4 .. 32 lanes */
    ROWS_NORM_WARPS = 2,    /* groups of whole warps */
    ROWS_NORM_EXCHANGE = 3, /* any groups, through the exchange slot */
    ROWS_ROPE_LANES = 4,    /* the partner is in the same warp, or in the same chunk */
    ROWS_ROPE_EXCHANGE = 5, /* whole chunks */
    ROWS_ROPE_SCALAR = 6,   /* anything */
};

struct rows_dev_op {
    uint8_t kind, source0, source1, store;
    uint8_t aligned, method, sync, activation;
    uint8_t slot0, slot1, slot_out; /* of locals */
    uint8_t ahead0, ahead1,
        ahead_vector; /* slots of what is fetched ahead; a rope's table takes ahead1 and the next */
    uint8_t mode, format;
    uint32_t width, group, n;              /* n: n_rot or n_used */
    uint32_t column0, column1;             /* first column within a local */
    uint32_t stride0, stride1, stride_out; /* bytes */
    float eps, scale, limit;
    uint32_t min_rows, max_rows;
    const uint8_t *in0, *in1;
    uint8_t *out;
    const float *vector;
    const void *extra; /* frequencies, slots or, for embed, the table's number in the step */
    const float *weights;
};

struct rows_dev_chain {
    uint16_t first_op, n_ops;
    uint32_t n_slots;
    uint32_t splits, tile; /* per launch: blocks of a row; chunks of a block */
    uint32_t first_block;  /* per launch */
};

struct rows_plan_chain {
    uint32_t first_op, n_ops;
    uint32_t width; /* widest op's columns */
    uint32_t unit;  /* chunks that must stay in one block; 0: the whole row */
    uint32_t n_slots, n_ahead;
};

struct rows_step {
    struct rows_dev_op ops[ROWS_MAX_OPS];
    struct rows_plan_chain chains[ROWS_MAX_CHAINS];
    uint32_t n_ops, n_chains, rows_factor;
    int32_t rows;
};

#ifdef __cplusplus
}
#endif
#endif
