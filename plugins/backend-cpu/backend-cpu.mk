# The CPU backend. One object library per instruction set: a source gets that set's flags by standing in its list, and common
# sources never do. plugins/backend-cpu/libcpu.la is all of it less the plugin's entry, for tests of the kernels.

include plugins/backend-common/backend-common.mk
include plugins/backend-cpu/matmul-sources.mk
include plugins/backend-cpu/attention-sources.mk

noinst_LTLIBRARIES += plugins/backend-cpu/libcpu.la
plugins_backend_cpu_libcpu_la_SOURCES = \
	$(cpu_matmul_common_sources) \
	$(cpu_attention_common_sources) \
	plugins/backend-cpu/compile-moe.c \
	plugins/backend-cpu/compile-weights.c \
	plugins/backend-cpu/compile.c \
	plugins/backend-cpu/compile.h \
	plugins/backend-cpu/device.c \
	plugins/backend-cpu/device.h \
	plugins/backend-cpu/load.c \
	plugins/backend-cpu/machine.c \
	plugins/backend-cpu/measure.c \
	plugins/backend-cpu/measure.h \
	plugins/backend-cpu/memory.c \
	plugins/backend-cpu/ops-c.c \
	plugins/backend-cpu/ops-simd.h \
	plugins/backend-cpu/ops.h \
	plugins/backend-cpu/program.h \
	plugins/backend-cpu/run-moe.c \
	plugins/backend-cpu/run-rows.c \
	plugins/backend-cpu/run.c \
	plugins/backend-cpu/run.h \
	plugins/backend-cpu/supports.c
plugins_backend_cpu_libcpu_la_CFLAGS = $(AM_CFLAGS) -O3
plugins_backend_cpu_libcpu_la_LIBADD = plugins/backend-common/libflow.la -lpthread -lm

if HAVE_AVX2
noinst_LTLIBRARIES += plugins/backend-cpu/libcpu-avx2.la
plugins_backend_cpu_libcpu_la_LIBADD += plugins/backend-cpu/libcpu-avx2.la
endif
plugins_backend_cpu_libcpu_avx2_la_SOURCES = \
	$(cpu_matmul_avx2_sources) \
	$(cpu_attention_avx2_sources) \
	plugins/backend-cpu/measure-avx2.c \
	plugins/backend-cpu/ops-avx2.c
plugins_backend_cpu_libcpu_avx2_la_CFLAGS = $(AM_CFLAGS) -O3 $(AVX2_CFLAGS)

if HAVE_AVX512
noinst_LTLIBRARIES += plugins/backend-cpu/libcpu-avx512.la
plugins_backend_cpu_libcpu_la_LIBADD += plugins/backend-cpu/libcpu-avx512.la
endif
plugins_backend_cpu_libcpu_avx512_la_SOURCES = \
	$(cpu_matmul_avx512_sources) \
	$(cpu_attention_avx512_sources) \
	plugins/backend-cpu/measure-avx512.c \
	plugins/backend-cpu/ops-avx512.c
plugins_backend_cpu_libcpu_avx512_la_CFLAGS = $(AM_CFLAGS) -O3 $(AVX512_CFLAGS)

pkglib_LTLIBRARIES += plugins/backend-cpu.la
plugins_backend_cpu_la_SOURCES = plugins/backend-cpu/backend.c
plugins_backend_cpu_la_LDFLAGS = $(PLUGIN_LDFLAGS)
plugins_backend_cpu_la_LIBADD = plugins/backend-cpu/libcpu.la -lm
