/* What planning for real devices (model-place.c) and for described ones (model-plan.c) share: a request filled from a model, its
 * options and the settings.
 */
#ifndef SHARPI_CORE_MODEL_PLACE_H
#define SHARPI_CORE_MODEL_PLACE_H

#include "model.h"

struct sharpi_planning {
    struct sharpi_plan_request request;
    struct sharpi_plan_weights weights;
    struct sharpi_kv_format *other_formats;
    const struct sharpi_plan *saved; /* borrowed */
    uint32_t chunk_is_free;          /* nobody said how large chunks are: a larger one may be tried */
};

/* Sizes, formats and reserve; devices are the caller's to fill in. `saved` (or NULL) overrides settings, and options must not say
 * otherwise. Finish it even after an error. */
int32_t sharpi_planning_init(struct sharpi_planning *planning, const struct sharpi_model *model,
                             const struct sharpi_model_options *options, const struct sharpi_plan *saved,
                             struct sharpi_error *err);
void sharpi_planning_finish(struct sharpi_planning *planning);

/* Makes the plan, writes the model's name into it, and refuses a saved one that was made for another model. */
int32_t sharpi_planning_make(const struct sharpi_planning *planning, const struct sharpi_model *model,
                             struct sharpi_plan **out, struct sharpi_error *err);

/* `larger` in place of *plan, which is freed. What else there was is still compared with the plan of the usual chunk. */
void sharpi_planning_take(struct sharpi_plan **plan, struct sharpi_plan *larger);

/* The option, else the setting of section model, else the fallback. */
const char *sharpi_choose_string(const char *option, const struct sharpi_model *model, const char *key,
                                 const char *fallback);
uint32_t sharpi_choose_uint(uint32_t option, const struct sharpi_model *model, const char *key,
                            uint32_t fallback);

#endif
