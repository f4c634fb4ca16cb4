#!/bin/sh
# Loads and unloads every built plugin under valgrind: no invalid access, nothing definitely lost, and none of them refused.
# Environment: PLUGINS (names), SHARPI_PLUGIN_PATH, VALGRIND. Argument: the sharpi program.
set -eu
case $VALGRIND in '' | no)
    echo "valgrind not found when configuring: packaging/packages lists it; then configure again" >&2
    exit 1
    ;;
esac
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# No configuration of this machine must have a say.
XDG_CONFIG_HOME=/nonexistent
export XDG_CONFIG_HOME
"$VALGRIND" --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite --num-callers=30 \
    "$1" plugins --set "plugins.load=$PLUGINS" >"$out" || {
    status=$?
    cat "$out"
    echo "sharpi plugins under valgrind: exit status $status" >&2
    exit 1
}
cat "$out"
for plugin in $PLUGINS; do
    grep -q "^$plugin " "$out" || {
        echo "plugin $plugin was not loaded" >&2
        exit 1
    }
done
