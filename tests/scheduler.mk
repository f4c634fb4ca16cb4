# Shared pages, the page cache, and the scheduler.

check_PROGRAMS += tests/test-prefix-tree tests/test-scheduler tests/test-scheduler-stress \
	tests/test-scheduler-model tests/test-scheduler-fallbacks tests/test-prompt-cache
tests_test_prefix_tree_SOURCES = tests/test-prefix-tree.c
tests_test_prompt_cache_SOURCES = tests/test-prompt-cache.c
tests_test_scheduler_SOURCES = tests/test-scheduler.c tests/scheduler-world.c tests/scheduler-world.h \
	tests/fixtures.c tests/fixtures.h
tests_test_scheduler_LDADD = $(LDADD) -lm
tests_test_scheduler_stress_SOURCES = tests/test-scheduler-stress.c tests/scheduler-world.c \
	tests/scheduler-world.h tests/fixtures.c tests/fixtures.h
tests_test_scheduler_stress_LDADD = $(LDADD) -lm
# Allocations of the core fail as the test wants.
tests_test_scheduler_stress_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc
tests_test_scheduler_model_SOURCES = tests/test-scheduler-model.c tests/scheduler-world.c \
	tests/scheduler-world.h tests/fixtures.c tests/fixtures.h
tests_test_scheduler_model_LDADD = $(LDADD) -lm
tests_test_scheduler_fallbacks_SOURCES = tests/test-scheduler-fallbacks.c tests/scheduler-world.c \
	tests/scheduler-world.h tests/fixtures.c tests/fixtures.h
tests_test_scheduler_fallbacks_LDADD = $(LDADD) -lm
