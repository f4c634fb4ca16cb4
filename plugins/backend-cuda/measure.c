/* What the GPU can do at best: copying within its memory, and a large bf16 product. Memory for it is taken and given back; a rate for
 * which there is none left stays unknown. */
#include "device.h"

#include "kernels/matmul.h"

#define MOST_BYTES  (UINT64_C(512) << 20) /* copied at once */
#define LEAST_BYTES (UINT64_C(128) << 20) /* less would stay in the L2 cache */
#define N_RUNS      9u
#define SIZE        4096u /* of the square product */

/* Shortest of several runs, in seconds; the first is not counted. */
static cudaError_t time_runs(struct sharpi_device *device, int (*work)(void *user), void *user,
                             double *seconds)
{
    cudaEvent_t begin = NULL, end = NULL;
    cudaError_t error = cudaEventCreate(&begin);
    *seconds = 0.0;
    if (!error)
        error = cudaEventCreate(&end);
    for (uint32_t i = 0; i <= N_RUNS && !error; i++) {
        float ms = 0.0f;
        if ((error = cudaEventRecord(begin, device->stream)) || (error = (cudaError_t)work(user)) ||
            (error = cudaEventRecord(end, device->stream)) || (error = cudaEventSynchronize(end)) ||
            (error = cudaEventElapsedTime(&ms, begin, end)))
            break;
        if (i > 0 && (*seconds == 0.0 || ms * 1e-3 < *seconds))
            *seconds = ms * 1e-3;
    }
    if (begin)
        cudaEventDestroy(begin);
    if (end)
        cudaEventDestroy(end);
    return error;
}

struct copying {
    struct sharpi_device *device;
    uint8_t *memory;
    uint64_t n_bytes;
};

static int copy_half(void *user)
{
    const struct copying *c = user;
    return (int)cudaMemcpyAsync(c->memory + c->n_bytes, c->memory, c->n_bytes, cudaMemcpyDeviceToDevice,
                                c->device->stream);
}

static int32_t measure_reading(struct sharpi_device *device, struct sharpi_rates *rates,
                               struct sharpi_error *err)
{
    struct copying c = {.device = device, .n_bytes = MOST_BYTES};
    void *memory = NULL;
    double seconds;
    cudaError_t error;
    int32_t status;
    while ((status = cuda_take(device, 2 * c.n_bytes, "measuring", &memory, err)) == SHARPI_ENOMEM &&
           c.n_bytes > LEAST_BYTES)
        c.n_bytes /= 2;
    if (status)
        return status;
    c.memory = memory;
    error = time_runs(device, copy_half, &c, &seconds);
    cuda_give(device, memory);
    if (error)
        return cuda_fail(err, (int)error, "measuring");
    rates->read_bytes_per_s = seconds > 0.0 ? 2.0 * (double)c.n_bytes / seconds : 0.0;
    return SHARPI_OK;
}

static int multiply(void *user)
{
    return matmul_launch(user);
}

/* Weights, activations and result in one block; what they hold does not matter to the speed, zeros would. */
static int32_t measure_product(struct sharpi_device *device, double *ops_per_s, struct sharpi_error *err)
{
    const uint64_t weights = matrix_device_bytes(SHARPI_TYPE_BF16, SIZE, SIZE, 1);
    const uint64_t inputs = SIZE * act_row_bytes(ACT_BF16, SIZE), outputs = SIZE * (uint64_t)SIZE * 4;
    struct cuda_matrix matrix;
    struct matmul_args args = {.ctx = device->matmul, .n_parts = 1, .n_rows = SIZE, .stream = device->stream};
    void *memory = NULL;
    double seconds = 0.0;
    cudaError_t error;
    int32_t status = matrix_init(&matrix, SHARPI_TYPE_BF16, SIZE, SIZE, 1, NULL, err);
    if (status)
        return status;
    args.workspace_bytes = matmul_workspace_bytes(device->matmul, &matrix, SIZE);
    status = cuda_take(device, weights + inputs + outputs + args.workspace_bytes, "measuring", &memory, err);
    if (status)
        return status;
    matrix.data = memory;
    args.act[ACT_BF16] = (uint8_t *)memory + weights;
    args.act_stride[ACT_BF16] = act_row_bytes(ACT_BF16, SIZE);
    args.part[0].w = &matrix;
    args.part[0].out = (float *)(void *)((uint8_t *)memory + weights + inputs);
    args.part[0].out_stride = SIZE;
    args.workspace = (uint8_t *)memory + weights + inputs + outputs;
    error = cudaMemsetAsync(memory, 0x3c, weights + inputs, device->stream); /* 0.0115 everywhere */
    if (!error)
        error = cudaMemsetAsync(args.workspace, 0, args.workspace_bytes, device->stream);
    if (!error)
        error = time_runs(device, multiply, &args, &seconds);
    cuda_give(device, memory);
    if (error)
        return cuda_fail(err, (int)error, "measuring");
    *ops_per_s = seconds > 0.0 ? 2.0 * SIZE * SIZE * SIZE / seconds : 0.0;
    return SHARPI_OK;
}

int32_t cuda_measure(struct sharpi_device *device, struct sharpi_rates *rates, struct sharpi_error *err)
{
    cudaError_t error = cudaSetDevice(device->index);
    double ops = 0.0;
    int32_t status;
    if (error)
        return cuda_fail(err, (int)error, "measuring");
    if ((status = measure_reading(device, rates, err)) && status != SHARPI_ENOMEM)
        return status;
    if ((status = measure_product(device, &ops, err)) && status != SHARPI_ENOMEM)
        return status;
    if (rates->size >= offsetof(struct sharpi_rates, bf16_ops_per_s) + sizeof rates->bf16_ops_per_s)
        rates->bf16_ops_per_s = ops;
    return SHARPI_OK;
}
