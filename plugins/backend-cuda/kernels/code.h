/* What the kernels in this plugin were compiled for. */
#ifndef SHARPI_BACKEND_CUDA_CODE_H
#define SHARPI_BACKEND_CUDA_CODE_H

#ifdef __cplusplus
extern "C" {
#endif

/* Major compute capability (8, 9, ...) that the code which runs on the current device was written for: less than the device's where the
 * driver compiled PTX of an earlier one, whose kernels lack what came later (waiting for the launch before, sequences). Needs the device's
 * context. Returns a cudaError_t: cudaErrorNoKernelImageForDevice where the plugin has no code for the device. */
int code_compute_major(int *major);

#ifdef __cplusplus
}
#endif
#endif
