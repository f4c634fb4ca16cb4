# Shared pages, the page cache, and the scheduler.

check_PROGRAMS += tests/test-prefix-tree tests/test-scheduler
tests_test_prefix_tree_SOURCES = tests/test-prefix-tree.c
tests_test_scheduler_SOURCES = tests/test-scheduler.c tests/scheduler-world.c tests/scheduler-world.h \
	tests/fixtures.c tests/fixtures.h
tests_test_scheduler_LDADD = $(LDADD) -lm
