# Tests of the GGUF reader, and its fuzzer:
#   mkdir corpus && ./tests/test-gguf --seeds corpus && ./tests/fuzz-gguf -max_total_time=600 corpus

if BUILD_TESTS
check_PROGRAMS += tests/test-gguf tests/test-gguf-files
endif
tests_test_gguf_SOURCES = \
	tests/gguf-build.c \
	tests/gguf-build.h \
	tests/gguf-cases.c \
	tests/gguf-cases.h \
	tests/gguf-check.c \
	tests/gguf-check.h \
	tests/test-gguf.c
tests_test_gguf_files_SOURCES = \
	tests/gguf-build.c \
	tests/gguf-build.h \
	tests/gguf-check.c \
	tests/gguf-check.h \
	tests/test-gguf-files.c
# This test lets allocations fail.
tests_test_gguf_files_LDFLAGS = $(AM_LDFLAGS) \
	-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=strdup

# The fuzzer compiles the reader itself, with the fuzzer's instrumentation, and needs nothing else of the core.
if BUILD_FUZZERS
noinst_PROGRAMS += tests/fuzz-gguf
endif
tests_fuzz_gguf_SOURCES = \
	core/gguf-file.c \
	core/gguf-foreign.c \
	core/gguf-index.c \
	core/gguf-internal.h \
	core/gguf-parse.c \
	core/gguf-reader.c \
	core/gguf-tensors.c \
	core/gguf.c \
	core/gguf.h \
	tests/fuzz-gguf.c
tests_fuzz_gguf_CFLAGS = $(AM_CFLAGS) -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined
tests_fuzz_gguf_LDADD =
