/* Finding and opening GPUs. Without a driver or a GPU every call says so and nothing else happens. */
#include "device.h"

#include "kernels/matmul.h"

#include <stdio.h>
#include <unistd.h>

#define MIN_COMPUTE_MAJOR 8

int32_t cuda_fail(struct sharpi_error *err, int error, const char *what)
{
    cudaGetLastError(); /* errors that do not stick must not turn up at the next call */
    return sharpi_fail(err, error == cudaErrorMemoryAllocation ? SHARPI_ENOMEM : SHARPI_EDEVICE,
                       "%s failed on the GPU: %s (%s)", what, cudaGetErrorString((cudaError_t)error),
                       cudaGetErrorName((cudaError_t)error));
}

uint32_t cuda_device_count(void *ctx, struct sharpi_error *err)
{
    int n = 0;
    cudaError_t error = cudaGetDeviceCount(&n);
    (void)ctx;
    if (error) {
        cudaGetLastError();
        sharpi_fail(err, SHARPI_ENOENT, "no GPU can be used: %s", cudaGetErrorString(error));
        return 0;
    }
    if (n == 0)
        sharpi_fail(err, SHARPI_ENOENT, "no GPU can be used: the driver knows none");
    return n > 0 ? (uint32_t)n : 0;
}

static int32_t check_index(void *ctx, uint32_t index, struct sharpi_error *err)
{
    uint32_t n = cuda_device_count(ctx, err);
    if (n == 0)
        return SHARPI_ENOENT;
    return index < n
               ? SHARPI_OK
               : sharpi_fail(err, SHARPI_EINVAL, "there are %u GPUs, number %u is none of them", n, index);
}

/* The smaller of two limits, where 0 means none. */
static uint64_t tighter(uint64_t a, uint64_t b)
{
    return !a || (b && b < a) ? b : a;
}

int32_t cuda_device_info(void *ctx, uint32_t index, struct sharpi_device_info *info, struct sharpi_error *err)
{
    const struct cuda_backend *backend = ctx;
    struct cudaDeviceProp properties;
    size_t available = 0, total = 0;
    cudaError_t error;
    int32_t status = check_index(ctx, index, err);
    if (status)
        return status;
    if ((error = cudaGetDeviceProperties(&properties, (int)index)) || (error = cudaSetDevice((int)index)) ||
        (error = cudaMemGetInfo(&available, &total)))
        return cuda_fail(err, error, "asking for its memory");
    info->integrated = properties.integrated ? 1 : 0;
    info->max_threads = 0;
    snprintf(info->name, sizeof info->name, "%.44s, sm_%d%d", properties.name, properties.major,
             properties.minor);
    info->total_bytes = total;
    info->free_bytes = available;
    if (info->size >= offsetof(struct sharpi_device_info, granularity) + sizeof info->granularity)
        info->granularity = CUDA_MEMORY_UNIT;
    if (backend->memory_limit && backend->memory_limit < info->total_bytes)
        info->total_bytes = backend->memory_limit;
    if (info->free_bytes > info->total_bytes)
        info->free_bytes = info->total_bytes;
    return SHARPI_OK;
}

static void log_line(const struct sharpi_host *host, int32_t level, const char *line)
{
    host->log(host, level, "backend-cuda", line);
}

static int32_t open_device(struct sharpi_device *device, struct sharpi_error *err)
{
    const struct cuda_backend *backend = device->backend;
    struct cudaDeviceProp properties;
    cudaError_t error;
    int32_t status;
    int has_blas = 0;
    if ((error = cudaGetDeviceProperties(&properties, device->index)) ||
        (error = cudaSetDevice(device->index)))
        return cuda_fail(err, error, "opening the device");
    if (properties.major < MIN_COMPUTE_MAJOR)
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "GPU %d (%s) has compute capability %d.%d; the CUDA backend needs %d.0 or later",
                           device->index, properties.name, properties.major, properties.minor,
                           MIN_COMPUTE_MAJOR);
    device->n_sms = (uint32_t)properties.multiProcessorCount;
    device->compute_major = (uint32_t)properties.major;
    device->overlap = backend->use_overlap && properties.major >= 9;
    if ((error = cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking)))
        return cuda_fail(err, error, "making a stream");
    status = matmul_context_create(&device->matmul, device->index, (int)backend->use_blas, &has_blas, err);
    if (!status && backend->use_blas && !has_blas)
        log_line(
            device->host, SHARPI_LOG_INFO,
            "libcublasLt was not found (it comes with the CUDA toolkit): prompts use sharpi's own products");
    return status;
}

int32_t cuda_device_open(void *ctx, uint32_t index, const struct sharpi_device_options *options,
                         struct sharpi_device **out, struct sharpi_error *err)
{
    const struct cuda_backend *backend = ctx;
    struct sharpi_device *device;
    int32_t status = check_index(ctx, index, err);
    *out = NULL;
    if (status)
        return status;
    device = backend->host->alloc(backend->host, sizeof *device, 0);
    if (!device)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to open a GPU");
    device->backend = backend;
    device->host = backend->host;
    device->index = (int32_t)index;
    device->memory_limit = tighter(options->memory_limit, backend->memory_limit);
    device->n_threads = options->n_threads;
    status = open_device(device, err);
    if (status) {
        cuda_device_close(device);
        return status;
    }
    *out = device;
    return SHARPI_OK;
}

void cuda_device_close(struct sharpi_device *device)
{
    if (!device)
        return;
    cudaSetDevice(device->index);
    if (device->matmul)
        matmul_context_destroy(device->matmul);
    if (device->stream)
        cudaStreamDestroy(device->stream);
    device->host->free(device->host, device);
}
