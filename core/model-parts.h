/* The parts of a model: programs on devices, from compiling to running. */
#ifndef SHARPI_CORE_MODEL_PARTS_H
#define SHARPI_CORE_MODEL_PARTS_H

#include "model.h"

/* ---- Devices (model-devices.c) */

/* Lists the devices that the options and settings allow: model->devices, none opened. */
int32_t sharpi_devices_find(struct sharpi_model *model, const struct sharpi_model_options *options,
                            struct sharpi_error *err);
/* What the devices offer now, for the planner: devices [model->n_devices] and the host. */
int32_t sharpi_devices_describe(const struct sharpi_model *model, struct sharpi_plan_device *devices,
                                struct sharpi_plan_device *host, struct sharpi_error *err);
/* Opens it unless it is open. */
int32_t sharpi_device_use(const struct sharpi_model *model, struct sharpi_model_device *device,
                          struct sharpi_error *err);
void sharpi_devices_close(struct sharpi_model *model);
/* Whether the device can do the attention op with `layer`, its cache, in that format. Needs no opened device. */
int32_t sharpi_device_takes_format(const struct sharpi_model *model, const struct sharpi_model_device *device,
                                   const struct sharpi_op *attention, const struct sharpi_kv_layer *layer,
                                   const struct sharpi_kv_format *format);

/* ---- Parts (model-parts.c) */

/* Cache layout and programs for a placement, context and chunk; what an earlier call made is replaced. */
int32_t sharpi_parts_compile(struct sharpi_model *model, const struct sharpi_plan_request *request,
                             const struct sharpi_placement *placement, uint32_t context, uint32_t chunk,
                             struct sharpi_error *err);
/* Memory for the cache, for carried values and for steps, then weights. */
int32_t sharpi_parts_load(struct sharpi_model *model, sharpi_progress_fn *progress, void *user,
                          struct sharpi_error *err);
/* What a step leaves: logits, or the highest of each row, and taps. */
struct sharpi_results {
    float *logits;      /* [n_logits, n_vocab]; may be NULL where sharpi_parts_find_top says so */
    float *const *taps; /* one per model->taps */
    uint32_t top_k;     /* 0: none; else at most SHARPI_TOP_MAX and n_vocab */
    int32_t *top_ids;   /* [n_logits, top_k], highest first, lowest id on a tie */
    float *top_logits;  /* [n_logits, top_k]; what does not exist is -inf */
    float *top_sums;    /* [n_logits] log of the sum of exp */
};

/* Whether the backend finds the highest k itself, so that results need no room for all logits. 0 for k = 0. */
int32_t sharpi_parts_find_top(const struct sharpi_model *model, uint32_t k);
int32_t sharpi_parts_run(struct sharpi_model *model, const struct sharpi_batch *batch,
                         const struct sharpi_results *results, struct sharpi_error *err);
void sharpi_parts_free(struct sharpi_model *model); /* programs and cache */

#endif
