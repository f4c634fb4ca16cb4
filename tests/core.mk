# Tests of the core: settings, plugins, threads, and the layout of what plugins are compiled against.

if BUILD_TESTS
check_PROGRAMS += tests/test-abi tests/test-config tests/test-model-file tests/test-plugins tests/test-pool
check_LTLIBRARIES += $(fixtures)
TESTS += tests/check-headers.sh tests/check-plugin-check.sh
endif
dist_check_SCRIPTS += tests/check-headers.sh tests/check-plugin-check.sh

tests_test_abi_SOURCES = tests/test-abi.c
tests_test_config_SOURCES = tests/test-config.c
tests_test_model_file_SOURCES = tests/gguf-build.c tests/gguf-build.h tests/test-model-file.c
tests_test_plugins_SOURCES = tests/test-plugins.c
tests_test_pool_SOURCES = tests/test-pool.c

# Plugins, most of them broken in one way. -rpath makes libtool build shared objects of what is not installed; undefined and
# superfluous symbols are what some of them are about, so PLUGIN_LINK is not used.
FIXTURE_LINK = $(AM_LDFLAGS) -module -avoid-version -shared -rpath /nowhere
EXTRA_DIST += tests/plugins/fixture.h
fixtures = \
	tests/plugins/bad-magic.la \
	tests/plugins/careless.la \
	tests/plugins/duplicate-arch.la \
	tests/plugins/duplicate-backend.la \
	tests/plugins/future-major.la \
	tests/plugins/good.la \
	tests/plugins/incomplete-arch.la \
	tests/plugins/incomplete-backend.la \
	tests/plugins/incomplete-kv.la \
	tests/plugins/init-fails.la \
	tests/plugins/init-silent.la \
	tests/plugins/name-mismatch.la \
	tests/plugins/no-entry.la \
	tests/plugins/null-entry.la \
	tests/plugins/null-init.la \
	tests/plugins/null-name.la \
	tests/plugins/null-table.la \
	tests/plugins/null-version.la \
	tests/plugins/offers-nothing.la \
	tests/plugins/old-major.la \
	tests/plugins/other.la \
	tests/plugins/short-size.la \
	tests/plugins/small-table.la \
	tests/plugins/uses-core.la
tests_plugins_bad_magic_la_SOURCES = tests/plugins/bad-magic.c
tests_plugins_bad_magic_la_LIBADD =
tests_plugins_bad_magic_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_careless_la_SOURCES = tests/plugins/careless.c
tests_plugins_careless_la_LIBADD =
tests_plugins_careless_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_duplicate_arch_la_SOURCES = tests/plugins/duplicate-arch.c
tests_plugins_duplicate_arch_la_LIBADD =
tests_plugins_duplicate_arch_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_duplicate_backend_la_SOURCES = tests/plugins/duplicate-backend.c
tests_plugins_duplicate_backend_la_LIBADD =
tests_plugins_duplicate_backend_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_future_major_la_SOURCES = tests/plugins/future-major.c
tests_plugins_future_major_la_LIBADD =
tests_plugins_future_major_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_good_la_SOURCES = tests/plugins/good.c
tests_plugins_good_la_LIBADD =
tests_plugins_good_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_incomplete_arch_la_SOURCES = tests/plugins/incomplete-arch.c
tests_plugins_incomplete_arch_la_LIBADD =
tests_plugins_incomplete_arch_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_incomplete_backend_la_SOURCES = tests/plugins/incomplete-backend.c
tests_plugins_incomplete_backend_la_LIBADD =
tests_plugins_incomplete_backend_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_incomplete_kv_la_SOURCES = tests/plugins/incomplete-kv.c
tests_plugins_incomplete_kv_la_LIBADD =
tests_plugins_incomplete_kv_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_init_fails_la_SOURCES = tests/plugins/init-fails.c
tests_plugins_init_fails_la_LIBADD =
tests_plugins_init_fails_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_init_silent_la_SOURCES = tests/plugins/init-silent.c
tests_plugins_init_silent_la_LIBADD =
tests_plugins_init_silent_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_name_mismatch_la_SOURCES = tests/plugins/name-mismatch.c
tests_plugins_name_mismatch_la_LIBADD =
tests_plugins_name_mismatch_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_no_entry_la_SOURCES = tests/plugins/no-entry.c
tests_plugins_no_entry_la_LIBADD =
tests_plugins_no_entry_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_null_entry_la_SOURCES = tests/plugins/null-entry.c
tests_plugins_null_entry_la_LIBADD =
tests_plugins_null_entry_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_null_init_la_SOURCES = tests/plugins/null-init.c
tests_plugins_null_init_la_LIBADD =
tests_plugins_null_init_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_null_name_la_SOURCES = tests/plugins/null-name.c
tests_plugins_null_name_la_LIBADD =
tests_plugins_null_name_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_null_table_la_SOURCES = tests/plugins/null-table.c
tests_plugins_null_table_la_LIBADD =
tests_plugins_null_table_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_null_version_la_SOURCES = tests/plugins/null-version.c
tests_plugins_null_version_la_LIBADD =
tests_plugins_null_version_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_offers_nothing_la_SOURCES = tests/plugins/offers-nothing.c
tests_plugins_offers_nothing_la_LIBADD =
tests_plugins_offers_nothing_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_old_major_la_SOURCES = tests/plugins/old-major.c
tests_plugins_old_major_la_LIBADD =
tests_plugins_old_major_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_other_la_SOURCES = tests/plugins/other.c
tests_plugins_other_la_LIBADD =
tests_plugins_other_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_short_size_la_SOURCES = tests/plugins/short-size.c
tests_plugins_short_size_la_LIBADD =
tests_plugins_short_size_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_small_table_la_SOURCES = tests/plugins/small-table.c
tests_plugins_small_table_la_LIBADD =
tests_plugins_small_table_la_LDFLAGS = $(FIXTURE_LINK)
tests_plugins_uses_core_la_SOURCES = tests/plugins/uses-core.c
tests_plugins_uses_core_la_LIBADD =
tests_plugins_uses_core_la_LDFLAGS = $(FIXTURE_LINK)
