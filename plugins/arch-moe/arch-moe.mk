# The plugin arch-moe.

pkglib_LTLIBRARIES += plugins/arch-moe.la
plugins_arch_moe_la_SOURCES = plugins/arch-moe/arch-moe.c
plugins_arch_moe_la_LDFLAGS = -module $(PLUGIN_LDFLAGS)
plugins_arch_moe_la_LIBADD = plugins/arch-common/libdecoder.la -lm
