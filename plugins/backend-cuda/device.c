/* Finding and opening GPUs. Without a driver or a GPU every call says so and nothing else happens. */
#include "device.h"

#include "kernels/code.h"
#include "kernels/matmul-blas.h"
#include "kernels/matmul.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIN_COMPUTE_MAJOR 8
/* Local memory of a thread. The driver sets it aside for every thread that the device can hold, 1 KiB of it unless told
 * otherwise: 264 MiB on a card of 132 SMs. Kernels that need more get more, and the driver then takes that too. */
#define KERNEL_STACK 512

int32_t cuda_fail(struct sharpi_error *err, int error, const char *what)
{
    cudaGetLastError(); /* errors that do not stick must not turn up at the next call */
    return sharpi_fail(err, error == cudaErrorMemoryAllocation ? SHARPI_ENOMEM : SHARPI_EDEVICE,
                       "%s failed on the GPU: %s (%s)", what, cudaGetErrorString((cudaError_t)error),
                       cudaGetErrorName((cudaError_t)error));
}

/* The runtime says of a driver that is not there that it is too old. */
static void fail_without_device(cudaError_t error, struct sharpi_error *err)
{
    int driver = 0;
    if (error != cudaErrorInsufficientDriver || cudaDriverGetVersion(&driver))
        sharpi_fail(err, SHARPI_ENOENT, "no GPU can be used: %s", cudaGetErrorString(error));
    else if (driver == 0)
        sharpi_fail(err, SHARPI_ENOENT, "no GPU can be used: there is no NVIDIA driver");
    else
        sharpi_fail(err, SHARPI_ENOENT,
                    "no GPU can be used: the driver is for CUDA %d.%d and earlier, this build is for %d.%d; "
                    "update the driver",
                    driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
}

uint32_t cuda_device_count(void *ctx, struct sharpi_error *err)
{
    int n = 0;
    cudaError_t error = cudaGetDeviceCount(&n);
    (void)ctx;
    if (error) {
        cudaGetLastError();
        fail_without_device(error, err);
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

int32_t cuda_has_code(const char *archs, int major, int minor)
{
    while (*(archs += strspn(archs, " "))) {
        char *rest;
        const long arch = strtol(archs, &rest, 10);
        const size_t n = strcspn(rest, " ");
        const int32_t is_exact = arch == 90 || *rest == 'a' || *rest == 'f';
        if (*rest == '-' ? arch <= 10 * major + minor
                         : arch / 10 == major && (is_exact ? arch % 10 == minor : arch % 10 <= minor))
            return 1;
        archs = rest + n;
    }
    return 0;
}

static int32_t check_capability(int32_t index, const struct cudaDeviceProp *properties,
                                struct sharpi_error *err)
{
    if (properties->major < MIN_COMPUTE_MAJOR)
        return sharpi_fail(err, SHARPI_ENOTSUP,
                           "GPU %d (%s) has compute capability %d.%d; the CUDA backend needs %d.0 or later",
                           index, properties->name, properties->major, properties->minor, MIN_COMPUTE_MAJOR);
    if (!cuda_has_code(CUDA_ARCHS, properties->major, properties->minor))
        return sharpi_fail(
            err, SHARPI_ENOTSUP,
            "GPU %d (%s) has compute capability %d.%d, and this build has code for %s only; configure "
            "it with --with-cuda-arch=%d%d",
            index, properties->name, properties->major, properties->minor, CUDA_ARCHS, properties->major,
            properties->minor);
    return SHARPI_OK;
}

/* What the device has, whatever memory_limit says: that is for those who open it. */
int32_t cuda_device_info(void *ctx, uint32_t index, struct sharpi_device_info *info, struct sharpi_error *err)
{
    struct cudaDeviceProp properties;
    uint64_t available;
    cudaError_t error;
    int32_t status = check_index(ctx, index, err);
    if (status)
        return status;
    if ((error = cudaGetDeviceProperties(&properties, (int)index)))
        return cuda_fail(err, (int)error, "asking what it is");
    if ((status = check_capability((int32_t)index, &properties, err)) ||
        (status = cuda_available(ctx, (int32_t)index, &available, err)))
        return status;
    info->integrated = properties.integrated ? 1 : 0;
    info->max_threads = 0;
    snprintf(info->name, sizeof info->name, "%.44s, sm_%d%d", properties.name, properties.major,
             properties.minor);
    info->total_bytes = properties.totalGlobalMem;
    info->free_bytes = available < properties.totalGlobalMem ? available : properties.totalGlobalMem;
    if (info->size >= offsetof(struct sharpi_device_info, granularity) + sizeof info->granularity)
        info->granularity = CUDA_MEMORY_UNIT;
    return SHARPI_OK;
}

static void log_line(const struct sharpi_host *host, int32_t level, const char *line)
{
    host->log(host, level, "backend-cuda", line);
}

/* Runtimes that cannot tell are taken to share. */
static int32_t is_shared(int32_t index)
{
#if CUDART_VERSION >= 13000
    int shared = 0;
    if (cudaDeviceGetAttribute(&shared, cudaDevAttrMpsEnabled, index) == cudaSuccess)
        return shared != 0;
    cudaGetLastError();
#else
    (void)index;
#endif
    return 1;
}

static int32_t check_device(struct sharpi_device *device, struct sharpi_error *err)
{
    struct cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, device->index);
    if (error)
        return cuda_fail(err, (int)error, "opening the device");
    device->n_sms = (uint32_t)properties.multiProcessorCount;
    device->shared_bytes =
        (uint32_t)tighter(properties.sharedMemPerBlockOptin, device->backend->shared_bytes);
    device->compute_major = (uint32_t)properties.major;
    return check_capability(device->index, &properties, err);
}

/* What this device and the code for it can do; after the context was made. */
static int32_t choose_ways(struct sharpi_device *device, struct sharpi_error *err)
{
    int code = 0, error = code_compute_major(&code);
    if (error)
        return cuda_fail(err, error, "looking for this device's code in the CUDA backend");
    if (code < 9)
        device->compute_major = (uint32_t)code;
    device->overlap = device->backend->use_overlap && code >= 9;
    device->sequences = device->backend->use_sequences && code >= 9;
    device->takes_turns = device->sequences && !is_shared(device->index);
    return SHARPI_OK;
}

/* Nobody's work is disturbed when it is so small already. A device that cannot do it keeps what it has. */
static void limit_stack(void)
{
    size_t now = 0;
    if (cudaDeviceGetLimit(&now, cudaLimitStackSize) == cudaSuccess && now > KERNEL_STACK)
        cudaDeviceSetLimit(cudaLimitStackSize, KERNEL_STACK);
    cudaGetLastError();
}

/* The context, with no more memory than the kernels want, and the stream. */
static int32_t make_context(struct sharpi_device *device, struct sharpi_error *err)
{
    cudaError_t error = cudaSetDevice(device->index);
    limit_stack();
    if (!error)
        error = cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking);
    return error ? cuda_fail(err, (int)error, "opening the device") : SHARPI_OK;
}

static void *load_blas(void *library)
{
    *(void **)library = matmul_blas_library();
    return NULL;
}

/* libcublasLt is large: it is loaded by a thread of its own while the driver makes the context. */
static int32_t make_contexts(struct sharpi_device *device, int *has_blas, struct sharpi_error *err)
{
    const int32_t use_blas = (int32_t)device->backend->use_blas;
    void *library = NULL;
    pthread_t thread;
    const int32_t threaded = use_blas && pthread_create(&thread, NULL, load_blas, &library) == 0;
    int32_t status = make_context(device, err);
    if (threaded)
        pthread_join(thread, NULL);
    if (!status)
        status = choose_ways(device, err);
    if (!status) {
        const struct matmul_options options = {.device = device->index,
                                               .overlap = device->overlap,
                                               .blas = use_blas,
                                               .shared_bytes = (int)device->shared_bytes};
        status = matmul_context_create(&device->matmul, &options, has_blas, err);
    }
    matmul_blas_library_close(library);
    return status;
}

static int32_t open_device(struct sharpi_device *device, struct sharpi_error *err)
{
    struct cuda_backend *backend = device->backend;
    uint64_t before = 0, after = 0;
    int32_t status;
    int has_blas = 0;
    if ((status = check_device(device, err)) ||
        (status = cuda_available(backend, device->index, &before, err)) ||
        (status = make_contexts(device, &has_blas, err)) ||
        (status = cuda_available(backend, device->index, &after, err)))
        return status;
    device->runtime_bytes = before > after ? before - after : 0;
    if (backend->use_blas && !has_blas)
        log_line(
            device->host, SHARPI_LOG_INFO,
            "libcublasLt was not found (it comes with the CUDA toolkit): prompts use sharpi's own products");
    return SHARPI_OK;
}

int32_t cuda_device_open(void *ctx, uint32_t index, const struct sharpi_device_options *options,
                         struct sharpi_device **out, struct sharpi_error *err)
{
    struct cuda_backend *backend = ctx;
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

/* ---- Turns */

/* GPUs with the same number modulo this take turns with each other, which is slow and right. */
enum { MAX_TURNS = 64 };

static pthread_mutex_t turns[MAX_TURNS];
static pthread_once_t turns_made = PTHREAD_ONCE_INIT;

static void make_turns(void)
{
    for (int i = 0; i < MAX_TURNS; i++)
        pthread_mutex_init(&turns[i], NULL);
}

void cuda_turn_begin(const struct sharpi_device *device)
{
    if (!device->takes_turns)
        return;
    pthread_once(&turns_made, make_turns);
    pthread_mutex_lock(&turns[device->index % MAX_TURNS]);
}

void cuda_turn_end(const struct sharpi_device *device)
{
    if (device->takes_turns)
        pthread_mutex_unlock(&turns[device->index % MAX_TURNS]);
}
