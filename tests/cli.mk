# The sharpi program from outside: exit statuses, text commands, pull, man pages and completion.
TESTS += tests/test-cli.sh tests/test-pull.sh
dist_check_SCRIPTS += tests/test-cli.sh tests/test-pull.sh
EXTRA_DIST += tests/tools/flaky-server.py

# 32,000 tokens through rings: minutes, so by ./check with SHARPI_CHECK_STAGES=long and not by make check.
EXTRA_DIST += tests/long-ring.sh tests/on-gpu tests/tools/resident.py

# mkdir corpus && cp data/models.ini corpus && ./tests/fuzz-ini -max_len=4096 -max_total_time=600 corpus
if BUILD_FUZZERS
noinst_PROGRAMS += tests/fuzz-ini
endif
tests_fuzz_ini_SOURCES = \
	cli/catalogue.c \
	cli/catalogue.h \
	core/log.c \
	core/log.h \
	core/nearest.c \
	core/nearest.h \
	core/plan-parse.c \
	core/plan.h \
	core/settings-files.c \
	core/settings-internal.h \
	core/settings-keys.c \
	core/settings-parse.c \
	core/settings.c \
	core/settings.h \
	tests/fuzz-ini.c
tests_fuzz_ini_CFLAGS = $(AM_CFLAGS) -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined
tests_fuzz_ini_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer,address,undefined
tests_fuzz_ini_LDADD = $(INIH_LIBS)
