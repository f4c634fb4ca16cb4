#!/bin/sh
# Checks an installation as a third party sees it: through pkg-config, with nothing of the source or build tree but the
# examples' sources, which are copied out.
# Environment (from make): srcdir CC CFLAGS PKG_CONFIG VERSION PLUGINS DESTDIR bindir libdir pkglibdir includedir pkgconfigdir
# SHARPI_SHARED.
set -eu
: "${srcdir:?}" "${CC:?}" "${CFLAGS=}" "${PKG_CONFIG:?}" "${VERSION:?}" "${PLUGINS:?}" "${DESTDIR=}" "${SHARPI_SHARED=}"
: "${bindir:?}" "${libdir:?}" "${pkglibdir:?}" "${includedir:?}" "${pkgconfigdir:?}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "installcheck: $*" >&2
    exit 1
}

PKG_CONFIG_PATH=$DESTDIR$pkgconfigdir
PKG_CONFIG_SYSROOT_DIR=$DESTDIR
LD_LIBRARY_PATH=$DESTDIR$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
XDG_CONFIG_HOME=$work/config
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR LD_LIBRARY_PATH XDG_CONFIG_HOME
unset SHARPI_PLUGIN_PATH
sharpi=$DESTDIR$bindir/sharpi

# The pkg-config file says the truth.
[ "$("$PKG_CONFIG" --modversion sharpi)" = "$VERSION" ] || fail "sharpi.pc has another version than $VERSION"
[ "$("$PKG_CONFIG" --variable=plugindir sharpi | sed "s,^$DESTDIR,,")" = "$pkglibdir" ] || fail "sharpi.pc: plugindir is not $pkglibdir"
cflags=$("$PKG_CONFIG" --cflags sharpi)
libs=$("$PKG_CONFIG" --libs sharpi)

# Every public header compiles alone, as C and, for applications in C++, where there is a C++ compiler, as that.
find "$DESTDIR$includedir/sharpi" -name '*.h' | while read -r header; do
    name=sharpi/${header#"$DESTDIR$includedir/sharpi/"}
    printf '#include <%s>\n#include <%s>\n' "$name" "$name" >"$work/one.c"
    # shellcheck disable=SC2086
    $CC -std=c17 -Wall -Wextra -Wpedantic -Werror $cflags -fsyntax-only "$work/one.c" || fail "$name does not compile alone"
    # shellcheck disable=SC2086
    ! command -v c++ >/dev/null || c++ -Wall -Wextra -Werror $cflags -x c++ -fsyntax-only "$work/one.c" ||
        fail "$name does not compile as C++"
    echo "ok: $name compiles alone"
done || exit 1

# An application links and runs; the library offers the public API and nothing else.
cat >"$work/app.c" <<'C'
#include <sharpi/sharpi.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv)
{
    puts(sharpi_version());
    return argc == 2 && !strcmp(argv[1], sharpi_version()) ? 0 : 1;
}
C
# shellcheck disable=SC2086
$CC -std=c17 $CFLAGS $cflags "$work/app.c" $libs -o "$work/app" || fail "an application does not link with $libs"
"$work/app" "$VERSION" || fail "sharpi_version() is not $VERSION"
extra=$(nm -D --defined-only "$DESTDIR$libdir/libsharpi.so" | awk '$3 !~ /^sharpi_/ { print $3 }')
[ -z "$extra" ] || fail "libsharpi.so exports $extra"
echo "ok: libsharpi $VERSION"

# Each plugin exports its entry and nothing else, needs nothing of libsharpi, and is loaded from the place it was installed in.
"$sharpi" plugins --set "plugins.load=$PLUGINS" >"$work/plugins" || fail "sharpi plugins failed"
for plugin in $PLUGINS; do
    so=$DESTDIR$pkglibdir/$plugin.so
    [ "$(nm -D --defined-only "$so" | awk '{ print $3 }')" = sharpi_plugin_entry ] || fail "$so exports more than sharpi_plugin_entry"
    if nm -D --undefined-only "$so" | grep 'U sharpi_'; then fail "$so needs symbols of the core"; fi
    grep -q "^$plugin " "$work/plugins" || fail "installed plugin $plugin is not loaded: $(cat "$work/plugins")"
    echo "ok: plugin $plugin"
done

"$srcdir/tests/installcheck-examples.sh" || fail "an example does not build or run"
