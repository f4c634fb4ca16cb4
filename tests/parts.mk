# Models in several parts: layers and experts split over the CPU backend and its twin.
check_PROGRAMS += tests/test-parts
check_LTLIBRARIES += tests/plugins/backend-twin.la
tests_plugins_backend_twin_la_SOURCES = tests/plugins/backend-twin.c
tests_plugins_backend_twin_la_LIBADD = plugins/backend-cpu/libcpu.la -lm
tests_plugins_backend_twin_la_LDFLAGS = $(PLUGIN_LDFLAGS) -rpath /nowhere
tests_test_parts_SOURCES = tests/test-parts.c tests/fixtures.c tests/fixtures.h
tests_test_parts_LDADD = plugins/backend-cpu/libcpu.la $(LDADD) -lm

# Sampling from the highest logits only.
check_PROGRAMS += tests/test-top
tests_test_top_SOURCES = tests/test-top.c tests/fixtures.c tests/fixtures.h
tests_test_top_LDADD = $(LDADD) -lm
