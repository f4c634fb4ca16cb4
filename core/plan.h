/* The memory plan: which layers go where, how much context fits, and why nothing else was chosen.
 *
 * A plan is made from the model's description and graph, devices (real or only described) and the user's wishes; no tensor
 * data, no allocation on a device. Bytes come from the functions that allocate: sharpi_kv_layout for the cache,
 * sharpi_backend.program_memory for weights and scratch of a real device; on a described device weights are as large as
 * in the file.
 *
 * Segments: 0 is the input (all that comes before layer 0), s the layer s - 1, n_layers + 1 the output. A device holds a range
 * of them, in the order of the devices; what is left is the host's (the CPU's). Tables that are only looked up in (token
 * embedding, per-layer embedding) stay on the host, and so do values on their way from one device to another.
 *
 * Invariant: no plan has a context above the model's own, and every plan either fits or says by how much not.
 */
#ifndef SHARPI_CORE_PLAN_H
#define SHARPI_CORE_PLAN_H

#include <sharpi/plugin/backend.h>

#include "kv-layout.h"
#include "plugins.h"

enum {
    SHARPI_PLAN_MAX_DEVICES = 16,
    SHARPI_PLAN_FLOOR = 512,           /* automatic context: at least that */
    SHARPI_PLAN_WHOLE_CONTEXT = 4096,  /* everything stays on the devices if this much context fits, */
    SHARPI_PLAN_SPLIT_CONTEXT = 32768, /* else as many layers as leave room for this much */
    SHARPI_PLAN_CPU_CONTEXT = 32768,   /* automatic context on a CPU: at most that */
    SHARPI_PLAN_ALL_LAYERS = 0x7fffffff,
    SHARPI_PLAN_CHUNK = 512,        /* tokens in a step, unless the user says otherwise, */
    SHARPI_PLAN_LARGE_CHUNK = 2048, /* or so many where that costs nothing: sharpi_plan_has_room */
};
#define SHARPI_PLAN_MARGIN (UINT64_C(256) << 20) /* reserve = exact keeps this free */
/* What a driver keeps on a card for a process that uses it: assumed for described cards. */
#define SHARPI_PLAN_RUNTIME (UINT64_C(448) << 20)

/* ---- Reserve: device memory that KV may not take */

enum sharpi_reserve_mode {
    SHARPI_RESERVE_RULE = 0,  /* the architecture's rule; scratch and runtime are inside */
    SHARPI_RESERVE_EXACT = 1, /* scratch and runtime are counted, and only a margin kept */
    SHARPI_RESERVE_BYTES = 2, /* a given number; scratch and runtime are inside */
};

struct sharpi_reserve {
    int32_t mode; /* enum sharpi_reserve_mode */
    uint64_t bytes;
};

/* max(total / 3, 2 GiB): KV of a dense model grows without end, into whatever memory is left. */
uint64_t sharpi_reserve_dense(uint64_t device_total);
/* The architecture's rule, or the dense one. */
uint64_t sharpi_reserve_rule(const struct sharpi_offer *arch, const struct sharpi_model_desc *desc,
                             uint64_t device_total, uint32_t chunk);
/* Estimate of the activations of a chunk, for devices that nothing can be compiled for. */
uint64_t sharpi_plan_chunk_bytes(const struct sharpi_model_desc *desc, uint32_t chunk);

/* ---- Weights: which tensor is used by which segment */

enum sharpi_weight_use {
    SHARPI_USE_GATHER = 1, /* looked up by token id: stays on the host */
    SHARPI_USE_EXPERT = 2, /* of a mixture, may stay on the host by itself */
    SHARPI_USE_PLAIN = 3,
};

struct sharpi_plan_weight {
    const struct sharpi_tensor *tensor;
    uint32_t segment;
    int32_t use; /* enum sharpi_weight_use */
};

struct sharpi_plan_weights {
    uint32_t n;
    struct sharpi_plan_weight *items; /* those of one tensor are neighbours */
};

/* Free with sharpi_plan_weights_finish. */
int32_t sharpi_plan_weights_init(struct sharpi_plan_weights *weights, const struct sharpi_graph_view *graph,
                                 struct sharpi_error *err);
void sharpi_plan_weights_finish(struct sharpi_plan_weights *weights);

/* Bytes of the tensors that a device with segments [first, end) holds, each once. Experts of the first `n_expert_layers`
 * layers are left out. */
uint64_t sharpi_plan_device_weights(const struct sharpi_plan_weights *weights, uint32_t first, uint32_t end,
                                    uint32_t n_expert_layers);
/* The same for the host with segments [first, ...): `mapped` gets the tables, which are used in the file mapping. */
uint64_t sharpi_plan_host_weights(const struct sharpi_plan_weights *weights, uint32_t first,
                                  uint32_t n_expert_layers, uint64_t *mapped);

/* Bytes of the tables that both segments [first, end) and segments before them look up. */
uint64_t sharpi_plan_tables_again(const struct sharpi_plan_weights *weights, uint32_t first, uint32_t end);

/* ---- Request */

struct sharpi_plan_device {
    char name[64];
    uint64_t total_bytes, free_bytes; /* both 0 for a host of unknown size: nothing is checked there */
    uint64_t granularity;             /* each block of the cache takes a multiple of it; 0: what it holds */
    /* What the driver keeps there for this process (context, kernels), out of free_bytes, once the device is used. */
    uint64_t runtime_bytes;
};

/* What the compiled programs of a device take when it holds segments [first, end), experts of the first n_expert_layers on the
 * host. Where a plan has such a part these bytes are its price; elsewhere tensors count as in the file. */
struct sharpi_plan_measure {
    uint32_t device; /* n_devices: the host */
    uint32_t first_segment, end_segment, n_expert_layers;
    uint64_t weight_bytes, mapped_bytes, scratch_bytes;
};

struct sharpi_placement {
    uint32_t ends[SHARPI_PLAN_MAX_DEVICES]; /* device d has segments [ends[d - 1], ends[d]) */
    uint32_t n_expert_layers;               /* the experts of that many first layers are on the host */
};

struct sharpi_plan_request {
    const struct sharpi_model_desc *desc;
    const struct sharpi_plan_weights *weights;
    const struct sharpi_graph_view *graph; /* for the values that cross; NULL: they are not counted */
    const uint8_t *host_ops;         /* [n_ops of graph] 1: the devices cannot do the op; NULL: all of them */
    const struct sharpi_offer *arch; /* reserve rule; NULL: the dense one */
    struct sharpi_kv_formats formats;
    uint32_t n_devices; /* without the host; 0: everything on the host */
    const struct sharpi_plan_device *devices;
    struct sharpi_plan_device host;
    struct sharpi_reserve reserve;
    uint32_t context;     /* 0: as much as fits */
    uint32_t context_cap; /* what "as much as fits" stops at; 0: the model's own maximum */
    uint32_t chunk, headroom, max_seqs;
    uint32_t pool;            /* positions of all sequences together; 0: each has a whole context */
    uint32_t full_cache;      /* no rings */
    uint32_t n_expert_layers; /* asked for by the user */
    uint32_t limit_layers;    /* 1: the user wants n_device_layers on the devices, */
    uint32_t n_device_layers; /* no more, and no fewer; all: the output too */
    uint32_t n_measures;      /* of programs that were compiled already */
    const struct sharpi_plan_measure *measures;
    const struct sharpi_placement *placement; /* replay: take this one; NULL: find one */
    uint32_t n_other_formats;                 /* what the plan is compared with, for `rejected` */
    const struct sharpi_kv_format *other_formats;
};

/* ---- Plan */

enum sharpi_context_limit {
    SHARPI_CONTEXT_ASKED = 1,  /* the user said so */
    SHARPI_CONTEXT_MODEL = 2,  /* the model's own maximum */
    SHARPI_CONTEXT_CAP = 3,    /* request.context_cap */
    SHARPI_CONTEXT_MEMORY = 4, /* one position more does not fit */
    SHARPI_CONTEXT_FLOOR = 5,  /* less would fit, but that is no use */
};

/* What one device, or the host, holds. */
struct sharpi_plan_part {
    char name[64];
    uint32_t host;
    uint64_t total_bytes, free_bytes, granularity;
    uint32_t first_segment, end_segment;
    uint32_t n_expert_layers; /* host: of layers that are elsewhere */
    uint64_t weight_bytes, kv_bytes;
    uint64_t mapped_bytes;  /* host: of weights used in the file mapping, by whomever */
    uint64_t carried_bytes; /* host: of values that cross from a device to another */
    uint64_t scratch_bytes; /* inside the reserve unless reserve = exact, */
    uint64_t runtime_bytes; /* and so is this */
    uint64_t reserve_bytes;
    uint64_t needed_bytes; /* all of that */
    uint64_t short_bytes;  /* by how much it does not fit, 0 when it does */
};

struct sharpi_plan_class {
    uint32_t window, ring;
    uint32_t n_layers, n_borrowing;
    char format[32];
    uint64_t kv_bytes;
};

struct sharpi_plan_text { /* a list of sentences */
    uint32_t n;
    char **lines;
};

struct sharpi_plan {
    uint32_t context, context_model;
    int32_t context_limit; /* enum sharpi_context_limit */
    uint32_t chunk, headroom, max_seqs, pool, full_cache;
    uint32_t n_layers, n_segments;
    struct sharpi_reserve reserve;
    struct sharpi_placement placement;
    uint32_t n_parts; /* devices, then the host */
    struct sharpi_plan_part *parts;
    uint32_t n_classes;
    struct sharpi_plan_class *classes;
    char kv_global[32], kv_swa[32];
    struct sharpi_plan_text rejected; /* what else there was, and why not */
    struct sharpi_plan_text notes;    /* what the user should know */
    char *model_name, *model_arch, *model_path;
    /* Of all tensors of the file, and of all caches as they are on any device: what replay recognises a model by. */
    uint64_t model_weight_bytes, cache_bytes;
};

/* Fails for wishes that no memory could fulfil (experts of a model without, a placement that cuts a shared cache). A plan that
 * does not fit is made all the same, and says so in its notes and parts. */
int32_t sharpi_plan_make(const struct sharpi_plan_request *request, struct sharpi_plan **out,
                         struct sharpi_error *err);
void sharpi_plan_free(struct sharpi_plan *plan); /* NULL is fine */
/* Whether all parts of the placement were measured: prices are exact. */
int32_t sharpi_plan_measured(const struct sharpi_plan_request *request,
                             const struct sharpi_placement *placement);
/* Counts parts and classes again, context and placement staying: after programs were compiled for the final sizes. */
int32_t sharpi_plan_update(struct sharpi_plan *plan, const struct sharpi_plan_request *request,
                           struct sharpi_error *err);

/* Whether `larger`, made with a larger chunk, costs nothing against `plan`: all is computed on the devices, with the context that
 * the user or the model wants, and fits there in both. */
int32_t sharpi_plan_has_room(const struct sharpi_plan *plan, const struct sharpi_plan *larger);

/* One more sentence. Out of memory drops it: texts are for people. */
void sharpi_plan_say(struct sharpi_plan_text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The part that holds the layer. */
const struct sharpi_plan_part *sharpi_plan_part_of(const struct sharpi_plan *plan, uint32_t layer);
uint64_t sharpi_plan_kv_bytes(const struct sharpi_plan *plan);    /* all parts */
uint64_t sharpi_plan_short_bytes(const struct sharpi_plan *plan); /* 0 when the plan fits */

/* ---- Devices that are only described, and numbers as text (plan-parse.c) */

/* "rtx4070ti:12282MiB" or "name:SIZE,free=SIZE"; a card of SHARPI_PLAN_RUNTIME unless its name is "cpu". */
int32_t sharpi_plan_parse_device(const char *text, struct sharpi_plan_device *out, struct sharpi_error *err);
/* "rule", "exact" or a size. 0, or SHARPI_EINVAL without a text. */
int32_t sharpi_parse_reserve(const char *text, struct sharpi_reserve *out);
/* "1.50 GiB", "850.0 MiB"; returns buffer, at least 24 bytes. */
const char *sharpi_plan_size(uint64_t n_bytes, char *buffer);

/* ---- For people and for programs (plan-print.c, plan-json.c) */

enum { SHARPI_PLAN_PART_TEXT = 120 };
/* What a part computes: "layers 0 to 29", "output, experts of layer 0"; "" for nothing. Returns text. */
const char *sharpi_plan_describe_part(const struct sharpi_plan *plan, const struct sharpi_plan_part *part,
                                      char text[SHARPI_PLAN_PART_TEXT]);

/* The whole plan as text or JSON; *out is new: free() it. */
int32_t sharpi_plan_text(const struct sharpi_plan *plan, char **out, struct sharpi_error *err);
int32_t sharpi_plan_json(const struct sharpi_plan *plan, char **out, struct sharpi_error *err);
/* A plan from such JSON, checked in itself: only sizes, wishes, placement and devices are read; `path` is for messages. */
int32_t sharpi_plan_read(const char *text, uint64_t n, const char *path, struct sharpi_plan **out,
                         struct sharpi_error *err);

#endif
