# Shared pages, the page cache, and the scheduler.

check_PROGRAMS += tests/test-prefix-tree
tests_test_prefix_tree_SOURCES = tests/test-prefix-tree.c
