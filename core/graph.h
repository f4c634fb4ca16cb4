/* The graph that an architecture builds: ops and values, checked as they are added.
 *
 * Invariant: every op in the list has inputs made before it, shapes that fit, and an attribute struct owned by the graph;
 * layers never decrease. After sharpi_graph_finish the graph does not change.
 */
#ifndef SHARPI_CORE_GRAPH_H
#define SHARPI_CORE_GRAPH_H

#include <sharpi/plugin/arch.h>

struct sharpi_graph;

/* `desc` is borrowed and must outlive the graph. */
int32_t sharpi_graph_create(const struct sharpi_model_desc *desc, struct sharpi_graph **out,
                            struct sharpi_error *err);
void sharpi_graph_destroy(struct sharpi_graph *graph);

/* host->graph_add. */
int32_t sharpi_graph_add(struct sharpi_graph *graph, const struct sharpi_op *op, struct sharpi_error *err);

/* Checks the whole (an embedding first, logits last, each layer's attention and cache sources) and fixes last uses. */
int32_t sharpi_graph_finish(struct sharpi_graph *graph, struct sharpi_error *err);

const struct sharpi_graph_view *sharpi_graph_view(const struct sharpi_graph *graph);

/* The value marked by tap `name` ("blk.3.attn_out", "result_norm"), or -1 with the nearest names in err. */
int32_t sharpi_graph_tap(const struct sharpi_graph *graph, const char *name, struct sharpi_error *err);

const char *sharpi_op_name(int32_t kind);

/* One line of text per op, without newline; returns what snprintf would. */
int32_t sharpi_graph_describe_op(const struct sharpi_graph *graph, uint32_t index, char *line, uint64_t n);

/* Weight bytes that a step of n_tokens reads (gathered tables count a row for each; experts as many as are used by at least one, on average,
 * when all are equally likely) and multiply-accumulates of one token in matrix products (experts: the used ones). */
void sharpi_graph_cost(const struct sharpi_graph *graph, uint32_t n_tokens, uint64_t *weight_bytes,
                       uint64_t *macs);

#endif
