# The CPU backend. One object library per instruction set: a source gets that set's flags by standing in its list, and common
# sources never do. plugins/backend-cpu/libcpu.la is all of it less the plugin's entry, for tests of the kernels.

include plugins/backend-cpu/matmul-sources.mk

noinst_LTLIBRARIES += plugins/backend-cpu/libcpu.la
plugins_backend_cpu_libcpu_la_SOURCES = $(cpu_matmul_common_sources)
plugins_backend_cpu_libcpu_la_CFLAGS = $(AM_CFLAGS) -O3
plugins_backend_cpu_libcpu_la_LIBADD = -lpthread -lm

if HAVE_AVX2
noinst_LTLIBRARIES += plugins/backend-cpu/libcpu-avx2.la
plugins_backend_cpu_libcpu_la_LIBADD += plugins/backend-cpu/libcpu-avx2.la
endif
plugins_backend_cpu_libcpu_avx2_la_SOURCES = $(cpu_matmul_avx2_sources)
plugins_backend_cpu_libcpu_avx2_la_CFLAGS = $(AM_CFLAGS) -O3 $(AVX2_CFLAGS)
