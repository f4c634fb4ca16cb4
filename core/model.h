/* A loaded model: file, description, graph, programs on devices, KV storage, tokenizer.
 *
 * A model's ops are cut into parts, each a program on a device; most models have one. The KV cache of a layer lies on the device
 * that computes its attention. What a part makes and a later one uses crosses through host memory, once per step.
 *
 * Invariant: what the byte counts say was allocated is what compile and row_bytes computed; nothing is allocated by a step.
 */
#ifndef SHARPI_CORE_MODEL_H
#define SHARPI_CORE_MODEL_H

#include <sharpi/plugin/backend.h>
#include <sharpi/sharpi.h>

#include "engine.h"
#include "graph.h"
#include "kv-pages.h"
#include "model-file.h"
#include "plan-ranges.h"
#include "plan.h"
#include "tokenizer.h"

/* A device that the plan may use. It is opened when a part is compiled for it. */
struct sharpi_model_device {
    const struct sharpi_offer *offer; /* NULL: the host, with no backend for it loaded */
    uint32_t index;                   /* among the backend's */
    char name[40];                    /* "cuda0", "cpu" */
    uint64_t granularity;             /* of its memory blocks, 0 or 1: none */
    uint64_t runtime_bytes;           /* of its memory that opening it took */
    struct sharpi_device *device;
    uint32_t n_parts;                    /* on it; 0: it is not used */
    struct sharpi_program_memory memory; /* of these */
    uint64_t kv_bytes;
};

/* A range of the graph's ops, compiled. */
struct sharpi_model_part {
    const struct sharpi_range *range;
    struct sharpi_model_device *device;
    struct sharpi_program *program;
    float **carry_in, **carry_out; /* places in model->carried, for the range's `in` and `out` */
    uint32_t n_taps;
    int32_t *taps;         /* values of model->taps that the range makes */
    float **tap_pointers;  /* [n_taps], of the running step */
    int32_t has_logits;    /* it holds the logits op */
    int32_t only_selected; /* it computes selected rows only: left out of steps that select none */
};

struct sharpi_model {
    struct sharpi_engine *engine;
    struct sharpi_model_file *file;
    const struct sharpi_offer *arch_offer;
    struct sharpi_model_desc desc;
    struct sharpi_graph *graph;

    uint32_t n_devices;                  /* without the host, which is devices[n_devices] */
    struct sharpi_model_device *devices; /* NULL until placed */
    struct sharpi_placement placement;
    uint8_t *host_ops; /* [n_ops] 1: the devices cannot do it, so the host does; NULL: they can do all */
    struct sharpi_ranges ranges;
    struct sharpi_model_part *parts;     /* [ranges.n], run in this order */
    struct sharpi_program_memory memory; /* of all */
    float *carried;                      /* values that cross from part to part */
    struct sharpi_plan *plan;            /* what all of this was decided by; NULL until placed */
    /* The first device that is used, for tools. */
    const struct sharpi_offer *backend_offer;
    const struct sharpi_backend *backend;
    struct sharpi_device *device;
    char backend_names[64]; /* "cuda+cpu" */

    uint32_t context, chunk, max_sessions, headroom, n_threads, repack;
    uint32_t n_classes;
    struct sharpi_kv_class *classes;
    struct sharpi_kv_layer *kv_layers; /* [n_layers] */
    struct sharpi_kv_pages *pages;
    uint64_t kv_bytes;

    uint32_t n_taps;
    int32_t *taps;        /* values */
    float **tap_pointers; /* [n_taps], of the running step */

    struct sharpi_tokenizer
        *tokenizer; /* NULL when the file has none that is known: tokenizer_error says why */
    struct sharpi_error tokenizer_error;
    struct sharpi_str chat_template; /* of the file, n = 0 without */
    char name[128];

    /* Arrays of the running step, sized for chunk tokens and max_sessions sequences. */
    int32_t *step_tokens, *step_positions, *step_seqs_of, *step_logit_rows, **step_tables;
    struct sharpi_batch_seq *step_seqs;
    struct sharpi_batch_class *step_classes;
    float *logits; /* grows to the most rows a step wanted */
    uint64_t logits_rows;
    int32_t *top_ids; /* [max_sessions, SHARPI_TOP_MAX], and the highest logits likewise */
    float *top_logits, *top_sums;
};

/* Opens the file and builds the graph, without touching tensor data or a backend (inspect, plan). `flags` of
 * sharpi_gguf_open. Free with sharpi_model_free. */
int32_t sharpi_model_open(struct sharpi_engine *engine, const char *path, uint32_t flags,
                          struct sharpi_model **out, struct sharpi_error *err);

/* Finds devices, plans, opens the devices that the plan uses and compiles for what it says; nothing is allocated for the cache or
 * weights, no tensor data is touched. With `insist` the log says where everything lies, as loading follows. */
int32_t sharpi_model_place(struct sharpi_model *model, const struct sharpi_model_options *options,
                           int32_t insist, struct sharpi_error *err);

/* The device that holds the layer's cache, and computes its attention. */
struct sharpi_model_device *sharpi_model_layer_device(const struct sharpi_model *model, uint32_t layer);
/* The cache formats of the layers that the device holds: " (KV q8_0)", " (KV f16, bf16 with windows)", "" without layers. */
void sharpi_model_describe_cache(const struct sharpi_model *model, const struct sharpi_model_device *device,
                                 char *text, size_t n);

/* Copies a page's K and V of all layers of the class, each on its device. */
int32_t sharpi_model_copy_page(struct sharpi_model *model, uint32_t class_index, int32_t from, int32_t to,
                               struct sharpi_error *err);

/* What a plan for devices that are only described is asked with. */
struct sharpi_plan_wishes {
    uint32_t n_devices; /* the one named "cpu" is the host */
    const struct sharpi_plan_device *devices;
    uint32_t n_expert_layers;
    const struct sharpi_plan *saved; /* to replay: its devices, sizes and placement are taken; or NULL */
};

/* Plans without any backend. `model` is only opened, and not changed. */
int32_t sharpi_model_plan(struct sharpi_model *model, const struct sharpi_model_options *options,
                          const struct sharpi_plan_wishes *wishes, struct sharpi_plan **out,
                          struct sharpi_error *err);

#endif
