# The plugin arch-dense.
#
# pkglib_LTLIBRARIES += plugins/arch-dense.la
# plugins_arch_dense_la_SOURCES = plugins/arch-dense/arch-dense.c
# plugins_arch_dense_la_LDFLAGS = $(PLUGIN_LINK)
