/* Several launches of a step with one row as one kernel, so that weights never stop streaming.
 *
 * A sequence is a list of stages: dense products and row steps, one after the other as their launches would be. Its kernel
 * has one block per multiprocessor; between stages there is a barrier of all blocks that matter, and meanwhile each warp's copies
 * of weights run ahead into the products that follow (sequence.cu).
 *
 * Use: sequence_begin, sequence_add_* for each launch in order while they return 1, sequence_end, all of it arithmetic;
 * sequence_launch in every step. The object is plain data; it may be made with made-up addresses.
 */
#ifndef SHARPI_BACKEND_CUDA_SEQUENCE_H
#define SHARPI_BACKEND_CUDA_SEQUENCE_H

#include "matmul.h"
#include "moe.h"
#include "rows.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SEQUENCE_MAX_STAGES 14u
/* Device memory that all sequences of a stream share: zeroed once, zero again after every launch. */
#define SEQUENCE_COUNTER_STRIDE 128u
#define SEQUENCE_COUNTER_BYTES  ((SEQUENCE_MAX_STAGES + 1) * SEQUENCE_COUNTER_STRIDE)
#define SEQUENCE_ROW_BYTES      4864u         /* of what each block makes for itself */
#define SEQUENCE_SUM_BYTES      (4u * 15360u) /* a row of f32 */
#define SEQUENCE_SQUARES_BYTES  8192u         /* of norms */
#define SEQUENCE_CODES_BYTES    14080u        /* of one: SEQ_MAX_SQUARES times 32 columns */
/* The counters, and, which need no zeros, squares, the blocks' rows and some more. */
uint64_t sequence_memory_bytes(const struct matmul_context *ctx);

struct sequence;

uint64_t sequence_bytes(void); /* sizeof(struct sequence), for the caller to allocate (16-byte aligned) */

/* Sets the kernel's attributes; a cudaError_t. */
int sequence_prepare(const struct matmul_context *ctx);

void sequence_begin(struct sequence *sequence, const struct matmul_context *ctx);
/* 1: the launch is the next stage (or stages); 0: it cannot be one, and nothing has changed. `args`: as for matmul_launch with one
 * row; n_rows, n_rows_dev, workspace and stream are not used. */
int sequence_add_product(struct sequence *sequence, const struct matmul_args *args);
int sequence_add_rows(struct sequence *sequence, const struct rows_step *step,
                      const struct rows_batch *batch);
/* A mixture in one row: its routing, which the products of its experts do, and these. `up`: gate and up, with glu; `down`: reads what `up`
 * made, in `act`; both not sorted. Where a row step follows that adds experts up, only the sum is stored, at the first of
 * their rows. */
struct sequence_experts {
    struct matmul_grouped_args up, down;
};
/* 0 beyond 352 experts. */
int sequence_add_route(struct sequence *sequence, const struct moe_route *route);
int sequence_add_experts(struct sequence *sequence, const struct sequence_experts *experts);
/* 0: routing was added without its experts; the sequence must end before it. */
int sequence_is_whole(const struct sequence *sequence);
/* 1: it can be launched; 0: the device's multiprocessors have too little shared memory for it. is_closed: nobody after the sequence reads what
 * its row steps made for products, codes and normed rows; they may then be something else, or not there. */
int sequence_end(struct sequence *sequence, int is_closed);

/* Enqueues it for one row, or none if *n_rows_dev is 0; no kernel of the step may write that. Two sequences that are not `cooperative`
 * must not run on a device at the same time: they may wait for each other for ever. Cooperative ones may, but begin later; and the
 * driver refuses them where it cannot promise that all their blocks are resident together. Returns a cudaError_t. */
int sequence_launch(const struct sequence *sequence, const int32_t *n_rows_dev, void *counters,
                    int cooperative, cudaStream_t stream);

/* For tests: places that a block may write while another still reads them (sequence-check.cu). 0 after sequence_end. */
uint32_t sequence_conflicts(const struct sequence *sequence);

#ifdef SEQUENCE_TRACE
void sequence_trace_print(void); /* sequence-trace.cuh */
#endif

#ifdef __cplusplus
}
#endif
#endif
