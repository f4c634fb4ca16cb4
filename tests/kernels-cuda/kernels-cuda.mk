# Kernels of the CUDA backend and of the KV formats, on a GPU: tests/test-kernels-cuda [matmul|attention|rows|moe|sequence|experts]... [--bench].
# check_PROGRAMS, so that "make check" builds and runs it: without a GPU it says so and is skipped.
if HAVE_CUDA
check_LTLIBRARIES += tests/kernels-cuda/libtests.la
tests_kernels_cuda_libtests_la_SOURCES = \
	$(kv_float_cuda_sources) \
	$(kv_q8_0_cuda_sources) \
	plugins/backend-cpu/dequant.c \
	plugins/backend-cpu/matmul-unpack.c \
	plugins/kv-float/kv-float-c.c \
	plugins/kv-q8_0/q8_0-c.c \
	tests/kernels-cuda/attention.cu \
	tests/kernels-cuda/main.cu \
	tests/kernels-cuda/matmul.cu \
	tests/kernels-cuda/moe.cu \
	tests/kernels-cuda/random.cuh \
	tests/kernels-cuda/rows.cu \
	tests/kernels-cuda/sequence-experts.cu \
	tests/kernels-cuda/sequence-world.cuh \
	tests/kernels-cuda/sequence.cu
tests_kernels_cuda_libtests_la_CFLAGS = $(AM_CFLAGS) -O3

check_PROGRAMS += tests/test-kernels-cuda
tests_test_kernels_cuda_SOURCES = # main is in the library too: automake cannot compile .cu files of a program
tests_test_kernels_cuda_LDADD = tests/kernels-cuda/libtests.la plugins/backend-cuda/libcuda.la $(CUDA_LIBS) -lm

# The same for racecheck, with a sequence kernel of its own in place of the backend's; for tests/on-gpu.
EXTRA_LTLIBRARIES += tests/kernels-cuda/libracecheck.la
tests_kernels_cuda_libracecheck_la_SOURCES = tests/kernels-cuda/sequence-racecheck.cu
EXTRA_PROGRAMS += tests/test-kernels-cuda-racecheck
tests_test_kernels_cuda_racecheck_SOURCES =
tests_test_kernels_cuda_racecheck_LDADD = tests/kernels-cuda/libtests.la tests/kernels-cuda/libracecheck.la plugins/backend-cuda/libcuda.la $(CUDA_LIBS) -lm

# Programs on paper, for which no GPU is needed.
check_PROGRAMS += tests/test-cuda-compile
tests_test_cuda_compile_SOURCES = tests/fixtures.c tests/fixtures.h tests/test-cuda-compile.c
tests_test_cuda_compile_CPPFLAGS = $(AM_CPPFLAGS) $(CUDA_CPPFLAGS)
tests_test_cuda_compile_LDADD = plugins/backend-cuda/libcuda.la $(LDADD) $(CUDA_LIBS) -lm
endif
