# The CUDA backend: C files are host logic with the runtime's C API, .cu files hold kernels and their launchers (plugins/cuda.mk).
# plugins/backend-cuda/libcuda.la is all of it less the plugin's entry, for tests.

cuda_matmul_sources = \
	plugins/backend-cuda/kernels/matmul-act.cuh \
	plugins/backend-cuda/kernels/matmul-blas.c \
	plugins/backend-cuda/kernels/matmul-blas.h \
	plugins/backend-cuda/kernels/matmul-decode.cuh \
	plugins/backend-cuda/kernels/matmul-epilogue.cuh \
	plugins/backend-cuda/kernels/matmul-f32.cu \
	plugins/backend-cuda/kernels/matmul-gemv.cu \
	plugins/backend-cuda/kernels/matmul-gemv.cuh \
	plugins/backend-cuda/kernels/matmul-internal.h \
	plugins/backend-cuda/kernels/matmul-large.cu \
	plugins/backend-cuda/kernels/matmul-layout.h \
	plugins/backend-cuda/kernels/matmul-matrix.c \
	plugins/backend-cuda/kernels/matmul-repack.cu \
	plugins/backend-cuda/kernels/matmul-ring.cuh \
	plugins/backend-cuda/kernels/matmul-tile-4bit.cu \
	plugins/backend-cuda/kernels/matmul-tile-k.cu \
	plugins/backend-cuda/kernels/matmul-tile-other.cu \
	plugins/backend-cuda/kernels/matmul-tile.cu \
	plugins/backend-cuda/kernels/matmul-tile.cuh \
	plugins/backend-cuda/kernels/matmul-unpack.cuh \
	plugins/backend-cuda/kernels/matmul-wgmma.cuh \
	plugins/backend-cuda/kernels/matmul-wide.cu \
	plugins/backend-cuda/kernels/matmul-wide.cuh \
	plugins/backend-cuda/kernels/matmul.c \
	plugins/backend-cuda/kernels/matmul.h \
	plugins/backend-cuda/kernels/sequence-check.cu \
	plugins/backend-cuda/kernels/sequence-experts.cuh \
	plugins/backend-cuda/kernels/sequence-f32.cuh \
	plugins/backend-cuda/kernels/sequence-product.cuh \
	plugins/backend-cuda/kernels/sequence-ring.cuh \
	plugins/backend-cuda/kernels/sequence-stages.cuh \
	plugins/backend-cuda/kernels/sequence-trace.cuh \
	plugins/backend-cuda/kernels/sequence.cu \
	plugins/backend-cuda/kernels/sequence.h
cuda_rows_sources = \
	plugins/backend-cuda/kernels/code.cu \
	plugins/backend-cuda/kernels/code.h \
	plugins/backend-cuda/kernels/launch.h \
	plugins/backend-cuda/kernels/moe-order.cuh \
	plugins/backend-cuda/kernels/moe.cu \
	plugins/backend-cuda/kernels/moe.h \
	plugins/backend-cuda/kernels/rows-device.cuh \
	plugins/backend-cuda/kernels/rows-fused.cuh \
	plugins/backend-cuda/kernels/rows-internal.h \
	plugins/backend-cuda/kernels/rows-launch.cuh \
	plugins/backend-cuda/kernels/rows-match.cuh \
	plugins/backend-cuda/kernels/rows-ops.cuh \
	plugins/backend-cuda/kernels/rows-plan.c \
	plugins/backend-cuda/kernels/rows.cu \
	plugins/backend-cuda/kernels/rows.h \
	plugins/backend-cuda/kernels/topk.cu \
	plugins/backend-cuda/kernels/topk.h
cuda_host_sources = \
	plugins/backend-cuda/batch.c \
	plugins/backend-cuda/compile.c \
	plugins/backend-cuda/device.c \
	plugins/backend-cuda/device.h \
	plugins/backend-cuda/launches.c \
	plugins/backend-cuda/layout.c \
	plugins/backend-cuda/load.c \
	plugins/backend-cuda/logits.c \
	plugins/backend-cuda/measure.c \
	plugins/backend-cuda/memory.c \
	plugins/backend-cuda/moe.c \
	plugins/backend-cuda/program.h \
	plugins/backend-cuda/rows-make.c \
	plugins/backend-cuda/run-moe.c \
	plugins/backend-cuda/run.c \
	plugins/backend-cuda/sequences.c \
	plugins/backend-cuda/upload.c

if HAVE_CUDA
noinst_LTLIBRARIES += plugins/backend-cuda/libcuda.la
plugins_backend_cuda_libcuda_la_SOURCES = $(cuda_host_sources) $(cuda_matmul_sources) $(cuda_rows_sources)
plugins_backend_cuda_libcuda_la_CPPFLAGS = $(AM_CPPFLAGS) $(CUDA_CPPFLAGS)
plugins_backend_cuda_libcuda_la_LIBADD = plugins/backend-common/libflow.la

pkglib_LTLIBRARIES += plugins/backend-cuda.la
plugins_backend_cuda_la_SOURCES = plugins/backend-cuda/backend.c
plugins_backend_cuda_la_CPPFLAGS = $(AM_CPPFLAGS) $(CUDA_CPPFLAGS)
plugins_backend_cuda_la_LDFLAGS = -module $(PLUGIN_LDFLAGS)
plugins_backend_cuda_la_LIBADD = plugins/backend-cuda/libcuda.la $(CUDA_LIBS) -lm
endif
