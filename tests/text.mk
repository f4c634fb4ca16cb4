# Tests of tokenizer and sampler, and the tokenizer's fuzzer:
#   mkdir corpus && ./tests/test-tokenizer --seeds corpus && ./tests/fuzz-tokenizer -max_total_time=600 corpus

if BUILD_TESTS
check_PROGRAMS += tests/test-sampler tests/test-sampler-scan tests/test-tokenizer
endif
tests_test_sampler_SOURCES = tests/random-logits.h tests/test-sampler.c
tests_test_sampler_LDADD = $(LDADD) -lm
# Compiles the source that it tests, to reach each processor's variant.
tests_test_sampler_scan_SOURCES = tests/random-logits.h tests/test-sampler-scan.c
tests_test_sampler_scan_LDADD = $(CUNIT_LIBS) -lm
tests_test_tokenizer_SOURCES = \
	tests/gguf-build.c \
	tests/gguf-build.h \
	tests/test-tokenizer.c \
	tests/vocab-build.c \
	tests/vocab-build.h

EXTRA_DIST += tests/tools/compare-sentencepiece.py

# The fuzzer compiles what it tests itself, with the fuzzer's instrumentation.
if BUILD_FUZZERS
noinst_PROGRAMS += tests/fuzz-tokenizer
endif
tests_fuzz_tokenizer_SOURCES = \
	core/gguf-file.c \
	core/gguf-foreign.c \
	core/gguf-index.c \
	core/gguf-internal.h \
	core/gguf-parse.c \
	core/gguf-reader.c \
	core/gguf-tensors.c \
	core/gguf.c \
	core/gguf.h \
	core/tokenizer-bpe.c \
	core/tokenizer-detok.c \
	core/tokenizer-ids.c \
	core/tokenizer-internal.h \
	core/tokenizer-load.c \
	core/tokenizer-merge.c \
	core/tokenizer-merges.c \
	core/tokenizer-pre.c \
	core/tokenizer-special.c \
	core/tokenizer-spm.c \
	core/tokenizer-table.c \
	core/tokenizer-utf8.c \
	core/tokenizer.c \
	core/tokenizer.h \
	tests/fuzz-tokenizer.c
tests_fuzz_tokenizer_CFLAGS = $(AM_CFLAGS) -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined
tests_fuzz_tokenizer_LDADD = $(PCRE2_LIBS)
