#!/bin/sh
# Every public header in C compiles alone, as C17 and as C++17, without a warning.
set -eu
top=${top_srcdir:-$(dirname "$0")/..}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="-Wall -Wextra -Werror -fsyntax-only -I$top/include"
failed=0
n=0

# flags, CC and CXX are lists of words
# shellcheck disable=SC2086
# name of the header, then the compiler with its language
compile() {
    header=$1
    shift
    if ! "$@" $flags "$work/alone.$ext" 2>"$work/log"; then
        echo "FAILED $* <$header>"
        cat "$work/log"
        failed=1
    fi
    n=$((n + 1))
}

# shellcheck disable=SC2086
for path in "$top"/include/sharpi/*.h "$top"/include/sharpi/plugin/*.h "$top"/include/sharpi/cuda/*.h; do
    header=${path#"$top"/include/}
    # Twice: the include guard too.
    printf '#include <%s>\n#include <%s>\n' "$header" "$header" >"$work/alone.c"
    cp "$work/alone.c" "$work/alone.cc"
    ext=c; compile "$header" ${CC:-cc} -std=c17 -Wshadow -Wstrict-prototypes
    if ${CXX:-c++} --version >/dev/null 2>&1; then
        ext=cc; compile "$header" ${CXX:-c++} -std=c++17
    else
        echo "no C++ compiler: <$header> not tried as C++"
    fi
done
echo "$n compilations"
exit $failed
