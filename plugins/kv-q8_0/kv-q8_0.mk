# The plugin kv-q8_0.
#
# pkglib_LTLIBRARIES += plugins/kv-q8_0.la
# plugins_kv_q8_0_la_SOURCES = plugins/kv-q8_0/kv-q8_0.c
# plugins_kv_q8_0_la_LDFLAGS = $(PLUGIN_LDFLAGS)
