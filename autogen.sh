#!/bin/sh
# Makes configure and Makefile.in from configure.ac and Makefile.am. Needed in a git checkout only, not in a release tarball.
set -eu
cd "$(dirname "$0")"
mkdir -p build-aux m4
exec autoreconf --install --force --warnings=all "$@"
