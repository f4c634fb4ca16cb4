/* Device memory: what is free, and large blocks, accounted for as the driver rounds them. */
#include "device.h"

#include <dlfcn.h>
#include <string.h>

/* ---- What is free */

void cuda_nvml_init(struct cuda_nvml *nvml)
{
    pthread_mutex_init(&nvml->lock, NULL);
}

void cuda_nvml_finish(struct cuda_nvml *nvml)
{
    if (nvml->library) {
        nvml->shutdown();
        dlclose(nvml->library);
    }
    pthread_mutex_destroy(&nvml->lock);
}

static int32_t find_function(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

/* Names and the layout of nvmlMemory_t (total, free, used) are NVML's for good; versions get new names. */
static void open_nvml(struct cuda_nvml *nvml)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    int (*init)(void);
    nvml->tried = 1;
    if (!library)
        return;
    if (find_function(library, "nvmlInit_v2", &init) &&
        find_function(library, "nvmlShutdown", &nvml->shutdown) &&
        find_function(library, "nvmlDeviceGetHandleByPciBusId_v2", &nvml->find) &&
        find_function(library, "nvmlDeviceGetMemoryInfo", &nvml->memory) && init() == 0)
        nvml->library = library;
    else
        dlclose(library);
}

/* 0 if NVML can say it. */
static int ask_nvml(struct cuda_nvml *nvml, int32_t index, uint64_t *n_bytes)
{
    unsigned long long memory[3] = {0};
    char bus_id[32];
    void *device;
    pthread_mutex_lock(&nvml->lock);
    if (!nvml->tried)
        open_nvml(nvml);
    pthread_mutex_unlock(&nvml->lock);
    if (!nvml->library || cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, index) ||
        nvml->find(bus_id, &device) || nvml->memory(device, memory))
        return -1;
    *n_bytes = memory[1];
    return 0;
}

int32_t cuda_available(struct cuda_backend *backend, int32_t index, uint64_t *n_bytes,
                       struct sharpi_error *err)
{
    size_t available = 0, total = 0;
    cudaError_t error;
    if (ask_nvml(&backend->nvml, index, n_bytes) == 0)
        return SHARPI_OK;
    if ((error = cudaSetDevice(index)) || (error = cudaMemGetInfo(&available, &total)))
        return cuda_fail(err, (int)error, "asking for its memory");
    *n_bytes = available;
    return SHARPI_OK;
}

/* ---- Blocks */

struct memory_block {
    struct memory_block *next;
    void *memory;
    uint64_t n_bytes;
};

uint64_t cuda_rounded(uint64_t n_bytes)
{
    return n_bytes > UINT64_MAX - CUDA_MEMORY_UNIT
               ? UINT64_MAX
               : (n_bytes + CUDA_MEMORY_UNIT - 1) / CUDA_MEMORY_UNIT * CUDA_MEMORY_UNIT;
}

static int32_t check_room(struct sharpi_device *device, uint64_t rounded, const char *what,
                          struct sharpi_error *err)
{
    const uint64_t used = device->used_bytes + device->runtime_bytes;
    const uint64_t left = device->memory_limit > used ? device->memory_limit - used : 0;
    if (!device->memory_limit || rounded <= left)
        return SHARPI_OK;
    return sharpi_fail(err, SHARPI_ENOMEM,
                       "GPU %d's memory_limit of %llu bytes has %llu left (the driver's context takes %llu), "
                       "%s needs %llu; raise the limit or use a smaller context",
                       device->index, (unsigned long long)device->memory_limit, (unsigned long long)left,
                       (unsigned long long)device->runtime_bytes, what, (unsigned long long)rounded);
}

int32_t cuda_take(struct sharpi_device *device, uint64_t n_bytes, const char *what, void **out,
                  struct sharpi_error *err)
{
    uint64_t rounded = cuda_rounded(n_bytes);
    struct memory_block *block;
    cudaError_t error;
    int32_t status;
    *out = NULL;
    if (n_bytes == 0)
        return SHARPI_OK;
    if ((status = check_room(device, rounded, what, err)))
        return status;
    block = device->host->alloc(device->host, sizeof *block, 0);
    if (!block)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to account for %s", what);
    cudaSetDevice(device->index);
    error = cudaMalloc(&block->memory, rounded);
    if (error) {
        size_t available = 0, total = 0;
        device->host->free(device->host, block);
        cudaGetLastError();
        cudaMemGetInfo(&available, &total);
        return sharpi_fail(
            err, error == cudaErrorMemoryAllocation ? SHARPI_ENOMEM : SHARPI_EDEVICE,
            "GPU %d has no memory for %s: %llu bytes wanted, %llu of %llu free (%s); use a smaller "
            "context or a narrower cache format, or end what else runs there",
            device->index, what, (unsigned long long)rounded, (unsigned long long)available,
            (unsigned long long)total, cudaGetErrorString(error));
    }
    block->n_bytes = rounded;
    block->next = device->blocks;
    device->blocks = block;
    device->used_bytes += rounded;
    *out = block->memory;
    return SHARPI_OK;
}

void cuda_give(struct sharpi_device *device, void *memory)
{
    struct memory_block **link;
    for (link = &device->blocks; memory && *link; link = &(*link)->next) {
        struct memory_block *block = *link;
        if (block->memory != memory)
            continue;
        *link = block->next;
        device->used_bytes -= block->n_bytes;
        cudaSetDevice(device->index);
        cudaFree(block->memory);
        device->host->free(device->host, block);
        return;
    }
}

/* Waits for the stream: what it still does may be what the caller wants to know about. */
static int32_t finish(struct sharpi_device *device, cudaError_t error, const char *what,
                      struct sharpi_error *err)
{
    if (!error)
        error = cudaStreamSynchronize(device->stream);
    return error ? cuda_fail(err, error, what) : SHARPI_OK;
}

int32_t cuda_alloc(struct sharpi_device *device, uint64_t n_bytes, void **out, struct sharpi_error *err)
{
    int32_t status = cuda_take(device, n_bytes ? n_bytes : 1, "the KV cache", out, err);
    if (status)
        return status;
    status = finish(device, cudaMemsetAsync(*out, 0, cuda_rounded(n_bytes ? n_bytes : 1), device->stream),
                    "clearing the KV cache", err);
    if (status) {
        cuda_give(device, *out);
        *out = NULL;
    }
    return status;
}

static int32_t move(struct sharpi_device *device, void *dst, const void *src, uint64_t n_bytes,
                    const char *what, struct sharpi_error *err)
{
    cudaError_t error = cudaSetDevice(device->index);
    if (!error && n_bytes)
        error = cudaMemcpyAsync(dst, src, n_bytes, cudaMemcpyDefault, device->stream);
    return finish(device, error, what, err);
}

int32_t cuda_copy(struct sharpi_device *device, void *dst, uint64_t dst_offset, const void *src,
                  uint64_t src_offset, uint64_t n_bytes, struct sharpi_error *err)
{
    return move(device, (uint8_t *)dst + dst_offset, (const uint8_t *)src + src_offset, n_bytes,
                "copying within the device", err);
}

int32_t cuda_write(struct sharpi_device *device, void *dst, uint64_t dst_offset, const void *host_src,
                   uint64_t n_bytes, struct sharpi_error *err)
{
    return move(device, (uint8_t *)dst + dst_offset, host_src, n_bytes, "writing to the device", err);
}

int32_t cuda_read(struct sharpi_device *device, void *host_dst, const void *src, uint64_t src_offset,
                  uint64_t n_bytes, struct sharpi_error *err)
{
    return move(device, host_dst, (const uint8_t *)src + src_offset, n_bytes, "reading from the device", err);
}
