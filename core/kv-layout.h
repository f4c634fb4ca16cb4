/* The KV cache of a model in bytes: which format and how many positions each layer gets.
 *
 * Invariant: planning and loading both come here, so what a plan counts is what sharpi_backend.alloc is asked for.
 */
#ifndef SHARPI_CORE_KV_LAYOUT_H
#define SHARPI_CORE_KV_LAYOUT_H

#include "kv-pages.h"

/* A format and the first argument of its functions. */
struct sharpi_kv_format {
    const struct sharpi_kv *kv;
    void *ctx;
};

struct sharpi_kv_formats {
    struct sharpi_kv_format global, swa; /* of layers without and with a window */
};

struct sharpi_kv_shape {
    uint32_t context, headroom; /* headroom = context: no rings */
    uint32_t max_seqs;
    uint32_t pool; /* positions of all sequences together; 0: each has a whole context */
};

struct sharpi_kv_layout {
    uint32_t n_layers, n_classes;
    struct sharpi_kv_class *classes;
    struct sharpi_kv_layer *layers; /* [n_layers], k and v NULL; kv NULL for layers that borrow */
};

/* Free with sharpi_kv_layout_finish, which a zeroed layout survives. SHARPI_EINVAL when the pages cannot be counted. */
int32_t sharpi_kv_layout_init(struct sharpi_kv_layout *layout, const struct sharpi_model_desc *desc,
                              const struct sharpi_kv_formats *formats, const struct sharpi_kv_shape *shape,
                              struct sharpi_error *err);
void sharpi_kv_layout_finish(struct sharpi_kv_layout *layout);

/* The formats' own rules, for every layer that has storage. */
int32_t sharpi_kv_layout_check(const struct sharpi_kv_layout *layout, struct sharpi_error *err);

/* Bytes of K, and as many of V, of one layer; 0 for one that borrows; UINT64_MAX when they cannot be counted. */
uint64_t sharpi_kv_layer_bytes(const struct sharpi_kv_layer *layer);
/* The same where blocks of memory take a multiple of `granularity`; 0: any size. */
uint64_t sharpi_kv_block_bytes(const struct sharpi_kv_layer *layer, uint64_t granularity);
/* K and V of layers [first, end), each a block. UINT64_MAX likewise. */
uint64_t sharpi_kv_layout_bytes(const struct sharpi_kv_layout *layout, uint32_t first, uint32_t end,
                                uint64_t granularity);

#endif
