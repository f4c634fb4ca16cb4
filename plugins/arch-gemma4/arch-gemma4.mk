# The plugin arch-gemma4.

pkglib_LTLIBRARIES += plugins/arch-gemma4.la
plugins_arch_gemma4_la_SOURCES = \
	plugins/arch-gemma4/arch-gemma4.c \
	plugins/arch-gemma4/build.c \
	plugins/arch-gemma4/describe.c \
	plugins/arch-gemma4/gemma4.h
plugins_arch_gemma4_la_LDFLAGS = -module $(PLUGIN_LDFLAGS)
plugins_arch_gemma4_la_LIBADD = -lm
