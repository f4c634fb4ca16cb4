# Tests. A unit test is one CUnit program tests/test-<unit>.c; unless its fragment says otherwise it is linked with the core's
# internals. Exit status: 0 passed, 77 skipped (it says why), anything else failed.

EXTRA_DIST += tests/README.md

LDADD = core/libcore.la $(CUNIT_LIBS)

# Tests find the plugins just built, and model fixtures where SHARPI_SHARED says or beside the source tree (tests/README.md).
AM_TESTS_ENVIRONMENT = \
	SHARPI_PLUGIN_PATH='$(abs_top_builddir)/plugins/.libs'; export SHARPI_PLUGIN_PATH; \
	SHARPI_SHARED="$${SHARPI_SHARED:-$(abs_top_srcdir)/../shared}"; export SHARPI_SHARED; \
	top_srcdir='$(abs_top_srcdir)'; export top_srcdir; \
	top_builddir='$(abs_top_builddir)'; export top_builddir; \
	man_pages='$(man_pages)'; export man_pages;

# Fragments, in alphabetical order; `make check` needs CUnit for them.
include tests/cli.mk
include tests/core.mk
if BUILD_TESTS
include tests/attention.mk
include tests/backend-cpu.mk
include tests/chat.mk
include tests/gguf.mk
include tests/jinja.mk
include tests/kernels-cuda/kernels-cuda.mk
include tests/matmul.mk
include tests/models.mk
include tests/parts.mk
include tests/plan.mk
include tests/server.mk
include tests/scheduler.mk
include tests/text.mk
AM_CPPFLAGS += $(CUNIT_CFLAGS)
TESTS += $(check_PROGRAMS)
endif
