/* Which devices a model may use, and opening those that it does use.
 *
 * Devices whose memory is their own come first, in the order of loading or as the user lists them; the host is the last one
 * and takes what they leave. A device whose memory is the host's is the host.
 */
#include <stdlib.h>
#include <string.h>

#include "model-parts.h"
#include "model-place.h"

static int32_t device_info(const struct sharpi_model_device *device, struct sharpi_device_info *info,
                           struct sharpi_error *err)
{
    *info = (struct sharpi_device_info){.size = sizeof *info};
    return device->offer->backend->device_info(device->offer->ctx, device->index, info, err);
}

/* ---- Finding */

struct finding {
    struct sharpi_model *model;
    uint32_t n; /* devices of their own memory so far */
    struct sharpi_model_device devices[SHARPI_PLAN_MAX_DEVICES];
    struct sharpi_model_device host;
};

static int32_t add_device(struct finding *f, const struct sharpi_offer *offer, uint32_t index,
                          struct sharpi_error *err)
{
    struct sharpi_model_device device = {.offer = offer, .index = index};
    struct sharpi_device_info info;
    int32_t status = device_info(&device, &info, err);
    if (status)
        return status;
    device.granularity = info.granularity;
    if (info.integrated) {
        snprintf(device.name, sizeof device.name, "%.32s", offer->name);
        if (!f->host.offer)
            f->host = device;
        return SHARPI_OK;
    }
    for (uint32_t i = 0; i < f->n; i++) {
        if (f->devices[i].offer == offer && f->devices[i].index == index)
            return sharpi_fail(err, SHARPI_EINVAL, "device %s:%u is listed twice", offer->name, index);
    }
    if (f->n == SHARPI_PLAN_MAX_DEVICES)
        return sharpi_fail(err, SHARPI_EINVAL, "a model uses at most %d devices; list those with --device",
                           SHARPI_PLAN_MAX_DEVICES);
    snprintf(device.name, sizeof device.name, "%.24s%u", offer->name, index);
    f->devices[f->n++] = device;
    return SHARPI_OK;
}

static int32_t fail_not_loaded(const struct sharpi_model *model, const char *name, struct sharpi_error *err)
{
    char names[256];
    return sharpi_fail(
        err, SHARPI_ENOENT, "backend '%s' is not loaded; loaded: %s; 'sharpi doctor' says why", name,
        sharpi_plugins_names(&model->engine->plugins, SHARPI_OFFER_BACKEND, names, sizeof names));
}

/* Those of its devices that can be used; of several, the log says of the others why not. None at all is an error with the reason. */
static int32_t add_devices_of(struct finding *f, const struct sharpi_offer *offer, struct sharpi_error *err)
{
    struct sharpi_error why = SHARPI_ERROR_INIT;
    const uint32_t n = offer->backend->device_count(offer->ctx, &why);
    uint32_t n_added = 0;
    int32_t status = SHARPI_EDEVICE;
    if (n && f->n == SHARPI_PLAN_MAX_DEVICES)
        return SHARPI_OK; /* enough */
    for (uint32_t i = 0; i < n && f->n < SHARPI_PLAN_MAX_DEVICES; i++) {
        if ((status = add_device(f, offer, i, &why)) && n > 1)
            sharpi_log_printf(&f->model->engine->log, SHARPI_LOG_WARN, "model",
                              "going on without device %s:%u: %s", offer->name, i, why.text);
        n_added += !status;
    }
    return n_added ? SHARPI_OK : sharpi_fail(err, status, "%s", *why.text ? why.text : "it has no device");
}

static int32_t add_backend(struct finding *f, const char *name, struct sharpi_error *err)
{
    const struct sharpi_offer *offer =
        sharpi_plugins_find(&f->model->engine->plugins, SHARPI_OFFER_BACKEND, name);
    return offer ? add_devices_of(f, offer, err) : fail_not_loaded(f->model, name, err);
}

/* "cuda" is its first device, "cuda:1" its second. */
static int32_t add_listed(struct finding *f, const char *word, size_t n, struct sharpi_error *err)
{
    const struct sharpi_offer *offer;
    char name[64];
    uint64_t index = 0;
    uint32_t count;
    char *colon;
    snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), word);
    colon = strchr(name, ':');
    if (colon) {
        *colon = 0;
        if (sharpi_parse_uint(colon + 1, &index) || index > UINT32_MAX)
            return sharpi_fail(err, SHARPI_EINVAL,
                               "device '%s:%s': write a backend's name, and after a colon the number of its "
                               "device, as in cuda:1",
                               name, colon + 1);
    }
    offer = sharpi_plugins_find(&f->model->engine->plugins, SHARPI_OFFER_BACKEND, name);
    if (!offer)
        return fail_not_loaded(f->model, name, err);
    count = offer->backend->device_count(offer->ctx, err);
    if (count == 0)
        return SHARPI_EDEVICE;
    if (index >= count)
        return sharpi_fail(err, SHARPI_ENOENT, "device %s:%llu: backend %s has %u, numbered from 0", name,
                           (unsigned long long)index, name, count);
    return add_device(f, offer, (uint32_t)index, err);
}

static int32_t add_list(struct finding *f, const char *list, struct sharpi_error *err)
{
    int32_t status = SHARPI_OK;
    while (!status && *(list += strspn(list, " ,\t"))) {
        size_t n = strcspn(list, " ,\t");
        status = add_listed(f, list, n, err);
        list += n;
    }
    return status;
}

static void add_all(struct finding *f)
{
    struct sharpi_engine *engine = f->model->engine;
    for (uint32_t i = 0; i < engine->plugins.n_offers; i++) {
        const struct sharpi_offer *offer = &engine->plugins.offers[i];
        struct sharpi_error why = SHARPI_ERROR_INIT;
        if (offer->kind == SHARPI_OFFER_BACKEND && add_devices_of(f, offer, &why))
            sharpi_log_printf(
                &engine->log, SHARPI_LOG_WARN, "model",
                "going on without backend '%s': %s. Where that is no surprise, sharpi.ini need not list %s",
                offer->name, why.text, engine->plugins.records[offer->plugin]->name);
    }
}

/* -g 0: the devices are left alone; -g N without any is an error. */
static int32_t limit_devices(struct finding *f, struct sharpi_error *err)
{
    const struct sharpi_settings *settings = f->model->engine->settings;
    const uint64_t wanted = sharpi_settings_uint(settings, "model", "gpu-layers", UINT64_MAX);
    char names[256];
    if (wanted == 0)
        f->n = 0;
    if (wanted == UINT64_MAX || wanted == 0 || f->n)
        return SHARPI_OK;
    return sharpi_fail(
        err, SHARPI_EINVAL,
        "%llu layers on a device (--gpu-layers, from %s): no device with memory of its own is in use; "
        "backends: %s; "
        "'sharpi doctor' says what is missing. Without --gpu-layers the model runs on the CPU",
        (unsigned long long)wanted, sharpi_settings_origin(settings, "model", "gpu-layers"),
        sharpi_plugins_names(&f->model->engine->plugins, SHARPI_OFFER_BACKEND, names, sizeof names));
}

int32_t sharpi_devices_find(struct sharpi_model *model, const struct sharpi_model_options *options,
                            struct sharpi_error *err)
{
    const char *backend = sharpi_choose_string(options->backend, model, "backend", NULL);
    const char *list = sharpi_choose_string(NULL, model, "device", NULL);
    const struct sharpi_offer *cpu =
        sharpi_plugins_find(&model->engine->plugins, SHARPI_OFFER_BACKEND, "cpu");
    struct finding f = {.model = model};
    int32_t status = SHARPI_OK;
    if (options->backend || !list)
        status = backend ? add_backend(&f, backend, err) : SHARPI_OK;
    else
        status = add_list(&f, list, err);
    if (!status && !backend && !list)
        add_all(&f);
    if (status || (status = limit_devices(&f, err)))
        return status;
    if (!f.host.offer && cpu)
        f.host = (struct sharpi_model_device){.offer = cpu, .name = "cpu"};
    if (!f.n && !f.host.offer)
        return fail_not_loaded(model, backend ? backend : "any", err);
    if (!f.host.offer)
        snprintf(f.host.name, sizeof f.host.name, "cpu");
    model->devices = calloc(f.n + 1u, sizeof *model->devices);
    if (!model->devices)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory for %u devices", f.n);
    model->n_devices = f.n;
    memcpy(model->devices, f.devices, f.n * sizeof *model->devices);
    model->devices[f.n] = f.host;
    return SHARPI_OK;
}

/* ---- Cache formats */

int32_t sharpi_device_takes_format(const struct sharpi_model *model, const struct sharpi_model_device *device,
                                   const struct sharpi_op *attention, const struct sharpi_kv_layer *layer,
                                   const struct sharpi_kv_format *format)
{
    const struct sharpi_attention_attr *attr = attention->attr;
    struct sharpi_kv_layer other = *layer;
    other.kv = format->kv;
    other.kv_ctx = format->ctx;
    if (SHARPI_HAS(other.kv, check) &&
        other.kv->check(other.kv_ctx, attr->kv_layer, other.n_kv_heads, other.head_dim, NULL))
        return 0;
    return device->offer->backend->supports(device->offer->ctx, sharpi_graph_view(model->graph), attention,
                                            &other, NULL) == SHARPI_OK;
}

/* ---- Memory */

static uint64_t tighter(uint64_t a, uint64_t b) /* of two limits, 0 meaning none */
{
    return !a || (b && b < a) ? b : a;
}

/* memory_limit of the backend plugin's section, and [model] memory_limit: of the devices, or of the host without any. */
static uint64_t memory_limit(const struct sharpi_model *model, const struct sharpi_model_device *device)
{
    const struct sharpi_settings *settings = model->engine->settings;
    const char *section = model->engine->plugins.records[device->offer->plugin]->name;
    const int32_t beside = model->n_devices && device == &model->devices[model->n_devices];
    return tighter(beside ? 0 : sharpi_settings_bytes(settings, "model", "memory-limit", 0),
                   sharpi_settings_bytes(settings, section, "memory-limit", 0));
}

static int32_t describe(const struct sharpi_model *model, const struct sharpi_model_device *device,
                        struct sharpi_plan_device *out, struct sharpi_error *err)
{
    struct sharpi_device_info info;
    uint64_t limit;
    int32_t status;
    if (!device->offer) /* a host that can only look up embeddings: of unknown size */
        return SHARPI_OK;
    limit = memory_limit(model, device);
    if ((status = device_info(device, &info, err)))
        return status;
    if (info.integrated)
        snprintf(out->name, sizeof out->name, "%.63s", info.name);
    else
        snprintf(out->name, sizeof out->name, "%.25s %.37s", device->name, info.name);
    out->granularity = info.granularity;
    out->runtime_bytes = device->runtime_bytes;
    info.free_bytes += device->runtime_bytes; /* the plan counts what opening it took */
    out->total_bytes = limit && limit < info.total_bytes ? limit : info.total_bytes;
    out->free_bytes = limit && limit < info.free_bytes ? limit : info.free_bytes;
    return SHARPI_OK;
}

int32_t sharpi_devices_describe(const struct sharpi_model *model, struct sharpi_plan_device *devices,
                                struct sharpi_plan_device *host, struct sharpi_error *err)
{
    int32_t status = describe(model, &model->devices[model->n_devices], host, err);
    for (uint32_t i = 0; i < model->n_devices && !status; i++)
        status = describe(model, &model->devices[i], &devices[i], err);
    return status;
}

/* ---- Opening */

/* Of a device's own memory; 0 where it is the host's, which other processes use as they like. */
static uint64_t free_memory(const struct sharpi_model_device *device)
{
    struct sharpi_device_info info;
    return device_info(device, &info, NULL) || info.integrated ? 0 : info.free_bytes;
}

int32_t sharpi_device_use(const struct sharpi_model *model, struct sharpi_model_device *device,
                          struct sharpi_error *err)
{
    struct sharpi_device_options options = {
        .size = sizeof options, .n_threads = model->n_threads, .repack = model->repack};
    uint64_t before, after = 0;
    int32_t status;
    if (device->device)
        return SHARPI_OK;
    if (!device->offer)
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "not everything fits the devices, and there is nothing to run the rest: backend 'cpu' "
            "is not loaded; add it to [plugins] load, or use a smaller context (-c), --kv q8_0 or "
            "--reserve exact");
    options.memory_limit = memory_limit(model, device);
    before = free_memory(device);
    status = device->offer->backend->device_open(device->offer->ctx, device->index, &options, &device->device,
                                                 err);
    if (!status)
        after = free_memory(device);
    if (!status && before > after)
        device->runtime_bytes = before - after;
    return status;
}

void sharpi_devices_close(struct sharpi_model *model)
{
    for (uint32_t i = 0; model->devices && i <= model->n_devices; i++) {
        if (model->devices[i].device)
            model->devices[i].offer->backend->device_close(model->devices[i].device);
    }
    free(model->devices);
    model->devices = NULL;
}
