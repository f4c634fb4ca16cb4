# The plugin arch-dense.

pkglib_LTLIBRARIES += plugins/arch-dense.la
plugins_arch_dense_la_SOURCES = plugins/arch-dense/arch-dense.c
plugins_arch_dense_la_LDFLAGS = -module $(PLUGIN_LDFLAGS)
plugins_arch_dense_la_LIBADD = plugins/arch-common/libdecoder.la -lm
