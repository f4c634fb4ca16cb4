# What arch-dense and arch-moe share; linked into both.

noinst_LTLIBRARIES += plugins/arch-common/libdecoder.la
plugins_arch_common_libdecoder_la_SOURCES = \
	plugins/arch-common/decoder-build.c \
	plugins/arch-common/decoder-describe.c \
	plugins/arch-common/decoder-register.c \
	plugins/arch-common/decoder.h
