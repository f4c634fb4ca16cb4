# The memory plan: its rules, real geometries on described devices, and what the CPU backend really allocates.
check_PROGRAMS += tests/test-plan tests/test-plan-cpu tests/test-plan-models
tests_test_plan_SOURCES = tests/test-plan.c
tests_test_plan_cpu_SOURCES = \
	tests/fixtures.c \
	tests/fixtures.h \
	tests/plan-world.c \
	tests/plan-world.h \
	tests/test-plan-cpu.c
tests_test_plan_cpu_LDADD = plugins/backend-cpu/libcpu.la $(LDADD) -lm
tests_test_plan_models_SOURCES = tests/plan-world.c tests/plan-world.h tests/test-plan-models.c
