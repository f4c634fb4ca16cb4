# Attention of the CPU backend and the KV formats. `tests/test-attention --bench [THREADS]` prints speeds. Both load the
# plugins kv-float and kv-q8_0 from SHARPI_PLUGIN_PATH.
check_PROGRAMS += tests/test-attention
tests_test_attention_SOURCES = \
	tests/attention-bench.c \
	tests/attention-bench.h \
	tests/attention-world.c \
	tests/attention-world.h \
	tests/kv-plugins.h \
	tests/test-attention.c
tests_test_attention_LDADD = plugins/backend-cpu/libcpu.la $(CUNIT_LIBS) -lpthread -lm

check_PROGRAMS += tests/test-kv-formats
tests_test_kv_formats_SOURCES = \
	tests/kv-plugins.h \
	tests/test-kv-formats.c
tests_test_kv_formats_LDADD = plugins/backend-cpu/libcpu.la $(CUNIT_LIBS) -lm
