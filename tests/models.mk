# Whole models against reference logits.

check_PROGRAMS += tests/test-models tests/test-kv-pages
tests_test_models_SOURCES = tests/test-models.c tests/fixtures.c tests/fixtures.h
tests_test_models_LDADD = $(LDADD) -lm
tests_test_kv_pages_SOURCES = tests/test-kv-pages.c
