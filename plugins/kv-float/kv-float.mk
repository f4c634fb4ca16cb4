# The plugin kv-float.
#
# pkglib_LTLIBRARIES += plugins/kv-float.la
# plugins_kv_float_la_SOURCES = plugins/kv-float/kv-float.c
# plugins_kv_float_la_LDFLAGS = $(PLUGIN_LDFLAGS)
