# The plugin arch-dense.

pkglib_LTLIBRARIES += plugins/arch-dense.la
plugins_arch_dense_la_SOURCES = \
	plugins/arch-dense/arch-dense.c \
	plugins/arch-dense/build.c \
	plugins/arch-dense/dense.h \
	plugins/arch-dense/describe.c
plugins_arch_dense_la_LDFLAGS = $(PLUGIN_LDFLAGS)
plugins_arch_dense_la_LIBADD = -lm
