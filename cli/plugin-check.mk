# sharpi-plugin-check: links the core's internals, because it checks what the loader does.
bin_PROGRAMS += sharpi-plugin-check
sharpi_plugin_check_SOURCES = cli/plugin-check.c cli/plugin-symbols.c cli/plugin-symbols.h
sharpi_plugin_check_LDADD = core/libcore.la
