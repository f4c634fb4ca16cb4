# What is shipped beside the sources, and targets for people and CI: lint, bindist, check-valgrind, installcheck.

EXTRA_DIST += \
	.clang-format \
	.clang-tidy \
	tests/.clang-tidy \
	LICENSE \
	NEWS \
	README.md \
	autogen.sh \
	data/models.ini \
	packaging/bindist \
	packaging/common.sh \
	packaging/fetch-model \
	packaging/lint \
	packaging/lint.h \
	packaging/packages \
	quickstart \
	tests/installcheck.sh \
	tests/valgrind-plugins.sh

# The script `check` has the name of a target: as a file to be distributed, it would run that first.
dist-hook:
	cp -p $(srcdir)/check $(distdir)/check

# What the scripts need to know of this build.
SCRIPT_ENV = \
	srcdir='$(srcdir)' CC='$(CC)' PKG_CONFIG='$(PKG_CONFIG)' VERSION='$(VERSION)' \
	PLUGINS='$(patsubst plugins/%.la,%,$(pkglib_LTLIBRARIES))'

# The commented configuration. One that somebody has edited stays, and the new one is put beside it.
sharpiconfdir = $(sysconfdir)/sharpi
noinst_DATA = sharpi.ini
EXTRA_DIST += data/sharpi.ini.in
CLEANFILES += sharpi.ini
sharpi.ini: data/sharpi.ini.in Makefile
	$(AM_V_GEN)sed -e 's,@sysconfdir@,$(sysconfdir),g' -e 's,@plugindir@,$(pkglibdir),g' '$(srcdir)/data/sharpi.ini.in' >$@.new && \
	  mv $@.new $@

install-data-local: sharpi.ini
	$(MKDIR_P) "$(DESTDIR)$(sharpiconfdir)/conf.d"
	@to="$(DESTDIR)$(sharpiconfdir)/sharpi.ini"; \
	if test -f "$$to" && ! cmp -s sharpi.ini "$$to"; then \
	  echo "keeping your $$to; the new one is $$to.new"; to="$$to.new"; fi; \
	$(INSTALL_DATA) sharpi.ini "$$to"

uninstall-local:
	@conf="$(DESTDIR)$(sharpiconfdir)"; rm -f "$$conf/sharpi.ini.new"; \
	if cmp -s sharpi.ini "$$conf/sharpi.ini"; then rm -f "$$conf/sharpi.ini"; fi; \
	rmdir "$$conf/conf.d" "$$conf" 2>/dev/null || :

# libtool's archives are of no use to somebody who dlopens, and distributions remove them anyway.
install-exec-hook:
	for plugin in $(patsubst plugins/%.la,%,$(pkglib_LTLIBRARIES)); do \
	  rm -f "$(DESTDIR)$(pkglibdir)/$$plugin.la"; done
	rm -f "$(DESTDIR)$(libdir)/libsharpi.la"

uninstall-hook:
	for plugin in $(patsubst plugins/%.la,%,$(pkglib_LTLIBRARIES)); do \
	  rm -f "$(DESTDIR)$(pkglibdir)/$$plugin.so"; done
	rm -f "$(DESTDIR)$(libdir)"/libsharpi.so "$(DESTDIR)$(libdir)"/libsharpi.so.*
	-rmdir "$(DESTDIR)$(pkglibdir)" "$(DESTDIR)$(sharpipluginincludedir)" "$(DESTDIR)$(sharpiincludedir)" 2>/dev/null

# Against the installed files only: headers, pkg-config file, library, plugins, and the examples built out of tree.
installcheck-local:
	$(SCRIPT_ENV) CFLAGS='$(CFLAGS) $(SANITIZE_CFLAGS)' DESTDIR='$(DESTDIR)' bindir='$(bindir)' libdir='$(libdir)' \
	  pkglibdir='$(pkglibdir)' includedir='$(includedir)' pkgconfigdir='$(pkgconfigdir)' \
	  SHARPI_SHARED="$${SHARPI_SHARED:-$(abs_top_srcdir)/../shared}" \
	  $(SHELL) '$(srcdir)/tests/installcheck.sh'

check-valgrind: all
	$(SCRIPT_ENV) VALGRIND='$(VALGRIND)' SHARPI_PLUGIN_PATH='$(abs_top_builddir)/plugins/.libs' \
	  $(SHELL) '$(srcdir)/tests/valgrind-plugins.sh' ./sharpi

lint:
	$(SCRIPT_ENV) $(SHELL) '$(srcdir)/packaging/lint'

# A relocatable tarball: sharpi-VERSION-MACHINE/ with bin, lib, plugins and the libraries that a bare system lacks.
bindist: all
	$(SCRIPT_ENV) MAKE='$(MAKE)' HOST='$(host_cpu)-$(host_os)' $(SHELL) '$(srcdir)/packaging/bindist'

.PHONY: lint bindist check-valgrind

AM_DISTCHECK_CONFIGURE_FLAGS = --enable-werror --enable-tests
