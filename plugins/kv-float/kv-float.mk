# The plugin kv-float. Sources that need an instruction set go into that set's object library and nowhere else.
pkglib_LTLIBRARIES += plugins/kv-float.la
plugins_kv_float_la_SOURCES = \
	plugins/kv-float/half.h \
	plugins/kv-float/kv-float-c.c \
	plugins/kv-float/kv-float.c \
	plugins/kv-float/kv-float-simd.h \
	plugins/kv-float/kv-float.h
plugins_kv_float_la_CFLAGS = $(AM_CFLAGS) -O3
plugins_kv_float_la_LDFLAGS = $(PLUGIN_LDFLAGS)
plugins_kv_float_la_LIBADD =

if HAVE_AVX2
noinst_LTLIBRARIES += plugins/kv-float/libkv-float-avx2.la
plugins_kv_float_la_LIBADD += plugins/kv-float/libkv-float-avx2.la
endif
plugins_kv_float_libkv_float_avx2_la_SOURCES = plugins/kv-float/kv-float-avx2.c
plugins_kv_float_libkv_float_avx2_la_CFLAGS = $(AM_CFLAGS) -O3 $(AVX2_CFLAGS)

if HAVE_AVX512
noinst_LTLIBRARIES += plugins/kv-float/libkv-float-avx512.la
plugins_kv_float_la_LIBADD += plugins/kv-float/libkv-float-avx512.la
endif
plugins_kv_float_libkv_float_avx512_la_SOURCES = plugins/kv-float/kv-float-avx512.c
plugins_kv_float_libkv_float_avx512_la_CFLAGS = $(AM_CFLAGS) -O3 $(AVX512_CFLAGS)

kv_float_cuda_sources = \
	plugins/kv-float/bf16-128.cu \
	plugins/kv-float/bf16-256.cu \
	plugins/kv-float/bf16-512.cu \
	plugins/kv-float/f16-128.cu \
	plugins/kv-float/f16-256.cu \
	plugins/kv-float/f16-512.cu \
	plugins/kv-float/float-cuda.h \
	plugins/kv-float/float-tables.cu \
	plugins/kv-float/float.cuh
if HAVE_CUDA
plugins_kv_float_la_SOURCES += $(kv_float_cuda_sources)
plugins_kv_float_la_LIBADD += $(CUDA_LIBS)
endif
