#!/bin/sh
# Builds the examples against an installation, as their readers would, and runs each through a model: no fixtures are needed, only
# python3, which writes a tiny model. Called by installcheck.sh, whose environment it uses.
set -eu
: "${srcdir:?}" "${CC:?}" "${CFLAGS=}" "${PKG_CONFIG:?}" "${DESTDIR=}" "${bindir:?}" "${SHARPI_SHARED=}"
command -v python3 >/dev/null || { echo "skipped: the examples' checks need python3" && exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -R "$srcdir/examples" "$folder/examples"
chmod -R u+w "$folder/examples" # distcheck's sources are read-only

fixtures=
if [ -f "$SHARPI_SHARED/fixtures/qwen2.gguf" ]; then fixtures=$SHARPI_SHARED/fixtures; fi
for name in plugin-arch-minimal plugin-kv-f16x app-generate; do
    MAKEFLAGS='' make -C "$folder/examples/$name" check CC="$CC" CFLAGS="$CFLAGS" PKG_CONFIG="$PKG_CONFIG" \
        SHARPI="$DESTDIR$bindir/sharpi" FIXTURES="$fixtures"
    case $name in
    plugin-*) "$DESTDIR$bindir/sharpi-plugin-check" "$folder/examples/$name/${name#plugin-}.so" ;;
    esac
    echo "ok: example $name"
done
