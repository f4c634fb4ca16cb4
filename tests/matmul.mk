# Matrix products of the CPU backend; `tests/test-matmul --bench [TYPE]` prints their speed.
check_PROGRAMS += tests/test-matmul
tests_test_matmul_SOURCES = tests/test-matmul.c tests/test-matmul.h tests/test-matmul-util.c tests/bench-matmul.c \
	tests/data/dequant-blocks.h
tests_test_matmul_LDADD = plugins/backend-cpu/libcpu.la $(CUNIT_LIBS) -lpthread -lm
