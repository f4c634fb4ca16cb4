# The plugin kv-q8_0. Sources that need an instruction set go into that set's object library and nowhere else.
pkglib_LTLIBRARIES += plugins/kv-q8_0.la
plugins_kv_q8_0_la_SOURCES = \
	plugins/kv-q8_0/kv-q8_0.c \
	plugins/kv-q8_0/q8_0-c.c \
	plugins/kv-q8_0/q8_0-simd.h \
	plugins/kv-q8_0/q8_0.h
plugins_kv_q8_0_la_CFLAGS = $(AM_CFLAGS) -O3
plugins_kv_q8_0_la_LDFLAGS = $(PLUGIN_LDFLAGS)
plugins_kv_q8_0_la_LIBADD =

if HAVE_AVX2
noinst_LTLIBRARIES += plugins/kv-q8_0/libq8_0-avx2.la
plugins_kv_q8_0_la_LIBADD += plugins/kv-q8_0/libq8_0-avx2.la
endif
plugins_kv_q8_0_libq8_0_avx2_la_SOURCES = plugins/kv-q8_0/q8_0-avx2.c
plugins_kv_q8_0_libq8_0_avx2_la_CFLAGS = $(AM_CFLAGS) -O3 $(AVX2_CFLAGS)

if HAVE_AVX512
noinst_LTLIBRARIES += plugins/kv-q8_0/libq8_0-avx512.la
plugins_kv_q8_0_la_LIBADD += plugins/kv-q8_0/libq8_0-avx512.la
endif
plugins_kv_q8_0_libq8_0_avx512_la_SOURCES = plugins/kv-q8_0/q8_0-avx512.c
plugins_kv_q8_0_libq8_0_avx512_la_CFLAGS = $(AM_CFLAGS) -O3 $(AVX512_CFLAGS)

kv_q8_0_cuda_sources = \
	plugins/kv-q8_0/q8_0-128.cu \
	plugins/kv-q8_0/q8_0-256.cu \
	plugins/kv-q8_0/q8_0-512.cu \
	plugins/kv-q8_0/q8_0-cuda.h \
	plugins/kv-q8_0/q8_0-table.cu \
	plugins/kv-q8_0/q8_0.cuh
if HAVE_CUDA
plugins_kv_q8_0_la_SOURCES += $(kv_q8_0_cuda_sources)
plugins_kv_q8_0_la_LIBADD += $(CUDA_LIBS)
endif
