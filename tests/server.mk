# The HTTP server: its parts, the whole with the packages that its users use, and a fuzzer of request bodies:
#   mkdir corpus && ./tests/fuzz-http -max_len=4096 -max_total_time=600 corpus
# Measurements (bench/RESULTS.md, section Server), each says more at its head: load.py, stall.py, throughput.py. For example
# load: SHARPI=./sharpi SHARPI_TEST_MODEL=m.gguf python3 tests/server/load.py --clients 64 --requests 2000

EXTRA_DIST += \
	tests/server/anthropic-api.py \
	tests/server/common.py \
	tests/server/load.py \
	tests/server/machine.py \
	tests/server/no-memory.py \
	tests/server/openai-api.py \
	tests/server/page.py \
	tests/server/protocol.py \
	tests/server/stall.py \
	tests/server/throughput.py

dist_check_SCRIPTS += tests/test-server.sh
if BUILD_SERVER
TESTS += tests/test-server.sh

# Preloaded; -rpath makes libtool build a shared library although nothing is installed.
check_LTLIBRARIES += tests/server/fail-malloc.la
tests_server_fail_malloc_la_SOURCES = tests/server/fail-malloc.c
tests_server_fail_malloc_la_CFLAGS = -O1 -std=c17 $(WARN_CFLAGS)
tests_server_fail_malloc_la_LDFLAGS = -module -avoid-version -shared -rpath /nowhere

check_PROGRAMS += tests/test-http
tests_test_http_SOURCES = tests/test-http.c tests/gguf-build.c tests/gguf-build.h tests/vocab-build.c tests/vocab-build.h
tests_test_http_CPPFLAGS = $(AM_CPPFLAGS) $(MICROHTTPD_CFLAGS)
tests_test_http_LDADD = server/libserver.la $(LDADD) -lm

if BUILD_FUZZERS
noinst_PROGRAMS += tests/fuzz-http
endif
tests_fuzz_http_SOURCES = $(SERVER_SOURCES) tests/fuzz-http.c tests/gguf-build.c tests/gguf-build.h tests/vocab-build.c tests/vocab-build.h
nodist_tests_fuzz_http_SOURCES = server/page-data.c
tests_fuzz_http_CPPFLAGS = $(AM_CPPFLAGS) $(MICROHTTPD_CFLAGS)
tests_fuzz_http_CFLAGS = $(AM_CFLAGS) -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined
tests_fuzz_http_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer,address,undefined
tests_fuzz_http_LDADD = core/libcore.la $(MICROHTTPD_LIBS) $(JANSSON_LIBS) $(ZLIB_LIBS) -lm
endif
