/* What the fixtures share: complete tables whose functions do nothing. They are loaded, never run. */
#ifndef SHARPI_TESTS_FIXTURE_H
#define SHARPI_TESTS_FIXTURE_H

#include <string.h>

#include <sharpi/plugin/arch.h>
#include <sharpi/plugin/backend.h>
#include <sharpi/plugin/plugin.h>

static inline uint32_t f_device_count(void *ctx, struct sharpi_error *err)
{
    (void)ctx;
    sharpi_fail(err, SHARPI_EDEVICE, "a fixture has no device");
    return 0;
}
static inline int32_t f_device_info(void *ctx, uint32_t index, struct sharpi_device_info *info,
                                    struct sharpi_error *err)
{
    (void)ctx, (void)index, (void)info;
    return sharpi_fail(err, SHARPI_EDEVICE, "a fixture has no device");
}
static inline int32_t f_device_open(void *ctx, uint32_t index, const struct sharpi_device_options *options,
                                    struct sharpi_device **out, struct sharpi_error *err)
{
    (void)ctx, (void)index, (void)options, (void)out;
    return sharpi_fail(err, SHARPI_EDEVICE, "a fixture has no device");
}
static inline void f_device_close(struct sharpi_device *device)
{
    (void)device;
}
static inline int32_t f_alloc(struct sharpi_device *device, uint64_t n, void **out, struct sharpi_error *err)
{
    (void)device, (void)n, (void)out;
    return sharpi_fail(err, SHARPI_ENOMEM, "a fixture has no memory");
}
static inline void f_free(struct sharpi_device *device, void *memory)
{
    (void)device, (void)memory;
}
static inline int32_t f_copy(struct sharpi_device *device, void *dst, uint64_t dst_offset, const void *src,
                             uint64_t src_offset, uint64_t n, struct sharpi_error *err)
{
    (void)device, (void)dst, (void)dst_offset, (void)src, (void)src_offset, (void)n, (void)err;
    return SHARPI_OK;
}
static inline int32_t f_write(struct sharpi_device *device, void *dst, uint64_t dst_offset, const void *src,
                              uint64_t n, struct sharpi_error *err)
{
    (void)device, (void)dst, (void)dst_offset, (void)src, (void)n, (void)err;
    return SHARPI_OK;
}
static inline int32_t f_read(struct sharpi_device *device, void *dst, const void *src, uint64_t src_offset,
                             uint64_t n, struct sharpi_error *err)
{
    (void)device, (void)dst, (void)src, (void)src_offset, (void)n, (void)err;
    return SHARPI_OK;
}
static inline int32_t f_supports(void *ctx, const struct sharpi_graph_view *graph, const struct sharpi_op *op,
                                 const struct sharpi_kv_layer *kv, struct sharpi_error *err)
{
    (void)ctx, (void)graph, (void)op, (void)kv;
    return sharpi_fail(err, SHARPI_ENOTSUP, "a fixture can do nothing");
}
static inline int32_t f_compile(struct sharpi_device *device, const struct sharpi_compile *request,
                                struct sharpi_program **out, struct sharpi_error *err)
{
    (void)device, (void)request, (void)out;
    return sharpi_fail(err, SHARPI_ENOTSUP, "a fixture can do nothing");
}
static inline int32_t f_program_memory(const struct sharpi_program *program,
                                       struct sharpi_program_memory *memory)
{
    (void)program, (void)memory;
    return SHARPI_ENOTSUP;
}
static inline int32_t f_load(struct sharpi_program *program, const struct sharpi_kv_layer *layers,
                             sharpi_progress_fn *progress, void *user, struct sharpi_error *err)
{
    (void)program, (void)layers, (void)progress, (void)user, (void)err;
    return SHARPI_ENOTSUP;
}
static inline void f_program_destroy(struct sharpi_program *program)
{
    (void)program;
}
static inline int32_t f_run(struct sharpi_program *program, const struct sharpi_batch *batch,
                            const struct sharpi_run_io *io, struct sharpi_error *err)
{
    (void)program, (void)batch, (void)io, (void)err;
    return SHARPI_ENOTSUP;
}

/* All that a backend must have, but for its name. */
#define FIXTURE_BACKEND                                                                                      \
    .size = sizeof(struct sharpi_backend), .device_count = f_device_count, .device_info = f_device_info,     \
    .device_open = f_device_open, .device_close = f_device_close, .alloc = f_alloc, .free = f_free,          \
    .copy = f_copy, .write = f_write, .read = f_read, .supports = f_supports, .compile = f_compile,          \
    .program_memory = f_program_memory, .load = f_load, .program_destroy = f_program_destroy, .run = f_run

static inline int32_t f_describe(void *ctx, const struct sharpi_model_file *file,
                                 struct sharpi_model_desc *desc, struct sharpi_error *err)
{
    (void)ctx, (void)file, (void)desc;
    return sharpi_fail(err, SHARPI_ENOTSUP, "a fixture describes nothing");
}
static inline int32_t f_build(void *ctx, const struct sharpi_model_file *file,
                              const struct sharpi_model_desc *desc, struct sharpi_builder *builder,
                              struct sharpi_error *err)
{
    (void)ctx, (void)file, (void)desc, (void)builder;
    return sharpi_fail(err, SHARPI_ENOTSUP, "a fixture builds nothing");
}
#define FIXTURE_ARCH .size = sizeof(struct sharpi_arch), .describe = f_describe, .build = f_build

static inline uint64_t f_row_bytes(void *ctx, uint64_t n)
{
    (void)ctx;
    return n * sizeof(float);
}
static inline void f_encode(void *ctx, void *row, const float *src, uint64_t n)
{
    (void)ctx;
    memcpy(row, src, n * sizeof(float));
}
static inline void f_decode(void *ctx, const void *row, float *dst, uint64_t n)
{
    (void)ctx;
    memcpy(dst, row, n * sizeof(float));
}
#define FIXTURE_KV                                                                                           \
    .size = sizeof(struct sharpi_kv), .row_bytes = f_row_bytes, .encode = f_encode, .decode = f_decode

static inline int32_t f_init(const struct sharpi_host *host, const struct sharpi_config *config, void **ctx,
                             struct sharpi_error *err)
{
    static const struct sharpi_kv kv = {FIXTURE_KV, .name = "fixture-kv"};
    (void)config, (void)ctx;
    return host->register_kv(host, &kv, NULL, err);
}

/* A sound plugin but for what follows it in the initialiser. */
#define FIXTURE_PLUGIN(its_name)                                                                             \
    SHARPI_PLUGIN_HEAD, .name = its_name, .version = "1.0", .license = "MIT", .summary = "a fixture"

#endif
