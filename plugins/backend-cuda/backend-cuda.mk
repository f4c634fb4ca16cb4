# The CUDA backend: C files are host logic with the runtime's C API, .cu files hold kernels and their launchers (plugins/cuda.mk).
# plugins/backend-cuda/libcuda.la is all of it less the plugin's entry, for tests.
EXTRA_DIST += $(cuda_sources)

cuda_sources = \
	plugins/backend-cuda/batch.c \
	plugins/backend-cuda/compile.c \
	plugins/backend-cuda/device.c \
	plugins/backend-cuda/device.h \
	plugins/backend-cuda/kernels/launch.h \
	plugins/backend-cuda/kernels/matmul-act.cuh \
	plugins/backend-cuda/kernels/matmul.h \
	plugins/backend-cuda/kernels/moe.cu \
	plugins/backend-cuda/kernels/moe.h \
	plugins/backend-cuda/kernels/rows-device.cuh \
	plugins/backend-cuda/kernels/rows-internal.h \
	plugins/backend-cuda/kernels/rows-plan.c \
	plugins/backend-cuda/kernels/rows.cu \
	plugins/backend-cuda/kernels/rows.h \
	plugins/backend-cuda/kernels/topk.cu \
	plugins/backend-cuda/kernels/topk.h \
	plugins/backend-cuda/launches.c \
	plugins/backend-cuda/layout.c \
	plugins/backend-cuda/load.c \
	plugins/backend-cuda/measure.c \
	plugins/backend-cuda/memory.c \
	plugins/backend-cuda/moe.c \
	plugins/backend-cuda/program.h \
	plugins/backend-cuda/rows-make.c \
	plugins/backend-cuda/run-moe.c \
	plugins/backend-cuda/run.c \
	plugins/backend-cuda/upload.c
