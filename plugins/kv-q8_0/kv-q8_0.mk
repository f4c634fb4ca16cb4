# The plugin kv-q8_0. Sources that need an instruction set go into that set's object library and nowhere else.
pkglib_LTLIBRARIES += plugins/kv-q8_0.la
plugins_kv_q8_0_la_SOURCES = \
	plugins/kv-q8_0/kv-q8_0.c \
	plugins/kv-q8_0/q8_0-c.c \
	plugins/kv-q8_0/q8_0.h
plugins_kv_q8_0_la_CFLAGS = $(AM_CFLAGS) -O3
plugins_kv_q8_0_la_LDFLAGS = $(PLUGIN_LDFLAGS)
plugins_kv_q8_0_la_LIBADD =
