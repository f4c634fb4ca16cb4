# The sharpi program. It uses the core's internals (inspect, bench), so it links the core itself and not libsharpi.

bin_PROGRAMS += sharpi
sharpi_SOURCES = \
	cli/bench-text.c \
	cli/bench-text.h \
	cli/catalogue.c \
	cli/catalogue.h \
	cli/cmd-bench.c \
	cli/cmd-inspect.c \
	cli/cmd-logits.c \
	cli/cmd-plan.c \
	cli/cmd-perplexity.c \
	cli/cmd-plugins.c \
	cli/cmd-doctor.c \
	cli/cmd-run.c \
	cli/cmd-template.c \
	cli/cmd-tokenize.c \
	cli/command.c \
	cli/command.h \
	cli/divergence.c \
	cli/divergence.h \
	cli/main.c \
	cli/options.c \
	cli/options.h \
	cli/progress.c \
	cli/progress.h \
	cli/saved-logits.c \
	cli/saved-logits.h
sharpi_LDADD = core/libcore.la -lm
sharpi_CPPFLAGS = $(AM_CPPFLAGS) -DSHARPI_DATADIR='"$(pkgdatadir)"'

pkgdata_DATA = data/models.ini
