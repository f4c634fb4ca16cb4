/* Architecture plugins: from a GGUF file's metadata to a description and a graph. No chip, no kernel. */
#ifndef SHARPI_PLUGIN_ARCH_H
#define SHARPI_PLUGIN_ARCH_H

#include <sharpi/plugin/graph.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sharpi_layer_desc {
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t window; /* sliding window in positions, this token included; 0 = global */
    int32_t
        kv_source; /* -1: own K/V; else the earlier layer whose K/V this one reads (same head_dim and KV heads) */
    uint32_t k_eq_v; /* V is made from the K projection */
    uint32_t n_ff;   /* dense FFN width */
};

/* Filled by sharpi_arch.describe; `layers` comes from host->file_alloc. The core checks it before use. */
struct sharpi_model_desc {
    uint32_t size;
    uint32_t n_layers;
    uint32_t width;   /* embedding_length */
    uint32_t n_heads; /* query heads */
    uint32_t n_vocab;
    uint32_t context_length;                         /* the most positions the model was made for */
    uint32_t n_experts, n_experts_used, n_ff_expert; /* 0: no mixture */
    uint32_t ple_width;                              /* per-layer embedding, 0: none */
    uint32_t mask_known;         /* 1: every layer's mask is known, so prompts may be split into chunks */
    uint32_t n_layers_described; /* entries in layers = n_layers */
    uint32_t layer_size;         /* sizeof(struct sharpi_layer_desc) of the plugin */
    uint32_t reserved;
    const struct sharpi_layer_desc *layers;
};

struct sharpi_arch {
    uint32_t size;
    uint32_t reserved;
    const char *name;    /* as general.architecture says: "llama" */
    const char *summary; /* one line for people */
    /* How well this entry serves the file: 0 = not at all, with the reason in err (an expert model offered to a dense
     * plugin); 1 = yes; higher beats lower when several plugins offer the name. NULL means 1. */
    int32_t (*probe)(void *ctx, const struct sharpi_model_file *file, struct sharpi_error *err);
    /* Reads the metadata into *desc. Refuses what it cannot honour. Needs no tensor data. Required. */
    int32_t (*describe)(void *ctx, const struct sharpi_model_file *file, struct sharpi_model_desc *desc,
                        struct sharpi_error *err);
    /* Describes the forward pass with the builder. Missing or misshapen tensors are named. Required. */
    int32_t (*build)(void *ctx, const struct sharpi_model_file *file, const struct sharpi_model_desc *desc,
                     struct sharpi_builder *builder, struct sharpi_error *err);
    /* Bytes of a device's memory to keep free of KV for this model, prefill chunk of `chunk` tokens.
     * NULL: the dense rule max(total / 3, 2 GiB). */
    uint64_t (*kv_reserve_bytes)(void *ctx, const struct sharpi_model_desc *desc, uint64_t device_total,
                                 uint32_t chunk);
};

#ifdef __cplusplus
}
#endif
#endif
