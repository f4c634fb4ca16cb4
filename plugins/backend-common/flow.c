/* The life of a data flow: checks the request, copies it, frees what the stages made. */
#include "flow.h"

void *flow_alloc(const struct flow *flow, uint64_t n, uint64_t item_bytes, struct sharpi_error *err)
{
    void *memory = NULL;
    n = n ? n : 1;
    if (n <= UINT64_MAX / 2 / item_bytes)
        memory = flow->host->alloc(flow->host, n * item_bytes, 0);
    if (!memory)
        sharpi_fail(err, SHARPI_ENOMEM, "no memory for a program: %llu items of %llu bytes",
                    (unsigned long long)n, (unsigned long long)item_bytes);
    return memory;
}

int32_t flow_grow(const struct flow *flow, void *array, uint32_t n, uint32_t *cap, uint64_t item_bytes,
                  struct sharpi_error *err)
{
    uint32_t bigger = *cap ? *cap * 2 : 64;
    void *memory, *old;
    if (n < *cap)
        return SHARPI_OK;
    memory = *cap > UINT32_MAX / 2 ? NULL : flow_alloc(flow, bigger, item_bytes, err);
    if (!memory)
        return SHARPI_ENOMEM;
    memcpy(&old, array, sizeof old);
    if (old) {
        memcpy(memory, old, n * item_bytes);
        flow->host->free(flow->host, old);
    }
    memcpy(array, &memory, sizeof memory);
    *cap = bigger;
    return SHARPI_OK;
}

static int32_t check_values(const struct sharpi_compile *request, const char *what, const int32_t *values,
                            uint32_t n, struct sharpi_error *err)
{
    for (uint32_t i = 0; i < n; i++) {
        if (values[i] < 0 || (uint32_t)values[i] >= request->graph->n_values)
            return sharpi_fail(err, SHARPI_EBUG, "%s value %u is %d of %u", what, i, values[i],
                               request->graph->n_values);
    }
    return SHARPI_OK;
}

static int32_t check_request(const struct sharpi_compile *request, struct sharpi_error *err)
{
    int32_t status;
    if (request->first_op >= request->end_op || request->end_op > request->graph->n_ops)
        return sharpi_fail(err, SHARPI_EBUG, "ops %u to %u of %u cannot be compiled", request->first_op,
                           request->end_op, request->graph->n_ops);
    if (request->max_tokens == 0 || request->max_tokens > INT32_MAX || request->max_seqs == 0 ||
        request->max_logits > request->max_tokens)
        return sharpi_fail(err, SHARPI_EINVAL,
                           "a batch of at most %u tokens, %u sequences and %u rows of logits cannot be",
                           request->max_tokens, request->max_seqs, request->max_logits);
    if ((status = check_values(request, "carried-in", request->carry_in, request->n_carry_in, err)) ||
        (status = check_values(request, "carried-out", request->carry_out, request->n_carry_out, err)))
        return status;
    return check_values(request, "tapped", request->taps, request->n_taps, err);
}

/* A copy of n items that the program owns; *copy stays NULL for none. */
static int32_t own_copy(const struct flow *flow, const void *items, uint64_t n, uint64_t item_bytes,
                        void *copy, struct sharpi_error *err)
{
    void *memory = flow_alloc(flow, n, item_bytes, err);
    if (!memory)
        return SHARPI_ENOMEM;
    if (n)
        memcpy(memory, items, n * item_bytes);
    memcpy(copy, &memory, sizeof memory);
    return SHARPI_OK;
}

static int32_t copy_request(struct flow *flow, const struct sharpi_compile *request, struct sharpi_error *err)
{
    struct sharpi_compile *own = &flow->request;
    int32_t status;
    memcpy(own, request, sizeof *own);
    own->carry_in = own->carry_out = own->taps = NULL;
    flow->n_kv_layers = request->kv_layers ? request->graph->n_layers : 0;
    if ((status = own_copy(flow, request->carry_in, own->n_carry_in, 4, &own->carry_in, err)) ||
        (status = own_copy(flow, request->carry_out, own->n_carry_out, 4, &own->carry_out, err)) ||
        (status = own_copy(flow, request->taps, own->n_taps, 4, &own->taps, err)))
        return status;
    return own_copy(flow, request->kv_layers, flow->n_kv_layers, sizeof *flow->kv_layers, &flow->kv_layers,
                    err);
}

int32_t flow_init(struct flow *flow, const struct flow_traits *traits, const struct sharpi_host *host,
                  const struct sharpi_compile *request, struct sharpi_error *err)
{
    int32_t status = check_request(request, err);
    flow->traits = traits;
    flow->host = host;
    flow->n_table_rows = UINT64_MAX;
    flow->logits_cell = -1;
    return status ? status : copy_request(flow, request, err);
}

void flow_free(struct flow *flow)
{
    void *const arrays[] = {flow->cells,
                            flow->nodes,
                            flow->schedule,
                            flow->chains,
                            flow->steps,
                            flow->vectors,
                            flow->ropes,
                            flow->checks,
                            flow->kv_layers,
                            (void *)(uintptr_t)flow->request.carry_in,
                            (void *)(uintptr_t)flow->request.carry_out,
                            (void *)(uintptr_t)flow->request.taps};
    for (uint32_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        if (arrays[i])
            flow->host->free(flow->host, arrays[i]);
    }
}
