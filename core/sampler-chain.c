/* The order of a sampler's stages, as text: "penalties;top_k;temperature".
 *
 * Invariant: a chain names each stage at most once.
 */
#include <string.h>

#include "nearest.h"
#include "sampler-internal.h"

static const char *const stage_names[N_STAGES] = {
    [STAGE_BIAS] = "bias",
    [STAGE_PENALTIES] = "penalties",
    [STAGE_DRY] = "dry",
    [STAGE_TOP_K] = "top_k",
    [STAGE_TYPICAL_P] = "typical_p",
    [STAGE_TOP_P] = "top_p",
    [STAGE_MIN_P] = "min_p",
    [STAGE_XTC] = "xtc",
    [STAGE_TEMPERATURE] = "temperature",
};

static int32_t find_stage(const char *name, size_t n)
{
    for (int32_t i = 0; i < N_STAGES; i++) {
        if (strlen(stage_names[i]) == n && memcmp(stage_names[i], name, n) == 0)
            return i;
    }
    return -1;
}

static int32_t unknown_stage(const char *name, size_t n, struct sharpi_error *err)
{
    char text[64];
    snprintf(text, sizeof text, "%.*s", (int)(n < sizeof text ? n : sizeof text - 1), name);
    const char *near = sharpi_nearest(text, stage_names, N_STAGES);
    if (near)
        return sharpi_fail(err, SHARPI_EINVAL, "unknown sampler stage '%s': did you mean '%s'?", text, near);
    return sharpi_fail(err, SHARPI_EINVAL, "unknown sampler stage '%s': the stages are %s", text,
                       SHARPI_SAMPLER_CHAIN);
}

int32_t chain_parse(const char *text, enum stage *chain, int32_t *n, struct sharpi_error *err)
{
    uint32_t seen = 0;
    *n = 0;
    while (*text) {
        text += strspn(text, " \t");
        size_t length = strcspn(text, ";"), used = length;
        while (length > 0 && (text[length - 1] == ' ' || text[length - 1] == '\t'))
            length--;
        int32_t stage = find_stage(text, length);
        if (length > 0 && stage < 0)
            return unknown_stage(text, length, err);
        if (length > 0 && (seen >> stage & 1))
            return sharpi_fail(err, SHARPI_EINVAL, "sampler stage '%s' is named twice", stage_names[stage]);
        if (length > 0) {
            seen |= 1u << stage;
            chain[(*n)++] = (enum stage)stage;
        }
        text += used + (text[used] == ';');
    }
    return SHARPI_OK;
}

int32_t sharpi_sampler_check_chain(const char *chain, struct sharpi_error *err)
{
    enum stage stages[N_STAGES];
    int32_t n;
    return chain_parse(chain, stages, &n, err);
}
