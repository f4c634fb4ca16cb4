# Whole models against reference logits.

check_PROGRAMS += tests/test-models tests/test-kv-pages
tests_test_models_SOURCES = tests/test-models.c tests/fixtures.c tests/fixtures.h
tests_test_models_LDADD = $(LDADD) -lm
tests_test_kv_pages_SOURCES = tests/test-kv-pages.c

# KV formats beside f32, on small models; with arguments on any: tests/kv-types MODEL.gguf N_TOKENS [BACKEND].
check_PROGRAMS += tests/kv-types
tests_kv_types_SOURCES = tests/kv-types.c tests/fixtures.c tests/fixtures.h
tests_kv_types_LDADD = $(LDADD) -lm
