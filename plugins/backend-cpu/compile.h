/* What the stages of compiling share; see program.h for what they are. */
#ifndef SHARPI_BACKEND_CPU_COMPILE_H
#define SHARPI_BACKEND_CPU_COMPILE_H

#include "program.h"

/* What the ops of the range do with a value; taps of the graph do not count. */
struct value_use {
    uint32_t n;
    int32_t last;         /* op */
    uint32_t is_external; /* tapped or carried out: written somewhere else too */
    uint32_t is_sliced;
};

struct lowering {
    struct sharpi_program *program;
    const struct sharpi_graph_view *graph;
    struct value_use *uses; /* [n_values] */
    int32_t *act_cells;     /* [n_values, ACT_COUNT]: cell of the value in that format, -1 */
    int32_t *absorbed_by;   /* [n_ops]: the add that becomes this linear's epilogue, -1 */
};

/* ---- compile-weights.c: what the program keeps of the file. Equal requests give equal numbers. */

int32_t weight_add(struct sharpi_program *program, const struct sharpi_tensor *tensor, int32_t *out,
                   struct sharpi_error *err);
int32_t vector_add(struct sharpi_program *program, const struct sharpi_tensor *tensor, float plus,
                   int32_t *out, struct sharpi_error *err);
int32_t rope_add(struct sharpi_program *program, const struct sharpi_rope_attr *attr,
                 const struct sharpi_tensor *divisors, int32_t *out, struct sharpi_error *err);
/* Fixes offsets and the sums of bytes. */
int32_t weights_lay_out(struct sharpi_program *program, struct sharpi_error *err);

/* ---- compile-fuse.c: which linears an add absorbs; fills uses and absorbed_by. */

void find_uses(struct lowering *lowering);
void find_absorbed(struct lowering *lowering);

/* ---- compile-lower.c */

int32_t compile_lower(struct sharpi_program *program, struct sharpi_error *err);
/* A helper cell of `row_bytes`, shared. */
int32_t cell_add(struct sharpi_program *program, int32_t rows, uint64_t row_bytes, int32_t *out,
                 struct sharpi_error *err);
/* A node with all numbers -1; the pointer is good until the next one is added. NULL with err filled. */
struct node *node_add(struct sharpi_program *program, int32_t kind, const struct sharpi_op *op,
                      struct sharpi_error *err);
/* The cell that holds `value` in `format`, with the node that makes it when it is the first. */
int32_t quantized_cell(struct lowering *lowering, const struct sharpi_op *op, int32_t value,
                       enum act_format format, int32_t *out, struct sharpi_error *err);

/* ---- compile-moe.c */

int32_t lower_moe(struct lowering *lowering, const struct sharpi_op *op, struct sharpi_error *err);

/* ---- compile-schedule.c, compile-place.c */

int32_t compile_schedule(struct sharpi_program *program, struct sharpi_error *err);
int32_t compile_place(struct sharpi_program *program, struct sharpi_error *err);

/* The cells that a node reads, its residual included, and those that it writes. Returns how many. */
#define NODE_MAX_CELLS 8
uint32_t node_reads(const struct node *node, int32_t cells[NODE_MAX_CELLS]);
uint32_t node_writes(const struct sharpi_program *program, const struct node *node,
                     int32_t cells[NODE_MAX_CELLS]);

#endif
