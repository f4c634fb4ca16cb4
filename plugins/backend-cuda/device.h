/* A GPU as a device: context, stream, memory.
 *
 * Invariants: used_bytes is the sum of all live blocks, rounded as the driver rounds them, and with runtime_bytes never exceeds
 * memory_limit (when there is one). Every function that calls the runtime makes the device current first: threads come and go.
 */
#ifndef SHARPI_BACKEND_CUDA_DEVICE_H
#define SHARPI_BACKEND_CUDA_DEVICE_H

#include <cuda_runtime_api.h>
#include <pthread.h>

#include <sharpi/plugin/backend.h>

struct matmul_context;

/* The driver's library of measurements, which knows what is free without making a context, as that takes memory itself. */
struct cuda_nvml {
    pthread_mutex_t lock; /* of opening it */
    void *library;        /* NULL: not opened yet, or not there */
    uint32_t tried;
    int (*shutdown)(void);
    int (*find)(const char *bus_id, void **device);
    int (*memory)(void *device, unsigned long long total_free_used[3]);
};

/* The plugin's own object, made by init. */
struct cuda_backend {
    const struct sharpi_host *host;
    uint64_t memory_limit;  /* of each device; 0: none */
    uint32_t use_graphs;    /* decode steps are captured */
    uint32_t use_overlap;   /* launches may begin before the one before them has ended, where the GPU can */
    uint32_t use_blas;      /* libcublasLt is used where it can be loaded */
    uint32_t shared_bytes;  /* shared memory that a block may use; 0: what the device has */
    uint32_t use_sequences; /* steps of one row run several launches as one kernel, where the GPU can */
    struct cuda_nvml nvml;
};

struct memory_block;
struct scratch;

struct sharpi_device {
    struct cuda_backend *backend;
    const struct sharpi_host *host;
    cudaStream_t stream;
    struct matmul_context *matmul;
    struct memory_block *blocks;
    struct scratch *scratch; /* of its programs; NULL without any */
    uint64_t memory_limit, used_bytes;
    uint64_t runtime_bytes; /* that the driver took for its context when this device was opened */
    int32_t index;
    uint32_t n_sms;
    uint32_t shared_bytes;  /* that a block may use */
    uint32_t compute_major; /* the device's, or less: what the code was compiled for (kernels/code.h) */
    int32_t overlap;        /* programmatic dependent launch */
    int32_t sequences;      /* kernels whose blocks wait for each other: 0 once the driver has refused one */
    int32_t takes_turns;    /* they are no cooperative launches: no other process has the GPU (MPS) */
    uint32_t n_threads;     /* of the host, for loading; 0: one per core, at most 8 */
};

/* ---- device.c */

/* Whether code for `archs`, as configure's --with-cuda-arch lists them but separated by spaces ("80 90 90-virtual"), runs on a device of this
 * compute capability: on later minors of its major, "90" (which uses what only 9.0 has) on 9.0 alone, PTX ("-virtual") on all that is later. */
int32_t cuda_has_code(const char *archs, int major, int minor);

uint32_t cuda_device_count(void *ctx, struct sharpi_error *err);
int32_t cuda_device_info(void *ctx, uint32_t index, struct sharpi_device_info *info,
                         struct sharpi_error *err);
int32_t cuda_device_open(void *ctx, uint32_t index, const struct sharpi_device_options *options,
                         struct sharpi_device **out, struct sharpi_error *err);
void cuda_device_close(struct sharpi_device *device);

/* Around what launches sequences, until they have ended: a GPU runs those of one caller at a time, whichever device objects of the process
 * they belong to. Nothing where they are cooperative launches. */
void cuda_turn_begin(const struct sharpi_device *device);
void cuda_turn_end(const struct sharpi_device *device);

/* Fails with what the runtime says about `error` and forgets it; SHARPI_ENOMEM if it is memory that ran out. */
int32_t cuda_fail(struct sharpi_error *err, int error, const char *what);

/* ---- memory.c */

void cuda_nvml_init(struct cuda_nvml *nvml);
void cuda_nvml_finish(struct cuda_nvml *nvml);
/* Bytes of the device that nobody holds. Makes a context only where the driver's library is missing. */
int32_t cuda_available(struct cuda_backend *backend, int32_t index, uint64_t *n_bytes,
                       struct sharpi_error *err);

/* Blocks of device memory come in multiples of this. */
#define CUDA_MEMORY_UNIT (UINT64_C(2) << 20)

/* Bytes that a block of n_bytes really takes; what plans must count. */
uint64_t cuda_rounded(uint64_t n_bytes);
/* Device memory, not zeroed; `what` names it in errors. 0 bytes give NULL and SHARPI_OK. */
int32_t cuda_take(struct sharpi_device *device, uint64_t n_bytes, const char *what, void **out,
                  struct sharpi_error *err);
void cuda_give(struct sharpi_device *device, void *memory);

int32_t cuda_alloc(struct sharpi_device *device, uint64_t n_bytes, void **out, struct sharpi_error *err);
int32_t cuda_copy(struct sharpi_device *device, void *dst, uint64_t dst_offset, const void *src,
                  uint64_t src_offset, uint64_t n_bytes, struct sharpi_error *err);
int32_t cuda_write(struct sharpi_device *device, void *dst, uint64_t dst_offset, const void *host_src,
                   uint64_t n_bytes, struct sharpi_error *err);
int32_t cuda_read(struct sharpi_device *device, void *host_dst, const void *src, uint64_t src_offset,
                  uint64_t n_bytes, struct sharpi_error *err);

/* ---- measure.c */

int32_t cuda_measure(struct sharpi_device *device, struct sharpi_rates *rates, struct sharpi_error *err);

#endif
