# Chat templates. Their expectations are made by Python, which the test does not need:
#   python3 tests/tools/make-template-expectations.py tests/data/templates
check_PROGRAMS += tests/test-jinja
tests_test_jinja_SOURCES = tests/test-jinja.c
tests_test_jinja_LDADD = core/libcore.la $(JANSSON_LIBS) $(CUNIT_LIBS) -lpthread -lm
EXTRA_DIST += tests/data/templates tests/tools/make-template-expectations.py tests/tools/template_cases.py \
	tests/tools/template_snippets.py

# mkdir corpus && cp tests/data/templates/*.jinja corpus && ./tests/fuzz-jinja -max_total_time=600 corpus
if BUILD_FUZZERS
noinst_PROGRAMS += tests/fuzz-jinja
endif
tests_fuzz_jinja_SOURCES = $(JINJA_SOURCES) tests/fuzz-jinja.c
tests_fuzz_jinja_CFLAGS = $(AM_CFLAGS) -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined
tests_fuzz_jinja_LDFLAGS = $(AM_LDFLAGS) -fsanitize=fuzzer,address,undefined
tests_fuzz_jinja_LDADD = $(JANSSON_LIBS) -lm
