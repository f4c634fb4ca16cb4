# The CPU backend as the core uses it, and its row kernels.
check_PROGRAMS += tests/test-backend-cpu tests/test-ops
tests_test_backend_cpu_SOURCES = \
	plugins/backend-cpu/backend.c \
	tests/cpu-host.c \
	tests/cpu-model.c \
	tests/cpu-reference.c \
	tests/cpu-world.h \
	tests/test-backend-cpu.c
tests_test_backend_cpu_CFLAGS = $(AM_CFLAGS) # its own object of backend.c
tests_test_backend_cpu_LDADD = plugins/backend-cpu/libcpu.la core/libcore.la $(CUNIT_LIBS) -lpthread -lm
tests_test_ops_SOURCES = tests/test-ops.c
tests_test_ops_LDADD = plugins/backend-cpu/libcpu.la $(CUNIT_LIBS) -lm
