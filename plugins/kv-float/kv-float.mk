# The plugin kv-float. Sources that need an instruction set go into that set's object library and nowhere else.
pkglib_LTLIBRARIES += plugins/kv-float.la
plugins_kv_float_la_SOURCES = \
	plugins/kv-float/half.h \
	plugins/kv-float/kv-float-c.c \
	plugins/kv-float/kv-float.c \
	plugins/kv-float/kv-float.h
plugins_kv_float_la_CFLAGS = $(AM_CFLAGS) -O3
plugins_kv_float_la_LDFLAGS = $(PLUGIN_LDFLAGS)
plugins_kv_float_la_LIBADD =
