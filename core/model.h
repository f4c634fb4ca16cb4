/* A loaded model: file, description, graph, program on a device, KV storage, tokenizer.
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
#include "plan.h"
#include "tokenizer.h"

struct sharpi_model {
    struct sharpi_engine *engine;
    struct sharpi_model_file *file;
    const struct sharpi_offer *arch_offer;
    struct sharpi_model_desc desc;
    struct sharpi_graph *graph;

    const struct sharpi_offer *backend_offer;
    const struct sharpi_backend *backend;
    struct sharpi_device *device;
    struct sharpi_program *program;
    struct sharpi_program_memory memory;
    struct sharpi_plan *plan; /* what all of this was decided by; NULL until placed */

    uint32_t context, chunk, max_sessions, headroom, n_threads;
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
};

/* Opens the file and builds the graph, without touching tensor data or a backend (inspect, plan). `flags` of
 * sharpi_gguf_open. Free with sharpi_model_free. */
int32_t sharpi_model_open(struct sharpi_engine *engine, const char *path, uint32_t flags,
                          struct sharpi_model **out, struct sharpi_error *err);

/* Opens the backend's device, plans, and compiles for what the plan says; nothing is allocated for the cache or weights, no
 * tensor data is touched. With `insist` a plan that this process cannot carry out (several devices) is an error. */
int32_t sharpi_model_place(struct sharpi_model *model, const struct sharpi_model_options *options,
                           int32_t insist, struct sharpi_error *err);

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
